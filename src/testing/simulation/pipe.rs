//! The provider's end of a WebSocket, and what happens meanwhile: each thing at its moment, counted
//! from the beginning of the simulation. Time passes where the gateway waits.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ends::{SimClock, Wire};
use crate::exchange::{Core, Pipe, Stop};
use crate::wire::websocket::{self, Kind};

/// What happens at a moment.
#[derive(Clone)]
pub(super) enum Moment {
    /// The provider sends an event.
    Says(&'static str),
    /// So many bytes more of the caller's come.
    Sends(usize),
    /// From now on the provider takes nothing.
    Deaf,
    /// The caller leaves.
    Leaves,
    /// The process begins to drain.
    Drains,
    /// It has no more time for whatever is open.
    Cuts,
}

/// The provider's end: it takes all that it is told, until it takes nothing.
pub(super) struct SimPipe {
    pub(super) core: Arc<Core>,
    pub(super) wire: Rc<RefCell<Wire>>,
    pub(super) clock: SimClock,
    /// What is still to happen, in order.
    pub(super) moments: VecDeque<(u64, Moment)>,
    said: VecDeque<u8>,
    is_deaf: bool,
}

impl SimPipe {
    pub(super) fn new(
        core: Arc<Core>,
        wire: Rc<RefCell<Wire>>,
        clock: SimClock,
        moments: Vec<(u64, Moment)>,
    ) -> SimPipe {
        SimPipe {
            core,
            wire,
            clock,
            moments: moments.into(),
            said: VecDeque::new(),
            is_deaf: false,
        }
    }

    /// Lets happen what is due.
    fn meet(&mut self) {
        while let Some((at_ms, moment)) = self.moments.front().cloned()
            && at_ms <= self.clock.now_ms()
        {
            self.moments.pop_front();
            match moment {
                Moment::Says(event) => {
                    let mut frame = Vec::new();
                    websocket::write(Kind::Text, event.as_bytes(), None, &mut frame);
                    self.said.extend(frame);
                }
                Moment::Sends(count) => self.wire.borrow_mut().released += count,
                Moment::Deaf => self.is_deaf = true,
                Moment::Leaves => self.wire.borrow_mut().gone = true,
                Moment::Drains => self.core.drain(),
                Moment::Cuts => self.core.cut(),
            }
        }
    }
}

impl Pipe for SimPipe {
    fn read(&mut self, buf: &mut [u8]) -> Result<Option<usize>, Stop> {
        self.meet();
        let count = self.said.len().min(buf.len());
        for (place, byte) in buf.iter_mut().zip(self.said.drain(..count)) {
            *place = byte;
        }
        Ok(Some(count).filter(|count| *count > 0))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        Ok(if self.is_deaf { 0 } else { bytes.len() })
    }

    fn has_left(&mut self) -> bool {
        self.wire.borrow().gone
    }

    fn wait(&mut self, until: Instant) {
        let next = self.moments.front().map(|(at_ms, _)| *at_ms);
        let left = next.map(|at_ms| at_ms.saturating_sub(self.clock.now_ms()));
        let patience = until.saturating_duration_since(self.clock.at());
        match left.map(Duration::from_millis) {
            Some(left) if left <= patience => self.clock.advance_us(left.as_micros() as u64),
            _ => self.clock.advance_to(until),
        }
        self.meet();
    }

    fn give_way(&mut self) {}

    fn mask(&mut self) -> [u8; 4] {
        [1, 2, 3, 4]
    }
}
