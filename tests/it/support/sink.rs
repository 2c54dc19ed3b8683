//! A small HTTP server that flows call: it answers as told and remembers what came.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

/// What the sink does with one request.
#[derive(Clone)]
pub enum Reply {
    /// An answer: status, headers, body.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The same with a binary body.
    Bytes(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Says back what came: method, headers, body.
    Mirror,
    /// Takes the request and closes the connection without a word.
    Drop,
    /// Answers when the gate is opened.
    Gate(Arc<Notify>),
}

impl Reply {
    pub fn json(body: Value) -> Self {
        Self::status(200, body)
    }

    pub fn status(status: u16, body: Value) -> Self {
        Self::Answer(status, vec![("content-type", "application/json".into())], body.to_string())
    }

    pub fn text(body: &str) -> Self {
        Self::Answer(200, vec![("content-type", "text/plain".into())], body.into())
    }

    /// Refuses, and says when to come back.
    pub fn later(status: u16, seconds: u32) -> Self {
        Self::Answer(status, vec![("retry-after", seconds.to_string())], "come back later".into())
    }
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// The answer of paths that were told nothing; as a bucket says that it has kept something.
fn kept() -> Reply {
    let headers = vec![("content-type", "application/json".into()), ("etag", "\"1\"".into())];
    Reply::Answer(200, headers, json!({ "ok": true }).to_string())
}

struct Inner {
    address: SocketAddr,
    replies: Mutex<HashMap<String, VecDeque<Reply>>>,
    seen: Mutex<Vec<Seen>>,
    asked: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Sink(Arc<Inner>);

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let sink = Self(Arc::new(Inner {
            address,
            replies: Mutex::default(),
            seen: Mutex::default(),
            asked: Mutex::default(),
            count: watch::Sender::new(0),
        }));
        let own = sink.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                let service = service_fn(move |request| own.clone().serve(request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        sink
    }

    /// The address of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.0.address)
    }

    /// What a path answers, one after the other; the last for ever. Other paths answer `{"ok": true}`.
    pub fn on(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.0.replies.lock().insert(path.to_owned(), replies.into_iter().collect());
    }

    /// Everything that came to a path.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.0.seen.lock().iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Everything that came, in order.
    pub fn everything(&self) -> Vec<Seen> {
        self.0.seen.lock().clone()
    }

    /// Path and query of everything that came, in order.
    pub fn all(&self) -> Vec<String> {
        self.0.asked.lock().clone()
    }

    /// Waits until this many requests came to a path.
    pub async fn reached(&self, path: &str, times: usize) {
        let mut count = self.0.count.subscribe();
        super::app::within(count.wait_for(|_| self.seen(path).len() >= times)).await.unwrap();
    }

    fn reply(&self, path: &str) -> Reply {
        let mut replies = self.0.replies.lock();
        let Some(queue) = replies.get_mut(path) else { return kept() };
        if queue.len() > 1 { queue.pop_front().unwrap() } else { queue.front().unwrap().clone() }
    }

    async fn serve(self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = head.uri.path().to_owned();
        let headers = head.headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()));
        let seen = Seen {
            method: head.method.to_string(),
            path: head.uri.path_and_query().map_or_else(|| path.clone(), ToString::to_string),
            headers: headers.collect(),
            body: String::from_utf8_lossy(&body).into_owned(),
        };
        let reply = self.reply(&path);
        let mirrored = json!({ "method": seen.method, "headers": seen.headers, "body": seen.body });
        self.0.asked.lock().push(seen.path.clone());
        self.0.seen.lock().push(Seen { path: path.clone(), ..seen });
        self.0.count.send_modify(|count| *count += 1);
        let answer = |status: u16, headers: Vec<(&'static str, String)>, body: Bytes| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Full::from(body)).unwrap()
        };
        match reply {
            Reply::Answer(status, headers, body) => Ok(answer(status, headers, body.into())),
            Reply::Bytes(status, headers, body) => Ok(answer(status, headers, body.into())),
            Reply::Mirror => {
                Ok(Response::builder().header("content-type", "application/json").body(Full::from(mirrored.to_string())).unwrap())
            }
            Reply::Drop => Err(io::ErrorKind::ConnectionAborted.into()),
            Reply::Gate(gate) => {
                gate.notified().await;
                Ok(Response::builder().header("content-type", "application/json").body(Full::from("{\"ok\":true}")).unwrap())
            }
        }
    }
}
