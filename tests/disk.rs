//! A disk that refuses while the gateway runs, and files that cannot be the books.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support;
use crate::support::admin::admin;
use crate::support::client::chat;
use crate::support::{Config, Gateway, Upstream, request, wait_for};
use gproxy::ledger::audit::audit;
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::Value;

/// Rows that may wait, as `limits::LEDGER_ROWS_MAX` says.
const ROWS_MAX: usize = gproxy::limits::LEDGER_ROWS_MAX;
const CLIENTS: usize = 8;

/// The gateway's files may not grow beyond so many bytes; `None`: as they like.
fn limit_files(gateway: &Gateway, bytes: Option<u64>) {
    let pid = Pid::from_raw(gateway.pid() as i32).expect("it runs");
    let limit = Rlimit { current: bytes, maximum: None };
    prlimit(Some(pid), Resource::Fsize, limit).expect("our own child");
}

fn is_ready(gateway: &Gateway) -> bool {
    gateway.connect().ask(&request("GET", "/readyz", &[], b"")).status == 200
}

/// What the interface says of the books: whether rows are written, and what happens otherwise.
fn health(gateway: &Gateway) -> (bool, String) {
    let told = admin(gateway, "GET", "health", Value::Null, 200);
    let ledger = &told["ledger"];
    assert_eq!(ledger["enable_usage"], true, "{ledger}");
    let healthy = ledger["healthy"].as_bool().expect("a flag");
    assert!(healthy || ledger["rows"].as_u64() > Some(0), "{ledger}");
    (healthy, ledger["unbilled"].as_str().expect("a word").to_owned())
}

/// Calls from several clients until one is refused; how many were served, and the refusal's status.
fn call_until_refused(gateway: &Gateway) -> (usize, u16) {
    let served = AtomicUsize::new(0);
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while refused.load(Ordering::Relaxed) == 0 {
                    let reply = client.ask(&chat("router/m", false));
                    if reply.status != 200 {
                        refused.store(reply.status.into(), Ordering::Relaxed);
                        break;
                    }
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (served.into_inner(), refused.into_inner() as u16)
}

#[test]
fn a_full_disk_refuses_or_serves_as_the_settings_say_and_recovers_without_a_restart() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream);
    let mut gateway = Gateway::start(&config.text());
    let ask = |gateway: &Gateway| gateway.connect().ask(&chat("router/m", false)).status;
    assert_eq!(ask(&gateway), 200);
    wait_for("the row", || (support::books::rows(gateway.folder())?.len() == 1).then_some(()));
    assert_eq!(health(&gateway), (true, "refuse".to_owned()));
    limit_files(&gateway, Some(1));
    assert_eq!(ask(&gateway), 200, "it waits for the disk");
    wait_for("readiness to turn red", || (!is_ready(&gateway)).then_some(()));
    assert_eq!(health(&gateway), (false, "refuse".to_owned()));
    gateway.wait_for_line("usage cannot be written: ");
    let (served, status) = call_until_refused(&gateway);
    assert_eq!((served + 1, status), (ROWS_MAX, 503), "every place is taken, then no more");
    // The other way, by a reload.
    gateway.rewrite_config(&config.clone().tail("[ledger]\nunbilled = \"serve\"").text());
    gateway.signal(Signal::HUP);
    gateway.wait_for_line("reloaded: ");
    assert_eq!(health(&gateway), (false, "serve".to_owned()));
    assert_eq!(ask(&gateway), 200);
    assert_eq!(gateway.gauge("gproxy_usage_unbilled_total"), 1.0);
    gateway.wait_for_line("is served and not recorded");
    // And there is room again.
    limit_files(&gateway, None);
    wait_for("readiness", || is_ready(&gateway).then_some(()));
    gateway.wait_for_line("usage is written again");
    assert_eq!(health(&gateway), (true, "serve".to_owned()));
    assert_eq!(ask(&gateway), 200);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let audit = audit(&gateway.folder().join("data")).expect("they can be read");
    assert_eq!((audit.rows as usize, audit.faults), (ROWS_MAX + 2, Vec::new()), "all but one");
}

#[test]
fn an_end_that_loses_rows_is_no_good_one() {
    let upstream = Upstream::vendor();
    let mut gateway = Gateway::start(&Config::to(&upstream).text());
    limit_files(&gateway, Some(1));
    assert_eq!(gateway.connect().ask(&chat("router/m", false)).status, 200);
    gateway.wait_for_line("usage cannot be written: ");
    gateway.sigterm();
    assert_eq!(gateway.wait_exit().code(), Some(1));
    gateway.wait_for_line("usage rows could not be written: they are lost");
}

#[test]
fn what_is_not_our_file_is_named_and_left_as_it_is() {
    let upstream = Upstream::vendor();
    let folder = std::env::temp_dir().join(format!("gproxy-disk-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let config = Config::to(&upstream).text();
    let config = config.replace("DATA_DIR", &folder.display().to_string());
    let mut gateway = Gateway::start(&config);
    assert_eq!(gateway.connect().ask(&chat("router/m", false)).status, 200);
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let path = folder.join("gproxy.db");
    let whole = std::fs::read(&path).expect("the books");
    let mut torn = whole.clone();
    let middle = torn.len() / 2;
    torn[middle..].iter_mut().for_each(|byte| *byte = 0x5a);
    for bytes in [&b"no database at all"[..], &torn, &whole[..whole.len() / 3]] {
        std::fs::write(&path, bytes).expect("our folder");
        let mut gateway = Gateway::spawn(&config, &[]);
        assert_eq!(gateway.wait_exit().code(), Some(1));
        let said = gateway.stderr().join("\n");
        assert!(said.contains("gproxy.db") && said.contains("damaged"), "{said}");
        assert!(std::fs::read(&path).expect("it is there") == bytes, "it was touched");
    }
    std::fs::remove_dir_all(&folder).expect("it is there");
}
