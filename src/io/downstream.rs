//! A downstream connection as the core sees it: bytes with deadlines, sealed or not.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use crate::exchange::{Downstream, Stop};
use crate::io::tls::Sealed;
use crate::io::upstream::{Hasty, now};
use crate::io::worker::{self, Sock};
use crate::limits;

/// One wait, at most: how soon a caller that says or takes nothing is cut when the process ends.
/// One of the lengths of [`worker::slice_of`].
const SLICE_MAX: Duration = Duration::from_secs(1);

/// A caller's connection on a worker.
pub struct Client {
    sock: Sock,
    sealed: Option<Box<Sealed>>,
}

impl Client {
    /// Takes the socket over, and TLS if its handshake was made.
    pub fn new(sock: Sock, sealed: Option<Box<Sealed>>) -> Client {
        Client { sock, sealed }
    }

    /// Gives both back.
    pub fn into_parts(self) -> (Sock, Option<Box<Sealed>>) {
        (self.sock, self.sealed)
    }

    /// Bytes of TLS may come without one of the request's: an incomplete record, or messages of its
    /// own. They do not keep a connection that says nothing.
    #[inline(never)]
    fn read_sealed(&mut self, buf: &mut [u8], mut until: Instant) -> Result<usize, Stop> {
        let Some(sealed) = &mut self.sealed else { return Err(Stop::Gone) };
        let mut begun = false;
        loop {
            match sealed.take(buf) {
                Ok(Some(count)) => return Ok(count),
                Ok(None) => {}
                Err(_) => return Err(Stop::Gone),
            }
            let over = if begun { Stop::Gone } else { Stop::TimedOut };
            let now = Instant::now();
            if now >= until {
                return Err(over);
            }
            match sealed.feed(&mut Patient { sock: &mut self.sock, until: Some(until) }) {
                Ok(()) if !begun => {
                    begun = true;
                    until = until.max(now + Duration::from_millis(limits::HEAD_MS_MAX));
                }
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(Stop::Gone),
            }
            if worker::is_cut() {
                return Err(Stop::ShuttingDown);
            }
        }
    }

    #[inline(never)]
    fn write_sealed(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let Some(sealed) = &mut self.sealed else { return Err(Stop::Gone) };
        let mut done = 0;
        loop {
            let mut patient = Patient { sock: &mut self.sock, until: None };
            while sealed.owes() {
                insist(|| sealed.pay(&mut patient))?;
            }
            if done == bytes.len() {
                return Ok(());
            }
            done += sealed.seal(&bytes[done..]).map_err(|_| Stop::Gone)?;
        }
    }
}

/// Makes the handshake of a caller, who has as long for it as for a head.
pub fn shake(sock: &mut Sock, sealed: &mut Sealed) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_millis(limits::HEAD_MS_MAX);
    loop {
        match sealed.shake(&mut Patient { sock: &mut *sock, until: Some(deadline) }) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                if worker::is_cut() || Instant::now() >= deadline {
                    return Err(error);
                }
            }
            other => return other,
        }
    }
}

/// Writes until some bytes have left, or for too long none did.
fn insist(mut write: impl FnMut() -> io::Result<usize>) -> Result<usize, Stop> {
    let pause = Duration::from_millis(limits::WRITE_PAUSE_MS_MAX);
    let mut since = None;
    loop {
        // The clock is read only when the downstream is not ready at once.
        match write() {
            Ok(0) => return Err(Stop::Gone),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                let now = Instant::now();
                if now - *since.get_or_insert(now - SLICE_MAX) >= pause {
                    return Err(Stop::TimedOut);
                }
                if worker::is_cut() {
                    return Err(Stop::ShuttingDown);
                }
            }
            Err(_) => return Err(Stop::Gone),
        }
    }
}

impl Downstream for Client {
    fn read(&mut self, buf: &mut [u8], until: Instant) -> Result<usize, Stop> {
        if self.sealed.is_some() {
            return self.read_sealed(buf, until);
        }
        loop {
            let wait = worker::slice_until(until, Instant::now()).ok_or(Stop::TimedOut)?;
            match self.sock.read(buf, wait.min(SLICE_MAX)) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(Stop::Gone),
            }
            if worker::is_cut() {
                return Err(Stop::ShuttingDown);
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.sealed.is_some() {
            return self.write_sealed(bytes);
        }
        let mut done = 0;
        while done < bytes.len() {
            done += insist(|| self.sock.write(&bytes[done..], SLICE_MAX))?;
        }
        Ok(())
    }

    fn peer(&self) -> Option<IpAddr> {
        let address = rustix::net::getpeername(&self.sock).ok().flatten()?;
        SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
    }

    fn is_secure(&self) -> bool {
        self.sealed.is_some()
    }

    fn read_now(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        now(match &mut self.sealed {
            None => self.sock.read_now(buf),
            Some(sealed) => sealed.read(buf, &mut Hasty(&self.sock)),
        })
    }

    fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let written = now(match &mut self.sealed {
            None if bytes.is_empty() => Ok(0),
            None => self.sock.write_now(bytes),
            Some(sealed) => sealed.write(bytes, &mut Hasty(&self.sock)),
        });
        written.map(Option::unwrap_or_default)
    }

    fn shut_write(&mut self) {
        if let Some(sealed) = &mut self.sealed {
            sealed.close();
            // Whoever takes nothing any more needs no goodbye.
            let mut patient = Patient { sock: &mut self.sock, until: None };
            while sealed.owes() && sealed.pay(&mut patient).is_ok() {}
        }
        worker::shut_down(&self.sock.shared(), Shutdown::Write);
    }

    fn abort(&mut self) {
        // A close with a linger time of zero is a reset. If it cannot be set, the close still
        // comes.
        let _ = rustix::net::sockopt::set_socket_linger(&self.sock, Some(Duration::ZERO));
    }
}

/// Reads and writes that wait for a slice each.
struct Patient<'a> {
    sock: &'a mut Sock,
    // From then on none waits: TLS reads again and again by itself while it shakes hands, and a
    // peer that sends byte by byte must not set the pace. `None`: whoever asks has limits himself.
    until: Option<Instant>,
}

impl Patient<'_> {
    fn wait(&self) -> io::Result<Duration> {
        let Some(until) = self.until else { return Ok(SLICE_MAX) };
        let slice = worker::slice_until(until, Instant::now());
        Ok(slice.ok_or(io::ErrorKind::TimedOut)?.min(SLICE_MAX))
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let wait = self.wait()?;
        self.sock.read(buf, wait)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wait = self.wait()?;
        self.sock.write(bytes, wait)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
