//! Adapters of threepid's ports: one folder per technology, one cargo feature per backend.
//!
//! They obey, the domain decides: no policy stands here, and no driver's error type leaves. Every settings struct is
//! plain Rust with its units and defaults written down; where its values come from is the server's business.

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::unreachable))]

#[cfg(feature = "homeserver")]
pub mod homeserver;
#[cfg(feature = "identity-server")]
pub mod identity_server;
#[cfg(feature = "mail")]
pub mod lettre;
#[cfg(feature = "limits")]
pub mod limits;
#[cfg(feature = "identity-server")]
pub mod outbound;
#[cfg(feature = "remembered-lists")]
pub mod remembered_lists;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod sea_orm;
#[cfg(feature = "secrets")]
pub mod secrets;
#[cfg(feature = "sms")]
pub mod sms;
#[cfg(feature = "synapse-import")]
pub mod synapse_import;
#[cfg(feature = "templates")]
pub mod templates;
#[cfg(any(feature = "homeserver", feature = "identity-server", feature = "sms"))]
mod tls;
