//! Pages: client tokens bound to origins, sessions with their limits, chats, tools of the page, approvals of the end user, history.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::external;
use crate::support::app::within;
use crate::support::call::{Answer, Call};
use crate::support::transcript::Transcript;
use crate::support::world::{Node, World};

on_both!(
    a_page_chats_with_what_its_token_allows,
    a_token_is_bound_to_its_origins,
    a_token_is_changed_replaced_and_deleted,
    wrong_tokens_are_refused_at_the_place,
    a_session_ends_and_is_no_other_s,
    messages_are_counted,
    tools_of_the_page_are_sent_once,
    an_end_user_decides_what_is_theirs,
    a_message_interrupts_the_one_before,
    a_page_reads_its_own_executions_only,
    what_was_published_answers,
    a_visitor_comes_back,
    an_owner_says_who_the_user_is,
    feedback_is_kept_for_the_owner,
    expired_sessions_are_swept,
);

const ORIGIN: &str = "https://shop.example";

/// A page of some origin.
struct Page<'n> {
    node: &'n Node,
    origin: &'static str,
}

impl Page<'_> {
    fn call(&self, method: Method, path: &str) -> Call {
        self.node.bare(method, path).header("origin", self.origin)
    }

    fn post(&self, path: &str, body: &Value) -> Call {
        self.call(Method::POST, path).json(body)
    }

    async fn init(&self, token: &str) -> Value {
        self.post("/v1/client/init", &json!({ "token": token })).ok().await
    }

    async fn session(&self, token: &str) -> String {
        self.init(token).await["sessionId"].as_str().unwrap().into()
    }

    async fn stream(&self, path: &str, body: &Value) -> Transcript {
        let answer = within(self.post(path, body).send()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(self.origin));
        Transcript::parse(answer.text().as_bytes())
    }

    async fn chat(&self, session: &str, text: &str) -> Transcript {
        self.stream("/v1/client/chat", &chat(session, text)).await.fresh()
    }
}

fn page(node: &Node) -> Page<'_> {
    Page { node, origin: ORIGIN }
}

fn user(text: &str) -> Value {
    json!([{ "id": "m1", "role": "user", "content": text }])
}

fn chat(session: &str, text: &str) -> Value {
    json!({ "sessionId": session, "messages": user(text) })
}

async fn agent(node: &Node, tools: Value) -> String {
    let agent = json!({ "name": "Desk", "config": { "model": "local/echo", "tools": tools } });
    node.post("/v1/agents").json(&agent).ok().await["id"].as_str().unwrap().into()
}

async fn token(node: &Node, agent: &str, settings: Value) -> (String, String) {
    let mut body = json!({ "name": "Shop", "allowedOrigins": [ORIGIN], "agentIds": [agent] });
    body.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let made = node.post("/v1/client-tokens").json(&body).ok().await;
    (made["clientToken"]["id"].as_str().unwrap().into(), made["token"].as_str().unwrap().into())
}

fn said(told: &Transcript) -> String {
    told.streamed_text()
}

async fn a_page_chats_with_what_its_token_allows(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let step =
        json!({ "id": "a", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "say {{greeting}} {{user_message}}" } });
    let flow = node.post("/v1/flows").json(&json!({ "name": "Greeter", "description": "Greets.", "steps": [step] })).ok().await;
    let look = json!({ "welcomeMessage": "Welcome!", "placeholder": "Ask", "theme": { "primary": "#333" } });
    let (_, token) = token(&node, &agent, json!({ "flowIds": [flow["id"]], "config": look })).await;
    assert!(token.starts_with("ct_live_"), "{token}");
    let page = page(&node);
    let opened = page.init(&token).await;
    assert_eq!((&opened["targetId"], &opened["flow"]["name"]), (&json!(agent), &json!("Desk")));
    assert_eq!(opened["config"], look);
    assert_eq!(opened.get("visitor"), None);
    let told = page.chat(opened["sessionId"].as_str().unwrap(), "say hello").await;
    assert_eq!(said(&told), "hello");
    assert_eq!(told.frames[0].data["agentId"], agent);
    // The flow has to be asked for; its variables come from the page.
    let opened = page.post("/v1/client/init", &json!({ "token": token, "flowId": flow["id"] })).ok().await;
    assert_eq!(opened["flow"], json!({ "id": flow["id"], "name": "Greeter", "description": "Greets." }));
    let mut body = chat(opened["sessionId"].as_str().unwrap(), "you");
    body["inputs"] = json!({ "greeting": "good day" });
    assert_eq!(said(&page.stream("/v1/client/chat", &body).await.fresh()), "good day you");
    // A page has no more authority than its user.
    let session = page.session(&token).await;
    let mixed = json!([{ "role": "system", "content": "say mine" }, { "role": "user", "content": "count messages" }]);
    let whole = json!({ "sessionId": session, "messages": mixed, "streamResponse": false });
    let run = page.post("/v1/client/chat", &whole).ok().await;
    let kept = node.execution(run["executionId"].as_str().unwrap()).await;
    assert_eq!(kept["status"], "completed", "{kept}");
    // Nothing else can be run with it.
    page.post("/v1/client/init", &json!({ "token": token, "flowId": "flow_01h455vb4pex5vsknk084sn02q" })).refused(404, "not_found").await;
    node.bare(Method::POST, "/v1/dispatch").bearer(&token).json(&json!({})).refused(401, "invalid_api_key").await;
    node.bare(Method::POST, "/v1/dispatch").bearer(&session).json(&json!({})).refused(401, "invalid_api_key").await;
    node.bare(Method::GET, "/v1/executions").bearer(&session).refused(401, "invalid_api_key").await;
}

async fn a_token_is_bound_to_its_origins(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (_, live) = token(&node, &agent, json!({})).await;
    let (_, test) = token(&node, &agent, json!({ "environment": "test" })).await;
    assert!(test.starts_with("ct_test_"), "{test}");
    let init = async |token: &str, origin: Option<&'static str>| -> Answer {
        let call = node.bare(Method::POST, "/v1/client/init").json(&json!({ "token": token }));
        within(
            match origin {
                Some(origin) => call.header("origin", origin),
                None => call,
            }
            .send(),
        )
        .await
    };
    for (token, origin, admitted) in [
        (&live, Some(ORIGIN), true),
        (&live, Some("https://evil.example"), false),
        (&live, Some("http://localhost:3000"), false),
        (&live, Some("null"), false),
        (&live, None, false),
        (&test, Some(ORIGIN), true),
        (&test, Some("http://localhost:3000"), true),
        (&test, Some("http://127.0.0.1"), true),
        (&test, Some("http://localhost.evil.example"), false),
    ] {
        let answer = init(token, origin).await;
        let granted = answer.header("access-control-allow-origin");
        if admitted {
            assert_eq!((answer.status, granted), (200, origin), "{origin:?}: {}", answer.text());
        } else {
            let answer = answer.refused(403, "origin_not_allowed");
            assert_eq!(answer.header("access-control-allow-origin"), None, "{origin:?}");
        }
    }
    // A session is bound like its token.
    let session = page(&node).session(&live).await;
    let elsewhere = Page { node: &node, origin: "https://evil.example" };
    elsewhere.post("/v1/client/chat", &chat(&session, "say hi")).refused(403, "origin_not_allowed").await;
    // A preflight carries no token: every one is answered. A refusal that is no matter of origins can be read.
    let preflight = page(&node).call(Method::OPTIONS, "/v1/client/chat").header("access-control-request-method", "POST");
    let answer = within(preflight.header("access-control-request-headers", "content-type,x-persona-version").send()).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (204, Some(ORIGIN)));
    let unknown = page(&node).post("/v1/client/init", &json!({ "token": "ct_live_x" })).refused(401, "invalid_client_token").await;
    assert_eq!(unknown.header("access-control-allow-origin"), Some(ORIGIN));
    // A secret key's routes stay shut to other origins.
    let preflight = page(&node).call(Method::OPTIONS, "/v1/dispatch").header("access-control-request-method", "POST");
    within(preflight.send()).await.refused(403, "origin_not_allowed");
}

async fn a_token_is_changed_replaced_and_deleted(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (id, first) = token(&node, &agent, json!({})).await;
    let at = format!("/v1/client-tokens/{id}");
    assert_eq!(node.get(&format!("{at}/token")).ok().await["token"], first);
    let read = node.get(&at).ok().await;
    assert_eq!((&read["name"], &read["agentIds"], &read["environment"]), (&json!("Shop"), &json!([agent]), &json!("live")));
    assert!(!read.to_string().contains(&first));
    let session = page(&node).session(&first).await;
    let changed =
        node.bare(Method::PUT, &at).bearer(crate::support::world::KEY).json(&json!({ "name": "Desk", "allowedOrigins": ["*"] })).ok().await;
    assert_eq!((&changed["name"], &changed["allowedOrigins"], &changed["agentIds"]), (&json!("Desk"), &json!(["*"]), &json!([agent])));
    let elsewhere = Page { node: &node, origin: "https://other.example" };
    elsewhere.chat(&session, "say hi").await;
    let next = node.post(&format!("{at}/regenerate")).ok().await;
    assert_eq!(next["warnings"][0]["type"], "wildcard_origin");
    let second = next["token"].as_str().unwrap();
    page(&node).post("/v1/client/init", &json!({ "token": first })).refused(401, "invalid_client_token").await;
    page(&node).session(second).await;
    assert_eq!(node.get("/v1/client-tokens").ok().await["data"][0]["id"], id);
    node.bare(Method::DELETE, &at).bearer(crate::support::world::KEY).ok().await;
    page(&node).post("/v1/client/init", &json!({ "token": second })).refused(401, "invalid_client_token").await;
    page(&node).post("/v1/client/chat", &chat(&session, "say hi")).refused(401, "session_expired").await;
    node.get(&at).refused(404, "not_found").await;
}

async fn wrong_tokens_are_refused_at_the_place(world: Arc<World>) {
    let node = world.node();
    let refused = async |body: Value| node.post("/v1/client-tokens").json(&body).refused(422, "validation_failed").await.pointers();
    assert_eq!(refused(json!({})).await, ["/name", "/name", "/allowedOrigins", "/flowIds"]);
    let wrong = json!({
        "name": "x", "allowedOrigins": ["https://a.example", "not an origin"], "agentIds": ["agent_01h455vb4pex5vsknk084sn02q", "flow_x"],
        "defaultFlowId": "agent_01h455vb4pex5vsknk084sn02q", "rateLimitPerMinute": 0, "sessionIdleTimeoutMinutes": 1,
    });
    assert_eq!(
        refused(wrong).await,
        ["/allowedOrigins/1", "/rateLimitPerMinute", "/sessionIdleTimeoutMinutes", "/agentIds/0", "/agentIds/1", "/flowIds"]
    );
    let agent = agent(&node, json!({})).await;
    let other = json!({ "name": "x", "allowedOrigins": ["*"], "agentIds": [agent], "defaultFlowId": "flow_x" });
    assert_eq!(refused(other).await, ["/defaultFlowId"]);
}

async fn a_session_ends_and_is_no_other_s(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (_, token) = token(&node, &agent, json!({})).await;
    let page = page(&node);
    let opened = page.init(&token).await;
    let session = opened["sessionId"].as_str().unwrap();
    // The page that is loaded again goes on with its session.
    let again = page.post("/v1/client/init", &json!({ "token": token, "sessionId": session })).ok().await;
    assert_eq!((&again["sessionId"], &again["conversationId"]), (&opened["sessionId"], &opened["conversationId"]));
    // One that is none is another one's.
    let other = page.post("/v1/client/init", &json!({ "token": token, "sessionId": "sess_x" })).ok().await;
    assert_ne!(other["sessionId"], opened["sessionId"]);
    for wrong in ["", "sess_", "sess_x", &session[..session.len() - 1], &session.replace("sess_", "ct_live_")] {
        page.post("/v1/client/chat", &chat(wrong, "say hi")).refused(401, "session_expired").await;
    }
    let ended = node.with_state(|state| async move {
        state
            .store
            .due_documents("client_session", state.clock.now().after(std::time::Duration::from_secs(25 * 3_600)), &[], 10)
            .await
            .unwrap()
    });
    assert_eq!(ended.await.len(), 2, "sessions end a day after their last message");
    // What another session began cannot be continued.
    let asks = json!({ "sessionId": session, "messages": user("call pick {}"), "clientTools": [tool("pick")] });
    let paused = page.stream("/v1/client/chat", &asks).await.fresh();
    let outputs = |session: &Value| json!({ "sessionId": session, "executionId": paused.run(), "toolOutputs": { "pick": "red" } });
    page.post("/v1/client/resume", &outputs(&other["sessionId"])).refused(404, "execution_not_paused").await;
    let told = page.stream("/v1/client/resume", &outputs(&opened["sessionId"])).await.continued();
    assert!(said(&told).contains("red"), "{}", said(&told));
}

/// A tool of the page.
fn tool(name: &str) -> Value {
    json!({ "name": name, "description": "Picks.", "parametersSchema": { "type": "object" }, "origin": "sdk" })
}

async fn messages_are_counted(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let page = page(&node);
    let (_, few) = token(&node, &agent, json!({ "maxMessagesPerSession": 2 })).await;
    let session = page.session(&few).await;
    page.chat(&session, "say one").await;
    page.chat(&session, "say two").await;
    let refused = page.post("/v1/client/chat", &chat(&session, "say three")).refused(429, "session_message_limit").await;
    assert_eq!(refused.json()["error"], "Session message limit reached");
    page.chat(&page.session(&few).await, "say one").await;
    let (_, slow) = token(&node, &agent, json!({ "rateLimitPerMinute": 1 })).await;
    let session = page.session(&slow).await;
    page.chat(&session, "say one").await;
    let refused = page.post("/v1/client/chat", &chat(&session, "say two")).refused(429, "rate_limited").await;
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    // Many at once are counted one by one.
    let (_, token) = token(&node, &agent, json!({ "maxMessagesPerSession": 3 })).await;
    let session = page.session(&token).await;
    let body = chat(&session, "say hi");
    let calls = (0..6).map(|_| page.post("/v1/client/chat", &body).send());
    let answers = within(futures_util::future::join_all(calls)).await;
    let taken = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(taken, 3, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
}

async fn tools_of_the_page_are_sent_once(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (_, token) = token(&node, &agent, json!({})).await;
    let page = page(&node);
    let session = page.session(&token).await;
    let body = |tools: Option<Value>, fingerprint: &str| {
        let mut body = chat(&session, "call pick {}");
        body["clientToolsFingerprint"] = fingerprint.into();
        if let Some(tools) = tools {
            body["clientTools"] = tools;
        }
        body
    };
    let refused = page.post("/v1/client/chat", &body(None, "f1")).refused(409, "client_tools_resend_required").await;
    assert_eq!(refused.json()["error"], "client_tools_resend_required");
    let first = page.stream("/v1/client/chat", &body(Some(json!([tool("pick")])), "f1")).await.fresh();
    assert_eq!(first.one("await").data["toolName"], "pick");
    let second = page.stream("/v1/client/chat", &body(None, "f1")).await.fresh();
    assert_eq!(second.one("await").data["toolName"], "pick", "the tools of before");
    page.post("/v1/client/chat", &body(None, "f2")).refused(409, "client_tools_resend_required").await;
    // Nothing in the place of the tools is no tools.
    let none = page.stream("/v1/client/chat", &body(Some(json!([])), "f3")).await.fresh();
    assert_eq!(none.all("await").count(), 0);
    let wrong = page.post("/v1/client/chat", &body(Some(json!([{ "name": "a b" }])), "f4")).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers()[0], "/clientTools/0/name", "{:?}", wrong.pointers());
}

async fn an_end_user_decides_what_is_theirs(world: Arc<World>) {
    let node = world.node();
    let page = page(&node);
    let pay = external("pay", &world.sink.url("/pay"), "POST");
    for (approver, theirs) in [("end-user", true), ("owner", false)] {
        let tools = json!({ "runtimeTools": [pay.clone()], "approval": { "require": true, "approver": approver } });
        let agent = json!({ "name": approver, "config": { "model": "local/echo", "tools": tools } });
        let agent: String = node.post("/v1/agents").json(&agent).ok().await["id"].as_str().unwrap().into();
        let (_, token) = token(&node, &agent, json!({})).await;
        let (session, other) = (page.session(&token).await, page.session(&token).await);
        for route in ["/v1/client/approve", "/v1/agents/virtual/approve"] {
            let paused = page.chat(&session, "call pay {}").await;
            let word = |session: &str| json!({ "sessionId": session, "executionId": paused.run(), "approvalId": paused.one("approval_start").text("approvalId"), "decision": "approved" });
            // Clients of before have no route of their own: they prove themselves by the session in the place of a key.
            let call = |session: &str| page.post(route, &word(session)).bearer(if route.contains("agents") { session } else { "" });
            call(&other).refused(404, "execution_not_paused").await;
            let before = world.sink.seen("/pay").len();
            if theirs {
                let answer = within(call(&session).send()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                let told = Transcript::parse(answer.text().as_bytes()).continued();
                assert_eq!(told.last().kind, "execution_complete");
                assert_eq!(world.sink.seen("/pay").len(), before + 1);
            } else {
                call(&session).refused(403, "APPROVAL_APPROVER_NOT_END_USER").await;
                assert_eq!(world.sink.seen("/pay").len(), before);
                // The owner's word counts.
                node.approve(&paused.run(), paused.one("approval_start").text("approvalId"), "approved").await;
            }
        }
    }
}

async fn a_message_interrupts_the_one_before(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (id, token) = token(&node, &agent, json!({})).await;
    let page = page(&node);
    let session = page.session(&token).await;
    let mut reader = node.reader(page.post("/v1/client/chat", &chat(&session, "slow 1000\nrepeat 500 word"))).await;
    let first = reader.until(|frame| frame.kind == "text_delta").await;
    let mut body = chat(&session, "say stop");
    body["submitMode"] = "interrupt".into();
    // The turn is in its session as soon as the page has its answer's head, so this finds it.
    assert_eq!(said(&page.stream("/v1/client/chat", &body).await.fresh()), "stop");
    let rest = reader.rest().await;
    assert_eq!(node.execution(first.text("executionId")).await["status"], "cancelled", "{:?}", rest.last());
    // One that is waited for as one JSON can be interrupted as well: its turn is kept before its answer.
    let mut whole = chat(&session, "slow 1000\nrepeat 500 word");
    whole["streamResponse"] = false.into();
    let turns = async |count: usize| {
        let kept = || node.get(&format!("/v1/client-tokens/{id}/conversations"));
        while kept().ok().await["data"][0]["turnCount"] != count {
            tokio::task::yield_now().await;
        }
    };
    let interrupt = async {
        turns(3).await;
        within(page.post("/v1/client/chat", &body).send()).await
    };
    let (answer, next) = within(futures_util::future::join(page.post("/v1/client/chat", &whole).ok(), interrupt)).await;
    assert_eq!((answer["status"].as_str(), next.status), (Some("cancelled"), 200), "{answer}");
}

async fn a_page_reads_its_own_executions_only(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (_, token) = token(&node, &agent, json!({})).await;
    let page = page(&node);
    let (session, other) = (page.session(&token).await, page.session(&token).await);
    let told = page.chat(&session, "say hi").await;
    let foreign = node.dispatch(&json!({ "agent": { "agentId": agent }, "messages": user("say hi") })).await;
    for path in [format!("/v1/agents/{agent}/executions"), "/v1/executions".into()] {
        let events = |run: &str| format!("{path}/{run}/events?after=0");
        let read = |run: &str, session: &str| page.call(Method::GET, &events(run)).bearer(session).header("accept", "text/event-stream");
        let answer = within(read(&told.run(), &session).send()).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(ORIGIN)), "{}", answer.text());
        assert_eq!(Transcript::parse(answer.text().as_bytes()).frames, told.frames[1..]);
        read(&told.run(), &other).refused(404, "not_found").await;
        read(&foreign.run(), &session).refused(404, "not_found").await;
        read(&told.run(), "sess_x").refused(401, "session_expired").await;
        let elsewhere = node.bare(Method::GET, &events(&told.run())).bearer(&session).header("origin", "https://evil.example");
        elsewhere.refused(403, "origin_not_allowed").await;
    }
    page.call(Method::GET, &format!("/v1/executions/{}", told.run())).bearer(&session).refused(401, "invalid_api_key").await;
}

async fn what_was_published_answers(world: Arc<World>) {
    let node = world.node();
    let flow = |word: &str| json!({ "name": "Word", "steps": [{ "id": "a", "type": "prompt", "config": { "model": "local/echo", "userPrompt": format!("say {word}") } }] });
    let saved = node.post("/v1/flows").json(&flow("first")).ok().await;
    let id = saved["id"].as_str().unwrap();
    let body = json!({ "name": "Shop", "allowedOrigins": [ORIGIN], "flowIds": [id], "pinToVersion": true });
    let token = node.post("/v1/client-tokens").json(&body).ok().await["token"].as_str().unwrap().to_owned();
    let page = page(&node);
    let session = page.session(&token).await;
    page.post("/v1/client/chat", &chat(&session, "go")).refused(409, "flow_not_published").await;
    node.post(&format!("/v1/flows/{id}/publish")).ok().await;
    node.bare(Method::PUT, &format!("/v1/flows/{id}")).bearer(crate::support::world::KEY).json(&flow("second")).ok().await;
    assert_eq!(said(&page.chat(&session, "go").await), "first");
}

async fn a_visitor_comes_back(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let page = page(&node);
    let (_, without) = token(&node, &agent, json!({})).await;
    let refused =
        page.post("/v1/client/init", &json!({ "token": without, "visitorHistory": true })).refused(403, "visitor_history_disabled").await;
    assert_eq!(refused.json()["error"], "visitor_history_disabled");
    assert_eq!(refused.header("access-control-allow-origin"), Some(ORIGIN));
    let (id, token) = token(&node, &agent, json!({ "visitorHistory": true })).await;
    let init = |more: Value| {
        let mut body = json!({ "token": token, "visitorHistory": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        page.post("/v1/client/init", &body)
    };
    let first = init(json!({})).ok().await;
    let (visitor, session) = (first["visitor"]["token"].as_str().unwrap(), first["sessionId"].as_str().unwrap());
    assert_eq!((&first["visitor"]["endUserId"], &first["visitor"]["identityStatus"]), (&Value::Null, &json!("not_provided")));
    let mut body = chat(session, "say hello");
    body["assistantMessageId"] = "a1".into();
    page.stream("/v1/client/chat", &body).await;
    // Another day, in another session.
    let second = init(json!({ "visitorToken": visitor })).ok().await;
    assert_eq!((second["visitor"].get("token"), &second["visitor"]["id"]), (None, &first["visitor"]["id"]));
    let session = second["sessionId"].as_str().unwrap();
    let history = |method: Method, path: &str| {
        let glue = if path.contains('?') { '&' } else { '?' };
        page.call(method, &format!("/v1/client/conversations{path}{glue}sessionId={session}")).header("x-visitor-token", visitor)
    };
    let list = within(history(Method::GET, "").send()).await;
    assert_eq!((list.status, list.header("x-history-identity-status")), (200, Some("not_provided")), "{}", list.text());
    let conversation = first["conversationId"].as_str().unwrap();
    let list = list.json();
    assert_eq!(
        (&list["data"][0]["id"], &list["data"][0]["title"], &list["nextCursor"]),
        (&json!(conversation), &json!("say hello"), &Value::Null)
    );
    assert_eq!(list["data"].as_array().unwrap().len(), 1, "a conversation in which nothing was said is none");
    let one = format!("/{conversation}");
    let read = history(Method::GET, &one).ok().await;
    let shown: Vec<Value> =
        read["messages"].as_array().unwrap().iter().map(|message| json!([message["id"], message["role"], message["content"]])).collect();
    assert_eq!(shown, [json!(["m1", "user", "say hello"]), json!(["a1", "assistant", "hello"])]);
    // A page keeps what it shows.
    let shows = json!({ "messages": [{ "id": "a1", "displayContent": "**hello**" }] });
    let revised = history(Method::PATCH, &format!("{one}/display-projections")).json(&shows).ok().await;
    assert_ne!(revised["conversationRevision"], read["conversationRevision"]);
    assert_eq!(history(Method::GET, &one).ok().await["messages"][1]["displayContent"], "**hello**");
    let long = json!({ "messages": [{ "id": "a1", "displayContent": "x".repeat(32_769) }] });
    history(Method::PATCH, &format!("{one}/display-projections")).json(&long).refused(422, "validation_failed").await;
    // It goes on where it was.
    let third = init(json!({ "visitorToken": visitor, "conversationId": conversation })).ok().await;
    assert_eq!(third["conversationId"], conversation);
    page.chat(third["sessionId"].as_str().unwrap(), "say again").await;
    assert_eq!(history(Method::GET, &one).ok().await["messages"].as_array().unwrap().len(), 4);
    // What is very long is kept as far as it is read again.
    let long = json!([{ "id": "m9", "role": "user", "content": [{ "type": "text", "text": format!("say {}", "ü".repeat(40_000)) }] }]);
    let answer =
        page.post("/v1/client/chat", &json!({ "sessionId": third["sessionId"], "messages": long, "streamResponse": false })).ok().await;
    assert_eq!(answer["finalOutput"].as_str().unwrap().chars().count(), 40_000);
    let kept = history(Method::GET, &one).ok().await["messages"][4]["content"].as_str().unwrap().len();
    assert!((16_000..=16_384).contains(&kept), "{kept}");
    // Nobody else's.
    init(json!({ "conversationId": conversation })).refused(401, "visitor_required").await;
    let stranger = init(json!({})).ok().await["visitor"]["token"].as_str().unwrap().to_owned();
    init(json!({ "visitorToken": stranger, "conversationId": conversation })).refused(404, "not_found").await;
    page.call(Method::GET, &format!("/v1/client/conversations{one}?sessionId={session}")).refused(401, "visitor_token_required").await;
    let theirs = page.call(Method::GET, &format!("/v1/client/conversations{one}?sessionId={session}")).header("x-visitor-token", &stranger);
    theirs.refused(404, "not_found").await;
    // The owner sees it.
    let owned = node.get(&format!("/v1/client-tokens/{id}/conversations")).ok().await;
    assert!(owned["data"].as_array().unwrap().iter().any(|row| row["id"] == conversation && row["turnCount"] == 3), "{owned}");
    // Deleted, it is gone, for the sessions that had it too.
    assert_eq!(history(Method::DELETE, &one).ok().await["deleted"], 1);
    history(Method::GET, &one).refused(404, "not_found").await;
    let gone =
        page.post("/v1/client/chat", &chat(third["sessionId"].as_str().unwrap(), "say more")).refused(410, "conversation_deleted").await;
    assert_eq!(gone.json()["error"], "conversation_deleted");
    let fresh = init(json!({ "visitorToken": visitor, "sessionId": third["sessionId"] })).ok().await;
    assert_ne!(fresh["sessionId"], third["sessionId"]);
    assert_ne!(fresh["conversationId"], third["conversationId"]);
    assert_eq!(history(Method::DELETE, "").ok().await["deleted"], 2, "those in which nothing was said");
    // Forgotten, the visitor is a stranger.
    page.call(Method::POST, "/v1/client/visitor/reset").header("x-visitor-token", visitor).ok().await;
    history(Method::GET, "").refused(401, "visitor_token_required").await;
}

/// A proof as an owner's backend makes it: a JSON Web Token under HS256.
fn proof(key: &str, user: &str, seconds: i64) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use hmac::{KeyInit as _, Mac as _};
    let text = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let expires = dispatch::clock::Clock::system().now().as_millis() / 1_000 + seconds;
    let signed = format!("{}.{}", text(json!({ "alg": "HS256", "typ": "JWT" })), text(json!({ "sub": user, "exp": expires })));
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

async fn an_owner_says_who_the_user_is(world: Arc<World>) {
    const SHARED: &str = "shared-by-owner-and-server";
    let node = world.node();
    let agent = json!({ "name": "Desk", "model": "openai/fake-ok", "systemPrompt": "You serve {{_endUser.id}}." });
    let agent = node.post("/v1/agents").json(&agent).ok().await["id"].as_str().unwrap().to_owned();
    let unknown = json!({ "name": "Shop", "allowedOrigins": [ORIGIN], "agentIds": [agent], "identitySecret": "pages" });
    let refused = node.post("/v1/client-tokens").json(&unknown).refused(422, "validation_failed").await;
    assert_eq!(refused.pointers(), ["/identitySecret"]);
    let secret = node.post("/v1/secrets").json(&json!({ "key": "pages", "value": SHARED })).ok().await;
    let (id, token) = token(&node, &agent, json!({ "visitorHistory": true, "identitySecret": "pages" })).await;
    let page = page(&node);
    let init = |proof: &str| page.post("/v1/client/init", &json!({ "token": token, "identityProof": proof }));
    let ada = proof(SHARED, "ada", 600);
    let first = init(&ada).ok().await;
    let visitor = &first["visitor"];
    assert_eq!((&visitor["endUserId"], &visitor["identityStatus"], visitor.get("token")), (&json!("ada"), &json!("admitted"), None));
    // What was proven is read by templates; what a page says of itself is not.
    let mut body = chat(first["sessionId"].as_str().unwrap(), "hello");
    body["inputs"] = json!({ "_endUser": { "id": "grace" } });
    page.stream("/v1/client/chat", &body).await;
    assert_eq!(world.asked("fake-ok").await["messages"][0]["content"], "You serve ada.");
    // On another device, with another proof, it is the same person.
    let other = proof(SHARED, "ada", 1_200);
    let second = init(&other).ok().await;
    assert_eq!(second["visitor"]["id"], visitor["id"]);
    let history = |session: &Value, proof: &str| {
        let path = format!("/v1/client/conversations?sessionId={}", session["sessionId"].as_str().unwrap());
        page.call(Method::GET, &path).header("x-identity-proof", proof)
    };
    let list = within(history(&second, &other).send()).await;
    assert_eq!((list.status, list.header("x-history-identity-status")), (200, Some("admitted")), "{}", list.text());
    assert_eq!(list.json()["data"][0]["id"], first["conversationId"]);
    // Somebody else has another history, and no session of hers.
    let grace = proof(SHARED, "grace", 600);
    let third =
        page.post("/v1/client/init", &json!({ "token": token, "identityProof": grace, "sessionId": first["sessionId"] })).ok().await;
    assert_ne!(third["sessionId"], first["sessionId"]);
    assert_eq!(history(&third, &grace).ok().await["data"], json!([]));
    let hers = json!({ "token": token, "identityProof": grace, "conversationId": first["conversationId"] });
    page.post("/v1/client/init", &hers).refused(404, "not_found").await;
    // Whoever proves nothing is nobody; what proves nothing is refused, and not overlooked.
    let anonymous = page.post("/v1/client/init", &json!({ "token": token, "visitorHistory": true })).ok().await;
    assert_eq!(anonymous["visitor"]["identityStatus"], "not_provided");
    let wrong = [proof("another-secret", "ada", 600), proof(SHARED, "ada", -600), proof(SHARED, "ada", 200_000), "x".into()];
    for wrong in &wrong {
        init(wrong).refused(401, "invalid_identity_proof").await;
        history(&second, wrong).refused(401, "invalid_identity_proof").await;
    }
    // Forgotten, she has no history, until she comes again; nobody forgets her with a wrong proof, or without a session.
    let reset = |session: &str, proof: &str| {
        page.call(Method::POST, &format!("/v1/client/visitor/reset{session}")).header("x-identity-proof", proof)
    };
    let session = format!("?sessionId={}", second["sessionId"].as_str().unwrap());
    reset("", &other).refused(400, "invalid_query").await;
    reset(&session, &wrong[0]).refused(401, "invalid_identity_proof").await;
    assert_eq!(history(&second, &other).ok().await["data"].as_array().unwrap().len(), 1);
    reset(&session, &other).ok().await;
    assert_eq!(history(&second, &other).ok().await["data"], json!([]));
    // A token that names no secret reads none; one whose secret is gone says so.
    node.bare(Method::PUT, &format!("/v1/client-tokens/{id}"))
        .bearer(crate::support::world::KEY)
        .json(&json!({ "identitySecret": "" }))
        .ok()
        .await;
    let unread = page.post("/v1/client/init", &json!({ "token": token, "visitorHistory": true, "identityProof": ada })).ok().await;
    assert_eq!((&unread["visitor"]["endUserId"], &unread["visitor"]["identityStatus"]), (&Value::Null, &json!("ignored")));
    node.bare(Method::PUT, &format!("/v1/client-tokens/{id}"))
        .bearer(crate::support::world::KEY)
        .json(&json!({ "identitySecret": "pages" }))
        .ok()
        .await;
    node.bare(Method::DELETE, &format!("/v1/secrets/{}", secret["id"].as_str().unwrap())).bearer(crate::support::world::KEY).ok().await;
    init(&ada).refused(503, "identity_proof_not_admitted").await;
}

async fn feedback_is_kept_for_the_owner(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (id, token) = token(&node, &agent, json!({})).await;
    let page = page(&node);
    let session = page.session(&token).await;
    let send = |more: Value| {
        let mut body = json!({ "token": token, "sessionId": session });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        page.post("/v1/client/feedback", &body)
    };
    let taken = send(json!({ "type": "upvote", "messageId": "a1", "comment": "good" })).ok().await;
    assert_eq!(taken["success"], true);
    send(json!({ "type": "nps", "rating": 0 })).ok().await;
    for (wrong, at) in [
        (json!({ "type": "csat", "rating": 6 }), "/rating"),
        (json!({ "type": "nps" }), "/rating"),
        (json!({ "type": "downvote" }), "/messageId"),
        (json!({ "type": "shout" }), "/type"),
        (json!({ "type": "copy", "messageId": "a1", "comment": "x".repeat(5_001) }), "/comment"),
    ] {
        assert_eq!(send(wrong).refused(422, "validation_failed").await.pointers(), [at]);
    }
    let kept = node.get(&format!("/v1/client-tokens/{id}/feedback")).ok().await;
    let kinds: Vec<&Value> = kept["data"].as_array().unwrap().iter().map(|row| &row["type"]).collect();
    assert_eq!(kinds, ["nps", "upvote"]);
    assert_eq!((&kept["data"][1]["id"], &kept["data"][1]["comment"]), (&taken["feedbackId"], &json!("good")));
}

async fn expired_sessions_are_swept(world: Arc<World>) {
    let node = world.node();
    let agent = agent(&node, json!({})).await;
    let (_, token) = token(&node, &agent, json!({})).await;
    let session = page(&node).session(&token).await;
    let sweep = async |hours: u64| {
        node.with_state(move |state| async move {
            let then = state.clock.now().after(std::time::Duration::from_secs(hours * 3_600));
            dispatch::http::dispatch::tidy(&state.store, then).await.unwrap()
        })
        .await
    };
    assert_eq!(sweep(23).await, 0);
    assert_eq!(sweep(25).await, 1);
    page(&node).post("/v1/client/chat", &chat(&session, "say hi")).refused(401, "session_expired").await;
}
