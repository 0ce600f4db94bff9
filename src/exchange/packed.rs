//! Bodies that come compressed.

use std::io::{BufReader, Read};

use super::incoming::{self, Begun};
use super::office::{self, Desk, Unanswered};
use super::session::{Body, Session};
use super::{Core, Downstream, Ended, Upstream};
use crate::dialect::refusal::Refusal;
use crate::limits;
use crate::metrics::Gauge;
use crate::route::snapshot::Snapshot;
use crate::wire::coding::{self, Coding, CodingError, Unpacker};
use crate::wire::head::Head;
use crate::wire::multipart::Scanner;

/// Puts a body in the place of its compressed form. Elsewhere, since it takes long.
#[inline(never)]
pub(super) fn unpack<U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    up: &mut U,
    head: &Head,
    body: &mut Body,
) -> Result<(), Ended> {
    let Some(coding) = coding::coding_of(head.headers.all("content-encoding"))? else {
        return Ok(());
    };
    let packed = std::mem::take(&mut body.bytes);
    let bytes_max = snapshot.limits.body_bytes_max;
    let work = move || coding::decode(coding, &packed, bytes_max);
    let bytes = office::ask(up, Desk::Bodies, work).map_err(Unanswered::refusal)??;
    match body.replace(core, &snapshot.limits, bytes) {
        true => Ok(()),
        false => Err(Refusal::overloaded().into()),
    }
}

/// Reads a compressed form to its end, and unpacks it: on disk, unless it is short.
///
/// It goes up when all of it is known to be sound and within the limit.
pub(super) fn form<D: Downstream, U: Upstream>(
    core: &Core,
    snapshot: &Snapshot,
    session: &mut Session<D>,
    up: &mut U,
    coding: Coding,
    scanner: &mut Scanner,
) -> Result<Begun, Ended> {
    let limits = &snapshot.limits;
    let mut packed = incoming::begin(core, limits, session, up, |_| Ok(false))?;
    let state = coding.state_bytes().max(packed.bytes.len() as u64);
    let _state = core.metrics.clone().hold(Gauge::HeldBytes, state as i64);
    let mut unpacker = Unpacker::new(coding, BufReader::new(packed.reader()));
    let mut held = core.metrics.clone().hold(Gauge::HeldBytes, 0);
    let mut begun = Begun::default();
    loop {
        let work = move || {
            let piece = piece(&mut unpacker);
            (unpacker, piece)
        };
        let (back, piece) = office::ask(up, Desk::Bodies, work).map_err(Unanswered::refusal)?;
        unpacker = back;
        let piece = piece?;
        if piece.is_empty() {
            break;
        }
        if begun.length() + piece.len() as u64 > limits.upload_bytes_max {
            return Err(CodingError::TooLong.into());
        }
        scanner.feed(&piece)?;
        begun.bytes.extend_from_slice(&piece);
        begun.bound(core, limits, up, &mut held)?;
    }
    begun.gather(up)?;
    Ok(begun)
}

/// The next bytes; none at the end.
fn piece(unpacker: &mut impl Read) -> Result<Vec<u8>, CodingError> {
    let mut bytes = Vec::new();
    let mut some = unpacker.take(limits::SPOOL_PIECE_BYTES as u64);
    some.read_to_end(&mut bytes).map_err(|_| CodingError::Broken)?;
    Ok(bytes)
}
