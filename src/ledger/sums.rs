//! Sums of rows by what they have in common, made of the hourly and daily ones.
//!
//! Adds up here and not in SQL: what is read are numbers in the order in which they lie, and the
//! names stand once in a table of kinds, so that nothing is sorted by its texts.

use std::collections::{BTreeMap, HashMap};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, params_from_iter};
use serde_json::{Map, Value, json};

use super::LedgerError;
use super::daily::{self, SUMMED};
use super::query::{Conditions, Filter, Reader};
use crate::money;
use crate::route::rate::DAY_MS;

/// What sums are taken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The user.
    User,
    /// The user's key.
    Key,
    /// The provider.
    Provider,
    /// The model, or alias, as asked for.
    Model,
    /// The model that served.
    ModelServed,
    /// The endpoint.
    Operation,
    /// The status.
    Status,
    /// How it ended.
    Outcome,
    /// The hour of admission: when it began, in milliseconds since 1970.
    Hour,
    /// The UTC day, likewise.
    Day,
}

impl Group {
    /// Name of the sum's column.
    fn name(self) -> &'static str {
        match self {
            Group::User => "user",
            Group::Key => "user_key",
            Group::Provider => "provider",
            Group::Model => "model",
            Group::ModelServed => "model_served",
            Group::Operation => "operation",
            Group::Status => "status",
            Group::Outcome => "outcome",
            Group::Hour => "hour",
            Group::Day => "day",
        }
    }

    /// For groups in time: when that of an hour begins, in milliseconds since 1970.
    fn begins(self, hour: i64) -> Option<i64> {
        match self {
            Group::Hour => Some(hour * (DAY_MS / 24)),
            Group::Day => Some(hour.div_euclid(24) * DAY_MS),
            _ => None,
        }
    }
}

/// What stands in the column of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Number(i64),
    Text(String),
}

/// The sums of [`SUMMED`], and of the requests among them that failed.
#[derive(Clone, Copy, Default)]
struct Sums {
    numbers: [i128; SUMMED.len()],
    failed: i128,
}

/// Where the rows of a kind belong.
struct Place {
    /// Which of the groups that are not in time.
    group: usize,
    has_failed: bool,
}

/// The kinds that pass, and the words of their groups.
#[derive(Default)]
struct Places {
    of_kinds: HashMap<i64, Place>,
    groups: Vec<Vec<Word>>,
}

impl Reader {
    /// Sums of the rows that pass the filter, by what is asked for, in its order. Rows that are no
    /// longer there count too.
    pub fn sums(
        &self,
        filter: &Filter,
        by: &[Group],
    ) -> Result<Vec<Map<String, Value>>, LedgerError> {
        self.sound(self.sum_up(filter, by))
    }

    fn sum_up(&self, filter: &Filter, by: &[Group]) -> rusqlite::Result<Vec<Map<String, Value>>> {
        // The sums, their kinds, and until when there are daily ones, must be of one moment.
        let moment = self.books.unchecked_transaction()?;
        let places = places(&moment, &filter.of_kinds(), by)?;
        let (from, to) = filter.hours();
        let source = match by.contains(&Group::Hour) {
            true => daily::hours(from, to),
            false => daily::source(&moment, from, to)?,
        };
        let mut all: HashMap<(Vec<i64>, usize), Sums> = HashMap::new();
        let mut statement = moment.prepare(&source)?;
        let mut rows = statement.query([])?;
        let mut key = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let Some(place) = places.of_kinds.get(&row.get(1)?) else { continue };
            let hour = row.get(0)?;
            key.0.clear();
            key.0.extend(by.iter().filter_map(|group| group.begins(hour)));
            key.1 = place.group;
            let sums = match all.get_mut(&key) {
                Some(sums) => sums,
                None => all.entry(key.clone()).or_default(),
            };
            for (at, sum) in sums.numbers.iter_mut().enumerate() {
                *sum += i128::from(row.get::<_, i64>(at + 2)?);
            }
            if place.has_failed {
                sums.failed += i128::from(row.get::<_, i64>(2)?);
            }
        }
        Ok(shown(all, &places, by))
    }
}

/// What each kind that passes belongs to.
fn places(books: &Connection, conditions: &Conditions, by: &[Group]) -> rusqlite::Result<Places> {
    let mut columns = String::new();
    let names: Vec<_> = by.iter().filter(|group| group.begins(0).is_none()).collect();
    names.iter().for_each(|group| columns.push_str(&format!(", {}", group.name())));
    let select = format!(
        "SELECT id, status >= 400 OR outcome <> 'ok'{columns} FROM kinds{}",
        conditions.text
    );
    let mut statement = books.prepare(&select)?;
    let mut rows = statement.query(params_from_iter(&conditions.values))?;
    let mut known: BTreeMap<Vec<Word>, usize> = BTreeMap::new();
    let mut places = Places::default();
    while let Some(row) = rows.next()? {
        let words = (0..names.len()).map(|at| row.get_ref(at + 2).map(word));
        let words = words.collect::<rusqlite::Result<Vec<_>>>()?;
        let group = *known.entry(words).or_insert_with_key(|words| {
            places.groups.push(words.clone());
            places.groups.len() - 1
        });
        places.of_kinds.insert(row.get(0)?, Place { group, has_failed: row.get(1)? });
    }
    Ok(places)
}

fn word(cell: ValueRef<'_>) -> Word {
    match cell {
        ValueRef::Integer(number) => Word::Number(number),
        ValueRef::Text(text) => Word::Text(String::from_utf8_lossy(text).into_owned()),
        _ => Word::Text(String::new()),
    }
}

/// The sums as they are told, in the order of what they have in common.
fn shown(
    all: HashMap<(Vec<i64>, usize), Sums>,
    places: &Places,
    by: &[Group],
) -> Vec<Map<String, Value>> {
    let mut ordered: Vec<(Vec<Word>, Sums)> = Vec::with_capacity(all.len());
    for ((times, group), sums) in all {
        let mut times = times.into_iter();
        let mut words = places.groups[group].iter();
        let next = |group: &Group| match group.begins(0) {
            Some(_) => times.next().map(Word::Number),
            None => words.next().cloned(),
        };
        ordered.push((by.iter().map_while(next).collect(), sums));
    }
    ordered.sort_by(|(one, _), (other, _)| one.cmp(other));
    let told = ordered.into_iter().map(|(words, sums)| told(by, words, Some(sums)));
    let told: Vec<_> = told.collect();
    // A whole of nothing is told as one.
    if told.is_empty() && by.is_empty() { vec![self::told(by, Vec::new(), None)] } else { told }
}

fn told(by: &[Group], words: Vec<Word>, sums: Option<Sums>) -> Map<String, Value> {
    let mut told = Map::new();
    for (group, word) in by.iter().zip(words) {
        let word = match word {
            Word::Number(number) => json!(number),
            Word::Text(text) => json!(text),
        };
        told.insert(group.name().to_owned(), word);
    }
    let number = |sum: i128| json!(i64::try_from(sum).unwrap_or(i64::MAX));
    let of = |sum: fn(&Sums, usize) -> i128, at| sums.as_ref().map(|sums| number(sum(sums, at)));
    told.insert("failed".to_owned(), json!(of(|sums, _| sums.failed, 0)));
    for (at, name) in SUMMED.into_iter().enumerate() {
        let value = match name {
            // All of them may be more than one amount can be.
            "cost" => json!(money::grand_text(sums.map_or(0, |sums| sums.numbers[at]))),
            _ => json!(of(|sums, at| sums.numbers[at], at)),
        };
        told.insert(name.to_owned(), value);
    }
    told
}
