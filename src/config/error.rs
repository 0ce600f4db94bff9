//! What is wrong with a configuration, and where.
//!
//! The only layer with prose in its errors. A message may quote a name, a pattern or a number,
//! never a secret: values of secret keys do not reach this file.

use std::fmt;

use super::made::{self, Made};

/// One mistake in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Name of the file; of the database and its row, when it is about one.
    pub file: String,
    /// Line, from 1; 0: not in the file but in a flag or variable, which `key` names.
    pub line: usize,
    /// Path of the key, such as `providers[0].settings.base_url`; empty for a mistake in the
    /// syntax.
    pub key: String,
    /// What is wrong and what to write instead.
    pub why: String,
    /// Not in the file but in this row of the database; `key` is within it.
    pub row: Option<usize>,
}

impl ConfigError {
    /// The file itself cannot be read.
    pub fn unreadable(file: &str, error: &std::io::Error) -> ConfigError {
        let why = format!("cannot be read: {error}");
        ConfigError { file: file.to_owned(), line: 0, key: String::new(), why, row: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(out, "{}:{}: ", self.file, self.line)?;
        }
        if self.row.is_some() {
            write!(out, "{}: ", self.file)?;
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

/// Where rows that are not the file's stand.
const DATABASE: &str = "gproxy.db";

/// The key within its row: `users[3].keys[0].label` is `keys[0].label`.
fn within(key: String) -> String {
    key.split_once("].").map_or_else(String::new, |(_, rest)| rest.to_owned())
}

/// Mistakes past this many are not worth reading.
const ERRORS_MAX: usize = 100;

/// Collects what is found while the file is read, so that one run shows everything.
pub(super) struct Report<'t> {
    file: &'t str,
    /// Offset of each line's first byte. Lines of the database follow those of the file.
    lines: Vec<usize>,
    file_lines: usize,
    made: &'t Made,
    made_rows: Vec<Option<usize>>,
    pub(super) errors: Vec<ConfigError>,
    /// What the database may not say, but has said: no reason not to start.
    pub(super) fenced: Vec<ConfigError>,
    pub(super) forbidden: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    /// Those of them that are about rows of the database.
    pub(super) made_warnings: Vec<ConfigError>,
}

impl<'t> Report<'t> {
    pub(super) fn new(
        file: &'t str,
        text: &str,
        made: &'t Made,
        made_text: &made::Text,
    ) -> Report<'t> {
        let starts = |text: &str, base: usize| {
            let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            let ends: Vec<usize> = ends.map(|(at, _)| base + at + 1).collect();
            std::iter::once(base).chain(ends)
        };
        let mut lines: Vec<usize> = starts(text, 0).collect();
        let file_lines = lines.len();
        lines.extend(starts(&made_text.toml, text.len() + 1));
        let made_rows = made_text.rows.clone();
        let (errors, fenced, forbidden) = (Vec::new(), Vec::new(), Vec::new());
        let (warnings, made_warnings) = (Vec::new(), Vec::new());
        Report {
            file,
            lines,
            file_lines,
            made,
            made_rows,
            errors,
            fenced,
            forbidden,
            warnings,
            made_warnings,
        }
    }

    /// The row of the database that stands on a line.
    fn row_of(&self, line: usize) -> Option<usize> {
        *self.made_rows.get(line.checked_sub(self.file_lines)?)?
    }

    fn name_of(&self, row: usize) -> String {
        format!("{DATABASE}: {}", shown(&self.made.rows[row].label))
    }

    /// `on line 7`, or where else it is.
    pub(super) fn whereabouts(&self, line: usize) -> String {
        match line > self.file_lines {
            true => "in the database".to_owned(),
            false => format!("on line {line}"),
        }
    }

    /// The line, from 1, of a byte of the text.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset).max(1)
    }

    pub(super) fn error(&mut self, place: &Place, why: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            let error = self.mistake(place, why.into());
            self.errors.push(error);
        }
    }

    fn mistake(&self, place: &Place, why: String) -> ConfigError {
        let (file, line, key) = (self.file.to_owned(), place.line, place.key.clone());
        let row = self.row_of(line);
        match row {
            None => ConfigError { file, line, key, why, row },
            Some(at) => {
                let (file, key) = (self.name_of(at), within(key));
                ConfigError { file, line: 0, key, why, row }
            }
        }
    }

    /// An address that its row may not have: it is not called, and nobody may write it so.
    pub(super) fn fence(&mut self, place: &Place, why: &str) {
        self.warn(place, format_args!("is not called: {why}"));
        if self.fenced.len() < ERRORS_MAX {
            let error = self.mistake(place, format!("may not be reached: {why}"));
            self.fenced.push(error);
        }
    }

    /// Whether the database says what stands on this line.
    pub(super) fn is_made(&self, line: usize) -> bool {
        self.row_of(line).is_some()
    }

    /// A mistake in the file. Rows of the database may have been written before it was one: they
    /// are warned of, so that a new version starts with what an old one wrote, and nobody may
    /// write them now.
    pub(super) fn forbid(&mut self, place: &Place, why: &str) {
        if !self.is_made(place.line) {
            return self.error(place, why);
        }
        self.warn(place, why);
        if self.forbidden.len() < ERRORS_MAX {
            let error = self.mistake(place, why.to_owned());
            self.forbidden.push(error);
        }
    }

    pub(super) fn warn(&mut self, place: &Place, why: impl fmt::Display) {
        let Place { line, key } = place;
        if self.row_of(*line).is_none() {
            self.warnings.push(format!("{}:{line}: {key}: {why}", self.file));
            return;
        }
        let warning = self.mistake(place, why.to_string());
        self.warnings.push(warning.to_string());
        self.made_warnings.push(warning);
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
        let made = Made::default();
        let report = Report::new("f", "a\nb\n", &made, &made.text());
        assert_eq!([0, 1, 2, 3, 4].map(|offset| report.line_of(offset)), [1, 1, 2, 2, 3]);
    }
}
