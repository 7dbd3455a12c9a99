//! The relay: what is owed is claimed under a lease, rendered, sent and settled.
//!
//! At least once: a message is settled only after the next hop took it, so a crash in between sends it again, under
//! the same Message-ID.

use std::sync::Arc;
use std::time::Duration;

use url::Url;

use super::{DECISIONS, audit};
use crate::model::{
    AuditAction, AuditDoor, AuditEntry, BindingKey, Claimed, Code, EmailAddress, Generation, Msisdn,
    OutboxMessage, Payload, Settlement, Sid, Timestamp, Token, UnitOfWork, UserId,
};
use crate::ports::{
    Clock, DeliveryError, IdentityServer, IdentityServerError, InUseMail, InUseSms, Limit, Mail, MailText,
    Mailer, Mirror, Outbox, RateLimiter, Secrets, Sms, SmsSender, Store, Templates, Unavailable, Unbound,
    ValidationMail, ValidationSms, Verdict,
};

/// When a message that was not taken is tried again: after `first`, then twice as long each time, at most `longest`,
/// each wait shortened by up to half at random so that many messages do not come back at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait after the first try. Default 5 s.
    pub first: Duration,
    /// The longest wait. Default 10 min.
    pub longest: Duration,
    /// How long a claim holds; longer than any try may take. Default 2 min.
    pub lease: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(5),
            longest: Duration::from_secs(10 * 60),
            lease: Duration::from_secs(2 * 60),
        }
    }
}

impl RetryPolicy {
    fn wait(&self, attempt: u32, jitter: f64) -> Duration {
        let doubled = self.first.saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
        doubled.min(self.longest).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
    }
}

/// Where the links in mails lead, and where tokens and codes are submitted.
#[derive(Clone, Debug)]
pub struct ConfirmLinks {
    confirm: Url,
    submit: Url,
}

impl ConfirmLinks {
    /// Links below the server's public address, path prefixes kept.
    pub fn new(public_base_url: &Url) -> Self {
        let below = |path: &str| {
            let mut url = public_base_url.clone();
            url.set_query(None);
            url.set_fragment(None);
            url.set_path(&format!("{}{path}", public_base_url.path().trim_end_matches('/')));
            url
        };
        Self { confirm: below("/_threepid/confirm"), submit: below("/_threepid/submit_token") }
    }

    /// Where a client submits a token or a code: the `submit_url` of an answer.
    pub fn submit_url(&self) -> &str {
        self.submit.as_str()
    }

    /// Where the confirm form posts to: the page itself.
    pub fn action(&self) -> &str {
        self.confirm.as_str()
    }

    /// The link of one token.
    pub fn link(&self, sid: &Sid, token: &Token) -> String {
        let mut link = self.confirm.clone();
        link.query_pairs_mut().append_pair("sid", sid.as_str()).append_pair("token", token.expose());
        link.into()
    }
}

/// How a claimed message fared, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The next hop took it.
    Sent,
    /// It will be tried again.
    Retrying,
    /// It will never be taken.
    Dead,
    /// It was not worth sending any more.
    Expired,
    /// It was not worth sending: its recipient was told the same lately.
    Withheld,
    /// Another claim holds the message by now; how this try ended was not recorded.
    LeaseLost,
}

/// The ports that [`Relay`] stands on.
#[derive(Clone)]
pub struct RelayPorts {
    /// What is owed.
    pub outbox: Arc<dyn Outbox>,
    /// Where bindings are kept.
    pub store: Arc<dyn Store>,
    /// Sends mail, where this server does.
    pub mailer: Option<Arc<dyn Mailer>>,
    /// Sends SMS, where this server does.
    pub sms: Option<Arc<dyn SmsSender>>,
    /// Other servers' identity service.
    pub identity_servers: Arc<dyn IdentityServer>,
    /// The homeserver's copy, where there is to be one.
    pub mirror: Option<Arc<dyn Mirror>>,
    /// Renders texts.
    pub templates: Arc<dyn Templates>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Derives tokens and codes.
    pub secrets: Arc<dyn Secrets>,
    /// How often somebody is told the same.
    pub rate_limiter: Arc<dyn RateLimiter>,
}

/// What became of a message that no hop refused.
enum Handed {
    Over,
    Withheld,
}

/// Delivers what the outbox holds.
#[derive(Clone)]
pub struct Relay {
    ports: RelayPorts,
    links: ConfirmLinks,
    token_lifetime: Duration,
    retry: RetryPolicy,
}

impl Relay {
    /// A relay on these ports. Mails say that their links are good for `token_lifetime`.
    pub fn new(ports: RelayPorts, links: ConfirmLinks, token_lifetime: Duration, retry: RetryPolicy) -> Self {
        Self { ports, links, token_lifetime, retry }
    }

    /// Claims up to `limit` messages that are due.
    ///
    /// # Errors
    /// [`Unavailable`] when the outbox cannot answer now.
    pub async fn claim(&self, limit: usize) -> Result<Vec<Claimed>, Unavailable> {
        self.ports
            .outbox
            .claim(self.ports.clock.now(), self.retry.lease, self.ports.secrets.new_lease_id(), limit)
            .await
    }

    /// Returns when something may have become due.
    pub async fn woken(&self) {
        self.ports.outbox.woken().await;
    }

    /// Tries one claimed message and settles it.
    ///
    /// # Errors
    /// [`Unavailable`] when it could not be settled: the lease ends by itself, and the message is tried again.
    pub async fn deliver(&self, claimed: Claimed) -> Result<Delivered, Unavailable> {
        let Claimed { message, attempt, lease } = claimed;
        let (settlement, delivered) = self.attempt(&message, attempt).await;
        let settled =
            self.ports.outbox.settle(&message.id, &lease, self.ports.clock.now(), settlement).await?;
        Ok(if settled { delivered } else { Delivered::LeaseLost })
    }

    async fn attempt(&self, message: &OutboxMessage, attempt: u32) -> (Settlement, Delivered) {
        let (id, kind, to) = (&message.id, message.payload.kind(), message.payload.masked_recipient());
        let kept =
            |settlement| if message.payload.leaves_nothing() { Settlement::Forget } else { settlement };
        if self.ports.clock.now() >= message.not_after {
            tracing::warn!(message_id = %id, kind, to, attempt, "a message expired before it could be delivered");
            return (kept(Settlement::Expired), Delivered::Expired);
        }
        match self.send_or_withhold(message).await {
            Ok(Handed::Withheld) => {
                tracing::info!(message_id = %id, kind, to, attempt, "not sent: its recipient was told the same lately");
                (Settlement::Expired, Delivered::Withheld)
            }
            Ok(Handed::Over) => {
                tracing::info!(message_id = %id, kind, to, attempt, "delivered to the next hop");
                (kept(Settlement::Sent), Delivered::Sent)
            }
            Err(error @ DeliveryError::Transient(_)) => {
                let reason = reason(&error);
                let at = self.retry_at(message, attempt);
                tracing::warn!(message_id = %id, kind, to, attempt, error = reason, "not delivered, will be tried again");
                (Settlement::Retry { at, reason }, Delivered::Retrying)
            }
            Err(error @ DeliveryError::Permanent(_)) => {
                let reason = reason(&error);
                tracing::error!(message_id = %id, kind, to, attempt, error = reason, "undeliverable, kept as dead");
                (Settlement::Dead { reason }, Delivered::Dead)
            }
        }
    }

    /// Sends what informs somebody only as often as they want to hear it. That is decided here, where no client waits, so
    /// that no answer and no time of one tells whether there was anybody to inform. What is to be tried again is not counted;
    /// a crash between both leaves it counted, and the next day informs again.
    async fn send_or_withhold(&self, message: &OutboxMessage) -> Result<Handed, DeliveryError> {
        let Some(address) = message.payload.informed() else {
            return self.send(message).await.map(|()| Handed::Over);
        };
        let (limits, limit) = (&self.ports.rate_limiter, Limit::InUseNoticePerAddress);
        let subject = self.ports.secrets.address_key(&address).to_hex();
        match limits.take(limit, subject.clone()).await {
            Ok(Verdict::Allowed) => {}
            Ok(Verdict::RetryAfter(_)) => return Ok(Handed::Withheld),
            Err(error) => return Err(DeliveryError::Transient(error.into())),
        }
        let sent = self.send(message).await;
        if matches!(sent, Err(DeliveryError::Transient(_)))
            && let Err(error) = limits.give_back(limit, subject).await
        {
            tracing::warn!(limit = limit.name(), error = %error.source, "a message that is to be tried again stays counted");
        }
        sent.map(|()| Handed::Over)
    }

    async fn send(&self, message: &OutboxMessage) -> Result<(), DeliveryError> {
        match &message.payload {
            Payload::ValidationMail { to, sid, generation, with_code } => {
                let code = with_code.then(|| self.ports.secrets.code(sid, *generation));
                self.send_validation_mail(message, to, self.link(sid, *generation), code).await
            }
            Payload::ValidationSms { to, sid, generation } => {
                let code = self.ports.secrets.code(sid, *generation);
                self.send_validation_sms(message, to, self.link(sid, *generation), code).await
            }
            Payload::Unbind { user_id, address, server, forget: _ } => {
                let (user_id, address) = (user_id.clone(), address.clone());
                let key = BindingKey { user_id, address, server: server.clone() };
                self.unbind(key, message).await
            }
            Payload::Mirror { user_id } => self.mirror(user_id).await,
            Payload::InUseMail { to } => {
                let text = self.ports.templates.in_use_mail(InUseMail { to: to.clone() });
                self.send_mail(message, to, text).await
            }
            Payload::InUseSms { to } => {
                let text = self.ports.templates.in_use_sms(InUseSms { to: to.clone() });
                self.send_sms(message, to, text).await
            }
        }
    }

    fn link(&self, sid: &Sid, generation: Generation) -> String {
        self.links.link(sid, &self.ports.secrets.token(sid, generation))
    }

    async fn send_validation_sms(
        &self,
        message: &OutboxMessage,
        to: &Msisdn,
        link: String,
        code: Code,
    ) -> Result<(), DeliveryError> {
        let content = ValidationSms { to: to.clone(), code, link, valid_for: self.token_lifetime };
        self.send_sms(message, to, self.ports.templates.validation_sms(content)).await
    }

    async fn send_sms(
        &self,
        message: &OutboxMessage,
        to: &Msisdn,
        text: Result<String, Unavailable>,
    ) -> Result<(), DeliveryError> {
        let text = text.map_err(|error| DeliveryError::Transient(error.into()))?;
        match &self.ports.sms {
            Some(sms) => sms.send(Sms { id: message.id.clone(), to: to.clone(), text }).await,
            None => Err(DeliveryError::Transient("no SMS gateway is configured".into())),
        }
    }

    async fn send_validation_mail(
        &self,
        message: &OutboxMessage,
        to: &EmailAddress,
        link: String,
        code: Option<Code>,
    ) -> Result<(), DeliveryError> {
        let content = ValidationMail { to: to.clone(), link, code, valid_for: self.token_lifetime };
        self.send_mail(message, to, self.ports.templates.validation_mail(content)).await
    }

    async fn send_mail(
        &self,
        message: &OutboxMessage,
        to: &EmailAddress,
        text: Result<MailText, Unavailable>,
    ) -> Result<(), DeliveryError> {
        // A broken template is the operator's to mend, in time for the next try.
        let text = text.map_err(|error| DeliveryError::Transient(error.into()))?;
        let mail = Mail {
            id: message.id.clone(),
            to: to.clone(),
            subject: text.subject,
            text: text.text,
            html: text.html,
        };
        match &self.ports.mailer {
            Some(mailer) => mailer.send(mail).await,
            None => Err(DeliveryError::Transient("no mail transport is configured".into())),
        }
    }

    /// Asks an identity server to forget a binding, and drops the record once it has. A refusal ends what is owed and
    /// keeps the record. What was bound anew since it was owed stays bound.
    async fn unbind(&self, key: BindingKey, message: &OutboxMessage) -> Result<(), DeliveryError> {
        let owed_since = message.created_at;
        let transient = |error: Unavailable| DeliveryError::Transient(error.into());
        let BindingKey { user_id, address, server } = key.clone();
        let recorded = self.ports.store.bindings(&user_id, &address).await.map_err(transient)?;
        if recorded.iter().any(|binding| binding.server == server && binding.since > owed_since) {
            return Ok(());
        }
        let asked =
            self.ports.identity_servers.unbind(server.clone(), user_id.clone(), address.clone()).await;
        match asked {
            Ok(Unbound::Done) => {
                let entry = AuditEntry {
                    at: self.ports.clock.now(),
                    user_id,
                    address,
                    action: AuditAction::Unbound,
                    door: AuditDoor::Relay,
                    server: Some(server),
                    reference: Some(message.id.as_str().to_owned()),
                };
                let unit = UnitOfWork::new().remove_binding(key, owed_since);
                let unit = if message.payload.leaves_nothing() {
                    unit
                } else {
                    unit.audit_unbind(entry, message.id.clone())
                };
                let dropped = audit::commit(&*self.ports.store, unit).await;
                dropped.map_err(|error| DeliveryError::Transient(error.into()))
            }
            Ok(Unbound::NoSupport) => Err(DeliveryError::Permanent("the server does not support it".into())),
            Err(error @ IdentityServerError::Refused(_)) => Err(DeliveryError::Permanent(error.into())),
            Err(IdentityServerError::Unavailable(error)) => Err(transient(error)),
        }
    }

    /// Makes the homeserver's copy equal to what is stored, and looks again afterwards: two messages for one account may
    /// be under way at once, and the one that arrives last may have read first.
    async fn mirror(&self, user_id: &UserId) -> Result<(), DeliveryError> {
        let Some(mirror) = &self.ports.mirror else {
            return Err(DeliveryError::Permanent("no mirror is configured".into()));
        };
        let stored = || async {
            let threepids = self.ports.store.threepids(user_id).await;
            threepids.map_err(|error| DeliveryError::Transient(error.into()))
        };
        let mut told = stored().await?;
        for _ in 0..DECISIONS {
            mirror.put(user_id.clone(), told.clone()).await?;
            let now = stored().await?;
            if now == told {
                return Ok(());
            }
            told = now;
        }
        Err(DeliveryError::Transient("the contacts changed all the while".into()))
    }

    /// The next try, or the message's end where that comes first, so that it is counted as expired then.
    fn retry_at(&self, message: &OutboxMessage, attempt: u32) -> Timestamp {
        self.ports
            .clock
            .now()
            .plus(self.retry.wait(attempt, self.ports.secrets.jitter()))
            .min(message.not_after)
    }
}

/// An error and its causes, in one line.
fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
