//! What is made through the administration interface: users, keys, rules, providers, top-ups.
//!
//! A row is JSON in the words of the configuration; this file knows its table and its name and
//! nothing else. A change is one transaction of the writer's thread, with a row for the audit.

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam_channel::Sender;
use rusqlite::{Connection, OpenFlags, Transaction, params};

use super::books::SPEND;
use super::{LedgerError, schema};

/// The sections and their tables.
const TABLES: [(&str, &str); 11] = [
    ("providers", "providers"),
    ("credentials", "credentials"),
    ("models", "models"),
    ("model_aliases", "model_aliases"),
    ("users", "users"),
    ("user_keys", "user_keys"),
    ("permissions", "user_model_permissions"),
    ("file_permissions", "user_file_permissions"),
    ("rate_limits", "user_rate_limits"),
    ("quotas", "user_quotas"),
    ("settings", "settings"),
];

const OTHERS: &str = "
    CREATE TABLE IF NOT EXISTS top_ups (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        user TEXT NOT NULL,
        window TEXT NOT NULL,
        amount INTEGER NOT NULL,
        made_by TEXT NOT NULL,
        why TEXT NOT NULL
    ) STRICT;
    CREATE TABLE IF NOT EXISTS changes (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        made_by TEXT NOT NULL,
        action TEXT NOT NULL,
        section TEXT NOT NULL,
        entity TEXT NOT NULL,
        before TEXT,
        after TEXT
    ) STRICT;
";

/// One row of a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// The section that it belongs to.
    pub section: &'static str,
    /// Its name there.
    pub id: String,
    /// Its keys, as JSON.
    pub body: String,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: i64,
    /// When it was last changed.
    pub changed_ms: i64,
}

/// An amount that was added to a quota's ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopUp {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Whose quota.
    pub user: String,
    /// Over which time: the name of its window.
    pub window: String,
    /// Picodollars; negative: taken back.
    pub amount: i64,
    /// By whom.
    pub made_by: String,
    /// What for.
    pub why: String,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Makes a row or puts it in another's place.
    Put {
        /// Its section.
        section: &'static str,
        /// Its name.
        id: String,
        /// Its keys, as JSON.
        body: String,
    },
    /// Takes a row away.
    Delete {
        /// Its section.
        section: &'static str,
        /// Its name.
        id: String,
    },
    /// Adds to a ceiling.
    TopUp(TopUp),
    /// Takes away all that was added to a ceiling; the audit still has it.
    ForgetTopUps {
        /// Whose quota.
        user: String,
        /// Over which time: the name of its window.
        window: &'static str,
    },
    /// Counts what a user had spent elsewhere, once: who was seen before is left as he is.
    FirstSeen {
        /// Who.
        user: String,
        /// Picodollars.
        cost_used: i64,
    },
}

/// What the audit keeps of a change. No secret stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who; empty: the process itself, at its start or by a signal.
    pub made_by: String,
    /// `create`, `change`, `delete`, `top_up`, `reset`, `first_seen`, `end_sessions` or `reload`.
    pub action: &'static str,
    /// Of which section.
    pub section: &'static str,
    /// Its name.
    pub entity: String,
    /// What it was, as JSON.
    pub before: Option<String>,
    /// What it is now.
    pub after: Option<String>,
}

impl Record {
    /// Who does what, when, to what: without what it was and is.
    pub fn new(
        at_ms: i64,
        made_by: &str,
        action: &'static str,
        (section, entity): (&'static str, &str),
    ) -> Record {
        let (made_by, entity) = (made_by.to_owned(), entity.to_owned());
        Record { at_ms, made_by, action, section, entity, before: None, after: None }
    }
}

/// What is written together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// In this order.
    pub edits: Vec<Edit>,
    /// What the audit says about it; the last one is what was asked for.
    pub records: Vec<Record>,
}

/// A change on its way to the writer.
pub(super) struct Waiting {
    pub(super) change: Change,
    pub(super) answer: Sender<Result<(), String>>,
    /// [`WAITING`], [`TAKEN`] or [`GIVEN_UP`].
    pub(super) state: std::sync::Arc<AtomicU8>,
}

pub(super) const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Waits no longer for a change, unless it was taken already.
pub(super) fn give_up(state: &AtomicU8) -> bool {
    state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

impl Waiting {
    /// Carries it out, unless nobody waits any longer.
    pub(super) fn carry_out(self, write: impl FnOnce(&Change) -> Result<(), String>) {
        let take = self.state.compare_exchange(WAITING, TAKEN, Ordering::AcqRel, Ordering::Acquire);
        if take.is_ok() {
            // Its caller waits for as long as it takes once it is taken.
            let _ = self.answer.send(write(&self.change));
        }
    }
}

/// Makes the tables where they are missing.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    for (_, table) in TABLES {
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, body TEXT NOT NULL, \
             made_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, \
             place INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;"
        ))?;
        // Files of before have no places: their rows stay in front, by their times.
        if connection.prepare(&format!("SELECT place FROM {table}")).is_err() {
            let add = format!("ALTER TABLE {table} ADD COLUMN place INTEGER NOT NULL DEFAULT 0");
            connection.execute_batch(&add)?;
        }
    }
    connection.execute_batch(OTHERS)
}

/// Every row of every section, each section in the order in which its rows were made. Times do not
/// tell it: many are made at once, and clocks are set.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Entity>> {
    let mut all = Vec::new();
    for (section, table) in TABLES {
        let select = format!(
            "SELECT id, body, made_at, changed_at FROM {table} ORDER BY place, made_at, id"
        );
        let mut select = connection.prepare(&select)?;
        let rows = select.query_map([], |row| {
            Ok(Entity {
                section,
                id: row.get(0)?,
                body: row.get(1)?,
                made_ms: row.get(2)?,
                changed_ms: row.get(3)?,
            })
        })?;
        all.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// Every top-up, the first one first.
pub(super) fn top_ups(connection: &Connection) -> rusqlite::Result<Vec<TopUp>> {
    let select = "SELECT at, user, window, amount, made_by, why FROM top_ups ORDER BY id";
    let mut select = connection.prepare(select)?;
    let rows = select.query_map([], |row| {
        Ok(TopUp {
            at_ms: row.get(0)?,
            user: row.get(1)?,
            window: row.get(2)?,
            amount: row.get(3)?,
            made_by: row.get(4)?,
            why: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// Writes a change.
pub(super) fn write(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    // All of one moment.
    let made_ms = change.records.last().map_or(0, |record| record.at_ms);
    for edit in &change.edits {
        match edit {
            Edit::Put { section, id, body } => {
                let table = table(section);
                let put = format!(
                    "INSERT INTO {table} (id, body, made_at, changed_at, place) VALUES \
                     (?1, ?2, ?3, ?3, (SELECT coalesce(max(place), 0) + 1 FROM {table})) \
                     ON CONFLICT (id) DO UPDATE SET body = excluded.body, \
                     changed_at = excluded.changed_at"
                );
                transaction.execute(&put, params![id, body, made_ms])?;
            }
            Edit::Delete { section, id } => {
                let delete = format!("DELETE FROM {} WHERE id = ?1", table(section));
                transaction.execute(&delete, params![id])?;
            }
            Edit::TopUp(TopUp { at_ms, user, window, amount, made_by, why }) => {
                let insert = "INSERT INTO top_ups (at, user, window, amount, made_by, why) \
                    VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
                let values = params![at_ms, user, window, amount, made_by, why];
                transaction.execute(insert, values)?;
            }
            Edit::ForgetTopUps { user, window } => {
                let delete = "DELETE FROM top_ups WHERE user = ?1 AND window = ?2";
                transaction.execute(delete, params![user, window])?;
            }
            Edit::FirstSeen { user, cost_used } => see_first(transaction, user, *cost_used)?,
        }
    }
    for record in &change.records {
        let Record { at_ms, made_by, action, section, entity, before, after } = record;
        let insert = "INSERT INTO changes (at, made_by, action, section, entity, before, after) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let values = params![at_ms, made_by, action, section, entity, before, after];
        transaction.execute(insert, values)?;
    }
    Ok(())
}

/// What a user had spent before counts once, on the first day of all.
pub(super) fn see_first(
    change: &Transaction<'_>,
    user: &str,
    cost_used: i64,
) -> rusqlite::Result<()> {
    let insert = "INSERT OR IGNORE INTO first_seen (user, cost_used) VALUES (?1, ?2)";
    if change.execute(insert, params![user, cost_used])? == 1 && cost_used > 0 {
        change.execute(SPEND, params![user, 0, cost_used])?;
    }
    Ok(())
}

/// The table of a section; what is none fails as a statement.
fn table(section: &str) -> &'static str {
    TABLES.iter().find(|(name, _)| *name == section).map_or("", |(_, table)| table)
}

/// One line of the audit, as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// Grows with each change.
    pub number: i64,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// Who, what, of which section, which, before and after.
    pub texts: [Option<String>; 6],
}

/// The audit, the last change first, behind the number `before`. For OS threads: it reads the disk.
pub fn changes(folder: &Path, before: i64, limit: usize) -> Result<Vec<Audited>, LedgerError> {
    let path = folder.join(schema::FILE);
    let read = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags)?;
        let select = "SELECT id, at, made_by, action, section, entity, before, after FROM changes \
            WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
        let mut select = connection.prepare(select)?;
        let rows = select.query_map(params![before, limit as i64], |row| {
            let mut texts = [const { None }; 6];
            for (at, text) in texts.iter_mut().enumerate() {
                *text = row.get(at + 2)?;
            }
            Ok(Audited { number: row.get(0)?, at_ms: row.get(1)?, texts })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    read().map_err(|error| LedgerError::Open(path.clone(), error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::ledger::tests::KEEP_ALL;
    use crate::ledger::{Ledger, Synchronous};

    fn change(edits: Vec<Edit>, entity: &str) -> Change {
        let record = Record {
            at_ms: 5,
            made_by: "root".into(),
            action: "create",
            section: "users",
            entity: entity.into(),
            before: None,
            after: Some("{}".into()),
        };
        Change { edits, records: vec![record] }
    }

    fn put(id: &str, body: &str) -> Edit {
        Edit::Put { section: "users", id: id.into(), body: body.into() }
    }

    #[test]
    fn a_change_is_found_again_whole_or_not_at_all_and_the_audit_has_it() {
        let folder = std::env::temp_dir().join(format!("gproxy-entities-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let (ledger, opening) =
            Ledger::open(&folder, &[], 0, Synchronous::Normal, KEEP_ALL, None).expect("a new file");
        assert_eq!(opening.entities, []);
        let top_up = TopUp {
            at_ms: 5,
            user: "a".into(),
            window: "total".into(),
            amount: -7,
            made_by: "root".into(),
            why: String::new(),
        };
        let first = vec![put("a", "1"), put("b", "2"), Edit::TopUp(top_up.clone())];
        ledger.change(change(first, "first")).expect("it is written");
        let delete = Edit::Delete { section: "users", id: "b".into() };
        ledger.change(change(vec![put("a", "3"), delete], "second")).expect("it is written");
        // The second edit has no table: nothing of the change stays.
        let none = Edit::Delete { section: "nothing", id: "a".into() };
        assert!(ledger.change(change(vec![put("c", "4"), none], "third")).is_err());
        assert!(ledger.close(Duration::from_secs(20)));
        assert!(ledger.change(change(Vec::new(), "late")).is_err(), "the books are closed");
        let audit = changes(&folder, i64::MAX, 10).expect("it can be read");
        let entities: Vec<_> = audit.iter().map(|row| row.texts[3].clone()).collect();
        assert_eq!(entities, [Some("second".to_owned()), Some("first".to_owned())]);
        drop(ledger);
        let (ledger, opening) = Ledger::open(&folder, &[], 0, Synchronous::Normal, KEEP_ALL, None)
            .expect("the same file");
        let found: Vec<_> = opening.entities.iter().map(|row| (&*row.id, &*row.body)).collect();
        assert_eq!(found, [("a", "3")]);
        assert_eq!(opening.top_ups, [top_up]);
        drop(ledger);
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn rows_come_back_in_the_order_in_which_they_were_made() {
        let mut books = Connection::open_in_memory().expect("memory");
        // As an older program made it and wrote there.
        let old = "CREATE TABLE users (id TEXT PRIMARY KEY, body TEXT NOT NULL, made_at INTEGER \
            NOT NULL, changed_at INTEGER NOT NULL) STRICT, WITHOUT ROWID; \
            INSERT INTO users VALUES ('p', '1', 9, 9), ('q', '1', 8, 8)";
        books.execute_batch(old).expect("a table");
        for _ in 0..2 {
            prepare(&books).expect("it is brought up");
        }
        let moment = books.transaction().expect("nobody else is there");
        let together = vec![put("z", "1"), put("a", "1"), put("m", "1")];
        write(&moment, &change(together, "z")).expect("our tables");
        let mut earlier = change(vec![put("b", "1"), put("z", "2")], "b");
        earlier.records[0].at_ms = 1;
        write(&moment, &earlier).expect("our tables");
        let found = all(&moment).expect("our tables");
        let found: Vec<_> = found.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(found, ["q", "p", "z", "a", "m", "b"]);
    }

    #[test]
    fn a_change_that_nobody_waits_for_is_not_made() {
        let (answer, answered) = bounded(1);
        let state = Arc::new(AtomicU8::new(WAITING));
        let waiting = Waiting { change: change(Vec::new(), "x"), answer, state: state.clone() };
        assert!(give_up(&state));
        waiting.carry_out(|_| panic!("it was given up"));
        assert!(answered.try_recv().is_err());
        let (answer, answered) = bounded(1);
        let state = Arc::new(AtomicU8::new(WAITING));
        let waiting = Waiting { change: change(Vec::new(), "x"), answer, state: state.clone() };
        waiting.carry_out(|_| Ok(()));
        assert!(!give_up(&state), "what was taken is waited for");
        assert_eq!(answered.try_recv(), Ok(Ok(())));
    }
}
