//! Ids that count up and derivations that are the same in every run.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::lock;
use crate::model::{Address, ClientSecret, Code, Generation, KeyedHash, LeaseId, MessageId, Sid, Token};
use crate::ports::Secrets;

/// Secrets without randomness: `sid1`, `message1`, `lease1`, …; derivations depend on the key and on every input.
///
/// Its tokens differ as real ones do, which is enough for tests. It is no protection against anybody.
#[derive(Debug)]
pub struct CountedSecrets {
    key: u64,
    sids: AtomicU64,
    messages: AtomicU64,
    leases: AtomicU64,
    jitter: Mutex<f64>,
}

impl CountedSecrets {
    /// Secrets under `key`; two that share it derive the same.
    pub const fn with_key(key: u64) -> Self {
        Self {
            key,
            sids: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            leases: AtomicU64::new(0),
            jitter: Mutex::new(0.0),
        }
    }

    /// Makes every further [`Secrets::jitter`] answer `jitter`, from 0 (included) to 1 (excluded). It is 0 until then.
    pub fn set_jitter(&self, jitter: f64) {
        *lock(&self.jitter) = jitter;
    }

    /// 32 bytes that depend on the key, the purpose and every part.
    fn derive(&self, purpose: &str, parts: &[&str]) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (round, chunk) in bytes.chunks_exact_mut(8).enumerate() {
            let mut hasher = DefaultHasher::new();
            (round, self.key, purpose, parts).hash(&mut hasher);
            chunk.copy_from_slice(&hasher.finish().to_be_bytes());
        }
        bytes
    }
}

impl Default for CountedSecrets {
    fn default() -> Self {
        Self::with_key(1)
    }
}

fn next(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::SeqCst) + 1
}

impl Secrets for CountedSecrets {
    fn new_sid(&self) -> Sid {
        Sid::new(format!("sid{}", next(&self.sids)))
    }

    fn new_message_id(&self) -> MessageId {
        MessageId::new(format!("message{}", next(&self.messages)))
    }

    fn new_lease_id(&self) -> LeaseId {
        LeaseId::new(format!("lease{}", next(&self.leases)))
    }

    fn jitter(&self) -> f64 {
        *lock(&self.jitter)
    }

    fn token(&self, sid: &Sid, generation: Generation) -> Token {
        let derived = self.derive("token", &[sid.as_str(), &generation.0.to_string()]);
        Token::new(KeyedHash::new(derived).to_hex())
    }

    fn code(&self, sid: &Sid, generation: Generation) -> Code {
        let mut round = 0_u64;
        loop {
            let derived = self.derive("code", &[sid.as_str(), &generation.0.to_string(), &round.to_string()]);
            let bits = derived.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte));
            match Code::from_bits(bits) {
                Some(code) => return code,
                None => round += 1,
            }
        }
    }

    fn session_key(&self, address: &Address, client_secret: &ClientSecret) -> KeyedHash {
        let parts = [address.medium().as_str(), address.as_str(), client_secret.expose()];
        KeyedHash::new(self.derive("session", &parts))
    }

    fn address_key(&self, address: &Address) -> KeyedHash {
        KeyedHash::new(self.derive("address", &[address.medium().as_str(), address.as_str()]))
    }
}
