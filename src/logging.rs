//! The log: `log` and simplelog, written to stderr by a thread of its own.
//!
//! A coroutine that logs hands its line to a bounded queue and never waits: when stderr cannot keep
//! up, lines are counted and dropped. Only our own targets are written, so no library can print
//! what it was given to send.

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use log::LevelFilter;
use simplelog::{ConfigBuilder, WriteLogger};

use crate::limits;
use crate::metrics::{Count, Metrics};

static QUEUE: OnceLock<Sender<Job>> = OnceLock::new();
static METRICS: OnceLock<Arc<Metrics>> = OnceLock::new();

enum Job {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Starts the log thread. Does nothing the second time.
pub fn start(level: LevelFilter) {
    let (sender, receiver) = bounded(limits::LOG_LINES_MAX);
    if QUEUE.set(sender).is_err() {
        return;
    }
    let config = ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Error)
        .add_filter_allow_str("gproxy")
        .build();
    if WriteLogger::init(level, config, Lines::default()).is_err() {
        return;
    }
    let thread = std::thread::Builder::new().name("log".into());
    if let Err(error) = thread.spawn(move || write_all(&receiver)) {
        log::set_max_level(LevelFilter::Off);
        let _ = writeln!(io::stderr(), "no log: {error}");
    }
    std::panic::set_hook(Box::new(|info| {
        // The place, never the payload: it may quote what a caller sent.
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        log::error!(target: "gproxy::panic", "panic at {place}");
    }));
}

/// Where dropped lines are counted.
pub fn count_drops_in(metrics: Arc<Metrics>) {
    let _ = METRICS.set(metrics);
}

/// Waits until every line so far is written, a second at most.
pub fn flush() {
    let Some(queue) = QUEUE.get() else { return };
    let (done, wait) = bounded(1);
    if queue.send_timeout(Job::Flush(done), Duration::from_secs(1)).is_ok() {
        let _ = wait.recv_timeout(Duration::from_secs(1));
    }
}

fn write_all(jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            // Locked for a line only: `main` writes there too. Nobody is left to be told that it is
            // closed.
            Job::Line(line) => drop(io::stderr().lock().write_all(&line)),
            Job::Flush(done) => drop(done.send(())),
        }
    }
}

/// Collects what simplelog writes in pieces and queues it line by line.
#[derive(Default)]
struct Lines {
    line: Vec<u8>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        if self.line.ends_with(b"\n") {
            let line = std::mem::take(&mut self.line);
            if let Some(queue) = QUEUE.get()
                && let Err(TrySendError::Full(_)) = queue.try_send(Job::Line(line))
                && let Some(metrics) = METRICS.get()
            {
                metrics.count(Count::LogLinesDropped);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
