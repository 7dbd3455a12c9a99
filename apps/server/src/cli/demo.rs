//! `threepid demo`: everything in one process, on loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use threepid_domain::model::UserId;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{Failure, Output, logs, signals};
use crate::config::{Config, ConfigError};
use crate::demo::{self, DemoAccount, DemoFolder, Scene, Story, Walkthrough};
use crate::wiring::{self, Opened};

/// Where it listens if nothing is said and the port is free.
const USUAL_PORT: u16 = 8090;

/// How the demo is run.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep the database here, and go on with it next time. Without it: in a new folder that goes with the demo.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Listen here, on a loopback address. Without it: on port 8090, or on any other if that is taken.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Tell the whole story against the demo's own port, compare each answer with what must come, and end. Exits with
    /// 1 if any step differs.
    #[arg(long, conflicts_with = "folder")]
    play: bool,
}

pub(super) async fn run(arguments: Arguments, output: Output) -> Result<(), Failure> {
    let listener = listen(arguments.listen).await?;
    let address = listener.local_addr().map_err(|error| Failure::running("cannot listen", error))?;
    let folder = DemoFolder::open(arguments.folder)
        .map_err(|error| Failure::running("cannot make a folder for the demo", error))?;
    let config =
        Config::for_demo(folder.path(), address).map_err(|problems| ConfigError::Wrong { problems })?;
    let _logs = logs::start(&config.log);
    let opened = Opened::open(&config).await?;
    let (mailer, caught) = wiring::memory_mailer()?;
    let app = opened.app(&config, Some(mailer), None)?;
    let scene = scene(config.public_base_url.clone(), &opened).await?;
    let mailbox = demo::mailbox(caught, wiring::PAGE_STYLE);

    let stop = CancellationToken::new();
    let interrupted = signals::stop().map_err(|error| Failure::running("cannot wait for signals", error))?;
    let until = {
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = interrupted => {}
                () = stop.cancelled() => {}
            }
        }
    };
    let serving = app.serve(listener, Some(mailbox), until);
    let telling = async {
        if arguments.play {
            let told = play(&scene, output).await;
            stop.cancel();
            told
        } else {
            output.text(Walkthrough { scene: &scene, folder: folder.path(), is_temporary: folder.is_ours() });
            Ok(())
        }
    };
    let (served, told) = tokio::join!(serving, telling);
    opened.close().await;
    told?;
    served.map_err(|error| Failure::running("the demo ended", error))
}

async fn play(scene: &Scene, output: Output) -> Result<(), Failure> {
    let tell = |line: String| output.line(line);
    let held = Story::new(scene, &tell).play().await;
    let steps = held.map_err(|error| Failure::running("the demo's story did not hold", error))?;
    output.line(format_args!("the demo's story held: {steps} steps"));
    Ok(())
}

/// The demo shows tokens and mail to whoever asks, so it never leaves this machine.
async fn listen(wish: Option<SocketAddr>) -> Result<TcpListener, Failure> {
    let cannot = |address: SocketAddr| {
        move |error: io::Error| Failure::running(format!("cannot listen on {address}"), error)
    };
    match wish {
        Some(address) if !address.ip().is_loopback() => Err(Failure::Usage(format!(
            "--listen {address}: the demo shows its mail and tokens to everybody, so it listens on loopback alone, \
             such as 127.0.0.1:{USUAL_PORT}"
        ))),
        Some(address) => TcpListener::bind(address).await.map_err(cannot(address)),
        None => {
            let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, USUAL_PORT));
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            match TcpListener::bind(usual).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    TcpListener::bind(any).await.map_err(cannot(any))
                }
                bound => bound.map_err(cannot(usual)),
            }
        }
    }
}

async fn scene(base: Url, opened: &Opened) -> Result<Scene, Failure> {
    let account = async |name: &str| {
        let user = UserId::parse(name).map_err(|error| Failure::running(format!("{name:?}"), error))?;
        opened.add_account(&user, false).await?;
        let token = opened.issue_token(&user, None).await?;
        Ok::<_, Failure>(DemoAccount { user, token })
    };
    Ok(Scene {
        base,
        alice: account("@alice:demo.localhost").await?,
        bob: account("@bob:demo.localhost").await?,
        client_secret: opened.new_client_secret(),
    })
}
