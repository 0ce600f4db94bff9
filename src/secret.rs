//! Text that must never be printed, and its digest.
//!
//! `Secret` has no `Debug`, no `Display` and no `PartialEq`: the compiler refuses to log or compare
//! it. Callers that need the text say `expose`, which is easy to search for. Its memory is wiped
//! before it is given back.

use std::fmt;

use zeroize::Zeroizing;

/// A credential or key in clear text, or a document with such in it.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text; a borrowed one is copied.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// The clear text, for the one place that must send or hash it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// SHA-256 of a user key. Keys are random (at least 128 bits), so a plain hash is enough, and a
/// table that is keyed by it never walks the key itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Digest of a key as it was presented.
    pub fn of(key: &[u8]) -> Digest {
        let digest = ring::digest::digest(&ring::digest::SHA256, key);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Digest(bytes)
    }

    /// Its first 64 bits, to tell digests apart where nothing depends on it.
    pub fn prefix(&self) -> u64 {
        u64::from_be_bytes(std::array::from_fn(|at| self.0[at]))
    }

    /// Reads the `sha256:` form that `gproxy hash-key` prints: 64 hexadecimal digits after it.
    pub fn parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:")?;
        if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// The form that [`Digest::parse`] reads.
    pub fn to_text(self) -> String {
        let mut text = String::from("sha256:");
        for byte in self.0 {
            text.push_str(&format!("{byte:02x}"));
        }
        text
    }
}

/// A key's name in rows and paths: the first 16 hexadecimal digits of its digest. It stays the same
/// whatever label the key bears.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id of the key of that digest.
    pub fn of(digest: &Digest) -> KeyId {
        let mut digits = [0; 16];
        for (at, digit) in digits.iter_mut().enumerate() {
            let nibble = digest.0[at / 2] >> (4 * (1 - at % 2)) & 15;
            *digit = b"0123456789abcdef"[usize::from(nibble)];
        }
        KeyId(digits)
    }

    /// Reads what [`KeyId::as_str`] gives.
    pub fn parse(text: &str) -> Option<KeyId> {
        let digits: [u8; 16] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_hexdigit).then_some(KeyId(digits))
    }

    /// Its digits; none where there is no key.
    pub fn as_str(&self) -> &str {
        match self.0 {
            [0, ..] => "",
            _ => std::str::from_utf8(&self.0).expect("hexadecimal digits are ASCII"),
        }
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Whether a text is found in our memory there, whoever owns it by now.
    fn is_in_memory(text: &str, at: usize, length: usize) -> bool {
        let mut bytes = vec![0; length];
        let memory = File::open("/proc/self/mem").unwrap();
        // What is no memory any more holds nothing.
        memory.read_exact_at(&mut bytes, at as u64).is_ok()
            && bytes.windows(text.len()).any(|part| part == text.as_bytes())
    }

    #[test]
    fn a_secret_that_was_dropped_is_nowhere_in_memory() {
        const TEXT: &str = "sk-of-this-test-alone-";
        let secret = Secret::new(TEXT.repeat(40));
        let copy = secret.clone();
        for secret in [secret, copy] {
            let text = secret.expose();
            let (at, length) = (text.as_ptr() as usize, text.len());
            assert!(is_in_memory(TEXT, at, length));
            drop(secret);
            assert!(!is_in_memory(TEXT, at, length));
        }
    }

    #[test]
    fn digest_survives_its_text_form() {
        let digest = Digest::of(b"sk-admin-1");
        assert!(Digest::parse(&digest.to_text()) == Some(digest));
        assert!(Digest::of(b"sk-admin-2") != digest);
    }

    #[test]
    fn a_keys_id_is_the_beginning_of_its_digests_text() {
        let digest = Digest::of(b"sk-admin-1");
        let text = digest.to_text();
        assert_eq!(Some(KeyId::of(&digest).as_str()), text.get(7..23));
        assert_eq!(KeyId::default().as_str(), "");
        assert_eq!(KeyId::parse(KeyId::of(&digest).as_str()), Some(KeyId::of(&digest)));
        assert!(
            ["", "0123456789abcde", "0123456789abcdeg"].iter().all(|s| KeyId::parse(s).is_none())
        );
    }

    #[test]
    fn digest_text_of_the_wrong_length_or_alphabet_is_refused() {
        assert!(Digest::parse("sha256:abc").is_none());
        assert!(Digest::parse(&format!("sha256:{}", "g".repeat(64))).is_none());
        assert!(Digest::parse(&"a".repeat(64)).is_none());
    }
}
