//! A second credential beside a silent one: the first that speaks is passed on, the other one is
//! given up, and the caller pays once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use crate::support;
use crate::support::books;
use crate::support::client::chat;
use crate::support::tls::{file, terminator};
use crate::support::upstream::{Conn, Seen};
use crate::support::{ADMIN_KEY, Client, Gateway, Upstream, wait_for};
use rusqlite::Connection;

const KEYS: [&str; 2] = ["cred-hedge-1", "cred-hedge-2"];
/// Calls after which the gateway knows how soon an answer begins.
const LEARNED: usize = 100;

/// What the upstream does with a credential's calls.
#[derive(Default)]
struct Script {
    modes: [AtomicU8; 2],
    closed: [AtomicUsize; 2],
}

const QUICK: u8 = 0;
const SILENT: u8 = 1;
/// Silent until it is [`QUICK`] again.
const HELD: u8 = 2;
/// The same, and then a 503.
const REFUSING: u8 = 3;
/// The same, and then a 403.
const DENYING: u8 = 4;

impl Script {
    fn set(&self, modes: [u8; 2]) {
        (0..2).for_each(|at| self.modes[at].store(modes[at], Ordering::SeqCst));
    }

    fn serve(&self, conn: &mut Conn, seen: &Seen) {
        let key = seen.header("authorization").unwrap_or_default();
        let at = usize::from(key.ends_with(KEYS[1]));
        let mode = self.modes[at].load(Ordering::SeqCst);
        if mode == SILENT {
            if conn.wait_closed().is_some() {
                self.closed[at].fetch_add(1, Ordering::SeqCst);
            }
            return;
        }
        while self.modes[at].load(Ordering::SeqCst) != QUICK {
            std::thread::sleep(Duration::from_millis(5));
        }
        if mode == REFUSING || mode == DENYING {
            let status = if mode == REFUSING { 503 } else { 403 };
            conn.whole(status, r#"{"error":{"message":"no","type":"x"}}"#);
        } else if seen.json()["stream"] == true {
            let usage = "\"usage\":{\"prompt_tokens\":70,\"completion_tokens\":30}";
            conn.stream(format!(
                "data: {{\"by\":{at},\"choices\":[{{\"index\":0}}]}}\n\n\
                 data: {{\"choices\":[],{usage}}}\n\ndata: [DONE]\n\n"
            ));
        } else {
            let usage = "\"usage\":{\"prompt_tokens\":70,\"completion_tokens\":30}";
            conn.whole(200, format!("{{\"by\":{at},{usage}}}"));
        }
    }

    fn wait_closed(&self, at: usize) {
        wait_for("the other call to be given up", || {
            (self.closed[at].load(Ordering::SeqCst) > 0).then_some(())
        });
    }
}

fn stage() -> (Arc<Script>, Upstream) {
    let script = Arc::new(Script::default());
    let served = script.clone();
    let upstream = Upstream::answering(move |conn, seen| served.serve(conn, seen));
    (script, upstream)
}

fn config(base_url: &str, more: &str) -> String {
    format!(
        "[global]\nport = 0\nworkers = 2\ndata_dir = \"DATA_DIR\"\n\
         enable_upstream_log = true\nextra_ca_file = {:?}\n\
         [[providers]]\nname = \"p\"\nchannel = \"custom\"\n\
         credentials = [{{ api_key = \"{}\" }}, {{ api_key = \"{}\" }}]\n\
         [providers.settings]\nbase_url = \"{base_url}\"\nhedge = true\n{more}\n\
         [[models]]\nprovider_name = \"p\"\nmodel_id = \"m\"\n\
         price_tiers = [{{ price_input_tokens = \"1\", price_output_tokens = \"2\" }}]\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n\
         [[quotas]]\nuser_name = \"admin\"\nquota = \"10\"\n",
        file("root.pem"),
        KEYS[0],
        KEYS[1]
    )
}

fn plain(upstream: &Upstream) -> String {
    format!("http://127.0.0.1:{}", upstream.port)
}

/// A gateway that sticks to the first credential and knows how soon it answers.
fn learned(upstream: &Upstream, base_url: &str, stream: bool) -> (Gateway, Client) {
    let gateway = Gateway::start(&config(base_url, "rotation_strategy = \"sticky\""));
    let mut client = gateway.connect();
    for _ in 0..LEARNED {
        assert_eq!(client.ask(&chat("p/m", stream)).status, 200);
    }
    upstream.forget();
    (gateway, client)
}

/// What is in the books: a row for each call, each charged once.
fn check_books(gateway: &Gateway, calls: usize) -> books::Row {
    let mut rows =
        wait_for("every row", || books::rows(gateway.folder()).filter(|rows| rows.len() == calls));
    // 70 * 1 + 30 * 2 millionths of a dollar.
    assert!(rows.iter().all(|row| row.number("cost") == 130_000_000));
    assert_eq!(books::spent(gateway.folder()), calls as i64 * 130_000_000);
    assert!(books::audit(gateway.folder()).contains(" 0 faults"));
    rows.pop().expect("there is one")
}

/// How the last two attempts ended, by their number, and with which credential.
fn last_attempts(gateway: &Gateway) -> Vec<(i64, i64, String)> {
    wait_for("the log of both", || {
        let logs = Connection::open(gateway.folder().join("data/gproxy-logs.db")).ok()?;
        let last = "SELECT attempt, credential_id, end_reason FROM upstream_requests WHERE \
                    downstream_trace_id = (SELECT downstream_trace_id FROM upstream_requests \
                    WHERE attempt = 2) ORDER BY attempt";
        let mut statement = logs.prepare(last).ok()?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        let rows: Vec<_> = rows.ok()?.collect::<Result<_, _>>().ok()?;
        (rows.len() == 2).then_some(rows)
    })
}

fn hedges(gateway: &Gateway) -> (f64, f64) {
    (gateway.gauge("gproxy_hedges_total"), gateway.gauge("gproxy_hedges_won_total"))
}

#[test]
fn the_second_answers_while_the_first_is_silent() {
    for (stream, tls) in [(false, false), (true, false), (false, true), (true, true)] {
        let (script, upstream) = stage();
        let base_url = match tls {
            true => format!("https://localhost:{}", terminator(upstream.port)),
            false => plain(&upstream),
        };
        let (gateway, mut client) = learned(&upstream, &base_url, stream);
        script.set([SILENT, QUICK]);
        let reply = client.ask(&chat("p/m", stream));
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        assert!(reply.text().contains("\"by\":1"), "{}", reply.text());
        script.wait_closed(0);
        assert_eq!(upstream.count(), 2);
        assert_eq!(hedges(&gateway), (1.0, 1.0));
        assert_eq!(gateway.gauge("gproxy_upstream_in_flight"), 0.0);
        let row = check_books(&gateway, LEARNED + 1);
        assert_eq!((row.number("credential_id"), row.text("usage_source")), (1, "upstream"));
        let told = last_attempts(&gateway);
        assert_eq!(told, [(1, 0, "overtaken".to_owned()), (2, 1, "ok".to_owned())]);
        // The first one is not blamed.
        script.set([QUICK, QUICK]);
        assert!(client.ask(&chat("p/m", stream)).text().contains("\"by\":0"), "it is stuck to");
        assert!(!gateway.stderr().iter().any(|line| line.contains("rests")));
    }
}

#[test]
fn the_first_answers_after_all() {
    for stream in [false, true] {
        let (script, upstream) = stage();
        let (gateway, mut client) = learned(&upstream, &plain(&upstream), stream);
        script.set([HELD, SILENT]);
        client.send(&chat("p/m", stream));
        upstream.wait_for_requests(2);
        script.set([QUICK, SILENT]);
        let reply = client.reply().expect("a reply");
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        assert!(reply.text().contains("\"by\":0"), "{}", reply.text());
        script.wait_closed(1);
        assert_eq!(hedges(&gateway), (1.0, 0.0));
        let row = check_books(&gateway, LEARNED + 1);
        assert_eq!(row.number("credential_id"), 0);
        let told = last_attempts(&gateway);
        assert_eq!(told, [(1, 0, "ok".to_owned()), (2, 1, "overtaken".to_owned())]);
    }
}

#[test]
fn a_refusal_of_the_first_waits_for_the_second() {
    let (script, upstream) = stage();
    let (gateway, mut client) = learned(&upstream, &plain(&upstream), false);
    script.set([REFUSING, HELD]);
    client.send(&chat("p/m", false));
    upstream.wait_for_requests(2);
    script.modes[0].store(QUICK, Ordering::SeqCst);
    assert!(client.is_silent(Duration::from_millis(300)), "the second one is still under way");
    script.set([QUICK, QUICK]);
    let reply = client.reply().expect("a reply");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("\"by\":1"), "{}", reply.text());
    gateway.wait_for_line("credential 1 of p rests");
    assert_eq!(hedges(&gateway), (1.0, 1.0));
    check_books(&gateway, LEARNED + 1);
}

#[test]
fn a_403_that_nobody_read_disables_nothing() {
    let (script, upstream) = stage();
    let (gateway, mut client) = learned(&upstream, &plain(&upstream), false);
    script.set([DENYING, HELD]);
    client.send(&chat("p/m", false));
    upstream.wait_for_requests(2);
    script.modes[0].store(QUICK, Ordering::SeqCst);
    assert!(client.is_silent(Duration::from_millis(300)), "the second one is still under way");
    script.set([QUICK, QUICK]);
    assert_eq!(client.reply().expect("a reply").status, 200);
    assert_eq!(hedges(&gateway), (1.0, 1.0));
    assert_eq!(gateway.gauge("gproxy_credentials_disabled_total"), 0.0);
}

#[test]
fn a_caller_who_leaves_ends_both_calls() {
    let (script, upstream) = stage();
    let (gateway, mut client) = learned(&upstream, &plain(&upstream), true);
    script.set([SILENT, SILENT]);
    client.send(&chat("p/m", true));
    upstream.wait_for_requests(2);
    drop(client);
    script.wait_closed(0);
    script.wait_closed(1);
    wait_for("nothing under way", || {
        (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(())
    });
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
    let rows = wait_for("the row", || {
        books::rows(gateway.folder()).filter(|rows| rows.len() == LEARNED + 1)
    });
    assert_eq!(rows.last().map(|row| row.number("attempts")), Some(2));
    assert!(books::audit(gateway.folder()).contains(" 0 faults"));
}

#[test]
fn a_process_that_is_told_to_end_lets_both_go_on() {
    let (script, upstream) = stage();
    let (mut gateway, mut client) = learned(&upstream, &plain(&upstream), false);
    script.set([SILENT, HELD]);
    client.send(&chat("p/m", false));
    upstream.wait_for_requests(2);
    gateway.sigterm();
    gateway.wait_for_line("stopping: 1 open");
    script.set([SILENT, QUICK]);
    let reply = client.reply().expect("a reply");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.text().contains("\"by\":1"), "{}", reply.text());
    assert!(gateway.wait_exit().success());
    check_books(&gateway, LEARNED + 1);
}

/// Builds of the tests check at each wait that a coroutine is still on its worker's thread.
#[test]
fn many_at_once_stay_on_their_workers_and_leave_nothing_behind() {
    const CLIENTS: usize = 16;
    let calls = support::size(100, 2_000);
    let asked = AtomicUsize::new(0);
    let upstream = Upstream::answering(move |conn, seen| {
        // One in forty is slow, each in its own way, so some are slower than 99 of a hundred.
        let number = asked.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(40) {
            std::thread::sleep(Duration::from_millis(50 + number as u64 * 7 % 400));
        }
        if seen.json()["stream"] == true {
            conn.stream("data: {\"choices\":[]}\n\ndata: [DONE]\n\n");
        } else {
            conn.whole(200, "{}");
        }
    });
    let gateway = Gateway::start(&config(&plain(&upstream), "hedge_ms_min = 20"));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = gateway.connect();
                for call in 0..calls {
                    let reply = client.ask(&chat("p/m", call % 2 == 1));
                    assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
                }
            });
        }
    });
    wait_for("nothing under way", || {
        (gateway.gauge("gproxy_upstream_in_flight") == 0.0).then_some(())
    });
    let (hedges, _) = hedges(&gateway);
    assert!(hedges > 0.0);
    assert_eq!(gateway.gauge("gproxy_held_bytes"), 0.0);
    assert_eq!(gateway.gauge("gproxy_panics_total"), 0.0);
    let all = (CLIENTS * calls) as f64;
    assert_eq!(gateway.gauge("gproxy_attempts_total"), all + hedges);
    wait_for("every row", || {
        books::rows(gateway.folder()).filter(|rows| rows.len() == CLIENTS * calls)
    });
    assert!(books::audit(gateway.folder()).contains(" 0 faults"));
}
