//! Many at once: calls overlap at the upstream, and nobody's slowness is another's problem.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::client::{chat, chat_body, post};
use crate::support::vendor::chat_stream;
use crate::support::{
    ADMIN_KEY, ALICE_KEY, Client, Config, DEADLINE, Gateway, Upstream, request, size, wait_for,
};

const MODEL: &str = "openai-main/gpt-4.1-mini";

/// A place where everybody waits until so many have come.
#[derive(Clone)]
struct Meeting(Arc<(Mutex<usize>, Condvar)>);

impl Meeting {
    fn new() -> Meeting {
        Meeting(Arc::new((Mutex::new(0), Condvar::new())))
    }

    /// Comes in and waits; true when all of them were there at the same time.
    fn join(&self, expected: usize) -> bool {
        let (count, changed) = &*self.0;
        let mut inside = count.lock().expect("never poisoned");
        *inside += 1;
        changed.notify_all();
        let waited = changed.wait_timeout_while(inside, DEADLINE, |inside| *inside < expected);
        waited.is_ok_and(|(inside, _)| *inside >= expected)
    }

    fn count(&self) -> usize {
        *self.0.0.lock().expect("never poisoned")
    }
}

#[test]
fn five_hundred_slow_upstream_calls_overlap_on_two_workers() {
    const CALLS: usize = 500;
    let meeting = Meeting::new();
    let upstream = Upstream::answering({
        let meeting = meeting.clone();
        move |conn, _| {
            // Nobody is answered before everybody has asked: a worker that waited for one call
            // would wait for ever. Then each takes its half second.
            if meeting.join(CALLS) {
                std::thread::sleep(Duration::from_millis(500));
                conn.whole(200, r#"{"model":"m"}"#);
            }
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).workers(2).text());
    let begun = Instant::now();
    let mut clients: Vec<Client> = (0..CALLS).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(&chat(MODEL, false));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.reply().unwrap_or_else(|why| {
            panic!("call {number}: {why}; {} calls met at the upstream", meeting.count())
        });
        assert_eq!(reply.status, 200, "call {number}: {}", reply.text());
    }
    eprintln!("{CALLS} calls of 500 ms took {:?} together", begun.elapsed());
}

#[test]
fn many_streams_run_side_by_side_without_an_error() {
    let streams = size(400, 2_000);
    let meeting = Meeting::new();
    let upstream = Upstream::answering({
        let meeting = meeting.clone();
        move |conn, _| {
            let body = chat_stream("m", true);
            let middle = body.find("\n\n").expect("an event") + 2;
            conn.stream_head();
            conn.piece(&body[..middle]);
            if meeting.join(streams) {
                conn.piece(&body[middle..]);
                conn.end();
            }
        }
    });
    let gateway = Gateway::start(&Config::to(&upstream).text());
    let mut clients: Vec<Client> = (0..streams).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send(&chat(MODEL, true));
    }
    let expected = chat_stream(MODEL, false);
    for (number, client) in clients.iter_mut().enumerate() {
        let reply = client.reply().unwrap_or_else(|why| panic!("stream {number}: {why}"));
        assert!(reply.complete, "stream {number}");
        assert_eq!(reply.text(), expected, "stream {number}");
    }
    assert_eq!(meeting.count(), streams);
}

#[test]
fn half_sent_requests_and_silent_streams_do_not_hold_up_the_others() {
    let upstream = Upstream::answering(|conn, seen| {
        if seen.json()["model"] == "silent" {
            conn.stream_head();
            conn.wait_closed();
        }
        conn.whole(200, r#"{"model":"m"}"#);
    });
    let gateway = Gateway::start(&Config::to(&upstream).workers(2).text());
    let half = &chat(MODEL, false)[..60];
    let mut slow: Vec<Client> = (0..200).map(|_| gateway.connect()).collect();
    for (number, client) in slow.iter_mut().enumerate() {
        let silent = chat("openai-main/silent", true);
        client.send(if number % 2 == 0 { half } else { silent.as_slice() });
    }
    upstream.wait_for_requests(100);
    let mut client = gateway.connect();
    for _ in 0..100 {
        assert_eq!(client.ask(&chat(MODEL, false)).status, 200);
        assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
    }
}

#[test]
fn answers_never_reach_another_request() {
    let upstream = Upstream::answering(|conn, seen| {
        let echo = seen.json()["mark"].clone();
        conn.whole(200, format!(r#"{{"model":"m","mark":{echo}}}"#));
    });
    let gateway = Gateway::start(&Config::to(&upstream).workers(2).text());
    let port = gateway.port;
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut client = Client::try_connect(port).expect("a running gateway");
                for number in 0..200 {
                    let mark = thread * 1_000 + number;
                    let body = format!(r#"{{"mark":{mark},"model":"{MODEL}"}}"#);
                    let reply = client.ask(&post("/v1/chat/completions", body));
                    assert_eq!(reply.json()["mark"], mark);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("every answer was its own");
    }
}

/// An upstream that answers nobody before the release.
fn holding(release: &Arc<AtomicUsize>) -> Upstream {
    let release = Arc::clone(release);
    Upstream::answering(move |conn, _| {
        wait_for("the release", || (release.load(Ordering::SeqCst) == 1).then_some(()));
        conn.whole(200, r#"{"model":"m"}"#);
    })
}

#[test]
fn requests_past_the_limit_in_flight_are_told_to_come_back() {
    let release = Arc::new(AtomicUsize::new(0));
    let upstream = holding(&release);
    let gateway = Gateway::start(&Config::to(&upstream).limit("in_flight_max = 2").text());
    let mut held: Vec<Client> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut held {
        client.send(&chat(MODEL, false));
    }
    upstream.wait_for_requests(2);
    let mut third = gateway.connect();
    let reply = third.ask(&chat(MODEL, false));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.header("retry-after").is_some());
    assert_eq!(reply.header("x-gproxy-source"), Some("gateway"));
    release.store(1, Ordering::SeqCst);
    for client in &mut held {
        assert_eq!(client.reply().expect("an answer").status, 200);
    }
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
}

#[test]
fn the_most_memory_that_limits_allow_is_told_at_the_start() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).text());
    wait_for("the log to say so", || {
        let told = |line: &String| line.contains("limits allow memory of at most ");
        gateway.stderr().iter().any(told).then_some(())
    });
}

#[test]
fn the_flood_of_one_user_leaves_room_for_another() {
    let release = Arc::new(AtomicUsize::new(0));
    let upstream = holding(&release);
    let gateway = Gateway::start(&Config::to(&upstream).limit("in_flight_max = 8").text());
    let mut flood: Vec<Client> = (0..6).map(|_| gateway.connect()).collect();
    for (count, client) in flood.iter_mut().enumerate() {
        client.send(&chat(MODEL, false));
        upstream.wait_for_requests(count + 1);
    }
    let reply = gateway.connect().ask(&chat(MODEL, false));
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(gateway.gauge("gproxy_places_full_total"), 1.0);
    let mut other = gateway.connect();
    let bearer = format!("Bearer {ALICE_KEY}");
    let body = chat_body(MODEL, false);
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    other.send(&request("POST", "/v1/chat/completions", &fields, body.as_bytes()));
    upstream.wait_for_requests(7);
    release.store(1, Ordering::SeqCst);
    for client in flood.iter_mut().chain([&mut other]) {
        assert_eq!(client.reply().expect("an answer").status, 200);
    }
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
}

#[test]
fn the_bodies_of_one_user_leave_room_for_anothers() {
    const BODY: usize = 200_000;
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream)
        .limit("held_bytes_max = 2097152")
        .limit("body_bytes_max = 1048576")
        .limit("event_bytes_max = 65536");
    let gateway = Gateway::start(&config.text());
    let ask = |key: &str| {
        let bearer = format!("Bearer {key}");
        let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = chat_body(MODEL, false);
        let body = format!("{}{body}", " ".repeat(BODY - body.len()));
        request("POST", "/v1/chat/completions", &fields, body.as_bytes())
    };
    let whole = ask(ADMIN_KEY);
    let (part, last) = whole.split_at(whole.len() - 1);
    let mut flood = Vec::new();
    for _ in 0..12 {
        let before = gateway.gauge("gproxy_held_bytes");
        let mut client = gateway.connect();
        // Who is refused may be told so before all of it was read.
        let _ = client.send_more(part);
        let is_held = wait_for("the body to be held or refused", || {
            let level = gateway.gauge("gproxy_held_bytes");
            let answered = !client.is_silent(Duration::from_millis(20));
            (answered || level >= before + BODY as f64).then_some(!answered)
        });
        if is_held {
            flood.push(client);
        } else if let Ok(reply) = client.reply() {
            assert_eq!(reply.status, 503, "{}", reply.text());
        }
    }
    // Half of the memory, and a quarter of it more: each body takes no more than it is long.
    assert_eq!(flood.len(), 7);
    let reply = gateway.connect().ask(&ask(ALICE_KEY));
    assert_eq!(reply.status, 200, "{}", reply.text());
    for mut client in flood {
        client.send_more(last).expect("it is held");
        assert_eq!(client.reply().expect("an answer").status, 200);
    }
}

#[test]
fn a_request_of_nobody_and_one_that_has_its_answer_take_no_place() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("in_flight_max = 2").text());
    // Bodies that never come are waited for, when the answer has gone.
    for (key, status) in [("sk-nobody", 401), (ADMIN_KEY, 404)] {
        let bearer = format!("Bearer {key}");
        let fields = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let half = request("POST", "/v1/nothing", &fields, b"{ \"a\": 1 }");
        let mut lingering: Vec<Client> = (0..3).map(|_| gateway.connect()).collect();
        for client in &mut lingering {
            client.send(&half[..half.len() - 9]);
            assert_eq!(client.head().expect("an answer").status, status);
        }
        let reply = gateway.connect().ask(&chat(MODEL, false));
        assert_eq!(reply.status, 200, "beside those of {key}: {}", reply.text());
    }
}

#[test]
fn connections_past_the_limit_are_refused_and_room_is_found_again() {
    let upstream = Upstream::vendor();
    let gateway = Gateway::start(&Config::to(&upstream).limit("connections_max = 8").text());
    wait_for("the connections of the start to be forgotten", || {
        (gateway.gauge("gproxy_connections") <= 1.0).then_some(())
    });
    let mut held: Vec<Client> = Vec::new();
    for _ in 0..8 {
        let mut client = gateway.connect();
        client.send(&request("GET", "/healthz", &[], b""));
        if client.reply().is_ok_and(|reply| reply.status == 200) {
            held.push(client);
        }
    }
    let mut refused = gateway.connect();
    refused.send(&request("GET", "/healthz", &[], b""));
    if let Ok(reply) = refused.reply() {
        assert_eq!((reply.status, reply.closes()), (503, true));
        let id = reply.header("x-gproxy-request-id").expect("an id");
        assert_eq!((id.len(), reply.header("x-request-id")), (24, Some(id)));
        assert!(reply.error_message().starts_with("overloaded: too many connections"));
    }
    held.clear();
    wait_for("room for another connection", || {
        let mut client = gateway.connect();
        client.send(&request("GET", "/healthz", &[], b""));
        client.reply().is_ok_and(|reply| reply.status == 200).then_some(())
    });
}

#[test]
fn bodies_past_the_memory_for_all_of_them_get_503() {
    let upstream = Upstream::vendor();
    let config = Config::to(&upstream)
        .limit("held_bytes_max = 2097152")
        .limit("body_bytes_max = 1048576")
        .limit("event_bytes_max = 65536");
    let gateway = Gateway::start(&config.text());
    let key = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
    let body = vec![b' '; 1_000_000];
    let whole = request("POST", "/v1/chat/completions", &headers, &body);
    let mut held: Vec<Client> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut held {
        // All but the last byte: the gateway has to keep what it has.
        client.send(&whole[..whole.len() - 1]);
    }
    wait_for("one of them to be refused", || {
        let refused = held.iter_mut().any(|client| {
            !client.is_silent(Duration::from_millis(20))
                && client.reply().is_ok_and(|reply| reply.status == 503)
        });
        refused.then_some(())
    });
    drop(held);
    wait_for("the memory to be free again", || {
        (gateway.gauge("gproxy_held_bytes") == 0.0).then_some(())
    });
    assert_eq!(gateway.connect().ask(&chat(MODEL, false)).status, 200);
}
