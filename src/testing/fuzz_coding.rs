//! Laws of unpacking, for any bytes.

use std::io::{self, BufRead, BufReader, Read, Write};

use super::fuzz_http::prng;
use super::prng::Prng;
use super::splits;
use crate::wire::coding::{self, Coding, CodingError, Unpacker};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// What is unpacked is not longer.
const BYTES_MAX: u64 = 100_000;
const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Zstd];

/// Hands out an input in these pieces.
struct Pieces<'i>(Vec<&'i [u8]>);

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(out)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // An empty piece would be the end.
        self.0.retain(|piece| !piece.is_empty());
        Ok(self.0.first().copied().unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        if let Some(piece) = self.0.first_mut() {
            *piece = &piece[count..];
        }
    }
}

/// Reads to the end or to an error, so many bytes at once.
fn unpacked(coding: Coding, input: impl BufRead, at_once: usize) -> (Vec<u8>, bool) {
    let mut unpacker = Unpacker::new(coding, input);
    let (mut out, mut piece) = (Vec::new(), vec![0; at_once]);
    while out.len() as u64 <= BYTES_MAX {
        match unpacker.read(&mut piece) {
            Ok(0) => {
                assert_eq!(unpacker.read(&mut piece).ok(), Some(0), "an end stays one");
                return (out, true);
            }
            Ok(count) => out.extend_from_slice(&piece[..count]),
            Err(_) => return (out, false),
        }
    }
    (out, false)
}

/// A body in one of the codings: what it comes to depends on no cut and is not longer than it may
/// be, and nothing follows it. What is packed comes out again.
pub fn body(data: &[u8]) {
    let Some((&choice, packed)) = data.split_first() else { return };
    let coding = CODINGS[usize::from(choice) % CODINGS.len()];
    let mut prng = prng(data);
    let whole = coding::decode(coding, packed, BYTES_MAX);
    let at_once = 1 + prng.below(5_000);
    let cuts = [
        unpacked(coding, packed, at_once),
        unpacked(coding, Pieces(splits::bytewise(packed)), at_once),
        unpacked(coding, Pieces(splits::at_random(packed, &mut prng)), at_once),
        unpacked(coding, BufReader::with_capacity(1 + prng.below(20), packed), 65_536),
    ];
    for (out, is_sound) in &cuts {
        match &whole {
            Ok(expected) => assert!(*is_sound && out == expected, "a cut made a difference"),
            Err(CodingError::Broken) => assert!(!is_sound),
            Err(CodingError::TooLong) => assert!(out.len() as u64 > BYTES_MAX || !is_sound),
            Err(CodingError::Unknown) => panic!("it is known"),
        }
    }
    if let Ok(plain) = &whole {
        followed(coding, packed, plain);
    }
    packed_again(coding, packed, &mut prng);
    packed_again(coding, &repeated(packed, &mut prng), &mut prng);
}

/// It may be as long as it is and no longer; behind it may stand another one, and nothing else.
fn followed(coding: Coding, packed: &[u8], plain: &[u8]) {
    let length = plain.len() as u64;
    assert_eq!(coding::decode(coding, packed, length).as_deref(), Ok(plain));
    if let Some(less) = length.checked_sub(1) {
        assert_eq!(coding::decode(coding, packed, less), Err(CodingError::TooLong));
    }
    let garbage = [packed, b"garbage"].concat();
    assert_eq!(coding::decode(coding, &garbage, length), Err(CodingError::Broken));
    let twice = [packed, packed].concat();
    let expected = match coding {
        Coding::Deflate => Err(CodingError::Broken),
        Coding::Gzip | Coding::Zstd => Ok(plain.repeat(2)),
    };
    assert_eq!(coding::decode(coding, &twice, 2 * length), expected);
}

fn packed_again(coding: Coding, plain: &[u8], prng: &mut Prng) {
    let packed = pack(coding, plain);
    assert_eq!(coding::decode(coding, &packed, plain.len() as u64).as_deref(), Ok(plain));
    let cut = &packed[..prng.below(packed.len())];
    assert_eq!(coding::decode(coding, cut, plain.len() as u64), Err(CodingError::Broken));
}

/// Something that has much in it twice.
fn repeated(bytes: &[u8], prng: &mut Prng) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..prng.below(8) {
        let from = prng.below(bytes.len() + 1);
        out.extend_from_slice(&bytes[from..]);
    }
    out
}

/// Packs as a caller would.
fn pack(coding: Coding, bytes: &[u8]) -> Vec<u8> {
    let all = "a vector takes all";
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).expect(all);
            encoder.finish().expect(all)
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).expect(all);
            encoder.finish().expect(all)
        }
        Coding::Zstd => compress_to_vec(bytes, CompressionLevel::Fastest),
    }
}

/// Bodies to begin from, behind their codings.
pub const BODIES: &[&[u8]] = &[
    b"\0\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\xcd\x4f\x49\xcd\x51\xb2\x52\
      \x4a\x54\xd2\x51\xaa\x00\xd2\xd5\x31\x10\xa1\x18\x20\xbb\x16\x00\x1b\
      \xe1\x0e\xcf\x1f\x00\x00\x00",
    b"\x01\x78\x01\x01\x05\0\xfa\xffhello\x06\x2c\x02\x15",
    b"\x01\x78\x9c\xcbH\xcd\xc9\xc9W(\xcf\x2f\xcaI\x01\0\x1a\x0b\x04\x5d",
    b"\x02\x28\xb5\x2f\xfd\x00\x58\x29\0\0hello\x50\x2a\x4d\x18\x03\0\0\0abc",
    b"\x02\x28\xb5\x2f\xfd\x00\x58\x12\x00\x00x\x03\x01\x00y",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\x02",
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    b"\x1f\x8b\x08\x1e",
    b"\x78\x9c",
    b"\x78\xbb",
    b"\x28\xb5\x2f\xfd",
    b"\x28\xb5\x2f\xfd\xe4",
    b"\x28\xb5\x2f\xfd\x00\x70",
    b"\x50\x2a\x4d\x18\x01\0\0\0",
    b"\x03\0\0",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x80",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_unpacking_hold_for_mutated_bodies() {
        mutate::run(BODIES, SPICES, 1_000, body);
    }
}
