use super::*;

#[test]
fn networks_hold_the_addresses_of_their_range() {
    let rows = [
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("127.0.0.1", "127.0.0.1", true),
        ("127.0.0.1", "127.0.0.2", false),
        ("0.0.0.0/0", "8.8.8.8", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("2001:db8::/32", "2001:db8:1::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::1", "::1", true),
    ];
    for (network, address, expected) in rows {
        let parsed = Network::parse(network).expect("network is valid");
        let address = address.parse().expect("address is valid");
        assert_eq!(parsed.contains(address), expected, "{address} in {network}");
    }
}

#[test]
fn forbids_networks_that_are_none() {
    for text in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/+8", "host", "10.0.0/8"] {
        assert!(Network::parse(text).is_none(), "{text}");
    }
}
