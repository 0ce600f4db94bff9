//! `gproxy hash-key`: a key from standard input to what may stand for it in the configuration.
//!
//! Never from the command line, which other users of the machine can read.

use std::io::{self, BufRead, BufReader, Read};

use super::{EXIT_MISTAKE, EXIT_WELL, Terminal};
use crate::secret::Digest;

const KEY_BYTES_MAX: usize = 4096;

/// Reads one line, or all there is.
pub(super) fn run(terminal: &mut Terminal<'_>) -> io::Result<u8> {
    if terminal.interactive {
        write!(terminal.error, "key: ")?;
        terminal.error.flush()?;
    }
    let mut line = Vec::new();
    let input = (&mut *terminal.input).take(KEY_BYTES_MAX as u64 + 2);
    BufReader::new(input).read_until(b'\n', &mut line)?;
    let line = line.strip_suffix(b"\n").unwrap_or(&line);
    let key = line.strip_suffix(b"\r").unwrap_or(line);
    let printable = key.iter().all(u8::is_ascii_graphic);
    if !(1..=KEY_BYTES_MAX).contains(&key.len()) || !printable {
        writeln!(
            terminal.error,
            "a key is 1 to {KEY_BYTES_MAX} printable ASCII characters without spaces, on standard \
             input"
        )?;
        return Ok(EXIT_MISTAKE);
    }
    if key.starts_with(b"sha256:") {
        writeln!(terminal.error, "this is a digest already")?;
        return Ok(EXIT_MISTAKE);
    }
    writeln!(terminal.out, "{}", Digest::of(key).to_text())?;
    Ok(EXIT_WELL)
}
