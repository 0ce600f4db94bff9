//! What is known of a credential: whether it may be called, for which model, and from when.
//!
//! Pure, over a time in milliseconds since 1970, so that it can be kept through a restart. One
//! circuit stands for all of the credential, one more for each model that was refused. A circuit
//! that has cooled down lets one call through, the probe; what comes of it closes the circuit or
//! opens it for longer. A disabled one waits for a success, which only the last resort of a pool
//! can bring, for a reload or for the administrator.

use crate::dialect::trouble::{Scope, Trouble};
use crate::failure::{Cause, Failure, Phase};
use crate::limits;

/// By so much may the time of one caller be behind another's, who took the lock first. A circuit
/// that opened later than that was opened by a clock that was set back.
const LATE_MS_MAX: i64 = 1_000;

/// What an attempt showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// It works.
    Works,
    /// Nothing about the credential: the request was at fault.
    Nothing,
    /// The upstream asks for patience.
    Limited(Trouble),
    /// The upstream failed, or did not answer; it may have said for how long.
    Failed(Option<i64>),
    /// Likewise it does not serve the model, and does not say that the credential is at fault.
    Refused(Option<i64>),
    /// No connection: what is behind the credential's provider cannot be reached.
    Unreachable,
    /// The credential is not accepted.
    Denied,
}

/// What an answer shows by its status, before anybody looks further.
pub fn lesson_of(status: u16, trouble: Trouble) -> Lesson {
    let wait_ms = trouble.wait_ms().or(Some(limits::COOLDOWN_MS_MAX));
    match status {
        0..=399 => Lesson::Works,
        401 => Lesson::Denied,
        // Money comes back without anybody telling us: it is asked for again now and then.
        402 => Lesson::Limited(Trouble { scope: Scope::Account, asked_ms: wait_ms, ..trouble }),
        // What anybody's request can bring about takes no credential out of its pool for good.
        403 => match trouble.scope {
            Scope::Request => Lesson::Nothing,
            Scope::Model => Lesson::Refused(trouble.asked_ms),
            Scope::Account => Lesson::Denied,
        },
        429 => Lesson::Limited(trouble),
        501 | 505 => Lesson::Nothing,
        400..=499 => Lesson::Nothing,
        500.. => Lesson::Failed(trouble.asked_ms),
    }
}

/// What a failed attempt shows.
pub fn shown_by(failure: &Failure) -> Lesson {
    match (failure.cause, failure.phase) {
        (Cause::DownstreamGone | Cause::ShuttingDown, _) => Lesson::Nothing,
        (Cause::AccountRefused, _) => Lesson::Denied,
        (Cause::Fenced | Cause::Overtaken | Cause::Exhausted, _) => Lesson::Nothing,
        (_, Phase::Resolve | Phase::Connect | Phase::Tls) => Lesson::Unreachable,
        _ => Lesson::Failed(None),
    }
}

/// Why a circuit is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The upstream asked for patience.
    Limited,
    /// The upstream failed.
    Failed,
    /// The upstream did not serve the model, for whatever reason.
    Refused,
    /// No connection.
    Unreachable,
    /// The credential was not accepted: it is disabled.
    Denied,
    /// An administrator took it out of the pool, and only he brings it back.
    Paused,
}

impl Why {
    /// All of them, as they are kept.
    pub const ALL: [Why; 6] =
        [Why::Limited, Why::Failed, Why::Refused, Why::Unreachable, Why::Denied, Why::Paused];

    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Why::Limited => "limited",
            Why::Failed => "failed",
            Why::Refused => "refused",
            Why::Unreachable => "unreachable",
            Why::Denied => "denied",
            Why::Paused => "paused",
        }
    }
}

/// An open circuit. What is closed has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Circuit {
    /// The model; empty: all of the credential.
    pub model: Box<str>,
    /// Why it is open.
    pub why: Why,
    /// When it opened, or opened further.
    pub since_ms: i64,
    /// When the probe may go. Of a disabled one it never may.
    pub until_ms: i64,
    /// How often it was opened without a success in between.
    pub strikes: u32,
    /// The probe is under way.
    probing: bool,
}

impl Circuit {
    /// One as it was kept.
    pub fn kept(model: &str, why: Why, since_ms: i64, until_ms: i64, strikes: u32) -> Circuit {
        let ceiling = since_ms.saturating_add(limits::COOLDOWN_MS_MAX);
        let until_ms = until_ms.min(ceiling);
        Circuit { model: model.into(), why, since_ms, until_ms, strikes, probing: false }
    }
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// It may.
    Free,
    /// It may, alone: others wait for what comes of it.
    Probe,
    /// From this moment on, as far as is known.
    From(i64),
    /// Not until somebody says so, or where nothing else is left.
    Disabled,
    /// Never, whatever is left.
    Paused,
}

/// What is known of one credential. As small as nothing while nothing is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    open: Vec<Circuit>,
    /// Refusals that were taken back since it served last.
    pardons: u32,
}

/// What a lesson changed, for those who want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A circuit was opened, or opened for longer.
    Cools(Why),
    /// The credential is out of the pool.
    Disabled,
    /// It is back.
    Recovered,
}

impl Health {
    /// Nothing is wrong, and nothing has to be learned from a success.
    pub fn is_sound(&self) -> bool {
        self.open.is_empty() && self.pardons == 0
    }

    /// What is open.
    pub fn circuits(&self) -> &[Circuit] {
        &self.open
    }

    /// Takes up what was kept.
    pub fn restore(&mut self, circuit: Circuit, now_ms: i64) {
        if self.open.len() < limits::CIRCUITS_MAX {
            self.open.push(circuit);
        }
        self.set_back(now_ms);
    }

    /// What opened later than now rests as if it had just opened, and not until the clock is there.
    fn set_back(&mut self, now_ms: i64) {
        for circuit in &mut self.open {
            if circuit.since_ms > now_ms.saturating_add(LATE_MS_MAX) {
                let rest_ms = circuit.until_ms.saturating_sub(circuit.since_ms);
                circuit.since_ms = now_ms;
                circuit.until_ms = now_ms.saturating_add(rest_ms.min(limits::COOLDOWN_MS_MAX));
            }
        }
    }

    /// Whether the model may be called; a probe counts as under way from here on.
    pub fn ask(&mut self, model: &str, now_ms: i64) -> Leave {
        self.set_back(now_ms);
        let mut leave = Leave::Free;
        for circuit in self.open.iter().filter(|circuit| concerns(circuit, model)) {
            match leave {
                Leave::Paused => {}
                _ if circuit.why == Why::Paused => leave = Leave::Paused,
                Leave::Disabled => {}
                _ if circuit.why == Why::Denied => leave = Leave::Disabled,
                Leave::From(until) if until >= circuit.until_ms => {}
                _ if circuit.until_ms > now_ms => leave = Leave::From(circuit.until_ms),
                Leave::Free | Leave::Probe if circuit.probing => leave = Leave::From(now_ms),
                Leave::Free => leave = Leave::Probe,
                _ => {}
            }
        }
        if leave == Leave::Probe {
            self.each(model, |circuit| circuit.probing = true);
        }
        leave
    }

    /// A probe ended without a lesson.
    pub fn release(&mut self, model: &str) {
        self.each(model, |circuit| circuit.probing = false);
    }

    /// Learns what came of a probe. None of its circuits waits for it any longer, whichever one the
    /// lesson is about.
    pub fn learn_from_probe(
        &mut self,
        model: &str,
        lesson: Lesson,
        begun_ms: i64,
        now_ms: i64,
    ) -> Option<Change> {
        if lesson != Lesson::Nothing {
            self.release(model);
        }
        self.learn(model, lesson, begun_ms, now_ms)
    }

    /// Learns what came of a call that began at `begun_ms`. What began before a circuit opened
    /// neither closes it nor counts against it once more.
    pub fn learn(
        &mut self,
        model: &str,
        lesson: Lesson,
        begun_ms: i64,
        now_ms: i64,
    ) -> Option<Change> {
        self.set_back(now_ms);
        let (scope, why, asked_ms) = match lesson {
            Lesson::Works => return self.close(model, begun_ms),
            Lesson::Nothing => return None,
            Lesson::Limited(trouble) => (trouble.scope, Why::Limited, trouble.wait_ms()),
            Lesson::Failed(asked_ms) => (Scope::Model, Why::Failed, asked_ms),
            Lesson::Refused(asked_ms) => (Scope::Model, Why::Refused, asked_ms),
            Lesson::Unreachable => (Scope::Account, Why::Unreachable, None),
            Lesson::Denied => (Scope::Account, Why::Denied, None),
        };
        let name = match scope {
            Scope::Account => "",
            // The circuit of all of the credential has no name either.
            _ if model.is_empty() => return None,
            // A limit is never of one request.
            Scope::Model | Scope::Request => model,
        };
        let at = self.open.iter().position(|circuit| *circuit.model == *name);
        if let Some(at) = at
            && (begun_ms < self.open[at].since_ms
                || matches!(self.open[at].why, Why::Denied | Why::Paused))
        {
            return None;
        }
        let strikes = at.map_or(0, |at| self.open[at].strikes).saturating_add(1);
        let wait_ms = match (why, asked_ms) {
            // A limit is over when it is said to be; who fails may say so each time.
            (Why::Limited, Some(asked_ms)) => asked_ms,
            (_, asked_ms) => backoff_ms(strikes).max(asked_ms.unwrap_or_default()),
        };
        let wait_ms = wait_ms.clamp(limits::COOLDOWN_MS_MIN, limits::COOLDOWN_MS_MAX);
        let until_ms = now_ms.saturating_add(wait_ms);
        let mut circuit = Circuit::kept(name, why, now_ms, until_ms, strikes);
        match at {
            Some(at) => std::mem::swap(&mut self.open[at], &mut circuit),
            None => {
                if self.open.len() == limits::CIRCUITS_MAX {
                    self.forget_one();
                }
                self.open.push(circuit);
            }
        }
        let is_disabled = why == Why::Denied;
        Some(if is_disabled { Change::Disabled } else { Change::Cools(why) })
    }

    /// Takes back the refusal that opened the model's circuit at that time: it turned out to be the
    /// request's fault. Not one that came behind another, and not one after the other for ever, for
    /// what never serves is no request's fault. Whether it did.
    pub fn pardon(&mut self, model: &str, since_ms: i64) -> bool {
        let at = self.open.iter().position(|circuit| {
            let is_it = *circuit.model == *model && circuit.since_ms == since_ms;
            is_it && circuit.why == Why::Refused && circuit.strikes == 1
        });
        let Some(at) = at.filter(|_| self.pardons < limits::PARDONS_MAX) else { return false };
        self.open.remove(at);
        self.pardons += 1;
        true
    }

    /// Lets go of what was disabled. Whether anything was.
    pub fn enable(&mut self) -> bool {
        let before = self.open.len();
        self.open.retain(|circuit| circuit.why != Why::Denied);
        self.open.len() < before
    }

    /// Takes all of the credential out of the pool.
    pub fn pause(&mut self, now_ms: i64) {
        self.open.clear();
        self.open.push(Circuit::kept("", Why::Paused, now_ms, now_ms, 0));
    }

    /// Whether an administrator took it out.
    pub fn is_paused(&self) -> bool {
        self.open.iter().any(|circuit| circuit.why == Why::Paused)
    }

    /// When the model may be called again, however little is known of it; disabled ones last.
    pub fn returns_at(&self, model: &str) -> i64 {
        let open = self.open.iter().filter(|circuit| concerns(circuit, model));
        let at = open.map(|circuit| match circuit.why {
            Why::Denied | Why::Paused => i64::MAX,
            _ => circuit.until_ms,
        });
        at.max().unwrap_or(i64::MIN)
    }

    /// A success proves the model, and all that every model needs.
    fn close(&mut self, model: &str, begun_ms: i64) -> Option<Change> {
        self.pardons = 0;
        let before = self.open.len();
        self.open.retain(|circuit| {
            !concerns(circuit, model) || begun_ms < circuit.since_ms || circuit.why == Why::Paused
        });
        (self.open.len() < before).then_some(Change::Recovered)
    }

    /// Makes room: what has cooled down longest ago is the least loss.
    fn forget_one(&mut self) {
        let models = self.open.iter().enumerate().filter(|(_, circuit)| !circuit.model.is_empty());
        if let Some((at, _)) = models.min_by_key(|(_, circuit)| circuit.until_ms) {
            self.open.swap_remove(at);
        }
    }

    fn each(&mut self, model: &str, change: impl FnMut(&mut Circuit)) {
        self.open.iter_mut().filter(|circuit| concerns(circuit, model)).for_each(change);
    }
}

fn concerns(circuit: &Circuit, model: &str) -> bool {
    circuit.model.is_empty() || *circuit.model == *model
}

/// One second, doubled with each strike, up to a minute.
fn backoff_ms(strikes: u32) -> i64 {
    let doublings = strikes.saturating_sub(1).min(6);
    (limits::BACKOFF_MS << doublings).min(limits::BACKOFF_MS_MAX)
}

#[cfg(test)]
mod tests;
