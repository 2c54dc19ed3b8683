//! Files that flows make, and the URLs that open them.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};

use super::{flow, refuses, step};
use crate::support::sink::Reply;
use crate::support::world::{KEY, Node, World};

on_both!(
    files_are_kept_and_opened_by_their_urls,
    documents_are_printed,
    a_printing_ends_with_its_step,
    printing_has_a_time_limit,
    what_is_no_file_says_so,
    a_bucket_is_asked_in_its_own_words,
);

async fn made(node: &Node, kind: &str, config: Value) -> Value {
    node.result(&flow(json!([step("file", kind, config)]))).await
}

/// What a file's URL answers; the server's own address stands in it.
async fn opened(node: &Node, url: &str) -> crate::support::call::Answer {
    let path = url.split_once("//").and_then(|(_, rest)| rest.find('/').map(|at| rest[at..].to_owned())).unwrap();
    node.bare(Method::GET, &path).send().await
}

async fn files_are_kept_and_opened_by_their_urls(world: Arc<World>) {
    let node = world.node();
    let config = json!({ "content": "aGVsbG8=", "filename": "../grüß gott.txt", "contentType": "text/html" });
    let file = made(&node, "store-asset", config).await["result"].clone();
    assert_eq!(
        (&file["filename"], &file["size"], &file["contentType"]),
        (&json!("grüß gott.txt"), &json!(5), &json!("text/html")),
        "{file}"
    );
    let url = file["url"].as_str().unwrap();
    let answer = opened(&node, url).await;
    assert_eq!((answer.status, answer.text().as_str(), answer.header("content-type")), (200, "hello", Some("text/html")));
    // Or a part of it.
    let path = url.split_once("//").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..])).unwrap();
    for (range, status, text, told) in [
        ("bytes=1-3", 206, "ell", Some("bytes 1-3/5")),
        ("bytes=3-", 206, "lo", Some("bytes 3-4/5")),
        ("bytes=-2", 206, "lo", Some("bytes 3-4/5")),
        ("bytes=2-99", 206, "llo", Some("bytes 2-4/5")),
        ("bytes=0-0,2-3", 200, "hello", None),
        ("lines=1-2", 200, "hello", None),
        ("bytes=x", 200, "hello", None),
    ] {
        let part = node.bare(Method::GET, path).header("range", range).send().await;
        assert_eq!((part.status, part.text().as_str(), part.header("content-range")), (status, text, told), "{range}");
    }
    let beyond = node.bare(Method::GET, path).header("range", "bytes=5-").refused(416, "range_not_satisfiable").await;
    assert_eq!(beyond.header("content-range"), Some("bytes */5"));
    let newer = node.bare(Method::GET, path).header("range", "bytes=1-3").header("if-range", "\"other\"").send().await;
    assert_eq!((newer.status, newer.text().as_str(), newer.header("accept-ranges")), (200, "hello", Some("bytes")));
    // Nothing in it runs in a browser, and no one keeps it.
    assert!(answer.header("content-security-policy").unwrap().starts_with("sandbox"));
    assert_eq!((answer.header("x-content-type-options"), answer.header("cache-control")), (Some("nosniff"), Some("private, no-store")));
    // From an address; it outlives the server.
    world.sink.on("/report.csv", [Reply::Answer(200, vec![("content-type", "text/csv".into())], "a,b".into())]);
    let public =
        made(&node, "store-asset", json!({ "url": world.sink.url("/report.csv"), "visibility": "public" })).await["result"].clone();
    assert_eq!((&public["filename"], &public["contentType"]), (&json!("report.csv"), &json!("text/csv")));
    let node = world.crash().await;
    let answer = opened(&node, public["url"].as_str().unwrap()).await;
    assert_eq!((answer.text().as_str(), answer.header("cache-control")), ("a,b", Some("public, max-age=3600")));
    // A URL opens its own file only.
    let (id, other) = (file["assetId"].as_str().unwrap(), public["assetId"].as_str().unwrap());
    for wrong in [url.replace(id, other), url.split('?').next().unwrap().to_owned(), format!("{url}x"), url.replace("token=", "token=A")] {
        assert_eq!(opened(&node, &wrong).await.status, 404, "{wrong}");
    }
    let list = node.get("/v1/assets").ok().await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["id"]), (2, &json!(other)));
    assert_eq!(opened(&node, list["data"][1]["url"].as_str().unwrap()).await.text(), "hello");
    let stranger = world.strangers_key().await;
    let path = format!("/v1/assets/{id}");
    node.bare(Method::DELETE, &path).bearer(&stranger).refused(404, "not_found").await;
    node.bare(Method::DELETE, &path).bearer(KEY).ok().await;
    node.bare(Method::DELETE, &path).bearer(KEY).refused(404, "not_found").await;
    assert_eq!(opened(&node, url).await.status, 404);
}

async fn a_printing_ends_with_its_step(world: Arc<World>) {
    let node = world.node();
    // Far more than a second's work.
    let long = "<table><tr><td>word <b>word</b></td></tr></table>".repeat(8_000);
    let mut slow = step("slow", "generate-pdf", json!({ "html": long }));
    slow["timeoutMs"] = json!(1_500);
    let told = node.dispatch(&flow(json!([slow]))).await;
    assert_eq!(told.step("slow")["code"], "step_timeout", "{}", told.step("slow"));
    // Nothing of it goes on, and the next one has the printer.
    for _ in 0..200 {
        if printing() == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(printing(), 0, "a printing goes on");
    assert_eq!(made(&node, "generate-pdf", json!({ "html": "<p>short" })).await["success"], true);
}

async fn printing_has_a_time_limit(world: Arc<World>) {
    world.configure(|config| config.limits.printing.time = std::time::Duration::from_secs(2));
    let node = world.crash().await;
    let long = "<table><tr><td>word <b>word</b></td></tr></table>".repeat(8_000);
    let told = made(&node, "generate-pdf", json!({ "html": long })).await;
    assert_eq!(told["error"]["code"], "print_timeout", "{told}");
    assert_eq!(made(&node, "generate-pdf", json!({ "html": "<p>short" })).await["success"], true);
}

/// Processes of this one that print.
fn printing() -> usize {
    let of_this =
        |status: &str| status.lines().any(|line| line.strip_prefix("PPid:").map(str::trim) == Some(&std::process::id().to_string()));
    let prints = |process: &std::path::Path| {
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        read("cmdline").contains("print-worker") && of_this(&read("status"))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| prints(&entry.path())).count()
}

async fn documents_are_printed(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(json!([
        step("html", "generate-pdf", json!({ "html": "<h1>{{title}}</h1>", "filename": "bill {{n}}" })),
        step(
            "markdown",
            "generate-pdf",
            json!({ "markdown": "# {{title}}", "pdfOptions": { "format": "Letter", "landscape": true, "footer": "end" } })
        ),
        step(
            "template",
            "template",
            json!({ "template": "<ul>{% for i in items %}<li>{{ i }}</li>{% endfor %}</ul>", "outputFormat": "pdf" })
        ),
    ]));
    body["inputs"] = json!({ "title": "Bill", "n": 7, "items": ["a", "b"] });
    let told = node.dispatch(&body).await;
    for (id, name) in [("html", "bill 7.pdf"), ("markdown", "document.pdf"), ("template", "document.pdf")] {
        let file = &told.step(id)["result"];
        assert_eq!((&file["filename"], &file["contentType"]), (&json!(name), &json!("application/pdf")), "{}", told.step(id));
        let answer = opened(&node, file["url"].as_str().unwrap()).await;
        assert!(answer.status == 200 && answer.text().starts_with("%PDF-"), "{id}");
    }
}

async fn what_is_no_file_says_so(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/gone", [Reply::status(404, json!({}))]);
    let deep = "<div>".repeat(1_000);
    for (kind, config, code) in [
        ("store-asset", json!({ "content": "not base64!", "filename": "x" }), "invalid_content"),
        ("store-asset", json!({ "content": "aGk=", "filename": "{{nothing}}" }), "invalid_filename"),
        ("store-asset", json!({ "url": world.sink.url("/gone") }), "http_status"),
        ("store-asset", json!({ "url": "http://169.254.169.254/x" }), "egress_blocked"),
        ("generate-pdf", json!({ "html": deep }), "cannot_print"),
    ] {
        let told = made(&node, kind, config.clone()).await;
        assert_eq!(told["error"]["code"], code, "{config}: {told}");
    }
    let wrong: [(&str, Value, &[&str]); 4] = [
        ("store-asset", json!({}), &["url"]),
        ("store-asset", json!({ "content": "aGk=", "expiresInSeconds": 0 }), &["filename", "expiresInSeconds"]),
        ("generate-pdf", json!({ "html": "a", "markdown": "b" }), &["html"]),
        ("generate-pdf", json!({ "html": "a", "pdfOptions": { "margin": 101 } }), &["pdfOptions/margin"]),
    ];
    refuses(&node, &wrong).await;
}

async fn a_bucket_is_asked_in_its_own_words(world: Arc<World>) {
    world.configure(|config| {
        config.assets = Some("s3://files/dispatch".into());
        // The sink again, below a path of its own.
        let endpoint = config.env["GITHUB_API_URL"].replace("/github", "/s3");
        for (name, value) in [
            ("AWS_ENDPOINT_URL", endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_ACCESS_KEY_ID", "AK"),
            ("AWS_SECRET_ACCESS_KEY", "canary"),
            ("AWS_REGION", "eu-1"),
        ] {
            config.env.insert(name.into(), value.into());
        }
    });
    let node = world.crash().await;
    let file = made(&node, "store-asset", json!({ "content": "aGVsbG8=", "filename": "a.txt" })).await;
    let id = file["result"]["assetId"].as_str().unwrap_or_else(|| panic!("{file}")).to_owned();
    let asked = world.sink.all();
    let path = asked.iter().find(|path| path.contains(&id)).unwrap_or_else(|| panic!("{asked:?}")).clone();
    assert!(path.starts_with("/s3/files/dispatch/tenant_"), "{path}");
    let seen = &world.sink.seen(&path)[0];
    assert_eq!((seen.method.as_str(), seen.body.as_str()), ("PUT", "hello"));
    assert!(seen.header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=AK/"), "{}", seen.header("authorization"));
    let head =
        vec![("etag", "\"1\"".into()), ("last-modified", "Sat, 28 Nov 2026 00:00:00 GMT".into()), ("content-type", "text/plain".into())];
    world.sink.on(&path, [Reply::Answer(200, head, "hello".into())]);
    let answer = opened(&node, file["result"]["url"].as_str().unwrap()).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{}", answer.text());
}
