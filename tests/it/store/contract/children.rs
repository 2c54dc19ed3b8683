//! A child run's end answers its parent's wait, in the child's own commit.

use dispatch::model::run::Parent;
use dispatch::model::wait::{Wait, WaitKind};
use dispatch::model::{Epoch, RunState};
use dispatch::store::{ChildEnd, Commit, Committed, NewRun};
use futures_util::future::join_all;

use super::Site;
use super::world::{World, world};

fn end(world: &World, parent: Parent) -> Option<ChildEnd> {
    Some(ChildEnd { parent, tenant: world.tenant, resolution: world.resolution("child ended") })
}

pub async fn a_child_s_end_wakes_its_parent(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let parent = Parent { run, wait: wait.id };
    let child = world.create(store, NewRun { parent: Some(parent), ..world.leased() }).await;
    assert_eq!(world.find(store, child).await.parent, Some(parent));
    let last = Commit { child_end: end(&world, parent), ..world.commit(child, 1, RunState::Completed) };
    world.done(store, last.clone()).await;
    world.done(store, last).await;
    let found = store.find_wait(world.tenant, wait.id).await.unwrap().unwrap();
    assert_eq!(found.resolution, Some(world.resolution("child ended")));
    let parent = world.find(store, run).await;
    assert_eq!((parent.wake_at, parent.nudges), (Some(world.now), 1), "once, though the commit was sent twice");
}

pub async fn a_child_that_lost_its_run_answers_nothing(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let parent = Parent { run, wait: wait.id };
    let child = world.create(store, NewRun { parent: Some(parent), ..world.leased() }).await;
    let lost = Commit { epoch: Epoch(9), child_end: end(&world, parent), ..world.commit(child, 1, RunState::Completed) };
    assert_eq!(store.commit_run(lost).await.unwrap(), Committed::Fenced);
    let nudged = Commit { seen_nudges: Some(4), child_end: end(&world, parent), ..world.commit(child, 1, RunState::Completed) };
    assert_eq!(store.commit_run(nudged).await.unwrap(), Committed::Nudged);
    assert_eq!(store.find_wait(world.tenant, wait.id).await.unwrap().unwrap().resolution, None);
    let found = world.find(store, run).await;
    assert_eq!((found.wake_at, found.nudges), (None, 0));
}

pub async fn a_child_answers_no_stranger_s_wait(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let parent = Parent { run, wait: wait.id };
    let child = world.create(store, NewRun { tenant: world.stranger, parent: Some(parent), ..world.leased() }).await;
    let foreign = ChildEnd { parent, tenant: world.stranger, resolution: world.resolution("x") };
    world.done(store, Commit { child_end: Some(foreign), ..world.commit(child, 1, RunState::Completed) }).await;
    assert_eq!(store.find_wait(world.tenant, wait.id).await.unwrap().unwrap().resolution, None);
}

pub async fn many_children_end_at_once(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let run = world.start(store).await;
    let waits: Vec<Wait> = (0..40).map(|turn| Wait { kind: WaitKind::Child, name: format!("{turn}"), ..world.wait(run) }).collect();
    world.done(store, Commit { waits: waits.clone(), ..world.commit(run, 1, RunState::Paused) }).await;
    let children = waits.iter().enumerate().map(|(turn, wait)| {
        let (world, store) = (&world, if turn % 2 == 0 { store } else { &other });
        let parent = Parent { run, wait: wait.id };
        async move {
            let child = world.create(store, NewRun { parent: Some(parent), ..world.leased() }).await;
            world.done(store, Commit { child_end: end(world, parent), ..world.commit(child, 1, RunState::Completed) }).await;
        }
    });
    join_all(children).await;
    assert!(store.open_waits(world.tenant, None, 100).await.unwrap().is_empty());
    assert!(store.run_waits(world.tenant, run).await.unwrap().iter().all(|wait| wait.resolution.is_some()));
    assert_eq!(world.find(store, run).await.wake_at, Some(world.now));
}
