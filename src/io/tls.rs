//! TLS: rustls with ring, over any transport of ours.

pub mod callers;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection, StreamOwned,
};
use ureq::Error;

use crate::failure::{Cause, Phase};
use crate::io::resolver;
use crate::io::transport::{
    Buffers, ConnectionDetails, Connector, Either, Idler, NextTimeout, Room, Transport,
    TransportAdapter,
};
use crate::io::watch::Watch;
use crate::route::snapshot::Tls;

static CLIENT: OnceLock<RwLock<Arc<ClientConfig>>> = OnceLock::new();

/// Why TLS could not be set up.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read or does not hold what it should.
    File {
        /// The key of the configuration that names it.
        key: &'static str,
        /// Its path, and what is wrong.
        why: String,
    },
    /// rustls refused the configuration.
    Rustls(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::File { key, why } => write!(f, "{key}: {why}"),
            TlsError::Rustls(error) => write!(f, "TLS: {error}"),
        }
    }
}

/// The roots of all connections to upstreams.
pub struct Roots(Arc<ClientConfig>);

/// Reads the roots: the system's, Mozilla's, and those of `extra_ca_file`. Reads files: never call
/// it on a worker.
pub fn prepare(extra_ca_file: Option<&str>) -> Result<Roots, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = extra_ca_file {
        let mistake = |why| TlsError::File { key: "global.extra_ca_file", why };
        let certificates = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| mistake(format!("{path}: {error}")))?;
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(mistake(format!("{path}: no certificate in it")));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Roots(Arc::new(config)))
}

/// Lets them count for all connections that are opened from now on.
pub fn put(roots: Roots) {
    let cell = CLIENT.get_or_init(|| RwLock::new(roots.0.clone()));
    *cell.write() = roots.0;
}

/// Both at once.
pub fn load(extra_ca_file: Option<&str>) -> Result<(), TlsError> {
    prepare(extra_ca_file).map(put)
}

/// All that is wrong with the files that a configuration names, each by its key. Puts nothing in
/// place.
pub fn mistakes(extra_ca_file: Option<&str>, files: Option<&Tls>) -> Vec<(&'static str, String)> {
    let mut found: Vec<TlsError> = prepare(extra_ca_file).err().into_iter().collect();
    found.extend(files.into_iter().flat_map(callers::mistakes));
    let told = |error| match error {
        TlsError::File { key, why } => (key, why),
        TlsError::Rustls(error) => ("tls", error.to_string()),
    };
    found.into_iter().map(told).collect()
}

/// TLS without a socket: whoever holds it brings the bytes.
pub struct Sealed(Connection);

impl Sealed {
    /// Shakes hands as a client of `host`.
    pub fn open(host: &str, io: &mut (impl Read + Write)) -> Result<Box<Sealed>, Cause> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Cause::TlsRefused)?;
        let config = CLIENT.get().ok_or(Cause::TlsRefused)?.read().clone();
        let connection = ClientConnection::new(config, name).map_err(|_| Cause::TlsRefused)?;
        let mut sealed = Box::new(Sealed(connection.into()));
        while sealed.0.is_handshaking() {
            sealed.0.complete_io(io).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => Cause::TlsRefused,
                _ => Cause::Disconnected,
            })?;
        }
        Ok(sealed)
    }

    /// The other end of a handshake that a caller begins; [`Sealed::shake`] goes on with it.
    pub fn expect(terms: &callers::Terms) -> io::Result<Box<Sealed>> {
        let connection = ServerConnection::new(terms.0.clone()).map_err(io::Error::other)?;
        Ok(Box::new(Sealed(connection.into())))
    }

    /// Takes the handshake as far as `io` does; an error of a wait's leaves it where it is.
    pub fn shake(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.0.complete_io(io)?;
        }
        Ok(())
    }

    /// Reads clear bytes. Where `io` does not wait, neither does this.
    pub fn read(&mut self, buf: &mut [u8], io: &mut impl Read) -> io::Result<usize> {
        loop {
            if let Some(count) = self.take(buf)? {
                return Ok(count);
            }
            self.feed(io)?;
        }
    }

    /// The clear bytes that are there; `None`: first more has to come.
    pub fn take(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self.0.reader().read(buf) {
            Ok(count) => Ok(Some(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads what comes, once.
    pub fn feed(&mut self, io: &mut impl Read) -> io::Result<()> {
        self.0.read_tls(io)?;
        let fed = self.0.process_new_packets();
        fed.map(drop).map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Seals clear bytes, as many as there is room for.
    pub fn seal(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.writer().write(bytes)
    }

    /// Says that nothing more will be sealed.
    pub fn close(&mut self) {
        self.0.send_close_notify();
    }

    /// Whether sealed bytes have yet to leave.
    pub fn owes(&self) -> bool {
        self.0.wants_write()
    }

    /// Writes some of them.
    pub fn pay(&mut self, io: &mut impl Write) -> io::Result<usize> {
        self.0.write_tls(io)
    }

    /// Writes clear bytes: how many were taken. What is sealed and has not left yet leaves with the
    /// next call, for which no bytes will do.
    pub fn write(&mut self, bytes: &[u8], io: &mut impl Write) -> io::Result<usize> {
        self.flush(io)?;
        let count = self.seal(bytes)?;
        match self.flush(io) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(count),
        }
    }

    fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        while self.owes() {
            self.pay(io)?;
        }
        Ok(())
    }

    /// Both as one thing to read from.
    pub fn through<'a, I: Read>(&'a mut self, io: &'a mut I) -> impl Read + 'a {
        Through { sealed: self, io }
    }
}

struct Through<'a, I> {
    sealed: &'a mut Sealed,
    io: &'a mut I,
}

impl<I: Read> Read for Through<'_, I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.sealed.read(buf, self.io)
    }
}

/// Wraps a transport in TLS when the URL says `https`.
#[derive(Debug)]
pub struct TlsConnector;

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, Secure>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let watch = Watch::current().ok_or(Error::ConnectionFailed)?;
        watch.enter(Phase::Tls);
        let host = resolver::bare(details.uri.host().unwrap_or_default());
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Error::Tls("the host is no name for a certificate"))?;
        let config = CLIENT.get().ok_or(Error::TlsRequired)?.read().clone();
        let mut connection = ClientConnection::new(config, name)
            .map_err(|_| Error::Tls("rustls refused the client"))?;
        let mut adapter = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        while connection.is_handshaking() {
            if let Err(error) = connection.complete_io(&mut adapter) {
                let refused = error.kind() == io::ErrorKind::InvalidData;
                watch.died(if refused { Cause::TlsRefused } else { Cause::Disconnected });
                return Err(Error::Io(error));
            }
        }
        let stream = StreamOwned { conn: connection, sock: adapter };
        let buffers = Room::new(true);
        Ok(Some(Either::B(Secure { stream: Box::new(stream), buffers })))
    }
}

/// HTTP over TLS.
pub struct Secure {
    stream: Box<StreamOwned<ClientConnection, TransportAdapter>>,
    buffers: Room,
}

impl Transport for Secure {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let Secure { stream, buffers } = self;
        let StreamOwned { conn, sock } = &mut **stream;
        let mut bytes = &buffers.output()[..amount];
        // By hand: rustls's own stream keeps the first error of a write to itself.
        while !bytes.is_empty() {
            let count = conn.writer().write(bytes).map_err(Error::Io)?;
            bytes = &bytes[count..];
            while conn.wants_write() {
                conn.write_tls(sock).map_err(Error::Io)?;
            }
        }
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let watch = Watch::current().ok_or(Error::ConnectionFailed)?;
        self.buffers.release_output();
        let count = match self.stream.read(self.buffers.input_append_buf()) {
            Ok(count) => count,
            // The peer closed without a TLS goodbye: a cut, whatever the framing says.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                watch.ended(true);
                return Err(Error::Io(error));
            }
            Err(error) => return Err(Error::Io(error)),
        };
        self.buffers.input_appended(count);
        if count == 0 {
            // Its goodbye came, and rustls reads no further, not even the end of the socket.
            watch.ended(false);
        }
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        // What rustls holds came behind the last reply: it answers nobody.
        let is_silent =
            self.stream.conn.process_new_packets().is_ok_and(|state| {
                state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed()
            });
        is_silent && self.buffers.input().is_empty() && self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl Idler for Secure {
    fn shed(&mut self) {
        self.buffers.shed();
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secure")
    }
}
