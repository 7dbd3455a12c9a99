//! TLS as a client: certificates as the system verifies them, with authorities of the operator's besides.

use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls_platform_verifier::Verifier;

/// Why nobody can be trusted.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// The operator's certificates cannot be read: why.
    ExtraCa(String),
    /// TLS cannot be set up: why.
    Setup(String),
}

/// Trusts the system's certificate authorities, and those in the file `extra_ca` (PEM).
pub(crate) fn client_config(extra_ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let extra_roots = extra_ca.map(certificates).transpose()?.unwrap_or_default();
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(extra_roots, provider.clone()).map_err(setup)?;
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(setup)?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth())
}

/// Trusts nobody, for who speaks plain HTTP: a machine without any trusted certificate can do that. The file is still
/// read, so that a wrong one is found.
#[cfg(any(feature = "homeserver", feature = "sms"))]
pub(crate) fn no_one_trusted(extra_ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    extra_ca.map(certificates).transpose()?;
    let provider: Arc<CryptoProvider> = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(setup)?;
    Ok(config.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth())
}

fn setup(error: rustls::Error) -> TlsError {
    TlsError::Setup(error.to_string())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    match certificates {
        Err(error) => Err(TlsError::ExtraCa(error.to_string())),
        Ok(none) if none.is_empty() => Err(TlsError::ExtraCa("no PEM certificate in it".to_owned())),
        Ok(certificates) => Ok(certificates),
    }
}
