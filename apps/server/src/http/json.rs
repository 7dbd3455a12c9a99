//! Bodies: JSON whatever their content type, and forms.
//!
//! What can be wrong with a body is told apart: not JSON, JSON of the wrong shape, a parameter that is missing, one that
//! is invalid. Numbers are read as they are written, so that `1.0` is no integer and a huge integer is still one.
//! Where a key comes twice, the last counts, as it does at homeservers.

use std::collections::BTreeMap;
use std::fmt::Display;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::value::RawValue;
use threepid_domain::model::Sid;

use super::Api;
use super::error::ApiError;
use super::openapi::{Field, Kind};

/// Nested deeper than this, a body is not read: as deep as serde_json reads values.
const DEEPEST: usize = 127;

/// A request that is read out of a JSON object.
pub(crate) trait FromJson: Sized {
    /// What the object may hold, for the document of the API. Nothing else is read.
    const FIELDS: &'static [Field];

    /// Parses it into values of the domain.
    fn from_json(object: &Object<'_>) -> Result<Self, ApiError>;
}

/// Extracts a request from a JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: FromJson> FromRequest<Api> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let body = read_body(request, api).await?;
        let text = std::str::from_utf8(&body).map_err(|_| ApiError::NotJson("it is not UTF-8".into()))?;
        T::from_json(&Object::parse(text, T::FIELDS)?).map(Self)
    }
}

/// Reads a whole body, within the limits of size and time.
pub(crate) async fn read_body(request: Request, api: &Api) -> Result<Bytes, ApiError> {
    let body = Limited::new(request.into_body(), api.settings.max_body_bytes).collect();
    let read = tokio::time::timeout(api.settings.body_timeout, body);
    match read.await.map_err(|_elapsed| ApiError::BodyTimeout)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::TooLarge),
        Err(_) => Err(ApiError::BodyBroken),
    }
}

/// A JSON object whose fields are parsed when they are asked for.
pub(crate) struct Object<'a> {
    fields: &'static [Field],
    values: BTreeMap<String, &'a RawValue>,
}

impl<'a> Object<'a> {
    fn parse(text: &'a str, fields: &'static [Field]) -> Result<Self, ApiError> {
        if depth(text) > DEEPEST {
            return Err(ApiError::NotJson("it is nested too deep".into()));
        }
        let value: &RawValue = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        Self::from_raw(value, "the body", fields)
    }

    fn from_raw(value: &'a RawValue, name: &str, fields: &'static [Field]) -> Result<Self, ApiError> {
        if !value.get().starts_with('{') {
            return Err(ApiError::BadJson(format!("{name} has to be an object")));
        }
        let values = serde_json::from_str(value.get()).map_err(|error| not_json(&error))?;
        Ok(Self { fields, values })
    }

    /// What the document says about a field.
    fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// A field that is there; `null` is absent, and so is what the document does not name.
    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.field(name)?;
        self.values.get(name).copied().filter(|value| value.get() != "null")
    }

    /// A field that may be absent, as an object.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Object<'a>>, ApiError> {
        let fields = match self.field(name).map(|field| field.kind) {
            Some(Kind::Object(fields)) => fields,
            _ => &[],
        };
        self.raw(name).map(|value| Self::from_raw(value, name, fields)).transpose()
    }

    /// A field that may be absent, as an object that is passed on unread.
    pub(crate) fn map(
        &self,
        name: &str,
    ) -> Result<Option<serde_json::Map<String, serde_json::Value>>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        if !value.get().starts_with('{') {
            return Err(ApiError::BadJson(format!("{name} has to be an object")));
        }
        serde_json::from_str(value.get()).map(Some).map_err(|error| not_json(&error))
    }

    /// A string that may be absent.
    pub(crate) fn optional_string(&self, name: &'static str) -> Result<Option<String>, ApiError> {
        let Some(value) = self.raw(name) else { return Ok(None) };
        if !value.get().starts_with('"') {
            return Err(ApiError::BadJson(format!("{name} has to be a string")));
        }
        serde_json::from_str(value.get()).map(Some).map_err(|error| not_json(&error))
    }

    /// A string.
    pub(crate) fn string(&self, name: &'static str) -> Result<String, ApiError> {
        self.optional_string(name)?.ok_or(ApiError::MissingParam(name))
    }

    /// A string that `parse` makes a value of.
    pub(crate) fn parsed<T, E: Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ApiError> {
        parse(&self.string(name)?).map_err(|error| ApiError::InvalidParam(name, error.to_string()))
    }

    /// A string that may be absent, and that `parse` makes a value of.
    pub(crate) fn optional_parsed<T, E: Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ApiError> {
        let text = self.optional_string(name)?;
        let value = text.map(|text| parse(&text)).transpose();
        value.map_err(|error| ApiError::InvalidParam(name, error.to_string()))
    }

    /// An integer, of any size, that `parse` makes a value of. One beyond 128 bits counts as the nearest within.
    pub(crate) fn integer<T, E: Display>(
        &self,
        name: &'static str,
        parse: impl FnOnce(i128) -> Result<T, E>,
    ) -> Result<T, ApiError> {
        let written = self.raw(name).ok_or(ApiError::MissingParam(name))?.get();
        let (sign, digits) = written.strip_prefix('-').map_or((1, written), |digits| (-1, digits));
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ApiError::BadJson(format!("{name} has to be an integer")));
        }
        let value = sign * digits.parse().unwrap_or(i128::MAX);
        parse(value).map_err(|error| ApiError::InvalidParam(name, error.to_string()))
    }

    /// A truth value that may be absent.
    pub(crate) fn optional_bool(&self, name: &'static str) -> Result<Option<bool>, ApiError> {
        let value = self.raw(name).map(|value| serde_json::from_str(value.get())).transpose();
        value.map_err(|_| ApiError::BadJson(format!("{name} has to be true or false")))
    }
}

/// What serde_json says, but for what the body held.
fn not_json(error: &serde_json::Error) -> ApiError {
    let (line, column) = (error.line(), error.column());
    let what = if error.is_eof() { "it ends too early" } else { "it breaks the syntax" };
    ApiError::NotJson(format!("{what}, at line {line}, column {column}").into())
}

/// How deep arrays and objects are nested in `text`, which need not be valid.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A `sid` that is well-formed; whether there is such a session is another question.
pub(crate) fn parse_sid(text: &str) -> Result<Sid, &'static str> {
    let sid = Sid::new(text);
    if sid.is_well_formed() {
        Ok(sid)
    } else {
        Err("sid must be 1 to 255 characters of 0-9, a-z, A-Z and .=_-")
    }
}
