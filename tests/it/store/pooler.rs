//! A connection pooler in transaction mode, as far as the store uses it: each transaction goes to the most recently used server
//! session. It supports only simple queries and closes a connection that prepares statements.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// See the module.
pub struct Pooler {
    port: u16,
}

struct State {
    server: SocketAddr,
    idle: Mutex<Vec<Session>>,
}

/// A session of the server, and the server's greeting.
struct Session {
    stream: TcpStream,
    greeting: Vec<u8>,
}

impl Pooler {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State { server, idle: Mutex::default() });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, state.clone()));
            }
        });
        Self { port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Serves one client until it disconnects or needs more than simple queries, which returns `None`.
async fn serve(mut client: TcpStream, state: Arc<State>) -> Option<()> {
    let startup = packet(&mut client, Vec::new()).await?;
    let first = state.session(&startup).await?;
    client.write_all(&first.greeting).await.ok()?;
    state.idle.lock().push(first);
    loop {
        let kind = client.read_u8().await.ok()?;
        let query = packet(&mut client, vec![kind]).await?;
        if kind != b'Q' {
            return None;
        }
        let mut session = state.session(&startup).await?;
        // The session stays with this client until the transaction ends.
        let mut next = Some(query);
        loop {
            let query = match next.take() {
                Some(query) => query,
                None => {
                    let kind = client.read_u8().await.ok()?;
                    packet(&mut client, vec![kind]).await?
                }
            };
            session.stream.write_all(&query).await.ok()?;
            let (answer, idle) = until_ready(&mut session.stream).await?;
            client.write_all(&answer).await.ok()?;
            if idle {
                break;
            }
        }
        state.idle.lock().push(session);
    }
}

impl State {
    async fn session(&self, startup: &[u8]) -> Option<Session> {
        let idle = self.idle.lock().pop();
        if idle.is_some() {
            return idle;
        }
        let mut stream = TcpStream::connect(self.server).await.ok()?;
        stream.write_all(startup).await.ok()?;
        let (greeting, _) = until_ready(&mut stream).await?;
        Some(Session { stream, greeting })
    }
}

/// Reads the rest of a packet: its length, which includes itself, and its contents.
async fn packet(stream: &mut TcpStream, mut packet: Vec<u8>) -> Option<Vec<u8>> {
    let length = stream.read_u32().await.ok()?;
    packet.extend(length.to_be_bytes());
    let start = packet.len();
    packet.resize(start + usize::try_from(length).ok()?.checked_sub(4)?, 0);
    stream.read_exact(&mut packet[start..]).await.ok()?;
    Some(packet)
}

/// Returns the server's messages until it is ready for a query, and whether it is outside a transaction then.
async fn until_ready(stream: &mut TcpStream) -> Option<(Vec<u8>, bool)> {
    let mut all = Vec::new();
    loop {
        let kind = stream.read_u8().await.ok()?;
        let message = packet(stream, vec![kind]).await?;
        all.extend(&message);
        if kind == b'Z' {
            return Some((all, message.last() == Some(&b'I')));
        }
    }
}
