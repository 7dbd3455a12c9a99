//! Lines of log for machines: one object of JSON each. A span's fields are written once, when it begins, as they stand in
//! every line under it.

use std::cell::RefCell;
use std::fmt::{self, Debug, Write as _};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields};
use tracing_subscriber::fmt::time::{self, FormatTime as _};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// `{"timestamp":…,"level":…,` the event's fields, `"target":…,"span":{` the span's fields, `"name":…}}`.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: format::Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        write_now(&mut writer)?;
        for part in ["\",\"level\":\"", metadata.level().as_str(), "\","] {
            writer.write_str(part)?;
        }
        JsonFields.format_fields(writer.by_ref(), event)?;
        string(&mut writer, "target", metadata.target())?;
        let parent = event.parent().and_then(|id| context.span(id));
        if let Some(span) = parent.or_else(|| context.lookup_current().filter(|_| !event.is_root())) {
            writer.write_str(",\"span\":{")?;
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                writer.write_str(&fields.fields)?;
            }
            string(&mut writer, "name", span.name())?;
            writer.write_char('}')?;
        }
        writer.write_str("}\n")
    }
}

thread_local! {
    /// A second since the epoch, and how its time begins: `2026-01-31T01:02:03`.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// The time in UTC, of which most stays the same for a second.
fn write_now(writer: &mut format::Writer<'_>) -> fmt::Result {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != now.as_secs() || text.is_empty() {
            text.clear();
            time::SystemTime.format_time(&mut format::Writer::new(text))?;
            text.truncate(text.find('.').unwrap_or(text.len()));
            *second = now.as_secs();
        }
        writer.write_str(text)
    })?;
    write!(writer, ".{:06}Z", now.subsec_micros())
}

/// Each field as `"name":value,`.
pub(super) struct JsonFields;

impl<'a> FormatFields<'a> for JsonFields {
    fn format_fields<R: RecordFields>(&self, writer: format::Writer<'a>, fields: R) -> fmt::Result {
        let mut members = Members { writer, written: Ok(()) };
        fields.record(&mut members);
        members.written
    }

    fn add_fields(
        &self,
        current: &'a mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        self.format_fields(current.as_writer(), fields)
    }
}

struct Members<'a> {
    writer: format::Writer<'a>,
    written: fmt::Result,
}

impl Members<'_> {
    fn member(&mut self, field: &Field, write: impl FnOnce(&mut format::Writer<'_>) -> fmt::Result) {
        if self.written.is_ok() {
            let name = field.name();
            // The names of fields are this program's and its libraries', words with dots between them.
            self.written = ["\"", name.strip_prefix("r#").unwrap_or(name), "\":"]
                .into_iter()
                .try_for_each(|part| self.writer.write_str(part))
                .and_then(|()| write(&mut self.writer))
                .and_then(|()| self.writer.write_char(','));
        }
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |writer| {
            // JSON has no other numbers.
            if value.is_finite() { write!(writer, "{value}") } else { writer.write_str("null") }
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |writer| write!(writer, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |writer| quoted(writer, |text| text.write_str(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.member(field, |writer| quoted(writer, |text| write!(text, "{value:?}")));
    }
}

/// The member of an object that nothing follows, or a comma does.
fn string(writer: &mut format::Writer<'_>, name: &str, value: &str) -> fmt::Result {
    for part in ["\"", name, "\":"] {
        writer.write_str(part)?;
    }
    quoted(writer, |text| text.write_str(value))
}

/// A string of JSON, of what `write` writes.
fn quoted<'a>(
    writer: &mut format::Writer<'a>,
    write: impl FnOnce(&mut Escaped<'_, 'a>) -> fmt::Result,
) -> fmt::Result {
    writer.write_char('"')?;
    write(&mut Escaped(writer))?;
    writer.write_char('"')
}

/// What stands within a string of JSON. (serde_json escapes only what it is given whole.)
struct Escaped<'w, 'a>(&'w mut format::Writer<'a>);

impl fmt::Write for Escaped<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')) {
            let (plain, from) = rest.split_at(at);
            self.0.write_str(plain)?;
            let mut characters = from.chars();
            match characters.next() {
                Some('"') => self.0.write_str("\\\"")?,
                Some('\\') => self.0.write_str("\\\\")?,
                Some('\n') => self.0.write_str("\\n")?,
                Some(control) => write!(self.0, "\\u{:04x}", u32::from(control))?,
                None => {}
            }
            rest = characters.as_str();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::{Arc, Mutex, PoisonError};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Said {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What `say` says, a line each.
    fn said(say: impl FnOnce()) -> Vec<Value> {
        let said = Said::default();
        let writer = said.clone();
        let logs = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields)
            .event_format(Json)
            .finish();
        tracing::subscriber::with_default(logs, say);
        let text = said.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(text).unwrap_or_else(|error| panic!("{error}"));
        assert!(text.is_empty() || text.ends_with('\n'), "{text}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .map(|mut line: Value| {
                let time = line.as_object_mut().and_then(|line| line.remove("timestamp"));
                let time = time.as_ref().and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
                assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
                line
            })
            .collect()
    }

    #[test]
    fn a_line_holds_the_event_and_the_span_around_it() {
        let lines = said(|| {
            let span = tracing::info_span!("request", request_id = "a-1", method = %"GET", status = tracing::field::Empty);
            span.in_scope(|| {
                tracing::info!(status = 200_u16, ms = 1.25, is_new = true, left = -1, "answered")
            });
            span.record("status", 404);
            span.in_scope(|| tracing::warn!("again"));
            tracing::error!(at = Some("here"), nothing = None::<&str>, "alone");
        });
        let target = module_path!();
        let expected = [
            json!({ "level": "INFO", "message": "answered", "status": 200, "ms": 1.25, "is_new": true, "left": -1,
                    "target": target, "span": { "name": "request", "request_id": "a-1", "method": "GET" } }),
            json!({ "level": "WARN", "message": "again", "target": target,
                    "span": { "name": "request", "request_id": "a-1", "method": "GET", "status": 404 } }),
            json!({ "level": "ERROR", "message": "alone", "at": "here", "target": target }),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn whatever_is_said_stays_in_its_place() {
        let nasty = "\"}\n{\"level\":\"ERROR\"\\ \u{0}\u{1f}\r\t\u{7f} é \u{2028} 😀";
        let lines = said(|| {
            let span = tracing::info_span!("request", given = nasty);
            span.in_scope(|| tracing::info!(shown = %nasty, debugged = ?nasty, not = f64::NAN, "{nasty}"));
        });
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        for said in [&line["message"], &line["shown"], &line["span"]["given"]] {
            assert_eq!(said, nasty);
        }
        assert_eq!(line["debugged"], format!("{nasty:?}"));
        assert_eq!(line["not"], Value::Null);
        assert_eq!(line["level"], "INFO");
    }
}
