//! Secrets reach the callee and nobody else: not the stream, not the answers, not the log, not the database.

use std::io::Write;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt;

use super::{ask, ask_with, flow};
use crate::support::sink::Reply;
use crate::support::world::{Kind, PROVIDER_KEY, World};

on_both!(
    secrets_stay_with_the_callee,
    fifty_canaries_are_found_nowhere,
    an_encoded_secret_is_found_as_well,
    a_managed_secret_is_named_by_its_key,
    nothing_runs_without_a_secret_that_cannot_be_opened
);
on_one!(
    Sqlite: a_secret_that_is_missing_stops_the_call,
    secrets_are_for_calls_only,
    a_model_does_not_see_what_a_callee_says_back,
    a_redirect_carries_no_secret_away,
    a_secret_that_is_a_number_leaves_the_answer_readable,
    large_answers_are_redacted_whole,
);

const CANARY: &str = "canary-2f81c0aa-of-the-request";

/// Everything that was logged in this process, at every level.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)).unwrap();
        log
    });
    log.clone()
}

/// A flow that hands the secret out in every way that is allowed, to callees that say it back in every way.
fn body(world: &World) -> Value {
    world.sink.on("/mirror", [Reply::Mirror]);
    world.sink.on("/refuse", [Reply::Answer(403, vec![], format!("no entry with {CANARY}"))]);
    let url = world.sink.url("/mirror");
    let tool = json!({
        "name": "lookup", "description": "Looks.", "toolType": "external", "parametersSchema": { "type": "object" },
        "config": { "url": url, "method": "PUT", "headers": { "authorization": "Bearer {{secrets.token}}" }, "body": { "t": "{{secrets.token}}" } },
    });
    let mut body = flow(json!([
        { "id": "header", "type": "fetch-url", "config": { "url": url, "headers": { "x-key": "{{secrets.token}}" } }, "outputVariable": "header" },
        { "id": "query", "type": "fetch-url", "config": { "url": format!("{url}?key={{{{secrets.token}}}}") } },
        { "id": "body", "type": "api-call", "config": { "url": url, "method": "PUT", "body": { "k": "{{secrets.token}}" } } },
        { "id": "auth", "type": "api-call", "config": { "url": url, "auth": { "type": "bearer", "token": "{{secrets.token}}" } } },
        { "id": "basic", "type": "api-call", "config": { "url": url, "auth": { "type": "basic", "username": "u", "password": "{{secrets.token}}" } } },
        { "id": "refused", "type": "fetch-url", "config": { "url": world.sink.url("/refuse"), "headers": { "x-key": "{{secrets.token}}" } } },
        ask_with("asked", "call lookup {}", json!({ "runtimeTools": [tool] })),
        ask("told", "say {{header}}"),
        ask_with("paused", "call look {}", json!({ "runtimeTools": [super::local("look")] })),
    ]));
    body["secrets"] = json!({ "token": CANARY });
    body
}

/// What must be found nowhere.
fn canaries() -> Vec<String> {
    let basic = base64::engine::general_purpose::STANDARD.encode(format!("u:{CANARY}"));
    vec![CANARY.into(), basic, PROVIDER_KEY.into()]
}

fn clean(what: &str, text: &str) {
    for canary in canaries() {
        assert!(
            !text.contains(&canary),
            "{canary} in {what}: {}",
            &text[text.find(&canary).unwrap().saturating_sub(200)..][..260.min(text.len())]
        );
    }
}

async fn secrets_stay_with_the_callee(world: Arc<World>) {
    let log = log();
    let node = world.node();
    let body = body(&world);
    let paused = node.dispatch(&body).await;
    clean("the stream", &format!("{:?}", paused.frames));
    let seen = world.sink.seen("/mirror");
    assert_eq!((seen[0].header("x-key"), seen[2].json()), (CANARY, json!({ "k": CANARY })), "the callee gets it");
    assert_eq!(seen[3].header("authorization"), format!("Bearer {CANARY}"));
    let run = paused.run();
    stored(&world, "while it is paused").await;
    // The secret outlives a crash: it is sealed, not lost.
    let node = world.crash().await;
    let end = node.resume(&run, json!({ "look": "done" })).await;
    clean("the continuation", &format!("{:?}", end.frames));
    clean("the answer", &node.result(&body).await.to_string());
    for path in ["", "/steps", "/events"] {
        clean(path, &node.get(&format!("/v1/executions/{run}{path}")).ok().await.to_string());
    }
    node.dispatch(&flow(json!([{ "id": "p", "type": "prompt", "config": { "model": "openai/fake-401", "userPrompt": "x" } }]))).await;
    stored(&world, "at the end").await;
    clean("the log", &String::from_utf8_lossy(&log.0.lock()));
    assert!(!log.0.lock().is_empty(), "something was logged");
}

async fn a_managed_secret_is_named_by_its_key(world: Arc<World>) {
    let node = world.node();
    let made = node.post("/v1/secrets").json(&json!({ "key": "crm.key", "value": CANARY, "description": "Of the shop." })).send().await;
    assert_eq!(made.status, 201, "{}", made.text());
    let path = format!("/v1/secrets/{}", made.json()["id"].as_str().unwrap());
    node.post("/v1/secrets").json(&json!({ "key": "later" })).ok().await;
    node.post("/v1/secrets").json(&json!({ "key": "crm.key", "value": "another-value" })).refused(409, "already_exists").await;
    for wrong in [json!({ "key": "a b", "value": CANARY }), json!({ "key": "ab", "value": "short" }), json!({ "key": "a" })] {
        node.post("/v1/secrets").json(&wrong).refused(422, "validation_failed").await;
    }
    let checked = node.post("/v1/secrets/check").json(&json!({ "keys": ["crm.key", "later", "nowhere"] })).ok().await;
    let of = |key: &str, exists: bool, has: bool| json!({ "key": key, "exists": exists, "hasValue": has });
    assert_eq!(checked["data"], json!([of("crm.key", true, true), of("later", true, false), of("nowhere", false, false)]));
    assert_eq!(checked["missing"], json!(["later", "nowhere"]));
    world.sink.on("/mirror", [Reply::Mirror]);
    let url = world.sink.url("/mirror");
    let call = |id: &str, key: &str| json!({ "id": id, "type": "api-call", "config": { "url": url, "method": "PUT", "headers": { "x-key": format!("{{{{secret:{key}}}}}") } } });
    let inner = json!({ "name": "inner", "steps": [call("inner", "crm.key")] });
    let body = flow(json!([
        call("first", "crm.key"),
        { "id": "child", "type": "run-flow", "config": { "flow": inner } },
        call("pending", "later"),
        ask_with("paused", "call look {}", json!({ "runtimeTools": [super::local("look")] })),
        call("second", "crm.key"),
    ]));
    let paused = node.dispatch(&body).await;
    clean("the stream", &format!("{:?}", paused.frames));
    assert_eq!(paused.step("pending")["code"], "secret_missing");
    let keys = || -> Vec<String> { world.sink.seen("/mirror").iter().map(|seen| seen.header("x-key").to_owned()).collect() };
    assert_eq!(keys(), [CANARY, CANARY]);
    stored(&world, "while it is paused").await;
    for told in [node.get("/v1/secrets").ok().await, node.get(&path).ok().await] {
        clean("what is told of it", &told.to_string());
    }
    // A new value holds from the next time the run is taken up; so does none.
    let put = || node.bare(reqwest::Method::PUT, &path).bearer(crate::support::world::KEY);
    let rotated = put().json(&json!({ "value": "canary-of-another-day" })).ok().await;
    assert_eq!((&rotated["version"], &rotated["status"], &rotated["description"]), (&json!(2), &json!("active"), &json!("Of the shop.")));
    let end = node.resume(&paused.run(), json!({ "look": "done" })).await;
    assert_eq!(keys()[2], "canary-of-another-day");
    assert!(!format!("{:?}", end.frames).contains("canary-of-another-day"));
    // The request's own secret of that name comes first.
    let mut own = flow(json!([call("own", "crm.key")]));
    own["secrets"] = json!({ "crm.key": "canary-of-the-request" });
    node.dispatch(&own).await;
    assert_eq!(keys()[3], "canary-of-the-request");
    node.bare(reqwest::Method::DELETE, &path).bearer(crate::support::world::KEY).ok().await;
    assert_eq!(node.dispatch(&flow(json!([call("gone", "crm.key")]))).await.step("gone")["code"], "secret_missing");
    assert_eq!(node.get("/v1/secrets").ok().await["total"], 1);
}

async fn nothing_runs_without_a_secret_that_cannot_be_opened(world: Arc<World>) {
    let node = world.node();
    let made = node.post("/v1/secrets").json(&json!({ "key": "crm.key", "value": CANARY })).ok().await;
    let broken = match world.kind {
        Kind::Sqlite => "update secrets set sealed = x'00' where id = $1",
        Kind::Postgres => "update secrets set sealed = '\\x00' where id = $1",
    };
    assert_eq!(world.meddle(broken, made["id"].as_str().unwrap()).await, 1);
    let call = json!({ "id": "call", "type": "api-call", "config": { "url": world.sink.url("/open"), "headers": { "x-key": "{{secret:crm.key}}" } } });
    // Another server may have the key: the call can be made again, and nothing was begun.
    node.post("/v1/dispatch").json(&flow(json!([call]))).refused(503, "sealed_value_unreadable").await;
    assert_eq!(node.get("/v1/executions").ok().await["data"], json!([]));
    assert!(world.sink.seen("/open").is_empty());
}

/// Looks through all that the database holds.
/// Every file below a folder.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

async fn stored(world: &World, when: &str) {
    if world.kind == Kind::Postgres {
        clean(when, &dump(world).await);
        return;
    }
    for path in files(world.folder()) {
        clean(&format!("{} {when}", path.display()), &String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
    }
}

async fn dump(world: &World) -> String {
    use sqlx::{AssertSqlSafe, Row};
    let mut connection = world.schema().connect().await;
    let tables =
        sqlx::query("select tablename::text from pg_tables where schemaname = current_schema()").fetch_all(&mut connection).await.unwrap();
    let mut text = String::new();
    for table in tables {
        let table: String = table.get(0);
        let rows = sqlx::query(AssertSqlSafe(format!("select t::text from {table} t"))).fetch_all(&mut connection).await.unwrap();
        rows.iter().for_each(|row| text.push_str(row.get::<&str, _>(0)));
    }
    assert!(text.contains("exec") || text.len() > 1_000, "the dump holds the rows");
    text
}

async fn a_secret_that_is_missing_stops_the_call(world: Arc<World>) {
    let node = world.node();
    let url = world.sink.url("/open");
    let places = [
        json!({ "url": format!("{url}?key={{{{secrets.gone}}}}") }),
        json!({ "url": url, "query": { "key": "{{secrets.gone}}" } }),
        json!({ "url": url, "headers": { "authorization": "Bearer {{ secrets.gone }}" } }),
        json!({ "url": url, "headers": { "x-key": "{{ secrets.gone | upper }}" } }),
        json!({ "url": url, "method": "POST", "body": "key {{secrets.gone}}" }),
        json!({ "url": url, "method": "PUT", "body": { "a": [{ "key": "{{secret:gone}}" }] } }),
        json!({ "url": url, "auth": { "type": "bearer", "token": "{{secrets.gone}}" } }),
        json!({ "url": url, "auth": { "type": "basic", "username": "{{secrets.token}}", "password": "{{secrets.gone}}" } }),
        json!({ "url": url, "auth": { "type": "api_key", "token": "{{secrets.gone || secrets.lost}}" } }),
    ];
    for config in places {
        for kind in ["fetch-url", "api-call"] {
            let mut step = json!({ "id": "call", "type": kind, "config": config });
            step["retry"] = json!({ "maxAttempts": 3, "delayMs": 1 });
            let mut body = flow(json!([step, ask("next", "say on")]));
            body["secrets"] = json!({ "token": CANARY });
            let end = node.dispatch(&body).await;
            let failed = end.step("call");
            assert_eq!((&failed["success"], &failed["code"]), (&json!(false), &json!("secret_missing")), "{config}: {failed}");
            assert!(failed["error"].as_str().unwrap().contains("`gone`"), "the message names it: {failed}");
            assert_eq!(end.customs("dispatch.retrying").count(), 0, "trying again brings no secret");
            assert_eq!(end.step("next")["success"], true);
            clean("the stream", &format!("{:?}", end.frames));
        }
    }
    // A poll and a tool are calls as well; the model is told.
    let poll = json!({ "id": "call", "type": "wait-until", "config": { "poll": { "http": { "url": url, "headers": { "x-key": "{{secrets.gone}}" } } } } });
    assert_eq!(node.dispatch(&flow(json!([poll]))).await.step("call")["code"], "secret_missing");
    let mut tool = super::external("pay", &url, "POST");
    tool["config"]["headers"] = json!({ "x-key": "{{secret:gone}}" });
    let told = node.dispatch(&flow(json!([ask_with("p", "call pay {\"amount\": 1}", json!({ "runtimeTools": [tool] }))]))).await;
    let told = &told.one("tool_complete").data;
    assert!(told["success"] == false && told["error"].as_str().unwrap().contains("`gone`"), "{told}");
    assert_eq!(world.sink.seen("/open").len() + world.sink.seen("/open?key=").len(), 0, "nothing went out");
    // What stands in for a missing secret is no fault.
    let header = json!({ "x-key": "{{secrets.gone || secrets.token}}", "x-other": "{{secrets.gone ?? 'none'}}" });
    let mut body = flow(json!([{ "id": "call", "type": "fetch-url", "config": { "url": url, "headers": header } }]));
    body["secrets"] = json!({ "token": CANARY });
    assert_eq!(node.dispatch(&body).await.step("call")["success"], true);
    let seen = &world.sink.seen("/open")[0];
    assert_eq!((seen.header("x-key"), seen.header("x-other")), (CANARY, "none"));
}

async fn secrets_are_for_calls_only(world: Arc<World>) {
    let steps = json!([
        ask("prompt", "say {{secrets.token}}"),
        { "id": "set", "type": "set-variable", "config": { "variableName": "x", "value": { "a": ["{{secrets.token}}"] } } },
        { "id": "send", "type": "send-stream", "config": { "message": "{{secrets.token}}" } },
        { "id": "document", "type": "template", "config": { "template": "x", "inputs": { "t": "{{secrets.token}}" } } },
        { "id": "call", "type": "tool-call", "config": { "tool": super::local("t"), "parameters": { "t": "{{secrets.token}}" } } },
        { "id": "record", "type": "get-record", "config": { "recordId": "{{secrets.token}}" } },
    ]);
    let mut body = flow(steps);
    body["secrets"] = json!({ "token": CANARY });
    let refused = world.node().post("/v1/dispatch").json(&body).refused(422, "validation_failed").await;
    let wanted =
        ["0/config/userPrompt", "1/config/value", "2/config/message", "3/config/inputs", "4/config/parameters", "5/config/recordId"];
    let wanted: Vec<String> = wanted.iter().map(|place| format!("/flow/steps/{place}")).collect();
    assert_eq!(refused.pointers(), wanted);
    clean("the refusal", &refused.text());
    let mut condition = flow(json!([ask("a", "say a")]));
    condition["flow"]["steps"][0]["when"] = json!("secrets.token == 'x'");
    condition["secrets"] = json!({ "token": CANARY });
    world.node().post("/v1/dispatch").json(&condition).refused(422, "validation_failed").await;
}

async fn a_model_does_not_see_what_a_callee_says_back(world: Arc<World>) {
    world.sink.on("/mirror", [Reply::Mirror]);
    let tool = json!({
        "name": "lookup", "description": "Looks.", "toolType": "external", "parametersSchema": { "type": "object" },
        "config": { "url": world.sink.url("/mirror"), "headers": { "x-key": "{{secrets.token}}" } },
    });
    let prompt = json!({ "id": "p", "type": "prompt", "config": { "model": "openai/fake-tools", "userPrompt": "go", "tools": { "runtimeTools": [tool] } } });
    let mut body = flow(json!([prompt]));
    body["secrets"] = json!({ "token": CANARY });
    world.node().dispatch(&body).await;
    let asked = world.asked("fake-tools").await.to_string();
    assert!(asked.contains("x-key"), "the tool's answer was sent: {asked}");
    clean("what the model is sent", &asked);
}

/// The forms in which a debugging service shows what it was sent.
fn disguises(secret: &str) -> Vec<String> {
    let base64 = base64::engine::general_purpose::STANDARD;
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    vec![
        base64.encode(secret),
        url_safe.encode(secret),
        hex.to_uppercase(),
        hex,
        secret.to_uppercase(),
        secret.chars().rev().collect(),
        secret.bytes().map(|byte| if byte == b'?' { "%3f".to_owned() } else { char::from(byte).to_string() }).collect(),
    ]
}

async fn an_encoded_secret_is_found_as_well(world: Arc<World>) {
    let secret = "canary?of-Disguises-81f3";
    let base64 = base64::engine::general_purpose::STANDARD;
    let within = ["Bearer ", "u:", "x"].map(|before| base64.encode(format!("{before}{secret}")));
    let shown = json!({ "shown": disguises(secret), "within": within });
    world.sink.on("/debug", [Reply::json(shown)]);
    let node = world.node();
    let headers = json!({ "authorization": "Bearer {{secrets.token}}" });
    let mut body = flow(json!([super::step("seen", "fetch-url", json!({ "url": world.sink.url("/debug"), "headers": headers }))]));
    body["secrets"] = json!({ "token": secret });
    let end = node.dispatch(&body).await;
    let result = &end.step("seen")["result"];
    assert_eq!(result["shown"], json!(vec!["[redacted]"; disguises(secret).len()]), "{result}");
    let result = node.get(&format!("/v1/executions/{}/steps", end.run())).ok().await;
    let kept = if world.kind == Kind::Postgres {
        dump(&world).await
    } else {
        files(world.folder()).iter().map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
    };
    // Within a longer text, all but the characters that also encode bits of a neighbour.
    let inner = within.iter().map(|text| text.chars().skip(10).take(20).collect::<String>());
    for hidden in disguises(secret).into_iter().chain(inner).chain([secret.to_owned()]) {
        for (what, text) in [("the stream", format!("{:?}", end.frames)), ("the steps", result.to_string()), ("the database", kept.clone())]
        {
            assert!(!text.contains(&hidden), "{hidden} in {what}");
        }
    }
}

async fn a_redirect_carries_no_secret_away(world: Arc<World>) {
    let other = crate::support::sink::Sink::start().await;
    for (status, path) in [(307, "/moved307"), (308, "/moved308")] {
        world.sink.on(path, [Reply::Answer(status, vec![("location", other.url("/stolen"))], String::new())]);
    }
    let call = |id: &str, path: &str, method: &str, body: Value| json!({ "id": id, "type": "api-call", "config": { "url": world.sink.url(path), "method": method, "body": body } });
    let mut body = flow(json!([
        call("text", "/moved307", "POST", json!("pw={{secrets.token}}")),
        call("json", "/moved308", "PUT", json!({ "pw": "{{secrets.token}}" })),
        call("open", "/moved307", "PUT", json!({ "pw": "none" })),
    ]));
    body["secrets"] = json!({ "token": CANARY });
    let end = world.node().dispatch(&body).await;
    for step in ["text", "json"] {
        assert_eq!(end.step(step)["code"], "redirect_refused", "{}", end.step(step));
    }
    assert_eq!(end.step("open")["success"], true);
    let stolen: Vec<Value> = other.seen("/stolen").iter().map(|seen| seen.json()).collect();
    assert_eq!(stolen, [json!({ "pw": "none" })]);
}

async fn a_secret_that_is_a_number_leaves_the_answer_readable(world: Arc<World>) {
    world
        .sink
        .on("/account", [Reply::json(json!({ "account_id": 4_812_345, "status": "open", "limit": 48_123_459, "note": "no 4812345" }))]);
    let headers = json!({ "x-account": "{{secrets.account}}" });
    let mut body = flow(json!([
        super::step("look", "fetch-url", json!({ "url": world.sink.url("/account"), "headers": headers })),
        super::step(
            "next",
            "api-call",
            json!({
            "url": world.sink.url("/next"), "method": "PUT", "body": { "status": "{{look.status}}", "limit": "{{look.limit}}" } })
        ),
    ]));
    body["secrets"] = json!({ "account": "4812345" });
    let end = world.node().dispatch(&body).await;
    let wanted = json!({ "account_id": "[redacted]", "status": "open", "limit": 48_123_459, "note": "no [redacted]" });
    assert_eq!(end.step("look")["result"], wanted);
    assert_eq!(world.sink.seen("/next")[0].json(), json!({ "status": "open", "limit": 48_123_459 }));
}

async fn large_answers_are_redacted_whole(world: Arc<World>) {
    let text = format!("a {CANARY} b ").repeat(30_000);
    world.sink.on("/large", [Reply::text(&text)]);
    let headers = json!({ "x-key": "{{secrets.token}}" });
    let mut body = flow(json!([super::step("seen", "fetch-url", json!({ "url": world.sink.url("/large"), "headers": headers }))]));
    body["secrets"] = json!({ "token": CANARY });
    let end = world.node().dispatch(&body).await;
    assert_eq!(end.step("seen")["result"].as_str().unwrap(), "a [redacted] b ".repeat(30_000));
}

/// Fifty secrets, each in a place of its own, to callees that answer, refuse, mirror, redirect and hang up.
const MANY: usize = 50;

fn canary(number: usize) -> String {
    format!("zq{number:02}-canary-of-many-{:08x}", number * 0x9e37_79b9)
}

fn one_of_many(world: &World, number: usize) -> Value {
    let (id, secret) = (format!("s{number}"), format!("{{{{secrets.c{number}}}}}"));
    let path = format!("/many{number}");
    let text = canary(number);
    let reply = match number / 10 {
        0 => Reply::Mirror,
        1 => Reply::Answer(403, vec![("x-denied", text.clone())], format!("no entry with {text}")),
        2 => Reply::Answer(500, vec![("content-type", "application/json".into())], json!({ "error": { "key": text } }).to_string()),
        3 => Reply::Answer(302, vec![("location", format!("/{text}?key={text}"))], String::new()),
        _ => Reply::Drop,
    };
    world.sink.on(&path, [reply]);
    let url = world.sink.url(&path);
    let call = |config: Value| json!({ "id": id, "type": "api-call", "after": [], "config": config, "outputVariable": id });
    let tool = |config: Value| {
        let tool = json!({ "name": "act", "description": "Acts.", "toolType": "external", "parametersSchema": { "type": "object" }, "config": config });
        let mut step = ask_with(&id, "call act {}", json!({ "runtimeTools": [tool] }));
        step["after"] = json!([]);
        step
    };
    match number % 10 {
        0 => call(json!({ "url": url, "headers": { "x-key": secret } })),
        1 => call(json!({ "url": url, "query": { "key": secret } })),
        2 => call(json!({ "url": url, "method": "PUT", "body": { "deep": [{ "key": secret }] } })),
        3 => call(json!({ "url": url, "method": "POST", "body": format!("key={secret}") })),
        4 => call(json!({ "url": url, "auth": { "type": "bearer", "token": secret } })),
        5 => call(json!({ "url": url, "auth": { "type": "basic", "username": "u", "password": secret } })),
        6 => call(json!({ "url": url, "auth": { "type": "api_key", "token": secret } })),
        7 => tool(json!({ "url": url, "method": "PUT", "headers": { "authorization": format!("Bearer {secret}") } })),
        8 => tool(json!({ "url": url, "method": "PUT", "body": { "key": secret } })),
        _ => json!({ "id": id, "type": "wait-until", "after": [], "config": {
            "poll": { "http": { "url": url, "headers": { "x-key": secret } }, "maxPolls": 1 }, "timeoutMs": 300 } }),
    }
}

/// Fails where any of the fifty is found, as it is or in a common disguise.
fn none_of_many(what: &str, text: &str) {
    let base64 = base64::engine::general_purpose::STANDARD;
    for number in 0..MANY {
        let canary = canary(number);
        let hex: String = canary.bytes().map(|byte| format!("{byte:02x}")).collect();
        for form in [canary.clone(), base64.encode(&canary), base64.encode(format!("u:{canary}")), hex] {
            let found = text.find(&form).map(|at| text[at.saturating_sub(120)..].chars().take(200).collect::<String>());
            assert!(found.is_none(), "canary {number} in {what}: {}", found.unwrap_or_default());
        }
    }
}

async fn fifty_canaries_are_found_nowhere(world: Arc<World>) {
    let log = log();
    let node = world.node();
    let mut body = flow((0..MANY).map(|number| one_of_many(&world, number)).collect());
    body["flow"]["maxParallel"] = json!(10);
    body["secrets"] = (0..MANY).map(|number| (format!("c{number}"), json!(canary(number)))).collect();
    let whole = node.dispatch(&body).await;
    none_of_many("the stream", &format!("{:?}", whole.frames));
    let run = whole.run();
    for path in ["", "/steps", "/events"] {
        none_of_many(path, &node.get(&format!("/v1/executions/{run}{path}")).ok().await.to_string());
    }
    // They went out: the callees were sent all but those that a step could not say.
    let told = (0..MANY)
        .filter(|number| world.sink.seen(&format!("/many{number}")).iter().any(|seen| format!("{seen:?}").contains(&canary(*number))))
        .count();
    let named = (0..MANY).filter(|number| number % 10 != 5 && number % 10 != 1).count();
    assert!(told >= named, "{told} of {MANY} arrived");
    for path in ["/metrics", "/v1/openapi.json"] {
        none_of_many(path, &node.get(path).send().await.text());
    }
    let refused = node
        .post("/v1/dispatch")
        .json(&json!({ "flow": { "name": "x", "steps": [{ "id": "a" }] }, "secrets": body["secrets"] }))
        .send()
        .await;
    none_of_many("a refusal", &refused.text());
    if world.kind == Kind::Postgres {
        none_of_many("the database", &dump(&world).await);
    } else {
        for path in files(world.folder()) {
            none_of_many(&path.display().to_string(), &String::from_utf8_lossy(&std::fs::read(&path).unwrap()));
        }
    }
    none_of_many("the log", &String::from_utf8_lossy(&log.0.lock()));
}
