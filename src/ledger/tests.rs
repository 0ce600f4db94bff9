use super::accounts::{Accounts, Denied};
use super::books::Store;
use super::*;
use crate::dialect::usage::Usage;
use crate::route::glob::Glob;
use crate::route::price::Applied;
use crate::route::quota::{Quota, Window};
use crate::route::rate::{DAY_MS, RateLimit};
use crate::route::snapshot::User;
use crate::secret::{Digest, KeyId};
use crate::testing::prng::Prng;
use crossbeam_channel::unbounded;
use std::os::unix::fs::PermissionsExt;
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

pub(super) const KEEP_ALL: Retention =
    Retention { usage_days: 0, usage_bytes: 0, log_days: 0, log_bytes: 0 };

fn open(folder: &Folder, first_seen: &[(&str, i64)]) -> Result<(Ledger, Opening), LedgerError> {
    Ledger::open(&folder.0, first_seen, NOW_MS, Synchronous::Full, KEEP_ALL, None)
}

const PROCESS: u64 = 0xab_cdef_0123_4567;

fn id(number: u64) -> String {
    format!("{PROCESS:014x}{number:010x}")
}

fn row(number: u64, user: &str, cost: i64) -> Row {
    Row {
        process: PROCESS,
        number,
        at_ms: NOW_MS,
        kind: Arc::new(Kind {
            user: user.into(),
            user_key: KeyId::of(&Digest::of(user.as_bytes())),
            provider: "p".into(),
            credential: Some(1),
            operation: "chat.completions",
            protocol: "openai_chat",
            model: "p/gpt-1".into(),
            limit_name_at: 2,
            model_served: "gpt-1".into(),
            usage_source: "upstream",
            service_tier: "default",
            price: Applied::from_json(r#"{"price_each_call":"0.000000000003"}"#),
            status: 200,
            outcome: "ok",
        }),
        usage: Usage { input_tokens: number, ..Usage::default() },
        cost,
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
    let (ledger, opening) = open(&folder, &[("bob", 7)]).expect("a new file");
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
    let (_ledger, opening) = open(&folder, &[("bob", 9)]).expect("our file");
    assert_eq!(opening.spent.len(), 2, "{opening:?}");
    assert!(opening.spent.contains(&("alice".to_owned(), 20_780, 3_000)));
    assert!(opening.spent.contains(&("bob".to_owned(), 20_780 - 32, 7)), "only once");
    assert_eq!(opening.requests, [("alice".into(), "gpt-1".into(), 20_780, 1_000)]);
}

#[test]
fn sums_that_no_number_holds_stop_nobody() {
    let folder = Folder::new();
    for round in 0..3 {
        let (ledger, opening) = open(&folder, &[]).expect("our file");
        let spent = opening.spent.first().map_or(0, |(_, _, cost)| *cost);
        assert_eq!(spent, if round == 0 { 0 } else { i64::MAX });
        for number in 0..2 {
            let mut row = row(2 * round + number, "alice", i64::MAX / 3 * 2);
            Arc::make_mut(&mut row.kind).status = 200 + number as u16;
            ledger.slot().expect("room").record(row);
        }
        assert!(ledger.close(Duration::from_secs(20)));
        assert_eq!((ledger.written(), ledger.is_healthy()), (2, true));
    }
}

#[test]
fn a_file_that_is_not_ours_is_left_as_it_is() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let path = folder.0.join(schema::FILE);
    for bytes in [&b"this is no database, whatever its name says......."[..], b"SQLite format 3\0x"]
    {
        std::fs::write(&path, bytes).expect("a file");
        let error = open(&folder, &[]).map(drop).expect_err("no database");
        assert!(matches!(error, LedgerError::Damaged(..)), "{error}");
        assert!(error.to_string().contains("gproxy.db"), "{error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), bytes);
    }
    std::fs::remove_file(&path).expect("it is there");
    let other = rusqlite::Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE t (a)").expect("a table");
    drop(other);
    let error = open(&folder, &[]).map(drop).expect_err("another program's");
    assert!(matches!(error, LedgerError::Damaged(..)), "{error}");
}

#[test]
fn a_newer_file_and_a_second_process_are_refused() {
    let folder = Folder::new();
    let (ledger, _) = open(&folder, &[]).expect("a new file");
    let error = open(&folder, &[]).map(drop).expect_err("it is open");
    assert!(matches!(error, LedgerError::InUse(_)), "{error}");
    assert!(ledger.close(Duration::from_secs(20)));
    drop(ledger);
    let path = folder.0.join(schema::FILE);
    let newer = rusqlite::Connection::open(path).expect("our file");
    newer.pragma_update(None, "user_version", 99).expect("a number");
    drop(newer);
    let error = open(&folder, &[]).map(drop).expect_err("too new");
    assert!(matches!(error, LedgerError::Newer(_, 99)), "{error}");
}

/// As `cp` brings a copy back, for one.
#[test]
fn files_that_others_could_read_are_taken_from_them() {
    let folder = Folder::new();
    let opened = || {
        let (ledger, _) = open(&folder, &[]).expect("our file");
        (ledger, logs::Logs::open(&folder.0).expect("our file"))
    };
    let (ledger, logs) = opened();
    assert!(ledger.close(Duration::from_secs(10)));
    drop((ledger, logs));
    for name in [schema::FILE, logs::FILE] {
        let open_to_all = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(folder.0.join(name), open_to_all).expect("our file");
    }
    let _both = opened();
    let files = std::fs::read_dir(&folder.0).expect("our folder").map(|file| file.expect("it"));
    let modes: Vec<_> = files
        .map(|file| (file.file_name(), file.metadata().expect("it").permissions().mode() & 0o777))
        .collect();
    assert!(modes.len() >= 4, "with those that SQLite makes: {modes:?}");
    assert!(modes.iter().all(|(_, mode)| *mode == 0o600), "{modes:?}");
}

#[test]
fn two_that_hand_over_write_one_chain_and_learn_what_the_other_spent() {
    let folder = Folder::new();
    let write = |ledger: &Ledger, number| {
        ledger.slot().expect("a place").record(row(number, "alice", 3));
    };
    let written = |ledger: &Ledger, count| {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while ledger.written() < count {
            assert!(std::time::Instant::now() < until, "the disk is slow");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let (old, _) = open(&folder, &[]).expect("a new file");
    write(&old, 1);
    written(&old, 1);
    let lock = old.lock().expect("it is locked").try_clone().expect("a descriptor");
    let opened = Ledger::open(&folder.0, &[], NOW_MS, Synchronous::Full, KEEP_ALL, Some(lock));
    let (new, opening) = opened.expect("the lock was handed over");
    assert_eq!(opening.spent, [("alice".to_owned(), 20_780, 3)]);
    write(&old, 2);
    write(&old, 3);
    written(&old, 3);
    write(&new, 4);
    written(&new, 1);
    assert_eq!(new.foreign(), [("alice".to_owned(), 20_780, 6)]);
    write(&old, 5);
    written(&old, 4);
    assert_eq!(old.foreign(), [("alice".to_owned(), 20_780, 3)]);
    assert!(old.close(Duration::from_secs(10)));
    drop(old);
    // The lock lives on with the one that is left.
    assert!(matches!(open(&folder, &[]), Err(LedgerError::InUse(_))));
    write(&new, 6);
    written(&new, 2);
    assert_eq!(new.foreign(), [("alice".to_owned(), 20_780, 3)]);
    assert!(new.close(Duration::from_secs(10)));
    drop(new);
    let audit = audit::audit(&folder.0).expect("it can be read");
    assert_eq!((audit.rows, audit.faults), (6, Vec::new()));
}

/// Refuses the first writes, then tells what it was given.
struct Stubborn {
    refusals: u32,
    written: Sender<u64>,
}

impl Store for Stubborn {
    fn write(&mut self, rows: &[Row]) -> Result<(), String> {
        if self.refusals > 0 {
            self.refusals -= 1;
            return Err("the disk is full".into());
        }
        rows.iter().try_for_each(|row| self.written.send(row.number).map_err(|_| "?".into()))
    }

    fn keep(&mut self, _: &[Status]) -> Result<(), String> {
        Ok(())
    }

    fn log(&mut self, _: &[Entry]) -> Result<(), String> {
        Err("the disk is full".into())
    }

    fn prune(&mut self, _: &Retention) -> Result<bool, String> {
        Ok(false)
    }

    fn finish(&mut self) {}
}

#[test]
fn rows_wait_for_a_disk_that_refuses_and_none_is_lost() {
    let (written, told) = unbounded();
    let ledger = Ledger::start(Stubborn { refusals: 2, written }, KEEP_ALL).expect("a thread");
    let slots: Vec<Slot> = std::iter::from_fn(|| ledger.slot()).collect();
    assert_eq!(slots.len(), limits::LEDGER_ROWS_MAX, "then there is no room");
    for (number, slot) in slots.into_iter().enumerate() {
        slot.record(row(number as u64, "alice", 1));
    }
    let metrics = Arc::new(Metrics::default());
    ledger.count_drops_in(metrics.clone());
    assert!(ledger.log(Entry::default()), "logs have places of their own");
    assert!(ledger.close(Duration::from_secs(20)));
    assert!(ledger.is_healthy());
    assert_eq!(metrics.counted(crate::metrics::Count::RequestLogsDropped), 1, "and may be lost");
    let found: Vec<u64> = told.try_iter().collect();
    assert!(found.iter().copied().eq(0..limits::LEDGER_ROWS_MAX as u64), "in their order");
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
                        if let Ok((taken, _)) =
                            accounts.admit(&user, None, "gpt-1", cost, 1, NOW_MS)
                        {
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
        ..Opening::default()
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
    let (taken, _) =
        accounts.admit(&alice, None, "gpt-1", 60, 0, NOW_MS).expect("five of six came before");
    let denied = accounts.admit(&alice, None, "gpt-1", 0, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Spent(_))), "{denied:?}");
    accounts.settle("alice", &taken, 10, 0, NOW_MS);
    let denied = accounts.admit(&alice, None, "gpt-1", 50, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Limited(..))), "{denied:?}");
    let denied = accounts.admit(&alice, None, "gpt-1", 51, 0, NOW_MS);
    assert!(matches!(denied, Err(Denied::Spent(_))), "{denied:?}");
}

/// A folder with so many rows of alice, each of three picodollars, and nobody who has it open.
fn written(count: u64) -> Folder {
    let folder = Folder::new();
    let (ledger, _) = open(&folder, &[("bob", 7)]).expect("a new file");
    for number in 0..count {
        ledger.slot().expect("room").record(row(number, "alice", 3));
    }
    assert!(ledger.close(Duration::from_secs(20)));
    folder
}

impl Folder {
    fn change(&self, sql: &str) {
        let books = rusqlite::Connection::open(self.0.join(schema::FILE)).expect("a database");
        books.execute_batch(sql).expect("our tables");
    }

    #[track_caller]
    fn faults(&self) -> Vec<String> {
        audit::audit(&self.0).expect("it can be read").faults
    }
}

#[test]
fn an_audit_names_the_row_that_was_changed_and_the_sum_that_was() {
    let folder = written(50);
    let sound = audit::audit(&folder.0).expect("it can be read");
    assert_eq!((sound.rows, sound.cost, sound.faults_count), (50, 150, 0), "{:?}", sound.faults);
    let row = |number| format!("row {} ", id(number));
    let rows: &[(&str, String, usize)] = &[
        ("UPDATE usage_rows SET cost = 4 WHERE id = 8", row(7) + "(8): it was changed", 3),
        ("UPDATE usage_rows SET total_ms = 1 WHERE id = 8", row(7) + "(8): it was changed", 1),
        ("DELETE FROM usage_rows WHERE id = 21", row(21) + "(22): 1 rows before it", 2),
        ("DELETE FROM usage_rows WHERE id = 50", "row 49 is the last one, but 50".into(), 2),
        ("UPDATE kinds SET price = '{}'", "kind 1 (user \"alice\"".into(), 20),
        ("UPDATE spendings SET cost = 1 WHERE user = 'alice'", "user \"alice\", day".into(), 1),
        ("UPDATE rollups SET cost = 151", "hour 498720, kind 1: 50 rows of 151".into(), 2),
        ("DELETE FROM rollups", "1 sums of rows are missing".into(), 2),
        ("UPDATE daily_until SET day = 20781", "day 20780, kind 1: its sums are not".into(), 1),
    ];
    for (change, fault, count) in rows {
        let folder = written(50);
        folder.change(change);
        let faults = folder.faults();
        assert!(faults[0].starts_with(fault), "{change}: {faults:#?}");
        assert_eq!(faults.len(), *count, "{change}: {faults:#?}");
    }
}

#[test]
fn rows_are_written_out_as_lines() {
    let folder = written(3);
    let exported = |selection: &export::Selection, json| {
        let mut out = Vec::new();
        export::export(&folder.0, selection, json, &mut out).expect("it can be read");
        String::from_utf8(out).expect("text")
    };
    let all = export::Selection::default();
    let text = exported(&all, true);
    let first: serde_json::Value =
        serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let expected = (&id(0).into(), &"0.000000000003".into());
    assert_eq!((&first["request_id"], &first["cost"]), expected);
    assert_eq!(first["priced"], true);
    let text = exported(&all, false);
    assert!(text.starts_with("request_id,at,user,user_key,provider,"), "{text:.60}");
    assert!(text.contains("\"{\"\"price_each_call"), "prices are quoted");
    assert_eq!(text.lines().count(), 4);
    for selection in [
        export::Selection { user: Some("bob".into()), ..all.clone() },
        export::Selection { from_ms: Some(NOW_MS + 1), ..all.clone() },
        export::Selection { to_ms: Some(NOW_MS), ..all.clone() },
    ] {
        assert_eq!(exported(&selection, false).lines().count(), 1, "{selection:?}");
    }
}

#[test]
fn a_file_from_before_credentials_were_kept_goes_on() {
    let folder = Folder::new();
    let keep = |ledger: Ledger, number, credential| {
        let row = row(number, "alice", 3);
        let kind = Arc::new(Kind { credential, ..Kind::clone(&row.kind) });
        ledger.slot().expect("room").record(Row { kind, ..row });
        assert!(ledger.close(Duration::from_secs(20)));
    };
    keep(open(&folder, &[]).expect("a new file").0, 1, None);
    folder.change(
        "DROP VIEW usages; ALTER TABLE kinds DROP COLUMN credential; \
         CREATE VIEW usages AS SELECT 1; PRAGMA user_version = 2",
    );
    keep(open(&folder, &[]).expect("an older file").0, 2, Some(7));
    assert_eq!(audit::audit(&folder.0).expect("it can be read").faults, Vec::<String>::new());
    let found = query::Reader::open(&folder.0).expect("it can be read");
    let found = found.rows(&query::Filter::default(), None, 9).expect("it can be read").rows;
    let found: Vec<_> = found.iter().map(|row| row["credential_id"].as_i64()).collect();
    assert_eq!(found, [Some(7), None]);
}

#[test]
fn a_file_from_before_images_were_counted_keeps_its_digests_and_goes_on() {
    const PRICE: &str = r#"{"price_each_image":"0.04","price_output_image_tokens":"1"}"#;
    let folder = written(3);
    let digests = || {
        let books = rusqlite::Connection::open(folder.0.join(schema::FILE)).expect("a database");
        let mut select = books.prepare("SELECT digest FROM usage_rows ORDER BY id").expect("rows");
        let digests = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).expect("rows");
        digests.collect::<rusqlite::Result<Vec<_>>>().expect("digests")
    };
    let before = digests();
    let mut older = "DROP VIEW usages; CREATE VIEW usages AS SELECT 1; ".to_owned();
    for table in ["usage_rows", "rollups", "daily_rollups"] {
        for column in ["images", "input_image_tokens", "output_image_tokens"] {
            older += &format!("ALTER TABLE {table} DROP COLUMN {column}; ");
        }
    }
    folder.change(&(older + "PRAGMA user_version = 3"));
    let why = audit::audit(&folder.0).expect_err("an older file").to_string();
    assert!(why.contains("start the gateway once"), "{why}");
    let (ledger, _) = open(&folder, &[]).expect("an older file");
    assert_eq!(digests(), before);
    let text = row(3, "alice", 3);
    let kind = Arc::new(Kind { price: Applied::from_json(PRICE), ..Kind::clone(&text.kind) });
    let usage = Usage { images: 2, output_tokens: 9, output_image_tokens: 5, ..Usage::default() };
    let cost = 2 * crate::money::DOLLAR / 25 + 5 * 1_000_000;
    ledger.slot().expect("room").record(Row { kind, usage, cost, ..text });
    ledger.slot().expect("room").record(row(4, "alice", 3));
    assert!(ledger.close(Duration::from_secs(20)));
    assert_eq!(folder.faults(), Vec::<String>::new());
    let reader = query::Reader::open(&folder.0).expect("it can be read");
    let rows = reader.rows(&query::Filter::default(), None, 9).expect("rows").rows;
    let images: Vec<_> = rows.iter().map(|row| row["images"].as_i64()).collect();
    assert_eq!(images, [0, 2, 0, 0, 0].map(Some));
    let sums = reader.sums(&query::Filter::default(), &[]).expect("sums");
    let of = |name: &str| sums[0][name].as_i64();
    assert_eq!((of("images"), of("output_image_tokens")), (Some(2), Some(5)));
    folder.change("UPDATE usage_rows SET images = 1 WHERE id = 4");
    let faults = folder.faults();
    assert!(faults[0].contains("(4): it was changed") && faults.len() == 2, "{faults:#?}");
    folder.change("UPDATE usage_rows SET images = 2 WHERE id = 4");
    assert_eq!(folder.faults(), Vec::<String>::new());
    folder.change("UPDATE usage_rows SET images = 1 WHERE id = 1");
    assert!(folder.faults()[0].contains("(1): it was changed"), "an older row's too");
}

#[test]
fn a_file_of_the_first_version_is_brought_up_with_all_that_it_holds() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).expect("a folder");
    folder.change(include_str!("tests/version_1.sql"));
    let (ledger, opening) = open(&folder, &[]).expect("our file");
    assert_eq!(opening.spent, [("alice".to_owned(), 20_780, 6)]);
    assert_eq!(opening.requests, [("alice".into(), "gpt-1".into(), 20_780, 2)]);
    ledger.slot().expect("room").record(row(2, "alice", 3));
    // One that was written by the older program is known.
    ledger.slot().expect("room").record(row(1, "alice", 3));
    assert!(ledger.close(Duration::from_secs(20)));
    let audit = audit::audit(&folder.0).expect("it can be read");
    assert_eq!((audit.rows, audit.cost, audit.faults), (3, 9, Vec::new()));
    let reader = query::Reader::open(&folder.0).expect("it can be read");
    let page = reader.rows(&query::Filter::default(), None, 10).expect("rows");
    let ids: Vec<_> = page.rows.iter().map(|row| row["request_id"].clone()).collect();
    assert_eq!(ids, [id(2), id(1), id(0)]);
    assert_eq!(page.rows[2]["outcome"], "ok");
}

#[test]
fn rows_are_found_by_what_they_are_newest_first_and_sums_agree() {
    let folder = Folder::new();
    let (ledger, _) = open(&folder, &[]).expect("a new file");
    let hour = DAY_MS / 24;
    for number in 0..500_u64 {
        let mut row = row(number, ["alice", "bob", "[x]"][number as usize % 3], number as i64);
        row.at_ms = NOW_MS + (number as i64 / 100) * hour;
        let kind = Arc::make_mut(&mut row.kind);
        kind.model = format!("p/gpt-{}", number % 5);
        kind.status = if number % 50 == 0 { 500 } else { 200 };
        kind.price = None;
        ledger.slot().expect("room").record(row);
    }
    assert!(ledger.close(Duration::from_secs(20)));
    let reader = query::Reader::open(&folder.0).expect("it can be read");
    let filters = [
        query::Filter::default(),
        query::Filter { user: Some("bob".into()), ..Default::default() },
        query::Filter { user: Some("[x]".into()), ..Default::default() },
        query::Filter { model: Some("p/gpt-[1]".into()), ..Default::default() },
        query::Filter {
            model: Some("*-1".into()),
            provider: Some("?".into()),
            ..Default::default()
        },
        query::Filter { status: Some((400, 599)), ..Default::default() },
        query::Filter {
            from_ms: Some(NOW_MS - 1 + hour),
            to_ms: Some(NOW_MS - 1 + 3 * hour),
            ..Default::default()
        },
        query::Filter { cost_min: Some(450), user: Some("alice".into()), ..Default::default() },
        query::Filter { request_id: Some(id(7)), ..Default::default() },
        query::Filter { request_id: Some("r7".into()), ..Default::default() },
    ];
    let expected = [500, 167, 166, 0, 100, 10, 200, 17, 1, 0];
    for (filter, expected) in filters.iter().zip(expected) {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let page = reader.rows(filter, cursor, 7).expect("rows");
            found.extend(page.rows);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(found.len(), expected, "{filter:?}");
        let ids: Vec<_> = found.iter().map(|row| row["request_id"].to_string()).collect();
        assert!(ids.is_sorted_by(|a, b| a > b), "newest first, each once: {ids:?}");
        if filter.cost_min.is_none() && filter.request_id.is_none() {
            let by = [sums::Group::Hour, sums::Group::User, sums::Group::Status];
            let sums = reader.sums(filter, &by).expect("sums");
            let requests: i64 = sums.iter().filter_map(|sums| sums["requests"].as_i64()).sum();
            assert_eq!(requests, expected as i64, "{filter:?}");
        }
    }
    let sums = reader.sums(&query::Filter::default(), &[sums::Group::Day]).expect("sums");
    let day = |name: &str| sums[0][name].to_string();
    let total = (0..500).sum::<i64>();
    assert_eq!((sums.len(), day("day")), (1, (20_780 * DAY_MS).to_string()));
    assert_eq!((day("requests"), day("input_tokens")), ("500".into(), total.to_string()));
    assert_eq!((day("failed"), day("cost")), ("10".into(), "\"0.00000012475\"".into()));
}

#[test]
fn more_logs_than_may_wait_are_refused_by_number_and_by_size() {
    let (written, _) = unbounded();
    let ledger = Ledger::start(Stubborn { refusals: 0, written }, KEEP_ALL).expect("a thread");
    let large = || {
        let body = logs::Body { bytes: vec![0; limits::LOG_QUEUE_BYTES_MAX], truncated: false };
        let both = logs::Exchange { response: Some(body), ..Default::default() };
        Entry { downstream: Some(logs::Request { both, ..Default::default() }), upstream: vec![] }
    };
    assert!(!ledger.log(large()));
    let taken = (0..=10 * limits::LOG_ENTRIES_MAX).take_while(|_| ledger.log(Entry::default()));
    assert!(taken.count() >= limits::LOG_ENTRIES_MAX);
    assert!(ledger.close(Duration::from_secs(20)));
    let left = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert_eq!((left(&ledger.shared.logs), left(&ledger.shared.log_bytes)), (0, 0));
}

/// Deletes until there is no more to delete; how many steps did something.
fn pruned(folder: &Folder, keep: Retention) -> usize {
    let (mut store, _) =
        schema::open(&folder.0, &[], NOW_MS, Synchronous::Normal, None).expect("our file");
    let steps = (0..10_000).take_while(|_| store.prune_rows(&keep, NOW_MS).expect("our tables"));
    steps.count()
}

#[test]
fn old_rows_go_in_steps_while_their_sums_stay_and_the_chain_goes_on() {
    let folder = Folder::new();
    let (ledger, _) = open(&folder, &[]).expect("a new file");
    for number in 0..5_000_u64 {
        let mut row = row(number, "alice", 3);
        // Five hours of a day that is a hundred days ago, and today.
        row.at_ms = match number {
            0..4_500 => NOW_MS - 100 * DAY_MS + (number as i64 / 900) * DAY_MS / 24,
            _ => NOW_MS,
        };
        ledger.slot().expect("room").record(row);
    }
    assert!(ledger.close(Duration::from_secs(20)));
    drop(ledger);
    let reader = query::Reader::open(&folder.0).expect("it can be read");
    let days = || {
        let sums = reader.sums(&query::Filter::default(), &[sums::Group::Day]).expect("sums");
        sums.iter().map(|sums| (sums["day"].clone(), sums["cost"].clone())).collect::<Vec<_>>()
    };
    let before = days();
    let steps = pruned(&folder, Retention { usage_days: 30, ..KEEP_ALL });
    assert_eq!(steps, 3 + 1, "2,048 rows a step, then a day's hours");
    let audit = audit::audit(&folder.0).expect("it can be read");
    assert_eq!((audit.rows, audit.pruned, audit.cost), (500, 4_500, 15_000));
    assert_eq!(audit.faults, Vec::<String>::new());
    assert_eq!(days(), before);
    let hours = reader.sums(&query::Filter::default(), &[sums::Group::Hour]).expect("sums");
    assert_eq!(hours.len(), 2, "{hours:?}");
    let (_, opening) = open(&folder, &[]).expect("our file");
    assert_eq!(opening.spent.iter().map(|(.., cost)| cost).sum::<i64>(), 15_000, "{opening:?}");
    folder.change("UPDATE usage_rows SET at = at + 1 WHERE id = 4501");
    assert!(folder.faults()[0].contains("(4501): it was changed"), "the first one that stayed");
}

#[test]
fn a_file_that_is_too_large_loses_its_oldest_rows_and_shrinks() {
    let folder = written(8_000);
    let size = || std::fs::metadata(folder.0.join(schema::FILE)).expect("a file").len();
    let before = size();
    assert!(pruned(&folder, Retention { usage_bytes: before / 2, ..KEEP_ALL }) > 0);
    let audit = audit::audit(&folder.0).expect("it can be read");
    assert!((1_000..5_000).contains(&audit.rows), "{audit:?}");
    assert_eq!((audit.rows + audit.pruned, audit.faults_count), (8_000, 0), "{audit:?}");
    assert!(size() < before * 2 / 3, "{} of {before} bytes", size());
}

#[test]
fn logs_go_by_age_and_by_size() {
    let folder = Folder::new();
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let mut file = logs::Logs::open(&folder.0).expect("a new file");
    let entry = |at_ms: i64| {
        let both = || logs::Exchange {
            at_ms,
            request_id: id(1),
            response: Some(logs::Body { bytes: vec![b'x'; 2_000], truncated: true }),
            ..Default::default()
        };
        let request = logs::Request { both: both(), ..Default::default() };
        let attempt = logs::Attempt { both: both(), ..Default::default() };
        Entry { downstream: Some(request), upstream: vec![attempt] }
    };
    let entries: Vec<_> =
        (0..1_000).map(|at| entry(NOW_MS - if at < 600 { 9 } else { 1 } * DAY_MS)).collect();
    file.write(&entries, NOW_MS).expect("our tables");
    let count = || {
        let books = rusqlite::Connection::open(folder.0.join(logs::FILE)).expect("a database");
        let count = "SELECT (SELECT count(*) FROM downstream_requests), count(*) \
            FROM upstream_requests";
        books.query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("our tables")
    };
    let mut prune = |keep: Retention| while file.prune(&keep, NOW_MS).expect("our tables") {};
    prune(KEEP_ALL);
    assert_eq!(count(), (1_000, 1_000));
    prune(Retention { log_days: 7, ..KEEP_ALL });
    assert_eq!(count(), (400, 400));
    prune(Retention { log_bytes: 1_300_000, ..KEEP_ALL });
    let (down, up): (i64, i64) = count();
    assert!(down == up && (1..400).contains(&down), "{down} {up}");
}

/// A row of one of the first `days` days from that of `NOW_MS`.
fn any_row(number: u64, days: usize, prng: &mut Prng) -> Row {
    let mut row = row(number, ["alice", "bob"][prng.below(2)], prng.below(1 << 40) as i64);
    row.at_ms = NOW_MS + prng.below(days * DAY_MS as usize - 1) as i64;
    let kind = Arc::make_mut(&mut row.kind);
    kind.model = format!("p/gpt-{}", prng.below(3));
    kind.status = *prng.pick(&[200, 200, 500]);
    kind.price = None;
    row.first_byte_ms = prng.below(9) as i64 - 1;
    row.total_ms = prng.below(99) as i64;
    row
}

/// By user and day: requests, those that failed, tokens, milliseconds, cost. From the rows.
fn naive_sums(rows: &[Row], from: i64, to: i64) -> Vec<String> {
    let mut sums = std::collections::BTreeMap::<_, [i64; 5]>::new();
    for row in rows.iter().filter(|row| (from..to).contains(&row.at_ms)) {
        let sum = sums.entry((row.kind.user.clone(), row.at_ms / DAY_MS * DAY_MS)).or_default();
        let failed = i64::from(row.kind.status >= 400);
        let tokens = row.usage.input_tokens as i64;
        for (sum, number) in sum.iter_mut().zip([1, failed, tokens, row.total_ms, row.cost]) {
            *sum += number;
        }
    }
    let spelled =
        |((user, day), [requests, failed, tokens, ms, cost]): ((String, i64), [i64; 5])| {
            let cost = crate::money::text(cost);
            format!("{user:?} {day} {requests} {failed} {tokens} {ms} {cost:?}")
        };
    sums.into_iter().map(spelled).collect()
}

/// The same as the books tell it.
fn told_sums(folder: &Folder, from: i64, to: i64) -> Vec<String> {
    let reader = query::Reader::open(&folder.0).expect("it can be read");
    let filter = query::Filter { from_ms: Some(from), to_ms: Some(to), ..Default::default() };
    let sums = reader.sums(&filter, &[sums::Group::User, sums::Group::Day]).expect("sums");
    let names = ["user", "day", "requests", "failed", "input_tokens", "total_ms", "cost"];
    let spelled = |sums: &serde_json::Map<_, serde_json::Value>| {
        names.map(|name| sums[name].to_string()).join(" ")
    };
    sums.iter().map(spelled).collect()
}

#[test]
fn daily_sums_are_those_of_the_rows_however_late_they_come() {
    let mut prng = Prng::new(11);
    let folder = Folder::new();
    let (mut store, _) =
        schema::open(&folder.0, &[], NOW_MS, Synchronous::Normal, None).expect("a new file");
    let mut rows = Vec::new();
    for days in 1..9 {
        let first = rows.len() as u64;
        rows.extend((first..first + 300).map(|number| any_row(number, days, &mut prng)));
        store.write(&rows[first as usize..]).expect("our tables");
        // Two hours into the last of the days.
        let now_ms = NOW_MS + (days as i64 - 1) * DAY_MS + DAY_MS / 12;
        let steps =
            (0..99).take_while(|_| daily::sum_up(&mut store.connection, now_ms).expect("a step"));
        assert_eq!(steps.count(), usize::from(days > 1), "each day that is over, once");
        for _ in 0..20 {
            let mut hour = || NOW_MS - 1 + (prng.below(24 * 10) as i64 - 6) * DAY_MS / 24;
            let (from, to) = (hour(), hour());
            assert_eq!(told_sums(&folder, from, to), naive_sums(&rows, from, to), "{from} {to}");
        }
        assert_eq!(told_sums(&folder, 0, i64::MAX), naive_sums(&rows, 0, i64::MAX));
    }
    assert_eq!(daily::faults(&store.connection).expect("our tables"), []);
    let text = |select: &str| -> String {
        let found = store.connection.query_row(select, [], |row| row.get(0));
        found.expect("our tables")
    };
    let days = "SELECT min(day) || ' ' || max(day) || ' ' || (SELECT day FROM daily_until) ";
    assert_eq!(text(&format!("{days} FROM daily_rollups")), "20780 20786 20787");
    folder.change("UPDATE daily_rollups SET cost = cost + 1 WHERE day = 20782 AND kind = 1");
    assert_eq!(daily::faults(&store.connection).expect("our tables"), [(20_782, 1)]);
}
