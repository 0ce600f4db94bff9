//! What came back on a connection, read as a client reads it: slowly, strictly, and by a parser
//! that shares nothing with the product's.

/// One response.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// In order, names in lower case.
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) framing: Framing,
    pub(super) is_whole: bool,
    /// `100 Continue` came before it.
    pub(super) continues: usize,
    /// Where it begins and ends in the bytes, what came before it included.
    pub(super) span: std::ops::Range<usize>,
}

/// How a body's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Bodiless,
    Sized(usize),
    Chunked,
    UntilClose,
}

/// What the bytes hold.
#[derive(Debug)]
pub(super) struct Responses {
    pub(super) all: Vec<Response>,
    /// Bytes of a head that is not there to its end.
    pub(super) rest: usize,
}

impl Response {
    /// The only value of a field; two are an error.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(other, _)| other == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} stands there twice");
        value
    }

    /// The gateway answered by itself.
    pub(super) fn is_ours(&self) -> bool {
        self.field("x-gproxy-source") == Some("gateway")
    }
}

/// Reads all responses. `is_head` says of the request with that number, answered with that status,
/// whether it was a HEAD.
pub(super) fn read(bytes: &[u8], is_head: impl Fn(usize, u16) -> bool) -> Responses {
    let mut responses = Responses { all: Vec::new(), rest: 0 };
    let mut at = 0;
    let mut begun = 0;
    let mut continues = 0;
    while at < bytes.len() {
        let Some(head_len) = find(&bytes[at..], b"\r\n\r\n") else {
            responses.rest = bytes.len() - at;
            return responses;
        };
        let (status, fields) = head(&bytes[at..at + head_len]);
        at += head_len + 4;
        if status == 100 {
            assert!(fields.is_empty());
            continues += 1;
            continue;
        }
        assert!((200..=599).contains(&status), "{status} is no final status");
        let is_bodiless = is_head(responses.all.len(), status) || status == 204 || status == 304;
        let framing = framing(&fields, is_bodiless);
        let (body, used, is_whole) = body(&bytes[at..], framing);
        at += used;
        let span = begun..at;
        responses.all.push(Response { status, fields, body, framing, is_whole, continues, span });
        (begun, continues) = (at, 0);
        assert!(is_whole || at == bytes.len(), "something follows a broken response");
    }
    responses.rest = bytes.len() - at;
    responses
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

fn head(text: &[u8]) -> (u16, Vec<(String, String)>) {
    let text = std::str::from_utf8(text).expect("heads of the simulation are UTF-8");
    let mut lines = text.split("\r\n");
    let line = lines.next().expect("a split has one part at least");
    let mut words = line.splitn(3, ' ');
    assert_eq!(words.next(), Some("HTTP/1.1"), "{line:?}");
    let status = words.next().expect("a status");
    assert!(status.len() == 3 && words.next().is_some(), "{line:?}");
    let fields = lines.map(|line| {
        assert!(!line.contains(['\r', '\n', '\0']), "{line:?}");
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        assert!(!name.is_empty() && !name.contains([' ', '\t']), "{line:?}");
        (name.to_ascii_lowercase(), value.to_owned())
    });
    (status.parse().expect("a number"), fields.collect())
}

fn framing(fields: &[(String, String)], is_bodiless: bool) -> Framing {
    let all = |name: &str| {
        let named = fields.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let (lengths, codings) = (all("content-length"), all("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1, "framed twice: {lengths:?} {codings:?}");
    match (&lengths[..], &codings[..]) {
        _ if is_bodiless => Framing::Bodiless,
        ([length], _) => Framing::Sized(length.parse().expect("a length is a number")),
        (_, [coding]) => {
            assert_eq!(coding, "chunked");
            Framing::Chunked
        }
        _ => Framing::UntilClose,
    }
}

/// The body, how many bytes it took, and whether its end was there. What ends with the connection
/// counts as whole: whether the connection ended well is not in the bytes.
fn body(bytes: &[u8], framing: Framing) -> (Vec<u8>, usize, bool) {
    match framing {
        Framing::Bodiless => (Vec::new(), 0, true),
        Framing::UntilClose => (bytes.to_vec(), bytes.len(), true),
        Framing::Sized(length) => {
            let used = length.min(bytes.len());
            (bytes[..used].to_vec(), used, used == length)
        }
        Framing::Chunked => chunks(bytes),
    }
}

fn chunks(bytes: &[u8]) -> (Vec<u8>, usize, bool) {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return (body, bytes.len(), false) };
        let size = std::str::from_utf8(&bytes[at..at + line]).expect("a chunk's size is ASCII");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size is hexadecimal");
        at += line + 2;
        let data = &bytes[at..];
        body.extend_from_slice(&data[..size.min(data.len())]);
        let Some(close) = data.get(size..size + 2) else { return (body, bytes.len(), false) };
        assert_eq!(close, b"\r\n", "a chunk's end");
        at += size + 2;
        if size == 0 {
            return (body, at, true);
        }
    }
}
