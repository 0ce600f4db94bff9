//! A Google service account: what its file says, the signed claim that a token endpoint takes, and
//! that endpoint's answer.
//!
//! The private key is read once and never leaves the key pair; nothing here prints anything.
//! <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>

use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use zeroize::Zeroizing;

use crate::limits;
use crate::secret::{Digest, Secret};
use crate::wire::json::{Step, escape, unescape, values};

/// Where Google gives tokens when the file does not say.
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Clocks differ: a claim from the future is refused.
const SKEW_S: i64 = 30;
/// A claim lives for an hour at most.
const CLAIM_S: i64 = 3_600;

/// A service account that can sign.
pub struct Account {
    /// The same for two accounts that get the same tokens.
    pub id: Digest,
    /// Its name, for people.
    pub client_email: String,
    /// Its own project.
    pub project_id: Option<String>,
    /// Where tokens are asked for.
    pub token_uri: String,
    audience: String,
    key_id: String,
    key: RsaKeyPair,
}

/// Why a text is no service account's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountError {
    /// It is not of the type `service_account`.
    Type,
    /// It lacks this member.
    Missing(&'static str),
    /// The private key is no RSA key in PKCS#8.
    Key,
}

impl Account {
    /// Reads the members of an account's file. `token_uri`: where to ask in place of what it says.
    pub fn read(
        member: &dyn Fn(&str) -> Option<String>,
        token_uri: Option<&str>,
    ) -> Result<Account, AccountError> {
        let needed = |name: &'static str| {
            member(name).filter(|text| !text.is_empty()).ok_or(AccountError::Missing(name))
        };
        if member("type").is_some_and(|kind| kind != "service_account") {
            return Err(AccountError::Type);
        }
        let client_email = needed("client_email")?;
        let is_name =
            |email: &str| email.len() <= 256 && email.bytes().all(|b| b.is_ascii_graphic());
        if !is_name(&client_email) {
            return Err(AccountError::Missing("client_email"));
        }
        let text = Zeroizing::new(needed("private_key")?);
        let der = pem(&text).ok_or(AccountError::Key)?;
        let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| AccountError::Key)?;
        let key_id = member("private_key_id").unwrap_or_default();
        let audience = member("token_uri").unwrap_or_else(|| TOKEN_URI.to_owned());
        let token_uri = token_uri.unwrap_or(&audience).to_owned();
        let id = Digest::of(format!("{client_email}\n{key_id}\n{token_uri}").as_bytes());
        let project_id = member("project_id");
        Ok(Account { id, client_email, project_id, token_uri, audience, key_id, key })
    }

    /// The body of a request for a token. `None`: the system has no randomness, or the
    /// key's parts do not fit together.
    pub fn claim(&self, unix_s: i64) -> Option<Secret> {
        let issued = unix_s - SKEW_S;
        let mut text = Vec::with_capacity(1_024);
        let mut header = b"{\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":".to_vec();
        escape(&self.key_id, &mut header);
        header.push(b'}');
        base64url(&header, &mut text);
        text.push(b'.');
        let mut claims = b"{\"iss\":".to_vec();
        escape(&self.client_email, &mut claims);
        claims.extend_from_slice(format!(",\"scope\":\"{SCOPE}\",\"aud\":").as_bytes());
        escape(&self.audience, &mut claims);
        let expires = issued + CLAIM_S;
        claims.extend_from_slice(format!(",\"iat\":{issued},\"exp\":{expires}}}").as_bytes());
        base64url(&claims, &mut text);
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &text, &mut signature).ok()?;
        text.push(b'.');
        base64url(&signature, &mut text);
        let claim = String::from_utf8(text).ok()?;
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        Some(Secret::new(format!("{grant}&assertion={claim}")))
    }
}

/// The answer of a token endpoint: the token, and for how many seconds it counts.
pub fn token(body: &[u8]) -> Option<(Secret, u64)> {
    const PATHS: [&[Step]; 2] = [&[Step::Key("access_token")], &[Step::Key("expires_in")]];
    let [token, life] = values(&PATHS, body).ok()?;
    let token = unescape(&body[token?])?;
    let is_sendable = (1..=limits::TOKEN_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    // Some endpoints write the number as text.
    let life = std::str::from_utf8(&body[life?]).ok()?.trim_matches('"');
    let life = life.parse::<f64>().ok().filter(|life| *life >= 1.0)?;
    is_sendable.then(|| (Secret::new(token), life.min(limits::TOKEN_LIFE_S_MAX as f64) as u64))
}

/// The word for what is wrong in a token endpoint's refusal, if it is a plain one.
pub fn refusal_word(body: &[u8]) -> String {
    let word = values(&[&[Step::Key("error")]], body).ok().and_then(|[word]| {
        let word = unescape(&body[word?])?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        (word.len() <= 64 && word.bytes().all(is_plain)).then_some(word)
    });
    word.unwrap_or_else(|| "without a word".to_owned())
}

/// The bytes between `BEGIN PRIVATE KEY` and `END PRIVATE KEY`.
fn pem(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, after) = text.split_once("-----BEGIN PRIVATE KEY-----")?;
    let (inside, _) = after.split_once("-----END PRIVATE KEY-----")?;
    // It never grows, which would leave a part of it behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(inside.len()));
    let (mut held, mut bits) = (0_u32, 0);
    for letter in inside.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    Some(bytes)
}

/// Base64 for URLs, without padding.
fn base64url(bytes: &[u8], out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for three in bytes.chunks(3) {
        let held = three.iter().fold(0_u32, |held, byte| held << 8 | u32::from(*byte));
        let held = held << (8 * (3 - three.len()));
        for at in 0..=three.len() {
            out.push(LETTERS[(held >> (18 - 6 * at)) as usize & 63]);
        }
    }
}

#[cfg(test)]
mod tests;
