//! Sums by day and kind, made of the hourly ones once a day is over: what questions over months
//! read in the place of every hour.
//!
//! Nothing of it is done for a row that is written on its day. What comes later is added to its day
//! in the transaction that adds it to its hour.
//!
//! Invariant: of each day before `daily_until` the daily sums are those of its hours.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::books::HOUR_MS;

/// A day is summed up so long after its end: most of what began in it has ended then.
const AFTER_HOURS: i64 = 1;

/// What daily sums have of hourly ones, in the order of their columns.
pub(super) const SUMMED: [&str; 17] = [
    "requests",
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens_5min",
    "cache_creation_input_tokens_1h",
    "output_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "tool_calls",
    "cost",
    "first_bytes",
    "first_byte_ms",
    "total_ms",
    "images",
    "input_image_tokens",
    "output_image_tokens",
];

/// The tables, empty: `daily_until` is the day before which all are summed up.
pub(super) fn make(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let columns: Vec<_> = SUMMED.iter().map(|name| format!("{name} INTEGER NOT NULL")).collect();
    change.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS daily_rollups (
            day INTEGER NOT NULL,
            kind INTEGER NOT NULL,
            {},
            PRIMARY KEY (day, kind)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE IF NOT EXISTS daily_until (day INTEGER NOT NULL) STRICT;",
        columns.join(", ")
    ))?;
    let none = "INSERT INTO daily_until SELECT ?1 WHERE NOT EXISTS (SELECT * FROM daily_until)";
    change.execute(none, [i64::MIN])?;
    Ok(())
}

/// The UTC day, since 1970, before which all days are summed up.
pub(super) fn until(books: &Connection) -> rusqlite::Result<i64> {
    let mut select = books.prepare_cached("SELECT day FROM daily_until")?;
    select.query_row([], |row| row.get(0))
}

/// Adds what came for days that were summed up before: days, kinds, and the numbers of [`SUMMED`].
pub(super) fn add(
    change: &Transaction<'_>,
    late: &[(i64, i64, [i64; SUMMED.len()])],
) -> rusqlite::Result<()> {
    if late.is_empty() {
        return Ok(());
    }
    let places: Vec<_> = (3..3 + SUMMED.len()).map(|place| format!("?{place}")).collect();
    let sums: Vec<_> =
        SUMMED.iter().map(|name| format!("{name} = {name} + excluded.{name}")).collect();
    let mut insert = change.prepare(&format!(
        "INSERT INTO daily_rollups VALUES (?1, ?2, {}) ON CONFLICT (day, kind) DO UPDATE SET {}",
        places.join(", "),
        sums.join(", ")
    ))?;
    for (day, kind, numbers) in late {
        for (at, number) in [day, kind].into_iter().chain(numbers).enumerate() {
            insert.raw_bind_parameter(at + 1, number)?;
        }
        insert.raw_execute()?;
    }
    Ok(())
}

/// Sums by hour and kind from the hour `from` to the hour `to`, as a table to read from: of whole
/// days that are summed up the daily ones, at the day's first hour. For who does not ask by hour.
pub(super) fn source(books: &Connection, from: i64, to: i64) -> rusqlite::Result<String> {
    let first = from.div_euclid(24) + i64::from(from.rem_euclid(24) > 0);
    let last = to.div_euclid(24).min(until(books)?);
    if first >= last {
        return Ok(hours(from, to));
    }
    Ok(format!(
        "SELECT day * 24 AS hour, kind, {} FROM daily_rollups \
         WHERE day >= {first} AND day < {last} UNION ALL {} UNION ALL {}",
        SUMMED.join(", "),
        hours(from, first * 24),
        hours(last * 24, to)
    ))
}

/// The same of the hourly ones alone.
pub(super) fn hours(from: i64, to: i64) -> String {
    let names = SUMMED.join(", ");
    format!("SELECT hour, kind, {names} FROM rollups WHERE hour >= {from} AND hour < {to}")
}

/// Sums up one day that is over. True: there may be another.
pub(super) fn sum_up(books: &mut Connection, now_ms: i64) -> rusqlite::Result<bool> {
    let change = books.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let first = until(&change)?.saturating_mul(24);
    let select = "SELECT hour FROM rollups WHERE hour >= ?1 ORDER BY hour LIMIT 1";
    let hour: Option<i64> = change.query_row(select, [first], |row| row.get(0)).optional()?;
    let Some(day) = hour.map(|hour| hour.div_euclid(24)) else { return Ok(false) };
    if now_ms.div_euclid(HOUR_MS) < (day + 1) * 24 + AFTER_HOURS {
        return Ok(false);
    }
    change.execute(
        &format!("INSERT INTO daily_rollups {}", of_hours()),
        params![day, day * 24, day * 24 + 24],
    )?;
    change.execute("UPDATE daily_until SET day = ?1", [day + 1])?;
    change.commit()?;
    Ok(true)
}

/// The sums of the hours from ?2 to ?3, as those of the day ?1.
fn of_hours() -> String {
    let sums: Vec<_> = SUMMED.iter().map(|name| format!("sum({name})")).collect();
    let sums = sums.join(", ");
    format!("SELECT ?1, kind, {sums} FROM rollups WHERE hour >= ?2 AND hour < ?3 GROUP BY kind")
}

/// Days and kinds whose daily sums are not those of their hours, each with its day.
pub(super) fn faults(books: &Connection) -> rusqlite::Result<Vec<(i64, i64)>> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'daily_until'";
    // The file was written by an older program, and none has brought it up yet.
    if books.query_row(there, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    type Days = HashMap<(i64, i64), [i64; SUMMED.len()]>;
    let read = |select: &str, until: i64| -> rusqlite::Result<Days> {
        let mut days = Days::new();
        let mut statement = books.prepare(select)?;
        let mut rows = statement.query([until])?;
        while let Some(row) = rows.next()? {
            let sums = days.entry((row.get(0)?, row.get(1)?)).or_insert([0; SUMMED.len()]);
            for (at, sum) in sums.iter_mut().enumerate() {
                *sum = sum.saturating_add(row.get(at + 2)?);
            }
        }
        Ok(days)
    };
    let until = until(books)?;
    let names = SUMMED.join(", ");
    let daily = format!("SELECT day, kind, {names} FROM daily_rollups WHERE day < ?1");
    let hourly = format!("SELECT hour, kind, {names} FROM rollups WHERE hour < ?1");
    let daily = read(&daily, i64::MAX)?;
    let mut hours = Days::new();
    for ((hour, kind), sums) in read(&hourly, until.saturating_mul(24))? {
        let day = hours.entry((hour.div_euclid(24), kind)).or_insert([0; SUMMED.len()]);
        for (sum, number) in day.iter_mut().zip(sums) {
            *sum = sum.saturating_add(number);
        }
    }
    let mut wrong: Vec<_> = daily.keys().chain(hours.keys()).copied().collect();
    wrong.retain(|key| daily.get(key) != hours.get(key));
    wrong.sort_unstable();
    wrong.dedup();
    Ok(wrong)
}
