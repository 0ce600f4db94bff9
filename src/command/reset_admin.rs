//! `gproxy reset-admin`: a way back in for who has lost every key.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use super::arguments::Arguments;
use super::{EXIT_MISTAKE, EXIT_WELL, Terminal, load};
use crate::api::{self, BootError};
use crate::ledger::LedgerError;

/// No key could be made.
const EXIT_FAILED: u8 = 1;

/// Makes a key and prints it alone, so that it can be taken up by a script.
pub(super) fn run(arguments: &Arguments, terminal: &mut Terminal<'_>) -> io::Result<u8> {
    let Some(loaded) = load(arguments, terminal)? else { return Ok(EXIT_MISTAKE) };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    match api::reset_admin(&loaded, since.as_millis() as i64) {
        Ok((name, key)) => {
            writeln!(terminal.error, "a new key of the user {name:?}, shown once:")?;
            writeln!(terminal.out, "{}", key.expose())?;
            Ok(EXIT_WELL)
        }
        Err(why) => {
            match why {
                BootError::Ledger(LedgerError::InUse(path)) => writeln!(
                    terminal.error,
                    "the ledger {} is in use by another process, the gateway as it seems: stop it, \
                     and start it again afterwards",
                    path.display()
                )?,
                why => writeln!(terminal.error, "{why}")?,
            }
            Ok(EXIT_FAILED)
        }
    }
}
