//! One row of the books, and its link in the chain.
//!
//! What many rows have in common is a `Kind`, written once and referred to by number, so that a row
//! is a few numbers. The digest of a row is over the one before, its kind's and every number of it:
//! whoever changes or takes out a row later breaks the chain there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

use crate::dialect::usage::Usage;
use crate::limits;
use crate::route::price::Applied;
use crate::secret::KeyId;

/// A digest as it is kept: half of a SHA-256.
pub(super) type Digest = [u8; 16];

/// One admitted request, as it is kept. Everything that its cost depends on stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The part of the request's id that belongs to the process: 56 bits.
    pub process: u64,
    /// The part that counts its requests: 40 bits.
    pub number: u64,
    /// When it was admitted, in milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// What it has in common with others.
    pub kind: Arc<Kind>,
    /// What was used.
    pub usage: Usage,
    /// What it cost, in picodollars.
    pub cost: i64,
    /// Attempts made.
    pub attempts: u32,
    /// From the first attempt to the upstream's head, in milliseconds; -1: none came.
    pub first_byte_ms: i64,
    /// All of it, in milliseconds.
    pub total_ms: i64,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the reply's body.
    pub bytes_out: u64,
}

/// What rows have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind<S = String> {
    /// Who called.
    pub user: S,
    /// With which key.
    pub user_key: KeyId,
    /// Who served.
    pub provider: S,
    /// With which of the provider's credentials, by its place among them.
    pub credential: Option<i64>,
    /// Name of the endpoint.
    pub operation: &'static str,
    /// Name of the dialect.
    pub protocol: &'static str,
    /// The model as it was asked for.
    pub model: S,
    /// Where, in `model`, the name begins that rate limits are tested against.
    pub limit_name_at: usize,
    /// The model as the upstream knows it.
    pub model_served: S,
    /// Where the counts come from.
    pub usage_source: &'static str,
    /// The tier that was served.
    pub service_tier: &'static str,
    /// The prices that were applied; `None`: the model has none.
    pub price: Option<Applied>,
    /// Status sent down; 0: none was.
    pub status: u16,
    /// How it ended, in a word.
    pub outcome: &'static str,
}

impl Kind {
    /// What rate limits are tested against: the name as asked, without its provider's prefix.
    pub fn limit_name(&self) -> &str {
        self.model.get(self.limit_name_at..).unwrap_or_default()
    }
}

impl<S: AsRef<str>> Kind<S> {
    /// The same kind, with its names taken otherwise.
    fn map<'a, T>(&'a self, name: impl Fn(&'a str) -> T) -> Kind<T> {
        Kind {
            user: name(self.user.as_ref()),
            user_key: self.user_key,
            provider: name(self.provider.as_ref()),
            credential: self.credential,
            operation: self.operation,
            protocol: self.protocol,
            model: name(self.model.as_ref()),
            limit_name_at: self.limit_name_at,
            model_served: name(self.model_served.as_ref()),
            usage_source: self.usage_source,
            service_tier: self.service_tier,
            price: self.price,
            status: self.status,
            outcome: self.outcome,
        }
    }
}

/// Kinds that were met lately. Rows of one kind share it: names that one thread copies and another
/// throws away are dear.
pub(super) struct Kinds([Mutex<Option<Arc<Kind>>>; limits::LEDGER_KINDS_SHARED]);

impl Default for Kinds {
    fn default() -> Kinds {
        Kinds([const { Mutex::new(None) }; limits::LEDGER_KINDS_SHARED])
    }
}

impl Kinds {
    /// The one that is shared, which this one becomes if there is none.
    pub(super) fn shared(&self, kind: &Kind<&str>) -> Arc<Kind> {
        let mut hasher = DefaultHasher::new();
        (kind.user_key, kind.credential, kind.model, kind.status).hash(&mut hasher);
        let mut place = self.0[hasher.finish() as usize % self.0.len()].lock();
        match &*place {
            Some(known) if known.map(|name| name) == *kind => known.clone(),
            _ => place.insert(Arc::new(kind.map(str::to_owned))).clone(),
        }
    }
}

/// A request's place among all of all processes.
pub(super) fn request(process: i64, number: u64) -> i64 {
    (process << NUMBER_BITS) | (number & NUMBER_MASK) as i64
}

const NUMBER_BITS: u32 = 40;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// Hexadecimal digits of an id that are the process's; the other ten are the number's.
const PROCESS_DIGITS: usize = 14;

/// The process of a request.
pub(super) fn process_of(request: i64) -> i64 {
    request >> NUMBER_BITS
}

/// A request's id as the caller was told it.
pub(super) fn id_text(prefix: i64, request: i64) -> String {
    format!("{prefix:014x}{:010x}", request as u64 & NUMBER_MASK)
}

/// The two parts of a request's id.
pub(super) fn split_id(id: &str) -> Option<(u64, u64)> {
    let is_id = id.len() == 24 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let (process, number) = id.split_at_checked(PROCESS_DIGITS).filter(|_| is_id)?;
    Some((u64::from_str_radix(process, 16).ok()?, u64::from_str_radix(number, 16).ok()?))
}

/// The digest of what rows have in common. Rows that were written before credentials were kept have
/// none, and the digest that they had.
pub(super) fn kind_digest(texts: &[&str], numbers: [i64; 2], credential: Option<i64>) -> Digest {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let numbers = numbers.into_iter().chain(credential);
    numbers.for_each(|number| context.update(&number.to_be_bytes()));
    finish(context)
}

/// Numbers of a row that its digest covers.
pub(super) const NUMBERS: usize = 21;
/// Of them, those that rows of every version have. Behind them stands what came later.
pub(super) const NUMBERS_ALWAYS: usize = 18;

/// Where a number's column is, from 0. The kind and the digest stand behind those that every row
/// has.
pub(super) fn column(number: usize) -> usize {
    if number < NUMBERS_ALWAYS { number } else { number + 2 }
}

/// A row's link in the chain. What came later is covered where any of it is there, so that rows
/// from before have the digests that they had.
pub(super) fn chained(before: &Digest, kind: &Digest, numbers: &[i64; NUMBERS]) -> Digest {
    let mut bytes = [0; 32 + 8 * NUMBERS];
    bytes[..16].copy_from_slice(before);
    bytes[16..32].copy_from_slice(kind);
    for (place, number) in bytes[32..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    let has_later = numbers[NUMBERS_ALWAYS..].iter().any(|number| *number != 0);
    let covered = if has_later { NUMBERS } else { NUMBERS_ALWAYS };
    let mut context = Context::new(&SHA256);
    context.update(&bytes[..32 + 8 * covered]);
    finish(context)
}

fn finish(context: Context) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&context.finish().as_ref()[..16]);
    digest
}

/// A count as the database holds it.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
