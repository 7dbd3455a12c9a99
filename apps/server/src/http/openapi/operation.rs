//! What an operation asks for, takes and gives: written as a constant beside its handler.
//!
//! The fields of a body are read by the same constants, so a handler cannot read what the document does not name.

/// One method of one path.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    /// Unique in the document.
    pub(crate) id: &'static str,
    /// One line.
    pub(crate) summary: &'static str,
    /// What a client has to know beside it; may be empty.
    pub(crate) about: &'static str,
    /// The operation's place in the client-server API, where it has one there.
    pub(crate) specification: Option<&'static str>,
    /// Whether the specification deprecates it.
    pub(crate) deprecated: bool,
    /// Who may ask.
    pub(crate) asked_by: AskedBy,
    /// What is sent.
    pub(crate) takes: Takes,
    /// What a good answer is.
    pub(crate) gives: Gives,
    /// Status and error code of what can go wrong, beside what goes wrong everywhere.
    pub(crate) fails: &'static [(u16, &'static str)],
    /// Whether an identity server's refusal can be the answer.
    pub(crate) asks_identity_servers: bool,
    /// Whether a 401 can be a challenge of User-Interactive Authentication.
    pub(crate) challenges: bool,
}

impl Operation {
    /// What most operations are; the rest is written over it.
    pub(crate) const BASE: Self = Self {
        id: "",
        summary: "",
        about: "",
        specification: None,
        deprecated: false,
        asked_by: AskedBy::Anybody,
        takes: Takes::Nothing,
        gives: Gives::Json(&[]),
        fails: &[],
        asks_identity_servers: false,
        challenges: false,
    };
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AskedBy {
    /// No access token is looked at.
    Anybody,
    /// An account, guests among them.
    AccountOrGuest,
    /// An account that is no guest.
    Account,
}

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Takes {
    Nothing,
    Query(&'static [Field]),
    Json(&'static [Field]),
    Form(&'static [Field]),
}

/// What a good answer is.
#[derive(Clone, Copy)]
pub(crate) enum Gives {
    /// 200 with a JSON object.
    Json(&'static [Field]),
    /// A page for a browser, whatever becomes of the request.
    Page,
    /// The same, or 303 to where the browser goes on.
    PageOrRedirect,
}

/// One field of an object.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) need: Need,
    pub(crate) kind: Kind,
    pub(crate) about: &'static str,
    /// A value that is well-formed, for texts.
    pub(crate) example: Option<&'static str>,
}

/// Whether a field has to be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    /// In a request, `null` is as good as absent.
    Optional,
    /// One of those that say so has to be there.
    Either,
}

/// What a field holds.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Text,
    /// A text with a format of JSON Schema.
    Format(&'static str),
    /// A text that a regular expression describes.
    Pattern(&'static str),
    OneOf(&'static [&'static str]),
    Boolean,
    /// An integer from 0 to this.
    Integer(u64),
    Object(&'static [Field]),
    List(&'static [Field]),
    /// An object that is passed on unread.
    Any,
}

impl Field {
    pub(crate) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, need: Need::Required, kind, about, example: None }
    }

    pub(crate) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, need: Need::Optional, kind, about, example: None }
    }

    pub(crate) const fn either(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, need: Need::Either, kind, about, example: None }
    }

    /// The same field where it may be left out.
    pub(crate) const fn or_none(self) -> Self {
        Self { need: Need::Optional, ..self }
    }

    pub(crate) const fn like(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }
}
