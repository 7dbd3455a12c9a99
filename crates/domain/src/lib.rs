//! The rules of a Matrix account's contacts: how a third-party identifier (an email address or a phone
//! number) is proven, who owns it, and what is owed to whom once it changes.
//!
//! This crate is pure. It knows no database, no mail server and no HTTP; whatever it needs of the world stands
//! behind a trait in [`ports`], and whatever it decides stands in [`model`] and [`use_cases`].
//!
//! It follows the [Account Administrative Contact API] of the Matrix specification.
//!
//! [Account Administrative Contact API]: https://spec.matrix.org/v1.18/client-server-api/#adding-account-administrative-contact-information

#![cfg_attr(not(test), warn(clippy::indexing_slicing, clippy::string_slice, clippy::unreachable))]

pub mod model;
pub mod ports;
#[cfg(feature = "testing")]
pub mod testing;
pub mod use_cases;
