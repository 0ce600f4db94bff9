//! The answers of one session: each is admitted, settled and recorded like a request of its own.
//!
//! The session is admitted before anybody is called, and its first answer takes that over. The next
//! ones are admitted when they are asked for, or, where nobody asks, when they begin. Each is
//! billed by its own model, its own size and its own tier.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::attempt::Plan;
use super::note::Note;
use super::pool::Meter;
use super::settlement::{self, Part, Seen, Settlement};
use super::tunnel::Hands;
use crate::dialect::ask::AskError;
use crate::dialect::live::{Listener, Names, News, Wish};
use crate::dialect::refusal::Refusal;
use crate::dialect::usage::Told;
use crate::failure::Phase;
use crate::limits;
use crate::route::plan::{self, RouteError, Target};

/// Status of an answer: that of its session's handshake.
const SWITCHED: u16 = 101;

/// The answers of a session that was opened.
pub(super) struct Turns<'a> {
    hands: &'a Hands<'a>,
    provider: usize,
    // Of the model that is asked for now.
    names: Named,
    listener: Listener,
    open: VecDeque<Turn>,
    // Where no answer stands for it until it begins: when one was asked for.
    asked_at: Option<Instant>,
    // Who writes down what the caller says; empty: nobody, as far as is known.
    transcriber: String,
    rows: u64,
    // The ceilings of the session's credential, and how many answers were counted there.
    meter: Option<Meter<'a>>,
    metered: u64,
    // Bytes of the session that stand in a row.
    counted: (u64, u64),
}

/// A model's names, and what permissions and limits are tested against.
#[derive(Clone)]
struct Named {
    names: Names,
    permission_at: usize,
}

impl Named {
    fn of(hands: &Hands<'_>, plan: &Plan<'_>) -> Named {
        let Target { model_asked, model_served, renamed, permission_name, .. } = *plan.target;
        let in_event = plan.full_name();
        let names = Names::new(hands.call.live, model_asked, model_served, &in_event, renamed);
        Named { names, permission_at: model_asked.len() - permission_name.len() }
    }

    /// A name that is the same here and there.
    fn plain(hands: &Hands<'_>, name: &str) -> Named {
        let names = Names::new(hands.call.live, name, name, name, false);
        Named { names, permission_at: 0 }
    }

    fn target(&self, provider: usize) -> Target<'_> {
        let Names { asked, served, renamed, .. } = &self.names;
        Target {
            provider,
            model_asked: asked,
            model_served: served,
            renamed: *renamed,
            permission_name: &asked[self.permission_at..],
        }
    }
}

/// An answer that was asked for, or has begun.
struct Turn {
    names: Named,
    settlement: Option<Settlement>,
    told: Told,
    // Of generated text that went by.
    text_bytes: u64,
    begun: bool,
    at: Instant,
}

impl<'a> Turns<'a> {
    /// The answers of the session that this plan has opened.
    pub(super) fn of(hands: &'a Hands<'a>, plan: &Plan<'_>, note: &Note) -> Turns<'a> {
        let provider = note.provider.unwrap_or_default();
        let credentials = &hands.snapshot.providers[provider].credentials;
        let credential = note.credential.and_then(|at| credentials.get(at));
        Turns {
            hands,
            provider,
            names: Named::of(hands, plan),
            listener: Listener::new(hands.call.live),
            open: VecDeque::new(),
            asked_at: None,
            transcriber: String::new(),
            rows: 0,
            meter: credential.and_then(|credential| Meter::of(hands.core, credential)),
            metered: 0,
            counted: (0, 0),
        }
    }

    /// Reads and rewrites an event that goes up. What is refused does not.
    pub(super) fn up(&mut self, note: &mut Note, event: &mut Vec<u8>) -> Result<(), Refusal> {
        let wish = Wish::read(self.hands.call.live, event)?;
        if let Some(model) = &wish.transcriber {
            self.may_transcribe(note, model)?;
        }
        let other = match &wish.model {
            Some(name) if !self.names.names.has(name) => Some(self.other(note, name)?),
            _ => None,
        };
        let names = other.unwrap_or_else(|| self.names.clone());
        if wish.asks {
            self.ask(note, &names)?;
        }
        wish.write(&names.names, event);
        self.names = names;
        Ok(())
    }

    /// Rewrites an event that comes down, and takes in what it tells. A refusal ends the session.
    pub(super) fn down(&mut self, note: &mut Note, event: &mut Vec<u8>) -> Result<(), Refusal> {
        let names = self.open.front().map_or(&self.names, |turn| &turn.names);
        let News { begins, told, text_bytes, ends, failed, transcriber, transcribed } =
            self.listener.hear(event, &names.names);
        if let Some(model) = transcriber {
            self.transcriber = model;
        }
        if let Some(told) = transcribed {
            self.record_transcript(note, told);
        }
        let mut result = if begins { self.begin(note) } else { Ok(()) };
        if ends {
            if self.open.is_empty() {
                result = self.begin(note);
            }
            let at = self.open.iter().position(|turn| turn.begun).unwrap_or_default();
            if let Some(mut turn) = self.open.remove(at) {
                turn.told = told.unwrap_or_default();
                self.record(note, turn, SWITCHED, "ok");
            }
        } else if let (Some(told), Some(turn)) = (told, self.open.back_mut()) {
            turn.told = told;
            let last = self.open.len() - 1;
            result = result.and_then(|()| self.is_covered(note, last));
        } else if text_bytes > 0
            && let Some(at) = self.open.iter().position(|turn| turn.begun)
        {
            self.open[at].text_bytes += text_bytes;
            result = result.and_then(|()| self.is_covered(note, at));
        }
        // Whatever it was about: if an answer comes all the same, it says so when it begins.
        self.asked_at = self.asked_at.filter(|_| failed.is_none());
        if let Some(status) = failed
            && let Some(at) = self.open.iter().position(|turn| !turn.begun)
            && let Some(turn) = self.open.remove(at)
        {
            self.record(note, turn, status, "ok");
        }
        result
    }

    /// An answer was asked for, or has begun, and has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.asked_at.is_some() || (!self.open.is_empty() && !self.listener.is_between())
    }

    /// Since when the upstream owes a word of an answer, and how long it may be silent in which
    /// phase; `None`: it is not its turn.
    pub(super) fn awaited(&self) -> Option<(Instant, Phase, Duration)> {
        let begun = self.open.iter().rev().find(|turn| turn.begun);
        let (at, is_begun) = match begun.or(self.open.front()) {
            // Where nobody asks, it may as well listen.
            Some(_) if self.listener.ends_with_the_next() && !self.listener.is_speaking() => {
                return None;
            }
            Some(turn) => (turn.at, turn.begun),
            None => (self.asked_at?, false),
        };
        let timeouts = &self.hands.snapshot.providers[self.provider].timeouts;
        let (phase, limit_ms) = match is_begun {
            true => (Phase::Relay, timeouts.between_bytes_ms),
            false => (Phase::AwaitHead, timeouts.first_byte_ms),
        };
        Some((at, phase, Duration::from_millis(limit_ms)))
    }

    /// The session has ended, in a word. What is open is recorded; the only answer of all is left
    /// to the note.
    pub(super) fn leave(&mut self, note: &mut Note, end: &'static str) {
        // Nobody was asked for anything.
        if let Some(untaken) = &mut note.settlement {
            untaken.guess_no_input();
        }
        let has_one = self.open.len() == 1 && note.settlement.is_none();
        if self.rows == 0 && has_one {
            let Some(turn) = self.open.pop_front() else { return };
            self.meter_tokens(turn.told);
            note.settlement = turn.settlement;
            (note.told, note.text_bytes) = (turn.told, turn.text_bytes);
            note.model_asked = turn.names.names.asked;
            note.model_served = turn.names.names.served;
        }
        while let Some(turn) = self.open.pop_front() {
            self.record(note, turn, SWITCHED, end);
        }
        // The session's own id is taken.
        if self.rows > 0 && note.settlement.is_some() {
            let turn = self.turn(note, self.names.clone(), false);
            self.record(note, turn, SWITCHED, end);
        }
    }

    /// Another model of the same provider's, where a session may serve several.
    fn other(&self, note: &Note, name: &str) -> Result<Named, AskError> {
        let Hands { snapshot, call, .. } = *self.hands;
        if !call.live.many_models {
            return Err(AskError::OtherModel);
        }
        let is_here = |target: &Target<'_>| target.provider == self.provider;
        let target = plan::first_that(snapshot, self.hands.scope(), name, is_here);
        let target = target.ok().filter(is_here).ok_or(AskError::OtherModel)?;
        let plan = self.hands.plan(&target, "", note).map_err(|_| AskError::OtherModel)?;
        Ok(Named::of(self.hands, &plan))
    }

    /// A second model hears the caller: it has to be permitted like the first.
    fn may_transcribe(&self, note: &Note, model: &str) -> Result<(), Refusal> {
        let snapshot = self.hands.snapshot;
        let is_permitted = snapshot.permits(note.user.unwrap_or_default(), self.provider, model);
        match is_permitted && snapshot.is_enabled(self.provider, model) {
            true => Ok(()),
            false => Err(super::about(RouteError::Forbidden, model)),
        }
    }

    /// An answer was asked for.
    fn ask(&mut self, note: &mut Note, names: &Named) -> Result<(), Refusal> {
        if self.open.len() >= limits::TURNS_MAX {
            return Err(Refusal::overloaded());
        }
        self.admit(note, names)?;
        // Where each has a model of its own, they come in the order in which they were asked for.
        match self.hands.call.live.many_models {
            true => {
                let turn = self.turn(note, names.clone(), false);
                self.push(turn);
            }
            false => self.asked_at = Some(self.hands.core.now()),
        }
        Ok(())
    }

    /// An answer begins. One that was not asked for has to be admitted yet; if it cannot be, it is
    /// recorded all the same.
    fn begin(&mut self, note: &mut Note) -> Result<(), Refusal> {
        self.asked_at = None;
        if self.hands.call.live.many_models
            && let Some(at) = self.open.iter().position(|turn| !turn.begun)
        {
            self.open[at].begun = true;
            // One comes after the other: what began before has broken off.
            for turn in self.open.drain(..at).collect::<Vec<_>>() {
                self.record(note, turn, SWITCHED, "cut");
            }
            return Ok(());
        }
        if self.listener.ends_with_the_next() {
            while let Some(turn) = self.open.pop_front() {
                self.record(note, turn, SWITCHED, "ok");
            }
        }
        let result = match self.open.len() >= limits::TURNS_MAX {
            true => Err(Refusal::overloaded()),
            false => self.admit(note, &self.names),
        };
        if result.is_err() {
            note.settlement = self.ungated(note, &self.names);
        }
        let turn = self.turn(note, self.names.clone(), true);
        self.push(turn);
        result
    }

    /// One more answer is under way. The session's handshake was counted as the first.
    fn push(&mut self, turn: Turn) {
        if let Some(meter) = self.meter.as_ref().filter(|_| self.metered > 0) {
            meter.add(1, 0);
        }
        self.metered += 1;
        self.open.push_back(turn);
    }

    fn meter_tokens(&self, told: Told) {
        if let Some(meter) = self.meter.as_ref().filter(|_| told.any) {
            meter.add(0, told.usage.tokens());
        }
    }

    /// Something is admitted that no answer has taken over.
    fn admit(&self, note: &mut Note, names: &Named) -> Result<(), Refusal> {
        if note.settlement.is_some() {
            return Ok(());
        }
        let Hands { core, snapshot, .. } = *self.hands;
        let target = names.target(self.provider);
        let plan = self.hands.plan(&target, "", note)?;
        settlement::admit_next(core, snapshot, &plan, note)
    }

    fn ungated(&self, note: &Note, names: &Named) -> Option<Settlement> {
        let Hands { core, snapshot, .. } = *self.hands;
        let target = names.target(self.provider);
        let plan = self.hands.ungated(&target)?;
        settlement::ungated(core, snapshot, &plan, note)
    }

    fn turn(&self, note: &mut Note, names: Named, begun: bool) -> Turn {
        let (mut settlement, told) = (note.settlement.take(), Told::default());
        // Most of what is said there is sound.
        if let (false, Some(settlement)) = (self.hands.call.live.many_models, &mut settlement) {
            settlement.guess_no_input();
        }
        Turn { names, settlement, told, text_bytes: 0, begun, at: self.hands.core.now() }
    }

    /// The answer at this place may cost what it has cost so far.
    fn is_covered(&mut self, note: &Note, at: usize) -> Result<(), Refusal> {
        let Hands { core, snapshot, .. } = *self.hands;
        let user = note.user.map(|at| &snapshot.users[at]);
        let ends = snapshot.billing.quota_ends_streams;
        let user = user.filter(|user| ends && !user.quotas.is_empty());
        let Some(Turn { settlement: Some(settlement), told, text_bytes, .. }) =
            self.open.get_mut(at)
        else {
            return Ok(());
        };
        let seen = seen(*told, *text_bytes, SWITCHED, 0, "");
        let cost = settlement.cost_so_far(&seen);
        match user {
            Some(user) => Ok(settlement.covers(user, cost, &*core.clock)?),
            None => Ok(()),
        }
    }

    fn record_transcript(&mut self, note: &Note, told: Told) {
        let names = Named::plain(self.hands, &self.transcriber);
        let settlement = self.ungated(note, &names);
        let at = self.hands.core.now();
        self.record(
            note,
            Turn { names, settlement, told, text_bytes: 0, begun: true, at },
            SWITCHED,
            "ok",
        );
    }

    /// Settles an answer and writes its row. The first has the session's id.
    fn record(&mut self, note: &Note, turn: Turn, status: u16, end: &'static str) {
        let Turn { names, settlement, told, text_bytes, at, .. } = turn;
        self.meter_tokens(told);
        let Hands { core, snapshot, .. } = *self.hands;
        let bytes = (note.bytes_in - self.counted.0, note.bytes_out - self.counted.1);
        let Names { asked: model_asked, served: model_served, .. } = &names.names;
        let seen = seen(told, text_bytes, status, bytes.0, end);
        let part = Part { model_asked, model_served, seen, end };
        let settled = settlement.and_then(|settlement| settlement.settle(note, snapshot, &part));
        let Some((slot, mut row)) = settled else { return };
        self.counted = (note.bytes_in, note.bytes_out);
        let id = if self.rows == 0 { note.id } else { core.next_id() };
        self.rows += 1;
        (row.process, row.number) = (id.process, id.number);
        (row.bytes_in, row.bytes_out) = bytes;
        row.first_byte_ms = -1;
        row.total_ms = core.now().saturating_duration_since(at).as_millis() as i64;
        log::info!(
            target: "gproxy::request",
            "id={id} session={} endpoint={} model_asked={model_asked:?} \
             model_served={model_served:?} status={status} end={end} total_ms={}",
            note.id, note.endpoint, row.total_ms,
        );
        slot.record(row);
    }
}

fn seen(told: Told, text_bytes: u64, status: u16, bytes_in: u64, end: &str) -> Seen {
    let (whole, left) = (end == "ok", end == "gone");
    Seen { told, text_bytes, bytes_in, status, whole, left, refused: false }
}
