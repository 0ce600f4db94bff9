//! When keys were last used, kept through a restart.
//!
//! What the disk refuses is lost and comes again with the next use.

use rusqlite::{Connection, Transaction, params};

use crate::route::rate::DAY_MS;
use crate::secret::KeyId;

/// A key that nobody has used for so long is one that is gone.
const KEPT_MS: i64 = 800 * DAY_MS;

/// Makes the table, of the hours in which the books saw each key.
pub(super) fn begin(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(
        "CREATE TABLE IF NOT EXISTS key_uses (
            user_key TEXT PRIMARY KEY,
            at INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;
        INSERT OR IGNORE INTO key_uses SELECT user_key, max(hour) * 3600000
            FROM rollups JOIN kinds ON kinds.id = kind WHERE user_key <> '' GROUP BY user_key;",
    )
}

/// Keys, and when each was last used, in milliseconds since 1970.
pub(super) fn read(connection: &Connection, now_ms: i64) -> rusqlite::Result<Vec<(KeyId, i64)>> {
    connection.execute("DELETE FROM key_uses WHERE at < ?1", [now_ms - KEPT_MS])?;
    let mut select = connection.prepare("SELECT user_key, at FROM key_uses")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let known = |row: rusqlite::Result<(String, i64)>| match row {
        Ok((key, at_ms)) => Some(Ok((KeyId::parse(&key)?, at_ms))),
        Err(error) => Some(Err(error)),
    };
    rows.filter_map(known).collect()
}

/// Writes uses. Another process may have seen a later one.
pub(super) fn write(connection: &mut Connection, uses: &[(KeyId, i64)]) -> rusqlite::Result<()> {
    let change = connection.transaction()?;
    {
        let put = "INSERT INTO key_uses VALUES (?1, ?2) \
            ON CONFLICT (user_key) DO UPDATE SET at = max(at, excluded.at)";
        let mut put = change.prepare_cached(put)?;
        for (key, at_ms) in uses {
            put.execute(params![key.as_str(), at_ms])?;
        }
    }
    change.commit()
}
