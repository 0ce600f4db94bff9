//! The books against the truth: an upstream that knows what it billed, callers that know what they
//! got, and every row held to both.
//!
//! Requests of all dialects, whole and streamed, are answered, refused, cut and left at every
//! event. Upstream and callers keep logs of their own, outside the gateway; the rows are joined to
//! them by the model's name and the body's length, which no two requests share, and by the request
//! id where the caller was told one. 3,000 requests by default, 100,000 with `SLOW=1`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::support;
use crate::support::books::Row;
use crate::support::client::post;
use crate::support::{Client, Config, Conn, Gateway, Random, Seen, Upstream, size, wait_for};
use serde_json::{Value, json};

const CALLERS: usize = 24;
/// Names of models; with the length of the body they tell every request from every other.
const MODELS: usize = 500;
/// Events of a stream between its first and its last.
const EVENTS: usize = 4;
const DIALECTS: &str =
    r#""openai_chat", "openai_responses", "openai_embeddings", "anthropic", "gemini""#;

/// Picodollars for a call, and for a million tokens of each counter.
const EACH_CALL: i128 = 1_000_003;
const PRICES: [i128; 5] =
    [1_234_567_000_001, 123_456_700_001, 1_500_000_000_001, 2_000_000_000_001, 7_654_321_000_003];

/// Uncached, read from a cache, written for five minutes and for an hour, generated.
type Counts = [u64; 5];

fn cost_of(counts: &Counts) -> i64 {
    let tokens = counts.iter().zip(PRICES);
    let tokens = tokens.map(|(count, price)| (i128::from(*count) * price + 500_000) / 1_000_000);
    i64::try_from(EACH_CALL + tokens.sum::<i128>()).expect("a small amount")
}

fn tables() -> String {
    let price = |at: usize| {
        format!("{}.{:012}", PRICES[at] / 1_000_000_000_000, PRICES[at] % 1_000_000_000_000)
    };
    let models = |provider: &str| {
        format!(
            "[[models]]\nprovider_name = \"{provider}\"\nmodel_id = \"default\"\n\
             price_each_call = \"0.{EACH_CALL:012}\"\nprice_tiers = [{{ \
             price_input_tokens = \"{}\", price_cache_read_input_tokens = \"{}\", \
             price_cache_creation_input_tokens_5min = \"{}\", \
             price_cache_creation_input_tokens_1h = \"{}\", price_output_tokens = \"{}\" }}]\n",
            price(0),
            price(1),
            price(2),
            price(3),
            price(4)
        )
    };
    models("router") + &models("drainer")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Chat,
    Responses,
    Anthropic,
    Gemini,
}

/// What becomes of a request, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Served,
    /// The upstream's own error.
    Fails(u16),
    /// The upstream breaks off behind so many pieces; `usize::MAX`: before its head.
    Cut(usize, bool),
    /// The caller leaves behind so many pieces; `usize::MAX`: before the head.
    Left(usize, bool),
}

/// One request, worked out from its number alone, by both logs alike.
#[derive(Clone, Copy, Debug)]
struct Plan {
    dialect: Dialect,
    stream: bool,
    drains: bool,
    fate: Fate,
    counts: Counts,
}

impl Plan {
    fn of(number: usize) -> Plan {
        let mut random = Random::new(number as u64 + 7);
        let dialects = [Dialect::Chat, Dialect::Responses, Dialect::Anthropic, Dialect::Gemini];
        let dialect = dialects[random.below(4)];
        let stream = random.below(3) > 0;
        let drains = random.below(2) == 0;
        // Behind the first of all, before each of the next, behind the last.
        let pieces = if stream { EVENTS + 3 } else { 2 };
        let place = match random.below(pieces + 1) {
            0 => usize::MAX,
            place => place - 1,
        };
        let hard = random.below(2) == 0;
        let fate = match random.below(10) {
            0 => Fate::Fails(if hard { 429 } else { 500 }),
            1 | 2 => Fate::Cut(place, hard),
            3..6 => Fate::Left(place, hard),
            _ => Fate::Served,
        };
        let mut counts = [0; 5].map(|_: u64| random.below(5_000) as u64);
        if dialect != Dialect::Anthropic {
            counts[3] = 0;
        }
        if dialect == Dialect::Gemini {
            counts[2] = 0;
        }
        Plan { dialect, stream, drains, fate, counts }
    }

    fn request(&self, number: usize) -> (Vec<u8>, (String, i64)) {
        let (model, pad) = (format!("m-{}", number % MODELS), "x".repeat(number / MODELS * 64));
        let scope = if self.drains { "drainer" } else { "router" };
        let mut body = json!({"model": model, "stream": self.stream, "pad": pad, "n": number});
        let path = match self.dialect {
            Dialect::Chat => "v1/chat/completions".to_owned(),
            Dialect::Responses => "v1/responses".to_owned(),
            Dialect::Anthropic => {
                body["max_tokens"] = json!(99);
                "v1/messages".to_owned()
            }
            Dialect::Gemini => {
                body = json!({"contents": [], "pad": pad, "n": format!("{number:06}")});
                let verb =
                    if self.stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
                format!("v1beta/models/{model}:{verb}")
            }
        };
        let body = body.to_string();
        let length = body.len() as i64;
        (post(&format!("/{scope}/{path}"), body), (model, length))
    }

    fn usage(&self) -> Value {
        let [input, read, short, long, output] = self.counts;
        match self.dialect {
            Dialect::Chat => json!({
                "prompt_tokens": input + read + short, "completion_tokens": output,
                "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": short}}),
            Dialect::Responses => json!({
                "input_tokens": input + read + short, "output_tokens": output,
                "input_tokens_details": {"cached_tokens": read, "cache_write_tokens": short}}),
            Dialect::Anthropic => json!({
                "input_tokens": input, "output_tokens": output, "cache_read_input_tokens": read,
                "cache_creation_input_tokens": short + long, "cache_creation": {
                    "ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": long}}),
            Dialect::Gemini => json!({
                "promptTokenCount": input + read, "cachedContentTokenCount": read,
                "candidatesTokenCount": output / 2, "thoughtsTokenCount": output - output / 2}),
        }
    }

    /// The whole reply, or the pieces of a stream.
    fn pieces(&self) -> Vec<String> {
        let usage = self.usage();
        if !self.stream {
            let mut reply = json!({"id": "r", "model": "dated", "usage": usage});
            if self.dialect == Dialect::Gemini {
                reply = json!({"candidates": [], "usageMetadata": usage, "modelVersion": "dated"});
            }
            return vec![reply.to_string()];
        }
        let named = |kind: &str, mut data: Value| {
            data["type"] = json!(kind);
            format!("event: {kind}\ndata: {data}\n\n")
        };
        let chunk = |data: Value| format!("data: {data}\n\n");
        let (first, next, last) = match self.dialect {
            Dialect::Chat => {
                let text = json!({"choices": [{"index": 0, "delta": {"content": "12345678"}}]});
                let usage = json!({"choices": [], "usage": usage});
                (chunk(text.clone()), chunk(text), vec![chunk(usage), "data: [DONE]\n\n".into()])
            }
            Dialect::Responses => (
                named("response.created", json!({"response": {"id": "r", "usage": null}})),
                named("response.output_text.delta", json!({"delta": "12345678"})),
                vec![named("response.completed", json!({"response": {"id": "r", "usage": usage}}))],
            ),
            Dialect::Anthropic => {
                let mut begun = usage;
                begun["output_tokens"] = json!(1);
                let end = json!({"delta": {}, "usage": {"output_tokens": self.counts[4]}});
                (
                    named("message_start", json!({"message": {"id": "r", "usage": begun}})),
                    named(
                        "content_block_delta",
                        json!({"index": 0, "delta": {"text": "12345678"}}),
                    ),
                    vec![named("message_delta", end), named("message_stop", json!({}))],
                )
            }
            Dialect::Gemini => {
                let parts = json!([{"content": {"parts": [{"text": "12345678"}]}}]);
                let mut begun = usage.clone();
                begun["candidatesTokenCount"] = json!(1);
                begun["thoughtsTokenCount"] = json!(0);
                let early = chunk(json!({"candidates": parts, "usageMetadata": begun}));
                let end = json!([{"content": {"parts": []}, "finishReason": "STOP"}]);
                let late = chunk(json!({"candidates": end, "usageMetadata": usage}));
                (early.clone(), early, vec![late])
            }
        };
        let mut pieces = vec![first];
        pieces.extend(vec![next; EVENTS]);
        pieces.extend(last);
        pieces
    }
}

/// The two logs, and who has left.
#[derive(Default)]
struct Logs {
    /// By number: whether the reply was written to its end.
    upstream: Mutex<HashMap<usize, bool>>,
    /// By number: the id and the status, and whether the reply came whole.
    callers: Mutex<HashMap<usize, (String, u16, bool)>>,
    /// Requests that the upstream has seen, and callers that have left: each waits for the other.
    met: Mutex<HashSet<(usize, bool)>>,
    meeting: Condvar,
}

impl Logs {
    fn tell(&self, number: usize, left: bool) {
        self.met.lock().expect("never poisoned").insert((number, left));
        self.meeting.notify_all();
    }

    fn wait(&self, number: usize, left: bool) {
        let met = self.met.lock().expect("never poisoned");
        let here = |met: &mut HashSet<_>| !met.contains(&(number, left));
        let waited = self.meeting.wait_timeout_while(met, support::DEADLINE, here);
        assert!(!waited.expect("never poisoned").1.timed_out(), "{number}: {:?}", Plan::of(number));
    }
}

fn number_of(seen: &Seen) -> usize {
    let number = &seen.json()["n"];
    number.as_str().map_or(number.as_u64(), |text| text.parse().ok()).expect("ours") as usize
}

/// The upstream's side of one request.
fn answer(logs: &Logs, conn: &mut Conn, seen: &Seen) {
    let number = number_of(seen);
    let plan = Plan::of(number);
    let done = |whole: bool| {
        logs.upstream.lock().expect("never poisoned").insert(number, whole);
    };
    done(false);
    logs.tell(number, false);
    let (stop, hard, is_cut) = match plan.fate {
        Fate::Fails(status) => {
            conn.whole(status, r#"{"error":{"message":"no","usage":{"prompt_tokens":9}}}"#);
            return done(true);
        }
        Fate::Served => (None, false, false),
        Fate::Cut(at, hard) => (Some(at), hard, true),
        Fate::Left(at, hard) => (Some(at), hard, false),
    };
    let act = |conn: &mut Conn, at: usize| {
        if stop != Some(at) {
            return true;
        }
        if is_cut {
            conn.break_off(hard);
        } else {
            logs.wait(number, true);
        }
        !is_cut
    };
    if !act(conn, usize::MAX) {
        return;
    }
    let pieces = plan.pieces();
    let mut alive = if plan.stream {
        conn.stream_head()
    } else {
        let length = pieces[0].len();
        conn.raw(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        ))
    };
    for (at, piece) in pieces.iter().enumerate() {
        if !act(conn, at) {
            return;
        }
        alive = alive && if plan.stream { conn.piece(piece) } else { conn.raw(piece) };
    }
    if act(conn, pieces.len()) {
        alive = alive && (!plan.stream || conn.end());
        done(alive);
        if !alive {
            conn.cut();
        }
    }
}

/// The caller's side of one request. `None`: the connection cannot be used again.
fn call(logs: &Logs, mut client: Client, number: usize) -> Option<Client> {
    let plan = Plan::of(number);
    client.send(&plan.request(number).0);
    let note = |id: Option<&str>, status: u16, whole: bool| {
        let id = id.unwrap_or_default().to_owned();
        logs.callers.lock().expect("never poisoned").insert(number, (id, status, whole));
    };
    let Fate::Left(at, hard) = plan.fate else {
        let reply = client.reply().ok();
        let (status, whole) = reply.as_ref().map_or((0, false), |it| (it.status, it.complete));
        note(reply.as_ref().and_then(|it| it.header("x-gproxy-request-id")), status, whole);
        return reply.filter(|it| it.complete && !it.closes()).map(|_| client);
    };
    logs.wait(number, false);
    note(None, 0, false);
    // What a stream has sent by then can be read; a whole reply is not there yet.
    if plan.stream && at != usize::MAX && at > 0 {
        let head = client.head().ok()?;
        note(head.header("x-gproxy-request-id"), head.status, false);
        let shown =
            plan.pieces()[..at].iter().filter(|piece| !piece.contains("\"choices\":[]")).count();
        let mut events = 0;
        while events < shown {
            let Ok(Some(bytes)) = client.chunk() else { break };
            events += bytes.windows(2).filter(|end| end == b"\n\n").count();
        }
    }
    if hard {
        client.reset();
    } else {
        drop(client);
    }
    logs.tell(number, true);
    None
}

/// Every row, held to the logs. What was found, by how its figures are known.
fn check(rows: &[Row], logs: &Logs, requests: usize) -> HashMap<String, usize> {
    let mut by_name: HashMap<(String, i64), &Row> = HashMap::new();
    for row in rows {
        let name = (row.text("model").to_owned(), row.number("bytes_in"));
        assert!(by_name.insert(name.clone(), row).is_none(), "two rows for {name:?}");
    }
    let upstream = logs.upstream.lock().expect("never poisoned");
    let callers = logs.callers.lock().expect("never poisoned");
    let mut found = HashMap::new();
    let mut matched = 0;
    for number in 0..requests {
        let plan = Plan::of(number);
        let row = by_name.get(&plan.request(number).1).copied();
        let (id, status, whole) = callers.get(&number).expect("each caller keeps a log");
        let written = upstream.get(&number);
        let what = format!("{number}: {plan:?}, caller {status} {whole}, upstream {written:?}");
        let Some(row) = row else {
            assert!(written.is_none() && *status != 200, "no row for {what}");
            continue;
        };
        matched += 1;
        assert!(id.is_empty() || row.text("request_id") == id, "another id: {what}");
        let names = [
            "input_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens_5min",
            "cache_creation_input_tokens_1h",
            "output_tokens",
        ];
        let counts = names.map(|name| row.number(name) as u64);
        let source = row.text("usage_source");
        let what = format!("{what}, row {source} {} {counts:?}", row.text("outcome"));
        let is_true = counts == plan.counts && row.number("cost") == cost_of(&plan.counts);
        *found.entry(format!("{} {source}", row.text("outcome"))).or_default() += 1;
        assert!(is_true || source != "upstream", "not the truth: {what}");
        let failed = matches!(plan.fate, Fate::Fails(_));
        assert!(!failed || (source == "none" && row.number("cost") == 0), "billed: {what}");
        // Whoever got all of it, and whoever left where the rest is read on, is billed the truth.
        let read_on = plan.drains && written == Some(&true);
        let is_known = *status == 200 && *whole || read_on && !failed;
        assert!(!is_known || source == "upstream", "the truth was told: {what}");
    }
    assert_eq!(matched, rows.len(), "rows for requests that nobody made");
    found
}

#[test]
fn every_row_is_what_the_upstream_billed_wherever_it_told() {
    let requests = size(3_000, 100_000);
    let logs = Arc::new(Logs::default());
    let upstream = Upstream::answering({
        let logs = logs.clone();
        move |conn, seen| answer(&logs, conn, seen)
    });
    let url = format!("http://127.0.0.1:{}", upstream.port);
    let drains = "on_abort = \"drain\"\ndrain_usd_max = \"100\"";
    let drainer = support::config::provider("drainer", &url, DIALECTS, drains);
    let config = Config::to(&upstream).tail(&(drainer + &tables()));
    let mut gateway = Gateway::start(&config.text());
    let port = gateway.port;
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let logs = &logs;
            scope.spawn(move || {
                let connect = || Client::try_connect(port).expect("it accepts");
                let mut client = connect();
                for number in (caller..requests).step_by(CALLERS) {
                    client = call(logs, client, number).unwrap_or_else(connect);
                }
            });
        }
    });
    wait_for("every call to end", || {
        (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(())
    });
    let told = gateway.metrics()["gproxy_usage_rows_total"];
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let rows = support::books::rows(gateway.folder()).expect("books");
    assert_eq!(rows.len() as f64, told, "as many rows as were handed over");
    let found = check(&rows, &logs, requests);
    let sum: i64 = rows.iter().map(|row| row.number("cost")).sum();
    assert_eq!(support::books::spent(gateway.folder()), sum);
    let audit = support::books::audit(gateway.folder());
    let mut found: Vec<_> = found.into_iter().collect();
    found.sort_unstable();
    eprintln!("{requests} requests, {} rows; {}; {found:?}", rows.len(), audit.trim());
    for kind in ["ok upstream", "ok none", "gone upstream", "gone estimated", "cut estimated"] {
        assert!(found.iter().any(|(name, _)| name == kind), "no row is {kind:?}: {found:?}");
    }
}
