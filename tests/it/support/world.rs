//! A whole world in one process: servers that can be killed and started again, a provider, a sink.
//!
//! Each server has a runtime of its own, so that killing it drops whatever it was doing, as a crash does.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dispatch::app::App;
use dispatch::cli::fake_provider::{self, FakeOptions};
use dispatch::clock::Clock;
use dispatch::config::Config;
use dispatch::http::AppState;
use dispatch::id::{KeyId, RunId, TenantId};
use dispatch::model::event::Rest;
use dispatch::model::wait::hex;
use dispatch::secret::Secret;
use dispatch::store::{ApiKey, Tenant};
use futures_util::StreamExt;
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::Connection;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::app::within;
use super::call::{Call, client};
use super::sink::Sink;
use super::smtp::Smtp;
use super::transcript::{Frame, Transcript, take_frames};
use crate::store::site::Schema;

/// The databases that a case runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sqlite,
    Postgres,
}

/// The key of the first tenant.
pub const KEY: &str = "dsp_test_key_of_the_first_tenant";
/// The server's keys for the providers.
pub const PROVIDER_KEY: &str = "sk-canary-of-the-provider";

/// See the module.
pub struct World {
    pub kind: Kind,
    pub sink: Sink,
    pub smtp: Smtp,
    /// The fake provider.
    pub fake: SocketAddr,
    folder: tempfile::TempDir,
    schema: Option<Schema>,
    change: Mutex<fn(&mut Config)>,
    nodes: Mutex<Vec<Arc<Node>>>,
    client: reqwest::Client,
}

impl World {
    /// Runs a case in a fresh world with one node, and clears up after it, also when it fails.
    pub async fn run<F: Future<Output = ()> + Send + 'static>(kind: Kind, case: fn(Arc<World>) -> F) {
        Self::run_with(kind, |_| {}, case).await;
    }

    /// [`World::run`] with nodes of another configuration.
    pub async fn run_with<F: Future<Output = ()> + Send + 'static>(kind: Kind, change: fn(&mut Config), case: fn(Arc<World>) -> F) {
        let world = Arc::new(Self::new(kind, change).await);
        world.start().await;
        let result = tokio::spawn(case(world.clone())).await;
        world.clear().await;
        if let Err(panic) = result {
            std::panic::resume_unwind(panic.into_panic());
        }
    }

    async fn new(kind: Kind, change: fn(&mut Config)) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let fake = listener.local_addr().unwrap();
        tokio::spawn(fake_provider::serve(listener, FakeOptions::default()));
        let schema = if kind == Kind::Postgres { Some(Schema::create().await) } else { None };
        Self {
            kind,
            sink: Sink::start().await,
            smtp: Smtp::start().await,
            fake,
            folder: tempfile::tempdir().unwrap(),
            schema,
            change: Mutex::new(change),
            nodes: Mutex::default(),
            client: client(),
        }
    }

    async fn clear(&self) {
        let nodes = std::mem::take(&mut *self.nodes.lock());
        for node in nodes {
            node.kill().await;
        }
        if let Some(schema) = &self.schema {
            schema.remove().await;
        }
    }

    /// The folder of the nodes' data.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The schema of this world on PostgreSQL.
    pub fn schema(&self) -> &Schema {
        self.schema.as_ref().unwrap()
    }

    /// Changes rows as no part of the server does: `statement` gets the bare form of an id. Gives how many rows it changed.
    pub async fn meddle(&self, statement: &'static str, id: &str) -> u64 {
        let (_, id) = id.split_once('_').unwrap();
        match self.kind {
            Kind::Sqlite => {
                let file = format!("sqlite://{}", self.folder().join("dispatch.db").display());
                let mut outsider = sqlx::SqliteConnection::connect(&file).await.unwrap();
                sqlx::query(statement).bind(id).execute(&mut outsider).await.unwrap().rows_affected()
            }
            Kind::Postgres => sqlx::query(statement).bind(id).execute(&mut self.schema().connect().await).await.unwrap().rows_affected(),
        }
    }

    /// Nodes that start from now on are configured so.
    pub fn configure(&self, change: fn(&mut Config)) {
        *self.change.lock() = change;
    }

    fn config(&self) -> Config {
        let mut config = Config::new(self.folder.path().to_owned());
        config.database_url = self.schema.as_ref().map(Schema::url);
        config.api_key = Some(Secret::new(KEY));
        config.allow_private = vec!["127.0.0.1/32".parse().unwrap()];
        config.limits.workers.lease = Duration::from_secs(2);
        config.limits.http.rate = None;
        config.own_program = Some(env!("CARGO_BIN_EXE_dispatch").into());
        let urls = [("OPENAI", "/v1"), ("ANTHROPIC", ""), ("GEMINI", "")];
        for (name, path) in urls {
            config.env.insert(format!("{name}_API_KEY"), PROVIDER_KEY.into());
            config.env.insert(format!("{name}_BASE_URL"), format!("http://{}{path}", self.fake));
        }
        // Services answer at the sink, each below a path of its own.
        for name in
            ["RESEND_BASE_URL", "POSTMARK_BASE_URL", "TWILIO_BASE_URL", "TELNYX_BASE_URL", "SEARXNG_URL", "WIKIPEDIA_URL", "GITHUB_API_URL"]
        {
            let path = name.split('_').next().unwrap_or_default().to_lowercase();
            config.env.insert(name.into(), self.sink.url(&format!("/{path}")));
        }
        config.smtp_url = Some(Secret::new(format!("smtp://{}", self.smtp.address)));
        let change = *self.change.lock();
        change(&mut config);
        config
    }

    /// Starts one more node.
    pub async fn start(&self) -> Arc<Node> {
        let node = Arc::new(Node::start(self.config(), self.client.clone()).await);
        self.nodes.lock().push(node.clone());
        node
    }

    /// The first node.
    pub fn node(&self) -> Arc<Node> {
        self.nodes.lock().first().expect("no node runs").clone()
    }

    /// Kills the first node and starts another over the same database.
    pub async fn crash(&self) -> Arc<Node> {
        let first = self.nodes.lock().remove(0);
        first.kill().await;
        let node = Arc::new(Node::start(self.config(), self.client.clone()).await);
        self.nodes.lock().insert(0, node.clone());
        node
    }

    /// A new key of the first tenant.
    pub async fn key_with(&self, scopes: &[&str]) -> String {
        let made = self.node().post("/v1/api-keys").json(&json!({ "name": "test", "scopes": scopes })).ok().await;
        made["key"].as_str().unwrap().to_owned()
    }

    /// A key of another tenant that may do everything there.
    pub async fn strangers_key(&self) -> String {
        self.node().with_state(strangers_key).await
    }

    /// What the fake provider counted.
    pub async fn stats(&self) -> Value {
        Call::new(self.client.get(format!("http://{}/_fake/stats", self.fake))).ok().await
    }

    /// The last body that a model was sent.
    pub async fn asked(&self, model: &str) -> Value {
        Call::new(self.client.get(format!("http://{}/_fake/last/{model}", self.fake))).ok().await
    }

    /// Asks the fake provider until its figures are as wanted.
    pub async fn stats_are(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let look = async {
            loop {
                let stats = self.stats().await;
                if wanted(&stats) {
                    return stats;
                }
                tokio::task::yield_now().await;
            }
        };
        within(look).await
    }
}

async fn strangers_key(state: AppState) -> String {
    let tenant = Tenant { id: TenantId::new(&state.clock), name: "stranger".into(), created_at: state.clock.now() };
    let key = ApiKey {
        id: KeyId::new(&state.clock),
        tenant: tenant.id,
        name: "test".into(),
        hash: hex(&Sha256::digest("key-of-a-stranger")),
        hint: "test".into(),
        scopes: vec!["*".into()],
        created_at: state.clock.now(),
        expires_at: None,
        revoked_at: None,
    };
    state.store.create_tenant(tenant, key).await.unwrap();
    "key-of-a-stranger".into()
}

/// A server in a runtime of its own.
pub struct Node {
    pub address: SocketAddr,
    client: reqwest::Client,
    runtime: Mutex<Option<Runtime>>,
    state: Mutex<Option<AppState>>,
    shutdown: CancellationToken,
    served: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Node {
    async fn start(config: Config, client: reqwest::Client) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let (tell, told) = tokio::sync::oneshot::channel();
        let served = runtime.spawn(async move {
            let app = App::start(&config, Clock::system()).await.unwrap();
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            tell.send((listener.local_addr().unwrap(), app.state.clone())).ok().unwrap();
            app.serve(listener, stop).await;
        });
        let (address, state) = within(told).await.expect("the server did not start");
        let (runtime, state, served) = (Mutex::new(Some(runtime)), Mutex::new(Some(state)), Mutex::new(Some(served)));
        Self { address, client, runtime, state, shutdown, served }
    }

    /// Does something with the server's parts, in its runtime.
    pub async fn with_state<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, act: impl FnOnce(AppState) -> F) -> T {
        let state = self.state.lock().clone().expect("the server was killed");
        let task = act(state);
        let handle = self.runtime.lock().as_ref().unwrap().handle().clone();
        handle.spawn(task).await.unwrap()
    }

    /// Ends at once, whatever it is doing.
    pub async fn kill(&self) {
        let Some(runtime) = self.runtime.lock().take() else { return };
        let state = self.state.lock().take();
        if let Some(state) = state {
            // Tasks are dropped one after the other, and one that outlives its connection takes it for a failure: what has died commits nothing more.
            let closed = runtime.spawn(async move { tokio::time::timeout(Duration::from_millis(500), state.store.close()).await.is_ok() });
            let _ = closed.await;
        }
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
    }

    /// Ends in order.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        let served = self.served.lock().take();
        within(served.unwrap()).await.unwrap();
        self.kill().await;
    }

    pub fn bare(&self, method: Method, path: &str) -> Call {
        Call::new(self.client.request(method, format!("http://{}{path}", self.address)))
    }

    pub fn get(&self, path: &str) -> Call {
        self.bare(Method::GET, path).bearer(KEY)
    }

    pub fn post(&self, path: &str) -> Call {
        self.bare(Method::POST, path).bearer(KEY)
    }

    /// Dispatches and reads the stream to its end.
    pub async fn dispatch(&self, body: &Value) -> Transcript {
        self.stream("/v1/dispatch", body).await.fresh()
    }

    /// [`Node::dispatch`] by another path.
    pub async fn begin(&self, path: &str, body: &Value) -> Transcript {
        self.stream(path, body).await.fresh()
    }

    /// Continues a run and reads the stream to its end.
    pub async fn go_on(&self, path: &str, body: &Value) -> Transcript {
        self.stream(path, body).await.continued()
    }

    async fn stream(&self, path: &str, body: &Value) -> Transcript {
        let answer = within(self.post(path).json(body).send()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let transcript = Transcript::parse(answer.text().as_bytes());
        assert_eq!(answer.header("x-execution-id"), Some(transcript.run().as_str()));
        transcript
    }

    /// Dispatches without streaming; the events keep the rules too.
    pub async fn result(&self, body: &Value) -> Value {
        let mut body = body.clone();
        body["streamResponse"] = json!(false);
        let answer = within(self.post("/v1/dispatch").json(&body).ok()).await;
        Transcript::of_events(&answer["events"]).fresh();
        answer
    }

    /// Dispatches and gives the stream while it runs.
    pub async fn open(&self, body: &Value) -> Reader {
        self.reader(self.post("/v1/dispatch").json(body)).await
    }

    pub async fn reader(&self, call: Call) -> Reader {
        Reader::new(within(call.start()).await)
    }

    /// A run's events as a stream, from after a cursor.
    pub async fn events(&self, run: &str, after: Option<u64>) -> Reader {
        let query = after.map_or_else(String::new, |after| format!("?after={after}"));
        self.reader(self.get(&format!("/v1/executions/{run}/events{query}")).header("accept", "text/event-stream")).await
    }

    /// What a run says after a cursor, once it goes on.
    pub async fn after(&self, run: &str, cursor: u64) -> Transcript {
        let wait = async {
            loop {
                // A reader of a run that waits is not kept.
                let told = self.events(run, Some(cursor)).await.rest().await;
                if !told.frames.is_empty() {
                    return told.continued();
                }
            }
        };
        within(wait).await
    }

    /// Everything a run has said, once it rests.
    pub async fn log(&self, run: &str) -> Transcript {
        self.events(run, None).await.rest().await
    }

    /// Waits until a run rests, however it does.
    pub async fn rests(&self, run: &str) -> Rest {
        let run: RunId = run.parse().unwrap();
        let look = self.with_state(move |state| async move {
            let tenant = state.store.list_tenants().await.unwrap()[0].id;
            let mut follower = state.feed.follow(tenant, run, None);
            loop {
                let rest = follower.next().await.unwrap().rest;
                if rest != Rest::None {
                    return rest;
                }
            }
        });
        within(look).await
    }

    pub async fn execution(&self, run: &str) -> Value {
        self.get(&format!("/v1/executions/{run}")).ok().await
    }

    /// Approves or denies.
    pub async fn approve(&self, run: &str, approval: &str, decision: &str) -> Transcript {
        self.go_on("/v1/dispatch/approve", &json!({ "executionId": run, "approvalId": approval, "decision": decision })).await
    }

    /// Sends the outputs of tools.
    pub async fn resume(&self, run: &str, outputs: Value) -> Transcript {
        self.go_on("/v1/dispatch/resume", &json!({ "executionId": run, "toolOutputs": outputs })).await
    }
}

/// A stream that is being read.
pub struct Reader {
    response: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: Vec<u8>,
    /// The last bytes that came.
    tail: Vec<u8>,
    pub frames: Vec<Frame>,
    pub status: u16,
}

impl Reader {
    fn new(response: reqwest::Response) -> Self {
        let status = response.status().as_u16();
        Self { response: response.bytes_stream().boxed(), buffer: Vec::new(), tail: Vec::new(), frames: Vec::new(), status }
    }

    /// Reads until a frame is as wanted, and gives it.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let mut looked = 0;
        let search = async {
            loop {
                if let Some(found) = self.frames[looked..].iter().find(|frame| wanted(frame)) {
                    return found.clone();
                }
                looked = self.frames.len();
                assert!(self.more().await, "the stream ended after {:?}", Transcript::of(self.frames.clone()).kinds());
            }
        };
        within(search).await
    }

    /// Reads a piece; `false` at the end.
    async fn more(&mut self) -> bool {
        let Some(piece) = self.response.next().await else { return false };
        let piece = piece.unwrap();
        self.buffer.extend_from_slice(&piece);
        self.tail.extend_from_slice(&piece);
        self.tail.drain(..self.tail.len().saturating_sub(64));
        self.frames.extend(take_frames(&mut self.buffer));
        true
    }

    /// Reads to the end.
    pub async fn rest(self) -> Transcript {
        self.rest_and_hint().await.0
    }

    /// Reads to the end; and whether the last word was the hint to come back.
    pub async fn rest_and_hint(mut self) -> (Transcript, bool) {
        within(async { while self.more().await {} }).await;
        assert!(self.buffer.is_empty(), "the last frame ends with an empty line too");
        let tail = String::from_utf8_lossy(&self.tail).into_owned();
        let hint = tail.strip_suffix("\n\n").and_then(|tail| tail.rsplit('\n').next()).is_some_and(|line| line.starts_with("retry: "));
        (Transcript::of(self.frames), hint)
    }
}

/// Reads until it is as wanted.
pub async fn until(node: &Node, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let found = node.get(path).ok().await;
            if wanted(&found) {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    within(look).await
}
