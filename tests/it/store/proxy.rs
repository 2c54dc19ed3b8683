//! A wire that can be cut between a server's commit and its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Passes bytes on until it is told to swallow.
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// The next request's answer is to be swallowed.
    armed: AtomicBool,
    swallowed: AtomicU64,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                tokio::spawn(pass(client, server, shared.clone()));
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The next connection that asks something gets no answer: it is closed when the server has given one.
    pub fn swallow_next_answer(&self) {
        self.state.armed.store(true, Ordering::SeqCst);
    }

    pub fn swallowed(&self) -> u64 {
        self.state.swallowed.load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, state: Arc<State>) {
    let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
    let mut victim = false;
    loop {
        tokio::select! {
            Ok(read) = client.read(&mut up) => {
                if read == 0 || server.write_all(&up[..read]).await.is_err() {
                    return;
                }
                victim |= state.armed.swap(false, Ordering::SeqCst);
            }
            Ok(read) = server.read(&mut down) => {
                if victim {
                    state.swallowed.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if read == 0 || client.write_all(&down[..read]).await.is_err() {
                    return;
                }
            }
            else => return,
        }
    }
}
