//! A name server on loopback, and the resolver that asks it: what names say is chosen by the test, and may change.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use dispatch::net::Names;
use hickory_proto::op::{Message, OpCode, Query};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::net::UdpSocket;

/// What a name is answered with, asked again and again; the last answer stays.
type Answers = Vec<Vec<Said>>;

#[derive(Debug, Clone)]
pub enum Said {
    Is(IpAddr),
    /// It is another name.
    Goes(&'static str),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Zone {
    names: Mutex<HashMap<String, Answers>>,
    asked: Mutex<Vec<String>>,
}

impl Zone {
    /// Serves on a free port; ends with the runtime.
    pub async fn serve() -> (Arc<Self>, SocketAddr) {
        let zone = Arc::new(Self::default());
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mine = zone.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let answer = mine.answer(&Message::from_vec(&buffer[..length]).unwrap());
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        (zone, address)
    }

    pub fn set(&self, name: &str, answers: Answers) {
        self.names.lock().insert(name.to_owned(), answers);
    }

    /// The names that were asked for, once for each try to connect.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock())
    }

    fn answer(&self, question: &Message) -> Message {
        let mut message = Message::response(question.metadata.id, OpCode::Query);
        let query = &question.queries[0];
        message.queries.push(query.clone());
        let name = query.name.to_utf8().trim_end_matches('.').to_ascii_lowercase();
        // The last part of a name can stand for all names under it.
        let mut names = self.names.lock();
        let known =
            names.iter().filter(|(known, _)| name == **known || name.ends_with(&format!(".{known}"))).map(|(known, _)| known.clone());
        let Some(known) = known.max_by_key(String::len) else { return message };
        let answers = names.get_mut(&known).unwrap();
        let said = answers[0].clone();
        // Addresses of both families are asked for at each try; the later question moves the zone on.
        if query.query_type() == RecordType::AAAA {
            self.asked.lock().push(name.clone());
            if answers.len() > 1 {
                answers.remove(0);
            }
        }
        for said in said {
            let data = match said {
                Said::Is(IpAddr::V4(address)) if query.query_type() == RecordType::A => RData::A(A(address)),
                Said::Is(IpAddr::V6(address)) if query.query_type() == RecordType::AAAA => RData::AAAA(AAAA(address)),
                Said::Is(_) => continue,
                Said::Goes(name) => RData::CNAME(CNAME(Name::from_str(name).unwrap())),
            };
            message.answers.push(Record::from_rdata(query.name.clone(), 0, data));
        }
        message
    }
}

/// Asks a name server, each time anew.
#[derive(Debug)]
pub struct Resolver(pub SocketAddr);

impl Resolver {
    async fn ask(&self, name: &str, kind: RecordType) -> io::Result<Message> {
        let mut question = Message::query();
        question.queries.push(Query::query(Name::from_str(name).unwrap(), kind));
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.send_to(&question.to_vec().unwrap(), self.0).await?;
        let mut buffer = [0; 1_500];
        let length = socket.recv(&mut buffer).await?;
        Ok(Message::from_vec(&buffer[..length]).unwrap())
    }
}

#[async_trait]
impl Names for Resolver {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let (mut name, mut found) = (name.to_owned(), Vec::new());
        for _ in 0..8 {
            let mut next = None;
            for kind in [RecordType::A, RecordType::AAAA] {
                for record in self.ask(&name, kind).await?.answers {
                    match &record.data {
                        RData::A(A(address)) => found.push(IpAddr::V4(*address)),
                        RData::AAAA(AAAA(address)) => found.push(IpAddr::V6(*address)),
                        RData::CNAME(CNAME(other)) => next = Some(other.to_utf8()),
                        _ => {}
                    }
                }
            }
            let Some(other) = next else { break };
            name = other.trim_end_matches('.').to_owned();
        }
        if found.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "no such name")) } else { Ok(found) }
    }
}
