//! The house rules that a compiler does not check.
//!
//! Reads the sources as text: lengths, what may be named where, which way dependencies point, that
//! every step of `src/ARCHITECTURE.md` names a file and a function that exist, and that the
//! console's files parse no markup and load nothing from elsewhere.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const COLUMNS_MAX: usize = 100;
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// What each module may use, itself and the leaves aside. Dependencies point one way.
const ARROWS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("dialect", &["wire"]),
    ("route", &["dialect", "wire"]),
    ("config", &["route", "dialect"]),
    ("edge", &["route", "dialect", "wire"]),
    ("admin", &["console", "edge", "route", "dialect", "wire"]),
    ("decision", &["edge", "route", "dialect", "wire"]),
    ("api", &["admin", "config", "decision", "dialect", "exchange", "ledger", "route"]),
    ("ledger", &["route", "dialect"]),
    ("exchange", &["admin", "ledger", "edge", "route", "dialect", "wire"]),
    ("io", &["exchange", "route", "dialect", "wire"]),
    ("command", &["api", "config", "decision", "edge", "ledger", "route", "dialect", "wire"]),
    ("console", &[]),
    ("logging", &[]),
    ("serve", &["api", "config", "console", "exchange", "io", "ledger", "logging", "route"]),
];
const LEAVES: &[&str] = &["limits", "secret", "failure", "metrics", "money", "password"];

/// Names that belong to some files, or folders, only.
const FENCED: &[(&str, &[&str])] = &[
    ("may::", &["io/worker.rs"]),
    ("ureq::unversioned", &["io/transport.rs"]),
    (
        "ureq::",
        &[
            "io/transport.rs",
            "io/tls.rs",
            "io/resolver.rs",
            "io/upstream.rs",
            "io/upstream/dial.rs",
        ],
    ),
    ("rustls::", &["io/tls.rs", "io/tls/"]),
    ("unsafe {", &["io/worker.rs"]),
    (
        "std::thread",
        &[
            "io/office.rs",
            "logging.rs",
            "serve.rs",
            "ledger/audit.rs",
            "ledger/mod.rs",
            "ledger/writer.rs",
        ],
    ),
    ("rusqlite::", &["ledger/"]),
    ("thread_local!", &[]),
    ("println!", &[]),
];

/// What the core never names: it does no IO, keeps no time and holds no lock across its ends.
const CORE: &[&str] =
    &["wire", "dialect", "route", "edge", "decision", "exchange", "config", "admin", "console"];
const NOT_IN_CORE: &[&str] =
    &["Instant::now", "SystemTime::now", "TcpStream", "UdpSocket", "std::fs", "rustix::"];

/// What the console's files never say: markup out of text, code out of text, script or style
/// within a page, another host's address.
const NOT_IN_CONSOLE: &[&str] = &[
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "createContextualFragment",
    "DOMParser",
    "srcdoc",
    "document.write",
    "eval(",
    "new Function",
    "<style",
    "<script>",
    " style=",
    "http://",
    "https://",
];
/// The name of a drawing's elements, which nobody fetches.
const SVG_NAME: &str = "http://www.w3.org/2000/svg";

struct Source {
    name: String,
    text: String,
}

impl Source {
    fn module(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap()
    }

    fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs")
            || self.name.contains("/tests/")
            || self.name.starts_with("testing/")
            || self.name.starts_with("testing.rs")
    }

    /// The lines before the unit tests, numbered from 1.
    fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let skip = self.is_test();
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.take_while(move |(_, line)| !skip && *line != "#[cfg(test)]")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, base: &Path, kind: &str, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, base, kind, sources);
        } else if path.extension().is_some_and(|extension| extension == kind) {
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
            sources.push(Source { name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    sources_of(folder, &["rs"])
}

fn sources_of(folder: &str, kinds: &[&str]) -> Vec<Source> {
    let base = root().join(folder);
    let mut sources = Vec::new();
    kinds.iter().for_each(|kind| collect(&base, &base, kind, &mut sources));
    assert!(!sources.is_empty(), "no sources below {folder}");
    sources
}

fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn lines_and_files_are_short() {
    let mut findings = Vec::new();
    for (folder, kinds) in [("src", &["rs", "js", "css", "html"][..]), ("tests", &["rs"])] {
        for source in sources_of(folder, kinds) {
            let count = source.text.lines().count();
            if count > FILE_LINES_MAX {
                findings.push(format!("{folder}/{}: {count} lines", source.name));
            }
            for (index, line) in source.text.lines().enumerate() {
                if line.chars().count() > COLUMNS_MAX {
                    findings.push(format!("{folder}/{}:{}: too wide", source.name, index + 1));
                }
            }
        }
    }
    assert_none(&findings);
}

/// Functions by their `fn` line and the closing brace at the same indent, as rustfmt writes them.
#[test]
fn functions_fit_a_screen() {
    let mut findings = Vec::new();
    for source in sources("src") {
        let mut open: Vec<(usize, usize, String)> = Vec::new();
        for (number, line) in source.product_lines() {
            let indent = line.len() - line.trim_start().len();
            let code = line.trim_start();
            let is_function = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn ", "const fn "]
                .iter()
                .any(|start| code.starts_with(start));
            if is_function && !code.ends_with(';') && !code.ends_with('}') {
                open.push((indent, number, code.to_owned()));
            } else if code == "}" && open.last().is_some_and(|(at, ..)| *at == indent) {
                let (_, begun, name) = open.pop().unwrap();
                if number - begun + 1 > FUNCTION_LINES_MAX {
                    let length = number - begun + 1;
                    findings.push(format!("{}:{begun}: {length} lines: {name}", source.name));
                }
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn nothing_unwraps_outside_tests() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for (number, line) in source.product_lines() {
            let code = line.split("//").next().unwrap_or_default();
            if code.contains(".unwrap()") || code.contains("expect(\"\")") {
                findings.push(format!("{}:{number}: {}", source.name, line.trim()));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn fenced_names_stay_in_their_files() {
    let mut findings = Vec::new();
    for source in sources("src") {
        for (number, line) in source.product_lines() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for (name, files) in FENCED {
                let named = line.match_indices(name).any(|(at, _)| {
                    !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_')
                });
                if named && !files.iter().any(|place| source.name.starts_with(place)) {
                    findings.push(format!("{}:{number}: {name}", source.name));
                }
            }
            if CORE.contains(&source.module()) {
                for name in NOT_IN_CORE.iter().filter(|name| line.contains(**name)) {
                    findings.push(format!("{}:{number}: {name} in the core", source.name));
                }
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn dependencies_point_one_way() {
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    let mut findings = Vec::new();
    for source in sources("src") {
        let module = source.module();
        if ["main", "lib", "testing"].contains(&module) {
            continue;
        }
        for (number, line) in source.product_lines() {
            for (at, _) in line.match_indices("crate::") {
                let used: String = line[at + "crate::".len()..]
                    .chars()
                    .take_while(|next| next.is_alphanumeric() || *next == '_')
                    .collect();
                let allowed = used == module
                    || LEAVES.contains(&used.as_str())
                    || arrows.get(module).is_some_and(|list| list.contains(&used.as_str()));
                if !allowed && !line.trim_start().starts_with("//") {
                    findings.push(format!("{}:{number}: {module} uses {used}", source.name));
                }
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn the_console_parses_no_markup_and_loads_nothing_from_elsewhere() {
    let mut findings = Vec::new();
    for source in sources_of("src/console/assets", &["js", "css", "html", "svg"]) {
        for (number, line) in source.product_lines() {
            let line = line.replace(SVG_NAME, "");
            for word in NOT_IN_CONSOLE.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{}:{number}: {word}", source.name));
            }
        }
    }
    assert_none(&findings);
}

/// A public function that nobody names is dead, or its name is wrong.
#[test]
fn public_functions_are_used() {
    let mut all = String::new();
    for folder in ["src", "tests", "fuzz", "bench"] {
        if root().join(folder).is_dir() {
            for source in sources(folder) {
                all.push_str(&source.text);
            }
        }
    }
    let mut findings = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        for (number, line) in source.product_lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub fn ") else { continue };
            let name: String =
                rest.chars().take_while(|next| next.is_alphanumeric() || *next == '_').collect();
            if all.matches(name.as_str()).count() < 2 {
                findings.push(format!("{}:{number}: {name} is never used", source.name));
            }
        }
    }
    assert_none(&findings);
}

/// A step reads "1. **Name** … `file.rs::function`, `file.rs::Type::method`".
#[test]
fn every_step_of_the_architecture_exists() {
    let text = std::fs::read_to_string(root().join("src/ARCHITECTURE.md")).unwrap();
    let mut findings = Vec::new();
    let mut steps = 0;
    for line in text.lines() {
        let is_step = line.trim_start().starts_with(|digit: char| digit.is_ascii_digit());
        let mut places = 0;
        for quoted in line.split('`').skip(1).step_by(2) {
            let Some((file, function)) = quoted.split_once(".rs::") else { continue };
            places += 1;
            let name = function.rsplit("::").next().unwrap();
            match std::fs::read_to_string(root().join(format!("src/{file}.rs"))) {
                Ok(source) if source.contains(&format!("fn {name}")) => {}
                Ok(_) => findings.push(format!("{file}.rs has no function {name}")),
                Err(_) => findings.push(format!("src/{file}.rs does not exist")),
            }
        }
        if is_step {
            steps += 1;
            if places == 0 {
                findings.push(format!("a step without a place: {line}"));
            }
        }
    }
    assert!(steps >= 10, "the life of a request has {steps} steps");
    assert_none(&findings);
}

/// The checks above can fail: they are run over text that breaks each rule.
#[test]
fn the_checks_see_what_they_are_for() {
    let bad = Source {
        name: "wire/bad.rs".into(),
        text: "use crate::io::worker;\nlet a = b.unwrap();\n#[cfg(test)]\nlet c = d.unwrap();"
            .into(),
    };
    assert_eq!(bad.module(), "wire");
    assert_eq!(bad.product_lines().count(), 2);
    assert!(!bad.is_test());
}
