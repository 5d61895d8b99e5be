//! TLS to the collector: whom to trust and whom to be.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::{ExportError, Settings};

/// The TLS side of a connection. Certificate authorities are read only for `https`: the system's are some 150.
pub(super) fn config(settings: &Settings, tls: bool) -> Result<ClientConfig, ExportError> {
    let roots = match (tls, &settings.certificate) {
        (false, _) => RootCertStore::empty(),
        (true, Some(path)) => file_roots(path)?,
        (true, None) => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(ExportError::Identity)?
        .with_root_certificates(roots);
    if !tls {
        return Ok(builder.with_no_client_auth());
    }
    match (&settings.client_certificate, &settings.client_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(_), None) => Err(ExportError::HalfIdentity { missing: "key" }),
        (None, Some(_)) => Err(ExportError::HalfIdentity { missing: "certificate" }),
        (Some(certificate), Some(key)) => {
            let chain = certificates("client certificate", certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable("client key", key, &e))?;
            builder.with_client_auth_cert(chain, key).map_err(ExportError::Identity)
        }
    }
}

fn file_roots(path: &Path) -> Result<RootCertStore, ExportError> {
    const WHAT: &str = "CA certificate";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(WHAT, path)? {
        roots.add(certificate).map_err(|e| ExportError::Pem { what: WHAT, path: path.into(), reason: e.to_string() })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, ExportError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reason = found.errors.first().map_or_else(|| "there are none".into(), |e| super::failure::chain(e));
        return Err(ExportError::SystemRoots { reason });
    }
    Ok(roots)
}

/// All certificates of a PEM file: at least one.
fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ExportError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unreadable(what, path, &e))?;
    if certificates.is_empty() {
        return Err(ExportError::Pem { what, path: path.into(), reason: "there is no certificate in it".into() });
    }
    Ok(certificates)
}

fn unreadable(what: &'static str, path: &Path, error: &rustls::pki_types::pem::Error) -> ExportError {
    use rustls::pki_types::pem::Error;
    let reason = match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => format!("there is no {} in it", what.trim_start_matches("client ")),
        // The others quote what they stumbled over: in a key file, that may be the key.
        _ => "it is not valid PEM".into(),
    };
    ExportError::Pem { what, path: path.into(), reason }
}
