//! What is known of credentials, kept through a restart with the times of its ends.
//!
//! This is no money: what the disk refuses is lost, and learned again by asking the upstream.

use rusqlite::{Connection, params};

use crate::route::health::{Circuit, Why};
use crate::route::rate::DAY_MS;

/// A credential, by a digest that tells nothing of it, and all that is held against it.
pub(super) type Status = (String, Vec<Circuit>);

const TABLE: &str = "CREATE TABLE IF NOT EXISTS credential_statuses (
    credential TEXT NOT NULL,
    model TEXT NOT NULL,
    why TEXT NOT NULL,
    since INTEGER NOT NULL,
    until INTEGER NOT NULL,
    strikes INTEGER NOT NULL,
    PRIMARY KEY (credential, model)
) STRICT, WITHOUT ROWID";
/// What nobody has touched for so long is of a credential that is gone.
const KEPT_MS: i64 = 30 * DAY_MS;

/// Reads all of it.
pub(super) fn read(
    connection: &Connection,
    now_ms: i64,
) -> rusqlite::Result<Vec<(String, Circuit)>> {
    connection.execute(TABLE, [])?;
    let old = "DELETE FROM credential_statuses WHERE since < ?1 AND why <> 'paused'";
    connection.execute(old, [now_ms - KEPT_MS])?;
    let select = "SELECT credential, model, why, since, until, strikes FROM credential_statuses";
    let mut select = connection.prepare(select)?;
    let rows = select.query_map([], |row| {
        let (model, why): (String, String) = (row.get(1)?, row.get(2)?);
        let why = Why::ALL.into_iter().find(|known| known.name() == why);
        let (since, until, strikes) = (row.get(3)?, row.get(4)?, row.get(5)?);
        Ok((row.get(0)?, why.map(|why| Circuit::kept(&model, why, since, until, strikes))))
    })?;
    let known = |row: rusqlite::Result<(String, Option<Circuit>)>| match row {
        Ok((credential, circuit)) => Some(Ok((credential, circuit?))),
        Err(error) => Some(Err(error)),
    };
    rows.filter_map(known).collect()
}

/// Puts these in the place of what was there.
pub(super) fn write(connection: &mut Connection, statuses: &[Status]) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    for (credential, circuits) in statuses {
        change.execute("DELETE FROM credential_statuses WHERE credential = ?1", [credential])?;
        for circuit in circuits {
            let insert =
                "INSERT OR REPLACE INTO credential_statuses VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            change.execute(
                insert,
                params![
                    credential,
                    &*circuit.model,
                    circuit.why.name(),
                    circuit.since_ms,
                    circuit.until_ms,
                    circuit.strikes,
                ],
            )?;
        }
    }
    change.commit()
}
