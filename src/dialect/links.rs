//! Addresses of the vendor's in a reply, which its clients go to: they lead here instead.
//!
//! Anthropic's batches say under `results_url` where their results are, and its clients take that
//! address as it stands. It would send them, and the key that they have from us, past the gateway.

use crate::wire::json::{Event, Kind, Scanner, Step, Watch};

/// Where a batch names its results, alone and in a list.
const PATHS: &[&[Step]] =
    &[&[Step::Key("results_url")], &[Step::Key("data"), Step::Each, Step::Key("results_url")]];
/// From here on an address is the same at the vendor's and here.
const SHARED: &[u8] = b"/v1/messages/batches/";
/// A longer address passes as it is.
const BYTES_MAX: usize = 4_096;

/// Rewrites one JSON reply. The same output however the input is cut.
pub struct Links {
    scanner: Scanner,
    /// Our own address up to the shared part.
    base: Vec<u8>,
    /// The address that is read, as far as it came.
    held: Option<Vec<u8>>,
}

impl Links {
    /// `base` takes the place of the vendor's scheme, host and prefix.
    pub fn new(base: &str) -> Links {
        let base = base.as_bytes().to_vec();
        Links { scanner: Scanner::new(Watch::of(PATHS)), base, held: None }
    }

    /// Reads all of `input` and appends to `out` what may leave now.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let offset = self.scanner.offset();
        let (held, base) = (&mut self.held, &self.base);
        // Invariant: `input[..kept]` was dealt with.
        let mut kept = 0;
        let result = self.scanner.feed(input, &mut |event| match event {
            Event::Begins { kind: Kind::String, at, .. } => {
                let at = (at - offset) as usize;
                out.extend_from_slice(&input[kept..at]);
                kept = at;
                *held = Some(Vec::new());
            }
            Event::Ends { end, .. } => {
                let end = (end - offset) as usize;
                if let Some(mut literal) = held.take() {
                    literal.extend_from_slice(&input[kept..end]);
                    kept = end;
                    write(&literal, base, out);
                }
            }
            _ => {}
        });
        let rest = &input[kept..];
        match &mut self.held {
            Some(literal) if result.is_ok() && literal.len() + rest.len() <= BYTES_MAX => {
                literal.extend_from_slice(rest);
            }
            _ => {
                self.finish(out);
                out.extend_from_slice(rest);
            }
        }
    }

    /// Nothing more comes: what is held leaves.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.held.take().unwrap_or_default());
    }

    /// Bytes fed that have not left.
    pub fn held(&self) -> usize {
        self.held.as_ref().map_or(0, Vec::len)
    }
}

/// A string literal with our base in the place of the vendor's.
fn write(literal: &[u8], base: &[u8], out: &mut Vec<u8>) {
    match memchr::memmem::find(literal, SHARED) {
        Some(at) => {
            out.push(b'"');
            out.extend_from_slice(base);
            out.extend_from_slice(&literal[at..]);
        }
        None => out.extend_from_slice(literal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::splits;

    #[track_caller]
    fn check(reply: &str, expected: &str) {
        splits::each_split(reply.as_bytes(), |pieces| {
            let mut links = Links::new("http://here:1/a");
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| links.feed(piece, &mut out));
            links.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        });
    }

    #[test]
    fn a_batch_and_a_list_of_them_lead_here() {
        check(
            r#"{"id":"b","results_url":"https://x.test/p/v1/messages/batches/b/results","z":1}"#,
            r#"{"id":"b","results_url":"http://here:1/a/v1/messages/batches/b/results","z":1}"#,
        );
        check(
            r#"{"data":[{"results_url":null},{"results_url":"x/v1/messages/batches/c"}]}"#,
            r#"{"data":[{"results_url":null},
                {"results_url":"http://here:1/a/v1/messages/batches/c"}]}"#
                .replace("\n                ", "")
                .as_str(),
        );
    }

    #[test]
    fn everything_else_passes() {
        for reply in [
            r#"{"results_url":"https://elsewhere.test/b"}"#,
            r#"{"other":"https://x.test/v1/messages/batches/b/results"}"#,
            r#"{"results_url":"https://x.test/v1/messages/batches/b"#,
            r#"{"results_url":"broken" x"#,
            "no JSON",
        ] {
            check(reply, reply);
        }
    }

    #[test]
    fn a_long_address_passes_and_is_not_held() {
        let mut links = Links::new("http://here");
        let mut out = Vec::new();
        links.feed(b"{\"results_url\":\"", &mut out);
        for _ in 0..100 {
            links.feed(&[b'a'; 100], &mut out);
            assert!(links.held() <= BYTES_MAX);
        }
        links.feed(b"/v1/messages/batches/x\"}", &mut out);
        assert!(out.ends_with(b"a/v1/messages/batches/x\"}"));
    }
}
