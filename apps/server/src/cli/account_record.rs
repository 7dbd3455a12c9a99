//! `threepid account show`: what is kept about one account, counted, or whole as JSON.
//!
//! It shows whole addresses, since it answers whoever asks what is kept about them.

use serde_json::{Value, json};
use threepid_domain::model::{
    AuditEntry, Binding, BindingState, Challenge, IssuedToken, MessageRecord, NextLink, Payload,
    RemoteSession, SessionState, SpentProof, Threepid, UserId, ValidationSession,
};
use threepid_domain::ports::{AccountRecord, Counted, LocalToken};

use super::times::rfc3339;

/// How much of each kind there is, a kind a line.
pub(super) fn counted(record: &AccountRecord) -> Vec<String> {
    let mut lines: Vec<String> = [
        ("contacts", record.threepids.len()),
        ("validation sessions", record.sessions.len()),
        ("sessions of identity servers", record.remote_sessions.len()),
        ("spent proofs of identity servers", record.spent_proofs.len()),
        ("bindings", record.bindings.len()),
        ("challenges", record.challenges.len()),
        ("messages", record.messages.len()),
        ("audit entries", record.audit.len()),
        ("counts under limits", record.counts.len()),
    ]
    .iter()
    .map(|(what, count)| format!("{count} {what}"))
    .collect();
    if record.is_local {
        lines.push(format!(
            "an account of our own, with its password and {} access tokens as hashes",
            record.access_tokens.len()
        ));
    }
    lines
}

/// All of it. No secret is in it: tokens and client secrets are kept as hashes alone, and these are left out.
pub(super) fn whole(user: &UserId, record: &AccountRecord) -> Value {
    json!({
        "user_id": user,
        "is_local_account": record.is_local,
        "threepids": record.threepids.iter().map(threepid).collect::<Vec<_>>(),
        "sessions": record.sessions.iter().map(session).collect::<Vec<_>>(),
        "remote_sessions": record.remote_sessions.iter().map(remote_session).collect::<Vec<_>>(),
        "spent_proofs": record.spent_proofs.iter().map(spent_proof).collect::<Vec<_>>(),
        "bindings": record.bindings.iter().map(binding).collect::<Vec<_>>(),
        "challenges": record.challenges.iter().map(challenge).collect::<Vec<_>>(),
        "messages": record.messages.iter().map(message).collect::<Vec<_>>(),
        "audit": record.audit.iter().map(entry).collect::<Vec<_>>(),
        "access_tokens": record.access_tokens.iter().map(access_token).collect::<Vec<_>>(),
        "counts": record.counts.iter().map(count).collect::<Vec<_>>(),
    })
}

fn threepid(threepid: &Threepid) -> Value {
    json!({
        "medium": threepid.address.medium().as_str(),
        "address": threepid.address.as_str(),
        "validated_at": rfc3339(threepid.validated_at),
        "added_at": rfc3339(threepid.added_at),
    })
}

fn session(session: &ValidationSession) -> Value {
    let record = session.record();
    let mut wrong = None;
    let (state, validated_at, consumed_by) = match &record.state {
        SessionState::Pending { wrong_tokens } => {
            wrong = Some(*wrong_tokens);
            ("pending", None, None)
        }
        SessionState::Validated { at } => ("validated", Some(rfc3339(*at)), None),
        SessionState::Consumed { validated_at, by } => ("consumed", Some(rfc3339(*validated_at)), Some(by)),
        SessionState::Burnt => ("burnt", None, None),
    };
    json!({
        "sid": record.sid.as_str(),
        "medium": record.address.medium().as_str(),
        "address": record.address.as_str(),
        "state": state,
        "validated_at": validated_at,
        "consumed_by": consumed_by,
        "created_at": rfc3339(record.created_at),
        "wrong_tokens": wrong,
        "send_attempt": record.send_attempt.get(),
        "tokens": record.tokens.iter().map(token).collect::<Vec<_>>(),
    })
}

fn token(token: &IssuedToken) -> Value {
    json!({
        "expires_at": rfc3339(token.expires_at),
        "next_link": token.next_link.as_ref().map(NextLink::as_str),
        "with_code": token.with_code,
        "withheld": token.withheld,
    })
}

fn access_token(token: &LocalToken) -> Value {
    json!({ "device_id": token.device_id, "created_at": rfc3339(token.created_at) })
}

fn count(count: &Counted) -> Value {
    json!({ "limit": count.limit, "until": rfc3339(count.until) })
}

fn remote_session(session: &RemoteSession) -> Value {
    json!({
        "server": session.server,
        "sid": session.sid.as_str(),
        "medium": session.address.medium().as_str(),
        "address": session.address.as_str(),
        "opened_at": rfc3339(session.opened_at),
    })
}

fn spent_proof(proof: &SpentProof) -> Value {
    json!({
        "server": proof.server,
        "sid": proof.sid.as_str(),
        "medium": proof.address.medium().as_str(),
        "address": proof.address.as_str(),
        "spent_at": rfc3339(proof.spent_at),
    })
}

fn binding(binding: &Binding) -> Value {
    json!({
        "medium": binding.address.medium().as_str(),
        "address": binding.address.as_str(),
        "server": binding.server,
        "state": match binding.state {
            BindingState::Pending => "pending",
            BindingState::Bound => "bound",
        },
        "since": rfc3339(binding.since),
    })
}

fn challenge(challenge: &Challenge) -> Value {
    json!({
        "session": challenge.session,
        "sid": challenge.sid.as_str(),
        "issued_at": rfc3339(challenge.issued_at),
    })
}

fn message(record: &MessageRecord) -> Value {
    let (medium, address, server) = match &record.payload {
        Some(Payload::ValidationMail { to, .. } | Payload::InUseMail { to }) => {
            (Some("email"), Some(to.as_str()), None)
        }
        Some(Payload::ValidationSms { to, .. } | Payload::InUseSms { to }) => {
            (Some("msisdn"), Some(to.as_str()), None)
        }
        Some(Payload::Unbind { address, server, .. }) => {
            (Some(address.medium().as_str()), Some(address.as_str()), Some(server))
        }
        Some(Payload::Mirror { .. }) | None => (None, None, None),
    };
    json!({
        "id": record.id.as_str(),
        "kind": record.kind,
        "state": record.state.as_str(),
        "medium": medium,
        "address": address,
        "server": server,
        "created_at": rfc3339(record.created_at),
        "not_after": rfc3339(record.not_after),
        "last_error": record.last_error,
    })
}

fn entry(entry: &AuditEntry) -> Value {
    json!({
        "at": rfc3339(entry.at),
        "medium": entry.address.medium().as_str(),
        "address": entry.address.as_str(),
        "action": entry.action.as_str(),
        "door": entry.door.as_str(),
        "server": entry.server,
        "reference": entry.reference,
    })
}
