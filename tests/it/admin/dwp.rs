//! The wire protocol: a WebSocket, single requests, and a stream of events.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::{called, flow};
use crate::dispatch::step;
use crate::support::app::within;
use crate::support::world::{KEY, Node, World};

on_both!(
    requests_do_what_the_admin_api_does,
    events_come_to_those_who_listen,
    frames_that_prove_nothing_are_refused,
    a_connection_ends_with_its_key_and_its_server,
    a_revoked_key_gets_no_more_events,
    one_request_is_one_frame,
    a_stream_has_the_events_of_one_channel,
);

/// A client's end of a connection.
struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    asked: u32,
}

impl Socket {
    async fn open(node: &Node, path: &str) -> Self {
        let (stream, answer) = within(connect_async(format!("ws://{}{path}", node.address))).await.unwrap();
        assert_eq!(answer.status().as_u16(), 101);
        Self { stream, asked: 0 }
    }

    /// Opens a connection and proves who calls.
    async fn begin(node: &Node, key: &str) -> Self {
        let mut socket = Self::open(node, "/dwp").await;
        let answer = socket.ask("auth", json!({ "token": key, "format": "json" })).await;
        assert_eq!((&answer["type"], &answer["data"]["format"]), (&json!("response"), &json!("json")), "{answer}");
        assert!(answer["data"]["session_id"].is_string(), "{answer}");
        socket
    }

    async fn say(&mut self, frame: &Value) {
        within(self.stream.send(Message::text(frame.to_string()))).await.unwrap();
    }

    /// The next frame; `None` when the server has ended the connection.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            match within(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(text.as_str()).unwrap()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    }

    /// Sends a request and gives its answer.
    async fn ask(&mut self, method: &str, data: Value) -> Value {
        self.asked += 1;
        let id = format!("f{}", self.asked);
        self.say(&json!({ "id": id, "type": "request", "method": method, "data": data, "ts": "2026-01-01T00:00:00Z" })).await;
        loop {
            let frame = self.hear().await.expect("the connection ended");
            if frame["correl_id"] == json!(id) {
                return frame;
            }
        }
    }

    /// Sends a request that succeeds, and gives its answer's data.
    async fn done(&mut self, method: &str, data: Value) -> Value {
        let answer = self.ask(method, data).await;
        assert_eq!(answer["type"], "response", "{method}: {answer}");
        answer["data"].clone()
    }

    /// Sends a request that is refused with this code.
    async fn refused(&mut self, method: &str, data: Value, code: u16, details: &str) -> String {
        let answer = self.ask(method, data).await;
        assert_eq!((&answer["type"], &answer["error"]["code"]), (&json!("error"), &json!(code)), "{method}: {answer}");
        assert_eq!(answer["error"]["details"], details, "{method}: {answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    }

    /// Reads events until one has this type.
    async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            let frame = self.hear().await.expect("the connection ended");
            assert_eq!(frame["type"], "event", "{frame}");
            events.push(frame.clone());
            if frame["data"]["type"] == kind {
                return events;
            }
        }
    }
}

const NOBODY: &str = "job_01h455vb4pex5vsknk084sn02q";

async fn requests_do_what_the_admin_api_does(world: Arc<World>) {
    let node = world.node();
    let steps = json!([step("first", "transform-data", json!({ "script": "return n + 1;" }))]);
    flow(&node, "adds", steps).await;
    let mut socket = Socket::begin(&node, KEY).await;
    let job = socket.done("job.enqueue", json!({ "name": "adds", "payload": { "n": 1 }, "queue": "mail", "priority": 2 })).await;
    assert_eq!((&job["queue"], &job["state"]), (&json!("mail"), &json!("pending")));
    let id = job["job_id"].as_str().unwrap().to_owned();
    super::job_is(&node, &id, "completed").await;
    let read = socket.done("job.get", json!({ "job_id": id })).await;
    assert_eq!(read, node.get(&format!("/v1/jobs/{id}")).ok().await);
    assert_eq!(read["priority"], 2);
    assert_eq!(socket.done("job.list", json!({ "queue": "mail" })).await[0]["id"], json!(id));
    assert_eq!(socket.done("job.list", json!({ "queue": "other" })).await, json!([]));
    let later = socket.done("job.enqueue", json!({ "name": "adds", "run_at": "2100-01-01T00:00:00Z" })).await["job_id"].clone();
    assert_eq!(socket.done("job.cancel", json!({ "job_id": later })).await["status"], "cancelled");
    assert_eq!(socket.done("job.get", json!({ "job_id": later })).await["state"], "cancelled");
    socket.refused("job.cancel", json!({ "job_id": later }), 400, "job_state").await;
    assert_eq!(socket.refused("job.get", json!({ "job_id": NOBODY }), 404, "not_found").await, "job not found");
    socket.refused("job.get", json!({ "job_id": "x" }), 400, "invalid_id").await;
    assert!(socket.refused("job.get", json!({}), 400, "validation_failed").await.starts_with("/data/job_id"));
    socket.refused("job.enqueue", json!({ "name": "" }), 400, "validation_failed").await;
    // Clients send an input as an object, or as the text of one.
    for input in [json!({ "n": 4 }), json!("{\"n\": 4}")] {
        let run = socket.done("workflow.start", json!({ "name": "adds", "input": input })).await;
        assert_eq!(run["name"], "adds");
        let id = run["run_id"].as_str().unwrap().to_owned();
        super::until(&node, &format!("/v1/workflows/runs/{id}"), |run| run["state"] == "completed").await;
        assert_eq!(socket.done("workflow.get", json!({ "run_id": id })).await["output"], 5);
        assert_eq!(socket.done("workflow.timeline", json!({ "run_id": id })).await[0]["step_name"], "first");
        let again = socket.done("workflow.replay", json!({ "run_id": id, "from_step": "first" })).await;
        assert_ne!(again["run_id"], json!(id));
        super::until(&node, &format!("/v1/workflows/runs/{}", again["run_id"].as_str().unwrap()), |run| run["state"] == "completed").await;
        socket.refused("workflow.cancel", json!({ "run_id": id }), 400, "run_over").await;
    }
    assert_eq!(socket.refused("workflow.start", json!({ "name": "nobody" }), 404, "not_found").await, "workflow not found");
    socket.refused("workflow.start", json!({ "name": "adds", "input": [1] }), 400, "validation_failed").await;
    let missing = json!({ "run_id": "wfrun_01h455vb4pex5vsknk084sn02q" });
    assert_eq!(socket.refused("workflow.get", missing.clone(), 404, "not_found").await, "run not found");
    socket.refused("workflow.replay", json!({ "run_id": missing["run_id"], "from_step": "first" }), 404, "not_found").await;
    let event = socket.done("workflow.event", json!({ "name": "order.paid", "payload": "{\"id\": 7}" })).await;
    assert_eq!((&event["name"], event["event_id"].is_string()), (&json!("order.paid"), true), "{event}");
    node.post("/v1/crons").json(&json!({ "name": "nightly", "schedule": "@daily" })).ok().await;
    assert_eq!(socket.done("cron.list", Value::Null).await[0]["name"], "nightly");
    let lost = super::enqueue(&node, json!({ "name": "nobody", "max_retries": 0 })).await;
    super::job_is(&node, &lost, "failed").await;
    let letter = socket.done("dlq.list", json!({ "limit": 5 })).await[0].clone();
    assert_eq!(letter["job_id"], json!(lost));
    let replayed = socket.done("dlq.replay", json!({ "entry_id": letter["id"] })).await;
    super::job_is(&node, replayed["job_id"].as_str().unwrap(), "failed").await;
    let stats = socket.done("stats", Value::Null).await;
    assert_eq!((&stats["connections"], &stats["broker"]["subscriber_count"]), (&json!(1), &json!(1)), "{stats}");
    assert_eq!((&stats["jobs"]["completed"], &stats["broker"]["topic_count"]), (&json!(1), &json!(0)), "{stats}");
    for method in ["job.nothing", "federation.enqueue", "auth", ""] {
        socket.refused(method, json!({}), 405, "unknown_method").await;
    }
    socket.say(&json!({ "id": "p1", "type": "ping" })).await;
    let pong = socket.hear().await.unwrap();
    assert_eq!((&pong["type"], &pong["correl_id"]), (&json!("pong"), &json!("p1")), "{pong}");
    socket.say(&json!([1])).await;
    assert_eq!(socket.hear().await.unwrap()["error"]["details"], "invalid_frame");
    // What is another tenant's is not there.
    let mut stranger = Socket::begin(&node, &world.strangers_key().await).await;
    stranger.refused("job.get", json!({ "job_id": id }), 404, "not_found").await;
    assert_eq!(stranger.done("job.list", json!({})).await, json!([]));
}

async fn events_come_to_those_who_listen(world: Arc<World>) {
    let node = world.node();
    let mut socket = Socket::begin(&node, KEY).await;
    let mut stranger = Socket::begin(&node, &world.strangers_key().await).await;
    assert_eq!(stranger.done("subscribe", json!({ "channel": "firehose" })).await["status"], "subscribed");
    let subscribed = socket.done("subscribe", json!({ "channel": "jobs", "credits": 100 })).await;
    assert_eq!(subscribed, json!({ "channel": "jobs", "status": "subscribed" }));
    let id = super::enqueue(&node, called(world.sink.url("/done"))).await;
    let events = socket.until("job.completed").await;
    let kinds: Vec<&str> = events.iter().map(|event| event["data"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["job.enqueued", "job.started", "job.completed"]);
    for event in &events {
        assert_eq!((&event["channel"], &event["data"]["topic"]), (&json!("jobs"), &json!(format!("job:{id}"))), "{event}");
        assert_eq!((&event["data"]["data"]["job_id"], &event["data"]["data"]["queue"]), (&json!(id), &json!("default")), "{event}");
        assert!(event["data"]["ts"].is_string() && event["ts"].is_string(), "{event}");
    }
    assert_eq!(socket.done("unsubscribe", json!({ "channel": "jobs" })).await["status"], "unsubscribed");
    // A job that fails for the last time, by its queue; and a run, by its id.
    socket.done("subscribe", json!({ "channel": "queue:mail" })).await;
    world.sink.on("/broken", [crate::support::sink::Reply::status(500, json!({}))]);
    let mut broken = called(world.sink.url("/broken"));
    (broken["queue"], broken["max_retries"]) = (json!("mail"), json!(0));
    super::enqueue(&node, called(world.sink.url("/done"))).await;
    super::enqueue(&node, broken).await;
    let events = socket.until("job.dlq").await;
    let kinds: Vec<&str> = events.iter().map(|event| event["data"]["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["job.enqueued", "job.started", "job.failed", "job.dlq"]);
    assert!(events[3]["data"]["data"]["error"].as_str().unwrap().contains("500"), "{}", events[3]);
    socket.done("unsubscribe", json!({ "channel": "queue:mail" })).await;
    flow(&node, "waits", json!([step("w", "wait-for-signal", json!({ "name": "go" }))])).await;
    let run = socket.done("workflow.start", json!({ "name": "waits" })).await["run_id"].as_str().unwrap().to_owned();
    socket.done("subscribe", json!({ "channel": format!("workflow:{run}") })).await;
    let execution = run.replace("wfrun_", "exec_");
    let go = format!("/v1/executions/{execution}/signals/go");
    assert!(node.post(&go).json(&json!({})).send().await.status < 300);
    let events = socket.until("workflow.completed").await;
    let steps: Vec<&Value> = events.iter().filter(|event| event["data"]["type"] == "workflow.step_completed").collect();
    assert_eq!((steps.len(), &steps[0]["data"]["data"]["step_name"]), (1, &json!("w")), "{events:?}");
    assert!(events.iter().all(|event| event["channel"] == json!(format!("workflow:{run}"))), "{events:?}");
    // Nothing of it came to the other tenant.
    stranger.say(&json!({ "id": "p", "type": "ping" })).await;
    assert_eq!(stranger.hear().await.unwrap()["type"], "pong");
    for channel in ["crons", "job:x", ""] {
        socket.refused("subscribe", json!({ "channel": channel }), 400, "invalid_channel").await;
    }
    for number in 0..100 {
        let channel = format!("queue:q{number}");
        let answer = socket.ask("subscribe", json!({ "channel": channel })).await;
        // The run's channel is one of the hundred.
        assert_eq!(answer["type"] == "response", number < 99, "{number}: {answer}");
    }
}

async fn frames_that_prove_nothing_are_refused(world: Arc<World>) {
    let node = world.node();
    for (frame, code, details) in [
        (json!({ "id": "1", "type": "request", "method": "stats" }), 400, "invalid_frame"),
        (json!({ "id": "1", "type": "request", "method": "auth" }), 401, "missing_api_key"),
        (
            json!({ "id": "1", "type": "request", "method": "auth", "data": { "token": "dsp_live_no_such_key_at_all" } }),
            401,
            "invalid_api_key",
        ),
        (json!("auth"), 400, "invalid_frame"),
    ] {
        let mut socket = Socket::open(&node, "/dispatch/dwp").await;
        socket.say(&frame).await;
        let answer = socket.hear().await.unwrap();
        assert_eq!((&answer["error"]["code"], &answer["error"]["details"]), (&json!(code), &json!(details)), "{answer}");
        assert_eq!(socket.hear().await, None, "the connection ends");
    }
    let reader = world.key_with(&["JOBS:READ"]).await;
    let mut socket = Socket::begin(&node, &reader).await;
    socket.refused("job.enqueue", json!({ "name": "x" }), 403, "missing_scope").await;
    socket.refused("workflow.start", json!({ "name": "x" }), 403, "missing_scope").await;
    socket.refused("subscribe", json!({ "channel": "firehose" }), 403, "missing_scope").await;
    socket.refused("subscribe", json!({ "channel": "workflows" }), 403, "missing_scope").await;
    // Names are kept for each subscriber.
    socket.refused("subscribe", json!({ "channel": format!("queue:{}", "x".repeat(256)) }), 400, "invalid_channel").await;
    socket.done("subscribe", json!({ "channel": "jobs" })).await;
    assert_eq!(socket.done("job.list", json!({})).await, json!([]));
    // Larger than a request's body may be.
    let large = json!({ "id": "1", "method": "job.list", "data": { "queue": "x".repeat(3 * 1024 * 1024) } });
    let _ = within(socket.stream.send(Message::text(large.to_string()))).await;
    assert_eq!(socket.hear().await, None);
    node.get("/dwp").refused(426, "upgrade_required").await;
}

async fn a_connection_ends_with_its_key_and_its_server(world: Arc<World>) {
    let node = world.node();
    let key = world.key_with(&["JOBS:READ"]).await;
    let mut socket = Socket::begin(&node, &key).await;
    let keys = node.get("/v1/api-keys").ok().await;
    let rows = keys["data"].as_array().unwrap_or_else(|| keys.as_array().unwrap());
    let id = rows.iter().find(|key| key["name"] == "test").unwrap()["id"].as_str().unwrap().to_owned();
    assert!(super::call(&node, Method::DELETE, &format!("/v1/api-keys/{id}")).send().await.status < 300);
    socket.refused("job.list", json!({}), 401, "revoked_api_key").await;
    assert_eq!(socket.hear().await, None);
    let mut socket = Socket::begin(&node, KEY).await;
    let ((), goodbye) = tokio::join!(node.stop(), async {
        loop {
            match within(socket.stream.next()).await {
                Some(Ok(Message::Close(frame))) => return frame,
                Some(Ok(_)) => {}
                ended => panic!("it ended without a word: {ended:?}"),
            }
        }
    });
    assert_eq!(goodbye.map(|frame| u16::from(frame.code)), Some(1001));
}

async fn a_revoked_key_gets_no_more_events(world: Arc<World>) {
    let node = world.node();
    let key = world.key_with(&["JOBS:READ"]).await;
    let mut socket = Socket::begin(&node, &key).await;
    socket.done("subscribe", json!({ "channel": "jobs" })).await;
    let mut stream = within(node.bare(Method::GET, &format!("/dwp/sse?channel=jobs&token={key}")).start()).await;
    assert_eq!(stream.status().as_u16(), 200);
    let first = within(stream.chunk()).await.unwrap().unwrap();
    assert_eq!(&first[..], b": connected\n\n");
    let keys = node.get("/v1/api-keys").ok().await;
    let rows = keys["data"].as_array().unwrap_or_else(|| keys.as_array().unwrap());
    let id = rows.iter().find(|key| key["name"] == "test").unwrap()["id"].as_str().unwrap().to_owned();
    assert!(super::call(&node, Method::DELETE, &format!("/v1/api-keys/{id}")).send().await.status < 300);
    super::enqueue(&node, called(world.sink.url("/done"))).await;
    assert_eq!(socket.hear().await.unwrap()["error"]["details"], "revoked_api_key");
    assert_eq!(socket.hear().await, None);
    assert_eq!(within(stream.chunk()).await.unwrap(), None, "no event, and the end");
}

async fn one_request_is_one_frame(world: Arc<World>) {
    let node = world.node();
    let rpc = |frame: Value| node.bare(Method::POST, "/dwp/rpc").json(&frame);
    let request = |method: &str, data: Value| json!({ "id": "7", "type": "request", "method": method, "token": KEY, "data": data });
    let made = rpc(request("job.enqueue", json!({ "name": "x", "run_at": "2100-01-01T00:00:00Z" }))).send().await;
    let frame = made.json();
    assert_eq!((made.status, &frame["type"], &frame["correl_id"]), (200, &json!("response"), &json!("7")), "{frame}");
    let id = frame["data"]["job_id"].clone();
    let bare = json!({ "id": "8", "method": "job.get", "data": { "job_id": id } });
    for header in [KEY.to_owned(), format!("Bearer {KEY}")] {
        let read = node.bare(Method::POST, "/dispatch/dwp/rpc").header("authorization", header).json(&bare).ok().await;
        assert_eq!(read["data"]["run_at"], "2100-01-01T00:00:00Z", "{read}");
    }
    for (frame, status, details) in [
        (bare.clone(), 401, "missing_api_key"),
        (json!({ "id": "8", "token": "dsp_live_no_such_key_at_all", "method": "stats" }), 401, "invalid_api_key"),
        (request("job.get", json!({ "job_id": NOBODY })), 404, "not_found"),
        (request("job.get", json!({ "job_id": 5 })), 400, "validation_failed"),
        (request("subscribe", json!({ "channel": "jobs" })), 405, "unknown_method"),
        (request("nothing", json!({})), 405, "unknown_method"),
        (json!([]), 400, "invalid_frame"),
        (json!({ "id": 8 }), 400, "invalid_frame"),
    ] {
        let answer = rpc(frame).send().await;
        let body = answer.json();
        assert_eq!((answer.status, &body["type"], &body["error"]["details"]), (status, &json!("error"), &json!(details)), "{body}");
        assert_eq!(body["error"]["code"], json!(status));
    }
    let reader = world.key_with(&["FLOWS:READ"]).await;
    let mut frame = request("job.list", json!({}));
    frame["token"] = json!(reader);
    assert_eq!(rpc(frame).send().await.status, 403);
    assert_eq!(rpc(json!({ "id": "9", "type": "ping", "token": KEY })).ok().await["type"], "pong");
}

async fn a_stream_has_the_events_of_one_channel(world: Arc<World>) {
    let node = world.node();
    let sse = |query: &str| node.bare(Method::GET, &format!("/dwp/sse{query}"));
    sse("?channel=jobs").refused(401, "missing_api_key").await;
    sse("?channel=jobs&token=dsp_live_no_such_key_at_all").refused(401, "invalid_api_key").await;
    sse(&format!("?token={KEY}")).refused(400, "invalid_channel").await;
    sse(&format!("?channel=crons&token={KEY}")).refused(400, "invalid_channel").await;
    let reader = world.key_with(&["JOBS:READ"]).await;
    sse(&format!("?channel=firehose&token={reader}")).refused(403, "missing_scope").await;
    let mut stream = within(sse(&format!("?channel=jobs&token={reader}")).start()).await;
    assert_eq!((stream.status().as_u16(), stream.headers()["content-type"].to_str().unwrap()), (200, "text/event-stream; charset=utf-8"));
    let id = super::enqueue(&node, called(world.sink.url("/done"))).await;
    let mut text = String::new();
    while !text.contains("event: job.completed") || !text.ends_with("\n\n") {
        let piece = within(stream.chunk()).await.unwrap().expect("the stream ended");
        text.push_str(&String::from_utf8_lossy(&piece));
    }
    let told: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    let kinds: Vec<&str> = told.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["job.enqueued", "job.started", "job.completed"], "{text}");
    assert!(told.iter().all(|event| event["topic"] == json!(format!("job:{id}"))), "{text}");
}
