//! A load generator: closed loop over keep-alive connections, every reply verified.
//!
//!     load PORT [--path P] [--model M] [--connections N] [--seconds S | --requests N]
//!          [--stream] [--gap-us N] [--hold] [--pace-us N]
//!
//! Prints one line of JSON: requests, errors, seconds, requests per second, and microseconds to the
//! head, the first event and the end as p50 and p99. With `--hold` each connection makes one
//! request; when all were answered (streams: when their first event came) a line `held` is printed,
//! and everything stays as it is until standard input closes; then the streams are read to their end.
//! `--pace-us` is the pause behind each exchange of a connection: 0 as a rule; with `--hold`, where
//! whole replies come one after the other, 5000. Streams that are held begin one after the other
//! where it is said, and all at once where it is not.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

/// What to do, from the command line.
#[derive(Clone)]
struct Plan {
    port: u16,
    path: String,
    model: String,
    connections: usize,
    seconds: u64,
    requests: usize,
    stream: bool,
    gap_us: u64,
    hold: bool,
    pace: Option<Duration>,
}

impl Plan {
    /// Held connections begin one after the other.
    fn takes_turns(&self) -> bool {
        self.hold && !(self.stream && self.pace.is_none())
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    first_us: Vec<u32>,
    whole_us: Vec<u32>,
    errors: usize,
    why: Option<String>,
}

fn main() -> io::Result<()> {
    let plan = Arc::new(plan()?);
    let gate = Arc::new(Barrier::new(plan.connections + 1));
    let taken = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..plan.connections)
        .map(|_| {
            let (plan, gate, taken) = (Arc::clone(&plan), Arc::clone(&gate), Arc::clone(&taken));
            let thread = std::thread::Builder::new().stack_size(128 * 1024);
            thread.spawn(move || run(&plan, &gate, &taken))
        })
        .collect::<io::Result<_>>()?;
    gate.wait();
    let begun = Instant::now();
    if plan.hold {
        gate.wait();
        println!("held");
        io::stdout().flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
        gate.wait();
    }
    let mut all = Seen::default();
    for thread in threads {
        let seen = thread.join().map_err(|_| io::Error::other("a connection's thread panicked"))?;
        all.first_us.extend(seen.first_us);
        all.whole_us.extend(seen.whole_us);
        all.errors += seen.errors;
        all.why = all.why.or(seen.why);
    }
    report(&mut all, begun.elapsed());
    Ok(())
}

fn plan() -> io::Result<Plan> {
    let mut words = std::env::args().skip(1);
    let mut plan = Plan {
        port: 0,
        path: "/v1/chat/completions".to_owned(),
        model: "gpt-4.1-mini".to_owned(),
        connections: 32,
        seconds: 5,
        requests: usize::MAX,
        stream: false,
        gap_us: 0,
        hold: false,
        pace: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| io::Error::other(format!("{word} what?")));
        match word.as_str() {
            "--path" => plan.path = value()?,
            "--model" => plan.model = value()?,
            "--connections" => plan.connections = number(&value()?)?,
            "--seconds" => plan.seconds = number(&value()?)? as u64,
            "--requests" => plan.requests = number(&value()?)?,
            "--gap-us" => plan.gap_us = number(&value()?)? as u64,
            "--pace-us" => plan.pace = Some(Duration::from_micros(number(&value()?)? as u64)),
            "--stream" => plan.stream = true,
            "--hold" => plan.hold = true,
            port => plan.port = number(port)? as u16,
        }
    }
    Ok(plan)
}

fn number(word: &str) -> io::Result<usize> {
    word.parse().map_err(|_| io::Error::other(format!("{word:?} is no number")))
}

fn run(plan: &Plan, gate: &Barrier, taken: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    let request = request(plan);
    // Who waits for his turn connects when it comes, since nobody is kept who says nothing.
    let mut connection = match plan.takes_turns() {
        true => Err(io::ErrorKind::NotConnected.into()),
        false => Connection::open(plan.port),
    };
    gate.wait();
    if plan.hold {
        hold(plan, gate, &request, &mut connection, &mut seen);
        return seen;
    }
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end && taken.fetch_add(1, Ordering::Relaxed) < plan.requests {
        let outcome = connection.as_mut().map_err(|why| io::Error::other(why.to_string()));
        match outcome.and_then(|open| open.exchange(&request, plan.stream)) {
            Ok((first, whole)) => {
                seen.first_us.push(first);
                seen.whole_us.push(whole);
                std::thread::sleep(plan.pace.unwrap_or_default());
            }
            Err(why) => {
                seen.errors += 1;
                seen.why.get_or_insert(why.to_string());
                connection = Connection::open(plan.port);
            }
        }
    }
    seen
}

/// Whole replies of held connections come one after the other, two hundred a second as a rule: what
/// is measured is the connections that are left, and not what a crowd at once would leave behind.
static TURN: Mutex<()> = Mutex::new(());
const TURN_PAUSE: Duration = Duration::from_millis(5);

/// One request; then everybody waits together, and streams are read to their end afterwards.
fn hold(
    plan: &Plan,
    gate: &Barrier,
    request: &[u8],
    connection: &mut io::Result<Connection>,
    seen: &mut Seen,
) {
    let turn = if plan.takes_turns() { TURN.lock().ok() } else { None };
    if turn.is_some() {
        *connection = Connection::open(plan.port);
    }
    let begun = Instant::now();
    let mut outcome = match connection {
        Ok(open) => open.begin(request, plan.stream),
        Err(why) => Err(io::Error::other(why.to_string())),
    };
    seen.first_us.push(micros(begun));
    if turn.is_some() {
        std::thread::sleep(plan.pace.unwrap_or(TURN_PAUSE));
    }
    drop(turn);
    gate.wait();
    gate.wait();
    if let (Ok(open), Ok(()), true) = (connection, &outcome, plan.stream) {
        outcome = open.finish(true);
    }
    if let Err(why) = outcome {
        seen.errors += 1;
        seen.why.get_or_insert(why.to_string());
    }
    seen.whole_us.push(micros(begun));
}

fn request(plan: &Plan) -> Vec<u8> {
    let body = format!(
        "{{\"model\":\"{}\",\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful \
         assistant.\"}},{{\"role\":\"user\",\"content\":\"Say hello in one short sentence.\"}}],\
         \"temperature\":0.7,\"stream\":{},\"gap_us\":{}}}",
        plan.model, plan.stream, plan.gap_us
    );
    format!(
        "POST {} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer sk-admin-1\r\n\
         content-type: application/json\r\naccept: application/json\r\nuser-agent: load/1\r\n\
         content-length: {}\r\n\r\n{body}",
        plan.path,
        body.len()
    )
    .into_bytes()
}

struct Connection {
    stream: TcpStream,
    /// The reply so far, head and framing included.
    held: Vec<u8>,
    head_end: usize,
}

impl Connection {
    fn open(port: u16) -> io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Connection { stream, held: Vec::with_capacity(16 * 1024), head_end: 0 })
    }

    /// A request and its whole reply: microseconds to the first event (whole: to the head) and to
    /// the end.
    fn exchange(&mut self, request: &[u8], stream: bool) -> io::Result<(u32, u32)> {
        let begun = Instant::now();
        self.begin(request, stream)?;
        let first = micros(begun);
        self.finish(stream)?;
        Ok((first, micros(begun)))
    }

    /// Sends and reads to the first event, or to the end of a reply that is no stream.
    fn begin(&mut self, request: &[u8], stream: bool) -> io::Result<()> {
        self.held.clear();
        self.stream.write_all(request)?;
        self.head_end = self.read_until(0, b"\r\n\r\n")?;
        if !self.held.starts_with(b"HTTP/1.1 200 ") {
            let head = String::from_utf8_lossy(&self.held).into_owned();
            return Err(io::Error::other(head));
        }
        if stream {
            self.read_until(self.head_end, b"\n\n")?;
            return Ok(());
        }
        self.finish(false)
    }

    /// Reads to the end of the reply and looks whether it is the right one.
    fn finish(&mut self, stream: bool) -> io::Result<()> {
        if stream {
            self.read_until(self.head_end, b"\r\n0\r\n\r\n")?;
            let body = &self.held[self.head_end..];
            let events = count(body, b"data: ");
            if events != 20 || count(body, b"[DONE]") != 1 {
                return Err(io::Error::other(format!("{events} events")));
            }
            return Ok(());
        }
        let head = String::from_utf8_lossy(&self.held[..self.head_end]).to_ascii_lowercase();
        match head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()) {
            Some(length) => {
                let end = self.head_end + number(length)?;
                while self.held.len() < end {
                    self.read_some()?;
                }
            }
            None => {
                self.read_until(self.head_end, b"\r\n0\r\n\r\n")?;
            }
        }
        if count(&self.held[self.head_end..], b"\"choices\"") != 1 {
            return Err(io::Error::other("not the reply that was asked for"));
        }
        Ok(())
    }

    fn read_until(&mut self, from: usize, part: &[u8]) -> io::Result<usize> {
        let mut searched = from;
        loop {
            let found = self.held[searched..].windows(part.len()).position(|window| window == part);
            if let Some(at) = found {
                return Ok(searched + at + part.len());
            }
            searched = self.held.len().saturating_sub(part.len() - 1).max(from);
            self.read_some()?;
        }
    }

    fn read_some(&mut self) -> io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.held.extend_from_slice(&buffer[..count]);
                Ok(())
            }
        }
    }
}

fn micros(begun: Instant) -> u32 {
    u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX)
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack.windows(needle.len()).filter(|window| *window == needle).count()
}

fn report(all: &mut Seen, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64();
    let requests = all.whole_us.len();
    let why = all.why.take().unwrap_or_default().replace(['"', '\\', '\r', '\n'], " ");
    println!(
        "{{\"requests\":{requests},\"errors\":{},\"seconds\":{seconds:.3},\"rps\":{:.0},\
         \"first_p50_us\":{},\"first_p99_us\":{},\"p50_us\":{},\"p99_us\":{},\"why\":\"{why}\"}}",
        all.errors,
        requests as f64 / seconds,
        percentile(&mut all.first_us, 50),
        percentile(&mut all.first_us, 99),
        percentile(&mut all.whole_us, 50),
        percentile(&mut all.whole_us, 99),
    );
}

fn percentile(values: &mut [u32], percent: usize) -> u32 {
    values.sort_unstable();
    values
        .get((values.len() * percent / 100).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0)
}
