//! Secrets that somebody quotes, taken out of what is passed on or kept.

/// Puts `***` in place of a credential that an upstream quotes in an error.
pub(super) struct Mask {
    secret: Vec<u8>,
    // The end of the last piece, which may be the beginning of the secret.
    carry: Vec<u8>,
}

impl Mask {
    /// For this secret, which is not empty.
    pub(super) fn new(secret: &str) -> Mask {
        Mask { secret: secret.as_bytes().to_vec(), carry: Vec::new() }
    }

    /// Masks bytes that are whole.
    pub(super) fn replace(&self, bytes: &mut Vec<u8>, from: usize) {
        mask(&self.secret, bytes, from);
    }

    /// Masks the piece that begins at `from`, wherever the secret is cut.
    pub(super) fn piece(&mut self, out: &mut Vec<u8>, from: usize, last: bool) {
        out.splice(from..from, self.carry.drain(..));
        self.replace(out, from);
        if !last {
            let keep = (self.secret.len() - 1).min(out.len() - from);
            self.carry = out.split_off(out.len() - keep);
        }
    }
}

/// Puts `***` in place of each `secret`, behind `from`.
pub(super) fn mask(secret: &[u8], bytes: &mut Vec<u8>, from: usize) {
    let Some(first) = memchr::memmem::find(&bytes[from..], secret) else { return };
    let rest = bytes.split_off(from + first);
    let mut at = 0;
    for found in memchr::memmem::find_iter(&rest, secret) {
        bytes.extend_from_slice(&rest[at..found]);
        bytes.extend_from_slice(b"***");
        at = found + secret.len();
    }
    bytes.extend_from_slice(&rest[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_masked_wherever_it_is_cut() {
        let text = b"bad key sk-secret-1, again sk-secret-1 and sk-secret-2";
        let expected = b"bad key ***, again *** and sk-secret-2".to_vec();
        for cut in 0..=text.len() {
            let mut mask = Mask::new("sk-secret-1");
            let mut out = Vec::new();
            for (piece, last) in [(&text[..cut], false), (&text[cut..], true)] {
                let from = out.len();
                out.extend_from_slice(piece);
                mask.piece(&mut out, from, last);
            }
            assert_eq!(out, expected, "cut at {cut}");
        }
    }
}
