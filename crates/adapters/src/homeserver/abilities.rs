//! What can the homeserver do? [`GET /capabilities`] with the caller's own token, passed on as it is written.
//!
//! [`GET /capabilities`]: https://spec.matrix.org/v1.18/client-server-api/#get_matrixclientv3capabilities

use async_trait::async_trait;
use threepid_domain::ports::{AnswerAsWritten, Credentials, HomeserverCapabilities, Unavailable};

use super::PORT;
use super::client::{Client, NoAnswer, Question};

const CAPABILITIES: &str = "/_matrix/client/v3/capabilities";

/// [`HomeserverCapabilities`] over HTTP.
pub struct HomeserverAbilities {
    client: Client,
}

impl HomeserverAbilities {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl std::fmt::Debug for HomeserverAbilities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HomeserverAbilities")
    }
}

#[async_trait]
impl HomeserverCapabilities for HomeserverAbilities {
    async fn capabilities(&self, credentials: Credentials) -> Result<AnswerAsWritten, Unavailable> {
        let answer = self.client.ask(Question::get(CAPABILITIES), &credentials).await;
        let answer = answer.map_err(|error| match error {
            NoAnswer::NobodysToken => Unavailable::new(PORT, "the access token cannot be sent"),
            NoAnswer::Unavailable(error) => error,
        })?;
        if !answer.status.is_success() && !answer.status.is_client_error() {
            return Err(answer.strange("is none for a client"));
        }
        Ok(AnswerAsWritten {
            status: answer.status.as_u16(),
            content_type: answer.content_type,
            retry_after: answer.retry_after,
            body: answer.body.into(),
        })
    }
}
