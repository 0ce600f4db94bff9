//! How long rows and logs are kept, and how they go: in steps that never hold the writer up.

use rusqlite::{Connection, Transaction, params};

use super::books::{Database, HOUR_MS, SUM_UP};
use crate::route::rate::DAY_MS;
use crate::route::snapshot::Retention;

/// Rows that one step deletes: what is written in one batch, so that it keeps up.
const STEP_ROWS: i64 = 2_048;
/// Pages that one step gives back to the system.
const STEP_PAGES: i64 = 256;
/// Hourly sums of which no row is left become daily ones when they are so old.
const HOURLY_DAYS: i64 = 90;

/// What is admitted before this time is too old.
pub(super) fn before(days: u64, now_ms: i64) -> i64 {
    match i64::try_from(days) {
        Ok(days @ 1..) => now_ms.saturating_sub(days.saturating_mul(DAY_MS)),
        _ => i64::MIN,
    }
}

/// What is in use of the file is more than this.
pub(super) fn is_larger(connection: &Connection, bytes: u64) -> rusqlite::Result<bool> {
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let used = number("page_count")? - number("freelist_count")?;
    let used = used.saturating_mul(number("page_size")?).unsigned_abs();
    Ok(bytes > 0 && used > bytes)
}

/// Gives freed pages back to the system, some of them.
pub(super) fn give_back(connection: &Connection) -> rusqlite::Result<()> {
    let mut step = connection.prepare(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

impl Database {
    /// Deletes rows that are too old, or too many, from the chain's beginning: a step of it. Their
    /// sums stay, and the chain is anchored at the last of them. True: there is more.
    pub(super) fn prune_rows(&mut self, keep: &Retention, now_ms: i64) -> rusqlite::Result<bool> {
        let is_large = is_larger(&self.connection, keep.usage_bytes)?;
        let before = before(keep.usage_days, now_ms);
        let change = self.connection.transaction()?;
        let last = last_to_go(&change, is_large, before)?;
        if let Some(last) = last {
            forget_rows(&change, last)?;
        }
        change.commit()?;
        let merged = last.is_none() && self.merge_hours(now_ms)?;
        give_back(&self.connection)?;
        Ok(last.is_some() || merged)
    }

    /// Makes daily sums of old hourly ones whose rows are gone, a day of it.
    fn merge_hours(&mut self, now_ms: i64) -> rusqlite::Result<bool> {
        let before = now_ms.div_euclid(HOUR_MS) - HOURLY_DAYS * 24;
        let change = self.connection.transaction()?;
        let select = "SELECT min(hour) FROM rollups \
            WHERE hour % 24 <> 0 AND hour < ?1 AND pruned = requests";
        let hour: Option<i64> = change.query_row(select, [before], |row| row.get(0))?;
        let Some(hour) = hour else { return Ok(false) };
        let day = hour.div_euclid(24) * 24;
        change.execute(&format!("{MERGE}{SUM_UP}"), params![day, day + 24])?;
        change.execute(
            "DELETE FROM rollups WHERE hour > ?1 AND hour < ?2 AND pruned = requests",
            params![day, day + 24],
        )?;
        change.commit()?;
        Ok(true)
    }
}

/// The last row of this step: the first ones in the chain, up to one that is to stay.
fn last_to_go(
    change: &Transaction<'_>,
    is_large: bool,
    before: i64,
) -> rusqlite::Result<Option<i64>> {
    let select = "SELECT id, at FROM usage_rows ORDER BY id LIMIT ?1";
    let mut statement = change.prepare(select)?;
    let mut rows = statement.query([STEP_ROWS])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if !is_large && row.get::<_, i64>(1)? >= before {
            break;
        }
        last = Some(row.get(0)?);
    }
    Ok(last)
}

fn forget_rows(change: &Transaction<'_>, last: i64) -> rusqlite::Result<()> {
    let count = "UPDATE rollups SET pruned = pruned + gone.requests, \
        pruned_cost = pruned_cost + gone.cost \
        FROM (SELECT at / ?2 - (at % ?2 < 0) AS hour, kind, count(*) AS requests, \
            sum(cost) AS cost FROM usage_rows WHERE id <= ?1 GROUP BY 1, 2) AS gone \
        WHERE rollups.hour = gone.hour AND rollups.kind = gone.kind";
    change.execute(count, params![last, HOUR_MS])?;
    let anchor = "UPDATE chain SET anchor = ?1, \
        anchor_digest = (SELECT digest FROM usage_rows WHERE id = ?1)";
    change.execute(anchor, [last])?;
    change.execute("DELETE FROM usage_rows WHERE id <= ?1", [last])?;
    Ok(())
}

const MERGE: &str = "INSERT INTO rollups SELECT ?1, kind, sum(requests), sum(input_tokens), \
    sum(cache_read_input_tokens), sum(cache_creation_input_tokens_5min), \
    sum(cache_creation_input_tokens_1h), sum(output_tokens), sum(reasoning_tokens), \
    sum(input_audio_tokens), sum(output_audio_tokens), sum(tool_calls), sum(cost), max(cost_max), \
    sum(first_bytes), sum(first_byte_ms), sum(total_ms), min(first_id), max(last_id), sum(pruned), \
    sum(pruned_cost), sum(images), sum(input_image_tokens), sum(output_image_tokens) \
    FROM rollups WHERE hour > ?1 AND hour < ?2 AND pruned = requests \
    GROUP BY kind";
