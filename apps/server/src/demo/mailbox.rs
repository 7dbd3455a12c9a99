//! The demo's mailbox: a page with every mail that was caught, newest first. It works without JavaScript.
//!
//! It shows tokens to whoever can reach it, so nothing but the demo mounts it, and the demo stays on loopback.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};

use super::MAILBOX;

/// A mail as a person reads it.
#[derive(Clone)]
pub(crate) struct Letter {
    /// To whom it went.
    pub(crate) to: String,
    /// Its subject.
    pub(crate) subject: String,
    /// Its plain text.
    pub(crate) text: String,
}

/// Tells every mail that was caught, oldest first.
pub(crate) type Caught = Arc<dyn Fn() -> Vec<Letter> + Send + Sync>;

const STYLE: &str = "/_demo/mailbox.css";
const POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page and its style, which begins with `page_style`, that of the server's own pages.
pub(crate) fn routes(caught: Caught, page_style: &str) -> Router {
    let style = format!("{page_style}\n{}", include_str!("mailbox.css"));
    Router::new()
        .route(MAILBOX, get(move || async move { show(&caught()) }))
        .route(STYLE, get(move || async move { ([(CONTENT_TYPE, "text/css; charset=utf-8")], style) }))
}

fn show(mails: &[Letter]) -> impl IntoResponse + use<> {
    let headers =
        [(CONTENT_SECURITY_POLICY, POLICY), (CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")];
    (headers, Html(page(mails)))
}

fn page(mails: &[Letter]) -> String {
    // An empty mailbox looks again by itself; one that is being read stays still.
    let (refresh, state) = match mails.len() {
        0 => (
            "<meta http-equiv=\"refresh\" content=\"2\">\n",
            "No mail yet. This page looks again by itself.".to_owned(),
        ),
        1 => ("", "One mail.".to_owned()),
        count => ("", format!("{count} mails, newest first.")),
    };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{refresh}\
         <title>Mailbox · threepid demo</title>\n<link rel=\"stylesheet\" href=\"{STYLE}\">\n</head>\n<body>\n\
         <header>threepid demo</header>\n<main>\n<h1>Mailbox</h1>\n\
         <p class=\"quiet\">{state} <a href=\"{MAILBOX}\">Look again</a></p>\n"
    );
    for mail in mails.iter().rev() {
        let (subject, to, text) = (escape(&mail.subject), escape(&mail.to), linked(&mail.text));
        let _ = write!(
            page,
            "<article>\n<h2>{subject}</h2>\n<p class=\"quiet\">To {to}</p>\n<pre>{text}</pre>\n</article>\n"
        );
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

/// Text as HTML, its http and https addresses as links.
fn linked(text: &str) -> String {
    let mut html = String::new();
    for word in text.split_inclusive(char::is_whitespace) {
        let bare = word.trim_end();
        if bare.starts_with("http://") || bare.starts_with("https://") {
            let (url, space) = (escape(bare), escape(word.strip_prefix(bare).unwrap_or_default()));
            let _ = write!(html, "<a href=\"{url}\" rel=\"noreferrer\">{url}</a>{space}");
        } else {
            html.push_str(&escape(word));
        }
    }
    html
}

/// Text as it may stand in HTML, between tags and in quoted attributes.
fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            c => html.push(c),
        }
    }
    html
}

/// The confirm links on the page, in its order, as a browser would follow them.
pub(super) fn confirm_links(page: &str) -> impl Iterator<Item = String> {
    let targets = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    targets.filter(|target| target.contains("/_threepid/confirm?")).map(|target| target.replace("&amp;", "&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail(subject: &str, text: &str) -> Letter {
        Letter { to: "alice@example.org".to_owned(), subject: subject.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn the_newest_mail_comes_first_and_its_link_can_be_followed() {
        let old = mail("first", "Go to\nhttp://x/_threepid/confirm?sid=1&token=a\n");
        let new = mail("second", "http://x/_threepid/confirm?sid=2&token=b");
        let page = page(&[old, new]);
        let links: Vec<_> = confirm_links(&page).collect();
        assert_eq!(
            links,
            ["http://x/_threepid/confirm?sid=2&token=b", "http://x/_threepid/confirm?sid=1&token=a"]
        );
        assert!(page.contains("2 mails"));
    }

    #[test]
    fn what_a_mail_says_cannot_break_out_of_the_page() {
        let page = page(&[mail("<script>", "http://x/\"><script>alert(1)</script> '&'")]);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(page.contains("href=\"http://x/&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""));
    }

    #[test]
    fn only_an_empty_mailbox_looks_again_by_itself() {
        assert!(page(&[]).contains("http-equiv=\"refresh\""));
        assert!(!page(&[mail("s", "t")]).contains("http-equiv"));
    }
}
