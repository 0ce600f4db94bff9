//! The rows as text: CSV, or JSON objects on lines.

use std::io::{self, Write};
use std::path::Path;

use rusqlite::params;
use serde_json::{Map, Value};

use super::LedgerError;
use super::query::{self, COLUMNS, damaged};

/// Why rows could not be written out.
#[derive(Debug)]
pub enum ExportError {
    /// The books.
    Ledger(LedgerError),
    /// The other side.
    Out(io::Error),
}

/// Which rows are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Admitted at this time or later, in milliseconds since 1970.
    pub from_ms: Option<i64>,
    /// Admitted before this time.
    pub to_ms: Option<i64>,
    /// Of this user alone.
    pub user: Option<String>,
}

/// Writes rows: as CSV with a line of names, or each as a JSON object on a line of its own. The
/// cost is in USD, as decimal text.
pub fn export(
    folder: &Path,
    selection: &Selection,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let sound = damaged(folder);
    let sound = |error| ExportError::Ledger(sound(error));
    let books = query::open_current(folder).map_err(ExportError::Ledger)?;
    let select = format!(
        "SELECT {COLUMNS} FROM usages WHERE at >= ?1 AND at < ?2 AND (?3 IS NULL OR user = ?3) \
         ORDER BY id"
    );
    let mut statement = books.prepare(&select).map_err(sound)?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let from = selection.from_ms.unwrap_or(i64::MIN);
    let to = selection.to_ms.unwrap_or(i64::MAX);
    let mut rows = statement.query(params![from, to, selection.user]).map_err(sound)?;
    if !as_json {
        writeln!(out, "{}", names.join(",")).map_err(ExportError::Out)?;
    }
    while let Some(row) = rows.next().map_err(sound)? {
        let mut values = Vec::with_capacity(names.len());
        for (at, name) in names.iter().enumerate() {
            values.push(query::value(name, row.get_ref(at).map_err(sound)?));
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
