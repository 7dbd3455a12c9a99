//! Fakes for tests, and the contract kits that every adapter of a port runs.
