//! What time it is.

use crate::model::Timestamp;

/// The only source of time, so that tests can move it.
#[cfg_attr(feature = "mocks", mockall::automock)]
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}
