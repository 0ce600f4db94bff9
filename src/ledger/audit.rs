//! Reading the books: every row as text, and the proof that they add up.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::{Map, Value, json};

use super::LedgerError;
use super::schema::{FILE, chained};
use crate::dialect::usage::Usage;
use crate::money;
use crate::route::price::Applied;
use crate::route::rate::DAY_MS;

/// Faults that are told; more are counted.
const FAULTS_MAX: usize = 20;

const COLUMNS: &str = "request_id, at, user, provider, operation, protocol, model, model_served, \
    input_tokens, cache_read_input_tokens, cache_creation_input_tokens_5min, \
    cache_creation_input_tokens_1h, output_tokens, reasoning_tokens, input_audio_tokens, \
    output_audio_tokens, tool_calls, usage_source, service_tier, cost, price, status, outcome, \
    attempts, first_byte_ms, total_ms, bytes_in, bytes_out";
/// Column of the cost, which is printed in USD.
const COST: usize = 19;

/// What an audit found.
#[derive(Debug, Default)]
pub struct Audit {
    /// Rows read.
    pub rows: u64,
    /// The sum of their costs, in picodollars.
    pub cost: i128,
    /// What is wrong, the first faults in full.
    pub faults: Vec<String>,
    /// Faults in all.
    pub faults_count: u64,
}

impl Audit {
    fn fault(&mut self, what: String) {
        self.faults_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(what);
        }
    }
}

/// Opens the books of a data folder to read; a running gateway does not mind.
fn open(folder: &Path) -> Result<Connection, LedgerError> {
    let path = folder.join(FILE);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = Connection::open_with_flags(&path, flags);
    open.map_err(|error| LedgerError::Open(path, error.to_string()))
}

fn damaged(folder: &Path) -> impl Fn(rusqlite::Error) -> LedgerError {
    let path = folder.join(FILE);
    move |error| LedgerError::Damaged(path.clone(), error.to_string())
}

/// Checks the chain of digests, works out each cost again, and compares the sums with what was
/// spent.
pub fn audit(folder: &Path) -> Result<Audit, LedgerError> {
    let books = open(folder)?;
    let sound = damaged(folder);
    // One moment of the books, however long the reading takes.
    books.execute_batch("BEGIN").map_err(&sound)?;
    let mut audit = Audit::default();
    let mut sums: BTreeMap<(String, i64), i128> = BTreeMap::new();
    let select = format!("SELECT {COLUMNS}, digest FROM usages ORDER BY id");
    let mut statement = books.prepare(&select).map_err(&sound)?;
    let mut rows = statement.query([]).map_err(&sound)?;
    let mut last = Vec::new();
    while let Some(row) = rows.next().map_err(&sound)? {
        check(row, &mut last, &mut sums, &mut audit).map_err(&sound)?;
    }
    let first_seen = "SELECT user, cost_used FROM first_seen WHERE cost_used > 0";
    for (user, _, cost) in
        sums_of(&books, &format!("SELECT user, 0, cost_used FROM ({first_seen})"))
            .map_err(&sound)?
    {
        *sums.entry((user, 0)).or_default() += cost;
    }
    sums.retain(|_, cost| *cost != 0);
    let mut spent = BTreeMap::new();
    for (user, day, cost) in
        sums_of(&books, "SELECT user, day, cost FROM spendings").map_err(&sound)?
    {
        spent.insert((user, day), cost);
    }
    let keys: std::collections::BTreeSet<_> = sums.keys().chain(spent.keys()).collect();
    for key in keys {
        let amount = |of: &BTreeMap<_, i128>| of.get(key).copied().unwrap_or_default();
        let (rows, spent) = (amount(&sums), amount(&spent));
        if rows != spent {
            let (user, day) = key;
            audit.fault(format!(
                "user {user:?}, day {day}: the rows cost {rows} picodollars, spent are {spent}"
            ));
        }
    }
    Ok(audit)
}

fn sums_of(books: &Connection, select: &str) -> rusqlite::Result<Vec<(String, i64, i128)>> {
    let mut statement = books.prepare(select)?;
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, i128::from(row.get::<_, i64>(2)?))))?;
    rows.collect()
}

fn check(
    row: &Row<'_>,
    last: &mut Vec<u8>,
    sums: &mut BTreeMap<(String, i64), i128>,
    audit: &mut Audit,
) -> rusqlite::Result<()> {
    let text = |at: usize| row.get_ref(at)?.as_str().map_err(rusqlite::Error::from);
    let number = |at: usize| row.get::<_, i64>(at);
    let count = |at: usize| Ok::<u64, rusqlite::Error>(number(at)?.unsigned_abs());
    let id = text(0)?;
    let price: Option<String> = row.get(20)?;
    let cost = number(COST)?;
    audit.rows += 1;
    audit.cost += i128::from(cost);
    let texts = [id, text(2)?, text(3)?, text(6)?, text(7)?, text(4)?, text(17)?, text(18)?];
    let numbers = [
        number(1)?,
        cost,
        number(8)?,
        number(9)?,
        number(10)?,
        number(11)?,
        number(12)?,
        number(16)?,
    ];
    let expected = chained(last, &texts, price.as_deref(), &numbers);
    *last = row.get(28)?;
    if *last != expected {
        audit.fault(format!("row {id}: it, or a row before it, was changed or taken out"));
    }
    let usage = Usage {
        input_tokens: count(8)?,
        cache_read_input_tokens: count(9)?,
        cache_creation_input_tokens_5min: count(10)?,
        cache_creation_input_tokens_1h: count(11)?,
        output_tokens: count(12)?,
        reasoning_tokens: count(13)?,
        input_audio_tokens: count(14)?,
        output_audio_tokens: count(15)?,
        tool_calls: count(16)?,
    };
    let worked_out = match price.as_deref().map(Applied::from_json) {
        None => 0,
        Some(Some(applied)) => applied.cost(&usage),
        Some(None) => {
            audit.fault(format!("row {id}: its prices cannot be read"));
            cost
        }
    };
    // What failed, and what vendors do not bill, costs nothing although it has a price.
    if cost != worked_out && cost != 0 {
        audit.fault(format!("row {id}: it cost {cost} picodollars, its prices say {worked_out}"));
    }
    let day = number(1)?.div_euclid(DAY_MS);
    *sums.entry((text(2)?.to_owned(), day)).or_default() += i128::from(cost);
    Ok(())
}

/// Why rows could not be written out.
#[derive(Debug)]
pub enum ExportError {
    /// The books.
    Ledger(LedgerError),
    /// The other side.
    Out(io::Error),
}

/// Writes every row: as CSV with a line of names, or each as a JSON object on a line of its own.
/// The cost is in USD, as decimal text.
pub fn export(folder: &Path, as_json: bool, out: &mut dyn Write) -> Result<(), ExportError> {
    let sound = damaged(folder);
    let sound = |error| ExportError::Ledger(sound(error));
    let books = open(folder).map_err(ExportError::Ledger)?;
    let select = format!("SELECT {COLUMNS} FROM usages ORDER BY id");
    let mut statement = books.prepare(&select).map_err(sound)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([]).map_err(sound)?;
    if !as_json {
        writeln!(out, "{}", names.join(",")).map_err(ExportError::Out)?;
    }
    while let Some(row) = rows.next().map_err(sound)? {
        let mut values = Vec::with_capacity(names.len());
        for at in 0..names.len() {
            let value = row.get_ref(at).map_err(sound)?;
            values.push(match value {
                ValueRef::Integer(cost) if at == COST => json!(money::text(cost)),
                ValueRef::Integer(number) => json!(number),
                ValueRef::Text(text) => json!(String::from_utf8_lossy(text)),
                _ => Value::Null,
            });
        }
        let line = if as_json {
            let object: Map<_, _> = names.iter().cloned().zip(values).collect();
            Value::Object(object).to_string()
        } else {
            values.iter().map(cell).collect::<Vec<_>>().join(",")
        };
        writeln!(out, "{line}").map_err(ExportError::Out)?;
    }
    Ok(())
}

/// One cell of CSV, by RFC 4180. A text that a spreadsheet would take for a formula is defused.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text,
        Value::Null => return String::new(),
        other => return other.to_string(),
    };
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    if formula || text.contains([',', '"', '\n', '\r']) {
        let guard = if formula { "'" } else { "" };
        return format!("\"{guard}{}\"", text.replace('"', "\"\""));
    }
    text.clone()
}
