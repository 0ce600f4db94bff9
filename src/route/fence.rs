//! Which addresses a provider may have.
//!
//! What the file declares may stand anywhere: whoever writes it owns the machine. What is made
//! through the administration interface must not become a way into the gateway's own network, or
//! to the metadata service of its cloud, which gives credentials to whoever asks. A name is judged
//! when it is written, as far as it is known, and again by each address that it resolves to, at
//! the moment of connecting: a name may resolve to something else then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far a provider reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// Everywhere: the file declares it.
    #[default]
    Open,
    /// Everywhere but to link-local and metadata addresses: the file lets it reach private ones.
    Local,
    /// Public addresses only.
    Public,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// Anywhere on the internet.
    Public,
    /// This machine, or a network around it; none at all counts so too.
    Private,
    /// What the link or the cloud says about this machine.
    Metadata,
}

/// Metadata services without a link-local address: AWS, Google, Scaleway, Alibaba, Oracle, Azure.
const METADATA: [IpAddr; 6] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
];

/// Names under which clouds serve them.
const METADATA_NAMES: [&str; 8] = [
    "metadata",
    "metadata.goog",
    "metadata.google.internal",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "metadata.platformequinix.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Where an address leads. One that carries another is as that one.
pub fn reach_of(address: IpAddr) -> Reach {
    if METADATA.contains(&address) {
        return Reach::Metadata;
    }
    match address {
        IpAddr::V4(address) => reach_of_v4(address),
        IpAddr::V6(address) => reach_of_v6(address),
    }
}

fn reach_of_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [169, 254, ..] => Reach::Metadata,
        // This network, loopback, private, carriers' networks, assignments, benchmarks; multicast,
        // reserved and broadcast.
        [0 | 10 | 127 | 224.., ..]
        | [100, 64..=127, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [192, 0, 0, _]
        | [198, 18 | 19, ..] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_of_v6(address: Ipv6Addr) -> Reach {
    let segments = address.segments();
    let inner = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        reach_of(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Reach::Private,
        // Mapped, translated (two prefixes) and compatible forms carry an address of IPv4 behind;
        // the second prefix of NAT64 is a network's own, so it is private at best.
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0, high, low] => inner(high, low),
        [0x64, 0xff9b, 1, _, _, _, high, low] => inner(high, low).max(Reach::Private),
        // 6to4 carries it in front.
        [0x2002, high, low, ..] => inner(high, low),
        // Link-local.
        [0xfe80..=0xfebf, ..] => Reach::Metadata,
        // Teredo; unique local; site-local, as it was once; multicast.
        [0x2001, 0, ..] | [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] | [0xff00..=0xffff, ..] => {
            Reach::Private
        }
        _ => Reach::Public,
    }
}

/// Where a host of a URL leads, as far as its text tells; `None`: it must be resolved first.
pub fn reach_of_host(host: &str) -> Option<Reach> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse() {
        return Some(reach_of(address));
    }
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    if METADATA_NAMES.contains(&name.as_str()) {
        return Some(Reach::Metadata);
    }
    (name == "localhost" || name.ends_with(".localhost")).then_some(Reach::Private)
}

/// The host in a URL, or in what stands before its path.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    &authority[..port.unwrap_or(authority.len())]
}

impl Fence {
    /// Whether it lets through what leads there.
    pub fn lets(self, reach: Reach) -> bool {
        match self {
            Fence::Open => true,
            Fence::Local => reach < Reach::Metadata,
            Fence::Public => reach == Reach::Public,
        }
    }

    /// Whether an address may be connected.
    pub fn lets_address(self, address: IpAddr) -> bool {
        self == Fence::Open || self.lets(reach_of(address))
    }

    /// Why it stops what it stops, and what would let it through, for the operator.
    pub fn reason(self) -> &'static str {
        match self {
            Fence::Open => "it has no fence",
            Fence::Local => {
                "link-local and metadata addresses are only for providers that the file declares"
            }
            Fence::Public => {
                "providers made through the administration interface reach public addresses only; \
                 allow_private_upstreams = true in [global] lets them reach private ones and this \
                 machine, or declare the provider in the file"
            }
        }
    }

    /// Whether a URL may be called, as far as its text tells.
    pub fn lets_url(self, url: &str) -> bool {
        self == Fence::Open || reach_of_host(host_of(url)).is_none_or(|reach| self.lets(reach))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: &[&str] = &[
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700::1111",
        "2001:1::1",
        "::ffff:1.1.1.1",
        "64:ff9b::101:101",
        "2002:101:101::1",
        "fbff::1",
    ];
    const PRIVATE: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.0",
        "10.255.255.255",
        "100.64.0.0",
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "172.16.0.0",
        "172.31.255.255",
        "192.0.0.1",
        "192.168.0.0",
        "192.168.255.255",
        "198.18.0.0",
        "198.19.255.255",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.1.2.3",
        "::ffff:0.0.0.0",
        "::ffff:0:10.1.2.3",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::8.8.8.8",
        "2002:7f00:1::",
        "2002:c0a8:1::1",
        "2001::1",
        "fc00::",
        "fdff:ffff::1",
        "fec0::1",
        "ff02::1",
    ];
    const METADATA: &[&str] = &[
        "169.254.0.0",
        "169.254.169.254",
        "169.254.255.255",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fe80::",
        "fe80::1",
        "febf:ffff::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "fd00:42::42",
        "::ffff:169.254.169.254",
        "::ffff:100.100.100.200",
        "::a9fe:a9fe",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::",
    ];

    #[test]
    fn every_address_leads_somewhere() {
        for (addresses, reach) in
            [(PUBLIC, Reach::Public), (PRIVATE, Reach::Private), (METADATA, Reach::Metadata)]
        {
            for text in addresses {
                let address: IpAddr = text.parse().expect(text);
                assert_eq!(reach_of(address), reach, "{text}");
                assert!(Fence::Open.lets_address(address), "{text}");
                assert_eq!(Fence::Public.lets_address(address), reach == Reach::Public, "{text}");
                assert_eq!(Fence::Local.lets_address(address), reach != Reach::Metadata, "{text}");
                let host = if address.is_ipv6() { format!("[{text}]") } else { (*text).to_owned() };
                assert_eq!(reach_of_host(&host), Some(reach), "{text}");
            }
        }
    }

    #[test]
    fn names_that_are_known_need_no_look_up() {
        let rows = [
            ("localhost", Some(Reach::Private)),
            ("LOCALHOST.", Some(Reach::Private)),
            ("a.localhost", Some(Reach::Private)),
            ("metadata.google.internal", Some(Reach::Metadata)),
            ("Metadata.Google.Internal.", Some(Reach::Metadata)),
            ("instance-data", Some(Reach::Metadata)),
            ("api.openai.com", None),
            ("mylocalhost", None),
            // No resolver of ours takes these for addresses; they are looked up as names.
            ("127.1", None),
            ("0x7f000001", None),
            ("2130706433", None),
            ("0177.0.0.1", None),
        ];
        for (host, reach) in rows {
            assert_eq!(reach_of_host(host), reach, "{host}");
        }
    }

    #[test]
    fn the_host_of_a_url_is_found() {
        let rows = [
            ("https://api.openai.com/v1", "api.openai.com"),
            ("http://127.0.0.1:8080", "127.0.0.1"),
            ("http://[::1]:11434/v1", "[::1]"),
            ("http://[::1]/v1", "[::1]"),
            ("host:80", "host"),
            ("", ""),
        ];
        for (url, host) in rows {
            assert_eq!(host_of(url), host, "{url}");
        }
        assert!(!Fence::Public.lets_url("http://[::ffff:127.0.0.1]:80/v1"));
        assert!(Fence::Local.lets_url("http://127.0.0.1:11434/v1"));
        assert!(!Fence::Local.lets_url("http://169.254.169.254/latest"));
        assert!(Fence::Public.lets_url("https://api.openai.com"));
    }
}
