//! Content codings of request bodies, unpacked within a limit.
//!
//! Bodies are unpacked on an OS thread: it takes long and much stack. What one would come to is not
//! believed from its head; unpacking stops where the limit is passed.

use std::io::{self, BufRead, Read, Write};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

/// RFC 9659: the window of a zstd body is not larger.
const WINDOW_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// RFC 1951: how far a reference leads back, and what the tables take.
const INFLATE_BYTES: u64 = 64 * 1024;
/// Unpacked at once.
const PIECE_BYTES: usize = 64 * 1024;

/// Why a body cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodingError {
    /// A coding that we do not know, or several.
    Unknown,
    /// The bytes are not in that coding, or end within it.
    Broken,
    /// It comes to more than may be held.
    TooLong,
}

impl CodingError {
    /// Every variant, for tables and golden files.
    pub const ALL: [CodingError; 3] =
        [CodingError::Unknown, CodingError::Broken, CodingError::TooLong];
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

impl Coding {
    /// What unpacking keeps in memory at most.
    pub fn state_bytes(self) -> u64 {
        match self {
            Coding::Gzip | Coding::Deflate => INFLATE_BYTES,
            Coding::Zstd => WINDOW_BYTES_MAX + 2 * PIECE_BYTES as u64,
        }
    }
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
    match io::copy(&mut Unpacker::new(coding, input), &mut out) {
        Ok(_) => Ok(out.bytes),
        Err(_) if out.is_full => Err(CodingError::TooLong),
        Err(_) => Err(CodingError::Broken),
    }
}

/// Unpacks while it is read. An input that is not wholly in its coding is an error in the end.
pub struct Unpacker<R: BufRead>(Decoder<R>);

enum Decoder<R: BufRead> {
    Gzip(MultiGzDecoder<R>),
    Zlib(ZlibDecoder<R>),
    Zstd(Box<Frames<R>>),
}

impl<R: BufRead> Unpacker<R> {
    /// Reads `input`, which is in this coding.
    pub fn new(coding: Coding, input: R) -> Unpacker<R> {
        Unpacker(match coding {
            Coding::Gzip => Decoder::Gzip(MultiGzDecoder::new(input)),
            Coding::Deflate => Decoder::Zlib(ZlibDecoder::new(input)),
            Coding::Zstd => Decoder::Zstd(Box::new(Frames::new(input))),
        })
    }
}

impl<R: BufRead> Read for Unpacker<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Decoder::Gzip(decoder) => decoder.read(out),
            Decoder::Zstd(frames) => frames.read(out),
            Decoder::Zlib(decoder) => {
                let count = decoder.read(out)?;
                match count == 0 && !out.is_empty() && !decoder.get_mut().fill_buf()?.is_empty() {
                    true => Err(broken()),
                    false => Ok(count),
                }
            }
        }
    }
}

/// One zstd frame after the other; those that are to be skipped are.
struct Frames<R> {
    decoder: FrameDecoder,
    input: R,
    has_begun: bool,
    in_frame: bool,
}

impl<R: BufRead> Frames<R> {
    fn new(input: R) -> Frames<R> {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Frames { decoder, input, has_begun: false, in_frame: false }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.in_frame {
                if self.has_begun && self.input.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.begin()?;
                continue;
            }
            let count = self.decoder.read(out)?;
            if count > 0 || out.is_empty() {
                return Ok(count);
            }
            // What it held back for references to come was read.
            if self.decoder.is_finished() {
                self.in_frame = false;
                continue;
            }
            let some = BlockDecodingStrategy::UptoBytes(PIECE_BYTES);
            self.decoder.decode_blocks(&mut self.input, some).map_err(|_| broken())?;
        }
    }

    fn begin(&mut self) -> io::Result<()> {
        self.has_begun = true;
        match self.decoder.init(&mut self.input) {
            Ok(()) => {
                self.in_frame = true;
                Ok(())
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = u64::from(length);
                let mut skipped = self.input.by_ref().take(length);
                match io::copy(&mut skipped, &mut io::sink())? == length {
                    true => Ok(()),
                    false => Err(broken()),
                }
            }
            Err(_) => Err(broken()),
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
        let wanted = self.bytes.len() + bytes.len();
        if wanted > self.bytes.capacity() {
            // Twice as much, so that room is made seldom, but never more than may come.
            let most = usize::try_from(self.bytes_max).unwrap_or(usize::MAX);
            self.bytes.reserve_exact(most.min(2 * wanted) - self.bytes.len());
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
    fn what_comes_out_takes_no_more_room_than_it_may_be_long() {
        let text = vec![b'x'; 600_000];
        let packed = encode(Coding::Gzip, &text);
        let out = decode(Coding::Gzip, &packed, 700_000).expect("it fits");
        assert!(out == text && out.capacity() <= 700_000, "{}", out.capacity());
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let text = "a line, and another one; ".repeat(9_000);
        for coding in CODINGS {
            let packed = encode(coding, text.as_bytes());
            for (input, output) in [(1, 1_000), (7, 65_536), (100_000, 3)] {
                let input = io::BufReader::with_capacity(input, packed.as_slice());
                let mut unpacker = Unpacker::new(coding, input);
                let (mut out, mut piece) = (Vec::new(), vec![0; output]);
                loop {
                    match unpacker.read(&mut piece).expect("it is sound") {
                        0 => break,
                        count => out.extend_from_slice(&piece[..count]),
                    }
                }
                assert!(out == text.as_bytes(), "{coding:?}, {output} at once");
                assert_eq!(unpacker.read(&mut piece).ok(), Some(0), "an end stays one");
            }
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
        let cut = &b"\x50\x2a\x4d\x18\x09\0\0\0abc"[..];
        assert_eq!(decode(Coding::Zstd, cut, 1), Err(CodingError::Broken));
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
