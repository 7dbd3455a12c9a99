//! A homeserver that asks again, in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::lock;
use crate::model::RemoteRefusal;
use crate::ports::{
    Answered, AskedAgain, ChallengeToPassOn, Reauthentication, ReauthenticationError, Unavailable,
};

/// How one call ends.
#[derive(Clone, Debug, PartialEq)]
pub enum AskedAgainReply {
    /// As the homeserver would.
    Usual,
    /// Nobody is asked: the request goes through.
    NotAsked,
    /// The homeserver refuses.
    Refused(RemoteRefusal),
    /// It does not answer.
    Down,
}

#[derive(Debug, Default)]
struct State {
    script: VecDeque<AskedAgainReply>,
    /// Each challenge's session, and whether it was completed.
    sessions: BTreeMap<String, bool>,
    challenged: Vec<AskedAgain>,
    answered: Vec<String>,
}

/// Asks for the password `right`. As deployed homeservers do, it ties a session to nothing: one that was completed lets
/// everything through from then on, whoever shows it and whatever for. It gives the scripted replies in turn, then asks.
#[derive(Debug, Default)]
pub struct FakeReauthentication {
    state: Mutex<State>,
}

impl FakeReauthentication {
    /// An `auth` object with this password; with no session of its own where none is given.
    pub fn auth(session: Option<&str>, password: &str) -> Map<String, Value> {
        let mut auth = Map::new();
        auth.insert("type".to_owned(), "m.login.password".into());
        auth.insert("password".to_owned(), password.into());
        if let Some(session) = session {
            auth.insert("session".to_owned(), session.into());
        }
        auth
    }

    /// The next reply that is not scripted yet, whether to a bare request or to an answer.
    pub fn next_is(&self, reply: AskedAgainReply) {
        lock(&self.state).script.push_back(reply);
    }

    /// Who was asked, by each bare request.
    pub fn challenged(&self) -> Vec<AskedAgain> {
        lock(&self.state).challenged.clone()
    }

    /// The session of each answer that got here.
    pub fn answered(&self) -> Vec<String> {
        lock(&self.state).answered.clone()
    }
}

impl State {
    fn scripted(&mut self) -> Result<(), ReauthenticationError> {
        match self.script.pop_front() {
            None | Some(AskedAgainReply::Usual) => Ok(()),
            Some(AskedAgainReply::NotAsked) => Err(ReauthenticationError::NotAsked),
            Some(AskedAgainReply::Refused(refusal)) => Err(ReauthenticationError::Refused(refusal)),
            Some(AskedAgainReply::Down) => Err(Unavailable::new("reauthentication", "scripted").into()),
        }
    }

    fn fresh(&mut self) -> ChallengeToPassOn {
        let session = format!("uia{}", self.sessions.len() + 1);
        self.sessions.insert(session.clone(), false);
        challenge(session)
    }
}

fn challenge(session: String) -> ChallengeToPassOn {
    let body = json!({"flows": [{"stages": ["m.login.password"]}], "params": {}, "session": &session});
    ChallengeToPassOn { session, body: body.as_object().cloned().unwrap_or_default() }
}

#[async_trait]
impl Reauthentication for FakeReauthentication {
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError> {
        let mut state = lock(&self.state);
        state.challenged.push(asked);
        state.scripted()?;
        Ok(state.fresh())
    }

    async fn answer(
        &self,
        _asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError> {
        let text = |name| auth.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (session, is_right) = (text("session"), text("password") == "right");
        let mut state = lock(&self.state);
        state.answered.push(session.clone());
        state.scripted()?;
        let Some(is_completed) = state.sessions.get_mut(&session) else {
            return Ok(Answered::Again(state.fresh()));
        };
        *is_completed |= is_right;
        if *is_completed {
            return Ok(Answered::Proven);
        }
        let mut again = challenge(session);
        again.body.insert("errcode".to_owned(), "M_FORBIDDEN".into());
        again.body.insert("error".to_owned(), "Invalid password".into());
        Ok(Answered::Again(again))
    }
}
