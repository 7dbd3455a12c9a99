//! Fakes for tests, and the contract kits that every adapter of a port runs.
//!
//! Each fake keeps its port's MUSTs, so that a command tested on fakes meets what it will meet in service; each can
//! also be told to fail. [`Fixture`] wires them all. [`contract`] holds the cases that say whether an adapter keeps
//! its promises; [`store_contract!`](crate::store_contract), [`outbox_contract!`](crate::outbox_contract),
//! [`rate_limiter_contract!`](crate::rate_limiter_contract), [`mailer_contract!`](crate::mailer_contract) and
//! [`identity_server_contract!`](crate::identity_server_contract) run them in one line.
//!
//! Nothing here belongs into a running server: [`CountedSecrets`] can be guessed.

pub mod contract;

mod counted_secrets;
mod fake_identity_server;
mod fake_reauthentication;
mod fixed_clock;
mod fixed_tokens;
mod fixture;
mod memory_store;
mod open_limiter;
mod plain_templates;
mod recording_mailer;
mod recording_sms_sender;
mod scripted_limiter;

pub use counted_secrets::CountedSecrets;
pub use fake_identity_server::{Asked, FakeIdentityServer, ServerReply};
pub use fake_reauthentication::{AskedAgainReply, FakeReauthentication};
pub use fixed_clock::FixedClock;
pub use fixed_tokens::FixedTokens;
pub use fixture::Fixture;
pub use memory_store::{CommitFailure, MemoryStore, OutboxRow, RowState};
pub use open_limiter::OpenLimiter;
pub use plain_templates::PlainTemplates;
pub use recording_mailer::{RecordingMailer, Reply};
pub use recording_sms_sender::RecordingSmsSender;
pub use scripted_limiter::ScriptedLimiter;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a test that panicked elsewhere does not spoil the others.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
