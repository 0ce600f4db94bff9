//! Secrets at rest, and new ones.
//!
//! A credential of a provider has to be sent again, so it is kept; with a master key it is sealed
//! with AES-256-GCM, bound to the row that it stands in.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// What a sealed secret begins with.
const SEALED: &str = "sealed:1:";
/// Shorter master keys are guessed.
const MASTER_BYTES_MIN: usize = 32;

/// The master key, ready for use.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// A sealer of a master key, which is long and random; `None`: it is too short.
    pub fn new(master: &str) -> Option<Sealer> {
        let master = master.trim();
        if master.len() < MASTER_BYTES_MIN {
            return None;
        }
        let mut context = Context::new(&SHA256);
        context.update(b"gproxy master key 1\0");
        context.update(master.as_bytes());
        let key = UnboundKey::new(&AES_256_GCM, context.finish().as_ref()).ok()?;
        Some(Sealer(LessSafeKey::new(key)))
    }

    /// The secret, sealed for `row`.
    pub(super) fn seal(&self, secret: &str, row: &str) -> Option<String> {
        let nonce = random::<NONCE_LEN>()?;
        let mut bytes = secret.as_bytes().to_vec();
        let aad = Aad::from(row.as_bytes());
        let at = Nonce::assume_unique_for_key(nonce);
        self.0.seal_in_place_append_tag(at, aad, &mut bytes).ok()?;
        Some(format!("{SEALED}{}{}", hex(&nonce), hex(&bytes)))
    }

    /// The secret of a text that was sealed for `row`.
    fn open(&self, sealed: &str, row: &str) -> Option<Secret> {
        let mut bytes = Zeroizing::new(unhex(sealed.strip_prefix(SEALED)?)?);
        let (nonce, rest) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.0.open_in_place(nonce, Aad::from(row.as_bytes()), rest).ok()?;
        std::str::from_utf8(opened).ok().map(Secret::new)
    }
}

/// The secret in a row as it is kept; `None`: it was sealed with another key.
pub(super) fn reveal(sealer: Option<&Sealer>, kept: &str, row: &str) -> Option<Secret> {
    if !is_sealed(kept) {
        return Some(Secret::new(kept));
    }
    sealer?.open(kept, row)
}

pub(super) fn is_sealed(kept: &str) -> bool {
    kept.starts_with(SEALED)
}

/// Random bytes of the system.
pub(super) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// A new key for a user: 32 random bytes.
pub(super) fn new_key() -> Option<String> {
    Some(format!("sk-gp-{}", hex(&random::<32>()?)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair[0])? << 4) | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_secret_opens_with_its_key_in_its_row_and_nowhere_else() {
        let sealer = Sealer::new(MASTER).expect("long enough");
        let sealed = sealer.seal("sk-upstream", "p:1").expect("there is randomness");
        assert!(is_sealed(&sealed) && !sealed.contains("upstream"));
        let reveal = |sealer, kept: &str, row| {
            reveal(sealer, kept, row).map(|secret| secret.expose().to_owned())
        };
        assert_eq!(reveal(Some(&sealer), &sealed, "p:1").as_deref(), Some("sk-upstream"));
        assert_ne!(sealer.seal("sk-upstream", "p:1"), Some(sealed.clone()));
        let other = Sealer::new(&MASTER.replace('0', "1")).expect("long enough");
        assert_eq!(reveal(Some(&other), &sealed, "p:1"), None);
        assert_eq!(reveal(Some(&sealer), &sealed, "p:2"), None);
        assert_eq!(reveal(None, &sealed, "p:1"), None);
        for cut in 0..sealed.len() {
            let kept = &sealed[..cut];
            assert!(!is_sealed(kept) || reveal(Some(&sealer), kept, "p:1").is_none(), "{cut}");
        }
        assert_eq!(reveal(None, "plain", "p:1").as_deref(), Some("plain"));
    }

    #[test]
    fn forbids_short_master_keys_and_makes_long_user_keys() {
        assert!(Sealer::new(&MASTER[1..]).is_none());
        let keys = [new_key(), new_key()].map(|key| key.expect("there is randomness"));
        assert_ne!(keys[0], keys[1]);
        assert!(keys.iter().all(|key| key.len() == 6 + 64 && key.starts_with("sk-gp-")));
    }
}
