//! TLS towards callers: our certificate, its key, and whose certificates callers must show.
//!
//! The files are looked at again and again, since certificates are renewed under a running process.
//! What was loaded counts until something better is: a connection keeps what it began with, and
//! files with mistakes change nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::TlsError;
use crate::route::snapshot::Tls;

const KEY_FILE: &str = "tls.key_file";

static CURRENT: RwLock<Option<Current>> = RwLock::new(None);

/// Files that were loaded.
pub struct Current {
    files: Tls,
    // Of the files, as they were when they were loaded.
    stamps: Vec<Stamp>,
    config: Arc<ServerConfig>,
    // Of files that could not be loaded since, and why: it is told once.
    failed: Option<(Vec<Stamp>, String)>,
}

/// What changes when a file does.
type Stamp = Option<(u64, u64, i64, i64)>;

/// What a caller's handshake is made with.
#[derive(Clone)]
pub struct Terms(pub(super) Arc<ServerConfig>);

/// Loads the files. Never on a worker.
pub fn prepare(files: &Tls) -> Result<Current, TlsError> {
    let stamps = stamps_of(files);
    Ok(Current { files: files.clone(), stamps, config: read(files)?, failed: None })
}

/// Lets them count for all connections that are accepted from now on; without files those are
/// plain.
pub fn put(current: Option<Current>) {
    *CURRENT.write() = current;
}

/// Loads the files again if they have changed: what came of it, if that is news. Files with
/// mistakes are tried again at each call, for who may read them shows in no stamp. Never on a
/// worker.
pub fn renew() -> Option<Result<(), TlsError>> {
    let (files, seen) = {
        let current = CURRENT.read();
        let current = current.as_ref()?;
        (current.files.clone(), current.stamps.clone())
    };
    let stamps = stamps_of(&files);
    if stamps == seen {
        return None;
    }
    let config = read(&files);
    let mut current = CURRENT.write();
    // A reload may have named others meanwhile.
    let current = current.as_mut().filter(|current| current.files == files)?;
    match config {
        Ok(config) => {
            *current = Current { files, stamps, config, failed: None };
            Some(Ok(()))
        }
        Err(error) => {
            let failed = Some((stamps, error.to_string()));
            let is_news = current.failed != failed;
            current.failed = failed;
            is_news.then_some(Err(error))
        }
    }
}

/// What a connection that is accepted now begins with; `None`: it is plain.
pub fn terms() -> Option<Terms> {
    CURRENT.read().as_ref().map(|current| Terms(current.config.clone()))
}

fn stamps_of(files: &Tls) -> Vec<Stamp> {
    let all = [Some(&files.certificate_file), Some(&files.key_file), files.client_ca_file.as_ref()];
    let stamp = |path: &String| {
        let data = fs::metadata(path).ok()?;
        Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
    };
    all.into_iter().flatten().map(stamp).collect()
}

/// All that is wrong with the files.
pub(super) fn mistakes(files: &Tls) -> Vec<TlsError> {
    let chain = certificates("tls.certificate_file", &files.certificate_file).err();
    let key = key_of(files).err();
    let pair = match (&chain, &key) {
        (None, None) => read(&Tls { client_ca_file: None, ..files.clone() }).err(),
        _ => None,
    };
    let authorities = files.client_ca_file.as_deref().and_then(|path| verifier(path).err());
    [chain, key, pair, authorities].into_iter().flatten().collect()
}

fn read(files: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates("tls.certificate_file", &files.certificate_file)?;
    let key = key_of(files)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?;
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(path)?),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        mistake(KEY_FILE, &files.key_file, format!("does not go with the certificate: {error}"))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions are remembered by callers, not here, and by nobody once the files have changed.
    config.ticketer = ring::Ticketer::new().map_err(TlsError::Rustls)?;
    Ok(Arc::new(config))
}

fn key_of(files: &Tls) -> Result<PrivateKeyDer<'static>, TlsError> {
    let key = PrivateKeyDer::from_pem_file(&files.key_file);
    key.map_err(|error| mistake(KEY_FILE, &files.key_file, error))
}

/// Asks callers for a certificate of one of the authorities in this file.
fn verifier(path: &str) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    const KEY: &str = "tls.client_ca_file";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(KEY, path)? {
        roots.add(certificate).map_err(|error| mistake(KEY, path, error))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
    verifier.map_err(|error| mistake(KEY, path, error))
}

fn certificates(key: &'static str, path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let read: Vec<_> = read.map_err(|error| mistake(key, path, error))?;
    match read.is_empty() {
        true => Err(mistake(key, path, "no certificate in it")),
        false => Ok(read),
    }
}

fn mistake(key: &'static str, path: &str, why: impl std::fmt::Display) -> TlsError {
    TlsError::File { key, why: format!("{path}: {why}") }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::path::Path;

    use super::*;

    /// The bytes that make a file of that length, the first of them those of a shipped one.
    fn shipped(name: &str, length: usize) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls");
        let mut bytes = fs::read(folder.join(name)).unwrap();
        assert!(bytes.len() <= length);
        bytes.resize(length, b'\n');
        bytes
    }

    #[test]
    fn files_that_could_not_be_read_once_are_tried_again_though_they_look_the_same() {
        // Lengths differ where stamps must: two writes may fall into one tick of the clock.
        const LENGTH: usize = 8_192;
        let folder = std::env::temp_dir().join(format!("gproxy-renew-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let files = Tls {
            certificate_file: path("own.pem"),
            key_file: path("own.key"),
            client_ca_file: None,
        };
        fs::write(&files.certificate_file, shipped("leaf.pem", LENGTH)).unwrap();
        fs::write(&files.key_file, shipped("leaf.key", LENGTH)).unwrap();
        put(Some(prepare(&files).unwrap()));
        assert!(renew().is_none(), "nothing has changed");

        fs::write(&files.certificate_file, vec![b'\n'; LENGTH + 1]).unwrap();
        let (stamps, written) = (stamps_of(&files), fs::metadata(&files.certificate_file));
        assert!(renew().unwrap().is_err());
        assert!((0..3).all(|_| renew().is_none()), "it is told once");
        fs::write(&files.certificate_file, shipped("leaf.pem", LENGTH + 1)).unwrap();
        let file = File::options().write(true).open(&files.certificate_file).unwrap();
        file.set_modified(written.unwrap().modified().unwrap()).unwrap();
        assert!(stamps == stamps_of(&files));
        assert!(renew().unwrap().is_ok());
        assert!(renew().is_none());

        // Another file with the same mistake is news.
        for longer in 2..4 {
            fs::write(&files.certificate_file, vec![b'\n'; LENGTH + longer]).unwrap();
            assert!(renew().unwrap().is_err());
            assert!(renew().is_none());
        }
        put(None);
        fs::remove_dir_all(folder).unwrap();
    }
}
