//! Clients that hang up in the midst of each request: what arrived in part is not begun, what arrived whole is finished
//! or not begun, and whoever asks again gets on.

use std::sync::Arc;
use std::time::Duration;

use threepid_tests::kept;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::Outcome;
use crate::load::{Client, Journey, Plan, Records, Request, Step};
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

pub(super) async fn run(options: &Options) -> Outcome<Row> {
    let mut row = Row::default();
    let mut site = Site::builder(options).start().await?;
    // Others go about their business meanwhile.
    let load = site.load(&Plan::journeys("polite", 2, options.seed))?;
    let mut client = Client::new(site.target(), 0, Arc::default())?;
    let mut records = Records::default();
    let mut unheard = Vec::new();
    let never = CancellationToken::new();
    for number in 0..options.rounds(6, 100) {
        for manner in MANNERS {
            // One who never comes back …
            let gone = journey(&site, number, &format!("gone-{manner:?}"));
            hang_up(&site, &Request::token(&gone, 1), manner).await?;
            // … and one who hangs up every time, and asks again.
            let mut rude = journey(&site, number, &format!("rude-{manner:?}"));
            hang_up(&site, &Request::token(&rude, 1), manner).await?;
            client.request(&mut rude, 1, &never).await;
            if let Some(sid) = rude.sid.clone()
                && let Some(token) = site.mailbox.token_for(&sid, Duration::from_secs(30)).await
            {
                hang_up(&site, &Request::submit(&rude, &sid, &token), manner).await?;
                rude.submitted = client.submit(&rude, &sid, &token, &never).await;
                hang_up(&site, &Request::add(&rude, &sid), manner).await?;
                client.complete(&mut rude, Duration::from_secs(30), true, &never).await;
            }
            row.check(rude.added == Step::Done, || format!("{} did not get on", rude.address));
            row.faults += 4;
            records.journeys.push(rude);
            if !manner.says_all() {
                unheard.push(gone.address.clone());
            }
            records.journeys.push(gone);
        }
    }
    records.tally.merge(client.records.tally);
    records.merge(load.stop().await?);
    let books = site.settle(records, Allowed::default(), &mut row).await?;
    let begun = books.sessions.values().filter(|session| unheard.contains(&session.address)).count();
    row.check(begun == 0, || format!("{begun} requests were begun that had not arrived whole"));
    Ok(row)
}

fn journey(site: &Site, number: usize, name: &str) -> Journey {
    let user = number % site.users.len().max(1);
    Journey::new(user, format!("{}-{number}@faults.example", name.to_lowercase()), format!("{name}.{number}"))
}

/// Makes a request and hangs up.
async fn hang_up(site: &Site, request: &Request, manner: Manner) -> Outcome<()> {
    let target = site.target();
    let base = target.bases.first().cloned().unwrap_or_default();
    let address = base.trim_start_matches("http://").to_owned();
    let token = request.user.and_then(|user| target.users.get(user)).map_or("", |user| user.token.as_str());
    kept::secret("access_token", token);
    request.body.iter().for_each(kept::fields);
    let body = request.body.as_ref().map_or_else(String::new, ToString::to_string);
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
        request.path,
        body.len()
    );
    let whole = format!("{head}{body}");
    let said = match manner {
        Manner::InTheHead => head.len() / 2,
        Manner::InTheBody => head.len() + body.len() / 2,
        Manner::BeforeTheAnswer | Manner::WithAReset => whole.len(),
    };
    let mut stream = TcpStream::connect(&address).await?;
    stream.write_all(whole.as_bytes().get(..said).unwrap_or_default()).await?;
    if manner == Manner::WithAReset {
        stream.set_zero_linger()?;
    }
    drop(stream);
    Ok(())
}
