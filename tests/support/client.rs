//! A client that sends exactly the bytes it is told to, and reads replies with suspicion.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use serde_json::Value;

use super::DEADLINE;

/// One connection to the gateway.
pub struct Client {
    stream: TcpStream,
    /// Bytes that came and were not asked for yet.
    held: Vec<u8>,
    /// The next reply has no body, whatever its head says.
    head_only: bool,
}

/// A reply, or what there was of it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// Interim answers (100, 103) that came before.
    pub interim: Vec<u16>,
    /// The body came to the end that its framing announced. False: the connection broke.
    pub complete: bool,
}

impl Reply {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|why| panic!("{why} in the body of {}: {}", self.status, self.text()))
    }

    /// The JSON of each `data:` line of an event stream, `[DONE]` left out.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let text = self.text();
        text.split(['\n', '\r'])
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim)
            .filter(|data| *data != "[DONE]" && !data.is_empty())
            .map(|data| serde_json::from_str(data).unwrap_or_else(|why| panic!("{why}: {data}")))
            .collect()
    }

    /// True when the sender said that it closes the connection.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The message of the error body of any dialect.
    #[track_caller]
    pub fn error_message(&self) -> String {
        let body = self.json();
        let error = if body.is_array() { &body[0]["error"] } else { &body["error"] };
        let message = error["message"].as_str();
        message.unwrap_or_else(|| panic!("no error.message in {body}")).to_owned()
    }
}

impl Client {
    /// Connects to a port of 127.0.0.1.
    pub fn try_connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream, held: Vec::new(), head_only: false })
    }

    /// Sends bytes. A peer that has closed already is found out by reading, so it is no error here.
    pub fn send(&mut self, bytes: &[u8]) {
        self.head_only = bytes.starts_with(b"HEAD ");
        let _ = self.stream.write_all(bytes);
    }

    /// Sends more of the same request.
    pub fn send_more(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends the bytes one by one, each in a packet of its own.
    pub fn send_bytewise(&mut self, bytes: &[u8]) {
        self.head_only = bytes.starts_with(b"HEAD ");
        for byte in bytes {
            let _ = self.stream.write_all(&[*byte]);
        }
    }

    /// Sends and reads the reply.
    #[track_caller]
    pub fn ask(&mut self, bytes: &[u8]) -> Reply {
        self.send(bytes);
        match self.reply() {
            Ok(reply) => reply,
            Err(why) => panic!("no reply: {why}; held: {:?}", String::from_utf8_lossy(&self.held)),
        }
    }

    /// Reads a reply to its end, or to the place where it broke.
    pub fn reply(&mut self) -> io::Result<Reply> {
        let mut reply = self.head()?;
        if self.has_no_body(&reply) {
            reply.complete = true;
        } else if is_chunked(&reply) {
            while let Some(piece) = self.chunk_or_break()? {
                match piece {
                    Chunk::Data(bytes) => reply.body.extend(bytes),
                    Chunk::Last => {
                        reply.complete = true;
                        break;
                    }
                }
            }
        } else if let Some(length) = content_length(&reply) {
            self.fill_to(length)?;
            let count = length.min(self.held.len());
            reply.body = self.held.drain(..count).collect();
            reply.complete = reply.body.len() == length;
        } else {
            reply.complete = self.fill_to(usize::MAX).is_ok();
            reply.body = std::mem::take(&mut self.held);
        }
        Ok(reply)
    }

    fn has_no_body(&self, reply: &Reply) -> bool {
        self.head_only || matches!(reply.status, 204 | 304)
    }

    /// Reads the head of the next final reply; its body is empty yet.
    pub fn head(&mut self) -> io::Result<Reply> {
        let mut interim = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = find(&self.held, b"\r\n\r\n") {
                    break at + 4;
                }
                if self.read_some()? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            let head: Vec<u8> = self.held.drain(..end).collect();
            let reply = parse_head(&head)?;
            if (100..200).contains(&reply.status) && reply.status != 101 {
                interim.push(reply.status);
            } else {
                return Ok(Reply { interim, ..reply });
            }
        }
    }

    /// The data of the next chunk of a chunked body; `None` after the last one. A broken
    /// connection is an error.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.chunk_or_break()? {
            Some(Chunk::Data(bytes)) => Ok(Some(bytes)),
            Some(Chunk::Last) => Ok(None),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Reads chunks until `part` has come, and returns all that came.
    #[track_caller]
    pub fn chunks_until(&mut self, part: &str) -> Vec<u8> {
        let mut body = Vec::new();
        while find(&body, part.as_bytes()).is_none() {
            match self.chunk() {
                Ok(Some(bytes)) => body.extend(bytes),
                other => panic!("{other:?} before {part:?}: {}", String::from_utf8_lossy(&body)),
            }
        }
        body
    }

    fn chunk_or_break(&mut self) -> io::Result<Option<Chunk>> {
        let line_end = loop {
            if let Some(at) = find(&self.held, b"\r\n") {
                break at;
            }
            if self.read_or_break()? == 0 {
                return Ok(None);
            }
        };
        let line = String::from_utf8_lossy(&self.held[..line_end]).into_owned();
        let digits = line.split(';').next().unwrap_or("").trim();
        let size = usize::from_str_radix(digits, 16)
            .map_err(|_| io::Error::other(format!("chunk line {line:?}")))?;
        let needed = line_end + 2 + size + 2;
        while self.held.len() < needed {
            if self.read_or_break()? == 0 {
                // What came of a broken chunk still belongs to the body.
                let data = self.held.split_off((line_end + 2).min(self.held.len()));
                self.held.clear();
                return Ok((!data.is_empty()).then_some(Chunk::Data(data)));
            }
        }
        let data = self.held[line_end + 2..needed - 2].to_vec();
        let tail = self.held[needed - 2..needed].to_vec();
        self.held.drain(..needed);
        if tail != b"\r\n" {
            return Err(io::Error::other("chunk data is not followed by CRLF"));
        }
        Ok(Some(if size == 0 { Chunk::Last } else { Chunk::Data(data) }))
    }

    /// Reads raw bytes until the other side closes or resets the connection.
    pub fn read_to_close(&mut self) -> Vec<u8> {
        while self.read_some().is_ok_and(|count| count > 0) {}
        std::mem::take(&mut self.held)
    }

    /// Reads exactly so many raw bytes, or fewer when the connection ends before.
    pub fn read_raw(&mut self, count: usize) -> Vec<u8> {
        while self.held.len() < count && self.read_some().is_ok_and(|read| read > 0) {}
        let count = count.min(self.held.len());
        self.held.drain(..count).collect()
    }

    /// True when the other side has closed the connection and sent nothing more.
    pub fn is_closed(&mut self) -> bool {
        self.held.is_empty() && matches!(self.read_or_break(), Ok(0))
    }

    /// True when nothing comes within the time.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        let _ = self.stream.set_read_timeout(Some(time));
        let outcome = self.read_some();
        let _ = self.stream.set_read_timeout(Some(DEADLINE));
        self.held.is_empty() && outcome.is_err_and(|why| is_timeout(&why))
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn close_write(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        reset(self.stream);
    }

    fn fill_to(&mut self, length: usize) -> io::Result<()> {
        while self.held.len() < length && self.read_or_break()? > 0 {}
        Ok(())
    }

    /// Like `read_some`, with a reset told as an end: both are breaks.
    fn read_or_break(&mut self) -> io::Result<usize> {
        match self.read_some() {
            Err(why) if !is_timeout(&why) => Ok(0),
            other => other,
        }
    }

    fn read_some(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        // A signal says nothing about the connection.
        let count = loop {
            match self.stream.read(&mut buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.held.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

enum Chunk {
    Data(Vec<u8>),
    Last,
}

/// Closes with a reset in place of a polite end.
pub fn reset(stream: TcpStream) {
    // A connection that the peer has reset already cannot be reset again.
    let _ = set_socket_linger(&stream, Some(Duration::ZERO));
    drop(stream);
}

/// A request with `host`, and with `content-length` when it has a body.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nhost: gateway.test\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").into_bytes());
    }
    if !body.is_empty() || method == "POST" {
        bytes.extend(format!("content-length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

/// A POST of JSON with the admin's key.
pub fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let key = format!("Bearer {}", super::config::ADMIN_KEY);
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    request("POST", target, &headers, body.as_ref())
}

/// A chat request with the admin's key.
pub fn chat(model: &str, stream: bool) -> Vec<u8> {
    post("/v1/chat/completions", chat_body(model, stream))
}

/// The body of a chat request.
pub fn chat_body(model: &str, stream: bool) -> String {
    format!(
        r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}],"stream":{stream}}}"#
    )
}

/// Sends bytes on a new connection and reads until the gateway closes it.
pub fn send_raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut client = Client::try_connect(port).expect("a running gateway accepts connections");
    client.send(bytes);
    client.read_to_close()
}

/// Splits raw bytes into the replies they hold. Panics when something is left over.
#[track_caller]
pub fn replies_in(bytes: &[u8]) -> Vec<Reply> {
    let mut rest = bytes;
    let mut replies = Vec::new();
    while let Some(at) = find(rest, b"\r\n\r\n") {
        let mut reply = parse_head(&rest[..at + 4]).expect("the gateway writes heads that parse");
        rest = &rest[at + 4..];
        if is_chunked(&reply) {
            let end = find(rest, b"0\r\n\r\n").expect("a chunked body with its end") + 5;
            (reply.body, rest) = (rest[..end].to_vec(), &rest[end..]);
        } else {
            let end = content_length(&reply).unwrap_or(rest.len()).min(rest.len());
            (reply.body, rest) = (rest[..end].to_vec(), &rest[end..]);
        }
        replies.push(reply);
    }
    assert!(rest.is_empty(), "left over: {:?}", String::from_utf8_lossy(rest));
    replies
}

fn parse_head(head: &[u8]) -> io::Result<Reply> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let bad = || io::Error::other(format!("status line in {text:?}"));
    let mut words = lines.next().ok_or_else(bad)?.splitn(3, ' ');
    words.next().filter(|word| word.starts_with("HTTP/1.")).ok_or_else(bad)?;
    let status = words.next().and_then(|word| word.parse().ok()).ok_or_else(bad)?;
    let mut headers = Vec::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Reply { status, headers, body: vec![], interim: vec![], complete: false })
}

fn is_chunked(reply: &Reply) -> bool {
    reply.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

fn content_length(reply: &Reply) -> Option<usize> {
    reply.header("content-length").and_then(|value| value.parse().ok())
}

fn is_timeout(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Where `needle` stands first.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
