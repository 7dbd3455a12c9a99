//! What the endpoints' tests share.
