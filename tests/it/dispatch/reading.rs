//! What is read from elsewhere: sites, search services, repositories.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{flow, refuses, step};
use crate::support::sink::Reply;
use crate::support::world::World;

on_both!(a_site_is_read_page_by_page, robots_are_asked, searches_come_in_one_form, repositories_are_read, wrong_readings_are_refused,);

fn html(body: &str) -> Reply {
    Reply::Answer(
        200,
        vec![("content-type", "text/html; charset=utf-8".into())],
        format!("<html><head><title>T</title></head><body>{body}</body></html>"),
    )
}

async fn a_site_is_read_page_by_page(world: Arc<World>) {
    let node = world.node();
    let sink = &world.sink;
    sink.on("/robots.txt", [Reply::status(404, json!({}))]);
    sink.on(
        "/site/",
        [html("<h1>Home</h1><a href='a#x'>a</a><a href='/site/b'>b</a><a href='http://other.example/'>o</a><a href='/else'>e</a>")],
    );
    sink.on("/site/a", [html("<p>Page <b>a</b></p><a href='/site/deep'>d</a><a href='/site/'>home</a>")]);
    sink.on("/site/b", [Reply::Drop]);
    sink.on("/site/deep", [html("deep")]);
    let crawl = |more: Value| {
        let mut config = json!({ "url": sink.url("/site/"), "includePaths": ["/site/"] });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        flow(json!([step("site", "crawl", config)]))
    };
    let read = node.result(&crawl(json!({ "depth": 1 }))).await["result"].clone();
    let pages: Vec<&str> = read.as_array().unwrap().iter().map(|page| page["content"].as_str().unwrap()).collect();
    assert!(pages.len() == 2 && pages[0].starts_with("# Home") && pages[1].starts_with("Page **a**"), "{read}");
    assert_eq!((&read[0]["title"], &read[0]["status"]), (&json!("T"), &json!(200)));
    assert!(sink.seen("/else").is_empty() && sink.seen("/site/deep").is_empty());
    let read = node.result(&crawl(json!({ "limit": 1 }))).await["result"].clone();
    assert_eq!(read.as_array().unwrap().len(), 1);
    let read = node.result(&crawl(json!({ "format": "html", "excludePaths": ["/site/b"] }))).await["result"].clone();
    assert_eq!(read.as_array().unwrap().len(), 3);
    assert!(read[2]["content"].as_str().unwrap().contains("<title>"));
}

async fn robots_are_asked(world: Arc<World>) {
    let node = world.node();
    let sink = &world.sink;
    let crawl = |path: &str| flow(json!([step("site", "crawl", json!({ "url": sink.url(path) }))]));
    sink.on("/robots.txt", [Reply::text("User-agent: *\nDisallow: /private\n\nUser-agent: dispatch\nDisallow: /secret\n")]);
    sink.on("/private", [html("p <a href='/secret'>s</a>")]);
    assert_eq!(node.result(&crawl("/secret")).await["error"]["code"], "robots_disallow");
    assert_eq!(node.result(&crawl("/private")).await["result"].as_array().unwrap().len(), 1);
    assert!(sink.seen("/secret").is_empty());
    sink.on("/robots.txt", [Reply::status(500, json!({}))]);
    assert_eq!(
        node.result(&crawl("/private")).await["error"]["code"],
        "robots_disallow",
        "a site that cannot say what it allows allows nothing"
    );
}

async fn searches_come_in_one_form(world: Arc<World>) {
    let node = world.node();
    world.sink.on("/searxng/search", [Reply::json(json!({ "results": [
        { "title": "Tea", "url": "https://tea.example/", "content": "hot" }, { "title": "More", "url": "https://more.example/", "content": "" } ] }))]);
    world
        .sink
        .on("/wikipedia/w/api.php", [Reply::json(json!({ "query": { "search": [{ "title": "Tea", "pageid": 7, "snippet": "leaf" }] } }))]);
    let search = async |config: Value| node.result(&flow(json!([step("found", "search", config)]))).await;
    let found = search(json!({ "query": "green tea", "maxResults": 1 })).await;
    assert_eq!(found["result"], json!([{ "snippet": "hot", "title": "Tea", "url": "https://tea.example/" }]), "{found}");
    assert!(world.sink.all().contains(&"/searxng/search?format=json&q=green+tea".to_owned()), "{:?}", world.sink.all());
    let found = search(json!({ "query": "tea", "provider": "wikipedia" })).await;
    assert_eq!(found["result"][0]["url"], "https://en.wikipedia.org/?curid=7");
    assert_eq!(search(json!({ "query": "tea", "provider": "brave" })).await["error"]["code"], "service_not_configured");
    assert_eq!(search(json!({ "query": "{{nothing}}" })).await["error"]["code"], "invalid_search");
}

async fn repositories_are_read(world: Arc<World>) {
    let node = world.node();
    let sink = &world.sink;
    sink.on("/github/repos/ada/tea/contents/docs/a b.md", [Reply::status(404, json!({}))]);
    sink.on(
        "/github/repos/ada/tea/contents/docs/a%20b.md",
        [Reply::json(json!({ "path": "docs/a b.md", "encoding": "base64", "content": "aGVsbG8=" }))],
    );
    sink.on(
        "/github/repos/ada/tea/contents",
        [Reply::json(json!([{ "name": "docs", "path": "docs", "type": "dir", "size": 0, "sha": "x" }]))],
    );
    let read = async |config: Value| node.result(&flow(json!([step("file", "fetch-github", config)]))).await;
    assert_eq!(read(json!({ "repo": "ada/tea", "path": "docs/a b.md", "ref": "v1" })).await["result"], "hello");
    assert_eq!(read(json!({ "repo": "https://github.com/ada/tea.git" })).await["result"][0]["type"], "dir");
    let asked = sink.all();
    assert!(asked.contains(&"/github/repos/ada/tea/contents/docs/a%20b.md?ref=v1".to_owned()), "{asked:?}");
    assert_eq!(sink.seen("/github/repos/ada/tea/contents")[0].header("authorization"), "", "no key, no header");
    assert_eq!(read(json!({ "repo": "ada" })).await["error"]["code"], "invalid_repository");
    assert_eq!(read(json!({ "repo": "ada/tea", "path": "../../user" })).await["error"]["code"], "invalid_url");
}

async fn wrong_readings_are_refused(world: Arc<World>) {
    let node = world.node();
    let wrong: [(&str, Value, &[&str]); 4] = [
        ("crawl", json!({ "url": "http://h/", "limit": 101, "depth": 11 }), &["limit", "depth"]),
        ("crawl", json!({ "url": "{{secrets.x}}" }), &["url"]),
        ("search", json!({ "query": "x", "maxResults": 0 }), &["maxResults"]),
        ("fetch-github", json!({ "repo": "{{" }), &["repo"]),
    ];
    refuses(&node, &wrong).await;
    // The judge of addresses stands before a crawl as before every other call.
    let told = node.result(&flow(json!([step("site", "crawl", json!({ "url": "http://169.254.169.254/" }))]))).await;
    assert_eq!(told["status"], "completed");
    assert_eq!(told["success"], false, "{told}");
}
