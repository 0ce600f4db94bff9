//! The thread that writes: batches by count and time, and patience with a disk that refuses.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Builder, JoinHandle, sleep};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::schema::Store;
use super::{Message, Row, Shared};

/// Rows of one transaction.
const BATCH_ROWS_MAX: usize = 1_024;
/// The first row of a batch waits for others so long: what a killed process can lose.
const FLUSH_AFTER: Duration = Duration::from_millis(100);
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
            Ok(Message::Close) | Err(_) => break,
        }
        let until = Instant::now() + FLUSH_AFTER;
        while batch.len() < BATCH_ROWS_MAX {
            match receiver.recv_deadline(until) {
                Ok(Message::Row(row)) => batch.push(*row),
                Err(RecvTimeoutError::Timeout) => break,
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => {
                    open = false;
                    break;
                }
            }
        }
        write(&mut store, &mut batch, shared);
    }
    store.finish();
}

/// Writes a batch, however long it takes.
fn write(store: &mut impl Store, batch: &mut Vec<Row>, shared: &Shared) {
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
