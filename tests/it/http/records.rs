//! `/v1/records`.

use serde_json::{Value, json};

use crate::support::app::TestApp;

async fn save(app: &TestApp, kind: &str, name: &str, metadata: Value) -> Value {
    app.post("/v1/records").json(&json!({ "type": kind, "name": name, "metadata": metadata })).ok().await
}

fn names(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_record_is_saved_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let saved = save(&app, "report", "Q4", json!({ "region": "north" })).await;
    let path = format!("/v1/records/{}", saved["id"].as_str().unwrap());
    assert_eq!(app.get(&path).ok().await, saved);
    let changed = app.put(&path).json(&json!({ "name": "Q1", "messages": [{ "role": "user", "content": "hi" }] })).ok().await;
    assert_eq!((&changed["name"], &changed["type"], &changed["metadata"]["region"]), (&json!("Q1"), &json!("report"), &json!("north")));
    assert!(changed["updatedAt"].as_str() > saved["updatedAt"].as_str());
    assert_eq!(app.get(&path).ok().await, changed);
    app.put(&path).json(&json!({ "name": "" })).refused(422, "validation_failed").await;
    for field in ["type", "name"] {
        let mut body = json!({ "type": "x", "name": "x" });
        body[field] = json!("a\0b");
        let made = app.post("/v1/records").json(&body).refused(422, "validation_failed").await;
        let changed = app.put(&path).json(&json!({ field: "a\0b" })).refused(422, "validation_failed").await;
        assert_eq!((made.pointers(), changed.pointers()), (vec![format!("/{field}")], vec![format!("/{field}")]));
    }
    app.delete(&path).ok().await;
    app.get(&path).refused(404, "not_found").await;
    app.put(&path).json(&json!({ "name": "x" })).refused(404, "not_found").await;
    app.delete(&path).refused(404, "not_found").await;
}

#[tokio::test]
async fn type_and_name_are_unique() {
    let app = TestApp::start().await;
    save(&app, "report", "Q4", json!({})).await;
    app.post("/v1/records").json(&json!({ "type": "report", "name": "Q4" })).refused(409, "already_exists").await;
    let other = save(&app, "invoice", "Q4", json!({})).await;
    let path = format!("/v1/records/{}", other["id"].as_str().unwrap());
    app.put(&path).json(&json!({ "type": "report" })).refused(409, "already_exists").await;
    let edited = app.post("/v1/records/bulk-edit").json(&json!({ "ids": [other["id"]], "type": "report" })).ok().await;
    assert_eq!(edited["conflicts"], json!([other["id"]]));
}

#[tokio::test]
async fn lists_filter_search_and_page() {
    let app = TestApp::start().await;
    for (kind, name, total) in [("report", "alpha", 1), ("report", "beta", 2), ("invoice", "alphabet", 3), ("report", "gamma", 4)] {
        save(&app, kind, name, json!({ "total": total })).await;
    }
    assert_eq!(names(&app.get("/v1/records").ok().await), ["gamma", "alphabet", "beta", "alpha"]);
    assert_eq!(names(&app.get("/v1/records?type=report&name=beta").ok().await), ["beta"]);
    assert_eq!(names(&app.get("/v1/records?search=ALPHA").ok().await), ["alphabet", "alpha"]);
    let filter = "%7B%22field%22%3A%22total%22%2C%22op%22%3A%22gte%22%2C%22value%22%3A3%7D";
    assert_eq!(names(&app.get(&format!("/v1/records?filter={filter}")).ok().await), ["gamma", "alphabet"]);
    let search = |cursor: Option<&str>| {
        let filter = json!({ "or": [{ "field": "total", "op": "lt", "value": 3 }, { "field": "name", "value": "gamma" }] });
        app.post("/v1/records/search").json(&json!({ "type": "report", "filter": filter, "limit": 2, "cursor": cursor }))
    };
    let first = search(None).ok().await;
    assert_eq!((names(&first), &first["pagination"]["hasMore"]), (vec!["gamma", "beta"], &json!(true)));
    let second = search(first["pagination"]["nextCursor"].as_str()).ok().await;
    assert_eq!((names(&second), &second["pagination"]["hasMore"]), (vec!["alpha"], &json!(false)));
    let wrong =
        app.post("/v1/records/search").json(&json!({ "filter": { "and": [{ "op": "eq" }] } })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/filter/and/0/field"]);
}

#[tokio::test]
async fn many_records_are_edited_and_deleted_at_once() {
    let app = TestApp::start().await;
    let one = save(&app, "t", "one", json!({ "keep": 1, "drop": 1 })).await;
    let two = save(&app, "t", "two", json!({})).await;
    let gone = "record_01h455vb4pex5vsknk084sn02q";
    let ids = json!([one["id"], gone, two["id"]]);
    let edit = json!({ "ids": ids, "metadata": { "drop": null, "new": [1] }, "type": "u" });
    let edited = app.post("/v1/records/bulk-edit").json(&edit).ok().await;
    assert_eq!((&edited["updated"], &edited["missing"], &edited["conflicts"]), (&json!(2), &json!([gone]), &json!([])));
    assert_eq!(edited["recordIds"], json!([one["id"], two["id"]]));
    let diff = json!({ "id": one["id"], "before": { "keep": 1, "drop": 1 }, "after": { "keep": 1, "new": [1] } });
    assert_eq!(edited["data"][0], diff);
    let changed = app.get(&format!("/v1/records/{}", one["id"].as_str().unwrap())).ok().await;
    assert_eq!((&changed["metadata"], &changed["type"]), (&json!({ "keep": 1, "new": [1] }), &json!("u")));
    let deleted = app.post("/v1/records/bulk-delete").json(&json!({ "ids": ids })).ok().await;
    assert_eq!((&deleted["deleted"], &deleted["deletedIds"]), (&json!(2), &json!([one["id"], two["id"]])));
    assert_eq!((&deleted["success"], &deleted["notFoundIds"]), (&json!(true), &json!([gone])));
    let many: Vec<&str> = vec![gone; 1_001];
    app.post("/v1/records/bulk-delete").json(&json!({ "ids": many })).refused(422, "validation_failed").await;
    let wrong = app.post("/v1/records/bulk-delete").json(&json!({ "ids": [gone, "x"] })).refused(422, "validation_failed").await;
    assert_eq!(wrong.pointers(), ["/ids/1"]);
}

#[tokio::test]
async fn concurrent_changes_are_not_lost() {
    let app = TestApp::start().await;
    let saved = save(&app, "t", "n", json!({})).await;
    let edits = (0..4).map(|number| {
        app.post("/v1/records/bulk-edit").json(&json!({ "ids": [saved["id"]], "metadata": { format!("k{number}"): true } })).ok()
    });
    let done = futures_util::future::join_all(edits).await;
    let kept = app.get(&format!("/v1/records/{}", saved["id"].as_str().unwrap())).ok().await;
    let updated: u64 = done.iter().map(|outcome| outcome["updated"].as_u64().unwrap()).sum();
    assert_eq!(kept["metadata"].as_object().unwrap().len() as u64, updated, "{done:?}");
}
