//! The models of a batch: Anthropic's `requests[].params.model`, read and exchanged piece by piece.
//!
//! A batch may be too long to be held, so it is read twice: first to learn which names it holds and
//! how often, then, once each is known to be permitted, on its way up. What is kept of it is a
//! list of its different names.

use super::ask::{self, AskError};
use crate::limits::{BATCH_MODELS_MAX, MODEL_BYTES_MAX};
use crate::wire::json::{Event, Kind, Scanner, Step, Watch, escape};

const REQUESTS: Step = Step::Key("requests");
const PARAMS: Step = Step::Key("params");
const NAME: Step = Step::Key("model");
/// From [`OTHERS`] on those of further models, which single calls may have, too.
const PATHS: &[&[Step]] = &[
    &[],
    &[REQUESTS, Step::Each, PARAMS, NAME],
    &[REQUESTS, Step::Each, PARAMS, Step::Key("models"), Step::Each],
    &[REQUESTS, Step::Each, PARAMS, Step::Key("fallbacks"), Step::Each],
    &[REQUESTS, Step::Each, PARAMS, Step::Key("fallbacks"), Step::Each, NAME],
    &[REQUESTS, Step::Each, PARAMS, Step::Key("tools"), Step::Each, NAME],
];
const ROOT: usize = 0;
const OTHERS: usize = 2;
/// One byte of a name takes at most the six of `\u0061`.
const LITERAL_BYTES_MAX: usize = MODEL_BYTES_MAX * 6 + 2;

/// Part of a batch's body.
enum Part<'a> {
    Name(&'a [u8]),
    /// The name of a further model, which goes up as it stands.
    Other(&'a [u8]),
    Rest(&'a [u8]),
}

/// Finds the names in a body, however it is cut.
struct Names {
    scanner: Scanner,
    /// The name that is read, as far as it came.
    held: Option<Vec<u8>>,
}

impl Names {
    fn new() -> Names {
        Names { scanner: Scanner::new(Watch::of(PATHS).in_any_case()), held: None }
    }

    /// Shows all of `input` in its order, but for the beginning of a name that is not whole yet.
    /// Of several errors the one that stands first is told, however the body is cut.
    fn feed(
        &mut self,
        input: &[u8],
        show: &mut dyn FnMut(Part<'_>) -> Result<(), AskError>,
    ) -> Result<(), AskError> {
        let offset = self.scanner.offset();
        let held = &mut self.held;
        let mut done = Ok(());
        // Invariant: `input[..kept]` was dealt with.
        let mut kept = 0;
        let result = self.scanner.feed(input, &mut |event| {
            if done.is_err() {
                return;
            }
            done = match event {
                Event::Begins { path: ROOT, kind, .. } if kind != Kind::Object => {
                    Err(AskError::NotAnObject)
                }
                Event::Begins { path: ROOT, .. } | Event::Ends { path: ROOT, .. } => Ok(()),
                // What is no text names no further model.
                Event::Begins { path: OTHERS.., kind, .. } if kind != Kind::String => Ok(()),
                Event::Ends { path: OTHERS.., .. } if held.is_none() => Ok(()),
                Event::Begins { kind, .. } if kind != Kind::String => Err(AskError::ModelNotText),
                Event::Begins { at, .. } => {
                    let at = (at - offset) as usize;
                    let rest = &input[kept..at];
                    kept = at;
                    *held = Some(Vec::new());
                    show(Part::Rest(rest))
                }
                Event::Ends { path, end } => {
                    let end = (end - offset) as usize;
                    let mut literal = held.take().unwrap_or_default();
                    literal.extend_from_slice(&input[kept..end]);
                    kept = end;
                    match literal.len() <= LITERAL_BYTES_MAX {
                        true if path >= OTHERS => show(Part::Other(&literal)),
                        true => show(Part::Name(&literal)),
                        false => Err(AskError::ModelTooLong),
                    }
                }
                Event::Misspelt { .. } => Err(AskError::KeyMisspelt),
                Event::Repeats { .. } => Err(AskError::ModelTwice),
            };
        });
        done?;
        // As far as it is JSON.
        let read = (self.scanner.offset() - offset) as usize;
        match &mut self.held {
            Some(literal) => {
                literal.extend_from_slice(&input[kept..read]);
                if literal.len() > LITERAL_BYTES_MAX {
                    return Err(AskError::ModelTooLong);
                }
            }
            None => show(Part::Rest(&input[kept..read]))?,
        }
        Ok(result?)
    }
}

/// A name as it stands in the body, and how often.
struct Named {
    literal: Vec<u8>,
    name: String,
    count: u64,
}

/// What a batch asks for.
pub struct Batch {
    names: Names,
    found: Vec<Named>,
    others: Vec<String>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { names: Names::new(), found: Vec::new(), others: Vec::new() }
    }
}

impl Batch {
    /// Reads on. An error stays one: nothing more is fed.
    pub fn feed(&mut self, input: &[u8]) -> Result<(), AskError> {
        let Batch { names, found, others } = self;
        names.feed(input, &mut |part| match part {
            Part::Name(literal) => enter(found, literal),
            Part::Other(literal) => enter_other(others, literal),
            Part::Rest(_) => Ok(()),
        })
    }

    /// The body has no more bytes.
    pub fn finish(&mut self) -> Result<(), AskError> {
        Ok(self.names.scanner.finish(&mut |_| {})?)
    }

    /// The names, each once for each way to write it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.found.iter().map(|named| named.name.as_str())
    }

    /// Further models that the requests name, to fall back to or for a tool to ask, each once.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// Puts these names in the place of those, in their order; and by how much the body grows.
    pub fn exchange<'s>(&self, served: impl Iterator<Item = &'s str>) -> (Exchange, i64) {
        let mut growth = 0;
        let pairs = self.found.iter().zip(served).map(|(named, served)| {
            let mut literal = Vec::new();
            escape(served, &mut literal);
            growth += (literal.len() as i64 - named.literal.len() as i64) * named.count as i64;
            (named.literal.clone(), literal)
        });
        let pairs = pairs.collect();
        (Exchange { names: Names::new(), pairs }, growth)
    }
}

fn enter(found: &mut Vec<Named>, literal: &[u8]) -> Result<(), AskError> {
    if let Some(named) = found.iter_mut().find(|named| named.literal == literal) {
        named.count += 1;
        return Ok(());
    }
    if found.len() == BATCH_MODELS_MAX {
        return Err(AskError::TooManyModels);
    }
    let name = ask::model_name(literal)?;
    found.push(Named { literal: literal.to_vec(), name, count: 1 });
    Ok(())
}

fn enter_other(others: &mut Vec<String>, literal: &[u8]) -> Result<(), AskError> {
    let name = ask::model_name(literal)?;
    if others.contains(&name) {
        return Ok(());
    }
    if others.len() == BATCH_MODELS_MAX {
        return Err(AskError::TooManyModels);
    }
    others.push(name);
    Ok(())
}

/// Exchanges the names of a batch that was read before.
pub struct Exchange {
    names: Names,
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Exchange {
    /// Reads all of `input`, and appends to `out` what may leave now.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), AskError> {
        let pairs = &self.pairs;
        self.names.feed(input, &mut |part| {
            out.extend_from_slice(match part {
                Part::Rest(bytes) | Part::Other(bytes) => bytes,
                Part::Name(literal) => {
                    let pair = pairs.iter().find(|(asked, _)| asked == literal);
                    pair.map_or(literal, |(_, served)| served)
                }
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::splits;

    const BODY: &str = r#"{"requests":[{"custom_id":"a","params":{"model":"fast",
        "x":{"model":"m"}}},{"params":{"model":"p/m","messages":[]},"model":"stays"},
        {"params":{"model":"fast"}},
        {"params":{}}],"model":"stays","params":{"model":"stays"}}"#;

    #[test]
    fn names_are_found_and_exchanged_wherever_the_body_is_cut() {
        let expected = BODY.replace("\"fast\"", "\"claude-1\"").replace("\"p/m\"", "\"m\"");
        splits::each_split(BODY.as_bytes(), |pieces| {
            let mut batch = Batch::default();
            pieces.iter().for_each(|piece| batch.feed(piece).expect("it is sound"));
            batch.finish().expect("it is whole");
            assert!(batch.names().eq(["fast", "p/m"]));
            let (mut exchange, growth) = batch.exchange(["claude-1", "m"].into_iter());
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| exchange.feed(piece, &mut out).expect("it is sound"));
            assert_eq!(String::from_utf8_lossy(&out), expected);
            assert_eq!(BODY.len() as i64 + growth, expected.len() as i64);
        });
    }

    #[test]
    fn further_models_are_found_and_stay() {
        let body = r#"{"requests":[{"params":{"model":"fast","fallbacks":[{"model":"a"},"b",1],
            "models":["c","\u0061"],"tools":[{"model":"d","x":{"model":"no"}}]}},
            {"params":{"models":{"a":"no"},"fallbacks":null},"models":["no"]}],"models":["no"]}"#;
        splits::each_split(body.as_bytes(), |pieces| {
            let mut batch = Batch::default();
            pieces.iter().for_each(|piece| batch.feed(piece).expect("it is sound"));
            assert!(batch.names().eq(["fast"]));
            assert_eq!(batch.others(), ["a", "b", "c", "d"]);
            let (mut exchange, _) = batch.exchange(["slow"].into_iter());
            let mut out = Vec::new();
            pieces.iter().for_each(|piece| exchange.feed(piece, &mut out).expect("it is sound"));
            assert_eq!(String::from_utf8_lossy(&out), body.replace("fast", "slow"));
        });
        let params = |params: &str| format!(r#"{{"requests":[{{"params":{{{params}}}}}]}}"#);
        refuses(&params(r#""Models":["a"]"#), AskError::KeyMisspelt);
        refuses(&params(r#""models":["a"],"models":[]"#), AskError::ModelTwice);
        refuses(&params(r#""models":[""]"#), AskError::ModelEmpty);
        let long = params(&format!("\"models\":[\"{}\"]", "a".repeat(MODEL_BYTES_MAX + 1)));
        assert_eq!(Batch::default().feed(long.as_bytes()), Err(AskError::ModelTooLong));
        let many: Vec<_> = (0..=BATCH_MODELS_MAX).map(|at| format!("\"m{at}\"")).collect();
        let many = params(&format!("\"models\":[{}]", many.join(",")));
        assert_eq!(Batch::default().feed(many.as_bytes()), Err(AskError::TooManyModels));
    }

    #[track_caller]
    fn refuses(body: &str, expected: AskError) {
        splits::each_split(body.as_bytes(), |pieces| {
            let mut batch = Batch::default();
            let fed = pieces.iter().try_for_each(|piece| batch.feed(piece));
            assert_eq!(fed.and_then(|()| batch.finish()), Err(expected), "{body}");
        });
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        refuses(r#"{"requests":[{"params":{"model":"a","model":"b"}}]}"#, AskError::ModelTwice);
        refuses(r#"{"requests":[{"params":{"model":"a"},"params":{}}]}"#, AskError::ModelTwice);
        refuses(r#"{"requests":[{"params":{"Model":"a"}}]}"#, AskError::KeyMisspelt);
        refuses(r#"{"requests":[{"params":{"model":1}}]}"#, AskError::ModelNotText);
        refuses(r#"{"requests":[{"params":{"model":""}}]}"#, AskError::ModelEmpty);
        refuses(r#"[{"params":{"model":"a"}}]"#, AskError::NotAnObject);
        refuses(r#"{"requests":[{"params":{"model":"a"}}]"#, AskError::Truncated);
        refuses(r#"{"requests":[}"#, AskError::NotJson);
        // Of several errors the first.
        let names = |names: &str| format!(r#"{{"requests":[{names}]}}"#);
        let (empty, number) = (r#"{"params":{"model":""}}"#, r#"{"params":{"model":1}}"#);
        refuses(&names(&format!("{empty},{number}")), AskError::ModelEmpty);
        refuses(&names(&format!("{number},{empty}")), AskError::ModelNotText);
        refuses(&names(&format!("{empty},]")), AskError::ModelEmpty);
        refuses(&names(&format!("{},{empty}", r#"{"params":{"model":"\x"}}"#)), AskError::NotJson);
        let long = "a".repeat(LITERAL_BYTES_MAX);
        let broken = |text: &str| names(&format!(r#"{{"params":{{"model":"{text}\x"}}}}"#));
        refuses(&broken(&long[3..]), AskError::NotJson);
        refuses(&broken(&long), AskError::ModelTooLong);
        let long =
            format!("{{\"requests\":[{{\"params\":{{\"model\":\"{}\"}}}}]}}", "a".repeat(2_000));
        let mut batch = Batch::default();
        assert_eq!(batch.feed(long.as_bytes()), Err(AskError::ModelTooLong));
        let many = |count: usize| {
            let one = |at| format!("{{\"params\":{{\"model\":\"m{at}\"}}}}");
            let all: Vec<_> = (0..count).map(one).collect();
            Batch::default().feed(format!("{{\"requests\":[{}]}}", all.join(",")).as_bytes())
        };
        assert_eq!(many(BATCH_MODELS_MAX), Ok(()));
        assert_eq!(many(BATCH_MODELS_MAX + 1), Err(AskError::TooManyModels));
    }
}
