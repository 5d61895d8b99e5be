//! TLS for the fake collector: an authority made for one test.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// A certificate authority of its own and what it signed, in a directory that goes with it.
#[derive(Debug)]
pub struct Tls {
    dir: tempfile::TempDir,
    /// Whether clients must show a certificate of this authority.
    pub require_client: bool,
}

impl Tls {
    /// A new authority, a server certificate for 127.0.0.1, localhost and server.test, and a client certificate.
    ///
    /// # Errors
    /// The temporary directory cannot be written.
    pub fn new() -> Result<Self> {
        use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
        let dir = tempfile::tempdir()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "podmeter's test authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(dir.path().join("ca.pem"), authority.pem())?;
        let names = ["127.0.0.1", "localhost", "server.test"].map(Into::into).to_vec();
        for (name, names, usage) in [
            ("server", names, ExtendedKeyUsagePurpose::ServerAuth),
            ("client", vec!["podmeter".to_string()], ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            let key = KeyPair::generate()?;
            let mut params = CertificateParams::new(names)?;
            params.extended_key_usages = vec![usage];
            std::fs::write(dir.path().join(format!("{name}.pem")), params.signed_by(&key, &authority)?.pem())?;
            std::fs::write(dir.path().join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self { dir, require_client: false })
    }

    /// As [`Tls::new`], and clients must show a certificate.
    ///
    /// # Errors
    /// The same.
    pub fn mutual() -> Result<Self> {
        Ok(Self { require_client: true, ..Self::new()? })
    }

    /// PEM file of the authority.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// PEM file of the client's certificate.
    pub fn client_certificate(&self) -> PathBuf {
        self.dir.path().join("client.pem")
    }

    /// PEM file of the client's key.
    pub fn client_key(&self) -> PathBuf {
        self.dir.path().join("client.key")
    }

    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = if self.require_client {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.ca())?)?;
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let chain = vec![CertificateDer::from_pem_file(self.dir.path().join("server.pem"))?];
        let key = PrivateKeyDer::from_pem_file(self.dir.path().join("server.key"))?;
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}
