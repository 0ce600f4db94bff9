//! `gproxy usage`, `gproxy audit` and `gproxy backup`: the books as text, whether they add up, and
//! a copy of them.

use std::io;
use std::path::Path;

use super::arguments::Arguments;
use super::{EXIT_MISTAKE, EXIT_WELL, Terminal, load};
use crate::ledger::audit;
use crate::ledger::export::{self, ExportError, Selection};
use crate::ledger::query;
use crate::money;

/// The books do not add up, or cannot be read.
const EXIT_FAULTS: u8 = 1;

/// Prints rows.
pub(super) fn usage(
    as_json: bool,
    selection: &Selection,
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    let folder = Path::new(&loaded.settings.data_dir);
    match export::export(folder, selection, as_json, terminal.out) {
        Ok(()) => Ok(EXIT_WELL),
        Err(ExportError::Out(error)) => Err(error),
        Err(ExportError::Ledger(error)) => {
            writeln!(terminal.error, "{error}")?;
            Ok(EXIT_FAULTS)
        }
    }
}

/// Copies the books.
pub(super) fn backup(
    target: &str,
    arguments: &Arguments,
    terminal: &mut Terminal<'_>,
) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    match query::copy(Path::new(&loaded.settings.data_dir), Path::new(target)) {
        Ok(()) => Ok(EXIT_WELL),
        Err(error) => {
            writeln!(terminal.error, "{error}")?;
            Ok(EXIT_FAULTS)
        }
    }
}

/// Says whether the books add up.
pub(super) fn audit(arguments: &Arguments, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    let audit = match audit::audit(Path::new(&loaded.settings.data_dir)) {
        Ok(audit) => audit,
        Err(error) => {
            writeln!(terminal.error, "{error}")?;
            return Ok(EXIT_FAULTS);
        }
    };
    for fault in &audit.faults {
        writeln!(terminal.out, "{fault}")?;
    }
    let (rows, pruned, faults) = (audit.rows, audit.pruned, audit.faults_count);
    let cost = money::grand_text(audit.cost);
    let sums = match pruned {
        0 => String::new(),
        _ => format!(" and the sums of {pruned} older ones"),
    };
    writeln!(terminal.out, "{rows} rows{sums}, {cost} USD, {faults} faults")?;
    Ok(if audit.faults_count == 0 { EXIT_WELL } else { EXIT_FAULTS })
}
