//! What a coroutine has done elsewhere, since it would block its worker.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Upstream;
use crate::dialect::refusal::Refusal;
use crate::limits;

/// Something to do on an OS thread.
pub type Work = Box<dyn FnOnce() + Send>;

/// Who does it. Desks do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Desk {
    /// The administration interface, one request after the other.
    Api,
    /// Passwords, which take long on purpose.
    Passwords,
    /// Files that hold what memory should not.
    Files,
    /// Bodies that come compressed.
    Bodies,
    /// Answers of upstreams that an administrator waits for.
    Answers,
}

impl Desk {
    /// All of them, in their order.
    pub const ALL: [Desk; 5] =
        [Desk::Api, Desk::Passwords, Desk::Files, Desk::Bodies, Desk::Answers];

    /// Threads that attend it.
    pub fn threads(self) -> usize {
        match self {
            Desk::Api | Desk::Passwords => 1,
            Desk::Bodies => limits::UNPACKERS,
            Desk::Files | Desk::Answers => 2,
        }
    }

    /// Name of its threads.
    pub fn name(self) -> &'static str {
        match self {
            Desk::Api => "office-api",
            Desk::Passwords => "office-password",
            Desk::Files => "office-files",
            Desk::Bodies => "office-bodies",
            Desk::Answers => "office-answers",
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// Too much waits at that desk, or the system is short of something.
    Full,
    /// It took too long; it may still be done.
    Late,
    /// It panicked.
    Failed,
}

impl Unanswered {
    /// What a caller is told whose request needed the answer.
    pub(super) fn refusal(self) -> Refusal {
        match self {
            Unanswered::Full | Unanswered::Late => Refusal::overloaded(),
            Unanswered::Failed => Refusal::internal(),
        }
    }
}

/// Has `work` done at `desk` and waits for what it returns.
pub fn ask<U: Upstream, T: Send + 'static>(
    up: &mut U,
    desk: Desk,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    through(|work| up.consult(desk, work), work)
}

/// The same, by another way to a desk.
pub fn through<T: Send + 'static>(
    consult: impl FnOnce(Work) -> Result<(), Unanswered>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Unanswered> {
    let answer = Arc::new(Mutex::new(None));
    let slot = answer.clone();
    consult(Box::new(move || *slot.lock() = Some(work())))?;
    let answer = answer.lock().take();
    answer.ok_or(Unanswered::Failed)
}
