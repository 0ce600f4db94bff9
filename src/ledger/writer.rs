//! The thread that writes: batches by count and time, and patience with a disk that refuses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::books::Store;
use super::entities::Waiting;
use super::logs::Entry;
use super::{Message, Row, Shared};
use crate::metrics::Count;

/// Rows of one transaction.
const BATCH_ROWS_MAX: usize = 2_048;
/// The first row of a batch waits for others so long: what a killed process can lose.
const GATHER: Duration = Duration::from_millis(50);
/// Logs of one transaction.
const BATCH_LOGS_MAX: usize = 256;
/// How often it is looked whether something is too old, or too much.
const PRUNE_AFTER: Duration = Duration::from_secs(20);
/// Pauses between tries to write a batch, the last one for all that follow.
const PAUSES_MS: [u64; 4] = [50, 200, 1_000, 2_000];

/// Starts the thread. It ends after [`Message::Close`], or when nobody can send any more.
pub(super) fn start(
    store: impl Store + 'static,
    receiver: Receiver<Message>,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name("ledger".into()).spawn(move || run(store, &receiver, &shared))
}

fn run(mut store: impl Store, receiver: &Receiver<Message>, shared: &Shared) {
    let mut batch = Batch::default();
    let mut prune_at = Instant::now() + PRUNE_AFTER;
    let mut open = true;
    while open {
        match receiver.recv_deadline(prune_at) {
            Ok(first) => {
                if batch.take(first).carry_out(&mut store, &mut open) {
                    // Asleep, and not waiting in the queue: so only the first of many wakes this
                    // thread.
                    sleep(GATHER);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        loop {
            let mut next = Taken::More;
            while open && matches!(next, Taken::More) && !batch.is_full() {
                let Ok(message) = receiver.try_recv() else { break };
                next = batch.take(message);
            }
            let was_full = batch.is_full();
            // What stands before a change or the end is written before it.
            write(&mut store, &mut batch.rows, shared);
            log(&mut store, &mut batch.logs, shared);
            next.carry_out(&mut store, &mut open);
            // What came meanwhile gathers too, until it is enough for a transaction of its own.
            let is_more = was_full || receiver.len() >= BATCH_ROWS_MAX;
            if !open || !is_more || Instant::now() >= prune_at {
                break;
            }
        }
        keep(&mut store, shared);
        if open && Instant::now() >= prune_at {
            prune_at = Instant::now() + prune(&mut store, shared);
        }
    }
    keep(&mut store, shared);
    store.finish();
}

#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    logs: Vec<Entry>,
}

/// What was taken from the queue.
enum Taken {
    /// A row or a log, which joins the batch.
    More,
    /// A change, which is made by itself.
    Change(Box<Waiting>),
    /// It was the last of all.
    Last,
}

impl Taken {
    /// Does what does not belong to a batch. True: it was a part of one.
    fn carry_out(self, store: &mut impl Store, open: &mut bool) -> bool {
        match self {
            Taken::More => return true,
            Taken::Change(change) => change.carry_out(|change| store.change(change)),
            Taken::Last => *open = false,
        }
        false
    }
}

impl Batch {
    /// It is as large as a transaction may be.
    fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS_MAX || self.logs.len() >= BATCH_LOGS_MAX
    }

    fn take(&mut self, message: Message) -> Taken {
        match message {
            Message::Row(row) => self.rows.push(*row),
            Message::Log(entry) => self.logs.push(*entry),
            // They are written behind the batch.
            Message::Statuses => {}
            Message::Change(change) => return Taken::Change(change),
            Message::Close => return Taken::Last,
        }
        Taken::More
    }
}

/// Writes logs, or loses them.
fn log(store: &mut impl Store, batch: &mut Vec<Entry>, shared: &Shared) {
    if batch.is_empty() {
        return;
    }
    let result = store.log(batch);
    let was_well = shared.logs_healthy.swap(result.is_ok(), Ordering::Relaxed);
    if let Err(why) = result {
        if was_well {
            log::error!(target: "gproxy::ledger", "requests cannot be logged and are lost: {why}");
        }
        if let Some(metrics) = shared.metrics.get() {
            batch.iter().for_each(|_| metrics.count(Count::RequestLogsDropped));
        }
    }
    batch.drain(..).for_each(|entry| shared.forget_log(entry.bytes()));
}

/// Deletes a step of what need not be kept; when the next step is due.
fn prune(store: &mut impl Store, shared: &Shared) -> Duration {
    let keep = *shared.retention.lock();
    match store.prune(&keep) {
        Ok(true) => GATHER,
        Ok(false) => PRUNE_AFTER,
        Err(why) => {
            log::warn!(target: "gproxy::ledger", "nothing old can be deleted: {why}");
            PRUNE_AFTER
        }
    }
}

/// Writes what came to be known of credentials and of keys, once.
fn keep(store: &mut impl Store, shared: &Shared) {
    let statuses = std::mem::take(&mut *shared.statuses.lock());
    if !statuses.is_empty()
        && let Err(why) = store.keep(&statuses)
    {
        log::warn!(target: "gproxy::ledger", "the health of credentials is not kept: {why}");
    }
    let uses = std::mem::take(&mut *shared.key_uses.lock());
    if !uses.is_empty()
        && let Err(why) = store.keep_uses(&uses.into_iter().collect::<Vec<_>>())
    {
        log::warn!(target: "gproxy::ledger", "it is not kept when keys were used: {why}");
    }
}

/// Writes a batch, however long it takes.
fn write(store: &mut impl Store, batch: &mut Vec<Row>, shared: &Shared) {
    if batch.is_empty() {
        return;
    }
    let mut tries = 0;
    while let Err(why) = store.write(batch) {
        shared.healthy.store(false, Ordering::Relaxed);
        if tries == 0 {
            log::error!(
                target: "gproxy::ledger",
                "usage cannot be written: {why}; {} rows wait, and requests are refused once {} do",
                batch.len(),
                crate::limits::LEDGER_ROWS_MAX
            );
        }
        sleep(Duration::from_millis(PAUSES_MS[tries.min(PAUSES_MS.len() - 1)]));
        tries += 1;
    }
    if tries > 0 {
        log::info!(target: "gproxy::ledger", "usage is written again");
    }
    shared.healthy.store(true, Ordering::Relaxed);
    let foreign = store.foreign();
    if !foreign.is_empty() {
        shared.foreign.lock().extend(foreign);
    }
    shared.written.fetch_add(batch.len(), Ordering::Relaxed);
    shared.taken.fetch_sub(batch.len(), Ordering::AcqRel);
    batch.clear();
}
