//! Reading the request logs: the newest first, by filter, and everything of one request.
//!
//! For OS threads only: it waits for the disk. Rows are long, and found quickly by their request's
//! id alone; so a search looks at a stretch of them and tells where the next one begins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params_from_iter};
use serde_json::{Map, Value, json};

use super::LedgerError;
use super::logs::FILE;
use super::query::{Conditions, Page};
use crate::limits;

/// Columns of a request, by the names that people read.
const REQUEST: &str = "id, trace_id AS request_id, at, internal, user_id AS user, \
    user_key_id AS user_key, request_method AS method, request_path AS path, \
    request_query AS query, response_status AS status, outcome, \
    initial_latency_ms AS initial_ms, total_latency_ms AS total_ms";
/// Columns of an attempt.
const ATTEMPT: &str = "id, downstream_trace_id AS request_id, attempt, at, \
    provider_id AS provider, credential_id, request_method AS method, request_url AS url, \
    response_status AS status, end_reason, initial_latency_ms AS initial_ms, \
    total_latency_ms AS total_ms";
/// Columns that lists leave out.
const CONTENTS: &str = "request_headers_json AS request_headers, request_body, \
    request_body_truncated, response_headers_json AS response_headers, response_body, \
    response_body_truncated";

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Requests as they came, and their answers.
    Downstream,
    /// Attempts at upstreams.
    Upstream,
}

/// Which logged requests, or attempts. What is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Begun at this time or later, in milliseconds since 1970.
    pub from_ms: Option<i64>,
    /// Begun before this time.
    pub to_ms: Option<i64>,
    /// By exactly this user. For requests only.
    pub user: Option<String>,
    /// With the key of exactly this id. For requests only.
    pub user_key: Option<String>,
    /// For our own pages, or for everything else. For requests only.
    pub internal: Option<bool>,
    /// At exactly this provider. For attempts only.
    pub provider: Option<String>,
    /// Whose path, or of attempts whose address, holds this text.
    pub target: Option<String>,
    /// How it ended, exactly.
    pub end: Option<String>,
    /// The least and the highest status. What has none passes no such filter.
    pub status: Option<(u16, u16)>,
}

/// Everything that was logged of one request.
#[derive(Debug, Default)]
pub struct Logged {
    /// The request, with its fields and bodies.
    pub request: Option<Map<String, Value>>,
    /// Its attempts, likewise, the first one first.
    pub attempts: Vec<Map<String, Value>>,
}

/// The logs of a data folder, opened to read.
pub struct Reader {
    // `None`: nothing was ever logged.
    logs: Option<Connection>,
    path: PathBuf,
}

impl Side {
    /// The table, its columns, and those of them that filters are about: target and end.
    fn names(self) -> (&'static str, &'static str, [&'static str; 2]) {
        match self {
            Side::Downstream => ("downstream_requests", REQUEST, ["request_path", "outcome"]),
            Side::Upstream => ("upstream_requests", ATTEMPT, ["request_url", "end_reason"]),
        }
    }
}

impl Filter {
    /// Its conditions: those on columns before the bodies come first.
    fn conditions(&self, [target, end]: [&str; 2]) -> Conditions {
        let mut all = Conditions::default();
        let mut and = |condition: &str, value: Option<rusqlite::types::Value>| {
            if let Some(value) = value {
                all.and(condition, value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Into::into);
        and("at >= ?", self.from_ms.map(Into::into));
        and("at < ?", self.to_ms.map(Into::into));
        and("internal = ?", self.internal.map(Into::into));
        and("user_id = ?", text(&self.user));
        and("user_key_id = ?", text(&self.user_key));
        and("provider_id = ?", text(&self.provider));
        and(&format!("instr({target}, ?) > 0"), text(&self.target));
        and("response_status >= ?", self.status.map(|(least, _)| i64::from(least).into()));
        and("response_status <= ?", self.status.map(|(_, most)| i64::from(most).into()));
        and(&format!("{end} = ?"), text(&self.end));
        all
    }
}

impl Reader {
    /// Opens the logs of a data folder.
    pub fn open(folder: &Path) -> Result<Reader, LedgerError> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Reader { logs: None, path });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let logs = Connection::open_with_flags(&path, flags).and_then(|logs| {
            logs.busy_timeout(Duration::from_secs(5))?;
            // The writer may be making it at this moment.
            let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'upstream_requests'";
            let tables: i64 = logs.query_row(tables, [], |row| row.get(0))?;
            Ok((tables > 0).then_some(logs))
        });
        match logs {
            Ok(logs) => Ok(Reader { logs, path }),
            Err(error) => Err(LedgerError::Open(path, error.to_string())),
        }
    }

    fn sound<T>(&self, result: rusqlite::Result<T>) -> Result<T, LedgerError> {
        result.map_err(|error| LedgerError::Damaged(self.path.clone(), error.to_string()))
    }

    /// What passes the filter, newest first, behind the cursor of the page before; without fields
    /// and bodies. A page may have fewer than `limit` rows, or none, although more follow.
    pub fn list(
        &self,
        side: Side,
        filter: &Filter,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page, LedgerError> {
        self.sound(self.search(side, filter, cursor, limit.clamp(1, limits::API_ITEMS_MAX)))
    }

    fn search(
        &self,
        side: Side,
        filter: &Filter,
        cursor: Option<i64>,
        limit: usize,
    ) -> rusqlite::Result<Page> {
        let Some(logs) = &self.logs else { return Ok(Page::default()) };
        let (table, columns, names) = side.names();
        let bounds = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (oldest, newest): (Option<i64>, Option<i64>) =
            logs.query_row(&format!("SELECT min(id), max(id) FROM {table}"), [], bounds)?;
        let (Some(oldest), Some(newest)) = (oldest, newest) else { return Ok(Page::default()) };
        let last = cursor.map_or(newest, |cursor| cursor.saturating_sub(1).min(newest));
        let first = last.saturating_sub(limits::LOG_SEARCH_ROWS_MAX - 1);
        let mut conditions = filter.conditions(names);
        conditions.and("id >= ?", first);
        conditions.and("id <= ?", last);
        let mut page = Self::read(
            logs,
            &format!(
                "SELECT {columns} FROM {table}{} ORDER BY id DESC LIMIT {}",
                conditions.text,
                limit + 1
            ),
            conditions.values,
        )?;
        let number = |row: &Map<String, Value>| row.get("id").and_then(Value::as_i64);
        let next = match page.len() > limit {
            true => page.pop().as_ref().and_then(number).map(|id| id + 1),
            false => (first > oldest).then_some(first),
        };
        Ok(Page { rows: page, next })
    }

    /// Everything of the request of this id, with fields and bodies.
    pub fn of(&self, request_id: &str) -> Result<Logged, LedgerError> {
        self.sound(self.read_all_of(request_id))
    }

    fn read_all_of(&self, request_id: &str) -> rusqlite::Result<Logged> {
        let Some(logs) = &self.logs else { return Ok(Logged::default()) };
        let select = |side: Side, column: &str, limit: usize| {
            let (table, columns, _) = side.names();
            let select = format!(
                "SELECT {columns}, {CONTENTS} FROM {table} WHERE {column} = ? \
                 ORDER BY id LIMIT {limit}"
            );
            Self::read(logs, &select, vec![request_id.to_owned().into()])
        };
        let request = select(Side::Downstream, "trace_id", 1)?.pop();
        let most = limits::LOG_ATTEMPTS_SHOWN_MAX;
        let attempts = select(Side::Upstream, "downstream_trace_id", most)?;
        Ok(Logged { request, attempts })
    }

    fn read(
        logs: &Connection,
        select: &str,
        values: Vec<rusqlite::types::Value>,
    ) -> rusqlite::Result<Vec<Map<String, Value>>> {
        let mut statement = logs.prepare(select)?;
        let mut rows = statement.query(params_from_iter(values))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let mut told = Map::new();
            for (at, name) in row.as_ref().column_names().enumerate() {
                told.insert(name.to_owned(), value(name, row.get_ref(at)?));
            }
            all.push(told);
        }
        Ok(all)
    }
}

/// A cell as people read it; of bytes that are no text, what looks like some.
fn value(name: &str, cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Integer(number) if name == "internal" || name.ends_with("_truncated") => {
            json!(number != 0)
        }
        ValueRef::Integer(number) => json!(number),
        ValueRef::Text(text) if name.ends_with("_headers") => {
            serde_json::from_slice(text).unwrap_or_default()
        }
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => json!(String::from_utf8_lossy(bytes)),
        ValueRef::Real(_) | ValueRef::Null => Value::Null,
    }
}
