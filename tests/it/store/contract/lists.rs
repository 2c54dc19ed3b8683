//! Lists: their order, their pages, and the runs that nobody can wake.

use dispatch::id::{FlowId, RunId};
use dispatch::model::RunState;
use dispatch::store::{Commit, NewRun, RunFilter};

use super::Site;
use super::world::{done, world};

pub async fn runs_are_listed_newest_first_in_pages(site: Site) {
    let (world, store) = (world(), &site.store);
    let flow = FlowId::from_u128(world.next());
    let mut runs = Vec::new();
    for turn in 0..10 {
        let run = world.create(store, NewRun { flow_id: (turn % 2 == 0).then_some(flow), ..world.leased() }).await;
        if turn % 5 == 0 {
            world.done(store, world.commit(run, 1, RunState::Completed)).await;
        }
        runs.push(run);
    }
    world.create(store, NewRun { tenant: world.stranger, ..world.leased() }).await;
    runs.sort_unstable_by(|a, b| b.cmp(a));
    let list = async |filter: RunFilter| -> Vec<RunId> {
        store.list_runs(world.tenant, filter).await.unwrap().into_iter().map(|summary| summary.id).collect()
    };
    let all = RunFilter { limit: 100, ..RunFilter::default() };
    assert_eq!(list(all.clone()).await, runs);
    assert_eq!(list(RunFilter { limit: 4, ..all.clone() }).await, runs[..4]);
    assert_eq!(list(RunFilter { limit: 4, before: Some(runs[3]), ..all.clone() }).await, runs[4..8]);
    assert_eq!(list(RunFilter { after: Some(runs[3]), ..all.clone() }).await, runs[..3]);
    assert_eq!(list(RunFilter { after: Some(runs[8]), before: Some(runs[3]), ..all.clone() }).await, runs[4..8]);
    assert_eq!(list(RunFilter { flow: Some(flow), ..all.clone() }).await.len(), 5);
    let done = store.list_runs(world.tenant, RunFilter { state: Some(RunState::Completed), ..all }).await.unwrap();
    assert_eq!(done.len(), 2);
    assert_eq!((done[0].state, done[0].finished_at, done[0].spent.cost), (RunState::Completed, Some(world.now), 5));
    assert_eq!((done[0].flow_name.as_str(), done[0].created_at, done[0].failure.clone()), ("test", world.now, None));
    assert!(list(RunFilter::default()).await.is_empty(), "no limit, no rows");
}

pub async fn the_journal_is_in_byte_order(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let mut keys = ["b", "a/10", "a/9", "a", "B", "é", "z", "ä", "🦀", "a b", "a/", "ß", "~", "_", "0"];
    let journal = keys.iter().map(|key| done(key, serde_json::json!(key))).collect();
    world.done(store, Commit { journal, ..world.commit(run, 1, RunState::Running) }).await;
    keys.sort_unstable();
    assert_eq!(world.keys(store, run).await, keys);
}

pub async fn a_run_that_nobody_can_wake_is_found(site: Site) {
    let (world, store) = (world(), &site.store);
    world.start(store).await;
    world.create(store, world.queued()).await;
    let (_, wait) = world.paused(store).await;
    let timed = world.start(store).await;
    world.done(store, Commit { wake_at: Some(world.at(900)), ..world.commit(timed, 1, RunState::Paused) }).await;
    assert!(store.stuck_runs(10).await.unwrap().is_empty());
    let mut stuck = Vec::new();
    for state in [RunState::Paused, RunState::Queued] {
        let run = world.start(store).await;
        world.done(store, world.commit(run, 1, state)).await;
        stuck.push((world.tenant, run));
    }
    assert_eq!(store.stuck_runs(10).await.unwrap(), stuck);
    assert_eq!(store.stuck_runs(1).await.unwrap(), stuck[..1]);
    store.resolve_waits(vec![world.answer(&wait, "yes")]).await.unwrap();
    assert_eq!(store.stuck_runs(10).await.unwrap(), stuck, "an answered run is due, not stuck");
    for (tenant, run) in &stuck {
        store.wake_run(*tenant, *run, world.now).await.unwrap();
    }
    assert!(store.stuck_runs(10).await.unwrap().is_empty());
}
