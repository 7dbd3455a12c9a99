//! From the settings to what sends SMS.

use std::sync::Arc;

use threepid_adapters::sms::{HttpSmsSender, HttpSmsSettings, SmsMethod as Method};
use threepid_domain::ports::SmsSender;

use crate::cli::Failure;
use crate::config::{Config, SmsGateway, SmsMethod, SmsTransport};

/// What sends SMS, as the settings say.
///
/// # Errors
/// [`Failure`], which names the setting.
pub(crate) fn sms_sender(config: &Config) -> Result<Option<Arc<dyn SmsSender>>, Failure> {
    match &config.sms {
        SmsTransport::None => Ok(None),
        SmsTransport::Http(gateway) => Ok(Some(Arc::new(http_sender(gateway)?))),
    }
}

fn http_sender(gateway: &SmsGateway) -> Result<HttpSmsSender, Failure> {
    let exposed = |(name, value): &(String, crate::config::Secret)| (name.clone(), value.expose().to_owned());
    let settings = HttpSmsSettings {
        method: match gateway.method {
            SmsMethod::Post => Method::Post,
            SmsMethod::Put => Method::Put,
            SmsMethod::Get => Method::Get,
        },
        headers: gateway.headers.iter().map(exposed).collect(),
        body: gateway.body.as_ref().map(|body| body.expose().to_owned()),
        credentials: gateway.credentials.as_ref().map(exposed),
        secret: gateway.secret.as_ref().map(|secret| secret.expose().to_owned()),
        extra_ca: gateway.ca_file.clone(),
        timeout: gateway.timeout,
        sent: gateway.sent.clone(),
        give_up: gateway.give_up.clone(),
        sent_if: gateway.sent_if.clone(),
        give_up_if: gateway.give_up_if.clone(),
        ..HttpSmsSettings::new(gateway.url.expose())
    };
    HttpSmsSender::new(&settings).map_err(|error| {
        let setting = match error.setting {
            "extra_ca" => "ca_file",
            as_it_is => as_it_is,
        };
        Failure::setting(&format!("sms.http.{setting}"), &error)
    })
}

#[cfg(test)]
mod tests;
