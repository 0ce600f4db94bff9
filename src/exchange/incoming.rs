//! A request's body on its way up, while it still comes in.
//!
//! Only what may be larger than we want to hold passes like this: files, and forms with a file in
//! them. What was sent cannot be sent again, so such a request has one attempt.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::time::Duration;

use super::crowd::{Full, Scarce, Share};
use super::note::Note;
use super::session::{Body, Session};
use super::{Core, Downstream, Upstream};
use crate::dialect::ask::{self, AskError};
use crate::dialect::batch::Exchange;
use crate::dialect::refusal::Refusal;
use crate::failure::Unstored;
use crate::limits;
use crate::wire::multipart::Scanner;

/// Where the bytes of a body come from.
pub trait Source {
    /// The length of the whole body, where it is known.
    fn length(&self) -> Option<u64>;
    /// Reads some bytes; 0: the end.
    fn read(&self, buf: &mut [u8]) -> Result<usize, SourceBroken>;
}

/// The body cannot be had whole; why is told downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceBroken;

/// Bytes on disk.
pub trait Spool {
    /// Writes behind what is there.
    fn append(&mut self, bytes: Vec<u8>) -> Result<(), Unstored>;
    /// Reads exactly so many bytes, which were written.
    fn read(&mut self, at: u64, count: usize) -> Result<Vec<u8>, Unstored>;
    /// Reads all of it from the beginning, for a thread that may block.
    fn reader(&self) -> Box<dyn io::Read + Send>;
}

/// The beginning of a body, as far as it was read before it was known where it goes.
#[derive(Default)]
pub(super) struct Begun {
    /// In memory; behind what is on disk.
    pub(super) bytes: Vec<u8>,
    spooled: Option<Box<Spooled>>,
    exchange: Option<Box<Exchange>>,
}

/// What of it is on disk.
struct Spooled {
    spool: Box<dyn Spool>,
    _share: Share,
    length: u64,
    // So much of it was read again.
    at: u64,
    // What stands in the place of what.
    change: (Range<u64>, Vec<u8>),
}

/// Reads an opened body until `see`, which is shown each piece, has seen enough, or to its end.
/// What is long lies on disk then, where a body that trickles would keep a place from others.
pub(super) fn begin<D: Downstream, U: Upstream>(
    core: &Core,
    note: &Note,
    session: &mut Session<D>,
    up: &mut U,
    mut see: impl FnMut(&[u8]) -> Result<bool, Refusal>,
) -> Result<Begun, Refusal> {
    let mut share = Share::new(core, Scarce::Bytes);
    let mut begun = Begun::default();
    let mut is_enough = false;
    let at_once = core.now() + Duration::from_millis(limits::BODY_MS_MAX);
    while !is_enough && !session.has_read_body() {
        let from = begun.bytes.len();
        let until = at_once + Duration::from_millis(begun.length() / limits::SPOOLED_BYTES_EACH_MS);
        session.read_piece(core, &mut begun.bytes, limits::RELAY_BYTES, Some(until))?;
        is_enough = see(&begun.bytes[from..])?;
        begun.bound(core, note, up, &mut share)?;
    }
    begun.gather()?;
    Ok(begun)
}

impl Begun {
    /// Counts what is in memory, and moves it to the disk when it is much.
    pub(super) fn bound<U: Upstream>(
        &mut self,
        core: &Core,
        note: &Note,
        up: &mut U,
        share: &mut Share,
    ) -> Result<(), Refusal> {
        share.set(core, note, self.bytes.capacity()).map_err(Full::refusal)?;
        let most = match self.spooled {
            Some(_) => limits::SPOOL_PIECE_BYTES,
            None => limits::FORM_HELD_BYTES_MAX,
        };
        if self.bytes.len() > most {
            if self.spooled.is_none() {
                self.spooled = Some(Spooled::open(core, note, up)?);
            }
            self.gather()?;
        }
        Ok(())
    }

    /// Leaves all of it in memory or all on disk.
    pub(super) fn gather(&mut self) -> Result<(), Unstored> {
        let Some(spooled) = &mut self.spooled else { return Ok(()) };
        spooled.length += self.bytes.len() as u64;
        spooled.spool.append(std::mem::take(&mut self.bytes))
    }

    /// Exchanges the names in it, which is all in memory or all on disk.
    pub(super) fn exchange(&mut self, mut exchange: Exchange) -> Result<(), AskError> {
        if self.spooled.is_none() {
            let bytes = std::mem::take(&mut self.bytes);
            return exchange.feed(&bytes, &mut self.bytes);
        }
        self.exchange = Some(Box::new(exchange));
        Ok(())
    }

    /// Bytes in all.
    pub(super) fn length(&self) -> u64 {
        let on_disk = self.spooled.as_ref().map_or(0, |spooled| spooled.length);
        on_disk + self.bytes.len() as u64
    }

    /// Reads all of it, which is all in memory or all on disk, for a thread that may block.
    pub(super) fn reader(&mut self) -> Box<dyn io::Read + Send> {
        match &self.spooled {
            Some(spooled) => spooled.spool.reader(),
            None => Box::new(io::Cursor::new(std::mem::take(&mut self.bytes))),
        }
    }

    /// The name at this place, of what is all in memory or all on disk.
    pub(super) fn name(&mut self, place: &Range<u64>) -> Result<String, Refusal> {
        let count = place.end - place.start;
        let name = match &mut self.spooled {
            Some(_) if count > limits::MODEL_BYTES_MAX as u64 => {
                return Err(AskError::ModelTooLong.into());
            }
            Some(spooled) => spooled.spool.read(place.start, count as usize)?,
            None => self.bytes[place.start as usize..place.end as usize].to_vec(),
        };
        Ok(ask::plain_name(&name)?)
    }

    /// Puts a text in the place of another.
    pub(super) fn replace(&mut self, place: Range<u64>, text: Vec<u8>) {
        match &mut self.spooled {
            Some(spooled) => spooled.change = (place, text),
            None => {
                let place = place.start as usize..place.end as usize;
                self.bytes.splice(place, text);
            }
        }
    }
}

impl Spooled {
    fn open<U: Upstream>(core: &Core, note: &Note, up: &mut U) -> Result<Box<Spooled>, Unstored> {
        let mut share = Share::new(core, Scarce::Spools);
        share.take(core, note, 1).map_err(|Full| Unstored::Busy)?;
        let change = (u64::MAX..u64::MAX, Vec::new());
        Ok(Box::new(Spooled { spool: up.spool()?, _share: share, length: 0, at: 0, change }))
    }

    /// Appends the next piece to `out`; nothing at the end.
    fn next(&mut self, out: &mut Vec<u8>) -> Result<(), Unstored> {
        let (place, name) = &mut self.change;
        if self.at == place.start {
            out.append(name);
            self.at = place.end;
        }
        let end = if self.at < place.start { self.length.min(place.start) } else { self.length };
        let count = (end - self.at).min(limits::SPOOL_PIECE_BYTES as u64);
        if count > 0 {
            out.append(&mut self.spool.read(self.at, count as usize)?);
            self.at += count;
        }
        Ok(())
    }
}

/// A request's body, as it goes up.
pub(super) enum Load {
    /// Whole.
    Held(Body),
    /// While it comes in: what was read of it, the length of all of it, and what watches a form.
    Coming { begun: Begun, length: Option<u64>, form: Option<Scanner> },
}

/// The body of the present request: what was read of it before, then what comes.
pub(super) struct Incoming<'a, D: Downstream>(RefCell<State<'a, D>>);

struct State<'a, D: Downstream> {
    core: &'a Core,
    session: &'a mut Session<D>,
    length: Option<u64>,
    begun: Vec<u8>,
    spooled: Option<Box<Spooled>>,
    exchange: Option<Box<Exchange>>,
    taken: usize,
    // Goes on watching a form whose model was found, against a second one.
    form: Option<Scanner>,
    bytes: u64,
    broken: Option<Refusal>,
}

impl<'a, D: Downstream> Incoming<'a, D> {
    /// `begun` goes up first. `length`: of all of it. `form` has seen what `begun` was made of.
    pub(super) fn new(
        core: &'a Core,
        session: &'a mut Session<D>,
        begun: Begun,
        length: Option<u64>,
        form: Option<Scanner>,
    ) -> Incoming<'a, D> {
        let bytes = begun.length();
        let Begun { bytes: begun, spooled, exchange } = begun;
        let broken = None;
        Incoming(RefCell::new(State {
            core,
            session,
            length,
            begun,
            spooled,
            exchange,
            taken: 0,
            form,
            bytes,
            broken,
        }))
    }

    /// Bytes that were read so far, and why there are no more, if there should be.
    pub(super) fn outcome(self) -> (u64, Option<Refusal>) {
        let state = self.0.into_inner();
        (state.bytes, state.broken)
    }
}

impl<D: Downstream> Source for Incoming<'_, D> {
    fn length(&self) -> Option<u64> {
        self.0.borrow().length
    }

    fn read(&self, buf: &mut [u8]) -> Result<usize, SourceBroken> {
        let state = &mut *self.0.borrow_mut();
        if state.taken == state.begun.len() {
            state.begun.clear();
            state.taken = 0;
            if let Err(refusal) = state.fill(buf.len()) {
                state.broken = Some(refusal);
                return Err(SourceBroken);
            }
        }
        let rest = &state.begun[state.taken..];
        let count = rest.len().min(buf.len());
        buf[..count].copy_from_slice(&rest[..count]);
        state.taken += count;
        Ok(count)
    }
}

impl<D: Downstream> State<'_, D> {
    fn fill(&mut self, most: usize) -> Result<(), Refusal> {
        while let Some(spooled) = &mut self.spooled {
            let mut piece = Vec::new();
            spooled.next(&mut piece)?;
            if piece.is_empty() {
                self.spooled = None;
                break;
            }
            match &mut self.exchange {
                Some(exchange) => exchange.feed(&piece, &mut self.begun)?,
                None => self.begun = piece,
            }
            // All of a short piece may be the beginning of a name.
            if !self.begun.is_empty() {
                return Ok(());
            }
        }
        self.session.read_piece(self.core, &mut self.begun, most, None)?;
        self.bytes += self.begun.len() as u64;
        if let Some(form) = &mut self.form {
            form.feed(&self.begun)?;
            // Before its last bytes go up.
            if self.session.has_read_body() {
                form.finish()?;
            }
        }
        Ok(())
    }
}
