//! The database file: how it is opened, and what is read then.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::books::{Database, Tail};
use super::logs::{self, Logs};
use super::migrate::{self, VERSION};
use super::{LedgerError, Opening, Synchronous, entities, key_uses, statuses};
use crate::route::rate::DAY_MS;

/// Name of the database in the data folder.
pub(super) const FILE: &str = "gproxy.db";
const LOCK: &str = "gproxy.lock";
/// Pages in the write-ahead log after which it is brought into the file: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4_096;
/// Tells our files from others': `gprx`.
pub(super) const APPLICATION: i64 = 0x6770_7278;
/// Days that the longest window of a quota spans, and the one of today.
const DAYS_KEPT: i64 = 32;

/// Opens the database of a data folder, or makes it.
pub(super) fn open(
    folder: &Path,
    first_seen: &[(&str, i64)],
    now_ms: i64,
    synchronous: Synchronous,
    lock: Option<File>,
) -> Result<(Database, Opening), LedgerError> {
    let path = folder.join(FILE);
    let cannot = |why: String| LedgerError::Open(path.clone(), why);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| cannot(error.to_string()))?;
    let is_shared = lock.is_some();
    let lock = match lock {
        Some(lock) => lock,
        None => private(&folder.join(LOCK)).map_err(|error| cannot(error.to_string()))?,
    };
    // Of a lock that was handed over this is the same one once more.
    if lock.try_lock().is_err() {
        return Err(LedgerError::InUse(path));
    }
    private(&path).map_err(|error| cannot(error.to_string()))?;
    let sound = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            LedgerError::Damaged(path.clone(), error.to_string())
        }
        _ => LedgerError::Open(path.clone(), error.to_string()),
    };
    let mut connection = Connection::open(&path).map_err(sound)?;
    prepare(&mut connection, &path, synchronous, is_shared, sound)?;
    enter(&mut connection, first_seen).map_err(sound)?;
    // Both of one moment: another process may still write.
    let behavior = TransactionBehavior::Immediate;
    let moment = connection.transaction_with_behavior(behavior).map_err(sound)?;
    let opening = read_opening(&moment, now_ms).map_err(sound)?;
    let tail = Tail::read(&moment).map_err(sound)?;
    // The first write waits for the disk, whatever the setting: not under the first rows.
    moment.execute("UPDATE chain SET last = last", []).map_err(sound)?;
    moment.commit().map_err(sound)?;
    // What was logged before goes when its time comes, though nothing is logged now.
    let logs = folder.join(logs::FILE).exists().then(|| Logs::open(folder).ok()).flatten();
    let folder = folder.to_owned();
    Ok((Database { connection, tail, folder, logs, lock }, opening))
}

/// Opens a file, or makes it, that is read by nobody else: a copy that was brought back may come
/// with another mode. What SQLite makes beside it has the same.
pub(super) fn private(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0
        && let Err(error) = file.set_permissions(Permissions::from_mode(mode & 0o700))
    {
        let path = path.display();
        log::warn!(target: "gproxy::ledger", "{path} stays open to others ({mode:o}): {error}");
    }
    Ok(file)
}

fn prepare(
    connection: &mut Connection,
    path: &Path,
    synchronous: Synchronous,
    is_shared: bool,
    sound: impl Fn(rusqlite::Error) -> LedgerError,
) -> Result<(), LedgerError> {
    connection.busy_timeout(Duration::from_secs(5)).map_err(&sound)?;
    let number = |connection: &Connection, name: &str| {
        connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(&sound)
    };
    let version = number(connection, "user_version")?;
    let application = number(connection, "application_id")?;
    let tables = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0)).map_err(&sound)?;
    if (tables > 0 || version > 0) && application != APPLICATION {
        return Err(LedgerError::Damaged(path.to_owned(), "it is another program's".into()));
    }
    if version > VERSION {
        return Err(LedgerError::Newer(path.to_owned(), version));
    }
    // A new file is told before anything stands in it: pages that are freed can be given back.
    if tables == 0 {
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(&sound)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&sound)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES).map_err(&sound)?;
    connection.pragma_update(None, "synchronous", synchronous.word()).map_err(&sound)?;
    let check = "PRAGMA quick_check(1)";
    let found: String = connection.query_row(check, [], |row| row.get(0)).map_err(&sound)?;
    if found != "ok" {
        return Err(LedgerError::Damaged(path.to_owned(), found));
    }
    if version < VERSION && is_shared {
        let why = "its format has to be brought up to date: stop the old process, then start";
        return Err(LedgerError::Open(path.to_owned(), why.into()));
    }
    if version < VERSION {
        migrate::bring_up(connection, version).map_err(&sound)?;
    }
    entities::prepare(connection).map_err(&sound)
}

/// What users had spent before counts once, on the first day of all.
fn enter(connection: &mut Connection, first_seen: &[(&str, i64)]) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    for (user, cost_used) in first_seen {
        entities::see_first(&change, user, *cost_used)?;
    }
    change.commit()
}

fn read_opening(connection: &Connection, now_ms: i64) -> rusqlite::Result<Opening> {
    let today = now_ms.div_euclid(DAY_MS);
    let recent = "SELECT user, max(day, ?1), cost FROM spendings ORDER BY user, day";
    let mut recent = connection.prepare(recent)?;
    let rows = recent.query_map([today - DAYS_KEPT], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
    })?;
    // What is older than every window counts to the total alone: it stands before all days kept.
    let mut spent: Vec<(String, i64, i64)> = Vec::new();
    for row in rows {
        let (user, day, cost): (_, _, i64) = row?;
        match spent.last_mut() {
            Some(last) if last.0 == user && last.1 == day => last.2 = last.2.saturating_add(cost),
            _ => spent.push((user, day, cost)),
        }
    }
    let counts = "SELECT user, limit_name, hour / 24, sum(requests) FROM rollups \
        JOIN kinds ON kinds.id = kind WHERE hour >= ?1 GROUP BY user, limit_name, hour / 24";
    let mut counts = connection.prepare(counts)?;
    let rows = counts.query_map([(today - 1) * 24], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    let requests = rows.collect::<rusqlite::Result<_>>()?;
    let mut seen = connection.prepare("SELECT user FROM first_seen")?;
    let seen = seen.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let (entities, top_ups) = (entities::all(connection)?, entities::top_ups(connection)?);
    let statuses = statuses::read(connection, now_ms)?;
    let key_uses = key_uses::read(connection, now_ms)?;
    Ok(Opening { spent, requests, entities, top_ups, seen, statuses, key_uses })
}
