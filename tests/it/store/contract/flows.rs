//! Saved flows and their versions.

use dispatch::id::{FlowId, FlowVersionId};
use dispatch::model::TargetKind::{Agent, Flow};
use dispatch::store::{FlowVersion, SavedFlow, StoreError};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::{World, world};

fn flow(world: &World, name: &str) -> (SavedFlow, FlowVersion) {
    let (id, version) = (FlowId::from_u128(world.next()), FlowVersionId::from_u128(world.next()));
    let flow = SavedFlow {
        id,
        kind: Flow,
        name: name.into(),
        description: Some("Größe".into()),
        created_at: world.now,
        updated_at: world.now,
        current: version,
        published: None,
    };
    let version = FlowVersion {
        id: version,
        flow: id,
        number: 1,
        document: json!({"z": "a\u{0}b", "a": [1.5, null]}),
        created_at: world.now,
        published_at: None,
    };
    (flow, version)
}

fn next(world: &World, flow: &SavedFlow) -> FlowVersion {
    let document = json!({"next": true});
    FlowVersion {
        id: FlowVersionId::from_u128(world.next()),
        flow: flow.id,
        number: 0,
        document,
        created_at: world.at(1),
        published_at: None,
    }
}

pub async fn a_flow_is_kept_with_its_versions(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "Ärger");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    assert_eq!(store.find_flow(world.tenant, Flow, saved.id).await.unwrap(), Some(saved.clone()));
    assert_eq!(store.find_flow_by_name(world.tenant, Flow, "Ärger").await.unwrap(), Some(saved.clone()));
    let found = store.find_flow_version(world.tenant, first.id).await.unwrap().unwrap();
    assert_eq!(found.document.to_string(), first.document.to_string());
    assert_eq!(found, first);
    let second = next(&world, &saved);
    let renamed = SavedFlow { name: "new".into(), description: None, updated_at: world.at(1), ..saved.clone() };
    let updated = store.update_flow(world.tenant, renamed.clone(), Some(second.clone()), Some(first.id)).await.unwrap().unwrap();
    assert_eq!(updated, SavedFlow { current: second.id, ..renamed });
    let numbers = store.list_flow_versions(world.tenant, saved.id).await.unwrap();
    assert_eq!(numbers.iter().map(|version| (version.number, version.id)).collect::<Vec<_>>(), [(2, second.id), (1, first.id)]);
    assert!(store.find_flow_by_name(world.tenant, Flow, "Ärger").await.unwrap().is_none());
}

pub async fn a_flow_s_name_is_taken_once_per_tenant(site: Site) {
    let (world, store) = (world(), &site.store);
    let (one, first) = flow(&world, "same");
    store.create_flow(world.tenant, one.clone(), first).await.unwrap();
    let (two, second) = flow(&world, "same");
    let taken = store.create_flow(world.tenant, two.clone(), second.clone()).await;
    assert!(matches!(taken, Err(StoreError::Exists("a flow with this name"))));
    assert!(store.find_flow_version(world.tenant, second.id).await.unwrap().is_none(), "nothing is left of it");
    store.create_flow(world.stranger, two.clone(), second).await.unwrap();
    let (three, third) = flow(&world, "other");
    store.create_flow(world.tenant, three.clone(), third).await.unwrap();
    let rename = SavedFlow { name: "same".into(), ..three.clone() };
    assert!(matches!(store.update_flow(world.tenant, rename, None, None).await, Err(StoreError::Exists(_))));
    assert_eq!(store.find_flow(world.tenant, Flow, three.id).await.unwrap().unwrap().name, "other");
    let same = SavedFlow { description: None, ..one };
    assert!(store.update_flow(world.tenant, same, None, None).await.unwrap().is_some(), "its own name is not taken");
}

pub async fn an_update_of_a_moved_flow_is_refused(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    let second = next(&world, &saved);
    store.update_flow(world.tenant, saved.clone(), Some(second.clone()), Some(first.id)).await.unwrap().unwrap();
    let third = next(&world, &saved);
    assert!(store.update_flow(world.tenant, saved.clone(), Some(third.clone()), Some(first.id)).await.unwrap().is_none());
    assert!(store.find_flow_version(world.tenant, third.id).await.unwrap().is_none());
    assert_eq!(store.find_flow(world.tenant, Flow, saved.id).await.unwrap().unwrap().current, second.id);
}

pub async fn versions_written_at_once_get_numbers_of_their_own(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first).await.unwrap();
    let updates = (0..12).map(|turn| {
        let (version, saved) = (next(&world, &saved), saved.clone());
        let store = if turn % 2 == 0 { store } else { &other };
        async move { store.update_flow(world.tenant, saved, Some(version), None).await.unwrap().unwrap() }
    });
    join_all(updates).await;
    let numbers: Vec<u32> = store.list_flow_versions(world.tenant, saved.id).await.unwrap().iter().map(|version| version.number).collect();
    assert_eq!(numbers, (1..=13).rev().collect::<Vec<u32>>());
}

pub async fn flows_are_searched_in_any_case_and_paged(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut ids = Vec::new();
    for name in ["Größe one", "GRÖSSE two", "größe THREE", "100%_four", "five"] {
        let (saved, version) = flow(&world, name);
        store.create_flow(world.tenant, saved.clone(), version).await.unwrap();
        ids.push(saved.id);
    }
    ids.reverse();
    let list = async |before, search, limit| -> Vec<FlowId> {
        store.list_flows(world.tenant, Flow, before, search, limit).await.unwrap().into_iter().map(|flow| flow.id).collect()
    };
    assert_eq!(list(None, None, 10).await, ids);
    assert_eq!(list(None, None, 2).await, ids[..2]);
    assert_eq!(list(Some(ids[1]), None, 2).await, ids[2..4]);
    assert_eq!(list(None, Some("GRÖ"), 10).await, ids[2..]);
    assert_eq!(list(None, Some("ße"), 10).await, [ids[2], ids[4]]);
    assert_eq!(list(None, Some("%_"), 10).await, [ids[1]], "no wildcards");
    assert_eq!(list(None, Some(""), 10).await, ids);
    assert!(list(None, Some("a\0b"), 10).await.is_empty());
    assert!(store.list_flows(world.stranger, Flow, None, None, 10).await.unwrap().is_empty());
}

pub async fn an_agent_is_no_flow(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first).await.unwrap();
    let (other, own) = flow(&world, "a");
    let agent = SavedFlow { kind: Agent, ..other };
    store.create_flow(world.tenant, agent.clone(), own.clone()).await.unwrap();
    for (kind, mine, foreign) in [(Flow, &saved, &agent), (Agent, &agent, &saved)] {
        assert_eq!(store.find_flow(world.tenant, kind, mine.id).await.unwrap().as_ref(), Some(mine));
        assert_eq!(store.find_flow_by_name(world.tenant, kind, "a").await.unwrap().as_ref(), Some(mine));
        assert_eq!(store.list_flows(world.tenant, kind, None, None, 10).await.unwrap(), std::slice::from_ref(mine));
        assert!(store.find_flow(world.tenant, kind, foreign.id).await.unwrap().is_none());
        assert!(!store.publish_flow(world.tenant, kind, foreign.id, foreign.current, world.now).await.unwrap());
        assert!(!store.delete_flow(world.tenant, kind, foreign.id).await.unwrap());
    }
    let disguised = SavedFlow { kind: Flow, ..agent.clone() };
    assert!(store.update_flow(world.tenant, disguised, None, None).await.unwrap().is_none());
    assert!(store.delete_flow(world.tenant, Agent, agent.id).await.unwrap());
    assert!(store.find_flow(world.tenant, Flow, saved.id).await.unwrap().is_some());
}

pub async fn a_version_is_published(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    let (other, foreign) = flow(&world, "b");
    store.create_flow(world.tenant, other, foreign.clone()).await.unwrap();
    assert!(store.publish_flow(world.tenant, Flow, saved.id, first.id, world.at(5)).await.unwrap());
    assert!(store.publish_flow(world.tenant, Flow, saved.id, first.id, world.at(9)).await.unwrap());
    let found = store.find_flow(world.tenant, Flow, saved.id).await.unwrap().unwrap();
    assert_eq!((found.published, found.updated_at), (Some(first.id), world.at(9)));
    let version = store.find_flow_version(world.tenant, first.id).await.unwrap().unwrap();
    assert_eq!(version.published_at, Some(world.at(5)), "the first time stays");
    assert!(!store.publish_flow(world.tenant, Flow, saved.id, foreign.id, world.now).await.unwrap(), "another flow's version");
    assert!(!store.publish_flow(world.stranger, Flow, saved.id, first.id, world.now).await.unwrap());
}

pub async fn a_version_is_deleted_unless_it_is_in_use(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    assert!(!store.delete_flow_version(world.tenant, saved.id, first.id).await.unwrap(), "it is the current one");
    let (second, third) = (next(&world, &saved), next(&world, &saved));
    for version in [&second, &third] {
        store.update_flow(world.tenant, saved.clone(), Some(version.clone()), None).await.unwrap().unwrap();
    }
    store.publish_flow(world.tenant, Flow, saved.id, second.id, world.at(5)).await.unwrap();
    assert!(!store.delete_flow_version(world.tenant, saved.id, second.id).await.unwrap(), "it is the published one");
    assert!(!store.delete_flow_version(world.stranger, saved.id, first.id).await.unwrap());
    let (other, _) = flow(&world, "b");
    assert!(!store.delete_flow_version(world.tenant, other.id, first.id).await.unwrap(), "another flow's version");
    assert!(store.delete_flow_version(world.tenant, saved.id, first.id).await.unwrap());
    assert!(!store.delete_flow_version(world.tenant, saved.id, first.id).await.unwrap());
    let left = store.list_flow_versions(world.tenant, saved.id).await.unwrap();
    assert_eq!(left.iter().map(|version| version.id).collect::<Vec<_>>(), [third.id, second.id]);
}

pub async fn a_deleted_flow_takes_its_versions_along(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    assert!(!store.delete_flow(world.stranger, Flow, saved.id).await.unwrap());
    assert!(store.delete_flow(world.tenant, Flow, saved.id).await.unwrap());
    assert!(!store.delete_flow(world.tenant, Flow, saved.id).await.unwrap());
    assert!(store.find_flow_version(world.tenant, first.id).await.unwrap().is_none());
    assert!(store.list_flow_versions(world.tenant, saved.id).await.unwrap().is_empty());
}

pub async fn nobody_reaches_a_stranger_s_flow(site: Site) {
    let (world, store) = (world(), &site.store);
    let (saved, first) = flow(&world, "a");
    store.create_flow(world.tenant, saved.clone(), first.clone()).await.unwrap();
    assert!(store.find_flow(world.stranger, Flow, saved.id).await.unwrap().is_none());
    assert!(store.find_flow_by_name(world.stranger, Flow, "a").await.unwrap().is_none());
    assert!(store.find_flow_version(world.stranger, first.id).await.unwrap().is_none());
    assert!(store.list_flow_versions(world.stranger, saved.id).await.unwrap().is_empty());
    assert!(store.update_flow(world.stranger, saved.clone(), Some(next(&world, &saved)), None).await.unwrap().is_none());
    assert_eq!(store.list_flow_versions(world.tenant, saved.id).await.unwrap().len(), 1);
}
