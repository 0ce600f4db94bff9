//! The books: usage rows and spending in SQLite, owned by one OS thread.
//!
//! A request takes a slot when it is admitted and gives it back with its row, so that recording
//! never waits and never fails, while a panic unwinds too. Rows and spending are written in one
//! transaction, and a slot is free again only when its row is on disk: while the disk refuses, the
//! queue fills and admission stops, and nothing is lost or served for free.

pub mod accounts;
pub mod audit;
mod books;
mod daily;
pub mod entities;
pub mod export;
mod key_uses;
pub mod logged;
pub mod logs;
mod migrate;
pub mod query;
mod retention;
mod row;
mod schema;
mod statuses;
pub mod sums;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;

use self::statuses::Status;
use crate::limits;
use crate::metrics::Metrics;
use crate::route::health::Circuit;
use crate::route::snapshot::Retention;
use crate::secret::KeyId;
use entities::Waiting;
use logs::Entry;
use row::Kinds;

pub use row::{Kind, Row};

/// Changes that wait at once.
const CHANGES_MAX: usize = 8;
/// How long a change waits for the disk.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// Why the books cannot be opened.
#[derive(Debug)]
pub enum LedgerError {
    /// The folder or the file cannot be made or opened.
    Open(PathBuf, String),
    /// The file is no database, or a damaged one. It is left as it is.
    Damaged(PathBuf, String),
    /// A newer version wrote it.
    Newer(PathBuf, i64),
    /// Another process has it.
    InUse(PathBuf),
    /// A copy of it cannot be written.
    Copy(PathBuf, String),
}

impl fmt::Display for LedgerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LedgerError::Open(path, why) => {
                write!(f, "the ledger {} cannot be opened: {why}", path.display())
            }
            LedgerError::Damaged(path, why) => write!(
                f,
                "the ledger {} is damaged and was left as it is: {why}; put a copy in its place or \
                 move it away",
                path.display()
            ),
            LedgerError::Newer(path, version) => write!(
                f,
                "the ledger {} was written by a newer version of this program (format {version})",
                path.display()
            ),
            LedgerError::Copy(path, why) => {
                write!(f, "the copy {} cannot be written: {why}", path.display())
            }
            LedgerError::InUse(path) => write!(
                f,
                "the ledger {} is in use by another process; give each its own data_dir",
                path.display()
            ),
        }
    }
}

/// What was in the books when they were opened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Users, UTC days since 1970, picodollars spent on that day.
    pub spent: Vec<(String, i64, i64)>,
    /// Users, names that limits are tested against, UTC days, requests: of today and yesterday.
    pub requests: Vec<(String, String, i64, i64)>,
    /// What was made through the administration interface.
    pub entities: Vec<entities::Entity>,
    /// What was added to ceilings.
    pub top_ups: Vec<entities::TopUp>,
    /// Users whose earlier spending was asked for.
    pub seen: Vec<String>,
    /// What was known of credentials.
    pub statuses: Vec<(String, Circuit)>,
    /// When keys were last used, in milliseconds since 1970.
    pub key_uses: Vec<(KeyId, i64)>,
}

/// When rows count as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Synchronous {
    /// When the system has them: a killed process loses none, a power cut may.
    Normal,
    /// When the disk has them.
    Full,
}

impl Synchronous {
    fn word(self) -> &'static str {
        match self {
            Synchronous::Normal => "NORMAL",
            Synchronous::Full => "FULL",
        }
    }
}

struct Shared {
    sender: Sender<Message>,
    // Logs that wait, and the memory that they take.
    logs: AtomicUsize,
    log_bytes: AtomicUsize,
    retention: Mutex<Retention>,
    metrics: OnceLock<Arc<Metrics>>,
    logs_healthy: AtomicBool,
    taken: AtomicUsize,
    healthy: AtomicBool,
    written: AtomicUsize,
    /// What is known of credentials and not yet written.
    statuses: Mutex<Vec<Status>>,
    /// When keys were used, and not yet written.
    key_uses: Mutex<HashMap<KeyId, i64>>,
    kinds: Kinds,
    /// Spent by the rows of another process, and not yet told.
    foreign: Mutex<Vec<(String, i64, i64)>>,
}

enum Message {
    Row(Box<Row>),
    Change(Box<Waiting>),
    /// There is something in [`Shared::statuses`].
    Statuses,
    Log(Box<Entry>),
    Close,
}

impl Shared {
    fn forget_log(&self, size: usize) {
        self.logs.fetch_sub(1, Ordering::AcqRel);
        self.log_bytes.fetch_sub(size, Ordering::AcqRel);
    }
}

/// Where the books of a data folder are, if there are any.
pub fn path(folder: &Path) -> PathBuf {
    folder.join(schema::FILE)
}

/// A way to the books.
pub struct Ledger {
    shared: Arc<Shared>,
    changes: AtomicUsize,
    thread: Mutex<Option<JoinHandle<()>>>,
    lock: Option<File>,
}

impl Ledger {
    /// Opens or makes `gproxy.db` in the folder. `first_seen`: users and what they had spent before
    /// they came here, which counts the first time that a name is seen. `now_ms` is the time, UTC.
    /// `lock`: of a process that still has them and hands over, see [`Ledger::lock`].
    pub fn open(
        folder: &Path,
        first_seen: &[(&str, i64)],
        now_ms: i64,
        synchronous: Synchronous,
        retention: Retention,
        lock: Option<File>,
    ) -> Result<(Ledger, Opening), LedgerError> {
        let (store, opening) = schema::open(folder, first_seen, now_ms, synchronous, lock)?;
        let cannot =
            |error: std::io::Error| LedgerError::Open(folder.join(schema::FILE), error.to_string());
        let lock = store.lock.try_clone().map_err(cannot)?;
        let mut ledger = Ledger::start(store, retention).map_err(cannot)?;
        ledger.lock = Some(lock);
        Ok((ledger, opening))
    }

    fn start(store: impl books::Store + 'static, retention: Retention) -> std::io::Result<Ledger> {
        // One place for each slot and each log, one for the news of credentials, one for the end,
        // and some for changes, which wait for theirs: none takes another's.
        let places = limits::LEDGER_ROWS_MAX + limits::LOG_ENTRIES_MAX + 2 + CHANGES_MAX;
        let (sender, receiver) = bounded(places);
        let shared = Arc::new(Shared {
            sender,
            logs: AtomicUsize::new(0),
            log_bytes: AtomicUsize::new(0),
            retention: Mutex::new(retention),
            metrics: OnceLock::new(),
            logs_healthy: AtomicBool::new(true),
            taken: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
            written: AtomicUsize::new(0),
            statuses: Mutex::default(),
            key_uses: Mutex::default(),
            kinds: Kinds::default(),
            foreign: Mutex::default(),
        });
        let thread = writer::start(store, receiver, shared.clone())?;
        let (changes, thread) = (AtomicUsize::new(0), Mutex::new(Some(thread)));
        Ok(Ledger { shared, changes, thread, lock: None })
    }

    /// A place in the queue; `None`: all are taken.
    pub fn slot(&self) -> Option<Slot> {
        let take = |taken| (taken < limits::LEDGER_ROWS_MAX).then_some(taken + 1);
        self.shared.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Slot { shared: self.shared.clone(), used: false })
    }

    /// Keeps what is known of a credential now, in the place of what was. Never waits.
    pub fn keep(&self, credential: String, circuits: Vec<Circuit>) {
        let mut statuses = self.shared.statuses.lock();
        statuses.retain(|(other, _)| *other != credential);
        statuses.push((credential, circuits));
        // One message is enough for all that comes before it is read.
        if statuses.len() == 1 {
            let _ = self.shared.sender.try_send(Message::Statuses);
        }
    }

    /// Keeps when keys were used. Never waits: it is written behind what comes next, soon or at
    /// the end.
    pub fn keep_uses(&self, uses: Vec<(KeyId, i64)>) {
        self.shared.key_uses.lock().extend(uses);
    }

    /// Hands a log over. False: too much waits, and it is lost.
    pub fn log(&self, entry: Entry) -> bool {
        let (count, bytes) = (&self.shared.logs, &self.shared.log_bytes);
        let size = entry.bytes();
        let is_place = count.fetch_add(1, Ordering::AcqRel) < limits::LOG_ENTRIES_MAX;
        let before = bytes.fetch_add(size, Ordering::AcqRel);
        let is_room = is_place && before + size <= limits::LOG_QUEUE_BYTES_MAX;
        if !is_room || self.shared.sender.try_send(Message::Log(Box::new(entry))).is_err() {
            self.shared.forget_log(size);
            return false;
        }
        true
    }

    /// The lock of the books: they stay locked while anybody has it open.
    pub fn lock(&self) -> Option<&File> {
        self.lock.as_ref()
    }

    /// What a process that hands over to this one, or takes over from it, has written since it was
    /// asked last: users, UTC days, picodollars.
    pub fn foreign(&self) -> Vec<(String, i64, i64)> {
        std::mem::take(&mut *self.shared.foreign.lock())
    }

    /// What is kept from now on.
    pub fn retain(&self, retention: Retention) {
        *self.shared.retention.lock() = retention;
    }

    /// Logs that are lost later are counted there.
    pub fn count_drops_in(&self, metrics: Arc<Metrics>) {
        // A second call changes nothing.
        let _ = self.shared.metrics.set(metrics);
    }

    /// Rows reach the disk.
    pub fn is_healthy(&self) -> bool {
        self.shared.healthy.load(Ordering::Relaxed)
    }

    /// Rows that wait, or whose requests are under way.
    pub fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Rows written since the start.
    pub fn written(&self) -> usize {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Writes a change in a transaction of its own, behind the rows that came before. For OS
    /// threads: it waits for the disk. An error says that nothing was or will be written.
    pub fn change(&self, change: entities::Change) -> Result<(), String> {
        let (answer, answered) = bounded(1);
        let state = Arc::new(AtomicU8::new(entities::WAITING));
        let waiting = Box::new(Waiting { change, answer, state: state.clone() });
        if self.changes.fetch_add(1, Ordering::AcqRel) >= CHANGES_MAX {
            self.changes.fetch_sub(1, Ordering::AcqRel);
            return Err("too many changes wait".to_owned());
        }
        let sent = self.shared.sender.try_send(Message::Change(waiting)).is_ok();
        let result = match answered.recv_timeout(if sent { CHANGE_MAX } else { Duration::ZERO }) {
            Ok(result) => result,
            Err(_) if entities::give_up(&state) => Err("the disk does not answer".to_owned()),
            // It was taken in this very moment.
            Err(_) => answered.recv().unwrap_or_else(|_| Err("the books are closed".to_owned())),
        };
        self.changes.fetch_sub(1, Ordering::AcqRel);
        result
    }

    /// Writes all that waits and ends. False: it could not be written within `limit`.
    pub fn close(&self, limit: Duration) -> bool {
        let Some(thread) = self.thread.lock().take() else { return true };
        if self.shared.sender.send_timeout(Message::Close, limit).is_err() {
            return false;
        }
        let until = std::time::Instant::now() + limit;
        while !thread.is_finished() {
            if std::time::Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

/// A place in the queue. Dropped unused, it is free again.
pub struct Slot {
    shared: Arc<Shared>,
    used: bool,
}

impl Slot {
    /// What a row has in common with others, as the row takes it.
    pub fn kind(&self, kind: &Kind<&str>) -> Arc<Kind> {
        self.shared.kinds.shared(kind)
    }

    /// Hands the row over. Never waits: there is a place for each slot.
    pub fn record(mut self, row: Row) {
        self.used = self.shared.sender.try_send(Message::Row(Box::new(row))).is_ok();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.used {
            self.shared.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}
