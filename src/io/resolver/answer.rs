//! Questions to a name server, and what counts as an answer.
//!
//! Whoever can send to our socket may answer: only what repeats the question counts, and of its
//! records only those that the name leads to.

use std::net::IpAddr;

use simple_dns::rdata::RData;
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question as Asked, ResourceRecord, TYPE,
};

use super::ADDRESSES_MAX;
use crate::failure::Cause;

/// Of what is remembered, in seconds.
pub(crate) const TTL_S_MAX: u32 = 300;
/// Aliases that one name leads over.
const ALIASES_MAX: usize = 16;
/// More than any host has addresses for: names may lead back and back, and each is followed.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const HEADER_BYTES: usize = 12;
/// RFC 1035: the shortest record has an empty name and no data.
const RECORD_BYTES_MIN: usize = 11;

/// What a server says of a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// At most [`ADDRESSES_MAX`].
    pub(crate) addresses: Vec<IpAddr>,
    /// How long that counts, at most [`TTL_S_MAX`].
    pub(crate) ttl_s: u32,
    /// There is more, over TCP.
    pub(crate) truncated: bool,
}

/// One question, as it is sent.
pub(crate) struct Question {
    name: Name<'static>,
    record: TYPE,
    query: Vec<u8>,
}

impl Question {
    /// Asks for one type of record; `None`: the name is none.
    pub(crate) fn new(id: u16, name: &str, record: TYPE) -> Option<Question> {
        let name = Name::new(name).ok()?.into_owned();
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let class = QCLASS::CLASS(CLASS::IN);
        packet.questions.push(Asked::new(name.clone(), QTYPE::TYPE(record), class, false));
        let query = packet.build_bytes_vec().ok()?;
        Some(Question { name, record, query })
    }

    /// The datagram.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.query
    }

    /// Reads an answer; `None` when it answers something else, or is none.
    pub(crate) fn answered(&self, bytes: &[u8]) -> Option<Result<Answer, Cause>> {
        if bytes.len() > ANSWER_BYTES_MAX {
            return None;
        }
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let count = |at: usize| usize::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let is_response = header[2] & 0x80 != 0;
        let opcode = header[2] >> 3 & 0xf;
        if header[..2] != self.query[..2] || !is_response || opcode != 0 {
            return None;
        }
        let is_error = !matches!(header[3] & 0xf, 0 | 3);
        if is_error && count(4) == 0 {
            // Some do not repeat what they do not answer.
            return Some(Err(Cause::NoSuchHost));
        }
        // Lengths and types have no letters.
        let asked = &self.query[HEADER_BYTES..];
        let told = rest.get(..asked.len())?;
        if count(4) != 1 || !told.eq_ignore_ascii_case(asked) {
            return None;
        }
        if is_error {
            return Some(Err(Cause::NoSuchHost));
        }
        let truncated = header[2] & 2 != 0;
        let records = count(6) + count(8) + count(10);
        // Room is made for as many as are said to come.
        let is_possible = records * RECORD_BYTES_MIN <= rest.len() - asked.len();
        let packet = is_possible.then(|| Packet::parse(bytes).ok()).flatten();
        match packet {
            Some(packet) => Some(Ok(self.known(&packet.answers, truncated))),
            // It may be cut anywhere.
            None if truncated => Some(Ok(self.known(&[], true))),
            None => None,
        }
    }

    /// What these records say of the name.
    fn known(&self, records: &[ResourceRecord<'_>], truncated: bool) -> Answer {
        let mut answer = Answer { addresses: Vec::new(), ttl_s: TTL_S_MAX, truncated };
        let mut name = &self.name;
        let of = |name: &Name<'_>, record: &ResourceRecord<'_>| {
            record.name == *name && record.class == CLASS::IN
        };
        for _ in 0..ALIASES_MAX {
            let alias = records.iter().filter(|record| of(name, record)).find_map(|record| {
                let RData::CNAME(target) = &record.rdata else { return None };
                Some((&target.0, record.ttl))
            });
            let Some((target, ttl)) = alias else { break };
            answer.lives(ttl);
            name = target;
        }
        for record in records.iter().filter(|record| of(name, record)) {
            let address = match (&record.rdata, self.record) {
                (RData::A(a), TYPE::A) => IpAddr::V4(a.address.into()),
                (RData::AAAA(aaaa), TYPE::AAAA) => IpAddr::V6(aaaa.address.into()),
                _ => continue,
            };
            if answer.addresses.len() < ADDRESSES_MAX {
                answer.addresses.push(address);
                answer.lives(record.ttl);
            }
        }
        answer
    }
}

impl Answer {
    /// RFC 2181: a time with its highest bit set is none.
    fn lives(&mut self, ttl_s: u32) {
        let ttl_s = if ttl_s > i32::MAX as u32 { 0 } else { ttl_s };
        self.ttl_s = self.ttl_s.min(ttl_s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use simple_dns::{RCODE, rdata};
    use std::net::Ipv4Addr;

    const NAME: &str = "example.test";
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn name(text: &str) -> Name<'_> {
        Name::new(text).unwrap()
    }

    fn address(of: &str, ttl: u32) -> ResourceRecord<'_> {
        ResourceRecord::new(name(of), CLASS::IN, ttl, RData::A(rdata::A::from(ADDRESS)))
    }

    fn alias<'a>(of: &'a str, target: &'a str) -> ResourceRecord<'a> {
        let target = RData::CNAME(rdata::CNAME(name(target)));
        ResourceRecord::new(name(of), CLASS::IN, 50, target)
    }

    /// A reply to the question for `of`.
    fn reply<'a>(of: &'a str, flags: PacketFlag, answers: Vec<ResourceRecord<'a>>) -> Packet<'a> {
        let mut packet = Packet::new_reply(7);
        packet.set_flags(flags);
        let (record, class) = (QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN));
        packet.questions.push(Asked::new(name(of), record, class, false));
        packet.answers = answers;
        packet
    }

    fn read(packet: &Packet<'_>) -> Option<Result<Answer, Cause>> {
        let bytes = packet.build_bytes_vec_compressed().unwrap();
        Question::new(7, NAME, TYPE::A).unwrap().answered(&bytes)
    }

    fn known(answers: Vec<ResourceRecord<'_>>) -> (usize, u32) {
        let answer = read(&reply(NAME, PacketFlag::RESPONSE, answers)).unwrap().unwrap();
        assert!(
            !answer.truncated && answer.addresses.iter().all(|one| *one == IpAddr::V4(ADDRESS))
        );
        (answer.addresses.len(), answer.ttl_s)
    }

    #[test]
    fn an_answer_yields_addresses_and_the_smallest_ttl() {
        assert_eq!(known(vec![address(NAME, 60), address(NAME, 40)]), (2, 40));
        assert_eq!(known(vec![address("EXAMPLE.Test", 60)]), (1, 60));
        assert_eq!(known(vec![address(NAME, 100_000)]), (1, TTL_S_MAX));
        assert_eq!(known(vec![address(NAME, u32::MAX)]), (1, 0));
        assert_eq!(known(vec![]), (0, TTL_S_MAX));
        let many = (0..40).map(|_| address(NAME, 60)).collect();
        assert_eq!(known(many), (ADDRESSES_MAX, 60));
    }

    #[test]
    fn only_records_that_the_name_leads_to_count() {
        assert_eq!(known(vec![address("other.test", 60)]), (0, TTL_S_MAX));
        assert_eq!(known(vec![address("a", 60), alias(NAME, "A"), address("b", 20)]), (1, 50));
        assert_eq!(known(vec![alias("b", "c"), address("c", 9), alias(NAME, "b")]), (1, 9));
        assert_eq!(known(vec![alias(NAME, "b"), alias("b", NAME)]), (0, 50));
        let six = RData::AAAA(rdata::AAAA { address: 1 });
        assert_eq!(known(vec![ResourceRecord::new(name(NAME), CLASS::IN, 9, six)]).0, 0);
        let mut foreign = address(NAME, 60);
        foreign.class = CLASS::CH;
        assert_eq!(known(vec![foreign]).0, 0);
    }

    #[test]
    fn what_answers_another_question_is_no_answer() {
        let flags = PacketFlag::RESPONSE;
        let sound = || reply(NAME, flags, vec![address(NAME, 60)]);
        assert!(matches!(read(&sound()), Some(Ok(_))));
        let mut other = sound();
        other.set_id(8);
        assert_eq!(read(&other), None);
        assert_eq!(read(&reply("example.tesu", flags, vec![address(NAME, 60)])), None);
        let mut query = sound();
        query.remove_flags(flags);
        assert_eq!(read(&query), None);
        for qtype in [QTYPE::TYPE(TYPE::AAAA), QTYPE::ANY] {
            let mut other = sound();
            other.questions[0].qtype = qtype;
            assert_eq!(read(&other), None);
        }
        let mut twice = sound();
        twice.questions.push(twice.questions[0].clone());
        assert_eq!(read(&twice), None);
        let mut none = sound();
        none.questions.clear();
        assert_eq!(read(&none), None);
        let bytes = sound().build_bytes_vec().unwrap();
        let question = Question::new(7, NAME, TYPE::A).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(question.answered(&bytes[..end]), None, "{end}");
        }
        let mut long = bytes.clone();
        long.resize(ANSWER_BYTES_MAX, 0);
        assert!(matches!(question.answered(&long), Some(Ok(_))));
        long.push(0);
        assert_eq!(question.answered(&long), None);
        // Room for so many records is not made.
        let mut many = bytes;
        many[6..12].fill(0xff);
        assert_eq!(question.answered(&many), None);
    }

    #[test]
    fn a_server_that_fails_need_not_repeat_the_question() {
        for rcode in [RCODE::ServerFailure, RCODE::Refused, RCODE::FormatError] {
            let mut failed = reply(NAME, PacketFlag::RESPONSE, vec![]);
            *failed.rcode_mut() = rcode;
            assert_eq!(read(&failed), Some(Err(Cause::NoSuchHost)));
            failed.questions.clear();
            assert_eq!(read(&failed), Some(Err(Cause::NoSuchHost)));
        }
        let mut missing = reply(NAME, PacketFlag::RESPONSE, vec![]);
        *missing.rcode_mut() = RCODE::NameError;
        assert!(matches!(read(&missing), Some(Ok(_))));
        missing.questions.clear();
        assert_eq!(read(&missing), None);
    }

    #[test]
    fn truncation_is_seen_wherever_it_cuts() {
        let flags = PacketFlag::RESPONSE | PacketFlag::TRUNCATION;
        let bytes = reply(NAME, flags, vec![address(NAME, 60)]).build_bytes_vec().unwrap();
        let question = Question::new(7, NAME, TYPE::A).unwrap();
        for end in question.bytes().len()..bytes.len() {
            let answer = question.answered(&bytes[..end]).unwrap().unwrap();
            assert!(answer.truncated && answer.addresses.is_empty());
        }
        assert!(question.answered(&bytes).unwrap().unwrap().truncated);
    }
}
