//! Clients that prove, add and list addresses as long as they are let, and keep a journal of every answer.
//!
//! A journal says only what a client can know: a request was answered, or it was not. What was not answered is asked
//! again, as a user would, with the same secret and the same session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use threepid_tests::kept;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::chance::Chance;
use crate::mailbox::Mailbox;
use crate::site::User;

/// Longer than any answer may take; the program's own limit on a request is 30 s.
const ANSWERED_WITHIN: Duration = Duration::from_secs(40);
/// The pause before a request that failed is made again.
const AGAIN_AFTER: Duration = Duration::from_millis(15);

/// Where the clients knock, who they are, and where their mail comes in.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The base URL of each instance.
    pub(crate) bases: Vec<String>,
    /// The accounts.
    pub(crate) users: Vec<User>,
    /// What arrives.
    pub(crate) mailbox: Mailbox,
}

/// How the clients behave.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Tells the addresses of this load from those of another.
    pub(crate) name: String,
    /// How many clients.
    pub(crate) clients: usize,
    /// How long a client waits for a mail before it leaves the address for later.
    pub(crate) patience: Duration,
    /// The pause between two addresses.
    pub(crate) pause: Duration,
    /// Whether every eighth address is one that two clients want.
    pub(crate) contest: bool,
    /// Whether every eighth mail is asked for twice.
    pub(crate) repeats: bool,
    /// Whether an address is added once it is proven.
    pub(crate) adds: bool,
    /// Whether what was not answered is asked again; without it, a client ends there.
    pub(crate) asks_again: bool,
    /// Whether a connection serves several requests. Without it each request has its own, so that a connection that
    /// ends without an answer has carried a request.
    pub(crate) keeps_alive: bool,
    /// What chance starts from.
    pub(crate) seed: u64,
}

impl Plan {
    /// Clients that do the whole journey, again and again.
    pub(crate) fn journeys(name: impl Into<String>, clients: usize, seed: u64) -> Self {
        Self {
            name: name.into(),
            clients,
            patience: Duration::from_secs(30),
            pause: Duration::ZERO,
            contest: true,
            repeats: true,
            adds: true,
            asks_again: true,
            keeps_alive: true,
            seed,
        }
    }

    /// Clients that ask for tokens and do not wait for the mail.
    pub(crate) fn requests(name: impl Into<String>, clients: usize, seed: u64) -> Self {
        Self {
            patience: Duration::ZERO,
            pause: Duration::from_millis(40),
            contest: false,
            ..Self::journeys(name, clients, seed)
        }
    }
}

/// One address of one client, and every answer about it.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    /// Which of the users wants it.
    pub(crate) user: usize,
    /// The address.
    pub(crate) address: String,
    /// The secret.
    pub(crate) secret: String,
    /// The sid, once a request for a token was acknowledged.
    pub(crate) sid: Option<String>,
    /// Whether a request for a token was made at all.
    pub(crate) requested: bool,
    /// The highest `send_attempt` that was acknowledged.
    pub(crate) sends: u64,
    /// How the token fared.
    pub(crate) submitted: Step,
    /// How the address fared.
    pub(crate) added: Step,
}

impl Journey {
    /// Nothing was asked yet.
    pub(crate) fn new(user: usize, address: String, secret: String) -> Self {
        Self {
            user,
            address,
            secret,
            sid: None,
            requested: false,
            sends: 0,
            submitted: Step::NotTried,
            added: Step::NotTried,
        }
    }

    /// The same as a client knows it who saw no answer: all of it may have been done, or none.
    pub(crate) fn without_answers(&self) -> Self {
        let forget = |step| if step == Step::NotTried { step } else { Step::Open };
        Self {
            sid: None,
            sends: 0,
            submitted: forget(self.submitted),
            added: forget(self.added),
            ..self.clone()
        }
    }

    /// Whether the client may still go on with it.
    fn is_open(&self) -> bool {
        let decided = self.submitted == Step::Refused || matches!(self.added, Step::Done | Step::Refused);
        self.sid.is_some() && !decided
    }
}

/// What a client knows about a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was not tried.
    #[default]
    NotTried,
    /// It was tried, and no answer came, or one that says to try again.
    Open,
    /// It was acknowledged.
    Done,
    /// It was refused for good.
    Refused,
}

/// An answer, as far as it matters.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// 200 and its body.
    Good(Value),
    /// 429 or 503: later.
    Later,
    /// Another status and its error code.
    Refused(u16, String),
    /// The connection ended without an answer.
    None,
}

/// What was asked and what came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// How many requests were made.
    pub(crate) requests: u64,
    /// How many were answered 200.
    pub(crate) acknowledged: u64,
    /// How many were not answered.
    pub(crate) unanswered: u64,
    /// How many of these were not even made, since nobody took the connection.
    pub(crate) turned_away: u64,
    /// How many answers there were of each status but 200.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// How long each request for a token took that was acknowledged, in the order they were made.
    pub(crate) request_times: Vec<Duration>,
    /// How long each request took that was answered with anything else.
    pub(crate) failure_times: Vec<Duration>,
    /// What no client should ever see.
    pub(crate) oddities: Vec<String>,
}

impl Tally {
    /// Adds another one.
    pub(crate) fn merge(&mut self, other: Self) {
        self.requests += other.requests;
        self.acknowledged += other.acknowledged;
        self.unanswered += other.unanswered;
        self.turned_away += other.turned_away;
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
        self.request_times.extend(other.request_times);
        self.failure_times.extend(other.failure_times);
        self.oddities.extend(other.oddities);
    }

    /// The time that so many per cent of the requests for a token did not exceed.
    pub(crate) fn percentile(&self, per_cent: usize) -> Duration {
        let mut times = self.request_times.clone();
        times.sort_unstable();
        let place = (times.len() * per_cent / 100).min(times.len().saturating_sub(1));
        times.get(place).copied().unwrap_or_default()
    }

    /// How often that status came.
    pub(crate) fn count(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or(0)
    }

    /// How many answers had another status than 200 and those.
    pub(crate) fn others_than(&self, expected: &[u16]) -> u64 {
        self.statuses.iter().filter(|(status, _)| !expected.contains(status)).map(|(_, count)| count).sum()
    }
}

/// Journals and counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Records {
    /// Every journey.
    pub(crate) journeys: Vec<Journey>,
    /// The counts.
    pub(crate) tally: Tally,
}

impl Records {
    /// Adds another one.
    pub(crate) fn merge(&mut self, other: Self) {
        self.journeys.extend(other.journeys);
        self.tally.merge(other.tally);
    }
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Load {
    stop: CancellationToken,
    clients: JoinSet<Records>,
    counters: Arc<Counters>,
}

/// What the clients have seen so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    answers: AtomicU64,
    acknowledged: AtomicU64,
    put_off: AtomicU64,
}

impl Load {
    /// Lets the clients go.
    pub(crate) fn start(target: &Target, plan: &Plan) -> Outcome<Self> {
        let (stop, counters) = (CancellationToken::new(), Arc::<Counters>::default());
        let mut clients = JoinSet::new();
        for number in 0..plan.clients {
            let mut client = Client::new(target.clone(), number, Arc::clone(&counters))?;
            client.asks_again = plan.asks_again;
            if !plan.keeps_alive {
                client.connect_each_time()?;
            }
            let (plan, stop) = (plan.clone(), stop.clone());
            clients.spawn(async move {
                client.work(number, &plan, &stop).await;
                client.records
            });
        }
        Ok(Self { stop, clients, counters })
    }

    /// How many answers the clients have seen.
    pub(crate) fn answers(&self) -> u64 {
        self.counters.answers.load(Ordering::Relaxed)
    }

    /// How many of these were 200.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.counters.acknowledged.load(Ordering::Relaxed)
    }

    /// How many of them were 503 or 429.
    pub(crate) fn put_off(&self) -> u64 {
        self.counters.put_off.load(Ordering::Relaxed)
    }

    /// Waits until the clients have seen that many answers more.
    pub(crate) async fn answered(&self, more: u64) -> Outcome<()> {
        let goal = self.answers() + more;
        let waited = Instant::now();
        while self.answers() < goal {
            if waited.elapsed() > Duration::from_secs(60) {
                return Err(
                    format!("the clients saw {} answers of {goal} in a minute", self.answers()).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Lets each client end what it is asking, and takes the journals.
    pub(crate) async fn stop(mut self) -> Outcome<Records> {
        self.stop.cancel();
        let mut records = Records::default();
        while let Some(ended) = self.clients.join_next().await {
            records.merge(ended?);
        }
        Ok(records)
    }
}

/// One client.
pub(crate) struct Client {
    target: Target,
    http: reqwest::Client,
    instance: usize,
    asks_again: bool,
    counters: Arc<Counters>,
    /// The addresses that this client knows to be on each account.
    added: BTreeMap<usize, BTreeSet<String>>,
    pub(crate) records: Records,
}

impl Client {
    /// The `number`th client; its requests go to one instance, and to the next one when that does not answer.
    pub(crate) fn new(target: Target, number: usize, counters: Arc<Counters>) -> Outcome<Self> {
        let http = reqwest::Client::builder().timeout(ANSWERED_WITHIN).no_proxy().build()?;
        Ok(Self {
            target,
            http,
            instance: number,
            asks_again: true,
            counters,
            added: BTreeMap::new(),
            records: Records::default(),
        })
    }

    /// From now on each request has a connection of its own.
    fn connect_each_time(&mut self) -> Outcome<()> {
        let headers = HeaderMap::from_iter([(CONNECTION, HeaderValue::from_static("close"))]);
        let http = reqwest::Client::builder().timeout(ANSWERED_WITHIN).no_proxy();
        self.http = http.pool_max_idle_per_host(0).default_headers(headers).build()?;
        Ok(())
    }

    async fn work(&mut self, number: usize, plan: &Plan, stop: &CancellationToken) {
        let mut chance = Chance::new(plan.seed, u64::try_from(number).unwrap_or(0));
        let user = number % self.target.users.len().max(1);
        let mut count = 0_u64;
        while !stop.is_cancelled() {
            count += 1;
            let shared = plan.contest && count.is_multiple_of(8);
            let whose = if shared { format!("pair{}", number / 2) } else { format!("client{number}") };
            let address = format!("{}-{whose}-{count}@faults.example", plan.name);
            let secret = format!("{}.{number}.{count}.{}", plan.name, plan.seed);
            let mut journey = Journey::new(user, address, secret);
            self.travel(&mut journey, plan, stop, &mut chance).await;
            self.records.journeys.push(journey);
            if self.has_given_up() {
                return;
            }
            if !plan.pause.is_zero() {
                tokio::select! {
                    () = tokio::time::sleep(plan.pause) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
    }

    /// As far as it goes, until `stop`.
    async fn travel(
        &mut self,
        journey: &mut Journey,
        plan: &Plan,
        stop: &CancellationToken,
        chance: &mut Chance,
    ) {
        if !self.request(journey, 1, stop).await {
            return;
        }
        if chance.once_in(8) && plan.repeats && !self.request(journey, 2, stop).await {
            return;
        }
        self.complete(journey, plan.patience, plan.adds, stop).await;
    }

    /// From the mail to the list, or as far as it goes.
    pub(crate) async fn complete(
        &mut self,
        journey: &mut Journey,
        patience: Duration,
        adds: bool,
        stop: &CancellationToken,
    ) {
        let Some(sid) = journey.sid.clone() else { return };
        if patience.is_zero() && stop.is_cancelled() {
            return;
        }
        if journey.submitted != Step::Done {
            let mailbox = self.target.mailbox.clone();
            let token = tokio::select! {
                token = mailbox.token_for(&sid, patience) => token,
                () = stop.cancelled() => None,
            };
            let Some(token) = token else { return };
            journey.submitted = self.submit(journey, &sid, &token, stop).await;
        }
        if journey.submitted != Step::Done || !adds {
            return;
        }
        if journey.added != Step::Done {
            let add = Request::add(journey, &sid);
            journey.added = self.until_decided(&add, stop, |errcode| errcode == "M_THREEPID_IN_USE").await;
        }
        if journey.added == Step::Done {
            self.added.entry(journey.user).or_default().insert(journey.address.clone());
            self.list(journey.user).await;
        }
    }

    /// Asks for a token until it is acknowledged; whether it was.
    pub(crate) async fn request(
        &mut self,
        journey: &mut Journey,
        attempt: u64,
        stop: &CancellationToken,
    ) -> bool {
        let request = Request::token(journey, attempt);
        loop {
            journey.requested = true;
            let began = Instant::now();
            match self.ask(&request).await {
                Answer::Good(answer) => {
                    self.records.tally.request_times.push(began.elapsed());
                    let sid = answer["sid"].as_str().map(str::to_owned);
                    if sid.is_none() || (journey.sid.is_some() && journey.sid != sid) {
                        let odd = format!("{}: sid {:?} became {sid:?}", journey.address, journey.sid);
                        self.records.tally.oddities.push(odd);
                    }
                    journey.sid = sid;
                    journey.sends = attempt;
                    return true;
                }
                // The other one of the pair was faster.
                Answer::Refused(400, errcode) if errcode == "M_THREEPID_IN_USE" => return false,
                Answer::Refused(status, errcode) => {
                    self.odd(&request, status, &errcode);
                    return false;
                }
                Answer::Later | Answer::None if stop.is_cancelled() || self.has_given_up() => return false,
                Answer::Later | Answer::None => self.pause(stop).await,
            }
        }
    }

    /// Gives the token back until that is decided.
    pub(crate) async fn submit(
        &mut self,
        journey: &Journey,
        sid: &str,
        token: &str,
        stop: &CancellationToken,
    ) -> Step {
        self.until_decided(&Request::submit(journey, sid, token), stop, |_| false).await
    }

    /// Adds once, whatever comes.
    pub(crate) async fn add_once(&mut self, journey: &mut Journey) -> Answer {
        let sid = journey.sid.clone().unwrap_or_default();
        let answer = self.ask(&Request::add(journey, &sid)).await;
        journey.added = match &answer {
            Answer::Good(_) => Step::Done,
            Answer::Refused(..) => Step::Refused,
            Answer::Later | Answer::None => Step::Open,
        };
        answer
    }

    /// Lists the contacts of a user: whatever this client knows to be there has to be there.
    pub(crate) async fn list(&mut self, user: usize) -> Answer {
        let request = Request { path: "/_matrix/client/v3/account/3pid", user: Some(user), body: None };
        let answer = self.ask(&request).await;
        match &answer {
            Answer::Good(list) => {
                let listed = list["threepids"].as_array().into_iter().flatten();
                let listed: BTreeSet<&str> = listed.filter_map(|one| one["address"].as_str()).collect();
                for address in self.added.get(&user).into_iter().flatten() {
                    if !listed.contains(address.as_str()) {
                        self.records.tally.oddities.push(format!("{address} was added and is not listed"));
                    }
                }
            }
            Answer::Refused(status, errcode) => self.odd(&request, *status, errcode),
            Answer::Later | Answer::None => {}
        }
        answer
    }

    async fn until_decided(
        &mut self,
        request: &Request,
        stop: &CancellationToken,
        may_be_refused: impl Fn(&str) -> bool,
    ) -> Step {
        loop {
            match self.ask(request).await {
                Answer::Good(_) => return Step::Done,
                Answer::Refused(status, errcode) => {
                    if !may_be_refused(&errcode) {
                        self.odd(request, status, &errcode);
                    }
                    return Step::Refused;
                }
                Answer::Later | Answer::None if stop.is_cancelled() || self.has_given_up() => {
                    return Step::Open;
                }
                Answer::Later | Answer::None => self.pause(stop).await,
            }
        }
    }

    /// Whether it met a closed door, and is one that does not knock again.
    fn has_given_up(&self) -> bool {
        !self.asks_again && self.records.tally.unanswered > 0
    }

    async fn pause(&self, stop: &CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(AGAIN_AFTER) => {}
            () = stop.cancelled() => {}
        }
    }

    fn odd(&mut self, request: &Request, status: u16, errcode: &str) {
        self.records.tally.oddities.push(format!("{} was answered {status} {errcode}", request.path));
    }

    /// Makes a request, once.
    pub(crate) async fn ask(&mut self, request: &Request) -> Answer {
        let bases = &self.target.bases;
        let base = bases.get(self.instance % bases.len().max(1)).map_or("", String::as_str);
        let url = format!("{base}{}", request.path);
        let mut built = match &request.body {
            Some(body) => self.http.post(url).json(body),
            None => self.http.get(url),
        };
        if let Some(user) = request.user.and_then(|user| self.target.users.get(user)) {
            kept::secret("access_token", &user.token);
            built = built.bearer_auth(&user.token);
        }
        request.body.iter().for_each(kept::fields);
        let tally = &mut self.records.tally;
        tally.requests += 1;
        let began = Instant::now();
        let answer = match built.send().await {
            Ok(response) => {
                let (status, headers) = (response.status().as_u16(), response.headers().clone());
                response.bytes().await.map(|body| (status, headers, body))
            }
            Err(error) => Err(error),
        };
        let (status, headers, body) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                tally.unanswered += 1;
                tally.turned_away += u64::from(error.is_connect());
                if error.is_timeout() {
                    tally.oddities.push(format!("{} was not answered in {ANSWERED_WITHIN:?}", request.path));
                }
                self.instance += 1;
                return Answer::None;
            }
        };
        self.counters.answers.fetch_add(1, Ordering::Relaxed);
        let Ok(value) = serde_json::from_slice::<Value>(&body) else {
            tally.oddities.push(format!("{} was answered {status} without JSON", request.path));
            return Answer::None;
        };
        if status == 200 {
            tally.acknowledged += 1;
            self.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
            return Answer::Good(value);
        }
        *tally.statuses.entry(status).or_default() += 1;
        tally.failure_times.push(began.elapsed());
        if status == 503 || status == 429 {
            self.counters.put_off.fetch_add(1, Ordering::Relaxed);
            if !headers.contains_key("retry-after") {
                tally.oddities.push(format!("{} was answered {status} without Retry-After", request.path));
            }
            return Answer::Later;
        }
        Answer::Refused(status, value["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

/// A request, to be made as often as it takes.
pub(crate) struct Request {
    /// Where to.
    pub(crate) path: &'static str,
    /// As whom, if not as anybody.
    pub(crate) user: Option<usize>,
    /// A POST's body; a GET has none.
    pub(crate) body: Option<Value>,
}

impl Request {
    /// Asks for a token.
    pub(crate) fn token(journey: &Journey, attempt: u64) -> Self {
        let body = json!({
            "client_secret": journey.secret,
            "email": journey.address,
            "send_attempt": attempt,
        });
        let path = "/_matrix/client/v3/account/3pid/email/requestToken";
        Self { path, user: None, body: Some(body) }
    }

    /// Gives a token back.
    pub(crate) fn submit(journey: &Journey, sid: &str, token: &str) -> Self {
        let body = json!({ "sid": sid, "client_secret": journey.secret, "token": token });
        Self { path: "/_threepid/submit_token", user: None, body: Some(body) }
    }

    /// Adds the address.
    pub(crate) fn add(journey: &Journey, sid: &str) -> Self {
        let body = json!({ "three_pid_creds": { "sid": sid, "client_secret": journey.secret } });
        Self { path: "/_matrix/client/v3/account/3pid", user: Some(journey.user), body: Some(body) }
    }

    /// Adds the address at the door that may ask again who is there.
    pub(crate) fn add_reauthenticated(journey: &Journey, sid: &str) -> Self {
        let body = json!({ "sid": sid, "client_secret": journey.secret });
        Self { path: "/_matrix/client/v3/account/3pid/add", user: Some(journey.user), body: Some(body) }
    }
}

/// Takes up every journey that was left open, on a system that works again: what was acknowledged has to lead on.
pub(crate) async fn finish(target: &Target, records: Records, patience: Duration) -> Outcome<Records> {
    const HANDS: usize = 8;
    let (open, closed): (Vec<_>, Vec<_>) = records.journeys.into_iter().partition(Journey::is_open);
    let mut finished = Records { journeys: closed, tally: records.tally };
    let mut hands = JoinSet::new();
    for number in 0..HANDS {
        let mut client = Client::new(target.clone(), number, Arc::default())?;
        let mine: Vec<Journey> = open.iter().skip(number).step_by(HANDS).cloned().collect();
        hands.spawn(async move {
            let never = CancellationToken::new();
            for mut journey in mine {
                client.complete(&mut journey, patience, true, &never).await;
                client.records.journeys.push(journey);
            }
            client.records
        });
    }
    while let Some(ended) = hands.join_next().await {
        finished.merge(ended?);
    }
    Ok(finished)
}
