//! A challenge to prove again who is asking (User-Interactive Authentication).

use serde::{Deserialize, Serialize};

use super::{Sid, Timestamp, UserId};

/// A challenge that was passed on to a client. Homeservers do not tie a completed one to what it was asked for, so we
/// remember it, take an answer only to one that we passed on for this user and this session, and spend it with what it
/// permits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The challenge's session, as whoever asks it names it; unique.
    pub session: String,
    /// Who was asked.
    pub user_id: UserId,
    /// The validation session whose proof is to be spent.
    pub sid: Sid,
    /// When it was passed on.
    pub issued_at: Timestamp,
}
