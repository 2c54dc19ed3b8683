//! Documents: one per id and place in a tenant and kind, changed only on top of what was read.

use dispatch::id::{FlowId, TenantId};
use dispatch::store::{DocumentQuery, DocumentRow, StoreError};

use super::Site;
use super::world::{World, world};

const KIND: &str = "thing";

fn thing(world: &World, place: Option<&str>) -> DocumentRow {
    DocumentRow {
        id: FlowId::from_u128(world.next()).suffix(),
        place: place.map(str::to_owned),
        parent: None,
        due_at: None,
        version: 1,
        body: r#"{"size":"groß","nul":"\u0000"}"#.into(),
        created_at: world.now,
        updated_at: world.now,
    }
}

pub async fn a_document_is_kept_changed_and_deleted(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = thing(&world, Some("one"));
    store.create_document(world.tenant, KIND, first.clone()).await.unwrap();
    for again in [DocumentRow { place: None, ..first.clone() }, thing(&world, Some("one"))] {
        assert!(matches!(store.create_document(world.tenant, KIND, again).await, Err(StoreError::Exists("the document"))));
    }
    assert_eq!(store.find_document(world.tenant, KIND, &first.id).await.unwrap().as_ref(), Some(&first));
    let next = DocumentRow { version: 2, body: "[]".into(), place: Some("two".into()), updated_at: world.at(1), ..first.clone() };
    // When it was made stays as it was, whatever the change says.
    assert!(store.replace_document(world.tenant, KIND, DocumentRow { created_at: world.at(9), ..next.clone() }).await.unwrap());
    assert!(!store.replace_document(world.tenant, KIND, DocumentRow { body: "{}".into(), ..next.clone() }).await.unwrap(), "it moved on");
    assert_eq!(store.find_document_at(world.tenant, KIND, "two").await.unwrap(), Some(next.clone()));
    assert_eq!(store.find_document_at(world.tenant, KIND, "one").await.unwrap(), None, "its place is free again");
    let other = thing(&world, Some("one"));
    store.create_document(world.tenant, KIND, other.clone()).await.unwrap();
    let moved = DocumentRow { version: 2, place: Some("two".into()), ..other };
    assert!(matches!(store.replace_document(world.tenant, KIND, moved).await, Err(StoreError::Exists("the document"))));
    assert!(store.delete_document(world.tenant, KIND, &next.id).await.unwrap());
    assert!(!store.delete_document(world.tenant, KIND, &next.id).await.unwrap());
    assert!(!store.replace_document(world.tenant, KIND, DocumentRow { version: 3, ..next }).await.unwrap(), "it is gone");
}

pub async fn of_many_changes_at_once_one_is_made(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = thing(&world, None);
    store.create_document(world.tenant, KIND, first.clone()).await.unwrap();
    let changes = (0..20).map(|turn| DocumentRow { version: 2, body: turn.to_string(), ..first.clone() });
    let made = futures_util::future::join_all(changes.map(|next| store.replace_document(world.tenant, KIND, next))).await;
    assert_eq!(made.into_iter().filter(|made| *made.as_ref().unwrap()).count(), 1);
}

pub async fn documents_are_listed_newest_first_in_pages(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut rows: Vec<DocumentRow> = Vec::new();
    for number in 0..7 {
        let parent = (number % 2 == 0).then(|| "even".to_owned());
        let row = DocumentRow { parent, ..thing(&world, None) };
        store.create_document(world.tenant, KIND, row.clone()).await.unwrap();
        rows.push(row);
    }
    store.create_document(world.tenant, "other", thing(&world, None)).await.unwrap();
    rows.sort_by(|one, other| other.id.cmp(&one.id));
    let list = async |parent: Option<&str>, before: Option<&DocumentRow>, limit| {
        let query = DocumentQuery { parent: parent.map(str::to_owned), before: before.map(|row| row.id.clone()), limit };
        store.list_documents(world.tenant, KIND, query).await.unwrap()
    };
    assert_eq!(list(None, None, 3).await, rows[..3]);
    assert_eq!(list(None, Some(&rows[2]), 10).await, rows[3..]);
    let even: Vec<DocumentRow> = rows.iter().filter(|row| row.parent.is_some()).cloned().collect();
    assert_eq!(list(Some("even"), None, 10).await, even);
    assert_eq!(list(Some("even"), Some(&even[0]), 2).await, even[1..3]);
    assert_eq!(store.delete_documents_of(world.tenant, KIND, "even").await.unwrap(), 4);
    assert_eq!(list(None, None, 10).await.len(), 3);
}

pub async fn what_is_due_is_found_for_every_tenant(site: Site) {
    let (world, store) = (world(), &site.store);
    // A kind of this test's own: others share the database.
    let kind = format!("due-{}", world.tenant);
    let due = |seconds: u64| DocumentRow { due_at: Some(world.at(seconds)), ..thing(&world, None) };
    let (late, early, never, theirs) = (due(20), due(10), thing(&world, None), due(15));
    for row in [&late, &early, &never] {
        store.create_document(world.tenant, &kind, row.clone()).await.unwrap();
    }
    store.create_document(world.stranger, &kind, theirs.clone()).await.unwrap();
    let found = async |seconds, limit| store.due_documents(&kind, world.at(seconds), &[], limit).await.unwrap();
    assert!(found(9, 10).await.is_empty());
    assert_eq!(found(10, 10).await, [(world.tenant, early.clone())], "at the very time");
    assert_eq!(found(30, 2).await, [(world.tenant, early.clone()), (world.stranger, theirs)], "the longest due first");
    let others = store.due_documents(&kind, world.at(30), &[world.stranger], 10).await.unwrap();
    assert!(others.len() == 2 && others.iter().all(|(tenant, _)| *tenant == world.tenant), "{others:?}");
    assert!(store.replace_document(world.tenant, &kind, DocumentRow { version: 2, due_at: None, ..early }).await.unwrap());
    assert_eq!(found(30, 10).await.len(), 2);
}

pub async fn nobody_reaches_a_stranger_s_document(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = DocumentRow { parent: Some("p".into()), ..thing(&world, Some("one")) };
    store.create_document(world.tenant, KIND, first.clone()).await.unwrap();
    for (tenant, kind) in [(world.stranger, KIND), (world.tenant, "other")] {
        assert!(store.find_document(tenant, kind, &first.id).await.unwrap().is_none());
        assert!(store.find_document_at(tenant, kind, "one").await.unwrap().is_none());
        let everything = DocumentQuery { limit: 10, ..DocumentQuery::default() };
        assert!(!store.list_documents(tenant, kind, everything).await.unwrap().contains(&first));
        assert!(!store.replace_document(tenant, kind, DocumentRow { version: 2, ..first.clone() }).await.unwrap());
        assert!(!store.delete_document(tenant, kind, &first.id).await.unwrap());
        assert_eq!(store.delete_documents_of(tenant, kind, "p").await.unwrap(), 0);
    }
    store.create_document(world.stranger, KIND, thing(&world, Some("one"))).await.unwrap();
    assert_eq!(store.find_document(world.tenant, KIND, &first.id).await.unwrap(), Some(first));
}

pub async fn a_nul_in_a_place_is_refused(site: Site) {
    let (world, store) = (world(), &site.store);
    let refused = store.create_document(world.tenant, KIND, thing(&world, Some("a\0b"))).await;
    assert!(matches!(refused, Err(StoreError::Unfit { .. })), "{refused:?}");
    assert!(store.find_document_at(world.tenant, KIND, "a\0b").await.unwrap().is_none());
}

pub async fn the_oldest_documents_are_trimmed(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut rows: Vec<DocumentRow> = Vec::new();
    for number in 0..6 {
        let row = DocumentRow { created_at: world.at(number), body: format!("\"{}\"", "ü".repeat(49)), ..thing(&world, None) };
        store.create_document(world.tenant, KIND, row.clone()).await.unwrap();
        rows.push(row);
    }
    store.create_document(world.tenant, "other", thing(&world, None)).await.unwrap();
    store.create_document(world.stranger, KIND, thing(&world, None)).await.unwrap();
    let left = async |tenant: TenantId, kind: &str| {
        let everything = DocumentQuery { limit: 10, ..DocumentQuery::default() };
        let mut left = store.list_documents(tenant, kind, everything).await.unwrap();
        left.sort_by_key(|row| row.created_at);
        left
    };
    assert_eq!(store.trim_documents(world.tenant, KIND, 6, 600).await.unwrap(), 0, "each is 100 bytes");
    assert_eq!(store.trim_documents(world.tenant, KIND, 4, 600).await.unwrap(), 2);
    assert_eq!(left(world.tenant, KIND).await, rows[2..]);
    assert_eq!(store.trim_documents(world.tenant, KIND, 4, 299).await.unwrap(), 2);
    assert_eq!(left(world.tenant, KIND).await, rows[4..]);
    assert_eq!((left(world.tenant, "other").await.len(), left(world.stranger, KIND).await.len()), (1, 1));
}
