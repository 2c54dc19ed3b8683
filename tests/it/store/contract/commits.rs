//! A commit is everything or nothing, on top of its predecessor, by the owner.

use dispatch::model::event::Rest;
use dispatch::model::run::{Failure, Spent};
use dispatch::model::{Epoch, Outcome, RunState};
use dispatch::store::{Commit, Committed, Created};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::{done, segment, world};

pub async fn a_run_goes_from_commit_to_commit_to_its_end(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, world.commit(run, 1, RunState::Running)).await;
    let failure = Failure { code: "c".into(), message: "m".into(), step: Some("s".into()), retryable: true };
    let spent = Spent { cost: 7, input_tokens: 1, output_tokens: 2, calls: 3, duration_ms: 4, estimated: true };
    let end = Commit { failure: Some(failure.clone()), spent, reserved: 200, ..world.commit(run, 2, RunState::Failed) };
    world.done(store, Commit { segment: Some(segment(4, Rest::End)), ..end }).await;
    let found = world.find(store, run).await;
    assert_eq!((found.state, found.commit, found.reserved, found.spent), (RunState::Failed, 2, 200, spent));
    assert_eq!((found.output, found.failure, found.finished_at), (Some(json!({"n": 2})), Some(failure), Some(world.now)));
    assert_eq!((found.sealed, found.wake_at), (None, None), "an ended run holds no secret and is never due");
    assert_eq!(world.keys(store, run).await, ["steps/1", "steps/2"]);
    let log = store.read_log(world.tenant, run, None, 10).await.unwrap();
    assert_eq!(log, [segment(0, Rest::None), segment(2, Rest::None), segment(4, Rest::End)]);
}

pub async fn the_log_is_read_in_whole_segments(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    for number in 1..=3 {
        world.done(store, world.commit(run, number, RunState::Running)).await;
    }
    let read = async |after, limit| -> Vec<u64> {
        store.read_log(world.tenant, run, after, limit).await.unwrap().iter().map(|segment| segment.first()).collect()
    };
    assert_eq!(read(None, 10).await, [0, 2, 4, 6]);
    assert_eq!(read(Some(1), 2).await, [2, 4]);
    assert_eq!(read(Some(2), 10).await, [2, 4, 6], "a reader inside a segment gets the whole of it");
    assert_eq!(read(Some(7), 10).await, [0u64; 0]);
    assert_eq!(read(Some(u64::MAX), 10).await, [0u64; 0]);
}

pub async fn a_commit_whose_answer_was_lost_is_recognised(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let wait = world.wait(run);
    let first = Commit { waits: vec![wait], ..world.commit(run, 1, RunState::Running) };
    world.done(store, first.clone()).await;
    world.done(store, first).await;
    assert_eq!(world.seqs(store, run).await, [0, 1, 2, 3]);
    assert_eq!(store.run_waits(world.tenant, run).await.unwrap().len(), 1);
    let end = world.commit(run, 2, RunState::Completed);
    world.done(store, end.clone()).await;
    world.done(store, end).await;
}

pub async fn a_commit_must_follow_its_predecessor(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let wait = world.wait(run);
    let gap = Commit { waits: vec![wait], ..world.commit(run, 2, RunState::Completed) };
    assert_eq!(store.commit_run(gap).await.unwrap(), Committed::Fenced);
    let stranger = dispatch::id::RunId::from_u128(world.next());
    assert_eq!(store.commit_run(world.commit(stranger, 1, RunState::Running)).await.unwrap(), Committed::Fenced);
    let wrong = Commit { epoch: Epoch(2), ..world.commit(run, 1, RunState::Running) };
    assert_eq!(store.commit_run(wrong).await.unwrap(), Committed::Fenced);
    assert_eq!(world.find(store, run).await.state, RunState::Running);
    assert_eq!(world.seqs(store, run).await, [0, 1], "a lost commit leaves no event");
    assert!(world.keys(store, run).await.is_empty(), "nor a journal entry");
    assert!(store.run_waits(world.tenant, run).await.unwrap().is_empty(), "nor a wait");
}

pub async fn an_ended_or_paused_run_takes_no_commit(site: Site) {
    let (world, store) = (world(), &site.store);
    for state in [RunState::Completed, RunState::Failed, RunState::Cancelled, RunState::Paused, RunState::Queued] {
        let run = world.start(store).await;
        world.done(store, world.commit(run, 1, state)).await;
        let late = Commit { seen_nudges: Some(9), ..world.commit(run, 2, RunState::Running) };
        assert_eq!(store.commit_run(late).await.unwrap(), Committed::Fenced, "{state:?}");
        assert_eq!(world.find(store, run).await.state, state);
    }
}

pub async fn an_ended_run_is_never_due(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, Commit { wake_at: Some(world.now), ..world.commit(run, 1, RunState::Completed) }).await;
    assert!(store.claim_runs(world.claim()).await.unwrap().is_empty());
    assert_eq!(store.next_wake(&[]).await.unwrap(), None);
}

pub async fn a_nudged_run_does_not_pause(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    store.request_cancel(world.tenant, run, world.now).await.unwrap();
    let pause = |seen| Commit { seen_nudges: Some(seen), ..world.commit(run, 1, RunState::Paused) };
    assert_eq!(store.commit_run(pause(0)).await.unwrap(), Committed::Nudged);
    assert!(world.keys(store, run).await.is_empty());
    assert_eq!(store.commit_run(pause(1)).await.unwrap(), Committed::Done);
}

pub async fn a_compensating_run_keeps_its_owner(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, Commit { wake_at: Some(world.at(10)), ..world.commit(run, 1, RunState::Compensating) }).await;
    let renewed = store.renew_runs(world.node, &[(run, Epoch(1))], world.at(20)).await.unwrap();
    assert_eq!(renewed.len(), 1);
    let late = dispatch::store::Claim { now: world.at(21), node: world.rival, until: world.at(30), ..world.claim() };
    let leases = store.claim_runs(late).await.unwrap();
    assert_eq!((leases[0].run.state, leases[0].recovered, leases[0].run.recoveries), (RunState::Compensating, true, 1));
    assert_eq!(world.find(store, run).await.state, RunState::Compensating, "a claim undoes no transition");
    world.done(store, Commit { epoch: Epoch(2), ..world.commit(run, 2, RunState::Failed) }).await;
}

pub async fn an_entry_is_replaced_by_a_later_one(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let begun = || dispatch::model::JournalEntry { key: "a".into(), outcome: Outcome::Begun };
    world.done(store, Commit { journal: vec![begun()], ..world.commit(run, 1, RunState::Running) }).await;
    assert_eq!(store.read_journal(world.tenant, run).await.unwrap(), [begun()]);
    let twice = vec![begun(), done("a", json!(1)), done("b", json!(2)), done("a", json!(3))];
    world.done(store, Commit { journal: twice, ..world.commit(run, 2, RunState::Running) }).await;
    assert_eq!(store.read_journal(world.tenant, run).await.unwrap(), [done("a", json!(3)), done("b", json!(2))]);
}

pub async fn writes_about_one_run_stay_in_order_without_waiting(site: Site) {
    let (world, store) = (world(), &site.store);
    for _ in 0..20 {
        let new = world.leased();
        let run = new.id;
        let (created, first, second) = futures_util::join!(
            store.create_run(new),
            store.commit_run(world.commit(run, 1, RunState::Running)),
            store.commit_run(world.commit(run, 2, RunState::Completed)),
        );
        assert_eq!((created.unwrap(), first.unwrap(), second.unwrap()), (Created::New, Committed::Done, Committed::Done));
        assert_eq!(world.seqs(store, run).await, [0, 1, 2, 3, 4, 5]);
        assert_eq!(world.keys(store, run).await, ["steps/1", "steps/2"]);
    }
}

pub async fn many_runs_commit_at_once(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let runs = (0..120).map(|turn| {
        let (world, store) = (&world, if turn % 2 == 0 { store } else { &other });
        async move {
            let run = world.start(store).await;
            for number in 1..=3 {
                world.done(store, world.commit(run, number, RunState::Running)).await;
            }
            world.done(store, world.commit(run, 4, RunState::Completed)).await;
            run
        }
    });
    for run in join_all(runs).await {
        assert_eq!(world.seqs(store, run).await, (0..10).collect::<Vec<u64>>());
        assert_eq!(world.find(store, run).await.state, RunState::Completed);
    }
}

pub async fn a_commit_whose_caller_went_away_is_whole_or_not_there(site: Site) {
    let (world, store) = (world(), &site.store);
    let barrier = world.start(store).await;
    for turn in 0..60 {
        let run = world.start(store).await;
        let commit = Commit { waits: vec![world.wait(run)], ..world.commit(run, 1, RunState::Paused) };
        let call = store.commit_run(commit);
        // Polled a few times, then dropped.
        let patience = async {
            for _ in 0..turn {
                tokio::task::yield_now().await;
            }
        };
        futures_util::future::select(Box::pin(call), Box::pin(patience)).await;
        // Whatever was handed in before this has been decided when this is answered.
        world.done(store, Commit { segment: None, journal: vec![], ..world.commit(barrier, turn + 1, RunState::Running) }).await;
        let found = world.find(store, run).await;
        let whole = found.commit == 1;
        assert_eq!(found.state == RunState::Paused, whole);
        assert_eq!(world.seqs(store, run).await.len(), if whole { 4 } else { 2 });
        assert_eq!(world.keys(store, run).await.len(), usize::from(whole));
        assert_eq!(store.run_waits(world.tenant, run).await.unwrap().len(), usize::from(whole));
    }
}
