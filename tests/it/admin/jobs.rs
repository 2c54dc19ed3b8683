//! Jobs: done by flows and by callbacks, tried again, given up, cancelled, and never done twice.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{call, called, enqueue, flow, job_is, until};
use crate::dispatch::step;
use crate::support::app::within;
use crate::support::sink::Reply;
use crate::support::world::{Kind, World};

on_both!(
    a_flow_does_a_job,
    a_callback_does_a_job,
    two_failures_and_a_success_are_three_attempts,
    what_fails_too_often_lies_with_the_dead,
    without_retries_the_first_failure_is_the_last,
    what_nobody_does_is_given_up_at_once,
    a_job_takes_no_longer_than_it_may,
    jobs_are_cancelled_as_they_wait_and_as_they_run,
    twenty_jobs_at_once_are_done_once_each,
    a_job_outlives_its_server,
    a_job_waits_for_its_time,
    a_running_job_names_its_worker,
    what_is_missing_is_named_as_in_the_original,
    many_jobs_are_cancelled_and_retried,
    jobs_are_listed_in_windows,
    wrong_jobs_are_refused,
    the_same_call_is_the_same_job,
    a_tenant_that_fills_a_server_with_jobs_leaves_room_for_others,
);

async fn a_flow_does_a_job(world: Arc<World>) {
    let node = world.node();
    let script = "return { to: to, n: payload.n, queue: _job.queue, org: _job.scope_org_id, attempt: _job.attempt };";
    flow(&node, "send_email", json!([step("s", "transform-data", json!({ "script": script }))])).await;
    let body = json!({ "name": "send_email", "payload": { "to": "Ada", "n": 2 }, "queue": "mail", "priority": 3, "scope_org_id": "org_1" });
    let made = node.post("/v1/jobs").json(&body).ok().await;
    for (field, value) in [
        ("state", json!("pending")),
        ("attempt", json!(0)),
        ("max_attempts", json!(4)),
        ("priority", json!(3)),
        ("scope_app_id", json!("")),
        ("scope_org_id", json!("org_1")),
        ("payload", json!({ "to": "Ada", "n": 2 })),
        ("timeout", json!(300_000_000_000_u64)),
    ] {
        assert_eq!(made[field], value, "{field}: {made}");
    }
    assert!(made["id"].as_str().unwrap().starts_with("job_") && made.get("started_at").is_none(), "{made}");
    let done = job_is(&node, made["id"].as_str().unwrap(), "completed").await;
    assert_eq!((&done["attempt"], &done["retry_count"]), (&json!(1), &json!(0)), "{done}");
    let listed = node.get("/v1/jobs").ok().await;
    assert!(listed[0]["id"] == made["id"] && listed[0].get("execution_id").is_none(), "lists do not look for executions: {listed}");
    assert!(done["completed_at"].is_string() && done["started_at"].is_string(), "{done}");
    let execution = node.execution(done["execution_id"].as_str().unwrap()).await;
    assert_eq!(execution["output"], json!({ "to": "Ada", "n": 2, "queue": "mail", "org": "org_1", "attempt": 1 }), "{execution}");
    let counts = node.get("/v1/jobs/counts").ok().await;
    assert_eq!(counts, json!({ "pending": 0, "running": 0, "completed": 1, "failed": 0, "retrying": 0, "cancelled": 0 }));
    for base in ["/dispatch", "/api/dispatch"] {
        assert_eq!(node.get(&format!("{base}/v1/jobs")).ok().await, node.get("/v1/jobs").ok().await, "the other addresses");
    }
    let stranger = world.strangers_key().await;
    assert_eq!(node.bare(Method::GET, "/v1/jobs").bearer(&stranger).ok().await, json!([]));
}

async fn a_callback_does_a_job(world: Arc<World>) {
    let node = world.node();
    node.post("/v1/secrets").json(&json!({ "key": "HOOK", "value": "canary-of-the-hook" })).ok().await;
    let mut body = called(world.sink.url("/done"));
    body["callback"]["headers"] = json!({ "X-Hook": "{{secret:HOOK}}" });
    let id = enqueue(&node, body).await;
    job_is(&node, &id, "completed").await;
    let seen = world.sink.seen("/done");
    assert_eq!(seen.len(), 1);
    let told = seen[0].json();
    assert_eq!(
        (&told["id"], &told["name"], &told["payload"], &told["attempt"]),
        (&json!(id), &json!("call"), &json!({ "n": 1 }), &json!(1))
    );
    assert_eq!(
        (seen[0].method.as_str(), seen[0].header("idempotency-key"), seen[0].header("x-hook")),
        ("POST", id.as_str(), "canary-of-the-hook")
    );
    assert_eq!((seen[0].header("dispatch-job"), seen[0].header("dispatch-attempt")), (id.as_str(), "1"));
}

/// Lets what waits for its next attempt begin at once.
async fn hurry(world: &World, id: &str) {
    world.meddle("update jobs set run_at = 0 where id = $1 and state = 'retrying'", id).await;
}

async fn fails_until(world: &Arc<World>, path: &str, retries: u32, replies: Vec<Reply>) -> (String, Value) {
    let node = world.node();
    world.sink.on(path, replies);
    let mut body = called(world.sink.url(path));
    body["max_retries"] = retries.into();
    let id = enqueue(&node, body).await;
    let job = within(async {
        loop {
            hurry(world, &id).await;
            let job = node.get(&format!("/v1/jobs/{id}")).ok().await;
            if ["completed", "failed"].contains(&job["state"].as_str().unwrap()) {
                return job;
            }
        }
    });
    let job = job.await;
    (id, job)
}

async fn two_failures_and_a_success_are_three_attempts(world: Arc<World>) {
    let broken = || Reply::status(500, json!({}));
    let (id, job) = fails_until(&world, "/flaky", 2, vec![broken(), broken(), Reply::json(json!({}))]).await;
    assert_eq!((&job["state"], &job["attempt"], &job["retry_count"]), (&json!("completed"), &json!(3), &json!(2)), "{job}");
    let keys: Vec<String> = world.sink.seen("/flaky").iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
    assert_eq!(keys, [id.clone(), id.clone(), id], "the callee can tell that it is one job");
    assert_eq!(world.node().get("/v1/dlq/count").ok().await, json!({ "count": 0 }));
}

async fn what_fails_too_often_lies_with_the_dead(world: Arc<World>) {
    let broken = || Reply::status(503, json!({ "why": "tired" }));
    let (id, job) = fails_until(&world, "/broken", 2, vec![broken(), broken(), broken()]).await;
    assert_eq!((&job["state"], &job["attempt"], &job["retry_count"]), (&json!("failed"), &json!(3), &json!(3)), "{job}");
    assert!(job["last_error"].as_str().unwrap().contains("503"), "{job}");
    let letters = world.node().get("/v1/dlq").ok().await;
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    let letter = &letters[0];
    for (field, value) in [
        ("job_id", json!(id)),
        ("job_name", json!("call")),
        ("queue", json!("default")),
        ("payload", json!({ "n": 1 })),
        ("retry_count", json!(3)),
        ("max_retries", json!(2)),
    ] {
        assert_eq!(letter[field], value, "{field}: {letter}");
    }
    assert!(letter["error"].as_str().unwrap().contains("503") && letter.get("replayed_at").is_none(), "{letter}");
}

async fn without_retries_the_first_failure_is_the_last(world: Arc<World>) {
    let node = world.node();
    let steps = json!([step("s", "transform-data", json!({ "script": "throw new Error('no');" }))]);
    flow(&node, "fails", steps).await;
    let id = enqueue(&node, json!({ "name": "fails", "max_retries": 0 })).await;
    let job = job_is(&node, &id, "failed").await;
    assert_eq!((&job["attempt"], &job["retry_count"]), (&json!(1), &json!(1)), "a step that fails fails the job: {job}");
    assert_eq!(node.get("/v1/dlq/count").ok().await, json!({ "count": 1 }));
}

async fn what_nobody_does_is_given_up_at_once(world: Arc<World>) {
    let node = world.node();
    let id = enqueue(&node, json!({ "name": "nobody" })).await;
    let job = job_is(&node, &id, "failed").await;
    assert!(job["last_error"].as_str().unwrap().contains("no flow of that name"), "{job}");
    assert_eq!(node.get("/v1/dlq/count").ok().await, json!({ "count": 1 }));
    // Once there is one, the job can be tried again.
    flow(&node, "nobody", json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    assert_eq!(call(&node, Method::POST, &format!("/v1/jobs/{id}/retry")).send().await.status, 204);
    let done = job_is(&node, &id, "completed").await;
    assert_eq!((&done["retry_count"], done.get("last_error")), (&json!(0), None), "{done}");
    let letter = &node.get("/v1/dlq").ok().await[0];
    assert_eq!(letter["replayed_as"], json!(id), "its dead letter counts as replayed: {letter}");
}

async fn a_job_takes_no_longer_than_it_may(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(Notify::new());
    world.sink.on("/slow", [Reply::Gate(gate)]);
    let mut body = called(world.sink.url("/slow"));
    body["timeout_ms"] = 200.into();
    body["max_retries"] = 0.into();
    let id = enqueue(&node, body).await;
    let job = job_is(&node, &id, "failed").await;
    assert!(job["last_error"].as_str().unwrap().contains("0.2 s"), "{job}");
}

async fn jobs_are_cancelled_as_they_wait_and_as_they_run(world: Arc<World>) {
    let node = world.node();
    let later = enqueue(&node, json!({ "name": "x", "run_at": "2100-01-01T00:00:00Z" })).await;
    let cancel = |id: &str| call(&node, Method::POST, &format!("/v1/jobs/{id}/cancel"));
    assert_eq!(cancel(&later).send().await.status, 204);
    assert_eq!(node.get(&format!("/v1/jobs/{later}")).ok().await["state"], "cancelled");
    cancel(&later).refused(400, "job_state").await;
    call(&node, Method::POST, &format!("/v1/jobs/{later}/retry")).refused(400, "job_state").await;

    let gate = Arc::new(Notify::new());
    world.sink.on("/gate", [Reply::Gate(gate.clone())]);
    let id = enqueue(&node, called(world.sink.url("/gate"))).await;
    world.sink.reached("/gate", 1).await;
    assert_eq!(cancel(&id).send().await.status, 204);
    let job = job_is(&node, &id, "cancelled").await;
    assert_eq!(job["retry_count"], 0, "{job}");
    assert_eq!(node.get("/v1/dlq/count").ok().await, json!({ "count": 0 }), "what was cancelled is not dead");
    assert_eq!(call(&node, Method::DELETE, &format!("/v1/jobs/{id}")).send().await.status, 204);
    node.get(&format!("/v1/jobs/{id}")).refused(404, "not_found").await;
}

async fn twenty_jobs_at_once_are_done_once_each(world: Arc<World>) {
    let node = world.node();
    let ids = futures_util::future::join_all((0..20).map(|_| enqueue(&node, called(world.sink.url("/count"))))).await;
    until(&node, "/v1/jobs/counts", |counts| counts["completed"] == 20).await;
    let mut seen: Vec<String> = world.sink.seen("/count").iter().map(|seen| seen.header("dispatch-job").to_owned()).collect();
    seen.sort_unstable();
    let mut wanted = ids;
    wanted.sort_unstable();
    assert_eq!(seen, wanted);
}

async fn a_job_outlives_its_server(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(Notify::new());
    world.sink.on("/first", [Reply::Gate(gate), Reply::json(json!({}))]);
    let mut body = called(world.sink.url("/first"));
    body["callback"]["effect"] = "idempotent".into();
    let held = enqueue(&node, body).await;
    world.sink.reached("/first", 1).await;
    let node = world.crash().await;
    let job = job_is(&node, &held, "completed").await;
    assert_eq!((&job["attempt"], &job["retry_count"]), (&json!(1), &json!(0)), "the same attempt went on: {job}");
    assert_eq!(world.sink.seen("/first").len(), 2, "whose answer was lost is asked again, with the same key");
}

async fn a_job_waits_for_its_time(world: Arc<World>) {
    let node = world.node();
    let id = enqueue(&node, json!({ "name": "x", "callback": { "url": world.sink.url("/late") }, "run_at": "2100-01-01T00:00:00Z" })).await;
    let waiting = node.get(&format!("/v1/jobs/{id}")).ok().await;
    assert_eq!(waiting["run_at"], "2100-01-01T00:00:00Z", "a time comes back as it was sent");
    let now = enqueue(&node, called(world.sink.url("/now"))).await;
    job_is(&node, &now, "completed").await;
    assert_eq!(node.get(&format!("/v1/jobs/{id}")).ok().await["state"], "pending");
    world.meddle("update jobs set run_at = 0 where id = $1", &id).await;
    job_is(&node, &id, "completed").await;
}

async fn a_running_job_names_its_worker(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(Notify::new());
    world.sink.on("/gated", [Reply::Gate(gate.clone())]);
    let id = enqueue(&node, called(world.sink.url("/gated"))).await;
    let running = job_is(&node, &id, "running").await;
    let worker = running["worker_id"].as_str().unwrap().to_owned();
    assert!(worker.starts_with("wkr_") && worker.len() == "wkr_".len() + 26, "{running}");
    let listed = node.get("/v1/jobs?state=running").ok().await;
    assert_eq!(listed[0]["worker_id"], json!(worker), "{listed}");
    assert_eq!(node.get("/v1/workers").ok().await[0]["id"], json!(worker));
    within(async {
        while world.sink.seen("/gated").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.notify_one();
    job_is(&node, &id, "completed").await;
}

async fn what_is_missing_is_named_as_in_the_original(world: Arc<World>) {
    let node = world.node();
    for (path, text) in [
        ("/v1/jobs/job_01h455vb4pex5vsknk084sn02q", "job not found"),
        ("/v1/workflows/runs/wfrun_01h455vb4pex5vsknk084sn02q", "run not found"),
        ("/v1/crons/cron_01h455vb4pex5vsknk084sn02q", "cron entry not found"),
        ("/v1/dlq/dlq_01h455vb4pex5vsknk084sn02q", "dlq entry not found"),
    ] {
        assert_eq!(node.get(path).refused(404, "not_found").await.json()["error"], text);
    }
    for act in ["cancel", "retry"] {
        let missing = node.post(&format!("/v1/jobs/job_01h455vb4pex5vsknk084sn02q/{act}")).refused(404, "not_found").await;
        assert_eq!(missing.json()["error"], "job not found");
    }
}

async fn many_jobs_are_cancelled_and_retried(world: Arc<World>) {
    let node = world.node();
    for number in 0..5 {
        let queue = if number < 3 { "mail" } else { "other" };
        enqueue(&node, json!({ "name": "x", "queue": queue, "run_at": "2100-01-01T00:00:00Z" })).await;
    }
    let all = |path: &'static str, body: Value| node.post(path).json(&body).ok();
    let counted = all("/v1/jobs/cancel-all", json!({ "queue": "mail", "dry_run": true })).await;
    assert_eq!(counted, json!({ "matched": 3, "changed": 0, "errors": 0, "more": false }));
    assert_eq!(all("/v1/jobs/cancel-all", json!({ "queue": "mail" })).await["changed"], 3);
    assert_eq!(all("/v1/jobs/cancel-all", json!({})).await["changed"], 2);
    for _ in 0..3 {
        enqueue(&node, json!({ "name": "nobody" })).await;
    }
    until(&node, "/v1/jobs/counts", |counts| counts["failed"] == 3).await;
    flow(&node, "nobody", json!([step("s", "set-variable", json!({ "variableName": "x", "value": 1 }))])).await;
    assert_eq!(all("/v1/jobs/retry-all", json!({ "name": "nobody" })).await["changed"], 3);
    until(&node, "/v1/jobs/counts", |counts| counts["completed"] == 3 && counts["cancelled"] == 5).await;
}

async fn jobs_are_listed_in_windows(world: Arc<World>) {
    let node = world.node();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(enqueue(&node, json!({ "name": "x", "run_at": "2100-01-01T00:00:00Z" })).await);
    }
    let list = async |query: &str| -> Vec<String> {
        let jobs = node.get(&format!("/v1/jobs{query}")).ok().await;
        jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("").await, ids);
    assert_eq!(list("?limit=2&offset=1").await, ids[1..3]);
    assert_eq!(list("?limit=0&offset=-3").await, ids, "nothing is the default");
    assert_eq!(list("?limit=100000").await, ids);
    assert_eq!(list("?offset=99").await, [] as [String; 0]);
    assert_eq!(list(&format!("?after={}&limit=2", ids[2])).await, ids[3..]);
    assert_eq!(list("?state=pending&queue=default").await, ids);
    assert_eq!(list("?state=&queue=").await, ids, "empty is everything");
    assert_eq!(list("?state=running").await, [] as [String; 0]);
    node.get("/v1/jobs?state=sleeping").refused(400, "invalid_query").await;
    node.get("/v1/jobs?limit=x").refused(400, "invalid_query").await;
    node.get("/v1/jobs/nothing-like-an-id").refused(400, "invalid_id").await;
    node.get("/v1/jobs/dlq_01h455vb4pex5vsknk084sn02q").refused(400, "invalid_id").await;
    node.get("/v1/jobs/job_01h455vb4pex5vsknk084sn02q").refused(404, "not_found").await;
}

async fn wrong_jobs_are_refused(world: Arc<World>) {
    let node = world.node();
    let post = |body: Value| node.post("/v1/jobs").json(&body);
    for (body, pointers) in [
        (json!({}), vec!["/name"]),
        (json!({ "name": "" }), vec!["/name"]),
        (json!({ "name": "x", "queue": "a\u{1}b" }), vec!["/queue"]),
        (json!({ "name": "x", "max_retries": 101, "timeout_ms": 0 }), vec!["/max_retries", "/timeout_ms"]),
        (json!({ "name": "x", "callback": {} }), vec!["/callback/url"]),
        (json!({ "name": "x", "callback": { "url": "http://a.example/", "method": "GET" } }), vec!["/callback/method"]),
        (json!({ "name": "x", "callback": { "url": "{{" } }), vec!["/callback/url"]),
        (json!({ "name": "x", "callback": { "url": "http://a.example/", "headers": { "A": "{{x" } } }), vec!["/callback/headers/A"]),
        (json!({ "name": "x", "run_at": "soon" }), vec!["/run_at"]),
    ] {
        let refused = post(body.clone()).refused(400, "validation_failed").await;
        assert_eq!(refused.pointers(), pointers, "{body}");
    }
    assert_eq!(node.get("/v1/jobs").ok().await, json!([]), "nothing was half written");
    let reader = world.key_with(&["JOBS:READ"]).await;
    node.bare(Method::POST, "/v1/jobs").bearer(&reader).json(&json!({ "name": "x" })).refused(403, "missing_scope").await;
}

async fn the_same_call_is_the_same_job(world: Arc<World>) {
    let node = world.node();
    let post = |n: u32| {
        let body = json!({ "name": "x", "run_at": "2100-01-01T00:00:00Z", "payload": n });
        node.post("/v1/jobs").header("idempotency-key", "one").json(&body)
    };
    let calls = futures_util::future::join_all((0..20).map(|_| post(1).send())).await;
    let made: Vec<Value> = calls.iter().filter(|call| call.status == 201).map(|call| call.json()["id"].clone()).collect();
    assert!(!made.is_empty() && made.iter().all(|id| *id == made[0]), "{made:?}");
    assert_eq!(node.get("/v1/jobs").ok().await.as_array().unwrap().len(), 1);
    post(2).refused(400, "idempotency_key_reused").await;
    if world.kind == Kind::Postgres {
        let other = world.start().await;
        let body = json!({ "name": "x", "run_at": "2100-01-01T00:00:00Z", "payload": 1 });
        let again = other.post("/v1/jobs").header("idempotency-key", "one").json(&body).ok().await;
        assert_eq!(again["id"], made[0]);
    }
}

async fn a_tenant_that_fills_a_server_with_jobs_leaves_room_for_others(world: Arc<World>) {
    world.configure(|config| config.limits.jobs.at_once = 2);
    let node = world.crash().await;
    world.sink.on("/held", [Reply::Gate(Arc::new(Notify::new()))]);
    for _ in 0..6 {
        let mut body = called(world.sink.url("/held"));
        body["priority"] = 1_000.into();
        enqueue(&node, body).await;
    }
    world.sink.reached("/held", 2).await;
    let stranger = world.strangers_key().await;
    node.bare(Method::POST, "/v1/jobs").bearer(&stranger).json(&called(world.sink.url("/other"))).ok().await;
    world.sink.reached("/other", 1).await;
    assert_eq!(world.sink.seen("/held").len(), 2, "one tenant has no more at once than it may");
}
