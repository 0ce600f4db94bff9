//! A running process gives its listening socket to the next one.
//!
//! For a while both hold the same socket, so no connection is refused, and the same lock of the
//! books, so no third process can have them. The old one drains when the new one says that it
//! serves; when it never does, the old one has not noticed.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
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
/// How long the next one may take from the socket to its first answer.
const START_MAX: Duration = Duration::from_secs(60);
/// How long the old one may take to hand over.
const GIVE_MAX: Duration = Duration::from_secs(5);

/// What the next process gets.
pub struct Estate {
    /// The listening socket.
    pub socket: OwnedFd,
    /// The lock of the books.
    pub lock: OwnedFd,
    old: UnixStream,
}

impl Estate {
    /// Tells the old process to drain: from now on we serve.
    pub fn accept(mut old: UnixStream) -> io::Result<()> {
        old.write_all(&[1])
    }

    /// Its parts; the last is for [`Estate::accept`].
    pub fn into_parts(self) -> (OwnedFd, OwnedFd, UnixStream) {
        (self.socket, self.lock, self.old)
    }
}

/// Asks the process that serves this data folder for its estate; `None`: there is none.
pub fn take(folder: &Path) -> io::Result<Option<Estate>> {
    let old = match UnixStream::connect(folder.join(FILE)) {
        Ok(old) => old,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => return Err(error),
        },
    };
    old.set_read_timeout(Some(GIVE_MAX))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let parts = &mut [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(&old, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut given = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut given = given.next().into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(socket), Some(lock)) => Ok(Some(Estate { socket, lock, old })),
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
/// held for no longer than that: without a successor it is closed with its last owner.
/// `stand_still` is told when one may begin to read what we have written, and when none does any
/// more.
pub fn give(
    listener: &UnixListener,
    socket: &dyn Fn() -> io::Result<OwnedFd>,
    lock: &OwnedFd,
    stand_still: &dyn Fn(bool),
) -> io::Result<()> {
    loop {
        let (mut next, _) = listener.accept()?;
        stand_still(true);
        if socket().and_then(|socket| give_one(&mut next, socket, lock)).is_ok() {
            return Ok(());
        }
        stand_still(false);
    }
}

fn give_one(next: &mut UnixStream, socket: OwnedFd, lock: &OwnedFd) -> io::Result<()> {
    next.set_write_timeout(Some(GIVE_MAX))?;
    next.set_read_timeout(Some(START_MAX))?;
    let both = [socket.as_fd(), lock.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&both));
    rustix::net::sendmsg(&*next, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::NOSIGNAL)?;
    drop(socket);
    next.read_exact(&mut [0])
}
