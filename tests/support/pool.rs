//! A provider with a good and a bad credential.

use super::{Conn, Reply, Seen, Upstream};

/// A credential that serves.
pub const GOOD: &str = "cred-good-1";
/// One that does not.
pub const BAD: &str = "cred-bad-2";
/// What the good one gets.
pub const OK: &str = r#"{"model":"m"}"#;

/// One provider with a good and a bad credential. `more` stands in `[providers.settings]`.
pub fn config(upstream: &Upstream, credentials: &str, more: &str) -> String {
    format!(
        "[global]\nport = 0\nworkers = 1\ndata_dir = \"DATA_DIR\"\n\
         [[providers]]\nname = \"p\"\nchannel = \"custom\"\ncredentials = [{credentials}]\n\
         [providers.settings]\nbase_url = \"http://127.0.0.1:{}\"\n{more}\n\
         [[users]]\nname = \"admin\"\nis_admin = true\nkeys = [{{ api_key = \"sk-admin-1\" }}]\n\
         [[permissions]]\nuser_name = \"admin\"\nmodel_pattern = \"*\"\n",
        upstream.port
    )
}

/// The good one, then the bad one.
pub fn both() -> String {
    format!("{{ api_key = \"{GOOD}\" }}, {{ api_key = \"{BAD}\" }}")
}

/// The other way round.
pub fn bad_first() -> String {
    format!("{{ api_key = \"{BAD}\" }}, {{ api_key = \"{GOOD}\" }}")
}

/// The credential with which a call came.
pub fn key_of(seen: &Seen) -> &str {
    let key = seen.header("authorization").or(seen.header("x-goog-api-key"));
    key.unwrap_or_default().trim_start_matches("Bearer ")
}

/// Calls that came with this credential.
pub fn calls_with(upstream: &Upstream, key: &str) -> usize {
    upstream.seen().iter().filter(|seen| key_of(seen) == key).count()
}

/// Serves the good credential and does `fails` to the bad one.
pub fn half(fails: impl Fn(&mut Conn, &Seen) + Send + Sync + 'static) -> Upstream {
    Upstream::answering(move |conn, seen| match key_of(seen) {
        BAD => fails(conn, seen),
        _ => {
            conn.whole(200, OK);
        }
    })
}

/// Refuses with these headers.
pub fn refuse(status: u16, headers: &'static str) -> impl Fn(&mut Conn, &Seen) + Send + Sync {
    move |conn, _| {
        let headers = format!("content-type: application/json\r\n{headers}");
        conn.whole_with(status, &headers, r#"{"error":{"message":"no","type":"x"}}"#);
    }
}

/// Answers by the credential's number.
pub fn by_key(first: (u16, &'static str), second: (u16, &'static str)) -> Upstream {
    Upstream::answering(move |conn, seen| {
        let (status, body) = if key_of(seen) == GOOD { first } else { second };
        conn.whole(status, body);
    })
}

/// The reply is the upstream's.
#[track_caller]
pub fn check_upstreams(reply: &Reply, status: u16, body: &str) {
    assert_eq!((reply.status, reply.text().as_str()), (status, body));
    assert_eq!(reply.header("x-gproxy-source"), Some("upstream"));
}
