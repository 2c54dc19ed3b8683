//! The store that fails on purpose fails as planned, and whoever repeats lost calls comes to the same end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::model::RunState;
use dispatch::store::faulty::{Fault, Faulty, Plan};
use dispatch::store::memory::MemoryStore;
use dispatch::store::{Commit, Committed, Created, Resolved, Runs, SharedStore, Store, StoreError, StoreResult, Waits};

use super::contract::world::world;

fn simulated(seed: u64) -> Clock {
    Clock::simulated(seed, Timestamp::from_millis(1_000))
}

fn at(faults: &[(u64, Fault)]) -> Plan {
    Plan { at: faults.iter().copied().collect::<BTreeMap<_, _>>(), ..Plan::default() }
}

#[tokio::test(start_paused = true)]
async fn an_operation_fails_before_or_after_it_was_applied() {
    let inner: SharedStore = Arc::new(MemoryStore::new());
    let store = Faulty::new(inner.clone(), simulated(1), at(&[(0, Fault::Before), (2, Fault::After)]));
    let world = world();
    let new = world.leased();
    let run = new.id;
    assert!(matches!(store.create_run(new.clone()).await, Err(StoreError::Unavailable(_))));
    assert!(inner.find_run(world.tenant, run).await.unwrap().is_none(), "nothing was done");
    assert_eq!(store.create_run(new).await.unwrap(), Created::New);
    let commit = world.commit(run, 1, RunState::Running);
    assert!(matches!(store.commit_run(commit.clone()).await, Err(StoreError::Unavailable(_))));
    assert_eq!(world.find(&inner, run).await.commit, 1, "it was done");
    assert_eq!(store.commit_run(commit).await.unwrap(), Committed::Done, "and a repeat is recognised");
    assert_eq!((store.operations(), store.name()), (4, "memory"));
    store.follow(Plan { before: 1_000, ..Plan::default() });
    assert!(store.ping().await.is_err(), "down from now on");
}

#[tokio::test(start_paused = true)]
async fn faults_and_delays_replay_from_their_seed() {
    let play = async |seed| {
        let clock = simulated(seed);
        let plan = Plan { before: 200, after: 200, delay: Duration::from_secs(5), ..Plan::default() };
        let store = Faulty::new(Arc::new(MemoryStore::new()), clock.clone(), plan);
        let mut fates = Vec::new();
        for _ in 0..100 {
            fates.push((store.ping().await.map_err(|error| error.to_string()), clock.now()));
        }
        fates
    };
    let (one, again, other) = (play(7).await, play(7).await, play(8).await);
    assert_eq!(one, again);
    assert_ne!(one, other);
    let failed = one.iter().filter(|(fate, _)| fate.is_err()).count();
    assert!((20..60).contains(&failed), "{failed} of 100, where 40 are expected");
    assert!(one[99].1 > Timestamp::from_millis(100_000), "delays pass on the clock");
}

/// Repeats a call until it is answered.
async fn insist<T>(call: impl AsyncFn() -> StoreResult<T>) -> T {
    for _ in 0..1_000 {
        match call().await {
            Ok(answer) => return answer,
            Err(StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    panic!("never answered");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_repeats_comes_to_the_same_end() {
    for seed in 0..50 {
        let inner: SharedStore = Arc::new(MemoryStore::new());
        let plan = Plan { before: 250, after: 250, ..Plan::default() };
        let store = Faulty::new(inner.clone(), simulated(seed), plan);
        let world = world();
        let new = world.leased();
        let run = new.id;
        let wait = world.wait(run);
        assert_eq!(insist(async || store.create_run(new.clone()).await).await, Created::New);
        let pause = Commit { waits: vec![wait.clone()], seen_nudges: Some(0), ..world.commit(run, 1, RunState::Paused) };
        assert_eq!(insist(async || store.commit_run(pause.clone()).await).await, Committed::Done);
        let answer = world.answer(&wait, "yes");
        let resolved = insist(async || store.resolve_waits(vec![answer.clone()]).await).await.remove(0);
        assert!(resolved == Resolved::First || resolved == Resolved::Before(answer.resolution), "{resolved:?}");
        let found = world.find(&inner, run).await;
        assert_eq!((found.commit, found.nudges, found.wake_at), (1, 1, Some(world.now)), "seed {seed}");
        assert_eq!(world.seqs(&inner, run).await, [0, 1, 2, 3]);
    }
}
