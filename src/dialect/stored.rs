//! What replies tell of things made earlier: strings at a few places, exchanged on their way.
//!
//! Anthropic's batches say under `results_url` where their results are, and its clients take that
//! address as it stands. It would send them, and the key that they have from us, past the gateway.
//! So it leads here instead.
//!
//! Stored answers, batches and caches name their model as the vendor knows it: by which name it was
//! asked for, nobody can tell any more. Who reaches every provider cannot call that name, so it
//! gets its provider in front.

use crate::wire::json::{self, Event, Kind, Scanner, Step, Watch};

/// What is exchanged in the replies of a call.
#[derive(Clone, Copy, Debug)]
pub enum Places {
    /// Nothing.
    Nothing,
    /// Addresses of a batch's results, alone and in a list.
    Addresses,
    /// Names of models.
    Models(&'static [&'static [Step]]),
}

impl Places {
    /// Where they stand.
    fn paths(self) -> &'static [&'static [Step]] {
        match self {
            Places::Nothing => &[],
            Places::Addresses => ADDRESSES,
            Places::Models(paths) => paths,
        }
    }
}

const ADDRESSES: &[&[Step]] =
    &[&[Step::Key("results_url")], &[Step::Key("data"), Step::Each, Step::Key("results_url")]];
/// From here on an address is the same at the vendor's and here.
const SHARED: &str = "/v1/messages/batches/";
/// A longer string passes as it is.
const BYTES_MAX: usize = 4_096;
/// What may stand in front of a model's name where its vendor keeps it in a collection.
const COLLECTIONS: [&str; 2] = ["models/", "tunedModels/"];

/// What a string becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// An address of ours.
    Address {
        /// In the place of the vendor's scheme, host and prefix.
        base: String,
        /// Put into its query, if anything.
        query: String,
    },
    /// A name that can be called.
    Name(Front),
}

/// Puts a provider in front of its model's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// The provider's name.
    pub provider: String,
    /// The name stands in a collection: `models/{model}`, with more in front of it at some hosts.
    pub in_collection: bool,
}

impl Front {
    /// Appends the string literal, with the provider in front of what it spells.
    pub fn write(&self, literal: &[u8], out: &mut Vec<u8>) {
        let Some(name) = json::unescape(literal).filter(|name| !name.is_empty()) else {
            return out.extend_from_slice(literal);
        };
        let (collection, model) = match self.in_collection {
            true => collection_of(&name),
            false => ("", name.as_str()),
        };
        json::escape(&format!("{collection}{}/{model}", self.provider), out);
    }
}

/// `projects/p/models/m` is `models/` and `m`.
fn collection_of(name: &str) -> (&str, &str) {
    for collection in COLLECTIONS {
        if let Some((before, model)) = name.rsplit_once(collection)
            && (before.is_empty() || before.ends_with('/'))
        {
            return (collection, model);
        }
    }
    ("", name)
}

/// Rewrites one JSON reply, or JSON in lines. The same output however the input is cut.
pub struct Strings {
    scanner: Scanner,
    exchange: Exchange,
    /// Each line is a document.
    in_lines: bool,
    /// The string that is read, as far as it came.
    held: Option<Vec<u8>>,
}

impl Strings {
    /// Exchanges what stands at these places.
    pub fn new(places: Places, exchange: Exchange, in_lines: bool) -> Strings {
        let scanner = Scanner::new(Watch::of(places.paths())).behind_mark();
        Strings { scanner, exchange, in_lines, held: None }
    }

    /// Reads all of `input` and appends to `out` what may leave now.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if !self.in_lines {
            return self.read(input, out);
        }
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            self.read(line, out);
            if line.ends_with(b"\n") {
                self.finish(out);
                self.scanner.reset();
            }
        }
    }

    fn read(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let offset = self.scanner.offset();
        let (held, exchange) = (&mut self.held, &self.exchange);
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
                    // One that came at once is no other than one that came in parts.
                    if literal.len() <= BYTES_MAX {
                        write(&literal, exchange, out);
                    } else {
                        out.extend_from_slice(&literal);
                    }
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

/// What a string literal becomes.
fn write(literal: &[u8], exchange: &Exchange, out: &mut Vec<u8>) {
    let (base, query) = match exchange {
        Exchange::Name(front) => return front.write(literal, out),
        Exchange::Address { base, query } => (base, query),
    };
    // By what it spells: some writers escape its slashes.
    let address = json::unescape(literal);
    let Some((at, address)) = address.as_deref().and_then(|text| Some((text.find(SHARED)?, text)))
    else {
        return out.extend_from_slice(literal);
    };
    let mut ours = format!("{base}{}", &address[at..]);
    if !query.is_empty() {
        ours.push(if address[at..].contains('?') { '&' } else { '?' });
        ours.push_str(query);
    }
    json::escape(&ours, out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::splits;

    fn address(query: &str) -> Exchange {
        Exchange::Address { base: "http://here:1/a".to_owned(), query: query.to_owned() }
    }

    #[track_caller]
    fn run(places: Places, exchange: &Exchange, in_lines: bool, reply: &str, expected: &str) {
        splits::each_split(reply.as_bytes(), |pieces| {
            let mut strings = Strings::new(places, exchange.clone(), in_lines);
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| strings.feed(piece, &mut out));
            strings.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        });
    }

    #[track_caller]
    fn check(reply: &str, expected: &str) {
        run(Places::Addresses, &address(""), false, reply, expected);
    }

    #[test]
    fn a_batch_and_a_list_of_them_lead_here() {
        check(
            r#"{"id":"b","results_url":"https://x.test/p/v1/messages/batches/b/results","z":1}"#,
            r#"{"id":"b","results_url":"http://here:1/a/v1/messages/batches/b/results","z":1}"#,
        );
        check(
            r#"{"results_url":"https:\/\/x.test\/v1\/messages\/batches\/b"}"#,
            r#"{"results_url":"http://here:1/a/v1/messages/batches/b"}"#,
        );
        check(
            r#"{"data":[{"results_url":null},{"results_url":"x/v1/messages/batches/c"}]}"#,
            r#"{"data":[{"results_url":null},
                {"results_url":"http://here:1/a/v1/messages/batches/c"}]}"#
                .replace("\n                ", "")
                .as_str(),
        );
        for (theirs, ours) in [("c", "c?p=q"), ("c?a=b", "c?a=b&p=q")] {
            let reply = |base: &str, end: &str| {
                format!(r#"{{"results_url":"{base}/v1/messages/batches/{end}"}}"#)
            };
            let (theirs, ours) = (reply("https://x", theirs), reply("http://here:1/a", ours));
            run(Places::Addresses, &address("p=q"), false, &theirs, &ours);
        }
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
        let mut strings = Strings::new(Places::Addresses, address(""), false);
        let mut out = Vec::new();
        strings.feed(b"{\"results_url\":\"", &mut out);
        for _ in 0..100 {
            strings.feed(&[b'a'; 100], &mut out);
            assert!(strings.held() <= BYTES_MAX);
        }
        strings.feed(b"/v1/messages/batches/x\"}", &mut out);
        assert!(out.ends_with(b"a/v1/messages/batches/x\"}"));
    }

    #[test]
    fn a_name_is_too_long_however_it_is_cut() {
        let reply =
            |front: &str, length| format!("{{\"model\":\"{front}{}\"}}", "a".repeat(length));
        let fits = BYTES_MAX - 2;
        run(MODELS, &front(false), false, &reply("", fits), &reply("p/", fits));
        run(MODELS, &front(false), false, &reply("", fits + 1), &reply("", fits + 1));
    }

    const MODELS: Places = Places::Models(&[
        &[Step::Key("model")],
        &[Step::Key("data"), Step::Each, Step::Key("model")],
    ]);

    fn front(in_collection: bool) -> Exchange {
        Exchange::Name(Front { provider: "p".to_owned(), in_collection })
    }

    #[test]
    fn a_name_gets_its_provider_in_front_and_nothing_else_does() {
        for (reply, expected) in [
            (
                r#"{"a":{"model":"x"},"model" : "m-1","b":1}"#,
                r#"{"a":{"model":"x"},"model" : "p/m-1","b":1}"#,
            ),
            (
                r#"{"data":[{"model":"a\/b"},{"model":null}]}"#,
                r#"{"data":[{"model":"p/a/b"},{"model":null}]}"#,
            ),
            (r#"{"model":"accounts/f/models/l"}"#, r#"{"model":"p/accounts/f/models/l"}"#),
            (r#"{"model":""}"#, r#"{"model":""}"#),
            (r#"{"model":"\ud800"}"#, r#"{"model":"\ud800"}"#),
            (r#"{"model":"cut"#, r#"{"model":"cut"#),
            ("\u{feff}{\"model\":\"x\"}", "\u{feff}{\"model\":\"p/x\"}"),
        ] {
            run(MODELS, &front(false), false, reply, expected);
        }
    }

    #[test]
    fn a_name_in_a_collection_stays_there() {
        for (name, expected) in [
            ("models/g", "models/p/g"),
            ("tunedModels/g", "tunedModels/p/g"),
            ("projects/1/locations/l/publishers/google/models/g", "models/p/g"),
            ("g", "p/g"),
            ("mymodels/g", "p/mymodels/g"),
        ] {
            let reply = |name: &str| format!(r#"{{"model":"{name}"}}"#);
            run(MODELS, &front(true), false, &reply(name), &reply(expected));
        }
    }

    #[test]
    fn each_line_is_a_document_and_a_broken_one_is_its_own_problem() {
        run(
            MODELS,
            &front(false),
            true,
            "{\"model\":\"a\"}\r\n\n{\"model\":\"b\n{\"model\":} x\n{\"model\":\"c\"}",
            "{\"model\":\"p/a\"}\r\n\n{\"model\":\"b\n{\"model\":} x\n{\"model\":\"p/c\"}",
        );
    }
}
