//! A running process gives its listening socket to the next one.
//!
//! For a while both hold the same socket, so no connection is refused, and the same lock of the
//! books, so no third process can have them. The old one drains when the new one says that it
//! serves; that may take long, for large books are looked through first, but not for ever: nothing
//! is changed meanwhile. When the new one ends before, the old one has not noticed; when it takes
//! too long, the old one goes on and tells it to end. When the old one ends before, the new one
//! serves all the same.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Where a process waits for the next one, in its data folder.
const FILE: &str = "gproxy.sock";
/// How long the old one may take to hand over.
const GIVE_MAX: Duration = Duration::from_secs(5);
/// How long the new one may take to serve.
const START_MAX: Duration = Duration::from_secs(1_800);
/// What the old one says when it waits no longer.
const GONE_ON: u8 = 2;

/// What the next process gets.
pub struct Estate {
    /// The listening socket; `None`: the old process is stopping and listens no more.
    pub socket: Option<OwnedFd>,
    /// The lock of the books.
    pub lock: OwnedFd,
    old: UnixStream,
}

impl Estate {
    /// Tells the old process to drain: from now on we serve. Whether it heard that.
    pub fn accept(mut old: UnixStream) -> Accepted {
        let Err(error) = old.write_all(&[1]) else { return Accepted::Told };
        // An end is told at once. Who goes on may not have said so yet: it stops to listen first.
        let mut word = [0];
        match old.read_exact(&mut word) {
            Ok(()) if word == [GONE_ON] => Accepted::TooLate,
            Err(silence) if silence.kind() == io::ErrorKind::WouldBlock => Accepted::TooLate,
            _ => Accepted::Ended(error),
        }
    }

    /// Its parts; the last is for [`Estate::accept`].
    pub fn into_parts(self) -> (Option<OwnedFd>, OwnedFd, UnixStream) {
        (self.socket, self.lock, self.old)
    }
}

/// What came of telling the old process that we serve.
#[derive(Debug)]
pub enum Accepted {
    /// It drains.
    Told,
    /// It had ended.
    Ended(io::Error),
    /// It waited no longer, and goes on: whoever serves beside it lacks what was changed since.
    TooLate,
}

/// Asks the process that serves this data folder for its estate; `None`: there is none.
pub fn take(folder: &Path) -> io::Result<Option<Estate>> {
    let asked = UnixStream::connect(folder.join(FILE)).and_then(receive);
    match asked {
        Ok(estate) => Ok(Some(estate)),
        Err(error) => match error.kind() {
            // Nobody has been there, or has just gone.
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof => Ok(None),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(io::Error::other(format!(
                "the process that serves this data folder gives nothing within {GIVE_MAX:?}: \
                     another one may be taking over from it"
            ))),
            _ => Err(error),
        },
    }
}

fn receive(old: UnixStream) -> io::Result<Estate> {
    old.set_read_timeout(Some(GIVE_MAX))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(&old, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let given = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut given = given.flatten();
    match (given.next(), given.next()) {
        (Some(socket), Some(lock)) => Ok(Estate { socket: Some(socket), lock, old }),
        (Some(lock), None) => Ok(Estate { socket: None, lock, old }),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Begins to wait for the next process, in the place of whoever waited here before.
pub fn offer(folder: &Path) -> io::Result<UnixListener> {
    let path = folder.join(FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Gives to whoever asks, until one of them serves. `socket` yields the listening socket, which is
/// held for no longer than that: without a successor it is closed with its last owner. `None`: we
/// listen no more. `stand_still` is told when one may begin to read what we have written, and when
/// none does any more.
pub fn give(
    listener: &UnixListener,
    socket: &dyn Fn() -> io::Result<Option<OwnedFd>>,
    lock: &OwnedFd,
    stand_still: &dyn Fn(bool),
) -> io::Result<()> {
    loop {
        let (mut next, _) = listener.accept()?;
        log::info!(target: "gproxy", "another process starts, to take over from this one");
        stand_still(true);
        match socket().and_then(|socket| give_one(&mut next, socket, lock, START_MAX)) {
            Ok(()) => return Ok(()),
            Err(error) => {
                log::warn!(target: "gproxy", "it has not taken over, so this one goes on: {error}");
            }
        }
        stand_still(false);
    }
}

/// Waits until the next one serves; an error says that it has ended, or must.
fn give_one(
    next: &mut UnixStream,
    socket: Option<OwnedFd>,
    lock: &OwnedFd,
    limit: Duration,
) -> io::Result<()> {
    next.set_write_timeout(Some(GIVE_MAX))?;
    let given: Vec<BorrowedFd<'_>> = socket.iter().map(AsFd::as_fd).chain([lock.as_fd()]).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&given));
    rustix::net::sendmsg(&*next, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    drop(socket);
    next.set_read_timeout(Some(limit))?;
    match next.read_exact(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => go_on(next, limit),
        served => served,
    }
}

/// Waits no longer. From here on the next one cannot say any more that it serves, so either it has
/// said so by now, or it learns from us that it must not.
fn go_on(next: &mut UnixStream, limit: Duration) -> io::Result<()> {
    next.shutdown(Shutdown::Read)?;
    if next.read(&mut [0])? == 1 {
        return Ok(());
    }
    // It may just have ended.
    let _ = next.write_all(&[GONE_ON]);
    Err(io::Error::other(format!("it does not serve within {limit:?}")))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn lock() -> OwnedFd {
        File::open("/dev/null").expect("every system has it").into()
    }

    #[test]
    fn who_takes_too_long_is_not_waited_for_and_must_not_serve() {
        let (mut next, old) = UnixStream::pair().expect("a pair");
        let given = give_one(&mut next, None, &lock(), Duration::from_millis(20));
        let why = given.expect_err("nobody serves").to_string();
        assert!(why.contains("does not serve within 20ms"), "{why}");
        drop(next);
        let mut old = receive(old).expect("it was given").old;
        assert!(matches!(Estate::accept(old.try_clone().expect("it is open")), Accepted::TooLate));
        assert_eq!(old.read(&mut [0]).expect("it is over"), 0);
    }

    #[test]
    fn who_listens_no_more_goes_on_though_it_has_not_said_so_yet() {
        for says in [Some(GONE_ON), None] {
            let (mut next, old) = UnixStream::pair().expect("a pair");
            next.shutdown(Shutdown::Read).expect("it is open");
            let wait = if says.is_some() { GIVE_MAX } else { Duration::from_millis(20) };
            old.set_read_timeout(Some(wait)).expect("it is open");
            let accepted = std::thread::spawn(move || Estate::accept(old));
            if let Some(word) = says {
                std::thread::sleep(Duration::from_millis(20));
                next.write_all(&[word]).expect("somebody listens");
            }
            let accepted = accepted.join().expect("it does not panic");
            assert!(matches!(accepted, Accepted::TooLate), "{accepted:?}");
        }
    }

    #[test]
    fn who_serves_in_the_last_moment_serves_and_an_end_is_no_word() {
        let (mut next, old) = UnixStream::pair().expect("a pair");
        assert!(matches!(Estate::accept(old), Accepted::Told));
        go_on(&mut next, Duration::ZERO).expect("it was said");
        let (next, old) = UnixStream::pair().expect("a pair");
        drop(next);
        assert!(matches!(Estate::accept(old), Accepted::Ended(_)));
    }
}
