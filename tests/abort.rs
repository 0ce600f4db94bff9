//! Callers that leave before their reply is whole: the call is given up, or read on for its bill.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use crate::support;
use crate::support::books::Row;
use crate::support::client::post;
use crate::support::{Client, Config, Gateway, UPSTREAM_KEY, Upstream, wait_for};

const CHUNK: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"12345678\"}}]}\n\n";
const END: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":70,\
    \"completion_tokens\":30}}\n\ndata: [DONE]\n\n";
const WHOLE: &str = "{\"choices\":[{\"message\":{\"content\":\"hi\"}}],\
    \"usage\":{\"prompt_tokens\":70,\"completion_tokens\":30}}";

const PRICES: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"m\"\n\
    price_tiers = [{ price_input_tokens = \"1\", price_output_tokens = \"2\" }]\n";
/// 70 * 1 + 30 * 2 millionths of a dollar.
const COST: i64 = 130_000_000;

fn ask(model: &str, stream: bool) -> Vec<u8> {
    let body = format!("{{\"model\":\"{model}\",\"messages\":[],\"stream\":{stream}}}");
    post("/router/v1/chat/completions", body)
}

/// A stream or a whole reply that is finished when the test says so.
fn held() -> (Upstream, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, seen| {
        let streams = seen.json()["stream"] == true;
        if streams {
            conn.stream_head();
            conn.piece(CHUNK);
        }
        if wait.lock().expect("never poisoned").recv().is_err() {
            let _ = conn.wait_closed();
        } else if streams {
            conn.piece(END);
            conn.end();
        } else {
            conn.whole(200, WHOLE);
        }
    });
    (upstream, go)
}

/// A caller that has asked and got as much as there is.
fn caller(gateway: &Gateway, upstream: &Upstream, model: &str, stream: bool) -> Client {
    let mut client = gateway.connect();
    client.send(&ask(model, stream));
    if stream {
        assert_eq!(client.head().expect("the stream begins").status, 200);
        client.chunks_until("12345678");
    }
    upstream.wait_for_requests(1);
    client
}

/// The one row.
fn row(gateway: &Gateway) -> Row {
    let row = || support::books::rows(gateway.folder())?.pop();
    wait_for("the row", row)
}

fn wait_for_drains(gateway: &Gateway, count: f64) {
    wait_for("replies to be read on", || (gateway.gauge("gproxy_drains") == count).then_some(()));
}

#[test]
fn drain_reads_on_for_the_true_bill_and_frees_the_callers_place() {
    for (stream, resets) in [(true, false), (true, true), (false, false), (false, true)] {
        let (upstream, go) = held();
        let config = Config::to(&upstream).setting("on_abort = \"drain\"").tail(PRICES);
        let gateway = Gateway::start(&config.text());
        let client = caller(&gateway, &upstream, "m", stream);
        if resets {
            client.reset();
        } else {
            drop(client);
        }
        wait_for_drains(&gateway, 1.0);
        // The one that asks for metrics is left, once those that asked before are closed.
        wait_for("the caller's place to be free", || {
            (gateway.gauge("gproxy_connections") == 1.0).then_some(())
        });
        assert_eq!(gateway.gauge("gproxy_upstream_in_flight"), 1.0);
        go.send(()).expect("the script waits");
        let row = row(&gateway);
        assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "upstream"));
        assert_eq!((row.number("input_tokens"), row.number("output_tokens")), (70, 30));
        assert_eq!(row.number("cost"), COST, "stream: {stream}, resets: {resets}");
        wait_for_drains(&gateway, 0.0);
        wait_for("every place to be free", || {
            (gateway.gauge("gproxy_connections") == 1.0).then_some(())
        });
    }
}

#[test]
fn a_drain_ends_at_its_time_and_bills_what_was_seen() {
    let (upstream, _go) = held();
    let config =
        Config::to(&upstream).setting("on_abort = \"drain\"\ndrain_ms_max = 400").tail(PRICES);
    let gateway = Gateway::start(&config.text());
    drop(caller(&gateway, &upstream, "m", true));
    let row = row(&gateway);
    assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "estimated"));
    assert_eq!(row.number("output_tokens"), 2, "eight bytes of text");
    assert!(row.number("cost") > 0);
    wait_for_drains(&gateway, 0.0);
}

/// Says the same without end, until it is left; tells how much it said.
fn endless(chunk: String) -> (Upstream, std::sync::mpsc::Receiver<usize>) {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        let mut said = 0;
        while conn.piece(&chunk) {
            said += chunk.len();
        }
        let _ = tell.lock().expect("never poisoned").send(said);
    });
    (upstream, told)
}

#[test]
fn a_drain_ends_at_what_it_may_cost_and_at_its_bytes() {
    let text = "x".repeat(4_000);
    let chunk =
        format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
    // 1,000 tokens an event, 0.002 USD each.
    let settings = "on_abort = \"drain\"\ndrain_usd_max = \"0.02\"";
    for (model, bytes_max) in [("m", 12 << 20), ("free", 48 << 20)] {
        let (upstream, said) = endless(chunk.clone());
        let config = Config::to(&upstream).setting(settings).tail(PRICES);
        let gateway = Gateway::start(&config.text());
        let mut client = gateway.connect();
        client.send(&ask(model, true));
        assert_eq!(client.head().expect("the stream begins").status, 200);
        client.reset();
        let row = row(&gateway);
        assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "estimated"));
        // What had left before is 2 picodollars a millionth of a token, four bytes each.
        let before = row.number("bytes_out") / 4 * 2_000_000;
        let after = row.number("cost") - before;
        assert!(after <= 40_000_000_000, "{model}: {after}");
        let said = said.recv_timeout(support::DEADLINE).expect("the call is given up");
        assert!(said < bytes_max, "{model}: {said}");
        if model == "free" {
            assert!(said >= 16 << 20, "read on as far as the bytes allow: {said}");
        }
    }
}

#[test]
fn cancel_gives_the_call_up_and_bills_an_estimate() {
    for stream in [true, false] {
        let (upstream, _go) = held();
        let gateway = Gateway::start(&Config::to(&upstream).tail(PRICES).text());
        drop(caller(&gateway, &upstream, "m", stream));
        let row = row(&gateway);
        assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "estimated"));
        assert_eq!(row.number("output_tokens"), if stream { 2 } else { 0 });
        assert!(row.number("input_tokens") > 0 && row.number("cost") > 0);
        let metrics = gateway.metrics();
        assert_eq!((metrics["gproxy_drains"], metrics["gproxy_upstream_in_flight"]), (0.0, 0.0));
    }
}

/// Half an event is held, so nothing is written that could fail.
#[test]
fn a_caller_who_leaves_while_bytes_drip_in_is_noticed_soon() {
    let (tell, told) = channel();
    let tell = Mutex::new(tell);
    let upstream = Upstream::answering(move |conn, _| {
        conn.stream_head();
        conn.piece(CHUNK);
        let mut drips = 0;
        while drips < 200 && conn.piece("x") {
            drips += 1;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = tell.lock().expect("never poisoned").send(drips);
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    drop(caller(&gateway, &upstream, "m", true));
    let drips = told.recv_timeout(support::DEADLINE).expect("it ends");
    assert!(drips < 100, "{drips} drips for nobody");
}

#[test]
fn a_refusal_that_comes_when_the_caller_has_left_is_the_end() {
    let one = format!("{{ api_key = \"{UPSTREAM_KEY}\" }}");
    for (status, credentials) in [(503, "two"), (429, "two"), (401, "two"), (503, "one")] {
        let (go, wait) = channel::<()>();
        let wait = Mutex::new(wait);
        let upstream = Upstream::answering(move |conn, _| {
            let _ = wait.lock().expect("never poisoned").recv();
            conn.whole(status, "{}");
        });
        let config = Config::to(&upstream).setting("on_abort = \"drain\"").tail(PRICES);
        let mut text = config.text();
        if credentials == "two" {
            text = text.replace(&one, &format!("{one}, {{ api_key = \"another\" }}"));
        }
        let gateway = Gateway::start(&text);
        drop(caller(&gateway, &upstream, "m", false));
        wait_for_drains(&gateway, 1.0);
        drop(go);
        let row = row(&gateway);
        assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "none"), "{status}");
        assert_eq!((row.number("cost"), row.number("attempts")), (0, 1), "{status}");
        assert_eq!(upstream.count(), 1, "{status}: nothing more is bought for nobody");
    }
}

#[test]
fn a_drain_is_settled_when_the_process_ends() {
    let (upstream, _go) = held();
    let config = Config::to(&upstream)
        .timeout("drain_ms = 200")
        .setting("on_abort = \"drain\"")
        .tail(PRICES);
    let mut gateway = Gateway::start(&config.text());
    drop(caller(&gateway, &upstream, "m", true));
    wait_for_drains(&gateway, 1.0);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let row = row(&gateway);
    assert_eq!((row.text("outcome"), row.text("usage_source")), ("gone", "estimated"));
}
