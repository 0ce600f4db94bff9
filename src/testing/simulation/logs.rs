//! What the path logs, kept for the test that made it log.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

thread_local! {
    static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Keeper;

impl Log for Keeper {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if record.target().starts_with("gproxy") {
            let line = format!("{} {}", record.target(), record.args());
            LINES.with_borrow_mut(|lines| lines.push(line));
        }
    }

    fn flush(&self) {}
}

/// Keeps the lines of this thread from now on, at every level; forgets those from before.
pub(super) fn keep() {
    static INSTALL: Once = Once::new();
    INSTALL.call_once(|| {
        log::set_logger(&Keeper).expect("no other test needs a logger");
        log::set_max_level(LevelFilter::Trace);
    });
    take();
}

/// The lines so far.
pub(super) fn take() -> Vec<String> {
    LINES.with_borrow_mut(std::mem::take)
}

/// The lines that requests end with.
pub(super) fn of_requests(lines: &[String]) -> Vec<&str> {
    let ends = lines.iter().filter_map(|line| line.strip_prefix("gproxy::request "));
    ends.collect()
}

/// The value of `name=` in a line.
pub(super) fn value<'l>(line: &'l str, name: &str) -> &'l str {
    let mark = format!(" {name}=");
    let at = line.find(&mark).unwrap_or_else(|| panic!("no {name} in {line}"));
    let rest = &line[at + mark.len()..];
    rest.split(' ').next().unwrap_or(rest)
}
