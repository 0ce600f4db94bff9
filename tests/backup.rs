//! `gproxy backup`: a copy that is taken while requests are served, and what stands in it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support;
use crate::support::admin::{admin, call};
use crate::support::client::chat;
use crate::support::{ADMIN_KEY, Config, Gateway, Upstream, wait_for};
use rusqlite::{Connection, types::Value as Cell};
use serde_json::{Value, json};

const PRICED: &str = "[[models]]\nprovider_name = \"router\"\nmodel_id = \"m\"\n\
    price_each_call = \"0.01\"\n";
/// Tables that only grow.
const GROWING: [&str; 3] = ["usage_rows", "kinds", "processes"];

/// All of a file's tables, row by row.
fn tables(file: &Path) -> BTreeMap<String, Vec<Vec<Cell>>> {
    let books = Connection::open(file).expect("a database");
    let select = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut names = books.prepare(select).expect("sound");
    let names = names.query_map([], |row| row.get::<_, String>(0)).expect("sound");
    let read = |name: String| {
        let order = if GROWING.contains(&name.as_str()) { " ORDER BY id" } else { "" };
        let mut rows = books.prepare(&format!("SELECT * FROM {name}{order}")).expect("sound");
        let width = rows.column_count();
        let rows = rows.query_map([], |row| (0..width).map(|at| row.get(at)).collect());
        let rows = rows.expect("sound").collect::<rusqlite::Result<Vec<Vec<Cell>>>>();
        (name, rows.expect("sound"))
    };
    names.map(|name| read(name.expect("a name"))).collect()
}

fn gproxy(arguments: &[&str], config: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    let out = command.args(arguments).arg("--config").arg(config).output();
    let out = out.expect("cargo built the binary for this test");
    let told = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success(), told + &String::from_utf8_lossy(&out.stderr))
}

/// A folder of data that holds this copy alone, and a configuration that leads there.
fn restored(gateway: &Gateway, copy: &Path, number: usize) -> (PathBuf, String) {
    let folder = gateway.folder().join(format!("restored-{number}"));
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::copy(copy, folder.join("gproxy.db")).expect("a copy");
    let text = std::fs::read_to_string(gateway.folder().join("config.toml")).expect("our file");
    let data = gateway.folder().join("data").display().to_string();
    let text = text.replace(&data, &folder.display().to_string());
    std::fs::write(folder.join("config.toml"), &text).expect("a file");
    (folder, text)
}

#[test]
fn a_copy_taken_while_the_writer_runs_is_whole_adds_up_and_serves() {
    let upstream = Upstream::vendor();
    let mut gateway = Gateway::start(&Config::to(&upstream).tail(PRICED).text());
    let user = json!({ "name": "bob", "password": "correct horse battery" });
    admin(&gateway, "POST", "users", user, 201);
    let key = admin(&gateway, "POST", "user_keys", json!({ "user_name": "bob" }), 201);
    admin(&gateway, "POST", "quotas", json!({ "user_name": "bob", "quota": "1" }), 201);
    admin(&gateway, "POST", "quotas/bob%3Atotal/top_ups", json!({ "amount": "5" }), 201);
    let config = gateway.folder().join("config.toml");
    let copies: Vec<PathBuf> =
        (0..4).map(|number| gateway.folder().join(format!("copy-{number}.db"))).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(client.ask(&chat("router/m", false)).status, 200);
                }
            });
        }
        let written = || support::books::rows(gateway.folder()).map_or(0, |rows| rows.len());
        for copy in &copies {
            let before = written();
            wait_for("more rows", || (written() > before + 20).then_some(()));
            let (is_well, told) = gproxy(&["backup", &copy.display().to_string()], &config);
            assert!(is_well, "{told}");
        }
        let at_last = written();
        wait_for("rows behind the last copy", || (written() > at_last).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    // A copy is not written over.
    let (is_well, told) = gproxy(&["backup", &copies[0].display().to_string()], &config);
    assert!(!is_well && told.contains("cannot be written: it exists, and is left"), "{told}");
    gateway.sigterm();
    assert!(gateway.wait_exit().success());
    let now = tables(&gateway.folder().join("data/gproxy.db"));
    let mut before = 0;
    for (number, copy) in copies.iter().enumerate() {
        let mode = std::fs::metadata(copy).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "as private as what it is of");
        let then = tables(copy);
        assert_eq!(then.keys().collect::<Vec<_>>(), now.keys().collect::<Vec<_>>());
        for name in GROWING {
            let count = then[name].len();
            assert!(then[name] == now[name][..count], "{name} of copy {number} differs");
        }
        for name in ["users", "user_keys", "user_quotas", "top_ups", "changes", "first_seen"] {
            assert!(then[name] == now[name], "{name} of copy {number} differs");
        }
        let rows = then["usage_rows"].len();
        assert!(before < rows && rows < now["usage_rows"].len(), "{before} {rows}");
        before = rows;
        // Rows, sums and spending of one moment.
        let (folder, _) = restored(&gateway, copy, number);
        let (is_well, told) = gproxy(&["audit"], &folder.join("config.toml"));
        assert!(is_well && told.starts_with(&format!("{rows} rows, ")), "{told}");
    }
    // A gateway goes on from it.
    let (_, text) = restored(&gateway, &copies[3], 9);
    let port = format!("port = {}", gateway.port);
    let again = Gateway::start(&text.replacen(&port, "port = 0", 1));
    let key = key["api_key"].as_str().expect("a key");
    assert_eq!(call(&again, key, "GET", "/user/api/session", &Value::Null).status, 200);
    let quota = call(&again, ADMIN_KEY, "GET", "/admin/api/quotas/bob%3Atotal", &Value::Null);
    assert_eq!(quota.json()["ceiling"], "6", "{}", quota.text());
    let spent = call(&again, ADMIN_KEY, "GET", "/admin/api/usage/sums", &Value::Null).json();
    assert_eq!(spent["items"][0]["requests"], before as u64, "{spent}");
}
