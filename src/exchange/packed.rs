//! Bodies that come compressed.

use super::office::{self, Desk, Unanswered};
use super::session::Body;
use super::{Core, Ended, Upstream};
use crate::dialect::refusal::Refusal;
use crate::route::snapshot::Snapshot;
use crate::wire::coding::{self, CodingError};
use crate::wire::head::Head;

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

/// Refuses a form that comes compressed: it is read while it comes in.
pub(super) fn refuse(head: &Head) -> Result<(), CodingError> {
    match coding::coding_of(head.headers.all("content-encoding"))? {
        Some(_) => Err(CodingError::Form),
        None => Ok(()),
    }
}
