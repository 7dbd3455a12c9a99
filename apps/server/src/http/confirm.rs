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
use super::error::{ApiError, set_retry_after};
use super::json::read_body;
use super::page::{page, redirect};

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
pub(crate) async fn submit(State(api): State<Api>, request: Request) -> Response {
    let form = match read_body(request, &api).await {
        Ok(form) => form,
        Err(error) => return page(&api, error.status(), Page::Failed),
    };
    let Some((sid, token)) = proof(&String::from_utf8_lossy(&form)) else {
        return page(&api, StatusCode::BAD_REQUEST, Page::Failed);
    };
    let submit = SubmitToken { sid: sid.clone(), token, door: Door::Link };
    match api.finish(|contacts| async move { contacts.submit_token(submit).await }).await {
        Ok(confirmed) => match confirmed.next_link {
            Some(link) => redirect(&api, &link.with_sid(&sid)),
            None => page(&api, StatusCode::OK, Page::Confirmed),
        },
        Err(error @ SubmitTokenError::Unavailable(_)) => try_again(&api, &error.into()),
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
