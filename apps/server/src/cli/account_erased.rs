//! `threepid account erase`: how much was erased, a kind a line, or as JSON.

use serde_json::{Value, json};
use threepid_domain::model::{Erased, UserId};

/// How much of each kind, a kind a line.
pub(super) fn lines(erased: &Erased, is_dry: bool) -> Vec<String> {
    let Erased {
        threepids,
        sessions,
        remote_sessions,
        spent_proofs,
        bindings,
        challenges,
        messages,
        owed_unbinds,
        dead_unbinds,
        audit_entries,
        is_local,
    } = *erased;
    let (gone, nameless) = if is_dry {
        ("would be erased", "would stay without a name")
    } else {
        ("erased", "stay without a name")
    };
    let owed = if is_dry { "would be owed, and leave nothing" } else { "are owed, and leave nothing" };
    let mut lines: Vec<String> = [
        (threepids, "contacts", gone),
        (sessions, "validation sessions", gone),
        (remote_sessions, "sessions of identity servers", gone),
        (spent_proofs, "spent proofs of identity servers", nameless),
        (bindings, "bindings", gone),
        (challenges, "challenges", gone),
        (messages, "messages", gone),
        (owed_unbinds, "unbinds", owed),
        (dead_unbinds, "dead unbinds", "stay until you drop them"),
        (audit_entries, "audit entries", nameless),
    ]
    .iter()
    .map(|(count, what, fate)| format!("{count} {what} {fate}"))
    .collect();
    if is_local {
        lines.push(format!("an account of our own, with its access tokens and its password, {gone}"));
    }
    lines
}

/// The same for machines.
pub(super) fn json(user: &UserId, erased: &Erased, is_dry: bool) -> Value {
    json!({
        "user_id": user,
        "is_dry_run": is_dry,
        "threepids": erased.threepids,
        "sessions": erased.sessions,
        "remote_sessions": erased.remote_sessions,
        "spent_proofs": erased.spent_proofs,
        "bindings": erased.bindings,
        "challenges": erased.challenges,
        "messages": erased.messages,
        "owed_unbinds": erased.owed_unbinds,
        "dead_unbinds": erased.dead_unbinds,
        "audit": erased.audit_entries,
        "is_local_account": erased.is_local,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_with_what_becomes_of_it() -> Result<(), Box<dyn std::error::Error>> {
        let erased = Erased { threepids: 2, owed_unbinds: 1, is_local: true, ..Erased::default() };
        let said = lines(&erased, false);
        assert!(said.contains(&"2 contacts erased".to_owned()), "{said:?}");
        assert!(said.contains(&"1 unbinds are owed, and leave nothing".to_owned()), "{said:?}");
        assert_eq!(said.len(), 11);
        assert!(lines(&erased, true).contains(&"2 contacts would be erased".to_owned()));
        let json = json(&UserId::parse("@alice:example.org")?, &erased, true);
        assert_eq!((&json["threepids"], &json["is_dry_run"]), (&2.into(), &true.into()));
        Ok(())
    }
}
