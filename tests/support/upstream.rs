//! A scripted upstream on std threads: it records what it is told and answers as the test says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::{find, reset};
use super::{DEADLINE, wait_for};

/// A listening upstream. It stops with the test.
pub struct Upstream {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Vec<Seen>>,
    accepted: AtomicUsize,
    open: AtomicUsize,
    stopped: AtomicBool,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Method.
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// The head's bytes.
    pub head: Vec<u8>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

impl Seen {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Path without query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("")
    }

    /// Query without the question mark.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection, in the hands of a script.
pub struct Conn {
    stream: Option<TcpStream>,
    held: Vec<u8>,
    /// Number of the connection, from 0.
    pub index: usize,
    /// Requests read from it so far.
    pub requests: usize,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Runs `script` on a thread of its own for each connection. What the script leaves open is
    /// closed when it returns.
    pub fn scripted(script: impl Fn(&mut Conn) + Send + Sync + 'static) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        // The standard backlog of 128 is too short for a crowd; a second `listen` lengthens it.
        rustix::net::listen(&listener, 4096).expect("the socket listens already");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            seen: Mutex::new(Vec::new()),
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let upstream = Upstream { port, shared: Arc::clone(&shared) };
        thread::spawn(move || accept(&listener, &shared, &Arc::new(script)));
        upstream
    }

    /// Answers each request of each connection with `answer`, as long as it leaves it open.
    pub fn answering(answer: impl Fn(&mut Conn, &Seen) + Send + Sync + 'static) -> Upstream {
        Upstream::scripted(move |conn| {
            while let Some(seen) = conn.request() {
                answer(conn, &seen);
            }
        })
    }

    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no holder of this lock panics").clone()
    }

    /// How many requests have come.
    pub fn count(&self) -> usize {
        self.shared.seen.lock().expect("no holder of this lock panics").len()
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the upstream was called")
    }

    /// Forgets what it has seen.
    pub fn forget(&self) {
        self.shared.seen.lock().expect("no holder of this lock panics").clear();
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose script still runs.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Waits until so many requests have come.
    #[track_caller]
    pub fn wait_for_requests(&self, count: usize) {
        wait_for(&format!("{count} requests at the upstream"), || {
            (self.count() >= count).then_some(())
        });
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then closes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept<F>(listener: &TcpListener, shared: &Arc<Shared>, script: &Arc<F>)
where
    F: Fn(&mut Conn) + Send + Sync + 'static,
{
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let _ = stream.set_read_timeout(Some(DEADLINE));
        let _ = stream.set_write_timeout(Some(DEADLINE));
        let _ = stream.set_nodelay(true);
        let index = shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        let (shared, script) = (Arc::clone(shared), Arc::clone(script));
        let run = move || {
            let open = Opened(Arc::clone(&shared));
            let mut conn =
                Conn { stream: Some(stream), held: Vec::new(), index, requests: 0, shared };
            script(&mut conn);
            drop(conn);
            drop(open);
        };
        let spawned = thread::Builder::new().stack_size(256 * 1024).spawn(run);
        spawned.expect("a test stays below the limit of threads");
    }
}

/// Counts a connection down also when its script panics.
struct Opened(Arc<Shared>);

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Conn {
    /// Reads a request and notes it; `None` when the gateway has closed or said nothing more.
    pub fn request(&mut self) -> Option<Seen> {
        let mut seen = self.request_head()?;
        let length = seen.header("content-length").and_then(|value| value.parse().ok());
        if seen.header("transfer-encoding").is_some() {
            seen.body = self.chunked_body()?;
        } else {
            let length = length.unwrap_or(0);
            self.fill_to(length)?;
            seen.body = self.held.drain(..length).collect();
        }
        self.note(&seen);
        Some(seen)
    }

    /// Reads the head of a request and leaves the body unread and the request unnoted.
    pub fn request_head(&mut self) -> Option<Seen> {
        let end = loop {
            if let Some(at) = find(&self.held, b"\r\n\r\n") {
                break at + 4;
            }
            self.read_some().ok().filter(|count| *count > 0)?;
        };
        let head: Vec<u8> = self.held.drain(..end).collect();
        self.requests += 1;
        Some(parse(self.index, head))
    }

    /// Notes a request for `Upstream::seen`.
    pub fn note(&self, seen: &Seen) {
        self.shared.seen.lock().expect("no holder of this lock panics").push(seen.clone());
    }

    /// Reads so many bytes and keeps none; how many came.
    pub fn discard(&mut self, length: usize) -> usize {
        let mut read = 0;
        loop {
            read += self.held.len();
            self.held.clear();
            if read >= length || !matches!(self.read_some(), Ok(1..)) {
                return read;
            }
        }
    }

    fn chunked_body(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            while find(&self.held, b"\r\n").is_none() {
                self.read_some().ok().filter(|count| *count > 0)?;
            }
            let at = find(&self.held, b"\r\n")?;
            let size = usize::from_str_radix(str::from_utf8(&self.held[..at]).ok()?, 16).ok()?;
            self.fill_to(at + 2 + size + 2)?;
            body.extend_from_slice(&self.held[at + 2..at + 2 + size]);
            self.held.drain(..at + 2 + size + 2);
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// Reads exactly so many bytes; `None` when the connection ends before.
    pub fn read_raw(&mut self, count: usize) -> Option<Vec<u8>> {
        self.fill_to(count)?;
        Some(self.held.drain(..count).collect())
    }

    fn fill_to(&mut self, length: usize) -> Option<()> {
        while self.held.len() < length {
            self.read_some().ok().filter(|count| *count > 0)?;
        }
        Some(())
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let Some(stream) = &mut self.stream else { return Ok(0) };
        let count = stream.read(&mut buffer)?;
        self.held.extend_from_slice(&buffer[..count]);
        Ok(count)
    }

    /// Writes bytes as they are. False when the gateway is gone.
    pub fn raw(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Writes bytes in pieces of `size`, each a packet of its own as far as the kernel lets it.
    pub fn raw_in_pieces(&mut self, bytes: &[u8], size: usize) -> bool {
        bytes.chunks(size).all(|piece| self.raw(piece))
    }

    /// A whole JSON reply.
    pub fn whole(&mut self, status: u16, body: impl AsRef<[u8]>) -> bool {
        self.whole_with(status, "content-type: application/json\r\n", body)
    }

    /// A whole reply with these header lines.
    pub fn whole_with(&mut self, status: u16, headers: &str, body: impl AsRef<[u8]>) -> bool {
        let body = body.as_ref();
        let length = body.len();
        let mut bytes = format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n")
            .into_bytes();
        bytes.extend(body);
        self.raw(bytes)
    }

    /// The head of a chunked event stream.
    pub fn stream_head(&mut self) -> bool {
        self.raw(STREAM_HEAD)
    }

    /// One chunk.
    pub fn piece(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend(bytes);
        chunk.extend(b"\r\n");
        self.raw(chunk)
    }

    /// The polite end of a chunked body.
    pub fn end(&mut self) -> bool {
        self.raw(b"0\r\n\r\n")
    }

    /// A whole event stream.
    pub fn stream(&mut self, body: impl AsRef<[u8]>) -> bool {
        self.stream_head() && self.piece(body) && self.end()
    }

    /// Closes politely, at whatever place the reply is.
    pub fn cut(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Closes with a reset.
    pub fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            reset(stream);
        }
    }

    /// How a broken reply ends: politely closed or reset.
    pub fn break_off(&mut self, with_reset: bool) {
        if with_reset { self.reset() } else { self.cut() }
    }

    /// Says nothing until the gateway closes the connection; tells how long that took, or `None`
    /// when it was still open at the deadline.
    pub fn wait_closed(&mut self) -> Option<Duration> {
        let begun = Instant::now();
        loop {
            match self.read_some() {
                Ok(0) => return Some(begun.elapsed()),
                Ok(_) => {}
                Err(why) if is_timeout(&why) => return None,
                Err(_) => return Some(begun.elapsed()),
            }
        }
    }

    /// Sets how long a write may wait for a gateway that does not read.
    pub fn write_timeout(&mut self, time: Duration) {
        if let Some(stream) = &self.stream {
            let _ = stream.set_write_timeout(Some(time));
        }
    }

    /// Writes as much as is taken; tells how many bytes that were.
    pub fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Some(stream) => stream.write(bytes),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Head of a chunked event stream, as vendors send it.
pub const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

fn is_timeout(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn parse(connection: usize, head: Vec<u8>) -> Seen {
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or("").splitn(3, ' ');
    let method = words.next().unwrap_or("").to_owned();
    let target = words.next().unwrap_or("").to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Seen { connection, method, target, headers, head, body: Vec::new() }
}
