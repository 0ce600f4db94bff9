//! Every way in which a network may cut an input, for the law that no parser can tell.

use super::prng::Prng;

/// Runs `check` over the input whole, byte by byte, and with every cut in two.
pub fn each_split(input: &[u8], mut check: impl FnMut(&[&[u8]])) {
    check(&[input]);
    check(&bytewise(input));
    for cut in 0..=input.len() {
        let (head, tail) = input.split_at(cut);
        check(&[head, tail]);
    }
}

/// One piece per byte.
pub fn bytewise(input: &[u8]) -> Vec<&[u8]> {
    input.chunks(1).collect()
}

/// Cuts at random places, empty pieces included.
pub fn at_random<'a>(input: &'a [u8], prng: &mut Prng) -> Vec<&'a [u8]> {
    let size_max = 1 + prng.below(64);
    let mut rest = input;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, tail) = rest.split_at(prng.below(size_max + 1).min(rest.len()));
        pieces.push(piece);
        rest = tail;
    }
    pieces
}
