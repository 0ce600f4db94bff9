//! Versions of the database. Each step leads from one version to the next, within a transaction
//! of its own; what was written by a newer program is refused before.

use rusqlite::{Connection, Row, Transaction};

use super::books::{self, Batch};
use super::daily;
use super::key_uses;
use super::row::{self, Digest, NUMBERS, NUMBERS_ALWAYS};
use super::schema::APPLICATION;

/// The steps, the first one from nothing.
const STEPS: &[fn(&Transaction<'_>) -> rusqlite::Result<()>] =
    &[begin, number_the_kinds, keep_credentials, daily::make, count_images, key_uses::begin];
/// What this program writes.
pub(super) const VERSION: i64 = STEPS.len() as i64;

/// Brings the file from `version` to ours.
pub(super) fn bring_up(connection: &mut Connection, version: i64) -> rusqlite::Result<()> {
    let from = usize::try_from(version).unwrap_or(0);
    for (at, step) in STEPS.iter().enumerate().skip(from) {
        let change = connection.transaction()?;
        step(&change)?;
        change.pragma_update(None, "application_id", APPLICATION)?;
        change.pragma_update(None, "user_version", at as i64 + 1)?;
        change.commit()?;
    }
    Ok(())
}

/// Spending, and what users had spent elsewhere.
fn begin(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch(
        "CREATE TABLE spendings (
            user TEXT NOT NULL,
            day INTEGER NOT NULL,
            cost INTEGER NOT NULL,
            PRIMARY KEY (user, day)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE first_seen (
            user TEXT PRIMARY KEY,
            cost_used INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID;",
    )
}

/// As they are now: later steps find what they would add.
const KINDS: &str = "
    CREATE TABLE processes (
        id INTEGER PRIMARY KEY,
        prefix INTEGER NOT NULL UNIQUE
    ) STRICT;
    CREATE TABLE kinds (
        id INTEGER PRIMARY KEY,
        digest BLOB NOT NULL UNIQUE,
        user TEXT NOT NULL,
        user_key TEXT NOT NULL,
        provider TEXT NOT NULL,
        operation TEXT NOT NULL,
        protocol TEXT NOT NULL,
        model TEXT NOT NULL,
        limit_name TEXT NOT NULL,
        model_served TEXT NOT NULL,
        usage_source TEXT NOT NULL,
        service_tier TEXT NOT NULL,
        outcome TEXT NOT NULL,
        price TEXT,
        status INTEGER NOT NULL,
        credential INTEGER
    ) STRICT;
    CREATE TABLE usage_rows (
        id INTEGER PRIMARY KEY,
        request INTEGER NOT NULL UNIQUE,
        at INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cache_read_input_tokens INTEGER NOT NULL,
        cache_creation_input_tokens_5min INTEGER NOT NULL,
        cache_creation_input_tokens_1h INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        input_audio_tokens INTEGER NOT NULL,
        output_audio_tokens INTEGER NOT NULL,
        tool_calls INTEGER NOT NULL,
        cost INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first_byte_ms INTEGER NOT NULL,
        total_ms INTEGER NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        digest BLOB NOT NULL,
        images INTEGER NOT NULL DEFAULT 0,
        input_image_tokens INTEGER NOT NULL DEFAULT 0,
        output_image_tokens INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    -- Sums of all rows ever, by hour of admission and kind. `pruned`: rows that are no longer here.
    CREATE TABLE rollups (
        hour INTEGER NOT NULL,
        kind INTEGER NOT NULL,
        requests INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        cache_read_input_tokens INTEGER NOT NULL,
        cache_creation_input_tokens_5min INTEGER NOT NULL,
        cache_creation_input_tokens_1h INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        reasoning_tokens INTEGER NOT NULL,
        input_audio_tokens INTEGER NOT NULL,
        output_audio_tokens INTEGER NOT NULL,
        tool_calls INTEGER NOT NULL,
        cost INTEGER NOT NULL,
        cost_max INTEGER NOT NULL,
        first_bytes INTEGER NOT NULL,
        first_byte_ms INTEGER NOT NULL,
        total_ms INTEGER NOT NULL,
        first_id INTEGER NOT NULL,
        last_id INTEGER NOT NULL,
        pruned INTEGER NOT NULL,
        pruned_cost INTEGER NOT NULL,
        images INTEGER NOT NULL DEFAULT 0,
        input_image_tokens INTEGER NOT NULL DEFAULT 0,
        output_image_tokens INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (hour, kind)
    ) STRICT, WITHOUT ROWID;
    -- The last row that is no longer here, and the last one of all.
    CREATE TABLE chain (
        anchor INTEGER NOT NULL,
        anchor_digest BLOB NOT NULL,
        last INTEGER NOT NULL,
        last_digest BLOB NOT NULL
    ) STRICT;
    INSERT INTO chain VALUES (0, zeroblob(16), 0, zeroblob(16));
";

const VIEW: &str = "
    CREATE VIEW usages AS SELECT
        rows.id AS id,
        printf('%014x%010x', processes.prefix, request & 0xffffffffff) AS request_id,
        at, user, user_key, provider, operation, protocol, model, model_served, limit_name,
        input_tokens, cache_read_input_tokens, cache_creation_input_tokens_5min,
        cache_creation_input_tokens_1h, output_tokens, reasoning_tokens, input_audio_tokens,
        output_audio_tokens, tool_calls, images, input_image_tokens, output_image_tokens,
        usage_source, service_tier, cost, price, price IS NOT NULL AS priced, status, outcome,
        attempts, first_byte_ms, total_ms, bytes_in, bytes_out,
        printf('%014x%010x', processes.prefix, request & 0xffffffffff) AS trace_id,
        printf('%014x%010x', processes.prefix, request & 0xffffffffff) AS downstream_trace_id,
        user AS user_id, user_key AS user_key_id, provider AS provider_id,
        credential AS credential_id,
        0 AS cache_creation_input_tokens, request, kind, rows.digest AS digest
        FROM usage_rows AS rows
        JOIN kinds ON kinds.id = rows.kind
        JOIN processes ON processes.id = rows.request >> 40;
";

/// What rows have in common stands apart, and each row is a few numbers.
fn number_the_kinds(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let there = "SELECT count(*) FROM sqlite_schema WHERE name = 'usages'";
    let there: i64 = change.query_row(there, [], |row| row.get(0))?;
    if there > 0 {
        change.execute_batch("ALTER TABLE usages RENAME TO usages_1")?;
    }
    change.execute_batch(KINDS)?;
    change.execute_batch(VIEW)?;
    if there > 0 {
        copy_rows(change)?;
        change.execute_batch("DROP TABLE usages_1")?;
    }
    Ok(())
}

/// Rows tell which credential was presented.
fn keep_credentials(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let there = "SELECT count(*) FROM pragma_table_info('kinds') WHERE name = 'credential'";
    if change.query_row(there, [], |row| row.get::<_, i64>(0))? > 0 {
        return Ok(());
    }
    change.execute_batch("ALTER TABLE kinds ADD COLUMN credential INTEGER; DROP VIEW usages;")?;
    change.execute_batch(VIEW)
}

/// Rows tell how many images were made, and which tokens were images.
fn count_images(change: &Transaction<'_>) -> rusqlite::Result<()> {
    change.execute_batch("DROP VIEW usages")?;
    for table in ["usage_rows", "rollups", "daily_rollups"] {
        let there = "SELECT count(*) FROM pragma_table_info(?1) WHERE name = 'images'";
        if change.query_row(there, [table], |row| row.get::<_, i64>(0))? > 0 {
            continue;
        }
        for column in ["images", "input_image_tokens", "output_image_tokens"] {
            let add = format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0");
            change.execute_batch(&add)?;
        }
    }
    change.execute_batch(VIEW)
}

/// Rows of the first version. Their chain begins anew.
fn copy_rows(change: &Transaction<'_>) -> rusqlite::Result<()> {
    let select = "SELECT id, request_id, at, input_tokens, cache_read_input_tokens, \
        cache_creation_input_tokens_5min, cache_creation_input_tokens_1h, output_tokens, \
        reasoning_tokens, input_audio_tokens, output_audio_tokens, tool_calls, cost, attempts, \
        first_byte_ms, total_ms, bytes_in, bytes_out, user, '', provider, operation, protocol, \
        model, limit_name, model_served, usage_source, service_tier, outcome, price, status \
        FROM usages_1 ORDER BY id";
    let mut old = change.prepare(select)?;
    let mut old = old.query([])?;
    let mut batch = Batch::begin(change, (0, Digest::default()))?;
    while let Some(row) = old.next()? {
        let mut texts = [""; 11];
        for (at, text) in texts.iter_mut().enumerate() {
            *text = row.get_ref(NUMBERS_ALWAYS + at)?.as_str()?;
        }
        let price: Option<String> = row.get(NUMBERS_ALWAYS + 11)?;
        let status = row.get(NUMBERS_ALWAYS + 12)?;
        let kind = books::enter_kind(change, &texts, price.as_deref(), status, None)?;
        batch.add(old_numbers(change, row)?, kind, texts[0])?;
    }
    batch.end()?;
    Ok(())
}

fn old_numbers(change: &Transaction<'_>, row: &Row<'_>) -> rusqlite::Result<[i64; NUMBERS]> {
    let mut numbers = [0; NUMBERS];
    // An id that is none of ours cannot come again: its row's number does.
    let own = (0, row.get::<_, i64>(0)?.unsigned_abs());
    let (process, number) = row::split_id(row.get_ref(1)?.as_str()?).unwrap_or(own);
    numbers[1] = row::request(books::enter_process(change, process)?, number);
    for (at, place) in numbers.iter_mut().enumerate().take(NUMBERS_ALWAYS).skip(2) {
        *place = row.get(at)?;
    }
    Ok(numbers)
}
