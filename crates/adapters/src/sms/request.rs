//! What the gateway is asked, written by the operator's templates.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderName;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use threepid_domain::ports::Sms;
use url::Url;

use super::{HttpSmsSettings, InvalidHttpSms, SmsMethod};

/// What a request says about itself; these are not the operator's.
const OURS: [&str; 8] =
    ["connection", "content-length", "expect", "host", "te", "trailer", "transfer-encoding", "upgrade"];

/// A request as it will be sent. Its `Debug` hides everything but the method.
#[derive(Clone, PartialEq, Eq)]
pub struct SmsRequest {
    /// The method.
    pub method: SmsMethod,
    /// The URL.
    pub url: String,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body, empty for none.
    pub body: String,
}

impl fmt::Debug for SmsRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SmsRequest").field("method", &self.method).finish_non_exhaustive()
    }
}

/// Writes requests.
pub(super) struct Writer {
    environment: Environment<'static>,
    method: SmsMethod,
    headers: Vec<HeaderName>,
    authorization: Option<String>,
    has_body: bool,
    secret: Option<String>,
    is_clear_text: bool,
}

/// What is inserted.
struct Inserted<'a> {
    to: &'a str,
    text: &'a str,
    id: &'a str,
}

/// The name of a header's template.
fn header_template(at: usize) -> String {
    format!("header {at}")
}

impl Writer {
    /// Reads every template and tries it.
    pub(super) fn new(settings: &HttpSmsSettings) -> Result<Self, InvalidHttpSms> {
        let wrong = InvalidHttpSms::new;
        if settings.method == SmsMethod::Get && settings.body.is_some() {
            return Err(wrong("body", "cannot be sent with the method GET"));
        }
        let headers = header_names(settings)?;
        let has_type = headers.contains(&hyper::header::CONTENT_TYPE);
        if settings.body.is_some() && !has_type {
            return Err(wrong(
                "headers",
                "must say what the body is, such as { Content-Type = \"application/json\" }",
            ));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.add_filter("tojson", tojson);
        environment.add_filter("urlencode", |text: String| urlencode(&text));
        let mut add = |setting: &'static str, name: String, source: &str| {
            environment.add_template_owned(name, source.to_owned()).map_err(|error| broken(setting, &error))
        };
        add("url", "url".to_owned(), &settings.url)?;
        for (at, (_, value)) in settings.headers.iter().enumerate() {
            add("headers", header_template(at), value)?;
        }
        if let Some(body) = &settings.body {
            add("body", "body".to_owned(), body)?;
        }
        if settings.credentials.as_ref().is_some_and(|(user, _)| user.contains(':')) {
            // The gateway would read the rest of it as the password's beginning.
            return Err(wrong("user", "must not hold a colon"));
        }
        let authorization = settings
            .credentials
            .as_ref()
            .map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        let mut writer = Self {
            environment,
            method: settings.method,
            headers,
            authorization,
            has_body: settings.body.is_some(),
            secret: settings.secret.clone(),
            is_clear_text: false,
        };
        writer.is_clear_text = trial::try_all(&writer)?;
        Ok(writer)
    }

    /// Whether the gateway is asked without TLS.
    pub(super) fn is_clear_text(&self) -> bool {
        self.is_clear_text
    }

    pub(super) fn write(&self, sms: &Sms) -> Result<SmsRequest, InvalidHttpSms> {
        self.insert(&Inserted { to: sms.to.as_str(), text: &sms.text, id: sms.id.as_str() })
    }

    fn insert(&self, inserted: &Inserted<'_>) -> Result<SmsRequest, InvalidHttpSms> {
        let &Inserted { to, text, id } = inserted;
        let to_plus = format!("+{to}");
        let values = match self.secret.as_deref() {
            Some(secret) => context! { to, to_plus, text, id, secret },
            None => context! { to, to_plus, text, id },
        };
        let url = self.render("url", "url", &values)?;
        let url = gateway_url(url.trim())?;
        let mut headers = Vec::new();
        for (at, name) in self.headers.iter().enumerate() {
            let value = self.render("headers", &header_template(at), &values)?;
            // No line break gets through here, and so no header of somebody else's.
            if !value.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
                let reason = format!(
                    "the value of {name} has a character that no header may have; write {{{{ text | urlencode }}}}"
                );
                return Err(InvalidHttpSms::new("headers", reason));
            }
            headers.push((name.as_str().to_owned(), value));
        }
        if let Some(authorization) = &self.authorization {
            headers.push(("authorization".to_owned(), authorization.clone()));
        }
        for (name, value) in
            [("accept", "*/*"), ("user-agent", concat!("threepid/", env!("CARGO_PKG_VERSION")))]
        {
            if headers.iter().all(|(given, _)| given != name) {
                headers.push((name.to_owned(), value.to_owned()));
            }
        }
        let body = if self.has_body { self.render("body", "body", &values)? } else { String::new() };
        Ok(SmsRequest { method: self.method, url: url.into(), headers, body })
    }

    fn render(&self, setting: &'static str, name: &str, values: &Value) -> Result<String, InvalidHttpSms> {
        let rendered = self.environment.get_template(name).and_then(|template| template.render(values));
        rendered.map_err(|error| broken(setting, &error))
    }
}

fn header_names(settings: &HttpSmsSettings) -> Result<Vec<HeaderName>, InvalidHttpSms> {
    let mut names: Vec<HeaderName> = Vec::new();
    for (text, _) in &settings.headers {
        let wrong = |what: &str| Err(InvalidHttpSms::new("headers", format!("{text:?} {what}")));
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            return wrong("is not the name of a header");
        };
        if OURS.contains(&name.as_str()) {
            return wrong("is written by this server");
        }
        if names.contains(&name) {
            return wrong("is there twice");
        }
        if settings.credentials.is_some() && name == hyper::header::AUTHORIZATION {
            return wrong("is written from user and password; keep one of them");
        }
        names.push(name);
    }
    Ok(names)
}

fn gateway_url(text: &str) -> Result<Url, InvalidHttpSms> {
    let is_plain = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none()
    };
    Url::parse(text).ok().filter(is_plain).ok_or_else(|| {
        InvalidHttpSms::new("url", "must be an http or https address without user and fragment")
    })
}

/// What is wrong with a template. Its detail is not told: it may quote what stands beside, such as a key.
fn broken(setting: &'static str, error: &minijinja::Error) -> InvalidHttpSms {
    let line = error.line().unwrap_or(1);
    let hint = match error.kind() {
        minijinja::ErrorKind::UndefinedError => {
            " (there are to, to_plus, text, id, and secret where it is set)"
        }
        minijinja::ErrorKind::UnknownFilter => " (there are tojson, urlencode, and those of minijinja)",
        _ => "",
    };
    InvalidHttpSms::new(setting, format!("line {line} of the template: {}{hint}", error.kind()))
}

/// A JSON string, with its quotes.
fn tojson(text: String) -> Result<String, minijinja::Error> {
    serde_json::to_string(&text)
        .map_err(|_| minijinja::Error::new(minijinja::ErrorKind::BadSerialization, "not a text"))
}

/// Fit for a form and for any part of a URL: nothing but the unreserved characters stays as it is.
pub(super) fn urlencode(text: &str) -> String {
    use std::fmt::Write as _;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Whether what is inserted comes out whole at the other end, whatever it is.
mod trial {
    use url::form_urlencoded;

    use super::{Inserted, InvalidHttpSms, SmsRequest, Url, Writer, gateway_url, urlencode};

    const NUMBER: &str = "447700900000";
    const OTHER_NUMBER: &str = "15005550006";
    /// Nothing in it has a meaning anywhere.
    const PLAIN: &str = "sample0text";
    /// Everything in it has a meaning somewhere.
    const MEANINGFUL: &str = "a\"b'c\\d&e=f+g %41#h?i/j;k<l>\r\nm\u{e9}\u{1f980}{{ n }}, \"o\": [";
    const ID: &str = "sample0id";

    /// Writes some requests and reads them as the gateway would; whether they go in clear text.
    pub(super) fn try_all(writer: &Writer) -> Result<bool, InvalidHttpSms> {
        let plain = writer.insert(&Inserted { to: NUMBER, text: PLAIN, id: ID })?;
        let meaningful = writer.insert(&Inserted { to: NUMBER, text: MEANINGFUL, id: ID });
        // With a plain text it was a URL.
        let meaningful =
            meaningful.map_err(|error| if error.setting == "url" { not_whole("url") } else { error })?;
        let other = writer.insert(&Inserted { to: OTHER_NUMBER, text: PLAIN, id: ID })?;
        let (url, other) = (gateway_url(&plain.url)?, gateway_url(&other.url)?);
        if url.origin() != other.origin() {
            return Err(InvalidHttpSms::new("url", "must lead to one server, whatever the number"));
        }
        url_is_whole(&url, &gateway_url(&meaningful.url)?)?;
        body_is_whole(&plain, &meaningful)?;
        for (what, name) in [(PLAIN, "text"), (NUMBER, "to")] {
            let is_said = plain.url.contains(what)
                || plain.body.contains(what)
                || plain.headers.iter().any(|(_, value)| value.contains(what));
            if !is_said {
                let setting = if writer.has_body { "body" } else { "url" };
                return Err(InvalidHttpSms::new(
                    setting,
                    format!("nothing of the request says {{{{ {name} }}}}"),
                ));
            }
        }
        Ok(url.scheme() == "http")
    }

    fn not_whole(setting: &'static str) -> InvalidHttpSms {
        InvalidHttpSms::new(setting, "does not carry every text whole: write {{ text | urlencode }}")
    }

    fn url_is_whole(plain: &Url, meaningful: &Url) -> Result<(), InvalidHttpSms> {
        let path = plain.path().replace(PLAIN, &urlencode(MEANINGFUL));
        let same = plain.origin() == meaningful.origin() && path == meaningful.path();
        let query = |url: &Url| pairs(url.query().unwrap_or_default());
        pairs_are_whole("url", &query(plain), &query(meaningful), same)
    }

    fn body_is_whole(plain: &SmsRequest, meaningful: &SmsRequest) -> Result<(), InvalidHttpSms> {
        let content_type = plain.headers.iter().find(|(name, _)| name == "content-type");
        let content_type = content_type.map(|(_, value)| value.as_str()).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            _ if plain.body.is_empty() => Ok(()),
            "application/x-www-form-urlencoded" => {
                pairs_are_whole("body", &pairs(&plain.body), &pairs(&meaningful.body), true)
            }
            json if json == "application/json" || json.ends_with("+json") => {
                json_is_whole(&plain.body, &meaningful.body)
            }
            xml if xml == "text/xml" || xml == "application/xml" || xml.ends_with("+xml") => {
                xml_is_whole(&meaningful.body)
            }
            _ => Ok(()),
        }
    }

    /// No sign of the text's may be one of the body's.
    fn xml_is_whole(meaningful: &str) -> Result<(), InvalidHttpSms> {
        if ["k<l>", "d&e="].iter().any(|raw| meaningful.contains(raw)) {
            return Err(InvalidHttpSms::new(
                "body",
                "does not carry every text whole: write {{ text | escape }}",
            ));
        }
        Ok(())
    }

    fn json_is_whole(plain: &str, meaningful: &str) -> Result<(), InvalidHttpSms> {
        let expected: serde_json::Value = serde_json::from_str(plain).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            InvalidHttpSms::new(
                "body",
                format!("is not JSON once it is filled in: line {line}, column {column}"),
            )
        })?;
        let read: Option<serde_json::Value> = serde_json::from_str(meaningful).ok();
        if read == Some(filled(expected)) {
            return Ok(());
        }
        Err(InvalidHttpSms::new(
            "body",
            "does not carry every text whole: write {{ text | tojson }}, without quotes around it",
        ))
    }

    fn filled(value: serde_json::Value) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(text) => Value::String(text.replace(PLAIN, MEANINGFUL)),
            Value::Array(items) => items.into_iter().map(filled).collect(),
            Value::Object(members) => {
                members.into_iter().map(|(name, value)| (name, filled(value))).collect()
            }
            other => other,
        }
    }

    type Pairs = Vec<(String, String)>;

    fn pairs(text: &str) -> Pairs {
        form_urlencoded::parse(text.as_bytes()).into_owned().collect()
    }

    fn pairs_are_whole(
        setting: &'static str,
        plain: &Pairs,
        meaningful: &Pairs,
        rest_is_whole: bool,
    ) -> Result<(), InvalidHttpSms> {
        let filled: Pairs =
            plain.iter().map(|(name, value)| (name.clone(), value.replace(PLAIN, MEANINGFUL))).collect();
        if !rest_is_whole || filled != *meaningful {
            return Err(not_whole(setting));
        }
        // A plus that nobody escaped is read as a space.
        let eaten = format!(" {NUMBER}");
        if plain.iter().any(|(_, value)| value.contains(&eaten)) {
            return Err(InvalidHttpSms::new(setting, "loses the plus: write {{ to_plus | urlencode }}"));
        }
        Ok(())
    }
}
