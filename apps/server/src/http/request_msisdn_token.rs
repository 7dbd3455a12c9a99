//! `POST /account/3pid/msisdn/requestToken`: [a client wants to prove a phone number].
//!
//! It asks for no access token. Where this server sends the SMS, an `id_server` only has to be well-formed.
//!
//! [a client wants to prove a phone number]: https://spec.matrix.org/v1.18/client-server-api/#post_matrixclientv3account3pidmsisdnrequesttoken

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use threepid_domain::model::{
    ClientSecret, Country, IdAccessToken, IdentityServerName, Msisdn, NextLink, SendAttempt,
};
use threepid_domain::use_cases::RequestMsisdnToken;

use super::Api;
use super::client_ip::ClientIp;
use super::error::{ApiError, json_response};
use super::json::{FromJson, Json, Object};
use super::openapi::{
    CLIENT_SECRET, Field, Gives, ID_ACCESS_TOKEN, ID_SERVER, Kind, NEXT_LINK, Operation, SEND_ATTEMPT, SID,
    SUBMIT_URL, Takes,
};
use super::request_email_token::session_body;

/// What the client sends.
pub(crate) struct Body {
    client_secret: ClientSecret,
    country: Country,
    number: Msisdn,
    send_attempt: SendAttempt,
    next_link: Option<NextLink>,
    id_server: Option<IdentityServerName>,
    id_access_token: Option<IdAccessToken>,
}

impl FromJson for Body {
    const FIELDS: &'static [Field] = &[
        CLIENT_SECRET,
        Field::required(
            "country",
            Kind::Pattern("^[A-Z]{2}$"),
            "The country in which the number is dialled as it is written (ISO 3166-1).",
        )
        .like("GB"),
        Field::required(
            "phone_number",
            Kind::Text,
            "The number to prove, as dialled in the country; one that begins with + has its own country.",
        )
        .like("07700 900813"),
        SEND_ATTEMPT,
        NEXT_LINK,
        ID_SERVER.or_none(),
        ID_ACCESS_TOKEN.or_none(),
    ];

    fn from_json(object: &Object<'_>) -> Result<Self, ApiError> {
        let country = object.parsed("country", Country::parse)?;
        Ok(Self {
            client_secret: object.parsed("client_secret", ClientSecret::parse)?,
            country,
            number: object.parsed("phone_number", |text| Msisdn::dialled(text, country))?,
            send_attempt: object.integer("send_attempt", SendAttempt::new)?,
            next_link: object.optional_parsed("next_link", NextLink::parse)?,
            id_server: object.optional_parsed("id_server", IdentityServerName::parse)?,
            id_access_token: object.optional_string("id_access_token")?.map(IdAccessToken::new),
        })
    }
}

/// What the document says.
pub(crate) const OPERATION: Operation = Operation {
    id: "requestMsisdnToken",
    summary: "Opens a validation session and sends an SMS with a code",
    about: "The same request again answers the same session and sends nothing; a higher `send_attempt` sends again, and \
            from then on only the newest code is good.",
    specification: Some("post_matrixclientv3account3pidmsisdnrequesttoken"),
    takes: Takes::Json(Body::FIELDS),
    gives: Gives::Json(&[
        SID,
        SUBMIT_URL,
        Field::required(
            "msisdn",
            Kind::Pattern("^[1-9][0-9]{0,14}$"),
            "The number as it is listed: E.164 digits.",
        ),
        Field::required("intl_fmt", Kind::Text, "The number as people read it.").like("+44 7700 900813"),
    ]),
    fails: &[
        (400, "M_THREEPID_IN_USE"),
        (400, "M_THREEPID_MEDIUM_NOT_SUPPORTED"),
        (400, "M_SERVER_NOT_TRUSTED"),
        (403, "M_THREEPID_DENIED"),
        (403, "M_FORBIDDEN"),
        (429, "M_LIMIT_EXCEEDED"),
    ],
    asks_identity_servers: true,
    ..Operation::BASE
};

/// Opens or continues a session, and has the SMS sent.
pub(crate) async fn handle(
    State(api): State<Api>,
    ClientIp(client_ip): ClientIp,
    Json(Body { client_secret, country, number, send_attempt, next_link, id_server, id_access_token }): Json<
        Body,
    >,
) -> Result<Response, ApiError> {
    let (msisdn, intl_fmt) = (number.as_str().to_owned(), number.international());
    let request = RequestMsisdnToken {
        client_secret,
        number,
        country,
        send_attempt,
        next_link,
        client_ip,
        id_server,
        id_access_token,
    };
    let opened = api.finish(|contacts| async move { contacts.request_msisdn_token(request).await }).await?;
    let mut body = session_body(&api, opened);
    body["msisdn"] = msisdn.into();
    body["intl_fmt"] = intl_fmt.into();
    Ok(json_response(StatusCode::OK, &body))
}

#[cfg(test)]
mod tests;
