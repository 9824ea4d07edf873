//! TLS from files: a certificate chain and its key in PEM. A library does the talking (rustls); here they are read, and
//! read again when they change.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};

use crate::{Result, ServeError, TlsFiles};

/// A certificate in use.
pub(crate) struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads certificate and key.
    pub fn open(files: &TlsFiles) -> Result<Self> {
        Ok(Self { files: files.clone(), config: RwLock::new(Arc::new(read(files)?)) })
    }

    /// Reads them again; connections that are open keep what they began with.
    pub fn reload(&self) -> Result<()> {
        let fresh = Arc::new(read(&self.files)?);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Where they are.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// What greets a new connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig> {
    let TlsFiles { certificate, key } = files;
    let chain = read_chain(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| {
        refused(key, format!("expected a private key in PEM (PKCS#8, PKCS#1 or SEC1): {error}"))
    })?;
    let provider = Arc::new(crypto::ring::default_provider());
    let versions = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = versions.map_err(|error| refused(certificate, error.to_string()))?;
    let config = builder.with_no_client_auth().with_single_cert(chain, private);
    let mut config = config
        .map_err(|error| refused(certificate, format!("does not go with {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_slice_iter(&bytes(path)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| refused(path, format!("expected certificates in PEM: {error}")))?;
    if chain.is_empty() {
        let reason = "expected at least one certificate in PEM (-----BEGIN CERTIFICATE-----), found none";
        return Err(refused(path, reason.into()));
    }
    Ok(chain)
}

fn bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| refused(path, error.to_string()))
}

fn refused(path: &Path, reason: String) -> ServeError {
    ServeError::Source { path: path.into(), reason }
}
