//! Requests by chance, each with what has to come of it.
//!
//! The answer to "what has to come of it" is built beside the request, from tables of its own; it
//! is never computed from the bytes.

use serde_json::{Value, json};

use super::broken;
use super::connection::{ADA, BOB, DISABLED, ODD_ALIAS};
use super::ends::Fault;
use super::pair::{Pair, Style, literal, marker, shuffle, spelled};
use crate::dialect::{Dialect, Family};
use crate::testing::prng::Prng;

/// A request on its way, and its fate.
pub(super) struct Sent {
    pub(super) number: usize,
    pub(super) bytes: Vec<u8>,
    /// Where the body begins in `bytes`.
    pub(super) body_at: usize,
    pub(super) is_head: bool,
    pub(super) http11: bool,
    /// It wants the connection to end.
    pub(super) says_close: bool,
    /// It carries `Expect: 100-continue`.
    pub(super) expects: bool,
    /// It sends its body only after `100 Continue`.
    pub(super) awaits: bool,
    /// Places in `bytes` and what happens there.
    pub(super) faults: Vec<(usize, Fault)>,
    pub(super) expect: Expect,
    pub(super) follow: Follow,
    pub(super) family: Option<Family>,
}

/// What has to come of a request.
pub(super) enum Expect {
    /// One of our own pages.
    Page(u16),
    /// A refusal, before or after its body was read.
    Refused { status: u16, body_read: bool },
    /// The connection cannot be trusted any longer.
    Broken(u16),
    /// A call.
    Called(Box<Called>),
    /// Nobody knows: only the laws hold.
    Unknown,
}

/// What becomes of the connection when nothing else interferes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follow {
    Goes,
    Ends,
}

/// A call that an upstream has to see, and what its reply has to say.
#[derive(Clone)]
pub(super) struct Called {
    pub(super) row: &'static Row,
    pub(super) provider: &'static str,
    pub(super) url: String,
    pub(super) body: UpBody,
    /// What the reply calls the model; `None`: it passes untouched.
    pub(super) restored: Option<String>,
    pub(super) served: String,
    pub(super) stream: bool,
    pub(super) alt_sse: bool,
    pub(super) hide_usage: bool,
    /// The upstream was asked for usage.
    pub(super) wants_usage: bool,
}

/// A body as the upstream has to see it.
#[derive(Clone)]
pub(super) enum UpBody {
    Exact(Vec<u8>),
    /// Where the wish for usage stands is not laid down.
    Json(Value),
}

/// What the test knows of an endpoint.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) tail: &'static str,
    pub(super) dialect: Dialect,
    pub(super) shape: Shape,
}

/// Where replies name the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Responses,
    Messages,
    Embeddings,
    Gemini,
    /// Nowhere.
    Plain,
}

const fn row(tail: &'static str, dialect: Dialect, shape: Shape) -> Row {
    Row { tail, dialect, shape }
}

pub(super) static ROWS: [Row; 11] = [
    row("chat/completions", Dialect::OpenaiChat, Shape::Chat),
    row("completions", Dialect::OpenaiChat, Shape::Chat),
    row("responses", Dialect::OpenaiResponses, Shape::Responses),
    row("embeddings", Dialect::OpenaiEmbeddings, Shape::Embeddings),
    row("messages", Dialect::Anthropic, Shape::Messages),
    row("messages/count_tokens", Dialect::Anthropic, Shape::Plain),
    row("generateContent", Dialect::Gemini, Shape::Gemini),
    row("streamGenerateContent", Dialect::Gemini, Shape::Gemini),
    row("countTokens", Dialect::Gemini, Shape::Plain),
    row("embedContent", Dialect::Gemini, Shape::Plain),
    row("batchEmbedContents", Dialect::Gemini, Shape::Plain),
];

impl Row {
    /// Keys that lead to the model in a document of a reply.
    pub(super) fn model_path(&self, in_stream: bool) -> &'static [&'static str] {
        match self.shape {
            Shape::Responses if in_stream => &["response", "model"],
            Shape::Messages if in_stream => &["message", "model"],
            Shape::Gemini => &["modelVersion"],
            // No document of these has such a key.
            Shape::Plain => &["no", "model"],
            _ => &["model"],
        }
    }

    fn in_path(&self) -> bool {
        self.dialect == Dialect::Gemini
    }
}

/// A way to name a model, and where it leads.
struct Naming {
    scope: Option<&'static str>,
    asked: String,
    /// Provider, its name for the model, the name that permissions see, and whether it was renamed.
    leads: Leads,
}

type Leads = Result<(&'static str, String, String, bool), u16>;

impl Naming {
    fn any(number: usize, dialect: Dialect, prng: &mut Prng) -> Naming {
        let family = *prng.pick(&["gpt-", "claude-", "gemini-", "meta-llama/llama:"]);
        let raw = format!("{family}{}", marker(number));
        let provider = match dialect {
            _ if prng.one_in(20) => *prng.pick(&["alpha", "beta", "gamma"]),
            Dialect::Gemini => *prng.pick(&["alpha", "gamma"]),
            Dialect::OpenaiChat | Dialect::Anthropic => *prng.pick(&["alpha", "beta"]),
            _ => "alpha",
        };
        let prefixed = format!("{provider}/{raw}");
        let leads = |provider, served: &str, sent: &str, renamed| -> Leads {
            Ok((provider, served.into(), sent.into(), renamed))
        };
        let alpha = |served: &str, sent: &str| leads("alpha", served, sent, true);
        let (scope, asked, leads): (Option<&'static str>, String, Leads) = match prng.below(24) {
            0..6 => (None, prefixed, Ok((provider, raw.clone(), raw, true))),
            6..11 => (Some(provider), raw.clone(), Ok((provider, raw.clone(), raw, false))),
            11 => (Some(provider), prefixed, Ok((provider, raw.clone(), raw, true))),
            // Aliases of a provider that speaks other dialects are refused; not too often.
            12..24 if dialect == Dialect::Gemini && !prng.one_in(3) => {
                (None, "gem-default".into(), leads("gamma", "gemini-real", "gem-default", true))
            }
            12 => (None, "chat-default".into(), alpha("gpt-real", "chat-default")),
            13 => (Some("alpha"), "chat-default".into(), alpha("gpt-real", "chat-default")),
            14 => (None, "alpha/chat-default".into(), alpha("gpt-real", "chat-default")),
            15 => (None, "twin".into(), alpha("twin", "twin")),
            16 => (None, ODD_ALIAS.into(), alpha("gpt/odd", ODD_ALIAS)),
            17 => {
                let leads = leads("gamma", "gemini-real", "gem-default", true);
                (None, "gem-default".into(), leads)
            }
            18 => (None, "away".into(), leads("beta", "claude-away", "away", true)),
            // Another provider's alias does not leak into a scope.
            19 => (Some("alpha"), "away".into(), leads("alpha", "away", "away", false)),
            20 => (None, raw.replace('/', "-"), Err(400)),
            21 => (None, format!("nobody/{raw}"), Err(400)),
            22 => (None, prng.pick(&["stale", "off/gpt", "alpha/gpt-off"]).to_string(), Err(404)),
            _ => (Some("alpha"), prng.pick(&["gpt-off", "stale"]).to_string(), Err(404)),
        };
        Naming { scope, asked, leads }
    }
}

/// Where the test's providers serve a dialect: the address up to the endpoint.
fn base(provider: &str, dialect: Dialect, version: &str) -> Option<String> {
    let is_gemini = dialect == Dialect::Gemini;
    let speaks_beta = matches!(dialect, Dialect::OpenaiChat | Dialect::Anthropic);
    match provider {
        "alpha" if is_gemini && version == "v1" => Some("https://alpha.example/v1/models/".into()),
        "alpha" if is_gemini => Some("https://alpha.example/v1beta/models/".into()),
        "alpha" => Some("https://alpha.example/v1/".into()),
        "beta" if speaks_beta => Some("https://beta.example/openai/v1/".into()),
        "gamma" if is_gemini => Some("https://gamma.example/v1beta/models/".into()),
        _ => None,
    }
}

/// What the users of the configuration may call.
fn permits(key: &str, provider: &str, name: &str) -> bool {
    key == ADA || name.starts_with("gpt-") || (provider == "beta" && name.starts_with("claude-"))
}

/// A request while it is put together.
pub(super) struct Draft {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) http11: bool,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// A caller that cannot frame.
    pub(super) breaks: Option<broken::Body>,
}

impl Draft {
    pub(super) fn new(method: &'static str, target: impl Into<String>) -> Draft {
        let (headers, body) = (Vec::new(), Vec::new());
        Draft { method, target: target.into(), http11: true, headers, body, breaks: None }
    }

    pub(super) fn header(&mut self, name: &str, value: &str) {
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Puts the caller's key where one of the clients puts it.
    fn key(&mut self, key: &str, prng: &mut Prng) {
        match prng.below(5) {
            0 => self.header("Authorization", &format!("Bearer {key}")),
            1 => self.header("x-api-key", key),
            2 => self.header("X-Goog-Api-Key", key),
            3 => self.header("Api-Key", key),
            _ => {
                let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
                self.target = match query {
                    "" => format!("{path}?key={key}"),
                    _ if prng.one_in(2) => format!("{path}?key={key}&{query}"),
                    _ => format!("{path}?{query}&key={key}"),
                };
            }
        }
    }

    /// Fields that must not change anything, and some that must not go up.
    fn litter(&mut self, prng: &mut Prng) {
        const LITTER: &[(&str, &str)] = &[
            ("Cookie", "session=mine"),
            ("Connection", "keep-alive, X-Hop"),
            ("TE", "trailers"),
            ("X-Gproxy-Provider", "beta"),
            ("x-gproxy-request-id", "forged"),
            ("X-Forwarded-For", "10.1.2.3"),
            ("OpenAI-Organization", "org-mine"),
            ("Accept-Encoding", "gzip, br"),
            ("x-stainless-lang", "js"),
            ("anthropic-beta", "some-beta"),
            ("User-Agent", "sim/1.0"),
            ("Proxy-Authorization", "Basic eDp5"),
            ("Keep-Alive", "timeout=5"),
        ];
        for _ in 0..prng.below(5) {
            let (name, value) = *prng.pick(LITTER);
            if !self.headers.iter().any(|(other, _)| other == name) {
                self.header(name, value);
                if name == "Connection" {
                    self.header("X-Hop", "1");
                }
            }
        }
    }

    /// The bytes, and the place where the body begins.
    fn write(mut self, prng: &mut Prng) -> (Vec<u8>, usize) {
        let mut framed = Vec::new();
        if let Some(breaks) = self.breaks {
            breaks.write(&mut self, &mut framed, prng);
        } else if !self.body.is_empty() || prng.one_in(4) {
            if self.http11 && prng.one_in(3) {
                self.header("Transfer-Encoding", *prng.pick(&["chunked", "Chunked", "CHUNKED"]));
                chunked(&self.body, &mut framed, prng);
            } else {
                self.header("Content-Length", &self.body.len().to_string());
                framed = self.body;
            }
        }
        let host = *prng.pick(&["localhost:8787", "[::1]:80", "gate.example"]);
        self.headers.push(("Host".into(), (*host).into()));
        shuffle(&mut self.headers, prng);
        let mut bytes = Vec::new();
        let lead = if prng.one_in(10) { "\r\n" } else { "" };
        let minor = usize::from(self.http11);
        bytes.extend(format!("{lead}{} {} HTTP/1.{minor}\r\n", self.method, self.target).bytes());
        for (name, value) in &self.headers {
            let name = if prng.one_in(3) { name.to_ascii_uppercase() } else { name.clone() };
            let (before, after) = *prng.pick(&[(" ", ""), (" ", ""), ("", ""), ("\t ", " \t")]);
            bytes.extend(format!("{name}:{before}{value}{after}\r\n").bytes());
        }
        bytes.extend(b"\r\n");
        let body_at = bytes.len();
        bytes.append(&mut framed);
        (bytes, body_at)
    }
}

/// Chunks as odd as the grammar allows.
pub(super) fn chunked(body: &[u8], out: &mut Vec<u8>, prng: &mut Prng) {
    let size_max = *prng.pick(&[1, 7, 100, 5_000]).max(&(body.len() / 50));
    let mut rest = body;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((1 + prng.below(size_max)).min(rest.len()));
        rest = after;
        let size = match prng.below(3) {
            0 => format!("{:X}", chunk.len()),
            1 => format!("{:05x}", chunk.len()),
            _ => format!("{:x}", chunk.len()),
        };
        let extension = *prng.pick(&["", "", "", ";a=b", " ; a = \"b\"", ";x"]);
        out.extend(format!("{size}{extension}\r\n").bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(*prng.pick(&[&b"0\r\n"[..], b"000\r\n", b"0;last\r\n"]));
    let trailer = *prng.pick(&[&b"\r\n"[..], b"\r\n", b"X-Trailer: 1\r\nHost: evil\r\n\r\n"]);
    out.extend_from_slice(trailer);
}

impl Sent {
    /// A request of any sort.
    pub(super) fn any(number: usize, prng: &mut Prng) -> Sent {
        match prng.below(20) {
            0..13 => call(number, prng),
            13 => page(number, prng),
            14 => stranger(number, prng),
            15 => lost(number, prng),
            16 => nonsense(number, prng),
            17 => broken::head(number, prng),
            18 => misframed(number, prng),
            _ => broken::mutated(number, prng),
        }
    }

    /// A sound draft becomes a request.
    pub(super) fn of(number: usize, mut draft: Draft, expect: Expect, prng: &mut Prng) -> Sent {
        let reads_body = match expect {
            Expect::Called(_) | Expect::Refused { body_read: true, .. } => true,
            Expect::Broken(_) | Expect::Unknown => true,
            Expect::Page(_) | Expect::Refused { .. } => false,
        };
        draft.http11 = draft.breaks.is_some() || !prng.one_in(8);
        let says_close = prng.one_in(12);
        if says_close {
            let value = *prng.pick(&["close", "Close", "x, CLOSE", "close, keep-alive"]);
            draft.headers.retain(|(name, _)| name != "Connection" && name != "X-Hop");
            draft.header("Connection", value);
        }
        let expects = !draft.body.is_empty() && prng.one_in(8);
        if expects {
            draft.header("Expect", *prng.pick(&["100-continue", "100-Continue"]));
        }
        let (is_head, http11) = (draft.method == "HEAD", draft.http11);
        let misframes = draft.breaks.is_some();
        let (bytes, body_at) = draft.write(prng);
        let body_len = bytes.len() - body_at;
        let expects = expects && http11;
        let awaits = expects && !misframes && prng.one_in(2);
        let in_the_way = !reads_body && body_len > 0 && (expects || body_len > 65_536);
        let ends = says_close || !http11 || misframes || in_the_way;
        Sent {
            number,
            body_at,
            is_head,
            http11,
            says_close,
            expects,
            awaits,
            faults: if awaits { vec![(body_at, Fault::AwaitContinue)] } else { Vec::new() },
            follow: if ends { Follow::Ends } else { Follow::Goes },
            family: None,
            expect,
            bytes,
        }
    }
}

/// A sound request to an endpoint; whether it is let through is the naming's and the user's matter.
fn call(number: usize, prng: &mut Prng) -> Sent {
    let (draft, expect, row) = call_draft(number, prng);
    let sent = Sent::of(number, draft, expect, prng);
    Sent { family: Some(row.dialect.family()), ..sent }
}

pub(super) fn call_draft(number: usize, prng: &mut Prng) -> (Draft, Expect, &'static Row) {
    let row = prng.pick(&ROWS);
    let naming = Naming::any(number, row.dialect, prng);
    let key = if prng.one_in(8) { BOB } else { ADA };
    let version = match row.in_path() {
        true => *prng.pick(&["v1beta", "v1beta", "v1", "v1beta1"]),
        false => "v1",
    };
    let alt_sse = row.tail == "streamGenerateContent" && prng.one_in(2);
    let query = if alt_sse { "alt=sse" } else { *prng.pick(&["", "", "beta=true", "a=%20b&c"]) };
    let served = naming.leads.as_ref().map_or("", |(_, served, ..)| served.as_str());
    let body = Body::any(number, row, &naming.asked, served, prng);
    let mut draft = Draft::new("POST", target(row, &naming, version, query, prng));
    draft.header("Content-Type", "application/json");
    draft.header("X-Marker", &marker(number));
    draft.key(key, prng);
    draft.litter(prng);
    draft.body = body.pair.down.clone();
    let refused = |status| Expect::Refused { status, body_read: true };
    let (provider, served, permission, renamed) = match naming.leads {
        Ok(leads) => leads,
        Err(status) => return (draft, refused(status), row),
    };
    let Some(base) = base(provider, row.dialect, version) else {
        return (draft, refused(400), row);
    };
    if !permits(key, provider, &permission) {
        return (draft, refused(403), row);
    }
    let mark = if query.is_empty() { "" } else { "?" };
    let url = match row.in_path() {
        true => format!("{base}{served}:{}{mark}{query}", row.tail),
        false => format!("{base}{}{mark}{query}", row.tail),
    };
    let hide_usage = body.usage == Some(false) && provider == "alpha";
    let called = Called {
        row,
        provider,
        url,
        restored: renamed.then_some(naming.asked),
        served,
        stream: body.stream,
        alt_sse,
        hide_usage,
        wants_usage: hide_usage || body.usage == Some(true),
        body: if hide_usage { body.asking_for_usage() } else { UpBody::Exact(body.pair.up) },
    };
    (draft, Expect::Called(Box::new(called)), row)
}

/// The target, as people type it.
fn target(row: &Row, naming: &Naming, version: &str, query: &str, prng: &mut Prng) -> String {
    let mut target = String::new();
    if prng.one_in(12) {
        target.push_str("http://elsewhere.example:80");
    }
    if let Some(scope) = naming.scope {
        target.push_str(*prng.pick(&["/", "/", "//"]));
        target.push_str(scope);
    }
    match version {
        // A missing or doubled version is put right; Gemini's says more.
        "v1" if !row.in_path() => target.push_str(*prng.pick(&["/v1", "/v1", "", "/v1/v1"])),
        _ => target.extend(["/", version]),
    }
    target.push('/');
    if row.in_path() {
        target.push_str("models/");
        for char in naming.asked.chars() {
            match char {
                'a'..='z' | '0'..='9' | '-' => target.push(char),
                '/' | ':' if prng.one_in(2) => target.push(char),
                _ => {
                    for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                        target.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
        }
        target.push(':');
    }
    target.push_str(row.tail);
    target.push_str(*prng.pick(&["", "", "", "/"]));
    if !query.is_empty() {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// A request body at both ends.
struct Body {
    pair: Pair,
    stream: bool,
    /// In a stream that can carry usage: whether the caller asked for it.
    usage: Option<bool>,
}

impl Body {
    fn any(number: usize, row: &Row, asked: &str, served: &str, prng: &mut Prng) -> Body {
        let style = Style::any(prng);
        let text = format!("{} says \\\"model\\\": \\\"x\\\" \\u00e9 é", marker(number));
        let filler = "x".repeat(if prng.one_in(40) { 60_000 } else { prng.below(300) });
        let mut members = vec![
            ("\"input\"".into(), format!("[{{\"model\":\"decoy\",\"t\":\"{text}\"}}]")),
            ("\"seed\"".into(), "12345678901234567890.10e+2".into()),
            ("\"metadata\"".into(), format!("{{\"stream\":true,\"model\":[\"{filler}\"]}}")),
        ]
        .into_iter()
        .map(|(key, value): (String, String)| (key, Pair::from(value.as_str())))
        .collect::<Vec<_>>();
        let (mut stream, mut usage) = (false, None);
        if row.in_path() {
            members.extend(named_in_path(row, asked, served));
        } else {
            let spelling = spelled(asked, prng);
            let mut model = Pair::default();
            let same = asked == served;
            model.each(&spelling, &if same { spelling.clone() } else { literal(served) });
            let key = *prng.pick(&["\"model\"", "\"model\"", "\"mod\\u0065l\""]);
            members.push((key.into(), model));
            stream = prng.one_in(2) && !matches!(row.shape, Shape::Embeddings | Shape::Plain);
            if stream || prng.one_in(4) {
                members.push(("\"stream\"".into(), Pair::from(&*stream.to_string())));
            }
            if row.shape == Shape::Chat {
                let options = *prng.pick(&[
                    None,
                    None,
                    Some("null"),
                    Some("{ }"),
                    Some("{\"include_usage\": false}"),
                    Some("{\"include_usage\":true}"),
                ]);
                members.extend(options.map(|text| ("\"stream_options\"".into(), Pair::from(text))));
                usage = stream.then_some(options.is_some_and(|text| text.contains("true")));
            }
        }
        shuffle(&mut members, prng);
        let mut pair = Pair::object(&members, style);
        if row.in_path() && prng.one_in(20) {
            pair = Pair::default();
        }
        pair.both(*prng.pick(&["", "", "\n", " \r\n"]));
        Body { pair, stream, usage }
    }

    /// The caller's body with its model exchanged and usage asked for, by way of a tree.
    fn asking_for_usage(&self) -> UpBody {
        let mut value: Value = serde_json::from_slice(&self.pair.up).expect("the body is sound");
        match &mut value["stream_options"] {
            options @ Value::Null => *options = json!({ "include_usage": true }),
            options => options["include_usage"] = json!(true),
        }
        UpBody::Json(value)
    }
}

/// Further names of the path's model in the body.
fn named_in_path(row: &Row, asked: &str, served: &str) -> Option<(String, Pair)> {
    let mut model = Pair::default();
    let name = |name: &str| literal(&format!("models/{name}"));
    let (down, up) = (name(asked), name(served));
    let nested = |name: &str| format!("{{\"contents\":[],\"model\":{name}}}");
    let key = match row.tail {
        "countTokens" => {
            model.each(&nested(&down), &nested(&up));
            "\"generateContentRequest\""
        }
        "embedContent" => {
            model.each(&down, &up);
            "\"model\""
        }
        "batchEmbedContents" => {
            let list = |name: &str| format!("[{}, {}]", nested(name), nested(name));
            model.each(&list(&down), &list(&up));
            "\"requests\""
        }
        _ => return None,
    };
    Some((key.into(), model))
}

/// A body that a page or an early refusal leaves unread.
fn unread(draft: &mut Draft, prng: &mut Prng) {
    let size = match prng.below(10) {
        0 => 90_000,
        1..4 => prng.below(3_000),
        _ => 0,
    };
    draft.body = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(size / 35 + 1);
    draft.body.truncate(size);
}

fn page(number: usize, prng: &mut Prng) -> Sent {
    let refused = |status| Expect::Refused { status, body_read: false };
    let (method, target, expect) = match prng.below(8) {
        0 => ("GET", "/healthz", Expect::Page(200)),
        1 => ("HEAD", "/healthz", Expect::Page(200)),
        2 => ("HEAD", "/", Expect::Page(200)),
        3 => ("GET", "/version/?a=b", Expect::Page(200)),
        4 => ("HEAD", "/alpha/v1", Expect::Page(200)),
        5 => ("OPTIONS", "*", Expect::Page(204)),
        6 => ("GET", "/metrics", refused(401)),
        _ => ("POST", "/healthz", refused(405)),
    };
    let mut draft = Draft::new(method, target);
    draft.litter(prng);
    unread(&mut draft, prng);
    Sent::of(number, draft, expect, prng)
}

/// A caller without a key that counts.
fn stranger(number: usize, prng: &mut Prng) -> Sent {
    let (mut draft, ..) = call_draft(number, prng);
    let is_key = |name: &str| name.to_ascii_lowercase().contains("api-key");
    draft.headers.retain(|(name, _)| name != "Authorization" && !is_key(name));
    draft.target = draft.target.replace("key=", "keys=");
    match prng.below(5) {
        0 => {}
        1 => draft.header("Authorization", &format!("Basic {ADA}")),
        2 => draft.key(DISABLED[0], prng),
        3 => draft.key(DISABLED[1], prng),
        _ => draft.key(&ADA[..ADA.len() - 1], prng),
    }
    if prng.one_in(3) {
        unread(&mut draft, prng);
    }
    if prng.one_in(6) {
        draft.breaks = Some(broken::Body::any(prng));
    }
    Sent::of(number, draft, Expect::Refused { status: 401, body_read: false }, prng)
}

/// A caller with a key, at a path that leads nowhere.
fn lost(number: usize, prng: &mut Prng) -> Sent {
    const PATHS: &[(&str, &str, u16)] = &[
        ("POST", "/v1/chat/completion", 404),
        ("POST", "/nobody/v1/chat/completions", 404),
        ("POST", "/off/v1/chat/completions", 404),
        ("PUT", "/v1/chat/completions", 405),
        ("HEAD", "/v1/messages", 405),
        ("DELETE", "/alpha/v1/embeddings", 405),
        ("POST", "/v1/%2e%2e/chat/completions", 400),
        ("POST", "/v1/chat%2Fcompletions", 400),
        ("POST", "/v1/chat/completions%00", 400),
        ("POST", "/v1beta/models/:generateContent", 400),
        ("POST", "/v1/%zz", 400),
    ];
    let (method, path, status) = *prng.pick(PATHS);
    let mut draft = Draft::new(method, path);
    draft.key(if prng.one_in(2) { BOB } else { ADA }, prng);
    draft.litter(prng);
    unread(&mut draft, prng);
    Sent::of(number, draft, Expect::Refused { status, body_read: false }, prng)
}

/// A sound request whose body means nothing.
fn nonsense(number: usize, prng: &mut Prng) -> Sent {
    let in_body = prng.one_in(2);
    let (target, bodies) = match in_body {
        true => ("/v1/chat/completions", broken::BODIES),
        false => ("/v1beta/models/alpha/m:embedContent", broken::PATH_BODIES),
    };
    let mut draft = Draft::new("POST", target);
    draft.header("X-Marker", &marker(number));
    draft.key(ADA, prng);
    draft.litter(prng);
    draft.body = broken::body(*prng.pick(bodies));
    let sent = Sent::of(number, draft, Expect::Refused { status: 400, body_read: true }, prng);
    let family = if in_body { Family::Openai } else { Family::Gemini };
    Sent { family: Some(family), ..sent }
}

/// A sound head with a body that breaks the framing.
fn misframed(number: usize, prng: &mut Prng) -> Sent {
    let (mut draft, ..) = call_draft(number, prng);
    let breaks = broken::Body::any(prng);
    let status = breaks.status();
    draft.breaks = Some(breaks);
    Sent::of(number, draft, Expect::Broken(status), prng)
}
