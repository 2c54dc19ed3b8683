//! What the other tenant does meanwhile, on many connections and without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::services::Services;
use crate::bench::{self, KEY};
use crate::http::{self, Connection};

/// A kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Flood {
    /// Small flows, streamed.
    Dispatches,
    /// Scripts that never end.
    Scripts,
    /// Tools whose JSON Schemas double their work with each reference.
    Schemas,
    /// Documents that take far longer than a second to print.
    Pdfs,
    /// Thousands of jobs of a high priority whose calls are never answered.
    Jobs,
    /// Connections that begin a request and never end it.
    Silent,
    /// Calls of a service that never answers.
    Calls,
    /// Replies of nine megabytes in which a hundred secrets are looked for.
    Redactions,
}

/// A load that goes on until this is dropped.
pub struct Running {
    _tasks: JoinSet<()>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
}

/// The pause before a request or a connection that failed is tried again.
const PAUSE: Duration = Duration::from_millis(5);
/// Silent connections in the place of one that asks.
const SILENT_EACH: usize = 16;
/// How long one execution of the load may take, so that what is left of it ends.
const LONGEST_MS: u64 = 30_000;
/// How long one attempt of a job may take.
const JOB_MS: u64 = 2_000;
/// References of the schema: its work is two to the power of this.
const SCHEMA_LEVELS: usize = 60;
const SECRETS: usize = 100;

impl Running {
    /// Requests that were accepted; silent connections that were opened.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.counts.refused.load(Ordering::Relaxed)
    }
}

impl Flood {
    pub const ALL: [Self; 8] =
        [Self::Dispatches, Self::Scripts, Self::Schemas, Self::Pdfs, Self::Jobs, Self::Silent, Self::Calls, Self::Redactions];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Dispatches => "dispatches",
            Self::Scripts => "scripts",
            Self::Schemas => "schemas",
            Self::Pdfs => "pdfs",
            Self::Jobs => "jobs",
            Self::Silent => "silent",
            Self::Calls => "calls",
            Self::Redactions => "redactions",
        }
    }

    /// Starts the load of the tenant that the key belongs to.
    pub fn start(self, address: &str, key: &str, connections: usize, services: &Services) -> Running {
        let (counts, mut tasks) = (Arc::<Counts>::default(), JoinSet::new());
        let request: Arc<[u8]> = bench::with_key(&self.request(services), key).into();
        let tasks_each = if self == Self::Silent { SILENT_EACH } else { 1 };
        for _ in 0..connections * tasks_each {
            let (address, request, counts) = (address.to_owned(), request.clone(), counts.clone());
            if self == Self::Silent {
                tasks.spawn(keep_silent(address, request, counts));
            } else {
                tasks.spawn(repeat(address, request, counts));
            }
        }
        Running { _tasks: tasks, counts }
    }

    /// The request that is repeated.
    fn request(self, services: &Services) -> Vec<u8> {
        match self {
            Self::Dispatches => bench::dispatch(
                &json!([step("prompt", json!({ "model": "local/echo", "userPrompt": "Say something about {{topic}}." }))]),
                true,
            ),
            Self::Scripts => unattended(&step("transform-data", json!({ "script": "while(true){}" })), &json!({})),
            Self::Schemas => {
                let tool = json!({
                    "name": "bomb", "description": "Takes as long as it likes.", "toolType": "custom", "parametersSchema": endless_schema(),
                    "config": { "code": "return 1" },
                });
                unattended(&step("tool-call", json!({ "tool": tool, "parameters": { "x": "s" } })), &json!({}))
            }
            Self::Pdfs => {
                let html = "<table><tr><td>word <b>word</b></td></tr></table>".repeat(2_000);
                unattended(&step("generate-pdf", json!({ "html": html })), &json!({}))
            }
            Self::Jobs => {
                let callback = json!({ "url": format!("http://{}/", services.silent) });
                let body = json!({ "name": "flood", "payload": { "n": 1 }, "priority": 1_000, "timeout_ms": JOB_MS, "max_retries": 0, "callback": callback });
                http::post("/v1/jobs", KEY, &body.to_string())
            }
            Self::Silent => {
                let whole = http::post("/v1/dispatch", KEY, &"x".repeat(1_000));
                let head = whole.windows(4).position(|window| window == b"\r\n\r\n").map_or(whole.len(), |end| end + 4);
                whole.get(..head).unwrap_or_default().to_vec()
            }
            Self::Calls => {
                let url = format!("http://{}/", services.silent);
                unattended(&step("fetch-url", json!({ "http": { "url": url } })), &json!({}))
            }
            Self::Redactions => {
                let secrets: Map<String, Value> = (0..SECRETS)
                    .map(|number| (format!("s{number}"), json!(format!("flood-secret-{number:04}-0123456789abcdef"))))
                    .collect();
                let http = json!({ "url": format!("http://{}/", services.large), "headers": { "x-secret": "{{secrets.s0}}" } });
                unattended(&step("fetch-url", json!({ "http": http })), &json!(secrets))
            }
        }
    }
}

fn step(kind: &str, config: Value) -> Value {
    json!({ "id": "flood", "type": kind, "config": config })
}

/// A dispatch that is answered as soon as it is accepted.
fn unattended(step: &Value, secrets: &Value) -> Vec<u8> {
    let body = json!({
        "flow": { "name": "Flood", "steps": [step] }, "secrets": secrets, "options": { "budget": { "maxDurationMs": LONGEST_MS } },
    });
    let request = http::post("/v1/dispatch", KEY, &body.to_string());
    String::from_utf8_lossy(&request).replacen("\r\n", "\r\nprefer: respond-async\r\n", 1).into_bytes()
}

/// A schema whose definitions each refer to the next one twice.
fn endless_schema() -> Value {
    let mut defs: Map<String, Value> = (0..SCHEMA_LEVELS)
        .map(|level| {
            let next = json!({ "$ref": format!("#/$defs/a{}", level + 1) });
            (format!("a{level}"), json!({ "allOf": [next, next] }))
        })
        .collect();
    defs.insert(format!("a{SCHEMA_LEVELS}"), json!({ "type": "string" }));
    json!({ "type": "object", "properties": { "x": { "$ref": "#/$defs/a0" } }, "$defs": defs })
}

async fn repeat(address: String, request: Arc<[u8]>, counts: Arc<Counts>) {
    loop {
        if let Ok(mut connection) = Connection::open(&address).await {
            while let Ok(status) = connection.ask(&request).await {
                if connection.finish().await.is_err() {
                    break;
                }
                if (200..300).contains(&status) {
                    counts.accepted.fetch_add(1, Ordering::Relaxed);
                } else {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Holds a connection until the server ends it, and then another one.
async fn keep_silent(address: String, head: Arc<[u8]>, counts: Arc<Counts>) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(&address).await
            && stream.write_all(&head).await.is_ok()
        {
            counts.accepted.fetch_add(1, Ordering::Relaxed);
            let mut rest = [0; 256];
            while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
