//! One address that is published and forgotten again, and what its client saw of it.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use crate::Outcome;
use crate::identity_server::{IdentityServer, NAME, TOKEN};
use crate::load::{Answer, Client, Request, Step};

/// How an address comes to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenarios) enum Way {
    /// `POST /account/3pid/bind`: it stays off the account.
    Bind,
    /// `POST /account/3pid` with `bind`: it is added to the account, too.
    AddAndBind,
}

/// How it is to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::scenarios) enum End {
    /// `POST /account/3pid/unbind`.
    Unbind,
    /// `POST /account/3pid/delete`.
    Delete,
}

/// A client's address.
#[derive(Clone, Debug)]
pub(in crate::scenarios) struct Case {
    /// Which of the users wants it.
    pub(in crate::scenarios) user: usize,
    /// The address.
    pub(in crate::scenarios) address: String,
    secret: String,
    sid: String,
    way: Way,
    /// Whether it is published, as far as the client knows.
    pub(in crate::scenarios) bound: Step,
    /// How it was to be forgotten, if it was.
    pub(in crate::scenarios) end: Option<End>,
    /// Whether that was acknowledged.
    pub(in crate::scenarios) ended: Step,
    /// Whether the answer said that the identity server has forgotten it.
    pub(in crate::scenarios) forgotten: bool,
}

impl Case {
    /// An address that is proven at the identity server.
    pub(in crate::scenarios) fn open(server: &IdentityServer, name: &str, user: usize, way: Way) -> Self {
        let (address, secret) = (format!("{name}@faults.example"), format!("secret.{name}"));
        let sid = server.prove(&address, &secret);
        Self {
            user,
            address,
            secret,
            sid,
            way,
            bound: Step::NotTried,
            end: None,
            ended: Step::NotTried,
            forgotten: false,
        }
    }

    /// Whether the address is on the account once it is published.
    pub(in crate::scenarios) fn is_added(&self) -> bool {
        self.way == Way::AddAndBind
    }

    /// The request that publishes it.
    pub(in crate::scenarios) fn binding(&self) -> Request {
        let creds = json!({
            "sid": self.sid, "client_secret": self.secret, "id_server": NAME, "id_access_token": TOKEN,
        });
        match self.way {
            Way::Bind => Request {
                path: "/_matrix/client/v3/account/3pid/bind",
                user: Some(self.user),
                body: Some(creds),
            },
            Way::AddAndBind => Request {
                path: "/_matrix/client/v3/account/3pid",
                user: Some(self.user),
                body: Some(json!({ "three_pid_creds": creds, "bind": true })),
            },
        }
    }

    /// The request that ends that.
    pub(in crate::scenarios) fn ending(&self, end: End) -> Request {
        let path = match end {
            End::Unbind => "/_matrix/client/v3/account/3pid/unbind",
            End::Delete => "/_matrix/client/v3/account/3pid/delete",
        };
        let body = json!({ "medium": "email", "address": self.address });
        Request { path, user: Some(self.user), body: Some(body) }
    }

    /// Asks once for the address to be published.
    pub(in crate::scenarios) async fn bind(&mut self, client: &mut Client) -> Answer {
        let answer = client.ask(&self.binding()).await;
        self.bound = step(&answer);
        answer
    }

    /// Asks once for it to be forgotten; the answer, and how long it took.
    pub(in crate::scenarios) async fn finish(&mut self, client: &mut Client, end: End) -> (Answer, Duration) {
        self.end = Some(end);
        let began = Instant::now();
        let answer = client.ask(&self.ending(end)).await;
        self.ended = step(&answer);
        if let Answer::Good(said) = &answer {
            self.forgotten = said["id_server_unbind_result"] == "success";
        }
        (answer, began.elapsed())
    }

    /// Asks again until nothing is left open.
    pub(in crate::scenarios) async fn complete(&mut self, client: &mut Client) -> Outcome<()> {
        let all = async {
            while self.bound == Step::Open && self.end.is_none() {
                self.bind(client).await;
            }
            while let (Some(end), Step::Open) = (self.end, self.ended) {
                self.finish(client, end).await;
            }
        };
        let done = timeout(Duration::from_secs(60), all).await;
        done.map_err(|_| format!("{} was not done in a minute", self.address).into())
    }
}

fn step(answer: &Answer) -> Step {
    match answer {
        Answer::Good(_) => Step::Done,
        Answer::Refused(..) => Step::Refused,
        Answer::Later | Answer::None => Step::Open,
    }
}
