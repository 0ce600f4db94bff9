//! Oracles: slow, short and obviously right. They take whole inputs and recurse freely, so they
//! are for tests only.

use crate::wire::json::{Event, Kind, Step};
use serde_json::Value;

/// The scanner's events for a whole document, found by recursion; where a string, number or word
/// ends is `serde_json`'s opinion. `None` when it is no JSON.
pub fn json_events(document: &[u8], watch: &[&[Step]]) -> Option<Vec<Event>> {
    let mut reader = Reader { document, at: 0, watch, events: Vec::new() };
    reader.spaces();
    let all: Vec<usize> = (0..watch.len()).collect();
    let start = reader.at as u64;
    reader.value(&all, 0, start)?;
    reader.spaces();
    (reader.at == document.len()).then_some(reader.events)
}

struct Reader<'a> {
    document: &'a [u8],
    at: usize,
    watch: &'a [&'a [Step]],
    events: Vec<Event>,
}

impl Reader<'_> {
    fn spaces(&mut self) {
        while self.document.get(self.at).is_some_and(|byte| b" \t\r\n".contains(byte)) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> Option<u64> {
        let at = self.at;
        (*self.document.get(at)? == byte).then(|| self.at += 1)?;
        Some(at as u64)
    }

    /// A scalar or string: as long as a strict reader takes it for one.
    fn token(&mut self) -> Option<()> {
        let rest = &self.document[self.at..];
        let mut tokens =
            serde_json::Deserializer::from_slice(rest).into_iter::<serde::de::IgnoredAny>();
        tokens.next()?.ok()?;
        self.at += tokens.byte_offset();
        Some(())
    }

    fn value(&mut self, paths: &[usize], depth: usize, after: u64) -> Option<()> {
        let at = self.at as u64;
        let kind = match self.document.get(self.at)? {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b't' => Kind::True,
            b'f' => Kind::False,
            b'n' => Kind::Null,
            _ => Kind::Number,
        };
        let (found, onward): (Vec<usize>, Vec<usize>) =
            paths.iter().partition(|&&path| self.watch[path].len() == depth);
        for &path in &found {
            self.events.push(Event::Begins { path, kind, at, after });
        }
        match kind {
            Kind::Object => self.object(&onward, depth)?,
            Kind::Array => self.array(&onward, depth)?,
            _ => self.token()?,
        }
        for &path in &found {
            self.events.push(Event::Ends { path, end: self.at as u64 });
        }
        Some(())
    }

    fn object(&mut self, paths: &[usize], depth: usize) -> Option<()> {
        let mut seen: Vec<String> = Vec::new();
        let mut after = self.take(b'{')?;
        self.spaces();
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            self.spaces();
            let start = self.at;
            (self.document.get(start)? == &b'"').then_some(())?;
            self.token()?;
            // No Unicode is no watched key.
            let key: String =
                serde_json::from_slice(&self.document[start..self.at]).unwrap_or_default();
            let leads = |&&path: &&usize| match self.watch[path][depth] {
                Step::Key(name) => name == key,
                Step::Each => false,
            };
            let onward: Vec<usize> = paths.iter().filter(leads).copied().collect();
            if seen.contains(&key) {
                self.events.extend(onward.iter().map(|&path| Event::Repeats { path }));
            }
            seen.push(key);
            self.spaces();
            self.take(b':')?;
            self.spaces();
            self.value(&onward, depth + 1, after)?;
            self.spaces();
            match self.take(b',') {
                Some(comma) => after = comma,
                None => return self.take(b'}').map(|_| ()),
            }
        }
    }

    fn array(&mut self, paths: &[usize], depth: usize) -> Option<()> {
        let mut after = self.take(b'[')?;
        self.spaces();
        if self.take(b']').is_some() {
            return Some(());
        }
        let leads = |path: &&usize| self.watch[**path][depth] == Step::Each;
        let onward: Vec<usize> = paths.iter().filter(leads).copied().collect();
        loop {
            self.spaces();
            self.value(&onward, depth + 1, after)?;
            self.spaces();
            match self.take(b',') {
                Some(comma) => after = comma,
                None => return self.take(b']').map(|_| ()),
            }
        }
    }
}

/// Every string at the path becomes `name`.
pub fn renamed(value: &mut Value, path: &[Step], name: &str) {
    match (path.split_first(), value) {
        (None, Value::String(text)) => *text = name.to_owned(),
        (Some((Step::Key(key), rest)), Value::Object(members)) => {
            if let Some(member) = members.get_mut(*key) {
                renamed(member, rest, name);
            }
        }
        (Some((Step::Each, rest)), Value::Array(elements)) => {
            elements.iter_mut().for_each(|element| renamed(element, rest, name));
        }
        _ => {}
    }
}

/// Lines of a stream, its line ends made equal first.
fn lines(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut text = Vec::new();
    for (index, &byte) in stream.iter().enumerate() {
        match byte {
            b'\n' if index > 0 && stream[index - 1] == b'\r' => {}
            b'\r' => text.push(b'\n'),
            _ => text.push(byte),
        }
    }
    text.split(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// The events that a client sees, as (event name, data); the last needs no blank line.
pub fn sse_events(stream: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let mut events = Vec::new();
    let mut name = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    for line in lines(stream).into_iter().chain([Vec::new()]) {
        if line.is_empty() {
            let name = std::mem::take(&mut name);
            events.extend(data.take().map(|data| (name, data)));
            continue;
        }
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => name = value.to_vec(),
            b"data" => {
                data = Some(match data.take() {
                    Some(before) => [before.as_slice(), b"\n", value].concat(),
                    None => value.to_vec(),
                });
            }
            _ => {}
        }
    }
    events
}

/// What a chat client that did not ask for usage must see of an event's data; `None`: nothing.
pub fn without_usage(mut value: Value) -> Option<Value> {
    let choices_empty = value.get("choices").and_then(Value::as_array).is_some_and(Vec::is_empty);
    match value.get("usage") {
        Some(Value::Object(_)) if choices_empty => return None,
        Some(Value::Null) => {
            value.as_object_mut().and_then(|members| members.remove("usage"));
        }
        _ => {}
    }
    Some(value)
}
