//! Access tokens of service accounts: one for each account, got when it is first needed, renewed
//! ahead of its end.
//!
//! Whoever needs a token that is not there claims the account and asks for one; the others look
//! again every few milliseconds, since coroutines of several workers share no queue. While an old
//! token counts everybody goes on with it: an errand of the gateway's own renews it. No lock is
//! held while anybody waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use super::{Core, Fetch, Upstream};
use crate::failure::{Cause, Failure, Phase, Sent};
use crate::limits;
use crate::route::account::{self, Account};
use crate::route::snapshot::{Provider, Snapshot};
use crate::secret::{Digest, Secret};

/// How often those look who wait for somebody else's token.
const PAUSE: Duration = Duration::from_millis(20);

/// The tokens of every account.
#[derive(Default)]
pub(super) struct Tokens {
    cells: RwLock<HashMap<Digest, Arc<Cell>>>,
}

/// A token that counts for a while.
pub(super) struct Token {
    text: Secret,
    renew_at: Instant,
    ends_at: Instant,
}

/// What is known of one account's token.
#[derive(Default)]
struct Cell(Mutex<State>);

#[derive(Default)]
struct State {
    token: Option<Arc<Token>>,
    // Somebody is asking for one.
    claimed: bool,
    // Why the last asking failed, and before when nobody asks again.
    failed: Option<(Cause, Instant)>,
    // The token was used: an idle account's is not renewed.
    used: bool,
    // When an upstream last refused a token that should have counted.
    refused_at: Option<Instant>,
}

enum Look {
    Token(Arc<Token>),
    Yours(Claim),
    Wait,
    Failed(Cause),
}

/// The right to ask for a token, given back when it is dropped.
pub(super) struct Claim(Arc<Cell>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.0.lock().claimed = false;
    }
}

impl Token {
    fn new(text: Secret, life_s: u64, now: Instant) -> Token {
        let life = Duration::from_secs(life_s);
        let ahead = Duration::from_millis(limits::TOKEN_AHEAD_MS).min(life * 3 / 4);
        let margin = Duration::from_millis(limits::TOKEN_MARGIN_MS).min(life / 10);
        Token { text, renew_at: now + life - ahead, ends_at: now + life - margin }
    }

    /// The clear text, for the header that carries it.
    pub(super) fn expose(&self) -> &str {
        self.text.expose()
    }
}

impl Cell {
    fn look(self: &Arc<Cell>, now: Instant) -> Look {
        let mut state = self.0.lock();
        if let Some(token) = state.token.as_ref().filter(|token| now < token.ends_at) {
            let token = token.clone();
            state.used = true;
            return Look::Token(token);
        }
        if state.claimed {
            return Look::Wait;
        }
        if let Some((cause, _)) = state.failed.filter(|(_, until)| now < *until) {
            return Look::Failed(cause);
        }
        state.claimed = true;
        Look::Yours(Claim(self.clone()))
    }

    /// The right to renew a token that is used and nears its end.
    fn renewal(self: &Arc<Cell>, now: Instant) -> Option<Claim> {
        let mut state = self.0.lock();
        let is_due = state.token.as_ref().is_some_and(|token| now >= token.renew_at);
        let waits = state.claimed || state.failed.is_some_and(|(_, until)| now < until);
        if !is_due || !state.used || waits {
            return None;
        }
        state.claimed = true;
        Some(Claim(self.clone()))
    }

    fn put(&self, token: Token) -> Arc<Token> {
        let token = Arc::new(token);
        let mut state = self.0.lock();
        state.token = Some(token.clone());
        state.failed = None;
        state.used = false;
        token
    }

    /// An upstream refused the token. It is dropped, but not the one that comes in its place: then
    /// it is not the token that is refused.
    fn refused(&self, token: &Arc<Token>, now: Instant) -> bool {
        let mut state = self.0.lock();
        if state.token.as_ref().is_none_or(|current| !Arc::ptr_eq(current, token)) {
            return true;
        }
        let pause = Duration::from_millis(limits::TOKEN_REFUSED_MS);
        if state.refused_at.is_some_and(|at| now < at + pause) {
            return false;
        }
        state.token = None;
        state.refused_at = Some(now);
        true
    }
}

impl Tokens {
    fn cell(&self, account: &Account) -> Arc<Cell> {
        if let Some(cell) = self.cells.read().get(&account.id) {
            return cell.clone();
        }
        self.cells.write().entry(account.id).or_default().clone()
    }

    /// Forgets the accounts that are gone.
    pub(super) fn keep_those_of(&self, snapshot: &Snapshot) {
        let accounts = snapshot.providers.iter().flat_map(|provider| &provider.credentials);
        let kept: Vec<Digest> = accounts.filter_map(|one| Some(one.account.as_ref()?.id)).collect();
        self.cells.write().retain(|id, _| kept.contains(id));
    }

    /// The right to renew the account's token, when it is time.
    pub(super) fn renewal(&self, account: &Account, now: Instant) -> Option<Claim> {
        self.cells.read().get(&account.id)?.renewal(now)
    }

    /// An upstream refused the token. Whether another one is to be had.
    pub(super) fn refused(&self, account: &Account, token: &Arc<Token>, now: Instant) -> bool {
        self.cell(account).refused(token, now)
    }
}

/// A token that counts. Waits for it when there is none, for as long as the caller has left and a
/// call of our own may take.
pub(super) fn get<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    account: &Account,
    left: Duration,
) -> Result<Arc<Token>, Failure> {
    let cell = core.tokens.cell(account);
    let begun = core.now();
    let until = begun + left.min(Duration::from_millis(limits::FETCH_MS_MAX));
    loop {
        let now = core.now();
        match cell.look(now) {
            Look::Token(token) => return Ok(token),
            Look::Yours(claim) => {
                let left = (begun + left).saturating_duration_since(now).as_millis() as u64;
                let ms_max = left.min(limits::FETCH_MS_MAX);
                return renew(core, up, provider, account, claim, ms_max);
            }
            Look::Failed(cause) => return Err(missing(cause)),
            Look::Wait if core.cut.load(Ordering::Relaxed) => {
                return Err(missing(Cause::ShuttingDown));
            }
            Look::Wait if now >= until => return Err(missing(Cause::TimedOut)),
            Look::Wait if up.pause(PAUSE) => {}
            Look::Wait => return Err(missing(Cause::DownstreamGone)),
        }
    }
}

/// Asks for a token, and notes what comes of it.
pub(super) fn renew<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    account: &Account,
    claim: Claim,
    ms_max: u64,
) -> Result<Arc<Token>, Failure> {
    let failure = match ask(core, up, provider, account, ms_max) {
        Ok((text, life_s)) => return Ok(claim.0.put(Token::new(text, life_s, core.now()))),
        Err(failure) => failure,
    };
    // A caller who leaves, or has less time than others, says nothing about the account.
    let is_hasty = failure.cause == Cause::TimedOut && ms_max < limits::FETCH_MS_MAX;
    if failure.cause != Cause::DownstreamGone && !is_hasty {
        let until = core.now() + Duration::from_millis(limits::TOKEN_RETRY_MS);
        claim.0.0.lock().failed = Some((failure.cause, until));
    }
    Err(failure)
}

fn ask<U: Upstream>(
    core: &Core,
    up: &mut U,
    provider: &Provider,
    account: &Account,
    ms_max: u64,
) -> Result<(Secret, u64), Failure> {
    let claim = account.claim(core.clock.unix_ms() / 1_000).ok_or(missing(Cause::NoToken))?;
    let fetch = Fetch {
        provider,
        method: "POST",
        url: &account.token_uri,
        headers: &[
            ("content-type", "application/x-www-form-urlencoded"),
            ("accept", "application/json"),
        ],
        body: claim.expose().as_bytes(),
        bytes_max: limits::TOKEN_REPLY_BYTES_MAX,
        ms_max,
    };
    let (name, email) = (&provider.name, &account.client_email);
    let reply = super::errand::fetch(up, &fetch).map_err(|failure| {
        if failure.cause != Cause::DownstreamGone {
            let what = format_args!("{:?} in {:?}", failure.cause, failure.phase);
            log::warn!(target: "gproxy::token", "{name}: no token for {email}: {what}");
        }
        missing(failure.cause)
    })?;
    let token = account::token(&reply.body).filter(|_| reply.status == 200);
    token.ok_or_else(|| {
        let word = account::refusal_word(&reply.body);
        let status = reply.status;
        log::warn!(target: "gproxy::token", "{name}: no token for {email}: {status} {word}");
        // What is refused otherwise may be had soon.
        missing(if matches!(status, 400 | 401) { Cause::AccountRefused } else { Cause::NoToken })
    })
}

/// No token is there, so nothing was sent.
fn missing(cause: Cause) -> Failure {
    Failure { phase: Phase::Connect, sent: Sent::Nothing, cause, reused: false, after_ms: 0 }
}
