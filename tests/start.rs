//! What the program says when it starts, or does not.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::admin::{admin, call};
use crate::support::{ADMIN_KEY, Gateway};
use serde_json::{Value, json};

fn run(words: &[&str], config: &Path) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    program.args(words).arg("--config").arg(config).output().expect("cargo built the binary")
}

fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("start-{name}"));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("cargo made the folder above");
    folder
}

/// The words of warnings on standard error, without their times.
fn warnings(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let parts = text.lines().filter_map(|line| line.split_once("[WARN] gproxy: "));
    parts.map(|(_, why)| why.to_owned()).collect()
}

/// The file and the database are one configuration: it lacks what neither has.
#[test]
fn what_stands_in_the_database_is_not_missed_in_the_file() {
    let user = format!(
        "[[users]]\nname = \"root\"\nis_admin = true\nkeys = [{{ api_key = \"{ADMIN_KEY}\" }}]\n"
    );
    let global = "[global]\nport = 0\ndata_dir = \"DATA_DIR\"\n";
    let folder = folder("database");
    let config = format!("{global}{user}").replace("DATA_DIR", &folder.display().to_string());
    let gateway = Gateway::start(&config);
    gateway.wait_for_line("no provider is declared");
    gateway.wait_for_line("has no permission");
    let settings = json!({ "base_url": "http://paid.example", "dialects": ["openai_chat"] });
    for (section, row) in [
        ("providers", json!({ "name": "q", "channel": "custom", "settings": settings })),
        ("models", json!({ "provider_name": "q", "model_id": "m", "price_each_call": "1" })),
        ("users", json!({ "name": "bob", "is_admin": true })),
        ("permissions", json!({ "user_name": "bob", "model_pattern": "*" })),
        ("permissions", json!({ "user_name": "root", "model_pattern": "*" })),
        ("quotas", json!({ "user_name": "bob", "quota": "3" })),
    ] {
        admin(&gateway, "POST", section, row, 201);
    }
    let made = admin(&gateway, "POST", "user_keys", json!({ "user_name": "bob" }), 201);
    let key = made["api_key"].as_str().expect("a key");
    assert_eq!(call(&gateway, key, "GET", "/v1/models", &Value::Null).status, 200);
    assert!(gateway.stop().success());
    // Somebody has its port, so that it says what it has to say and ends.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = format!("port = {}", taken.local_addr().expect("it is bound").port());
    let file = folder.join("config.toml");
    std::fs::write(&file, config.replace("port = 0", &port)).expect("our folder");
    let output = run(&["--spoof-emulation", "chrome"], &file);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let warnings = warnings(&output);
    let [flag] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(flag.contains("this flag of v1 is ignored"), "{flag}");
}

#[test]
fn a_key_is_made_only_where_books_are() {
    let folder = folder("reset");
    let file = folder.join("config.toml");
    std::fs::write(&file, "[global]\ndata_dir = \"data\"\n").expect("our folder");
    let mut program = Command::new(env!("CARGO_BIN_EXE_gproxy"));
    program.arg("reset-admin").current_dir(&folder);
    let output = program.output().expect("cargo built the binary");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    let looked_at = folder.join("data/gproxy.db");
    assert!(why.contains(&format!("there is no {}", looked_at.display())), "{why}");
    assert!(!folder.join("data").exists(), "nothing was made");
    // Whether there are any cannot be told of a place where nobody can look.
    std::fs::write(folder.join("data"), "").expect("our folder");
    let output = program.output().expect("cargo built the binary");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains(&format!("cannot look for {}: ", looked_at.display())), "{why}");
}

#[test]
fn all_that_is_wrong_with_certificates_is_said_at_once() {
    let folder = folder("certificates");
    let file = folder.join("config.toml");
    std::fs::write(folder.join("empty.pem"), "").expect("our folder");
    let empty = folder.join("empty.pem");
    let text = format!(
        "[global]\nport = 0\nextra_ca_file = \"/nowhere.pem\"\ndata_dir = {:?}\n\
         [tls]\ncertificate_file = {empty:?}\nkey_file = {empty:?}\n\
         client_ca_file = \"/nowhere-either.pem\"\n",
        folder.join("data")
    );
    std::fs::write(&file, text).expect("our folder");
    let [served, checked] = [&[][..], &["check"]].map(|words| run(words, &file));
    for output in [&served, &checked] {
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        for (line, key) in [
            (3, "global.extra_ca_file"),
            (6, "tls.certificate_file"),
            (7, "tls.key_file"),
            (8, "tls.client_ca_file"),
        ] {
            let place = format!("{}:{line}: {key}: ", file.display());
            assert!(told.contains(&place), "{place}: {told}");
        }
    }
    let told = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(told.ends_with("config.toml: 4 mistakes, nothing was started\n"), "{told}");
    assert!(!folder.join("data").exists(), "nothing was made");
}
