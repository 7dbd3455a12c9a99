//! `/_threepid/confirm`: where the link in the mail leads, and where a code can be entered.
//!
//! Mail scanners open every link, so opening it changes nothing: GET and HEAD show a page with a form, and only the
//! form's POST validates. Every proof that fails gets the same page.
//!
//! Where messages carry codes, the page without a `token` has a field for one. Whatever is wrong with a code gets that page
//! again, alike for every reason.

use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use http::StatusCode;
use threepid_domain::model::{Sid, Token};
use threepid_domain::ports::Page;
use threepid_domain::use_cases::{Door, SubmitToken, SubmitTokenError};

use super::Api;
use super::caller::query_value;
use super::client_ip::ClientIp;
use super::error::{ApiError, set_retry_after};
use super::json::read_body;
use super::openapi::{Field, Gives, Kind, Operation, SID, TOKEN, Takes};
use super::page::{page, redirect};

/// What a link and a form carry.
const PROOF: &[Field] = &[
    SID,
    TOKEN.or_none(),
    Field::optional("code", Kind::Text, "The code of the newest message, where messages carry codes.")
        .like("012345"),
];

/// What the document says about opening the link.
pub(crate) const SHOW: Operation = Operation {
    id: "showConfirmPage",
    summary: "The page that the link in a mail leads to; opening it changes nothing",
    takes: Takes::Query(PROOF),
    gives: Gives::Page,
    fails: &[(400, "")],
    ..Operation::BASE
};

/// What the document says about the page's form.
pub(crate) const SUBMIT: Operation = Operation {
    id: "confirm",
    summary: "The page's button: validates the session",
    takes: Takes::Form(PROOF),
    gives: Gives::PageOrRedirect,
    fails: &[(400, ""), (429, "")],
    ..Operation::BASE
};

/// Asks whether it was meant, or for the code.
pub(crate) async fn show(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let query = query.as_deref().unwrap_or_default();
    match Proof::read(query, api.contacts.sends_codes()) {
        Some(Proof { sid, by: By::Token(token) }) => {
            let action = api.links.action().to_owned();
            let confirm =
                Page::Confirm { action, sid: sid.as_str().to_owned(), token: token.expose().to_owned() };
            page(&api, StatusCode::OK, confirm)
        }
        Some(Proof { sid, by: By::Code(code) }) => enter_code(&api, StatusCode::OK, &sid, code),
        None => page(&api, StatusCode::BAD_REQUEST, Page::Failed),
    }
}

/// Judges the token or code of the form.
pub(crate) async fn submit(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    request: Request,
) -> Response {
    let form = match read_body(request, &api).await {
        Ok(form) => form,
        Err(error) => return page(&api, error.status(), Page::Failed),
    };
    let Some(Proof { sid, by }) = Proof::read(&String::from_utf8_lossy(&form), api.contacts.sends_codes())
    else {
        return page(&api, StatusCode::BAD_REQUEST, Page::Failed);
    };
    let token = match &by {
        By::Token(token) => token.clone(),
        // Nothing was entered, so nothing was guessed.
        By::Code(code) if code.trim().is_empty() => {
            return enter_code(&api, StatusCode::BAD_REQUEST, &sid, String::new());
        }
        By::Code(code) => Token::new(code.clone()),
    };
    let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip };
    match api.finish(|contacts| async move { contacts.submit_token(submit).await }).await {
        Ok(confirmed) => match confirmed.next_link {
            Some(link) => redirect(&api, &link.with_sid(&sid)),
            None => page(&api, StatusCode::OK, Page::Confirmed { medium: confirmed.medium }),
        },
        Err(error @ (SubmitTokenError::Limited(_) | SubmitTokenError::Unavailable(_))) => {
            try_again(&api, &error.into())
        }
        Err(SubmitTokenError::Incorrect | SubmitTokenError::Expired) => match by {
            By::Token(_) => page(&api, StatusCode::BAD_REQUEST, Page::Failed),
            By::Code(code) => enter_code(&api, StatusCode::BAD_REQUEST, &sid, code),
        },
    }
}

/// The page with the field for the code; one that is shown with an error says so.
fn enter_code(api: &Api, status: StatusCode, sid: &Sid, code: String) -> Response {
    let action = api.links.action().to_owned();
    let is_again = !status.is_success();
    page(api, status, Page::EnterCode { action, sid: sid.as_str().to_owned(), code, is_again })
}

fn try_again(api: &Api, error: &ApiError) -> Response {
    error.log();
    let mut response = page(api, error.status(), Page::TryAgain);
    set_retry_after(&mut response, error.retry_after());
    response
}

/// What a query or form would prove a session by.
struct Proof {
    sid: Sid,
    by: By,
}

/// A token, or without one a code, which may not have been entered yet.
enum By {
    Token(Token),
    Code(String),
}

impl Proof {
    /// `None` where something is missing, or no session can have it; a code is read only where messages carry codes.
    fn read(pairs: &str, sends_codes: bool) -> Option<Self> {
        let sid = query_value(pairs, "sid").map(Sid::new).filter(Sid::is_well_formed)?;
        let token = query_value(pairs, "token").filter(|token| !token.is_empty());
        let by = match token {
            Some(token) => By::Token(Token::new(token)),
            None if sends_codes => By::Code(query_value(pairs, "code").unwrap_or_default()),
            None => return None,
        };
        Some(Self { sid, by })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "what a test stands on fails it")]

    use std::sync::Arc;
    use std::time::Duration;

    use http::Method;
    use threepid_domain::model::{Generation, NextLink, SessionState, Sid, Token};
    use threepid_domain::ports::{MockTemplates, Secrets, Unavailable};
    use threepid_domain::testing::Fixture;
    use threepid_domain::use_cases::{Opened, Policy};

    use crate::HttpSettings;
    use crate::http::testing::{Answer, CONFIRM, Server, error, request};

    fn pairs(sid: &Sid, token: &Token) -> String {
        format!("sid={}&token={}", sid.as_str(), token.expose())
    }

    fn is_pending(server: &Server) -> bool {
        let state = |session: &threepid_domain::model::ValidationSession| session.record().state.clone();
        server
            .store
            .sessions()
            .iter()
            .map(state)
            .all(|state| state == SessionState::Pending { wrong_tokens: 0 })
    }

    /// Everything that a page owes its reader.
    fn assert_guarded(answer: &Answer) {
        assert_eq!(answer.header("content-type"), "text/html; charset=utf-8");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
        ] {
            assert_eq!(answer.header(name), value, "{name}");
        }
        let policy = answer.header("content-security-policy");
        for directive in
            ["default-src 'none'", "base-uri 'none'", "frame-ancestors 'none'", "style-src 'none'"]
        {
            assert!(policy.contains(directive), "{policy}");
        }
    }

    #[tokio::test]
    async fn opening_the_link_shows_a_form_and_changes_nothing() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        let link = format!("{CONFIRM}?{}", pairs(&sid, &token));
        let answer = server.get(&link, "").await;
        assert_eq!(answer.status.as_u16(), 200);
        assert_guarded(&answer);
        for part in ["action=\"https://contacts.example/_threepid/confirm\"", sid.as_str(), token.expose()] {
            assert!(answer.text.contains(part), "{part}: {}", answer.text);
        }
        let head = server.send(request(Method::HEAD, &link, "", "".into())).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
        assert!(is_pending(&server));
        let wrong = format!("{CONFIRM}?{}", pairs(&sid, &Token::new("wrong")));
        server.get(&wrong, "").await;
        assert!(is_pending(&server), "opening a wrong link counts nothing either");
    }

    #[tokio::test]
    async fn posting_the_form_validates_and_says_so_again() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        for _ in 0..2 {
            let answer = server.post(CONFIRM, "", pairs(&sid, &token)).await;
            assert_eq!(answer.status.as_u16(), 200);
            assert_guarded(&answer);
            assert!(answer.text.contains("Confirmed"), "{}", answer.text);
            assert!(answer.header("content-security-policy").contains("form-action 'none'"));
        }
        let query_only = format!("{CONFIRM}?{}", pairs(&sid, &token));
        assert_eq!(
            server.post(&query_only, "", "").await.status.as_u16(),
            400,
            "the proof comes in the form"
        );
    }

    #[tokio::test]
    async fn a_next_link_is_where_the_browser_goes_with_the_sid_in_its_query() {
        let server = Server::new();
        let mut asked = Fixture::request_for("a@example.org", "secret", 1);
        asked.next_link = NextLink::parse("https://app.example/x?a=b#/done").ok();
        let opened = server.app.api.contacts.request_email_token(asked).await;
        let Ok(Opened { sid, .. }) = opened else { panic!("no session") };
        let token = server.secrets.token(&sid, Generation(1));
        let page = server.get(&format!("{CONFIRM}?{}", pairs(&sid, &token)), "").await;
        let policy = page.header("content-security-policy");
        assert!(policy.contains("form-action 'self' https: http:"), "Chromium blocks the redirect: {policy}");
        let answer = server.post(CONFIRM, "", pairs(&sid, &token)).await;
        assert_eq!(answer.status.as_u16(), 303);
        assert_eq!(
            answer.header("location"),
            format!("https://app.example/x?a=b&sid={}#/done", sid.as_str())
        );
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cache-control"), "no-store");
    }

    #[tokio::test]
    async fn every_proof_that_fails_gets_the_same_page() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        let (expired, expired_token) = server.pending("b@example.org", "secret").await;
        let mut pages = Vec::new();
        for form in [
            pairs(&sid, &Token::new("wrong")),
            pairs(&Sid::new("unknown"), &token),
            pairs(&Sid::new("a%20b"), &token),
            format!("sid={}", sid.as_str()),
            format!("token={}", token.expose()),
            String::new(),
            "\u{fffd}=%ff&&==".to_owned(),
            r#"{"sid":"x","token":"y"}"#.to_owned(),
        ] {
            let answer = server.post(CONFIRM, "", form.clone()).await;
            assert_eq!(answer.status.as_u16(), 400, "{form}");
            assert_guarded(&answer);
            pages.push(answer.text);
        }
        for query in ["", "?sid=a", "?token=b", "?sid=&token=b", "?sid=a&token=", "?sid=a%2fb&token=c"] {
            let answer = server.get(&format!("{CONFIRM}{query}"), "").await;
            assert_eq!(answer.status.as_u16(), 400, "{query}");
            pages.push(answer.text);
        }
        server.clock.advance(Duration::from_secs(60 * 60));
        pages.push(server.post(CONFIRM, "", pairs(&expired, &expired_token)).await.text);
        pages.dedup();
        assert_eq!(pages.len(), 1, "{pages:?}");
    }

    /// A server whose mails carry codes.
    fn with_codes() -> Server {
        Server::built(|builder| builder.policy(Policy { mails_code: true, ..Policy::default() }))
    }

    #[tokio::test]
    async fn without_a_token_the_page_asks_for_the_code_and_changes_nothing() {
        let server = with_codes();
        let (sid, _) = server.pending("a@example.org", "secret").await;
        for query in ["", "&token=", "&code=", "&code=12%2034%22"] {
            let answer = server.get(&format!("{CONFIRM}?sid={}{query}", sid.as_str()), "").await;
            assert_eq!(answer.status.as_u16(), 200, "{query}");
            assert_guarded(&answer);
            for part in
                ["action=\"https://contacts.example/_threepid/confirm\"", sid.as_str(), "name=\"code\""]
            {
                assert!(answer.text.contains(part), "{part}: {}", answer.text);
            }
            assert!(answer.header("content-security-policy").contains("form-action 'self'"));
        }
        assert!(is_pending(&server));
        let unknown = server.get(&format!("{CONFIRM}?sid=unknown"), "").await;
        assert_eq!(unknown.status.as_u16(), 200, "whether there is such a session is not told");
        for query in ["", "?code=123456", "?sid=&code=123456", "?sid=a%2fb&code=123456"] {
            assert_eq!(server.get(&format!("{CONFIRM}{query}"), "").await.status.as_u16(), 400, "{query}");
        }
    }

    #[tokio::test]
    async fn posting_the_code_validates_and_says_so_again() {
        let server = with_codes();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        let code = server.secrets_code(sid.as_str(), 1);
        for form in [format!("sid={}&code=+{}+{}", sid.as_str(), &code[..3], &code[3..]), pairs(&sid, &token)]
        {
            for _ in 0..2 {
                let answer = server.post(CONFIRM, "", form.clone()).await;
                assert_eq!(answer.status.as_u16(), 200, "{form}");
                assert!(answer.text.contains("Confirmed"), "{}", answer.text);
            }
        }
    }

    #[tokio::test]
    async fn every_code_that_fails_gets_the_same_page_and_an_empty_field_is_no_guess() {
        let server = with_codes();
        let (sid, _) = server.pending("a@example.org", "secret").await;
        for form in [format!("sid={}", sid.as_str()), format!("sid={}&code=++", sid.as_str())] {
            assert_eq!(server.post(CONFIRM, "", form).await.status.as_u16(), 400);
        }
        assert!(is_pending(&server));
        let right = server.secrets_code(sid.as_str(), 1);
        let wrong = if right == "000000" { "000001" } else { "000000" };
        let page_of = async |sid: &str, code: &str| {
            let answer = server.post(CONFIRM, "", format!("sid={sid}&code={code}")).await;
            assert_eq!(answer.status.as_u16(), 400, "{sid} {code}");
            assert_guarded(&answer);
            answer.text.replace(sid, "SID").replace(code, "CODE")
        };
        let mut pages = vec![page_of("unknown", wrong).await];
        for code in [wrong, "1", "12345678", "abcdef", wrong] {
            pages.push(page_of(sid.as_str(), code).await);
        }
        // Burnt by now.
        pages.push(page_of(sid.as_str(), &right).await);
        pages.dedup();
        assert_eq!(pages.len(), 1, "{pages:?}");
        assert!(pages[0].contains("Not right") && pages[0].contains("name=\"code\""), "{pages:?}");
    }

    #[tokio::test]
    async fn where_no_message_carries_a_code_the_page_has_no_field_for_one() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        let link = format!("{CONFIRM}?sid={}", sid.as_str());
        assert_eq!(server.get(&format!("{link}&code=123456"), "").await.status.as_u16(), 400);
        assert_eq!(server.get(&link, "").await.status.as_u16(), 400);
        let form = format!("sid={}&code={}", sid.as_str(), server.secrets_code(sid.as_str(), 1));
        assert_eq!(server.post(CONFIRM, "", form).await.status.as_u16(), 400);
        assert!(is_pending(&server));
        assert_eq!(server.post(CONFIRM, "", pairs(&sid, &token)).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn a_form_over_the_limit_is_too_large() {
        let answer = Server::new().post(CONFIRM, "", "x".repeat(65_537)).await;
        assert_eq!(answer.status.as_u16(), 413);
        assert_guarded(&answer);
    }

    #[tokio::test]
    async fn during_an_outage_the_page_asks_to_try_again_and_the_token_stays_good() {
        let server = Server::new();
        let (sid, token) = server.pending("a@example.org", "secret").await;
        server.store.set_available(false);
        let answer = server.post(CONFIRM, "", pairs(&sid, &token)).await;
        assert_eq!(answer.status.as_u16(), 503);
        assert_guarded(&answer);
        assert_eq!(answer.header("retry-after"), "5");
        assert!(answer.text.contains("Try again"), "{}", answer.text);
        server.store.set_available(true);
        assert_eq!(server.post(CONFIRM, "", pairs(&sid, &token)).await.status.as_u16(), 200);
    }

    #[tokio::test]
    async fn the_pages_own_style_is_let_through_by_its_hash() {
        let http =
            HttpSettings { page_style_csp_hash: Some("sha256-abc=".to_owned()), ..HttpSettings::default() };
        let server = Server::built(|builder| builder.http(http));
        let answer = server.get(CONFIRM, "").await;
        assert!(answer.header("content-security-policy").contains("style-src 'sha256-abc=';"));
    }

    #[tokio::test]
    async fn a_broken_template_is_an_outage_and_no_blank_page() {
        let mut templates = MockTemplates::new();
        templates.expect_page().returning(|_| Err(Unavailable::new("templates", "line 3: unexpected end")));
        let server = Server::built(|builder| builder.templates(Arc::new(templates)));
        let answer = server.get(CONFIRM, "").await;
        assert_eq!(answer.error(), error(503, "M_UNKNOWN"));
        assert!(!answer.text.contains("line 3"));
    }
}
