//! Reads typed values out of a parsed TOML table and reports what does not fit.
//!
//! Serde would stop at the first mistake and would not know the lines of those that span several
//! keys. Each getter notes the key that it was asked for, so that `finish` can name the unknown
//! ones and what they were probably meant to be.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{At, Place, Report, hint, shown};
use super::hints;
use crate::money;

/// Before the key of a setting that the database has.
const MADE: &str = "settings[]";

/// One table of the file, while it is read.
pub(super) struct Table<'t> {
    entries: &'t DeTable<'t>,
    /// What the database has beside it: below the file's root, and in tables of settings.
    made: Option<&'t DeTable<'t>>,
    /// Where the document begins that the entries stand in: see [`Report::line_of`].
    base: usize,
    pub(super) place: Place,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    pub(super) fn new(entries: &'t DeTable<'t>, key: &str) -> Table<'t> {
        let place = Place { line: 1, key: key.to_owned() };
        Table { entries, made: None, base: 0, place, known: Vec::new() }
    }

    /// The same, where the elements of `made` count after the file's own. `base`: its beginning.
    pub(super) fn beside(self, made: &'t DeTable<'t>, base: usize) -> Table<'t> {
        Table { made: Some(made), base, ..self }
    }

    fn within(&self, entries: &'t DeTable<'t>, base: usize, place: Place) -> Table<'t> {
        Table { entries, made: None, base, place, known: Vec::new() }
    }

    /// Where the document of its own entries begins.
    fn own_base(&self) -> usize {
        if self.made.is_some() { 0 } else { self.base }
    }

    /// Where a key of this table stands, present or not.
    fn path(&self, key: &str) -> String {
        match self.place.key.as_str() {
            "" => key.to_owned(),
            parent => format!("{parent}.{key}"),
        }
    }

    /// Whether the key was written.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether something else than an array was written, which its getter reports.
    pub(super) fn holds_no_array(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|value| !value.get_ref().is_array())
    }

    /// The place of a key, or the table's when it was not written.
    pub(super) fn place_of(&self, report: &Report<'_>, key: &str) -> Place {
        let own = self.entries.get_key_value(key);
        let made = self.made.and_then(|made| made.get_key_value(key));
        let line = match (own, made) {
            (Some((name, _)), _) => report.line_of(self.own_base() + name.span().start),
            (None, Some((name, _))) => report.line_of(self.base + name.span().start),
            (None, None) => self.place.line,
        };
        Place { line, key: self.path(key) }
    }

    /// A value, of the file or else of the database.
    fn find(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Option<(&'t DeValue<'t>, Place)> {
        self.known.push(key);
        let own = self.entries.get_key_value(key);
        let made = self.made.and_then(|made| made.get_key_value(key));
        let (base, (name, value), path) = match (own, made) {
            (Some(own), _) => (self.own_base(), own, self.path(key)),
            (None, Some(made)) => (self.base, made, format!("{MADE}.{key}")),
            (None, None) => return None,
        };
        if let (Some(_), Some((made, value))) = (own, made)
            && !value.get_ref().is_table()
        {
            let line = report.line_of(self.base + made.span().start);
            let place = Place { line, key: format!("{MADE}.{key}") };
            report.warn(&place, "the file says something about this too, and the file counts");
        }
        let line = report.line_of(base + name.span().start);
        Some((value.get_ref(), Place { line, key: path }))
    }

    pub(super) fn text(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Option<At<&'t str>> {
        let (value, place) = self.find(report, key)?;
        match value.as_str() {
            Some(value) => Some(At { value, place }),
            None => {
                report.error(&place, wants("text in quotes", value));
                None
            }
        }
    }

    /// A text that has to be there.
    pub(super) fn required(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Option<At<&'t str>> {
        if !self.holds(key) {
            report.error(&self.place_of(report, key), "this key is missing");
        }
        self.text(report, key)
    }

    pub(super) fn flag(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        default: bool,
    ) -> bool {
        let Some((value, place)) = self.find(report, key) else { return default };
        value.as_bool().unwrap_or_else(|| {
            report.error(&place, wants("true or false", value));
            default
        })
    }

    /// A whole number within the range.
    pub(super) fn number(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<At<u64>> {
        let (value, place) = self.find(report, key)?;
        let Some(number) = value.as_integer() else {
            report.error(&place, wants("a whole number", value));
            return None;
        };
        let parsed = u64::from_str_radix(number.as_str(), number.radix()).ok();
        match parsed.filter(|value| range.contains(value)) {
            Some(value) => Some(At { value, place }),
            None => {
                let (least, most) = (range.start(), range.end());
                report.error(&place, format!("must be from {least} to {most}"));
                None
            }
        }
    }

    pub(super) fn number_or(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        self.number(report, key, range).map_or(default, |number| number.value)
    }

    /// An amount of money in picodollars: decimal text or a number, up to `dollars_max`.
    pub(super) fn money(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        dollars_max: i64,
    ) -> Option<At<i64>> {
        let (value, place) = self.find(report, key)?;
        let text = match value {
            DeValue::String(text) => text.as_ref(),
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                report.error(&place, wants("an amount in USD such as \"0.40\"", value));
                return None;
            }
        };
        match money::parse(text, dollars_max) {
            Ok(value) => Some(At { value, place }),
            Err(why) => {
                report.error(&place, why);
                None
            }
        }
    }

    /// An array of texts, each with its place.
    pub(super) fn texts(&mut self, report: &mut Report<'_>, key: &'static str) -> Vec<At<&'t str>> {
        let mut texts = Vec::new();
        for (place, element) in self.elements(report, key) {
            match element.get_ref().as_str() {
                Some(value) => texts.push(At { value, place }),
                None => report.error(&place, wants("text in quotes", element.get_ref())),
            }
        }
        texts
    }

    /// A table under the key.
    pub(super) fn table(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Option<Table<'t>> {
        let own = self.holds(key);
        let (value, place) = self.find(report, key)?;
        let made = self.made.and_then(|made| made.get(key)?.get_ref().as_table());
        match value.as_table() {
            // Both, and each key from either.
            Some(entries) if own && made.is_some() => {
                Some(Table { made, base: self.base, ..self.within(entries, 0, place) })
            }
            Some(entries) if !own => {
                let place = Place { key: MADE.to_owned(), ..place };
                Some(self.within(entries, self.base, place))
            }
            Some(entries) => Some(self.within(entries, self.own_base(), place)),
            None => {
                report.error(&place, wants("a table", value));
                None
            }
        }
    }

    /// The texts of a table under the key, if a table stands there.
    pub(super) fn members(&mut self, key: &'static str) -> Option<HashMap<String, String>> {
        let table = self.entries.get(key)?.get_ref().as_table()?;
        self.known.push(key);
        let text = |(name, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            Some((name.to_string(), value.get_ref().as_str()?.to_owned()))
        };
        Some(table.iter().filter_map(text).collect())
    }

    /// The tables of an array, `[[key]]`.
    pub(super) fn tables(&mut self, report: &mut Report<'_>, key: &'static str) -> Vec<Table<'t>> {
        let mut all = vec![(self.own_base(), self.elements(report, key))];
        if let Some(made) = self.made {
            let mut made = self.within(made, self.base, Place { line: 0, key: String::new() });
            all.push((self.base, made.elements(report, key)));
        }
        let mut tables = Vec::new();
        for (base, (place, element)) in
            all.into_iter().flat_map(|(base, rows)| rows.into_iter().map(move |row| (base, row)))
        {
            match element.get_ref().as_table() {
                Some(entries) => tables.push(self.within(entries, base, place)),
                None => report.error(&place, wants("a table", element.get_ref())),
            }
        }
        tables
    }

    /// The tables of an array that only the database has.
    pub(super) fn made_tables(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Vec<Table<'t>> {
        let Some(made) = self.made else { return Vec::new() };
        let place = Place { line: 0, key: String::new() };
        self.within(made, self.base, place).tables(report, key)
    }

    fn elements(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
    ) -> Vec<(Place, &'t Spanned<DeValue<'t>>)> {
        self.known.push(key);
        let Some((name, value)) = self.entries.get_key_value(key) else { return Vec::new() };
        let line = report.line_of(self.own_base() + name.span().start);
        let (value, place) = (value.get_ref(), Place { line, key: self.path(key) });
        let Some(elements) = value.as_array() else {
            let wanted = if value.is_table() {
                let path = hints::without_indices(&place.key);
                format!("an array; write [[{path}]], or {key} = [{{ ... }}]")
            } else {
                "an array".to_owned()
            };
            report.error(&place, wants(&wanted, value));
            return Vec::new();
        };
        let numbered = elements.iter().enumerate().map(|(index, element)| {
            let line = report.line_of(self.own_base() + element.span().start);
            (Place { line, key: format!("{}[{index}]", place.key) }, element)
        });
        numbered.collect()
    }

    /// Keys of this table that v1 had and that mean nothing now.
    pub(super) fn retired(&mut self, report: &mut Report<'_>, keys: &[(&'static str, &str)]) {
        for (key, why) in keys {
            if let Some((_, place)) = self.find(report, key) {
                report.warn(&place, format_args!("this key of v1 is ignored: {why}"));
            }
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self, report: &mut Report<'_>) {
        for name in self.entries.keys() {
            let text = name.get_ref().as_ref();
            if self.known.contains(&text) {
                continue;
            }
            let line = report.line_of(self.own_base() + name.span().start);
            let place = Place { line, key: self.path(&shown(text)) };
            let hint = match hints::belongs(&self.place.key, text) {
                Some(elsewhere) => format!(" here; {elsewhere}"),
                None => hint(text, self.known.iter().copied()),
            };
            report.error(&place, format!("unknown key{hint}"));
        }
    }
}

/// Says what was expected and what kind of value was found, without the value.
fn wants(wanted: &str, found: &DeValue<'_>) -> String {
    let found = match found {
        DeValue::String(_) => "text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    format!("must be {wanted}, not {found}")
}
