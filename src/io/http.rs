//! One HTTP/1.1 exchange with an upstream, over a connection of any kind.
//!
//! The bytes are put together and read by `wire`. Nothing of a reply is trusted that two readers
//! could frame differently, and a connection goes back to the pool from one place only: where the
//! end of a body was seen, and nothing behind it.

use std::sync::Arc;
use std::time::Duration;

use crate::exchange::{Call, Source, Waiting};
use crate::failure::{Cause, Failure, Phase};
use crate::io::transport::{Error, Pooled};
use crate::io::watch::{End, Watch};
use crate::limits;
use crate::wire::body::Decoder;
use crate::wire::reply::{self, Framing, ReplyHead};
use crate::wire::{body, head, header};

/// Room for a request's head, at first.
const HEAD_BYTES: usize = 1_024;

/// An address, as far as it is spoken: whether through TLS, to whom, and what stands behind it.
pub struct Address<'a> {
    /// The scheme is `https`.
    pub secure: bool,
    /// Host and port as written.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
}

impl<'a> Address<'a> {
    /// Takes an absolute URL apart; `None`: it has no path.
    pub fn of(url: &'a str) -> Option<Address<'a>> {
        let (scheme, rest) = url.split_once("://")?;
        let slash = rest.find('/')?;
        let (authority, target) = rest.split_at(slash);
        Some(Address { secure: scheme == "https", authority, target })
    }
}

/// Sends the request and waits for the head of the reply.
pub fn call(
    mut connection: Pooled,
    address: &Address<'_>,
    call: &Call<'_>,
    watch: Arc<Watch>,
) -> Result<(ReplyHead, Incoming), Failure> {
    watch.enter(Phase::Send);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    if !request_head(call, address, &mut head) {
        return Err(watch.failure(Cause::Malformed));
    }
    let sent = connection.send(&head).map_err(Unsent::from).and_then(|()| match call.source {
        None if takes_body(call) => Ok(connection.send(call.body)?),
        None => Ok(()),
        Some(source) => send_source(&mut connection, source),
    });
    drop(head);
    let reply = match sent {
        Ok(()) => await_head(&mut connection, &watch, call.waiting)?,
        Err(unsent) => {
            let failure = watch.failure(Cause::Disconnected);
            // The upstream is not to blame for it.
            if unsent == Unsent::Source {
                return Err(Failure { cause: Cause::DownstreamGone, ..failure });
            }
            // The upstream may have closed since it had answered before it read everything.
            if failure.cause != Cause::Disconnected {
                return Err(failure);
            }
            let reply = read_head(&mut connection, &watch).map_err(|_| failure)?;
            ReplyHead { keep_alive: false, ..reply }
        }
    };
    watch.enter(Phase::Relay);
    let state = match reply.framing {
        _ if header::is_bodiless(call.method, reply.status) => State::Done,
        Framing::Length(0) => State::Done,
        Framing::Length(length) => State::Length(length),
        Framing::Chunked => {
            let decoder = Decoder::new(head::Framing::Chunked, u64::MAX);
            State::Chunked(decoder.map_err(|_| watch.failure(Cause::Malformed))?)
        }
        Framing::UntilClose => State::UntilClose,
    };
    // Whether a body follows that must not be there is not known yet.
    let declares = !matches!(reply.framing, Framing::UntilClose | Framing::Length(0));
    let keep = match state {
        State::Done if declares && call.method != "HEAD" => false,
        _ => reply.keep_alive,
    };
    let connection = Some(connection);
    let mut incoming = Incoming { connection, watch, state, keep, shown: 0, decoded: Vec::new() };
    if matches!(incoming.state, State::Done) {
        incoming.give_back();
    }
    Ok((reply, incoming))
}

/// Why a request did not go up whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unsent {
    /// Its body broke off.
    Source,
    /// The upstream takes no more; the watch knows why.
    Upstream,
}

impl From<Error> for Unsent {
    fn from(_: Error) -> Unsent {
        Unsent::Upstream
    }
}

/// Sends a body while it comes in.
fn send_source(connection: &mut Pooled, source: &dyn Source) -> Result<(), Unsent> {
    let is_chunked = source.length().is_none();
    let mut left = source.length().unwrap_or(u64::MAX);
    let mut piece = vec![0; limits::RELAY_BYTES];
    let mut line = Vec::new();
    while left > 0 {
        let room = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        // Less than was announced, or broken: the upstream must not take it for a whole request.
        let count = source.read(&mut piece[..room]).map_err(|_| Unsent::Source)?;
        match (count, is_chunked) {
            (0, true) => return Ok(connection.send(body::LAST_CHUNK)?),
            (0, false) => return Err(Unsent::Source),
            (count, true) => {
                line.clear();
                body::chunk_open(count, &mut line);
                connection.send(&line)?;
                connection.send(&piece[..count])?;
                connection.send(body::CHUNK_CLOSE)?;
            }
            (count, false) => {
                connection.send(&piece[..count])?;
                left -= count as u64;
            }
        }
    }
    Ok(())
}

/// Requests with these methods have a body, be it an empty one; others have one when it came.
fn takes_body(call: &Call<'_>) -> bool {
    matches!(call.method, "POST" | "PUT" | "PATCH") || !call.body.is_empty()
}

/// Writes the head; false when something in it cannot stand in one.
pub fn request_head(call: &Call<'_>, address: &Address<'_>, out: &mut Vec<u8>) -> bool {
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    if !header::is_name(call.method.as_bytes()) || !is_plain(address.target) {
        return false;
    }
    for part in [call.method, " ", address.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut legal = header::field("host", address.authority.as_bytes(), out);
    call.headers.each(&mut |name, value| legal &= header::field(name, value, out));
    match call.source.map(Source::length) {
        None if takes_body(call) => {
            header::field_number("content-length", call.body.len() as u64, out);
        }
        None => {}
        Some(Some(length)) => header::field_number("content-length", length, out),
        Some(None) => legal &= header::field("transfer-encoding", b"chunked", out),
    }
    out.extend_from_slice(b"\r\n");
    legal
}

/// Reads the head; who waits for it is told, now and then, that it has not come.
fn await_head(
    connection: &mut Pooled,
    watch: &Watch,
    waiting: Option<&dyn Waiting>,
) -> Result<ReplyHead, Failure> {
    let Some(waiting) = waiting else { return read_head(connection, watch) };
    loop {
        watch.keep_alive(waiting.patience());
        let read = read_head(connection, watch);
        watch.keep_alive(Duration::ZERO);
        match read {
            Err(Failure { cause: Cause::Quiet, .. }) => {}
            read => return read,
        }
        if !watch.is_orphaned()
            && let Err(cause) = waiting.tell()
        {
            watch.died(cause);
            return Err(watch.failure(cause));
        }
    }
}

fn read_head(connection: &mut Pooled, watch: &Watch) -> Result<ReplyHead, Failure> {
    loop {
        let unread = connection.unread();
        if !unread.is_empty() {
            let malformed = |_| watch.failure(Cause::Malformed);
            let is_full = unread.len() >= limits::UPSTREAM_HEAD_BYTES_MAX;
            let (head, used) = reply::parse(unread).map_err(malformed)?;
            connection.take(used);
            match head {
                Some(head) => return Ok(head),
                None if is_full && used == 0 => return Err(malformed(reply::Malformed)),
                None => {}
            }
        }
        match connection.receive() {
            Ok(true) => {}
            Ok(false) | Err(_) => return Err(watch.failure(Cause::Disconnected)),
        }
    }
}

/// The body of a reply on its way.
pub struct Incoming {
    connection: Option<Pooled>,
    watch: Arc<Watch>,
    state: State,
    keep: bool,
    // Bytes of the connection's buffer that were shown and not yet taken out of it.
    shown: usize,
    // The last piece of a chunked body.
    decoded: Vec<u8>,
}

enum State {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    /// The framing broke.
    Broken,
    Done,
}

impl Incoming {
    /// What watches the attempt.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// The same, to be attached to a coroutine.
    pub fn shared_watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// A piece, or the end, is there without waiting.
    pub fn is_ready(&mut self) -> bool {
        match (&self.state, &mut self.connection) {
            (State::Done | State::Broken, _) | (_, None) => true,
            (_, Some(connection)) => connection.unread().len() > self.shown,
        }
    }

    /// Silence of that length towards the downstream, from now on, is to be told.
    pub fn keep_alive(&self, every: Duration) {
        self.watch.keep_alive(every);
    }

    /// The next piece of the body; an empty one is its proper end.
    pub fn piece(&mut self) -> Result<&[u8], Failure> {
        let Some(connection) = &mut self.connection else { return Ok(&[]) };
        connection.take(std::mem::take(&mut self.shown));
        loop {
            if matches!(self.state, State::Done) {
                self.give_back();
                return Ok(&[]);
            }
            let Some(connection) = &mut self.connection else { return Ok(&[]) };
            let unread = connection.unread().len();
            if unread > 0 && self.step(unread)? {
                break;
            }
            if unread == 0 {
                self.receive()?;
            }
        }
        match (&self.state, &mut self.connection) {
            (_, Some(connection)) if self.shown > 0 => Ok(&connection.unread()[..self.shown]),
            _ => Ok(&self.decoded),
        }
    }

    /// Makes a piece of the bytes that are there. False: they held none.
    fn step(&mut self, unread: usize) -> Result<bool, Failure> {
        let Some(connection) = &mut self.connection else { return Ok(false) };
        match &mut self.state {
            State::Length(left) => {
                self.shown = usize::try_from(*left).map_or(unread, |left| left.min(unread));
                *left -= self.shown as u64;
                if *left == 0 {
                    self.state = State::Done;
                }
            }
            State::UntilClose => self.shown = unread,
            State::Chunked(decoder) => {
                self.decoded.clear();
                let fed = decoder.feed(connection.unread(), &mut self.decoded);
                let is_done = decoder.is_done();
                match fed {
                    Ok(used) => connection.take(used),
                    // What came before it was whole, and leaves first.
                    Err(_) => self.state = State::Broken,
                }
                if is_done {
                    self.state = State::Done;
                }
                return Ok(!self.decoded.is_empty());
            }
            State::Broken => return Err(self.watch.failure(Cause::Disconnected)),
            State::Done => {}
        }
        Ok(true)
    }

    /// Waits for more bytes. Only a body that ends with the connection may end with a close.
    fn receive(&mut self) -> Result<(), Failure> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        let received = connection.receive();
        match received {
            Ok(true) => Ok(()),
            Ok(false)
                if matches!(self.state, State::UntilClose) && self.watch.end() == End::Closed =>
            {
                self.keep = false;
                self.state = State::Done;
                Ok(())
            }
            Ok(false) | Err(_) => Err(self.watch.failure(Cause::Disconnected)),
        }
    }

    /// The body was read to its end: the connection goes back to the pool, unless the upstream
    /// closes it or has sent more than was asked for.
    fn give_back(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if self.keep && connection.unread().is_empty() {
            connection.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let parts = |url| {
            Address::of(url).map(|address| (address.secure, address.authority, address.target))
        };
        assert_eq!(parts("https://host/v1/x?y=z"), Some((true, "host", "/v1/x?y=z")));
        assert_eq!(parts("http://[::1]:8080/"), Some((false, "[::1]:8080", "/")));
        assert_eq!(parts("http://host"), None);
        assert_eq!(parts("host/path"), None);
    }
}
