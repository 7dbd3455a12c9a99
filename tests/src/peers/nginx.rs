//! A real front: nginx with TLS, routing as an operator's would.

use std::path::PathBuf;

use tempfile::TempDir;

use super::ca::TestCa;
use super::process::{PeerError, Process, Spec, free_port, temp_folder};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    port: u16,
    scheme: &'static str,
    process: Process,
    _folder: TempDir,
}

impl Nginx {
    /// Starts nginx on a free port, or on one that was picked with [`super::free_port`] because its number has
    /// to be known before (a homeserver named `127.0.0.1:{port}`).
    ///
    /// `names` go into the certificate; `locations` is what stands in the `server` block.
    ///
    /// # Errors
    ///
    /// It is not installed, or refuses the settings.
    pub async fn start(
        ca: &TestCa,
        port: Option<u16>,
        names: &[&str],
        locations: &str,
    ) -> Result<Self, PeerError> {
        let certificate = ca.issue(names)?;
        let port = port.map_or_else(free_port, Ok)?;
        let server = format!(
            "listen 127.0.0.1:{port} ssl;\n\
             ssl_certificate {certificate};\nssl_certificate_key {key};\n\
             {locations}\n",
            certificate = certificate.certificate.display(),
            key = certificate.key.display(),
        );
        Self::serve(port, "https", &server).await
    }

    /// Starts nginx without TLS on a free port that was picked with [`super::free_port`].
    ///
    /// # Errors
    ///
    /// It is not installed, or refuses the settings.
    pub async fn start_plain(port: u16, locations: &str) -> Result<Self, PeerError> {
        Self::serve(port, "http", &format!("listen 127.0.0.1:{port};\n{locations}\n")).await
    }

    async fn serve(port: u16, scheme: &'static str, server: &str) -> Result<Self, PeerError> {
        let folder = temp_folder("nginx")?;
        let settings = folder.path().join("nginx.conf");
        // One process without a master: it keeps the user that started it, and so can read this folder.
        let text = format!(
            "daemon off;\nmaster_process off;\npid {home}/nginx.pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
             access_log {home}/access.log;\n\
             client_body_temp_path {home}/body;\nproxy_temp_path {home}/proxy;\n\
             fastcgi_temp_path {home}/fastcgi;\nuwsgi_temp_path {home}/uwsgi;\nscgi_temp_path {home}/scgi;\n\
             server {{\n{server}}}\n}}\n",
            home = folder.path().display(),
        );
        std::fs::write(&settings, text)?;
        let spec = Spec::system("nginx")?
            .arg("-e")
            .arg("stderr")
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(&settings);
        let mut process = Process::start(spec, folder.path())?;
        process
            .ready(|| async { Ok(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()) })
            .await?;
        Ok(Self { port, scheme, process, _folder: folder })
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `https://127.0.0.1:{port}`, or `http`, without a slash at the end.
    pub fn base_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// nginx's error log.
    pub fn log(&self) -> PathBuf {
        self.process.log().to_owned()
    }
}

/// The routes of a real deployment: the contact API goes to `threepid`, everything else to the homeserver.
///
/// Both are base URLs without a slash at the end.
pub fn front(threepid: &str, homeserver: &str) -> String {
    let pass = |to: &str| {
        format!(
            "proxy_pass {to};\nproxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-For $remote_addr;\nproxy_set_header X-Forwarded-Proto $scheme;\n"
        )
    };
    let (threepid, homeserver) = (pass(threepid), pass(homeserver));
    format!(
        "location ~ ^/_matrix/client/(r0|v3|unstable)/account/3pid {{\n{threepid}}}\n\
         location /_threepid/ {{\n{threepid}}}\n\
         location / {{\n{homeserver}}}\n"
    )
}
