//! The values and aggregates of the domain. Each parses at the door: one that exists is valid.

mod address;
mod audit;
mod caller;
mod challenge;
mod code;
mod digits;
mod erasure;
mod identity_server;
mod ids;
mod message;
mod next_link;
mod phone;
mod remote;
mod rules;
mod secrets;
mod session;
mod threepid;
mod time;
mod unit_of_work;

pub use address::{Address, EmailAddress, InvalidAddress, Medium, Msisdn};
pub use audit::{AuditAction, AuditDoor, AuditEntry, AuditQuery};
pub use caller::Caller;
pub use challenge::Challenge;
pub use code::Code;
pub use erasure::{Erased, Erasure, UponErasure};
pub use identity_server::{
    Binding, BindingState, IdentityServerName, InvalidServerName, RemoteSession, SpentProof, TrustedServer,
    TrustedServers, Validation,
};
pub use ids::{DeviceId, InvalidUserId, LeaseId, MessageId, Sid, UserId};
pub use message::{Backlog, Claimed, MessageRecord, MessageState, OutboxMessage, Payload, Settlement};
pub use next_link::{InvalidNextLink, NextLink};
pub use phone::{Country, InvalidCountry, InvalidNumber};
pub use remote::RemoteRefusal;
pub use rules::{AddressRules, InvalidRule, Rule};
pub use secrets::{AccessToken, ClientSecret, IdAccessToken, InvalidClientSecret, KeyedHash, Token};
pub use session::{
    Generation, IssuedToken, Lifetimes, NoMoreSends, Proof, SendAttempt, SendAttemptOutOfRange,
    SessionRecord, SessionState, SpendRefusal, SubmitRefusal, Submitted, ValidationSession,
    WRONG_TOKENS_THAT_BURN,
};
pub use threepid::Threepid;
pub use time::Timestamp;
pub use unit_of_work::{BindingKey, Change, UnitOfWork};
