//! What a tenant keeps when it is sealed: nothing in the database can be read, and nothing moves without the key.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dispatch::id::TenantId;
use dispatch::store::sealing::{Founding, found};
use reqwest::Method;
use serde_json::{Value, json};

use super::sessions::{handshake, rotate};
use super::{register, run};
use crate::support::app::within;
use crate::support::call::Call;
use crate::support::sink::Reply;
use crate::support::world::{KEY, Kind, Node, World, until};

on_both!(
    nothing_of_a_sealed_tenant_is_readable_or_moves_without_its_key,
    another_wrapping_key_takes_the_place_of_the_first,
    under_the_server_s_key_nothing_is_readable_and_all_moves,
    a_server_with_older_keys_stops_nobody,
);

/// What must be nowhere in the database: each a word of its own.
const CANARIES: [&str; 12] = [
    "canaryurl",
    "canaryheader",
    "canarybody",
    "canaryreply",
    "canarysecret",
    "canaryvar",
    "canarysignal",
    "canaryfailure",
    "canaryjob",
    "canaryrecord",
    "canaryinput",
    "canaryresult",
];

/// A tenant whose data are sealed; its id and key.
async fn tenant(node: &Node, own_key: bool) -> (String, String) {
    node.with_state(move |state| async move {
        let id = TenantId::new(&state.clock);
        let founding = if own_key { Founding::ZeroKnowledge } else { Founding::Managed(&state.vault) };
        found(&*state.store, &state.clock, id, founding).await.unwrap();
        let (tenant, made) = state.auth.create_tenant(id, "sealed".into()).await.unwrap();
        (tenant.id.to_string(), made.key.expose().to_owned())
    })
    .await
}

/// Whoever calls: by a session's token, or by a key.
struct Caller<'a> {
    node: &'a Node,
    session: Option<&'a str>,
    key: &'a str,
}

impl Caller<'_> {
    fn call(&self, method: Method, path: &str) -> Call {
        let call = self.node.bare(method, path);
        match self.session {
            Some(session) => call.header("dispatched-session", session),
            None => call.bearer(self.key),
        }
    }

    async fn run_is(&self, run: &str, status: &str) -> Value {
        let look = async {
            loop {
                let found = self.call(Method::GET, &format!("/api/runs/{run}")).ok().await;
                if found["status"] == status {
                    return found;
                }
                assert!(!["completed", "failed", "cancelled"].contains(&found["status"].as_str().unwrap()), "{found}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        within(look).await
    }
}

/// Everything in the database, as whoever steals it reads it.
async fn dump(world: &World) -> Vec<u8> {
    match world.kind {
        Kind::Sqlite => {
            let mut bytes = Vec::new();
            for entry in std::fs::read_dir(world.folder()).unwrap().flatten() {
                if entry.file_name().to_string_lossy().starts_with("dispatch.db") {
                    bytes.extend(std::fs::read(entry.path()).unwrap());
                }
            }
            bytes
        }
        Kind::Postgres => world.schema().dump().await.into_bytes(),
    }
}

/// The canaries that the database holds, plain or in base64 or hexadecimal.
async fn found_in(world: &World) -> Vec<&'static str> {
    let dump = String::from_utf8_lossy(&dump(world).await).to_lowercase();
    assert!(dump.contains("sealed"), "there is something in it");
    // Base64 of a text within a text has one of three forms, without the letters that its neighbours share. All that are its own are compared: few
    // would be found in anything sealed.
    let in_base64 = |canary: &str| {
        let own = |shift: usize| (shift * 8).div_ceil(6)..(shift + canary.len()) * 8 / 6;
        (0..3).map(|shift| STANDARD.encode(format!("{}{canary}", &"xxx"[..shift]))[own(shift)].to_lowercase()).collect::<Vec<_>>()
    };
    let in_hex = |canary: &str| canary.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let there = |canary: &&'static str| {
        dump.contains(*canary) || dump.contains(&in_hex(canary)) || in_base64(canary).iter().any(|text| dump.contains(text.as_str()))
    };
    CANARIES.iter().filter(|canary| there(canary)).copied().collect()
}

/// A workflow that takes a canary through everything, and waits for a signal in the middle.
async fn prepare(world: &World, caller: &Caller<'_>) {
    let reply = json!({ "said": "canaryreply" }).to_string();
    world.sink.on("/canaryurl", [Reply::Answer(200, vec![("content-type", "application/json".into())], reply.clone())]);
    world.sink.on("/last", [Reply::Answer(200, vec![("content-type", "application/json".into())], reply)]);
    world.sink.on("/fails", [Reply::Answer(422, vec![], "canaryfailure".into())]);
    caller.call(Method::PUT, "/api/secrets/MINE").json(&json!({ "value": "canarysecret" })).send().await;
    let steps = json!({
        "first": { "request": {
            "method": "POST", "url": world.sink.url("/canaryurl"),
            "headers": { "x-own": "canaryheader", "authorization": "Bearer {{ secrets.MINE }}" },
            "body": { "given": "{{ trigger.body.given }}", "var": "{{ vars.own }}", "fixed": "canarybody" },
        } },
        "hold": { "after": ["first"], "wait": { "signal": "go" } },
        "last": { "after": ["hold"], "request": {
            "method": "POST", "url": world.sink.url("/last"), "body": "{{ steps.hold.signal.body }}",
        } },
    });
    let document = json!({
        "name": "held", "version": 1, "vars": { "own": "canaryvar" }, "steps": steps,
        "response": { "body": { "came": "{{ steps.first.response.body.said }}", "kept": "canaryresult" } },
    });
    assert_eq!(caller.call(Method::PUT, "/api/workflows/held").json(&document).send().await.status, 201);
    let fails = json!({ "name": "fails", "version": 1, "steps": { "a": { "request": { "url": world.sink.url("/fails") } } } });
    assert_eq!(caller.call(Method::PUT, "/api/workflows/fails").json(&fails).send().await.status, 201);
}

async fn begin(caller: &Caller<'_>, name: &str) -> String {
    let call = caller.call(Method::POST, &format!("/workflows/{name}")).header("prefer", "respond-async");
    let answer = call.json(&json!({ "given": "canaryinput" })).send().await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    answer.json()["run_id"].as_str().unwrap().to_owned()
}

async fn nothing_of_a_sealed_tenant_is_readable_or_moves_without_its_key(world: Arc<World>) {
    let node = world.node();
    let (tenant, key) = tenant(&node, true).await;
    let by_key = Caller { node: &node, session: None, key: &key };
    // Before its first session it has no key at all.
    assert_eq!(by_key.call(Method::GET, "/api/session").ok().await["encryption"], "zero_knowledge");
    by_key.call(Method::GET, "/api/workflows").refused(503, "key_unavailable").await;
    by_key.call(Method::POST, "/v1/records").json(&json!({ "type": "a", "name": "b" })).refused(503, "key_unavailable").await;
    let (_, answer) = handshake(&node, &tenant, &key, &[1; 32]).await;
    let session = answer.json()["session"].as_str().unwrap().to_owned();
    let caller = Caller { node: &node, session: Some(&session), key: &key };
    prepare(&world, &caller).await;
    let held = begin(&caller, "held").await;
    caller.run_is(&held, "waiting").await;
    let failed = begin(&caller, "fails").await;
    assert!(caller.run_is(&failed, "failed").await["error"]["message"].as_str().unwrap().contains("422"));
    // The rest of the house, while the key is here: a record, a job for later.
    let record = json!({ "type": "a", "name": "b", "metadata": { "own": "canaryrecord" } });
    let record = by_key.call(Method::POST, "/v1/records").json(&record).ok().await["id"].as_str().unwrap().to_owned();
    let job = json!({ "name": "echo", "payload": { "text": "canaryjob" }, "callback": { "url": world.sink.url("/canaryurl"), "method": "POST" } });
    let later = dispatch::clock::Clock::system().now().after(std::time::Duration::from_millis(1_500)).to_string();
    let mut timed = job.clone();
    timed["run_at"] = json!(later);
    let job = by_key.call(Method::POST, "/v1/jobs").json(&timed).ok().await["id"].as_str().unwrap().to_owned();
    assert_eq!(found_in(&world).await, [] as [&str; 0]);

    // A server that was never shown the key has nothing to tell, and lets the tenant's things lie; everybody else's go on.
    let node = world.crash().await;
    let by_key = Caller { node: &node, session: None, key: &key };
    by_key.call(Method::GET, &format!("/api/runs/{held}")).refused(503, "key_unavailable").await;
    by_key.call(Method::GET, &format!("/v1/records/{record}")).refused(503, "key_unavailable").await;
    by_key.call(Method::POST, &format!("/api/runs/{held}/signal/go")).json(&json!("x")).refused(503, "key_unavailable").await;
    let listed = by_key.call(Method::GET, "/api/runs").ok().await["runs"].clone();
    assert_eq!(
        (&listed[1]["id"], &listed[1]["status"], &listed[1]["reason"]),
        (&json!(held), &json!("waiting"), &json!("key_unavailable"))
    );
    world.sink.on("/open", [Reply::Answer(200, vec![], "fine".into())]);
    register(&node, "open", json!({ "a": { "request": { "url": world.sink.url("/open") } } })).await;
    assert_eq!(run(&node, "open", &json!({})).await.status, 200);
    // The job's time comes; nobody begins it here.
    let later_job = json!({ "name": "echo", "callback": { "url": world.sink.url("/open"), "method": "POST" }, "run_at": later });
    let theirs = node.post("/v1/jobs").json(&later_job).ok().await["id"].as_str().unwrap().to_owned();
    until(&node, &format!("/v1/jobs/{theirs}"), |job| job["state"] == "completed").await;
    assert_eq!(world.sink.seen("/canaryurl").len(), 1);

    // The session's token brings the key back, and everything goes on where it was.
    let caller = Caller { node: &node, session: Some(&session), key: &key };
    caller.run_is(&held, "waiting").await;
    assert_eq!(caller.call(Method::POST, &format!("/api/runs/{held}/signal/go")).json(&json!("canarysignal")).send().await.status, 202);
    let done = caller.run_is(&held, "completed").await;
    assert_eq!(done["result"]["body"], json!({ "came": "canaryreply", "kept": "canaryresult" }), "{done}");
    assert_eq!((world.sink.seen("/last").len(), world.sink.seen("/last")[0].body.contains("canarysignal")), (1, true));
    let ended = async {
        while by_key.call(Method::GET, &format!("/v1/jobs/{job}")).ok().await["state"] != "completed" {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(ended).await;
    assert!(world.sink.seen("/canaryurl")[1].body.contains("canaryjob"));
    assert_eq!(by_key.call(Method::GET, &format!("/v1/records/{record}")).ok().await["metadata"]["own"], "canaryrecord");
    assert_eq!(found_in(&world).await, [] as [&str; 0]);
    // Ended, the key is forgotten: no run needs it.
    assert_eq!(caller.call(Method::DELETE, "/api/session").send().await.status, 204);
    by_key.call(Method::GET, &format!("/v1/records/{record}")).refused(503, "key_unavailable").await;
}

async fn another_wrapping_key_takes_the_place_of_the_first(world: Arc<World>) {
    let node = world.node();
    let (tenant, key) = tenant(&node, true).await;
    let (_, answer) = handshake(&node, &tenant, &key, &[1; 32]).await;
    let session = answer.json()["session"].as_str().unwrap().to_owned();
    let caller = Caller { node: &node, session: Some(&session), key: &key };
    prepare(&world, &caller).await;
    let before = begin(&caller, "held").await;
    caller.run_is(&before, "waiting").await;
    handshake(&node, &tenant, &key, &[2; 32]).await.1.refused(401, "handshake_failed");
    rotate(&node, &tenant, &key, &[2; 32], &[3; 32]).await.refused(401, "handshake_failed");
    let rotated = rotate(&node, &tenant, &key, &[1; 32], &[2; 32]).await;
    let second = rotated.json()["session"].as_str().unwrap_or_else(|| panic!("{}", rotated.text())).to_owned();
    handshake(&node, &tenant, &key, &[1; 32]).await.1.refused(401, "handshake_failed");
    // What was sealed before is read, and goes on.
    let caller = Caller { node: &node, session: Some(&second), key: &key };
    let after = begin(&caller, "held").await;
    caller.run_is(&after, "waiting").await;
    // After a restart the old session has no key to bring any more.
    let node = world.crash().await;
    Caller { node: &node, session: Some(&session), key: &key }.call(Method::GET, "/api/runs").refused(401, "invalid_session").await;
    let caller = Caller { node: &node, session: Some(&second), key: &key };
    for run in [&before, &after] {
        assert_eq!(caller.call(Method::POST, &format!("/api/runs/{run}/signal/go")).json(&json!(1)).send().await.status, 202);
        assert_eq!(caller.run_is(run, "completed").await["result"]["body"]["came"], "canaryreply");
    }
    assert_eq!(found_in(&world).await, [] as [&str; 0]);
    // The first tenant's session is no administrator's affair of theirs: rotating takes a scope.
    let (_, own) = handshake(&node, &super::sessions::tenant(&node).await, KEY, &[5; 32]).await;
    assert_eq!(own.status, 200);
    let scoped = world.key_with(&["FLOWS:READ"]).await;
    let owner = super::sessions::tenant(&node).await;
    rotate(&node, &owner, &scoped, &[5; 32], &[6; 32]).await.refused(403, "missing_scope");
    assert_eq!(rotate(&node, &owner, KEY, &[5; 32], &[6; 32]).await.status, 200);
    handshake(&node, &owner, KEY, &[5; 32]).await.1.refused(401, "handshake_failed");
}

async fn a_server_with_older_keys_stops_nobody(world: Arc<World>) {
    if world.kind == Kind::Sqlite {
        return; // One server works on a file.
    }
    let (first, second) = (world.node(), world.start().await);
    let (tenant, key) = tenant(&first, true).await;
    let begun = handshake(&first, &tenant, &key, &[1; 32]).await.1.json()["session"].as_str().unwrap().to_owned();
    // The second has the keys, too; then the first replaces them.
    Caller { node: &second, session: Some(&begun), key: &key }.call(Method::GET, "/api/runs").ok().await;
    let rotated = rotate(&first, &tenant, &key, &[1; 32], &[2; 32]).await.json()["session"].as_str().unwrap().to_owned();
    let later = dispatch::clock::Clock::system().now().after(std::time::Duration::from_millis(1_500)).to_string();
    let job = json!({ "name": "x", "callback": { "url": world.sink.url("/sealed"), "method": "POST" }, "run_at": later });
    let by_key = Caller { node: &first, session: None, key: &key };
    let sealed = by_key.call(Method::POST, "/v1/jobs").json(&job).ok().await["id"].as_str().unwrap().to_owned();
    first.kill().await;
    // Everybody else's go on, and this one lies until its key comes.
    let open = json!({ "name": "x", "callback": { "url": world.sink.url("/open"), "method": "POST" }, "run_at": later });
    let open = second.post("/v1/jobs").json(&open).ok().await["id"].as_str().unwrap().to_owned();
    until(&second, &format!("/v1/jobs/{open}"), |job| job["state"] == "completed").await;
    assert!(world.sink.seen("/sealed").is_empty());
    let caller = Caller { node: &second, session: Some(&rotated), key: &key };
    caller.call(Method::GET, "/api/runs").ok().await;
    world.sink.reached("/sealed", 1).await;
    let by_key = Caller { node: &second, session: None, key: &key };
    assert_eq!(by_key.call(Method::GET, &format!("/v1/jobs/{sealed}")).ok().await["queue"], "default");
}

async fn under_the_server_s_key_nothing_is_readable_and_all_moves(world: Arc<World>) {
    let node = world.node();
    let (_, key) = tenant(&node, false).await;
    let caller = Caller { node: &node, session: None, key: &key };
    prepare(&world, &caller).await;
    let held = begin(&caller, "held").await;
    caller.run_is(&held, "waiting").await;
    let node = world.crash().await;
    let caller = Caller { node: &node, session: None, key: &key };
    caller.call(Method::POST, &format!("/api/runs/{held}/signal/go")).json(&json!("canarysignal")).send().await;
    assert_eq!(caller.run_is(&held, "completed").await["result"]["body"]["came"], "canaryreply");
    let events = caller.call(Method::GET, &format!("/api/runs/{held}/events")).ok().await["events"].clone();
    assert!(events.as_array().unwrap().len() > 3);
    assert_eq!(found_in(&world).await, [] as [&str; 0]);
}
