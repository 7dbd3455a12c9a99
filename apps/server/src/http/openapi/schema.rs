//! JSON Schemas of what is sent and given.

use serde_json::{Map, Value, json};

use super::{Field, Kind, Need};

/// Which way an object goes: in what clients send, `null` is as good as absent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Sent,
    Given,
}

/// The schemas that others refer to.
pub(super) fn shared() -> Value {
    json!({
        "Error": {
            "type": "object",
            "required": ["errcode"],
            "properties": {
                "errcode": { "type": "string", "description": "What went wrong, for programs." },
                "error": { "type": "string", "description": "What went wrong, for people." },
                "retry_after_ms": {
                    "type": "integer", "minimum": 0, "description": "Milliseconds to wait, beside M_LIMIT_EXCEEDED.",
                },
            },
        },
        "PassedOnCode": { "type": "string", "description": "The code of another server's refusal." },
        "Challenge": {
            "type": "object",
            "description": "User-Interactive Authentication: the same request again, with `auth`.",
            "required": ["flows"],
            "properties": {
                "flows": { "type": "array", "items": { "type": "object" } },
                "params": { "type": "object" },
                "session": { "type": "string" },
                "completed": { "type": "array", "items": { "type": "string" } },
            },
        },
    })
}

/// A body of one of these types.
pub(super) fn content(types: &[&str], schema: &Value) -> Value {
    let content: Map<_, _> =
        types.iter().map(|content_type| ((*content_type).to_owned(), json!({ "schema": schema }))).collect();
    content.into()
}

/// An error with one of these codes, or with whatever code another server gave it.
pub(super) fn error(codes: &[&str], passed_on: bool) -> Value {
    let ours = json!({ "enum": codes });
    let code = if passed_on {
        json!({ "anyOf": [ours, { "$ref": "#/components/schemas/PassedOnCode" }] })
    } else {
        ours
    };
    json!({
        "allOf": [{ "$ref": "#/components/schemas/Error" }, { "properties": { "errcode": code } }],
    })
}

/// An object; what it holds beside its fields does not count.
pub(super) fn object(fields: &[Field], direction: Direction) -> Value {
    let named = |need| {
        let fields = fields.iter().filter(move |field| field.need == need);
        fields.map(|field| field.name)
    };
    let properties: Map<_, _> =
        fields.iter().map(|field| (field.name.to_owned(), of(field, direction))).collect();
    let mut object = json!({ "type": "object", "properties": properties });
    let required: Vec<_> = named(Need::Required).collect();
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    let either: Vec<_> = named(Need::Either)
        .map(|name| json!({ "required": [name], "properties": { name: { "type": "object" } } }))
        .collect();
    if !either.is_empty() {
        object["anyOf"] = either.into();
    }
    object
}

/// One field.
pub(super) fn of(field: &Field, direction: Direction) -> Value {
    let mut schema = match field.kind {
        Kind::Text => json!({ "type": "string" }),
        Kind::Format(format) => json!({ "type": "string", "format": format }),
        Kind::Pattern(pattern) => json!({ "type": "string", "pattern": pattern }),
        Kind::OneOf(values) => json!({ "type": "string", "enum": values }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer(largest) => json!({ "type": "integer", "minimum": 0, "maximum": largest }),
        Kind::Object(fields) => object(fields, direction),
        Kind::List(fields) => json!({ "type": "array", "items": object(fields, direction) }),
        Kind::Any => json!({ "type": "object" }),
    };
    if !field.about.is_empty() {
        schema["description"] = field.about.into();
    }
    if let Some(example) = field.example {
        schema["examples"] = json!([example]);
    }
    if direction == Direction::Sent && field.need != Need::Required {
        schema["type"] = json!([schema["type"], "null"]);
    }
    schema
}
