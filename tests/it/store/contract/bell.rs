//! The bell rings for what became due, on every node.

use std::time::Duration;

use dispatch::id::RunId;
use dispatch::model::RunState;
use dispatch::store::{Commit, Rung, Signal};
use serde_json::json;
use tokio::sync::broadcast::Receiver;

use super::Site;
use super::world::world;

/// Waits until it rings for this run, because it is due.
async fn rings(bell: &mut Receiver<Rung>, run: RunId) {
    hears(bell, Rung::due(run)).await;
}

async fn hears(bell: &mut Receiver<Rung>, wanted: Rung) {
    let heard = async { while bell.recv().await.unwrap() != wanted {} };
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("it does not ring");
}

pub async fn it_rings_for_what_becomes_due(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let (mut here, mut there) = (store.bell(), other.bell());
    let queued = world.create(store, world.queued()).await;
    rings(&mut here, queued).await;
    rings(&mut there, queued).await;

    let (run, wait) = world.paused(store).await;
    store.resolve_waits(vec![world.answer(&wait, "yes")]).await.unwrap();
    rings(&mut here, run).await;
    rings(&mut there, run).await;

    let (run, _) = world.paused(store).await;
    let (mut here, mut there) = (store.bell(), other.bell());
    store.send_signal(world.tenant, run, Signal { name: "s".into(), id: "1".into(), payload: json!(1) }, world.now).await.unwrap();
    rings(&mut here, run).await;
    rings(&mut there, run).await;

    let (run, _) = world.paused(store).await;
    let (mut here, mut there) = (store.bell(), other.bell());
    store.request_cancel(world.tenant, run, world.now).await.unwrap();
    rings(&mut here, run).await;
    rings(&mut there, run).await;

    let (run, _) = world.paused(store).await;
    let (mut here, mut there) = (store.bell(), other.bell());
    store.wake_run(world.tenant, run, world.now).await.unwrap();
    rings(&mut here, run).await;
    rings(&mut there, run).await;

    let run = world.start(store).await;
    let (mut here, mut there) = (store.bell(), other.bell());
    world.done(store, Commit { wake_at: Some(world.at(1)), ..world.commit(run, 1, RunState::Paused) }).await;
    rings(&mut here, run).await;
    rings(&mut there, run).await;
}

pub async fn it_rings_for_no_stranger(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let mut bell = store.bell();
    store.request_cancel(world.stranger, run, world.now).await.unwrap();
    store.wake_run(world.stranger, run, world.now).await.unwrap();
    store.resolve_waits(vec![dispatch::store::Resolve { tenant: world.stranger, ..world.answer(&wait, "x") }]).await.unwrap();
    let last = world.create(store, world.queued()).await;
    let mut heard = Vec::new();
    while heard.last() != Some(&last) {
        heard.push(tokio::time::timeout(Duration::from_secs(10), bell.recv()).await.unwrap().unwrap().run);
    }
    assert!(!heard.contains(&run));
}

pub async fn it_rings_elsewhere_when_a_log_grows(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let run = world.start(store).await;
    let mut there = other.bell();
    world.done(store, world.commit(run, 1, RunState::Running)).await;
    // Where no other node shares the database, the one that commits knows by itself.
    if store.name() == "postgres" {
        hears(&mut there, Rung { run, due: false }).await;
        assert_eq!(world.seqs(&other, run).await, [0, 1, 2, 3], "and what it rings for is there");
    }
}
