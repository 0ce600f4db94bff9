//! The books of a process that is killed: whatever the moment, they add up, and they hold every
//! reply that was complete a quarter of a second before.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::chat;
use crate::support::{Client, Config, Gateway, Random, Upstream, size};
use gproxy::ledger::audit::audit;
use rusqlite::Connection;
use rustix::process::Signal;

const PRICES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"priced\"\n\
    price_each_call = \"0.001\"\n";
/// What a killed process may lose: rows of replies that were complete no longer before than this.
const LOST_AT_MOST: Duration = Duration::from_millis(250);
const CLIENTS: usize = 4;
/// A machine that keeps a thread from running, or a file from being written, for as long as this
/// tells nothing about the writer of the books.
const STALLED: Duration = Duration::from_millis(50);

/// A folder that outlives its gateways.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("gproxy-crash-{name}-{}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What clients saw: ids of complete replies, and when they were complete.
type Seen = Mutex<Vec<(String, Instant)>>;

/// Calls whole and streamed until told to stop, or until the gateway is gone.
fn call(port: u16, stop: &AtomicBool, seen: &Seen) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::try_connect(port) else { return };
        for turn in 0.. {
            client.send(&chat("router/priced", turn % 3 == 0));
            let Ok(reply) = client.reply() else { break };
            if reply.complete && reply.status == 200 {
                let id = reply.header("x-gproxy-request-id").unwrap_or_default().to_owned();
                seen.lock().expect("nobody panics").push((id, Instant::now()));
            }
            if stop.load(Ordering::Relaxed) || !reply.complete || reply.closes() {
                break;
            }
        }
    }
}

fn ids_in(folder: &Path) -> HashSet<String> {
    let books = Connection::open(folder.join("gproxy.db")).expect("a database");
    let mut statement = books.prepare("SELECT request_id FROM usages").expect("our view");
    let ids = statement.query_map([], |row| row.get(0)).expect("our view");
    ids.collect::<Result<_, _>>().expect("rows")
}

/// Writes to a file every 10 ms until told to stop; when it was last held up.
fn pulse(folder: &Path, stop: &AtomicBool) -> Option<Instant> {
    let mut file = std::fs::File::create(folder.join("pulse")).expect("a file");
    let mut held_up = None;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
        file.write_all(b".").and_then(|()| file.sync_data()).expect("room");
        if last.elapsed() > STALLED {
            held_up = Some(Instant::now());
        }
        last = Instant::now();
    }
    held_up
}

/// A gateway that was ended under load.
struct Ended {
    seen: Vec<(String, Instant)>,
    /// When the signal was sent.
    at: Instant,
    /// When the machine last held a thread up.
    held_up: Option<Instant>,
}

/// Starts a gateway and ends it with the signal after a while under load.
fn run_until(folder: &Folder, config: &str, after: Duration, signal: Signal) -> Ended {
    let seen = Seen::default();
    let (stop, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut gateway = Gateway::start(config);
    let (at, held_up) = std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| call(gateway.port, &stop, &seen));
        }
        let pulse = scope.spawn(|| pulse(&folder.0, &ended));
        std::thread::sleep(after);
        let sent = Instant::now();
        gateway.signal(signal);
        // Clients of one that drains are told to close; those of one that is gone see it.
        stop.store(signal != Signal::KILL, Ordering::Relaxed);
        ended.store(true, Ordering::Relaxed);
        (sent, pulse.join().expect("nobody panics"))
    });
    gateway.wait_exit();
    Ended { seen: seen.into_inner().expect("nobody panics"), at, held_up }
}

#[test]
fn a_killed_process_loses_a_quarter_of_a_second_at_most_and_its_books_add_up() {
    let folder = Folder::new("kill");
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).tail(PRICES).text();
    let config = config.replace("DATA_DIR", &folder.0.display().to_string());
    let mut random = Random::new(7);
    let kills = size(10, 100);
    let (mut complete, mut late) = (0, 0);
    for kill in 0..kills {
        let after = Duration::from_millis(100 + random.below(900) as u64);
        let Ended { seen, at: killed, held_up } = run_until(&folder, &config, after, Signal::KILL);
        // The next start finds what the last one left.
        let mut gateway = Gateway::start(&config);
        let audit = audit(&folder.0).expect("they can be read");
        assert_eq!(audit.faults, Vec::<String>::new(), "kill {kill}");
        let ids = ids_in(&folder.0);
        for (id, at) in &seen {
            let since = held_up.map_or(*at, |held_up| held_up.max(*at));
            let is_late = killed.saturating_duration_since(since) < LOST_AT_MOST;
            assert!(is_late || ids.contains(id), "kill {kill} lost {id}");
            late += usize::from(is_late && !ids.contains(id));
        }
        complete += seen.len();
        gateway.sigterm();
        assert!(gateway.wait_exit().success());
    }
    assert!(complete > kills, "there was load");
    eprintln!(
        "{kills} kills, {complete} complete replies, {late} of the last moment without a row"
    );
}

#[test]
fn a_process_that_is_told_to_stop_loses_nothing() {
    let folder = Folder::new("term");
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream).tail(PRICES).text();
    let config = config.replace("DATA_DIR", &folder.0.display().to_string());
    for round in 0..size(3, 20) {
        let after = Duration::from_millis(100 + 60 * round as u64);
        let Ended { seen, .. } = run_until(&folder, &config, after, Signal::TERM);
        let ids = ids_in(&folder.0);
        let lost: Vec<_> = seen.iter().filter(|(id, _)| !ids.contains(id)).collect();
        assert!(!seen.is_empty() && lost.is_empty(), "round {round}: {lost:?} of {}", seen.len());
        assert_eq!(audit(&folder.0).expect("they can be read").faults, Vec::<String>::new());
    }
}
