//! Bodies that come compressed.

use std::io::{BufReader, Read};

use super::crowd::{Full, Scarce, Share};
use super::incoming::{self, Begun};
use super::note::Note;
use super::office::{self, Desk, Unanswered};
use super::session::{Body, Session};
use super::{Core, Downstream, Ended, Upstream};
use crate::limits;
use crate::wire::coding::{self, Coding, CodingError, Unpacker};
use crate::wire::head::Head;
use crate::wire::multipart::Scanner;

/// Puts a body in the place of its compressed form. Elsewhere, since it takes long.
#[inline(never)]
pub(super) fn unpack<U: Upstream>(
    core: &Core,
    up: &mut U,
    head: &Head,
    body: &mut Body,
    note: &Note,
) -> Result<(), Ended> {
    let Some(coding) = coding::coding_of(head.headers.all("content-encoding"))? else {
        return Ok(());
    };
    // It is counted as long as somebody works on it, also when nobody waits any longer.
    let packed = std::mem::replace(body, Body::empty(core));
    let bytes_max = note.limits().body_bytes_max;
    let work = move || coding::decode(coding, &packed.bytes, bytes_max);
    let bytes = office::ask(up, Desk::Bodies, work).map_err(Unanswered::refusal)??;
    Ok(body.replace(core, note, bytes).map_err(Full::refusal)?)
}

/// Reads a compressed form to its end, and unpacks it: on disk, unless it is short.
///
/// It goes up when all of it is known to be sound and within the limit.
pub(super) fn form<D: Downstream, U: Upstream>(
    core: &Core,
    note: &Note,
    session: &mut Session<D>,
    up: &mut U,
    coding: Coding,
    scanner: &mut Scanner,
) -> Result<Begun, Ended> {
    let mut packed = incoming::begin(core, note, session, up, |_| Ok(false))?;
    let mut state = Share::new(core, Scarce::Bytes);
    let state_bytes = (coding.state_bytes() as usize).max(packed.bytes.len());
    state.set(core, note, state_bytes).map_err(Full::refusal)?;
    let reader = BufReader::new(packed.reader());
    // Made elsewhere, too: its tables come to be on the stack, and are nearly as large as a
    // coroutine's.
    let work = move || (Unpacker::new(coding, reader), state);
    let (mut unpacker, mut state) =
        office::ask(up, Desk::Bodies, work).map_err(Unanswered::refusal)?;
    let mut share = Share::new(core, Scarce::Bytes);
    let mut begun = Begun::default();
    loop {
        let work = move || {
            let piece = piece(&mut unpacker);
            (unpacker, state, piece)
        };
        let done = office::ask(up, Desk::Bodies, work).map_err(Unanswered::refusal)?;
        let (back, counted, piece) = done;
        (unpacker, state) = (back, counted);
        let piece = piece?;
        if piece.is_empty() {
            break;
        }
        if begun.length() + piece.len() as u64 > note.limits().upload_bytes_max {
            return Err(CodingError::TooLong.into());
        }
        scanner.feed(&piece)?;
        begun.bytes.extend_from_slice(&piece);
        begun.bound(core, note, up, &mut share)?;
    }
    begun.gather()?;
    Ok(begun)
}

/// The next bytes; none at the end.
fn piece(unpacker: &mut impl Read) -> Result<Vec<u8>, CodingError> {
    let mut bytes = Vec::new();
    let mut some = unpacker.take(limits::SPOOL_PIECE_BYTES as u64);
    some.read_to_end(&mut bytes).map_err(|_| CodingError::Broken)?;
    Ok(bytes)
}
