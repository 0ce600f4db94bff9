//! Texts in two spellings, written at once: as the caller knows it and as the provider knows it.
//! What should come of a rewrite is then known without rewriting anything.

use crate::testing::prng::Prng;

/// One text twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Pair {
    /// At the caller's end.
    pub(super) down: Vec<u8>,
    /// At the provider's end.
    pub(super) up: Vec<u8>,
}

impl Pair {
    /// The same at both ends.
    pub(super) fn both(&mut self, text: &str) {
        self.each(text, text);
    }

    pub(super) fn each(&mut self, down: &str, up: &str) {
        self.down.extend_from_slice(down.as_bytes());
        self.up.extend_from_slice(up.as_bytes());
    }

    pub(super) fn add(&mut self, other: &Pair) {
        self.down.extend_from_slice(&other.down);
        self.up.extend_from_slice(&other.up);
    }

    /// A JSON object of these members, `(key as written, value)`, with blanks as `style` has them.
    pub(super) fn object(members: &[(String, Pair)], style: Style) -> Pair {
        let mut pair = Pair::default();
        pair.both("{");
        for (index, (key, value)) in members.iter().enumerate() {
            pair.both(if index == 0 { "" } else { "," });
            pair.both(style.before_key());
            pair.both(key);
            pair.both(style.colon());
            pair.add(value);
        }
        pair.both(style.before_close());
        pair.both("}");
        pair
    }
}

impl From<&str> for Pair {
    fn from(text: &str) -> Pair {
        let mut pair = Pair::default();
        pair.both(text);
        pair
    }
}

/// How JSON is spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Tight,
    Python,
    Pretty,
}

impl Style {
    pub(super) fn any(prng: &mut Prng) -> Style {
        *prng.pick(&[Style::Tight, Style::Python, Style::Pretty])
    }

    fn before_key(self) -> &'static str {
        match self {
            Style::Tight => "",
            Style::Python => " ",
            Style::Pretty => "\r\n\t ",
        }
    }

    fn colon(self) -> &'static str {
        match self {
            Style::Tight => ":",
            Style::Python => ": ",
            Style::Pretty => " :\n ",
        }
    }

    fn before_close(self) -> &'static str {
        match self {
            Style::Tight | Style::Python => "",
            Style::Pretty => "\n",
        }
    }
}

/// The literal that serde_json has for a text.
pub(super) fn literal(text: &str) -> String {
    serde_json::to_string(text).expect("a text can be written")
}

/// A literal of the same text with some characters escaped that need not be.
pub(super) fn spelled(text: &str, prng: &mut Prng) -> String {
    if !prng.one_in(4) {
        return literal(text);
    }
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '/' if prng.one_in(2) => out.push_str("\\/"),
            '"' | '\\' => out.extend(['\\', char]),
            _ if char.is_ascii() && !prng.one_in(3) => out.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
    out
}

/// Puts items in any order.
pub(super) fn shuffle<T>(items: &mut [T], prng: &mut Prng) {
    for end in (1..items.len()).rev() {
        items.swap(end, prng.below(end + 1));
    }
}

/// What tells the texts of one request from those of all others.
pub(super) fn marker(number: usize) -> String {
    format!("mark-{number}-end")
}

/// Numbers of all markers in a text.
pub(super) fn markers(text: &[u8]) -> Vec<usize> {
    let text = String::from_utf8_lossy(text);
    let parts = text.split("mark-").skip(1);
    parts.filter_map(|part| part.split_once("-end")?.0.parse().ok()).collect()
}
