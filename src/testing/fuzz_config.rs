//! Laws of the configuration and of patterns, over any bytes.

use crate::config;
use crate::route::glob::Glob;
use crate::route::plan;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A configuration is loaded or refused, never a panic; every error says where; what was loaded
/// resolves to its own providers only.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines = text.matches('\n').count() + 1;
    let secret = secret_beside(&text);
    let environment = |name: &str| (name == "SET").then(|| secret.clone());
    let loaded = match config::load(&text, "fuzz.toml", &environment) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.is_empty(), "a refusal has a reason");
            for error in errors {
                assert!((1..=lines).contains(&error.line), "{error}");
                assert!(!error.why.is_empty());
                assert!(!error.to_string().contains(&secret), "a secret leaked");
                assert!(!error.to_string().contains('\n'), "one line for each: {error}");
            }
            return;
        }
    };
    let snapshot = &loaded.snapshot;
    let mut names: Vec<String> = ["gpt", "a/b", "", "/"].into_iter().map(str::to_owned).collect();
    names.extend(snapshot.aliases().iter().map(|(name, _)| (*name).to_owned()));
    names.extend(snapshot.providers.iter().map(|provider| format!("{}/m", provider.name)));
    let scopes = (0..snapshot.providers.len()).map(Some).chain([None]);
    for scope in scopes {
        for name in &names {
            let Ok(target) = plan::resolve(snapshot, scope, name) else { continue };
            let provider = &snapshot.providers[target.provider];
            assert!(provider.enabled, "a disabled provider does not exist");
            assert!(scope.is_none_or(|scope| scope == target.provider), "a scope is kept");
            assert_eq!(&target.model_asked, name);
            assert!(target.renamed || target.model_served == target.model_asked);
            assert_eq!(snapshot.provider_named(&provider.name), Some(target.provider));
        }
    }
}

/// What a variable holds. It depends on the text, so that no text can spell its own and have it
/// quoted in an error.
fn secret_beside(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("secret-{:016x}", hasher.finish())
}

/// The matcher agrees with the obvious one. The first byte is the pattern's length.
pub fn glob(data: &[u8]) {
    const ALPHABET: [char; 6] = ['a', 'b', '*', '?', '/', 'é'];
    let Some((length, letters)) = data.split_first() else { return };
    let letters: Vec<char> =
        letters.iter().take(24).map(|byte| ALPHABET[usize::from(*byte) % 6]).collect();
    let (pattern, name) = letters.split_at(usize::from(*length).min(letters.len()));
    let Ok(glob) = Glob::parse(&pattern.iter().collect::<String>()) else {
        assert!(pattern.is_empty(), "every other pattern of this alphabet is valid");
        return;
    };
    let expected = naive_match(pattern, name);
    assert_eq!(glob.matches(&name.iter().collect::<String>()), expected, "{pattern:?} {name:?}");
}

/// The definition, as a table: cell (p, n) says whether the first p of the pattern match the first
/// n of the name.
fn naive_match(pattern: &[char], name: &[char]) -> bool {
    let mut row: Vec<bool> = (0..=name.len()).map(|read| read == 0).collect();
    for letter in pattern {
        let mut next = vec![false; name.len() + 1];
        for read in 0..=name.len() {
            next[read] = match letter {
                '*' => row[read] || (read > 0 && next[read - 1]),
                '?' => read > 0 && row[read - 1],
                _ => read > 0 && row[read - 1] && name[read - 1] == *letter,
            };
        }
        row = next;
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own generator, so that a failure can be repeated.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn patterns_agree_with_the_definition() {
        let mut state = 7;
        for _ in 0..50_000 {
            let length = next(&mut state) % 12;
            let mut data = vec![length as u8];
            let letters = next(&mut state) % 20;
            data.extend((0..letters).map(|_| (next(&mut state) % 6) as u8));
            glob(&data);
        }
    }

    /// Words of the format in random order: most are refused, for many reasons.
    #[test]
    fn any_mixture_of_words_is_loaded_or_refused() {
        const WORDS: &[&str] = &[
            "[global]",
            "[[providers]]",
            "[[models]]",
            "[[model_aliases]]",
            "[[users]]",
            "[[users.keys]]",
            "[[permissions]]",
            "[[quotas]]",
            "[[rate_limits]]",
            "[limits]",
            "[timeouts]",
            "[providers.settings]",
            "name = \"a\"",
            "channel = \"echo\"",
            "channel = \"custom\"",
            "base_url = \"http://h/v1\"",
            "provider_name = \"a\"",
            "model_id = \"m\"",
            "alias = \"x\"",
            "user_name = \"a\"",
            "model_pattern = \"*\"",
            "api_key = \"env:SET\"",
            "api_key = \"env:UNSET\"",
            "api_key = \"${X}\"",
            "enabled = false",
            "quota = \"1.0\"",
            "rpm = 5",
            "host = \"0.0.0.0\"",
            "port = 1e3",
            "total_ms = 0",
            "dialects = [\"gemini\"]",
            "# note",
            "\u{feff}",
            "= 5",
            "[",
            "credentials = [{ api_key = \"k\" }]",
            "price_each_call = 0.5",
            "settings = 5",
        ];
        let mut state = 11;
        let mut loaded = 0;
        for _ in 0..5_000 {
            let count = next(&mut state) % 12;
            let lines: Vec<&str> = (0..count)
                .map(|_| WORDS[(next(&mut state) % WORDS.len() as u64) as usize])
                .collect();
            let text = lines.join("\n");
            config(text.as_bytes());
            loaded += usize::from(config::load(&text, "f", &|_| None).is_ok());
        }
        assert!(loaded > 50, "the mixture reaches the second law: {loaded}");
    }

    /// The shipped file with one byte changed, cut or doubled.
    #[test]
    fn a_damaged_file_is_loaded_or_refused() {
        let shipped = include_bytes!("../../config.toml");
        let mut state = 13;
        for _ in 0..3_000 {
            let mut data = shipped.to_vec();
            let at = (next(&mut state) % data.len() as u64) as usize;
            match next(&mut state) % 3 {
                0 => data[at] = next(&mut state) as u8,
                1 => drop(data.remove(at)),
                _ => data.insert(at, data[at]),
            }
            config(&data);
        }
    }
}
