//! TLS on either side of a plain end: a terminator in front of an upstream, a sealer behind a
//! client. So the scripted ends need to know nothing of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
};

/// One of the test certificates or keys.
pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

fn server_config() -> Arc<ServerConfig> {
    let chain = vec![CertificateDer::from_pem_file(file("leaf.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("leaf.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// Listens with TLS; once the head of a request has come, `answer` has the connection, which ends
/// without a goodbye. The port that it listens on.
pub fn hasty(answer: impl Fn(&mut Answering) + Send + Sync + 'static) -> u16 {
    let config = server_config();
    listen(move |outside| {
        // A reset takes back what waits for an acknowledgement.
        outside.set_nodelay(true).unwrap();
        let tls = ServerConnection::new(config.clone()).unwrap();
        let mut stream = StreamOwned::new(tls, outside);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return,
            }
        }
        answer(&mut stream);
    })
}

/// A connection of a [`hasty`] upstream.
pub type Answering = StreamOwned<ServerConnection, TcpStream>;

/// Listens with TLS and passes everything on to `port`; the port that it listens on.
pub fn terminator(port: u16) -> u16 {
    let config = server_config();
    listen(move |outside| {
        let mut tls = ServerConnection::new(config.clone()).unwrap().into();
        let inside = TcpStream::connect(("127.0.0.1", port)).unwrap();
        // A refused handshake ends here, which is the refusing side's to report.
        let _ = pump(&mut tls, outside, inside);
    })
}

/// A client's side: trusts this root, and shows this certificate if there is one.
pub fn client_config(root: &str, own: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file(root)).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let chain = CertificateDer::from_pem_file(file(&format!("{name}.pem"))).unwrap();
            let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
            builder.with_client_auth_cert(vec![chain], key).unwrap()
        }
    }
}

/// Listens plainly and passes everything on to `port` through TLS; the port that it listens on.
pub fn sealer(port: u16, config: ClientConfig) -> u16 {
    let config = Arc::new(config);
    listen(move |inside| {
        let name = ServerName::try_from("localhost").unwrap();
        let mut tls = ClientConnection::new(config.clone(), name).unwrap().into();
        let Ok(outside) = TcpStream::connect(("127.0.0.1", port)) else { return };
        // However it ends, the plain side sees its end.
        let _ = pump(&mut tls, outside, inside);
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Serves each connection on a thread of its own.
pub fn listen(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), serve.clone());
            std::thread::spawn(move || serve(stream));
        }
    });
    port
}

/// Moves bytes both ways until either side ends.
fn pump(tls: &mut Connection, mut outside: TcpStream, mut inside: TcpStream) -> io::Result<()> {
    outside.set_nonblocking(true)?;
    inside.set_nonblocking(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let mut idle = true;
        let mut ended = false;
        match tls.read_tls(&mut outside) {
            Ok(count) => {
                ended = count == 0;
                idle = false;
                if let Err(why) = tls.process_new_packets() {
                    let _ = tls.write_tls(&mut outside);
                    return Err(io::Error::other(why));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        while let Ok(count) = tls.reader().read(&mut buffer)
            && count > 0
        {
            idle = false;
            push(&mut inside, &buffer[..count])?;
        }
        if ended {
            return Ok(());
        }
        if !tls.is_handshaking() {
            match inside.read(&mut buffer) {
                Ok(0) => {
                    tls.send_close_notify();
                    while tls.wants_write() {
                        tls.write_tls(&mut outside)?;
                    }
                    return Ok(());
                }
                Ok(count) => {
                    idle = false;
                    tls.writer().write_all(&buffer[..count])?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while tls.wants_write() {
            match tls.write_tls(&mut outside) {
                Ok(_) => idle = false,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Writes all of it, although the socket does not wait.
fn push(stream: &mut TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
