//! The comparison: what the clients know, what the database says, and what arrived.

use std::collections::{HashMap, HashSet};

use crate::books::Books;
use crate::load::{Journey, Step};
use crate::site::User;

/// What became of the mails, by Message-ID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mails {
    /// How many the database owed.
    pub(crate) owed: u64,
    /// How many of them arrived, each counted once.
    pub(crate) arrived: u64,
    /// How many were given up since their token had ended.
    pub(crate) expired: u64,
    /// How many are kept as undeliverable.
    pub(crate) dead: u64,
    /// How many arrivals were one too many.
    pub(crate) twice: u64,
    /// How many neither arrived nor are accounted for.
    pub(crate) lost: u64,
}

/// What a fault is allowed to do to mails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// Some may end as dead.
    pub(crate) dead: bool,
    /// Some may end as expired.
    pub(crate) expired: bool,
    /// So many may arrive once more.
    pub(crate) twice: u64,
    /// Some may be owed still.
    pub(crate) queued: bool,
    /// Some may have arrived that the database does not know: it is older than they are.
    pub(crate) unknown: bool,
}

/// Compares, and says what is wrong.
pub(crate) fn reconcile(
    books: &Books,
    journeys: &[Journey],
    users: &[User],
    arrived: &HashMap<String, u64>,
    allowed: Allowed,
) -> (Mails, Vec<String>) {
    let mut problems: Vec<String> =
        books.damage.iter().map(|said| format!("the database is damaged: {said}")).collect();
    for journey in journeys {
        problems.extend(
            acknowledged(books, journey, users)
                .into_iter()
                .map(|what| format!("{}: {what}", journey.address)),
        );
    }
    problems.extend(two_owners(journeys));
    problems.extend(halves(books, journeys, users));
    let mails = mails(books, arrived, allowed, &mut problems);
    (mails, problems)
}

fn name(users: &[User], number: usize) -> &str {
    users.get(number).map_or("", |user| user.id.as_str())
}

/// Every answer that the client saw, against the database.
fn acknowledged(books: &Books, journey: &Journey, users: &[User]) -> Vec<String> {
    let mut problems = Vec::new();
    let Some(sid) = &journey.sid else { return problems };
    let Some(session) = books.sessions.get(sid) else {
        return vec!["its session was acknowledged and is not stored".to_owned()];
    };
    if session.address != journey.address {
        problems.push(format!("its session is for {}", session.address));
    }
    let owed = books.messages.values().filter(|message| message.sid.as_ref() == Some(sid)).count();
    if u64::try_from(owed).unwrap_or(0) < journey.sends {
        problems.push(format!("{} mails were acknowledged, {owed} are owed", journey.sends));
    }
    if journey.submitted == Step::Done && !matches!(session.state.as_str(), "validated" | "consumed") {
        problems.push(format!("its proof was acknowledged, its session is {}", session.state));
    }
    let user = name(users, journey.user);
    if journey.added == Step::Done {
        if session.state != "consumed" || session.consumed_by.as_deref() != Some(user) {
            problems.push(format!("it was added by {user}, its session is {}", session.state));
        }
        if books.owners.get(&journey.address).map(String::as_str) != Some(user) {
            problems
                .push(format!("it was added by {user}, and is {:?}'s", books.owners.get(&journey.address)));
        }
    }
    problems
}

/// An address that was given to two accounts.
fn two_owners(journeys: &[Journey]) -> Vec<String> {
    let mut owners: HashMap<&str, usize> = HashMap::new();
    let mut problems = Vec::new();
    for journey in journeys.iter().filter(|journey| journey.added == Step::Done) {
        let owner = *owners.entry(&journey.address).or_insert(journey.user);
        if owner != journey.user {
            problems.push(format!("{}: two accounts were told that it is theirs", journey.address));
        }
    }
    problems
}

/// What is in the database in part only.
fn halves(books: &Books, journeys: &[Journey], users: &[User]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut spent = HashSet::new();
    for (sid, session) in &books.sessions {
        let owed = books.messages.values().filter(|message| message.sid.as_ref() == Some(sid)).count();
        if owed != session.tokens {
            problems.push(format!(
                "{}: {} tokens were issued and {owed} mails owed",
                session.address, session.tokens
            ));
        }
        if let Some(user) = session.consumed_by.as_ref().filter(|_| session.state == "consumed") {
            spent.insert((session.address.as_str(), user.as_str()));
            if books.owners.get(&session.address) != Some(user) {
                problems.push(format!(
                    "{}: its proof was spent by {user}, who does not have it",
                    session.address
                ));
            }
        }
    }
    for (address, user) in &books.owners {
        if !spent.contains(&(address.as_str(), user.as_str())) {
            problems.push(format!("{address}: {user} has it without a spent proof"));
        }
    }
    let tried: HashSet<(&str, &str)> = journeys
        .iter()
        .filter(|journey| journey.added != Step::NotTried)
        .map(|journey| (journey.address.as_str(), name(users, journey.user)))
        .collect();
    for (address, user) in &books.owners {
        if !tried.contains(&(address.as_str(), user.as_str())) {
            problems.push(format!("{address}: {user} has it and never asked for it"));
        }
    }
    for (id, message) in &books.messages {
        let session = message.sid.as_ref().and_then(|sid| books.sessions.get(sid));
        if message.kind == "validation_mail" && session.is_none() {
            problems.push(format!("the mail {id} belongs to no session"));
        }
    }
    problems
}

/// Each owed mail against those that arrived.
fn mails(
    books: &Books,
    arrived: &HashMap<String, u64>,
    allowed: Allowed,
    problems: &mut Vec<String>,
) -> Mails {
    let mut mails = Mails::default();
    for (id, message) in books.messages.iter().filter(|(_, message)| message.kind == "validation_mail") {
        mails.owed += 1;
        let times = arrived.get(id).copied().unwrap_or(0);
        mails.arrived += u64::from(times > 0);
        mails.twice += times.saturating_sub(1);
        match message.state.as_str() {
            "sent" if times == 0 => {
                mails.lost += 1;
                problems.push(format!("the mail {id} is noted as sent and did not arrive"));
            }
            "sent" => {}
            "expired" => {
                mails.expired += 1;
                if !allowed.expired {
                    problems.push(format!("the mail {id} has expired"));
                }
            }
            "dead" => {
                mails.dead += 1;
                if !allowed.dead || message.last_error.is_none() {
                    problems.push(format!("the mail {id} is dead: {:?}", message.last_error));
                }
            }
            "queued" if allowed.queued => {}
            other => {
                mails.lost += 1;
                problems.push(format!("the mail {id} is still {other}: {:?}", message.last_error));
            }
        }
    }
    if mails.twice > allowed.twice {
        problems.push(format!("{} mails arrived once more, and {} may", mails.twice, allowed.twice));
    }
    let unknown = arrived.keys().filter(|id| !books.messages.contains_key(*id)).count();
    if unknown > 0 && !allowed.unknown {
        problems.push(format!("{unknown} mails arrived that the database does not know"));
    }
    mails
}
