//! What the operator lets out: the addresses that are open although they are not public.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::{Error, Kind};

/// One opening in the wall: a network, on every port or on one.
///
/// Text form `CIDR[:port]`: `10.1.0.0/16`, `10.1.2.3/32:8080`, `fd00::/8`, `[::1]/128:8080`. A bare address is
/// the network of that address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowRule {
    pub net: IpNet,
    pub port: Option<u16>,
}

/// The limit when the operator sets none. More than a server's runs need, so that one tenant's usual work is never limited by it.
pub const MAX_REQUESTS: usize = 10_000;

/// The door's settings.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Addresses that judged requests may reach although they are private.
    pub allow: Vec<AllowRule>,
    /// Whether judged requests may reach loopback, as in `serve --dev`.
    pub allow_loopback: bool,
    /// How long one connection (name, TCP, TLS) may take to come up.
    pub connect: Duration,
    /// How many requests one party may have at once; requests for nobody have no limit.
    pub max_requests: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { allow: Vec::new(), allow_loopback: false, connect: Duration::from_secs(5), max_requests: MAX_REQUESTS }
    }
}

impl Policy {
    /// Whether an operator's rule opens this address and port.
    pub(super) fn opens(&self, address: IpAddr, port: u16) -> bool {
        let address = address.to_canonical();
        (self.allow_loopback && is_loopback(address)) || self.allow.iter().any(|rule| rule.covers(address, port))
    }

    /// The ports that have rules of their own.
    pub(super) fn special_ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> = self.allow.iter().filter_map(|rule| rule.port).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => Ipv4Addr::is_loopback(&address),
        IpAddr::V6(address) => address.is_loopback(),
    }
}

impl AllowRule {
    fn covers(&self, address: IpAddr, port: u16) -> bool {
        self.net.contains(&address) && self.port.is_none_or(|own| own == port)
    }
}

impl fmt::Display for AllowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.net, self.port) {
            (net, None) => write!(f, "{net}"),
            (IpNet::V4(net), Some(port)) => write!(f, "{net}:{port}"),
            (IpNet::V6(net), Some(port)) => write!(f, "[{}]/{}:{port}", net.addr(), net.prefix_len()),
        }
    }
}

impl FromStr for AllowRule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = || {
            Error::new(
                Kind::Invalid,
                "invalid_allow_rule",
                format!("`{text}` is not an address range; write CIDR[:port], for example 10.1.0.0/16, 10.1.2.3:8080 or [fd00::1]/128:443"),
            )
        };
        let (net, port) = split(text.trim()).ok_or_else(refuse)?;
        let net = net.parse::<IpNet>().or_else(|_| net.parse::<IpAddr>().map(IpNet::from)).map_err(|_| refuse())?;
        let port = match port {
            None => None,
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(refuse)?),
        };
        // `::ffff:10.0.0.0/104` and `10.0.0.0/8` are the same network; addresses are compared in their short form.
        Ok(Self { net: canonical(net), port })
    }
}

/// Splits `CIDR[:port]`; brackets around an IPv6 address are removed.
fn split(text: &str) -> Option<(String, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let (length, port) = match rest.split_once(':') {
            Some((length, port)) => (length, Some(port)),
            None => (rest, None),
        };
        return Some((format!("{address}{length}"), port));
    }
    match text.split_once(':') {
        Some((net, port)) if !port.contains(':') => Some((net.to_owned(), Some(port))),
        _ => Some((text.to_owned(), None)),
    }
}

fn canonical(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net.trunc() };
    let shorter = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    let shorter = shorter.and_then(|(address, length)| ipnet::Ipv4Net::new(address, length).ok());
    shorter.map_or(net.trunc(), |net| IpNet::V4(net.trunc()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_survive_their_text() {
        for text in ["10.1.0.0/16", "10.1.2.3/32:8080", "fd00::/8", "[::1]/128:8080"] {
            assert_eq!(text.parse::<AllowRule>().unwrap().to_string(), text);
        }
        assert_eq!("127.0.0.1:80".parse::<AllowRule>().unwrap().to_string(), "127.0.0.1/32:80");
        assert_eq!("[fd00::1]:443".parse::<AllowRule>().unwrap().to_string(), "[fd00::1]/128:443");
        assert_eq!("::ffff:10.0.0.0/104".parse::<AllowRule>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn broken_rules_are_refused() {
        for text in ["", "10.0.0.0/33", "host:80", "10.0.0.1:0", "10.0.0.1:99999", "[::1", "[::1]/129", "10.0.0.1:x"] {
            assert!(text.parse::<AllowRule>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_with_a_port_opens_only_that_port() {
        let policy = Policy { allow: vec!["10.0.0.0/8:8080".parse().unwrap()], ..Policy::default() };
        assert!(policy.opens("10.2.3.4".parse().unwrap(), 8080));
        assert!(policy.opens("::ffff:10.2.3.4".parse().unwrap(), 8080));
        assert!(!policy.opens("10.2.3.4".parse().unwrap(), 6379));
        assert!(!policy.opens("127.0.0.1".parse().unwrap(), 8080));
    }
}
