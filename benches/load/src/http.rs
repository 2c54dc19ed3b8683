//! Just enough HTTP/1.1 to drive a server without being the bottleneck: kept connections, chunked answers read to their end.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request, as bytes.
pub fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// Sends a request and reads its whole chunked answer.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<()> {
        self.begin(request).await?;
        while !self.buffer.ends_with(b"0\r\n\r\n") {
            self.more().await?;
        }
        Ok(())
    }

    /// Sends a request and reads its answer's head.
    pub async fn begin(&mut self, request: &[u8]) -> Result<()> {
        self.buffer.clear();
        self.stream.write_all(request).await?;
        while !self.buffer.windows(4).any(|window| window == b"\r\n\r\n") {
            self.more().await?;
        }
        if !self.buffer.starts_with(b"HTTP/1.1 200") {
            bail!("answered {}", String::from_utf8_lossy(self.buffer.get(..300).unwrap_or(&self.buffer)));
        }
        Ok(())
    }

    async fn more(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.buffer).await.context("reading")?;
        if count == 0 {
            bail!("the connection was closed in the middle of an answer");
        }
        Ok(())
    }
}
