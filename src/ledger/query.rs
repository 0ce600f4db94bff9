//! Reading the books: which rows there are, and the rows by filter, newest first.
//!
//! Each call opens the file to read, which the writer does not notice. For OS threads only: it
//! waits for the disk. A search for rows asks the hourly sums first where there are any to find.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::{Value as Cell, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params_from_iter};
use serde_json::{Map, Value, json};

use super::LedgerError;
use super::books::HOUR_MS;
use super::migrate::VERSION;
use super::row;
use super::schema::FILE;
use crate::money;

/// Columns of a row as people read it, by their names in the view `usages`.
pub(super) const COLUMNS: &str = "request_id, at, user, user_key, provider, credential_id, \
    operation, protocol, model, model_served, input_tokens, cache_read_input_tokens, \
    cache_creation_input_tokens_5min, cache_creation_input_tokens_1h, output_tokens, \
    reasoning_tokens, input_audio_tokens, output_audio_tokens, tool_calls, images, \
    input_image_tokens, output_image_tokens, usage_source, service_tier, \
    cost, price, priced, status, outcome, attempts, first_byte_ms, total_ms, bytes_in, \
    bytes_out";
/// More hours than there are in all milliseconds that a number can count.
const HOURS_MAX: i64 = i64::MAX / HOUR_MS + 1;
/// Rows of one answer.
const ROWS_MAX: usize = 1_000;

/// Which rows. What is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Admitted at this time or later, in milliseconds since 1970. For sums: in this hour or later.
    pub from_ms: Option<i64>,
    /// Admitted before this time. For sums: in an hour that began before it.
    pub to_ms: Option<i64>,
    /// By exactly this user.
    pub user: Option<String>,
    /// With this key; here and below `*` stands for any text and `?` for any character.
    pub user_key: Option<String>,
    /// At this provider.
    pub provider: Option<String>,
    /// The model, or alias, as it was asked for.
    pub model: Option<String>,
    /// The model as the upstream knows it.
    pub model_served: Option<String>,
    /// The endpoint's name.
    pub operation: Option<String>,
    /// How it ended.
    pub outcome: Option<String>,
    /// The least and the highest status.
    pub status: Option<(u16, u16)>,
    /// Picodollars at least. For rows only.
    pub cost_min: Option<i64>,
    /// The request of exactly this id. For rows only.
    pub request_id: Option<String>,
}

/// Some rows, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// By column; the cost in USD, as decimal text.
    pub rows: Vec<Map<String, Value>>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<i64>,
}

/// The books of a data folder, opened to read.
pub struct Reader {
    pub(super) books: Connection,
    path: PathBuf,
}

/// Opens the books of a data folder to read.
pub(super) fn open(folder: &Path) -> Result<Connection, LedgerError> {
    let path = folder.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = Connection::open_with_flags(&path, flags).and_then(|books| {
        books.busy_timeout(Duration::from_secs(5))?;
        Ok(books)
    });
    open.map_err(|error| LedgerError::Open(path, error.to_string()))
}

/// The same, of this program's format.
pub(super) fn open_current(folder: &Path) -> Result<Connection, LedgerError> {
    let books = open(folder)?;
    let version = books.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0));
    let version = version.map_err(damaged(folder))?;
    let path = || folder.join(FILE);
    if version > VERSION {
        return Err(LedgerError::Newer(path(), version));
    }
    if version < VERSION {
        let why = "its format is an older one; start the gateway once, which brings it up to date";
        return Err(LedgerError::Open(path(), why.into()));
    }
    Ok(books)
}

/// Writes a consistent copy of the books to a file that must not be there yet. The gateway may run.
pub fn copy(folder: &Path, target: &Path) -> Result<(), LedgerError> {
    let cannot = |why: String| LedgerError::Copy(target.to_owned(), why);
    let books = open(folder)?;
    // The copy is as private as what it is of; an empty file is taken for none.
    let made = OpenOptions::new().create_new(true).write(true).mode(0o600).open(target);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => cannot("it exists, and is left as it is".into()),
        _ => cannot(error.to_string()),
    })?;
    let Some(name) = target.to_str() else { return Err(cannot("its name is no text".into())) };
    let copied = books.execute("VACUUM INTO ?1", [name]);
    let synced = copied.map_err(|error| cannot(error.to_string())).and_then(|_| {
        let file = OpenOptions::new().write(true).open(target);
        file.and_then(|file| file.sync_all()).map_err(|error| cannot(error.to_string()))
    });
    synced.inspect_err(|_| {
        // Half a copy is none.
        let _ = std::fs::remove_file(target);
    })
}

/// What cannot be read is damaged.
pub(super) fn damaged(folder: &Path) -> impl Fn(rusqlite::Error) -> LedgerError {
    let path = folder.join(FILE);
    move |error| LedgerError::Damaged(path.clone(), error.to_string())
}

/// A row's name for people.
pub(super) fn name(books: &Connection, id: i64, request: i64) -> String {
    let select = "SELECT prefix FROM processes WHERE id = ?1";
    let prefix = books.query_row(select, [row::process_of(request)], |row| row.get(0));
    match prefix {
        Ok(prefix) => format!("row {} ({id})", row::id_text(prefix, request)),
        Err(_) => format!("row {id}"),
    }
}

/// A condition, with the values of its question marks.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) text: String,
    pub(super) values: Vec<Cell>,
}

impl Conditions {
    pub(super) fn and(&mut self, condition: &str, value: impl Into<Cell>) {
        self.text.push_str(if self.text.is_empty() { " WHERE " } else { " AND " });
        self.text.push_str(condition);
        self.values.push(value.into());
    }
}

impl Filter {
    /// What concerns kinds.
    pub(super) fn of_kinds(&self) -> Conditions {
        let mut all = Conditions::default();
        if let Some(user) = &self.user {
            all.and("user = ?", user.clone());
        }
        for (column, wanted) in [
            ("user_key", &self.user_key),
            ("provider", &self.provider),
            ("model", &self.model),
            ("model_served", &self.model_served),
            ("operation", &self.operation),
            ("outcome", &self.outcome),
        ] {
            let Some(wanted) = wanted else { continue };
            // `[` would begin a set of characters.
            all.and(&format!("{column} GLOB ?"), wanted.replace('[', "[[]"));
        }
        if let Some((least, most)) = self.status {
            all.and("status >= ?", i64::from(least));
            all.and("status <= ?", i64::from(most));
        }
        all
    }

    /// The first hour, and the one behind the last. What is not bounded begins and ends with time
    /// as numbers of hours have it.
    pub(super) fn hours(&self) -> (i64, i64) {
        let up = |ms: i64| ms.div_euclid(HOUR_MS) + i64::from(ms.rem_euclid(HOUR_MS) > 0);
        let from = self.from_ms.map_or(-HOURS_MAX, |from| from.div_euclid(HOUR_MS));
        (from, self.to_ms.map_or(HOURS_MAX, up))
    }

    fn of_hours(&self, all: &mut Conditions) {
        let (from, to) = self.hours();
        if self.from_ms.is_some() {
            all.and("hour >= ?", from);
        }
        if self.to_ms.is_some() {
            all.and("hour < ?", to);
        }
    }

    fn of_rows(&self) -> Conditions {
        let mut all = Conditions::default();
        if let Some(from) = self.from_ms {
            all.and("at >= ?", from);
        }
        if let Some(to) = self.to_ms {
            all.and("at < ?", to);
        }
        if let Some(cost) = self.cost_min {
            all.and("cost >= ?", cost);
        }
        all
    }
}

impl Reader {
    /// Opens the books of a data folder.
    pub fn open(folder: &Path) -> Result<Reader, LedgerError> {
        Ok(Reader { books: open_current(folder)?, path: folder.join(FILE) })
    }

    pub(super) fn sound<T>(&self, result: rusqlite::Result<T>) -> Result<T, LedgerError> {
        result.map_err(|error| LedgerError::Damaged(self.path.clone(), error.to_string()))
    }

    /// Rows that pass the filter, newest first, behind the cursor of the page before.
    pub fn rows(
        &self,
        filter: &Filter,
        cursor: Option<i64>,
        limit: usize,
    ) -> Result<Page, LedgerError> {
        self.sound(self.find(filter, cursor.unwrap_or(i64::MAX), limit.clamp(1, ROWS_MAX)))
    }

    fn find(&self, filter: &Filter, cursor: i64, limit: usize) -> rusqlite::Result<Page> {
        let mut page = Page::default();
        let mut conditions = filter.of_rows();
        if let Some(id) = &filter.request_id {
            let Some(request) = self.request(id)? else { return Ok(page) };
            conditions.and("request = ?", request);
        }
        let kinds = filter.of_kinds();
        if !kinds.text.is_empty() {
            let ids: Vec<String> = self.kinds(&kinds)?.iter().map(i64::to_string).collect();
            let list = format!("kind IN ({}) AND 1 = ?", ids.join(","));
            conditions.and(&list, 1);
        }
        for (first, last) in self.ranges(filter, &kinds)? {
            let mut here =
                Conditions { text: conditions.text.clone(), values: conditions.values.clone() };
            here.and("rows.id >= ?", first);
            here.and("rows.id <= ?", last.min(cursor.saturating_sub(1)));
            self.read_into(&mut page, here, limit)?;
            if page.next.is_some() {
                break;
            }
        }
        Ok(page)
    }

    fn read_into(
        &self,
        page: &mut Page,
        conditions: Conditions,
        limit: usize,
    ) -> rusqlite::Result<()> {
        let select = format!(
            "SELECT {COLUMNS}, id FROM usages AS rows{} ORDER BY rows.id DESC LIMIT {}",
            conditions.text,
            limit + 1 - page.rows.len()
        );
        let mut statement = self.books.prepare(&select)?;
        let mut rows = statement.query(params_from_iter(conditions.values))?;
        while let Some(row) = rows.next()? {
            let mut found = object(row)?;
            let id = found.remove("id").and_then(|id| id.as_i64()).unwrap_or_default();
            if page.rows.len() == limit {
                page.next = Some(id + 1);
                return Ok(());
            }
            page.rows.push(found);
        }
        Ok(())
    }

    /// Places in the chain between which there may be rows that pass, the last ones first.
    fn ranges(&self, filter: &Filter, kinds: &Conditions) -> rusqlite::Result<Vec<(i64, i64)>> {
        let mut hours = Conditions { text: kinds.text.clone(), values: kinds.values.clone() };
        filter.of_hours(&mut hours);
        if let Some(cost) = filter.cost_min {
            hours.and("cost_max >= ?", cost);
        }
        if hours.text.is_empty() || filter.request_id.is_some() {
            return Ok(vec![(0, i64::MAX)]);
        }
        let select = format!(
            "SELECT min(first_id), max(last_id) FROM rollups JOIN kinds ON kinds.id = kind{} \
             GROUP BY hour ORDER BY 2 DESC",
            hours.text
        );
        let mut statement = self.books.prepare(&select)?;
        let mut rows = statement.query(params_from_iter(hours.values))?;
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        while let Some(row) = rows.next()? {
            let (first, last) = (row.get(0)?, row.get(1)?);
            match ranges.last_mut() {
                // Requests that took long end among those of the next hour.
                Some(before) if last >= before.0 => before.0 = before.0.min(first),
                _ => ranges.push((first, last)),
            }
        }
        Ok(ranges)
    }

    fn kinds(&self, conditions: &Conditions) -> rusqlite::Result<Vec<i64>> {
        let select = format!("SELECT id FROM kinds{}", conditions.text);
        let mut statement = self.books.prepare(&select)?;
        let ids = statement.query_map(params_from_iter(&conditions.values), |row| row.get(0))?;
        ids.collect()
    }

    fn request(&self, id: &str) -> rusqlite::Result<Option<i64>> {
        let Some((prefix, number)) = row::split_id(id) else { return Ok(None) };
        let select = "SELECT id FROM processes WHERE prefix = ?1";
        let process = self.books.query_row(select, [prefix as i64], |row| row.get(0)).optional()?;
        Ok(process.map(|process| row::request(process, number)))
    }
}

/// A row by its columns' names; a cost in USD.
fn object(row: &rusqlite::Row<'_>) -> rusqlite::Result<Map<String, Value>> {
    let mut object = Map::new();
    let names = row.as_ref().column_names();
    for (at, name) in names.enumerate() {
        object.insert(name.to_owned(), value(name, row.get_ref(at)?));
    }
    Ok(object)
}

/// A cell as people read it.
pub(super) fn value(name: &str, cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Integer(cost) if name == "cost" => json!(money::text(cost)),
        ValueRef::Integer(is_priced) if name == "priced" => json!(is_priced != 0),
        ValueRef::Integer(number) => json!(number),
        ValueRef::Real(number) => json!(number),
        ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
        ValueRef::Blob(_) | ValueRef::Null => Value::Null,
    }
}
