//! Runs are created once, durably, under their idempotency key.

use dispatch::model::{Epoch, RunState};
use dispatch::store::{Created, NewRun, RunKey, StoreError};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::{done, world};

pub async fn a_run_is_kept_as_it_was_created(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut new = world.leased();
    new.target = dispatch::model::Target::Agent(Some(dispatch::id::AgentId::from_u128(world.next())));
    new.flow_name = "Grüße 🦀".into();
    new.input.inputs.insert("z".into(), json!([1, null, {"b": 1, "a": 2}]));
    new.input.inputs.insert("a".into(), json!("x"));
    new.input.messages = vec![json!({"role": "user"})];
    new.journal = vec![done("trigger", json!(1))];
    let created = world.create(store, new.clone()).await;
    let run = world.find(store, created).await;
    assert_eq!((run.id, run.tenant, run.state, run.epoch), (new.id, world.tenant, RunState::Running, Epoch(1)));
    assert_eq!((run.flow_hash, run.target, run.flow_name), (new.flow.hash, new.target, new.flow_name));
    assert_eq!(serde_json::to_string(&run.input).unwrap(), serde_json::to_string(&new.input).unwrap());
    assert_eq!((run.sealed, run.reserved, run.created_at), (new.sealed, 64, world.now));
    assert_eq!((run.commit, run.nudges, run.cancel_requested, run.recoveries), (0, 0, false, 0));
    assert_eq!((run.wake_at, run.finished_at, run.output), (Some(world.at(10)), None, None));
    assert_eq!(world.seqs(store, new.id).await, [0, 1]);
    assert_eq!(world.keys(store, new.id).await, ["trigger"]);
}

pub async fn nobody_else_sees_a_run(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    assert!(store.find_run(world.stranger, run).await.unwrap().is_none());
    assert!(store.read_log(world.stranger, run, None, 10).await.unwrap().is_empty());
    assert!(store.read_journal(world.stranger, run).await.unwrap().is_empty());
    assert_eq!(store.flow_of_run(world.stranger, run).await.unwrap(), None);
    assert!(store.list_runs(world.stranger, dispatch::store::RunFilter { limit: 10, ..Default::default() }).await.unwrap().is_empty());
}

pub async fn a_queued_run_is_due_at_once(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.create(store, world.queued()).await;
    assert_eq!(world.find(store, run).await.state, RunState::Queued);
    let leases = store.claim_runs(world.claim()).await.unwrap();
    assert_eq!(leases.iter().map(|lease| (lease.run.id, lease.run.epoch, lease.recovered)).collect::<Vec<_>>(), [(run, Epoch(1), false)]);
    assert_eq!(leases[0].run.state, RunState::Queued, "the lease tells how the run was found");
    assert_eq!(world.find(store, run).await.state, RunState::Running);
}

pub async fn a_repeated_creation_is_recognised(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = NewRun { key: Some(world.key("k", "h")), ..world.leased() };
    let run = world.create(store, new.clone()).await;
    world.create(store, new.clone()).await;
    world.done(store, world.commit(run, 1, RunState::Completed)).await;
    world.create(store, new).await;
    assert_eq!(world.find(store, run).await.state, RunState::Completed, "a repeat changes nothing");
    assert_eq!(world.seqs(store, run).await, [0, 1, 2, 3]);
}

pub async fn fifty_creations_under_one_key_make_one_run(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let creations = (0..50).map(|turn| {
        let new = NewRun { key: Some(world.key("same", &format!("hash {turn}"))), ..world.leased() };
        let store = if turn % 2 == 0 { store } else { &other };
        async move { (new.id, new.key.clone().unwrap().request_hash, store.create_run(new).await.unwrap()) }
    });
    let results = join_all(creations).await;
    let winners: Vec<_> = results.iter().filter(|(_, _, created)| *created == Created::New).collect();
    assert_eq!(winners.len(), 1);
    let (run, request_hash, _) = winners[0].clone();
    for (_, _, created) in results.iter().filter(|(id, _, _)| *id != run) {
        assert_eq!(*created, Created::Duplicate { run, request_hash: request_hash.clone() });
    }
    let list = store.list_runs(world.tenant, dispatch::store::RunFilter { limit: 100, ..Default::default() }).await.unwrap();
    assert_eq!(list.iter().map(|summary| summary.id).collect::<Vec<_>>(), [run]);
}

pub async fn a_key_belongs_to_its_tenant_and_route(site: Site) {
    let (world, store) = (world(), &site.store);
    let key = world.key("k", "h");
    world.create(store, NewRun { key: Some(key.clone()), ..world.leased() }).await;
    world.create(store, NewRun { key: Some(key.clone()), tenant: world.stranger, ..world.leased() }).await;
    world.create(store, NewRun { key: Some(RunKey { route: "POST /v1/jobs".into(), ..key.clone() }), ..world.leased() }).await;
    let again = store.create_run(NewRun { key: Some(RunKey { request_hash: "other".into(), ..key }), ..world.leased() }).await.unwrap();
    assert!(matches!(again, Created::Duplicate { request_hash, .. } if request_hash == "h"), "the first request's hash is told");
}

pub async fn an_expired_key_may_be_used_again(site: Site) {
    let (world, store) = (world(), &site.store);
    let first = world.create(store, NewRun { key: Some(world.key("k", "h")), ..world.leased() }).await;
    let mut new = NewRun { key: Some(world.key("k", "h2")), created_at: world.at(3_599), ..world.leased() };
    assert_eq!(store.create_run(new.clone()).await.unwrap(), Created::Duplicate { run: first, request_hash: "h".into() });
    new.created_at = world.at(3_600);
    new.key = new.key.map(|key| RunKey { expires_at: world.at(9_000), ..key });
    let second = world.create(store, new.clone()).await;
    new.id = dispatch::id::RunId::from_u128(world.next());
    assert_eq!(store.create_run(new).await.unwrap(), Created::Duplicate { run: second, request_hash: "h2".into() });
}

pub async fn a_poisoned_creation_harms_no_neighbour(site: Site) {
    let (world, store) = (world(), &site.store);
    let creations = (0..20).map(|turn| {
        let mut new = world.leased();
        match turn {
            7 => new.flow_name = "a\0b".into(),
            13 => new.reserved = u64::MAX,
            _ => {}
        }
        async move { store.create_run(new).await }
    });
    for (turn, result) in join_all(creations).await.into_iter().enumerate() {
        match turn {
            7 | 13 => assert!(matches!(result, Err(StoreError::Unfit { .. })), "{turn}: {result:?}"),
            _ => assert_eq!(result.unwrap(), Created::New, "{turn}"),
        }
    }
}
