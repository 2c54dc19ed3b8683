//! A mail server that takes mails and remembers them; it refuses one address and hangs up after the mails to another.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Nobody may write to it.
pub const REFUSED: &str = "refused@example.com";
/// What is written to it is taken, and the line is cut before the answer.
pub const CUT: &str = "cut@example.com";

/// A mail that came.
#[derive(Debug, Clone, Default)]
pub struct Received {
    pub from: String,
    pub to: Vec<String>,
    pub text: String,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Smtp {
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Smtp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let smtp = Self { address: listener.local_addr().unwrap(), received: Arc::default() };
        let own = smtp.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = own.clone();
                tokio::spawn(async move { own.talk(stream).await });
            }
        });
        smtp
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    async fn talk(self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).lines();
        let mut mail = Received::default();
        write.write_all(b"220 test\r\n").await?;
        while let Some(line) = lines.next_line().await? {
            let path =
                || line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(String::new(), |(path, _)| path.to_owned());
            let answer = match line.to_ascii_uppercase().split([' ', ':']).next().unwrap_or_default() {
                "EHLO" | "HELO" => "250 test",
                "MAIL" => {
                    mail = Received { from: path(), ..Received::default() };
                    "250 ok"
                }
                "RCPT" if path() == REFUSED => "550 nobody of that name",
                "RCPT" => {
                    mail.to.push(path());
                    "250 ok"
                }
                "DATA" => {
                    write.write_all(b"354 go on\r\n").await?;
                    while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                        mail.text.push_str(&line);
                        mail.text.push('\n');
                    }
                    self.received.lock().push(mail.clone());
                    if mail.to.iter().any(|to| to == CUT) {
                        return Ok(());
                    }
                    "250 taken"
                }
                "QUIT" => {
                    write.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                _ => "250 ok",
            };
            write.write_all(format!("{answer}\r\n").as_bytes()).await?;
        }
        Ok(())
    }
}
