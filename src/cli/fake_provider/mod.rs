//! A model provider that does what it is told: `dispatch fake-provider`.
//!
//! It speaks every wire format (chat completions, Responses, messages, generateContent, Converse, Cohere), streamed and not, needs no key and is quick enough to be the upstream of
//! benchmarks. The model's name says what happens:
//!
//! | name | what happens |
//! |---|---|
//! | `fake-ok`, or any other name | five words |
//! | `fake-chunks-N` | N words, one chunk and one write each |
//! | `fake-slow-first-MS` | MS milliseconds before the first chunk |
//! | `fake-slow-MS` | MS milliseconds before each further chunk |
//! | `fake-stall` | nothing ever comes, not even a status |
//! | `fake-stall-after-N` | N chunks, then nothing |
//! | `fake-cut-after-N` | N chunks, then the connection breaks |
//! | `fake-end-after-N` | N chunks, then a clean end without an end mark |
//! | `fake-late-error` | two chunks, then an error inside the stream |
//! | `fake-malformed` | two chunks, then broken JSON |
//! | `fake-empty` | status 200 and no body |
//! | `fake-blank` | a well-formed answer that says nothing |
//! | `fake-wrong-type` | status 200 and a page of HTML |
//! | `fake-huge-line` | one line without an end |
//! | `fake-bom` | a byte-order mark before a good answer |
//! | `fake-STATUS` | that HTTP status with the vendor's usual error, `fake-429`, `fake-529` |
//! | `fake-STATUS-retry-after-S` | the same with `Retry-After: S` |
//! | `fake-billing`, `fake-context`, `fake-filter` | status 400 that means: no credit, too long, refused |
//! | `fake-flaky-N` | fails N times with 500 per idempotency key (or body), then answers |
//! | `fake-tools` | calls every offered tool once, then answers |
//! | `fake-tools-N` | calls every offered tool, N times in a row, then answers |
//! | `fake-reasoning` | thinks before it answers |
//! | `fake-draws` | a picture of one pixel before the words (not in the messages format, which has none) |
//! | `fake-cites` | names a page that its answer rests on |
//!
//! Names combine: `fake-chunks-20-slow-5-cut-after-7`. Usage is always 100 input tokens, 40 of them cached, and one
//! output token per chunk (and 7 of reasoning where there is some), streamed or not.
//!
//! `GET /_fake/stats` counts what arrived, `GET /_fake/last/MODEL` shows the last body sent to a model, so that tests
//! can judge by what came over the wire. Must not know: how dispatch reads what is written here;
//! it shares the clock and the making of sample values with it, and no wire type.

mod anthropic;
mod bedrock;
mod cohere;
mod gemini;
mod listen;
mod openai;
mod plan;
mod recordings;
mod render;
mod reply;
mod responses;
mod stats;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpListener;

pub use self::recordings::Recordings;
use self::render::{Asked, Rendered, Wire};
use self::stats::Stats;
use crate::clock::Clock;

/// What the fake provider is made of.
#[derive(Debug, Clone)]
pub struct FakeOptions {
    /// For its delays.
    pub clock: Clock,
    /// Answers that are played instead of made.
    pub recordings: Recordings,
}

impl Default for FakeOptions {
    fn default() -> Self {
        Self { clock: Clock::system(), recordings: Recordings::default() }
    }
}

/// Answers that need no look at the request are rendered once.
const MOST_RENDERED: usize = 1_000;

struct Fake {
    clock: Clock,
    recordings: Recordings,
    stats: Arc<Stats>,
    rendered: Mutex<HashMap<(Wire, String, bool), Arc<Rendered>>>,
}

/// The routes, for mounting elsewhere. Connections are counted by [`serve`] only.
pub fn router(options: FakeOptions) -> Router {
    routes(options, Arc::new(Stats::default()))
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, options: FakeOptions) -> std::io::Result<()> {
    let stats = Arc::new(Stats::default());
    let listener = listen::Counting::new(listener, stats.clone());
    axum::serve(listener, routes(options, stats)).await
}

fn routes(options: FakeOptions, stats: Arc<Stats>) -> Router {
    let fake = Arc::new(Fake { clock: options.clock, recordings: options.recordings, stats, rendered: Mutex::default() });
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/chat/completions", post(chat_completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/embeddings", post(embeddings))
        .route("/v1/messages", post(messages))
        .route("/v1beta/models/{call}", post(generate_content))
        .route("/models/{call}", post(generate_content))
        .route("/v1/responses", post(create_response))
        .route("/responses", post(create_response))
        .route("/v2/chat", post(cohere_chat))
        .route("/model/{model}/converse", post(converse))
        .route("/model/{model}/converse-stream", post(converse_stream))
        .route("/_fake/stats", get(show_stats))
        .route("/_fake/reset", post(reset))
        .route("/_fake/last/{*model}", get(last))
        .with_state(fake)
}

/// What both body formats share.
#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    model: String,
    #[serde(default)]
    stream: bool,
}

async fn chat_completions(State(fake): State<Arc<Fake>>, headers: HeaderMap, body: Bytes) -> Response {
    by_body(&fake, Wire::OpenAi, &headers, body).await
}

/// A vector of three parts for each text: its length, its words, its vowels.
async fn embeddings(body: Bytes) -> Response {
    #[derive(Deserialize)]
    struct Asked {
        model: String,
        input: Vec<String>,
    }
    let asked: Asked = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let vector =
        |text: &String| [text.len(), text.split_whitespace().count(), text.chars().filter(|letter| "aeiou".contains(*letter)).count()];
    let data: Vec<serde_json::Value> = asked
        .input
        .iter()
        .enumerate()
        .map(|(index, text)| serde_json::json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
        .collect();
    let tokens: usize = asked.input.iter().map(|text| text.len().div_ceil(4)).sum();
    let usage = serde_json::json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Json(serde_json::json!({ "object": "list", "model": asked.model, "data": data, "usage": usage })).into_response()
}

async fn messages(State(fake): State<Arc<Fake>>, headers: HeaderMap, body: Bytes) -> Response {
    by_body(&fake, Wire::Anthropic, &headers, body).await
}

async fn create_response(State(fake): State<Arc<Fake>>, headers: HeaderMap, body: Bytes) -> Response {
    by_body(&fake, Wire::Responses, &headers, body).await
}

async fn cohere_chat(State(fake): State<Arc<Fake>>, headers: HeaderMap, body: Bytes) -> Response {
    by_body(&fake, Wire::Cohere, &headers, body).await
}

async fn converse(State(fake): State<Arc<Fake>>, Path(model): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    fake.answer(Asked { wire: Wire::Bedrock, model, stream: false, body }, &headers).await
}

async fn converse_stream(State(fake): State<Arc<Fake>>, Path(model): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    fake.answer(Asked { wire: Wire::Bedrock, model, stream: true, body }, &headers).await
}

async fn generate_content(State(fake): State<Arc<Fake>>, Path(call): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let Some((model, verb)) = call.rsplit_once(':') else {
        return StatusCode::NOT_FOUND.into_response();
    };
    fake.answer(Asked { wire: Wire::Gemini, model: model.to_owned(), stream: verb == "streamGenerateContent", body }, &headers).await
}

async fn by_body(fake: &Fake, wire: Wire, headers: &HeaderMap, body: Bytes) -> Response {
    let head: Head = match serde_json::from_slice(&body) {
        Ok(head) => head,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    fake.answer(Asked { wire, model: head.model, stream: head.stream, body }, headers).await
}

impl Fake {
    async fn answer(&self, asked: Asked, headers: &HeaderMap) -> Response {
        let ticket = self.stats.open(&asked.model, &asked.body);
        if let Some(recorded) = self.recordings.find(&asked.model) {
            let body = serde_json::from_slice(&asked.body).unwrap_or_default();
            if recorded.status != 200 || render::tools(asked.wire, &body).0 == 0 {
                return reply::reply(recorded, ticket, &self.clock).await;
            }
        }
        let plan = plan::plan(&asked.model);
        if let Some(times) = plan.flaky {
            let key = headers.get("idempotency-key").map_or(asked.body.as_ref(), |key| key.as_bytes());
            if self.stats.visits(&asked.model, key) <= times {
                return reply::reply(render::failure(asked.wire, 500, None), ticket, &self.clock).await;
            }
        }
        let rendered = if plan.looks_at_request() { Arc::new(render::render(&plan, &asked)) } else { self.rendered(&plan, asked) };
        reply::reply(rendered, ticket, &self.clock).await
    }

    fn rendered(&self, plan: &plan::Plan, asked: Asked) -> Arc<Rendered> {
        let key = (asked.wire, asked.model.clone(), asked.stream);
        if let Some(known) = self.rendered.lock().get(&key) {
            return known.clone();
        }
        let fresh = Arc::new(render::render(plan, &asked));
        let mut all = self.rendered.lock();
        if all.len() >= MOST_RENDERED {
            all.clear();
        }
        all.insert(key, fresh.clone());
        fresh
    }
}

async fn show_stats(State(fake): State<Arc<Fake>>) -> Json<serde_json::Value> {
    Json(fake.stats.show())
}

async fn reset(State(fake): State<Arc<Fake>>) -> StatusCode {
    fake.stats.reset();
    StatusCode::NO_CONTENT
}

async fn last(State(fake): State<Arc<Fake>>, Path(model): Path<String>) -> Response {
    match fake.stats.last(&model) {
        Some(body) => ([("content-type", "application/json")], body).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The names of the models, for `--help`.
const MODELS: &str = "\
The model's name says what happens; names combine, as in fake-chunks-20-slow-5-cut-after-7:
  fake-ok, or any other name               five words
  fake-chunks-N                            N words, one chunk each
  fake-slow-first-MS, fake-slow-MS         milliseconds before the first chunk, or before each further one
  fake-stall, fake-stall-after-N           no response at all; N chunks, then nothing
  fake-cut-after-N, fake-end-after-N       N chunks, then the connection breaks; or ends without the end mark
  fake-late-error, fake-malformed          two chunks, then an error in the stream; or broken JSON
  fake-empty, fake-blank, fake-wrong-type  no body; a well-formed but empty answer; a page of HTML
  fake-huge-line, fake-bom                 a line without an end; a byte order mark before a good answer
  fake-STATUS, fake-STATUS-retry-after-S   that HTTP status, as fake-429; with Retry-After: S
  fake-billing, fake-context, fake-filter  status 400: no credit, prompt too long, refused by a filter
  fake-flaky-N                             fails N times with 500, then answers
  fake-tools, fake-tools-N                 calls every offered tool once, or N times in a row, then answers
  fake-reasoning, fake-draws, fake-cites   reasoning before the answer; a picture; a citation";

/// `dispatch fake-provider`.
#[derive(Debug, clap::Args)]
#[command(after_help = MODELS)]
pub struct Arguments {
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1:9090")]
    listen: std::net::SocketAddr,
    /// A folder of recorded answers. A request for the model of a recording's name gets that recording.
    #[arg(long)]
    replay: Option<std::path::PathBuf>,
}

/// Serves until the process ends.
pub async fn run(arguments: Arguments, output: &super::output::Output) -> crate::error::Result<()> {
    use crate::error::{Error, Kind};
    let listener = TcpListener::bind(arguments.listen)
        .await
        .map_err(|error| Error::new(Kind::Unavailable, "address_unavailable", format!("cannot listen on {}: {error}", arguments.listen)))?;
    let address = listener.local_addr().map_err(Error::internal)?;
    let recordings = arguments.replay.as_deref().map(Recordings::read).transpose()?.unwrap_or_default();
    output.say(format_args!("fake provider on http://{address}: point OPENAI_BASE_URL, ANTHROPIC_BASE_URL or another provider's at it"));
    output.envelope(serde_json::json!({ "url": format!("http://{address}"), "recordings": recordings.len() }))?;
    serve(listener, FakeOptions { recordings, ..FakeOptions::default() }).await.map_err(Error::internal)
}
