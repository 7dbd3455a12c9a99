//! The stories: black-box tests with the real peers, one module per subject.

mod peers;
mod postgres;
