//! Laws of what proxies tell of a caller's address, for any text.

use std::net::{IpAddr, Ipv6Addr};

use crate::route::snapshot::{Network, forwarded};

/// Trusted networks, the peer and what it tells, one line each. Nobody but those who are trusted
/// decides who calls.
pub fn address(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let trusted: Vec<Network> = line().split(',').filter_map(Network::parse).collect();
    trusted.iter().for_each(network);
    let Ok(peer) = line().parse::<IpAddr>() else { return };
    let told = line();
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let found = forwarded(peer, told, &trusted);

    // From the right: each but the last one is trusted.
    let mut expected = Some(peer);
    for one in told.rsplit(',').filter(|one| !one.trim().is_empty()) {
        match expected {
            Some(address) if is_trusted(address) => expected = read(one),
            _ => break,
        }
    }
    assert_eq!(found, expected);
    // A caller writes what he likes in front of what is told of him.
    let spoofed = forwarded(peer, &format!("203.0.113.9, {told}"), &trusted);
    assert!(spoofed == found || found.is_some_and(is_trusted), "{spoofed:?}");
    // The peer writes behind it, and is believed if he is trusted.
    let last = forwarded(peer, &format!("{told},2001:db8::9"), &trusted);
    let expected = match is_trusted(peer) {
        true if is_trusted(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9])) => return,
        true => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]),
        false => peer,
    };
    assert_eq!(last, Some(expected));
}

/// An address, with or without a port; one of version 6 may stand in brackets.
fn read(told: &str) -> Option<IpAddr> {
    let told = told.trim();
    if let Ok(address) = told.parse() {
        return Some(address);
    }
    let (address, port) = match told.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            if behind.is_empty() {
                return Some(IpAddr::V6(address));
            }
            (IpAddr::V6(address), behind.strip_prefix(':')?)
        }
        None => {
            let (address, port) = told.split_once(':')?;
            (IpAddr::V4(address.parse().ok()?), port)
        }
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_port.then_some(address)
}

/// A network is read again as it is written, and holds what shares its leading bits.
fn network(network: &Network) {
    let Network { address, bits } = *network;
    assert_eq!(Network::parse(&format!("{address}/{bits}")), Some(*network));
    let IpAddr::V4(own) = address else { return };
    assert!(network.contains(address));
    assert!(network.contains(IpAddr::V6(own.to_ipv6_mapped())), "it is the same address");
    for bit in 0..32 {
        let other = own.to_bits() ^ 1 << (31 - bit);
        assert_eq!(network.contains(IpAddr::V4(other.into())), bit >= bits);
    }
}

/// What is told, to begin from.
pub const TOLD: &[&[u8]] = &[
    b"10.0.0.0/8\n10.0.0.1\n198.51.100.7",
    b"10.0.0.0/8,fd00::/8\nfd00::1\n6.6.6.6, 198.51.100.7, 10.0.0.2",
    b"192.0.2.0/25\n::ffff:192.0.2.127\n, 192.0.2.128",
    b"0.0.0.0/0\n10.0.0.1\n",
];

/// What mutations put in.
pub const SPICES: &[&[u8]] = &[
    b",",
    b", ",
    b"\n",
    b"/",
    b"/32",
    b"/33",
    b"/0",
    b"+8",
    b"10.0.0.3",
    b"8.8.8.8, ",
    b"::ffff:10.0.0.4",
    b"fd00::2,",
    b"unknown",
    b":80",
    b"[::1]",
    b"[::1%1]:80",
    b"\t",
    b"\xc2\xa0",
    b"\xff",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mutate;

    #[test]
    fn laws_of_addresses_hold_for_mutated_lists() {
        mutate::run(TOLD, SPICES, 20_000, address);
    }
}
