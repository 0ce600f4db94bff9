//! What the program does besides serving: explain itself.
//!
//! Each command is a function from its inputs to text, so that a test needs no process. Reads the
//! configuration's file, standard input and the books; opens no socket.

pub mod arguments;
mod books;
pub mod check;
pub mod explain;
pub mod hash_key;
pub mod models;
pub mod prices;
mod reset_admin;

use std::io::{self, Read, Write};

use self::arguments::{Arguments, Command, HELP};
use crate::config::{self, Loaded};
use crate::limits;
use crate::route::snapshot::Snapshot;
use crate::secret::Secret;

/// Everything is well.
pub const EXIT_WELL: u8 = 0;
/// Prices differ from the list.
const EXIT_DIFFERS: u8 = 1;
/// A mistake in the words or in the configuration.
pub const EXIT_MISTAKE: u8 = 2;

/// The outside of a command.
pub struct Terminal<'t> {
    /// Standard input.
    pub input: &'t mut dyn Read,
    /// Whether a person types there.
    pub interactive: bool,
    /// Standard output: what was asked for.
    pub out: &'t mut dyn Write,
    /// Standard error: everything else.
    pub error: &'t mut dyn Write,
    /// The environment.
    pub environment: &'t dyn Fn(&str) -> Option<String>,
    /// Reads the certificates that are named: what is wrong with them, each by the key of the
    /// configuration that names it.
    pub read_certificates: &'t dyn Fn(&Snapshot) -> Vec<(&'static str, String)>,
}

/// Runs a command to its exit code; `None`: it opens sockets, which is not done here.
pub fn run(arguments: &Arguments, terminal: &mut Terminal<'_>) -> io::Result<Option<u8>> {
    let code = match &arguments.command {
        Command::Serve | Command::Pull { .. } => return Ok(None),
        Command::Check => check::run(arguments, terminal)?,
        Command::Explain(question) => explain::run(question, arguments, terminal)?,
        Command::Usage { json, selection } => books::usage(*json, selection, arguments, terminal)?,
        Command::Backup(target) => books::backup(target, arguments, terminal)?,
        Command::Audit => books::audit(arguments, terminal)?,
        Command::Prices { json, diff } => match load(arguments, terminal)? {
            Some(loaded) if *diff => {
                let differ = prices::write_diff(&loaded.snapshot, *json, terminal.out)?;
                if differ { EXIT_DIFFERS } else { EXIT_WELL }
            }
            Some(loaded) => {
                prices::write(&loaded.snapshot, *json, terminal.out)?;
                EXIT_WELL
            }
            None => EXIT_MISTAKE,
        },
        Command::HashKey => hash_key::run(terminal)?,
        Command::ResetAdmin => reset_admin::run(arguments, terminal)?,
        Command::Version => {
            writeln!(terminal.out, "gproxy {}", env!("CARGO_PKG_VERSION"))?;
            EXIT_WELL
        }
        Command::Help => {
            terminal.out.write_all(HELP.as_bytes())?;
            EXIT_WELL
        }
    };
    Ok(Some(code))
}

/// Reads a file that the configuration names.
pub fn read_file(path: &str) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(limits::ACCOUNT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// What seals secrets in the database, of a file or of the environment, or why it cannot be read.
pub fn master_key(
    arguments: &Arguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Option<Secret>, String> {
    let unread = |file, error| format!("--master-key-file: {file}: cannot be read: {error}");
    let text = match &arguments.master_key_file {
        None => environment("GPROXY_MASTER_KEY"),
        Some(file) => Some(std::fs::read_to_string(file).map_err(|error| unread(file, error))?),
    };
    Ok(text.filter(|text| !text.trim().is_empty()).map(Secret::new))
}

/// Reads the configuration that the words name; `None`: the mistakes were printed.
pub fn load(arguments: &Arguments, terminal: &mut Terminal<'_>) -> io::Result<Option<Loaded>> {
    let file = arguments.config_file(terminal.environment);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => Secret::new(text),
        Err(error) => {
            let hint = "name another file with --config or GPROXY_CONFIG";
            writeln!(terminal.error, "{file}: cannot be read: {error}; {hint}")?;
            return Ok(None);
        }
    };
    let environment = terminal.environment;
    match config::load_with(text.expose(), &file, &arguments.overrides, environment, &read_file) {
        Ok(loaded) => Ok(Some(loaded)),
        Err(errors) => {
            for error in &errors {
                writeln!(terminal.error, "{error}")?;
            }
            write_count(errors.len(), &file, terminal)?;
            Ok(None)
        }
    }
}

/// The same to serve by: with certificates that can be used.
pub fn load_to_serve(
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<Option<Loaded>> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(None) };
    match check::write_certificate_mistakes(&loaded, arguments, terminal)? {
        0 => Ok(Some(loaded)),
        count => {
            write_count(count, &arguments.config_file(terminal.environment), terminal)?;
            Ok(None)
        }
    }
}

fn write_count(count: usize, file: &str, terminal: &mut Terminal<'_>) -> io::Result<()> {
    let what = if count == 1 { "mistake" } else { "mistakes" };
    writeln!(terminal.error, "{file}: {count} {what}, nothing was started")
}

#[cfg(test)]
mod tests;
