//! The thread that writes: batches by count and time, and patience with a disk that refuses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle, sleep};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};

use super::books::Store;
use super::entities::Waiting;
use super::{Message, Row, Shared};

/// Rows of one transaction.
const BATCH_ROWS_MAX: usize = 2_048;
/// The first row of a batch waits for others so long: what a killed process can lose.
const GATHER: Duration = Duration::from_millis(50);
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
    let mut batch = Vec::with_capacity(BATCH_ROWS_MAX);
    let mut open = true;
    while open {
        match receiver.recv() {
            Ok(Message::Row(row)) => batch.push(*row),
            Ok(Message::Statuses) => {}
            Ok(Message::Change(change)) => {
                change.carry_out(|change| store.change(change));
                continue;
            }
            Ok(Message::Close) | Err(_) => break,
        }
        // Asleep, and not waiting in the queue: so only the first row of many wakes this thread.
        sleep(GATHER);
        while open && !receiver.is_empty() {
            let gathered = gather(receiver, &mut batch);
            write(&mut store, &mut batch, shared);
            match gathered {
                Gathered::Rows => {}
                Gathered::Change(change) => change.carry_out(|change| store.change(change)),
                Gathered::Last => open = false,
            }
        }
        write(&mut store, &mut batch, shared);
        keep(&mut store, shared);
    }
    keep(&mut store, shared);
    store.finish();
}

/// Why no more was taken.
enum Gathered {
    /// Nothing is there, or a batch is full.
    Rows,
    /// A change stands behind the rows.
    Change(Box<Waiting>),
    /// It was the last of all.
    Last,
}

/// Takes what is there, up to a batch or a change.
fn gather(receiver: &Receiver<Message>, batch: &mut Vec<Row>) -> Gathered {
    while batch.len() < BATCH_ROWS_MAX {
        match receiver.try_recv() {
            Ok(Message::Row(row)) => batch.push(*row),
            Ok(Message::Statuses) => {}
            Ok(Message::Change(change)) => return Gathered::Change(change),
            Ok(Message::Close) | Err(TryRecvError::Disconnected) => return Gathered::Last,
            Err(TryRecvError::Empty) => break,
        }
    }
    Gathered::Rows
}

/// Writes what came to be known of credentials, once.
fn keep(store: &mut impl Store, shared: &Shared) {
    let statuses = std::mem::take(&mut *shared.statuses.lock());
    if !statuses.is_empty()
        && let Err(why) = store.keep(&statuses)
    {
        log::warn!(target: "gproxy::ledger", "the health of credentials is not kept: {why}");
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
    shared.written.fetch_add(batch.len(), Ordering::Relaxed);
    shared.taken.fetch_sub(batch.len(), Ordering::AcqRel);
    batch.clear();
}
