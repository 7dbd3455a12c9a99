//! The OpenAPI 3.1 document of the API, made from the list that the router is made from.
//!
//! It is served at `/_threepid/openapi.json` and checked in as `docs/openapi.json`.

mod fields;
mod operation;
mod schema;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

pub(crate) use fields::*;
pub(crate) use operation::{AskedBy, Field, Gives, Kind, Need, Operation, Takes};

use super::error::json_text;
use super::routes::{Route, VERSION, routes};

/// `GET /_threepid/openapi.json`.
pub(crate) const OPERATION: Operation = Operation {
    id: "getOpenApi",
    summary: "This document",
    gives: Gives::Json(&[Field::required("openapi", Kind::Text, "The version of OpenAPI.").like("3.1.0")]),
    ..Operation::BASE
};

/// Serves the document.
pub(crate) async fn handle() -> Response {
    json_text(StatusCode::OK, DOCUMENT.as_str())
}

/// The document in writing, as `docs/openapi.json` holds it.
pub(crate) static DOCUMENT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The document.
pub(crate) fn document() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for route in routes() {
        let path = paths.entry(route.path.clone()).or_default();
        path.insert(route.method.as_str().to_ascii_lowercase(), described(&route));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "threepid",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The Account Administrative Contact API of Matrix, beside any homeserver",
            "description": "Every answer carries `X-Request-Id` and the CORS headers of the specification, and \
                every path answers OPTIONS with 204. An error is a JSON object with `errcode` and `error`.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        // Seen from where the document is served, also below a path of its own.
        "servers": [{ "url": ".." }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "accessToken": { "type": "http", "scheme": "bearer" },
                "accessTokenInQuery": {
                    "type": "apiKey", "in": "query", "name": "access_token", "description":
                        "For older clients; the header wins.",
                },
            },
            "schemas": schema::shared(),
            "responses": {
                "PassedOn": {
                    "description": "The refusal of another server (the homeserver, or an identity server), with its status.",
                    "content": schema::content(&["application/json"], &json!({ "$ref": "#/components/schemas/Error" })),
                },
            },
        },
    })
}

fn described(route: &Route) -> Value {
    let operation = route.operation;
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "responses": responses(route),
    });
    if !operation.about.is_empty() {
        described["description"] = operation.about.into();
    }
    if operation.deprecated {
        described["deprecated"] = true.into();
    }
    if let Some(anchor) = operation.specification {
        let url = format!("https://spec.matrix.org/v1.18/client-server-api/#{anchor}");
        described["externalDocs"] = json!({ "url": url });
    }
    if operation.asked_by != AskedBy::Anybody {
        described["security"] = json!([{ "accessToken": [] }, { "accessTokenInQuery": [] }]);
    }
    let parameters = parameters(route);
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    let body = match operation.takes {
        Takes::Json(fields) => Some(("application/json", fields)),
        Takes::Form(fields) => Some(("application/x-www-form-urlencoded", fields)),
        Takes::Nothing | Takes::Query(_) => None,
    };
    if let Some((content_type, fields)) = body {
        let schema = schema::object(fields, schema::Direction::Sent);
        described["requestBody"] =
            json!({ "required": true, "content": schema::content(&[content_type], &schema) });
    }
    described
}

fn parameters(route: &Route) -> Vec<Value> {
    let mut parameters = Vec::new();
    if !route.versions.is_empty() {
        parameters.push(json!({
            "name": VERSION, "in": "path", "required": true,
            "description": "The API's generation; all do the same.",
            "schema": { "type": "string", "enum": route.versions },
        }));
    }
    if let Takes::Query(fields) = route.operation.takes {
        parameters.extend(fields.iter().map(|field| {
            json!({
                "name": field.name, "in": "query", "required": field.need == Need::Required,
                "description": field.about, "schema": schema::of(field, schema::Direction::Given),
            })
        }));
    }
    if route.operation.asked_by != AskedBy::Anybody {
        parameters.push(json!({
            "name": "user_id", "in": "query", "required": false,
            "description": "For whom an application service asks.",
            "schema": { "type": "string", "pattern": r"^@[^:\s\x00-\x1f\x7f-\x9f]*:[^\s\x00-\x1f\x7f-\x9f]+$", "maxLength": 255 },
        }));
    }
    parameters
}

fn responses(route: &Route) -> Map<String, Value> {
    let operation = route.operation;
    let mut responses = Map::new();
    let is_page = match operation.gives {
        Gives::Json(fields) => {
            let schema = schema::object(fields, schema::Direction::Given);
            let content = schema::content(&["application/json"], &schema);
            responses.insert("200".to_owned(), json!({ "description": "Done.", "content": content }));
            false
        }
        Gives::Page | Gives::PageOrRedirect => {
            let content = schema::content(&["text/html"], &json!({ "type": "string" }));
            responses.insert("200".to_owned(), json!({ "description": "A page.", "content": content }));
            true
        }
    };
    if let Gives::PageOrRedirect = operation.gives {
        let location = json!({ "required": true, "schema": { "type": "string", "format": "uri" } });
        responses.insert(
            "303".to_owned(),
            json!({ "description": "On to the client's `next_link`.", "headers": { "Location": location } }),
        );
    }
    for (status, codes) in failures(route) {
        responses.insert(status.to_string(), failure(operation, status, &codes, is_page));
    }
    let passed_on = json!({ "$ref": "#/components/responses/PassedOn" });
    if passes_on(operation) {
        responses.insert("4XX".to_owned(), passed_on.clone());
    }
    if operation.asks_identity_servers {
        responses.insert("501".to_owned(), passed_on);
    }
    responses
}

/// Whether another server's refusal can be the answer.
fn passes_on(operation: &Operation) -> bool {
    operation.asked_by != AskedBy::Anybody || operation.asks_identity_servers
}

/// What can go wrong here, by status: what can everywhere, what comes with a body or a token, and what is the
/// operation's own.
fn failures(route: &Route) -> BTreeMap<u16, Vec<&'static str>> {
    let operation = route.operation;
    let mut all = vec![(500, "M_UNKNOWN"), (503, "M_UNKNOWN")];
    if !route.versions.is_empty() {
        all.push((404, "M_UNRECOGNIZED"));
    }
    if let Takes::Json(_) | Takes::Form(_) = operation.takes {
        all.extend([(400, "M_UNKNOWN"), (408, "M_UNKNOWN"), (413, "M_TOO_LARGE")]);
    }
    if let Takes::Json(_) = operation.takes {
        all.extend(
            ["M_NOT_JSON", "M_BAD_JSON", "M_MISSING_PARAM", "M_INVALID_PARAM"].map(|code| (400, code)),
        );
    }
    if operation.asked_by != AskedBy::Anybody {
        all.extend([
            (401, "M_MISSING_TOKEN"),
            (401, "M_UNKNOWN_TOKEN"),
            (400, "M_INVALID_PARAM"),
            (429, "M_LIMIT_EXCEEDED"),
        ]);
    }
    if operation.asked_by == AskedBy::Account {
        all.push((403, "M_GUEST_ACCESS_FORBIDDEN"));
    }
    all.extend(operation.fails);
    let mut by_status: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for (status, code) in all {
        let codes = by_status.entry(status).or_default();
        if !codes.contains(&code) {
            codes.push(code);
        }
    }
    by_status
}

fn failure(operation: &Operation, status: u16, codes: &[&str], is_page: bool) -> Value {
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut content = Map::new();
    if is_page {
        content.insert("text/html".to_owned(), json!({ "schema": { "type": "string" } }));
    }
    // Whatever breaks before or after a page could be made is an error like any other.
    if !is_page || status >= 500 {
        let mut schema = schema::error(codes, passes_on(operation));
        if status == 401 && operation.challenges {
            schema = json!({ "anyOf": [schema, { "$ref": "#/components/schemas/Challenge" }] });
        }
        content.insert("application/json".to_owned(), json!({ "schema": schema }));
    }
    let mut failure = json!({ "description": phrase.unwrap_or("Failed"), "content": content });
    if matches!(status, 429 | 503) {
        let whole = json!({ "type": "integer", "minimum": 1 });
        failure["headers"] = json!({
            "Retry-After": { "description": "Seconds to wait.", "schema": whole },
        });
    }
    failure
}

#[cfg(test)]
pub(super) mod tests;
