//! Just enough HTTP/1.1 to drive a server without being the bottleneck: kept connections, answers read to their end.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request with a JSON body, as bytes.
pub fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    with_body("POST", path, key, body)
}

/// [`post`] with another method.
pub fn with_body(method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A request without a body, as bytes.
pub fn get(path: &str, key: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\r\n").into_bytes()
}

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the body of the present answer begins.
    body: usize,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024), body: 0 })
    }

    /// Sends a request and reads its whole answer, which must be a success.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.begin(request).await?;
        self.finish().await
    }

    /// Sends a request and reads the head of its answer, which must be a success.
    pub async fn begin(&mut self, request: &[u8]) -> Result<()> {
        match self.ask(request).await? {
            200..300 => Ok(()),
            _ => bail!("answered {}", String::from_utf8_lossy(self.buffer.get(..300).unwrap_or(&self.buffer))),
        }
    }

    /// Sends a request and reads the head of its answer; the status.
    pub async fn ask(&mut self, request: &[u8]) -> Result<u16> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        self.body = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        self.head().split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")
    }

    /// Reads the rest of the answer whose head was read.
    pub async fn finish(&mut self) -> Result<()> {
        match self.header("content-length") {
            Some(length) => {
                let end = self.body + length.parse::<usize>()?;
                while self.buffer.len() < end {
                    self.more().await?;
                }
            }
            None => {
                while !self.buffer.ends_with(b"0\r\n\r\n") {
                    self.more().await?;
                }
            }
        }
        Ok(())
    }

    /// A header of the present answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head().lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// What of the body was read, with the marks of its chunks.
    pub fn body(&self) -> &[u8] {
        self.buffer.get(self.body..).unwrap_or_default()
    }

    /// Reads at most so many bytes, up to 64, and forgets them; how many there were.
    pub async fn sip(&mut self, most: usize) -> Result<usize> {
        let mut bytes = [0; 64];
        let most = most.min(bytes.len());
        Ok(self.stream.read(bytes.get_mut(..most).unwrap_or_default()).await?)
    }

    fn head(&self) -> &str {
        std::str::from_utf8(self.buffer.get(..self.body).unwrap_or_default()).unwrap_or_default()
    }

    async fn more(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.buffer).await.context("reading")?;
        if count == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        Ok(())
    }
}
