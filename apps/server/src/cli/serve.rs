//! `threepid serve`: the server, until it is told to stop.

use std::net::SocketAddr;

use threepid_server::Metrics;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Failure, SettingsSource, logs, open_files, signals};
use crate::config::Accounts;
use crate::wiring::{self, Opened};

pub(super) async fn run(settings: &SettingsSource) -> Result<(), Failure> {
    let mut config = settings.load()?;
    // A setting that an adapter refuses is said before a database is made or migrated.
    wiring::rehearse(&config)?;
    let _logs = logs::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!(setting = warning.setting, "{warning}");
    }
    config.http.max_connections = open_files::connections(config.http.max_connections);
    let mailer = wiring::mailer(&config)?;
    let opened = Opened::open(&config).await?;
    let metrics = config.metrics.map(|_| Metrics::new(env!("CARGO_PKG_VERSION")));
    let app = opened.app(&config, mailer, metrics.clone())?;
    let listening = |error| Failure::running(format!("cannot listen on {}", config.listen), error);
    let listener = TcpListener::bind(config.listen).await.map_err(listening)?;
    let scraped = match (config.metrics, metrics) {
        (Some(address), Some(metrics)) => Some(tell(metrics, address).await?),
        _ => None,
    };
    let stop = signals::stop().map_err(|error| Failure::running("cannot wait for signals", error))?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = %listener.local_addr().map_err(listening)?,
        public_base_url = %config.public_base_url,
        database = %config.database.url,
        mail = %config.mail.transport,
        sms = %config.sms,
        accounts = match &config.accounts {
            Accounts::Homeserver(homeserver) => homeserver.base_url.as_str(),
            Accounts::Local => "local",
        },
        "serving"
    );
    let served = app.serve(listener, None, stop).await;
    // Until now, so that whoever watches sees it stop.
    drop(scraped);
    opened.close().await;
    served.map_err(|error| Failure::running("the server ended", error))?;
    tracing::info!("stopped");
    Ok(())
}

/// Answers scrapes at `address` until what this gives is dropped.
async fn tell(metrics: Metrics, address: SocketAddr) -> Result<JoinSet<()>, Failure> {
    let listening = |error| Failure::running(format!("cannot listen on {address} (metrics.listen)"), error);
    let listener = TcpListener::bind(address).await.map_err(listening)?;
    tracing::info!(listen = %listener.local_addr().map_err(listening)?, "telling metrics");
    let mut scraped = JoinSet::new();
    scraped.spawn(metrics.serve(listener, std::future::pending()));
    Ok(scraped)
}
