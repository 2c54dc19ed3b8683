//! The door against live servers on loopback: redirects, credentials, limits, deadlines.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use dispatch::clock::Clock;
use dispatch::fair::Party;
use dispatch::net::{self, Blocked, Class, Deadlines, Egress, Error, ErrorKind, Hold, Phase, Policy, Request, Trust};
use dispatch::secret::Secret;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tower_http::compression::CompressionLayer;

/// What a server saw.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(Method, HeaderMap, String)>>>);

struct Server {
    port: u16,
    seen: Seen,
}

impl Server {
    /// `/to?url=` redirects (`status=` says how), `/echo` answers, `/never` does not, `/slow` stops half way, `/bomb` decompresses to much, `/members`,
    /// `/cut` and `/nothing` claim to be gzip.
    async fn start() -> Self {
        let seen = Seen::default();
        let app = Router::new()
            .route("/to", any(redirect))
            .route("/echo", any(echo))
            .route("/never", any(std::future::pending::<StatusCode>))
            .route("/slow", any(slow))
            .route("/bomb", any(|| async { Body::from(vec![0u8; 200_000]) }).layer(CompressionLayer::new()))
            .route("/members", any(|| async { gzipped([gzip(b"one\n"), gzip(b"two\n")].concat()) }))
            .route("/cut", any(|| async { gzipped(gzip(b"one, and no more of it")[..20].to_vec()) }))
            .route("/nothing", any(|| async { gzipped(Vec::new()) }))
            .with_state(seen.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn to(&self, target: &str, status: u16) -> String {
        let query: String = url::form_urlencoded::Serializer::new(String::new()).append_pair("url", target).finish();
        self.url(&format!("/to?status={status}&{query}"))
    }

    fn rule(&self) -> String {
        format!("127.0.0.1/32:{}", self.port)
    }

    fn count(&self) -> usize {
        self.seen.0.lock().len()
    }

    fn last(&self) -> (Method, HeaderMap, String) {
        self.seen.0.lock().last().cloned().unwrap()
    }
}

#[derive(serde::Deserialize)]
struct To {
    url: String,
    status: u16,
}

async fn note(seen: &Seen, method: Method, headers: HeaderMap, body: String) {
    seen.0.lock().push((method, headers, body));
}

async fn redirect(State(seen): State<Seen>, Query(to): Query<To>, method: Method, headers: HeaderMap, body: String) -> Response {
    note(&seen, method, headers, body).await;
    (StatusCode::from_u16(to.status).unwrap(), [(header::LOCATION, to.url)]).into_response()
}

async fn echo(State(seen): State<Seen>, method: Method, headers: HeaderMap, body: String) -> String {
    note(&seen, method, headers, body.clone()).await;
    body
}

async fn slow() -> Body {
    let parts = futures_util::stream::once(async { Ok::<_, std::io::Error>("half") });
    Body::from_stream(futures_util::StreamExt::chain(parts, futures_util::stream::pending()))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    std::io::Write::write_all(&mut encoder, bytes).unwrap();
    encoder.finish().unwrap()
}

fn gzipped(body: Vec<u8>) -> Response {
    ([(header::CONTENT_ENCODING, "gzip")], body).into_response()
}

fn door(rules: &[String]) -> Egress {
    let allow = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Egress::new(Policy { allow, ..Policy::default() }, Clock::system()).unwrap()
}

fn get(url: impl Into<String>) -> Request {
    Request::new(Method::GET, url, Trust::Judged)
}

async fn text(egress: &Egress, request: Request) -> Result<String, Error> {
    let body = egress.send(request).await?.bytes().await?;
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn only_the_allowed_port_is_open() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = door(&[one.rule()]);
    assert!(text(&egress, get(one.url("/echo"))).await.is_ok());
    assert!(text(&egress, get(format!("http://localhost:{}/echo", one.port)).body("hi")).await.is_ok_and(|body| body == "hi"));
    for host in ["127.0.0.1", "localhost"] {
        let error = text(&egress, get(format!("http://{host}:{}/echo", two.port))).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Blocked(Blocked::Address(Class::Loopback)), "{host}");
    }
    assert_eq!(two.count(), 0);
}

/// Lasts when it is asked for the n-th time, by what it was told.
struct Spell(Mutex<std::slice::Iter<'static, bool>>);

impl Hold for Spell {
    fn lasts(&self) -> bool {
        *self.0.lock().next().expect("asked too often")
    }
}

fn spell(answers: &'static [bool]) -> Arc<Spell> {
    Arc::new(Spell(Mutex::new(answers.iter())))
}

#[tokio::test]
async fn a_request_whose_hold_is_over_when_it_is_to_leave_sends_no_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/");
    let egress = door(&[format!("127.0.0.1/32:{port}")]);
    let post = Request::new(Method::POST, url, Trust::Judged).body("hi");
    // Asked at the socket, and once more before it would be tried again.
    let sent = net::under(spell(&[false, false]), egress.send(post));
    let arrived = async {
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut peer, &mut bytes).await.map(|_| bytes)
    };
    let (sent, arrived) = tokio::join!(sent, arrived);
    assert_eq!(String::from_utf8(arrived.unwrap()).unwrap(), "");
    let error = sent.err().unwrap();
    assert_eq!((error.kind(), error.may_have_been_sent(), error.is_transient()), (&ErrorKind::Released, false, true));
}

#[tokio::test]
async fn a_request_that_was_kept_back_leaves_once_when_its_hold_is_there_again() {
    let server = Server::start().await;
    let egress = door(&[server.rule()]);
    let post = || Request::new(Method::POST, server.url("/echo"), Trust::Judged).body("hi");
    // On a connection of its own, and then on one that lies ready.
    for asked in [&[false, true, true][..], &[true], &[false, true, true]] {
        let spell = spell(asked);
        let before = server.count();
        assert_eq!(net::under(spell.clone(), text(&egress, post())).await.unwrap(), "hi");
        assert_eq!(server.count(), before + 1);
        assert_eq!(server.last().1[header::CONTENT_LENGTH], "2");
        assert_eq!(spell.0.lock().len(), 0, "it was asked each time");
    }
}

#[tokio::test]
async fn gzip_is_read_to_its_end_or_is_an_error() {
    let server = Server::start().await;
    let egress = door(&[server.rule()]);
    let response = egress.send(get(server.url("/members"))).await.unwrap();
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH] {
        assert!(!response.headers.contains_key(&name), "{name} is of what was sent, not of what is read");
    }
    assert_eq!(response.bytes().await.unwrap(), "one\ntwo\n");
    assert_eq!(text(&egress, get(server.url("/nothing"))).await.unwrap(), "");
    let error = text(&egress, get(server.url("/cut"))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Cut { .. }), "{error}");
    for (asked, wanted) in [(None, "gzip"), (Some("identity"), "identity")] {
        let mut request = get(server.url("/echo"));
        if let Some(asked) = asked {
            request = request.header("accept-encoding", asked);
        }
        text(&egress, request).await.unwrap();
        assert_eq!(server.last().1[header::ACCEPT_ENCODING], wanted);
    }
}

#[tokio::test]
async fn every_hop_is_judged() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = door(&[one.rule()]);
    let inside = two.url("/echo");
    let targets = [
        (inside.clone(), Blocked::Address(Class::Loopback)),
        (format!("//127.0.0.1:{}/echo", two.port), Blocked::Address(Class::Loopback)),
        (format!("http://0x7f.1:{}/echo", two.port), Blocked::Address(Class::Loopback)),
        (format!("http://localhost:{}/echo", two.port), Blocked::Address(Class::Loopback)),
        ("http://[::ffff:169.254.169.254]/latest/meta-data".into(), Blocked::Address(Class::Metadata)),
        ("http://metadata.google.internal/".into(), Blocked::Name),
        ("http://10.0.0.1/".into(), Blocked::Address(Class::Private)),
        ("file:///etc/passwd".into(), Blocked::Scheme),
    ];
    for status in [301, 302, 303, 307, 308] {
        for (target, expected) in &targets {
            for start in [one.to(target, status), one.to(&one.to(target, status), 302)] {
                let error = text(&egress, get(start)).await.unwrap_err();
                assert_eq!(error.kind(), &ErrorKind::Blocked(*expected), "{status} {target}");
                assert!(error.may_have_been_sent(), "the first hop was sent");
            }
        }
    }
    let userinfo = format!("http://user:secret@127.0.0.1:{}/echo", one.port);
    let error = text(&egress, get(one.to(&userinfo, 302))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidUrl { .. }), "{error}");
    assert!(!error.to_string().contains("secret"));
    assert_eq!(two.count(), 0, "nothing reached the forbidden server");
}

#[tokio::test]
async fn an_operators_trust_ends_at_its_origin() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = door(&[]);
    let trusted = |url: String| Request { trust: Trust::Operator, ..get(url) };
    assert!(text(&egress, trusted(one.to("/echo", 302))).await.is_ok(), "a private base URL may redirect within itself");
    let error = text(&egress, trusted(one.to(&two.url("/echo"), 302))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Blocked(_)), "{error}");
    assert_eq!(two.count(), 0);
}

#[tokio::test]
async fn a_party_has_so_many_requests_at_once() {
    let server = Server::start().await;
    let policy = Policy { allow: vec![server.rule().parse().unwrap()], max_requests: 1, ..Policy::default() };
    let door = Egress::new(policy, Clock::system()).unwrap();
    let get = |path: &str| {
        let (door, request) = (door.clone(), Request::new(Method::GET, server.url(path), Trust::Judged));
        async move { door.send(request).await }
    };
    let (one, two) = (Party::new(1), Party::new(2));
    // Its body does not end.
    let open = net::on_behalf_of(one, get("/slow")).await.unwrap();
    let waiting = tokio::spawn(net::on_behalf_of(one, get("/echo")));
    let mut hasty = Request::new(Method::GET, server.url("/echo"), Trust::Judged);
    hasty.deadlines.total = Duration::from_millis(50);
    let late = net::on_behalf_of(one, door.send(hasty)).await.unwrap_err();
    assert!(matches!(late.kind(), ErrorKind::Timeout { phase: Phase::Total, .. }), "{late:?}");
    assert!(net::on_behalf_of(two, get("/echo")).await.is_ok(), "others have their own");
    assert!(net::on_behalf_of(one.for_visitors(), get("/echo")).await.is_ok(), "so have visitors");
    assert!(get("/echo").await.is_ok(), "nobody's are not counted");
    assert_eq!(server.count(), 3);
    drop(open);
    assert!(waiting.await.unwrap().is_ok());
    assert_eq!(server.count(), 4);
}

#[tokio::test]
async fn credentials_stay_with_their_origin() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = door(&[one.rule(), two.rule()]);
    let request = |url: String| {
        get(url)
            .header("authorization", Secret::new("Bearer canary"))
            .header("cookie", "s=canary")
            .header("x-own", Secret::new("canary"))
            .header("x-api-key", "canary")
            .header("x-plain", "kept")
    };
    text(&egress, request(one.to(&two.url("/echo"), 307))).await.unwrap();
    let (_, headers, _) = two.last();
    assert!(!format!("{headers:?}").contains("canary"), "{headers:?}");
    assert_eq!(headers["x-plain"], "kept");
    text(&egress, request(one.to("/echo", 307))).await.unwrap();
    let (_, headers, _) = one.last();
    for name in ["authorization", "cookie", "x-own", "x-api-key"] {
        assert!(headers[name].to_str().unwrap().contains("canary"), "{name} stays within its origin");
    }
    // Away and back again: what was dropped stays dropped.
    text(&egress, request(one.to(&two.to(&one.url("/echo"), 307), 307))).await.unwrap();
    assert!(!format!("{:?}", one.last().1).contains("canary"));
}

#[tokio::test]
async fn a_body_with_secrets_stays_with_its_origin() {
    let (one, two) = (Server::start().await, Server::start().await);
    let egress = door(&[one.rule(), two.rule()]);
    let post = |url: String, body_is_secret| Request { method: Method::POST, body_is_secret, ..get(url) }.body("canary");
    for status in [307, 308] {
        for start in [one.to(&two.url("/echo"), status), one.to(&one.to(&two.url("/echo"), status), 307)] {
            let error = text(&egress, post(start, true)).await.unwrap_err();
            assert_eq!((error.kind(), error.code()), (&ErrorKind::SecretRedirect, "redirect_refused"), "{status}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        assert_eq!(two.count(), 0, "nothing reached the other origin");
        assert_eq!(text(&egress, post(one.to("/echo", status), true)).await.unwrap(), "canary", "within its origin it is followed");
    }
    // The redirected request has no body.
    text(&egress, post(one.to(&two.url("/echo"), 303), true)).await.unwrap();
    assert_eq!((two.last().0, two.last().2.as_str()), (Method::GET, ""));
    text(&egress, post(one.to(&two.url("/echo"), 307), false)).await.unwrap();
    assert_eq!(two.last().2, "canary", "what is no secret may go there");
}

#[tokio::test]
async fn methods_and_bodies_follow_the_status() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    for (status, method, body) in
        [(301, Method::GET, ""), (302, Method::GET, ""), (303, Method::GET, ""), (307, Method::POST, "hi"), (308, Method::POST, "hi")]
    {
        let request = Request { method: Method::POST, ..get(one.to("/echo", status)) }.header("content-type", "text/plain").body("hi");
        text(&egress, request).await.unwrap();
        let (seen_method, headers, seen_body) = one.last();
        assert_eq!((seen_method, seen_body.as_str()), (method, body), "{status}");
        assert_eq!(headers.contains_key("content-type"), !body.is_empty(), "{status}");
    }
}

#[tokio::test]
async fn a_loop_ends() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    let mut url = "/echo".to_owned();
    for _ in 0..6 {
        url = one.to(&url, 302);
    }
    let error = text(&egress, get(url.clone())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Redirect { .. }), "{error}");
    assert!(!error.to_string().contains("url="), "no query in errors: {error}");
    let patient = Request { max_redirects: 6, ..get(url.clone()) };
    assert!(text(&egress, patient).await.is_ok());
    let curious = egress.send(Request { max_redirects: 0, ..get(url) }).await.unwrap();
    assert_eq!(curious.status, StatusCode::FOUND);
}

#[tokio::test]
async fn size_is_counted_after_inflation_to_the_byte() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    let ask = |limit| Request { max_bytes: limit, ..get(one.url("/bomb")) };
    assert_eq!(text(&egress, ask(200_000)).await.unwrap().len(), 200_000);
    let error = text(&egress, ask(199_999)).await.unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::TooLarge { limit: 199_999 });
}

#[tokio::test]
async fn every_phase_has_its_deadline() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    let (short, long) = (Duration::from_millis(80), Duration::from_secs(60));
    let phase = async |path: &str, deadlines: Deadlines| {
        let error = text(&egress, Request { deadlines, ..get(one.url(path)) }).await.unwrap_err();
        match error.kind() {
            ErrorKind::Timeout { phase, .. } => *phase,
            other => panic!("{other:?}"),
        }
    };
    let all = |first_byte, between_chunks, total| Deadlines { first_byte, between_chunks, total };
    assert_eq!(phase("/never", all(short, long, long)).await, Phase::FirstByte);
    assert_eq!(phase("/never", all(long, long, short)).await, Phase::Total);
    assert_eq!(phase("/slow", all(long, short, long)).await, Phase::BetweenChunks);
    assert_eq!(phase("/slow", all(long, long, short)).await, Phase::Total);
}

#[tokio::test]
async fn a_closed_port_and_a_plain_server_are_told_apart() {
    let one = Server::start().await;
    let egress = Egress::new(Policy { allow_loopback: true, ..Policy::default() }, Clock::system()).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = free.local_addr().unwrap().port();
    drop(free);
    let refused = text(&egress, get(format!("http://127.0.0.1:{closed}/"))).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Connect { .. }), "{refused:?}");
    let plain = text(&egress, get(format!("https://127.0.0.1:{}/", one.port))).await.unwrap_err();
    assert!(matches!(plain.kind(), ErrorKind::Tls { .. }), "{plain:?}");
    assert!(!refused.may_have_been_sent() && !plain.may_have_been_sent());
}

#[tokio::test]
async fn headers_that_frame_or_address_are_refused() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    for name in ["host", "transfer-encoding", "connection", "upgrade", "proxy-authorization", "bad name"] {
        let error = text(&egress, get(one.url("/echo")).header(name, "x")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidHeader { .. }), "{name}");
    }
    let split = text(&egress, get(one.url("/echo")).header("x-a", "b\r\nx-c: d")).await.unwrap_err();
    assert!(matches!(split.kind(), ErrorKind::InvalidHeader { .. }));
    assert_eq!(one.count(), 0);
}

#[tokio::test]
async fn a_list_of_hosts_holds_on_every_hop() {
    let one = Server::start().await;
    let egress = door(&[one.rule()]);
    let ask = |url: String, hosts: &[&str]| Request { hosts: Some(hosts.iter().map(|host| (*host).to_owned()).collect()), ..get(url) };
    assert!(text(&egress, ask(one.url("/echo"), &["example.com", "127.0.0.1"])).await.is_ok());
    let named = format!("http://localhost:{}/echo", one.port);
    assert!(text(&egress, ask(named.clone(), &["LOCALHOST"])).await.is_ok());
    for (url, hosts) in [(one.to(&named, 302), ["127.0.0.1"]), (named.clone(), ["*.localhost"]), (named, ["host"])] {
        let before = one.count();
        let error = text(&egress, ask(url.clone(), &hosts)).await.unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::Blocked(Blocked::Host), "{url}");
        assert_eq!(one.count() - before, usize::from(url.contains("/to?")));
    }
}
