//! Clients that hang up in the midst of each request: what arrived in part is not begun, what arrived whole is finished
//! or not begun, and whoever asks again gets on.

use std::sync::Arc;
use std::time::Duration;

use threepid_tests::kept;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded;

use super::identity::World;
use super::identity::cases::{Case, End, Way};
use crate::Outcome;
use crate::books::Ledger;
use crate::load::{Client, Journey, Plan, Records, Request, Step, Target};
use crate::options::Options;
use crate::reconcile::Allowed;
use crate::report::Row;
use crate::site::Site;

/// Where a client hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// In the head.
    InTheHead,
    /// In the body.
    InTheBody,
    /// After the last byte, with a goodbye.
    BeforeTheAnswer,
    /// After the last byte, with a reset.
    WithAReset,
}

const MANNERS: [Manner; 4] =
    [Manner::InTheHead, Manner::InTheBody, Manner::BeforeTheAnswer, Manner::WithAReset];

impl Manner {
    fn says_all(self) -> bool {
        matches!(self, Self::BeforeTheAnswer | Self::WithAReset)
    }
}

/// How long the program may take to notice that nothing more comes.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    published(options, &mut row).await?;
    let mut site = Site::builder(options).set("REAUTHENTICATION", "none").start().await?;
    // Others go about their business meanwhile.
    let load = site.load(&Plan::journeys("polite", 2, options.seed))?;
    let mut client = Client::new(site.target(), 0, Arc::default())?;
    let ledger = site.ledger().await?;
    let mut records = Records::default();
    let mut unheard = Vec::new();
    let never = CancellationToken::new();
    for number in 0..options.rounds(6, 100) {
        for manner in MANNERS {
            let rude = Rude { target: site.target(), ledger: &ledger, manner };
            // One who never comes back …
            let gone = journey(&site, number, &format!("gone-{manner:?}"));
            rude.hangs_up(&gone.address, &Request::token(&gone, 1).into(), &mut row).await?;
            // … and one who hangs up every time, and asks again.
            let mut back = journey(&site, number, &format!("rude-{manner:?}"));
            rude.hangs_up(&back.address, &Request::token(&back, 1).into(), &mut row).await?;
            client.request(&mut back, 1, &never).await;
            if let Some(sid) = back.sid.clone()
                && let Some(token) = site.mailbox.token_for(&sid, Duration::from_secs(30)).await
            {
                rude.hangs_up(&back.address, &Spoken::form(&sid, &token), &mut row).await?;
                rude.hangs_up(&back.address, &Request::submit(&back, &sid, &token).into(), &mut row).await?;
                back.submitted = client.submit(&back, &sid, &token, &never).await;
                // Whichever comes first of those that arrive whole adds it; each is the first in its turn.
                let (one, other) = (Request::add(&back, &sid), Request::add_reauthenticated(&back, &sid));
                let doors = if number % 2 == 0 { [one, other] } else { [other, one] };
                for door in doors {
                    rude.hangs_up(&back.address, &door.into(), &mut row).await?;
                }
                client.complete(&mut back, Duration::from_secs(30), true, &never).await;
            }
            row.check(back.added == Step::Done, || format!("{} did not get on", back.address));
            records.journeys.push(back);
            if !manner.says_all() {
                unheard.push(gone.address.clone());
            }
            records.journeys.push(gone);
        }
    }
    ledger.close().await?;
    records.tally.merge(client.records.tally);
    records.merge(load.stop().await?);
    let books = site.settle(records, Allowed::default(), &mut row).await?;
    let begun = books.sessions.values().filter(|session| unheard.contains(&session.address)).count();
    row.check(begun == 0, || format!("{begun} requests were begun that had not arrived whole"));
    Ok(row)
}

/// The same beside an identity server: bind and unbind, add with bind and delete.
async fn published(options: &Options, row: &mut Row) -> Outcome<()> {
    let mut world = World::start(options).await?;
    let mut client = world.client()?;
    let ledger = world.site.ledger().await?;
    let mut cases = Vec::new();
    for number in 0..options.rounds(3, 50) {
        for manner in MANNERS {
            let rude = Rude { target: world.site.target(), ledger: &ledger, manner };
            for (way, end) in [(Way::Bind, End::Unbind), (Way::AddAndBind, End::Delete)] {
                let user = number % world.site.users.len().max(1);
                let name = format!("{way:?}-{manner:?}-{number}").to_lowercase();
                let mut case = Case::open(&world.server, &name, user, way);
                let is_published = || world.server.published().iter().any(|one| one.address == case.address);
                rude.hangs_up(&case.address, &case.binding().into(), row).await?;
                row.check(manner.says_all() || !is_published(), || {
                    format!("{name}: published at half a word")
                });
                case.bind(&mut client).await;
                case.complete(&mut client).await?;
                row.check(case.bound == Step::Done, || format!("{name}: its bind did not get on"));
                let is_published = || world.server.published().iter().any(|one| one.address == case.address);
                rude.hangs_up(&case.address, &case.ending(end).into(), row).await?;
                row.check(manner.says_all() || is_published(), || {
                    format!("{name}: forgotten at half a word")
                });
                case.finish(&mut client, end).await;
                case.complete(&mut client).await?;
                row.check(case.ended == Step::Done, || format!("{name}: its {end:?} did not get on"));
                cases.push(case);
            }
        }
    }
    ledger.close().await?;
    world.settle(&cases, client, row).await
}

fn journey(site: &Site, number: usize, name: &str) -> Journey {
    let user = number % site.users.len().max(1);
    Journey::new(user, format!("{}-{number}@faults.example", name.to_lowercase()), format!("{name}.{number}"))
}

/// A request as it is spoken.
struct Spoken {
    path: &'static str,
    user: Option<usize>,
    body: String,
}

impl From<Request> for Spoken {
    fn from(request: Request) -> Self {
        request.body.iter().for_each(kept::fields);
        let body = request.body.as_ref().map_or_else(String::new, ToString::to_string);
        Self { path: request.path, user: request.user, body }
    }
}

impl Spoken {
    /// The button on the page that the link in the mail leads to.
    fn form(sid: &str, token: &str) -> Self {
        kept::secret("token", token);
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("sid", sid)
            .append_pair("token", token)
            .finish();
        Self { path: "/_threepid/confirm", user: None, body }
    }
}

/// A client that hangs up.
struct Rude<'a> {
    target: Target,
    ledger: &'a Ledger,
    manner: Manner,
}

impl Rude<'_> {
    /// Makes a request about an address and hangs up. What is stored about the address stays as it is unless the request
    /// arrived whole.
    async fn hangs_up(&self, address: &str, request: &Spoken, row: &mut Row) -> Outcome<()> {
        row.faults += 1;
        if self.manner.says_all() {
            return self.speak(request).await;
        }
        let before = self.ledger.standing(address).await?;
        self.speak(request).await?;
        let after = self.ledger.standing(address).await?;
        row.check(before == after, || {
            format!("{address}: {} {:?} was begun: {before:?} became {after:?}", request.path, self.manner)
        });
        Ok(())
    }

    async fn speak(&self, request: &Spoken) -> Outcome<()> {
        let base = self.target.bases.first().map_or("", String::as_str);
        let address = base.trim_start_matches("http://");
        let user = request.user.and_then(|user| self.target.users.get(user));
        let token = user.map_or("", |user| user.token.as_str());
        let Spoken { path, body, .. } = request;
        kept::secret("access_token", token);
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let whole = format!("{head}{body}");
        let said = match self.manner {
            Manner::InTheHead => head.len() / 2,
            Manner::InTheBody => head.len() + body.len() / 2,
            Manner::BeforeTheAnswer | Manner::WithAReset => whole.len(),
        };
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(whole.as_bytes().get(..said).unwrap_or_default()).await?;
        match self.manner {
            // Once the program has hung up, too, it has begun whatever it would begin.
            Manner::InTheHead | Manner::InTheBody => {
                stream.shutdown().await?;
                let mut answer = Vec::new();
                // However it hangs up.
                let _said = timeout(NOTICED_WITHIN, stream.read_to_end(&mut answer)).await.map_err(|_| {
                    format!("{path}: it still waits for the rest of what a client said {:?}", self.manner)
                })?;
            }
            Manner::BeforeTheAnswer => {}
            Manner::WithAReset => stream.set_zero_linger()?,
        }
        Ok(())
    }
}
