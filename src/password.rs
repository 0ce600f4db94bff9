//! Passwords: Argon2id, with the work that is asked of it bounded.
//!
//! Checking one takes tens of milliseconds and 19 MiB on purpose, so it is done on the office's
//! thread for passwords, one at a time, and takes as long when there is no such user.

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use ring::rand::{SecureRandom, SystemRandom};

use crate::secret::Secret;

/// Most memory in KiB and most passes that a hash may ask for.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;
/// What is checked where there is nothing to check.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$\
    0000000000000000000000000000000000000000000";

/// What opens a session.
#[derive(Clone)]
pub enum Password {
    /// As it stands in the file, in clear.
    Plain(Secret),
    /// An Argon2 hash as `$argon2id$...`.
    Hash(Box<str>),
}

/// Whether the text is a hash that [`is_right`] would check.
pub fn is_hash(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let Ok(params) = Params::try_from(&hash) else { return false };
    hash.hash.is_some()
        && Algorithm::try_from(hash.algorithm.as_str()).is_ok()
        && params.m_cost() <= MEMORY_KIB_MAX
        && params.t_cost() <= PASSES_MAX
        && params.p_cost() <= 4
}

/// The hash of a new password; `None`: the system has no randomness.
pub fn hash(password: &str) -> Option<String> {
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).ok()?;
    let params = Params::new(19_456, 2, 1, None).ok()?;
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash = argon.hash_password_with_salt(password.as_bytes(), &salt).ok()?;
    Some(hash.to_string())
}

/// Whether `given` is the password. Without one the answer is no, after the same work.
pub fn is_right(password: Option<&Password>, given: &str) -> bool {
    let hash = match password {
        Some(Password::Hash(hash)) if is_hash(hash) => hash,
        _ => NOBODY,
    };
    let by_hash = PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(given.as_bytes(), &hash).is_ok());
    match password {
        Some(Password::Plain(secret)) => {
            let digests = [secret.expose(), given]
                .map(|text| ring::digest::digest(&ring::digest::SHA256, text.as_bytes()));
            // Digests of what the caller cannot choose: where they differ tells nothing.
            digests[0].as_ref() == digests[1].as_ref()
        }
        Some(Password::Hash(_)) => by_hash && hash != NOBODY,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_opens_in_clear_and_as_a_hash_and_nothing_else_does() {
        let made = hash("open sesame").expect("there is randomness");
        assert!(made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$") && is_hash(&made));
        let hashed = Password::Hash(made.into());
        let plain = Password::Plain(Secret::new("open sesame"));
        for password in [&hashed, &plain] {
            assert!(is_right(Some(password), "open sesame"));
            assert!(!is_right(Some(password), "open sesam"));
            assert!(!is_right(Some(password), ""));
        }
        assert!(!is_right(None, "open sesame"));
    }

    #[test]
    fn forbids_hashes_that_are_none_or_ask_for_too_much() {
        let tail = "$c2FsdHNhbHRzYWx0$MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI";
        assert!(is_hash(NOBODY));
        assert!(is_hash(&format!("$argon2id$v=19$m=19456,t=2,p=1{tail}")));
        let rows = ["", "$argon2id", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0"];
        assert!(rows.into_iter().all(|text| !is_hash(text)));
        for params in ["m=19456000,t=2,p=1", "m=19456,t=2000,p=1", "m=19456,t=2,p=64"] {
            let text = format!("$argon2id$v=19${params}{tail}");
            assert!(!is_hash(&text), "{text}");
            assert!(!is_right(Some(&Password::Hash(text.into())), "any"));
        }
    }
}
