//! The upstream of the comparison: fast, small, and the same for everybody.
//!
//!     mock-upstream WHOLE_PORT STREAM_PORT
//!
//! On the first port may_minihttp answers every request with one chat completion. It cannot stream,
//! so on the second port plain threads answer with a stream of 20 events. What stands in the
//! request's body sets their pace: `"gap_us":1000` waits so long before each event but the first.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use may_minihttp::{HttpServer, HttpService, Request, Response};

const WHOLE: &str = concat!(
    r#"{"id":"chatcmpl-1","object":"chat.completion","created":1744600000,"#,
    r#""model":"gpt-4.1-mini-2025-04-14","choices":[{"index":0,"message":{"role":"assistant","#,
    r#""content":"Hello! How can I help you today?"},"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}"#
);

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";

/// Events of a stream, `[DONE]` included.
const EVENTS: usize = 20;

#[derive(Clone)]
struct Whole;

impl HttpService for Whole {
    fn call(
        &mut self,
        request: Request<'_, '_, '_>,
        response: &mut Response<'_>,
    ) -> io::Result<()> {
        // The body is read when it is dropped; nobody looks at it.
        drop(request.body());
        response.header("Content-Type: application/json");
        response.body(WHOLE);
        Ok(())
    }
}

fn main() -> io::Result<()> {
    let ports: Vec<u16> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [whole, stream] = ports[..] else {
        return Err(io::Error::other("usage: mock-upstream WHOLE_PORT STREAM_PORT"));
    };
    may::config().set_workers(1);
    let server = HttpServer(Whole).start(("127.0.0.1", whole))?;
    let listener = TcpListener::bind(("127.0.0.1", stream))?;
    for connection in listener.incoming() {
        let connection = connection?;
        let thread = std::thread::Builder::new().stack_size(64 * 1024);
        thread.spawn(move || {
            // A connection that breaks is the client's affair.
            let _ = serve(connection);
        })?;
    }
    server.join().map_err(|_| io::Error::other("the server ended"))
}

fn serve(mut connection: TcpStream) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let mut held = Vec::new();
    while let Some(gap) = read_request(&mut connection, &mut held)? {
        connection.write_all(STREAM_HEAD)?;
        for number in 0..EVENTS {
            if number > 0 && !gap.is_zero() {
                std::thread::sleep(gap);
            }
            let event = event(number);
            connection.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        }
        connection.write_all(b"0\r\n\r\n")?;
    }
    Ok(())
}

fn event(number: usize) -> String {
    if number == EVENTS - 1 {
        return "data: [DONE]\n\n".to_owned();
    }
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1744600000,\
         \"model\":\"gpt-4.1-mini-2025-04-14\",\"choices\":[{{\"index\":0,\"delta\":\
         {{\"content\":\" word {number}\"}},\"finish_reason\":null}}]}}\n\n"
    )
}

/// Reads a request with a `content-length` and returns the pace that it asks for.
fn read_request(connection: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<Option<Duration>> {
    let end = loop {
        if let Some(at) = find(held, b"\r\n\r\n") {
            break at + 4;
        }
        if !read_some(connection, held)? {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
    let length = number_after(&head, "content-length: ").unwrap_or(0) as usize;
    while held.len() < end + length {
        if !read_some(connection, held)? {
            return Ok(None);
        }
    }
    let body = String::from_utf8_lossy(&held[end..end + length]).into_owned();
    held.drain(..end + length);
    Ok(Some(Duration::from_micros(number_after(&body, "\"gap_us\":").unwrap_or(0))))
}

fn read_some(connection: &mut TcpStream, held: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let count = connection.read(&mut buffer)?;
    held.extend_from_slice(&buffer[..count]);
    Ok(count > 0)
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let digits = &text[text.find(key)? + key.len()..];
    let end = digits.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
