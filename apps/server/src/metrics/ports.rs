//! Decorators of ports that count how their calls end, and pass everything through as it is.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Map, Value};
use threepid_domain::model::{
    Address, Backlog, Caller, Claimed, IdAccessToken, IdentityServerName, LeaseId, MessageId, Settlement,
    Threepid, Timestamp, TrustedServers, UserId,
};
use threepid_domain::ports::{
    AccessTokens, AccountState, AccountStates, AnswerAsWritten, Answered, AskedAgain, ChallengeToPassOn,
    Credentials, DeliveryError, Freshness, HomeserverCapabilities, Housekeeping, IdentityServer,
    IdentityServerError, Limit, Mail, Mailer, Mirror, OpenedRemotely, Outbox, OverLimit, Perishable,
    RateLimiter, Reauthentication, ReauthenticationError, RemoteCredentials, RemoteTokenRequest,
    RemoteValidation, Sms, SmsSender, Unavailable, Unbound, Verdict, WhoseTokenError,
};

use super::calls::{Calls, Outcome};
use super::families::{Counters, Families, LimitLabels, OUTCOMES, ServerLabels, WhatLabels};

/// A decorator with the handles of these calls.
macro_rules! counted {
    ($name:ident: $port:ty = $label:literal { $($call:ident),+ }) => {
        pub(super) struct $name {
            inner: Arc<$port>,
            $($call: Calls,)+
        }

        impl $name {
            pub(super) fn new(inner: Arc<$port>, families: &Families) -> Self {
                Self::called($label, inner, families)
            }

            pub(super) fn called(label: &'static str, inner: Arc<$port>, families: &Families) -> Self {
                Self { inner, $($call: Calls::new(families, label, stringify!($call)),)+ }
            }
        }
    };
}

pub(super) use counted;

counted!(CountedOutbox: dyn Outbox = "outbox" { claim, settle, backlog });
counted!(CountedMailer: dyn Mailer = "mailer" { send });
counted!(CountedSmsSender: dyn SmsSender = "sms_sender" { send });
counted!(CountedAccessTokens: dyn AccessTokens = "access_tokens" { for_reading, for_change });
counted!(CountedReauthentication: dyn Reauthentication = "reauthentication" { challenge, answer });
counted!(CountedCapabilities: dyn HomeserverCapabilities = "capabilities" { capabilities });
counted!(CountedMirror: dyn Mirror = "mirror" { put });
counted!(CountedAccountStates: dyn AccountStates = "account_states" { state });

#[async_trait]
impl Outbox for CountedOutbox {
    async fn claim(
        &self,
        now: Timestamp,
        lease: Duration,
        lease_id: LeaseId,
        limit: usize,
    ) -> Result<Vec<Claimed>, Unavailable> {
        self.claim.watch(self.inner.claim(now, lease, lease_id, limit)).await
    }

    async fn settle(
        &self,
        id: &MessageId,
        lease_id: &LeaseId,
        now: Timestamp,
        settlement: Settlement,
    ) -> Result<bool, Unavailable> {
        self.settle.watch(self.inner.settle(id, lease_id, now, settlement)).await
    }

    async fn backlog(&self) -> Result<Vec<Backlog>, Unavailable> {
        self.backlog.watch(self.inner.backlog()).await
    }

    async fn woken(&self) {
        self.inner.woken().await;
    }
}

#[async_trait]
impl Mailer for CountedMailer {
    async fn send(&self, mail: Mail) -> Result<(), DeliveryError> {
        self.send.watch(self.inner.send(mail)).await
    }
}

#[async_trait]
impl SmsSender for CountedSmsSender {
    async fn send(&self, sms: Sms) -> Result<(), DeliveryError> {
        self.send.watch(self.inner.send(sms)).await
    }
}

#[async_trait]
impl AccessTokens for CountedAccessTokens {
    async fn whose(&self, credentials: Credentials, freshness: Freshness) -> Result<Caller, WhoseTokenError> {
        let calls = match freshness {
            Freshness::ForReading => &self.for_reading,
            Freshness::ForChange => &self.for_change,
        };
        calls.watch(self.inner.whose(credentials, freshness)).await
    }
}

#[async_trait]
impl Reauthentication for CountedReauthentication {
    async fn challenge(&self, asked: AskedAgain) -> Result<ChallengeToPassOn, ReauthenticationError> {
        self.challenge.watch(self.inner.challenge(asked)).await
    }

    async fn answer(
        &self,
        asked: AskedAgain,
        auth: Map<String, Value>,
    ) -> Result<Answered, ReauthenticationError> {
        self.answer.watch(self.inner.answer(asked, auth)).await
    }
}

#[async_trait]
impl HomeserverCapabilities for CountedCapabilities {
    async fn capabilities(&self, credentials: Credentials) -> Result<AnswerAsWritten, Unavailable> {
        self.capabilities.watch(self.inner.capabilities(credentials)).await
    }
}

#[async_trait]
impl Mirror for CountedMirror {
    async fn put(&self, user_id: UserId, threepids: Vec<Threepid>) -> Result<(), DeliveryError> {
        self.put.watch(self.inner.put(user_id, threepids)).await
    }
}

/// Counts what was removed, too.
pub(super) struct CountedHousekeeping {
    inner: Arc<dyn Housekeeping>,
    purge: Calls,
    purged: Counters<WhatLabels>,
}

impl CountedHousekeeping {
    pub(super) fn new(inner: Arc<dyn Housekeeping>, families: &Families) -> Self {
        let purge = Calls::new(families, "housekeeping", "purge");
        Self { inner, purge, purged: families.purged.clone() }
    }
}

#[async_trait]
impl Housekeeping for CountedHousekeeping {
    async fn purge(&self, what: Perishable, before: Timestamp, limit: usize) -> Result<usize, Unavailable> {
        let removed = self.purge.watch(self.inner.purge(what, before, limit)).await?;
        let removed_now = u64::try_from(removed).unwrap_or(u64::MAX);
        self.purged.get_or_create(&WhatLabels { what: what.as_str() }).inc_by(removed_now);
        Ok(removed)
    }
}

#[async_trait]
impl AccountStates for CountedAccountStates {
    async fn state(&self, user_id: UserId) -> Result<AccountState, Unavailable> {
        self.state.watch(self.inner.state(user_id)).await
    }
}

/// Counts by server, too: which one is down is what an operator wants to know. Only trusted ones are ever asked.
pub(super) struct CountedIdentityServers {
    inner: Arc<dyn IdentityServer>,
    request_token: Calls,
    validated: Calls,
    bind: Calls,
    unbind: Calls,
    servers: Counters<ServerLabels>,
}

impl CountedIdentityServers {
    pub(super) fn new(inner: Arc<dyn IdentityServer>, trusted: &TrustedServers, families: &Families) -> Self {
        let servers = families.servers.clone();
        for server in trusted.names() {
            for outcome in OUTCOMES {
                drop(servers.get_or_create(&ServerLabels { server: server.to_string(), outcome }));
            }
        }
        let calls = |call| Calls::new(families, "identity_servers", call);
        Self {
            inner,
            request_token: calls("request_token"),
            validated: calls("validated"),
            bind: calls("bind"),
            unbind: calls("unbind"),
            servers,
        }
    }

    async fn watch<T>(
        &self,
        calls: &Calls,
        server: IdentityServerName,
        call: impl Future<Output = Result<T, IdentityServerError>> + Send,
    ) -> Result<T, IdentityServerError> {
        let answer = calls.watch(call).await;
        let labels = ServerLabels { server: server.into(), outcome: Outcome::of(&answer).as_str() };
        self.servers.get_or_create(&labels).inc();
        answer
    }
}

#[async_trait]
impl IdentityServer for CountedIdentityServers {
    async fn request_token(
        &self,
        server: IdentityServerName,
        request: RemoteTokenRequest,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<OpenedRemotely, IdentityServerError> {
        let call = self.inner.request_token(server.clone(), request, id_access_token);
        self.watch(&self.request_token, server, call).await
    }

    async fn validated(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Option<RemoteValidation>, IdentityServerError> {
        let call = self.inner.validated(server.clone(), session, id_access_token);
        self.watch(&self.validated, server, call).await
    }

    async fn bind(
        &self,
        server: IdentityServerName,
        session: RemoteCredentials,
        user_id: UserId,
        id_access_token: Option<IdAccessToken>,
    ) -> Result<Address, IdentityServerError> {
        let call = self.inner.bind(server.clone(), session, user_id, id_access_token);
        self.watch(&self.bind, server, call).await
    }

    async fn unbind(
        &self,
        server: IdentityServerName,
        user_id: UserId,
        address: Address,
    ) -> Result<Unbound, IdentityServerError> {
        let call = self.inner.unbind(server.clone(), user_id, address);
        self.watch(&self.unbind, server, call).await
    }
}

/// Counts what each limit says.
pub(super) struct CountedRateLimiter {
    inner: Arc<dyn RateLimiter>,
    take: Calls,
    verdicts: Counters<LimitLabels>,
    /// Those that were needed before, by limit: allowed and refused.
    known: [OnceLock<[Counter; 2]>; Limit::ALL.len()],
}

impl CountedRateLimiter {
    pub(super) fn new(inner: Arc<dyn RateLimiter>, families: &Families) -> Self {
        let take = Calls::new(families, "rate_limiter", "take");
        Self { inner, take, verdicts: families.limits.clone(), known: Default::default() }
    }

    /// Both verdicts' counters, so that a limit which has refused nothing yet says so.
    fn counters(&self, limit: Limit) -> &[Counter; 2] {
        self.known[limit as usize].get_or_init(|| {
            let limit = limit.name();
            ["allowed", "refused"]
                .map(|verdict| self.verdicts.get_or_create_owned(&LimitLabels { limit, verdict }))
        })
    }
}

#[async_trait]
impl RateLimiter for CountedRateLimiter {
    async fn take(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        let verdict = self.take.watch(self.inner.take(limit, subject)).await?;
        let [allowed, refused] = self.counters(limit);
        match verdict {
            Verdict::Allowed => allowed.inc(),
            Verdict::RetryAfter(_) => refused.inc(),
        };
        Ok(verdict)
    }

    async fn take_each(&self, acts: Vec<(Limit, String)>) -> Result<Result<(), OverLimit>, Unavailable> {
        let limits: Vec<_> = acts.iter().map(|(limit, _)| *limit).collect();
        let judged = self.take.watch(self.inner.take_each(acts)).await?;
        let refused = judged.as_ref().err().map(|over| over.limit);
        for limit in limits {
            let [allowed, over] = self.counters(limit);
            if refused == Some(limit) {
                over.inc();
                break;
            }
            allowed.inc();
        }
        Ok(judged)
    }

    fn known(&self, limit: Limit, subject: &str) -> Verdict {
        let verdict = self.inner.known(limit, subject);
        let [_, refused] = self.counters(limit);
        if verdict != Verdict::Allowed {
            refused.inc();
        }
        verdict
    }

    /// A look that refuses somebody is a refusal; one that does not is nothing yet.
    async fn look(&self, limit: Limit, subject: String) -> Result<Verdict, Unavailable> {
        let verdict = self.inner.look(limit, subject).await?;
        let [_, refused] = self.counters(limit);
        if verdict != Verdict::Allowed {
            refused.inc();
        }
        Ok(verdict)
    }

    async fn give_back(&self, limit: Limit, subject: String) -> Result<(), Unavailable> {
        self.inner.give_back(limit, subject).await
    }
}
