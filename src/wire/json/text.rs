//! JSON strings: from a literal to text and back. Names only pass through here, never whole bodies.

/// What a string literal, quotes included, spells. `None` when it is no literal, or spells
/// something that is not Unicode (broken UTF-8, half of a surrogate pair).
pub fn unescape(literal: &[u8]) -> Option<String> {
    let mut rest = literal.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let mut text = String::with_capacity(rest.len());
    while let Some(index) = memchr::memchr2(b'"', b'\\', rest) {
        text.push_str(std::str::from_utf8(&rest[..index]).ok()?);
        if rest[index] == b'"' {
            return None;
        }
        let (&escape, tail) = rest[index + 1..].split_first()?;
        rest = tail;
        if escape != b'u' {
            text.push(char::from(short_escape(escape)?));
            continue;
        }
        let high = u32::from(hex_code(&mut rest)?);
        let code = if (0xD800..0xDC00).contains(&high) {
            rest = rest.strip_prefix(b"\\u")?;
            let low = u32::from(hex_code(&mut rest)?);
            if !(0xDC00..0xE000).contains(&low) {
                return None;
            }
            0x10000 + ((high - 0xD800) << 10 | (low - 0xDC00))
        } else {
            high
        };
        // A lone second half is no `char`.
        text.push(char::from_u32(code)?);
    }
    text.push_str(std::str::from_utf8(rest).ok()?);
    Some(text)
}

/// Appends `text` as a string literal, quotes included. Escapes what JSON demands and also the
/// characters at which Python's line readers break an event: DEL to U+009F, U+2028 and U+2029.
pub fn escape(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' => {
                push_hex(char as u32, out);
            }
            _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn push_hex(code: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\u");
    for shift in [12, 8, 4, 0] {
        out.push(b"0123456789abcdef"[(code >> shift & 0xF) as usize]);
    }
}

/// What the byte after a backslash stands for, `u` apart.
pub(super) fn short_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0C,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}

/// The value of a hexadecimal digit.
pub(super) fn hex_digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => return None,
    })
}

/// Takes the four digits of a `\uXXXX` off the front.
fn hex_code(rest: &mut &[u8]) -> Option<u16> {
    let (digits, tail) = rest.split_at_checked(4)?;
    *rest = tail;
    digits.iter().try_fold(0, |code, &byte| Some(code << 4 | u16::from(hex_digit(byte)?)))
}
