//! What the stories are told with: the real peers, each started, watched and ended by a Rust struct.
//!
//! A peer lives on loopback, on a port of its own, in a folder of its own below the target folder; dropping its
//! struct ends its process group and nothing else. A peer that is not installed is an error that says so: a
//! story fails without its peers, it is never skipped.

#[cfg(test)]
mod generators;
pub mod kept;
pub mod peers;
pub mod schemas;
pub mod server;
