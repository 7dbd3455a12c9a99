//! The texts that people read: mails, SMS and pages, through [minijinja].
//!
//! The built-in templates are part of the binary; a file of the same name in the operator's folder takes a template's
//! place. Whatever is inserted into HTML is escaped, a name that does not exist is an error, and every template is
//! rendered once at the start, so that a broken one stops the start and not a mail.
//!
//! | name | inserted |
//! |---|---|
//! | `validation/subject.txt.j2`, `validation/body.txt.j2`, `validation/body.html.j2` | `app_name`, `to`, `link`, `code` (none, or where mails carry codes), `valid_for` |
//! | `validation/sms.txt.j2` | `app_name`, `to`, `code`, `link`, `valid_for`; it has to say `code` or `link` |
//! | `in_use/subject.txt.j2`, `in_use/body.txt.j2`, `in_use/body.html.j2`, `in_use/sms.txt.j2` | `app_name`, `to` |
//! | `confirm.html.j2` | `app_name`, `page_style`, `action`, `sid`, `token` |
//! | `code.html.j2` | `app_name`, `page_style`, `action`, `sid`, `code` (what was given), `is_again` (and was not right) |
//! | `confirmed.html.j2` | `app_name`, `page_style`, `medium` (`email` or `msisdn`) |
//! | `failed.html.j2`, `try_again.html.j2`, `page.html.j2` (their common frame) | `app_name`, `page_style` |
//!
//! [minijinja]: https://docs.rs/minijinja

mod overrides;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context};
use ring::digest::{SHA256, digest};
use threepid_domain::model::{Code, Medium};
use threepid_domain::ports::{
    InUseMail, InUseSms, MailText, Page, Templates, Unavailable, ValidationMail, ValidationSms,
};

/// The style of every page. The server's policy allows it by its hash, and no other.
pub const PAGE_STYLE: &str = include_str!("builtin/page.css");

/// The hash that allows [`PAGE_STYLE`] in a Content-Security-Policy, without the quotes around it: `sha256-…`.
pub fn page_style_csp_hash() -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, PAGE_STYLE.as_bytes())))
}

/// What an error calls this port.
const PORT: &str = "templates";

/// The templates of one mail: its subject, its text, its HTML.
type MailNames = [&'static str; 3];

const VALIDATION: MailNames =
    ["validation/subject.txt.j2", "validation/body.txt.j2", "validation/body.html.j2"];
const IN_USE: MailNames = ["in_use/subject.txt.j2", "in_use/body.txt.j2", "in_use/body.html.j2"];
const IN_USE_SMS: &str = "in_use/sms.txt.j2";
const SMS: &str = "validation/sms.txt.j2";
const FRAME: &str = "page.html.j2";
const CONFIRM: &str = "confirm.html.j2";
const ENTER_CODE: &str = "code.html.j2";
const CONFIRMED: &str = "confirmed.html.j2";
const FAILED: &str = "failed.html.j2";
const TRY_AGAIN: &str = "try_again.html.j2";

const BUILT_IN: [(&str, &str); 14] = [
    (VALIDATION[0], include_str!("builtin/validation/subject.txt.j2")),
    (VALIDATION[1], include_str!("builtin/validation/body.txt.j2")),
    (VALIDATION[2], include_str!("builtin/validation/body.html.j2")),
    (SMS, include_str!("builtin/validation/sms.txt.j2")),
    (IN_USE[0], include_str!("builtin/in_use/subject.txt.j2")),
    (IN_USE[1], include_str!("builtin/in_use/body.txt.j2")),
    (IN_USE[2], include_str!("builtin/in_use/body.html.j2")),
    (IN_USE_SMS, include_str!("builtin/in_use/sms.txt.j2")),
    (FRAME, include_str!("builtin/page.html.j2")),
    (CONFIRM, include_str!("builtin/confirm.html.j2")),
    (ENTER_CODE, include_str!("builtin/code.html.j2")),
    (CONFIRMED, include_str!("builtin/confirmed.html.j2")),
    (FAILED, include_str!("builtin/failed.html.j2")),
    (TRY_AGAIN, include_str!("builtin/try_again.html.j2")),
];

/// What the texts say, and where else they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSettings {
    /// The name that people know the service by, such as the server's name: one line, not empty.
    pub app_name: String,
    /// A folder with templates that take the place of the built-in ones. Default none.
    pub folder: Option<PathBuf>,
}

/// Templates that cannot be used. The text names the file, and the line where there is one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidTemplates {
    /// The name is empty or holds control characters.
    #[error("app_name must be one line of text")]
    AppName,
    /// The folder or a file in it cannot be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file in the folder takes no template's place.
    #[error("{} takes no template's place; the names are {names}", .path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Every name there is.
        names: String,
    },
    /// A template does not parse or does not render.
    #[error("{file}, line {line}: {reason}")]
    Broken {
        /// The file, or the name of a built-in template.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// [`Templates`] through minijinja.
pub struct MinijinjaTemplates(Environment<'static>);

impl MinijinjaTemplates {
    /// Reads and tries every template.
    ///
    /// # Errors
    /// [`InvalidTemplates`].
    pub fn new(settings: &TemplateSettings) -> Result<Self, InvalidTemplates> {
        let app_name = settings.app_name.trim();
        if app_name.is_empty() || app_name.contains(char::is_control) {
            return Err(InvalidTemplates::AppName);
        }
        let overrides = settings.folder.as_deref().map(overrides::read).transpose()?.unwrap_or_default();
        let broken = |error: RenderError| InvalidTemplates::Broken {
            file: overrides.get(error.name.as_str()).map_or(error.name, |o| o.path.display().to_string()),
            line: error.line,
            reason: error.reason,
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| {
            if name.ends_with(".html.j2") { AutoEscape::Html } else { AutoEscape::None }
        });
        environment.add_global("app_name", app_name);
        // Text inside a style element is not escaped in HTML; this text is ours.
        environment.add_global("page_style", Value::from_safe_string(PAGE_STYLE.to_owned()));
        for (name, built_in) in BUILT_IN {
            let source = overrides.get(name).map_or_else(|| built_in.to_owned(), |o| o.source.clone());
            environment.add_template_owned(name, source).map_err(|error| broken(error.into()))?;
        }
        let templates = Self(environment);
        templates.try_all().map_err(broken)?;
        Ok(templates)
    }

    fn try_all(&self) -> Result<(), RenderError> {
        let (link, code, minute) = ("https://example.org/", "012345", Duration::from_secs(60));
        for code in [None, Some(code)] {
            self.validation("alice@example.org", link, code, minute)?;
        }
        self.mail(IN_USE, context! { to => "alice@example.org" })?;
        self.in_use_text("447700900813")?;
        let sms = self.sms("447700900813", code, link, minute)?;
        if !sms.contains(code) && !sms.contains(link) {
            let reason = "the text has to say the code or the link".to_owned();
            return Err(RenderError { name: SMS.to_owned(), line: 1, reason });
        }
        let (action, sid, token) = (String::new(), String::new(), String::new());
        let enter = |is_again| Page::EnterCode {
            action: String::new(),
            sid: String::new(),
            code: String::new(),
            is_again,
        };
        let confirm = Page::Confirm { action, sid, token };
        let [mail, sms] = [Medium::Email, Medium::Msisdn].map(|medium| Page::Confirmed { medium });
        for page in [confirm, enter(false), enter(true), mail, sms, Page::Failed, Page::TryAgain] {
            self.render_page(page)?;
        }
        Ok(())
    }

    fn render(&self, name: &str, values: Value) -> Result<String, RenderError> {
        Ok(self.0.get_template(name)?.render(values)?)
    }

    fn validation(
        &self,
        to: &str,
        link: &str,
        code: Option<&str>,
        valid_for: Duration,
    ) -> Result<MailText, RenderError> {
        self.mail(VALIDATION, context! { to, link, code, valid_for => in_words(valid_for) })
    }

    fn mail(&self, [subject, text, html]: MailNames, values: Value) -> Result<MailText, RenderError> {
        let line = self.render(subject, values.clone())?.trim().to_owned();
        if line.is_empty() || line.contains(char::is_control) {
            let reason = "a subject must be one line of text".to_owned();
            return Err(RenderError { name: subject.to_owned(), line: 1, reason });
        }
        Ok(MailText {
            subject: line,
            text: self.render(text, values.clone())?,
            html: self.render(html, values)?,
        })
    }

    fn in_use_text(&self, to: &str) -> Result<String, RenderError> {
        let text = self.render(IN_USE_SMS, context! { to })?.trim().to_owned();
        if text.is_empty() {
            let reason = "the text must not be empty".to_owned();
            return Err(RenderError { name: IN_USE_SMS.to_owned(), line: 1, reason });
        }
        Ok(text)
    }

    fn sms(&self, to: &str, code: &str, link: &str, valid_for: Duration) -> Result<String, RenderError> {
        let text = self.render(SMS, context! { to, code, link, valid_for => in_words(valid_for) })?;
        Ok(text.trim().to_owned())
    }

    fn render_page(&self, page: Page) -> Result<String, RenderError> {
        match page {
            Page::Confirm { action, sid, token } => self.render(CONFIRM, context! { action, sid, token }),
            Page::EnterCode { action, sid, code, is_again } => {
                self.render(ENTER_CODE, context! { action, sid, code, is_again })
            }
            Page::Confirmed { medium } => self.render(CONFIRMED, context! { medium => medium.as_str() }),
            Page::Failed => self.render(FAILED, context! {}),
            Page::TryAgain => self.render(TRY_AGAIN, context! {}),
        }
    }
}

impl std::fmt::Debug for MinijinjaTemplates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MinijinjaTemplates")
    }
}

impl Templates for MinijinjaTemplates {
    fn validation_mail(&self, mail: ValidationMail) -> Result<MailText, Unavailable> {
        let code = mail.code.as_ref().map(Code::expose);
        let text = self.validation(mail.to.as_str(), &mail.link, code, mail.valid_for);
        text.map_err(|error| Unavailable::new(PORT, error))
    }

    fn validation_sms(&self, sms: ValidationSms) -> Result<String, Unavailable> {
        let text = self.sms(sms.to.as_str(), sms.code.expose(), &sms.link, sms.valid_for);
        text.map_err(|error| Unavailable::new(PORT, error))
    }

    fn in_use_mail(&self, mail: InUseMail) -> Result<MailText, Unavailable> {
        let text = self.mail(IN_USE, context! { to => mail.to.as_str() });
        text.map_err(|error| Unavailable::new(PORT, error))
    }

    fn in_use_sms(&self, sms: InUseSms) -> Result<String, Unavailable> {
        self.in_use_text(sms.to.as_str()).map_err(|error| Unavailable::new(PORT, error))
    }

    fn page(&self, page: Page) -> Result<String, Unavailable> {
        self.render_page(page).map_err(|error| Unavailable::new(PORT, error))
    }
}

/// What is wrong where, without what was inserted.
#[derive(Debug, thiserror::Error)]
#[error("{name}, line {line}: {reason}")]
struct RenderError {
    name: String,
    line: usize,
    reason: String,
}

impl From<minijinja::Error> for RenderError {
    fn from(error: minijinja::Error) -> Self {
        // An error inside a block or an included file is the cause of an error around it.
        let mut innermost = &error;
        while let Some(cause) = std::error::Error::source(innermost).and_then(|cause| cause.downcast_ref()) {
            innermost = cause;
        }
        let kind = innermost.kind();
        Self {
            name: innermost.name().unwrap_or("a template").to_owned(),
            line: innermost.line().unwrap_or(1),
            reason: innermost.detail().map_or_else(|| kind.to_string(), |detail| format!("{kind}: {detail}")),
        }
    }
}

/// A span as people say it, rounded down: nothing is promised that does not hold.
fn in_words(span: Duration) -> String {
    let seconds = span.as_secs();
    let (count, unit) = match seconds {
        0..60 => (seconds, "second"),
        _ if seconds.is_multiple_of(86_400) && seconds >= 2 * 86_400 => (seconds / 86_400, "day"),
        _ if seconds.is_multiple_of(3600) || seconds >= 6 * 3600 => (seconds / 3600, "hour"),
        _ => (seconds / 60, "minute"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests;
