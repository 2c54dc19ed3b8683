//! Every route against every kind of caller, driven by the API document: a new route is covered when it is mounted.

use dispatch::auth::scope::FAMILIES;
use dispatch::http::openapi::document;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{Setup, TestApp};
use crate::support::call::Answer;
use crate::support::sink::{Reply, Sink};

/// One documented operation that needs a key.
struct Operation {
    method: Method,
    path: String,
    scope: String,
}

fn guarded() -> Vec<Operation> {
    let document = document();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("security").is_some() {
                let scope = operation["x-required-scope"].as_str().unwrap_or_else(|| panic!("{method} {path} asks for no scope"));
                let method = method.to_uppercase().parse().unwrap();
                operations.push(Operation { method, path: path.clone(), scope: scope.into() });
            }
        }
    }
    assert!(operations.len() > 20, "the document lost its operations");
    operations
}

/// The path with well-formed ids that nothing has.
fn anywhere(path: &str) -> String {
    let suffix = "01h455vb4pex5vsknk084sn02q";
    path.replace("{flowId}", &format!("flow_{suffix}"))
        .replace("{agentId}", &format!("agent_{suffix}"))
        .replace("{versionId}", &format!("fver_{suffix}"))
        .replace("{recordId}", &format!("record_{suffix}"))
        .replace("{keyId}", &format!("key_{suffix}"))
        .replace("{secretId}", &format!("secret_{suffix}"))
        .replace("{clientTokenId}", &format!("ctok_{suffix}"))
        .replace("{toolId}", &format!("tool_{suffix}"))
        .replace("{assetId}", &format!("asset_{suffix}"))
        .replace("{batchId}", &format!("batch_{suffix}"))
        .replace("{evalId}", &format!("evalgrp_{suffix}"))
        .replace("{scheduleId}", &format!("sched_{suffix}"))
        .replace("{executionId}", &format!("exec_{suffix}"))
        .replace("{runId}", &format!("wfrun_{suffix}"))
        .replace("{jobId}", &format!("job_{suffix}"))
        .replace("{cronId}", &format!("cron_{suffix}"))
        .replace("{entryId}", &format!("dlq_{suffix}"))
        .replace("{triggerId}", &format!("trig_{suffix}"))
        .replace("{webhookId}", &format!("hook_{suffix}"))
        .replace("{deliveryId}", &format!("msg_{suffix}"))
        .replace("{queueName}", "nowhere")
        .replace("{workflowName}", "nobody")
        .replace("{workflow}", "nobody")
        .replace("{run}", &format!("run_{suffix}"))
        .replace("{secret}", "NOBODY")
        .replace("{signal}", "go")
        .replace("{alias}", "next")
        .replace("{builtinId}", "fetch_url")
        .replace("{toolCallId}", "call_1")
        .replace("{provider}", "openai")
        .replace("{modelId}", "agent:nobody")
        .replace("{responseId}", &format!("resp_{suffix}"))
}

#[tokio::test]
async fn nobody_gets_in_without_a_valid_key() {
    let app = TestApp::start().await;
    let (id, revoked) = app.key_with(&["*"]).await;
    app.state.auth.revoke_key(app.tenant().await, id).await.unwrap();
    let expired = app.expired_key().await;
    for Operation { method, path, .. } in guarded() {
        let path = anywhere(&path);
        let call = || app.bare(method.clone(), &path);
        call().refused(401, "missing_api_key").await;
        call().bearer("dsp_live_0123456789012345678901234567890123456789012").refused(401, "invalid_api_key").await;
        call().bearer("short").refused(401, "invalid_api_key").await;
        call().bearer(&revoked).refused(401, "revoked_api_key").await;
        call().bearer(&expired).refused(401, "expired_api_key").await;
    }
}

#[tokio::test]
async fn every_route_asks_for_its_scope_and_nothing_else_will_do() {
    let app = TestApp::start().await;
    for Operation { method, path, scope } in guarded() {
        let family = scope.split(':').next().unwrap();
        let others: Vec<String> = FAMILIES
            .iter()
            .flat_map(|(known, actions)| actions.iter().map(move |action| format!("{known}:{action}")))
            .chain(FAMILIES.iter().filter(|(known, _)| *known != family).map(|(known, _)| format!("{known}:*")))
            .filter(|other| *other != scope)
            .collect();
        let (_, key) = app.key_with(&others.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let answer = app.bare(method.clone(), &anywhere(&path)).bearer(&key).refused(403, "missing_scope").await;
        assert_eq!(answer.json()["details"]["required"], scope, "{method} {path}");
        let (_, key) = app.key_with(&[&scope]).await;
        let answer = app.bare(method.clone(), &anywhere(&path)).bearer(&key).send().await;
        assert!(!matches!(answer.status, 401 | 403), "{method} {path}: {}", answer.text());
    }
}

/// What the first tenant has: one thing of every kind, and an execution for every kind of answer.
struct Property {
    flow: Value,
    agent: Value,
    /// An execution of the agent.
    spoken: String,
    /// A response in the background.
    response: String,
    /// Tool calls: of that one, and of `asks`.
    calls: [String; 2],
    record: Value,
    key: String,
    secret: String,
    client_token: Value,
    tool: Value,
    schedule: Value,
    asset: String,
    batch: String,
    eval: String,
    /// Jobs that wait, were cancelled, and failed; the last one's dead letter.
    jobs: [String; 3],
    letter: String,
    cron: String,
    trigger: String,
    /// A webhook, and something that it was told.
    webhook: (String, String),
    /// Runs of a workflow: one that waits, and one that could not be undone.
    workflow_runs: [String; 2],
    /// Has ended.
    ended: Value,
    /// Waits for an approval, to be cancelled.
    waits: Value,
    /// Waits for the output of a tool.
    asks: Value,
    /// Waits for an approval.
    gated: Value,
    /// Waits for a word on an effect whose answer was lost.
    unsettled: Value,
}

/// A call that names something in its body: the route, the refusal, the id, and a maker of the body from an id.
type InBody = (&'static str, (u16, &'static str), String, Box<dyn Fn(&str) -> Value>);

/// Dispatches steps and gives the execution, paused, with what it waits for.
async fn paused(app: &TestApp, kind: &str, step: Value) -> Value {
    let body = json!({ "flow": { "name": kind, "steps": [step] }, "streamResponse": false });
    let result = app.post("/v1/dispatch").json(&body).ok().await;
    assert_eq!(result["pausedReason"]["waitType"], kind, "{result}");
    app.get(&format!("/v1/executions/{}", result["executionId"].as_str().unwrap())).ok().await
}

impl Property {
    async fn new(app: &TestApp) -> Self {
        let sink = Sink::start().await;
        sink.on("/lost", [Reply::Drop]);
        let prompt = |tools: Value| json!({ "id": "s", "type": "prompt", "config": { "model": "local/echo", "userPrompt": "call act {}", "tools": tools } });
        let tool = |kind: &str, config: Value| json!({ "name": "act", "description": "Acts.", "toolType": kind, "parametersSchema": { "type": "object" }, "config": config });
        let post = json!({ "url": sink.url("/lost"), "method": "POST" });
        let flow = app.post("/v1/flows").json(&json!({ "name": "f", "steps": [] })).ok().await;
        app.post(&format!("/v1/flows/{}/publish", flow["id"].as_str().unwrap())).ok().await;
        app.put("/v1/credentials/openai").json(&json!({ "apiKey": "sk-canary-0123" })).ok().await;
        let secret = app.post("/v1/secrets").json(&json!({ "key": "crm", "value": "canary-of-the-owner" })).ok().await;
        let acts = tool("custom", json!({ "code": "return 1;" }));
        let agent = json!({ "name": "a", "model": "local/echo", "tools": { "runtimeTools": [acts] } });
        let agent = app.post("/v1/agents").json(&agent).ok().await;
        app.post(&format!("/v1/agents/{}/publish", agent["id"].as_str().unwrap())).ok().await;
        let pages = json!({ "name": "p", "allowedOrigins": ["*"], "agentIds": [agent["id"]] });
        let client_token = app.post("/v1/client-tokens").json(&pages).ok().await["clientToken"].clone();
        let one = json!({ "name": "t", "toolType": "custom", "config": { "code": "return 1;" } });
        let one = app.post("/v1/tools").json(&one).ok().await;
        let later = json!({ "target": { "flowId": flow["id"] }, "trigger": { "type": "one_time", "runAt": "2099-01-01T00:00:00Z" } });
        let schedule = app.post("/v1/schedules").json(&later).ok().await;
        let keep = json!({ "id": "s", "type": "store-asset", "config": { "content": "aGk=", "filename": "a.txt" } });
        let keep = json!({ "flow": { "name": "keep", "steps": [keep] }, "streamResponse": false });
        let kept = app.post("/v1/dispatch").json(&keep).ok().await;
        let asset = kept["result"]["assetId"].as_str().unwrap().to_owned();
        let preview = format!("/v1/agents/{}/releases/preview", agent["id"].as_str().unwrap());
        let next = format!("/v1/agents/{}/aliases/next", agent["id"].as_str().unwrap());
        for alias in [preview, next] {
            app.put(&alias).json(&json!({ "versionId": agent["currentVersionId"] })).ok().await;
        }
        let record = app.post("/v1/records").json(&json!({ "type": "t", "name": "r" })).ok().await;
        let each = format!("/v1/flows/{}/run-on-record-type", flow["id"].as_str().unwrap());
        let batch = app.post(&each).json(&json!({ "recordType": "t" })).ok().await["batchId"].as_str().unwrap().to_owned();
        let eval = json!({ "name": "e", "target": { "flowId": flow["id"] }, "cases": [{}] });
        let eval = app.post("/v1/evals").json(&eval).ok().await["id"].as_str().unwrap().to_owned();
        let job = async |body: Value| app.post("/v1/jobs").json(&body).ok().await["id"].as_str().unwrap().to_owned();
        let later = json!({ "name": "f", "run_at": "2099-01-01T00:00:00Z", "queue": "q" });
        let jobs = [job(later.clone()).await, job(later).await, job(json!({ "name": "nobody" })).await];
        app.call(Method::POST, &format!("/v1/jobs/{}/cancel", jobs[1])).send().await;
        let letter = loop {
            let letters = app.get("/v1/dlq").ok().await;
            if let Some(id) = letters[0]["id"].as_str() {
                break id.to_owned();
            }
            tokio::task::yield_now().await;
        };
        app.put("/v1/queues/q").json(&json!({ "paused": true })).ok().await;
        let cron = app.post("/v1/crons").json(&json!({ "name": "c", "schedule": "@daily" })).ok().await["id"].as_str().unwrap().to_owned();
        let trigger = app.post("/v1/triggers").json(&json!({ "name": "h" })).ok().await["id"].as_str().unwrap().to_owned();
        app.put("/api/secrets/OWNERS").json(&json!({ "value": "canary-of-the-owner" })).ok().await;
        let mine = json!({ "name": "mine", "version": 1, "steps": { "w": { "wait": { "signal": "end" } } } });
        app.put("/api/workflows/mine").json(&mine).ok().await;
        sink.on("/bad", [Reply::status(400, json!({}))]);
        let (good, bad) = (json!({ "url": sink.url("/good") }), json!({ "url": sink.url("/bad") }));
        let stuck = json!({ "a": { "request": good, "compensate": bad }, "b": { "after": ["a"], "request": bad } });
        app.put("/api/workflows/stuck").json(&json!({ "name": "stuck", "version": 1, "steps": stuck })).ok().await;
        let begun = app.post("/workflows/mine").json(&json!({})).ok().await["run_id"].as_str().unwrap().to_owned();
        let failed = app.post("/workflows/stuck").json(&json!({})).send().await.json()["details"]["run_id"].as_str().unwrap().to_owned();
        let workflow_runs = [begun, failed];
        let hook = app.post("/v1/webhooks").json(&json!({ "url": sink.url("/told") })).ok().await["id"].as_str().unwrap().to_owned();
        let told = app.post(&format!("/v1/webhooks/{hook}/test")).ok().await["id"].as_str().unwrap().to_owned();
        let webhook = (hook, told);
        let response = app.post("/v1/responses").json(&json!({ "model": "local/echo", "input": "say hi", "background": true })).ok().await;
        let said = json!({ "messages": [{ "role": "user", "content": "call act {}" }], "streamResponse": false });
        let spoken = app.post(&format!("/v1/agents/{}/execute", agent["id"].as_str().unwrap())).json(&said).ok().await;
        let asks = paused(app, "local_tool", prompt(json!({ "runtimeTools": [tool("local", json!({}))] }))).await;
        let call = async |run: &Value| {
            let path = format!("/v1/executions/{}/tool-calls", run.as_str().unwrap());
            app.get(&path).ok().await["toolCalls"][0]["id"].as_str().unwrap().to_owned()
        };
        let calls = [call(&spoken["executionId"]).await, call(&asks["id"]).await];
        Self {
            flow,
            agent,
            calls,
            spoken: spoken["executionId"].as_str().unwrap().into(),
            response: response["id"].as_str().unwrap().into(),
            record,
            asset,
            batch,
            eval,
            jobs,
            letter,
            cron,
            trigger,
            webhook,
            workflow_runs,
            ended: json!({ "id": kept["executionId"] }),
            waits: paused(
                app,
                "approval",
                prompt(json!({ "runtimeTools": [tool("external", post.clone())], "approval": { "require": true } })),
            )
            .await,
            key: app.key_with(&["*"]).await.0.to_string(),
            secret: secret["id"].as_str().unwrap().into(),
            client_token,
            tool: one,
            schedule,
            asks,
            gated: paused(
                app,
                "approval",
                prompt(json!({ "runtimeTools": [tool("external", post.clone())], "approval": { "require": true } })),
            )
            .await,
            unsettled: paused(app, "effect_unknown", json!({ "id": "s", "type": "api-call", "config": post })).await,
        }
    }

    /// The execution that an operation can do something to.
    fn execution(&self, operation: &str) -> &str {
        if operation.contains("{agentId}") {
            return &self.spoken;
        }
        if operation.starts_with("DELETE ") {
            return self.ended["id"].as_str().unwrap();
        }
        let of = if operation.ends_with("/settle") { &self.unsettled } else { &self.asks };
        of["id"].as_str().unwrap()
    }

    /// The run that an operation can do something to.
    fn run(&self, operation: &str) -> &str {
        let of = if operation.ends_with("/replay") { &self.ended } else { &self.waits };
        of["id"].as_str().unwrap()
    }

    /// The run of a workflow that an operation can do something to.
    fn workflow_run(&self, operation: &str) -> &str {
        if operation.ends_with("/compensation") { &self.workflow_runs[1] } else { &self.workflow_runs[0] }
    }

    /// The job that an operation can do something to.
    fn job(&self, operation: &str) -> &str {
        match operation {
            "DELETE /v1/jobs/{jobId}" => &self.jobs[1],
            "POST /v1/jobs/{jobId}/retry" => &self.jobs[2],
            _ => &self.jobs[0],
        }
    }

    fn real(&self, operation: &str, path: &str) -> String {
        let versions = if operation.contains("{agentId}") { &self.agent } else { &self.flow };
        path.replace("{flowId}", self.flow["id"].as_str().unwrap())
            .replace("{agentId}", self.agent["id"].as_str().unwrap())
            .replace("{versionId}", versions["currentVersionId"].as_str().unwrap())
            .replace("{recordId}", self.record["id"].as_str().unwrap())
            .replace("{keyId}", &self.key)
            .replace("{secretId}", &self.secret)
            .replace("{clientTokenId}", self.client_token["id"].as_str().unwrap())
            .replace("{toolId}", self.tool["id"].as_str().unwrap())
            .replace("{scheduleId}", self.schedule["id"].as_str().unwrap())
            .replace("{assetId}", &self.asset)
            .replace("{batchId}", &self.batch)
            .replace("{evalId}", &self.eval)
            .replace("{executionId}", self.execution(operation))
            .replace("{runId}", &self.run(operation).replace("exec_", "wfrun_"))
            .replace("{jobId}", self.job(operation))
            .replace("{cronId}", &self.cron)
            .replace("{entryId}", &self.letter)
            .replace("{triggerId}", &self.trigger)
            .replace("{webhookId}", &self.webhook.0)
            .replace("{deliveryId}", &self.webhook.1)
            .replace("{queueName}", "q")
            .replace("{workflowName}", "f")
            .replace("{workflow}", "mine")
            .replace("{run}", self.workflow_run(operation))
            .replace("{secret}", "OWNERS")
            .replace("{signal}", "go")
            .replace("{alias}", if operation.contains("/aliases/") { "next" } else { "preview" })
            .replace("{builtinId}", "fetch_url")
            .replace("{toolCallId}", if operation.contains("{agentId}") { &self.calls[0] } else { &self.calls[1] })
            .replace("{provider}", "openai")
            .replace("{modelId}", "agent:a")
            .replace("{responseId}", &self.response)
    }

    /// A body that the operation accepts from the owner.
    fn body(&self, operation: &str) -> Option<Value> {
        match operation {
            "PUT /v1/crons/{cronId}" => Some(json!({ "payload": 1 })),
            "PUT /v1/triggers/{triggerId}" => Some(json!({ "enabled": true })),
            "PUT /v1/webhooks/{webhookId}" => Some(json!({ "description": "x" })),
            "PUT /v1/queues/{queueName}" => Some(json!({ "paused": true })),
            "POST /v1/workflows/{workflowName}/runs" => Some(json!({})),
            "POST /v1/workflows/runs/{runId}/replay" => Some(json!({ "from_step": "s" })),
            "PUT /v1/api-keys/{keyId}/limits" => Some(json!({ "rateLimit": { "concurrent": 5 } })),
            "PUT /v1/flows/{flowId}" | "PATCH /v1/flows/{flowId}" => Some(json!({ "description": "x" })),
            "POST /v1/flows/{flowId}/steps" => Some(json!({ "type": "set-variable", "config": { "variableName": "x", "value": 1 } })),
            "PUT /v1/client-tokens/{clientTokenId}" => Some(json!({ "name": "x" })),
            "PUT /v1/schedules/{scheduleId}" => Some(json!({ "name": "x" })),
            "POST /v1/flows/{flowId}/run-on-record-type" => Some(json!({ "recordType": "t" })),
            "PUT /v1/agents/{agentId}/releases/{alias}" | "PUT /v1/agents/{agentId}/aliases/{alias}" => {
                Some(json!({ "versionId": self.agent["currentVersionId"] }))
            }
            "PUT /v1/tools/{toolId}" => Some(json!({ "description": "x" })),
            "POST /v1/tools/{toolId}/execute" => Some(json!({ "streamResponse": false })),
            "PUT /v1/secrets/{secretId}" => Some(json!({ "description": "x" })),
            "PUT /v1/agents/{agentId}" => Some(json!({ "description": "x" })),
            "POST /v1/agents/{agentId}/execute" => {
                Some(json!({ "messages": [{ "role": "user", "content": "say hi" }], "streamResponse": false }))
            }
            "PUT /v1/records/{recordId}" | "PATCH /v1/records/{recordId}" => Some(json!({ "name": "x" })),
            "PUT /v1/credentials/{provider}" => Some(json!({ "apiKey": "sk-canary-4567" })),
            "POST /v1/executions/{executionId}/settle" => Some(
                json!({ "waitId": self.unsettled["waits"][0]["id"], "outcome": "succeeded", "result": { "status": 200, "headers": {}, "body": "x" } }),
            ),
            "PUT /api/workflows/{workflow}" => {
                Some(json!({ "name": "mine", "version": 1, "steps": { "w": { "wait": { "signal": "end" } } } }))
            }
            "PUT /api/secrets/{secret}" => Some(json!({ "value": "another-canary" })),
            "POST /workflows/{workflow}" | "POST /api/runs/{run}/signal/{signal}" => Some(json!({})),
            "POST /v1/executions/{executionId}/signals/{signal}" => Some(json!({ "paid": true })),
            _ => None,
        }
    }

    /// Calls that name an execution, or what one is made of, in the body.
    fn in_bodies(&self) -> Vec<InBody> {
        let id = |of: &Value| of["id"].as_str().unwrap().to_owned();
        let approval = self.gated["waits"][0]["id"].clone();
        let decision = move |run: &str| json!({ "executionId": run, "approvalId": approval, "decision": "denied" });
        let outputs = |run: &str| json!({ "executionId": run, "toolOutputs": { "act": 1 } });
        let (decided, delivered) = (decision.clone(), outputs);
        let ask_agent = |agent: &str| json!({ "agent": { "agentId": agent }, "messages": [{ "role": "user", "content": "say hi" }] });
        let version = self.flow["currentVersionId"].clone();
        vec![
            ("/v1/dispatch/approve", (404, "execution_not_paused"), id(&self.gated), Box::new(decision.clone())),
            ("/v1/dispatch/resume", (404, "execution_not_paused"), id(&self.asks), Box::new(outputs)),
            (
                "/v1/dispatch/continue",
                (404, "execution_not_paused"),
                id(&self.gated),
                Box::new(move |run| {
                    let word = decided(run);
                    json!({ "executionId": run, "continuation": { "approvalId": word["approvalId"], "decision": word["decision"] } })
                }),
            ),
            (
                "/v1/dispatch/continue",
                (404, "execution_not_paused"),
                id(&self.asks),
                Box::new(move |run| json!({ "executionId": run, "continuation": { "toolOutputs": delivered(run)["toolOutputs"] } })),
            ),
            ("/v1/agents/virtual/approve", (404, "execution_not_paused"), id(&self.gated), Box::new(decision.clone())),
            ("/v1/agents/virtual/resume", (404, "execution_not_paused"), id(&self.asks), Box::new(outputs)),
            ("/v1/dispatch", (422, "validation_failed"), id(&self.agent), Box::new(ask_agent)),
            ("/v1/dispatch", (422, "validation_failed"), id(&self.flow), Box::new(|flow| json!({ "flow": { "id": flow } }))),
            (
                "/v1/dispatch",
                (422, "validation_failed"),
                id(&self.flow),
                Box::new(move |flow| json!({ "flowId": flow, "versionId": version })),
            ),
            (
                "/v1/dispatch",
                (422, "validation_failed"),
                id(&self.record),
                Box::new(|record| json!({ "flow": { "name": "x", "steps": [] }, "record": { "id": record } })),
            ),
        ]
    }

    /// Everything that a stranger could have changed.
    async fn state(&self, app: &TestApp) -> Vec<Value> {
        let mut state = Vec::new();
        for of in [&self.asks, &self.gated, &self.unsettled] {
            state.push(app.get(&format!("/v1/executions/{}", of["id"].as_str().unwrap())).ok().await);
        }
        state.push(app.get(&format!("/v1/flows/{}", self.flow["id"].as_str().unwrap())).ok().await);
        state.push(app.get(&format!("/v1/agents/{}", self.agent["id"].as_str().unwrap())).ok().await);
        state.push(app.get(&format!("/v1/records/{}", self.record["id"].as_str().unwrap())).ok().await);
        state.push(app.get(&format!("/v1/responses/{}/input_items", self.response)).ok().await);
        state.push(app.get("/v1/credentials").ok().await);
        state.push(app.get("/v1/secrets").ok().await);
        state.push(app.get("/v1/client-tokens").ok().await);
        state.push(app.get("/v1/tools").ok().await);
        state.push(app.get(&format!("/v1/batches/{}", self.batch)).ok().await);
        state.push(app.get(&format!("/v1/evals/{}", self.eval)).ok().await);
        for run in &self.workflow_runs {
            state.push(app.get(&format!("/api/runs/{run}")).ok().await);
        }
        for list in [
            "/api/workflows",
            "/api/secrets",
            "/v1/jobs",
            "/v1/dlq",
            "/v1/crons",
            "/v1/queues",
            "/v1/triggers",
            "/v1/workflows/runs",
            "/v1/stats",
        ] {
            state.push(app.get(list).ok().await);
        }
        let assets = app.get("/v1/assets").ok().await;
        state.push(assets["data"].as_array().unwrap().iter().map(|asset| asset["id"].clone()).collect());
        state.push(app.get(&format!("/v1/schedules/{}", self.schedule["id"].as_str().unwrap())).ok().await);
        state.push(app.get(&format!("/v1/client-tokens/{}/token", self.client_token["id"].as_str().unwrap())).ok().await);
        state.push(app.get("/v1/executions").ok().await);
        state
    }
}

/// Calls whose path says no more than which surface speaks.
fn by_body(operation: &str) -> bool {
    ["POST /v1/agents/{agentId}/approve", "POST /v1/agents/{agentId}/resume"].contains(&operation)
}

/// The path with ids that are none.
fn nowhere(path: &str) -> String {
    let (mut text, mut rest) = (String::new(), path);
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap();
        text.push_str(before);
        text.push_str(if name.ends_with("Id") { "nothing-like-an-id" } else { "openai" });
        rest = after;
    }
    text + rest
}

/// What a caller learns from an answer: status, headers and body, but for what names the one call.
fn learned(answer: &Answer, ids: &[&str]) -> (u16, Vec<(String, String)>, String) {
    let own = ["x-request-id", "date", "content-length"];
    let headers = answer.headers.iter().filter(|(name, _)| !own.contains(&name.as_str()) && !name.as_str().starts_with("ratelimit-"));
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    (answer.status, headers, ids.iter().fold(answer.text(), |text, id| text.replace(id, "[id]")))
}

#[tokio::test]
async fn what_belongs_to_another_tenant_is_not_there() {
    let app = TestApp::with(Setup { dev: true, ..Setup::default() }).await;
    let stranger = app.strangers_key().await;
    let property = Property::new(&app).await;
    let before = property.state(&app).await;
    let mut operations: Vec<Operation> = guarded().into_iter().filter(|operation| operation.path.contains('{')).collect();
    for Operation { method, path, .. } in &operations {
        let name = format!("{method} {path}");
        let own =
            ["PUT /v1/credentials/{provider}", "PUT /v1/queues/{queueName}", "PUT /api/workflows/{workflow}", "PUT /api/secrets/{secret}"];
        if own.contains(&name.as_str()) {
            continue; // Keeps something of the stranger's own; checked below.
        }
        if by_body(&name) {
            continue; // The execution that the body names decides; checked below.
        }
        if path.contains("{builtinId}") {
            continue; // The same for everybody.
        }
        let ask = async |path: &str, accept: &str| {
            let mut call = app.bare(method.clone(), path).bearer(&stranger).header("accept", accept);
            if let Some(body) = property.body(&name) {
                call = call.json(&body);
            }
            let code = if path.contains("/v1/models/") { "model_not_found" } else { "not_found" };
            learned(&call.refused(404, code).await, &[])
        };
        for accept in ["application/json", "text/event-stream"] {
            let foreign = ask(&property.real(&name, path), accept).await;
            assert_eq!(
                foreign,
                ask(&anywhere(path).replace("openai", "anthropic"), accept).await,
                "{name} tells a foreign id from a missing one"
            );
            let none = nowhere(path).replace("openai", "gemini");
            if ["{jobId}", "{cronId}", "{entryId}", "{runId}", "{triggerId}", "{webhookId}"].iter().any(|id| path.contains(id)) {
                // Its contract says so; a text that is no id tells nothing of what there is.
                app.bare(method.clone(), &none).bearer(&stranger).refused(400, "invalid_id").await;
                continue;
            }
            if path.contains("{secret}") {
                app.bare(method.clone(), &none).bearer(&stranger).refused(400, "invalid_name").await;
                continue;
            }
            assert_eq!(foreign, ask(&none, accept).await, "{name} tells a foreign id from no id");
        }
    }
    for (path, (status, code), id, body) in property.in_bodies() {
        let missing = format!("{}_01h455vb4pex5vsknk084sn02q", id.split('_').next().unwrap());
        let ask = async |id: &str| {
            let call = app.bare(Method::POST, path).bearer(&stranger).json(&body(id));
            learned(&call.refused(status, code).await, &[id])
        };
        assert_eq!(ask(&id).await, ask(&missing).await, "{path} tells a foreign id from a missing one");
    }
    for list in ["/v1/flows", "/v1/agents", "/v1/records", "/v1/credentials", "/v1/secrets", "/v1/executions"] {
        assert_eq!(app.bare(Method::GET, list).bearer(&stranger).ok().await["data"], json!([]), "{list}");
    }
    for list in ["/v1/jobs", "/v1/dlq", "/v1/crons", "/v1/queues", "/v1/triggers", "/v1/workflows/runs"] {
        assert_eq!(app.bare(Method::GET, list).bearer(&stranger).ok().await, json!([]), "{list}");
    }
    app.bare(Method::PUT, "/v1/queues/q").bearer(&stranger).json(&json!({ "paused": false })).ok().await;
    let ids = json!({ "ids": [property.record["id"]], "metadata": { "stolen": true } });
    let edited = app.bare(Method::POST, "/v1/records/bulk-edit").bearer(&stranger).json(&ids).ok().await;
    let nothing = json!({ "updated": 0, "missing": [property.record["id"]], "conflicts": [], "recordIds": [], "data": [] });
    assert_eq!(edited, nothing);
    let deleted = app.bare(Method::POST, "/v1/records/bulk-delete").bearer(&stranger).json(&ids).ok().await;
    assert_eq!(deleted["deleted"], 0);
    let theirs = json!({ "name": "mine", "version": 9, "steps": { "w": { "wait": { "signal": "x" } } } });
    app.bare(Method::PUT, "/api/workflows/mine").bearer(&stranger).json(&theirs).ok().await;
    app.bare(Method::PUT, "/api/secrets/OWNERS").bearer(&stranger).json(&json!({ "value": "theirs" })).ok().await;
    app.bare(Method::PUT, "/v1/credentials/openai").bearer(&stranger).json(&json!({ "apiKey": "sk-stranger-9999" })).ok().await;
    assert_eq!(property.state(&app).await, before, "nothing came of any of it");
    // The very same calls succeed for the owner: it was the tenant that was refused. Those that end something come last.
    let ends = |operation: &Operation| operation.method == Method::DELETE || operation.path.ends_with("/cancel");
    // What is part of something is ended before that.
    operations.sort_by_key(|operation| (ends(operation), operation.method == Method::DELETE, std::cmp::Reverse(operation.path.len())));
    let (first, last) = operations.split_at(operations.partition_point(|operation| !ends(operation)));
    let own = async |operation: &Operation| {
        let name = format!("{} {}", operation.method, operation.path);
        if by_body(&name) {
            return;
        }
        let call = app.call(operation.method.clone(), &property.real(&name, &operation.path));
        let call = if let Some(body) = property.body(&name) { call.json(&body) } else { call };
        let answer = call.send().await;
        assert!((200..300).contains(&answer.status), "{name}: {}", answer.text());
    };
    for operation in first {
        own(operation).await;
    }
    for (path, _, id, body) in property.in_bodies() {
        let mut body = body(&id);
        body["streamResponse"] = json!(false);
        app.post(path).json(&body).ok().await;
    }
    for operation in last {
        own(operation).await;
    }
}

/// A cursor and an `Idempotency-Key` say nothing about whose they were.
#[tokio::test]
async fn cursors_and_keys_of_another_tenant_lead_nowhere() {
    let app = TestApp::with(Setup { dev: true, ..Setup::default() }).await;
    let stranger = app.strangers_key().await;
    let flow = |name: &str| json!({ "name": name, "steps": [] });
    let record = |name: &str| json!({ "type": "t", "name": name });
    let run = || json!({ "flow": { "name": "f", "steps": [] }, "streamResponse": false });
    for name in ["one", "two", "three"] {
        app.post("/v1/flows").json(&flow(name)).ok().await;
        app.post("/v1/agents").json(&json!({ "name": name, "model": "local/echo" })).ok().await;
        app.post("/v1/tools").json(&json!({ "name": name, "toolType": "custom", "config": { "code": "return 1;" } })).ok().await;
        app.post("/v1/records").json(&record(name)).ok().await;
        app.post("/v1/dispatch").json(&run()).ok().await;
    }
    let theirs = |method: Method, path: &str| app.bare(method, path).bearer(&stranger);
    for list in ["/v1/flows", "/v1/agents", "/v1/tools", "/v1/records", "/v1/executions"] {
        let page = app.get(&format!("{list}?limit=1")).ok().await;
        let cursor = page["pagination"]["nextCursor"].as_str().unwrap().to_owned();
        assert_eq!(app.get(&format!("{list}?limit=5&cursor={cursor}")).ok().await["data"].as_array().unwrap().len(), 2, "{list}");
        let found = theirs(Method::GET, &format!("{list}?limit=5&cursor={cursor}")).ok().await;
        assert_eq!(found["data"], json!([]), "{list}");
        // Neither is it told from one that was made up.
        let mut made_up = cursor.clone().into_bytes();
        let at = made_up.len() - 3;
        made_up[at] = if made_up[at] == b'A' { b'B' } else { b'A' };
        let other = theirs(Method::GET, &format!("{list}?limit=5&cursor={}", String::from_utf8(made_up).unwrap())).ok().await;
        assert_eq!((&other["data"], &other["pagination"]["nextCursor"]), (&found["data"], &found["pagination"]["nextCursor"]), "{list}");
    }
    for (path, mine, other) in [
        ("/v1/flows", flow("keyed"), flow("of the other")),
        ("/v1/records", record("keyed"), record("of the other")),
        ("/v1/dispatch", run(), {
            let mut body = run();
            body["flow"]["name"] = json!("of the other");
            body
        }),
    ] {
        let id = |answer: &Answer| answer.json().get("id").or(answer.json().get("executionId")).cloned().unwrap();
        let own = app.post(path).header("idempotency-key", "the-same-key").json(&mine).send().await;
        assert!(own.status < 300, "{path}: {}", own.text());
        // Another body under the key is refused to its owner and nobody else, and a stranger's call is a first one.
        app.post(path).header("idempotency-key", "the-same-key").json(&other).refused(422, "idempotency_key_reused").await;
        let first = theirs(Method::POST, path).header("idempotency-key", "the-same-key").json(&other).send().await;
        assert!(first.status < 300, "{path}: {}", first.text());
        assert!(!first.headers.contains_key("idempotency-replayed"), "{path}");
        assert_ne!(id(&first), id(&own), "{path}");
        let again = app.post(path).header("idempotency-key", "the-same-key").json(&mine).send().await;
        assert_eq!(id(&again), id(&own), "{path}: the owner's stays the owner's");
    }
}
