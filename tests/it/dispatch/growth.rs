//! Limits on what callers can store: page input and conversations, signals, events, ids.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use dispatch::config::Config;
use dispatch::engine::bus::Bus;
use dispatch::http::limits::Rate;
use dispatch::id::{ConversationId, RunId};
use dispatch::model::{RetentionKind, RetentionPolicy};
use dispatch::queue::retention::RetentionSweeper;
use dispatch::store::{DocumentQuery, DocumentRow, MAX_SIGNALS, Signal};
use reqwest::Method;
use serde_json::{Value, json};

use super::{flow, step};
use crate::support::app::{within, within_minutes};
use crate::support::call::Call;
use crate::support::world::{KEY, Kind, Node, World};

on_both!(
    page_input_is_limited,
    a_conversation_keeps_its_newest_turns,
    a_turn_keeps_its_newest_messages,
    conversations_of_earlier_versions_are_converted,
    conversations_are_deleted_after_a_year,
    conversations_are_kept_as_long_as_retention_says,
    feedback_of_a_session_is_limited,
    signals_of_an_execution_are_limited,
    the_oldest_events_are_deleted,
    long_ids_in_paths_are_refused,
);

const ORIGIN: &str = "https://shop.example";

fn post(node: &Node, path: &str, body: &Value) -> Call {
    node.bare(Method::POST, path).header("origin", ORIGIN).json(body)
}

/// Creates a client token for an echoing agent, with history and practically no limit on messages.
async fn token(node: &Node) -> (String, String) {
    token_of(node, "Desk").await
}

/// Creates a client token for an agent of this name.
async fn token_of(node: &Node, agent: &str) -> (String, String) {
    let agent = node.post("/v1/agents").json(&json!({ "name": agent, "config": { "model": "local/echo" } })).ok().await;
    let body = json!({
        "name": "Shop", "allowedOrigins": [ORIGIN], "agentIds": [agent["id"]], "visitorHistory": true,
        "rateLimitPerMinute": 10_000, "rateLimitPerHour": 100_000, "maxMessagesPerSession": 10_000,
    });
    let made = node.post("/v1/client-tokens").json(&body).ok().await;
    (made["clientToken"]["id"].as_str().unwrap().into(), made["token"].as_str().unwrap().into())
}

/// A visitor's session and its conversation.
struct Chat {
    node: Arc<Node>,
    token_id: String,
    session: String,
    visitor: String,
    conversation: String,
}

impl Chat {
    async fn new(node: Arc<Node>) -> Self {
        let (token_id, token) = token(&node).await;
        let opened = post(&node, "/v1/client/init", &json!({ "token": token, "visitorHistory": true })).ok().await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (session, conversation) = (text(&opened["sessionId"]), text(&opened["conversationId"]));
        Self { token_id, session, visitor: text(&opened["visitor"]["token"]), conversation, node }
    }

    /// Sends messages of the user and returns the answer as one JSON.
    async fn say(&self, messages: Value) -> Value {
        let body = json!({ "sessionId": self.session, "messages": messages, "streamResponse": false });
        post(&self.node, "/v1/client/chat", &body).ok().await
    }

    fn history(&self, method: Method, path: &str) -> Call {
        let glue = if path.contains('?') { '&' } else { '?' };
        let path = format!("/v1/client/conversations/{}{path}{glue}sessionId={}", self.conversation, self.session);
        self.node.bare(method, &path).header("origin", ORIGIN).header("x-visitor-token", &self.visitor)
    }

    /// Returns the rows of the conversation's turns.
    async fn turns(&self) -> Vec<DocumentRow> {
        let parent = self.conversation.clone();
        self.node
            .with_state(move |state| async move {
                let tenant = state.store.list_tenants().await.unwrap()[0].id;
                let query = DocumentQuery { parent: Some(parent), before: None, limit: 1_000 };
                state.store.list_documents(tenant, "conversation_turn", query).await.unwrap()
            })
            .await
    }

    /// Returns the conversation's own row.
    async fn row(&self) -> DocumentRow {
        let id = self.conversation.parse::<ConversationId>().unwrap().suffix();
        self.node
            .with_state(move |state| async move {
                let tenant = state.store.list_tenants().await.unwrap()[0].id;
                state.store.find_document(tenant, "conversation", &id).await.unwrap().unwrap()
            })
            .await
    }

    /// Returns the number of turns that the owner sees.
    async fn turn_count(&self) -> u64 {
        let owned = self.node.get(&format!("/v1/client-tokens/{}/conversations", self.token_id)).ok().await;
        owned["data"][0]["turnCount"].as_u64().unwrap()
    }
}

fn user(id: &str, text: &str) -> Value {
    json!({ "id": id, "role": "user", "content": text })
}

async fn page_input_is_limited(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    let node = &chat.node;
    let tool =
        |name: String, size: usize| json!({ "name": name, "description": "d".repeat(size), "parametersSchema": { "type": "object" } });
    let tools = |count: usize, size: usize| (0..count).map(|number| tool(format!("t{number}"), size)).collect::<Vec<_>>();
    let cases = [
        ("chat", json!({ "messages": [user("m", "say hi")], "assistantMessageId": "m".repeat(201) }), "/assistantMessageId"),
        ("chat", json!({ "messages": [user("m", "say hi"), user(&"m".repeat(201), "say hi")] }), "/messages/1/id"),
        ("chat", json!({ "messages": [user("m", "say hi")], "clientTools": tools(101, 1) }), "/clientTools"),
        ("chat", json!({ "messages": [user("m", "say hi")], "clientTools": tools(2, 70_000) }), "/clientTools"),
        ("chat", json!({ "messages": [user("m", "say hi")], "clientToolsFingerprint": "f".repeat(129) }), "/clientToolsFingerprint"),
        ("feedback", json!({ "type": "upvote", "messageId": "m".repeat(201) }), "/messageId"),
        ("feedback", json!({ "type": "upvote", "messageId": "m", "metadata": { "x": "x".repeat(8_192) } }), "/metadata"),
    ];
    for (route, mut body, at) in cases {
        body["sessionId"] = chat.session.clone().into();
        let refused = post(node, &format!("/v1/client/{route}"), &body).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), [at], "{route}");
    }
    assert!(chat.turns().await.is_empty(), "nothing of it was kept");
    // Input at the limits is accepted.
    let body = json!({
        "sessionId": chat.session, "messages": [user(&"m".repeat(200), "say hi")], "assistantMessageId": "a".repeat(200),
        "clientTools": tools(100, 100), "clientToolsFingerprint": "f".repeat(128), "streamResponse": false,
    });
    assert_eq!(post(node, "/v1/client/chat", &body).ok().await["finalOutput"], "hi");
    for (body, at) in [
        (json!({ "messages": [{ "id": "m".repeat(201), "displayContent": "x" }] }), "/messages/0/id"),
        (json!({ "messages": vec![json!({ "id": "m", "displayContent": "x" }); 101] }), "/messages"),
    ] {
        let refused = chat.history(Method::PATCH, "/display-projections").json(&body).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), [at]);
    }
    let token = json!({ "name": "x", "allowedOrigins": [ORIGIN], "config": { "placeholder": "x".repeat(40_000) } });
    let refused = node.bare(Method::PUT, &format!("/v1/client-tokens/{}", chat.token_id)).bearer(KEY).json(&token);
    assert_eq!(refused.refused(422, "validation_failed").await.pointers(), ["/config"]);
    // What continues an execution is read once the execution is known.
    let asks = json!({
        "sessionId": chat.session, "messages": [user("p", "call t0 {}")], "clientTools": tools(1, 1), "streamResponse": false,
    });
    let paused = post(node, "/v1/client/chat", &asks).ok().await;
    assert_eq!(paused["status"], "paused", "{paused}");
    let approval = json!({ "approvalId": "appr_01h455vb4pex5vsknk084sn02q", "decision": "denied", "reason": "r".repeat(4_097) });
    for (route, mut body, at) in [
        ("resume", json!({ "clientTools": tools(101, 1), "toolOutputs": { "t0": "x" } }), "/clientTools"),
        ("resume", json!({ "clientToolsFingerprint": "f".repeat(129), "toolOutputs": { "t0": "x" } }), "/clientToolsFingerprint"),
        ("approve", approval, "/reason"),
    ] {
        body["sessionId"] = chat.session.clone().into();
        body["executionId"] = paused["executionId"].clone();
        let refused = post(node, &format!("/v1/client/{route}"), &body).refused(422, "validation_failed").await;
        assert_eq!(refused.pointers(), [at]);
    }
}

async fn a_conversation_keeps_its_newest_turns(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    // Turns are returned in pages.
    let small = async {
        for number in 0..55 {
            chat.say(json!([user(&format!("m{number}"), "say hi")])).await;
        }
    };
    within_minutes(small).await;
    assert_eq!((chat.turn_count().await, chat.turns().await.len()), (55, 55));
    let newest = chat.history(Method::GET, "").ok().await;
    let ids = |page: &Value| -> Vec<String> {
        let asked = page["messages"].as_array().unwrap().iter().filter(|message| message["role"] == "user");
        asked.map(|message| message["id"].as_str().unwrap().to_owned()).collect()
    };
    let numbers = |from: usize, to: usize| (from..to).map(|number| format!("m{number}")).collect::<Vec<_>>();
    assert_eq!(ids(&newest), numbers(5, 55));
    let cursor = newest["nextMessageCursor"].as_str().unwrap();
    let oldest = chat.history(Method::GET, &format!("?messageCursor={cursor}")).ok().await;
    assert_eq!((ids(&oldest), &oldest["nextMessageCursor"]), (numbers(0, 5), &Value::Null));
    assert_eq!(newest["title"], "say hi");
    // The cost of a message does not grow with the conversation: its row does not contain the turns.
    let length = chat.row().await.body.len();
    assert!(length < 2_000, "{length}");
    // Large turns push out old ones, which the page does not notice.
    let filler = "x".repeat(16_000);
    let large = async {
        for number in 55..105 {
            let messages = json!([user("a", &filler), user("b", &filler), user("c", &filler), user(&format!("m{number}"), "say hi")]);
            assert_eq!(chat.say(messages).await["success"], true);
        }
    };
    within_minutes(large).await;
    let rows = chat.turns().await;
    let bytes: usize = rows.iter().map(|row| row.body.len()).sum();
    assert!((1_900_000..=2 * 1024 * 1024).contains(&bytes), "{bytes}");
    assert_eq!(chat.turn_count().await, rows.len() as u64);
    let page = chat.history(Method::GET, "").ok().await;
    assert!(ids(&page).contains(&"m104".into()) && !ids(&page).contains(&"m55".into()));
    assert_eq!(page["nextMessageCursor"], Value::Null);
    // Shown texts count, too, and a turn has its own limit.
    let shows = |ids: &[&str], size: usize| {
        let messages: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "displayContent": "x".repeat(size) })).collect();
        chat.history(Method::PATCH, "/display-projections").json(&json!({ "messages": messages }))
    };
    shows(&["m104"], 32_768).ok().await;
    assert!(chat.turns().await.iter().map(|row| row.body.len()).sum::<usize>() <= 2 * 1024 * 1024);
    let shown = chat.history(Method::GET, "").ok().await;
    let last = shown["messages"].as_array().unwrap().iter().find(|message| message["id"] == "m104").unwrap();
    assert_eq!(last["displayContent"].as_str().unwrap().len(), 32_768);
    // Deleting the conversation deletes everything.
    assert_eq!(chat.history(Method::DELETE, "").ok().await["deleted"], 1);
    assert!(chat.turns().await.is_empty());
}

async fn a_turn_keeps_its_newest_messages(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    let many: Vec<Value> = (0..40).map(|number| user(&format!("m{number}"), "say hi")).collect();
    assert_eq!(chat.say(json!(many)).await["success"], true);
    let read = chat.history(Method::GET, "").ok().await;
    let first = &read["messages"][0];
    assert_eq!((read["messages"].as_array().unwrap().len(), &first["id"]), (17, &json!("m24")));
    // Characters that take more bytes in the row than in the text.
    let filler = "\u{1}".repeat(50_000);
    let said = json!([user("a", &filler), user("b", &filler), user("c", &filler), user("d", &filler), user("e", "say hi")]);
    chat.say(said).await;
    let largest = chat.turns().await.iter().map(|row| row.body.len()).max().unwrap();
    assert!(largest <= 66_000, "{largest}");
    // The shown texts exceed the limit of a turn.
    let text = "\u{1}".repeat(24_000);
    let shows = json!({ "messages": [{ "id": "d", "displayContent": text }, { "id": "e", "displayContent": text }] });
    chat.history(Method::PATCH, "/display-projections").json(&shows).refused(422, "validation_failed").await;
}

async fn conversations_of_earlier_versions_are_converted(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    chat.say(json!([user("m0", "say one")])).await;
    chat.say(json!([user("m1", "say two")])).await;
    // The row of an earlier version, which contained the turns.
    let rows = chat.turns().await;
    let row = chat.row().await;
    let id = row.id.clone();
    let turns: Vec<Value> = rows.iter().rev().map(|row| serde_json::from_str::<Value>(&row.body).unwrap()["turn"].clone()).collect();
    let now: Value = serde_json::from_str(&row.body).unwrap();
    let old = json!({ "token": now["token"], "target": now["target"], "visitor": now["visitor"], "turns": turns });
    let before = DocumentRow { version: row.version + 1, due_at: None, body: old.to_string(), ..row };
    let parent = chat.conversation.clone();
    chat.node
        .with_state(move |state| async move {
            let tenant = state.store.list_tenants().await.unwrap()[0].id;
            state.store.delete_documents_of(tenant, "conversation_turn", &parent).await.unwrap();
            assert!(state.store.replace_document(tenant, "conversation", before).await.unwrap());
            assert_eq!(state.store.find_document(tenant, "conversation", &id).await.unwrap().unwrap().due_at, None);
        })
        .await;
    let said = async || {
        let read = chat.history(Method::GET, "").ok().await;
        let messages = read["messages"].as_array().unwrap().clone();
        messages.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said().await, ["say one", "one", "say two", "two"]);
    assert_eq!(chat.turn_count().await, 2);
    // The next message moves the turns to rows of their own.
    chat.say(json!([user("m2", "say three")])).await;
    assert_eq!(said().await, ["say one", "one", "say two", "two", "say three", "three"]);
    assert_eq!((chat.turn_count().await, chat.turns().await.len()), (3, 3));
    let row = chat.row().await;
    assert!(!row.body.contains("\"turns\"") && row.due_at.is_some(), "{}", row.body);
    assert_eq!(chat.history(Method::GET, "").ok().await["title"], "say one");
}

async fn conversations_are_deleted_after_a_year(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    chat.say(json!([user("m", "say hi")])).await;
    let feedback = json!({ "sessionId": chat.session, "type": "upvote", "messageId": "a" });
    post(&chat.node, "/v1/client/feedback", &feedback).ok().await;
    let sweep = async |days: u64| {
        chat.node
            .with_state(move |state| async move {
                let then = state.clock.now().after(Duration::from_secs(days * 24 * 3_600));
                dispatch::http::dispatch::tidy(&state.store, then).await.unwrap()
            })
            .await
    };
    assert_eq!(sweep(364).await, 1, "the session");
    assert_eq!(chat.turns().await.len(), 1);
    assert_eq!(sweep(366).await, 3, "the visitor, the feedback, the conversation");
    assert!(chat.turns().await.is_empty());
    for list in ["conversations", "feedback"] {
        assert_eq!(chat.node.get(&format!("/v1/client-tokens/{}/{list}", chat.token_id)).ok().await["data"], json!([]));
    }
}

async fn feedback_of_a_session_is_limited(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    let send = || post(&chat.node, "/v1/client/feedback", &json!({ "sessionId": chat.session, "type": "nps", "rating": 9 }));
    let all = async {
        for _ in 0..500 {
            send().ok().await;
        }
    };
    within_minutes(all).await;
    send().refused(429, "session_feedback_limit").await;
}

fn few_sessions(config: &mut Config) {
    config.limits.http.new_sessions = Some(Rate { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(3).unwrap() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sessions_are_rate_limited_on_sqlite() {
    World::run_with(Kind::Sqlite, few_sessions, new_sessions_are_rate_limited).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sessions_are_rate_limited_on_postgres() {
    World::run_with(Kind::Postgres, few_sessions, new_sessions_are_rate_limited).await;
}

async fn conversations_are_kept_as_long_as_retention_says(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    chat.say(json!([user("m1", "say hi")])).await;
    let sweep = || {
        chat.node.with_state(|state| async move {
            let mut policy = RetentionPolicy::default();
            policy.set(RetentionKind::Conversations, Some(Duration::from_secs(30 * 86_400)));
            let tenant = state.store.list_tenants().await.unwrap()[0].id;
            RetentionSweeper::new(state.store.clone(), state.clock.clone(), policy).sweep_tenant(tenant).await.unwrap()
        })
    };
    assert_eq!(sweep().await, 0);
    assert_eq!(chat.turns().await.len(), 1);
    let age = "update documents set updated_at = 1 where kind = 'conversation' and id = $1";
    assert_eq!(world.meddle(age, &chat.conversation).await, 1);
    assert_eq!(sweep().await, 2, "the conversation and its turn");
    assert!(chat.turns().await.is_empty());
}

fn small_storage(config: &mut Config) {
    config.limits.http.page_bytes = Some(20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_of_pages_are_limited_in_bytes_on_sqlite() {
    World::run_with(Kind::Sqlite, small_storage, executions_of_pages_are_limited_in_bytes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn executions_of_pages_are_limited_in_bytes_on_postgres() {
    World::run_with(Kind::Postgres, small_storage, executions_of_pages_are_limited_in_bytes).await;
}

async fn executions_of_pages_are_limited_in_bytes(world: Arc<World>) {
    let chat = Chat::new(world.node()).await;
    let node = &chat.node;
    chat.say(json!([user("m1", "say hi")])).await;
    chat.say(json!([user("m2", &"x".repeat(40_000))])).await;
    let more = json!({ "sessionId": chat.session, "messages": [user("m3", "say hi")], "streamResponse": false });
    let refused = post(node, "/v1/client/chat", &more).refused(429, "page_storage_exceeded").await.json();
    assert!(refused["next"].as_str().unwrap().contains("bulk-delete"), "{refused}");
    let deleted = node.post("/v1/executions/bulk-delete").json(&json!({ "since": "2020-01-01T00:00:00Z" })).ok().await;
    assert_eq!(deleted["deleted"], 2, "{deleted}");
    post(node, "/v1/client/chat", &more).ok().await;
}

async fn new_sessions_are_rate_limited(world: Arc<World>) {
    let node = world.node();
    let ((_, token), (_, other)) = (token(&node).await, token_of(&node, "Till").await);
    let first = post(&node, "/v1/client/init", &json!({ "token": token })).ok().await;
    // The allowance is refilled more slowly than the calls come.
    let refused = async {
        loop {
            let answer = post(&node, "/v1/client/init", &json!({ "token": token })).send().await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let refused = within(refused).await.refused(429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
    // Existing sessions continue, and each token has its own rate limit.
    post(&node, "/v1/client/init", &json!({ "token": token, "sessionId": first["sessionId"] })).ok().await;
    let said = json!({ "sessionId": first["sessionId"], "messages": [user("m", "say hi")], "streamResponse": false });
    post(&node, "/v1/client/chat", &said).ok().await;
    post(&node, "/v1/client/init", &json!({ "token": other })).ok().await;
}

async fn signals_of_an_execution_are_limited(world: Arc<World>) {
    let node = world.node();
    let body = flow(json!([step("go", "wait-for-signal", json!({ "name": "go" }))]));
    let run =
        node.post("/v1/dispatch").header("prefer", "respond-async").json(&body).ok().await["executionId"].as_str().unwrap().to_owned();
    let id: RunId = run.parse().unwrap();
    let fill = node.with_state(move |state| async move {
        let tenant = state.store.list_tenants().await.unwrap()[0].id;
        for number in 0..MAX_SIGNALS {
            let signal = Signal { name: "other".into(), id: number.to_string(), payload: Value::Null };
            state.engine.signal(tenant, id, signal).await.unwrap();
        }
    });
    within_minutes(fill).await;
    let send = |name: &str, delivery: &str| {
        node.post(&format!("/v1/executions/{run}/signals/{name}")).header("idempotency-key", delivery).json(&json!({}))
    };
    send("go", "one").refused(409, "too_many_signals").await;
    send("other", "7").ok().await;
    send("$compensate", "one").refused(422, "invalid_signal").await;
    node.post(&format!("/v1/executions/{run}/cancel")).ok().await;
    within(async { while node.execution(&run).await["status"] != "cancelled" {} }).await;
    send("go", "one").refused(409, "execution_ended").await;
}

async fn the_oldest_events_are_deleted(world: Arc<World>) {
    let node = world.node();
    for number in 0..5 {
        node.post("/v1/events").json(&json!({ "name": "paid", "payload": { "number": number } })).ok().await;
    }
    let kept = async || {
        let list = |state: dispatch::http::AppState| async move {
            let tenant = state.store.list_tenants().await.unwrap()[0].id;
            state.store.list_documents(tenant, "event", DocumentQuery { limit: 10, ..DocumentQuery::default() }).await.unwrap()
        };
        let mut rows = node.with_state(list).await;
        rows.sort_by_key(|row| (row.created_at, row.id.clone()));
        rows
    };
    let before = kept().await;
    let trim = |state: dispatch::http::AppState| async move {
        let tenant = state.store.list_tenants().await.unwrap()[0].id;
        Bus::new(state.engine.parts(), tenant).trim(2, 1_000_000).await.unwrap()
    };
    assert_eq!((before.len(), node.with_state(trim).await), (5, 3));
    assert_eq!(kept().await, before[3..]);
    let end = node.dispatch(&flow(json!([step("come", "wait-for-event", json!({ "name": "paid" }))]))).await;
    assert!(end.step("come")["result"]["payload"]["number"].is_u64(), "what is left is taken");
}

async fn long_ids_in_paths_are_refused(world: Arc<World>) {
    let node = world.node();
    let document = dispatch::http::openapi::document();
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let names: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for method in item.as_object().unwrap().keys() {
            for long in &names {
                let fill = |path: String, name: &&str| {
                    let text = if name == long { "x".repeat(10_000) } else { "x".to_owned() };
                    path.replace(&format!("{{{name}}}"), &text)
                };
                let at = names.iter().fold(path.clone(), fill);
                let call = node.bare(method.to_uppercase().parse().unwrap(), &at).bearer(KEY).json(&json!({}));
                let answer = within(call.send()).await;
                assert!((400..500).contains(&answer.status), "{method} {path}, {long}: {} {}", answer.status, answer.text());
                tried += 1;
            }
        }
    }
    assert!(tried > 50, "the document lost its operations");
}
