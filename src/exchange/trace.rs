//! What is logged of one exchange, if anything is: gathered on the way, handed over at its end.
//!
//! Hangs on the note as an option, so that with logging off each step costs one branch. What must
//! not be read in a log never leaves here: fields and parameters that carry secrets by their names,
//! and the text of the caller's key and of each credential that was presented, wherever it stands.
//! Bodies of our own pages are not kept: passwords and new keys stand in them.

use std::sync::Arc;
use std::time::Instant;

use super::attempt::{Plan, UpHeaders};
use super::mask::mask;
use super::note::Note;
use super::{Books, Core};
use crate::dialect::headers;
use crate::dialect::path;
use crate::failure::Failure;
use crate::ledger::logs::{Attempt, Body, Entry, Exchange, Request};
use crate::limits;
use crate::metrics::{Count, Gauge, Held};
use crate::route::snapshot::{Logging, Snapshot};
use crate::secret::Secret;
use crate::wire::head::Head;

/// In the place of what is not told.
const MASKED: &str = "***";
/// Parameters of a query that carry a secret: whoever knows the address of an upload may go on
/// with it.
const SECRET_PARAMETERS: &[&str] = &[
    "key",
    "api_key",
    "api-key",
    "apikey",
    "access_token",
    "token",
    "sig",
    "signature",
    "upload_id",
    "subscription-key",
    "gproxy_session",
];
/// Fields that are called keys and open nothing.
const OPEN_KEYS: [&str; 2] = ["sec-websocket-key", "idempotency-key"];
/// A shorter text is no secret, and would be found in every sentence.
const SECRET_BYTES_MIN: usize = 4;

/// One exchange, as far as it went.
pub(super) struct Trace {
    logging: Logging,
    books: Arc<Books>,
    begun: Instant,
    secrets: Vec<Secret>,
    request: Request,
    request_body: Capture,
    response_body: Capture,
    attempts: Vec<Try>,
    // The one that something is told of; not the last one where two are under way.
    current: usize,
    account: Account,
}

/// The memory that bodies take here, of what all may hold. Logs may be lost: past the ceiling they
/// take none.
struct Account {
    held: Held,
    most: u64,
}

impl Account {
    fn takes(&mut self, bytes: usize) -> bool {
        let level = u64::try_from(self.held.level()).unwrap_or(0);
        let fits = level.saturating_add(bytes as u64) <= self.most;
        if fits {
            self.held.grow(bytes as i64);
        }
        fits
    }
}

struct Try {
    attempt: Attempt,
    begun: Instant,
    response_body: Capture,
}

/// The beginning of a body, and as much more as a secret is long: one that begins before the cap
/// is masked before it is cut.
#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    total: u64,
}

const CAPTURE_BYTES_MAX: usize = limits::LOG_BODY_BYTES_MAX + limits::SECRET_BYTES_MAX;

impl Capture {
    fn add(&mut self, bytes: &[u8], account: &mut Account) {
        let is_whole = self.is_whole();
        self.total += bytes.len() as u64;
        let has = self.bytes.len();
        let wanted = CAPTURE_BYTES_MAX.min(has + bytes.len());
        // Behind a gap nothing is taken.
        if !is_whole || wanted == has {
            return;
        }
        if wanted > self.bytes.capacity() {
            let room = CAPTURE_BYTES_MAX.min(2 * wanted);
            if !account.takes(room - self.bytes.capacity()) {
                return;
            }
            self.bytes.reserve_exact(room - has);
        }
        self.bytes.extend_from_slice(&bytes[..wanted - has]);
    }

    fn is_whole(&self) -> bool {
        self.total == self.bytes.len() as u64
    }

    fn body(mut self, secrets: &[Secret]) -> Body {
        let truncated = !self.is_whole() || self.bytes.len() > limits::LOG_BODY_BYTES_MAX;
        secrets.iter().for_each(|secret| mask(secret.expose().as_bytes(), &mut self.bytes, 0));
        self.bytes.truncate(limits::LOG_BODY_BYTES_MAX);
        Body { bytes: self.bytes, truncated }
    }
}

impl Trace {
    /// Begins one, if the exchange is to be logged. `head`: none could be read.
    #[inline(never)]
    pub(super) fn begin(
        core: &Core,
        snapshot: &Snapshot,
        head: Option<&Head>,
    ) -> Option<Box<Trace>> {
        let books = core.books.clone().filter(|books| books.ledger.is_some())?;
        let at_ms = core.clock.unix_ms();
        let mut trace = Box::new(Trace {
            logging: snapshot.logging,
            books,
            begun: core.now(),
            secrets: Vec::new(),
            request: Request { both: Exchange { at_ms, ..exchange() }, ..Request::default() },
            request_body: Capture::default(),
            response_body: Capture::default(),
            attempts: Vec::new(),
            current: 0,
            account: Account {
                held: core.metrics.clone().hold(Gauge::HeldBytes, 0),
                most: snapshot.limits.held_bytes_max,
            },
        });
        if let Some(head) = head {
            let key = headers::credential_of(&head.headers);
            let key = key.and_then(|key| std::str::from_utf8(key).ok()).map(Secret::new);
            key.into_iter()
                .chain(path::query_key(head.target()))
                .for_each(|key| trace.keep_secret(key));
            let (path, query) = path::split(head.target());
            trace.request.both.method = head.method().to_owned();
            trace.request.path = path.to_owned();
            trace.request.query = redacted_query(query);
            trace.request.both.request_headers = trace.fields(head.headers.iter());
        }
        Some(trace)
    }

    fn keep_secret(&mut self, secret: Secret) {
        let known = |other: &Secret| other.expose() == secret.expose();
        if secret.expose().len() >= SECRET_BYTES_MIN && !self.secrets.iter().any(known) {
            self.secrets.push(secret);
        }
    }

    /// Bytes of the request's body, as they came.
    pub(super) fn request_body(&mut self, bytes: &[u8]) {
        if self.logging.enable_downstream_log_body {
            self.request_body.add(bytes, &mut self.account);
        }
    }

    /// The request is for one of our own pages.
    pub(super) fn is_internal(&mut self) {
        self.request.internal = true;
    }

    /// The answer's head, and the first bytes of its body perhaps.
    pub(super) fn response_head(&mut self, core: &Core, bytes: &[u8]) {
        if self.request.both.initial_ms < 0 {
            self.request.both.initial_ms = ms_since(self.begun, core.now());
        }
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len());
        let lines = bytes[..end].split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            Some((name, line[colon + 1..].trim_ascii()))
        });
        self.request.both.response_headers = self.fields(lines);
    }

    /// Bytes of the answer's body, as they go.
    pub(super) fn response_body(&mut self, bytes: &[u8]) {
        if self.logging.enable_downstream_log_body {
            self.response_body.add(bytes, &mut self.account);
        }
    }

    /// An attempt begins.
    pub(super) fn attempt(
        &mut self,
        core: &Core,
        number: u32,
        plan: &Plan<'_>,
        headers: &UpHeaders<'_>,
        secret: Option<&str>,
        body: &[u8],
    ) {
        // The one before had a reply that was not passed on.
        self.end_with(core, "repeated".to_owned());
        self.beside(core, number, plan, headers, secret, body);
        self.turn_to_last_but(0);
    }

    /// From here on something is told of the attempt behind which so many came.
    pub(super) fn turn_to_last_but(&mut self, count: usize) {
        self.current = self.attempts.len().saturating_sub(1 + count);
    }

    /// The attempt was given up, or its refusal left, since the one beside it spoke.
    pub(super) fn overtaken(&mut self, core: &Core) {
        self.end_with(core, "overtaken".to_owned());
    }

    /// An attempt begins beside the present one.
    pub(super) fn beside(
        &mut self,
        core: &Core,
        number: u32,
        plan: &Plan<'_>,
        headers: &UpHeaders<'_>,
        secret: Option<&str>,
        body: &[u8],
    ) {
        if let Some(secret) = secret {
            self.keep_secret(Secret::new(secret));
        }
        if !self.logging.enable_upstream_log {
            return;
        }
        let mut fields = Vec::new();
        headers.each(&mut |name, value| fields.push((name.to_owned(), value.to_vec())));
        let fields = fields.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        let mut both = Exchange {
            at_ms: core.clock.unix_ms(),
            method: plan.method().to_owned(),
            request_headers: self.fields(fields),
            ..exchange()
        };
        if self.logging.enable_upstream_log_body {
            let mut request = Capture::default();
            request.add(body, &mut self.account);
            both.request = Some(request.body(&self.secrets));
        }
        let credentials = &plan.provider.credentials;
        // An account presents a token, which is none of the pool's keys.
        let credential = secret.and_then(|presented| {
            credentials.iter().position(|credential| credential.api_key.expose() == presented)
        });
        let credential = credential.map_or(-1, |at| at as i64);
        let url = match plan.url().split_once('?') {
            Some((url, query)) => format!("{url}?{}", redacted_query(query)),
            None => plan.url().to_owned(),
        };
        let attempt = Attempt {
            both,
            number,
            provider: plan.provider.name.clone(),
            credential,
            url: self.masked(url),
            end: String::new(),
        };
        let response_body = Capture::default();
        self.attempts.push(Try { attempt, begun: core.now(), response_body });
    }

    /// The attempt's reply has its head.
    pub(super) fn replied<'r>(
        &mut self,
        core: &Core,
        status: u16,
        fields: impl Iterator<Item = (&'r str, &'r [u8])>,
    ) {
        let fields = self.fields(fields);
        let Some(last) = self.attempts.get_mut(self.current) else { return };
        let both = &mut last.attempt.both;
        both.status = status;
        both.response_headers = fields;
        both.initial_ms = ms_since(last.begun, core.now());
    }

    /// Bytes of the reply's body, as they came.
    pub(super) fn reply_body(&mut self, bytes: &[u8]) {
        if self.logging.enable_upstream_log_body
            && let Some(last) = self.attempts.get_mut(self.current)
        {
            last.response_body.add(bytes, &mut self.account);
        }
    }

    /// The attempt ended, and why.
    pub(super) fn ended(&mut self, core: &Core, failure: &Failure) {
        self.end_with(core, format!("{:?} {:?}", failure.phase, failure.cause));
    }

    fn end_with(&mut self, core: &Core, why: String) {
        let Some(last) = self.attempts.get_mut(self.current) else { return };
        if last.attempt.end.is_empty() {
            last.attempt.both.total_ms = ms_since(last.begun, core.now());
            last.attempt.end = why;
        }
    }

    /// Hands over what was gathered.
    pub(super) fn hand_over(self: Box<Self>, note: &Note, snapshot: &Snapshot) {
        let Trace {
            logging,
            books,
            secrets,
            mut request,
            attempts,
            account,
            request_body,
            response_body,
            ..
        } = *self;
        let id = note.id.as_str();
        let total_ms = note.total_ms();
        let mut upstream = Vec::with_capacity(attempts.len());
        for tried in attempts {
            let mut attempt = tried.attempt;
            attempt.both.request_id = id.to_owned();
            if attempt.end.is_empty() {
                attempt.end = note.end.to_owned();
                attempt.both.total_ms = ms_since(tried.begun, note.ended_at);
            }
            let body = logging.enable_upstream_log_body && attempt.both.status != 0;
            attempt.both.response = body.then(|| tried.response_body.body(&secrets));
            upstream.push(attempt);
        }
        let downstream = logging.enable_downstream_log.then(|| {
            request.both.request_id = id.to_owned();
            request.both.status = note.status;
            request.both.total_ms = total_ms;
            request.user = note.user.map_or("", |at| &snapshot.users[at].name).to_owned();
            request.user_key = note.key_id().as_str().to_owned();
            request.outcome = note.end;
            if logging.enable_downstream_log_body && !request.internal {
                request.both.request = Some(request_body.body(&secrets));
                request.both.response = Some(response_body.body(&secrets));
            }
            for text in [&mut request.path, &mut request.query, &mut request.both.request_headers] {
                *text = masked(&secrets, std::mem::take(text));
            }
            request
        });
        drop(account);
        let Some(ledger) = &books.ledger else { return };
        let entry = Entry { downstream, upstream };
        if (entry.downstream.is_some() || !entry.upstream.is_empty()) && !ledger.log(entry) {
            note.metrics().count(Count::RequestLogsDropped);
        }
    }

    fn masked(&self, text: String) -> String {
        masked(&self.secrets, text)
    }

    /// Fields as a JSON array of pairs, less what is secret.
    fn fields<'f>(&self, fields: impl Iterator<Item = (&'f str, &'f [u8])>) -> String {
        let pairs = fields.map(|(name, value)| {
            let value = match is_secret_field(name) {
                true => MASKED.to_owned(),
                false => self.masked(String::from_utf8_lossy(value).into_owned()),
            };
            [name.to_owned(), value]
        });
        serde_json::to_string(&pairs.collect::<Vec<_>>()).unwrap_or_default()
    }
}

/// One of which nothing is known yet.
fn exchange() -> Exchange {
    Exchange { initial_ms: -1, ..Exchange::default() }
}

fn ms_since(begun: Instant, now: Instant) -> i64 {
    now.saturating_duration_since(begun).as_millis() as i64
}

fn masked(secrets: &[Secret], text: String) -> String {
    let mut bytes = text.into_bytes();
    secrets.iter().for_each(|secret| mask(secret.expose().as_bytes(), &mut bytes, 0));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A field whose name says that its value is nobody's business.
fn is_secret_field(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let parts = ["auth", "cookie", "api-key", "apikey", "secret", "password", "signature"];
    let is_address = ["x-goog-upload-url", "x-goog-upload-control-url"].contains(&name.as_str());
    let is_key = name.ends_with("key") && !OPEN_KEYS.iter().any(|open| name.ends_with(open));
    // Tokens that are counted are many.
    let has_token = name.split(['-', '_']).any(|word| word.ends_with("token"));
    is_address || is_key || has_token || parts.iter().any(|part| name.contains(part))
}

fn redacted_query(query: &str) -> String {
    let redacted = |parameter: &str| {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        let is_secret = match path::decode(name) {
            Ok(name) => SECRET_PARAMETERS.iter().any(|secret| name.eq_ignore_ascii_case(secret)),
            Err(_) => true,
        };
        match is_secret {
            true => format!("{name}={MASKED}"),
            false => parameter.to_owned(),
        }
    };
    query.split('&').map(redacted).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_logged_body_takes_no_memory_past_the_ceiling_and_says_that_there_was_more() {
        let metrics = Arc::new(Metrics::default());
        let held = metrics.clone().hold(Gauge::HeldBytes, 0);
        let mut account = Account { held, most: 100_000 };
        let (mut first, mut second) = (Capture::default(), Capture::default());
        for _ in 0..20 {
            first.add(&[b'x'; 10_000], &mut account);
            second.add(&[b'y'; 10_000], &mut account);
            let level = metrics.level(Gauge::HeldBytes);
            assert_eq!(level, (first.bytes.capacity() + second.bytes.capacity()) as i64);
            assert!(level <= 100_000, "{level}");
        }
        drop(first);
        let mut late = Capture::default();
        late.add(b"whole", &mut Account { most: 0, ..account });
        for (capture, least) in [(second, 20_000), (late, 0)] {
            let body = capture.body(&[]);
            assert!(body.truncated && body.bytes.len() >= least, "{}", body.bytes.len());
        }
        assert_eq!(metrics.level(Gauge::HeldBytes), 0);
    }

    #[test]
    fn secrets_of_a_query_are_masked_however_their_names_are_spelled() {
        let rows = [
            ("", ""),
            ("alt=sse", "alt=sse"),
            ("key=abc&alt=sse", "key=***&alt=sse"),
            ("%6bey=abc", "%6bey=***"),
            ("KEY=abc&access_token=x", "KEY=***&access_token=***"),
            ("%zz=abc", "%zz=***"),
            ("keys=abc", "keys=abc"),
            ("Subscription-Key=abc", "Subscription-Key=***"),
            ("upload_id=a&gproxy_session=b", "upload_id=***&gproxy_session=***"),
        ];
        for (query, expected) in rows {
            assert_eq!(redacted_query(query), expected, "{query}");
        }
    }

    #[test]
    fn fields_that_carry_secrets_are_known_by_their_names() {
        for name in [
            "authorization",
            "Cookie",
            "x-goog-api-key",
            "X-Goog-Upload-URL",
            "x-token",
            "X-Token-Value",
            "x_access_token",
            "Ocp-Apim-Subscription-Key",
            "x-functions-key",
            "x-access-key",
            "x_access_key",
            "key",
        ] {
            assert!(is_secret_field(name), "{name}");
        }
        for name in [
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-input-tokens-limit",
            "x-gproxy-output-tokens",
            "content-type",
            "anthropic-beta",
            "host",
            "Sec-WebSocket-Key",
            "Idempotency-Key",
            "x-idempotency-key",
            "x-keys",
        ] {
            assert!(!is_secret_field(name), "{name}");
        }
    }
}
