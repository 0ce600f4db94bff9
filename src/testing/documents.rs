//! Random JSON and event streams that look like API traffic, with spellings that nobody expects.

use super::prng::Prng;

const KEYS: &[&str] = &[
    "model",
    "modelVersion",
    "stream",
    "stream_options",
    "include_usage",
    "usage",
    "choices",
    "response",
    "message",
    "messages",
    "content",
    "requests",
    "generateContentRequest",
    "mode",
    "models",
    "Model",
    "",
    "id",
    "é",
];
const TEXTS: &[&str] = &[
    "gpt-4.1-mini",
    "",
    "hello",
    "\"model\":\"x\"",
    "a\\b\"c",
    "\u{2028}\n\r\t",
    "模型 é 🦀",
    "{}[],:",
    "gemini-1.5-flash",
    "a text that is longer than the sixteen bytes of the short way",
];
const NUMBERS: &[&str] =
    &["0", "-0", "1", "-12", "3.25", "1e3", "1E-2", "-0.5e+10", "12345678901234567890", "0.10"];

const LEADS: &[&[u8]] = &[b"data: ", b"data:", b"data:  "];
const ODD_LINES: &[&[u8]] = &[b"data", b"data:", b"id: 7", b"dat: x", b":"];

/// A random document, valid JSON.
pub fn json(prng: &mut Prng) -> Vec<u8> {
    let mut out = Vec::new();
    spaces(prng, &mut out);
    let mut room = 1 + prng.below(40);
    match prng.below(8) {
        0 => value(prng, 0, &mut room, &mut out),
        1 => array(prng, 0, &mut room, &mut out),
        _ => object(prng, 0, &mut room, &mut out),
    }
    spaces(prng, &mut out);
    out
}

/// Breaks a document, or not: bytes are dropped, doubled, or replaced by ones that mean something.
pub fn mutated(mut document: Vec<u8>, prng: &mut Prng) -> Vec<u8> {
    const BYTES: &[u8] = b"\"\\{}[]:,tfnu0-1.eE+ \n\x80\xFF/ax";
    for _ in 0..1 + prng.below(3) {
        if document.is_empty() {
            break;
        }
        let at = prng.below(document.len());
        match prng.below(5) {
            0 => drop(document.remove(at)),
            1 => document.insert(at, *prng.pick(BYTES)),
            2 => document[at] = *prng.pick(BYTES),
            3 => document.truncate(at),
            _ => document.insert(at, document[at]),
        }
    }
    document
}

/// A random event stream; every document in it is valid.
pub fn stream(prng: &mut Prng) -> Vec<u8> {
    const ENDS: &[&[u8]] = &[b"\n", b"\n", b"\r\n", b"\r"];
    let mut out = Vec::new();
    if prng.one_in(8) {
        out.extend_from_slice(b"\xEF\xBB\xBF");
    }
    let usual_end = *prng.pick(ENDS);
    for _ in 0..prng.below(6) {
        for _ in 0..prng.below(4) {
            let end = if prng.one_in(8) { *prng.pick(ENDS) } else { usual_end };
            line(prng, &mut out);
            out.extend_from_slice(end);
        }
        if !prng.one_in(10) {
            let end = if prng.one_in(8) { *prng.pick(ENDS) } else { usual_end };
            out.extend_from_slice(end);
        }
    }
    out
}

fn line(prng: &mut Prng, out: &mut Vec<u8>) {
    match prng.below(12) {
        0 => out.extend_from_slice(b": ping"),
        1 => out.extend_from_slice(b"event: message_start"),
        2 => out.extend_from_slice(b"data: [DONE]"),
        3 => out.extend_from_slice(prng.pick::<&[u8]>(ODD_LINES)),
        4 => {
            out.extend_from_slice(b"data: ");
            let choices = *prng.pick(&["[]", "[{}]", "null"]);
            let usage = *prng.pick(&["null", "{\"total_tokens\":3}", "{}"]);
            let text = format!("{{\"choices\":{choices},\"model\":\"m\",\"usage\":{usage}}}");
            out.extend_from_slice(text.as_bytes());
        }
        _ => {
            out.extend_from_slice(prng.pick::<&[u8]>(LEADS));
            let document = json(prng);
            out.extend(document.into_iter().filter(|byte| !matches!(byte, b'\n' | b'\r')));
        }
    }
}

fn value(prng: &mut Prng, depth: usize, room: &mut usize, out: &mut Vec<u8>) {
    *room = room.saturating_sub(1);
    let deeper = depth < 6 && *room > 0;
    match prng.below(10) {
        0 | 1 if deeper => object(prng, depth, room, out),
        2 if deeper => array(prng, depth, room, out),
        3 => out.extend_from_slice(prng.pick(NUMBERS).as_bytes()),
        4 => out.extend_from_slice(prng.pick(&["true", "false", "null"]).as_bytes()),
        _ => string(prng, TEXTS, out),
    }
}

fn object(prng: &mut Prng, depth: usize, room: &mut usize, out: &mut Vec<u8>) {
    out.push(b'{');
    spaces(prng, out);
    for index in 0..prng.below(6) {
        if index > 0 {
            out.push(b',');
            spaces(prng, out);
        }
        string(prng, KEYS, out);
        spaces(prng, out);
        out.push(b':');
        spaces(prng, out);
        value(prng, depth + 1, room, out);
        spaces(prng, out);
    }
    out.push(b'}');
}

fn array(prng: &mut Prng, depth: usize, room: &mut usize, out: &mut Vec<u8>) {
    out.push(b'[');
    spaces(prng, out);
    for index in 0..prng.below(5) {
        if index > 0 {
            out.push(b',');
            spaces(prng, out);
        }
        value(prng, depth + 1, room, out);
        spaces(prng, out);
    }
    out.push(b']');
}

fn spaces(prng: &mut Prng, out: &mut Vec<u8>) {
    while prng.one_in(4) {
        out.push(*prng.pick(b" \n\r\t"));
    }
}

/// A literal in which any character may be spelled as an escape.
fn string(prng: &mut Prng, texts: &[&str], out: &mut Vec<u8>) {
    let escapes = if prng.one_in(3) { 4 } else { usize::MAX };
    out.push(b'"');
    for char in prng.pick(texts).chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\0'..='\u{1f}' => hex(&[char as u16], prng, out),
            _ if escapes == 4 && prng.one_in(escapes) => {
                hex(char.encode_utf16(&mut [0; 2]), prng, out);
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn hex(units: &[u16], prng: &mut Prng, out: &mut Vec<u8>) {
    for unit in units {
        let text = if prng.one_in(2) { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
        out.extend_from_slice(text.as_bytes());
    }
}
