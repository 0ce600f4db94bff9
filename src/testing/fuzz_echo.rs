//! Laws of the built-in channel and of the fields that travel, for any bytes.

use super::{fuzz_usage, naive};
use crate::dialect::Dialect;
use crate::dialect::echo::{self, EchoSettings, Session};
use crate::dialect::endpoint::{ENDPOINTS, Endpoint};
use crate::dialect::headers;
use crate::dialect::live;
use crate::dialect::terminal::Terminal;
use crate::dialect::usage::Tap;
use crate::limits::HEAD_BYTES_MAX;
use crate::wire::{head, header};
use serde_json::Value;

const MODEL: &str = "mod\"el\\\n";

/// Whatever is asked, the built-in channel answers in its vendor's shape, and always the same. The
/// first byte chooses the call, the second how it is asked; or events of a session stand in lines.
pub fn answer(data: &[u8]) {
    let [choice, how, body @ ..] = data else { return };
    let settings = EchoSettings {
        reply_bytes: (how & 8 == 8).then_some(usize::from(how >> 4) * 100),
        events: usize::from(how >> 4),
        ..EchoSettings::default()
    };
    if *choice >= 0xF0 {
        return session(*choice, body, &settings);
    }
    let endpoint = &ENDPOINTS[usize::from(*choice) % ENDPOINTS.len()];
    let (stream, alt_sse, usage) = (how & 1 == 1, how & 2 == 2, how & 4 == 4);
    let ask = || echo::answer(endpoint, MODEL, body, stream, alt_sse, usage, &settings);
    let reply = ask();
    assert_eq!(reply, ask(), "the same request has the same answer");
    let whole = reply.pieces.concat();
    match reply.content_type.split(';').next() {
        Some("application/json") => {
            assert!(serde_json::from_slice::<Value>(&whole).is_ok());
            let mut tap = Tap::new(endpoint);
            tap.feed(&whole);
            fuzz_usage::sound(&tap.told().usage, whole.len());
        }
        Some("text/event-stream") => events(endpoint, &reply.pieces),
        _ => {}
    }
}

fn events(endpoint: &Endpoint, pieces: &[Vec<u8>]) {
    let (mut tap, mut terminal) = (Tap::new(endpoint), Terminal::of(endpoint));
    for piece in pieces {
        tap.piece(piece);
        terminal.piece(piece);
    }
    for (name, data) in naive::sse_events(&pieces.concat()) {
        let is_done = data == b"[DONE]";
        let value = serde_json::from_slice::<Value>(&data);
        assert!(is_done || value.is_ok(), "{}", data.escape_ascii());
        let kind = value.ok().and_then(|value| Some(value.get("type")?.as_str()?.to_owned()));
        assert!(name.is_empty() || kind.is_none_or(|kind| kind.as_bytes() == name));
    }
    assert!(!terminal.is_missing(b""), "it has the end that its dialect knows");
    fuzz_usage::sound(&tap.told().usage, pieces.concat().len());
}

fn session(choice: u8, body: &[u8], settings: &EchoSettings) {
    let targets = ["/v1/realtime", "/v1/responses", "/v1beta/models/m:BidiGenerateContent"];
    let target = targets[usize::from(choice) % targets.len()];
    let call = live::parse(target, &|_| false).expect("a sound path").expect("is served");
    let mut session = Session::new(&call.live.endpoint, MODEL, settings);
    let mut told = session.greet();
    for event in body.split(|byte| *byte == b'\n') {
        told.extend(session.hear(event));
    }
    assert!(told.iter().all(|event| serde_json::from_slice::<Value>(event).is_ok()));
}

/// Says who the caller is, or frames his connection.
const NEVER_UP: [&str; 17] = [
    "api-key",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-api-key",
    "x-goog-api-key",
];
/// Frames the upstream's connection, or speaks for its host.
const NEVER_DOWN: [&str; 10] = [
    "access-control-allow-origin",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "set-cookie",
    "strict-transport-security",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// No field leaves for the other side that is of one connection or of one person, whatever the
/// provider's settings name; all others leave as they came. Lines of fields.
pub fn fields(data: &[u8]) {
    let text = [b"POST / HTTP/1.1\r\nhost: h\r\n", data, b"\r\n\r\n"].concat();
    let Ok(Some((head, _))) = head::parse(&text, &mut 0, HEAD_BYTES_MAX) else { return };
    let all: Vec<(&str, &[u8])> = head.headers.iter().collect();
    let is_named = |name: &str| {
        head.headers.all("connection").any(|list| {
            let mut named = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            named.any(|one| one.eq_ignore_ascii_case(name.as_bytes()))
        })
    };
    let forward: Vec<String> = NEVER_UP.iter().map(|name| (*name).to_owned()).collect();
    for dialect in Dialect::ALL {
        let up: Vec<_> = headers::forward_up(&head.headers, dialect, &forward).collect();
        for (name, value) in &up {
            assert!(!NEVER_UP.contains(name) && !name.starts_with("x-gproxy-"), "{name}");
            assert!(header::is_name(name.as_bytes()) && header::is_value(value));
        }
        let of = |wanted: &str| up.iter().filter(|(name, _)| *name == wanted).count();
        assert_eq!(of("accept-encoding"), 1);
        assert!(dialect != Dialect::Anthropic || of(headers::VERSION) > 0);
        let sent: Vec<_> = up.iter().filter(|field| all.contains(field)).collect();
        // Where the version does not go up, ours stands in its place.
        let is_ours = |name: &str| name == headers::VERSION || !is_named(name);
        assert!(sent.iter().all(|(name, _)| is_ours(name)), "a field of the connection");
    }
    if let Some(key) = headers::credential_of(&head.headers) {
        assert!(!key.is_empty());
    }

    let mut out = Vec::new();
    headers::forward_down(|| all.iter().copied(), &mut out);
    let lines: Vec<&[u8]> = out.split_inclusive(|byte| *byte == b'\n').collect();
    let mut came = all.iter();
    for line in lines {
        let line = line.strip_suffix(b"\r\n").expect("a line has its end");
        let is_it = |(name, value): &&(&str, &[u8])| {
            [name.as_bytes(), b": ", value].concat().eq_ignore_ascii_case(line)
        };
        let (name, _) = came.find(is_it).expect("it came, and in this order");
        assert!(!NEVER_DOWN.contains(name) && !is_named(name), "{name}");
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::mutate;

    #[test]
    fn the_built_in_channel_answers_whatever_is_asked() {
        let samples: [&[u8]; 7] = [
            b"\x00\x25{\"model\":\"m\",\"stream\":true,\"messages\":[{\"role\":\"user\",\
              \"content\":[{\"type\":\"text\",\"text\":\"hi \\u4eba\"}]}],\"n\":2}",
            b"\x02\x31{\"input\":[{\"content\":\"a\"}],\"tools\":[{}],\"stream\":true}",
            b"\x03\x00{\"input\":[\"a\",[1,2]],\"dimensions\":3,\"encoding_format\":\"base64\"}",
            b"\x04\x3D{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]}",
            b"\x11\x53{\"contents\":[{\"parts\":[{\"text\":\"hi\"}]}]}",
            b"\xF0\x20{\"type\":\"conversation.item.create\",\"item\":{\"content\":\
              [{\"text\":\"a\"}]}}\n{\"type\":\"response.create\"}",
            b"\xF2\x20{\"setup\":{}}\n{\"clientContent\":{\"turns\":[{\"parts\":[{\"text\":\
              \"a\"}]}],\"turnComplete\":true}}",
        ];
        let spices: [&[u8]; 14] = [
            b"\"stream\":true,",
            b"\"content\":",
            b"\"text\":\"x\",",
            b"\"n\":9,",
            b"\"dimensions\":99999999999,",
            b"\"input\":",
            b"[",
            b"{",
            b"\"",
            b"\\ud800",
            b"\\u0000",
            b"\n",
            b"\xFF",
            b"\xEF\xBB\xBF",
        ];
        mutate::run(&samples, &spices, 1_500, super::answer);
    }

    #[test]
    fn laws_of_fields_hold_for_damaged_ones() {
        let samples: [&[u8]; 3] = [
            b"authorization: Bearer sk\r\nconnection: x-a, close\r\nx-a: 1\r\nx-b: 2",
            b"x-api-key: k\r\nanthropic-version: 2023-06-01\r\nvia: 1.1 p\r\ncookie: a=b",
            b"sec-websocket-protocol: realtime, openai-insecure-api-key.sk\r\nx-gproxy-a: 1",
        ];
        let spices: [&[u8]; 14] = [
            b"\r\nconnection: ",
            b"\r\nConnection: via\r\n",
            b"\r\nset-cookie: a\r\n",
            b"\r\naccess-control-allow-origin: *\r\n",
            b"\r\naccept-encoding: gzip\r\n",
            b"\r\nX-Api-Key: ",
            b"\r\nx-forwarded-for: 1\r\n",
            b"\r\ncf-ray: 1\r\n",
            b", ",
            b"Bearer ",
            b" ",
            b"\t",
            b"\xFF",
            b":",
        ];
        mutate::run(&samples, &spices, 4_000, super::fields);
    }
}
