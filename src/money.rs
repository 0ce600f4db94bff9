//! Amounts of money: picodollars (10^-12 USD) in an `i64`, to and from decimal text, exactly.
//!
//! No floating point is involved: `0.1` is one tenth.

use std::fmt::Display;

/// Picodollars in a dollar.
pub const DOLLAR: i64 = 1_000_000_000_000;
/// The largest amount that an `i64` of picodollars is trusted with.
pub const DOLLARS_MAX: i64 = 9_000_000;
const DECIMALS: i32 = 12;

/// An amount as decimal text: no exponent, no zeros at the end.
pub fn text(amount: i64) -> String {
    let dollar = DOLLAR.unsigned_abs();
    let (is_negative, amount) = (amount < 0, amount.unsigned_abs());
    spell(is_negative, amount / dollar, amount % dollar)
}

/// The same of a sum of many.
pub fn grand_text(amount: i128) -> String {
    let dollar = u128::from(DOLLAR.unsigned_abs());
    let (is_negative, amount) = (amount < 0, amount.unsigned_abs());
    spell(is_negative, amount / dollar, (amount % dollar) as u64)
}

fn spell(is_negative: bool, dollars: impl Display, rest: u64) -> String {
    let sign = if is_negative { "-" } else { "" };
    let mut text = format!("{sign}{dollars}.{rest:012}");
    let zeros = text.bytes().rev().take_while(|digit| *digit == b'0').count();
    text.truncate(text.len() - zeros);
    if text.ends_with('.') {
        text.pop();
    }
    text
}

/// Reads `12`, `0.40` or `1.5e-7`.
pub fn parse(text: &str, dollars_max: i64) -> Result<i64, String> {
    let Some((digits, exponent)) = split(text) else {
        return Err("must be an amount in USD such as \"0.40\", not negative".to_owned());
    };
    let (digits, exponent) = (digits.trim_start_matches('0'), exponent + DECIMALS);
    let kept = digits.trim_end_matches('0');
    let zeros = exponent + (digits.len() - kept.len()) as i32;
    let too_large = || format!("must be at most {dollars_max} USD");
    if kept.is_empty() {
        return Ok(0);
    }
    if zeros < 0 {
        return Err(format!("must have at most {DECIMALS} decimals"));
    }
    let zeros = zeros as u32;
    let amount = kept
        .parse::<i64>()
        .ok()
        .and_then(|value| value.checked_mul(10_i64.checked_pow(zeros)?))
        .filter(|amount| *amount / DOLLAR < dollars_max || *amount == dollars_max * DOLLAR);
    amount.ok_or_else(too_large)
}

/// The digits without their point, and the power of ten that they are multiplied with.
fn split(text: &str) -> Option<(String, i32)> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || mantissa.len() > 64 || exponent.abs() > 64 {
        return None;
    }
    Some((format!("{whole}{fraction}"), exponent - fraction.len() as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_text_is_read_exactly() {
        let rows = [
            ("0", 0),
            ("0.0", 0),
            ("0e9", 0),
            ("1", DOLLAR),
            ("+1", DOLLAR),
            ("0.40", 400_000_000_000),
            ("0.1", 100_000_000_000),
            ("0.000000000001", 1),
            ("1.5e-7", 150_000),
            ("1e-12", 1),
            ("2.5E1", 25 * DOLLAR),
            ("0.0000000000010", 1),
            ("9000000", 9_000_000 * DOLLAR),
            ("9000000.000", 9_000_000 * DOLLAR),
            ("8999999.999999999999", 9_000_000 * DOLLAR - 1),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text, DOLLARS_MAX), Ok(expected), "{text}");
            let written = super::text(expected);
            assert_eq!(parse(&written, DOLLARS_MAX), Ok(expected), "{written}");
        }
    }

    #[test]
    fn amounts_are_written_without_an_exponent() {
        let rows = [(0, "0"), (1, "0.000000000001"), (DOLLAR, "1"), (-DOLLAR / 2, "-0.5")];
        assert!(rows.into_iter().all(|(amount, written)| text(amount) == written));
        assert_eq!(text(i64::MIN), "-9223372.036854775808");
    }

    #[test]
    fn forbids_what_is_no_amount() {
        let rows = [
            "",
            "-1",
            "-0.5",
            ".",
            ".5",
            "1.",
            "a",
            "1,5",
            "1e",
            "1e99",
            "nan",
            "inf",
            "0x10",
            "1 ",
            "1_0",
            "--1",
            "0.0000000000001",
            "1e-13",
            "9000000.000000000001",
            "9000001",
            "99999999999999999999999999",
            "1e13",
        ];
        for text in rows {
            assert!(parse(text, DOLLARS_MAX).is_err(), "{text}");
        }
        assert!(parse(&"9".repeat(100), DOLLARS_MAX).is_err());
    }
}
