//! Many calls in one step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{begin, register, run, run_is};
use crate::support::app::within;
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(
    a_fan_out_keeps_its_limit_and_its_order,
    what_fails_in_a_fan_out,
    scattered_requests_are_all_made,
    the_first_good_reply_wins_and_the_losers_are_cut_off,
    chunks_and_sums,
    over_is_an_expression_as_in_when,
    a_fan_out_over_a_crash,
    many_elements_wait_as_one,
    a_retry_does_not_wait_for_its_siblings,
    a_retry_that_is_due_comes_before_elements_that_have_not_begun
);

async fn a_fan_out_keeps_its_limit_and_its_order(world: Arc<World>) {
    let node = world.node();
    // A server that counts how many are with it at once.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, peak) = (now.clone(), most.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (count, peak) = (count.clone(), peak.clone());
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(read) = stream.read(&mut buffer).await {
                    if read == 0 {
                        return;
                    }
                    peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(15)).await;
                    count.fetch_sub(1, Ordering::SeqCst);
                    let path = String::from_utf8_lossy(&buffer[..read]).split(' ').nth(1).unwrap_or_default().to_owned();
                    let body = json!({ "path": path }).to_string();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let step = json!({
        "strategy": { "type": "fan_out", "over": "{{ trigger.body.ids }}", "concurrency": 5, "as": "order" },
        "request": { "url": format!("http://{address}/orders/{{{{ order.id }}}}/{{{{ index }}}}") },
    });
    register(&node, "fans-out", json!({ "each": step })).await;
    let ids: Vec<Value> = (0..20).map(|id| json!({ "id": format!("o{id}") })).collect();
    let view = run(&node, "fans-out", &json!({ "ids": ids })).await.json();
    assert_eq!(view["status"], "completed", "{view}");
    let items = view["steps"]["each"]["items"].as_array().unwrap();
    let paths: Vec<&str> = items.iter().map(|item| item["response"]["body"]["path"].as_str().unwrap()).collect();
    let wanted: Vec<String> = (0..20).map(|id| format!("/orders/o{id}/{id}")).collect();
    assert_eq!(paths, wanted);
    assert_eq!((items[0]["status"].clone(), most.load(Ordering::SeqCst)), (json!(200), 5), "five at once, and never six");
    let none = run(&node, "fans-out", &json!({ "ids": [] })).await.json();
    assert_eq!((&none["status"], &none["steps"]["each"]["items"]), (&json!("completed"), &json!([])));
    let wrong = run(&node, "fans-out", &json!({ "ids": { "a": 1 } })).await.json();
    assert_eq!(wrong["code"], "over_not_a_list");
}

async fn what_fails_in_a_fan_out(world: Arc<World>) {
    let node = world.node();
    let each = |on_error: &str| {
        json!({ "each": {
            "strategy": { "type": "fan_out", "over": "{{ trigger.body }}", "concurrency": 1, "on_error": on_error },
            "request": { "method": "POST", "url": world.sink.url("/{{ item }}") }, "retry": { "on": [500], "max": 1, "delay": "1ms" },
        } })
    };
    register(&node, "stops", each("fail")).await;
    register(&node, "goes-on", each("continue")).await;
    world.sink.on("/b", [Reply::status(500, json!({}))]);
    let failed = run(&node, "stops", &json!(["a", "b", "c"])).await.json();
    assert!(failed["error"].as_str().unwrap().starts_with("element 1: "), "{failed}");
    assert_eq!((world.sink.seen("/a").len(), world.sink.seen("/b").len(), world.sink.seen("/c").len()), (1, 2, 0));
    let view = run(&node, "goes-on", &json!(["a", "b", "c"])).await.json();
    let items = &view["steps"]["each"]["items"];
    assert_eq!((&items[0]["status"], &items[1]["error"]["code"], &items[2]["status"]), (&json!(200), &json!("http_status"), &json!(200)));
    let keys: Vec<String> = world.sink.seen("/b")[2..].iter().map(|seen| seen.header("idempotency-key").to_owned()).collect();
    assert!(keys[0].ends_with("/each/1") && keys[0] == keys[1], "{keys:?}");
    let too_many: Vec<u32> = (0..10_001).collect();
    assert_eq!(run(&node, "stops", &json!(too_many)).await.json()["code"], "too_many_elements");
}

async fn scattered_requests_are_all_made(world: Arc<World>) {
    let node = world.node();
    let request = |path: &str| json!({ "url": world.sink.url(path) });
    let named = json!({ "strategy": { "type": "scatter", "requests": { "one": request("/one"), "two": request("/two") } } });
    let listed = json!({ "strategy": { "type": "scatter", "requests": [request("/three")] } });
    register(&node, "scatters", json!({ "named": named, "listed": listed })).await;
    world.sink.on("/one", [Reply::json(json!(1))]);
    world.sink.on("/two", [Reply::json(json!(2))]);
    let view = run(&node, "scatters", &json!({})).await.json();
    let items = &view["steps"]["named"]["items"];
    assert_eq!((&items["one"]["response"]["body"], &items["two"]["response"]["body"]), (&json!(1), &json!(2)), "{view}");
    assert_eq!(view["steps"]["listed"]["items"][0]["status"], 200);
}

async fn over_is_an_expression_as_in_when(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/list", [Reply::json(json!({ "items": [{ "amount": 2 }, { "amount": 3 }] }))]);
    let each = |over: Value| {
        json!({
            "after": ["get"], "strategy": { "type": "fan_out", "over": over, "concurrency": 5 },
            "request": { "method": "POST", "url": world.sink.url("/echo"), "body": { "n": { "expr": "item.amount" }, "kept": { "expr": "x", "more": 1 } } },
        })
    };
    let total = json!({
        "after": ["get"],
        "strategy": {
            "type": "reduce", "over": "steps.get.response.body.items", "initial": 0, "lang": "lua",
            "expr": "return acc + result.amount + result.body.amount + result.status",
        },
        "request": { "method": "POST", "url": world.sink.url("/priced") },
    });
    world.sink.on("/priced", [Reply::json(json!({ "amount": 1, "status": 7 })), Reply::json(json!({ "amount": 10 }))]);
    let steps = json!({
        "get": super::get(&world, "/list"),
        "path": each(json!("steps.get.response.body.items")),
        "lua": each(json!("return { steps.get.response.body.items[2] }")),
        "block": each(json!({ "expr": "steps.get.response.body.items" })),
        "total": total,
    });
    register(&node, "overs", steps).await;
    let view = run(&node, "overs", &json!({})).await.json();
    assert_eq!(view["status"], "completed", "{view}");
    let counts = ["path", "lua", "block"].map(|step| view["steps"][step]["items"].as_array().unwrap().len());
    assert_eq!(counts, [2, 1, 2], "{view}");
    let sent: Vec<Value> = world.sink.seen("/echo").iter().map(|seen| seen.json()).collect();
    assert!(sent.iter().all(|body| body["n"].is_number() && body["kept"] == json!({ "expr": "x", "more": 1 })), "{sent:?}");
    assert_eq!(view["steps"]["total"]["result"], 422, "the reply's own status wins over the body's: {view}");
}

/// A server that takes requests and never answers; it tells how many callers hung up.
async fn silent() -> (std::net::SocketAddr, watch::Receiver<(usize, usize)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = watch::channel((0, 0));
    let tell = Arc::new(tell);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut came = false;
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if !std::mem::replace(&mut came, true) {
                        tell.send_modify(|(came, _)| *came += 1);
                    }
                }
                tell.send_modify(|(_, gone)| *gone += 1);
            });
        }
    });
    (address, told)
}

async fn the_first_good_reply_wins_and_the_losers_are_cut_off(world: Arc<World>) {
    let node = world.node();
    let (address, mut callers) = silent().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/winner", [Reply::Gate(gate.clone())]);
    let mut requests: Vec<Value> = (0..4).map(|index| json!({ "url": format!("http://{address}/{index}") })).collect();
    requests.push(json!({ "url": world.sink.url("/winner") }));
    let requests: serde_json::Map<String, Value> =
        ["a", "b", "c", "d", "winner"].iter().map(|name| (*name).to_owned()).zip(requests).collect();
    register(&node, "races", json!({ "race": { "strategy": { "type": "race", "requests": requests } } })).await;
    let id = begin(&node, "races", &json!({})).await;
    within(callers.wait_for(|(came, _)| *came == 4)).await.unwrap();
    world.sink.reached("/winner", 1).await;
    let won = dispatch::clock::Clock::system().instant();
    gate.notify_one();
    within(callers.wait_for(|(_, gone)| *gone == 4)).await.unwrap();
    assert!(won.elapsed() < Duration::from_secs(1), "four connections were closed within a second, not in {:?}", won.elapsed());
    let view = run_is(&node, &id, "completed").await;
    let race = &view["steps"]["race"];
    assert_eq!((&race["winner"], &race["response"]["body"]), (&json!("winner"), &json!({ "ok": true })), "{view}");
    let lost = json!({ "lost": { "strategy": { "type": "race", "requests": [{ "url": world.sink.url("/bad") }, { "url": world.sink.url("/bad") }] } } });
    world.sink.on("/bad", [Reply::status(404, json!({}))]);
    register(&node, "loses", lost).await;
    assert_eq!(run(&node, "loses", &json!({})).await.json()["code"], "race_lost");
}

async fn chunks_and_sums(world: Arc<World>) {
    let node = world.node();
    let steps = json!({
        "chunks": {
            "strategy": { "type": "batch", "over": "{{ trigger.body }}", "size": 2 },
            "request": { "method": "POST", "url": world.sink.url("/chunk"), "body": "{{ batch }}" },
        },
        "lua": { "strategy": { "type": "reduce", "over": "{{ trigger.body }}", "initial": 10, "lang": "lua", "expr": "acc + item * index" } },
        "asked": {
            "strategy": { "type": "reduce", "over": "{{ trigger.body }}", "initial": [], "lang": "lua", "expr": "acc[#acc + 1] = result.body.n; return acc" },
            "request": { "url": world.sink.url("/n?item={{ item }}") },
        },
    });
    register(&node, "chunks", steps).await;
    world.sink.on("/n", [Reply::json(json!({ "n": "a" })), Reply::json(json!({ "n": "b" })), Reply::json(json!({ "n": "c" }))]);
    let view = run(&node, "chunks", &json!([1, 2, 3])).await.json();
    assert_eq!(view["status"], "completed", "{view}");
    let bodies: Vec<Value> = world.sink.seen("/chunk").iter().map(|seen| seen.json()).collect();
    assert_eq!(bodies, [json!([1, 2]), json!([3])]);
    assert_eq!(view["steps"]["chunks"]["items"].as_array().unwrap().len(), 2);
    assert_eq!((&view["steps"]["lua"]["result"], &view["steps"]["asked"]["result"]), (&json!(18), &json!(["a", "b", "c"])), "{view}");
}

async fn a_fan_out_over_a_crash(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/2", [Reply::Gate(gate), Reply::json(json!({}))]);
    let step = json!({
        "strategy": { "type": "fan_out", "over": "{{ trigger.body }}", "concurrency": 1 }, "request": { "method": "POST", "url": world.sink.url("/{{ item }}") },
    });
    register(&node, "crashes", json!({ "each": step })).await;
    let id = begin(&node, "crashes", &json!([0, 1, 2, 3])).await;
    world.sink.reached("/2", 1).await;
    let node = world.crash().await;
    let view = run_is(&node, &id, "completed").await;
    assert_eq!(view["steps"]["each"]["items"].as_array().unwrap().len(), 4, "{view}");
    assert_eq!([0, 1, 2, 3].map(|path| world.sink.seen(&format!("/{path}")).len()), [1, 1, 2, 1]);
}

async fn many_elements_wait_as_one(world: Arc<World>) {
    let node = world.node();
    let mut replies = vec![Reply::later(429, 3); 150];
    replies.push(Reply::json(json!({})));
    world.sink.on("/busy", replies);
    let step = json!({
        "strategy": { "type": "fan_out", "over": "{{ trigger.body }}", "concurrency": 50 }, "retry": { "max": 1 },
        "request": { "method": "POST", "url": world.sink.url("/busy") },
    });
    register(&node, "busy", json!({ "each": step })).await;
    let all: Vec<u32> = (0..150).collect();
    let id = begin(&node, "busy", &json!(all)).await;
    let view = run_is(&node, &id, "completed").await;
    assert_eq!(view["steps"]["each"]["items"].as_array().unwrap().len(), 150);
    assert_eq!(world.sink.seen("/busy").len(), 300);
    let empty = json!({ "none": { "strategy": { "type": "fan_out", "over": { "expr": "local none = {}; return none", "lang": "lua" } }, "request": { "url": world.sink.url("/x") } } });
    register(&node, "empty", empty).await;
    assert_eq!(run(&node, "empty", &json!({})).await.json()["steps"]["none"]["items"], json!([]));
}

async fn a_retry_does_not_wait_for_its_siblings(world: Arc<World>) {
    let node = world.node();
    let retry = json!({ "on": [503], "max": 3, "delay": "1ms", "jitter": false });
    let again = || [Reply::status(503, json!({})), Reply::json(json!({ "from": "quick" }))];
    world.sink.on("/quick", again());
    world.sink.on("/slow", [Reply::Gate(Arc::default())]);
    let requests = json!({ "quick": { "url": world.sink.url("/quick") }, "slow": { "url": world.sink.url("/slow") } });
    register(&node, "hedges", json!({ "race": { "strategy": { "type": "race", "requests": requests }, "retry": retry } })).await;
    let view = run(&node, "hedges", &json!({})).await.json();
    let race = &view["steps"]["race"];
    assert_eq!((&race["winner"], &race["attempts"], world.sink.seen("/quick").len()), (&json!("quick"), &json!(2), 2), "{view}");
    for (name, strategy) in [
        ("fan-out", json!({ "type": "fan_out", "over": "{{ trigger.body }}", "concurrency": 2 })),
        ("scatter", json!({ "type": "scatter", "over": "{{ trigger.body }}" })),
        ("batch", json!({ "type": "batch", "over": "{{ trigger.body }}", "size": 1, "concurrency": 2 })),
    ] {
        let gate = Arc::new(tokio::sync::Notify::new());
        world.sink.on(&format!("/{name}/0"), again());
        world.sink.on(&format!("/{name}/1"), [Reply::Gate(gate.clone())]);
        let url = world.sink.url(&format!("/{name}/{{{{ index }}}}"));
        register(&node, name, json!({ "each": { "strategy": strategy, "request": { "url": url }, "retry": retry } })).await;
        let id = begin(&node, name, &json!(["a", "b"])).await;
        world.sink.reached(&format!("/{name}/0"), 2).await;
        gate.notify_one();
        let view = run_is(&node, &id, "completed").await;
        assert_eq!(view["steps"]["each"]["items"][0]["response"]["body"], json!({ "from": "quick" }), "{view}");
        assert_eq!(world.sink.seen(&format!("/{name}/1")).len(), 1, "{name}");
    }
}

async fn a_retry_that_is_due_comes_before_elements_that_have_not_begun(world: Arc<World>) {
    let node = world.node();
    let gate = Arc::new(tokio::sync::Notify::new());
    world.sink.on("/0", [Reply::status(503, json!({})), Reply::json(json!({}))]);
    world.sink.on("/1", [Reply::Gate(gate.clone())]);
    let step = json!({
        "strategy": { "type": "fan_out", "over": "{{ trigger.body }}", "concurrency": 1 }, "request": { "url": world.sink.url("/{{ item }}") },
        "retry": { "on": [503], "delay": "1ms", "jitter": false },
    });
    register(&node, "in-turn", json!({ "each": step })).await;
    let id = begin(&node, "in-turn", &json!([0, 1, 2])).await;
    world.sink.reached("/1", 1).await;
    let clock = dispatch::clock::Clock::system();
    let due = clock.now().after(Duration::from_millis(2));
    while clock.now() < due {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    run_is(&node, &id, "completed").await;
    let order = world.sink.all();
    assert_eq!((order.len(), order.last().map(String::as_str)), (4, Some("/2")), "{order:?}");
}
