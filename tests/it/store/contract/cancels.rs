//! Cancelling and waking work in every state.

use dispatch::model::{Epoch, RunState};
use dispatch::store::{Claim, Commit};

use super::Site;
use super::world::world;

pub async fn a_cancel_reaches_a_run_in_every_state(site: Site) {
    let (world, store) = (world(), &site.store);
    for state in RunState::ALL {
        let run = match state {
            RunState::Queued => world.create(store, world.queued()).await,
            _ => world.start(store).await,
        };
        if !matches!(state, RunState::Queued | RunState::Running) {
            world.done(store, world.commit(run, 1, state)).await;
        }
        let before = world.find(store, run).await;
        assert_eq!(store.request_cancel(world.tenant, run, world.at(1)).await.unwrap(), Some(state));
        let after = world.find(store, run).await;
        assert_eq!(after.state, state, "a request moves nothing itself");
        assert_eq!(after.cancel_requested, !state.is_terminal());
        assert_eq!(after.nudges, i64::from(!state.is_terminal()));
        let wake_at = if matches!(state, RunState::Queued | RunState::Paused) { Some(world.at(1)) } else { before.wake_at };
        assert_eq!(after.wake_at, wake_at, "{state:?}: due at once when nobody holds it");
    }
}

pub async fn the_owner_learns_of_a_cancel(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    store.request_cancel(world.tenant, run, world.now).await.unwrap();
    let renewed = store.renew_runs(world.node, &[(run, Epoch(1))], world.at(20)).await.unwrap();
    assert!(renewed[0].cancel_requested);
    let (paused, _) = world.paused(store).await;
    store.request_cancel(world.tenant, paused, world.now).await.unwrap();
    let leases = store.claim_runs(Claim { only: Some(paused), ..world.claim() }).await.unwrap();
    assert!(leases[0].run.cancel_requested, "whoever takes a paused run sees it");
}

pub async fn nobody_cancels_or_wakes_a_stranger_s_run(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, _) = world.paused(store).await;
    assert_eq!(store.request_cancel(world.stranger, run, world.now).await.unwrap(), None);
    store.wake_run(world.stranger, run, world.now).await.unwrap();
    let found = world.find(store, run).await;
    assert_eq!((found.cancel_requested, found.nudges, found.wake_at), (false, 0, None));
    let nowhere = dispatch::id::RunId::from_u128(world.next());
    assert_eq!(store.request_cancel(world.tenant, nowhere, world.now).await.unwrap(), None);
    store.wake_run(world.tenant, nowhere, world.now).await.unwrap();
}

pub async fn a_woken_run_is_due(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, Commit { wake_at: Some(world.at(900)), ..world.commit(run, 1, RunState::Paused) }).await;
    store.wake_run(world.tenant, run, world.now).await.unwrap();
    assert_eq!(store.claim_runs(world.claim()).await.unwrap().len(), 1);
    store.wake_run(world.tenant, run, world.now).await.unwrap();
    assert_eq!(world.find(store, run).await.wake_at, Some(world.at(10)), "a held run keeps its lease");
}
