//! Jobs: claimed in their order within their queues' limits, ended once, buried, dug up again.

use std::collections::BTreeMap;
use std::time::Duration;

use dispatch::clock::Timestamp;
use dispatch::id::{DeadLetterId, JobId, TenantId};
use dispatch::model::job::{Job, JobEnd, JobScope, JobState, Limits, Order, QueueRules};
use dispatch::model::{Epoch, RunState};
use dispatch::store::{
    ClaimedJob, Commit, Committed, DeadFilter, Enqueued, JobClaim, JobFilter, JobTurns, NewJob, Queue, SharedStore, StoreError,
};
use serde_json::json;

use super::Site;
use super::world::{World, world};

fn job(world: &World) -> Job {
    let order = Order {
        name: "mail".into(),
        payload: json!({ "to": "Ada\0" }),
        callback: None,
        max_retries: 2,
        timeout_ms: Some(5),
        scope: JobScope { app: "app".into(), org: "org".into() },
        key_id: None,
        cron: None,
        replay_of: None,
    };
    Job {
        id: JobId::from_u128(world.next()),
        tenant: world.tenant,
        queue: "default".into(),
        priority: 0,
        state: JobState::Pending,
        attempt: 0,
        retry_count: 0,
        last_error: None,
        worker: None,
        run_at: world.now,
        started_at: None,
        completed_at: None,
        heartbeat_at: None,
        created_at: world.now,
        updated_at: world.now,
        order,
    }
}

async fn enqueue(store: &SharedStore, job: Job) -> Job {
    assert_eq!(store.enqueue_job(NewJob { job: job.clone(), key: None }).await.unwrap(), Enqueued::New);
    job
}

fn claim(world: &World, now: Timestamp, max: u32) -> JobClaim {
    JobClaim { node: world.node, now, check_at: now.after(Duration::from_secs(30)), max, except: Vec::new(), turns: JobTurns::default() }
}

async fn claimed(store: &SharedStore, claim: JobClaim) -> Vec<JobId> {
    store.claim_jobs(claim).await.unwrap().jobs.into_iter().filter(|one| !one.begun_before).map(|one| one.job.id).collect()
}

fn end(job: &Job, state: JobState, now: Timestamp) -> JobEnd {
    JobEnd { tenant: job.tenant, job: job.id, attempt: 1, state, error: None, run_at: None, dead: None, now }
}

pub async fn a_job_goes_from_its_queue_to_its_end(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    assert_eq!(store.find_job(world.tenant, new.id).await.unwrap().as_ref(), Some(&new));
    let taken = store.claim_jobs(claim(&world, world.at(1), 10)).await.unwrap().jobs;
    let running = Job {
        state: JobState::Running,
        attempt: 1,
        worker: Some(world.node),
        started_at: Some(world.at(1)),
        heartbeat_at: Some(world.at(1)),
        updated_at: world.at(1),
        ..new.clone()
    };
    assert_eq!(taken, [ClaimedJob { job: running.clone(), begun_before: false }]);
    assert_eq!(store.find_job(world.tenant, new.id).await.unwrap(), Some(running.clone()));
    assert!(claimed(store, claim(&world, world.at(2), 10)).await.is_empty());
    let other = JobEnd { attempt: 2, ..end(&new, JobState::Completed, world.at(3)) };
    assert!(!store.end_job(other).await.unwrap(), "another attempt");
    assert!(store.end_job(end(&new, JobState::Completed, world.at(3))).await.unwrap());
    assert!(!store.end_job(end(&new, JobState::Failed, world.at(4))).await.unwrap(), "it is over");
    let done = store.find_job(world.tenant, new.id).await.unwrap().unwrap();
    assert_eq!((done.state, done.completed_at, done.worker, done.retry_count), (JobState::Completed, Some(world.at(3)), None, 0));
}

pub async fn jobs_of_some_tenants_do_not_begin(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    let without = |tenant| JobClaim { except: vec![tenant], ..claim(&world, world.at(1), 10) };
    assert!(claimed(store, without(world.tenant)).await.is_empty());
    assert_eq!(claimed(store, without(world.stranger)).await, [new.id]);
}

pub async fn a_failure_is_retried_when_its_time_comes(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    claimed(store, claim(&world, world.now, 1)).await;
    let failed = JobEnd { error: Some("no answer".into()), run_at: Some(world.at(60)), ..end(&new, JobState::Retrying, world.at(1)) };
    assert!(store.end_job(failed).await.unwrap());
    let waits = store.find_job(world.tenant, new.id).await.unwrap().unwrap();
    assert_eq!((waits.state, waits.retry_count, waits.last_error.as_deref()), (JobState::Retrying, 1, Some("no answer")));
    assert_eq!(store.next_job(world.at(1)).await.unwrap(), Some(world.at(60)));
    assert!(claimed(store, claim(&world, world.at(59), 1)).await.is_empty());
    assert_eq!(claimed(store, claim(&world, world.at(60), 1)).await, [new.id]);
    assert_eq!(store.find_job(world.tenant, new.id).await.unwrap().unwrap().attempt, 2);
    // What could not begin is not counted.
    let handed_back = JobEnd { attempt: 2, run_at: Some(world.at(70)), ..end(&new, JobState::Pending, world.at(61)) };
    assert!(store.end_job(handed_back).await.unwrap());
    let again = store.find_job(world.tenant, new.id).await.unwrap().unwrap();
    assert_eq!((again.state, again.attempt, again.retry_count, again.run_at), (JobState::Pending, 1, 1, world.at(70)));
    assert_eq!(claimed(store, claim(&world, world.at(70), 1)).await, [new.id]);
}

pub async fn the_higher_priority_goes_first_then_the_longer_due(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut wanted = Vec::new();
    for (priority, seconds) in [(5, 3), (5, 4), (0, 1), (0, 2), (-1, 0)] {
        wanted.push(Job { priority, run_at: world.at(seconds), ..job(&world) });
    }
    for place in [3, 0, 4, 2, 1] {
        enqueue(store, wanted[place].clone()).await;
    }
    let later = enqueue(store, Job { priority: 100, run_at: world.at(1_000), ..job(&world) }).await;
    let ids: Vec<JobId> = wanted.iter().map(|job| job.id).collect();
    assert_eq!(claimed(store, claim(&world, world.at(10), 2)).await, ids[..2]);
    assert_eq!(claimed(store, claim(&world, world.at(10), 10)).await, ids[2..]);
    assert_eq!(claimed(store, claim(&world, world.at(1_000), 10)).await, [later.id]);
}

/// A job of each of a tenant's priorities.
async fn enqueue_many(world: &World, store: &SharedStore, tenant: TenantId, priorities: impl IntoIterator<Item = i32>) -> Vec<JobId> {
    let jobs = priorities.into_iter().map(|priority| enqueue(store, Job { tenant, priority, ..job(world) }));
    futures_util::future::join_all(jobs).await.into_iter().map(|job| job.id).collect()
}

pub async fn each_tenant_has_its_turn_whatever_the_priorities(site: Site) {
    let (world, store) = (world(), &site.store);
    // The others' jobs come last, and are of the lowest priority.
    let many = enqueue_many(&world, store, world.tenant, [1_000; 300]).await;
    let few = enqueue_many(&world, store, world.stranger, [-5, 5]).await;
    let third = enqueue_many(&world, store, world.third(), [0]).await;
    let taken = claimed(store, claim(&world, world.at(1), 6)).await;
    assert_eq!(taken, [many[0], few[1], third[0], many[1], few[0], many[2]], "one of each in turn, a tenant's own by its priorities");
    assert_eq!(claimed(store, claim(&world, world.at(1), 2)).await, many[3..5], "nobody else has any left");
}

pub async fn who_has_more_in_hand_comes_later(site: Site) {
    let (world, store) = (world(), &site.store);
    let (one, other) = (world.tenant, world.stranger);
    let many = enqueue_many(&world, store, one, [9; 40]).await;
    let few = enqueue_many(&world, store, other, [0; 5]).await;
    let with = |turns: JobTurns, max: u32| JobClaim { turns, ..claim(&world, world.at(1), max) };
    let held = |counts: [(TenantId, u32); 2]| -> BTreeMap<TenantId, u32> { counts.into_iter().collect() };
    let turns = JobTurns { held: held([(one, 7), (other, 5)]), ..JobTurns::default() };
    assert_eq!(claimed(store, with(turns, 3)).await, [few[0], few[1], many[0]]);
    let turns = JobTurns { held: held([(one, 7), (other, 1)]), reserved: 2, after: None };
    assert_eq!(claimed(store, with(turns.clone(), 3)).await, [few[2]], "what is reserved is for those who have none in hand");
    assert!(claimed(store, with(turns, 2)).await.is_empty());
    let none = JobTurns { reserved: 1, ..JobTurns::default() };
    assert_eq!(claimed(store, with(none, 1)).await, many[1..2]);
    // A place that becomes free again and again goes to each in turn.
    let mut last = Some(one);
    for (wanted, tenant) in [(few[3], other), (many[2], one), (few[4], other), (many[3], one), (many[4], one)] {
        let turns = JobTurns { after: last, ..JobTurns::default() };
        assert_eq!(claimed(store, with(turns, 1)).await, [wanted]);
        last = Some(tenant);
    }
}

pub async fn what_one_tenants_queues_hold_back_is_nobody_elses_turn(site: Site) {
    let (world, store) = (world(), &site.store);
    let limits = Limits { max_concurrency: 1, ..Limits::default() };
    let rules = QueueRules { limits, ..QueueRules::default() };
    store.put_queue(world.tenant, Queue { name: "default".into(), rules }).await.unwrap();
    let held_back = enqueue_many(&world, store, world.tenant, [9; 50]).await;
    let free = enqueue_many(&world, store, world.stranger, [0; 10]).await;
    let taken = claimed(store, claim(&world, world.at(1), 8)).await;
    assert_eq!((taken.len(), taken[0]), (8, held_back[0]), "the room that one cannot use is the others'");
    assert_eq!(taken[1..], free[..7]);
}

pub async fn two_nodes_never_take_one_job_nor_more_than_a_queue_allows(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let limits = Limits { max_concurrency: 3, ..Limits::default() };
    let rules = QueueRules { limits, ..QueueRules::default() };
    store.put_queue(world.tenant, Queue { name: "narrow".into(), rules }).await.unwrap();
    for number in 0..40 {
        let queue = if number % 2 == 0 { "narrow" } else { "default" };
        enqueue(store, Job { queue: queue.into(), ..job(&world) }).await;
    }
    let mut taken = Vec::new();
    for _ in 0..5 {
        let (mine, theirs) = tokio::join!(store.claim_jobs(claim(&world, world.at(1), 4)), other.claim_jobs(claim(&world, world.at(1), 4)));
        taken.extend(mine.unwrap().jobs.into_iter().chain(theirs.unwrap().jobs));
    }
    let mut ids: Vec<JobId> = taken.iter().map(|one| one.job.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), taken.len(), "none was taken twice");
    assert_eq!(taken.iter().filter(|one| one.job.queue == "narrow").count(), 3);
    assert_eq!(taken.len(), 23, "what a queue holds back holds up no other");
    // One that ends makes room for one.
    let first = taken.iter().find(|one| one.job.queue == "narrow").unwrap();
    store.end_job(end(&first.job, JobState::Completed, world.at(2))).await.unwrap();
    assert_eq!(claimed(store, claim(&world, world.at(2), 10)).await.len(), 1);
}

pub async fn an_organisation_and_a_rate_have_limits_too(site: Site) {
    let (world, store) = (world(), &site.store);
    let one = Limits { max_concurrency: 1, ..Limits::default() };
    let limits = Limits { rate_limit: 1.0, rate_burst: 3, ..Limits::default() };
    let rules = QueueRules { limits, orgs: BTreeMap::from([("org".to_owned(), one)]), paused: false };
    store.put_queue(world.tenant, Queue { name: "default".into(), rules: rules.clone() }).await.unwrap();
    for _ in 0..3 {
        enqueue(store, job(&world)).await;
    }
    let mut free = Vec::new();
    for _ in 0..4 {
        let job = job(&world);
        let order = Order { scope: JobScope::default(), ..job.order.clone() };
        free.push(enqueue(store, Job { order, ..job }).await.id);
    }
    let first = claimed(store, claim(&world, world.now, 10)).await;
    assert_eq!((first.len(), &first[1..]), (3, &free[..2]), "one of the organisation, and as many as the burst allows");
    let refused = store.claim_jobs(claim(&world, world.now, 10)).await.unwrap();
    assert_eq!((refused.jobs.len(), refused.again_at), (0, Some(world.now.after(Duration::from_millis(1_001)))));
    store.put_queue(world.tenant, Queue { name: "default".into(), rules: rules.clone() }).await.unwrap();
    assert!(claimed(store, claim(&world, world.now, 10)).await.is_empty(), "the same rules again are no new burst");
    assert_eq!(store.next_job(world.now).await.unwrap(), Some(world.at(30)), "an attempt is looked after");
    assert_eq!(claimed(store, claim(&world, world.at(1), 10)).await, free[2..3]);
    store.put_queue(world.tenant, Queue { name: "default".into(), rules: QueueRules { paused: true, ..rules.clone() } }).await.unwrap();
    assert!(claimed(store, claim(&world, world.at(9), 10)).await.is_empty());
    assert_eq!(
        store.list_queues(world.tenant).await.unwrap(),
        [Queue { name: "default".into(), rules: QueueRules { paused: true, ..rules } }]
    );
    assert!(store.list_queues(world.stranger).await.unwrap().is_empty());
    assert!(!store.delete_queue(world.stranger, "default").await.unwrap());
    assert!(store.delete_queue(world.tenant, "default").await.unwrap());
    assert_eq!(claimed(store, claim(&world, world.at(9), 10)).await.len(), 3);
}

pub async fn what_is_full_hides_nothing_behind_it(site: Site) {
    let (world, store) = (world(), &site.store);
    let one = Limits { max_concurrency: 1, ..Limits::default() };
    let rules = QueueRules { orgs: BTreeMap::from([("org".to_owned(), one)]), ..QueueRules::default() };
    store.put_queue(world.tenant, Queue { name: "default".into(), rules }).await.unwrap();
    let paused = Queue { name: "paused".into(), rules: QueueRules { paused: true, ..QueueRules::default() } };
    store.put_queue(world.tenant, paused).await.unwrap();
    for _ in 0..21 {
        let many = (0..500).map(|_| enqueue(store, Job { priority: 1, ..job(&world) }));
        futures_util::future::join_all(many).await;
    }
    enqueue(store, Job { priority: 2, queue: "paused".into(), ..job(&world) }).await;
    let other = job(&world);
    let order = Order { scope: JobScope::default(), ..other.order.clone() };
    let behind = enqueue(store, Job { order, ..other }).await.id;
    let taken = claimed(store, claim(&world, world.now, 10)).await;
    assert_eq!((taken.len(), taken.last()), (2, Some(&behind)), "one of the organisation, and the one behind its ten thousand");
}

pub async fn an_attempt_that_nobody_speaks_of_is_looked_after_ever_more_seldom(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    claimed(store, claim(&world, world.now, 1)).await;
    let look = async |second| store.claim_jobs(claim(&world, world.at(second), 1)).await.unwrap().jobs;
    assert!(look(29).await.is_empty());
    let stale = look(30).await;
    assert_eq!((stale.len(), stale[0].begun_before, stale[0].job.attempt, stale[0].job.id), (1, true, 1, new.id));
    assert!(look(89).await.is_empty(), "it has lived for 30 s, so it is left alone for 60 more");
    assert_eq!(look(90).await.len(), 1);
}

pub async fn an_end_is_never_lost_to_a_look(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for round in 0..30 {
        let new = enqueue(store, Job { run_at: world.at(round * 1_000), created_at: world.at(round * 1_000), ..job(&world) }).await;
        assert_eq!(claimed(store, claim(&world, world.at(round * 1_000), 1)).await, [new.id]);
        let late = world.at(round * 1_000 + 500);
        let (ended, looked) = tokio::join!(store.end_job(end(&new, JobState::Completed, late)), other.claim_jobs(claim(&world, late, 10)));
        assert!(ended.unwrap());
        assert!(looked.unwrap().jobs.iter().all(|one| one.begun_before && one.job.attempt == 1));
        assert_eq!(store.find_job(world.tenant, new.id).await.unwrap().unwrap().state, JobState::Completed, "round {round}");
    }
}

pub async fn a_run_s_end_is_its_job_s(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    claimed(store, claim(&world, world.now, 1)).await;
    let run = world.leased();
    let id = run.id;
    store.create_run(run).await.unwrap();
    let dead = DeadLetterId::from_u128(world.next());
    let failed = JobEnd { error: Some("broken".into()), dead: Some(dead), ..end(&new, JobState::Failed, world.at(2)) };
    let last = Commit { job_end: Some(failed), ..world.commit(id, 1, RunState::Failed) };
    // A late owner ends nothing.
    assert_eq!(store.commit_run(Commit { epoch: Epoch(9), ..last.clone() }).await.unwrap(), Committed::Fenced);
    assert_eq!(store.find_job(world.tenant, new.id).await.unwrap().unwrap().state, JobState::Running);
    for _ in 0..2 {
        assert_eq!(store.commit_run(last.clone()).await.unwrap(), Committed::Done, "the second time it is known");
    }
    let job = store.find_job(world.tenant, new.id).await.unwrap().unwrap();
    assert_eq!((job.state, job.retry_count, job.last_error.as_deref()), (JobState::Failed, 1, Some("broken")));
    let letters = store.list_dead(world.tenant, DeadFilter { limit: 10, ..DeadFilter::default() }).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id, letters[0].job, &letters[0].order, letters[0].retry_count), (dead, new.id, &new.order, 1));
    assert_eq!((letters[0].error.as_str(), letters[0].failed_at, letters[0].replayed_at), ("broken", world.at(2), None));
}

pub async fn a_job_whose_run_was_to_be_cancelled_is_not_tried_again(site: Site) {
    let (world, store) = (world(), &site.store);
    let new = enqueue(store, job(&world)).await;
    claimed(store, claim(&world, world.now, 1)).await;
    let run = world.leased();
    let id = run.id;
    store.create_run(run).await.unwrap();
    store.request_cancel(world.tenant, id, world.at(1)).await.unwrap();
    let failed = JobEnd { error: Some("broken".into()), run_at: Some(world.at(5)), ..end(&new, JobState::Retrying, world.at(2)) };
    let last = Commit { job_end: Some(failed), ..world.commit(id, 1, RunState::Failed) };
    assert_eq!(store.commit_run(last).await.unwrap(), Committed::Done);
    let job = store.find_job(world.tenant, new.id).await.unwrap().unwrap();
    assert_eq!((job.state, job.completed_at, job.last_error.as_deref()), (JobState::Cancelled, Some(world.at(2)), Some("broken")));
    assert!(claimed(store, claim(&world, world.at(60), 10)).await.is_empty());
}

pub async fn the_same_key_is_the_same_job(site: Site) {
    let (world, store) = (world(), &site.store);
    let put = async |job: &Job| store.enqueue_job(NewJob { job: job.clone(), key: Some("cron/1".into()) }).await;
    let first = job(&world);
    assert_eq!(put(&first).await.unwrap(), Enqueued::New);
    assert_eq!(put(&first).await.unwrap(), Enqueued::New, "a repeated try is recognised");
    assert_eq!(put(&job(&world)).await.unwrap(), Enqueued::Before(first.id));
    assert_eq!(put(&Job { tenant: world.stranger, ..job(&world) }).await.unwrap(), Enqueued::New);
    let counts = futures_util::future::join_all(
        (0..50).map(|_| async { store.enqueue_job(NewJob { job: job(&world), key: Some("cron/2".into()) }).await.unwrap() }),
    );
    assert_eq!(counts.await.into_iter().filter(|made| *made == Enqueued::New).count(), 1);
    let stolen = put(&Job { tenant: world.stranger, ..first }).await;
    assert!(matches!(stolen, Err(StoreError::Exists(_)) | Ok(Enqueued::Before(_))), "{stolen:?}");
}

pub async fn jobs_are_listed_counted_moved_and_deleted(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut all = Vec::new();
    for number in 0..6_u32 {
        let queue = if number < 2 { "mail" } else { "default" };
        all.push(enqueue(store, Job { queue: queue.into(), ..job(&world) }).await);
    }
    let ids = async |filter: JobFilter| -> Vec<JobId> {
        store.list_jobs(world.tenant, JobFilter { limit: 100, ..filter }).await.unwrap().iter().map(|job| job.id).collect()
    };
    let of = |range: std::ops::Range<usize>| all[range].iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(JobFilter::default()).await, of(0..6));
    assert_eq!(ids(JobFilter { queue: Some("mail".into()), ..JobFilter::default() }).await, of(0..2));
    assert_eq!(ids(JobFilter { offset: 4, ..JobFilter::default() }).await, of(4..6));
    assert_eq!(ids(JobFilter { after: Some(all[2].id), ..JobFilter::default() }).await, of(3..6));
    assert!(ids(JobFilter { name: Some("other".into()), ..JobFilter::default() }).await.is_empty());
    assert!(ids(JobFilter { queue: Some("a\0".into()), ..JobFilter::default() }).await.is_empty());

    const WAITING: &[JobState] = &[JobState::Pending, JobState::Retrying];
    let id = all[5].id;
    let moved = async |tenant: TenantId, from: &[JobState], to| store.move_job(tenant, id, from, to, world.at(1)).await.unwrap();
    assert_eq!(moved(world.stranger, WAITING, JobState::Cancelled).await, None);
    assert_eq!(store.delete_job(world.tenant, id).await.unwrap(), Some(JobState::Pending), "it is not over: it stays");
    assert_eq!(moved(world.tenant, WAITING, JobState::Cancelled).await, Some(JobState::Pending));
    assert_eq!(moved(world.tenant, WAITING, JobState::Cancelled).await, Some(JobState::Cancelled));
    assert_eq!(store.find_job(world.tenant, id).await.unwrap().unwrap().completed_at, Some(world.at(1)));
    assert_eq!(claimed(store, claim(&world, world.at(1), 1)).await, of(0..1));
    let counts = store.count_jobs(world.tenant).await.unwrap();
    let counts: Vec<(&str, &str, u64)> = counts.iter().map(|count| (count.queue.as_str(), count.state.as_str(), count.count)).collect();
    assert_eq!(counts, [("default", "cancelled", 1), ("default", "pending", 3), ("mail", "pending", 1), ("mail", "running", 1)]);
    assert!(store.count_jobs(world.stranger).await.unwrap().is_empty());
    assert_eq!(store.delete_job(world.stranger, id).await.unwrap(), None);
    assert_eq!(store.delete_job(world.tenant, id).await.unwrap(), Some(JobState::Cancelled));
    assert_eq!(store.find_job(world.tenant, id).await.unwrap(), None);
}

pub async fn a_dead_job_rises_by_itself_or_as_another(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut letters = Vec::new();
    for number in 0..3 {
        let new = enqueue(store, Job { priority: 7, ..job(&world) }).await;
        claimed(store, claim(&world, world.now, 1)).await;
        let dead = DeadLetterId::from_u128(world.next());
        let failed = JobEnd { error: Some("x".into()), dead: Some(dead), ..end(&new, JobState::Failed, world.at(10 + number)) };
        assert!(store.end_job(failed).await.unwrap());
        letters.push((dead, new));
    }
    let list = async |filter: DeadFilter| -> Vec<DeadLetterId> {
        store.list_dead(world.tenant, DeadFilter { limit: 10, ..filter }).await.unwrap().iter().map(|letter| letter.id).collect()
    };
    let open = || DeadFilter { open: true, ..DeadFilter::default() };
    assert_eq!(list(DeadFilter::default()).await, letters.iter().map(|(id, _)| *id).collect::<Vec<_>>());
    assert_eq!(list(DeadFilter { after: Some((world.at(10), letters[0].0)), ..DeadFilter::default() }).await.len(), 2);
    assert!(list(DeadFilter { queue: Some("other".into()), ..DeadFilter::default() }).await.is_empty());
    // The job itself, tried again.
    let back = store.move_job(world.tenant, letters[0].1.id, &[JobState::Failed], JobState::Pending, world.at(20)).await.unwrap();
    assert_eq!(back, Some(JobState::Failed));
    let again = store.find_job(world.tenant, letters[0].1.id).await.unwrap().unwrap();
    assert_eq!((again.state, again.retry_count, again.attempt, again.last_error), (JobState::Pending, 0, 1, None));
    assert_eq!((again.run_at, again.started_at, again.completed_at), (world.at(20), None, None));
    assert_eq!(list(open()).await, [letters[1].0, letters[2].0]);
    // Another job in its place.
    let fresh = job(&world);
    let seen = store.find_dead(world.tenant, letters[1].0).await.unwrap().unwrap();
    assert!(!store.replay_dead(world.stranger, &seen, fresh.clone(), world.at(21)).await.unwrap());
    assert_eq!(store.find_job(world.tenant, fresh.id).await.unwrap(), None);
    assert!(store.replay_dead(world.tenant, &seen, fresh.clone(), world.at(21)).await.unwrap());
    let late = job(&world);
    assert!(!store.replay_dead(world.tenant, &seen, late.clone(), world.at(21)).await.unwrap(), "it was replayed since it was read");
    assert_eq!(store.find_job(world.tenant, late.id).await.unwrap(), None);
    let letter = store.find_dead(world.tenant, letters[1].0).await.unwrap().unwrap();
    assert_eq!((letter.replayed_at, letter.replayed_as, letter.priority), (Some(world.at(21)), Some(fresh.id), 7));
    assert_eq!(
        claimed(store, claim(&world, world.at(22), 10)).await,
        [letters[0].1.id, fresh.id].map(|id| id).into_iter().collect::<Vec<_>>()
    );
    assert_eq!(store.find_dead(world.stranger, letters[1].0).await.unwrap(), None);
    assert_eq!(store.count_dead(world.tenant, DeadFilter::default()).await.unwrap(), 3);
    assert_eq!(store.count_dead(world.tenant, open()).await.unwrap(), 1);
    assert_eq!(store.purge_dead(world.stranger, DeadFilter::default()).await.unwrap(), 0);
    assert_eq!(store.purge_dead(world.tenant, DeadFilter { before: Some(world.at(12)), ..DeadFilter::default() }).await.unwrap(), 2);
    assert_eq!(list(DeadFilter::default()).await, [letters[2].0]);
}

pub async fn a_nul_in_a_job_is_refused(site: Site) {
    let (world, store) = (world(), &site.store);
    let nul = "a\0".to_owned();
    let scope = JobScope { app: String::new(), org: nul.clone() };
    let good = job(&world);
    for bad in [
        Job { queue: nul.clone(), ..good.clone() },
        Job { order: Order { name: nul.clone(), ..good.order.clone() }, ..good.clone() },
        Job { order: Order { scope, ..good.order.clone() }, ..good.clone() },
    ] {
        assert!(matches!(store.enqueue_job(NewJob { job: bad, key: None }).await, Err(StoreError::Unfit { .. })));
    }
    assert!(matches!(store.enqueue_job(NewJob { job: good, key: Some(nul.clone()) }).await, Err(StoreError::Unfit { .. })));
    let queue = Queue { name: nul.clone(), rules: QueueRules::default() };
    assert!(matches!(store.put_queue(world.tenant, queue).await, Err(StoreError::Unfit { .. })));
    assert!(!store.delete_queue(world.tenant, &nul).await.unwrap());
    assert_eq!(store.count_dead(world.tenant, DeadFilter { queue: Some(nul), ..DeadFilter::default() }).await.unwrap(), 0);
}
