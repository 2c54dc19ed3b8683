//! Services in the driver's own process that flows and jobs of the scenario call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// Bytes of the large reply, below the most that a server reads of one.
const LARGE_BYTES: usize = 9_000_000;

/// See the module. They end with the driver.
pub struct Services {
    /// The address of a service that accepts requests and never answers.
    pub silent: String,
    /// The address of a service whose replies are large.
    pub large: String,
    pub arrivals: Arrivals,
}

impl Services {
    pub async fn start() -> Result<Self> {
        let (listener, silent) = listen().await?;
        tokio::spawn(accept(listener, keep_silent));
        let (listener, large) = listen().await?;
        let text = "All work and no play makes a log file dull. ".repeat(LARGE_BYTES / 44);
        let body = serde_json::json!({ "text": text }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let reply: Arc<[u8]> = [head.into_bytes(), body.into_bytes()].concat().into();
        tokio::spawn(accept(listener, move |stream| reply_with(stream, reply.clone())));
        Ok(Self { silent, large, arrivals: Arrivals::start().await? })
    }
}

/// A service that tells when a call that was expected arrives.
#[derive(Clone)]
pub struct Arrivals {
    address: String,
    expected: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>,
    next: Arc<AtomicU64>,
}

impl Arrivals {
    async fn start() -> Result<Self> {
        let (listener, address) = listen().await?;
        let arrivals = Self { address, expected: Arc::default(), next: Arc::default() };
        let expected = arrivals.expected.clone();
        tokio::spawn(accept(listener, move |stream| note_arrivals(stream, expected.clone())));
        Ok(arrivals)
    }

    /// A URL of its own, and what ends when it is called for the first time.
    pub fn expect_call(&self) -> (String, oneshot::Receiver<()>) {
        let path = format!("/{}", self.next.fetch_add(1, Ordering::Relaxed));
        let (sender, arrived) = oneshot::channel();
        let url = format!("http://{}{path}", self.address);
        self.expected.lock().insert(path, sender);
        (url, arrived)
    }
}

async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    Ok((listener, address))
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream))),
            // There are no descriptors left for now.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

async fn keep_silent(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 1_024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

async fn reply_with(mut stream: TcpStream, reply: Arc<[u8]>) -> Result<()> {
    let mut buffer = Vec::new();
    while read_request(&mut stream, &mut buffer).await?.is_some() {
        stream.write_all(&reply).await?;
    }
    Ok(())
}

async fn note_arrivals(mut stream: TcpStream, expected: Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while let Some(path) = read_request(&mut stream, &mut buffer).await? {
        let arrived = expected.lock().remove(&path);
        if let Some(arrived) = arrived {
            let _ = arrived.send(());
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}").await?;
    }
    Ok(())
}

/// Reads one request and its body; its path. `None`: the connection was closed.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<Option<String>> {
    let head = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let text = String::from_utf8_lossy(buffer.get(..head).unwrap_or_default()).into_owned();
    let length = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|(_, value)| value.trim().parse::<usize>().ok()).unwrap_or(0);
    while buffer.len() < head + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    buffer.drain(..head + length);
    Ok(Some(text.split(' ').nth(1).unwrap_or_default().to_owned()))
}
