//! Lists of models as upstreams give them: one page read, in the shape of its family.
//!
//! An upstream may say anything. What cannot be a model's name is passed over, names are taken up
//! to a number, and a page that is no list is told from an empty one.

use super::{Family, ask};
use crate::limits;
use crate::wire::json::{Event, JsonError, Kind, Scanner, Step, Watch, unescape};

/// A model of an upstream's list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The upstream's name for it.
    pub id: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// The longest prompt, in tokens.
    pub max_input_tokens: Option<u64>,
    /// The longest answer, in tokens.
    pub max_output_tokens: Option<u64>,
}

/// The shape of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"data":[{"id"}]}` on one page.
    Openai,
    /// `{"data":[{"id","display_name"}],"has_more","last_id"}`
    Anthropic,
    /// `{"models":[{"name":"models/..."}],"nextPageToken"}`
    Gemini,
    /// `{"publisherModels":[{"name":"publishers/google/models/..."}],"nextPageToken"}`
    Vertex,
}

/// One page.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its models.
    pub models: Vec<Listed>,
    /// What to ask the next page with.
    pub next: Option<String>,
}

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    List,
    Element,
    Id,
    Name,
    Input,
    Output,
    More,
    Next,
}

type Table = &'static [(&'static [Step], Column)];

const DATA: Step = Step::Key("data");
const MODELS: Step = Step::Key("models");
const PUBLISHER: Step = Step::Key("publisherModels");

const fn key(name: &'static str) -> Step {
    Step::Key(name)
}

const OPENAI: Table = &[
    (&[DATA], Column::List),
    (&[DATA, Step::Each], Column::Element),
    (&[DATA, Step::Each, key("id")], Column::Id),
    // What the vendor has not, and routers, Groq and vLLM have.
    (&[DATA, Step::Each, key("name")], Column::Name),
    (&[DATA, Step::Each, key("context_length")], Column::Input),
    (&[DATA, Step::Each, key("context_window")], Column::Input),
    (&[DATA, Step::Each, key("max_model_len")], Column::Input),
];
const ANTHROPIC: Table = &[
    (&[DATA], Column::List),
    (&[DATA, Step::Each], Column::Element),
    (&[DATA, Step::Each, key("id")], Column::Id),
    (&[DATA, Step::Each, key("display_name")], Column::Name),
    (&[DATA, Step::Each, key("max_input_tokens")], Column::Input),
    (&[DATA, Step::Each, key("max_tokens")], Column::Output),
    (&[key("has_more")], Column::More),
    (&[key("last_id")], Column::Next),
];
const GEMINI: Table = &[
    (&[MODELS], Column::List),
    (&[MODELS, Step::Each], Column::Element),
    (&[MODELS, Step::Each, key("name")], Column::Id),
    (&[MODELS, Step::Each, key("displayName")], Column::Name),
    (&[MODELS, Step::Each, key("inputTokenLimit")], Column::Input),
    (&[MODELS, Step::Each, key("outputTokenLimit")], Column::Output),
    (&[key("nextPageToken")], Column::Next),
];
const VERTEX: Table = &[
    (&[PUBLISHER], Column::List),
    (&[PUBLISHER, Step::Each], Column::Element),
    (&[PUBLISHER, Step::Each, key("name")], Column::Id),
    (&[key("nextPageToken")], Column::Next),
];

impl Form {
    fn table(self) -> Table {
        match self {
            Form::Openai => OPENAI,
            Form::Anthropic => ANTHROPIC,
            Form::Gemini => GEMINI,
            Form::Vertex => VERTEX,
        }
    }

    /// The family's.
    pub fn of(family: Family) -> Form {
        match family {
            Family::Openai => Form::Openai,
            Family::Anthropic => Form::Anthropic,
            Family::Gemini => Form::Gemini,
        }
    }

    /// Whose shape it is.
    pub fn family(self) -> Family {
        match self {
            Form::Openai => Family::Openai,
            Form::Anthropic => Family::Anthropic,
            Form::Gemini | Form::Vertex => Family::Gemini,
        }
    }

    /// The query of a page. `after`: what the page before said of it.
    pub fn query(self, after: Option<&str>) -> String {
        let (size, cursor) = match self {
            Form::Openai => return String::new(),
            Form::Anthropic => ("limit=1000", "after_id"),
            Form::Gemini => ("pageSize=1000", "pageToken"),
            Form::Vertex => ("pageSize=100", "pageToken"),
        };
        match after {
            None => size.to_owned(),
            Some(after) => {
                let mut query = format!("{size}&{cursor}=");
                for byte in after.bytes() {
                    match byte {
                        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                            query.push(byte.into());
                        }
                        _ => query.push_str(&format!("%{byte:02X}")),
                    }
                }
                query
            }
        }
    }

    /// Reads a page; `None`: it is no such list.
    pub fn read(self, body: &[u8]) -> Option<Page> {
        let table = self.table();
        let paths: Vec<&[Step]> = table.iter().map(|(path, _)| *path).collect();
        let mut reader = Reader { body, table, ..Reader::default() };
        let mut scanner = Scanner::new(Watch::of(&paths)).behind_mark();
        let mut on = |event| reader.event(event);
        let scanned: Result<(), JsonError> =
            scanner.feed(body, &mut on).and_then(|()| scanner.finish(&mut on));
        scanned.ok()?;
        if !reader.is_list {
            return None;
        }
        let has_next = self != Form::Anthropic || reader.has_more;
        let next = reader.next.filter(|next| has_next && !next.is_empty());
        let next = next.filter(|next| next.len() <= limits::LIST_CURSOR_BYTES_MAX);
        Some(Page { models: reader.models, next })
    }
}

#[derive(Default)]
struct Reader<'b> {
    body: &'b [u8],
    table: Table,
    begins: usize,
    is_list: bool,
    has_more: bool,
    next: Option<String>,
    model: Listed,
    models: Vec<Listed>,
}

impl Reader<'_> {
    fn event(&mut self, event: Event) {
        match event {
            Event::Begins { path, kind, at, .. } => match self.table[path].1 {
                Column::List => self.is_list = kind == Kind::Array,
                Column::Element => self.model = Listed::default(),
                Column::More => self.has_more = kind == Kind::True,
                _ => self.begins = at as usize,
            },
            Event::Ends { path, end } => self.ends(self.table[path].1, end as usize),
            Event::Repeats { .. } | Event::Misspelt { .. } => {}
        }
    }

    fn ends(&mut self, column: Column, end: usize) {
        let value = self.body.get(self.begins..end).unwrap_or_default();
        match column {
            Column::List | Column::More => {}
            Column::Element => {
                let model = std::mem::take(&mut self.model);
                if !model.id.is_empty() && self.models.len() < limits::LIST_MODELS_MAX {
                    self.models.push(model);
                }
            }
            Column::Id => self.model.id = id(value).unwrap_or_default(),
            Column::Name => self.model.display_name = name(value),
            Column::Input => self.model.max_input_tokens = tokens(value),
            Column::Output => self.model.max_output_tokens = tokens(value),
            Column::Next => self.next = unescape(value),
        }
    }
}

/// The name that a model is called by, without the collection in front.
fn id(literal: &[u8]) -> Option<String> {
    let text = unescape(literal)?;
    let bare = ["publishers/google/models/", "models/"];
    let bare = bare.into_iter().find_map(|front| text.strip_prefix(front)).unwrap_or(&text);
    let fits = bare.trim() == bare && !bare.split('/').any(str::is_empty);
    fits.then(|| ask::plain_name(bare.as_bytes()).ok()).flatten()
}

fn name(literal: &[u8]) -> Option<String> {
    let text = unescape(literal)?;
    let fits = (1..=limits::MODEL_BYTES_MAX).contains(&text.len());
    Some(text).filter(|text| fits && !text.chars().any(char::is_control))
}

fn tokens(literal: &[u8]) -> Option<u64> {
    let number = std::str::from_utf8(literal).ok()?.parse().ok()?;
    (1..=limits::MODEL_TOKENS_MAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: Option<&str>, input: Option<u64>, output: Option<u64>) -> Listed {
        Listed {
            id: id.to_owned(),
            display_name: name.map(str::to_owned),
            max_input_tokens: input,
            max_output_tokens: output,
        }
    }

    #[test]
    fn every_familys_list_is_read() {
        let openai = r#"{"object":"list","data":[{"id":"gpt-4o","object":"model","created":1},
            {"id":"meta/llama:free","name":"Llama","context_length":131072,
            "permission":[{"id":"x"}]},
            {"id":"m","max_model_len":4096}]}"#;
        let page = Form::Openai.read(openai.as_bytes()).expect("a list");
        let llama = listed("meta/llama:free", Some("Llama"), Some(131_072), None);
        let short = listed("m", None, Some(4_096), None);
        assert_eq!(page.models, [listed("gpt-4o", None, None, None), llama, short]);
        assert_eq!(page.next, None);

        let anthropic = r#"{"data":[{"type":"model","id":"claude-a","display_name":"Claude A",
            "max_input_tokens":200000,"max_tokens":64000}],"has_more":true,"last_id":"claude-a"}"#;
        let page = Form::Anthropic.read(anthropic.as_bytes()).expect("a list");
        let claude = listed("claude-a", Some("Claude A"), Some(200_000), Some(64_000));
        assert_eq!(page.models, [claude]);
        assert_eq!(page.next.as_deref(), Some("claude-a"));
        let last = anthropic.replace("true", "false");
        assert_eq!(Form::Anthropic.read(last.as_bytes()).expect("a list").next, None);

        let gemini = r#"{"models":[{"name":"models/gemini-a","displayName":"A",
            "inputTokenLimit":1,"outputTokenLimit":2}],"nextPageToken":"t&1"}"#;
        let page = Form::Gemini.read(gemini.as_bytes()).expect("a list");
        assert_eq!(page.models, [listed("gemini-a", Some("A"), Some(1), Some(2))]);
        let next = Form::Gemini.query(page.next.as_deref());
        assert_eq!(next, "pageSize=1000&pageToken=t%261");

        let vertex = r#"{"publisherModels":[{"name":"publishers/google/models/gemini-a"}]}"#;
        let page = Form::Vertex.read(vertex.as_bytes()).expect("a list");
        assert_eq!(page.models, [listed("gemini-a", None, None, None)]);
        let marked = format!("\u{feff}{vertex}");
        assert_eq!(Form::Vertex.read(marked.as_bytes()), Some(page));
    }

    #[test]
    fn what_cannot_be_a_models_name_is_passed_over() {
        let ids = [
            "\"\"",
            "1",
            "null",
            "[\"a\"]",
            "\"a\\nb\"",
            "\"..\"",
            "\"a/../b\"",
            "\" a\"",
            "\"a/\"",
            "\"\\ud800\"",
        ];
        let long = format!("\"{}\"", "a".repeat(300));
        for id in ids.into_iter().chain([long.as_str()]) {
            let body = format!("{{\"data\":[{{\"id\":{id}}},{{\"id\":\"good\"}},{{}},7]}}");
            let page = Form::Openai.read(body.as_bytes()).expect("a list");
            assert_eq!(page.models, [listed("good", None, None, None)], "{id}");
        }
    }

    #[test]
    fn what_is_no_list_is_told_from_an_empty_one() {
        for body in ["", "{}", "[]", "{\"data\":{}}", "{\"error\":{}}", "{\"data\":[", "<html>"] {
            assert_eq!(Form::Openai.read(body.as_bytes()), None, "{body}");
        }
        assert_eq!(Form::Openai.read(b"{\"data\":[]}"), Some(Page::default()));
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let one = "{\"id\":\"m\"},";
        let body = format!("{{\"data\":[{}{{}}]}}", one.repeat(limits::LIST_MODELS_MAX + 9));
        let page = Form::Openai.read(body.as_bytes()).expect("a list");
        assert_eq!(page.models.len(), limits::LIST_MODELS_MAX);
    }
}
