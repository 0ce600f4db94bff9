//! The books of a gateway, read as anybody with SQLite can.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use rusqlite::Connection;
use rusqlite::types::ValueRef;

/// One row by the names of its columns.
pub struct Row(BTreeMap<String, Cell>);

enum Cell {
    Number(i64),
    Text(String),
    Nothing,
}

impl Row {
    /// A number; a column that is not there, or holds none, is a mistake of the test.
    #[track_caller]
    pub fn number(&self, name: &str) -> i64 {
        match self.0.get(name) {
            Some(Cell::Number(number)) => *number,
            _ => panic!("no number in {name}"),
        }
    }

    /// A text; empty where there is none.
    #[track_caller]
    pub fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(Cell::Text(text)) => text,
            Some(Cell::Nothing) => "",
            _ => panic!("no text in {name}"),
        }
    }
}

/// Every usage row in a gateway's folder, in the order in which they were written; `None` while
/// there are no books.
pub fn rows(folder: &Path) -> Option<Vec<Row>> {
    let books = Connection::open(folder.join("data/gproxy.db")).ok()?;
    let mut statement = books.prepare("SELECT * FROM usages ORDER BY id").ok()?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        let mut cells = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            let cell = match row.get_ref(at)? {
                ValueRef::Integer(number) => Cell::Number(number),
                ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
                _ => Cell::Nothing,
            };
            cells.insert(name.clone(), cell);
        }
        Ok(Row(cells))
    });
    rows.ok()?.collect::<rusqlite::Result<_>>().ok()
}

/// All that users have spent, in picodollars.
#[track_caller]
pub fn spent(folder: &Path) -> i64 {
    let books = Connection::open(folder.join("data/gproxy.db")).expect("there are books");
    let sum = "SELECT coalesce(sum(cost), 0) FROM spendings";
    books.query_row(sum, [], |row| row.get(0)).expect("our table")
}

/// What `gproxy audit` says of the books in a gateway's folder.
#[track_caller]
pub fn audit(folder: &Path) -> String {
    let mut audit = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    let out = audit.arg("audit").arg("-c").arg(folder.join("config.toml")).output();
    let out = out.expect("cargo built the binary for this test");
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{told}{}", String::from_utf8_lossy(&out.stderr));
    told
}
