//! `threepid outbox`: what is owed, what died, and what an operator decides about it.
//!
//! Addresses are masked unless they are asked for whole.

use serde_json::{Value, json};
use threepid_domain::model::{MessageId, MessageRecord, MessageState, Payload, Timestamp};
use threepid_domain::use_cases::{OutboxDesk, Undone};

use super::times::rfc3339;
use super::{Failure, Output, SettingsSource, complain};
use crate::wiring::Opened;

/// What to do with messages.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List messages, one a line, those owed first in front. Without --state: the dead ones.
    List {
        /// Those in this state; it may be given several times.
        #[arg(long, value_name = "STATE", value_parser = ["queued", "sent", "dead", "expired", "all"], default_value = "dead")]
        state: Vec<String>,
        /// At most so many.
        #[arg(long, value_name = "COUNT", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        look: Look,
    },
    /// Show one message.
    Show {
        /// Its id, as `list` and the log (`message_id`) name it.
        id: String,
        #[command(flatten)]
        look: Look,
    },
    /// Try messages again, now. A dead one is owed again; a mail or SMS whose link or code has ended is not, since nothing would come
    /// of it.
    Retry {
        /// Their ids.
        #[arg(required = true)]
        id: Vec<String>,
    },
    /// Forget messages that are dead, or owed and not being tried. What stays undone is said.
    Drop {
        /// Their ids.
        #[arg(required = true)]
        id: Vec<String>,
    },
}

/// How messages are shown.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Look {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
    /// Show addresses whole.
    #[arg(long)]
    whole: bool,
}

impl Command {
    pub(super) async fn run(self, settings: &SettingsSource, output: Output) -> Result<(), Failure> {
        let opened = Opened::existing(&settings.load()?).await?;
        let done = self.run_at(&opened.outbox_desk(), output).await;
        opened.close().await;
        done
    }

    async fn run_at(self, desk: &OutboxDesk, output: Output) -> Result<(), Failure> {
        let unreadable = |error| Failure::running("cannot read the outbox", error);
        match self {
            Self::List { state, limit, look } => {
                for record in desk.list(states(&state), limit).await.map_err(unreadable)? {
                    output.line(look.line(&record));
                }
                Ok(())
            }
            Self::Show { id, look } => {
                let record = desk.show(&MessageId::new(&*id)).await.map_err(unreadable)?;
                let record = record.ok_or_else(|| Failure::running(id, "there is no such message"))?;
                output.text(look.page(&record));
                Ok(())
            }
            Self::Retry { id } => {
                let mut refused = 0;
                for id in &id {
                    match desk.retry(&MessageId::new(&**id)).await {
                        Ok(record) => {
                            output.line(format_args!("{id}: the {} is tried again now", record.kind))
                        }
                        Err(error) => {
                            refused += 1;
                            complain(format_args!(
                                "threepid: {id}: not tried again: {}",
                                super::with_causes(&error)
                            ));
                        }
                    }
                }
                all_done(refused, id.len())
            }
            Self::Drop { id } => {
                let mut refused = 0;
                for id in &id {
                    match desk.discard(&MessageId::new(&**id)).await {
                        Ok((record, undone)) => {
                            output.line(format_args!("{id}: dropped; {}", said(&record, undone)))
                        }
                        Err(error) => {
                            refused += 1;
                            complain(format_args!(
                                "threepid: {id}: not dropped: {}",
                                super::with_causes(&error)
                            ));
                        }
                    }
                }
                all_done(refused, id.len())
            }
        }
    }
}

fn all_done(refused: usize, of: usize) -> Result<(), Failure> {
    if refused == 0 {
        return Ok(());
    }
    Err(Failure::running(format!("{refused} of {of} were left as they are"), "see above"))
}

fn states(named: &[String]) -> Vec<MessageState> {
    if named.iter().any(|state| state == "all") {
        return MessageState::ALL.to_vec();
    }
    named.iter().filter_map(|state| MessageState::parse(state)).collect()
}

/// What stays undone where a message is dropped.
fn said(record: &MessageRecord, undone: Undone) -> String {
    match (undone, &record.payload) {
        (Undone::Unbind, Some(Payload::Unbind { server, forget: true, .. })) => format!(
            "{server} goes on publishing the address of an account that was erased, and nothing here knows of it any more"
        ),
        (Undone::Unbind, Some(Payload::Unbind { server, .. })) => format!(
            "{server} goes on publishing the address and is not asked again to forget it, unless its user unbinds or \
             deletes it once more"
        ),
        (Undone::Mirror, Some(Payload::Mirror { user_id })) => {
            format!("the homeserver's list of {user_id} stays as it is until the next change of its contacts")
        }
        (_, Some(Payload::InUseMail { .. } | Payload::InUseSms { .. })) => {
            "whoever has the address is not told that somebody asked to add it".to_owned()
        }
        (Undone::Sms, _) => "its SMS is not sent; its user can ask for another".to_owned(),
        (Undone::Mail, _) => "its mail is not sent; its user can ask for another".to_owned(),
        _ => "this version cannot tell what it was for".to_owned(),
    }
}

impl Look {
    /// To whom, at which server, about whose account.
    fn about(self, record: &MessageRecord) -> (Option<String>, Option<String>, Option<String>) {
        let masked = |whole: &str, masked: String| if self.whole { whole.to_owned() } else { masked };
        match &record.payload {
            Some(Payload::ValidationMail { to, .. } | Payload::InUseMail { to }) => {
                (Some(masked(to.as_str(), to.masked())), None, None)
            }
            Some(Payload::ValidationSms { to, .. } | Payload::InUseSms { to }) => {
                (Some(masked(to.as_str(), to.masked())), None, None)
            }
            Some(Payload::Unbind { user_id, address, server, forget: _ }) => (
                Some(masked(address.as_str(), address.masked())),
                Some(server.to_string()),
                Some(user_id.to_string()),
            ),
            Some(Payload::Mirror { user_id }) => (None, None, Some(user_id.to_string())),
            None => (None, None, None),
        }
    }

    fn line(self, record: &MessageRecord) -> String {
        if self.json {
            return self.json(record).to_string();
        }
        let (address, server, user_id) = self.about(record);
        let about: Vec<_> = [user_id, address, server].into_iter().flatten().collect();
        let about = if about.is_empty() { "-".to_owned() } else { about.join(" ") };
        let error = record.last_error.as_deref().unwrap_or("-").replace(char::is_control, "\u{fffd}");
        format!(
            "{} {} {} {about} attempts={} due={} {error}",
            record.id,
            record.state.as_str(),
            record.kind,
            record.attempts,
            rfc3339(record.due_at)
        )
    }

    fn page(self, record: &MessageRecord) -> String {
        let json = self.json(record);
        if self.json {
            return format!("{json}\n");
        }
        let fields = json.as_object().into_iter().flatten();
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let lines = fields
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| format!("{name}: {}\n", text(value).replace(char::is_control, "\u{fffd}")));
        lines.collect()
    }

    fn json(self, record: &MessageRecord) -> Value {
        let (address, server, user_id) = self.about(record);
        let time = |at: Option<Timestamp>| at.map(rfc3339);
        json!({
            "id": record.id.as_str(),
            "kind": record.kind,
            "state": record.state.as_str(),
            "address": address,
            "server": server,
            "user_id": user_id,
            "attempts": record.attempts,
            "created_at": rfc3339(record.created_at),
            "due_at": rfc3339(record.due_at),
            "not_after": rfc3339(record.not_after),
            "leased_until": time(record.leased_until),
            "settled_at": time(record.settled_at),
            "last_error": record.last_error,
        })
    }
}

#[cfg(test)]
mod tests {
    use threepid_domain::model::{Address, IdentityServerName, Medium, UserId};

    use super::*;

    fn unbind() -> Result<MessageRecord, Box<dyn std::error::Error>> {
        let at = Timestamp::from_ms(1_767_225_600_001);
        Ok(MessageRecord {
            id: MessageId::new("m1"),
            kind: "unbind".to_owned(),
            payload: Some(Payload::Unbind {
                user_id: UserId::parse("@alice:example.org")?,
                address: Address::parse(Medium::Email, "alice@example.org")?,
                server: IdentityServerName::parse("id.example")?,
                forget: false,
            }),
            state: MessageState::Dead,
            attempts: 3,
            created_at: at,
            due_at: at,
            not_after: at,
            leased_until: None,
            settled_at: Some(at),
            last_error: Some("refused\u{1b}[2J".to_owned()),
        })
    }

    #[test]
    fn addresses_are_masked_until_they_are_asked_for_whole_and_no_terminal_is_obeyed()
    -> Result<(), Box<dyn std::error::Error>> {
        let record = unbind()?;
        let line = Look { json: false, whole: false }.line(&record);
        assert!(line.starts_with("m1 dead unbind @alice:example.org a"), "{line}");
        assert!(!line.contains("alice@example.org id") && !line.contains('\u{1b}'), "{line}");
        let whole = Look { json: false, whole: true };
        assert!(
            whole
                .line(&record)
                .contains("alice@example.org id.example attempts=3 due=2026-01-01T00:00:00.001Z")
        );
        let page = whole.page(&record);
        assert!(page.contains("address: alice@example.org\n") && !page.contains("leased_until"), "{page}");
        let json: Value = serde_json::from_str(&Look { json: true, whole: false }.line(&record))?;
        assert_eq!((&json["server"], &json["leased_until"]), (&"id.example".into(), &Value::Null));
        assert_ne!(json["address"], "alice@example.org");
        Ok(())
    }

    #[test]
    fn what_stays_undone_names_who_could_undo_it() -> Result<(), Box<dyn std::error::Error>> {
        assert!(said(&unbind()?, Undone::Unbind).starts_with("id.example goes on publishing the address"));
        let unreadable = MessageRecord { payload: None, ..unbind()? };
        assert_eq!(said(&unreadable, Undone::Unknown), "this version cannot tell what it was for");
        Ok(())
    }

    #[test]
    fn all_is_every_state() {
        assert_eq!(states(&["dead".to_owned(), "all".to_owned()]), MessageState::ALL);
        assert_eq!(states(&["sent".to_owned()]), [MessageState::Sent]);
    }
}
