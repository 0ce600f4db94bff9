use super::accounts::{Accounts, Denied};
use super::schema::Store;
use super::*;
use crate::route::glob::Glob;
use crate::route::quota::{Quota, Window};
use crate::route::rate::{DAY_MS, RateLimit};
use crate::route::snapshot::User;
use crossbeam_channel::unbounded;
use std::sync::atomic::AtomicU32;

const NOW_MS: i64 = 20_780 * DAY_MS + 1;

/// A folder of its own, gone with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("gproxy-ledger-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn row(number: u64, user: &str, cost: i64) -> Row {
    Row {
        request_id: format!("r{number}"),
        at_ms: NOW_MS,
        user: user.into(),
        provider: "p".into(),
        operation: "chat.completions",
        protocol: "openai_chat",
        model: "p/gpt-1".into(),
        model_served: "gpt-1".into(),
        limit_name: "gpt-1".into(),
        usage: Usage { input_tokens: number, ..Usage::default() },
        usage_source: "upstream",
        service_tier: "default",
        cost,
        price: Some("{}".into()),
        status: 200,
        outcome: "ok",
        attempts: 1,
        first_byte_ms: 5,
        total_ms: 9,
        bytes_in: 10,
        bytes_out: 20,
    }
}

fn user(quotas: Vec<Quota>, rate_limits: Vec<RateLimit>) -> User {
    User {
        name: "alice".into(),
        is_admin: false,
        enabled: true,
        password: None,
        keys: Vec::new(),
        permissions: Vec::new(),
        file_permissions: Vec::new(),
        rate_limits,
        quotas,
        cost_used: 0,
    }
}

#[test]
fn rows_and_spending_are_found_again_after_a_restart() {
    let folder = Folder::new();
    let (ledger, opening) = Ledger::open(&folder.0, &[("bob", 7)], NOW_MS).expect("a new file");
    assert_eq!(opening.spent, [("bob".to_owned(), 20_780 - 32, 7)]);
    for number in 0..1_000 {
        ledger.slot().expect("room").record(row(number, "alice", 3));
    }
    // Written twice, a row changes nothing.
    ledger.slot().expect("room").record(row(5, "alice", 3));
    drop(ledger.slot());
    assert!(ledger.close(Duration::from_secs(20)));
    assert_eq!((ledger.taken(), ledger.written()), (0, 1_001));
    drop(ledger);
    let (_ledger, opening) = Ledger::open(&folder.0, &[("bob", 9)], NOW_MS).expect("our file");
    assert_eq!(opening.spent.len(), 2, "{opening:?}");
    assert!(opening.spent.contains(&("alice".to_owned(), 20_780, 3_000)));
    assert!(opening.spent.contains(&("bob".to_owned(), 20_780 - 32, 7)), "only once");
    assert_eq!(opening.requests, [("alice".into(), "gpt-1".into(), 20_780, 1_000)]);
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_is() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let path = folder.0.join(schema::FILE);
    for bytes in [&b"this is no database, whatever its name says......."[..], b"SQLite format 3\0x"]
    {
        std::fs::write(&path, bytes).expect("a file");
        let error = Ledger::open(&folder.0, &[], NOW_MS).map(drop).expect_err("no database");
        assert!(matches!(error, LedgerError::Damaged(..)), "{error}");
        assert!(error.to_string().contains("gproxy.db"), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), bytes);
    }
    std::fs::remove_file(&path).expect("it is there");
    let other = rusqlite::Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE t (a)").expect("a table");
    drop(other);
    let error = Ledger::open(&folder.0, &[], NOW_MS).map(drop).expect_err("another program's");
    assert!(matches!(error, LedgerError::Damaged(..)), "{error}");
}

#[test]
fn a_newer_file_and_a_second_process_are_refused() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(&folder.0, &[], NOW_MS).expect("a new file");
    let error = Ledger::open(&folder.0, &[], NOW_MS).map(drop).expect_err("it is open");
    assert!(matches!(error, LedgerError::InUse(_)), "{error}");
    assert!(ledger.close(Duration::from_secs(20)));
    drop(ledger);
    let path = folder.0.join(schema::FILE);
    let newer = rusqlite::Connection::open(path).expect("our file");
    newer.pragma_update(None, "user_version", 99).expect("a number");
    drop(newer);
    let error = Ledger::open(&folder.0, &[], NOW_MS).map(drop).expect_err("too new");
    assert!(matches!(error, LedgerError::Newer(_, 99)), "{error}");
}

/// Refuses the first writes, then tells what it was given.
struct Stubborn {
    refusals: u32,
    written: crossbeam_channel::Sender<String>,
}

impl Store for Stubborn {
    fn write(&mut self, rows: &[Row]) -> Result<(), String> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err("the disk is full".into());
        }
        rows.iter()
            .try_for_each(|row| self.written.send(row.request_id.clone()).map_err(|_| "?".into()))
    }

    fn finish(&mut self) {}
}

#[test]
fn rows_wait_for_a_disk_that_refuses_and_none_is_lost() {
    let (sender, receiver) = bounded(limits::LEDGER_ROWS_MAX + 1);
    let (written, told) = unbounded();
    let shared = Arc::new(Shared {
        taken: AtomicUsize::new(0),
        healthy: AtomicBool::new(true),
        written: AtomicUsize::new(0),
    });
    let store = Stubborn { refusals: 2, written };
    let thread = writer::start(store, receiver, shared.clone()).expect("a thread");
    let ledger = Ledger { sender, shared, thread: Mutex::new(Some(thread)) };
    let slots: Vec<Slot> = std::iter::from_fn(|| ledger.slot()).collect();
    assert_eq!(slots.len(), limits::LEDGER_ROWS_MAX, "then there is no room");
    for (number, slot) in slots.into_iter().enumerate() {
        slot.record(row(number as u64, "alice", 1));
    }
    assert!(ledger.close(Duration::from_secs(20)));
    assert!(ledger.is_healthy());
    let found: Vec<String> = told.try_iter().collect();
    assert_eq!(found.len(), limits::LEDGER_ROWS_MAX);
    assert!(found.iter().enumerate().all(|(at, id)| *id == format!("r{at}")), "in their order");
}

#[test]
fn requests_side_by_side_never_pass_a_quota_or_a_limit() {
    let quota = Quota { window: Window::Total, ceiling: 1_000 };
    let limit = |pattern: &str, rpm| RateLimit {
        pattern: Glob::parse(pattern).expect("a pattern"),
        rpm: Some(rpm),
        rpd: None,
        total_tokens: None,
        window_ms: 60_000,
        in_flight: None,
    };
    let count = |user: User, cost: i64| {
        let accounts = Accounts::default();
        let admitted = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..250 {
                        if let Ok(taken) = accounts.admit(&user, "gpt-1", cost, 1, NOW_MS) {
                            admitted.fetch_add(1, Ordering::Relaxed);
                            accounts.settle(&user.name, &taken, cost, 1, NOW_MS);
                        }
                    }
                });
            }
        });
        admitted.load(Ordering::Relaxed)
    };
    assert_eq!(count(user(vec![quota], Vec::new()), 100), 10);
    assert_eq!(count(user(Vec::new(), vec![limit("gpt-*", 37)]), 0), 37);
    let rules = vec![limit("*", 50), limit("gpt-*", 20), limit("o1-*", 1)];
    assert_eq!(count(user(Vec::new(), rules), 0), 20);
}

#[test]
fn a_limit_that_refuses_gives_back_what_the_quota_held() {
    let quota = Quota { window: Window::Day, ceiling: 100 };
    let accounts = Accounts::new(Opening {
        spent: vec![("alice".into(), 20_780, 40)],
        requests: vec![("alice".into(), "gpt-1".into(), 20_780, 5)],
    });
    let rule = RateLimit {
        pattern: Glob::any(),
        rpm: None,
        rpd: Some(6),
        total_tokens: None,
        window_ms: 60_000,
        in_flight: None,
    };
    let alice = user(vec![quota], vec![rule]);
    let taken = accounts.admit(&alice, "gpt-1", 60, 0, NOW_MS).expect("five of six came before");
    let denied = accounts.admit(&alice, "gpt-1", 0, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Spent(_))), "{denied:?}");
    accounts.settle("alice", &taken, 10, 0, NOW_MS);
    let denied = accounts.admit(&alice, "gpt-1", 50, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Limited(_))), "{denied:?}");
    let denied = accounts.admit(&alice, "gpt-1", 51, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Spent(_))), "{denied:?}");
}

#[test]
fn an_audit_names_the_row_that_was_changed_and_the_sum_that_was() {
    let folder = Folder::new();
    let (ledger, _) = Ledger::open(&folder.0, &[("bob", 7)], NOW_MS).expect("a new file");
    let price = r#"{"price_each_call":"0.000000000003"}"#;
    for number in 0..50 {
        let row = Row { price: Some(price.into()), ..row(number, "alice", 3) };
        ledger.slot().expect("room").record(row);
    }
    assert!(ledger.close(Duration::from_secs(20)));
    let audited = || audit::audit(&folder.0).expect("it can be read");
    let sound = audited();
    assert_eq!((sound.rows, sound.cost, sound.faults_count), (50, 150, 0), "{:?}", sound.faults);
    let change = |sql: &str| {
        let books = rusqlite::Connection::open(folder.0.join(schema::FILE)).expect("a database");
        books.execute_batch(sql).expect("our table");
        let found = audited();
        assert!(found.faults_count > 0, "{sql}");
        found.faults[0].clone()
    };
    let fault = change("UPDATE usages SET cost = 4 WHERE request_id = 'r7'");
    assert!(fault.starts_with("row r7: it, or a row before it"), "{fault}");
    let fault = change("UPDATE usages SET cost = 3; DELETE FROM usages WHERE request_id = 'r20'");
    assert!(fault.starts_with("row r21: "), "{fault}");
    let mut out = Vec::new();
    audit::export(&folder.0, true, &mut out).expect("it can be read");
    let first = out.split(|byte| *byte == b'\n').next().expect("a line");
    let first: serde_json::Value = serde_json::from_slice(first).expect("JSON");
    assert_eq!((&first["request_id"], &first["cost"]), (&"r0".into(), &"0.000000000003".into()));
    let mut out = Vec::new();
    audit::export(&folder.0, false, &mut out).expect("it can be read");
    let text = String::from_utf8(out).expect("text");
    assert!(text.starts_with("request_id,at,user,provider,"), "{text:.60}");
    assert!(text.contains("\"{\"\"price_each_call"), "prices are quoted");
}
