//! The server as a library: the HTTP doors of the Account Administrative Contact API, and the relay that delivers
//! what they owe, on any implementation of the domain's ports.
//!
//! ```no_run
//! # async fn run(builder: threepid_server::Builder) -> Result<(), Box<dyn std::error::Error>> {
//! // A `Builder` that was given its ports; see its methods.
//! let app = builder.build()?;
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await?;
//! app.serve(listener, None, async { /* until it is told to stop */ }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Whoever has a server already mounts [`App::router`] in it and runs [`App::worker`] beside it.
//!
//! Nothing here decides: handlers parse, call one command of the domain, and present its answer; the table from its
//! errors to the wire stands in one place, `http/error.rs`. It follows the [Account Administrative Contact API].
//!
//! [Account Administrative Contact API]: https://spec.matrix.org/v1.18/client-server-api/#adding-account-administrative-contact-information

#![cfg_attr(not(test), warn(clippy::string_slice, clippy::unreachable))]

mod builder;
mod client_stream;
mod housekeeping;
mod http;
mod metrics;
mod server;
mod sweep;
mod worker;

pub use builder::{App, BuildError, Builder};
pub use housekeeping::{Caretaker, HousekeepingSettings};
pub use http::{ForwardingHeader, HttpSettings};
pub use metrics::{Metrics, PoolState};
pub use server::ServeError;
pub use sweep::{Sweep, SweepSettings};
pub use worker::{Worker, WorkerSettings};

/// The OpenAPI 3.1 document of the API: JSON, ended by a line feed.
pub fn openapi() -> &'static str {
    http::DOCUMENT.as_str()
}
