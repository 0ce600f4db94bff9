//! Sessions over WebSocket, each event answered at once.

use super::{CREATED_S, EchoSettings, Reply, joined, literal, read};
use crate::dialect::Dialect;
use crate::dialect::endpoint::Endpoint;
use crate::dialect::live::{Path, string, values};
use crate::wire::json::{Kind, Step};
use std::ops::Range;

const fn key(name: &'static str) -> Step {
    Step::Key(name)
}

const TYPE: Path = &[key("type")];
/// Realtime: what the caller wrote.
const ITEM_TEXT: Path = &[key("item"), key("content"), Step::Each, key("text")];
const SETUP: Path = &[key("setup")];
/// Google's client in Python writes the names in the other way.
const CONTENT: [Path; 2] = [&[key("clientContent")], &[key("client_content")]];
const INPUT: [Path; 2] = [&[key("realtimeInput")], &[key("realtime_input")]];
/// Below [`CONTENT`].
const TURNS: Path = &[key("turns")];
const TURN_OVER: [Path; 2] = [&[key("turnComplete")], &[key("turn_complete")]];
/// Below [`TURNS`].
const TURN_TEXT: Path = &[Step::Each, key("parts"), Step::Each, key("text")];
/// Below [`INPUT`].
const TEXT: Path = &[key("text")];
const INPUT_OVER: [Path; 4] = [
    &[key("activityEnd")],
    &[key("activity_end")],
    &[key("audioStreamEnd")],
    &[key("audio_stream_end")],
];

/// One session.
#[derive(Debug)]
pub struct Session {
    endpoint: &'static Endpoint,
    model: String,
    settings: EchoSettings,
    // The last words of the caller, which the next answer echoes.
    text: Option<String>,
    // Events told.
    told: u64,
}

impl Session {
    /// A session with `model`, which the upstream was asked for.
    pub fn new(endpoint: &'static Endpoint, model: &str, settings: &EchoSettings) -> Session {
        let settings = settings.clone();
        Session { endpoint, model: model.to_owned(), settings, text: None, told: 0 }
    }

    /// What is told before anything was heard.
    pub fn greet(&mut self) -> Vec<Vec<u8>> {
        match self.endpoint.dialect {
            Dialect::OpenaiChat => self.events([("session.created", self.session())]),
            _ => Vec::new(),
        }
    }

    /// What is told of an event.
    pub fn hear(&mut self, event: &[u8]) -> Vec<Vec<u8>> {
        match self.endpoint.dialect {
            Dialect::OpenaiResponses => self.responses(event),
            Dialect::Gemini => self.gemini(event),
            _ => self.realtime(event),
        }
    }

    fn reply(&mut self, event: &[u8]) -> Reply {
        let reading = read::read(self.endpoint, b"");
        Reply::saying(&self.model, event, self.text.take(), reading, &self.settings)
    }

    fn responses(&mut self, event: &[u8]) -> Vec<Vec<u8>> {
        let [kind, ..] = values(&[TYPE], event);
        if string(event, kind) != "response.create" {
            return Vec::new();
        }
        let reply = Reply::new(self.endpoint, &self.model, event, &self.settings);
        let data = |piece: Vec<u8>| {
            let at = memchr::memmem::find(&piece, b"data: ").map_or(0, |at| at + b"data: ".len());
            piece[at..].trim_ascii_end().to_vec()
        };
        reply.response(true).pieces.into_iter().map(data).collect()
    }

    fn realtime(&mut self, event: &[u8]) -> Vec<Vec<u8>> {
        let [kind, text, ..] = values(&[TYPE, ITEM_TEXT], event);
        match string(event, kind).as_str() {
            "session.update" => self.events([("session.updated", self.session())]),
            "conversation.item.create" => {
                self.text = Some(string(event, text)).filter(|text| !text.is_empty());
                let item = format!(
                    r#""previous_item_id":null,"item":{{"id":"item_{}","object":"realtime.item",
                        "type":"message","status":"completed","role":"user","content":[]}}"#,
                    self.told
                );
                let item = joined(&item);
                self.events([
                    ("conversation.item.added", item.clone()),
                    ("conversation.item.done", item),
                ])
            }
            "input_audio_buffer.commit" => {
                let item = format!(r#""previous_item_id":null,"item_id":"item_{}""#, self.told);
                self.events([("input_audio_buffer.committed", item)])
            }
            "response.create" => self.realtime_answer(event),
            _ => Vec::new(),
        }
    }

    fn realtime_answer(&mut self, event: &[u8]) -> Vec<Vec<u8>> {
        let reply = self.reply(event);
        let (id, text) = (format!("{}{}", reply.id, self.told), literal(&reply.text));
        let part = |text: &str| format!(r#"{{"type":"output_text","text":{text}}}"#);
        let item = |status: &str, content: &str| {
            format!(
                r#"{{"id":"item_{id}","object":"realtime.item","type":"message",
                    "status":"{status}","role":"assistant","content":[{content}]}}"#
            )
        };
        let response = |status: &str, output: &str, usage: &str| {
            format!(
                r#""response":{{"object":"realtime.response","id":"resp_{id}",
                    "status":"{status}","status_details":null,"output":[{output}],
                    "conversation_id":"conv_1","output_modalities":["text"],
                    "max_output_tokens":"inf","usage":{usage},"metadata":null}}"#
            )
        };
        let place = format!(
            r#""response_id":"resp_{id}","item_id":"item_{id}","output_index":0,"content_index":0"#
        );
        let of =
            |item: &str| format!(r#""response_id":"resp_{id}","output_index":0,"item":{item}"#);
        let (tokens_in, tokens_out) = (reply.tokens_in, reply.tokens_out);
        let usage = format!(
            r#"{{"total_tokens":{},"input_tokens":{tokens_in},"output_tokens":{tokens_out},
                "input_token_details":{{"text_tokens":{tokens_in},"audio_tokens":0,
                "image_tokens":0,"cached_tokens":0}},"output_token_details":
                {{"text_tokens":{tokens_out},"audio_tokens":0}}}}"#,
            tokens_in + tokens_out
        );
        let mut events = vec![
            ("response.created", response("in_progress", "", "null")),
            ("response.output_item.added", of(&item("in_progress", ""))),
            ("response.content_part.added", format!(r#"{place},"part":{}"#, part(r#""""#))),
        ];
        for piece in reply.pieces() {
            events.push(("response.output_text.delta", format!(r#"{place},"delta":{piece}"#)));
        }
        let done = item("completed", &part(&text));
        events.push(("response.output_text.done", format!(r#"{place},"text":{text}"#)));
        events.push(("response.content_part.done", format!(r#"{place},"part":{}"#, part(&text))));
        events.push(("response.output_item.done", of(&done)));
        events.push(("response.done", response("completed", &done, &usage)));
        self.events(events)
    }

    fn session(&self) -> String {
        format!(
            r#""session":{{"type":"realtime","object":"realtime.session","id":"sess_1",
                "model":{},"output_modalities":["text"],"instructions":"","tools":[],
                "tool_choice":"auto","max_output_tokens":"inf","expires_at":{CREATED_S}}}"#,
            literal(&self.model)
        )
    }

    /// Events by their types and the rest of their members.
    fn events(&mut self, events: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Vec<u8>> {
        let event = |(kind, rest): (&str, String)| {
            self.told += 1;
            let told = self.told;
            let event = format!(r#"{{"type":"{kind}","event_id":"event_{told}",{rest}}}"#);
            joined(&event).into_bytes()
        };
        events.into_iter().map(event).collect()
    }

    fn gemini(&mut self, event: &[u8]) -> Vec<Vec<u8>> {
        let [setup, content, other, input, another, ..] =
            values(&[SETUP, CONTENT[0], CONTENT[1], INPUT[0], INPUT[1]], event);
        if setup.is_some() {
            return vec![br#"{"setupComplete":{}}"#.to_vec()];
        }
        let below =
            |value: Option<(Kind, Range<usize>)>| value.map_or(&[][..], |(_, at)| &event[at]);
        let (content, input) = (below(content.or(other)), below(input.or(another)));
        let [turns, over, other, ..] = values(&[TURNS, TURN_OVER[0], TURN_OVER[1]], content);
        if let Some((_, at)) = turns {
            let turns = &content[at];
            let [text, ..] = values(&[TURN_TEXT], turns);
            self.text = Some(string(turns, text)).filter(|text| !text.is_empty());
        }
        let [one, two, three, four] = INPUT_OVER;
        let [text, ends @ ..] = values(&[TEXT, one, two, three, four], input);
        if text.is_some() {
            self.text = Some(string(input, text.clone()));
        }
        let is_over = over.or(other).is_some_and(|(kind, _)| kind == Kind::True);
        if !is_over && text.is_none() && ends.iter().all(Option::is_none) {
            return Vec::new();
        }
        let reply = self.reply(event);
        let content = |rest: String| format!(r#"{{"serverContent":{{{rest}}}"#);
        let part = |piece: String| {
            let turn = format!(r#""modelTurn":{{"role":"model","parts":[{{"text":{piece}}}]}}"#);
            content(turn) + "}"
        };
        let mut events: Vec<String> = reply.pieces().into_iter().map(part).collect();
        let (tokens_in, tokens_out) = (reply.tokens_in, reply.tokens_out);
        events.push(content(r#""generationComplete":true"#.to_owned()) + "}");
        events.push(format!(
            r#"{},"usageMetadata":{{"promptTokenCount":{tokens_in},
                "responseTokenCount":{tokens_out},"totalTokenCount":{}}}}}"#,
            content(r#""turnComplete":true"#.to_owned()),
            tokens_in + tokens_out
        ));
        events.iter().map(|event| joined(event).into_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::live;
    use serde_json::{Value, json};

    fn session(target: &str) -> Session {
        let call = live::parse(target, &|_| false).expect("a sound path").expect("a session");
        Session::new(&call.live.endpoint, "m", &EchoSettings::default())
    }

    fn told(events: &[Vec<u8>]) -> Vec<Value> {
        let read = |event: &Vec<u8>| serde_json::from_slice(event).expect("an event is JSON");
        events.iter().map(read).collect()
    }

    fn hears(session: &mut Session, event: &Value) -> Vec<Value> {
        told(&session.hear(event.to_string().as_bytes()))
    }

    #[test]
    fn realtime_echoes_the_last_item_and_tells_its_usage() {
        let mut session = session("/v1/realtime");
        assert_eq!(told(&session.greet())[0]["session"]["model"], "m");
        let content = json!([{"type": "input_text", "text": "Grüße"}]);
        let item = json!({"type": "message", "role": "user", "content": content});
        let item = json!({"type": "conversation.item.create", "item": item});
        assert_eq!(hears(&mut session, &item)[1]["type"], "conversation.item.done");
        let events = hears(&mut session, &json!({"type": "response.create"}));
        assert_eq!(events[0]["type"], "response.created");
        let deltas = events.iter().filter_map(|event| event["delta"].as_str());
        assert_eq!(deltas.collect::<String>(), "Grüße");
        let done = &events[events.len() - 1];
        assert_eq!(done["type"], "response.done");
        assert_eq!(done["response"]["output"][0]["content"][0]["text"], "Grüße");
        assert!(done["response"]["usage"]["input_tokens"].as_u64() > Some(0));
        assert!(hears(&mut session, &json!({"type": "input_audio_buffer.append"})).is_empty());
        assert!(session.hear(b"no JSON").is_empty());
    }

    #[test]
    fn responses_come_as_in_a_stream() {
        let mut session = session("/v1/responses");
        assert!(session.greet().is_empty());
        let events = hears(&mut session, &json!({"type": "response.create", "input": "hi"}));
        assert_eq!(events[0]["type"], "response.created");
        let last = &events[events.len() - 1];
        assert_eq!(
            (&last["type"], &last["response"]["model"]),
            (&json!("response.completed"), &json!("m"))
        );
        assert_eq!(last["response"]["output"][0]["content"][0]["text"], "hi");
        assert!(hears(&mut session, &json!({"type": "response.cancel"})).is_empty());
    }

    #[test]
    fn gemini_answers_a_turn_when_it_is_over() {
        let mut session = session(
            "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent",
        );
        assert!(session.greet().is_empty());
        let ready = hears(&mut session, &json!({"setup": {"model": "models/m"}}));
        assert_eq!(ready, [json!({"setupComplete": {}})]);
        let turns = json!([{"role": "user", "parts": [{"text": "one"}, {"text": "two"}]}]);
        let begun = json!({"clientContent": {"turns": turns}});
        assert!(hears(&mut session, &begun).is_empty());
        for event in [
            json!({"clientContent": {"turns": turns, "turnComplete": true}}),
            json!({"client_content": {"turns": turns, "turn_complete": true}}),
            json!({"realtimeInput": {"text": "two"}}),
        ] {
            let events = hears(&mut session, &event);
            let parts = events.iter().filter_map(|event| {
                event["serverContent"]["modelTurn"]["parts"][0]["text"].as_str()
            });
            assert_eq!(parts.collect::<String>(), "two");
            let last = &events[events.len() - 1];
            assert_eq!(last["serverContent"]["turnComplete"], true);
            assert!(last["usageMetadata"]["responseTokenCount"].as_u64() > Some(0));
        }
    }
}
