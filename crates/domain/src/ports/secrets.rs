//! Randomness, and everything that depends on the server's key.

use crate::model::{Address, ClientSecret, Code, Generation, KeyedHash, LeaseId, MessageId, Sid, Token};

/// The only source of randomness and the only holder of the server's key.
///
/// - Ids MUST have at least 128 random bits, and sids MUST follow the grammar `[0-9a-zA-Z.=_-]{1,255}`.
/// - What is derived MUST be the same for the same key and input, over restarts and instances, and MUST NOT tell the
///   key or the input; different purposes MUST NOT share derivations.
#[cfg_attr(feature = "mocks", mockall::automock)]
pub trait Secrets: Send + Sync {
    /// A new session's identifier.
    fn new_sid(&self) -> Sid;

    /// A new message's identifier: letters and digits, fit for the left half of a Message-ID.
    fn new_message_id(&self) -> MessageId;

    /// A new lease.
    fn new_lease_id(&self) -> LeaseId;

    /// A number from 0 (included) to 1 (excluded), to spread retries.
    fn jitter(&self) -> f64;

    /// The token of a session's generation: at least 128 bits, in letters, digits, `-` and `_`.
    fn token(&self, sid: &Sid, generation: Generation) -> Token;

    /// The code of a session's generation. Every code MUST be equally likely, and MUST NOT tell anything of the token.
    fn code(&self, sid: &Sid, generation: Generation) -> Code;

    /// What a session is found by: the hash of address and client secret.
    fn session_key(&self, address: &Address, client_secret: &ClientSecret) -> KeyedHash;

    /// What an address is counted by where the address itself need not be kept.
    fn address_key(&self, address: &Address) -> KeyedHash;
}
