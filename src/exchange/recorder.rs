//! The last bytes of a stream, with the times at which they came: kept when it ends badly.
//!
//! What people and models wrote never leaves here. Of the events' JSON, keys, numbers and the names
//! of kinds are shown; of every other text, and of every line that is no part of an event, only how
//! long it is.

use std::collections::VecDeque;
use std::time::Instant;

use parking_lot::Mutex;

use super::note::Note;
use crate::limits;
use crate::route::snapshot::Snapshot;

/// Texts under these keys are names of things.
const NAMES: [&[u8]; 14] = [
    b"type",
    b"object",
    b"id",
    b"model",
    b"role",
    b"status",
    b"code",
    b"native_finish_reason",
    b"finish_reason",
    b"stop_reason",
    b"finishReason",
    b"modelVersion",
    b"responseId",
    b"service_tier",
];
/// Words of JSON, and of the end of a stream.
const WORDS: [&[u8]; 4] = [b"true", b"false", b"null", b"DONE"];
/// A longer text is no name.
const NAME_BYTES_MAX: usize = 64;

/// The last bytes of a stream under way. Room is taken as they come.
pub(super) struct Ring {
    begun: Instant,
    bytes_max: usize,
    bytes: VecDeque<u8>,
    // Milliseconds since the beginning, and how many of the bytes came then.
    marks: VecDeque<(u32, u32)>,
    // What is left begins anywhere.
    is_cut: bool,
}

/// What is kept of a stream that ended badly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The request's id.
    pub request_id: String,
    /// When it ended, in milliseconds since 1970, UTC.
    pub at_ms: i64,
    /// Who called.
    pub user: String,
    /// Who was called.
    pub provider: String,
    /// The model that was asked for there.
    pub model: String,
    /// Name of the endpoint.
    pub endpoint: &'static str,
    /// How it ended, in a sentence.
    pub why: String,
    /// From the reply's head to the end, in milliseconds.
    pub total_ms: u64,
    /// Bytes came before the first of the pieces.
    pub is_cut: bool,
    /// Milliseconds since the head, how many bytes came then, and what may be shown of them.
    pub pieces: Vec<(u32, u32, String)>,
}

/// The last streams that ended badly.
#[derive(Default)]
pub struct Recordings(Mutex<VecDeque<Recording>>);

impl Recordings {
    /// Keeps one, in the place of the oldest.
    fn keep(&self, recording: Recording) {
        let mut all = self.0.lock();
        all.truncate(limits::RECORDINGS_MAX - 1);
        all.push_front(recording);
    }

    /// All of them, the last one first.
    pub fn all(&self) -> Vec<Recording> {
        self.0.lock().iter().cloned().collect()
    }
}

impl Ring {
    pub(super) fn new(bytes_max: usize, begun: Instant) -> Ring {
        let (bytes, marks) = (VecDeque::new(), VecDeque::new());
        Ring { begun, bytes_max, bytes, marks, is_cut: false }
    }

    pub(super) fn add(&mut self, piece: &[u8], now: Instant) {
        let skipped = piece.len().saturating_sub(self.bytes_max);
        self.is_cut |= skipped > 0;
        let piece = &piece[skipped..];
        self.drop_to(self.bytes_max - piece.len());
        let ms = self.ms_to(now).try_into().unwrap_or(u32::MAX);
        let is_new = self.marks.back().is_none_or(|(at, _)| *at != ms);
        if is_new && self.marks.len() == limits::RECORDER_PIECES_MAX {
            let oldest = self.marks[0].1 as usize;
            self.drop_to(self.bytes.len() - oldest);
        }
        let wanted = self.bytes.len() + piece.len();
        if wanted > self.bytes.capacity() {
            // Twice as much, so that room is made seldom, but never more than is used.
            self.bytes.reserve_exact((2 * wanted).min(self.bytes_max) - self.bytes.len());
        }
        self.bytes.extend(piece);
        match self.marks.back_mut().filter(|_| !is_new) {
            // What came together stands together.
            Some((_, count)) => *count += piece.len() as u32,
            None => self.marks.push_back((ms, piece.len() as u32)),
        }
    }

    /// Forgets the oldest bytes until so many are left.
    fn drop_to(&mut self, left: usize) {
        let mut over = self.bytes.len().saturating_sub(left);
        if over == 0 {
            return;
        }
        self.is_cut = true;
        self.bytes.drain(..over);
        while let Some((_, count)) = self.marks.front_mut() {
            let taken = over.min(*count as usize);
            *count -= taken as u32;
            over -= taken;
            if *count > 0 {
                return;
            }
            self.marks.pop_front();
        }
    }

    fn ms_to(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_millis() as u64
    }

    /// Ends the recording: `secret` is what was presented to the upstream.
    pub(super) fn keep(
        mut self,
        recordings: &Recordings,
        note: &Note,
        snapshot: &Snapshot,
        secret: &str,
        ended: (&str, Instant, i64),
    ) {
        let (why, now, at_ms) = ended;
        log::warn!(target: "gproxy::stream", "id={} ended badly and is recorded: {why}", note.id);
        let total_ms = self.ms_to(now);
        let bytes = self.bytes.make_contiguous();
        let mut visible = visible(bytes, self.is_cut);
        if !secret.is_empty() {
            for at in memchr::memmem::find_iter(bytes, secret.as_bytes()) {
                visible[at..at + secret.len()].fill(false);
            }
        }
        let mut from = 0;
        let piece = |(ms, count): &(u32, u32)| {
            let to = from + *count as usize;
            let text = shown(&bytes[from..to], &visible[from..to]);
            from = to;
            (*ms, *count, text)
        };
        recordings.keep(Recording {
            request_id: note.id.to_string(),
            at_ms,
            user: note.user.map_or("", |at| &snapshot.users[at].name).to_owned(),
            provider: note.provider.map_or("", |at| &snapshot.providers[at].name).to_owned(),
            model: note.model_served.clone(),
            endpoint: note.endpoint,
            why: why.to_owned(),
            total_ms,
            is_cut: self.is_cut,
            pieces: self.marks.iter().map(piece).collect(),
        });
    }
}

/// The bytes that may be seen, the length of each run of others in its place.
fn shown(bytes: &[u8], visible: &[bool]) -> String {
    let mut out = String::with_capacity(bytes.len());
    let mut hidden = 0;
    for (byte, visible) in bytes.iter().zip(visible) {
        if *visible {
            tell(&mut hidden, &mut out);
            match byte {
                b'\n' | b' '..=b'~' => out.push(char::from(*byte)),
                byte => out.push_str(&byte.escape_ascii().to_string()),
            }
        } else {
            hidden += 1;
        }
    }
    tell(&mut hidden, &mut out);
    out
}

fn tell(hidden: &mut usize, out: &mut String) {
    if *hidden > 0 {
        out.push_str(&format!("<{hidden} bytes>"));
        *hidden = 0;
    }
}

/// Which bytes of a stream may be seen.
fn visible(bytes: &[u8], is_cut: bool) -> Vec<bool> {
    let mut visible = vec![false; bytes.len()];
    let mut from = 0;
    let mut is_whole = !is_cut;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let marks = &mut visible[from..from + line.len()];
        from += line.len();
        let text = line.trim_ascii_end();
        marks[text.len()..].fill(true);
        // Of a line that began before, nobody knows what it is.
        if !std::mem::replace(&mut is_whole, true) {
            continue;
        }
        let field = text.iter().position(|byte| *byte == b':').map(|at| (&text[..at], at + 1));
        match field {
            Some((b"data", at)) => {
                marks[..at].fill(true);
                mark_json(&text[at..], &mut marks[at..]);
            }
            Some((b"event" | b"retry" | b"", at)) => {
                marks[..at].fill(true);
                marks[at..text.len()].fill(is_name(text[at..].trim_ascii()));
            }
            _ => {}
        }
    }
    visible
}

/// Shows the structure of JSON, its keys and numbers, and the names of kinds.
fn mark_json(text: &[u8], visible: &mut [bool]) {
    let mut key: &[u8] = b"";
    let mut at = 0;
    while at < text.len() {
        let end = match text[at] {
            b'"' => at + string_len(&text[at..]),
            byte if byte.is_ascii_alphabetic() => {
                let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
                at + text[at..].iter().take_while(|byte| is_word(byte)).count()
            }
            _ => at + 1,
        };
        let token = &text[at..end];
        let is_shown = match token {
            [b'"', inner @ .., b'"'] => {
                let is_key = text[end..].trim_ascii_start().first() == Some(&b':');
                let is_shown = is_name(inner) && (is_key || NAMES.contains(&key));
                key = if is_key { inner } else { b"" };
                is_shown
            }
            [b'{' | b','] => {
                key = b"";
                true
            }
            [byte] if byte.is_ascii_alphabetic() || *byte == b'"' || !byte.is_ascii() => false,
            [_] => true,
            word => WORDS.contains(&word) || (word[0] == b'e' && is_exponent(word)),
        };
        visible[at..end].fill(is_shown);
        at = end;
    }
}

fn is_exponent(word: &[u8]) -> bool {
    word[1..].iter().all(u8::is_ascii_digit)
}

/// The length of the text in quotes at the beginning, or of all when it does not end.
fn string_len(text: &[u8]) -> usize {
    let mut is_escape = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            b'"' if !is_escape => return at + 1,
            byte => is_escape = *byte == b'\\' && !is_escape,
        }
    }
    text.len()
}

/// A short text of letters that names have.
fn is_name(text: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./: ".contains(byte);
    text.len() <= NAME_BYTES_MAX && text.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[track_caller]
    fn check(stream: &str, is_cut: bool, expected: &str) {
        let bytes = stream.as_bytes();
        assert_eq!(shown(bytes, &visible(bytes, is_cut)), expected);
    }

    #[test]
    fn what_was_written_is_shown_by_its_length() {
        let begun = "event: message_start\ndata: {\"type\":\"x.delta\",\"n\":[1,-2.5],\"d\":null,";
        let stream = format!("{begun}\"text\":\"a \\\"quote\\\": 1\",\"ok\":true}}\n\n");
        let expected = format!("{begun}\"text\":<16 bytes>,\"ok\":true}}\n\n");
        check(&stream, false, &expected);
        check("data: [DONE]\r\n\r\n", false, "data: [DONE]\\r\n\\r\n");
        check(": keep-alive\n\n", false, ": keep-alive\n\n");
        check(
            "data: {\"type\":[\"tool\",\"two\"]}",
            false,
            "data: {\"type\":[\"tool\",<5 bytes>]}",
        );
    }

    #[test]
    fn nothing_is_shown_of_what_is_no_event_or_ends_within_a_text() {
        check("data: {\"text\":\"more sec", false, "data: {\"text\":<9 bytes>");
        check("data: {\"a text\\", false, "data: {<8 bytes>");
        check(
            "oh dear\n: \u{fc}ber\ndata: no JSON 5",
            false,
            "<7 bytes>\n:<6 bytes>\ndata: <2 bytes> <4 bytes> 5",
        );
        check("{\"error\":\"x\"}\n", false, "<13 bytes>\n");
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        check(&format!("data: {{\"id\":\"{long}\"}}"), false, "data: {\"id\":<67 bytes>}");
    }

    #[test]
    fn a_ring_that_begins_within_a_line_shows_nothing_of_it() {
        check("secret\"}\n\ndata: {}\n", true, "<8 bytes>\n\ndata: {}\n");
    }

    #[test]
    fn only_the_last_bytes_are_kept_with_their_times() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut ring = Ring::new(20, begun);
        ring.add(b"0123456789", at(1));
        assert!(!ring.is_cut);
        ring.add(b"\n: a\n\n", at(5));
        ring.add(b": b\n\n", at(5));
        assert_eq!(ring.marks, [(1, 9), (5, 11)]);
        ring.add(b": c\n\n", at(900));
        assert_eq!(ring.marks, [(1, 4), (5, 11), (900, 5)]);
        assert_eq!((ring.bytes.len(), ring.is_cut), (20, true));
        ring.add(&[b'x'; 1_000], at(901));
        assert_eq!(ring.marks, [(901, 20)]);
        assert_eq!(ring.bytes.capacity(), 20);
    }

    #[test]
    fn many_small_pieces_keep_within_the_bounds() {
        let begun = Instant::now();
        let mut ring = Ring::new(4_096, begun);
        for ms in 0..10_000 {
            ring.add(b"ab", begun + Duration::from_millis(ms));
            let marked: u32 = ring.marks.iter().map(|(_, count)| count).sum();
            assert_eq!(marked as usize, ring.bytes.len());
            assert!(ring.bytes.capacity() <= 4_096 && ring.marks.capacity() <= 128);
        }
        assert_eq!(ring.marks.len(), limits::RECORDER_PIECES_MAX);
    }

    #[test]
    fn the_oldest_recordings_make_room() {
        let recordings = Recordings::default();
        for number in 0..limits::RECORDINGS_MAX + 3 {
            let request_id = number.to_string();
            recordings.keep(Recording { request_id, ..Recording::default() });
        }
        let all = recordings.all();
        assert_eq!(all.len(), limits::RECORDINGS_MAX);
        assert_eq!(all[0].request_id, (limits::RECORDINGS_MAX + 2).to_string());
    }
}
