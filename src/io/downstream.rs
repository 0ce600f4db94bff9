//! A downstream connection as the core sees it: bytes with deadlines.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use crate::exchange::{Downstream, Stop};
use crate::io::upstream::now;
use crate::io::worker::{self, Sock};
use crate::limits;

/// One wait, at most: how soon a caller that says or takes nothing is cut when the process ends.
/// One of the lengths of [`worker::slice_of`].
const SLICE_MAX: Duration = Duration::from_secs(1);

/// A caller's connection on a worker.
pub struct Client {
    sock: Sock,
}

impl Client {
    /// Takes the socket over.
    pub fn new(sock: Sock) -> Client {
        Client { sock }
    }

    /// Gives the socket back.
    pub fn into_sock(self) -> Sock {
        self.sock
    }
}

impl Downstream for Client {
    fn read(&mut self, buf: &mut [u8], until: Instant) -> Result<usize, Stop> {
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
        let pause = Duration::from_millis(limits::WRITE_PAUSE_MS_MAX);
        let mut done = 0;
        let mut progress_at = None;
        while done < bytes.len() {
            // The clock is read only when the downstream is not ready at once.
            match self.sock.write(&bytes[done..], SLICE_MAX) {
                Ok(0) => return Err(Stop::Gone),
                Ok(count) => {
                    done += count;
                    progress_at = None;
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let now = Instant::now();
                    let since = *progress_at.get_or_insert(now - SLICE_MAX);
                    if now - since >= pause {
                        return Err(Stop::TimedOut);
                    }
                    if worker::is_cut() {
                        return Err(Stop::ShuttingDown);
                    }
                }
                Err(_) => return Err(Stop::Gone),
            }
        }
        Ok(())
    }

    fn peer(&self) -> Option<IpAddr> {
        let address = rustix::net::getpeername(&self.sock).ok().flatten()?;
        SocketAddr::try_from(address).ok().map(|address| address.ip().to_canonical())
    }

    fn read_now(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        now(self.sock.read_now(buf))
    }

    fn write_now(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        now(self.sock.write_now(bytes)).map(Option::unwrap_or_default)
    }

    fn shut_write(&mut self) {
        worker::shut_down(&self.sock.shared(), Shutdown::Write);
    }

    fn abort(&mut self) {
        // A close with a linger time of zero is a reset. If it cannot be set, the close still
        // comes.
        let _ = rustix::net::sockopt::set_socket_linger(&self.sock, Some(Duration::ZERO));
    }
}
