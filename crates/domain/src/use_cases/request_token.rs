//! A client wants to prove an address: what `requestToken` does for both media. The commands themselves are
//! [`request_email_token`](super::request_email_token) and [`request_msisdn_token`](super::request_msisdn_token).

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join;

use super::{Changes, Contacts, DECISIONS, client_subject, too_many_conflicts};
use crate::model::{
    Address, ClientSecret, IdAccessToken, IdentityServerName, IssuedToken, Medium, NextLink, OutboxMessage,
    Payload, RemoteRefusal, RemoteSession, SendAttempt, Sid, Timestamp, UnitOfWork, Validation,
    ValidationSession,
};
use crate::ports::{
    CommitError, EVERYBODY, IdentityServerError, Limit, OpenedRemotely, OverLimit, RemoteRecipient,
    RemoteTokenRequest, Unavailable,
};

/// Where it is hidden which addresses are in use, every message leaves so much later at most, at random. What the relay
/// does differs with what a message is for, and a client that asks again at once must not meet it.
const SPREAD: Duration = Duration::from_secs(5);

/// What a client asks, whatever the medium.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) client_secret: ClientSecret,
    /// The address to be proven.
    pub(super) to: RemoteRecipient,
    pub(super) send_attempt: SendAttempt,
    pub(super) next_link: Option<NextLink>,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) id_server: Option<IdentityServerName>,
    pub(super) id_access_token: Option<IdAccessToken>,
}

/// What a client asks of this server itself.
struct Asked<'a> {
    request: &'a Request,
    address: &'a Address,
    /// Whether an account has the address. Then nobody is sent a token, and nothing else is different.
    is_taken: bool,
}

/// The session that was opened or continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its identifier.
    pub sid: Sid,
    /// Where a client submits the token itself, where an identity server said so.
    pub submit_url: Option<String>,
    /// Whether the message carries a code, which the client submits to this server.
    pub has_code: bool,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum RequestTokenError {
    /// Accounts may not change their contacts.
    #[error("changes are switched off")]
    ChangesForbidden,
    /// Nobody is there to send a message of this medium.
    #[error("nobody is there to send to a threepid of the medium {0}")]
    MediumNotSupported(Medium),
    /// The operator's rules refuse the address.
    #[error("the address is not permitted")]
    Denied,
    /// An account has the address already. It is not told where [`Policy::hide_in_use`](super::Policy::hide_in_use) says so.
    #[error("the address is in use")]
    InUse,
    /// Too many requests.
    #[error(transparent)]
    Limited(#[from] OverLimit),
    /// The identity server is not trusted to validate.
    #[error("the identity server is not trusted")]
    ServerNotTrusted,
    /// The identity server refused.
    #[error("the identity server refused with status {}", .0.status)]
    Refused(RemoteRefusal),
    /// It cannot be done now; nothing was changed that a retry would not mend.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Contacts {
    /// Opens or continues a validation session, and has the message sent that proves its address.
    ///
    /// The answer is durable: a session of ours is returned only once it and its message are stored. With
    /// [`Validation::IdentityServer`] all our own rules are met first, then the identity server is asked.
    ///
    /// With [`Policy::hide_in_use`](super::Policy::hide_in_use) every step from here on is the same whether or not an
    /// account has the address: see `docs/adr/0014-hidden-in-use.md`.
    ///
    /// # Errors
    /// [`RequestTokenError`].
    pub(super) async fn request_token(&self, request: Request) -> Result<Opened, RequestTokenError> {
        if self.policy.changes == Changes::Forbidden {
            return Err(RequestTokenError::ChangesForbidden);
        }
        let validator = self.validator(&request)?;
        let address = request.to.address();
        if !self.policy.rules.permit(&address) {
            return Err(RequestTokenError::Denied);
        }
        if let Some(ip) = request.client_ip {
            self.take::<RequestTokenError>(Limit::RequestTokenPerClient, client_subject(ip)).await?;
        }
        let Some(server) = validator else { return self.request_here(&request, &address).await };
        let (limit, subject) = self.per_address(&address);
        self.take::<RequestTokenError>(limit, subject).await?;
        if self.store.owner(&address).await?.is_some() {
            return Err(RequestTokenError::InUse);
        }
        self.request_remotely(server, request, address).await
    }

    /// Who sends the message: an identity server, or (`None`) this server.
    fn validator(&self, request: &Request) -> Result<Option<IdentityServerName>, RequestTokenError> {
        let trusted = &self.policy.trusted;
        let medium = request.to.address().medium();
        let sends = match medium {
            Medium::Email => self.policy.sends_mail,
            Medium::Msisdn => self.policy.sends_sms,
        };
        match (self.policy.validation, &request.id_server) {
            (Validation::Direct, _) if sends => Ok(None),
            (Validation::Direct, _) => Err(RequestTokenError::MediumNotSupported(medium)),
            (Validation::IdentityServer, Some(server)) if trusted.validates(server) => {
                Ok(Some(server.clone()))
            }
            (Validation::IdentityServer, Some(_)) => Err(RequestTokenError::ServerNotTrusted),
            (Validation::IdentityServer, None) => {
                let first = trusted.first_that_validates();
                let first = first.ok_or(RequestTokenError::MediumNotSupported(medium))?;
                Ok(Some(first.clone()))
            }
        }
    }

    async fn request_remotely(
        &self,
        server: IdentityServerName,
        request: Request,
        address: Address,
    ) -> Result<Opened, RequestTokenError> {
        let asked = RemoteTokenRequest {
            client_secret: request.client_secret,
            to: request.to,
            send_attempt: request.send_attempt,
            next_link: request.next_link,
        };
        let opened =
            self.identity_servers.request_token(server.clone(), asked, request.id_access_token).await;
        let OpenedRemotely { sid, submit_url } = opened.map_err(|error| match error {
            IdentityServerError::Refused(refusal) => RequestTokenError::Refused(refusal.of_identity_server()),
            IdentityServerError::Unavailable(error) => error.into(),
        })?;
        let session = RemoteSession { server, sid: sid.clone(), address, opened_at: self.clock.now() };
        self.commit_unrivalled(UnitOfWork::new().put_remote_session(session)).await?;
        Ok(Opened { sid, submit_url, has_code: false })
    }

    fn per_address(&self, address: &Address) -> (Limit, String) {
        (Limit::RequestTokenPerAddress, self.secrets.address_key(address).to_hex())
    }

    /// What is stored is read before the request is counted, and told nobody until it is: so the counts are asked for
    /// together. Whoever is known to be over the limit anyway costs no look.
    async fn request_here(&self, request: &Request, address: &Address) -> Result<Opened, RequestTokenError> {
        let per_address = self.per_address(address);
        self.rate_limiter.known(per_address.0, &per_address.1).over(per_address.0)?;
        let key = self.secrets.session_key(address, &request.client_secret);
        let (owner, current) = join(self.store.owner(address), self.store.current_session(key)).await;
        let is_taken = owner?.is_some();
        let mut current = current?;
        let mut due = vec![per_address];
        if is_taken && !self.policy.hides_in_use() {
            self.take_each(due).await?;
            return Err(RequestTokenError::InUse);
        }
        let asked = &Asked { request, address, is_taken };
        let mut is_counted_in_all = false;
        for _ in 0..DECISIONS {
            let (opened, unit) = match current {
                Some(session) => self.continue_session(session, asked),
                None => self.open_session(UnitOfWork::new(), asked),
            };
            if unit.is_some() && !std::mem::replace(&mut is_counted_in_all, true) {
                due.push((in_all(address.medium()), EVERYBODY.to_owned()));
            }
            self.take_each(std::mem::take(&mut due)).await?;
            let Some(unit) = unit else { return Ok(opened) };
            match self.store.commit(unit).await {
                Ok(()) => return Ok(opened),
                Err(CommitError::Conflict(_another_request_came_first)) => {}
                Err(CommitError::Unavailable(error)) => return Err(error.into()),
            }
            current = self.store.current_session(key).await?;
        }
        Err(too_many_conflicts().into())
    }

    /// Counts a request. What is beyond the limit of everybody together is refused and not kept for later: its token
    /// would end before its turn came, and a flood that waits holds up all that comes after it.
    async fn take_each(&self, acts: Vec<(Limit, String)>) -> Result<(), RequestTokenError> {
        if acts.is_empty() {
            return Ok(());
        }
        let taken = self.rate_limiter.take_each(acts).await?;
        if let Err(over) = &taken
            && matches!(over.limit, Limit::MailsInAll | Limit::SmsInAll)
        {
            self.held_back.say(over.limit, self.clock.now());
        }
        Ok(taken?)
    }

    fn continue_session(
        &self,
        mut session: ValidationSession,
        asked: &Asked<'_>,
    ) -> (Opened, Option<UnitOfWork>) {
        let now = self.clock.now();
        let (attempt, next_link) = (asked.request.send_attempt, asked.request.next_link.clone());
        match session.request_again(attempt, next_link, now, &self.policy.lifetimes) {
            Ok(None) => (opened(&session), None),
            Ok(Some(_token)) => self.send(UnitOfWork::new(), session, asked, now),
            Err(_ended) => {
                session.supersede();
                self.open_session(UnitOfWork::new().put_session(session), asked)
            }
        }
    }

    fn open_session(&self, unit: UnitOfWork, asked: &Asked<'_>) -> (Opened, Option<UnitOfWork>) {
        let (now, Asked { request, address, .. }) = (self.clock.now(), asked);
        let session = ValidationSession::open(
            self.secrets.new_sid(),
            self.secrets.session_key(address, &request.client_secret),
            Address::clone(address),
            request.send_attempt,
            request.next_link.clone(),
            now,
            &self.policy.lifetimes,
        );
        self.send(unit, session, asked, now)
    }

    /// Stores the session together with the message that its newest token owes: to prove the address, or to inform whoever
    /// has it.
    fn send(
        &self,
        unit: UnitOfWork,
        mut session: ValidationSession,
        asked: &Asked<'_>,
        now: Timestamp,
    ) -> (Opened, Option<UnitOfWork>) {
        let to = &asked.request.to;
        if self.policy.mails_code || matches!(to, RemoteRecipient::Msisdn { .. }) {
            session.send_code();
        }
        if asked.is_taken {
            session.withhold_token();
        }
        let opened = opened(&session);
        let message = session.newest_token().map(|token| self.message(&opened.sid, token, to, now));
        let unit = message.into_iter().fold(unit.put_session(session), UnitOfWork::enqueue);
        (opened, Some(unit))
    }

    fn due_at(&self, now: Timestamp) -> Timestamp {
        if !self.policy.hides_in_use() {
            return now;
        }
        // A token that is good for moments has to be there in time.
        let spread = SPREAD.min(self.policy.lifetimes.token / 10);
        now.plus(spread.mul_f64(self.secrets.jitter().clamp(0.0, 1.0)))
    }

    fn message(&self, sid: &Sid, token: &IssuedToken, to: &RemoteRecipient, now: Timestamp) -> OutboxMessage {
        let (sid, generation) = (sid.clone(), token.generation);
        OutboxMessage {
            id: self.secrets.new_message_id(),
            payload: match (to, token.withheld) {
                (RemoteRecipient::Email(to), false) => {
                    Payload::ValidationMail { to: to.clone(), sid, generation, with_code: token.with_code }
                }
                (RemoteRecipient::Msisdn { number, .. }, false) => {
                    Payload::ValidationSms { to: number.clone(), sid, generation }
                }
                (RemoteRecipient::Email(to), true) => Payload::InUseMail { to: to.clone() },
                (RemoteRecipient::Msisdn { number, .. }, true) => Payload::InUseSms { to: number.clone() },
            },
            created_at: now,
            due_at: self.due_at(now),
            not_after: token.expires_at,
        }
    }
}

/// What the client is told of a session of ours.
fn opened(session: &ValidationSession) -> Opened {
    Opened { sid: session.sid().clone(), submit_url: None, has_code: session.has_code() }
}

/// The limit of what everybody together is sent.
fn in_all(medium: Medium) -> Limit {
    match medium {
        Medium::Email => Limit::MailsInAll,
        Medium::Msisdn => Limit::SmsInAll,
    }
}
