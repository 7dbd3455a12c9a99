//! `threepid audit`: how contacts changed, for the operator. Addresses are whole here, as in the database.

use serde_json::json;
use threepid_domain::model::{Address, AuditEntry, AuditQuery, Medium, UserId};

use super::times::rfc3339;
use super::{Failure, Output, SettingsSource};
use crate::wiring::Opened;

/// Which changes are told, and how.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Only this account's, as @localpart:server.
    #[arg(long, value_parser = user_id)]
    user: Option<UserId>,
    /// Only this address's: an email address, or the digits of a phone number with its country.
    #[arg(long, value_parser = address)]
    address: Option<Address>,
    /// At most so many, the newest.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    limit: usize,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

fn user_id(text: &str) -> Result<UserId, String> {
    UserId::parse(text).map_err(|error| error.to_string())
}

fn address(text: &str) -> Result<Address, String> {
    let medium = if text.contains('@') { Medium::Email } else { Medium::Msisdn };
    Address::parse(medium, text).map_err(|error| error.to_string())
}

pub(super) async fn run(
    arguments: Arguments,
    settings: &SettingsSource,
    output: Output,
) -> Result<(), Failure> {
    let Arguments { user, address, limit, json } = arguments;
    let opened = Opened::existing(&settings.load()?).await?;
    let told = opened.audit_trail(AuditQuery { user_id: user, address, limit }).await;
    opened.close().await;
    // The newest last, where a terminal ends.
    for entry in told?.iter().rev() {
        output.line(if json { as_json(entry) } else { as_text(entry) });
    }
    Ok(())
}

fn as_text(entry: &AuditEntry) -> String {
    let AuditEntry { at, user_id, address, action, door, server, reference } = entry;
    let server = server.as_ref().map_or("-", |server| server.as_str());
    let reference = reference.as_deref().unwrap_or("-");
    let (action, door) = (action.as_str(), door.as_str());
    format!("{} {user_id} {action} {} {door} {server} {reference}", rfc3339(*at), address.as_str())
}

fn as_json(entry: &AuditEntry) -> String {
    let AuditEntry { at, user_id, address, action, door, server, reference } = entry;
    json!({
        "at": rfc3339(*at),
        "user_id": user_id,
        "medium": address.medium().as_str(),
        "address": address.as_str(),
        "action": action.as_str(),
        "door": door.as_str(),
        "server": server,
        "reference": reference,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use threepid_domain::model::{AuditAction, AuditDoor, IdentityServerName, Timestamp};

    use super::*;

    fn entry() -> Result<AuditEntry, Box<dyn std::error::Error>> {
        Ok(AuditEntry {
            at: Timestamp::from_ms(1_767_225_600_001),
            user_id: UserId::parse("@alice:example.org")?,
            address: address(" A@Example.org")?,
            action: AuditAction::Bound,
            door: AuditDoor::Bind,
            server: Some(IdentityServerName::parse("id.example")?),
            reference: None,
        })
    }

    #[test]
    fn a_change_is_one_line_with_the_whole_address() -> Result<(), Box<dyn std::error::Error>> {
        let expected =
            "2026-01-01T00:00:00.001Z @alice:example.org bound a@example.org account/3pid/bind id.example -";
        assert_eq!(as_text(&entry()?), expected);
        let json: serde_json::Value = serde_json::from_str(&as_json(&entry()?))?;
        assert_eq!(json["at"], "2026-01-01T00:00:00.001Z");
        assert_eq!((&json["medium"], &json["address"]), (&"email".into(), &"a@example.org".into()));
        assert_eq!((&json["server"], &json["reference"]), (&"id.example".into(), &serde_json::Value::Null));
        Ok(())
    }

    #[test]
    fn an_address_is_told_by_how_it_looks() {
        assert_eq!(address("447700900813").map(|address| address.medium()), Ok(Medium::Msisdn));
        assert_eq!(address("a@example.org").map(|address| address.medium()), Ok(Medium::Email));
        assert!(address("nobody").is_err());
    }
}
