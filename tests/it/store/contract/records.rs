//! Records: kept, replaced by compare-and-set, queried in pages.

use dispatch::clock::Timestamp;
use dispatch::id::RecordId;
use dispatch::model::Record;
use dispatch::model::filter::Filter;
use dispatch::store::{RecordQuery, StoreError};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::{World, world};

fn record(world: &World, kind: &str, name: &str) -> Record {
    Record {
        id: RecordId::from_u128(world.next()),
        kind: kind.into(),
        name: name.into(),
        metadata: json!({"z": null, "a": "a\u{0}Ω", "n": 1.5}).as_object().cloned().unwrap(),
        messages: vec![json!({"role": "user", "content": "hi"})],
        created_at: world.now,
        updated_at: world.now,
    }
}

pub async fn a_record_is_kept_as_it_was_saved(site: Site) {
    let (world, store) = (world(), &site.store);
    let saved = record(&world, "report", "Q4 🦀");
    store.create_record(world.tenant, saved.clone()).await.unwrap();
    let found = store.find_record(world.tenant, saved.id).await.unwrap().unwrap();
    assert_eq!(serde_json::to_string(&found).unwrap(), serde_json::to_string(&saved).unwrap(), "order of keys included");
    assert_eq!(store.find_record_by_name(world.tenant, "report", "Q4 🦀").await.unwrap(), Some(saved));
    assert!(store.find_record_by_name(world.tenant, "Report", "Q4 🦀").await.unwrap().is_none());
}

pub async fn a_type_and_name_are_taken_once_per_tenant(site: Site) {
    let (world, store) = (world(), &site.store);
    store.create_record(world.tenant, record(&world, "a", "x")).await.unwrap();
    store.create_record(world.tenant, record(&world, "b", "x")).await.unwrap();
    store.create_record(world.stranger, record(&world, "a", "x")).await.unwrap();
    let again = store.create_record(world.tenant, record(&world, "a", "x")).await;
    assert!(matches!(again, Err(StoreError::Exists("a record with this type and name"))));
    let other = record(&world, "a", "y");
    store.create_record(world.tenant, other.clone()).await.unwrap();
    let renamed = Record { name: "x".into(), ..other.clone() };
    assert!(matches!(store.replace_record(world.tenant, renamed, world.now).await, Err(StoreError::Exists(_))));
    assert_eq!(store.find_record(world.tenant, other.id).await.unwrap(), Some(other));
}

pub async fn a_record_is_replaced_only_as_it_was_read(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let saved = record(&world, "a", "x");
    store.create_record(world.tenant, saved.clone()).await.unwrap();
    let writes = (0..10).map(|turn| {
        let mut mine = saved.clone();
        mine.metadata.insert("turn".into(), json!(turn));
        let store = if turn % 2 == 0 { store } else { &other };
        async move { store.replace_record(world.tenant, mine, world.now).await.unwrap() }
    });
    let won = join_all(writes).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1, "of ten writers that read the same");
    let found = store.find_record(world.tenant, saved.id).await.unwrap().unwrap();
    assert_eq!(found.updated_at, Timestamp::from_millis(world.now.as_millis() + 1), "a write is always told apart from the one before");
    assert_eq!(found.created_at, saved.created_at);
    let later = Record { updated_at: world.at(9), ..found.clone() };
    assert!(!store.replace_record(world.stranger, later.clone(), found.updated_at).await.unwrap());
    assert!(store.replace_record(world.tenant, later, found.updated_at).await.unwrap());
    assert_eq!(store.find_record(world.tenant, saved.id).await.unwrap().unwrap().updated_at, world.at(9));
}

/// Pages through a query and returns the names.
async fn page_through(world: &World, store: &dispatch::store::SharedStore, query: RecordQuery) -> Vec<String> {
    let (mut names, mut query) = (Vec::new(), query);
    loop {
        let page = store.list_records(world.tenant, query.clone()).await.unwrap();
        assert!(page.records.len() <= query.limit as usize);
        query.after = page.records.last().map(|record| (record.updated_at, record.id));
        names.extend(page.records.into_iter().map(|record| record.name));
        if !page.more {
            return names;
        }
    }
}

pub async fn records_are_queried_in_stable_pages(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut saved = Vec::new();
    for turn in 0..1_100u64 {
        let mut one = record(&world, if turn % 3 == 0 { "fizz" } else { "other" }, &format!("n{turn}"));
        // Many share a time, so that ties are told apart by id.
        one.updated_at = world.at(turn % 7);
        one.metadata.insert("turn".into(), json!(turn));
        saved.push(one);
    }
    for part in saved.chunks(100) {
        join_all(part.iter().map(|one| store.create_record(world.tenant, one.clone()))).await.into_iter().for_each(Result::unwrap);
    }
    store.create_record(world.stranger, record(&world, "fizz", "foreign")).await.unwrap();
    saved.sort_by_key(|record| std::cmp::Reverse((record.updated_at, record.id)));
    let names = |wanted: &dyn Fn(&Record) -> bool| -> Vec<String> {
        saved.iter().filter(|record| wanted(record)).map(|record| record.name.clone()).collect()
    };
    let all = RecordQuery { limit: 97, ..RecordQuery::default() };
    assert_eq!(page_through(&world, store, all.clone()).await, names(&|_| true));
    let fizz = RecordQuery { kind: Some("fizz".into()), ..all.clone() };
    assert_eq!(page_through(&world, store, fizz).await, names(&|record| record.kind == "fizz"));
    let rare = Filter::parse(&json!({"field": "turn", "op": "lt", "value": 5})).unwrap();
    let query = RecordQuery { filter: rare, limit: 2, ..all.clone() };
    assert_eq!(page_through(&world, store, query).await, names(&|record| record.metadata["turn"].as_u64().unwrap() < 5));
    let named = RecordQuery { name: Some("n77".into()), ..all.clone() };
    assert_eq!(page_through(&world, store, named).await, ["n77"]);
    assert!(!store.list_records(world.tenant, RecordQuery { limit: 1_100, ..all.clone() }).await.unwrap().more, "the last page says so");
    assert!(store.list_records(world.tenant, RecordQuery { limit: 1_099, ..all.clone() }).await.unwrap().more);
    assert!(store.list_records(world.tenant, RecordQuery { kind: Some("\0".into()), ..all }).await.unwrap().records.is_empty());
}

pub async fn records_are_deleted_by_their_owner(site: Site) {
    let (world, store) = (world(), &site.store);
    let (one, two) = (record(&world, "a", "1"), record(&world, "a", "2"));
    store.create_record(world.tenant, one.clone()).await.unwrap();
    store.create_record(world.tenant, two.clone()).await.unwrap();
    assert_eq!(store.delete_records(world.stranger, &[one.id, two.id]).await.unwrap(), 0);
    assert!(store.find_record(world.stranger, one.id).await.unwrap().is_none());
    assert!(store.find_record_by_name(world.stranger, "a", "1").await.unwrap().is_none());
    assert_eq!(store.delete_records(world.tenant, &[]).await.unwrap(), 0);
    assert_eq!(store.delete_records(world.tenant, &[one.id, one.id, RecordId::from_u128(world.next())]).await.unwrap(), 1);
    assert!(store.find_record(world.tenant, one.id).await.unwrap().is_none());
    assert!(store.find_record(world.tenant, two.id).await.unwrap().is_some());
}
