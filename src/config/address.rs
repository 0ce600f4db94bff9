//! Addresses in the file: URLs of upstreams and proxies, origins, and the one we listen on.
//!
//! Messages never quote a URL: someone may have typed a password into it.

use std::net::{IpAddr, Ipv4Addr};

/// What a URL is for decides what it may hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// A provider's base URL: http or https, with a path.
    Upstream,
    /// An outbound proxy: http, host and port only.
    Proxy,
    /// A browser origin: http or https, host and port only.
    Origin,
}

/// Checks a URL and gives its one spelling: lower-case scheme and host, no slash doubled or at the
/// end.
pub(super) fn parse_url(text: &str, purpose: Use) -> Result<String, &'static str> {
    if text.contains("${") {
        return Err("`${...}` is not a syntax here; write the URL itself");
    }
    if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err("must be plain ASCII without spaces or control characters");
    }
    let lower = text.to_ascii_lowercase();
    let scheme = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let Some(scheme) = scheme else {
        return Err("must begin with http:// or https://");
    };
    if purpose == Use::Proxy && scheme == "https://" {
        return Err("must begin with http://; the proxy is asked with CONNECT, so what passes \
                    through it is encrypted all the same");
    }
    let rest = &text[scheme.len()..];
    if rest.contains(['?', '#']) {
        return Err("must not hold a query or a fragment");
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let authority = parse_authority(authority)?;
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if purpose != Use::Upstream && !segments.is_empty() {
        return Err("must end after host and port");
    }
    let plain = |byte: u8| !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{'..=b'}');
    if segments.iter().any(|part| matches!(*part, "." | "..") || !part.bytes().all(plain)) {
        return Err("the path must not hold dot segments, quotes, brackets or backslashes");
    }
    let mut url = format!("{scheme}{authority}");
    for segment in segments {
        url.push('/');
        url.push_str(segment);
    }
    Ok(url)
}

fn parse_authority(text: &str) -> Result<String, &'static str> {
    if text.contains('@') {
        return Err("must not hold a user name or password");
    }
    let host_wrong = "the host must be a name or an address; an IPv6 address stands in brackets";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(host_wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| host_wrong)?;
            (&text[..address.len() + 2], after.strip_prefix(':').or(after.is_empty().then_some("")))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
            None => (text, Some("")),
        },
    };
    let label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let named = !host.is_empty() && host.len() <= 253 && host.bytes().all(label);
    if !host.starts_with('[') && !named {
        return Err(host_wrong);
    }
    let port_wrong = "the port must be a number from 1 to 65535";
    let port = port.ok_or(port_wrong)?;
    let host = host.to_ascii_lowercase();
    if port.is_empty() {
        return Ok(host);
    }
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(number) if number > 0 && digits => Ok(format!("{host}:{number}")),
        _ => Err(port_wrong),
    }
}

/// The address to listen on: an IP address, or `localhost`. Names are not looked up.
pub(super) fn parse_host(text: &str) -> Option<IpAddr> {
    if text.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok()
}

/// Whether only this machine can reach the address.
pub(super) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allows_urls_however_they_are_slashed() {
        let rows = [
            ("https://api.openai.com", "https://api.openai.com"),
            ("HTTPS://API.OpenAI.com/", "https://api.openai.com"),
            ("https://host/openai/v1/", "https://host/openai/v1"),
            ("https://host//openai///v1", "https://host/openai/v1"),
            ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1"),
            ("http://[::1]:11434/v1", "http://[::1]:11434/v1"),
            ("http://my_host:080", "http://my_host:80"),
            ("https://host/Deployments/a%20b@2", "https://host/Deployments/a%20b@2"),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_url(text, Use::Upstream).as_deref(), Ok(expected), "{text}");
        }
        assert_eq!(parse_url("http://proxy:3128/", Use::Proxy).as_deref(), Ok("http://proxy:3128"));
    }

    #[test]
    fn forbids_urls_that_hide_something() {
        let rows = [
            ("api.openai.com/v1", "begin with"),
            ("ftp://host", "begin with"),
            ("", "begin with"),
            ("https://user:pw@host", "user name"),
            ("https://user@host", "user name"),
            ("https://host/a?b=c", "query"),
            ("https://host/#f", "query"),
            ("https://host /v1", "ASCII"),
            ("https://host/\r\nx: y", "ASCII"),
            ("https://hö.st", "ASCII"),
            ("https://", "host must be"),
            ("https://:80", "host must be"),
            ("https:///v1", "host must be"),
            ("https://::1/v1", "host must be"),
            ("https://[::1", "host must be"),
            ("https://[x]", "host must be"),
            ("https://ho!st", "host must be"),
            ("https://host:0", "port"),
            ("https://host:65536", "port"),
            ("https://host:", "port"),
            ("https://host:+80", "port"),
            ("https://[::1]x", "port"),
            ("https://host/a/../b", "dot segments"),
            ("https://host/a\\b", "dot segments"),
            ("https://${HOST}/v1", "not a syntax"),
        ];
        for (text, part) in rows {
            let why = parse_url(text, Use::Upstream).expect_err(text);
            assert!(why.contains(part), "{text}: {why}");
        }
        assert!(parse_url("https://proxy:3128", Use::Proxy).is_err());
        assert!(parse_url("http://proxy:3128/path", Use::Proxy).is_err());
        assert!(parse_url("https://app.example/path", Use::Origin).is_err());
    }

    #[test]
    fn hosts_are_addresses() {
        for (text, loopback) in [
            ("127.0.0.1", true),
            ("localhost", true),
            ("::1", true),
            ("[::1]", true),
            ("127.9.9.9", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", false),
            ("::", false),
            ("192.168.1.1", false),
        ] {
            let address = parse_host(text).expect(text);
            assert_eq!(is_loopback(address), loopback, "{text}");
        }
        for text in ["", "example.com", "127.0.0.1:80", "[127.0.0.1", "*"] {
            assert!(parse_host(text).is_none(), "{text}");
        }
    }
}
