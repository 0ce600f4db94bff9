//! How a caller's limits stand, in the fields that its client reads.

use super::Family;
use crate::wire::header;

/// How a user stands under the rules that count a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Under the tightest rule for requests.
    pub requests: Option<Window>,
    /// Under the tightest rule for tokens.
    pub tokens: Option<Window>,
}

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What it allows.
    pub limit: u64,
    /// How much of that is left.
    pub remaining: u64,
    /// When all of it is there again, in milliseconds from now; `None`: it allows nothing, ever.
    pub reset_ms: Option<i64>,
}

impl Window {
    /// The tighter of two rules for the same.
    pub fn tighter(one: Option<Window>, other: Window) -> Option<Window> {
        let room = |window: &Window| (window.remaining, -window.reset_ms.unwrap_or(i64::MAX));
        Some(one.filter(|one| room(one) <= room(&other)).unwrap_or(other))
    }
}

/// Fields of the kind that an upstream would write about its own limits.
pub fn is_one(name: &str) -> bool {
    header::starts_with(name, "x-ratelimit-") || header::starts_with(name, "anthropic-ratelimit-")
}

/// Writes the fields, as the family's vendor does. Gemini has none, so its callers get OpenAI's.
pub fn write(standing: &Standing, family: Family, now_ms: i64, out: &mut Vec<u8>) {
    for (what, window) in [("requests", standing.requests), ("tokens", standing.tokens)] {
        let Some(Window { limit, remaining, reset_ms }) = window else { continue };
        let mut field = |name: &str, value: String| header::field(name, value.as_bytes(), out);
        if family == Family::Anthropic {
            field(&format!("anthropic-ratelimit-{what}-limit"), limit.to_string());
            field(&format!("anthropic-ratelimit-{what}-remaining"), remaining.to_string());
            if let Some(reset_ms) = reset_ms {
                let at = now_ms.saturating_add(reset_ms);
                field(&format!("anthropic-ratelimit-{what}-reset"), instant(at));
            }
        } else {
            field(&format!("x-ratelimit-limit-{what}"), limit.to_string());
            field(&format!("x-ratelimit-remaining-{what}"), remaining.to_string());
            if let Some(reset_ms) = reset_ms {
                field(&format!("x-ratelimit-reset-{what}"), duration(reset_ms));
            }
        }
    }
}

/// A time as OpenAI writes it: `120ms`, `59s`, `6m0s`, `1h0m0s`.
fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    let seconds = ms.unsigned_abs().div_ceil(1_000);
    match seconds {
        _ if ms < 1_000 => format!("{ms}ms"),
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m{}s", seconds / 3_600, seconds / 60 % 60, seconds % 60),
    }
}

/// An instant by RFC 3339, rounded up to its second.
fn instant(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000) + i64::from(unix_ms.rem_euclid(1_000) > 0);
    let (day, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days and months as in the proleptic Gregorian calendar, years from March, in eras of 400.
    let shifted = day + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let date = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_vendors_write_them() {
        let rows = [
            (0, "0ms"),
            (120, "120ms"),
            (1_000, "1s"),
            (1_001, "2s"),
            (59_000, "59s"),
            (360_000, "6m0s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
        ];
        for (ms, expected) in rows {
            assert_eq!(duration(ms), expected, "{ms}");
        }
        let rows = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_700_000_000_001, "2023-11-14T22:13:21Z"),
            (1_772_323_199_000, "2026-02-28T23:59:59Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ];
        for (ms, expected) in rows {
            assert_eq!(instant(ms), expected, "{ms}");
        }
    }

    #[test]
    fn the_rule_with_the_least_left_counts() {
        let window = |remaining, reset_ms| Window { limit: 9, remaining, reset_ms: Some(reset_ms) };
        assert_eq!(Window::tighter(None, window(5, 1)), Some(window(5, 1)));
        assert_eq!(Window::tighter(Some(window(5, 1)), window(3, 1)), Some(window(3, 1)));
        assert_eq!(Window::tighter(Some(window(3, 1)), window(5, 1)), Some(window(3, 1)));
        assert_eq!(Window::tighter(Some(window(3, 1)), window(3, 9)), Some(window(3, 9)));
        let none = Window { limit: 0, remaining: 0, reset_ms: None };
        assert_eq!(Window::tighter(Some(window(0, 9)), none), Some(none));
        assert_eq!(Window::tighter(Some(none), window(0, 9)), Some(none));
    }

    #[test]
    fn each_family_is_told_in_its_own_fields() {
        let text_of = |window, family| {
            let standing = Standing { requests: Some(window), tokens: None };
            let mut out = Vec::new();
            write(&standing, family, 0, &mut out);
            String::from_utf8(out).expect("UTF-8")
        };
        let window = Window { limit: 60, remaining: 59, reset_ms: Some(61_000) };
        let text = |family| text_of(window, family);
        let openai = "x-ratelimit-limit-requests: 60\r\nx-ratelimit-remaining-requests: 59\r\n\
            x-ratelimit-reset-requests: 1m1s\r\n";
        assert_eq!(text(Family::Openai), openai);
        assert_eq!(text(Family::Gemini), openai);
        assert_eq!(
            text(Family::Anthropic),
            "anthropic-ratelimit-requests-limit: 60\r\n\
             anthropic-ratelimit-requests-remaining: 59\r\n\
             anthropic-ratelimit-requests-reset: 1970-01-01T00:01:01Z\r\n"
        );
        let none = Window { limit: 0, remaining: 0, reset_ms: None };
        for (family, name) in [(Family::Openai, "x-"), (Family::Anthropic, "anthropic-")] {
            let told = text_of(none, family);
            assert!(told.starts_with(name) && !told.contains("reset"), "{told}");
        }
        assert!(is_one("x-ratelimit-reset-tokens") && is_one("anthropic-ratelimit-tokens-limit"));
        assert!(!is_one("retry-after"));
    }
}
