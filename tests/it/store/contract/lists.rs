//! Lists: their order, their pages, and the runs that nobody can wake.

use dispatch::id::{FlowId, RecordId, RunId};
use dispatch::model::event::Segment;
use dispatch::model::run::Failure;
use dispatch::model::{Event, EventRecord, RunInput, RunState, Target};
use dispatch::store::{Commit, NewRun, RunFilter, SmallLog};
use serde_json::json;

use super::Site;
use super::world::{done, world};

pub async fn runs_are_listed_newest_first_in_pages(site: Site) {
    let (world, store) = (world(), &site.store);
    let (flow, record) = (FlowId::from_u128(world.next()), RecordId::from_u128(world.next()));
    let mut runs = Vec::new();
    for turn in 0..10 {
        let input = RunInput { record: (turn == 3).then(|| json!({ "id": record })), ..RunInput::default() };
        let run = world.create(store, NewRun { target: Target::Flow((turn % 2 == 0).then_some(flow)), input, ..world.leased() }).await;
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
    assert_eq!(list(RunFilter { target: Some(Target::Flow(Some(flow))), ..all.clone() }).await.len(), 5);
    assert_eq!(list(RunFilter { record: Some(record), ..all.clone() }).await, runs[6..7]);
    assert_eq!(list(RunFilter { oldest_first: true, offset: 8, ..all.clone() }).await, [runs[1], runs[0]]);
    assert_eq!(list(RunFilter { states: vec![RunState::Completed, RunState::Running], ..all.clone() }).await, runs);
    assert_eq!(store.count_runs(world.tenant).await.unwrap(), [(RunState::Completed, 2), (RunState::Running, 8)]);
    let done = store.list_runs(world.tenant, RunFilter { states: vec![RunState::Completed], ..all }).await.unwrap();
    assert_eq!(done.len(), 2);
    assert_eq!((done[0].state, done[0].finished_at, done[0].spent.cost), (RunState::Completed, Some(world.now), 5));
    assert_eq!((done[0].flow_name.as_str(), done[0].created_at, done[0].failure.clone()), ("test", world.now, None));
    assert!(list(RunFilter::default()).await.is_empty(), "no limit, no rows");
}

pub async fn runs_are_found_by_how_they_came_out(site: Site) {
    let (world, store) = (world(), &site.store);
    let [good, partly, failed, going] =
        [world.start(store).await, world.start(store).await, world.start(store).await, world.start(store).await];
    let failure = Some(Failure { code: "step".into(), message: "m".into(), step: Some("s".into()), retryable: true });
    world.done(store, world.commit(good, 1, RunState::Completed)).await;
    world.done(store, Commit { failure: failure.clone(), ..world.commit(partly, 1, RunState::Completed) }).await;
    world.done(store, world.commit(failed, 1, RunState::Failed)).await;
    let list = async |filter: RunFilter| -> Vec<RunId> {
        let filter = RunFilter { limit: 100, oldest_first: true, ..filter };
        store.list_runs(world.tenant, filter).await.unwrap().into_iter().map(|summary| summary.id).collect()
    };
    let by = |success| RunFilter { success: Some(success), ..RunFilter::default() };
    let sorted = |mut runs: Vec<RunId>| {
        runs.sort_unstable();
        runs
    };
    assert_eq!(list(by(true)).await, [good]);
    assert_eq!(list(by(false)).await, sorted(vec![partly, failed]));
    let found = world.find(store, partly).await;
    assert_eq!((found.success, found.failure.clone(), found.did_well()), (Some(false), failure, Some(false)));
    assert_eq!((world.find(store, good).await.success, world.find(store, going).await.success), (Some(true), None));
    let named = |name: &str| RunFilter { flow_name: Some(name.into()), ..RunFilter::default() };
    assert_eq!((list(named("test")).await.len(), list(named("tes")).await.len()), (4, 0));
    assert_eq!(list(RunFilter { since: Some(world.now), ..RunFilter::default() }).await.len(), 4);
    assert!(list(RunFilter { until: Some(world.now), ..RunFilter::default() }).await.is_empty());
    assert!(list(RunFilter { since: Some(world.at(1)), ..RunFilter::default() }).await.is_empty());
    assert_eq!(list(RunFilter { until: Some(world.at(1)), ..by(true) }).await, [good]);
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

pub async fn a_log_is_made_small_once_and_after_its_end(site: Site) {
    let (world, store) = (world(), &site.store);
    let event = |seq: u64, since: Option<u64>| EventRecord {
        since,
        ..EventRecord::new(seq, &Event::TextDelta { id: "t".into(), delta: format!("{seq}") })
    };
    let segment = |events: &[EventRecord]| Some(Segment { events: events.to_vec(), rest: Default::default() });
    let mut ended = Vec::new();
    for place in 0..3 {
        let run = world.start(store).await;
        world.done(store, Commit { segment: segment(&[event(2, None), event(3, None)]), ..world.commit(run, 1, RunState::Running) }).await;
        let finished_at = Some(world.at(place));
        world.done(store, Commit { segment: segment(&[event(4, None)]), finished_at, ..world.commit(run, 2, RunState::Completed) }).await;
        ended.push((world.tenant, run));
    }
    let going = world.start(store).await;
    world.done(store, Commit { segment: segment(&[event(2, None)]), ..world.commit(going, 1, RunState::Running) }).await;
    assert_eq!(store.bulky_logs(world.at(2), &[], 10).await.unwrap(), ended[..2], "those that ended before, the earliest first");
    assert_eq!(store.bulky_logs(world.at(9), &[], 1).await.unwrap(), ended[..1]);
    let small = |tenant, run, log: &[EventRecord]| SmallLog { tenant, run, log: Some(segment(log).into_iter().collect()) };
    let joined = event(4, Some(2));
    let ((_, first), (_, second), (_, third)) = (ended[0], ended[1], ended[2]);
    let logs = vec![
        small(world.tenant, first, std::slice::from_ref(&joined)),
        SmallLog { tenant: world.tenant, run: second, log: None },
        small(world.stranger, third, &[]),
        small(world.tenant, going, &[]),
    ];
    assert_eq!(store.shrink_logs(logs).await.unwrap(), 2);
    assert_eq!(store.shrink_logs(vec![small(world.tenant, first, &[])]).await.unwrap(), 0, "once");
    let log = async |run| -> Vec<EventRecord> {
        let segments = store.read_log(world.tenant, run, None, 100).await.unwrap();
        segments.into_iter().flat_map(|segment| segment.events).filter(|event| event.kind() == "text_delta").collect()
    };
    assert_eq!(log(first).await, std::slice::from_ref(&joined));
    for (run, wanted) in [(second, 3), (third, 3), (going, 1)] {
        assert_eq!(log(run).await.len(), wanted);
    }
    assert_eq!(
        store.read_log(world.tenant, first, Some(3), 10).await.unwrap()[0].events,
        [joined],
        "it is found after any number before its own"
    );
    assert_eq!(store.bulky_logs(world.at(9), &[], 10).await.unwrap(), ended[2..]);
}
