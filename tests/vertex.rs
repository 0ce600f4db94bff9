//! The channel `vertex`: a service account becomes tokens, and the calls of two dialects find
//! their models there. Token endpoint and Vertex are scripted.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support;
use crate::support::{ADMIN_KEY, Conn, Gateway, Reply, Seen, Upstream, request, wait_for};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};

const PRIVATE: &str = include_str!("support/account/private.pem");
const PUBLIC: &[u8] = include_bytes!("support/account/public.der");
const EMAIL: &str = "robot@project-1.iam.gserviceaccount.com";
const GEMINI: &str = r#"{"contents":[{"parts":[{"text":"Hello"}]}]}"#;
const MODELS: &str = "/v1/projects/project-1/locations/us-central1/publishers";

/// What the scripted token endpoint does.
struct Tokens {
    life_s: AtomicUsize,
    given: AtomicUsize,
    refuses: AtomicBool,
    holds: AtomicBool,
    claims: Mutex<Vec<Value>>,
}

struct Fixture {
    tokens: Arc<Tokens>,
    endpoint: Upstream,
    vertex: Upstream,
    gateway: Gateway,
}

fn account(token_uri: &str) -> Value {
    json!({
        "type": "service_account",
        "project_id": "project-1",
        "private_key_id": "key-1",
        "private_key": PRIVATE,
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": token_uri,
    })
}

/// Gives `token-1`, `token-2` and so on to whoever brings a good claim.
fn endpoint(tokens: &Arc<Tokens>) -> Upstream {
    let tokens = tokens.clone();
    Upstream::answering(move |conn, seen| {
        let claims = claims(&seen.text());
        tokens.claims.lock().expect("no holder panics").push(claims);
        if tokens.refuses.load(Ordering::SeqCst) {
            conn.whole(400, r#"{"error":"invalid_grant","error_description":"no"}"#);
            return;
        }
        wait_for("leave to answer", || (!tokens.holds.load(Ordering::SeqCst)).then_some(()));
        let number = tokens.given.fetch_add(1, Ordering::SeqCst) + 1;
        let life_s = tokens.life_s.load(Ordering::SeqCst);
        let token = json!({
            "access_token": format!("token-{number}"),
            "expires_in": life_s,
            "token_type": "Bearer",
        });
        conn.whole(200, token.to_string());
    })
}

/// What a claim says, its signature checked.
fn claims(body: &str) -> Value {
    let claim = body.split_once("&assertion=").expect("an assertion").1;
    let (signed, signature) = claim.rsplit_once('.').expect("a signature");
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, PUBLIC);
    key.verify(signed.as_bytes(), &base64url(signature)).expect("the signature is right");
    let claims = signed.split_once('.').expect("a header").1;
    serde_json::from_slice(&base64url(claims)).expect("claims are JSON")
}

fn base64url(text: &str) -> Vec<u8> {
    const LETTERS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: String = text
        .chars()
        .map(|letter| format!("{:06b}", LETTERS.find(letter).expect("a letter of base64")))
        .collect();
    let whole = bits.len() / 8 * 8;
    let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).expect("eight bits");
    (0..whole).step_by(8).map(byte).collect()
}

fn start(life_s: usize, vertex: impl Fn(&mut Conn, &Seen) + Send + Sync + 'static) -> Fixture {
    let tokens = Arc::new(Tokens {
        life_s: AtomicUsize::new(life_s),
        given: AtomicUsize::new(0),
        refuses: AtomicBool::new(false),
        holds: AtomicBool::new(false),
        claims: Mutex::new(Vec::new()),
    });
    let endpoint = endpoint(&tokens);
    let vertex = Upstream::answering(vertex);
    let token_uri = format!("http://127.0.0.1:{}/token", endpoint.port);
    let account = account(&token_uri).to_string();
    let environment = [("VERTEX_ACCOUNT", account.as_str())];
    let gateway = Gateway::start_with(&config(&vertex, "\"env:VERTEX_ACCOUNT\""), &environment);
    Fixture { tokens, endpoint, vertex, gateway }
}

fn config(vertex: &Upstream, account: &str) -> String {
    format!(
        "[global]\nhost = \"127.0.0.1\"\nport = 0\nworkers = 2\ndata_dir = \"DATA_DIR\"\n\
         [[providers]]\nname = \"vertex-main\"\nchannel = \"vertex\"\n\
         credentials = [{{ service_account = {account} }}]\n[providers.settings]\n\
         base_url = \"http://127.0.0.1:{}\"\nlocation = \"us-central1\"\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        vertex.port
    )
}

/// Answers as Vertex does.
fn answer(conn: &mut Conn, seen: &Seen) {
    if seen.target.contains(":streamGenerateContent") {
        conn.stream(
            "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}],\
             \"modelVersion\":\"gemini-1.5-flash-002\"}\r\n\r\n",
        );
    } else if seen.target.ends_with("streamRawPredict") {
        conn.stream(
            "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\
             \"claude-x\",\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n\
             event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
        );
    } else if seen.target.ends_with("rawPredict") {
        conn.whole(200, r#"{"type":"message","model":"claude-x","content":[],"usage":{}}"#);
    } else {
        conn.whole(200, r#"{"candidates":[],"modelVersion":"gemini-1.5-flash-002"}"#);
    }
}

impl Fixture {
    fn post(&self, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut fields = vec![("content-type", "application/json")];
        fields.extend(headers);
        self.gateway.connect().ask(&request("POST", target, &fields, body.as_bytes()))
    }

    /// The call of the first request page.
    fn gemini(&self) -> Reply {
        let target = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
        self.post(target, &[("x-goog-api-key", ADMIN_KEY)], GEMINI)
    }

    fn last_token(&self) -> String {
        let seen = self.vertex.last();
        seen.header("authorization").expect("a token goes up").to_owned()
    }

    fn asked(&self) -> usize {
        self.endpoint.count()
    }
}

#[test]
fn the_first_request_works_as_written() {
    let fixture = start(3_600, answer);
    let reply = fixture.gemini();
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["modelVersion"], "vertex-main/gemini-1.5-flash");
    let seen = fixture.vertex.last();
    assert_eq!(seen.target, format!("{MODELS}/google/models/gemini-1.5-flash:generateContent"));
    assert_eq!(seen.header("authorization"), Some("Bearer token-1"));
    assert_eq!(seen.header("x-goog-api-key"), None, "the caller's key stays here");
    assert_eq!(seen.text(), GEMINI);
    let scoped = "/vertex-main/v1beta/models/gemini-1.5-flash:generateContent";
    let reply = fixture.post(scoped, &[("x-goog-api-key", ADMIN_KEY)], GEMINI);
    assert_eq!(reply.json()["modelVersion"], "gemini-1.5-flash-002");
    assert_eq!(fixture.asked(), 1, "one token serves all");
}

#[test]
fn the_forms_of_clients_in_vertex_mode_lead_to_the_same_model() {
    let fixture = start(3_600, answer);
    let key = [("x-goog-api-key", ADMIN_KEY)];
    for target in [
        "/v1beta1/publishers/vertex-main/models/gemini-1.5-flash:generateContent",
        "/vertex-main/v1beta1/publishers/google/models/gemini-1.5-flash:generateContent",
        "/vertex-main/v1beta1/projects/p/locations/l/publishers/google/models/gemini-1.5-flash\
         :generateContent",
    ] {
        let reply = fixture.post(target, &key, GEMINI);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        let expected = MODELS.replace("/v1/", "/v1beta1/");
        let expected = format!("{expected}/google/models/gemini-1.5-flash:generateContent");
        assert_eq!(fixture.vertex.last().target, expected, "{target}");
    }
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:streamGenerateContent?alt=sse";
    let reply = fixture.post(target, &key, GEMINI);
    assert_eq!(reply.events()[0]["modelVersion"], "vertex-main/gemini-1.5-flash");
    assert!(fixture.vertex.last().target.ends_with(":streamGenerateContent?alt=sse"));
}

/// Vertex names the operation, and by that its clients ask after it.
#[test]
fn a_film_is_asked_after_by_its_name_at_the_vendor() {
    let fixture = start(3_600, answer);
    let key = [("x-goog-api-key", ADMIN_KEY)];
    let model = "/v1beta1/projects/p/locations/l/publishers/google/models/veo-3";
    let ask = r#"{"operationName":"projects/p/locations/l/publishers/google/models/veo-3/x"}"#;
    for target in [model.to_owned(), format!("/vertex-main{model}")] {
        let reply = fixture.post(&format!("{target}:fetchPredictOperation"), &key, ask);
        assert_eq!(reply.status, 200, "{target}: {}", reply.text());
        let expected = format!("{}/google/models/veo-3", MODELS.replace("/v1/", "/v1beta1/"));
        assert_eq!(fixture.vertex.last().target, format!("{expected}:fetchPredictOperation"));
        assert_eq!(fixture.vertex.last().text(), ask);
    }
    // Whatever makes something says where.
    let made = fixture.post(&format!("{model}:predictLongRunning"), &key, "{}");
    assert_eq!(made.status, 400, "{}", made.text());
}

#[test]
fn claude_is_reached_in_anthropics_dialect() {
    let fixture = start(3_600, answer);
    let headers = [
        ("x-api-key", ADMIN_KEY),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "some-beta"),
    ];
    let body = r#"{"model":"vertex-main/claude-x","max_tokens":9,"messages":[]}"#;
    let reply = fixture.post("/v1/messages?beta=true", &headers, body);
    assert_eq!(reply.json()["model"], "vertex-main/claude-x", "{}", reply.text());
    let seen = fixture.vertex.last();
    assert_eq!(seen.target, format!("{MODELS}/anthropic/models/claude-x:rawPredict"));
    let sent = r#"{"anthropic_version":"vertex-2023-10-16","max_tokens":9,"messages":[]}"#;
    assert_eq!(seen.text(), sent);
    assert_eq!(seen.header("anthropic-version"), None, "it is in the body");
    assert_eq!(seen.header("anthropic-beta"), Some("some-beta"));
    assert_eq!(seen.header("x-api-key"), None);

    let stream = body.replace("\"max_tokens\"", "\"stream\":true,\"max_tokens\"");
    let reply = fixture.post("/v1/messages", &headers, &stream);
    assert_eq!(reply.events()[0]["message"]["model"], "vertex-main/claude-x");
    assert!(fixture.vertex.last().target.ends_with("/claude-x:streamRawPredict"));

    fixture.post(
        "/vertex-main/v1/messages/count_tokens",
        &headers,
        &body.replace("vertex-main/", ""),
    );
    let seen = fixture.vertex.last();
    assert_eq!(seen.target, format!("{MODELS}/anthropic/models/count-tokens:rawPredict"));
    assert_eq!(seen.json()["model"], "claude-x");
    assert_eq!(seen.json()["anthropic_version"], "vertex-2023-10-16");
}

#[test]
fn a_crowd_without_a_token_asks_for_one() {
    let fixture = start(3_600, answer);
    fixture.tokens.holds.store(true, Ordering::SeqCst);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..24).map(|_| scope.spawn(|| fixture.gemini().status)).collect();
        wait_for("the crowd", || {
            (fixture.gateway.metrics()["gproxy_requests_in_flight"] >= 24.0).then_some(())
        });
        fixture.tokens.holds.store(false, Ordering::SeqCst);
        for call in calls {
            assert_eq!(call.join().expect("no panic"), 200);
        }
    });
    assert_eq!(fixture.asked(), 1);
}

#[test]
fn a_caller_who_leaves_while_another_asks_for_the_token_is_noticed() {
    let fixture = start(3_600, answer);
    fixture.tokens.holds.store(true, Ordering::SeqCst);
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    let call = request("POST", target, &[("x-goog-api-key", ADMIN_KEY)], GEMINI.as_bytes());
    let mut first = fixture.gateway.connect();
    first.send(&call);
    fixture.endpoint.wait_for_requests(1);
    let mut second = fixture.gateway.connect();
    second.send(&call);
    let metric = |name: &str| fixture.gateway.metrics()[name];
    // The question is a request too.
    wait_for("both", || (metric("gproxy_requests_in_flight") >= 3.0).then_some(()));
    second.reset();
    wait_for("its end", || (metric("gproxy_downstreams_gone_total") >= 1.0).then_some(()));
    // The first one still waits, and is served.
    fixture.tokens.holds.store(false, Ordering::SeqCst);
    assert_eq!(first.reply().expect("an answer").status, 200);
    assert_eq!((fixture.asked(), fixture.vertex.count()), (1, 1));
}

#[test]
fn an_expired_token_is_not_used_again() {
    let fixture = start(1, answer);
    assert_eq!(fixture.gemini().status, 200);
    let mut last = fixture.last_token();
    assert_eq!(last, "Bearer token-1");
    for _ in 0..2 {
        wait_for("another token", || {
            assert_eq!(fixture.gemini().status, 200);
            (fixture.last_token() != last).then_some(())
        });
        last = fixture.last_token();
    }
}

#[test]
fn while_a_token_is_renewed_everybody_goes_on_with_the_old_one() {
    // It is renewed after a quarter of its life.
    let fixture = start(40, answer);
    assert_eq!(fixture.gemini().status, 200);
    fixture.tokens.holds.store(true, Ordering::SeqCst);
    // Used again, so that it is worth to be renewed.
    assert_eq!(fixture.gemini().status, 200);
    fixture.endpoint.wait_for_requests(2);
    for _ in 0..8 {
        assert_eq!(fixture.gemini().status, 200);
        assert_eq!(fixture.last_token(), "Bearer token-1");
    }
    assert_eq!(fixture.asked(), 2, "one renewal is under way");
    fixture.tokens.holds.store(false, Ordering::SeqCst);
    wait_for("the new token in use", || {
        assert_eq!(fixture.gemini().status, 200);
        (fixture.last_token() == "Bearer token-2").then_some(())
    });
}

#[test]
fn a_refused_account_is_told_in_the_callers_dialect_and_asked_for_rarely() {
    let fixture = start(3_600, answer);
    fixture.tokens.refuses.store(true, Ordering::SeqCst);
    let reply = fixture.gemini();
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert_eq!(reply.json()["error"]["status"], "UNAVAILABLE");
    assert!(reply.error_message().contains("gets no access token"), "{}", reply.text());
    let body = r#"{"model":"vertex-main/claude-x","max_tokens":9,"messages":[]}"#;
    let headers = [("x-api-key", ADMIN_KEY), ("anthropic-version", "2023-06-01")];
    let reply = fixture.post("/v1/messages", &headers, body);
    assert_eq!((reply.status, &reply.json()["type"]), (502, &json!("error")));
    assert_eq!(fixture.asked(), 1, "not again at once");
    assert_eq!(fixture.vertex.count(), 0);
    fixture.tokens.refuses.store(false, Ordering::SeqCst);
    wait_for("the account is asked for again", || (fixture.gemini().status == 200).then_some(()));
    let log = fixture.gateway.stderr().join("\n");
    assert!(log.contains(&format!("no token for {EMAIL}: 400 invalid_grant")), "{log}");
    for secret in ["token-1", "PRIVATE KEY", "assertion="] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[test]
fn the_next_account_is_asked_when_a_token_endpoint_fails() {
    let broken = Upstream::scripted(|conn| {
        conn.request();
        conn.cut();
    });
    let fixture = start(3_600, answer);
    let account_of = |port: u16, email: &str| {
        let mut account = account(&format!("http://127.0.0.1:{port}/token"));
        account["client_email"] = email.into();
        account.to_string()
    };
    let first = account_of(broken.port, "first@project-1.iam.gserviceaccount.com");
    let second = account_of(fixture.endpoint.port, EMAIL);
    let accounts = [("FIRST", first.as_str()), ("SECOND", second.as_str())];
    let both = "\"env:FIRST\" }, { service_account = \"env:SECOND\"";
    let gateway = Gateway::start_with(&config(&fixture.vertex, both), &accounts);
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    let fields = [("content-type", "application/json"), ("x-goog-api-key", ADMIN_KEY)];
    for _ in 0..3 {
        let reply = gateway.connect().ask(&request("POST", target, &fields, GEMINI.as_bytes()));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!((broken.count(), fixture.asked(), fixture.vertex.count()), (1, 1, 3));
}

/// A gateway with accounts that ask for their tokens at these endpoints.
fn with_accounts(fixture: &Fixture, endpoints: &[&Upstream], settings: &str) -> Gateway {
    let accounts: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(number, endpoint)| {
            let mut account = account(&format!("http://127.0.0.1:{}/token", endpoint.port));
            account["client_email"] = format!("robot-{number}@x.iam.gserviceaccount.com").into();
            format!("'''{account}'''")
        })
        .collect();
    let text = config(&fixture.vertex, &accounts.join(" }, { service_account = "));
    Gateway::start(&text.replace("location =", &format!("{settings}\nlocation =")))
}

fn ask_gemini(gateway: &Gateway) -> Reply {
    let target = "/v1beta/models/vertex-main/gemini-1.5-flash:generateContent";
    let fields = [("content-type", "application/json"), ("x-goog-api-key", ADMIN_KEY)];
    gateway.connect().ask(&request("POST", target, &fields, GEMINI.as_bytes()))
}

#[test]
fn tokens_that_do_not_come_are_attempts_and_take_of_their_time() {
    let fixture = start(3_600, answer);
    let silent = Upstream::answering(|conn, _| {
        conn.wait_closed();
    });
    let settings = "timeouts = { total_ms = 600 }";
    let gateway = with_accounts(&fixture, &[&silent; 8], settings);
    let reply = ask_gemini(&gateway);
    assert_eq!(reply.status, 504, "{}", reply.text());
    assert_eq!((silent.count(), fixture.vertex.count()), (1, 0), "all the time went into one");

    let broken = Upstream::answering(|conn, _| conn.cut());
    let gateway = with_accounts(&fixture, &[&broken; 8], "");
    assert_eq!(ask_gemini(&gateway).status, 502);
    assert_eq!((broken.count(), fixture.vertex.count()), (2, 0), "one endpoint for all");
    let metrics = gateway.metrics();
    assert_eq!(metrics["gproxy_attempts_total"], 2.0);
    assert_eq!(metrics["gproxy_attempts_failed_total"], 2.0);
}

#[test]
fn an_account_that_is_not_accepted_is_disabled_and_the_next_one_serves() {
    let fixture = start(3_600, answer);
    let [first, second] = [400, 401].map(|status| {
        Upstream::answering(move |conn, _| {
            conn.whole(status, r#"{"error":"invalid_grant"}"#);
        })
    });
    let gateway = with_accounts(&fixture, &[&first, &second, &fixture.endpoint], "");
    let reply = ask_gemini(&gateway);
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(gateway.gauge("gproxy_attempts_total"), 3.0);
    let health = administer(&gateway, "GET", "health", &Value::Null).json();
    let states = [0, 1, 2].map(|at| health["items"][at]["state"].clone());
    assert_eq!(states, ["disabled", "disabled", "ok"], "{health}");
    let line = gateway.wait_for_line("credential 2 of vertex-main is disabled");
    assert!(line.contains("WARN"), "{line}");
}

#[test]
fn a_claim_is_good_for_a_clock_that_is_behind() {
    let fixture = start(3_600, answer);
    assert_eq!(fixture.gemini().status, 200);
    let claims = fixture.tokens.claims.lock().expect("no holder panics")[0].clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let (issued, expires) = (claims["iat"].as_u64(), claims["exp"].as_u64());
    let (issued, expires) = (issued.expect("a time"), expires.expect("a time"));
    assert!(issued + 20 <= now, "a clock that is 20 s behind takes it");
    assert!(expires > now + 3_000 && expires - issued <= 3_600);
    assert_eq!(claims["iss"], EMAIL);
}

#[test]
fn a_token_that_vertex_refuses_is_dropped_once() {
    let fixture = start(3_600, |conn, seen| match seen.header("authorization") {
        Some("Bearer token-1") => {
            conn.whole(401, r#"{"error":{"code":401,"message":"token-1 is old"}}"#);
        }
        _ => answer(conn, seen),
    });
    assert_eq!(fixture.gemini().status, 200, "with the next one");
    assert_eq!((fixture.asked(), fixture.last_token().as_str()), (2, "Bearer token-2"));

    let fixture = start(3_600, |conn, seen| {
        let token = seen.header("authorization").expect("a token").to_owned();
        conn.whole(401, json!({"error": {"code": 401, "message": token}}).to_string());
    });
    for _ in 0..4 {
        let reply = fixture.gemini();
        assert_eq!(reply.status, 401, "it is not the token that is refused");
        assert!(reply.text().contains("Bearer ***"), "{}", reply.text());
    }
    assert_eq!(fixture.asked(), 2);
}

#[test]
fn an_answer_that_is_told_after_all_names_its_own_account_and_not_its_token() {
    let fixture = start(3_600, |conn, seen| {
        if seen.header("authorization") == Some("Bearer token-1") {
            let fields = "connection: close\r\ncontent-type: application/json\r\n";
            conn.whole_with(429, fields, r#"{"error":{"message":"token-1, not token-2"}}"#);
        }
        conn.cut();
    });
    let gateway = with_accounts(&fixture, &[&fixture.endpoint; 2], "");
    let reply = ask_gemini(&gateway);
    assert_eq!((reply.status, fixture.vertex.count()), (429, 2));
    assert_eq!(reply.text(), r#"{"error":{"message":"***, not token-2"}}"#);
    let row = wait_for("the row", || support::books::rows(gateway.folder())?.pop());
    assert_eq!((row.number("credential_id"), row.number("attempts")), (0, 2));
}

#[test]
fn an_account_may_stand_in_a_file_in_a_table_or_in_a_variable() {
    let tokens = Arc::new(Tokens {
        life_s: AtomicUsize::new(3_600),
        given: AtomicUsize::new(0),
        refuses: AtomicBool::new(false),
        holds: AtomicBool::new(false),
        claims: Mutex::new(Vec::new()),
    });
    let endpoint = endpoint(&tokens);
    let vertex = Upstream::answering(answer);
    let account = account(&format!("http://127.0.0.1:{}/token", endpoint.port));
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("vertex-account.json");
    std::fs::write(&file, account.to_string()).expect("the folder is ours");
    let path = file.to_str().expect("UTF-8");
    let table: Vec<String> = account
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| format!("{name} = {value}"))
        .collect();
    for written in [
        format!("\"{path}\""),
        format!("'''{account}'''"),
        format!("{{ {} }}", table.join(", ")),
        "\"env:VERTEX_ACCOUNT_FILE\"".to_owned(),
    ] {
        let environment = [("VERTEX_ACCOUNT_FILE", path)];
        let gateway = Gateway::start_with(&config(&vertex, &written), &environment);
        let target = "/v1beta/models/vertex-main/m:generateContent";
        let head = [("x-goog-api-key", ADMIN_KEY)];
        let reply = gateway.connect().ask(&request("POST", target, &head, GEMINI.as_bytes()));
        assert_eq!(reply.status, 200, "{written:.40}: {}", reply.text());
    }
}

/// The file is read when the configuration is: what else is changed does not depend on it.
#[test]
fn an_accounts_file_that_is_gone_hinders_a_reload_and_no_other_change() {
    let vertex = Upstream::answering(answer);
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("vertex-gone.json");
    let account = account("http://127.0.0.1:9/token");
    std::fs::write(&file, account.to_string()).expect("the folder is ours");
    let gateway = Gateway::start(&config(&vertex, &format!("{file:?}")));
    let change =
        |method: &str, path: &str, body: Value| administer(&gateway, method, path, &body).status;
    std::fs::remove_file(&file).expect("it was there");
    assert_eq!(change("POST", "users", json!({ "name": "bob" })), 201);
    let refused = administer(&gateway, "POST", "reload", &Value::Null);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("cannot be read"), "{}", refused.text());
    assert_eq!(change("PATCH", "users/bob", json!({ "enabled": false })), 200);
    // Another account counts from the next reload on.
    let other = account.to_string().replace(EMAIL, "other@project-1.example");
    std::fs::write(&file, other).expect("the folder is ours");
    let hint = || {
        let shown = administer(&gateway, "GET", "credentials/vertex-main:1", &Value::Null);
        shown.json()["hint"].as_str().expect("a text").to_owned()
    };
    let before = hint();
    assert_eq!(change("DELETE", "users/bob", Value::Null), 204);
    assert_eq!(hint(), before);
    assert_eq!(change("POST", "reload", Value::Null), 200);
    assert_eq!(change("POST", "users", json!({ "name": "bob" })), 201);
}

#[test]
fn check_shows_the_account_and_where_calls_go_but_no_key() {
    let vertex = Upstream::answering(answer);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join("vertex-check.toml");
    let account = account("https://oauth2.googleapis.com/token");
    let text = config(&vertex, &format!("'''{account}'''"));
    let text = text.replace(&format!("base_url = \"http://127.0.0.1:{}\"\n", vertex.port), "");
    std::fs::write(&file, text.replace("DATA_DIR", "data")).expect("the folder is ours");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_gproxy"));
    let output = program.arg("check").arg("--config").arg(&file).output().expect("it was built");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let host = "https://us-central1-aiplatform.googleapis.com";
    for line in [
        format!("account {EMAIL}, tokens from https://oauth2.googleapis.com/token"),
        format!("{host}{MODELS}/anthropic/models/MODEL:rawPredict"),
        format!("{host}{MODELS}/google/models/MODEL:generateContent"),
    ] {
        assert!(said.contains(&line), "{line} is not in\n{said}");
    }
    assert!(!said.contains("PRIVATE KEY"), "{said}");
}

/// What Vertex lists has neither project nor location in its address.
#[test]
fn the_live_list_of_vertex_is_read_with_a_token() {
    let fixture = start(3_600, |conn, seen| {
        assert_eq!(seen.header("authorization"), Some("Bearer token-1"));
        assert_eq!(seen.target, "/v1beta1/publishers/google/models?pageSize=100");
        let name = "publishers/google/models/gemini-1.5-flash";
        conn.whole(200, json!({ "publisherModels": [{ "name": name }] }).to_string());
    });
    let account = account(&format!("http://127.0.0.1:{}/token", fixture.endpoint.port));
    let text = config(&fixture.vertex, &format!("'''{account}'''"));
    let text = text.replace("location =", "models = \"both\"\nlocation =");
    let gateway = Gateway::start(&text);
    wait_for("the list", || {
        let key = [("x-goog-api-key", ADMIN_KEY)];
        let reply = gateway.connect().ask(&request("GET", "/v1beta/models", &key, b""));
        let name = "models/vertex-main/gemini-1.5-flash";
        (reply.json()["models"][0]["name"] == name).then_some(())
    });
}

/// A call of the administration interface, and its answer.
fn administer(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Reply {
    let path = format!("/admin/api/{path}");
    support::admin::call(gateway, ADMIN_KEY, method, &path, body)
}

#[test]
fn an_account_of_a_provider_made_at_run_time_gets_tokens_and_is_never_shown_nor_kept_in_clear() {
    let fixture = start(3_600, |conn, seen| {
        let told = seen.header("authorization").unwrap_or_default().to_owned();
        conn.whole(200, json!({ "candidates": [], "told": told }).to_string());
    });
    // Another process, whose file has no such provider.
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("vertex-made");
    let _ = std::fs::remove_dir_all(&folder);
    let text = format!(
        "[global]\nhost = \"127.0.0.1\"\nport = 0\nworkers = 2\ndata_dir = \"{}\"\n\
         allow_private_upstreams = true\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        folder.display()
    );
    let master = [("GPROXY_MASTER_KEY", "0123456789abcdef0123456789abcdef")];
    let token_uri = format!("http://127.0.0.1:{}/token", fixture.endpoint.port);
    let account = account(&token_uri);
    let provider = |credential: Value| {
        json!({
            "name": "made", "channel": "vertex", "credentials": [credential], "settings": {
                "base_url": format!("http://127.0.0.1:{}", fixture.vertex.port),
                "location": "us-central1"
            }
        })
    };
    const ACCOUNT: &str = "service_account";
    let gateway = Gateway::start(&text);
    // What is none is refused with its field; a path of the server's files is none.
    for (credential, field) in [
        (json!({ "service_account": "/etc/passwd" }), "credentials"),
        (
            json!({ "service_account": json!({ "client_email": "a@b", "private_key": "x" }) }),
            ACCOUNT,
        ),
        (json!({ "service_account": account, "api_key": "k" }), ACCOUNT),
        (json!({ "weight": 2 }), "credentials"),
    ] {
        let reply = administer(&gateway, "POST", "providers", &provider(credential));
        assert_eq!(reply.status, 400, "{}", reply.text());
        assert_eq!(reply.json()["error"]["field"], field, "{}", reply.text());
        assert!(!reply.text().contains("root:"), "{}", reply.text());
    }
    let made = provider(json!({ "service_account": account, "weight": 2 }));
    let reply = administer(&gateway, "POST", "providers", &made);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let call = |gateway: &Gateway| {
        let key = format!("Bearer {ADMIN_KEY}");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let path = "/made/v1beta/models/gemini-2.5-flash:generateContent";
        gateway.connect().ask(&request("POST", path, &headers, GEMINI.as_bytes()))
    };
    let answer = call(&gateway);
    assert_eq!(answer.json()["told"], "Bearer token-1", "{}", answer.text());
    let secret = "BEGIN PRIVATE KEY";
    let shown = |gateway: &Gateway| {
        let mut shown = String::new();
        for path in ["providers", "credentials", "changes", "health", "settings"] {
            let reply = administer(gateway, "GET", path, &Value::Null);
            assert_eq!(reply.status, 200, "{path}: {}", reply.text());
            shown += &reply.text();
        }
        assert!(shown.contains(EMAIL), "people see whose it is");
        assert!(!shown.contains(secret) && !shown.contains("sealed:"), "{shown}");
    };
    shown(&gateway);
    assert!(!gateway.stderr().join("\n").contains(secret));
    assert!(gateway.stop().success());
    // A master key seals what stood there in clear.
    let holds = |needle: &str| {
        let disk = std::fs::read(folder.join("gproxy.db")).expect("the database");
        support::client::find(&disk, needle.as_bytes()).is_some()
    };
    assert!(holds(secret), "without a master key it is kept as it is, which the start says");
    let gateway = Gateway::start_with(&text, &master);
    assert_eq!(call(&gateway).json()["told"], "Bearer token-2");
    let credentials = administer(&gateway, "GET", "credentials", &Value::Null).json();
    let id = credentials["items"][0]["id"].as_str().expect("an id").to_owned();
    let mut other = account.clone();
    other["private_key_id"] = json!("key-2");
    let path = format!("credentials/{}", id.replace(':', "%3A"));
    let changed =
        administer(&gateway, "PATCH", &path, &json!({ "service_account": other, "weight": 3 }));
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(call(&gateway).json()["told"], "Bearer token-3", "another key signs");
    let taken = administer(&gateway, "PATCH", &path, &json!({ "service_account": null }));
    assert_eq!(taken.status, 400, "{}", taken.text());
    shown(&gateway);
    assert!(gateway.stop().success());
    let gateway = Gateway::start_with(&text, &master);
    assert_eq!(call(&gateway).json()["told"], "Bearer token-4");
    drop(gateway);
    let sealed = std::fs::read(folder.join("gproxy.db")).expect("the database");
    assert!(support::client::find(&sealed, b"sealed:1:").is_some());
}
