//! Which addresses may be connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is not connected to: the kind it is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind}")]
pub struct Refused {
    kind: &'static str,
    liftable: bool,
}

/// Judges an address; `internal`: its host is listed as one inside, which lifts what is loopback or
/// private, and nothing else.
///
/// # Errors
/// The kind of address it is, when that is not connected to.
///
/// # Standard
/// The special-purpose registries of RFC 6890, and the addresses under which clouds give out credentials.
pub fn judge(address: IpAddr, internal: bool) -> Result<(), Refused> {
    let found = match address {
        IpAddr::V4(address) => v4(address),
        IpAddr::V6(address) => v6(address),
    };
    match found {
        Some(refused) if !(internal && refused.liftable) => Err(refused),
        _ => Ok(()),
    }
}

fn v4(address: Ipv4Addr) -> Option<Refused> {
    if METADATA_V4.contains(&address) {
        return Some(METADATA);
    }
    if address.is_loopback() {
        return Some(LOOPBACK);
    }
    if address.is_private() {
        return Some(PRIVATE);
    }
    match address.octets() {
        [0, ..] => Some(never("an address of this host")),
        [100, 64..=127, ..] | [198, 18 | 19, ..] => Some(PRIVATE),
        [169, 254, ..] => Some(LINK_LOCAL),
        [192, 0, 0, _] | [192, 88, 99, _] => Some(RESERVED),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(RESERVED),
        [224..=239, ..] => Some(MULTICAST),
        [240..=255, ..] => Some(RESERVED),
        _ => None,
    }
}

fn v6(address: Ipv6Addr) -> Option<Refused> {
    if METADATA_V6.contains(&address) {
        return Some(METADATA);
    }
    if address.is_loopback() {
        return Some(LOOPBACK);
    }
    let [first, ..] = address.segments();
    let [.., a, b, c, d] = address.octets();
    match address.segments() {
        // Another spelling of an IPv4 address: who writes it wants to pass a filter.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0, 0, ..] => Some(never("an IPv4 address inside IPv6")),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => v4(Ipv4Addr::new(a, b, c, d)),
        [0x64, 0xff9b, 1, ..] | [0x100, 0, 0, 0, ..] | [0x2001, 0xdb8, ..] => Some(RESERVED),
        // Teredo, ORCHID and other assignments that carry or mean something else.
        [0x2001, 0..=0x1ff, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Some(RESERVED),
        _ if first & 0xfe00 == 0xfc00 => Some(PRIVATE),
        _ if first & 0xff80 == 0xfe80 => Some(LINK_LOCAL),
        _ if first & 0xff00 == 0xff00 => Some(MULTICAST),
        // Outside global unicast; `fec0::/10` among them.
        _ if first & 0xe000 != 0x2000 => Some(RESERVED),
        _ => None,
    }
}

const fn never(kind: &'static str) -> Refused {
    Refused { kind, liftable: false }
}

const LOOPBACK: Refused = Refused { kind: "a loopback address", liftable: true };
const PRIVATE: Refused = Refused { kind: "a private address", liftable: true };
const LINK_LOCAL: Refused = never("a link-local address");
const METADATA: Refused = never("an address of a cloud's metadata");
const MULTICAST: Refused = never("a multicast address");
const RESERVED: Refused = never("a reserved address");

/// Where clouds give out credentials to whoever asks from inside: AWS and most others, Azure,
/// Alibaba, Oracle.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
];
const METADATA_V6: [Ipv6Addr; 1] = [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_address_and_the_one_beside_it() {
        // Address, whether it is connected to from outside, and where its host is listed.
        let rows = [
            ("93.184.215.14", true, true),
            ("0.0.0.0", false, false),
            ("1.0.0.0", true, true),
            ("9.255.255.255", true, true),
            ("10.0.0.1", false, true),
            ("11.0.0.0", true, true),
            ("100.63.255.255", true, true),
            ("100.64.0.1", false, true),
            ("100.100.100.200", false, false),
            ("100.128.0.0", true, true),
            ("127.0.0.1", false, true),
            ("127.255.255.254", false, true),
            ("128.0.0.0", true, true),
            ("168.63.129.16", false, false),
            ("168.63.129.17", true, true),
            ("169.253.255.255", true, true),
            ("169.254.0.1", false, false),
            ("169.254.169.254", false, false),
            ("172.15.255.255", true, true),
            ("172.16.0.1", false, true),
            ("172.31.255.255", false, true),
            ("172.32.0.0", true, true),
            ("192.0.0.192", false, false),
            ("192.0.2.1", false, false),
            ("192.168.1.1", false, true),
            ("192.169.0.0", true, true),
            ("198.18.0.1", false, true),
            ("198.51.100.7", false, false),
            ("203.0.113.7", false, false),
            ("223.255.255.255", true, true),
            ("224.0.0.1", false, false),
            ("239.255.255.255", false, false),
            ("240.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", true, true),
            ("::", false, false),
            ("::1", false, true),
            ("::7f00:1", false, false),
            ("::ffff:93.184.215.14", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::5db8:d70e", true, true),
            ("64:ff9b::a00:1", false, true),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("64:ff9b:1::1", false, false),
            ("100::1", false, false),
            ("2001::1", false, false),
            ("2001:db8::1", false, false),
            ("2001:4860:4860::8888", true, true),
            ("2002:7f00:1::1", false, false),
            ("fc00::1", false, true),
            ("fd12:3456::1", false, true),
            ("fd00:ec2::254", false, false),
            ("fe80::1", false, false),
            ("fec0::1", false, false),
            ("ff02::1", false, false),
            ("4000::1", false, false),
        ];
        for (text, outside, listed) in rows {
            let address = text.parse().unwrap();
            assert_eq!(judge(address, false).is_ok(), outside, "{text}");
            assert_eq!(judge(address, true).is_ok(), listed, "{text} of a listed host");
        }
    }
}
