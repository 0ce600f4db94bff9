//! Patterns over model names: `*` stands for any run of characters, `/` included, `?` for one.
//!
//! Nothing else is special, and what other tools treat as special is refused, so that a pattern
//! never means less than its author thought.

use std::fmt;
use std::sync::Arc;

use crate::limits;

/// A checked pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Arc<str>);

/// Why a pattern was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobError {
    /// It has no characters.
    Empty,
    /// It is longer than a model name can be.
    TooLong,
    /// It holds a control character or white space at an end.
    Blank,
    /// It holds a character that is special elsewhere.
    Special(char),
}

/// What other patterns, of shells or regular expressions, treat as special and what no model is
/// called by, but for brackets, for which `?` stands.
const SPECIAL: &[char] = &['[', ']', '{', '}', '\\', '(', ')', '|', '^', '$', ',', '!'];

impl fmt::Display for GlobError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GlobError::Empty => write!(out, "the pattern is empty; \"*\" permits every model"),
            GlobError::TooLong => {
                write!(out, "the pattern is longer than {} bytes", limits::MODEL_BYTES_MAX)
            }
            GlobError::Blank => {
                write!(out, "the pattern holds a control character or outer white space")
            }
            GlobError::Special(found @ (',' | '|')) => write!(
                out,
                "`{found}` has no meaning here; only `*` (any run) and `?` (one character) do; \
                 write a row of its own for each pattern"
            ),
            GlobError::Special(found) => write!(
                out,
                "`{found}` has no meaning here; only `*` (any run) and `?` (one character) do, \
                 and `?` matches a `{found}`"
            ),
        }
    }
}

impl Glob {
    /// Checks a pattern.
    pub fn parse(pattern: &str) -> Result<Glob, GlobError> {
        if pattern.is_empty() {
            return Err(GlobError::Empty);
        }
        if pattern.len() > limits::MODEL_BYTES_MAX {
            return Err(GlobError::TooLong);
        }
        if pattern.trim() != pattern || pattern.chars().any(char::is_control) {
            return Err(GlobError::Blank);
        }
        match pattern.chars().find(|found| SPECIAL.contains(found)) {
            Some(found) => Err(GlobError::Special(found)),
            None => Ok(Glob(pattern.into())),
        }
    }

    /// Fits every name.
    pub fn any() -> Glob {
        Glob("*".into())
    }

    /// Whether the whole name fits the pattern.
    ///
    /// Only the last `*` is ever reconsidered, so the time is at most the product of both lengths,
    /// and both are bounded.
    pub fn matches(&self, name: &str) -> bool {
        let pattern = self.0.as_bytes();
        let name = name.as_bytes();
        let (mut at, mut read) = (0, 0);
        // Where to resume when the part after the last star does not fit: pattern, name.
        let mut resume: Option<(usize, usize)> = None;
        while read < name.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    resume = Some((at + 1, read));
                    at += 1;
                }
                Some(b'?') => {
                    at += 1;
                    read += character_bytes(name[read]);
                }
                Some(literal) if *literal == name[read] => {
                    at += 1;
                    read += 1;
                }
                _ => match resume {
                    Some((after_star, from)) => {
                        let next = from + character_bytes(name[from]);
                        resume = Some((after_star, next));
                        at = after_star;
                        read = next;
                    }
                    None => return false,
                },
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, to be kept beyond the rule.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// Length of a UTF-8 character by its first byte.
fn character_bytes(first: u8) -> usize {
    match first {
        0..=0x7f => 1,
        0x80..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, name: &str, expected: bool) {
        let glob = Glob::parse(pattern).expect("pattern is valid");
        assert_eq!(glob.matches(name), expected, "{pattern} on {name}");
    }

    #[test]
    fn stars_cross_slashes_and_questions_are_one_character() {
        let rows = [
            ("*", "anything/at:all", true),
            ("*", "", true),
            ("gpt-*", "gpt-4.1-mini", true),
            ("gpt-*", "gpt-", true),
            ("gpt-*", "chatgpt-4o", false),
            ("*-mini", "gpt-4.1-mini", true),
            ("*-mini", "gpt-4.1-mini-2025", false),
            ("meta-llama/*", "meta-llama/llama-3-70b:free", true),
            ("*/llama-?-*", "meta-llama/llama-3-70b", true),
            ("*:free", "a/b:free", true),
            ("gpt-?", "gpt-4", true),
            ("gpt-?", "gpt-", false),
            ("gpt-?", "gpt-41", false),
            ("模?-é", "模型-é", true),
            ("?", "型", true),
            ("??", "型", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a**b", "ab", true),
            ("gpt-4.1", "gpt-4x1", false),
            ("GPT-*", "gpt-4", false),
        ];
        for (pattern, name, expected) in rows {
            check(pattern, name, expected);
        }
    }

    #[test]
    fn allows_names_that_hold_the_special_characters() {
        check("*\u{3f}", "x*", true);
        check("claude-*?1m?", "claude-sonnet[1m]", true);
    }

    #[test]
    fn forbids_what_is_special_elsewhere() {
        for pattern in
            ["gpt-[34]", "{a,b}", "a\\*", "x]", "a,b", "a|b", "(a)", "a)", "^a", "a$", "!a"]
        {
            assert!(matches!(Glob::parse(pattern), Err(GlobError::Special(_))), "{pattern}");
        }
    }

    #[test]
    fn a_list_in_one_pattern_is_told_to_be_several_rows() {
        for pattern in ["gpt-*,o1-*", "gpt-*|o1-*"] {
            let why = Glob::parse(pattern).map_err(|why| why.to_string());
            assert!(why.is_err_and(|why| why.contains("a row of its own")), "{pattern}");
        }
    }

    #[test]
    fn every_other_bad_pattern_has_its_reason() {
        assert_eq!(Glob::parse(""), Err(GlobError::Empty));
        assert_eq!(Glob::parse(&"a".repeat(257)), Err(GlobError::TooLong));
        assert_eq!(Glob::parse(" gpt"), Err(GlobError::Blank));
        assert_eq!(Glob::parse("a\tb"), Err(GlobError::Blank));
    }

    #[test]
    fn many_stars_end_in_bounded_time() {
        let glob = Glob::parse(&"a*".repeat(128)).expect("pattern is valid");
        assert!(!glob.matches(&format!("{}b", "a".repeat(100))));
        let glob = Glob::parse(&format!("{}b", "*a".repeat(127))).expect("pattern is valid");
        assert!(!glob.matches(&"a".repeat(256)));
    }
}
