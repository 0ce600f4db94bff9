//! Laws of the answers of name servers, for any bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::fuzz_http::prng;
use super::prng::Prng;
use crate::failure::Cause;
use crate::io::resolver::ADDRESSES_MAX;
use crate::io::resolver::answer::{Answer, Question, TTL_S_MAX};
use simple_dns::TYPE;

const NAME: &str = "api.test";
const ID: u16 = 0x6162;
/// Its labels, and the end of them.
const NAME_BYTES: &[u8] = b"\x03api\x04test\0";

fn question(id: u16, name: &str, record: TYPE) -> Question {
    Question::new(id, name, record).expect("a name")
}

/// The first byte chooses the family. What counts is an answer to the question that was asked and
/// to no other; its addresses are those that a naive reader finds, and not too many.
pub fn answer(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let (record, other) = match choice & 1 {
        0 => (TYPE::A, TYPE::AAAA),
        _ => (TYPE::AAAA, TYPE::A),
    };
    let asked = question(ID, NAME, record);
    let found = asked.answered(bytes);
    if let Some(Ok(answer)) = &found {
        check(answer, record, bytes);
        for other in [
            question(ID ^ 1, NAME, record),
            question(ID, "api.tesu", record),
            question(ID, "a.api.test", record),
            question(ID, NAME, other),
        ] {
            assert_eq!(other.answered(bytes), None, "it answers two questions");
        }
    }
    let mut prng = prng(data);
    let cut = asked.answered(&bytes[..prng.below(bytes.len() + 1)]);
    let is_less = match &cut {
        None | Some(Err(Cause::NoSuchHost)) => true,
        Some(Ok(answer)) => cut == found || (answer.truncated && answer.addresses.is_empty()),
        Some(Err(_)) => false,
    };
    assert!(is_less, "half of an answer says {cut:?}, and all of it {found:?}");
    let is_short = bytes.len() < 10_000;
    if is_short && matches!(&found, Some(Ok(Answer { truncated: false, .. }) | Err(_))) {
        let behind = asked.answered(&[bytes, b"garbage"].concat());
        assert_eq!(found, behind, "what stands behind it counts");
    }
    told(&asked, record, bytes, &mut prng);
}

fn check(answer: &Answer, record: TYPE, bytes: &[u8]) {
    assert!(answer.addresses.len() <= ADDRESSES_MAX && answer.ttl_s <= TTL_S_MAX);
    assert!(answer.addresses.iter().all(|address| address.is_ipv4() == (record == TYPE::A)));
    // One that is cut somewhere is asked for again over TCP.
    if answer.truncated && answer.addresses.is_empty() {
        return;
    }
    let found = naive(bytes, record).expect("a naive reader finds them too");
    assert_eq!((&answer.addresses, answer.ttl_s), (&found.0, found.1));
}

type Labels = Vec<Vec<u8>>;

/// A record of the answer: owner, type, class, time to live, and where its data stand.
type Record = (Labels, u16, u16, u32, std::ops::Range<usize>);

/// A name in lower case, and where it ends.
fn name(bytes: &[u8], mut at: usize) -> Option<(Labels, usize)> {
    let (mut labels, mut end) = (Labels::new(), None);
    loop {
        let length = usize::from(*bytes.get(at)?);
        if length == 0 {
            return Some((labels, end.unwrap_or(at + 1)));
        }
        if length >= 0xc0 {
            let to = (length & 0x3f) << 8 | usize::from(*bytes.get(at + 1)?);
            end = end.or(Some(at + 2));
            // Only back, or it could have no end.
            at = Some(to).filter(|to| *to < at)?;
            continue;
        }
        labels.push(bytes.get(at + 1..at + 1 + length)?.to_ascii_lowercase());
        at += 1 + length;
    }
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
}

/// The addresses of the name, and how long they count.
fn naive(bytes: &[u8], record: TYPE) -> Option<(Vec<IpAddr>, u32)> {
    let mut at = 12 + NAME_BYTES.len() + 4;
    let mut records: Vec<Record> = Vec::new();
    for _ in 0..number(bytes, 6, 2)? {
        let (owner, end) = name(bytes, at)?;
        let (kind, class) = (number(bytes, end, 2)?, number(bytes, end + 2, 2)?);
        let (ttl, length) = (number(bytes, end + 4, 4)?, number(bytes, end + 8, 2)?);
        let data = end + 10..end + 10 + length as usize;
        bytes.get(data.clone())?;
        at = data.end;
        if data.is_empty() {
            // It says nothing.
            continue;
        }
        // The highest bit is not the class's, in multicast.
        records.push((owner, kind as u16, class as u16 & 0x7fff, ttl, data));
    }
    let (mut owner, _) = name(NAME_BYTES, 0)?;
    let mut ttl_s = TTL_S_MAX;
    let mut lives = |ttl: u32| ttl_s = ttl_s.min(if ttl >> 31 == 1 { 0 } else { ttl });
    for _ in 0..16 {
        let is_alias = |one: &&Record| one.0 == owner && one.1 == 5 && one.2 == 1;
        let Some(alias) = records.iter().find(is_alias) else { break };
        lives(alias.3);
        owner = name(bytes, alias.4.start)?.0;
    }
    let mut addresses = Vec::new();
    for (_, kind, _, ttl, data) in records.iter().filter(|one| one.0 == owner && one.2 == 1) {
        let data = &bytes[data.clone()];
        let address = match (kind, record) {
            (1, TYPE::A) => IpAddr::from(*data.first_chunk::<4>()?),
            (28, TYPE::AAAA) => IpAddr::from(*data.first_chunk::<16>()?),
            _ => continue,
        };
        if addresses.len() < ADDRESSES_MAX {
            addresses.push(address);
            lives(*ttl);
        }
    }
    Some((addresses, ttl_s))
}

/// What a server tells of its addresses is understood.
fn told(asked: &Question, record: TYPE, bytes: &[u8], prng: &mut Prng) {
    let addresses: Vec<IpAddr> = match record {
        TYPE::A => {
            bytes.chunks_exact(4).map_while(|four| four.first_chunk::<4>()).map(to_four).collect()
        }
        _ => bytes.chunks_exact(16).map_while(|all| all.first_chunk::<16>()).map(to_six).collect(),
    };
    let aliases = prng.below(4);
    let mut reply = asked.bytes().to_vec();
    reply[2] |= 0x80;
    let count = addresses.len().min(30);
    reply[7] = (aliases + count) as u8;
    let owner = |at: usize| format!("\x02n{at}").into_bytes();
    let name = |at: usize| match at {
        0 => b"\xc0\x0c".to_vec(),
        _ => [&owner(at)[..], b"\xc0\x10"].concat(),
    };
    let mut put = |at: usize, kind: u8, ttl: u8, data: &[u8]| {
        reply.extend_from_slice(&name(at));
        reply.extend_from_slice(&[0, kind, 0, 1, 0, 0, 0, ttl, 0, data.len() as u8]);
        reply.extend_from_slice(data);
    };
    for at in 0..aliases {
        put(at, 5, 200, &name(at + 1));
    }
    for address in &addresses[..count] {
        match address {
            IpAddr::V4(four) => put(aliases, 1, 100, &four.octets()),
            IpAddr::V6(six) => put(aliases, 28, 100, &six.octets()),
        }
    }
    let ttl_s = match (count, aliases) {
        (0, 0) => TTL_S_MAX,
        (0, _) => 200,
        _ => 100,
    };
    let addresses = addresses[..count.min(ADDRESSES_MAX)].to_vec();
    let expected = Answer { addresses, ttl_s, truncated: false };
    assert_eq!(asked.answered(&reply), Some(Ok(expected)));
}

fn to_four(bytes: &[u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(*bytes))
}

fn to_six(bytes: &[u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(*bytes))
}

/// Answers to begin from, behind the family.
pub const ANSWERS: &[&[u8]] = &[
    b"\0ab\x81\x80\0\x01\0\x01\0\0\0\0\x03api\x04test\0\0\x01\0\x01\
      \xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01",
    b"\x01ab\x81\x80\0\x01\0\x02\0\0\0\x01\x03API\x04test\0\0\x1c\0\x01\
      \xc0\x0c\0\x05\0\x01\0\0\x01\0\0\x04\x01x\xc0\x10\
      \x01x\xc0\x10\0\x1c\0\x01\0\0\0\x05\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
      \0\0\x29\x04\xd0\0\0\0\0\0\0",
    b"\0ab\x83\x80\0\x01\0\x01\0\0\0\0\x03api\x04test\0\0\x01\0\x01\xc0\x0c\0\x01\0",
    b"\0ab\x81\x83\0\x01\0\0\0\x01\0\0\x03api\x04test\0\0\x01\0\x01\
      \xc0\x10\0\x06\0\x01\0\0\0\x0a\0\x18\x01a\xc0\x10\x01b\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\
      \0\x04\0\0\0\x05",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b"\0",
    b"\x01",
    b"\x05",
    b"\x1c",
    b"\xc0\x0c",
    b"\xc0\x10",
    b"\xc0\x00",
    b"\xc0\x20",
    b"\xc0\x22",
    b"\xff\xff",
    b"\xff\xff\xff\xff",
    b"\x3f",
    b"\x40",
    b"\x81\x80",
    b"\x83\x80",
    b"\x81\x82",
    b"\x03api\x04test\0",
    b"\x03API\x04TEST\0",
    b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x02",
    b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x02\xc0\x0c",
    b"\xc0\x0c\0\x10\0\x01\0\0\0\x01\0\x02\x01x",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_answers_hold_for_mutated_answers() {
        mutate::run(ANSWERS, SPICES, 10_000, answer);
    }
}
