//! Texts as vectors: made, kept, found.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{flow, refuses, set, step};
use crate::support::world::{KEY, World};

on_both!(
    texts_are_found_by_what_they_say,
    a_store_that_is_repeated_keeps_nothing_twice,
    a_provider_is_asked_and_paid,
    what_is_kept_is_forgotten_when_it_is_asked,
    what_is_no_vector_says_so,
);

const TEXTS: [&str; 3] = ["Tea is drunk hot in the morning", "A red bicycle stands in the yard", "The sea is cold in winter"];

fn kept(collection: &str) -> Value {
    json!([
        set("texts", json!(TEXTS)),
        step("vectors", "generate-embedding", json!({ "inputSource": "texts" })),
        step(
            "kept",
            "store-vector",
            json!({ "vectorsSource": "vectors", "textsSource": "texts", "destination": collection, "metadata": { "of": "{{who}}" } })
        ),
    ])
}

async fn texts_are_found_by_what_they_say(world: Arc<World>) {
    let node = world.node();
    let mut body = flow(kept("notes of {{who}}"));
    body["inputs"] = json!({ "who": "Ada" });
    let told = node.result(&body).await;
    assert_eq!((&told["result"]["count"], &told["result"]["collection"]), (&json!(3), &json!("notes of Ada")), "{told}");
    let search = async |key: Option<&str>, config: Value| {
        let mut config = config;
        config["collection"] = "notes of Ada".into();
        let mut body = flow(json!([step("found", "vector-search", config)]));
        body["streamResponse"] = false.into();
        match key {
            Some(key) => node.bare(reqwest::Method::POST, "/v1/dispatch").bearer(key).json(&body).ok().await["result"].clone(),
            None => node.result(&body).await["result"].clone(),
        }
    };
    let found = search(None, json!({ "query": "the red bicycle", "limit": 2 })).await;
    assert_eq!((found[0]["text"].as_str(), &found[0]["metadata"]), (Some(TEXTS[1]), &json!({ "of": "Ada" })), "{found}");
    assert!(found.as_array().unwrap().len() == 2 && found[0]["score"].as_f64() > found[1]["score"].as_f64(), "{found}");
    assert_eq!(search(None, json!({ "query": "hot tea", "threshold": 0.99 })).await, json!([]));
    assert_eq!(search(None, json!({ "query": "hot tea", "filter": { "of": "Bob" } })).await, json!([]));
    let stranger = world.strangers_key().await;
    assert_eq!(search(Some(&stranger), json!({ "query": "hot tea" })).await, json!([]), "another tenant's are not there");
}

async fn a_store_that_is_repeated_keeps_nothing_twice(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        set("items", json!([{ "id": "a", "vector": [1, 0], "text": "first" }, { "vector": [0, 1], "text": "second" }])),
        step("kept", "store-vector", json!({ "vectorsSource": "items", "destination": "notes" })),
    ]);
    let first = node.result(&flow(steps.clone())).await["result"]["ids"].clone();
    let second = node.result(&flow(steps)).await["result"]["ids"].clone();
    assert_eq!(first[0], second[0], "what has a name of its own is replaced");
    assert_ne!(first[1], second[1]);
    let steps = json!([set("v", json!([1, 0.1])), step("found", "vector-search", json!({ "vectorSource": "v", "collection": "notes" }))]);
    let found = node.result(&flow(steps)).await["result"].clone();
    let ids: Vec<&str> = found.as_array().unwrap().iter().map(|item| item["text"].as_str().unwrap()).collect();
    assert_eq!((ids, &found[0]["id"]), (vec!["first", "second", "second"], &json!("a")), "{found}");
}

async fn what_is_kept_is_forgotten_when_it_is_asked(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        set("items", json!([{ "id": "a b", "vector": [1, 0] }, { "vector": [0, 1] }, { "vector": [0, 2] }])),
        step("kept", "store-vector", json!({ "vectorsSource": "items", "destination": "notes of Ada" })),
        set("likes", json!("likes tea")),
        step("saved", "save-memory", json!({ "profileTemplate": "user:ada", "contentVariable": "likes" })),
    ]);
    node.result(&flow(steps)).await;
    let forget = async |path: &str, key: Option<&str>| {
        node.bare(reqwest::Method::DELETE, path).bearer(key.unwrap_or(KEY)).ok().await["deleted"].as_u64().unwrap()
    };
    let stranger = world.strangers_key().await;
    for path in ["/v1/vectors?collection=notes%20of%20Ada", "/v1/memories?profile=user:ada"] {
        assert_eq!(forget(path, Some(&stranger)).await, 0, "{path}");
    }
    assert_eq!(forget("/v1/vectors?collection=notes%20of%20Ada&id=a%20b", None).await, 1);
    assert_eq!(forget("/v1/vectors?collection=notes%20of%20Ada", None).await, 2);
    assert_eq!(forget("/v1/vectors?collection=notes%20of%20Ada", None).await, 0);
    assert_eq!(forget("/v1/memories?profile=user:ada", None).await, 1);
    let summary = json!([step("said", "memory-summary", json!({ "profileTemplate": "user:ada" }))]);
    assert_eq!(node.result(&flow(summary)).await["result"], "");
    node.bare(reqwest::Method::DELETE, "/v1/vectors").bearer(KEY).refused(400, "invalid_query").await;
}

async fn a_provider_is_asked_and_paid(world: Arc<World>) {
    let node = world.node();
    let steps = json!([
        set("texts", json!(["one", "two"])),
        step("made", "generate-embedding", json!({ "inputSource": "texts", "embeddingModel": "text-embedding-3-small" }))
    ]);
    let told = node.dispatch(&flow(steps)).await;
    assert_eq!(told.step("made")["result"].as_array().unwrap().len(), 2, "{}", told.step("made"));
    assert!(
        told.step("made")["cost"].as_f64().unwrap() > 0.0 && told.step("made")["tokensUsed"].as_u64().unwrap() > 0,
        "{}",
        told.step("made")
    );
    let refused = node.post("/v1/dispatch").json(&flow(json!([step(
        "made",
        "generate-embedding",
        json!({ "text": "x", "embeddingModel": "nobody/knows" })
    )])));
    assert_eq!(refused.refused(422, "validation_failed").await.pointers(), ["/flow/steps/0/config/embeddingModel"]);
    let told = node
        .dispatch(&flow(json!([step(
            "made",
            "generate-embedding",
            json!({ "text": "x", "embeddingModel": "anthropic/claude-sonnet-4-6" })
        )])))
        .await;
    assert_eq!(told.step("made")["success"], false);
}

async fn what_is_no_vector_says_so(world: Arc<World>) {
    let node = world.node();
    for (value, config, code) in [
        (json!("x"), json!({ "vectorsSource": "v", "destination": "notes" }), "invalid_vectors"),
        (json!([["a"]]), json!({ "vectorsSource": "v", "destination": "notes" }), "invalid_vectors"),
        (json!([{ "id": "", "vector": [1] }]), json!({ "vectorsSource": "v", "destination": "notes" }), "invalid_vectors"),
        (json!([1]), json!({ "vectorsSource": "v", "destination": "{{nothing}}" }), "invalid_collection"),
        (json!([1]), json!({ "vectorsSource": "v", "destination": "of {{empty}}" }), "invalid_collection"),
        (json!([[1], [2]]), json!({ "vectorsSource": "v", "textsSource": "one", "destination": "notes" }), "invalid_vectors"),
    ] {
        let told = node
            .dispatch(&flow(json!([
                set("v", value),
                set("one", json!("text")),
                set("empty", json!(null)),
                step("out", "store-vector", config)
            ])))
            .await;
        assert_eq!(told.step("out")["code"], code, "{}", told.step("out"));
    }
    let told = node.dispatch(&flow(json!([step("out", "generate-embedding", json!({ "text": "{{nothing}}" }))]))).await;
    assert_eq!(told.step("out")["code"], "invalid_embedding_input");
    let wrong: [(&str, Value, &[&str]); 3] = [
        ("generate-embedding", json!({ "dimensions": 0 }), &["text", "dimensions"]),
        ("store-vector", json!({ "vectorsSource": " ", "destination": "x" }), &["vectorsSource"]),
        ("vector-search", json!({ "collection": "x", "limit": 0, "threshold": 2 }), &["query", "limit", "threshold"]),
    ];
    refuses(&node, &wrong).await;
}
