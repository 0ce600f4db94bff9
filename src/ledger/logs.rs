//! The request logs: a row for each request and for each attempt, in a file of their own.
//!
//! Unlike usage they may be lost: they are dropped, and counted, when more wait than may, and when
//! their file refuses. What must not be read in them was taken out before they came here.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection, ToSql, Transaction, params};

use super::{retention, schema};
use crate::route::snapshot::Retention;

/// Name of the file in the data folder.
pub(super) const FILE: &str = "gproxy-logs.db";
const VERSION: i64 = 1;
/// Rows that one step of the retention deletes.
const STEP_ROWS: i64 = 256;

/// What is logged of one request.
#[derive(Debug, Default)]
pub struct Entry {
    /// The request, if requests are logged.
    pub downstream: Option<Request>,
    /// Its attempts, if attempts are logged.
    pub upstream: Vec<Attempt>,
}

/// A request as it came, and its answer as it went.
#[derive(Debug, Default)]
pub struct Request {
    /// Both ways.
    pub both: Exchange,
    /// It was for one of our own pages.
    pub internal: bool,
    /// Who called; empty: nobody known.
    pub user: String,
    /// With which key, as people may see it.
    pub user_key: String,
    /// Without its query.
    pub path: String,
    /// The query.
    pub query: String,
    /// How it ended, in a word.
    pub outcome: &'static str,
}

/// An attempt at an upstream.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Both ways.
    pub both: Exchange,
    /// From 1.
    pub number: u32,
    /// Who was called.
    pub provider: String,
    /// The place of what was presented among the provider's credentials; -1: nothing was.
    pub credential: i64,
    /// As it was called.
    pub url: String,
    /// Why it ended.
    pub end: String,
}

/// What a request and an attempt have in common.
#[derive(Debug, Default)]
pub struct Exchange {
    /// The request's id.
    pub request_id: String,
    /// When it began, in milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// The method.
    pub method: String,
    /// The request's fields: a JSON array of pairs.
    pub request_headers: String,
    /// The request's body; `None`: bodies are not logged.
    pub request: Option<Body>,
    /// Status; 0: none was sent.
    pub status: u16,
    /// The answer's fields.
    pub response_headers: String,
    /// The answer's body.
    pub response: Option<Body>,
    /// To the answer's head, in milliseconds; -1: none came.
    pub initial_ms: i64,
    /// To its end.
    pub total_ms: i64,
}

/// The beginning of a body.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// There were more.
    pub truncated: bool,
}

impl Entry {
    /// Memory that it takes, about.
    pub(super) fn bytes(&self) -> usize {
        let of = |both: &Exchange| {
            let body = |body: &Option<Body>| body.as_ref().map_or(0, |body| body.bytes.len());
            let heads = both.request_headers.len() + both.response_headers.len();
            256 + heads + body(&both.request) + body(&both.response)
        };
        let down = self.downstream.as_ref();
        let down = down.map_or(0, |down| of(&down.both) + down.path.len() + down.query.len());
        let up = self.upstream.iter().map(|attempt| of(&attempt.both) + attempt.url.len());
        down + up.sum::<usize>()
    }
}

const TABLES: &str = "
    CREATE TABLE downstream_requests (
        id INTEGER PRIMARY KEY,
        trace_id TEXT NOT NULL,
        at INTEGER NOT NULL,
        internal INTEGER NOT NULL,
        user_id TEXT,
        user_key_id TEXT,
        request_method TEXT NOT NULL,
        request_headers_json TEXT NOT NULL,
        request_path TEXT NOT NULL,
        request_query TEXT NOT NULL,
        request_body ANY,
        request_body_truncated INTEGER NOT NULL,
        response_status INTEGER,
        response_headers_json TEXT,
        response_body ANY,
        response_body_truncated INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        initial_latency_ms INTEGER,
        total_latency_ms INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX downstream_trace ON downstream_requests (trace_id);
    CREATE TABLE upstream_requests (
        id INTEGER PRIMARY KEY,
        trace_id TEXT NOT NULL,
        downstream_trace_id TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        at INTEGER NOT NULL,
        internal INTEGER NOT NULL,
        provider_id TEXT NOT NULL,
        credential_id INTEGER,
        request_method TEXT NOT NULL,
        request_headers_json TEXT NOT NULL,
        request_url TEXT NOT NULL,
        request_body ANY,
        request_body_truncated INTEGER NOT NULL,
        response_status INTEGER,
        response_headers_json TEXT,
        response_body ANY,
        response_body_truncated INTEGER NOT NULL,
        end_reason TEXT NOT NULL,
        initial_latency_ms INTEGER,
        total_latency_ms INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX upstream_trace ON upstream_requests (downstream_trace_id);
";

const INSERT_DOWN: &str = "INSERT INTO downstream_requests VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6, \
    ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";
const INSERT_UP: &str = "INSERT INTO upstream_requests VALUES (NULL, ?1, ?2, ?3, ?4, 0, ?5, ?6, \
    ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)";

/// The file, opened.
pub(super) struct Logs {
    connection: Connection,
}

impl Logs {
    /// Opens the file in the data folder, or makes it.
    pub(super) fn open(folder: &Path) -> rusqlite::Result<Logs> {
        let path = folder.join(FILE);
        // What fails here fails below again, and says why.
        let _ = schema::private(&path);
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if version == 0 {
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        if version == 0 {
            let change = connection.transaction()?;
            change.execute_batch(TABLES)?;
            change.pragma_update(None, "user_version", VERSION)?;
            change.commit()?;
        }
        Ok(Logs { connection })
    }

    /// Writes entries, all or none.
    pub(super) fn write(&mut self, entries: &[Entry], now_ms: i64) -> rusqlite::Result<()> {
        let change = self.connection.transaction()?;
        insert(&change, entries, now_ms)?;
        change.commit()
    }

    /// Deletes what is too old, or too much, a step of it. True: there is more.
    pub(super) fn prune(&mut self, keep: &Retention, now_ms: i64) -> rusqlite::Result<bool> {
        let is_large = retention::is_larger(&self.connection, keep.log_bytes)?;
        let before = retention::before(keep.log_days, now_ms);
        let mut more = false;
        for table in ["downstream_requests", "upstream_requests"] {
            let delete = format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} ORDER BY id LIMIT ?1) \
                 AND (?2 OR at < ?3)"
            );
            let values = params![STEP_ROWS, is_large, before];
            more |= self.connection.execute(&delete, values)? > 0;
        }
        retention::give_back(&self.connection)?;
        Ok(more)
    }

    /// Brings everything into the one file.
    pub(super) fn finish(&mut self) {
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

fn insert(change: &Transaction<'_>, entries: &[Entry], now_ms: i64) -> rusqlite::Result<()> {
    let mut down = change.prepare(INSERT_DOWN)?;
    let mut up = change.prepare(INSERT_UP)?;
    for entry in entries {
        if let Some(request) = &entry.downstream {
            let both = &request.both;
            down.execute(params![
                both.request_id,
                both.at_ms,
                request.internal,
                some(&request.user),
                some(&request.user_key),
                both.method,
                both.request_headers,
                request.path,
                request.query,
                both.request,
                truncated(&both.request),
                status(both),
                some(&both.response_headers),
                both.response,
                truncated(&both.response),
                request.outcome,
                reached(both.initial_ms),
                both.total_ms,
                now_ms,
            ])?;
        }
        for attempt in &entry.upstream {
            let both = &attempt.both;
            up.execute(params![
                format!("{}-{}", both.request_id, attempt.number),
                both.request_id,
                attempt.number,
                both.at_ms,
                attempt.provider,
                reached(attempt.credential),
                both.method,
                both.request_headers,
                attempt.url,
                both.request,
                truncated(&both.request),
                status(both),
                some(&both.response_headers),
                both.response,
                truncated(&both.response),
                attempt.end,
                reached(both.initial_ms),
                both.total_ms,
                now_ms,
            ])?;
        }
    }
    Ok(())
}

impl ToSql for Body {
    /// As text where it is text.
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let cell = match std::str::from_utf8(&self.bytes) {
            Ok(text) => ValueRef::Text(text.as_bytes()),
            // A character may be cut at the end.
            Err(error) if self.truncated && error.error_len().is_none() => {
                ValueRef::Text(&self.bytes[..error.valid_up_to()])
            }
            Err(_) => ValueRef::Blob(&self.bytes),
        };
        Ok(ToSqlOutput::Borrowed(cell))
    }
}

fn truncated(body: &Option<Body>) -> bool {
    body.as_ref().is_some_and(|body| body.truncated)
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn status(both: &Exchange) -> Value {
    match both.status {
        0 => Value::Null,
        status => Value::Integer(status.into()),
    }
}

/// A number of which -1 says that there is none.
fn reached(number: i64) -> Option<i64> {
    Some(number).filter(|number| *number >= 0)
}
