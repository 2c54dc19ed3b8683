//! Vectors: kept by collection, found by nearness, gone when they are deleted.

use dispatch::id::VectorId;
use dispatch::model::vector::Vector;
use dispatch::store::{Near, Nearest, Put, StoreError};
use serde_json::{Map, Value, json};

use super::Site;
use super::world::{World, world};

fn vector(world: &World, name: Option<&str>, parts: &[f32], metadata: Value) -> Vector {
    Vector {
        id: VectorId::from_u128(world.next()),
        collection: "notes".into(),
        name: name.map(str::to_owned),
        parts: parts.to_vec(),
        text: Some(format!("text of {name:?}")),
        metadata: metadata.as_object().cloned().unwrap(),
    }
}

fn nearest(parts: &[f32]) -> Nearest {
    Nearest { collection: "notes".into(), parts: parts.to_vec(), filter: Map::new(), threshold: None, limit: 10 }
}

fn names(found: &[Near]) -> Vec<Option<&str>> {
    found.iter().map(|near| near.name.as_deref()).collect()
}

pub async fn the_nearest_come_first(site: Site) {
    let (world, store) = (world(), &site.store);
    let all = vec![
        vector(&world, Some("east"), &[1.0, 0.0], json!({ "kind": "way", "deep": { "a": [1] } })),
        vector(&world, Some("north"), &[0.0, 2.0], json!({ "kind": "way" })),
        vector(&world, Some("west"), &[-1.0, 0.0], json!({})),
        vector(&world, Some("nowhere"), &[0.0, 0.0], json!({})),
        vector(&world, Some("other"), &[1.0, 0.0, 0.0], json!({})),
        vector(&world, None, &[3.0, 0.0], json!({ "kind": 1 })),
    ];
    let ids: Vec<VectorId> = all.iter().map(|vector| vector.id).collect();
    assert_eq!(store.put_vectors(world.tenant, all.clone()).await.unwrap(), Put::Kept(ids.clone()));
    // Equals: the newer one first. What has another length is not compared.
    let found = store.nearest_vectors(world.tenant, nearest(&[2.0, 0.0])).await.unwrap();
    assert_eq!(names(&found), [None, Some("east"), Some("nowhere"), Some("north"), Some("west")]);
    let nears: Vec<i32> = found.iter().map(|near| (near.near * 1_000.0).round() as i32).collect();
    assert_eq!(nears, [1_000, 1_000, 0, 0, -1_000]);
    assert_eq!((found[1].id, &found[1].text, &found[1].metadata), (ids[0], &all[0].text, &all[0].metadata));

    let found = store.nearest_vectors(world.tenant, Nearest { threshold: Some(0.5), limit: 1, ..nearest(&[1.0, 0.0]) }).await.unwrap();
    assert_eq!(names(&found), [None]);
    let filtered = async |filter: Value| {
        let filter = filter.as_object().cloned().unwrap();
        store.nearest_vectors(world.tenant, Nearest { filter, ..nearest(&[1.0, 0.0]) }).await.unwrap()
    };
    assert_eq!(names(&filtered(json!({ "kind": "way" })).await), [Some("east"), Some("north")]);
    assert_eq!(names(&filtered(json!({ "kind": "way", "deep": { "a": [1] } })).await), [Some("east")]);
    assert_eq!(names(&filtered(json!({ "deep": { "a": [] } })).await), [] as [Option<&str>; 0], "equal, not contained");
    assert_eq!(names(&filtered(json!({ "kind": 1 })).await), [None]);
    assert_eq!(names(&filtered(json!({ "nothing": null })).await), [] as [Option<&str>; 0]);
}

pub async fn a_name_is_one_vector(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = vector(&world, Some("a"), &[1.0], json!({}));
    let unnamed = vector(&world, None, &[1.0], json!({}));
    for _ in 0..2 {
        let put = store.put_vectors(world.tenant, vec![first.clone(), unnamed.clone()]).await.unwrap();
        assert_eq!(put, Put::Kept(vec![first.id, unnamed.id]), "the same ids again are the same vectors");
    }
    let next = Vector { text: Some("next".into()), ..vector(&world, Some("a"), &[-1.0], json!({})) };
    assert_eq!(store.put_vectors(world.tenant, vec![next]).await.unwrap(), Put::Kept(vec![first.id]));
    let found = store.nearest_vectors(world.tenant, nearest(&[1.0])).await.unwrap();
    assert_eq!((names(&found), found[1].text.as_deref()), (vec![None, Some("a")], Some("next")));
    // Elsewhere the name is free.
    let elsewhere = Vector { collection: "other".into(), ..vector(&world, Some("a"), &[1.0], json!({})) };
    assert_eq!(store.put_vectors(world.tenant, vec![elsewhere.clone()]).await.unwrap(), Put::Kept(vec![elsewhere.id]));
}

pub async fn vectors_are_deleted_by_id_by_name_and_all(site: Site) {
    let (world, store) = (world(), &site.store);
    let all: Vec<Vector> =
        [Some("a"), None, Some("c"), Some("d")].map(|name| vector(&world, name, &[1.0], json!({}))).into_iter().collect();
    store.put_vectors(world.tenant, all.clone()).await.unwrap();
    let which = vec!["a".to_owned(), all[1].id.to_string(), "nothing".into(), "no\0thing".into()];
    assert_eq!(store.delete_vectors(world.stranger, "notes", None).await.unwrap(), 0);
    assert_eq!(store.delete_vectors(world.tenant, "other", None).await.unwrap(), 0);
    assert_eq!(store.delete_vectors(world.tenant, "notes", Some(which)).await.unwrap(), 2);
    assert_eq!(names(&store.nearest_vectors(world.tenant, nearest(&[1.0])).await.unwrap()), [Some("d"), Some("c")]);
    assert_eq!(store.delete_vectors(world.tenant, "notes", Some(Vec::new())).await.unwrap(), 0);
    assert_eq!(store.delete_vectors(world.tenant, "notes", None).await.unwrap(), 2);
}

pub async fn nobody_finds_a_stranger_s_vector(site: Site) {
    let (world, store) = (world(), &site.store);
    let mine = vector(&world, Some("a"), &[1.0], json!({}));
    store.put_vectors(world.tenant, vec![mine.clone()]).await.unwrap();
    assert!(store.nearest_vectors(world.stranger, nearest(&[1.0])).await.unwrap().is_empty());
    let theirs = vector(&world, Some("a"), &[1.0], json!({}));
    assert_eq!(store.put_vectors(world.stranger, vec![theirs.clone()]).await.unwrap(), Put::Kept(vec![theirs.id]));
    assert_eq!(store.nearest_vectors(world.tenant, nearest(&[1.0])).await.unwrap()[0].id, mine.id);
}

pub async fn a_nul_is_refused_and_nothing_is_kept(site: Site) {
    let (world, store) = (world(), &site.store);
    let good = vector(&world, None, &[1.0], json!({}));
    let with_nul = [
        Vector { text: Some("a\0".into()), ..good.clone() },
        vector(&world, Some("a\0"), &[1.0], json!({})),
        vector(&world, None, &[1.0], json!({ "deep": [{ "a\0": 1 }] })),
        vector(&world, None, &[1.0], json!({ "a": "\0" })),
    ];
    for bad in with_nul {
        let put = store.put_vectors(world.tenant, vec![good.clone(), bad]).await;
        assert!(matches!(put, Err(StoreError::Unfit { .. })), "{put:?}");
    }
    assert!(store.nearest_vectors(world.tenant, nearest(&[1.0])).await.unwrap().is_empty());
    let filter = json!({ "a": "\0" }).as_object().cloned().unwrap();
    assert!(store.nearest_vectors(world.tenant, Nearest { filter, ..nearest(&[1.0]) }).await.unwrap().is_empty());
}
