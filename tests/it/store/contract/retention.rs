//! Deletion of what is no longer kept.

use dispatch::id::{JobId, RunId};
use dispatch::model::job::{Job, Placed};
use dispatch::model::run::Parent;
use dispatch::model::{JobState, RunState};
use dispatch::store::{Commit, Created, DocumentRow, NOTICE, NewJob, NewRun, RunDeletion, SharedStore, Signal};
use serde_json::{Value, json};

use super::Site;
use super::world::{World, done, world};

/// An ended run.
async fn ended(world: &World, store: &SharedStore, at: u64) -> RunId {
    let run = world.start(store).await;
    world.done(store, Commit { finished_at: Some(world.at(at)), ..world.commit(run, 1, RunState::Completed) }).await;
    run
}

async fn delete(world: &World, store: &SharedStore, run: RunId) -> RunDeletion {
    store.delete_runs(world.tenant, &[run]).await.unwrap().remove(0)
}

async fn is_there(world: &World, store: &SharedStore, run: RunId) -> bool {
    store.find_run(world.tenant, run).await.unwrap().is_some()
}

/// Collects unused texts as if a day had passed; returns how many were deleted.
async fn collect(world: &World, store: &SharedStore) -> u64 {
    let (mut deleted, mut after) = (0, None);
    loop {
        let page = store.collect_blobs(world.at(86_400), after, 1).await.unwrap();
        deleted += page.deleted;
        after = page.next;
        if after.is_none() {
            return deleted;
        }
    }
}

pub async fn an_ended_run_is_deleted_with_all_of_it(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = NewRun { key: Some(world.key("k", "h")), ..world.leased() };
    let run = world.create(store, new).await;
    let kept = ended(&world, store, 1).await;
    let signal = Signal { name: "s".into(), id: "1".into(), payload: json!(1) };
    assert!(store.send_signal(world.tenant, run, signal, world.now).await.unwrap());
    world.done(store, Commit { waits: vec![world.wait(run)], ..world.commit(run, 1, RunState::Running) }).await;
    world.done(store, world.commit(run, 2, RunState::Completed)).await;
    assert_eq!(store.delete_runs(world.stranger, &[run]).await.unwrap(), [RunDeletion::Missing], "it is not the stranger's");
    assert_eq!(delete(&world, store, run).await, RunDeletion::Deleted(1));
    assert!(!is_there(&world, store, run).await);
    assert!(world.seqs(store, run).await.is_empty() && world.keys(store, run).await.is_empty());
    assert!(store.run_waits(world.tenant, run).await.unwrap().is_empty());
    assert!(store.list_signals(world.tenant, run).await.unwrap().is_empty());
    assert_eq!(delete(&world, store, run).await, RunDeletion::Missing);
    let again = NewRun { key: Some(world.key("k", "another")), ..world.leased() };
    assert_eq!(store.create_run(again).await.unwrap(), Created::New, "its key is free");
    assert!(is_there(&world, store, kept).await && !world.seqs(store, kept).await.is_empty());
}

pub async fn what_goes_on_is_not_deleted(site: Site) {
    let (world, store) = (world(), &site.store);
    let running = world.start(store).await;
    let queued = world.create(store, world.queued()).await;
    let (paused, _) = world.paused(store).await;
    for run in [running, queued, paused] {
        assert_eq!(delete(&world, store, run).await, RunDeletion::Active(run));
        assert!(is_there(&world, store, run).await);
    }
    let announced = world.start(store).await;
    world.done(store, Commit { journal: vec![done(NOTICE, Value::Null)], ..world.commit(announced, 1, RunState::Completed) }).await;
    assert_eq!(delete(&world, store, announced).await, RunDeletion::Unannounced(announced));
    assert!(store.notice_told(world.tenant, announced, 1).await.unwrap());
    assert_eq!(delete(&world, store, announced).await, RunDeletion::Deleted(1));
}

pub async fn a_run_is_deleted_with_those_that_it_began(site: Site) {
    let (world, store) = (world(), &site.store);
    let parent = world.start(store).await;
    let wait = world.wait(parent);
    world.done(store, Commit { waits: vec![wait.clone()], ..world.commit(parent, 1, RunState::Running) }).await;
    let link = Some(Parent { run: parent, wait: wait.id });
    let child = world.create(store, NewRun { parent: link, ..world.leased() }).await;
    world.done(store, world.commit(child, 1, RunState::Completed)).await;
    assert_eq!(delete(&world, store, child).await, RunDeletion::Active(parent), "its parent may look at it again");
    assert!(store.ended_runs(world.tenant, world.at(9), None, 9).await.unwrap().is_empty());
    let slow = world.create(store, NewRun { parent: link, ..world.leased() }).await;
    world.done(store, world.commit(parent, 2, RunState::Completed)).await;
    assert_eq!(delete(&world, store, parent).await, RunDeletion::Active(slow));
    world.done(store, world.commit(slow, 1, RunState::Failed)).await;
    assert_eq!(delete(&world, store, parent).await, RunDeletion::Deleted(3));
    for run in [parent, child, slow] {
        assert!(!is_there(&world, store, run).await);
    }
}

pub async fn ended_runs_are_listed_by_their_end(site: Site) {
    let (world, store) = (world(), &site.store);
    let [late, early, latest] = [ended(&world, store, 2).await, ended(&world, store, 1).await, ended(&world, store, 5).await];
    world.start(store).await;
    let list = async |before, after, limit| store.ended_runs(world.tenant, before, after, limit).await.unwrap();
    assert_eq!(list(world.at(5), None, 9).await, [(world.at(1), early), (world.at(2), late)], "before that time");
    assert_eq!(list(world.at(9), None, 1).await, [(world.at(1), early)]);
    assert_eq!(list(world.at(9), Some((world.at(1), early)), 9).await, [(world.at(2), late), (world.at(5), latest)]);
    assert!(store.ended_runs(world.stranger, world.at(9), None, 9).await.unwrap().is_empty());
}

pub async fn logs_are_deleted_except_for_their_end(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, world.commit(run, 1, RunState::Running)).await;
    world.done(store, world.commit(run, 2, RunState::Completed)).await;
    let going = world.start(store).await;
    let all = world.seqs(store, run).await;
    assert_eq!(store.delete_logs(world.tenant, world.now, 9).await.unwrap(), 0, "it ended then, not before");
    assert_eq!(store.delete_logs(world.stranger, world.at(9), 9).await.unwrap(), 0);
    assert_eq!(store.delete_logs(world.tenant, world.at(9), 9).await.unwrap(), 1);
    assert_eq!(world.seqs(store, run).await, all[all.len() - 2..], "the last segment stays");
    assert_eq!(store.delete_logs(world.tenant, world.at(9), 9).await.unwrap(), 0, "once");
    assert!(!world.seqs(store, going).await.is_empty() && is_there(&world, store, run).await);
    assert!(store.bulky_logs(world.at(9), &[], 9).await.unwrap().is_empty(), "there is nothing to make small");
}

pub async fn texts_that_nothing_uses_are_deleted(site: Site) {
    let (world, store) = (world(), &site.store);
    let large = json!("x".repeat(100_000));
    let mut runs = Vec::new();
    for _ in 0..2 {
        let run = world.start(store).await;
        let end =
            Commit { output: Some(large.clone()), journal: vec![done("big", large.clone())], ..world.commit(run, 1, RunState::Completed) };
        world.done(store, end).await;
        runs.push(run);
    }
    assert_eq!(collect(&world, store).await, 0, "everything is used");
    assert_eq!(delete(&world, store, runs[0]).await, RunDeletion::Deleted(1));
    assert_eq!(collect(&world, store).await, 0, "the other one uses the same");
    assert_eq!(world.find(store, runs[1]).await.output, Some(large.clone()));
    assert_eq!(store.read_journal(world.tenant, runs[1]).await.unwrap()[0], done("big", large));
    assert!(store.flow_of_run(world.tenant, runs[1]).await.unwrap().is_some());
    assert_eq!(delete(&world, store, runs[1]).await, RunDeletion::Deleted(1));
    assert!(collect(&world, store).await > 0);
    assert_eq!(collect(&world, store).await, 0);
}

pub async fn old_jobs_and_documents_are_found(site: Site) {
    let (world, store) = (world(), &site.store);
    let order = serde_json::from_value(json!({ "name": "n", "payload": null, "maxRetries": 0 })).unwrap();
    let job = Job::new(JobId::from_u128(world.next()), world.tenant, Placed { queue: "q".into(), priority: 0, order }, world.now);
    let id = job.id;
    store.enqueue_job(NewJob { job, key: Some("k".into()) }).await.unwrap();
    assert_eq!(store.delete_jobs(world.tenant, world.at(9), 9).await.unwrap(), 0, "it waits");
    store.move_job(world.tenant, id, &[JobState::Pending], JobState::Cancelled, world.now).await.unwrap();
    assert_eq!(store.delete_jobs(world.tenant, world.at(9), 9).await.unwrap(), 0, "webhooks are to be notified of it");
    store.job_told(world.tenant, id).await.unwrap();
    assert_eq!(store.delete_jobs(world.tenant, world.now, 9).await.unwrap(), 0, "it ended then, not before");
    assert_eq!(store.delete_jobs(world.stranger, world.at(9), 9).await.unwrap(), 0);
    assert_eq!(store.delete_jobs(world.tenant, world.at(9), 9).await.unwrap(), 1);
    assert!(store.find_job(world.tenant, id).await.unwrap().is_none());

    let row = |id: &str, due_at| DocumentRow {
        id: id.into(),
        place: None,
        parent: None,
        due_at,
        version: 1,
        body: "{}".into(),
        created_at: world.now,
        updated_at: world.now,
    };
    for (id, due_at) in [("a", None), ("b", Some(world.at(5))), ("c", Some(world.at(50)))] {
        store.create_document(world.tenant, "thing", row(id, due_at)).await.unwrap();
    }
    let stale = async |before, limit| store.stale_documents(world.tenant, "thing", before, world.at(9), limit).await.unwrap();
    assert_eq!(stale(world.at(1), 9).await, ["a", "c"], "somebody looks at the other one soon");
    assert_eq!(stale(world.at(1), 1).await, ["a"]);
    assert!(stale(world.now, 9).await.is_empty());
}
