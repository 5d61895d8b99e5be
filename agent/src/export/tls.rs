//! TLS to the collector: whom to trust and whom to be. The files are read again when they change.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use tracing::{info, warn};

use super::{Destination, ExportError, Protocol};
use crate::files::Watched;

/// The TLS settings of connections that are made now.
#[derive(Debug)]
pub(super) struct Current {
    destination: Destination,
    tls: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<ClientConfig>,
    watched: Watched,
    /// TLS failed with these: they may be old in a way that the files do not show.
    suspect: bool,
    /// Why the files could not be read again, as it was logged.
    logged: Option<String>,
}

impl Current {
    /// Reads the files.
    pub(super) fn new(destination: &Destination, tls: bool) -> Result<Self, ExportError> {
        let files = [&destination.certificate, &destination.client_certificate, &destination.client_key];
        // Before they are read: what changes meanwhile is seen at the next look.
        let watched = Watched::new(files.into_iter().flatten().filter(|_| tls).cloned());
        let config = Arc::new(config(destination, tls)?);
        let state = State { config, watched, suspect: false, logged: None };
        Ok(Self { destination: destination.clone(), tls, state: Mutex::new(state) })
    }

    /// What a connection that is made now is made with. Files that have changed, or with which TLS failed, are read again;
    /// where they cannot be, as in the middle of their rotation, what was read before goes on.
    pub(super) fn get(&self) -> Arc<ClientConfig> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = state.watched.changed();
        if !changed && !std::mem::take(&mut state.suspect) {
            return Arc::clone(&state.config);
        }
        match config(&self.destination, self.tls) {
            Ok(config) => {
                state.config = Arc::new(config);
                if state.logged.take().is_some() || changed {
                    info!("the TLS files of the export have changed and were read again");
                }
            }
            Err(error) => {
                let error = super::failure::chain(&error);
                if state.logged.as_ref() != Some(&error) {
                    warn!("{error}; what was read before is used until the files can be read");
                    state.logged = Some(error);
                }
            }
        }
        Arc::clone(&state.config)
    }

    /// TLS failed.
    pub(super) fn suspect(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).suspect = self.tls;
    }
}

/// Certificate authorities are read only for `https`: the system's are some 150.
fn config(settings: &Destination, tls: bool) -> Result<ClientConfig, ExportError> {
    let mut config = unnegotiated(settings, tls)?;
    config.alpn_protocols = match settings.protocol {
        Protocol::Grpc => vec![b"h2".to_vec()],
        Protocol::HttpProtobuf => vec![b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// TLS settings without trusted authorities: enough to learn whether the other side speaks TLS.
pub(super) fn trusting_nobody() -> Result<ClientConfig, ExportError> {
    unnegotiated(&Destination::default(), false)
}

fn unnegotiated(settings: &Destination, tls: bool) -> Result<ClientConfig, ExportError> {
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
