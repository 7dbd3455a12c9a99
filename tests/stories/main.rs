//! The stories: black-box tests with the real peers, one module per subject.

mod account_record;
mod account_states;
mod alerts;
mod audit;
mod backup;
mod bad_input;
mod command_line;
mod confirm_page;
mod connections;
mod deploy;
mod endpoints;
mod erase;
mod fake;
mod hidden_in_use;
mod homeserver;
mod identity_contract;
mod identity_server;
mod import;
mod main_thread;
mod mirror;
mod monitoring;
mod openapi;
mod outbox;
mod pages;
mod peers;
mod phone;
mod postgres;
mod raw_connections;
mod reauthentication;
mod refused_database;
mod sms_contract;
mod sweep;
mod unwell_mail_server;
mod upgrade;

use std::error::Error;

use threepid_tests::peers::{PeerError, Synapse};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

/// How a story ends.
type Story = Result<(), Box<dyn Error + Send + Sync>>;

/// The homeserver of all stories that neither stop nor set it up. Its lifeline ends it with this process.
async fn shared_homeserver() -> Result<&'static Synapse, PeerError> {
    static HOMESERVER: OnceCell<Synapse> = OnceCell::const_new();
    HOMESERVER.get_or_try_init(Synapse::start).await
}

/// Serves one page on a free port for as long as the test runs, whatever is asked for.
async fn serve(page: &'static str) -> Result<String, Box<dyn Error + Send + Sync>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n{page}",
                    page.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok(url)
}
