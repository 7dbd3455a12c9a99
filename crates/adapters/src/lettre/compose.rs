//! The message as it is written: headers and both texts.

use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart};
use lettre::{Address, Message};
use threepid_domain::ports::{DeliveryError, Mail};

use super::reason::Reason;

/// Whom the mails are from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    from: Mailbox,
    reply_to: Option<Mailbox>,
}

/// A mailbox that cannot stand in a mail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} must be an address, or a name and an address: \"Example <noreply@example.org>\"")]
pub struct InvalidSender {
    /// Which setting: "from" or "reply_to".
    pub setting: &'static str,
}

impl Sender {
    /// Reads mailboxes as `noreply@example.org` or `Example <noreply@example.org>`; the domain may be written in
    /// Unicode or as `xn--`.
    ///
    /// # Errors
    /// [`InvalidSender`].
    pub fn parse(from: &str, reply_to: Option<&str>) -> Result<Self, InvalidSender> {
        let mailbox = |text, setting| parse_mailbox(text).ok_or(InvalidSender { setting });
        Ok(Self {
            from: mailbox(from, "from")?,
            reply_to: reply_to.map(|text| mailbox(text, "reply_to")).transpose()?,
        })
    }

    /// Writes a mail.
    ///
    /// # Errors
    /// [`DeliveryError::Permanent`] when it cannot be written: no later try can change that.
    pub(super) fn compose(&self, mail: &Mail) -> Result<Message, DeliveryError> {
        if mail.subject.contains(char::is_control) {
            return Err(permanent("the subject spans lines"));
        }
        let to = Address::new(mail.to.local(), mail.to.ascii_domain())
            .map_err(|_| permanent("the recipient's address cannot be written in a mail"))?;
        let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.clone()])
            .map_err(|_| permanent("no envelope can be made"))?;
        let mut message = Message::builder()
            .from(self.from.clone())
            .to(to.into())
            .subject(&mail.subject)
            .message_id(Some(format!("<{}@{}>", mail.id, self.from.email.domain())))
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .raw_header(header("X-Auto-Response-Suppress", "All"))
            .envelope(envelope);
        if let Some(reply_to) = &self.reply_to {
            message = message.reply_to(reply_to.clone());
        }
        message
            .multipart(MultiPart::alternative_plain_html(mail.text.clone(), mail.html.clone()))
            .map_err(|error| permanent(&error.to_string()))
    }
}

fn permanent(reason: &str) -> DeliveryError {
    DeliveryError::Permanent(Reason::new(reason).into())
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// Reads a name more freely than lettre does, which wants quotes around a dot or a comma; writing adds them.
fn parse_mailbox(text: &str) -> Option<Mailbox> {
    if text.contains(char::is_control) {
        return None;
    }
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>') {
        Some(text) => text.rsplit_once('<')?,
        None => ("", text),
    };
    let (user, domain) = address.split_once('@')?;
    let address = Address::new(user, idna::domain_to_ascii(domain).ok()?).ok()?;
    let name = name.trim();
    let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
    Some(Mailbox::new((!name.is_empty()).then(|| name.to_owned()), address))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that meets an error has failed")]

    use threepid_domain::model::{EmailAddress, MessageId};

    use super::*;

    fn mail(subject: &str) -> Mail {
        Mail {
            id: MessageId::new("m1"),
            to: EmailAddress::parse("alice@bücher.example").unwrap(),
            subject: subject.to_owned(),
            text: "text".to_owned(),
            html: "<p>html</p>".to_owned(),
        }
    }

    fn written(from: &str, mail: &Mail) -> String {
        let message = Sender::parse(from, Some("help@example.org")).unwrap().compose(mail).unwrap();
        String::from_utf8(message.formatted()).unwrap()
    }

    #[test]
    fn the_headers_say_who_to_whom_which_and_that_a_machine_wrote() {
        let written = written("Example Chat <noreply@Bücher.example>", &mail("Hello"));
        let (headers, _) = written.split_once("\r\n\r\n").unwrap();
        for header in [
            "From: \"Example Chat\" <noreply@xn--bcher-kva.example>",
            "To: alice@xn--bcher-kva.example",
            "Reply-To: help@example.org",
            "Subject: Hello",
            "Message-ID: <m1@xn--bcher-kva.example>",
            "Auto-Submitted: auto-generated",
            "X-Auto-Response-Suppress: All",
            "MIME-Version: 1.0",
        ] {
            assert_eq!(headers.lines().filter(|line| *line == header).count(), 1, "{header} in {headers}");
        }
        assert!(headers.contains("\r\nDate: ") && headers.contains("multipart/alternative"));
    }

    #[test]
    fn a_subject_of_two_lines_is_not_written() {
        for subject in ["Hello\r\nBcc: eve@example.org", "a\nb", "a\rb", "a\0b"] {
            let sender = Sender::parse("noreply@example.org", None).unwrap();
            assert!(
                matches!(sender.compose(&mail(subject)), Err(DeliveryError::Permanent(_))),
                "{subject:?}"
            );
        }
    }

    #[test]
    fn a_foreign_subject_and_name_are_encoded() {
        let written = written("Bücher, \"GmbH\" <noreply@example.org>", &mail("Grüße 確認"));
        let (headers, _) = written.split_once("\r\n\r\n").unwrap();
        assert!(headers.is_ascii(), "{headers}");
        assert!(headers.contains("=?utf-8?") && headers.contains("<noreply@example.org>"), "{headers}");
    }

    #[test]
    fn a_name_needs_no_quotes() {
        for (from, header) in [
            ("chat.example.org <a@example.org>", "From: chat.example.org <a@example.org>\r\n"),
            ("\"chat.example.org\" <a@example.org>", "From: chat.example.org <a@example.org>\r\n"),
            ("Chat, Inc. <a@example.org>", "From: =?utf-8?b?Q2hhdCwgSW5jLg==?= <a@example.org>\r\n"),
        ] {
            let written = written(from, &mail("Hello"));
            assert!(written.contains(header), "{written}");
        }
        assert!(written("a@example.org", &mail("Hello")).contains("From: a@example.org\r\n"));
    }

    #[test]
    fn a_sender_that_could_add_a_header_is_refused() {
        for bad in [
            "",
            "nobody",
            "a@example.org\r\nBcc: eve@example.org",
            "Eve\r\nBcc: eve@example.org <a@example.org>",
            "a@b@example.org",
            "A <a@example.org",
        ] {
            assert_eq!(Sender::parse(bad, None), Err(InvalidSender { setting: "from" }), "{bad:?}");
            let refused = Sender::parse("a@example.org", Some(bad));
            assert_eq!(refused, Err(InvalidSender { setting: "reply_to" }), "{bad:?}");
        }
    }

    mod generated {
        use proptest::prelude::*;
        use threepid_domain::model::{EmailAddress, MessageId};

        use super::*;

        fn headers(raw: &[u8]) -> Vec<String> {
            let parsed =
                mailparse::parse_mail(raw).map(|mail| mail.headers.iter().map(|h| h.get_key()).collect());
            parsed.unwrap_or_default()
        }

        proptest! {
            /// Whatever stands in the subject, the recipient and the texts, the mail has the same headers, one recipient
            /// and two parts, or it is not written.
            #[test]
            fn no_text_adds_a_header_a_recipient_or_a_part(
                to in prop_oneof!["\\PC{1,30}@example\\.org", "[a-z<>,;:\"@ \r\n]{1,20}@[a-z.,]{1,10}"],
                subject in prop_oneof![any::<String>(), "[a-z \r\n:]{0,40}", "\\PC{0,100}"],
                text in prop_oneof![any::<String>(), "[\r\n.a-zA-Z:-]{0,60}"],
                html in prop_oneof![any::<String>(), "[\r\n.a-zA-Z:<>-]{0,60}"],
            ) {
                let Ok(to) = EmailAddress::parse(&to) else { return Ok(()) };
                let sender = Sender::parse("Example <noreply@example.org>", None);
                let Ok(sender) = sender else { return Err(TestCaseError::fail("no sender")) };
                let mail = Mail { id: MessageId::new("id"), to, subject, text, html };
                let has_control = mail.subject.contains(char::is_control);
                let composed = sender.compose(&mail);
                prop_assert_eq!(composed.is_err(), has_control);
                let Ok(message) = composed else { return Ok(()) };
                prop_assert_eq!(message.envelope().to().len(), 1);
                let raw = message.formatted();
                let expected = [
                    "From", "To", "Subject", "Message-ID", "Auto-Submitted", "X-Auto-Response-Suppress",
                    "MIME-Version", "Date", "Content-Type",
                ];
                let mut headers = headers(&raw);
                headers.sort();
                let mut expected = expected.map(str::to_owned);
                expected.sort();
                prop_assert_eq!(headers, expected);
                let parsed = mailparse::parse_mail(&raw).map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert_eq!(parsed.subparts.len(), 2);
            }

            /// What the domain takes for an address, a mail can be sent to.
            #[test]
            fn an_address_that_is_accepted_can_be_written(
                text in prop_oneof![
                    "\\PC{1,30}@example\\.org",
                    "[\\p{L}\\p{M}\\p{N}]{1,12}@example\\.org",
                    "[\\p{L}\\p{M}]{1,3}(\\.[\\p{L}\\p{N}!#$%&'*+/=?^_`{|}~-]{1,3}){0,3}@[\\p{L}\\p{M}\\p{N}.-]{1,12}",
                    "[a-z]{1,64}@([a-z0-9-]{1,63}\\.){0,4}[a-z0-9]{1,63}",
                ],
            ) {
                let Ok(to) = EmailAddress::parse(&text) else { return Ok(()) };
                let sender = Sender::parse("noreply@example.org", None);
                let Ok(sender) = sender else { return Err(TestCaseError::fail("no sender")) };
                let (subject, text, html) = (String::new(), String::new(), String::new());
                let mail = Mail { id: MessageId::new("id"), to, subject, text, html };
                let composed = sender.compose(&mail);
                prop_assert!(composed.is_ok(), "{:?}: {:?}", mail.to.as_str(), composed);
            }
        }
    }
}
