//! Texts as short as they can be.

use crate::ports::{
    InUseMail, InUseSms, MailText, Page, Templates, Unavailable, ValidationMail, ValidationSms,
};

/// A mail that is its link and, on a second line, its code; an SMS that is its code; messages without
/// either that say so; and pages of one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainTemplates;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Templates for PlainTemplates {
    fn validation_mail(&self, mail: ValidationMail) -> Result<MailText, Unavailable> {
        let ValidationMail { link, code, .. } = mail;
        let code = code.map(|code| format!("{}\n", code.expose())).unwrap_or_default();
        Ok(MailText {
            subject: "Confirm your email address".to_owned(),
            html: format!("<p><a href=\"{0}\">{0}</a></p>{code}", escape(&link)),
            text: format!("{link}\n{code}"),
        })
    }

    fn validation_sms(&self, sms: ValidationSms) -> Result<String, Unavailable> {
        Ok(sms.code.expose().to_owned())
    }

    fn in_use_mail(&self, _: InUseMail) -> Result<MailText, Unavailable> {
        Ok(MailText {
            subject: "Your email address".to_owned(),
            html: "<p>It is in use</p>".to_owned(),
            text: "It is in use\n".to_owned(),
        })
    }

    fn in_use_sms(&self, _: InUseSms) -> Result<String, Unavailable> {
        Ok("It is in use".to_owned())
    }

    fn page(&self, page: Page) -> Result<String, Unavailable> {
        let body = match page {
            Page::Confirm { action, sid, token } => format!(
                "<form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"sid\" value=\"{}\">\
                 <input type=\"hidden\" name=\"token\" value=\"{}\"><button>Confirm</button></form>",
                escape(&action),
                escape(&sid),
                escape(&token)
            ),
            Page::EnterCode { action, sid, code, is_again } => format!(
                "{}<form method=\"post\" action=\"{}\"><input type=\"hidden\" name=\"sid\" value=\"{}\">\
                 <input name=\"code\" value=\"{}\"><button>Confirm</button></form>",
                if is_again { "<p>Not right</p>" } else { "" },
                escape(&action),
                escape(&sid),
                escape(&code)
            ),
            Page::Confirmed { .. } => "<p>Confirmed</p>".to_owned(),
            Page::Failed => "<p>Failed</p>".to_owned(),
            Page::TryAgain => "<p>Try again</p>".to_owned(),
        };
        Ok(format!("<!doctype html><html lang=\"en\"><title>Email address</title>{body}</html>\n"))
    }
}
