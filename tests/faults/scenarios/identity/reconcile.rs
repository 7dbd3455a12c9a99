//! The comparison: what clients know of their addresses, the database, and what the identity server publishes.

use std::collections::{HashMap, HashSet};

use super::cases::{Case, End};
use crate::books::{Books, Published};
use crate::load::Step;
use crate::site::User;

/// Whatever the identity server publishes is recorded here, or is owed to be forgotten: at any moment.
pub(super) fn recorded(books: &Books, published: &[Published]) -> Vec<String> {
    let owed: HashSet<&Published> = books
        .messages
        .values()
        .filter(|message| message.state == "queued")
        .filter_map(|message| message.unbinds.as_ref())
        .collect();
    published
        .iter()
        .filter(|binding| !books.bindings.contains_key(binding) && !owed.contains(binding))
        .map(|binding| format!("{}: published for {} without a record", binding.address, binding.user))
        .collect()
}

/// Everything that clients were told, once nothing is owed any more.
pub(super) fn acknowledged(
    books: &Books,
    published: &[Published],
    cases: &[Case],
    users: &[User],
) -> Vec<String> {
    let mut problems = recorded(books, published);
    let published: HashMap<&str, &str> =
        published.iter().map(|one| (one.address.as_str(), one.user.as_str())).collect();
    for case in cases {
        let user = users.get(case.user).map_or("", |user| user.id.as_str());
        let key = Published { address: case.address.clone(), user: user.to_owned() };
        let is_published = published.get(case.address.as_str()) == Some(&user);
        let is_owned = books.owners.get(&case.address).map(String::as_str) == Some(user);
        let mut wrong = |what: &str| problems.push(format!("{}: {what}", case.address));
        match (case.end, case.ended) {
            (None, _) if case.bound == Step::Done => {
                if !is_published {
                    wrong("its bind was acknowledged, and it is not published");
                }
                if books.bindings.get(&key) != Some(&true) {
                    wrong("its bind was acknowledged, and is not recorded as done");
                }
                if case.is_added() != is_owned {
                    wrong("its bind was acknowledged, and the account is not as it should be");
                }
            }
            (Some(end), Step::Done) => {
                if is_published {
                    wrong("it was to be forgotten, and is published still");
                }
                if books.bindings.contains_key(&key) {
                    wrong("it is forgotten, and recorded still");
                }
                if is_owned && (end == End::Delete || !case.is_added()) {
                    wrong("its deletion was acknowledged, and it is on the account");
                }
                if !is_owned && end == End::Unbind && case.is_added() {
                    wrong("only its unbind was asked for, and it has left the account");
                }
            }
            _ => {}
        }
    }
    for (id, message) in books.messages.iter().filter(|(_, message)| message.unbinds.is_some()) {
        if message.state != "sent" {
            problems.push(format!("the unbind {id} is {}: {:?}", message.state, message.last_error));
        }
    }
    problems
}
