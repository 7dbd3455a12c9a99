//! The SMS sender's contract, held by the adapter against a gateway over HTTP, asked in each of the ways there are.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use threepid_adapters::sms::{HttpSmsSender, HttpSmsSettings, SmsMethod};
use threepid_domain::testing::contract::{ArrivedSms, Gateway, GatewayMood, Phones, SmsBackend};
use threepid_tests::peers::{SmsGateway, SmsMode};

/// The gateway as a case sees it.
struct Site(SmsGateway);

#[async_trait]
impl Phones for Site {
    async fn arrived(&self) -> Vec<ArrivedSms> {
        let arrived = self.0.messages().into_iter();
        arrived.map(|sms| ArrivedSms { recipients: sms.to, text: sms.text, reference: sms.id }).collect()
    }
}

#[async_trait]
impl Gateway for Site {
    async fn behave(&self, mood: GatewayMood) {
        self.0.set_mode(match mood {
            GatewayMood::Takes => SmsMode::Accept,
            GatewayMood::Defers => SmsMode::Fail,
            GatewayMood::Refuses => SmsMode::Reject,
            GatewayMood::Babbles => SmsMode::Page,
            GatewayMood::Silent => SmsMode::Hang,
            GatewayMood::Gone => SmsMode::Drop,
            GatewayMood::LosesTheAnswer => SmsMode::KeepAndDrop,
        });
    }
}

/// A backend whose gateway is asked as `settings` say.
async fn asked(settings: impl Fn(&str) -> HttpSmsSettings) -> SmsBackend {
    backend(settings).await.unwrap_or_else(|error| unreachable!("{error}"))
}

async fn backend(
    settings: impl Fn(&str) -> HttpSmsSettings,
) -> Result<SmsBackend, Box<dyn std::error::Error + Send + Sync>> {
    let site = Arc::new(Site(SmsGateway::start().await?));
    let settings = HttpSmsSettings {
        timeout: Duration::from_secs(2),
        sent_if: Some("\"status\": *\"accepted\"".to_owned()),
        ..settings(site.0.url())
    };
    let sender = Arc::new(HttpSmsSender::new(&settings)?);
    let (phones, gateway) = (site.clone(), Some(site as Arc<dyn Gateway>));
    Ok(SmsBackend { sender, phones, knows_references: true, gateway, keep: Box::new(()) })
}

fn with_body(url: &str, content_type: &str, body: &str) -> HttpSmsSettings {
    HttpSmsSettings {
        headers: vec![("Content-Type".to_owned(), content_type.to_owned())],
        body: Some(body.to_owned()),
        ..HttpSmsSettings::new(url)
    }
}

mod json {
    use super::*;

    const BODY: &str =
        r#"{"to": [{{ to_plus | tojson }}], "text": {{ text | tojson }}, "id": {{ id | tojson }}}"#;

    async fn fresh() -> SmsBackend {
        asked(|url| with_body(url, "application/json", BODY)).await
    }

    threepid_domain::sms_sender_contract!(fresh());
    threepid_domain::sms_gateway_contract!(fresh());
}

mod form {
    use super::*;

    const BODY: &str = "to={{ to_plus | urlencode }}&text={{ text | urlencode }}&id={{ id | urlencode }}";

    async fn fresh() -> SmsBackend {
        let put = |url: &str| HttpSmsSettings {
            method: SmsMethod::Put,
            ..with_body(url, "application/x-www-form-urlencoded", BODY)
        };
        asked(put).await
    }

    threepid_domain::sms_sender_contract!(fresh());
    threepid_domain::sms_gateway_contract!(fresh());
}

mod query {
    use super::*;

    const QUERY: &str = "to={{ to }}&text={{ text | urlencode }}&id={{ id | urlencode }}";

    async fn fresh() -> SmsBackend {
        let get = |url: &str| HttpSmsSettings {
            method: SmsMethod::Get,
            ..HttpSmsSettings::new(format!("{url}?{QUERY}"))
        };
        asked(get).await
    }

    threepid_domain::sms_sender_contract!(fresh());
    threepid_domain::sms_gateway_contract!(fresh());
}
