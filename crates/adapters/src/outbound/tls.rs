//! TLS as the system verifies it, with certificate authorities of the operator's besides.

use std::path::Path;

use rustls::ClientConfig;

use super::OutboundError;
use crate::tls::{self, TlsError};

/// A configuration that trusts the system's certificate authorities and the ones in `extra_ca_file`.
///
/// # Errors
/// [`OutboundError`].
pub(super) fn client_config(extra_ca_file: Option<&Path>) -> Result<ClientConfig, OutboundError> {
    tls::client_config(extra_ca_file).map_err(|error| match error {
        TlsError::ExtraCa(why) => {
            OutboundError::ExtraCa { path: extra_ca_file.map(Path::to_owned).unwrap_or_default(), why }
        }
        TlsError::Setup(why) => OutboundError::Tls(why),
    })
}
