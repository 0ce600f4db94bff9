//! What is wrong with a configuration, and where.
//!
//! The only layer with prose in its errors. A message may quote a name, a pattern or a number,
//! never a secret: values of secret keys do not reach this file.

use std::fmt;

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file.
    pub file: String,
    /// Line, from 1; 0: not in the file but in a flag or variable, which `key` names.
    pub line: usize,
    /// Path of the key, such as `providers[0].settings.base_url`; empty for a mistake in the
    /// syntax.
    pub key: String,
    /// What is wrong and what to write instead.
    pub why: String,
}

impl ConfigError {
    /// The file itself cannot be read.
    pub fn unreadable(file: &str, error: &std::io::Error) -> ConfigError {
        let why = format!("cannot be read: {error}");
        ConfigError { file: file.to_owned(), line: 0, key: String::new(), why }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "{}:{}: ", self.file, self.line)?;
        }
        if !self.key.is_empty() {
            write!(out, "{}: ", self.key)?;
        }
        out.write_str(&self.why)
    }
}

/// Where in the file something stands.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) key: String,
}

/// A value and where it stands.
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// Mistakes past this many are not worth reading.
const ERRORS_MAX: usize = 100;

/// Collects what is found while the file is read, so that one run shows everything.
pub(super) struct Report<'t> {
    file: &'t str,
    /// Offset of each line's first byte.
    lines: Vec<usize>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &'t str, text: &str) -> Report<'t> {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(starts.map(|(at, _)| at + 1)).collect();
        Report { file, lines, errors: Vec::new(), warnings: Vec::new() }
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset).max(1)
    }

    pub(super) fn error(&mut self, place: &Place, why: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let (line, key) = (place.line, place.key.clone());
            self.errors.push(ConfigError {
                file: self.file.to_owned(),
                line,
                key,
                why: why.into(),
            });
        }
    }

    pub(super) fn warn(&mut self, place: &Place, why: impl fmt::Display) {
        let Place { line, key } = place;
        self.warnings.push(format!("{}:{line}: {key}: {why}", self.file));
    }
}

/// `; did you mean ...?` when one of the known names is close, otherwise what there is.
pub(super) fn hint<'n>(unknown: &str, known: impl Iterator<Item = &'n str>) -> String {
    let mut names: Vec<&str> = known.collect();
    if let Some(name) = nearest(unknown, names.iter().copied()) {
        return format!("; did you mean \"{name}\"?");
    }
    names.sort_unstable();
    names.truncate(24);
    if names.is_empty() { String::new() } else { format!("; known are: {}", names.join(", ")) }
}

/// The known name that was probably meant.
pub fn nearest<'n>(unknown: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let letters = unknown.chars().count();
    let steps_max = if letters < 3 { 0 } else { letters.div_ceil(3).min(3) };
    let (steps, name) = known.map(|name| (distance(unknown, name), name)).min()?;
    (steps <= steps_max).then_some(name)
}

/// Edits from one name to the other: insert, delete, replace. Names are cut at 64 characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

/// A name from the file, fit to be shown: no control characters, not endless.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.chars().nth(64).is_some() {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        let rows = [("", "", 0), ("a", "", 1), ("host", "hots", 2), ("modle", "model", 2)];
        for (left, right, expected) in rows {
            assert_eq!(distance(left, right), expected, "{left} {right}");
        }
        assert_eq!(distance("api_key", "apikey"), 1);
    }

    #[test]
    fn hints_name_the_nearest_or_all() {
        let known = || ["host", "port", "data_dir"].into_iter();
        assert_eq!(hint("prot", known()), "; did you mean \"port\"?");
        assert_eq!(hint("zzzzzz", known()), "; known are: data_dir, host, port");
        assert_eq!(hint("x", std::iter::empty()), "");
    }

    #[test]
    fn lines_count_from_one() {
        let report = Report::new("f", "a\nb\n");
        assert_eq!([0, 1, 2, 3, 4, 99].map(|offset| report.line_of(offset)), [1, 1, 2, 2, 3, 3]);
    }
}
