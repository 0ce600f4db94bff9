//! The database as the writer has it: rows, their sums and their spending, in one transaction.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{
    CachedStatement, Connection, OptionalExtension, Transaction, TransactionBehavior, params,
};

use super::daily;
use super::entities::{self, Change};
use super::key_uses;
use super::logs::{Entry, Logs};
use super::row::{self, Digest, Kind, NUMBERS, NUMBERS_ALWAYS, Row, count};
use super::statuses::{self, Status};
use crate::limits;
use crate::route::rate::DAY_MS;
use crate::route::snapshot::Retention;
use crate::secret::KeyId;

pub(super) const HOUR_MS: i64 = DAY_MS / 24;

const INSERT_ROW: &str = "INSERT INTO usage_rows VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, \
    ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23) \
    ON CONFLICT (request) DO NOTHING";
const INSERT_KIND: &str = "INSERT INTO kinds (digest, user, user_key, provider, operation, \
    protocol, model, limit_name, model_served, usage_source, service_tier, outcome, price, status, \
    credential) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) \
    ON CONFLICT DO NOTHING";
const ADD_SUMS: &str = "INSERT INTO rollups VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
    ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, 0, 0, ?20, ?21, ?22)";
/// What stands behind an insertion of sums that may be there already.
pub(super) const SUM_UP: &str = " ON CONFLICT (hour, kind) DO UPDATE SET \
    requests = requests + excluded.requests, \
    input_tokens = input_tokens + excluded.input_tokens, \
    cache_read_input_tokens = cache_read_input_tokens + excluded.cache_read_input_tokens, \
    cache_creation_input_tokens_5min = cache_creation_input_tokens_5min + \
        excluded.cache_creation_input_tokens_5min, \
    cache_creation_input_tokens_1h = cache_creation_input_tokens_1h + \
        excluded.cache_creation_input_tokens_1h, \
    output_tokens = output_tokens + excluded.output_tokens, \
    reasoning_tokens = reasoning_tokens + excluded.reasoning_tokens, \
    input_audio_tokens = input_audio_tokens + excluded.input_audio_tokens, \
    output_audio_tokens = output_audio_tokens + excluded.output_audio_tokens, \
    tool_calls = tool_calls + excluded.tool_calls, \
    cost = min(cost + excluded.cost, 9223372036854775807), \
    cost_max = max(cost_max, excluded.cost_max), \
    first_bytes = first_bytes + excluded.first_bytes, \
    first_byte_ms = first_byte_ms + excluded.first_byte_ms, \
    total_ms = total_ms + excluded.total_ms, \
    first_id = min(first_id, excluded.first_id), \
    last_id = max(last_id, excluded.last_id), \
    pruned = pruned + excluded.pruned, \
    pruned_cost = pruned_cost + excluded.pruned_cost, \
    images = images + excluded.images, \
    input_image_tokens = input_image_tokens + excluded.input_image_tokens, \
    output_image_tokens = output_image_tokens + excluded.output_image_tokens";
pub(super) const SPEND: &str = "INSERT INTO spendings (user, day, cost) VALUES (?1, ?2, ?3) \
    ON CONFLICT (user, day) DO UPDATE SET \
    cost = min(cost + excluded.cost, 9223372036854775807)";

/// What rows behind the given one cost.
const FOREIGN: &str = "SELECT user, at / 86400000, sum(cost) FROM usage_rows \
    JOIN kinds ON kinds.id = kind WHERE usage_rows.id > ?1 GROUP BY user, at / 86400000";

/// Something that keeps rows.
pub(super) trait Store: Send {
    /// Writes all rows and what they cost, or nothing of it.
    fn write(&mut self, rows: &[Row]) -> Result<(), String>;
    /// What another process has written meanwhile: users, UTC days, picodollars. Told once.
    fn foreign(&mut self) -> Vec<(String, i64, i64)> {
        Vec::new()
    }
    /// Writes a change. A store of rows alone has no place for it.
    fn change(&mut self, _: &Change) -> Result<(), String> {
        Err("this store keeps rows alone".to_owned())
    }
    /// Writes what is known of credentials.
    fn keep(&mut self, statuses: &[Status]) -> Result<(), String>;
    /// Writes when keys were used. A store of rows alone forgets it.
    fn keep_uses(&mut self, _: &[(KeyId, i64)]) -> Result<(), String> {
        Ok(())
    }
    /// Writes logs, all or none.
    fn log(&mut self, entries: &[Entry]) -> Result<(), String>;
    /// Deletes a step of what need not be kept. True: there is more.
    fn prune(&mut self, keep: &Retention) -> Result<bool, String>;
    /// Brings everything into the one file.
    fn finish(&mut self);
}

/// The database, opened. The lock lives as long.
pub(super) struct Database {
    pub(super) connection: Connection,
    pub(super) tail: Tail,
    pub(super) folder: PathBuf,
    // Opened when there is something to log, or to delete.
    pub(super) logs: Option<Logs>,
    pub(super) lock: File,
}

/// The end of the chain, and the numbers of what was written before.
pub(super) struct Tail {
    last: i64,
    last_digest: Digest,
    kinds: HashMap<Arc<Kind>, (i64, Digest)>,
    // The same, by where the kind stands in memory.
    at_hand: Vec<Option<AtHand>>,
    // The process whose rows came last, and its number.
    process: (u64, i64),
    // What others have written since: users, UTC days, picodollars.
    foreign: Vec<(String, i64, i64)>,
}

type AtHand = (Arc<Kind>, (i64, Digest));

/// Sums of the rows of one kind and hour.
struct Sums {
    user: String,
    requests: i64,
    counts: [i64; 9],
    later: [i64; 3],
    cost: i64,
    cost_max: i64,
    first_bytes: i64,
    first_byte_ms: i64,
    total_ms: i64,
    first_id: i64,
    last_id: i64,
}

impl Store for Database {
    fn write(&mut self, rows: &[Row]) -> Result<(), String> {
        let result = self.try_write(rows);
        result.map_err(|error| {
            // What was numbered within the transaction went with it.
            self.tail.forget();
            error.to_string()
        })
    }

    fn foreign(&mut self) -> Vec<(String, i64, i64)> {
        std::mem::take(&mut self.tail.foreign)
    }

    fn change(&mut self, change: &Change) -> Result<(), String> {
        // What is replaced may be a secret in clear: nothing of it stays on its pages.
        let erases = |connection: &Connection, on| {
            connection.pragma_update_and_check(None, "secure_delete", on, |_| Ok(()))
        };
        let written = erases(&self.connection, true).and_then(|()| {
            let transaction = self.connection.transaction()?;
            entities::write(&transaction, change)?;
            transaction.commit()
        });
        // Rows of the books hold no secret, and many go at once.
        let _ = erases(&self.connection, false);
        written.map_err(|error| error.to_string())
    }

    fn keep(&mut self, statuses: &[Status]) -> Result<(), String> {
        statuses::write(&mut self.connection, statuses).map_err(|error| error.to_string())
    }

    fn keep_uses(&mut self, uses: &[(KeyId, i64)]) -> Result<(), String> {
        key_uses::write(&mut self.connection, uses).map_err(|error| error.to_string())
    }

    fn log(&mut self, entries: &[Entry]) -> Result<(), String> {
        let logs = match &mut self.logs {
            Some(logs) => logs,
            none => none.insert(Logs::open(&self.folder).map_err(|error| error.to_string())?),
        };
        logs.write(entries, now_ms()).map_err(|error| error.to_string())
    }

    fn prune(&mut self, keep: &Retention) -> Result<bool, String> {
        let rows = self.prune_rows(keep, now_ms()).map_err(|error| error.to_string())?;
        let days = daily::sum_up(&mut self.connection, now_ms());
        let days = days.map_err(|error| error.to_string())?;
        let logs = match &mut self.logs {
            Some(logs) => logs.prune(keep, now_ms()).map_err(|error| error.to_string())?,
            None => false,
        };
        Ok(rows || days || logs)
    }

    fn finish(&mut self) {
        if let Some(logs) = &mut self.logs {
            logs.finish();
        }
        // What stays in the log is found at the next start.
        let _ = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

impl Database {
    fn try_write(&mut self, rows: &[Row]) -> rusqlite::Result<()> {
        let change = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.tail.catch_up(&change)?;
        let end = self.tail.write(&change, rows)?;
        change.commit()?;
        (self.tail.last, self.tail.last_digest) = end;
        Ok(())
    }
}

impl Tail {
    /// The end of the chain as the books have it.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Tail> {
        let select = "SELECT last, last_digest FROM chain";
        let (last, last_digest) =
            connection.query_row(select, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let at_hand = vec![None; limits::LEDGER_KINDS_SHARED];
        Ok(Tail {
            last,
            last_digest,
            kinds: HashMap::new(),
            at_hand,
            process: (0, 0),
            foreign: Vec::new(),
        })
    }

    /// While one process hands over to the next, both write: each goes on behind the other's rows,
    /// and learns what they cost.
    fn catch_up(&mut self, change: &Transaction<'_>) -> rusqlite::Result<()> {
        let select = "SELECT last, last_digest FROM chain";
        let mut select = change.prepare_cached(select)?;
        let end = select.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if end.0 != self.last {
            let mut select = change.prepare(FOREIGN)?;
            let rows =
                select.query_map([self.last], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            self.foreign.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
        }
        (self.last, self.last_digest) = end;
        Ok(())
    }

    fn forget(&mut self) {
        self.kinds.clear();
        self.at_hand.fill(None);
        self.process = (0, 0);
    }

    /// Writes rows within a transaction; the new end of the chain.
    fn write(&mut self, change: &Transaction<'_>, rows: &[Row]) -> rusqlite::Result<(i64, Digest)> {
        let mut batch = Batch::begin(change, (self.last, self.last_digest))?;
        for row in rows {
            let kind = self.kind(change, &row.kind)?;
            let process = self.process(change, row.process)?;
            batch.add(numbers(row::request(process, row.number), row), kind, &row.kind.user)?;
        }
        batch.spend()?;
        batch.add_late()?;
        batch.end()
    }

    fn kind(
        &mut self,
        change: &Transaction<'_>,
        kind: &Arc<Kind>,
    ) -> rusqlite::Result<(i64, Digest)> {
        let place = Arc::as_ptr(kind).addr() / size_of::<Kind>() % self.at_hand.len();
        if let Some((known, entered)) = &self.at_hand[place]
            && Arc::ptr_eq(known, kind)
        {
            return Ok(*entered);
        }
        let entered = match self.kinds.get(kind) {
            Some(known) => *known,
            None => self.enter(change, kind)?,
        };
        self.at_hand[place] = Some((kind.clone(), entered));
        Ok(entered)
    }

    fn enter(
        &mut self,
        change: &Transaction<'_>,
        kind: &Arc<Kind>,
    ) -> rusqlite::Result<(i64, Digest)> {
        if self.kinds.len() >= limits::LEDGER_KINDS_MAX {
            self.kinds.clear();
        }
        let price = kind.price.as_ref().map(|price| price.to_json());
        let entered = {
            let (texts, status) = (texts(kind), kind.status.into());
            enter_kind(change, &texts, price.as_deref(), status, kind.credential)?
        };
        self.kinds.insert(kind.clone(), entered);
        Ok(entered)
    }

    fn process(&mut self, change: &Transaction<'_>, prefix: u64) -> rusqlite::Result<i64> {
        if self.process.0 != prefix || self.process.1 == 0 {
            self.process = (prefix, enter_process(change, prefix)?);
        }
        Ok(self.process.1)
    }
}

/// The texts of a kind, in the order of its columns.
fn texts(kind: &Kind) -> [&str; 11] {
    [
        &kind.user,
        kind.user_key.as_str(),
        &kind.provider,
        kind.operation,
        kind.protocol,
        &kind.model,
        kind.limit_name(),
        &kind.model_served,
        kind.usage_source,
        kind.service_tier,
        kind.outcome,
    ]
}

/// The number of a kind, which it is given when it comes for the first time, and its digest.
pub(super) fn enter_kind(
    change: &Transaction<'_>,
    texts: &[&str; 11],
    price: Option<&str>,
    status: i64,
    credential: Option<i64>,
) -> rusqlite::Result<(i64, Digest)> {
    let mut digested = texts.to_vec();
    digested.push(price.unwrap_or_default());
    let digest = row::kind_digest(&digested, [price.is_some().into(), status], credential);
    let mut insert = change.prepare(INSERT_KIND)?;
    insert.raw_bind_parameter(1, digest)?;
    for (at, text) in texts.iter().enumerate() {
        insert.raw_bind_parameter(at + 2, text)?;
    }
    insert.raw_bind_parameter(13, price)?;
    insert.raw_bind_parameter(14, status)?;
    insert.raw_bind_parameter(15, credential)?;
    insert.raw_execute()?;
    let select = "SELECT id FROM kinds WHERE digest = ?1";
    let id = change.query_row(select, [digest], |row| row.get(0))?;
    Ok((id, digest))
}

/// The number of a process, which it is given when it writes for the first time.
pub(super) fn enter_process(change: &Transaction<'_>, prefix: u64) -> rusqlite::Result<i64> {
    let select = "SELECT id FROM processes WHERE prefix = ?1";
    let prefix = count(prefix);
    let known = change.query_row(select, [prefix], |row| row.get(0)).optional()?;
    if let Some(id) = known {
        return Ok(id);
    }
    change.execute("INSERT INTO processes (prefix) VALUES (?1)", [prefix])?;
    Ok(change.last_insert_rowid())
}

/// Where a row's time stands among its numbers.
const AT: usize = 2;

/// Everything of a row that is a number of its own, in the order of its columns. The first is its
/// place in the chain, which it is given when it is added.
fn numbers(request: i64, row: &Row) -> [i64; NUMBERS] {
    let usage = &row.usage;
    [
        0,
        request,
        row.at_ms,
        count(usage.input_tokens),
        count(usage.cache_read_input_tokens),
        count(usage.cache_creation_input_tokens_5min),
        count(usage.cache_creation_input_tokens_1h),
        count(usage.output_tokens),
        count(usage.reasoning_tokens),
        count(usage.input_audio_tokens),
        count(usage.output_audio_tokens),
        count(usage.tool_calls),
        row.cost,
        row.attempts.into(),
        row.first_byte_ms,
        row.total_ms,
        count(row.bytes_in),
        count(row.bytes_out),
        count(usage.images),
        count(usage.input_image_tokens),
        count(usage.output_image_tokens),
    ]
}

/// Rows of one transaction.
pub(super) struct Batch<'c> {
    change: &'c Transaction<'c>,
    insert: CachedStatement<'c>,
    sums: HashMap<(i64, i64), Sums>,
    last: i64,
    last_digest: Digest,
}

impl<'c> Batch<'c> {
    /// `end`: of the chain, so far.
    pub(super) fn begin(
        change: &'c Transaction<'c>,
        (last, last_digest): (i64, Digest),
    ) -> rusqlite::Result<Batch<'c>> {
        let insert = change.prepare_cached(INSERT_ROW)?;
        Ok(Batch { change, insert, sums: HashMap::new(), last, last_digest })
    }

    /// Adds a row; its place in the chain, the first of the numbers, is given here.
    pub(super) fn add(
        &mut self,
        mut numbers: [i64; NUMBERS],
        (kind, kind_digest): (i64, Digest),
        user: &str,
    ) -> rusqlite::Result<()> {
        numbers[0] = self.last + 1;
        let digest = row::chained(&self.last_digest, &kind_digest, &numbers);
        for (at, number) in numbers.iter().enumerate() {
            self.insert.raw_bind_parameter(row::column(at) + 1, number)?;
        }
        self.insert.raw_bind_parameter(NUMBERS_ALWAYS + 1, kind)?;
        self.insert.raw_bind_parameter(NUMBERS_ALWAYS + 2, digest)?;
        // Written twice, a row changes nothing.
        if self.insert.raw_execute()? == 1 {
            (self.last, self.last_digest) = (numbers[0], digest);
            let hour = numbers[AT].div_euclid(HOUR_MS);
            let sums = self.sums.entry((hour, kind));
            sums.or_insert_with(|| Sums::new(user, numbers[0])).add(&numbers);
        }
        Ok(())
    }

    /// Adds what the rows cost to what was spent.
    fn spend(&self) -> rusqlite::Result<()> {
        let mut spent: BTreeMap<(&str, i64), i64> = BTreeMap::new();
        for ((hour, _), sums) in self.sums.iter().filter(|(_, sums)| sums.cost != 0) {
            let spent = spent.entry((&sums.user, hour.div_euclid(24))).or_default();
            *spent = spent.saturating_add(sums.cost);
        }
        let mut spend = self.change.prepare_cached(SPEND)?;
        for ((user, day), cost) in spent {
            spend.execute(params![user, day, cost])?;
        }
        Ok(())
    }

    /// Adds what came late to the sums of its day, where it has some.
    fn add_late(&self) -> rusqlite::Result<()> {
        let until = daily::until(self.change)?;
        let sums = self.sums.iter().map(|((hour, kind), sums)| (hour.div_euclid(24), *kind, sums));
        let late = sums.filter(|(day, ..)| *day < until);
        let late = late.map(|(day, kind, sums)| (day, kind, sums.daily_numbers()));
        daily::add(self.change, &late.collect::<Vec<_>>())
    }

    /// Adds the sums and writes the new end of the chain.
    pub(super) fn end(self) -> rusqlite::Result<(i64, Digest)> {
        let mut add = self.change.prepare_cached(&format!("{ADD_SUMS}{SUM_UP}"))?;
        for ((hour, kind), sums) in &self.sums {
            for (at, number) in sums.numbers(*hour, *kind).iter().enumerate() {
                add.raw_bind_parameter(at + 1, number)?;
            }
            add.raw_execute()?;
        }
        let end = "UPDATE chain SET last = ?1, last_digest = ?2";
        self.change.prepare_cached(end)?.execute(params![self.last, self.last_digest])?;
        Ok((self.last, self.last_digest))
    }
}

impl Sums {
    fn new(user: &str, first_id: i64) -> Sums {
        Sums {
            user: user.to_owned(),
            requests: 0,
            counts: [0; 9],
            later: [0; 3],
            cost: 0,
            cost_max: 0,
            first_bytes: 0,
            first_byte_ms: 0,
            total_ms: 0,
            first_id,
            last_id: first_id,
        }
    }

    fn add(&mut self, numbers: &[i64; NUMBERS]) {
        let (always, later) = numbers.split_at(NUMBERS_ALWAYS);
        let [id, _, _, counts @ .., cost, _, first_byte_ms, total_ms, _, _] = always else {
            return;
        };
        self.requests += 1;
        let counts = counts.iter().chain(later);
        for (sum, count) in self.counts.iter_mut().chain(&mut self.later).zip(counts) {
            *sum = sum.saturating_add(*count);
        }
        self.cost = self.cost.saturating_add(*cost);
        self.cost_max = self.cost_max.max(*cost);
        if *first_byte_ms >= 0 {
            self.first_bytes += 1;
            self.first_byte_ms += first_byte_ms;
        }
        self.total_ms += total_ms;
        self.last_id = *id;
    }

    /// Those that daily sums have.
    fn daily_numbers(&self) -> [i64; daily::SUMMED.len()] {
        let [_, _, before @ .., cost, _, first_bytes, first_byte_ms, total_ms, _, _, j, k, l] =
            self.numbers(0, 0);
        let [requests, a, b, c, d, e, f, g, h, i] = before;
        let times = [first_bytes, first_byte_ms, total_ms];
        [requests, a, b, c, d, e, f, g, h, i, cost, times[0], times[1], times[2], j, k, l]
    }

    fn numbers(&self, hour: i64, kind: i64) -> [i64; 22] {
        let [a, b, c, d, e, f, g, h, i] = self.counts;
        let [j, k, l] = self.later;
        [
            hour,
            kind,
            self.requests,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            self.cost,
            self.cost_max,
            self.first_bytes,
            self.first_byte_ms,
            self.total_ms,
            self.first_id,
            self.last_id,
            j,
            k,
            l,
        ]
    }
}
