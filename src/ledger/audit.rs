//! The proof that the books add up: the chain of rows, each cost, and the sums against what was
//! spent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, Row};

use super::LedgerError;
use super::daily;
use super::query::{self, damaged};
use super::row::{self, Digest, NUMBERS, NUMBERS_ALWAYS};
use crate::dialect::usage::Usage;
use crate::route::price::Applied;
use crate::route::rate::DAY_MS;

/// Faults that are told; more are counted.
const FAULTS_MAX: usize = 20;
const HOUR_MS: i64 = DAY_MS / 24;

/// What an audit found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    /// Rows read.
    pub rows: u64,
    /// Rows of which only the sums are left.
    pub pruned: u64,
    /// What all of them cost, in picodollars.
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

/// What rows have in common, as an audit needs it.
struct Kind {
    user: String,
    digest: Digest,
    // `Err`: the prices cannot be read.
    price: Result<Option<Applied>, ()>,
}

/// Rows and their costs, by hour and kind.
type Sums = HashMap<(i64, i64), (i64, i128)>;

/// Audits in a running process: on a thread of its own, since it may take minutes, and one at a
/// time.
#[derive(Default)]
pub struct Auditor(Arc<Mutex<Progress>>);

/// How far an [`Auditor`] is.
#[derive(Clone, Default)]
pub struct Progress {
    /// When the audit began that is under way, in milliseconds since 1970.
    pub since_ms: Option<i64>,
    /// The last one that ended.
    pub last: Option<Ended>,
}

/// An audit that has ended.
#[derive(Clone)]
pub struct Ended {
    /// When it began, in milliseconds since 1970.
    pub began_ms: i64,
    /// When it ended.
    pub ended_ms: i64,
    /// What it found, or why it found nothing out.
    pub result: Result<Audit, String>,
}

impl Auditor {
    /// Begins an audit unless one is under way. `now`: milliseconds since 1970.
    pub fn start(&self, folder: PathBuf, now: impl Fn() -> i64 + Send + 'static) -> io::Result<()> {
        let began_ms = now();
        {
            let mut progress = self.0.lock();
            if progress.since_ms.is_some() {
                return Ok(());
            }
            progress.since_ms = Some(began_ms);
        }
        let shared = self.0.clone();
        let run = move || {
            let result = catch_unwind(AssertUnwindSafe(|| audit(&folder)));
            let result = match result {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("the audit broke off".to_owned()),
            };
            let last = Some(Ended { began_ms, ended_ms: now(), result });
            *shared.lock() = Progress { since_ms: None, last };
        };
        let spawned = std::thread::Builder::new().name("audit".into()).spawn(run);
        if spawned.is_err() {
            self.0.lock().since_ms = None;
        }
        spawned.map(drop)
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.0.lock().clone()
    }
}

/// Checks the chain of digests, works out each cost again, and compares rows with their sums and
/// the sums with what was spent. A running gateway does not mind.
pub fn audit(folder: &Path) -> Result<Audit, LedgerError> {
    let books = query::open_current(folder)?;
    let mut audit = Audit::default();
    // One moment of the books, however long the reading takes.
    books.execute_batch("BEGIN").map_err(damaged(folder))?;
    check_all(&books, &mut audit).map_err(damaged(folder))?;
    Ok(audit)
}

fn check_all(books: &Connection, audit: &mut Audit) -> rusqlite::Result<()> {
    let kinds = read_kinds(books, audit)?;
    let sums = check_rows(books, &kinds, audit)?;
    let spent = check_rollups(books, &kinds, &sums, audit)?;
    for (day, kind) in daily::faults(books)? {
        audit.fault(format!("day {day}, kind {kind}: its sums are not those of its hours"));
    }
    check_spendings(books, spent, audit)
}

fn read_kinds(books: &Connection, audit: &mut Audit) -> rusqlite::Result<HashMap<i64, Kind>> {
    let select = "SELECT id, user, user_key, provider, operation, protocol, model, limit_name, \
        model_served, usage_source, service_tier, outcome, price, status, digest, credential \
        FROM kinds";
    let mut statement = books.prepare(select)?;
    let mut rows = statement.query([])?;
    let mut kinds = HashMap::new();
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let mut texts = Vec::with_capacity(12);
        for at in 1..=11 {
            texts.push(row.get_ref(at)?.as_str()?);
        }
        let price: Option<String> = row.get(12)?;
        texts.push(price.as_deref().unwrap_or_default());
        let digest = row::kind_digest(&texts, [price.is_some().into(), row.get(13)?], row.get(15)?);
        if row.get_ref(14)?.as_blob()? != digest {
            let (user, model) = (texts[0], texts[5]);
            audit.fault(format!("kind {id} (user {user:?}, model {model:?}) was changed"));
        }
        let price = match price.as_deref().map(Applied::from_json) {
            None => Ok(None),
            Some(applied) => applied.map(Some).ok_or(()),
        };
        // What is written counts, so that one change is one fault.
        let digest = row.get(14)?;
        kinds.insert(id, Kind { user: texts[0].to_owned(), digest, price });
    }
    Ok(kinds)
}

fn check_rows(
    books: &Connection,
    kinds: &HashMap<i64, Kind>,
    audit: &mut Audit,
) -> rusqlite::Result<Sums> {
    let chain = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let (mut last, mut last_digest, end, end_digest): (i64, Digest, i64, Digest) =
        books.query_row("SELECT anchor, anchor_digest, last, last_digest FROM chain", [], chain)?;
    let mut statement = books.prepare("SELECT * FROM usage_rows ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut sums = Sums::new();
    while let Some(row) = rows.next()? {
        let mut numbers = [0; NUMBERS];
        for (at, number) in numbers.iter_mut().enumerate() {
            *number = row.get(row::column(at))?;
        }
        let [id, request, at_ms, _, _, _, _, _, _, _, _, _, cost, ..] = numbers;
        let kind: i64 = row.get(NUMBERS_ALWAYS)?;
        let name = || query::name(books, id, request);
        if id != last + 1 {
            audit.fault(format!("{}: {} rows before it are missing", name(), id - last - 1));
        }
        let Some(known) = kinds.get(&kind) else {
            audit.fault(format!("{}: its kind {kind} is missing", name()));
            continue;
        };
        let expected = row::chained(&last_digest, &known.digest, &numbers);
        last_digest = row.get(NUMBERS_ALWAYS + 1)?;
        if last_digest != expected && id == last + 1 {
            audit.fault(format!("{}: it was changed, or the one before it", name()));
        }
        last = id;
        check_cost(&numbers, known, &name, audit);
        audit.rows += 1;
        let sum = sums.entry((at_ms.div_euclid(HOUR_MS), kind)).or_default();
        *sum = (sum.0 + 1, sum.1 + i128::from(cost));
    }
    if (last, last_digest) != (end, end_digest) {
        audit.fault(format!("row {last} is the last one, but {end} were written"));
    }
    Ok(sums)
}

fn check_cost(numbers: &[i64; NUMBERS], kind: &Kind, name: &dyn Fn() -> String, audit: &mut Audit) {
    let counts = numbers.map(i64::unsigned_abs);
    let [_, _, _, input, read, write_5min, write_1h, output, reasoning, ..] = counts;
    let [.., audio_in, audio_out, tools, _, _, _, _, _, _, images, image_in, image_out] = counts;
    let [.., cost, _, _, _, _, _, _, _, _] = numbers;
    let usage = Usage {
        input_tokens: input,
        cache_read_input_tokens: read,
        cache_creation_input_tokens_5min: write_5min,
        cache_creation_input_tokens_1h: write_1h,
        output_tokens: output,
        reasoning_tokens: reasoning,
        input_audio_tokens: audio_in,
        output_audio_tokens: audio_out,
        tool_calls: tools,
        images,
        input_image_tokens: image_in,
        output_image_tokens: image_out,
    };
    let worked_out = match &kind.price {
        Ok(None) => 0,
        Ok(Some(applied)) => applied.cost(&usage),
        Err(()) => return audit.fault(format!("{}: its prices cannot be read", name())),
    };
    // What failed, and what vendors do not bill, costs nothing although it has a price.
    if *cost != worked_out && *cost != 0 {
        let name = name();
        audit.fault(format!("{name}: it cost {cost} picodollars, its prices say {worked_out}"));
    }
}

/// Compares rows with their sums; what the sums say was spent, by user and day.
fn check_rollups(
    books: &Connection,
    kinds: &HashMap<i64, Kind>,
    sums: &Sums,
    audit: &mut Audit,
) -> rusqlite::Result<BTreeMap<(String, i64), i128>> {
    let select = "SELECT hour, kind, requests, cost, pruned, pruned_cost FROM rollups";
    let mut statement = books.prepare(select)?;
    let mut rows = statement.query([])?;
    let mut spent: BTreeMap<(String, i64), i128> = BTreeMap::new();
    let mut seen = 0;
    while let Some(row) = rows.next()? {
        let (hour, kind): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (requests, cost): (i64, i64) = (row.get(2)?, row.get(3)?);
        let (pruned, pruned_cost): (i64, i64) = (row.get(4)?, row.get(5)?);
        let found = sums.get(&(hour, kind)).copied();
        seen += usize::from(found.is_some());
        let (found, found_cost) = found.unwrap_or_default();
        if found + pruned != requests || found_cost + i128::from(pruned_cost) != cost.into() {
            audit.fault(format!(
                "hour {hour}, kind {kind}: {requests} rows of {cost} picodollars were summed up; \
                 there are {found} of {found_cost}, and {pruned} of {pruned_cost} were pruned"
            ));
        }
        audit.pruned += pruned.unsigned_abs();
        audit.cost += i128::from(cost);
        let user = kinds.get(&kind).map(|kind| kind.user.clone()).unwrap_or_default();
        *spent.entry((user, hour.div_euclid(24))).or_default() += i128::from(cost);
    }
    if seen < sums.len() {
        audit.fault(format!("{} sums of rows are missing", sums.len() - seen));
    }
    Ok(spent)
}

fn check_spendings(
    books: &Connection,
    mut sums: BTreeMap<(String, i64), i128>,
    audit: &mut Audit,
) -> rusqlite::Result<()> {
    let read = |select: &str| -> rusqlite::Result<Vec<((String, i64), i128)>> {
        let mut statement = books.prepare(select)?;
        let rows = statement.query_map([], |row| {
            Ok(((row.get(0)?, row.get(1)?), i128::from(row.get::<_, i64>(2)?)))
        })?;
        rows.collect()
    };
    for (key, cost) in read("SELECT user, 0, cost_used FROM first_seen WHERE cost_used > 0")? {
        *sums.entry(key).or_default() += cost;
    }
    sums.retain(|_, cost| *cost != 0);
    let spent: BTreeMap<_, _> =
        read("SELECT user, day, cost FROM spendings")?.into_iter().collect();
    let keys: BTreeSet<_> = sums.keys().chain(spent.keys()).collect();
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
    Ok(())
}
