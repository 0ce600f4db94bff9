//! Content codings of request bodies, unpacked within a limit.
//!
//! A body is unpacked whole, on an OS thread: it takes long and much stack. What it would come to
//! is not believed from its head; unpacking stops where the limit is passed.

use std::io::{self, Write};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// RFC 9659: the window of a zstd body is not larger.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Unpacked at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a body cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// A coding that we do not know, or several.
    Unknown,
    /// A form is read while it comes in, so it cannot be compressed.
    Form,
    /// The bytes are not in that coding, or end within it.
    Broken,
    /// It comes to more than may be held.
    TooLong,
}

impl CodingError {
    /// Every variant, for tables and golden files.
    pub const ALL: [CodingError; 4] =
        [CodingError::Unknown, CodingError::Form, CodingError::Broken, CodingError::TooLong];
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, whose name in HTTP is that of its inside.
    Deflate,
    /// RFC 8878.
    Zstd,
}

/// The coding that the fields `Content-Encoding` name; `None`: none.
pub fn coding_of<'a>(
    fields: impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Coding>, CodingError> {
    let mut found = None;
    for name in fields.flat_map(super::header::elements) {
        let coding = match name.to_ascii_lowercase().as_slice() {
            b"identity" => continue,
            b"gzip" | b"x-gzip" => Coding::Gzip,
            b"deflate" => Coding::Deflate,
            b"zstd" => Coding::Zstd,
            _ => return Err(CodingError::Unknown),
        };
        if found.replace(coding).is_some() {
            return Err(CodingError::Unknown);
        }
    }
    Ok(found)
}

/// Unpacks a body that comes to `bytes_max` at most.
pub fn decode(coding: Coding, input: &[u8], bytes_max: u64) -> Result<Vec<u8>, CodingError> {
    let mut out = Bounded { bytes: Vec::new(), bytes_max, is_full: false };
    let result = match coding {
        Coding::Gzip => io::copy(&mut MultiGzDecoder::new(input), &mut out).map(drop),
        Coding::Deflate => zlib(input, &mut out),
        Coding::Zstd => zstd(input, &mut out),
    };
    match result {
        Ok(()) => Ok(out.bytes),
        Err(_) if out.is_full => Err(CodingError::TooLong),
        Err(_) => Err(CodingError::Broken),
    }
}

fn zlib(mut input: &[u8], out: &mut Bounded) -> io::Result<()> {
    io::copy(&mut ZlibDecoder::new(&mut input), out)?;
    if input.is_empty() { Ok(()) } else { Err(broken()) }
}

/// One frame after the other; those that are to be skipped are.
fn zstd(mut input: &[u8], out: &mut Bounded) -> io::Result<()> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW_BYTES_MAX);
    loop {
        match decoder.init(&mut input) {
            Ok(()) => {}
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                input = input.get(length as usize..).ok_or_else(broken)?;
                if input.is_empty() {
                    return Ok(());
                }
                continue;
            }
            Err(_) => return Err(broken()),
        }
        while !decoder.is_finished() {
            let some = BlockDecodingStrategy::UptoBytes(PIECE_BYTES);
            decoder.decode_blocks(&mut input, some).map_err(|_| broken())?;
            decoder.collect_to_writer(&mut *out)?;
        }
        // What it held back for references to come.
        io::copy(&mut decoder, out)?;
        if input.is_empty() {
            return Ok(());
        }
    }
}

fn broken() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// Takes so much and no more.
struct Bounded {
    bytes: Vec<u8>,
    bytes_max: u64,
    is_full: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.bytes_max {
            self.is_full = true;
            return Err(broken());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Deflate, Coding::Zstd];

    fn encode(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(bytes).expect("memory");
                encoder.finish().expect("memory")
            }
            Coding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(bytes).expect("memory");
                encoder.finish().expect("memory")
            }
            Coding::Zstd => compress_to_vec(bytes, CompressionLevel::Fastest),
        }
    }

    #[test]
    fn what_was_packed_comes_out_and_half_of_it_does_not() {
        let text = "{\"model\":\"m\",\"x\":\"".repeat(5_000);
        for coding in CODINGS {
            for part in [0, 1, 1_000, text.len()] {
                let plain = &text.as_bytes()[..part];
                let packed = encode(coding, plain);
                assert_eq!(
                    decode(coding, &packed, part as u64).as_deref(),
                    Ok(plain),
                    "{coding:?}"
                );
                for cut in [0, 1, packed.len() / 2, packed.len() - 1] {
                    let half = decode(coding, &packed[..cut], u64::MAX);
                    assert!(half.as_deref() != Ok(plain) || plain.is_empty(), "{coding:?} {cut}");
                    assert!(half.is_err(), "{coding:?} cut at {cut} of {}", packed.len());
                }
                let garbage = [&packed[..], b"garbage"].concat();
                assert_eq!(decode(coding, &garbage, u64::MAX), Err(CodingError::Broken));
            }
            assert_eq!(decode(coding, text.as_bytes(), u64::MAX), Err(CodingError::Broken));
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let plain = vec![0; 3_000_000];
        for coding in CODINGS {
            let packed = encode(coding, &plain);
            assert!(packed.len() < 40_000);
            assert_eq!(decode(coding, &packed, 2_999_999), Err(CodingError::TooLong), "{coding:?}");
            assert_eq!(decode(coding, &packed, 3_000_000).map(|out| out.len()), Ok(3_000_000));
        }
    }

    #[test]
    fn members_and_frames_follow_each_other_and_some_are_skipped() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = [encode(coding, b"one "), encode(coding, b"two")].concat();
            assert_eq!(decode(coding, &packed, 7).as_deref(), Ok(&b"one two"[..]));
        }
        let skipped = [b"\x50\x2a\x4d\x18\x03\0\0\0abc", &encode(Coding::Zstd, b"x")[..]].concat();
        assert_eq!(decode(Coding::Zstd, &skipped, 1).as_deref(), Ok(&b"x"[..]));
        // A window of 16 MiB, an empty last block.
        let wide = b"\x28\xb5\x2f\xfd\x00\x70\x01\x00\x00";
        assert_eq!(decode(Coding::Zstd, wide, u64::MAX), Err(CodingError::Broken));
    }

    #[test]
    fn one_known_coding_is_taken() {
        let of = |fields: &[&str]| coding_of(fields.iter().map(|field| field.as_bytes()));
        assert_eq!(of(&[]), Ok(None));
        assert_eq!(of(&["identity"]), Ok(None));
        assert_eq!(of(&["GZip"]), Ok(Some(Coding::Gzip)));
        assert_eq!(of(&["identity, zstd"]), Ok(Some(Coding::Zstd)));
        assert_eq!(of(&["deflate"]), Ok(Some(Coding::Deflate)));
        for fields in [&["br"][..], &["gzip, gzip"], &["gzip", "zstd"], &["gzip;q=1"]] {
            assert_eq!(of(fields), Err(CodingError::Unknown), "{fields:?}");
        }
    }
}
