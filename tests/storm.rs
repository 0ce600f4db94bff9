//! Connections that are reset at random places, by clients and by the upstream: afterwards nothing
//! is stuck, every gauge is at zero and every worker serves.
//!
//! 10,000 connections for each number of workers by default, 100,000 with `SLOW=1`.

use std::thread;
use std::time::Duration;

use crate::support;
use crate::support::client::{chat, chat_body};
use crate::support::vendor::{chat_stream, dated};
use crate::support::{
    ADMIN_KEY, Client, Config, Conn, Gateway, Random, Seen, Upstream, size, wait_for,
};

const CLIENT_THREADS: usize = 32;

/// Gauges that come back to zero when nobody is there but the connection that asks.
const GAUGES: [(&str, f64); 7] = [
    ("gproxy_connections", 1.0),
    ("gproxy_requests_in_flight", 1.0),
    ("gproxy_upstream_in_flight", 0.0),
    ("gproxy_held_bytes", 0.0),
    ("gproxy_coroutines", 1.0),
    ("gproxy_places_taken", 0.0),
    ("gproxy_spools", 0.0),
];

/// The upstream's part: what it does stands in the model's name.
fn misbehave(conn: &mut Conn, seen: &Seen) {
    let model = seen.json()["model"].as_str().unwrap_or("").to_owned();
    let Some(seed) = model.strip_prefix("storm-").and_then(|seed| seed.parse().ok()) else {
        return support::vendor::answer(conn, seen);
    };
    let mut random = Random::new(seed);
    let stream = chat_stream(&dated(&model), true);
    let whole = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
         {:x}\r\n{stream}\r\n0\r\n\r\n",
        stream.len()
    );
    match random.below(10) {
        0 => conn.reset(),
        1 => conn.cut(),
        2 => {
            conn.wait_closed();
        }
        3..6 => {
            let bytes = &whole.as_bytes()[..random.below(whole.len())];
            conn.raw_in_pieces(bytes, 1 + random.below(400));
            conn.break_off(random.below(2) == 0);
        }
        _ => {
            conn.raw_in_pieces(whole.as_bytes(), 1 + random.below(800));
        }
    }
}

/// The client's part: one connection with one to three requests, left at a random place.
fn rampage(port: u16, seed: u64) {
    let mut random = Random::new(seed);
    let Ok(mut client) = Client::try_connect(port) else { return };
    for _ in 0..=random.below(3) {
        let bytes = storm_request(&mut random);
        match random.below(8) {
            0 => {
                client.send(&bytes[..random.below(bytes.len())]);
                return client.reset();
            }
            1 => {
                client.send(&bytes);
                return client.reset();
            }
            2 => {
                client.send(&bytes);
                client.is_silent(Duration::from_millis(100));
                return client.reset();
            }
            3 => {
                client.send(&bytes[..random.below(bytes.len())]);
                return drop(client);
            }
            4 => {
                client.send(&bytes);
                client.is_silent(Duration::from_millis(random.below(20) as u64 + 1));
                return drop(client);
            }
            _ => {
                client.send(&bytes);
                // Upstreams that say nothing are left after a while, as an impatient user does.
                if client.is_silent(Duration::from_millis(300)) {
                    return client.reset();
                }
                if !client.reply().is_ok_and(|reply| reply.complete && !reply.closes()) {
                    return client.reset();
                }
            }
        }
    }
    client.reset();
}

fn storm_request(random: &mut Random) -> Vec<u8> {
    let seed = random.below(1 << 30);
    let body = chat_body(&format!("openai-main/storm-{seed}"), random.below(4) > 0);
    if random.below(4) > 0 {
        return support::client::post("/v1/chat/completions", body);
    }
    let (left, right) = body.split_at(random.below(body.len() - 1) + 1);
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {ADMIN_KEY}\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{left}\r\n{:x}\r\n{right}\r\n0\r\n\r\n",
        left.len(),
        right.len()
    )
    .into_bytes()
}

fn storm(workers: usize) {
    let connections = size(10_000, 100_000);
    let upstream = Upstream::answering(misbehave);
    let gateway = Gateway::start(&Config::to(&upstream).workers(workers).text());
    let port = gateway.port;
    let threads: Vec<_> = (0..CLIENT_THREADS)
        .map(|thread| {
            thread::spawn(move || {
                for number in 0..connections / CLIENT_THREADS {
                    rampage(port, (number * CLIENT_THREADS + thread) as u64 + 1);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("a client of the storm never panics");
    }
    let (requests, calls) = (gateway.gauge("gproxy_requests_total"), upstream.count());
    eprintln!("{connections} connections, {requests} requests, {calls} calls of the upstream");
    assert!(calls > connections / 4, "the storm was a breeze: {calls} calls");
    for (name, most) in GAUGES {
        wait_for(&format!("{name} to come down to {most}"), || {
            (gateway.gauge(name) <= most).then_some(())
        });
    }
    // Far more connections than workers, all held open: each worker has its share of them.
    let mut clients: Vec<Client> = (0..16 * workers).map(|_| gateway.connect()).collect();
    for round in 0..3 {
        for client in &mut clients {
            let reply = client.ask(&chat("openai-main/gpt-4.1-mini", round % 2 == 0));
            assert_eq!((reply.status, reply.complete), (200, true), "{}", reply.text());
        }
    }
    drop(clients);
    let lines = gateway.stderr();
    let panics = lines.iter().filter(|line| line.contains("panic")).count();
    assert_eq!(panics, 0, "{:?}", lines.iter().find(|line| line.contains("panic")));
    assert!(gateway.stop().success());
}

#[test]
fn resets_leave_nothing_behind_with_two_workers() {
    storm(2);
}

#[test]
fn resets_leave_nothing_behind_with_four_workers() {
    storm(4);
}
