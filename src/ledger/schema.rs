//! The database file: its tables, its versions, and the statements of a batch.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::{LedgerError, Opening, Row};
use crate::route::rate::DAY_MS;

/// Name of the database in the data folder.
pub(super) const FILE: &str = "gproxy.db";
const LOCK: &str = "gproxy.lock";
/// Tells our files from others': `gprx`.
const APPLICATION: i64 = 0x6770_7278;
const VERSION: i64 = 1;
/// Days that the longest window of a quota spans, and the one of today.
const DAYS_KEPT: i64 = 32;

const TABLES: &str = "
    CREATE TABLE usages (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL UNIQUE,
        at INTEGER NOT NULL,
        user TEXT NOT NULL,
        provider TEXT NOT NULL,
        operation TEXT NOT NULL,
        protocol TEXT NOT NULL,
        model TEXT NOT NULL,
        model_served TEXT NOT NULL,
        limit_name TEXT NOT NULL,
        input_tokens INTEGER NOT NULL,
        cache_read_input_tokens INTEGER NOT NULL,
        cache_creation_input_tokens_5min INTEGER NOT NULL,
        cache_creation_input_tokens_1h INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        input_audio_tokens INTEGER NOT NULL,
        output_audio_tokens INTEGER NOT NULL,
        tool_calls INTEGER NOT NULL,
        usage_source TEXT NOT NULL,
        service_tier TEXT NOT NULL,
        cost INTEGER NOT NULL,
        price TEXT,
        status INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        first_byte_ms INTEGER NOT NULL,
        total_ms INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        digest BLOB NOT NULL
    ) STRICT;
    CREATE INDEX usages_at ON usages (at);
    CREATE TABLE spendings (
        user TEXT NOT NULL,
        day INTEGER NOT NULL,
        cost INTEGER NOT NULL,
        PRIMARY KEY (user, day)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE first_seen (
        user TEXT PRIMARY KEY,
        cost_used INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

const INSERT: &str = "INSERT INTO usages (request_id, at, user, provider, operation, protocol, \
    model, model_served, limit_name, input_tokens, cache_read_input_tokens, \
    cache_creation_input_tokens_5min, cache_creation_input_tokens_1h, output_tokens, \
    reasoning_tokens, input_audio_tokens, output_audio_tokens, tool_calls, usage_source, \
    service_tier, cost, price, status, outcome, attempts, first_byte_ms, total_ms, bytes_in, \
    bytes_out, digest) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, \
    ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30) \
    ON CONFLICT (request_id) DO NOTHING";
const SPEND: &str = "INSERT INTO spendings (user, day, cost) VALUES (?1, ?2, ?3) \
    ON CONFLICT (user, day) DO UPDATE SET cost = cost + excluded.cost";

/// Something that keeps rows.
pub(super) trait Store: Send {
    /// Writes all rows and what they cost, or nothing of it.
    fn write(&mut self, rows: &[Row]) -> Result<(), String>;
    /// Brings everything into the one file.
    fn finish(&mut self);
}

/// The database, opened. The lock lives as long.
pub(super) struct Database {
    connection: Connection,
    last_digest: Vec<u8>,
    _lock: File,
}

/// Opens the database of a data folder, or makes it.
pub(super) fn open(
    folder: &Path,
    first_seen: &[(&str, i64)],
    now_ms: i64,
) -> Result<(Database, Opening), LedgerError> {
    let path = folder.join(FILE);
    let cannot = |why: String| LedgerError::Open(path.clone(), why);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| cannot(error.to_string()))?;
    let private = |name: &str| {
        OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(name))
    };
    let lock = private(LOCK).map_err(|error| cannot(error.to_string()))?;
    if lock.try_lock().is_err() {
        return Err(LedgerError::InUse(path));
    }
    private(FILE).map_err(|error| cannot(error.to_string()))?;
    let sound = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            LedgerError::Damaged(path.clone(), error.to_string())
        }
        _ => LedgerError::Open(path.clone(), error.to_string()),
    };
    let mut connection = Connection::open(&path).map_err(sound)?;
    prepare(&mut connection, &path, sound)?;
    enter(&mut connection, first_seen).map_err(sound)?;
    let opening = read_opening(&connection, now_ms).map_err(sound)?;
    let last = "SELECT digest FROM usages ORDER BY id DESC LIMIT 1";
    let last = connection.query_row(last, [], |row| row.get(0)).optional().map_err(sound)?;
    let last_digest = last.unwrap_or_default();
    Ok((Database { connection, last_digest, _lock: lock }, opening))
}

fn prepare(
    connection: &mut Connection,
    path: &Path,
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
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&sound)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(&sound)?;
    let check = "PRAGMA quick_check(1)";
    let found: String = connection.query_row(check, [], |row| row.get(0)).map_err(&sound)?;
    if found != "ok" {
        return Err(LedgerError::Damaged(path.to_owned(), found));
    }
    if version == 0 {
        let change = connection.transaction().map_err(&sound)?;
        change.execute_batch(TABLES).map_err(&sound)?;
        change.pragma_update(None, "application_id", APPLICATION).map_err(&sound)?;
        change.pragma_update(None, "user_version", VERSION).map_err(&sound)?;
        change.commit().map_err(&sound)?;
    }
    Ok(())
}

/// What users had spent before counts once, on the first day of all.
fn enter(connection: &mut Connection, first_seen: &[(&str, i64)]) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    for (user, cost_used) in first_seen {
        let insert = "INSERT OR IGNORE INTO first_seen (user, cost_used) VALUES (?1, ?2)";
        if change.execute(insert, params![user, cost_used])? == 1 && *cost_used > 0 {
            change.execute(SPEND, params![user, 0, cost_used])?;
        }
    }
    change.commit()
}

fn read_opening(connection: &Connection, now_ms: i64) -> rusqlite::Result<Opening> {
    let today = now_ms.div_euclid(DAY_MS);
    let recent = "SELECT user, max(day, ?1), sum(cost) FROM spendings GROUP BY user, max(day, ?1)";
    let mut spent = connection.prepare(recent)?;
    // What is older than every window counts to the total alone: it stands before all days kept.
    let rows =
        spent.query_map([today - DAYS_KEPT], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let spent = rows.collect::<rusqlite::Result<_>>()?;
    let counts = "SELECT user, limit_name, at / ?1, count(*) FROM usages WHERE at >= ?2 \
        GROUP BY user, limit_name, at / ?1";
    let mut counts = connection.prepare(counts)?;
    let rows = counts.query_map([DAY_MS, (today - 1) * DAY_MS], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
    })?;
    Ok(Opening { spent, requests: rows.collect::<rusqlite::Result<_>>()? })
}

impl Store for Database {
    fn write(&mut self, rows: &[Row]) -> Result<(), String> {
        match self.try_write(rows) {
            Ok(last_digest) => {
                self.last_digest = last_digest;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn finish(&mut self) {
        // What stays in the log is found at the next start.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

impl Database {
    fn try_write(&mut self, rows: &[Row]) -> rusqlite::Result<Vec<u8>> {
        let change = self.connection.transaction()?;
        let mut last = self.last_digest.clone();
        {
            let mut insert = change.prepare(INSERT)?;
            let mut spend = change.prepare(SPEND)?;
            for row in rows {
                let digest = digest(&last, row);
                // Written twice, a row changes nothing.
                if insert_row(&mut insert, row, &digest)? == 0 {
                    continue;
                }
                last = digest;
                if row.cost != 0 {
                    let day = row.at_ms.div_euclid(DAY_MS);
                    spend.execute(params![row.user, day, row.cost])?;
                }
            }
        }
        change.commit()?;
        Ok(last)
    }
}

fn insert_row(
    insert: &mut rusqlite::Statement<'_>,
    row: &Row,
    digest: &[u8],
) -> rusqlite::Result<usize> {
    let usage = &row.usage;
    insert.execute(params![
        row.request_id,
        row.at_ms,
        row.user,
        row.provider,
        row.operation,
        row.protocol,
        row.model,
        row.model_served,
        row.limit_name,
        count(usage.input_tokens),
        count(usage.cache_read_input_tokens),
        count(usage.cache_creation_input_tokens_5min),
        count(usage.cache_creation_input_tokens_1h),
        count(usage.output_tokens),
        count(usage.reasoning_tokens),
        count(usage.input_audio_tokens),
        count(usage.output_audio_tokens),
        count(usage.tool_calls),
        row.usage_source,
        row.service_tier,
        row.cost,
        row.price,
        row.status,
        row.outcome,
        row.attempts,
        row.first_byte_ms,
        row.total_ms,
        count(row.bytes_in),
        count(row.bytes_out),
        digest,
    ])
}

/// The row's link in the chain.
fn digest(before: &[u8], row: &Row) -> Vec<u8> {
    let usage = &row.usage;
    let texts = [
        &row.request_id,
        &*row.user,
        &row.provider,
        &row.model,
        &row.model_served,
        row.operation,
        row.usage_source,
        row.service_tier,
    ];
    let numbers = [
        row.at_ms,
        row.cost,
        count(usage.input_tokens),
        count(usage.cache_read_input_tokens),
        count(usage.cache_creation_input_tokens_5min),
        count(usage.cache_creation_input_tokens_1h),
        count(usage.output_tokens),
        count(usage.tool_calls),
    ];
    chained(before, &texts, row.price.as_deref(), &numbers)
}

/// A digest over the one before and all that a bill depends on: whoever changes or takes out a row
/// later breaks the chain there.
pub(super) fn chained(
    before: &[u8],
    texts: &[&str; 8],
    price: Option<&str>,
    numbers: &[i64; 8],
) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    context.update(before);
    for text in texts.iter().copied().chain([price.unwrap_or_default()]) {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    numbers.iter().for_each(|number| context.update(&number.to_be_bytes()));
    context.finish().as_ref().to_vec()
}

/// A count as the database holds it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
