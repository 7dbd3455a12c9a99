//! A private certificate authority, made with openssl, for every peer that speaks TLS.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use super::process::{PeerError, Spec, temp_folder};

const DAYS: &str = "30";

/// A certificate authority of its own, gone with the struct.
#[derive(Debug)]
pub struct TestCa {
    folder: TempDir,
    issued: AtomicU32,
}

/// A server's certificate and key, PEM files in the authority's folder.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TestCa {
    /// Makes a new authority.
    ///
    /// # Errors
    ///
    /// openssl is missing or fails.
    pub fn new() -> Result<Self, PeerError> {
        let ca = Self { folder: temp_folder("ca")?, issued: AtomicU32::new(0) };
        std::fs::write(
            ca.file("ca.cnf"),
            "[req]\ndistinguished_name = name\nx509_extensions = ca\nprompt = no\n\
             [name]\nCN = threepid tests\n\
             [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\n\
             subjectKeyIdentifier = hash\n",
        )?;
        Spec::system("openssl")?
            .arg("req")
            .arg("-x509")
            .args_new_key(&ca.file("ca.key"))
            .arg("-config")
            .arg(ca.file("ca.cnf"))
            .arg("-days")
            .arg(DAYS)
            .arg("-out")
            .arg(ca.file("ca.pem"))
            .output()?;
        Ok(ca)
    }

    /// The authority's certificate as a PEM file: what a client is told to trust.
    pub fn certificate(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Issues a server certificate for names and IP addresses.
    ///
    /// # Errors
    ///
    /// openssl fails, most likely on a name.
    pub fn issue(&self, names: &[&str]) -> Result<Certificate, PeerError> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let alternatives: Vec<String> =
            names
                .iter()
                .map(|name| {
                    if name.parse::<IpAddr>().is_ok() { format!("IP:{name}") } else { format!("DNS:{name}") }
                })
                .collect();
        let settings = self.file(&format!("{number}.cnf"));
        std::fs::write(
            &settings,
            format!(
                "[req]\ndistinguished_name = name\nprompt = no\n[name]\nCN = threepid peer {number}\n\
                 [leaf]\nbasicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\n\
                 extendedKeyUsage = serverAuth\nauthorityKeyIdentifier = keyid\nsubjectAltName = {}\n",
                alternatives.join(", ")
            ),
        )?;
        let request = self.file(&format!("{number}.csr"));
        let issued = Certificate {
            certificate: self.file(&format!("{number}.pem")),
            key: self.file(&format!("{number}.key")),
        };
        Spec::system("openssl")?
            .arg("req")
            .args_new_key(&issued.key)
            .arg("-config")
            .arg(&settings)
            .arg("-out")
            .arg(&request)
            .output()?;
        Spec::system("openssl")?
            .arg("x509")
            .arg("-req")
            .arg("-in")
            .arg(&request)
            .arg("-CA")
            .arg(self.certificate())
            .arg("-CAkey")
            .arg(self.file("ca.key"))
            .arg("-set_serial")
            .arg((number + 2).to_string())
            .arg("-days")
            .arg(DAYS)
            .arg("-extfile")
            .arg(&settings)
            .arg("-extensions")
            .arg("leaf")
            .arg("-out")
            .arg(&issued.certificate)
            .output()?;
        Ok(issued)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Spec {
    fn args_new_key(self, key: &Path) -> Self {
        self.arg("-newkey")
            .arg("ec")
            .arg("-pkeyopt")
            .arg("ec_paramgen_curve:prime256v1")
            .arg("-nodes")
            .arg("-keyout")
            .arg(key)
    }
}
