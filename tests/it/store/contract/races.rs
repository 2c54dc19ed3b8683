//! No wake-up is lost: whoever pauses and whoever wakes agree, in whatever order they arrive.

use dispatch::id::RunId;
use dispatch::model::RunState;
use dispatch::store::{Commit, Committed, SharedStore, Signal};
use serde_json::json;

use super::Site;
use super::world::{World, world};

/// Pauses a run that has seen no nudge, while `wake` is on its way from another node.
async fn pause_against(world: &World, store: &SharedStore, run: RunId, wake: impl Future<Output = ()>) {
    let pause = Commit { seen_nudges: Some(0), ..world.commit(run, 2, RunState::Paused) };
    let (paused, ()) = tokio::join!(store.commit_run(pause), wake);
    let found = world.find(store, run).await;
    assert_eq!(found.nudges, 1);
    match paused.unwrap() {
        Committed::Done => assert_eq!((found.state, found.wake_at), (RunState::Paused, Some(world.now)), "it slept through the wake-up"),
        Committed::Nudged => assert_eq!((found.state, found.commit), (RunState::Running, 1)),
        Committed::Fenced => panic!("nobody else holds the run"),
    }
}

pub async fn an_answer_is_never_lost_to_a_pause(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for _ in 0..60 {
        let run = world.start(store).await;
        let wait = world.wait(run);
        world.done(store, Commit { waits: vec![wait.clone()], ..world.commit(run, 1, RunState::Running) }).await;
        let answer = world.answer(&wait, "yes");
        pause_against(&world, store, run, async { drop(other.resolve_waits(vec![answer]).await.unwrap()) }).await;
    }
}

pub async fn a_cancel_is_never_lost_to_a_pause(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for _ in 0..60 {
        let run = world.start(store).await;
        world.done(store, world.commit(run, 1, RunState::Running)).await;
        pause_against(&world, store, run, async { assert!(other.request_cancel(world.tenant, run, world.now).await.unwrap().is_some()) })
            .await;
    }
}

pub async fn a_signal_is_never_lost_to_a_pause(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for turn in 0..60 {
        let run = world.start(store).await;
        world.done(store, world.commit(run, 1, RunState::Running)).await;
        let signal = Signal { name: "s".into(), id: format!("{turn}"), payload: json!(turn) };
        pause_against(&world, store, run, async { assert!(other.send_signal(world.tenant, run, signal, world.now).await.unwrap()) }).await;
    }
}

/// Both parts of a crossing pair: each node ends its own run while it answers the other one's wait.
pub async fn crossing_groups_do_not_block_each_other(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for _ in 0..30 {
        let (left, right) = (world.start(store).await, world.start(store).await);
        let (first, second) = (world.wait(left), world.wait(right));
        world.done(store, Commit { waits: vec![first.clone()], ..world.commit(left, 1, RunState::Running) }).await;
        world.done(store, Commit { waits: vec![second.clone()], ..world.commit(right, 1, RunState::Running) }).await;
        let (one, two, three, four) = tokio::join!(
            store.commit_run(world.commit(left, 2, RunState::Completed)),
            store.resolve_waits(vec![world.answer(&second, "yes")]),
            other.commit_run(world.commit(right, 2, RunState::Completed)),
            other.resolve_waits(vec![world.answer(&first, "yes")]),
        );
        assert_eq!((one.unwrap(), three.unwrap()), (Committed::Done, Committed::Done));
        drop((two.unwrap(), four.unwrap()));
        assert!(store.open_waits(world.tenant, None, 10).await.unwrap().is_empty());
    }
}
