//! Fields that several operations have.

use super::{Field, Kind};

/// The grammar of the identity service for `sid` and `client_secret`.
const OPAQUE: Kind = Kind::Pattern("^[0-9a-zA-Z.=_-]{1,255}$");

/// The largest integer that every JSON reader keeps.
pub(crate) const LARGEST_INTEGER: u64 = (1 << 53) - 1;

pub(crate) const SID: Field =
    Field::required("sid", OPAQUE, "The validation session, as requestToken answered it.")
        .like("Hx1Yv3p0sQe2");

pub(crate) const CLIENT_SECRET: Field =
    Field::required("client_secret", OPAQUE, "The secret under which the client opened the session.")
        .like("monkeys_are_GREAT");

pub(crate) const TOKEN: Field =
    Field::required("token", Kind::Text, "The token that was sent to the address.").like("9Zk2mJt4");

pub(crate) const SEND_ATTEMPT: Field =
    Field::required("send_attempt", Kind::Integer(LARGEST_INTEGER), "A higher one than before sends again.");

pub(crate) const NEXT_LINK: Field =
    Field::optional("next_link", Kind::Text, "Where the browser goes afterwards: http or https.")
        .like("https://app.example.org/done");

/// Of an identity server, or this server's where the message carries a code.
pub(crate) const SUBMIT_URL: Field = Field::optional(
    "submit_url",
    Kind::Format("uri"),
    "Where the code or token is submitted, where there is one.",
);

pub(crate) const ID_SERVER: Field = Field::required(
    "id_server",
    Kind::Text,
    "An identity server: host and port, no scheme. Only those that the operator named are asked.",
)
.like("id.example.org");

pub(crate) const ID_ACCESS_TOKEN: Field = Field::required(
    "id_access_token",
    Kind::Text,
    "The client's access token at the identity server. It is passed on and not stored.",
)
.like("abc123_OpaqueString");

pub(crate) const MEDIUM: Field =
    Field::required("medium", Kind::OneOf(&["email", "msisdn"]), "What the address is: email or phone.");

pub(crate) const ADDRESS: Field = Field::required(
    "address",
    Kind::Text,
    "The address. Every spelling of one mailbox is one address; answers give the canonical one.",
)
.like("alice@example.org");

pub(crate) const UNBIND_RESULT: Field = Field::required(
    "id_server_unbind_result",
    Kind::OneOf(&["success", "no-support"]),
    "Whether the identity servers forgot the address.",
);
