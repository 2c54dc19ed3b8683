//! Whether an address may be reached: pure, on parsed addresses, never on text.
//!
//! The ranges are those of the IANA special-purpose registries (RFC 6890 and its updates). IPv6 forms that
//! carry an IPv4 address (mapped, compatible, 6to4, Teredo, NAT64) are unwrapped, and the inner address is judged
//! too: a NAT64 address of a public host is public, one of 10.0.0.1 is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::policy::Policy;

/// Why an address is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Unspecified,
    Loopback,
    Private,
    Shared,
    LinkLocal,
    /// A cloud's metadata or platform service.
    Metadata,
    Multicast,
    Broadcast,
    Benchmark,
    Documentation,
    Reserved,
    /// An IPv6 form that tunnels to an IPv4 address and may not be used as a destination.
    Tunnel,
}

impl Class {
    /// The class in words, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared (carrier NAT)",
            Self::LinkLocal => "link-local",
            Self::Metadata => "cloud metadata",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Benchmark => "benchmark",
            Self::Documentation => "documentation",
            Self::Reserved => "reserved",
            Self::Tunnel => "tunnel",
        }
    }
}

/// `Ok` when a judged request may connect to this address and port under this policy.
pub fn judge(address: IpAddr, port: u16, policy: &Policy) -> Result<(), Class> {
    match classify(address) {
        None => Ok(()),
        Some(_) if policy.opens(address, port) => Ok(()),
        Some(class) => match nat64_inner(address) {
            // The operator's rule names the IPv4 host; behind NAT64 the same host has another spelling.
            Some(inner) if policy.opens(IpAddr::V4(inner), port) => Ok(()),
            _ => Err(class),
        },
    }
}

/// The class of an address, or `None` when it is public.
fn classify(address: IpAddr) -> Option<Class> {
    match address {
        IpAddr::V4(address) => classify_v4(address),
        IpAddr::V6(address) => classify_v6(address),
    }
}

/// Platform services on addresses that the registries call public or that deserve their own word.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254), // AWS, Google, Azure, DigitalOcean, OpenStack
    Ipv4Addr::new(169, 254, 170, 2),   // AWS container credentials
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba
    Ipv4Addr::new(168, 63, 129, 16),   // Azure platform
];

fn classify_v4(address: Ipv4Addr) -> Option<Class> {
    if METADATA_V4.contains(&address) {
        return Some(Class::Metadata);
    }
    match address.octets() {
        [0, 0, 0, 0] => Some(Class::Unspecified),
        [0, ..] => Some(Class::Reserved),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Class::Private),
        [127, ..] => Some(Class::Loopback),
        [100, 64..=127, ..] => Some(Class::Shared),
        [169, 254, ..] => Some(Class::LinkLocal),
        // 192.0.0.9 and .10 are global anycast, but nothing that speaks HTTP lives there.
        [192, 0, 0, _] => Some(Class::Reserved),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(Class::Documentation),
        [192, 88, 99, _] => Some(Class::Tunnel),
        [198, 18..=19, ..] => Some(Class::Benchmark),
        [224..=239, ..] => Some(Class::Multicast),
        [255, 255, 255, 255] => Some(Class::Broadcast),
        [240..=255, ..] => Some(Class::Reserved),
        _ => None,
    }
}

fn classify_v6(address: Ipv6Addr) -> Option<Class> {
    if let Some(inner) = address.to_ipv4_mapped() {
        return classify_v4(inner);
    }
    if let Some(inner) = nat64_inner(IpAddr::V6(address)) {
        return classify_v4(inner);
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Class::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Class::Loopback),
        // IPv4-compatible (::a.b.c.d) and the rest of ::/8 are not destinations.
        [0, 0, 0, 0, 0, 0, high, low] => Some(classify_v4(v4(high, low)).unwrap_or(Class::Reserved)),
        // 64:ff9b:1::/48 is NAT64 of the local network: whatever it maps to is the network's own business.
        [0x64, 0xff9b, 1, ..] => Some(Class::Private),
        [0..=0xff, ..] => Some(Class::Reserved),
        [0x100, 0, 0, 0, ..] => Some(Class::Reserved),
        // Teredo keeps the client's address inverted; 6to4 after the prefix. Both are dead relays: refused as such,
        // and named after what they hide when that is worse.
        [0x2001, 0, _, _, _, _, high, low] => Some(classify_v4(v4(!high, !low)).unwrap_or(Class::Tunnel)),
        [0x2002, high, low, ..] => Some(classify_v4(v4(high, low)).unwrap_or(Class::Tunnel)),
        [0x2001, 2, 0, ..] => Some(Class::Benchmark),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(Class::Documentation),
        [0x2001, 0..=0x1ff, ..] => Some(Class::Reserved),
        [0xfd00, 0xec2, ..] => Some(Class::Metadata),
        [0xfd20, 0xce, ..] => Some(Class::Metadata),
        [0xfc00..=0xfdff, ..] => Some(Class::Private),
        [0xfe80..=0xfebf, ..] => Some(Class::LinkLocal),
        [0xfec0..=0xfeff, ..] => Some(Class::Private),
        [0xff00..=0xffff, ..] => Some(Class::Multicast),
        // ISATAP: an IPv4 address behind 0:5efe or 200:5efe, in any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(classify_v4(v4(high, low)).unwrap_or(Class::Tunnel)),
        // Global unicast is 2000::/3; everything else is not assigned.
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Class::Reserved),
    }
}

/// The IPv4 address inside a NAT64 address with the well-known prefix `64:ff9b::/96` (RFC 6052).
fn nat64_inner(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
            _ => None,
        },
        IpAddr::V4(_) => None,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}
