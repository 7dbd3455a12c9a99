//! That the document is true: it is the page in docs, no answer of any test contradicts it, and what it says about
//! bodies is what is read of them.

#![expect(clippy::expect_used, clippy::panic, reason = "what a test stands on fails it")]

use std::sync::LazyLock;

use http::Method;
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use super::*;
use crate::http::testing::{Answer, Server};

/// What the document says about an answer: its statuses, and the schema of each of their content types.
struct Described {
    method: String,
    path: Vec<String>,
    versions: Vec<String>,
    responses: BTreeMap<String, BTreeMap<String, Validator>>,
}

static DESCRIBED: LazyLock<Vec<Described>> = LazyLock::new(|| {
    let document = document();
    let paths = document["paths"].as_object().into_iter().flatten();
    paths
        .flat_map(|(path, methods)| methods.as_object().into_iter().flatten().map(move |each| (path, each)))
        .map(|(path, (method, operation))| described(&document, path, method, operation))
        .collect()
});

fn described(document: &Value, path: &str, method: &str, operation: &Value) -> Described {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let versions = parameters.filter(|parameter| parameter["name"] == VERSION);
    let versions =
        versions.flat_map(|parameter| parameter["schema"]["enum"].as_array().into_iter().flatten());
    let responses = operation["responses"].as_object().into_iter().flatten().map(|(status, response)| {
        let response = match response["$ref"].as_str() {
            Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap_or(&Value::Null),
            None => response,
        };
        let content = response["content"].as_object().into_iter().flatten();
        let content = content.map(|(content_type, content)| {
            // References are looked up from the root.
            let schema = json!({ "allOf": [content["schema"]], "components": document["components"] });
            (content_type.clone(), jsonschema::validator_for(&schema).expect("a schema"))
        });
        (status.clone(), content.collect())
    });
    Described {
        method: method.to_uppercase(),
        path: path.split('/').map(str::to_owned).collect(),
        versions: versions.filter_map(Value::as_str).map(str::to_owned).collect(),
        responses: responses.collect(),
    }
}

impl Described {
    fn is_of(&self, method: &Method, path: &str) -> bool {
        let parts: Vec<_> = path.split('/').collect();
        let fits = |(described, part): (&String, &&str)| {
            described == part || (described.starts_with('{') && self.versions.iter().any(|one| one == part))
        };
        self.method == method.as_str()
            && self.path.len() == parts.len()
            && self.path.iter().zip(&parts).all(fits)
    }
}

/// Fails the test whose answer the document does not describe. What has no route is described nowhere, and the
/// homeserver's capabilities are passed on whatever they are.
pub(crate) fn assert_described(method: &Method, path: &str, answer: &Answer) {
    let is_of_another_router = answer.header("x-request-id").is_empty();
    if is_of_another_router || path.ends_with("/capabilities") {
        return;
    }
    let Some(described) = DESCRIBED.iter().find(|described| described.is_of(method, path)) else {
        assert!(
            matches!(answer.status.as_u16(), 404 | 405)
                || !path.starts_with("/_")
                || [Method::OPTIONS, Method::HEAD].contains(method),
            "{method} {path} is in no document and answers {}",
            answer.status
        );
        return;
    };
    let (status, what) = (answer.status.as_u16(), format!("{method} {path}: {}", answer.status));
    let range = format!("{}XX", status / 100);
    let content = described.responses.get(&status.to_string()).or_else(|| described.responses.get(&range));
    let Some(content) = content else { panic!("{what} is not in the document") };
    if content.is_empty() {
        return;
    }
    let content_type = answer.header("content-type").split(';').next().unwrap_or_default();
    let Some(schema) = content.get(content_type) else { panic!("{what}: {content_type:?} is not its type") };
    let body = if content_type == "application/json" { answer.json() } else { Value::from(&*answer.text) };
    if let Err(error) = schema.validate(&body) {
        panic!("{what}: {error}\n{}", answer.text);
    }
}

#[test]
fn the_document_in_docs_is_the_one_that_is_served() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"));
    let page: Value = serde_json::from_str(&page.unwrap_or_default()).unwrap_or_default();
    assert!(
        page == document(),
        "docs/openapi.json is old; run: cargo run -p threepid-server -- openapi > docs/openapi.json"
    );
}

#[tokio::test]
async fn the_document_is_served() {
    let answer = Server::new().get("/_threepid/openapi.json", "").await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, document()));
}

#[test]
fn every_operation_has_a_name_of_its_own_and_a_summary() {
    let mut names: Vec<_> = routes().iter().map(|route| route.operation.id).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(routes().iter().all(|route| !route.operation.summary.is_empty()));
}

/// A body that is well-formed.
fn example(fields: &[Field]) -> Value {
    let value = |field: &Field| match field.kind {
        Kind::OneOf(values) => json!(values.first()),
        Kind::Boolean => json!(false),
        Kind::Integer(_) => json!(1),
        Kind::Object(fields) => example(fields),
        Kind::List(fields) => json!([example(fields)]),
        Kind::Any => json!({}),
        Kind::Text | Kind::Format(_) | Kind::Pattern(_) => json!(field.example),
    };
    fields.iter().map(|field| (field.name.to_owned(), value(field))).collect::<Map<_, _>>().into()
}

/// Bodies with one field changed, and the error that the document promises for it.
fn changed(fields: &'static [Field]) -> Vec<(&'static str, Value, Option<&'static str>)> {
    let mut all = Vec::new();
    for field in fields {
        // The older spelling is read where the other is absent, and what is missing is told under the newer one.
        let is_either = field.need == Need::Either;
        let mut with = |value: Option<Value>, errcode| {
            let mut body = example(fields);
            let Some(object) = body.as_object_mut() else { return };
            if is_either {
                object.retain(|name, _| {
                    fields.iter().all(|other| other.name != name || other.need != Need::Either)
                });
            }
            match value {
                Some(value) => drop(object.insert(field.name.to_owned(), value)),
                None => drop(object.remove(field.name)),
            }
            all.push((field.name, body, errcode));
        };
        let missing = (field.need == Need::Required).then_some("M_MISSING_PARAM");
        if !is_either {
            with(None, missing);
            with(Some(Value::Null), missing);
        }
        let other_type = match field.kind {
            Kind::Boolean | Kind::Integer(_) | Kind::Object(_) | Kind::List(_) | Kind::Any => json!("text"),
            Kind::Text | Kind::Format(_) | Kind::Pattern(_) | Kind::OneOf(_) => json!(7),
        };
        with(Some(other_type), Some("M_BAD_JSON"));
        if let Kind::Pattern(_) | Kind::OneOf(_) = field.kind {
            with(Some(json!("no such value")), Some("M_INVALID_PARAM"));
        }
        if let Kind::Integer(largest) = field.kind {
            with(Some(json!(largest + 1)), Some("M_INVALID_PARAM"));
        }
        if let Kind::Object(inner) = field.kind {
            // An object under another name must not answer in its place.
            for (name, value, errcode) in changed(inner) {
                let mut body = json!({});
                body[field.name] = value;
                all.push((name, body, errcode));
            }
        }
    }
    all
}

#[tokio::test]
async fn every_body_is_read_as_the_document_says() {
    let (server, mut refused) = (Server::new(), 0);
    for route in routes() {
        let Takes::Json(fields) = route.operation.takes else { continue };
        let path = route.path.replace("{version}", "v3");
        for (name, body, errcode) in changed(fields) {
            let token = if route.operation.asked_by == AskedBy::Anybody { "" } else { "alice" };
            let answer = server.post(&path, token, body.to_string()).await;
            let about_it = answer.text.contains(&format!(": {name}"))
                || answer.text.contains(&format!(": {name} has to be"));
            match errcode {
                Some(errcode) => {
                    refused += 1;
                    assert_eq!(answer.error(), (400, errcode.to_owned()), "{path} {name} {body}");
                    assert!(about_it, "{path} {name}: {}", answer.text);
                }
                None => assert!(!about_it, "{path} {name} {body}: {}", answer.text),
            }
        }
    }
    assert!(refused > 50, "only {refused} bodies were to be refused");
}
