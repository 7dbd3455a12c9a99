//! threepid on a storage backend and a mail backend of one's own.

use std::{path::Path, sync::Arc};

use own_backends::{json_store::JsonStore, spool_mailer::SpoolMailer};
use threepid_adapters::homeserver::{Homeserver, HomeserverSettings};
use threepid_adapters::limits::{LimitSettings, Limiter};
use threepid_adapters::secrets::{RingSecrets, ServerKey, SystemClock};
use threepid_adapters::templates::{MinijinjaTemplates, TemplateSettings};
use threepid_server::Builder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let store = Arc::new(JsonStore::open(Path::new("threepid.json"))?);
    let homeserver = Homeserver::new(&HomeserverSettings::new("http://127.0.0.1:8008".parse()?))?;
    let secrets = Arc::new(RingSecrets::new(&ServerKey::load_or_create(Path::new("server.key"))?));
    let probing = secrets.clone();
    let app = Builder::new("https://matrix.example.org".parse()?)
        .store(store.clone())
        .outbox(store)
        .mailer(Arc::new(SpoolMailer::new(Path::new("spool"))))
        .access_tokens(Arc::new(homeserver.tokens()))
        .reauthentication(Arc::new(
            homeserver.reauthentication(move |user, sid| probing.probe_device_id(user, sid)),
        ))
        .capabilities(Arc::new(homeserver.abilities()))
        .rate_limiter(Arc::new(Limiter::in_memory(&LimitSettings::default(), Arc::new(SystemClock))?))
        .templates(Arc::new(MinijinjaTemplates::new(&TemplateSettings {
            app_name: "matrix.example.org".to_owned(),
            folder: None,
        })?))
        .clock(Arc::new(SystemClock))
        .secrets(secrets)
        .build()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
    Ok(app.serve(listener, None, async { drop(tokio::signal::ctrl_c().await) }).await?)
}
