//! Two backends that threepid does not have: storage in one JSON file, and mail as JSON files in a spool folder.
//!
//! They are the examples of the page "Writing an adapter". Each keeps its port's promises and is green in the contract
//! kit; for a large installation the one file would be a bottleneck.

pub mod json_store;
pub mod spool_mailer;
