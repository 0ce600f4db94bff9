//! Where values come from besides the file: flags, the environment, and secrets by name.
//!
//! A value that was given by flag or variable wins over the file. What is read here never shows
//! up in a message.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::config::error::{At, Place, Report};
use crate::secret::Secret;

/// Values of flags, as typed; each wins over its variable and over the file.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--host`
    pub host: Option<String>,
    /// `--port`
    pub port: Option<String>,
    /// `--data-dir`
    pub data_dir: Option<String>,
    /// `--proxy`
    pub proxy: Option<String>,
    /// `--workers`
    pub workers: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// No flag: the address of the socket on which we listen already. Whatever the file says, it
    /// is there that others reach us.
    pub bound: Option<IpAddr>,
}

/// Reads an environment variable.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// The texts of files that the configuration names, by what it writes for them.
pub type Named = HashMap<String, Secret>;

/// Reads a file that the configuration names.
pub type Files<'e> = &'e dyn Fn(&str) -> std::io::Result<String>;

pub(super) struct Sources<'e> {
    pub(super) overrides: &'e Overrides,
    pub(super) environment: Environment<'e>,
    pub(super) files: Files<'e>,
}

impl Sources<'_> {
    /// The flag's or else the variable's value. The place names whichever it was.
    pub(super) fn find(
        &self,
        flag: &str,
        value: &Option<String>,
        variable: &str,
    ) -> Option<At<String>> {
        let outside = |name: &str| Place { line: 0, key: name.to_owned() };
        if let Some(value) = value {
            return Some(At { value: value.clone(), place: outside(flag) });
        }
        let value = (self.environment)(variable).filter(|value| !value.is_empty())?;
        Some(At { value, place: outside(variable) })
    }

    /// The text of a secret: as written, or out of the variable that `env:NAME` names.
    pub(super) fn secret(&self, report: &mut Report<'_>, written: &At<&str>) -> Option<Secret> {
        let (text, place) = (written.value, &written.place);
        if let Some(name) = text.strip_prefix("env:") {
            return self.secret_in(report, name, place);
        }
        let shell = text.strip_prefix('$').is_some_and(is_variable);
        if text.contains("${") || shell {
            report.error(
                place,
                "`$NAME` and `${NAME}` are not a syntax here; write \"env:NAME\" to read the \
                 environment variable NAME",
            );
            return None;
        }
        if !is_sendable(text) {
            report.error(
                place,
                "a secret must be 1 to 4096 printable ASCII characters without spaces; write it \
                 as it is, or \"env:NAME\"",
            );
            return None;
        }
        Some(Secret::new(text))
    }

    /// A document that is no line of text: as written, of a file, or of a variable that holds
    /// either. No message quotes what was written.
    pub(super) fn document(
        &self,
        report: &mut Report<'_>,
        written: &str,
        place: &Place,
    ) -> Option<String> {
        let mut text = written.to_owned();
        if let Some(name) = written.strip_prefix("env:") {
            let value = if is_variable(name) { (self.environment)(name) } else { None };
            let Some(value) = value.filter(|value| !value.trim().is_empty()) else {
                report.error(place, "after `env:` stands the name of a variable that is set");
                return None;
            };
            text = value;
        }
        if text.trim_start().starts_with('{') {
            return Some(text);
        }
        match (self.files)(text.trim()) {
            Ok(text) => Some(text),
            Err(error) => {
                report.error(place, format!("the file cannot be read: {error}"));
                None
            }
        }
    }

    fn secret_in(&self, report: &mut Report<'_>, name: &str, place: &Place) -> Option<Secret> {
        if !is_variable(name) {
            report.error(
                place,
                "after `env:` stands the name of an environment variable: letters, digits and _",
            );
            return None;
        }
        let Some(value) = (self.environment)(name).filter(|value| !value.trim().is_empty()) else {
            report.error(place, format!("the environment variable {name} is not set"));
            return None;
        };
        if !is_sendable(value.trim()) {
            report.error(
                place,
                format!(
                    "the value of the environment variable {name} is not a secret: it must be 1 \
                     to 4096 printable ASCII characters without spaces"
                ),
            );
            return None;
        }
        Some(Secret::new(value.trim()))
    }
}

/// A value that can stand in a header. `Bearer ` in front would be doubled, and has a space.
fn is_sendable(text: &str) -> bool {
    (1..=4096).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_variable(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    name.len() <= 128
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || byte.is_ascii_digit())
}
