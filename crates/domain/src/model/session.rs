//! A validation session: the proof that whoever holds a client secret also reads mail at an address.
//!
//! Four states, and the only ways between them:
//!
//! ```text
//! pending ──right token──▶ validated ──spend──▶ consumed
//!    └──five wrong tokens──▶ burnt
//! ```
//!
//! A pending session ends with its newest token, a validated one [`Lifetimes::validated`] after its proof. Lifetimes
//! follow the identity service's [general requirements for sessions].
//!
//! [general requirements for sessions]: https://spec.matrix.org/v1.18/identity-service-api/#establishing-associations

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, Code, KeyedHash, NextLink, Sid, Timestamp, Token, UserId};

/// So many wrong tokens burn a pending session.
pub const WRONG_TOKENS_THAT_BURN: u8 = 5;

/// More tokens than this are kept only while they are good.
const TOKENS_KEPT: usize = 32;

/// A client's count of its wishes for a message: 0 to 2^53−1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SendAttempt(u64);

/// A `send_attempt` below 0 or above 2^53−1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("send_attempt must be an integer from 0 to 9007199254740991")]
pub struct SendAttemptOutOfRange;

impl SendAttempt {
    /// Parses a count.
    ///
    /// # Errors
    /// [`SendAttemptOutOfRange`].
    pub fn new(count: i128) -> Result<Self, SendAttemptOutOfRange> {
        match u64::try_from(count) {
            Ok(count) if count < 1 << 53 => Ok(Self(count)),
            _ => Err(SendAttemptOutOfRange),
        }
    }

    /// The count.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Which of a session's tokens: 1 for the first that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u32);

/// How long proofs are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A token, from when it was owed. Default 1 hour.
    pub token: Duration,
    /// A validated session, from its proof. Default 24 hours.
    pub validated: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { token: Duration::from_secs(60 * 60), validated: Duration::from_secs(24 * 60 * 60) }
    }
}

/// A token that was sent, without the token: it is derived from the session and the generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedToken {
    /// Which one.
    pub generation: Generation,
    /// From when on it is no longer good.
    pub expires_at: Timestamp,
    /// Where the browser goes after this token's confirmation.
    pub next_link: Option<NextLink>,
    /// Whether its message carries a code, too. Records that do not say so are of messages with a link alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub with_code: bool,
    /// Whether it was told to nobody, since an account had the address: what is given back is never this token, and
    /// never its code. Records that do not say so are of tokens that were sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
}

/// Where a session stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum SessionState {
    /// A token was sent.
    Pending {
        /// Wrong tokens so far.
        wrong_tokens: u8,
    },
    /// The right token came back.
    Validated {
        /// When.
        at: Timestamp,
    },
    /// The proof was spent.
    Consumed {
        /// When the right token had come back.
        validated_at: Timestamp,
        /// By which account.
        by: UserId,
    },
    /// Too many wrong tokens came back.
    Burnt,
}

/// A session as storage sees it: every field, none of them secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session's identifier, unique over all sessions.
    pub sid: Sid,
    /// The keyed hash of medium, address and client secret. Unique among the sessions that are `current`.
    pub key: KeyedHash,
    /// Whether this is the session that a new request under `key` continues.
    pub current: bool,
    /// The address to be proven.
    pub address: Address,
    /// Where it stands.
    pub state: SessionState,
    /// The highest `send_attempt` seen.
    pub send_attempt: SendAttempt,
    /// Every token sent, oldest first; never empty.
    pub tokens: Vec<IssuedToken>,
    /// When it was opened.
    pub created_at: Timestamp,
    /// 0 until it is stored; storage adds 1 at every write.
    pub revision: u64,
}

impl SessionRecord {
    /// The last time that the session speaks of: its opening, the end of a token, or its proof. After that nothing
    /// about it changes by itself, so its age is counted from here.
    pub fn last_time(&self) -> Timestamp {
        let proven = match &self.state {
            SessionState::Validated { at } => Some(*at),
            SessionState::Consumed { validated_at, .. } => Some(*validated_at),
            SessionState::Pending { .. } | SessionState::Burnt => None,
        };
        let ends = self.tokens.iter().map(|token| token.expires_at);
        ends.chain(proven).fold(self.created_at, Ord::max)
    }
}

/// The aggregate: pending, validated, consumed or burnt, and the transitions between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidationSession(SessionRecord);

/// A session that cannot send any more: burnt, consumed or expired. A new one takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct NoMoreSends;

/// A token was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Where the browser goes now.
    pub next_link: Option<NextLink>,
    /// Whether this changed the session; a repeated confirmation does not.
    pub changed: bool,
}

/// A token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefusal {
    /// It is none of this session's. The session has counted it, and is to be stored.
    #[error("the token is wrong")]
    Wrong,
    /// It was right, and its time or its session's has ended.
    #[error("the token has expired")]
    Expired,
    /// Too many wrong tokens came before.
    #[error("the session is burnt")]
    Burnt,
}

/// What a spent session proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The address.
    pub address: Address,
    /// When it was proven.
    pub validated_at: Timestamp,
}

/// A session that proves nothing to whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpendRefusal {
    /// No right token came back.
    #[error("the session is not validated")]
    NotValidated,
    /// The proof is too old.
    #[error("the session has expired")]
    Expired,
    /// Whoever asks has spent it before.
    #[error("the session was spent by this account")]
    SpentByCaller,
    /// Another account has spent it.
    #[error("the session was spent")]
    Spent,
}

impl ValidationSession {
    /// Opens a session and issues its first token.
    pub fn open(
        sid: Sid,
        key: KeyedHash,
        address: Address,
        send_attempt: SendAttempt,
        next_link: Option<NextLink>,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Self {
        let first = IssuedToken {
            generation: Generation(1),
            expires_at: now.plus(lifetimes.token),
            next_link,
            with_code: false,
            withheld: false,
        };
        Self(SessionRecord {
            sid,
            key,
            current: true,
            address,
            state: SessionState::Pending { wrong_tokens: 0 },
            send_attempt,
            tokens: vec![first],
            created_at: now,
            revision: 0,
        })
    }

    /// Takes a session out of storage.
    pub fn from_record(record: SessionRecord) -> Self {
        Self(record)
    }

    /// The session as storage keeps it.
    pub fn record(&self) -> &SessionRecord {
        &self.0
    }

    /// The session's identifier.
    pub fn sid(&self) -> &Sid {
        &self.0.sid
    }

    /// The address to be proven.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    /// Whether `key` is the one that the session was opened under, in constant time.
    pub fn was_opened_under(&self, key: &KeyedHash) -> bool {
        self.0.key == *key
    }

    /// The token sent last.
    pub fn newest_token(&self) -> Option<&IssuedToken> {
        self.0.tokens.last()
    }

    /// A token of this session, if `generation` was issued.
    pub fn token(&self, generation: Generation) -> Option<&IssuedToken> {
        self.0.tokens.iter().find(|token| token.generation == generation)
    }

    /// Whether the session leads nowhere any more: burnt, consumed, or past its time.
    pub fn has_ended(&self, now: Timestamp, lifetimes: &Lifetimes) -> bool {
        match &self.0.state {
            SessionState::Pending { .. } => self.newest_token().is_none_or(|token| now >= token.expires_at),
            SessionState::Validated { at } => now >= at.plus(lifetimes.validated),
            SessionState::Consumed { .. } | SessionState::Burnt => true,
        }
    }

    /// Answers a repeated request: the token to send, or `None` where nothing is to be sent, because the attempt is
    /// not higher than the last one or the address is proven already.
    ///
    /// # Errors
    /// [`NoMoreSends`] when the session has ended.
    pub fn request_again(
        &mut self,
        send_attempt: SendAttempt,
        next_link: Option<NextLink>,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Option<IssuedToken>, NoMoreSends> {
        if self.has_ended(now, lifetimes) {
            return Err(NoMoreSends);
        }
        let is_pending = matches!(self.0.state, SessionState::Pending { .. });
        if !is_pending || send_attempt <= self.0.send_attempt {
            return Ok(None);
        }
        if self.0.tokens.len() >= TOKENS_KEPT {
            self.0.tokens.retain(|token| now < token.expires_at);
        }
        let generation =
            Generation(self.newest_token().map_or(0, |token| token.generation.0).saturating_add(1));
        let expires_at = now.plus(lifetimes.token);
        let token = IssuedToken { generation, expires_at, next_link, with_code: false, withheld: false };
        self.0.tokens.push(token.clone());
        self.0.send_attempt = send_attempt;
        Ok(Some(token))
    }

    /// Has the newest token's message carry a code, too. That code, and none before it, is good from now on.
    pub fn send_code(&mut self) {
        if let Some(newest) = self.0.tokens.last_mut() {
            newest.with_code = true;
        }
    }

    /// Has the newest token told to nobody: whoever has the address is informed instead. Everything else about the
    /// session is as if it had been sent.
    pub fn withhold_token(&mut self) {
        if let Some(newest) = self.0.tokens.last_mut() {
            newest.withheld = true;
        }
    }

    /// Whether the message sent last carries a code, or would if its token had not been withheld.
    pub fn has_code(&self) -> bool {
        self.newest_token().is_some_and(|token| token.with_code)
    }

    /// Judges a token that came back. `derive` tells the token of a generation.
    ///
    /// # Errors
    /// [`SubmitRefusal`]. A wrong token changes the session too: it is to be stored either way.
    pub fn submit(
        &mut self,
        given: &Token,
        derive: impl Fn(Generation) -> Token,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Submitted, SubmitRefusal> {
        if self.0.state == SessionState::Burnt {
            return Err(SubmitRefusal::Burnt);
        }
        // Every token is compared, so that the time taken does not tell which one was near.
        let matching =
            self.0.tokens.iter().filter(|token| derive(token.generation) == *given).last().cloned();
        self.judge(matching.filter(|token| !token.withheld), now, lifetimes)
    }

    /// Judges a code that came back, which is good only if the newest token's message carries it. `derive` tells the
    /// code of a generation.
    ///
    /// # Errors
    /// [`SubmitRefusal`]. A wrong code changes the session as a wrong token does: it is to be stored either way.
    pub fn submit_code(
        &mut self,
        given: &Code,
        derive: impl Fn(Generation) -> Code,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Submitted, SubmitRefusal> {
        if self.0.state == SessionState::Burnt {
            return Err(SubmitRefusal::Burnt);
        }
        let newest = self.newest_token().filter(|token| token.with_code);
        let matching = newest.filter(|token| derive(token.generation) == *given).cloned();
        self.judge(matching.filter(|token| !token.withheld), now, lifetimes)
    }

    /// What becomes of the session where `matching` is the token that was proven, or none was.
    fn judge(
        &mut self,
        matching: Option<IssuedToken>,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Submitted, SubmitRefusal> {
        let Some(token) = matching else {
            if let SessionState::Pending { wrong_tokens } = &mut self.0.state {
                *wrong_tokens += 1;
                if *wrong_tokens >= WRONG_TOKENS_THAT_BURN {
                    self.0.state = SessionState::Burnt;
                }
            }
            return Err(SubmitRefusal::Wrong);
        };
        let is_over = match &self.0.state {
            SessionState::Validated { at } => now >= at.plus(lifetimes.validated),
            _ => false,
        };
        if now >= token.expires_at || is_over {
            return Err(SubmitRefusal::Expired);
        }
        let changed = matches!(self.0.state, SessionState::Pending { .. });
        if changed {
            self.0.state = SessionState::Validated { at: now };
        }
        Ok(Submitted { next_link: token.next_link, changed })
    }

    /// Spends the proof for `by`: it proves the address once.
    ///
    /// # Errors
    /// [`SpendRefusal`]; nothing has changed then.
    pub fn spend(
        &mut self,
        by: &UserId,
        now: Timestamp,
        lifetimes: &Lifetimes,
    ) -> Result<Proof, SpendRefusal> {
        match &self.0.state {
            SessionState::Pending { .. } | SessionState::Burnt => Err(SpendRefusal::NotValidated),
            SessionState::Consumed { by: spender, .. } if spender == by => Err(SpendRefusal::SpentByCaller),
            SessionState::Consumed { .. } => Err(SpendRefusal::Spent),
            SessionState::Validated { .. } if self.has_ended(now, lifetimes) => Err(SpendRefusal::Expired),
            SessionState::Validated { at } => {
                let proof = Proof { address: self.0.address.clone(), validated_at: *at };
                self.0.state = SessionState::Consumed { validated_at: *at, by: by.clone() };
                Ok(proof)
            }
        }
    }

    /// Gives the session's place under its key to a new one. Its tokens and its proof stay what they are.
    pub fn supersede(&mut self) {
        self.0.current = false;
    }
}

#[cfg(test)]
mod tests;
