//! One connection over simulated ends, served as the listener's coroutine serves it, and the
//! configuration that it is served under.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;

use super::ends::{
    Author, Injected, Outcome, Script, Seen, SimClock, SimDownstream, SimUpstream, Wire,
};
use super::responses::{self, Response};
use crate::config;
use crate::exchange::{self, Core, Next, Session};
use crate::metrics::{Count, Gauge};
use crate::route::snapshot::Snapshot;
use crate::testing::prng::Prng;

/// The key of the user who may call everything.
pub(super) const ADA: &str = "sk-ada-0f1e2d3c4b5a6978";
/// The key of the user who may call `gpt-*` and `claude-*`.
pub(super) const BOB: &str = "sk-bob-8796a5b4c3d2e1f0";
/// A disabled key, and one of a disabled user.
pub(super) const DISABLED: [&str; 2] = ["sk-old-1122334455667788", "sk-eve-8877665544332211"];
/// What stands in every credential, and must never come down.
pub(super) const CREDENTIAL: &str = "cred-upstream-";

/// An alias that has to be escaped in JSON.
pub(super) const ODD_ALIAS: &str = "chät \"default\"";

pub(super) const BODY_BYTES_MAX: usize = 100_000;
pub(super) const EVENT_BYTES_MAX: usize = 6_000;
pub(super) const HEAD_BYTES_MAX: usize = 8_192;
pub(super) const HELD_BYTES_MAX: i64 = 200_000;

/// What every simulated gateway is configured with.
pub(super) const CONFIG: &str = r#"
[limits]
head_bytes_max = 8192
body_bytes_max = 100000
event_bytes_max = 6000
held_bytes_max = 200000
in_flight_max = 10
attempts_max = 1

[[providers]]
name = "alpha"
channel = "custom"
credentials = [
    { api_key = "cred-upstream-alpha-1", weight = 2 },
    { api_key = "cred-upstream-alpha-2" },
]
settings = { base_url = "https://alpha.example", keepalive_ms = 0 }
[[providers]]
name = "beta"
channel = "custom"
credentials = [{ api_key = "cred-upstream-beta" }]
[providers.settings]
base_url = "https://beta.example/openai/v1/"
dialects = ["openai_chat", "anthropic"]
include_usage = false
keepalive_ms = 0
forward_headers = ["OpenAI-Organization"]
[[providers]]
name = "gamma"
channel = "custom"
credentials = [{ api_key = "cred-upstream-gamma" }]
settings = { base_url = "https://gamma.example/v1beta", dialects = ["gemini"], keepalive_ms = 0 }
[[providers]]
name = "off"
enabled = false
channel = "custom"
settings = { base_url = "https://off.example" }

[[models]]
provider_name = "alpha"
model_id = "gpt-off"
enabled = false

[[model_aliases]]
alias = "chat-default"
provider_name = "alpha"
model_id = "gpt-real"
[[model_aliases]]
alias = "twin"
provider_name = "alpha"
model_id = "twin"
[[model_aliases]]
alias = "chät \"default\""
provider_name = "alpha"
model_id = "gpt/odd"
[[model_aliases]]
alias = "away"
provider_name = "beta"
model_id = "claude-away"
[[model_aliases]]
alias = "gem-default"
provider_name = "gamma"
model_id = "gemini-real"
[[model_aliases]]
alias = "stale"
provider_name = "alpha"
model_id = "gpt-real"
enabled = false

[[users]]
name = "ada"
keys = [
    { api_key = "sk-ada-0f1e2d3c4b5a6978" },
    { api_key = "sk-old-1122334455667788", enabled = false },
]
[[users]]
name = "bob"
keys = [{ api_key = "sk-bob-8796a5b4c3d2e1f0" }]
[[users]]
name = "eve"
enabled = false
keys = [{ api_key = "sk-eve-8877665544332211" }]

[[permissions]]
user_name = "ada"
model_pattern = "*"
[[permissions]]
user_name = "bob"
model_pattern = "gpt-*"
[[permissions]]
user_name = "bob"
provider_name = "beta"
model_pattern = "claude-*"
"#;

/// The same gateway after a reload that takes every key away, and room for events too.
pub(super) fn config_without_keys() -> String {
    let (limits, _) = CONFIG.split_once("[[providers]]").expect("limits come first");
    let limits = limits.replace("event_bytes_max = 6000", "event_bytes_max = 4096");
    format!("{limits}[[users]]\nname = \"nobody\"\n")
}

pub(super) fn snapshot(text: &str) -> Snapshot {
    let loaded = config::load(text, "simulation.toml", &|_| None);
    loaded.unwrap_or_else(|errors| panic!("{errors:?}")).snapshot
}

/// What one round of the connection's loop came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Again,
    Park,
    Close,
    /// A scripted panic came through, and the connection went with it.
    Panicked,
}

/// A connection and all that it hangs on.
pub(super) struct Connection {
    pub(super) core: Arc<Core>,
    pub(super) clock: SimClock,
    pub(super) wire: Rc<RefCell<Wire>>,
    /// Every call, in order.
    pub(super) seen: Rc<RefCell<Vec<Seen>>>,
    up: SimUpstream,
    session: Option<Session<SimDownstream>>,
}

impl Connection {
    pub(super) fn new(config: &str, wire: Wire, seed: u64, author: Author) -> Connection {
        let clock = SimClock::new();
        let core = Arc::new(Core::new(snapshot(config), Box::new(clock.clone()), seed));
        let wire = Rc::new(RefCell::new(wire));
        let seen = Rc::new(RefCell::new(Vec::new()));
        let up = SimUpstream {
            core: core.clone(),
            wire: wire.clone(),
            clock: clock.clone(),
            seen: seen.clone(),
            author,
            prng: Prng::new(seed),
        };
        Connection { core, clock, wire, seen, up, session: None }
    }

    /// One round. A parked connection is woken by the next.
    pub(super) fn step(&mut self) -> Step {
        let down = SimDownstream { wire: self.wire.clone(), clock: self.clock.clone() };
        let mut session = self.session.take().unwrap_or_else(|| Session::new(down));
        let core = self.core.clone();
        let served =
            catch_unwind(AssertUnwindSafe(|| exchange::serve(&core, &mut session, &mut self.up)));
        match served {
            Ok(Next::Again) => {
                self.session = Some(session);
                Step::Again
            }
            Ok(Next::Park) => Step::Park,
            Ok(Next::Close) => Step::Close,
            Err(panic) if panic.is::<Injected>() => Step::Panicked,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Rounds until the connection is no longer served.
    pub(super) fn run(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        loop {
            steps.push(self.step());
            assert!(steps.len() < 1_000, "a loop that nothing ends");
            if steps.last() != Some(&Step::Again) {
                return steps;
            }
        }
    }

    /// What has to be true when no exchange is under way, whatever happened before.
    pub(super) fn check_balance(&self) {
        let metrics = &self.core.metrics;
        let at_rest = [
            Gauge::RequestsInFlight,
            Gauge::PlacesTaken,
            Gauge::UpstreamInFlight,
            Gauge::HeldBytes,
            Gauge::Spools,
        ];
        for gauge in at_rest {
            assert_eq!(metrics.level(gauge), 0, "{gauge:?} is not back at zero");
        }
        let ended = metrics.counted(Count::Ended);
        assert_eq!(metrics.counted(Count::Requests), ended, "a request without its one note");
        let attempts = self.seen.borrow().len() as u64;
        assert_eq!(metrics.counted(Count::Attempts), attempts);
        assert!(metrics.counted(Count::Refused) <= ended);
    }

    /// Everything that went downstream, as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.wire.borrow().out).into_owned()
    }
}

/// An author that gives these outcomes in turn, and no more.
pub(super) fn in_turn(outcomes: Vec<Outcome>) -> Author {
    let mut outcomes = outcomes.into_iter();
    Box::new(move |seen, _| match outcomes.next() {
        Some(outcome) => outcome,
        None => panic!("a call too many: {}", seen.url),
    })
}

/// An author that gives one reply.
pub(super) fn once(script: Script) -> Author {
    in_turn(vec![Outcome::Answer(script)])
}

/// A sound request with the key of the user who may call everything.
pub(super) fn post(path: &str, body: &str) -> String {
    post_with(path, "", body)
}

/// The same with further header lines.
pub(super) fn post_with(path: &str, lines: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ADA}\r\n{lines}\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A chat request whose reply has a model to restore.
pub(super) fn chat() -> String {
    post("/v1/chat/completions", "{\"model\":\"alpha/gpt-x\"}")
}

/// The same as a stream.
pub(super) fn chat_stream() -> String {
    post("/v1/chat/completions", "{\"model\":\"alpha/gpt-x\",\"stream\":true}")
}

/// A connection on which `input` comes at once and the caller stays.
pub(super) fn connect(input: &str, author: Author) -> Connection {
    Connection::new(CONFIG, Wire::new(input.as_bytes(), 1), 1, author)
}

/// The same, served to its end; the only answer, the steps, and the connection.
#[track_caller]
pub(super) fn answer(input: &str, author: Author) -> (Response, Vec<Step>, Connection) {
    let mut connection = connect(input, author);
    let steps = connection.run();
    connection.check_balance();
    let mut all = connection.answers();
    assert_eq!(all.len(), 1, "{}", connection.text());
    (all.remove(0), steps, connection)
}

impl Connection {
    /// All answers so far, none of them to a HEAD.
    pub(super) fn answers(&self) -> Vec<Response> {
        responses::read(&self.wire.borrow().out, |_, _| false).all
    }
}
