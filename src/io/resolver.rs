//! Host names to addresses without blocking a worker.
//!
//! A stub resolver on worker sockets: literals, the hosts file, then DNS over UDP with TCP for
//! answers that do not fit. Answers are kept for their time to live. The C library's resolver is
//! not used: it blocks its thread, and in a static binary it may try to load the host's modules.
//! Files are read by [`load`] on an OS thread only.

pub(crate) mod answer;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use ring::rand::SecureRandom;
use simple_dns::TYPE;
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;

use crate::failure::{Cause, Phase};
use crate::io::transport::{self, NextTimeout, ResolvedSocketAddrs, Resolver};
use crate::io::watch::Watch;
use crate::io::worker::Sock;
use answer::{Answer, Question, TTL_S_MAX};

/// Names that are remembered at once; the table is emptied when it is full.
const CACHE_NAMES_MAX: usize = 1_024;
const TTL_S_MIN: u32 = 1;
/// How long a name that does not exist is not asked for again.
const MISSING_FOR: Duration = Duration::from_secs(2);
/// One server's time to answer one question.
const SERVER_WAIT: Duration = Duration::from_millis(1_500);
const DATAGRAM_BYTES_MAX: usize = 1_232;
/// Of one name.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// What the system's files say about names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    hosts: HashMap<String, Vec<IpAddr>>,
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    dots_min: usize,
}

impl Files {
    /// Reads the texts of `/etc/hosts` and `/etc/resolv.conf`.
    pub fn parse(hosts: &str, resolv_conf: &str) -> Files {
        let mut files = Files { dots_min: 1, ..Files::default() };
        for line in hosts.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
            for name in words {
                files.hosts.entry(name.to_ascii_lowercase()).or_default().push(address);
            }
        }
        for line in resolv_conf.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                    files.servers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => files.search = words.map(str::to_owned).collect(),
                Some("options") => {
                    let dots = words.find_map(|word| word.strip_prefix("ndots:")?.parse().ok());
                    files.dots_min = dots.unwrap_or(files.dots_min).min(15);
                }
                _ => {}
            }
        }
        if files.servers.is_empty() {
            files.servers.push(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 53));
        }
        files.servers.truncate(3);
        files.search.truncate(6);
        files
    }

    /// The names to ask for, in order: a short name is tried in the search domains first.
    fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let mut names: Vec<String> =
            self.search.iter().map(|domain| format!("{host}.{domain}")).collect();
        let dots = host.bytes().filter(|byte| *byte == b'.').count();
        let at = if dots >= self.dots_min { 0 } else { names.len() };
        names.insert(at, host.to_owned());
        names
    }
}

struct Known {
    until: Instant,
    addresses: Vec<IpAddr>,
}

/// One for the process: files and remembered answers.
#[derive(Default)]
struct Names {
    files: RwLock<Arc<Files>>,
    known: Mutex<HashMap<String, Known>>,
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(Names::default)
}

/// Reads the system's files again. Blocks: call it on an OS thread.
pub fn load() {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let resolv_conf = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let files = Files::parse(&hosts, &resolv_conf);
    if **names().files.read() != files {
        *names().files.write() = Arc::new(files);
        names().known.lock().clear();
    }
}

/// The resolver that ureq is given.
#[derive(Debug)]
pub struct Stub;

impl Resolver for Stub {
    fn resolve(&self, uri: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let authority = uri.authority().ok_or(Error::HostNotFound)?;
        let port = authority.port_u16().unwrap_or(match uri.scheme_str() {
            Some("https") => 443,
            _ => 80,
        });
        let host = bare(authority.host());
        let watch = Watch::current().ok_or(Error::HostNotFound)?;
        watch.enter(Phase::Resolve);
        let addresses = look_up(host, &watch).map_err(|cause| {
            watch.died(cause);
            Error::HostNotFound
        })?;
        let mut resolved = self.empty();
        for address in addresses.into_iter().take(ADDRESSES_MAX) {
            resolved.push(SocketAddr::new(address, port));
        }
        Ok(resolved)
    }
}

/// The host of an authority: an address of version 6 without its brackets.
pub fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

/// The addresses of `host`, IPv4 first.
pub fn look_up(host: &str, watch: &Watch) -> Result<Vec<IpAddr>, Cause> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![address]);
    }
    let host = host.to_ascii_lowercase();
    let files = names().files.read().clone();
    if let Some(addresses) = files.hosts.get(host.trim_end_matches('.')) {
        return Ok(addresses.clone());
    }
    if host == "localhost" {
        return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }
    if let Some(known) = names().known.lock().get(&host)
        && known.until > Instant::now()
    {
        let addresses = known.addresses.clone();
        return if addresses.is_empty() { Err(Cause::NoSuchHost) } else { Ok(addresses) };
    }
    let (addresses, life) = ask_all(&files, &host, watch)?;
    let mut known = names().known.lock();
    if known.len() >= CACHE_NAMES_MAX {
        known.clear();
    }
    let until = Instant::now() + life;
    known.insert(host, Known { until, addresses: addresses.clone() });
    if addresses.is_empty() { Err(Cause::NoSuchHost) } else { Ok(addresses) }
}

/// Asks for every candidate name until one has addresses. No address and no error: there is none.
fn ask_all(files: &Files, host: &str, watch: &Watch) -> Result<(Vec<IpAddr>, Duration), Cause> {
    first_known(files.candidates(host), |name, record| ask(files, name, record, watch))
}

/// The addresses of the first name that has some, of either family.
fn first_known(
    names: Vec<String>,
    mut ask: impl FnMut(&str, TYPE) -> Result<Answer, Cause>,
) -> Result<(Vec<IpAddr>, Duration), Cause> {
    // A search domain whose servers fail says nothing about the names behind it.
    let mut first = None;
    for name in names {
        let mut addresses = Vec::new();
        let mut ttl_s = TTL_S_MAX;
        let mut answered = false;
        let mut failed = None;
        for record in [TYPE::A, TYPE::AAAA] {
            match ask(&name, record) {
                Ok(answer) => {
                    answered = true;
                    ttl_s = ttl_s.min(answer.ttl_s);
                    addresses.extend(answer.addresses);
                }
                Err(cause) if is_final(cause) => return Err(cause),
                // The answer of the other family stands for the name, be it that there is none.
                Err(Cause::TimedOut) if answered => {}
                Err(cause) => failed = failed.or(Some(cause)),
            }
        }
        if !addresses.is_empty() {
            let life = Duration::from_secs(u64::from(ttl_s.max(TTL_S_MIN)));
            return Ok((addresses, life));
        }
        // The family that failed may be the one that it has.
        first = first.or(failed);
    }
    first.map_or(Ok((Vec::new(), MISSING_FOR)), Err)
}

/// Nobody waits for an answer any more.
fn is_final(cause: Cause) -> bool {
    matches!(cause, Cause::DownstreamGone | Cause::ShuttingDown | Cause::Overtaken)
}

/// Asks each server in turn for one record type.
fn ask(files: &Files, name: &str, record: TYPE, watch: &Watch) -> Result<Answer, Cause> {
    let mut last = Cause::NoSuchHost;
    for server in &files.servers {
        let mut id = [0; 2];
        ring::rand::SystemRandom::new().fill(&mut id).map_err(|_| Cause::NoSuchHost)?;
        let id = u16::from_be_bytes(id);
        let question = Question::new(id, name, record).ok_or(Cause::NoSuchHost)?;
        let answer = match over_udp(*server, &question, watch) {
            Ok(answer) if answer.truncated => over_tcp(*server, &question, watch),
            other => other,
        };
        match answer {
            Ok(answer) => return Ok(answer),
            Err(cause) if is_final(cause) => return Err(cause),
            Err(cause) => last = cause,
        }
    }
    Err(last)
}

/// A server that cannot be asked.
fn lost(error: &io::Error) -> Cause {
    match transport::cause_of(error) {
        Cause::Exhausted => Cause::Exhausted,
        _ => Cause::NoSuchHost,
    }
}

fn over_udp(server: SocketAddr, question: &Question, watch: &Watch) -> Result<Answer, Cause> {
    let mut sock = Sock::datagram(server, watch.worker).map_err(|error| lost(&error))?;
    let until = watch.deadline().min(Instant::now() + SERVER_WAIT);
    let wait = watch.wait_until(until)?;
    sock.write(question.bytes(), wait).map_err(|_| Cause::NoSuchHost)?;
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        match sock.read(&mut datagram, watch.wait_until(until)?) {
            Ok(count) => {
                // A datagram that does not fit the question is somebody else's: wait on.
                if let Some(answer) = question.answered(&datagram[..count]) {
                    return answer;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(_) => return Err(Cause::NoSuchHost),
        }
    }
}

fn over_tcp(server: SocketAddr, question: &Question, watch: &Watch) -> Result<Answer, Cause> {
    let until = watch.deadline().min(Instant::now() + SERVER_WAIT);
    let mut sock = Sock::connect(server, watch.worker).map_err(|error| lost(&error))?;
    while !sock.is_connected(watch.wait_until(until)?).map_err(|_| Cause::NoSuchHost)? {}
    let query = question.bytes();
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    let mut done = 0;
    while done < framed.len() {
        let wait = watch.wait_until(until)?;
        done += sock.write(&framed[done..], wait).map_err(|_| Cause::NoSuchHost)?;
    }
    let mut reply = Vec::new();
    let mut part = vec![0; 4_096];
    loop {
        if let Some((length, rest)) = reply.split_first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            if rest.len() >= length {
                let answer =
                    question.answered(&rest[..length]).unwrap_or(Err(Cause::NoSuchHost))?;
                // What is too long for TCP is nothing.
                let is_known = !answer.truncated || !answer.addresses.is_empty();
                return is_known.then_some(answer).ok_or(Cause::NoSuchHost);
            }
        }
        match sock.read(&mut part, watch.wait_until(until)?) {
            Ok(0) => return Err(Cause::NoSuchHost),
            Ok(count) => reply.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            Err(_) => return Err(Cause::NoSuchHost),
        }
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_servers_are_read_from_the_system_files() {
        let files = Files::parse(
            "127.0.0.1 localhost\n# comment\n10.0.0.7  vLLM vllm.local # gpu\n::1 localhost\nbad",
            "search svc.cluster.local cluster.local\nnameserver 10.0.0.10\nnameserver fd00::1\n\
             options timeout:1 ndots:5\n",
        );
        assert_eq!(files.hosts["vllm"], vec!["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(files.hosts["localhost"].len(), 2);
        assert_eq!(files.servers.len(), 2);
        assert_eq!(files.dots_min, 5);
        assert_eq!(
            files.candidates("vllm.ns"),
            ["vllm.ns.svc.cluster.local", "vllm.ns.cluster.local", "vllm.ns"]
        );
        assert_eq!(files.candidates("api.openai.com."), ["api.openai.com"]);
    }

    #[test]
    fn an_empty_system_asks_the_local_server() {
        let files = Files::parse("", "");
        assert_eq!(files.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(files.candidates("a.b"), ["a.b"]);
    }

    /// What comes of one name whose families are answered like this.
    fn known(a: Result<&str, Cause>, aaaa: Result<&str, Cause>) -> Result<Vec<String>, Cause> {
        let known = first_known(vec!["example.test".to_owned()], |_, record| {
            let text = if record == TYPE::A { a? } else { aaaa? };
            let addresses = text.parse().into_iter().collect();
            Ok(Answer { addresses, ttl_s: 60, truncated: false })
        });
        known.map(|(addresses, _)| addresses.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn a_search_domain_that_fails_leaves_the_names_behind_it() {
        let names = || vec!["a.test.internal".to_owned(), "a.test".to_owned()];
        let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let found = first_known(names(), |name, record| match (name, record) {
            ("a.test", TYPE::A) => {
                Ok(Answer { addresses: addresses.clone(), ttl_s: 9, truncated: false })
            }
            _ => Err(Cause::TimedOut),
        });
        assert_eq!(found.map(|(addresses, _)| addresses), Ok(addresses.clone()));
        let failed = first_known(names(), |name, _| match name {
            "a.test" => Ok(Answer { addresses: Vec::new(), ttl_s: 9, truncated: false }),
            _ => Err(Cause::Exhausted),
        });
        assert_eq!(failed, Err(Cause::Exhausted));
    }

    #[test]
    fn one_family_is_enough_when_the_other_fails() {
        for cause in [Cause::NoSuchHost, Cause::TimedOut, Cause::Exhausted] {
            assert_eq!(known(Ok("192.0.2.1"), Err(cause)), Ok(vec!["192.0.2.1".to_owned()]));
            assert_eq!(known(Err(cause), Ok("2001:db8::1")), Ok(vec!["2001:db8::1".to_owned()]));
            assert_eq!(known(Err(cause), Err(Cause::NoSuchHost)), Err(cause));
            assert_eq!(known(Err(cause), Ok("")), Err(cause));
        }
        assert_eq!(known(Ok(""), Ok("")), Ok(Vec::new()));
        assert_eq!(known(Ok(""), Err(Cause::NoSuchHost)), Err(Cause::NoSuchHost));
        assert_eq!(known(Ok(""), Err(Cause::TimedOut)), Ok(Vec::new()));
        for cause in [Cause::DownstreamGone, Cause::ShuttingDown, Cause::Overtaken] {
            assert_eq!(known(Ok("192.0.2.1"), Err(cause)), Err(cause));
        }
    }
}
