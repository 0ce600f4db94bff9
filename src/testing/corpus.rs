//! Replays the corpora of `fuzz/`, so that a law which a fuzzer once saw broken stays checked.
//!
//! The canary's inputs pass as they stand. It fails on a whole request, which shows that an entry
//! point can fail at all.

use std::panic::catch_unwind;
use std::path::PathBuf;

const FILES_PER_TARGET_MAX: usize = 60;
const FILE_BYTES_MAX: usize = 8 * 1024;

struct Target {
    name: &'static str,
    /// As the source in `fuzz/fuzz_targets` spells it.
    path: &'static str,
    entry: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident: $module:ident::$entry:ident,)*) => {
        &[$(Target {
            name: stringify!($name),
            path: concat!(stringify!($module), "::", stringify!($entry)),
            entry: super::$module::$entry,
        }),*]
    };
}

/// In the order of their names, as a listing has them.
const TARGETS: &[Target] = targets! {
    account: fuzz_account::account,
    answer: fuzz_answer::answer,
    batch: fuzz_batch::names,
    canary: fuzz_json::canary,
    chunked: fuzz_http::chunked_body,
    coding: fuzz_coding::body,
    config: fuzz_config::config,
    echo: fuzz_echo::answer,
    event: fuzz_live::event,
    fields: fuzz_echo::fields,
    finish: fuzz_live::early_end,
    forwarded: fuzz_forwarded::address,
    glob: fuzz_config::glob,
    handshake: fuzz_websocket::handshake,
    head: fuzz_http::request_head,
    listed: fuzz_upstream::listed,
    literal: fuzz_json::literal,
    multipart: fuzz_multipart::form,
    names: fuzz_account::names,
    path: fuzz_path::path,
    reply: fuzz_json::whole_reply,
    request: fuzz_json::request,
    resource: fuzz_stored::resource,
    response: fuzz_response::head,
    scanner: fuzz_json::scanner,
    splitter: fuzz_sse::splitter,
    stored: fuzz_stored::stored,
    stream: fuzz_sse::stream,
    trouble: fuzz_upstream::trouble,
    usage: fuzz_usage::usage,
    websocket: fuzz_websocket::frames,
};

fn below_fuzz(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// Names below a folder of `fuzz/`, in order.
fn listing(folder: &str) -> Vec<String> {
    let folder = below_fuzz(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{folder:?}: {why}"));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(below_fuzz(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

#[test]
fn laws_hold_for_every_file_of_every_corpus() {
    for target in TARGETS {
        let files = listing(&format!("corpus/{}", target.name));
        assert!(!files.is_empty(), "{} has nothing to begin from", target.name);
        for file in files {
            let input = read(&format!("corpus/{}/{file}", target.name));
            let outcome = catch_unwind(|| (target.entry)(&input));
            assert!(outcome.is_ok(), "fuzz/corpus/{}/{file} breaks a law", target.name);
        }
    }
}

#[test]
fn the_canary_fails() {
    let outcome = catch_unwind(|| super::fuzz_json::canary(br#"{"model":"a"}"#));
    assert!(outcome.is_err(), "an entry point that must fail did not");
}

/// What the fuzzer runs is what is replayed here.
#[test]
fn targets_are_the_ones_of_the_fuzzer() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(listing("corpus"), names);
    let sources: Vec<String> = names.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(listing("fuzz_targets"), sources);
    let manifest = String::from_utf8(read("Cargo.toml")).unwrap();
    for target in TARGETS {
        let source = String::from_utf8(read(&format!("fuzz_targets/{}.rs", target.name))).unwrap();
        assert!(source.contains(&format!("gproxy::testing::{}(data)", target.path)), "{source}");
        let bin = format!("name = \"{0}\"\npath = \"fuzz_targets/{0}.rs\"\n", target.name);
        assert!(manifest.contains(&bin), "{} is not built", target.name);
    }
}

#[test]
fn corpora_stay_small() {
    for target in TARGETS {
        let files = listing(&format!("corpus/{}", target.name));
        assert!(files.len() <= FILES_PER_TARGET_MAX, "{}: {} files", target.name, files.len());
        for file in files {
            let length = read(&format!("corpus/{}/{file}", target.name)).len();
            assert!(length <= FILE_BYTES_MAX, "{}/{file}: {length} bytes", target.name);
        }
    }
}
