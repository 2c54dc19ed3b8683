//! Forbidden targets in every spelling: refused by the door, and nothing arrives at a listening socket.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use std::sync::Arc;

use dispatch::clock::Clock;
use dispatch::net::{Blocked, Class, Egress, ErrorKind, Policy, Request, Trust, judge};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::dns::{Resolver, Said, Zone};

/// First, last and a middle address of every forbidden IPv4 range.
const FORBIDDEN_V4: &[(&str, Class)] = &[
    ("0.0.0.0", Class::Unspecified),
    ("0.0.0.1", Class::Reserved),
    ("0.255.255.255", Class::Reserved),
    ("10.0.0.0", Class::Private),
    ("10.0.0.1", Class::Private),
    ("10.255.255.255", Class::Private),
    ("100.64.0.0", Class::Shared),
    ("100.127.255.255", Class::Shared),
    ("100.100.100.200", Class::Metadata),
    ("127.0.0.0", Class::Loopback),
    ("127.0.0.1", Class::Loopback),
    ("127.1.2.3", Class::Loopback),
    ("127.255.255.255", Class::Loopback),
    ("168.63.129.16", Class::Metadata),
    ("169.254.0.0", Class::LinkLocal),
    ("169.254.169.254", Class::Metadata),
    ("169.254.170.2", Class::Metadata),
    ("169.254.255.255", Class::LinkLocal),
    ("172.16.0.0", Class::Private),
    ("172.31.255.255", Class::Private),
    ("192.0.0.0", Class::Reserved),
    ("192.0.0.192", Class::Reserved),
    ("192.0.2.1", Class::Documentation),
    ("192.88.99.1", Class::Tunnel),
    ("192.168.0.0", Class::Private),
    ("192.168.255.255", Class::Private),
    ("198.18.0.0", Class::Benchmark),
    ("198.19.255.255", Class::Benchmark),
    ("198.51.100.7", Class::Documentation),
    ("203.0.113.7", Class::Documentation),
    ("224.0.0.1", Class::Multicast),
    ("239.255.255.255", Class::Multicast),
    ("240.0.0.1", Class::Reserved),
    ("255.255.255.254", Class::Reserved),
    ("255.255.255.255", Class::Broadcast),
];

/// The neighbours of those ranges, and names everyone knows.
const PUBLIC_V4: &[&str] = &[
    "1.0.0.0",
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "168.63.129.15",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.3.0",
    "192.88.98.255",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
];

const FORBIDDEN_V6: &[(&str, Class)] = &[
    ("::", Class::Unspecified),
    ("::1", Class::Loopback),
    ("::7f00:1", Class::Loopback),
    ("::8.8.8.8", Class::Reserved),
    ("64:ff9b:1::808:808", Class::Private),
    ("64:ff9a::1", Class::Reserved),
    ("100::1", Class::Reserved),
    ("1::1", Class::Reserved),
    ("2001::1", Class::Reserved),
    ("2001:0:4136:e378:8000:63bf:f7f7:f7f7", Class::Tunnel),
    ("2001:0:4136:e378:8000:63bf:8000:ffff", Class::Loopback),
    ("2001:2::1", Class::Benchmark),
    ("2001:10::1", Class::Reserved),
    ("2001:20::1", Class::Reserved),
    ("2001:db8::1", Class::Documentation),
    ("2002:808:808::1", Class::Tunnel),
    ("3fff::1", Class::Documentation),
    ("4000::1", Class::Reserved),
    ("5f00::1", Class::Reserved),
    ("fc00::1", Class::Private),
    ("fd00::1", Class::Private),
    ("fd00:ec2::254", Class::Metadata),
    ("fd20:ce::254", Class::Metadata),
    ("fdff:ffff::1", Class::Private),
    ("fe80::1", Class::LinkLocal),
    ("febf::1", Class::LinkLocal),
    ("fec0::1", Class::Private),
    ("ff02::1", Class::Multicast),
    ("ff0e::1", Class::Multicast),
    ("2600::5efe:a00:1", Class::Private),
    ("2600::200:5efe:a00:1", Class::Private),
];

const PUBLIC_V6: &[&str] =
    &["2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::1", "2001:200::1", "2003::1", "3ffe::1", "64:ff9b::808:808"];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn verdict(address: impl Into<IpAddr>) -> Result<(), Class> {
    judge(address.into(), 80, &Policy::default())
}

/// The IPv6 addresses that carry this IPv4 address.
fn carriers(inner: Ipv4Addr) -> Vec<Ipv6Addr> {
    let [a, b, c, d] = inner.octets();
    let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    vec![
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
        Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low),
        Ipv6Addr::new(0x2600, 0, 0, 0, 0, 0x5efe, high, low),
    ]
}

/// How people, browsers and attackers write an IPv4 host.
fn spellings(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let whole = u32::from(address);
    let tail = (u32::from(b) << 16) | (u32::from(c) << 8) | u32::from(d);
    let pair = (u32::from(c) << 8) | u32::from(d);
    let dotted = address.to_string();
    let wide: String = dotted.chars().map(|c| c.to_digit(10).and_then(|n| char::from_u32(0xff10 + n)).unwrap_or('\u{3002}')).collect();
    let percent: String = dotted.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let mut all = vec![
        dotted.clone(),
        format!("{dotted}."),
        format!("{whole}"),
        format!("0x{whole:x}"),
        format!("0X{whole:08X}"),
        format!("0{whole:o}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.{b}.{c}.{d}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("0x{a:x}.{b}.0{c:o}.{d}"),
        format!("{a}.{tail}"),
        format!("{a}.{b}.{pair}"),
        format!("0x{a:x}.{tail}"),
        wide,
        percent,
        dotted.replace('.', "\u{3002}"),
    ];
    all.extend(carriers(address).into_iter().map(|carrier| format!("[{carrier}]")));
    let s = carriers(address)[0].segments();
    all.push(format!("[0:0:0:0:0:FFFF:{:x}:{:x}]", s[6], s[7]));
    all.push(format!("[::ffff:{dotted}]"));
    all
}

#[test]
fn every_range_is_judged_to_its_edges() {
    for (text, class) in FORBIDDEN_V4 {
        assert_eq!(verdict(v4(text)), Err(*class), "{text}");
    }
    for (text, class) in FORBIDDEN_V6 {
        assert_eq!(verdict(v6(text)), Err(*class), "{text}");
    }
    for text in PUBLIC_V4 {
        assert_eq!(verdict(v4(text)), Ok(()), "{text}");
    }
    for text in PUBLIC_V6 {
        assert_eq!(verdict(v6(text)), Ok(()), "{text}");
    }
}

#[test]
fn an_address_inside_an_address_is_judged_too() {
    for (text, _) in FORBIDDEN_V4 {
        for carrier in carriers(v4(text)) {
            assert!(verdict(carrier).is_err(), "{text} as {carrier}");
        }
    }
    for text in PUBLIC_V4 {
        let [mapped, _, nat64, ..] = carriers(v4(text))[..] else { unreachable!() };
        assert_eq!((verdict(mapped), verdict(nat64)), (Ok(()), Ok(())), "{text}");
    }
}

#[test]
fn an_operators_rule_opens_its_network_in_every_form_that_reaches_it() {
    let policy = Policy { allow: vec!["10.0.0.0/8:8080".parse().unwrap(), "fd00::/16".parse().unwrap()], ..Policy::default() };
    let inner = v4("10.1.2.3");
    let [mapped, compatible, nat64, ..] = carriers(inner)[..] else { unreachable!() };
    let open = |address: IpAddr, port| judge(address, port, &policy).is_ok();
    assert!(open(inner.into(), 8080) && open(mapped.into(), 8080) && open(nat64.into(), 8080));
    assert!(!open(inner.into(), 80) && !open(compatible.into(), 8080));
    assert!(open(v6("fd00::5").into(), 1) && !open(v6("fd01::5").into(), 1));
}

/// A door with a policy, and a request through it to a URL.
async fn knock(egress: &Egress, url: &str) -> ErrorKind {
    let answer = egress.send(Request::new(Method::GET, url, Trust::Judged)).await;
    let error = answer.expect_err(url);
    assert!(!error.may_have_been_sent(), "{url}: {error}");
    error.kind().clone()
}

#[tokio::test]
async fn no_spelling_of_a_forbidden_address_is_connected_to() {
    let sink = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    sink.set_nonblocking(true).unwrap();
    let port = sink.local_addr().unwrap().port();
    let egress = Egress::new(Policy::default(), Clock::system()).unwrap();
    let mut forms = 0;
    for (text, _) in FORBIDDEN_V4 {
        for host in spellings(v4(text)) {
            let kind = knock(&egress, &format!("http://{host}:{port}/")).await;
            assert!(matches!(kind, ErrorKind::Blocked(Blocked::Address(_)) | ErrorKind::InvalidUrl { .. }), "{host}: {kind:?}");
            forms += 1;
        }
    }
    for (text, _) in FORBIDDEN_V6 {
        let kind = knock(&egress, &format!("http://[{text}]:{port}/")).await;
        assert!(matches!(kind, ErrorKind::Blocked(Blocked::Address(_))), "{text}: {kind:?}");
        forms += 1;
    }
    assert!(forms > 600, "{forms}");
    assert!(sink.accept().is_err(), "somebody knocked");
}

#[tokio::test]
async fn names_are_judged_by_what_they_resolve_to() {
    let sink = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    sink.set_nonblocking(true).unwrap();
    let port = sink.local_addr().unwrap().port();
    let egress = Egress::new(Policy::default(), Clock::system()).unwrap();
    for host in ["localhost", "LocalHost", "\u{24db}ocalhost"] {
        let kind = knock(&egress, &format!("http://{host}:{port}/")).await;
        assert_eq!(kind, ErrorKind::Blocked(Blocked::Address(Class::Loopback)), "{host}");
    }
    for host in ["metadata.google.internal", "METADATA.google.internal.", "metadata.goog", "instance-data"] {
        assert_eq!(knock(&egress, &format!("http://{host}/")).await, ErrorKind::Blocked(Blocked::Name), "{host}");
    }
    assert!(sink.accept().is_err(), "somebody knocked");
}

#[tokio::test]
async fn texts_that_parsers_read_differently_are_not_urls() {
    let egress = Egress::new(Policy::default(), Clock::system()).unwrap();
    let odd = [
        "http://user@1.1.1.1/",
        "http://user:pass@1.1.1.1/",
        "http://:pass@1.1.1.1/",
        "http://1.1.1.1\\@127.0.0.1/",
        "http:\\\\127.0.0.1/",
        "http://1.1.1.1\t/",
        "http://1.1.1.1\r\nHost: x/",
        "http://1.1.1.1\0/",
        " http://1.1.1.1/",
        "http://1.1.1.1/ a",
        "http://1.1.1.1:0/",
        "http://1.1.1.1:70000/",
        "http://[fe80::1%25eth0]/",
        "http://[::1",
        "http://",
        "//1.1.1.1/",
        "/path",
        "",
    ];
    for url in odd {
        let kind = knock(&egress, url).await;
        assert!(matches!(kind, ErrorKind::InvalidUrl { .. }), "{url:?}: {kind:?}");
    }
    for url in
        ["file:///etc/passwd", "ftp://1.1.1.1/", "gopher://1.1.1.1/", "unix:/run/x", "data:text/plain,x", "javascript:1", "ws://1.1.1.1/"]
    {
        let kind = knock(&egress, url).await;
        assert_eq!(kind, ErrorKind::Blocked(Blocked::Scheme), "{url}");
    }
}

/// Names that a server on loopback answers for, a place that may be reached, and one beside it that may not.
struct Town {
    zone: Arc<Zone>,
    egress: Egress,
    port: u16,
    open: tokio::net::TcpListener,
    closed: [std::net::TcpListener; 2],
}

const OPEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

impl Town {
    async fn new() -> Self {
        let (zone, server) = Zone::serve().await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port();
        let closed = [closed, std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, port)).unwrap()];
        closed.iter().for_each(|listener| listener.set_nonblocking(true).unwrap());
        let policy = Policy { allow: vec![format!("{OPEN}/32:{port}").parse().unwrap()], ..Policy::default() };
        let egress = Egress::with_names(policy, Clock::system(), Arc::new(Resolver(server))).unwrap();
        Self { zone, egress, port, open: tokio::net::TcpListener::bind((OPEN, port)).await.unwrap(), closed }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{name}:{}/", self.port)
    }

    /// Answers one request at the open place.
    async fn answer(&self, head: &str) {
        let (mut stream, _) = self.open.accept().await.unwrap();
        let mut buffer = [0; 1_024];
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0);
        stream.write_all(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
    }

    fn nobody_knocked(&self) {
        assert!(self.closed.iter().all(|listener| listener.accept().is_err()), "somebody knocked");
    }
}

fn is(address: impl Into<IpAddr>) -> Said {
    Said::Is(address.into())
}

#[tokio::test]
async fn whatever_a_name_server_says_is_judged() {
    let town = Town::new().await;
    let forbidden = FORBIDDEN_V4.iter().map(|(text, class)| (IpAddr::from(v4(text)), *class));
    let carried =
        FORBIDDEN_V4.iter().flat_map(|(text, class)| carriers(v4(text)).into_iter().map(|address| (IpAddr::from(address), *class)));
    let forbidden = forbidden.chain(FORBIDDEN_V6.iter().map(|(text, class)| (IpAddr::from(v6(text)), *class)));
    let mut forms = 0;
    for (number, (address, _)) in forbidden.chain(carried).enumerate() {
        let name = format!("n{number}.test");
        // Alone, after a good one, before a good one, and by way of another name.
        let good = is(v4("1.1.1.1"));
        for answer in [vec![is(address)], vec![good.clone(), is(address)], vec![is(address), good.clone()]] {
            town.zone.set(&name, vec![answer]);
            let kind = knock(&town.egress, &town.url(&name)).await;
            assert!(matches!(kind, ErrorKind::Blocked(Blocked::Address(_))), "{address}: {kind:?}");
            forms += 1;
        }
        town.zone.set("inner.test", vec![vec![is(address)]]);
        town.zone.set(&name, vec![vec![Said::Goes("inner.test.")]]);
        let kind = knock(&town.egress, &town.url(&name)).await;
        assert!(matches!(kind, ErrorKind::Blocked(Blocked::Address(_))), "{address} under another name: {kind:?}");
        forms += 1;
    }
    assert!(forms > 600, "{forms}");
    // A name that holds an address is a name like any other.
    town.zone.set("nip.test", vec![vec![is(Ipv4Addr::LOCALHOST)]]);
    for name in ["127.0.0.1.nip.test", "1.1.1.1.nip.test", "app-7f000001.nip.test"] {
        assert_eq!(knock(&town.egress, &town.url(name)).await, ErrorKind::Blocked(Blocked::Address(Class::Loopback)), "{name}");
    }
    town.zone.asked();
    for name in ["metadata.google.internal", "instance-data", "metadata.goog"] {
        assert_eq!(knock(&town.egress, &town.url(name)).await, ErrorKind::Blocked(Blocked::Name), "{name}");
    }
    assert_eq!(town.zone.asked(), [""; 0], "some names are not even asked for");
    town.nobody_knocked();
}

#[tokio::test]
async fn a_name_that_changes_between_two_looks_is_judged_at_each() {
    let town = Town::new().await;
    let (good, bad) = (vec![is(OPEN)], vec![is(Ipv4Addr::LOCALHOST)]);
    let get = |name: &str| town.egress.send(Request::new(Method::GET, town.url(name), Trust::Judged));
    for turn in 0..20 {
        let name = format!("turn{turn}.test");
        town.zone.set(&name, vec![good.clone(), bad.clone()]);
        let (answered, ()) = tokio::join!(get(&name), town.answer("200 OK"));
        assert_eq!(answered.unwrap().status, 200, "the address that was judged is the one that was reached");
        assert_eq!(town.zone.asked(), std::slice::from_ref(&name), "one look, one connection");
        assert_eq!(knock(&town.egress, &town.url(&name)).await, ErrorKind::Blocked(Blocked::Address(Class::Loopback)));
        assert_eq!(town.zone.asked(), [name], "and another for another");
    }
    town.nobody_knocked();
}

#[tokio::test]
async fn a_redirect_to_a_name_is_judged_by_what_it_resolves_to() {
    let town = Town::new().await;
    town.zone.set("outer.test", vec![vec![is(OPEN)]]);
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST), IpAddr::from(v4("169.254.169.254"))] {
        town.zone.set("inner.test", vec![vec![is(address)]]);
        for status in ["301 a", "302 a", "303 a", "307 a", "308 a"] {
            let mut request = Request::new(Method::GET, town.url("outer.test"), Trust::Judged);
            request.max_redirects = 3;
            let head = format!("{status}\r\nlocation: {}", town.url("inner.test"));
            let (answered, ()) = tokio::join!(town.egress.send(request), town.answer(&head));
            let kind = answered.expect_err(status).kind().clone();
            assert!(matches!(kind, ErrorKind::Blocked(Blocked::Address(_))), "{status} to {address}: {kind:?}");
        }
    }
    // Within what may be reached it is followed.
    town.zone.set("inner.test", vec![vec![is(OPEN)]]);
    let mut request = Request::new(Method::GET, town.url("outer.test"), Trust::Judged);
    request.max_redirects = 3;
    let head = format!("302 a\r\nlocation: {}", town.url("inner.test"));
    let (answered, ()) = tokio::join!(town.egress.send(request), async {
        town.answer(&head).await;
        town.answer("204 No Content").await;
    });
    assert_eq!(answered.unwrap().status, 204);
    town.nobody_knocked();
}
