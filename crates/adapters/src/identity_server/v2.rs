//! The identity service with access tokens: `/_matrix/identity/v2`, as ruma's types write it.
//!
//! Only the requests are ruma's. Its responses are stricter than the servers in use: Sydent's 200 with an `errcode` and
//! a bind answered with `{}` would not parse.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::Request;
use ruma_common::api::path_builder::VersionHistory;
use ruma_common::api::{MatrixVersion, OutgoingRequest, OutgoingRequestExt, SupportedVersions};
use ruma_common::{OwnedClientSecret, OwnedSessionId};
use ruma_identity_service_api::IdentityServiceToken;
use ruma_identity_service_api::association::{
    bind_3pid::v2 as bind_3pid, check_3pid_validity::v2 as check_3pid_validity,
    email::create_email_validation_session::v2 as by_mail,
    msisdn::create_msisdn_validation_session::v2 as by_sms,
};
use threepid_domain::model::{ClientSecret, IdAccessToken, UserId};
use threepid_domain::ports::{RemoteCredentials, RemoteRecipient, RemoteTokenRequest};

use super::requests::NotSendable;

pub(super) fn request_token(
    base: &str,
    token: &IdAccessToken,
    request: &RemoteTokenRequest,
) -> Result<Request<Bytes>, NotSendable> {
    let send_attempt = request.send_attempt.get().try_into();
    let send_attempt = send_attempt.map_err(|_| NotSendable::Form("send_attempt"))?;
    let client_secret = secret(&request.client_secret)?;
    let next_link = request.next_link.as_ref().map(|link| link.as_str().to_owned());
    match &request.to {
        RemoteRecipient::Email(email) => {
            let email = email.as_str().to_owned();
            write(by_mail::Request::new(client_secret, email, send_attempt, next_link), base, token)
        }
        RemoteRecipient::Msisdn { number, country } => {
            let (country, number) = (country.as_str().to_owned(), format!("+{}", number.as_str()));
            let request = by_sms::Request::new(client_secret, country, number, send_attempt, next_link);
            write(request, base, token)
        }
    }
}

pub(super) fn validated(
    base: &str,
    token: &IdAccessToken,
    session: &RemoteCredentials,
) -> Result<Request<Bytes>, NotSendable> {
    let request = check_3pid_validity::Request::new(sid(session)?, secret(&session.client_secret)?);
    write(request, base, token)
}

pub(super) fn bind(
    base: &str,
    token: &IdAccessToken,
    session: &RemoteCredentials,
    user_id: &UserId,
) -> Result<Request<Bytes>, NotSendable> {
    let user_id = user_id.as_str().try_into().map_err(|_| NotSendable::Form("mxid"))?;
    let request = bind_3pid::Request::new(sid(session)?, secret(&session.client_secret)?, user_id);
    write(request, base, token)
}

fn secret(secret: &ClientSecret) -> Result<OwnedClientSecret, NotSendable> {
    secret.expose().try_into().map_err(|_| NotSendable::Form("client_secret"))
}

fn sid(session: &RemoteCredentials) -> Result<OwnedSessionId, NotSendable> {
    session.sid.as_str().try_into().map_err(|_| NotSendable::Form("sid"))
}

fn write<R>(request: R, base: &str, token: &IdAccessToken) -> Result<Request<Bytes>, NotSendable>
where
    R: OutgoingRequest<Authentication = IdentityServiceToken, PathBuilder = VersionHistory>,
{
    let versions = SupportedVersions { versions: [MatrixVersion::V1_1].into(), features: [].into() };
    let written = request.try_into_http_request::<Vec<u8>>(base, token.expose(), Cow::Owned(versions));
    // The base URL is the settings' and the fields are parsed: what may not fit into a header is the token.
    let written = written.map_err(|_| NotSendable::Token)?;
    Ok(written.map(Bytes::from))
}
