//! How replies of services are read, and how calls with missing values are refused.

use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::Method;
use serde_json::{Value, json};

use super::{call, get, post, register, run};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(
    json_is_read_as_services_write_it,
    invalid_json_fails_its_step,
    replies_to_undo_calls_are_not_checked,
    a_number_that_is_a_secret_leaves_the_rest_of_its_reply,
    repeated_headers_all_count,
    gzip_is_read_whole_or_fails,
    a_missing_value_calls_no_collection,
    values_are_written_alike_in_every_part_of_a_call
);

fn said(content_type: &str, body: &[u8]) -> Reply {
    Reply::Bytes(200, vec![("content-type", content_type.into())], body.to_vec())
}

/// Runs a step that gets this reply and one that forwards what it read. Returns the answer and the forwarded value.
async fn sent_on(world: &World, name: &str, reply: Reply) -> (Value, Option<Value>) {
    let node = world.node();
    let (path, next) = (format!("/{name}"), format!("/{name}-next"));
    world.sink.on(&path, [reply]);
    let send = post(world, &next, &json!({ "body": "{{ steps.look.response.body }}" }), &["look"]);
    register(&node, name, json!({ "look": get(world, &path), "send": send })).await;
    let answer = run(&node, name, &json!({})).await.json();
    let sent = world.sink.seen(&next).first().map(|seen| seen.json()["body"].clone());
    (answer, sent)
}

async fn json_is_read_as_services_write_it(world: Arc<World>) {
    let cases: [(&str, &str, &[u8], Value); 12] = [
        ("half-pair", "application/json", br#"{"id": "o-7", "note": "thanks \ud83d"}"#, json!({ "id": "o-7", "note": "thanks \u{fffd}" })),
        ("byte-order-mark", "application/json; charset=utf-8", b"\xef\xbb\xbf{\"id\": \"o-7\"}", json!({ "id": "o-7" })),
        ("latin", "application/json; charset=iso-8859-1", b"{\"name\": \"caf\xe9\"}", json!({ "name": "café" })),
        ("text", "text/plain; charset=windows-1252", b"caf\xe9 \x96 5 \x80", json!("café – 5 €")),
        ("picture", "image/png; charset=iso-8859-1", b"\x89\xff", json!("if8=")),
        ("blank", "application/json", b" \r\n", Value::Null),
        ("long-integer", "application/json", b"[123456789012345678901234567890, 7]", json!(["123456789012345678901234567890", 7])),
        ("long-decimal", "application/json", b"{\"sum\": 12345678901234567.89}", json!({ "sum": "12345678901234567.89" })),
        ("fraction", "application/json", b"0.30000000000000004", json!(0.300_000_000_000_000_04)),
        ("many", "application/x-ndjson", b"{\"a\": 1}\n{\"a\": 2}\n", json!("{\"a\": 1}\n{\"a\": 2}\n")),
        ("guessed", "text/plain", b"{\"a\": 1}", json!({ "a": 1 })),
        ("braces", "text/plain", b"{a}", json!("{a}")),
    ];
    for (name, content_type, body, wanted) in cases {
        let (view, sent) = sent_on(&world, name, said(content_type, body)).await;
        assert_eq!((&view["status"], sent), (&json!("completed"), Some(wanted)), "{name}: {view}");
    }
}

async fn invalid_json_fails_its_step(world: Arc<World>) {
    let deep = format!("{{\"id\":\"o-7\",\"d\":{}{}}}", "[".repeat(65), "]".repeat(65));
    let deepest = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let cases: [(&str, &[u8], &str); 11] = [
        ("nan", br#"{"id": "o-7", "score": NaN}"#, "column 24"),
        ("page", b"<html>login</html>", "<html>login"),
        ("cut", br#"{"id": "o-7", "x": "#, "EOF"),
        ("comma", br#"{"id": "o-7",}"#, "trailing comma"),
        ("two", br#"{"id":"o-7"}{"id":"o-8"}"#, "column 13"),
        ("big", br#"{"id":"o-7","n":1e999}"#, "out of range"),
        ("quotes", b"{'id': 'o-7'}", "column 2"),
        ("latin", b"{\"id\": \"caf\xe9\"}", "charset"),
        ("brotli", b"\x1b\x03\x00\xf8", "charset"),
        ("deep", deep.as_bytes(), "64 levels"),
        ("deepest", deepest.as_bytes(), "64 levels"),
    ];
    for (name, body, why) in cases {
        let (failed, sent) = sent_on(&world, &format!("wrong-{name}"), said("application/json", body)).await;
        let code = if name.starts_with("deep") { "value_too_deep" } else { "reply_not_json" };
        assert_eq!((&failed["code"], &failed["details"]["step"], sent), (&json!(code), &json!("look"), None), "{name}: {failed}");
        let message = failed["error"].as_str().unwrap();
        assert!(message.contains(why) && message.contains("status 200"), "{name}: {message}");
    }
    // JSON within the limit that exceeds it within the run's values fails, too.
    let high = format!("{}{}", "[".repeat(64), "]".repeat(64));
    assert_eq!(sent_on(&world, "wrong-high", said("application/json", high.as_bytes())).await.0["code"], "value_too_deep");
}

async fn replies_to_undo_calls_are_not_checked(world: Arc<World>) {
    let node = world.node();
    let mut first = post(&world, "/made", &json!({}), &[]);
    first["compensate"] = json!({ "method": "POST", "url": world.sink.url("/unmade") });
    let second = post(&world, "/refused", &json!({}), &["first"]);
    register(&node, "undone", json!({ "first": first, "second": second })).await;
    world.sink.on("/refused", [Reply::status(422, json!({}))]);
    world.sink.on("/unmade", [said("application/json", b"OK")]);
    let failed = run(&node, "undone", &json!({})).await.json();
    let view = node.get(&format!("/api/runs/{}", failed["details"]["run_id"].as_str().unwrap())).ok().await;
    assert_eq!((&view["compensation"], world.sink.seen("/unmade").len()), (&json!("completed"), 1), "{view}");
}

async fn a_number_that_is_a_secret_leaves_the_rest_of_its_reply(world: Arc<World>) {
    let node = world.node();
    call(&node, Method::PUT, "/api/secrets/ACCOUNT_ID").json(&json!({ "value": "4812345" })).ok().await;
    let mut look = get(&world, "/accounts/{{ secrets.ACCOUNT_ID }}");
    look["request"]["headers"] = json!({ "x-account": "{{ secrets.ACCOUNT_ID }}" });
    let body = json!({ "status": "{{ steps.look.response.body.status }}", "limit": "{{ steps.look.response.body.limit }}" });
    let mut tell = post(&world, "/tell", &body, &["look"]);
    tell["request"]["body"]["account"] = json!("{{ secrets.ACCOUNT_ID }}");
    register(&node, "number", json!({ "look": look, "tell": tell })).await;
    let said = json!({ "account_id": 4_812_345, "status": "open", "limit": 48_123_459, "text": "account 4812345" });
    world.sink.on("/accounts/4812345", [Reply::json(said)]);
    let view = run(&node, "number", &json!({})).await.json();
    let sent = world.sink.seen("/tell")[0].json();
    assert_eq!(sent, json!({ "status": "open", "limit": 48_123_459, "account": "4812345" }), "{view}");
    let wanted = json!({ "account_id": "[redacted]", "status": "open", "limit": 48_123_459, "text": "account [redacted]" });
    assert_eq!(view["steps"]["look"]["response"]["body"], wanted, "{view}");
    let events = node.get(&format!("/api/runs/{}/events", view["id"].as_str().unwrap())).ok().await.to_string();
    assert!(!events.contains("4812345\""), "{events}");
}

async fn repeated_headers_all_count(world: Arc<World>) {
    let node = world.node();
    let lines = [
        ("dispatched-skip", "b"),
        ("dispatched-skip", "c"),
        ("dispatched-log", "one, with a comma"),
        ("dispatched-log", "two"),
        ("link", "</p?page=2>; rel=\"next\""),
        ("link", "</p?page=9>; rel=\"last\""),
        ("set-cookie", "session=canary"),
    ];
    let lines = lines.map(|(name, line)| (name, line.to_owned())).to_vec();
    world.sink.on("/a", [Reply::Answer(200, lines, "{}".into())]);
    let told = json!({ "link": "{{ steps.a.response.headers.link }}", "cookie": "{{ steps.a.response.headers.set-cookie }}" });
    let steps = json!({
        "a": get(&world, "/a"), "b": post(&world, "/b", &json!({}), &["a"]), "c": post(&world, "/c", &json!({}), &["a"]),
        "d": post(&world, "/d", &told, &["b", "c"]),
    });
    register(&node, "lines", steps).await;
    let view = run(&node, "lines", &json!({})).await.json();
    assert_eq!((&view["steps"]["b"]["status"], &view["steps"]["c"]["status"]), (&json!("skipped"), &json!("skipped")), "{view}");
    let wanted = json!({ "link": "</p?page=2>; rel=\"next\", </p?page=9>; rel=\"last\"", "cookie": null });
    assert_eq!(world.sink.seen("/d")[0].json(), wanted);
    let events = node.get(&format!("/api/runs/{}/events", view["id"].as_str().unwrap())).ok().await;
    let directive = events["events"].as_array().unwrap().iter().find(|event| event["type"] == "step.directive").unwrap().clone();
    assert_eq!(directive["data"], json!({ "skip": ["b", "c"], "log": "one, with a comma\ntwo" }));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn gzip_is_read_whole_or_fails(world: Arc<World>) {
    let packed = |content_type: &str, body: Vec<u8>| {
        Reply::Bytes(200, vec![("content-type", content_type.into()), ("content-encoding", "gzip".into())], body)
    };
    let list = json!((0..100).map(|id| json!({ "id": id })).collect::<Vec<_>>());
    let whole = list.to_string();
    let (first, second) = whole.as_bytes().split_at(700);
    let members = [gzip(first), gzip(second)].concat();
    let cut = members[..members.len() - 20].to_vec();
    assert_eq!(sent_on(&world, "members", packed("application/json", members)).await.1, Some(list));
    let lines = [gzip(b"one\n"), gzip(b"two\n")].concat();
    assert_eq!(sent_on(&world, "lines-in-members", packed("text/plain", lines)).await.1, Some(json!("one\ntwo\n")));
    let (failed, sent) = sent_on(&world, "cut-members", packed("application/json", cut)).await;
    assert_eq!((&failed["code"], sent), (&json!("connection_cut"), None), "{failed}");
    let (failed, _) = sent_on(&world, "bomb", packed("text/plain", gzip(&vec![b'x'; 6 * 1024 * 1024]))).await;
    assert_eq!(failed["code"], "response_too_large", "{failed}");
}

async fn a_missing_value_calls_no_collection(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/users", [Reply::json(json!({ "users": [], "empty": "" }))]);
    for (index, value) in ["steps.look.response.body.users[0].id", "steps.look.response.body.empty"].iter().enumerate() {
        for method in ["DELETE", "PUT", "PATCH", "POST", "GET"] {
            let mut act = get(&world, &format!("/users/{{{{ {value} }}}}"));
            act["request"]["method"] = json!(method);
            act["after"] = json!(["look"]);
            let name = format!("missing-{index}-{}", method.to_lowercase());
            register(&node, &name, json!({ "look": get(&world, "/users"), "act": act })).await;
            let before = world.sink.seen("/users/").len();
            let view = run(&node, &name, &json!({})).await.json();
            if method == "GET" {
                assert_eq!((&view["status"], world.sink.seen("/users/").len()), (&json!("completed"), before + 1), "{view}");
                continue;
            }
            assert_eq!((&view["code"], world.sink.seen("/users/").len()), (&json!("invalid_url"), before), "{method}: {view}");
            assert!(view["error"].as_str().unwrap().contains(value), "the message names the placeholder: {view}");
        }
    }
}

async fn values_are_written_alike_in_every_part_of_a_call(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/page", [Reply::Answer(200, vec![("content-type", "application/json".into())], "{\"page\": 100.0}".into())]);
    let mut next = get(&world, "/u/{{ steps.look.response.body.page }}#part-{{ steps.look.response.body.page }}");
    next["after"] = json!(["look"]);
    next["request"]["query"] = json!({ "p": "{{ steps.look.response.body.page }}", "t": "n{{ steps.look.response.body.page }}", "own": 7 });
    next["request"]["headers"] = json!({ "x-page": "{{ steps.look.response.body.page }}" });
    let mut more = get(&world, "/more?k=1#part");
    more["request"]["query"] = json!({ "q": "x" });
    register(&node, "alike", json!({ "look": get(&world, "/page"), "next": next, "more": more })).await;
    let view = run(&node, "alike", &json!({})).await.json();
    assert_eq!(view["status"], "completed", "{view}");
    let mut asked = world.sink.all();
    asked.sort();
    assert_eq!(asked, ["/more?k=1&q=x", "/page", "/u/100?p=100&t=n100&own=7"]);
    assert_eq!(world.sink.seen("/u/100")[0].header("x-page"), "100");
}
