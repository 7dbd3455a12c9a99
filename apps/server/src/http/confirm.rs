//! `/_threepid/confirm`: where the link in the mail leads.
//!
//! Mail scanners open every link, so opening it changes nothing: GET and HEAD show a page with a form, and only the
//! form's POST validates. Every proof that fails gets the same page.

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
use super::openapi::{Field, Gives, Operation, SID, TOKEN, Takes};
use super::page::{page, redirect};

/// What a link and a form carry.
const PROOF: &[Field] = &[SID, TOKEN];

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

/// Asks whether it was meant.
pub(crate) async fn show(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let Some((sid, token)) = proof(query.as_deref().unwrap_or_default()) else {
        return page(&api, StatusCode::BAD_REQUEST, Page::Failed);
    };
    let action = api.links.action().to_owned();
    let confirm = Page::Confirm { action, sid: sid.as_str().to_owned(), token: token.expose().to_owned() };
    page(&api, StatusCode::OK, confirm)
}

/// Judges the token of the form.
pub(crate) async fn submit(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    request: Request,
) -> Response {
    let form = match read_body(request, &api).await {
        Ok(form) => form,
        Err(error) => return page(&api, error.status(), Page::Failed),
    };
    let Some((sid, token)) = proof(&String::from_utf8_lossy(&form)) else {
        return page(&api, StatusCode::BAD_REQUEST, Page::Failed);
    };
    let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link, client_ip };
    match api.finish(|contacts| async move { contacts.submit_token(submit).await }).await {
        Ok(confirmed) => match confirmed.next_link {
            Some(link) => redirect(&api, &link.with_sid(&sid)),
            None => page(&api, StatusCode::OK, Page::Confirmed),
        },
        Err(error @ (SubmitTokenError::Limited(_) | SubmitTokenError::Unavailable(_))) => {
            try_again(&api, &error.into())
        }
        Err(SubmitTokenError::Incorrect | SubmitTokenError::Expired) => {
            page(&api, StatusCode::BAD_REQUEST, Page::Failed)
        }
    }
}

fn try_again(api: &Api, error: &ApiError) -> Response {
    error.log();
    let mut response = page(api, error.status(), Page::TryAgain);
    set_retry_after(&mut response, error.retry_after());
    response
}

/// `sid` and `token` of a query or form; `None` where one is missing or no session can have it.
fn proof(pairs: &str) -> Option<(Sid, Token)> {
    let sid = query_value(pairs, "sid").map(Sid::new).filter(Sid::is_well_formed)?;
    let token = query_value(pairs, "token").filter(|token| !token.is_empty())?;
    Some((sid, Token::new(token)))
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
    use threepid_domain::use_cases::Opened;

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
