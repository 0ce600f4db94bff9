//! A request's body on its way up, while it still comes in.
//!
//! Only what may be larger than we want to hold passes like this: files, and forms with a file in
//! them. What was sent cannot be sent again, so such a request has one attempt.

use std::cell::RefCell;

use super::session::{Body, Session};
use super::{Core, Downstream};
use crate::dialect::refusal::Refusal;
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

/// A request's body, as it goes up.
pub(super) enum Load {
    /// Whole.
    Held(Body),
    /// While it comes in: what was read of it, the length of all of it, and what watches a form.
    Coming { begun: Vec<u8>, length: Option<u64>, form: Option<Scanner> },
}

/// The body of the present request: what was read of it before, then what comes.
pub(super) struct Incoming<'a, D: Downstream>(RefCell<State<'a, D>>);

struct State<'a, D: Downstream> {
    core: &'a Core,
    session: &'a mut Session<D>,
    length: Option<u64>,
    begun: Vec<u8>,
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
        begun: Vec<u8>,
        length: Option<u64>,
        form: Option<Scanner>,
    ) -> Incoming<'a, D> {
        let bytes = begun.len() as u64;
        let broken = None;
        Incoming(RefCell::new(State {
            core,
            session,
            length,
            begun,
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
        self.session.read_piece(self.core, &mut self.begun, most)?;
        self.bytes += self.begun.len() as u64;
        if let Some(form) = &mut self.form {
            form.feed(&self.begun)?;
        }
        Ok(())
    }
}
