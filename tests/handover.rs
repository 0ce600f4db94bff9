//! Change without a cut: a new process takes over, or a new file is loaded, and no caller notices.

use std::fs::{self, File};
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support;
use crate::support::books::{audit, rows};
use crate::support::client::chat;
use crate::support::{ADMIN_KEY, Client, Config, Gateway, Upstream, request, size, wait_for};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

const MODEL: &str = "openai-main/gpt-4.1-mini";
const CLIENTS: usize = 8;

/// What the callers saw.
#[derive(Default)]
struct Seen {
    served: AtomicUsize,
    over: AtomicBool,
}

/// Calls on and on, on connections that are kept. A kept connection may end in front of a reply:
/// then the request is repeated, once. Nothing else may fail.
fn call_on(port: u16, seen: &Seen) {
    let connect = || Client::try_connect(port).expect("no connection is refused");
    let mut client = connect();
    let mut is_new = true;
    while !seen.over.load(Ordering::Relaxed) {
        client.send(&chat(MODEL, seen.served.load(Ordering::Relaxed).is_multiple_of(2)));
        let reply = match client.reply() {
            Ok(reply) => reply,
            Err(why) => {
                assert!(!is_new, "a new connection gives no answer: {why}");
                (client, is_new) = (connect(), true);
                continue;
            }
        };
        assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        seen.served.fetch_add(1, Ordering::Relaxed);
        is_new = reply.header("connection") == Some("close");
        if is_new {
            client = connect();
        }
    }
}

/// Runs `change` again and again while callers call; how many were served.
fn under_load(port: u16, changes: usize, mut change: impl FnMut()) -> usize {
    let seen = Arc::new(Seen::default());
    let callers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let seen = seen.clone();
            std::thread::spawn(move || call_on(port, &seen))
        })
        .collect();
    let all = size(3_000, 100_000);
    for number in 1..=changes {
        let served = || seen.served.load(Ordering::Relaxed);
        let failed = || callers.iter().any(std::thread::JoinHandle::is_finished);
        while served() < all * number / (changes + 1) && !failed() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        change();
    }
    while seen.served.load(Ordering::Relaxed) < all
        && !callers.iter().any(std::thread::JoinHandle::is_finished)
    {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    seen.over.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().expect("no request failed"));
    seen.served.load(Ordering::Relaxed)
}

#[test]
fn processes_follow_each_other_under_load_without_a_failed_request() {
    let upstream = Upstream::vendor();
    let first = Gateway::start(&Config::to(&upstream).text());
    let (port, folder) = (first.port, first.folder().to_owned());
    let mut line = vec![first];
    let served = under_load(port, 3, || {
        let old = line.last_mut().expect("there is one");
        let next = old.successor(&[]);
        next.wait_for_line("took over");
        assert_eq!(old.wait_exit().code(), Some(0));
        assert!(old.stderr().iter().all(|line| !line.contains("were cut")));
        line.push(next);
    });
    let mut last = line.pop().expect("there is one");
    last.sigterm();
    assert_eq!(last.wait_exit().code(), Some(0));
    // Each reply has its row, in one chain, whichever process wrote it.
    let told = audit(&folder);
    let count = rows(&folder).expect("there are books").len();
    assert!(count >= served, "{count} rows of {served}");
    assert!(told.contains(&format!("{count} rows")) && told.contains("0 faults"), "{told}");
    assert_eq!(count, upstream.count());
    drop(line);
}

#[test]
fn reloads_under_load_fail_no_request() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let gateway = Gateway::start(&config.text());
    let mut number = 0;
    let reloads = |gateway: &Gateway| {
        gateway.stderr().iter().filter(|line| line.contains("reloaded: ")).count()
    };
    let served = under_load(gateway.port, 10, || {
        number += 1;
        let label = format!("label = \"{number}\"\n");
        gateway.rewrite_config(
            &config
                .text()
                .replace("channel = \"custom\"\n", &format!("channel = \"custom\"\n{label}")),
        );
        gateway.signal(Signal::HUP);
        wait_for("a reload", || (reloads(&gateway) == number).then_some(()));
    });
    assert_eq!(upstream.count(), served);
}

#[test]
fn a_successor_that_fails_changes_nothing_and_the_next_one_may_try() {
    let upstream = Upstream::vendor();
    let mut old = Gateway::start(&Config::to(&upstream).text());
    let mut failed = old.successor(&[("GPROXY_MASTER_KEY", "short")]);
    assert_eq!(failed.wait_exit().code(), Some(1));
    old.wait_for_line("it has not taken over, so this one goes on");
    assert_eq!(old.connect().ask(&chat(MODEL, false)).status, 200);
    let mut next = old.successor(&[]);
    next.wait_for_line("took over");
    assert_eq!(old.wait_exit().code(), Some(0));
    assert_eq!(next.connect().ask(&chat(MODEL, false)).status, 200);
    assert!(next.is_alive());
}

#[test]
fn a_takeover_from_nobody_is_a_start() {
    let upstream = Upstream::vendor();
    let mut old = Gateway::start(&Config::to(&upstream).text());
    old.sigterm();
    assert_eq!(old.wait_exit().code(), Some(0));
    let next = old.successor(&[]);
    next.wait_for_line("listening on ");
    assert_eq!(next.connect().ask(&chat(MODEL, false)).status, 200);
}

/// A start takes part of the two seconds too; a machine that takes most of them tells nothing.
#[test]
fn who_has_connected_or_begun_to_ask_is_answered_behind_a_takeover() {
    let upstream = Upstream::vendor();
    let ask = chat(MODEL, false);
    for _ in 0..10 {
        let mut old = Gateway::start(&Config::to(&upstream).text());
        let (mut silent, mut half) = (old.connect(), old.connect());
        half.send(&ask[..20]);
        let begun = Instant::now();
        let _next = old.successor(&[]);
        old.wait_for_line("stopping: ");
        std::thread::sleep(Duration::from_millis(100));
        silent.send(&ask);
        let sent = half.send_more(&ask[20..]);
        if begun.elapsed() > Duration::from_millis(1_500) {
            continue;
        }
        sent.expect("it is open");
        for client in [&mut silent, &mut half] {
            assert_eq!(client.reply().expect("an answer").status, 200);
        }
        assert_eq!(old.wait_exit().code(), Some(0));
        return;
    }
}

/// Starts the next process after `before`, whose place the test takes: it has handed over, and
/// listens to no word any more. Its way to the next one comes back too.
fn follow_the_test(before: &mut Gateway) -> (Gateway, UnixStream) {
    before.sigterm();
    assert_eq!(before.wait_exit().code(), Some(0));
    let data = before.folder().join("data");
    fs::remove_file(data.join("gproxy.sock")).expect("it was left there");
    let waits = UnixListener::bind(data.join("gproxy.sock")).expect("our folder");
    let lock = File::open(data.join("gproxy.lock")).expect("it was left there");
    lock.lock().expect("nobody has it");
    let socket = TcpListener::bind(("127.0.0.1", before.port)).expect("nobody listens there");

    let next = before.successor(&[]);
    let (asks, _) = waits.accept().expect("the next one asks");
    asks.shutdown(Shutdown::Read).expect("it is open");
    let both = [socket.as_fd(), lock.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&both));
    sendmsg(&asks, &[IoSlice::new(&[0])], &mut ancillary, SendFlags::empty()).expect("it waits");
    (next, asks)
}

/// The test is the old process here, which has gone when it is to be told.
#[test]
fn an_old_process_that_ends_while_the_next_one_starts_is_followed_all_the_same() {
    let upstream = Upstream::vendor();
    let mut before = Gateway::start(&Config::to(&upstream).text());
    let (mut next, asks) = follow_the_test(&mut before);
    drop(asks);

    next.wait_for_line("has ended before it was told to");
    assert_eq!(next.connect().ask(&chat(MODEL, false)).status, 200);
    let mut last = next.successor(&[]);
    last.wait_for_line("took over");
    assert_eq!(next.wait_exit().code(), Some(0));
    last.sigterm();
    assert_eq!(last.wait_exit().code(), Some(0));
    assert!(audit(before.folder()).contains("1 rows"));
}

/// The test is the old process here, which goes on: its next one has served beside it already.
#[test]
fn who_is_too_late_to_follow_finishes_what_it_has() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        let _ = wait.lock().expect("never poisoned").recv();
        conn.whole(200, r#"{"model":"m"}"#);
    });
    let mut before = Gateway::start(&Config::to(&upstream).text());
    let (mut next, mut asks) = follow_the_test(&mut before);
    next.wait_for_line("listening on");
    let mut client = next.connect();
    client.send(&chat(MODEL, false));
    upstream.wait_for_requests(1);
    asks.write_all(&[2]).expect("it waits for a word");
    next.wait_for_line("1 open requests");
    go.send(()).expect("the script waits");
    assert_eq!(client.reply().expect("an answer").status, 200);
    assert_eq!(next.wait_exit().code(), Some(1));
    assert!(next.stderr().iter().any(|line| line.contains("has waited too long and goes on")));
    assert!(audit(before.folder()).contains("1 rows"));
}

#[test]
fn a_process_that_is_stopping_is_followed_at_once_and_finishes_what_it_has() {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let upstream = Upstream::answering(move |conn, _| {
        let _ = wait.lock().expect("never poisoned").recv();
        conn.whole(200, r#"{"model":"m"}"#);
    });
    let mut old = Gateway::start(&Config::to(&upstream).text());
    let mut client = old.connect();
    client.send(&chat(MODEL, false));
    upstream.wait_for_requests(1);
    old.sigterm();
    wait_for("new connections to be refused", || {
        TcpStream::connect(("127.0.0.1", old.port)).is_err().then_some(())
    });
    let next = old.successor(&[]);
    next.wait_for_line("took over");
    assert_eq!(next.connect().ask(&request("GET", "/healthz", &[], b"")).status, 200);
    assert!(old.is_alive(), "a request is open");
    go.send(()).expect("the script waits");
    assert_eq!(client.reply().expect("an answer").status, 200);
    assert_eq!(old.wait_exit().code(), Some(0));
    assert!(old.stderr().iter().all(|line| !line.contains("were cut")));
}

#[test]
fn one_process_at_a_time_takes_over() {
    let old = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    let first = UnixStream::connect(old.folder().join("data/gproxy.sock")).expect("it waits");
    let mut second = old.successor(&[]);
    assert_eq!(second.wait_exit().code(), Some(1));
    second.wait_for_line("another one may be taking over from it");
    drop(first);
    let third = old.successor(&[]);
    third.wait_for_line("took over");
}

#[test]
fn a_socket_of_the_service_manager_is_served() {
    let upstream = Upstream::vendor();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = socket.local_addr().expect("it is bound").port();
    // It waits before anybody serves.
    let mut early = Client::try_connect(port).expect("the manager listens");
    early.send(&chat(MODEL, false));
    let gateway = Gateway::passed(&Config::to(&upstream).text(), socket);
    assert_eq!(early.reply().expect("an answer").status, 200);
    gateway.wait_for_line(&format!("listening on http://127.0.0.1:{port}"));
}

const WELL_KNOWN: &str = r#"
[global]
host = "127.0.0.1"
port = 0
data_dir = "DATA_DIR"
[[providers]]
name = "demo"
channel = "echo"
[[users]]
name = "admin"
is_admin = true
[[users.keys]]
api_key = "sk-admin-1"
"#;

/// Whatever the file says of the host, it is the socket that others reach.
#[test]
fn the_key_of_the_shipped_file_opens_no_socket_that_others_reach() {
    let socket = TcpListener::bind("0.0.0.0:0").expect("a port");
    let mut gateway = Gateway::passed(WELL_KNOWN, socket);
    assert!(!gateway.wait_exit().success());
    gateway.wait_for_line("the socket of 0.0.0.0 that is listened on can be reached");

    let own = WELL_KNOWN.replace("sk-admin-1", "sk-of-nobody-else").replace("127.0.0.1", "0.0.0.0");
    let gateway = Gateway::start(&own);
    // The file says loopback again, and that counts at the next start.
    gateway.rewrite_config(WELL_KNOWN);
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reload refused: the running configuration stays");
}

/// What the next process has read already would be lost to it.
#[test]
fn nothing_is_changed_while_the_next_process_reads_what_there_is() {
    let gateway = Gateway::start(&Config::to_url("http://127.0.0.1:9").text());
    let make = |name: &str| {
        let user = serde_json::json!({ "name": name });
        support::admin::call(&gateway, ADMIN_KEY, "POST", "/admin/api/users", &user)
    };
    assert_eq!(make("before").status, 201);
    let next = UnixStream::connect(gateway.folder().join("data/gproxy.sock")).expect("it waits");
    let refused = wait_for("a refusal", || {
        let reply = make(&format!("meanwhile-{:?}", std::time::Instant::now()));
        (reply.status != 201).then_some(reply)
    });
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    // It ends before it serves.
    drop(next);
    wait_for("changes to be taken again", || (make("after").status == 201).then_some(()));
}
