use super::*;

const MAX: usize = crate::limits::HEAD_BYTES_MAX;

/// What a head says, in a form that can be compared.
#[derive(Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    http11: bool,
    fields: Vec<(String, Vec<u8>)>,
    framing: Framing,
    keep_alive: bool,
    expects_continue: bool,
    used: usize,
}

fn seen((head, used): (Head, usize)) -> Seen {
    Seen {
        method: head.method().to_owned(),
        target: head.target().to_owned(),
        http11: head.http11,
        fields: head
            .headers
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_vec()))
            .collect(),
        framing: head.framing,
        keep_alive: head.keep_alive,
        expects_continue: head.expects_continue,
        used,
    }
}

/// Parses whole, byte by byte and at every two-way cut; all must agree.
#[track_caller]
fn check_within(input: &[u8], max: usize) -> Result<Option<Seen>, WireError> {
    let whole = parse(input, &mut 0, max).map(|found| found.map(seen));
    let cuts = (0..=input.len()).map(|cut| vec![cut, input.len()]);
    for ends in cuts.chain([(0..=input.len()).collect()]) {
        let mut searched = 0;
        let mut last = Ok(None);
        for end in ends {
            last = parse(&input[..end], &mut searched, max).map(|found| found.map(seen));
            assert!(searched <= end);
            if !matches!(last, Ok(None)) {
                break;
            }
        }
        assert_eq!(last, whole, "{}", String::from_utf8_lossy(input));
    }
    whole
}

#[track_caller]
fn taken(input: &str) -> Seen {
    check_within(input.as_bytes(), MAX).expect("the head is legal").expect("the head is complete")
}

#[track_caller]
fn refused(input: impl AsRef<[u8]>, error: WireError) {
    let input = input.as_ref();
    assert_eq!(check_within(input, MAX), Err(error), "{}", String::from_utf8_lossy(input));
}

/// A legal request with more field lines.
fn with(lines: &str) -> String {
    format!("POST /v1/messages HTTP/1.1\r\nHost: h\r\n{lines}\r\n")
}

#[test]
fn takes_a_plain_request_and_leaves_the_rest() {
    let head = "POST /v1/messages?beta=true HTTP/1.1\r\nHost: h:8787\r\n\
                Content-Length: 5\r\nX-Api-Key:  sk \t\r\n\r\n";
    let seen = taken(&format!("{head}helloGET / HTTP/1.1\r\n"));
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target, "/v1/messages?beta=true");
    assert!(seen.http11 && seen.keep_alive && !seen.expects_continue);
    assert_eq!(seen.framing, Framing::Length(5));
    assert_eq!(seen.used, head.len());
    let names: Vec<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["host", "content-length", "x-api-key"]);
    assert_eq!(seen.fields[2].1, b"sk");
}

#[test]
fn fields_are_found_by_lower_case_name_in_order() {
    let input = with("X-A: 1\r\nx-b: 2\r\nX-A: 3\r\n");
    let (head, _) = parse(input.as_bytes(), &mut 0, MAX).expect("legal").expect("complete");
    assert_eq!(head.headers.get("x-a"), Some(&b"1"[..]));
    assert_eq!(head.headers.all("x-a").collect::<Vec<_>>(), [b"1", b"3"]);
    assert!(head.headers.has("x-b") && !head.headers.has("x-c"));
    assert_eq!((head.headers.len(), head.headers.is_empty()), (4, false));
    assert_eq!(head.headers.bytes_held(), input.len() + 4 * 16);
}

#[test]
fn incomplete_heads_ask_for_more() {
    for input in ["", "\r", "\r\n", "G", "GET / HTTP/1.1\r\nHost: h\r\n", "GET / HTTP/1.1\r\n\r"] {
        assert_eq!(check_within(input.as_bytes(), MAX), Ok(None), "{input:?}");
    }
}

#[test]
fn allows_empty_lines_before_the_request_line() {
    assert_eq!(taken(&format!("\r\n\r\n{}", with(""))).used, with("").len() + 4);
}

#[test]
fn forbids_many_empty_lines_and_bare_line_feeds_before_the_request_line() {
    refused(format!("{}{}", "\r\n".repeat(5), with("")), WireError::RequestLine);
    refused(format!("\n{}", with("")), WireError::LineEnd);
    refused("\rGET", WireError::RequestLine);
}

#[test]
fn forbids_bare_line_feeds_and_returns_in_a_head() {
    refused("GET / HTTP/1.1\nHost: h\r\n\r\n", WireError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: h\n\r\n", WireError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: h\r\n\n", WireError::LineEnd);
    refused("GET / HTTP/1.1\r\nHost: h\r\nx: a\rb\r\n\r\n", WireError::FieldValue);
    // Told before the head ends: it might never.
    refused("GET / HTTP/1.1\n", WireError::LineEnd);
}

#[test]
fn bytes_that_cannot_begin_a_request_are_refused_at_once() {
    refused(b"\x16\x03\x01\x02\x00", WireError::RequestLine);
    refused(" GET / HTTP/1.1\r\n", WireError::RequestLine);
}

#[test]
fn forbids_request_lines_of_another_shape() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET\t/ HTTP/1.1",
        "GET / http/1.1",
        "GET / HTTP/1.10",
        "GET / HTTP/11",
        "GET / FTP/1.1",
        "G(T / HTTP/1.1",
        "GET /a b HTTP/1.1",
    ] {
        let input = format!("{line}\r\nHost: h\r\n\r\n");
        let result = check_within(input.as_bytes(), MAX);
        let expected = [WireError::RequestLine, WireError::LineEnd];
        assert!(expected.iter().any(|error| result == Err(*error)), "{line}: {result:?}");
    }
}

#[test]
fn other_versions_are_told_apart_from_broken_lines() {
    for version in ["2.0", "1.2", "0.9", "3.0", "9.9"] {
        refused(format!("GET / HTTP/{version}\r\nHost: h\r\n\r\n"), WireError::Version);
    }
}

#[test]
fn forbids_targets_with_controls_blanks_fragments_or_bytes_beyond_ascii() {
    for target in ["/a#b", "/#", "/caf\u{e9}"] {
        refused(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"), WireError::Target);
    }
    refused(b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n", WireError::RequestLine);
    refused(b"GET /\x7f HTTP/1.1\r\nHost: h\r\n\r\n", WireError::RequestLine);
    refused(b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", WireError::RequestLine);
}

#[test]
fn forbids_target_forms_that_ask_for_a_tunnel() {
    for (method, target) in
        [("CONNECT", "h:443"), ("CONNECT", "/"), ("GET", "*"), ("GET", "h:80"), ("GET", "ftp://h/")]
    {
        let input = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        refused(input, WireError::TargetForm);
    }
    refused("GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n", WireError::Host);
    refused("GET http:///v1 HTTP/1.1\r\nHost: h\r\n\r\n", WireError::Host);
}

#[test]
fn allows_absolute_targets_and_the_asterisk_of_options() {
    let cases = ["http://other:80/v1/models", "HTTPS://other", "http://[::1]:8787?x=1"];
    for target in cases {
        let seen = taken(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(seen.target, target);
    }
    assert_eq!(taken("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n").target, "*");
}

#[test]
fn an_absolute_target_overrides_host() {
    let authority = |input: &str| {
        let (head, _) = parse(input.as_bytes(), &mut 0, MAX).expect("legal").expect("complete");
        head.authority().map(str::to_owned)
    };
    assert_eq!(authority("GET http://a:1/x HTTP/1.1\r\nHost: b\r\n\r\n"), Some("a:1".into()));
    assert_eq!(authority("GET /x HTTP/1.1\r\nHost: b:2\r\n\r\n"), Some("b:2".into()));
    assert_eq!(authority("GET /x HTTP/1.0\r\n\r\n"), None);
}

#[test]
fn forbids_field_lines_that_are_not_fields() {
    for line in [": v", "a b: v", "a : v", "a\t: v", "no colon", " folded: v", "é: v", "a(: v"] {
        refused(with(&format!("{line}\r\n")), WireError::FieldName);
    }
    refused(with("a: v\r\n folded\r\n"), WireError::FieldName);
    refused(with("a: v\r\n\tfolded\r\n"), WireError::FieldName);
    for value in ["a\0b", "a\x01b", "a\x7fb", "a\x0bb"] {
        refused(with(&format!("a: {value}\r\n")), WireError::FieldValue);
    }
}

#[test]
fn allows_blanks_round_values_empty_values_and_bytes_beyond_ascii() {
    let mut input = with("a:\r\nb: \t \r\nc:v\r\nd: x\ty \t\r\n").into_bytes();
    let seen = check_within(&input, MAX).expect("legal").expect("complete");
    let values: Vec<_> = seen.fields[1..].iter().map(|(_, value)| value.as_slice()).collect();
    assert_eq!(values, [&b""[..], b"", b"v", b"x\ty"]);
    let end = input.len() - 2;
    input.splice(end..end, b"e: \xff\r\n".iter().copied());
    let seen = check_within(&input, MAX).expect("legal").expect("complete");
    assert_eq!(seen.fields.last().map(|(_, value)| value.as_slice()), Some(&b"\xff"[..]));
}

#[test]
fn host_is_wanted_once_and_legal() {
    refused("GET / HTTP/1.1\r\n\r\n", WireError::HostMissing);
    refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", WireError::HostTwice);
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", WireError::HostTwice);
    for host in ["", "a b", "a/b", "u@h", "h:80x", "h:1:2", "[::1", "[]", "[::1]x", "a\"", ":80"] {
        refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), WireError::Host);
    }
    for host in ["h", "127.0.0.1:8787", "[::1]", "[::1]:80", "a-b.example.", "h:"] {
        taken(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    taken("GET / HTTP/1.0\r\n\r\n");
}

#[test]
fn content_length_is_a_plain_number_once() {
    let bad = ["", "+1", "-1", "1 1", "1,1", "0x10", "1e3", "18446744073709551616", "1.0", "١"];
    for length in bad {
        refused(with(&format!("Content-Length: {length}\r\n")), WireError::Length);
    }
    for lengths in [["1", "2"], ["1", "1"]] {
        let [one, two] = lengths;
        let lines = format!("Content-Length: {one}\r\ncontent-length: {two}\r\n");
        refused(with(&lines), WireError::LengthTwice);
    }
    for (text, length) in [("0", 0), ("007", 7), ("18446744073709551615", u64::MAX)] {
        let seen = taken(&with(&format!("Content-Length: {text}\r\n")));
        assert_eq!(seen.framing, Framing::Length(length));
    }
    assert_eq!(taken(&with("")).framing, Framing::None);
}

#[test]
fn forbids_length_with_chunked() {
    let lines = "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n";
    refused(with(lines), WireError::LengthWithCoding);
    let lines = "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n";
    refused(with(lines), WireError::LengthWithCoding);
}

#[test]
fn transfer_coding_is_chunked_once_or_refused() {
    for coding in ["gzip", "chunked, chunked", "gzip, chunked", "identity", "", "xchunked"] {
        refused(with(&format!("Transfer-Encoding: {coding}\r\n")), WireError::Coding);
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    refused(with(twice), WireError::CodingTwice);
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    refused(old, WireError::CodingInHttp10);
    for coding in ["chunked", "CHUNKED", " Chunked\t"] {
        let seen = taken(&with(&format!("transfer-encoding:{coding}\r\n")));
        assert_eq!(seen.framing, Framing::Chunked);
    }
}

#[test]
fn connection_close_is_obeyed_in_any_list_and_case() {
    for value in ["close", "Close", "keep-alive, CLOSE", "x-a ,close"] {
        assert!(!taken(&with(&format!("Connection: {value}\r\n"))).keep_alive, "{value}");
    }
    assert!(!taken(&with("Connection: x\r\nConnection: close\r\n")).keep_alive);
    assert!(taken(&with("Connection: keep-alive\r\n")).keep_alive);
    // Never kept with HTTP/1.0, asked or not.
    assert!(!taken("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keep_alive);
}

#[test]
fn expectations_are_known_or_refused() {
    assert!(taken(&with("Expect: 100-Continue\r\n")).expects_continue);
    refused(with("Expect: 200-ok\r\n"), WireError::Expectation);
    refused(with("Expect: 100-continue, x\r\n"), WireError::Expectation);
    // HTTP/1.0 knows no expectations, so whatever it says is passed over.
    assert!(!taken("POST / HTTP/1.0\r\nExpect: x\r\n\r\n").expects_continue);
}

#[test]
fn request_line_has_its_own_ceiling() {
    let line = |length: usize| {
        let rest = "GET / HTTP/1.1".len();
        format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(length - rest))
    };
    let parse_whole =
        |input: &str| parse(input.as_bytes(), &mut 0, MAX).map(|found| found.is_some());
    assert_eq!(parse_whole(&line(8_000)), Ok(true));
    assert_eq!(parse_whole(&line(TARGET_BYTES_MAX)), Ok(true));
    assert_eq!(parse_whole(&line(TARGET_BYTES_MAX + 1)), Err(WireError::TargetTooLong));
    assert_eq!(parse_whole(&line(40_000)), Err(WireError::TargetTooLong));
    // An endless line is refused while it comes.
    let mut searched = 0;
    let endless = format!("GET /{}", "a".repeat(MAX));
    let mut refused_at = None;
    for end in 0..endless.len() {
        if let Err(error) = parse(&endless.as_bytes()[..end], &mut searched, MAX) {
            refused_at = Some((end, error));
            break;
        }
    }
    assert_eq!(refused_at, Some((TARGET_BYTES_MAX + 2, WireError::TargetTooLong)));
}

#[test]
fn head_ceiling_counts_every_byte_to_the_empty_line() {
    let input = with("a: v\r\n");
    assert!(check_within(input.as_bytes(), input.len()).expect("fits").is_some());
    assert_eq!(check_within(input.as_bytes(), input.len() - 1), Err(WireError::HeadTooLong));
    let long = with(&format!("a: {}\r\n", "v".repeat(MAX)));
    assert_eq!(parse(long.as_bytes(), &mut 0, MAX).err(), Some(WireError::HeadTooLong));
    // A configured ceiling below the line's ceiling holds for the line too.
    assert_eq!(check_within(input.as_bytes(), 20), Err(WireError::TargetTooLong));
}

#[test]
fn field_count_has_a_ceiling() {
    let fields = |count: usize| with(&"a: b\r\n".repeat(count - 1));
    let parse_whole =
        |input: String| parse(input.as_bytes(), &mut 0, MAX).map(|found| found.is_some());
    assert_eq!(parse_whole(fields(100)), Ok(true));
    assert_eq!(parse_whole(fields(HEADER_COUNT_MAX)), Ok(true));
    assert_eq!(parse_whole(fields(HEADER_COUNT_MAX + 1)), Err(WireError::TooManyFields));
}

#[test]
fn pipelined_requests_come_out_one_by_one() {
    let (one, two) = (with("a: 1\r\n"), with("a: 2\r\n"));
    let both = format!("{one}{two}");
    let first = taken(&both);
    assert_eq!(first.used, one.len());
    assert_eq!(taken(&both[first.used..]).fields[1].1, b"2");
}
