//! What an upstream says when it refuses a credential: for how long, and how much of it.
//!
//! Vendors spell both differently; everything that is not understood is left out, never guessed
//! long. Times are milliseconds from now.

use crate::wire::json::{self, Event, Kind, Scanner, Step, Watch};
use crate::wire::sse;

/// What is longer is no sentence.
const SAID_BYTES_MAX: usize = 1_000;

const ERROR: Step = Step::Key("error");
const DETAILS: Step = Step::Key("details");
/// Where vendors say why they refuse. What stands elsewhere may be the caller's own words.
const PLACES: [&[Step]; 13] = [
    // A text at Ollama and xAI, elsewhere an object.
    &[ERROR],
    &[ERROR, Step::Key("message")],
    &[ERROR, Step::Key("code")],
    &[ERROR, Step::Key("type")],
    &[ERROR, Step::Key("status")],
    &[ERROR, DETAILS, Step::Each, Step::Key("reason")],
    &[ERROR, DETAILS, Step::Each, Step::Key("violations"), Step::Each, Step::Key("quotaId")],
    &[ERROR, DETAILS, Step::Each, Step::Key("retryDelay")],
    &[Step::Key("message")],
    &[Step::Key("code")],
    &[Step::Key("type")],
    &[Step::Key("detail")],
    // OpenRouter's, with what was found fault with.
    &[ERROR, Step::Key("metadata"), Step::Key("flagged_input")],
];
/// Which of them says when to come again.
const RETRY_DELAY: usize = 7;
/// Which of them says by being there that the prompt is at fault.
const FLAGGED_INPUT: usize = 12;

/// How much of a credential a refusal covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing but the request: what it says, or what it names, such as a file of another key.
    Request,
    /// The model that was asked for.
    Model,
    /// Everything.
    Account,
}

/// What a refusal says beside its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// How much it covers.
    pub scope: Scope,
    /// For how long the upstream asks to be left alone.
    pub asked_ms: Option<i64>,
    /// When a window of its limits begins anew. What is no limit has nothing to do with it.
    pub window_ms: Option<i64>,
}

impl Trouble {
    /// Nothing was said.
    pub const UNSAID: Trouble = Trouble { scope: Scope::Model, asked_ms: None, window_ms: None };

    /// When to come again.
    pub fn wait_ms(&self) -> Option<i64> {
        self.asked_ms.or(self.window_ms)
    }
}

/// Words of an account that is out of money; no wait for one model helps. That a sentence speaks of
/// billing is not enough: Google's and OpenAI's about the limits of one model do too.
const MONEY: [&str; 12] = [
    // OpenAI, and Moonshot.
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "exceeded_current_quota_error",
    // Anthropic.
    "credit balance",
    "billing_error",
    // DeepSeek and OpenRouter.
    "insufficient balance",
    "insufficient credits",
    // Google.
    "billing_disabled",
    "credits are depleted",
    // xAI.
    "all available credits",
    "have any credits",
];
/// Words of a prompt that the vendor does not want to serve, and of Google about a file, a cache or
/// an object that this key may not use.
const REQUEST: [&str; 10] = [
    "flagged",
    "moderation",
    "content policy",
    "content_policy",
    "content filter",
    "content_filter",
    "usage guidelines",
    "permission to access the file",
    "cachedcontent not found",
    "google cloud storage object",
];
/// Words of a limit of one model, whatever else is spoken of: OpenAI names the model's family, and
/// Azure's limits are a deployment's.
const MODEL: [&str; 4] =
    ["model", "rate limit reached for", "request too large for", "pricing tier"];
/// Words of something larger than a model, where no model is spoken of.
const ACCOUNT: [&str; 6] =
    ["account", "organization", "perproject", "workspace", "api key", "api_key"];

/// Reads an error reply. `model` is the name that the upstream was asked for.
pub fn read<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    body: &[u8],
    model: &str,
    now_ms: i64,
) -> Trouble {
    let mut waits = Waits::default();
    let mut is_unified = false;
    for (name, value) in headers {
        let Ok(value) = std::str::from_utf8(value) else { continue };
        is_unified |= name == "anthropic-ratelimit-unified-status" && value.trim() == "rejected";
        waits.header(name, value.trim(), now_ms);
    }
    let words = Words::of(body);
    let (text, is_named) = without(&words.text, &model.to_ascii_lowercase());
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_of_model = is_named || says(&MODEL);
    let scope = match () {
        () if is_unified => Scope::Account,
        // First of the words: such a sentence may quote the prompt, and xAI's names the key.
        () if words.is_flagged || says(&REQUEST) => Scope::Request,
        () if says(&MONEY) => Scope::Account,
        () if !is_of_model && says(&ACCOUNT) => Scope::Account,
        () => Scope::Model,
    };
    Trouble { scope, asked_ms: waits.said.or(words.retry_ms), window_ms: waits.of_windows() }
}

/// The sentence in an error reply, in whichever shape of the vendors it is.
pub fn said(body: &[u8]) -> Option<String> {
    const PATHS: [&[Step]; 2] =
        [&[Step::Key("error"), Step::Key("message")], &[Step::Key("message")]];
    let found = json::values(&PATHS, body).ok()?;
    let literal = found.into_iter().flatten().next()?;
    let mut said = json::unescape(&body[literal])?;
    said.truncate(said.floor_char_boundary(SAID_BYTES_MAX));
    Some(said).filter(|said| !said.is_empty())
}

/// What an error reply says in the places where vendors do.
#[derive(Default)]
struct Words {
    /// In lower case, a line for each place.
    text: String,
    /// Google's `RetryInfo`.
    retry_ms: Option<i64>,
    /// The prompt is said to be at fault.
    is_flagged: bool,
}

impl Words {
    /// What stands in front of a break in the body counts too.
    fn of(body: &[u8]) -> Words {
        let mut words = Words::default();
        // Gemini's other form of a stream is an array, of one error.
        let body = body.strip_prefix(sse::BOM).unwrap_or(body).trim_ascii_start();
        let body = body.strip_prefix(b"[").unwrap_or(body);
        let mut begun = [None; PLACES.len()];
        let mut on = |event| match event {
            Event::Begins { path: FLAGGED_INPUT, kind, .. } => {
                words.is_flagged |= kind != Kind::Null;
            }
            Event::Begins { path, kind, at, .. } => {
                begun[path] = (kind == Kind::String).then_some(at as usize);
            }
            Event::Ends { path, end } => {
                if let Some(at) = begun[path].take() {
                    words.add(path, &body[at..end as usize]);
                }
            }
            Event::Repeats { .. } | Event::Misspelt { .. } => {}
        };
        let _ = Scanner::new(Watch::of(&PLACES)).feed(body, &mut on);
        words
    }

    fn add(&mut self, place: usize, literal: &[u8]) {
        let Some(mut said) = json::unescape(literal) else { return };
        said.truncate(said.floor_char_boundary(SAID_BYTES_MAX));
        said.make_ascii_lowercase();
        if place == RETRY_DELAY {
            self.retry_ms = self.retry_ms.or_else(|| duration(&said));
        } else {
            // An address, of a page or of somebody, says nothing: `NAME@gserviceaccount.com`.
            let is_said = |word: &&str| !word.contains("://") && !word.contains('@');
            for word in said.split_whitespace().filter(is_said) {
                self.text.push_str(word);
                self.text.push(' ');
            }
            self.text.push('\n');
        }
    }
}

/// The text without a name that the caller chose, and whether that stood in it as a word.
fn without(text: &str, name: &str) -> (String, bool) {
    let mut rest = String::with_capacity(text.len());
    let mut done = 0;
    for (at, _) in text.match_indices(name).filter(|_| !name.is_empty()) {
        let end = at + name.len();
        let before = text[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let behind = text[end..].chars().next().is_some_and(char::is_alphanumeric);
        if !before && !behind {
            rest.push_str(&text[done..at]);
            done = end;
        }
    }
    rest.push_str(&text[done..]);
    (rest, done > 0)
}

/// Waits, as the headers name them.
#[derive(Default)]
struct Waits {
    said: Option<i64>,
    /// Names of windows, whether nothing is left in them, and when they begin anew.
    windows: Vec<(String, bool, Option<i64>)>,
}

/// More windows than any vendor has are not looked at.
const WINDOWS_MAX: usize = 16;

impl Waits {
    fn header(&mut self, name: &str, value: &str, now_ms: i64) {
        match name {
            // The finer one counts.
            "retry-after-ms" => self.said = number(value).or(self.said),
            "retry-after" if self.said.is_none() => self.said = retry_after(value, now_ms),
            _ => {}
        }
        let family = ["x-ratelimit-", "anthropic-ratelimit-"];
        let Some(rest) = family.iter().find_map(|prefix| name.strip_prefix(prefix)) else { return };
        // OpenAI: `reset-tokens`; Anthropic: `tokens-reset`.
        let part = |word: &str| {
            let behind = rest.strip_prefix(word).map(|rest| rest.trim_start_matches('-'));
            behind.or_else(|| rest.strip_suffix(word).map(|rest| rest.trim_end_matches('-')))
        };
        if let Some(window) = part("remaining") {
            let is_spent = value.parse::<f64>().is_ok_and(|left| left <= 0.0);
            if let Some(row) = self.row(window) {
                row.1 = is_spent;
            }
        } else if let Some(window) = part("reset") {
            let wait = reset(value, now_ms);
            if let Some(row) = self.row(window) {
                row.2 = wait;
            }
        }
    }

    fn row(&mut self, window: &str) -> Option<&mut (String, bool, Option<i64>)> {
        let at = self.windows.iter().position(|(name, ..)| name == window);
        if at.is_none() && self.windows.len() < WINDOWS_MAX {
            self.windows.push((window.to_owned(), false, None));
        }
        let last = self.windows.len().checked_sub(1)?;
        self.windows.get_mut(at.unwrap_or(last)).filter(|(name, ..)| name == window)
    }

    /// The longest of what is spent, else the shortest of all.
    fn of_windows(&self) -> Option<i64> {
        let spent = self.windows.iter().filter(|(_, is_spent, _)| *is_spent);
        let all = self.windows.iter().filter_map(|(.., wait)| *wait);
        spent.filter_map(|(.., wait)| *wait).max().or_else(|| all.min())
    }
}

/// Seconds, or a date.
fn retry_after(value: &str, now_ms: i64) -> Option<i64> {
    seconds(value).or_else(|| Some((http_date(value)? - now_ms).max(0)))
}

/// A length of time such as `6m0s` or `20ms`, a moment, seconds, or a moment in Unix time.
fn reset(value: &str, now_ms: i64) -> Option<i64> {
    if let Some(wait) = seconds(value) {
        // A number as large as that is a moment, in seconds or milliseconds.
        return Some(match wait {
            0..1_000_000_000_000 => wait,
            1_000_000_000_000..1_000_000_000_000_000 => (wait - now_ms).max(0),
            _ => (wait / 1_000 - now_ms).max(0),
        });
    }
    duration(value).or_else(|| Some((timestamp(value)? - now_ms).max(0)))
}

/// Seconds, whole or with a fraction, in milliseconds.
fn seconds(value: &str) -> Option<i64> {
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'.';
    let seconds: f64 = value.parse().ok().filter(|_| value.bytes().all(plain))?;
    Some((seconds * 1_000.0).ceil().min(9e15) as i64)
}

fn number(value: &str) -> Option<i64> {
    value.parse::<f64>().ok().filter(|number| *number >= 0.0).map(|number| number.min(9e15) as i64)
}

/// `1h2m3.5s`, `20ms`, `34s`.
fn duration(value: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !(letter.is_ascii_digit() || letter == '.'))?;
        let count: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units =
            [("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1_000.0), ("d", 86_400_000.0)];
        let (behind, ms) =
            units.iter().find_map(|(unit, ms)| Some((rest.strip_prefix(unit)?, *ms)))?;
        total += count * ms;
        rest = behind;
    }
    (!value.is_empty()).then(|| f64::min(total.ceil(), 9e15) as i64)
}

/// `Wed, 21 Oct 2015 07:28:00 GMT`, in milliseconds since 1970.
fn http_date(value: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = value.split_once(", ")?.1.split(' ');
    let mut word = || words.next();
    let (day, month, year, time, zone) = (word()?, word()?, word()?, word()?, word()?);
    let month = MONTHS.find(month).filter(|at| month.len() == 3 && at % 3 == 0)? / 3 + 1;
    (zone == "GMT").then_some(())?;
    moment(year.parse().ok()?, month as i64, day.parse().ok()?, time)
}

/// `2026-11-25T09:00:00Z`, in milliseconds since 1970.
pub fn timestamp(value: &str) -> Option<i64> {
    let (date, time) = value.split_once('T')?;
    let mut parts = date.splitn(3, '-').map(|part| part.parse().ok());
    let mut part = || parts.next().flatten();
    let (year, month, day) = (part()?, part()?, part()?);
    let (time, zone) = time.split_at(time.find(['Z', '+', '-']).unwrap_or(time.len()));
    let time = time.split_once('.').map_or(time, |(whole, _)| whole);
    Some(moment(year, month, day, time)? - east_ms(zone)?)
}

/// By how much clocks of a zone such as `Z` or `+02:00` are ahead.
fn east_ms(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z") {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let number = |text: &str, end| text.parse::<u8>().ok().filter(|number| *number < end);
    let minutes = i64::from(number(hours, 24)?) * 60 + i64::from(number(minutes, 60)?);
    Some(if zone.starts_with('-') { -minutes } else { minutes } * 60_000)
}

fn moment(year: i64, month: i64, day: i64, time: &str) -> Option<i64> {
    let mut parts = time.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let mut part = || parts.next().flatten();
    let (hour, minute, second) = (part()?, part()?, part()?);
    let fits = (1970..10_000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    fits.then_some(())?;
    // Years from March, so that the leap day is a year's last.
    let years = if month > 2 { year } else { year - 1 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * years + years / 4 - years / 100 + years / 400 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_445_412_480_000 - 90_000;

    type Fields<'f> = &'f [(&'f str, &'f str)];

    #[track_caller]
    fn check(headers: Fields<'_>, body: &str, expected: (Scope, Option<i64>)) {
        let headers = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        let trouble = read(headers, body.as_bytes(), "gpt-x", NOW);
        assert_eq!((trouble.scope, trouble.wait_ms()), expected, "{body}");
    }

    #[test]
    fn every_spelling_of_a_wait_is_read() {
        let rows: [(Fields<'_>, Option<i64>); 20] = [
            (&[("retry-after", "7")], Some(7_000)),
            (&[("retry-after", "0.5")], Some(500)),
            (&[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")], Some(90_000)),
            (&[("retry-after", "Wed, 21 Oct 2014 07:28:00 GMT")], Some(0)),
            (&[("retry-after", "7"), ("retry-after-ms", "6500")], Some(6_500)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-3")], None),
            (&[("x-ratelimit-reset-requests", "6m0s")], Some(360_000)),
            (&[("x-ratelimit-reset-tokens", "20ms")], Some(20)),
            (
                &[
                    ("x-ratelimit-remaining-requests", "9"),
                    ("x-ratelimit-reset-requests", "1s"),
                    ("x-ratelimit-remaining-tokens", "0"),
                    ("x-ratelimit-reset-tokens", "1m2.5s"),
                ],
                Some(62_500),
            ),
            (
                &[
                    ("anthropic-ratelimit-requests-remaining", "0"),
                    ("anthropic-ratelimit-requests-reset", "2015-10-21T07:28:01Z"),
                    ("anthropic-ratelimit-tokens-reset", "2015-10-21T09:28:00Z"),
                ],
                Some(91_000),
            ),
            (&[("x-ratelimit-reset", "1445412481")], Some(91_000)),
            (&[("x-ratelimit-reset", "1445412481000")], Some(91_000)),
            (&[("x-ratelimit-reset-tokens", "1y")], None),
            (&[("x-ratelimit-reset-tokens", "2015-13-01T00:00:00Z")], None),
            (&[("x-ratelimit-reset-tokens", "2015-10-21T09:28:01.5+02:00")], Some(91_000)),
            (&[("x-ratelimit-reset-tokens", "2015-10-21T04:58:01-02:30")], Some(91_000)),
            (&[("x-ratelimit-reset-tokens", "2015-10-21T07:28:01+99:00")], None),
            (&[("x-ratelimit-reset-tokens", "9223372036854775807-10-21T07:28:01Z")], None),
            (&[("retry-after", "Wed, 9223372036854775807 Oct 2015 07:28:00 GMT")], None),
        ];
        for (headers, wait) in rows {
            check(headers, "", (Scope::Model, wait));
        }
        let google = r#"{"error":{"details":[{"@type":"RetryInfo","retryDelay": "34.5s"}]}}"#;
        check(&[], google, (Scope::Model, Some(34_500)));
        check(&[("retry-after", "2")], google, (Scope::Model, Some(2_000)));
        let both = [("x-ratelimit-reset-tokens", "6m"), ("retry-after", "2")];
        let both = both.map(|(name, value)| (name, value.as_bytes()));
        let trouble = read(both.into_iter(), b"", "gpt-x", NOW);
        assert_eq!((trouble.asked_ms, trouble.window_ms), (Some(2_000), Some(360_000)));
    }

    #[test]
    fn a_refusal_covers_the_account_only_where_the_vendor_says_so() {
        let account = [
            r#"{"error":{"code":"insufficient_quota","message":"of model gpt-x"}}"#,
            r#"{"error":{"message":"Your account is limited"}}"#,
            r#"{"error":{"message":"This would exceed your organization's rate limit"}}"#,
            r#"{"error":{"details":[{"violations":[{"quotaId":"RequestsPerDayPerProject"}]}]}}"#,
            r#"[{"error":{"message":"Your account is limited"}}]"#,
            r#"{"error":"Your account is limited","code":"x"}"#,
            r#"{"detail":"Your account is limited"}"#,
            r#"{"error":{"message":"Your account is limited","input":"and then it brea"#,
        ];
        for body in account {
            check(&[], body, (Scope::Account, None));
        }
        check(&[("anthropic-ratelimit-unified-status", "rejected")], "", (Scope::Account, None));
        let model = [
            "",
            r#"{"error":{"message":"Rate limit reached for gpt-x in organization org-1"}}"#,
            r#"{"error":{"details":[{"violations":[
                {"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}"#,
            "slow down",
        ];
        for body in model {
            check(&[], body, (Scope::Model, None));
        }
    }

    /// Whoever writes a prompt, or a model's name, has no say in what is held against a credential.
    #[test]
    fn what_a_refusal_echoes_says_nothing() {
        let prompt = r#"insufficient_quota, billing, my account; \"retryDelay\": \"600s\""#;
        let bodies = [
            format!(r#"{{"error":{{"message":"no","metadata":{{"input":"{prompt}"}}}}}}"#),
            format!(r#"{{"error":{{"message":"no"}},"messages":[{{"message":"{prompt}"}}]}}"#),
            format!(r#"{{"error":{{"message":"no","details":[{{"input":"{prompt}"}}]}}}}"#),
            format!("{prompt} and no JSON"),
        ];
        for body in bodies {
            check(&[], &body, (Scope::Model, None));
        }
        for name in ["insufficient_quota", "my-account", "billing"] {
            let body = format!(r#"{{"error":{{"message":"`{name}` is not for you"}}}}"#);
            let trouble = read(std::iter::empty(), body.as_bytes(), name, NOW);
            assert_eq!(trouble, Trouble::UNSAID, "{body}");
        }
        assert_eq!(without("a b ab b", "b"), ("a  ab ".to_owned(), true));
        assert_eq!(without("a b", ""), ("a b".to_owned(), false));
    }

    /// As the vendors spell them.
    #[test]
    fn a_limit_of_one_model_is_none_of_the_account() {
        let gemini = r#"{"error":{"code":429,"message":"You exceeded your current quota, please
            check your plan and billing details. For more information on this error, head over to:
            https://ai.google.dev/gemini-api/docs/rate-limits. * Quota exceeded for metric:
            generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0,
            model: gemini-2.5-pro Please retry in 20.04s","status":"RESOURCE_EXHAUSTED"}}"#;
        let azure = r#"{"error":{"code":"429","message":"Requests to the ChatCompletions_Create
            Operation under Azure OpenAI API version 2024-02-01 have exceeded token rate limit of
            your current OpenAI S0 pricing tier. Please retry after 60 seconds. Please go here:
            https://aka.ms/oai/quotaincrease if you would like to further increase the default
            rate limit. For Free Account customers, upgrade to Pay as you Go here:
            https://aka.ms/429TrialUpgrade."}}"#;
        let openai = r#"{"error":{"message":"Rate limit reached for gpt-4o in organization org-x
            on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 20s.
            Visit https://platform.openai.com/account/rate-limits to learn more. You can increase
            your rate limit by adding a payment method to your account at
            https://platform.openai.com/account/billing.","type":"requests","param":null,
            "code":"rate_limit_exceeded"}}"#;
        for body in [gemini, azure, openai] {
            check(&[], body, (Scope::Model, None));
        }
        let openai = r#"{"error":{"message":"You exceeded your current quota, please check your
            plan and billing details. For more information on this error, read the docs:
            https://platform.openai.com/docs/guides/error-codes/api-errors.",
            "type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#;
        let anthropic = r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your
            credit balance is too low to access the Anthropic API. Please go to Plans & Billing to
            upgrade or purchase credits."}}"#;
        let xai = r#"{"code":"The caller does not have permission to execute the specified
            operation","error":"Your newly created team doesn't have any credits yet."}"#;
        for body in [openai, anthropic, xai] {
            check(&[], body, (Scope::Account, None));
        }
        let page = r#"{"error":{"message":"Slow down, see https://a.example/account/limits"}}"#;
        check(&[], page, (Scope::Model, None));
    }

    #[test]
    fn a_refusal_may_cover_no_more_than_the_request() {
        let requests = [
            r#"{"error":{"code":403,"message":"You do not have permission to access the File f-1
                or it may not exist.","status":"PERMISSION_DENIED"}}"#,
            r#"{"error":{"message":"CachedContent not found (or permission denied)"}}"#,
            r#"{"error":{"message":"robot@p.iam.gserviceaccount.com does not have
                storage.objects.get access to the Google Cloud Storage object."}}"#,
            r#"{"error":{"code":403,"message":"Your chosen model requires moderation and your
                input was flagged","metadata":{"reasons":["x"],"flagged_input":"my account",
                "model_slug":"a/b"}}}"#,
            r#"{"error":{"code":403,"message":"no","metadata":{"flagged_input":"insufficient_q"#,
            r#"{"code":"The caller does not have permission to execute the specified operation",
                "error":"Content violates usage guidelines. Team: t, API key ID: k, Model: grok-4,
                Failed check: SAFETY_CHECK_TYPE_BIO"}"#,
            r#"{"error":{"code":"content_policy_violation","message":"insufficient_quota"}}"#,
        ];
        for body in requests {
            check(&[], body, (Scope::Request, None));
        }
        let denied = r#"{"error":{"message":"The caller does not have permission"}}"#;
        check(&[], denied, (Scope::Model, None));
        let unflagged = r#"{"error":{"message":"no","metadata":{"flagged_input":null}}}"#;
        check(&[], unflagged, (Scope::Model, None));
        let model = r#"{"error":{"message":"Your API key may not use this model"}}"#;
        check(&[], model, (Scope::Model, None));
        let key = r#"{"error":{"message":"Your API key was reported as leaked."}}"#;
        check(&[], key, (Scope::Account, None));
    }

    #[test]
    fn hostile_headers_are_no_panic_and_no_memory() {
        let digits = "9".repeat(400);
        check(&[("retry-after", &digits)], "", (Scope::Model, Some(9_000_000_000_000_000)));
        let names: Vec<String> = (0..99).map(|at| format!("x-ratelimit-reset-{at}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1s")).collect();
        check(&many, "", (Scope::Model, Some(1_000)));
        check(
            &[("x-ratelimit-reset", "99999999999999999999h")],
            "",
            (Scope::Model, Some(9_000_000_000_000_000)),
        );
    }
}
