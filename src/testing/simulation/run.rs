//! One seed's connection, from its first byte to its end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::connection::{CONFIG, Connection, HELD_BYTES_MAX, Step};
use super::ends::{Fault, Wire};
use super::logs;
use super::replies::{Desk, Told};
use super::requests::{Expect, Sent};
use crate::exchange::Stop;
use crate::metrics::{Gauge, Held};
use crate::testing::prng::Prng;

/// All that happened.
pub(super) struct Run {
    pub(super) connection: Connection,
    pub(super) sents: Vec<Sent>,
    /// Where each request stands in the input.
    pub(super) spans: Vec<Range<usize>>,
    /// What the caller does at a place of the input, beside waiting for `100 Continue`.
    pub(super) fault: Option<(usize, Fault)>,
    pub(super) desk: Rc<RefCell<Desk>>,
    /// Every round that was no silence.
    pub(super) rounds: Vec<Round>,
    /// The clock leaps by hours.
    pub(super) leaps: bool,
    pub(super) pressure: Option<Gauge>,
    /// The request before which the process begins to drain, or in whose call it does.
    pub(super) drains_at: Option<usize>,
    pub(super) reloads_at: Option<usize>,
    pub(super) pipelined: bool,
    /// What was logged.
    pub(super) lines: Vec<String>,
}

/// One round of the loop.
pub(super) struct Round {
    pub(super) step: Step,
    /// What it wrote.
    pub(super) out: Range<usize>,
    /// The process was draining when it began.
    pub(super) drains: bool,
}

impl Run {
    pub(super) fn of(seed: u64) -> Run {
        let mut prng = Prng::new(seed);
        let sents = sents(&mut prng);
        let mut input = Vec::new();
        let mut spans = Vec::new();
        let mut faults = Vec::new();
        for sent in &sents {
            let at = input.len();
            faults.extend(sent.faults.iter().map(|(place, fault)| (at + place, *fault)));
            input.extend_from_slice(&sent.bytes);
            spans.push(at..input.len());
        }
        let fault = prng.one_in(3).then(|| (prng.below(input.len()), fault(&mut prng)));
        faults.extend(fault);
        faults.sort_by_key(|(place, _)| *place);
        let mut wire = Wire::new(&input, prng.next_u64());
        wire.faults = faults.into();
        wire.end = *prng.pick(&[Fault::Silence, Fault::Close, Fault::Reset]);
        let pieces = [1, 4, 100, 2_000, usize::MAX];
        wire.piece_max = *prng.pick(&pieces).max(&(input.len() / 3_000));
        if prng.one_in(12) {
            let places = *prng.pick(&[300, 3_000, 30_000]);
            let place = prng.below(places);
            wire.write_stop =
                Some((place, *prng.pick(&[Stop::TimedOut, Stop::Gone, Stop::ShuttingDown])));
        }
        let some = |prng: &mut Prng, times| prng.one_in(times).then(|| prng.below(sents.len()));
        let (drains_at, reloads_at) = (some(&mut prng, 20), some(&mut prng, 30));
        let desk = Rc::new(RefCell::new(Desk {
            calls: calls(&sents),
            told: Vec::new(),
            drains_in: drains_at.filter(|_| prng.one_in(2)),
            reloads_in: reloads_at,
            prng: Prng::new(prng.next_u64()),
        }));
        let connection = Connection::new(CONFIG, wire, prng.next_u64(), Desk::author(&desk));
        let mut run = Run {
            connection,
            spans,
            fault,
            desk,
            rounds: Vec::new(),
            leaps: prng.one_in(25),
            pressure: None,
            drains_at,
            reloads_at,
            pipelined: prng.one_in(2),
            lines: Vec::new(),
            sents,
        };
        if run.leaps {
            let looks = prng.below(80) as i64;
            run.connection.clock.leap(looks, Duration::from_secs(3_600));
        }
        if prng.one_in(25) {
            run.pressure = Some(*prng.pick(&[Gauge::PlacesTaken, Gauge::HeldBytes]));
        }
        logs::keep();
        run.go();
        run.lines = logs::take();
        run
    }

    fn go(&mut self) {
        let _pressure = self.pressure.map(|gauge| self.press(gauge));
        let mut silences = 0;
        loop {
            let number = self.rounds.len();
            if self.drains_at == Some(number) && self.desk.borrow().drains_in.is_none() {
                self.connection.core.drain();
            }
            if !self.pipelined {
                let end = self.spans.get(number).map_or(usize::MAX, |span| span.end);
                let mut wire = self.connection.wire.borrow_mut();
                wire.released = end.min(wire.input.len());
            }
            let out_before = self.connection.wire.borrow().out.len();
            let drains = self.connection.core.is_draining();
            let step = self.connection.step();
            let out = out_before..self.connection.wire.borrow().out.len();
            if step == Step::Park {
                silences += 1;
                assert!(out.is_empty(), "an answer to nothing");
                // A caller that stalls will go on; one that has said all never will.
                if silences > 60 || self.is_over() {
                    return;
                }
                continue;
            }
            self.rounds.push(Round { step, out, drains });
            assert!(self.rounds.len() < 100, "more answers than requests");
            if step != Step::Again {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        let wire = self.connection.wire.borrow();
        let stalls = matches!(wire.faults.front(), Some((_, Fault::Stall(_))));
        wire.taken() == wire.input.len() || !stalls && !self.leaps
    }

    /// Others need what this connection needs.
    fn press(&self, gauge: Gauge) -> Held {
        let metrics = self.connection.core.metrics.clone();
        let by = if gauge == Gauge::HeldBytes { HELD_BYTES_MAX } else { 10 };
        metrics.hold(gauge, by)
    }

    /// Everything, for people.
    pub(super) fn transcript(&self) -> String {
        let mut text = String::new();
        let wire = self.connection.wire.borrow();
        for sent in &self.sents {
            let shown = sent.bytes[..sent.bytes.len().min(3_000)].escape_ascii();
            let _ = writeln!(text, "> {} {}\n", sent.number, shown);
        }
        let _ = writeln!(
            text,
            "spans {:?} fault {:?} end {:?} write_stop {:?} leaps {} pressure {:?} drains {:?} \
             reloads {:?} pipelined {} pieces {}\n",
            self.spans,
            self.fault,
            wire.end,
            wire.write_stop,
            self.leaps,
            self.pressure,
            self.drains_at,
            self.reloads_at,
            self.pipelined,
            wire.piece_max,
        );
        for seen in self.connection.seen.borrow().iter() {
            let body = seen.body[..seen.body.len().min(500)].escape_ascii();
            let _ = writeln!(text, "^ {} {} {:?} {body}\n", seen.provider, seen.url, seen.headers);
        }
        for (number, told) in &self.desk.borrow().told {
            let told = match told {
                Told::Again => "dies, may be called again".to_owned(),
                Told::Refused(status) => format!("refused {status}"),
                Told::Nothing => "nothing".to_owned(),
                Told::Reply(expected) => format!(
                    "{} {} stream {} breaks {:?} whole {} of {} {}",
                    expected.status,
                    expected.content_type,
                    expected.is_stream,
                    expected.breaks,
                    expected.pieces_whole,
                    expected.pieces.len(),
                    expected.body()[..expected.body().len().min(2_000)].escape_ascii()
                ),
            };
            let _ = writeln!(text, "v {number} {told}\n");
        }
        for round in &self.rounds {
            let out = &wire.out[round.out.clone()];
            let out = out[..out.len().min(3_000)].escape_ascii();
            let _ = writeln!(text, "< {:?} drains {} {out}\n", round.step, round.drains);
        }
        for line in &self.lines {
            let _ = writeln!(text, "# {line}\n");
        }
        let _ = writeln!(
            text,
            "shut {} aborted {} write_failed {:?} gone {}",
            wire.shut, wire.aborted, wire.write_failed, wire.gone
        );
        text
    }
}

fn sents(prng: &mut Prng) -> Vec<Sent> {
    let mut sents: Vec<Sent> = Vec::new();
    for number in 0..1 + prng.below(5) {
        sents.push(Sent::any(number, prng));
        // Where the next one would begin is not known.
        if matches!(sents[number].expect, Expect::Unknown) {
            break;
        }
    }
    sents
}

fn calls(sents: &[Sent]) -> HashMap<usize, super::requests::Called> {
    let mut calls = HashMap::new();
    for sent in sents {
        if let Expect::Called(called) = &sent.expect {
            calls.insert(sent.number, (**called).clone());
        }
    }
    calls
}

fn fault(prng: &mut Prng) -> Fault {
    *prng.pick(&[
        Fault::Stall(300),
        Fault::Stall(5_000),
        Fault::Stall(40_000),
        Fault::Silence,
        Fault::Reset,
        Fault::Close,
    ])
}
