//! The system clock, random ids, and everything that depends on the server's key, through [ring].
//!
//! Each purpose has a key of its own, derived from the server's key, and each input is written with its length: no two
//! inputs, and no two purposes, can meet in one value.
//!
//! [ring]: https://docs.rs/ring

mod clock;
mod ring_secrets;
mod server_key;

pub use clock::SystemClock;
pub use ring_secrets::RingSecrets;
pub use server_key::{ServerKey, ServerKeyError};

use ring::rand::{SecureRandom, SystemRandom};

/// `N` bytes of the operating system's randomness.
#[expect(
    clippy::expect_used,
    reason = "a machine without randomness can make no secret; going on would make a guessable one"
)]
fn random<const N: usize>(source: &SystemRandom) -> [u8; N] {
    let mut bytes = [0; N];
    source.fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Lower-case hexadecimal digits: they survive every mail gateway and every link finder.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
