//! The cases. Each takes a fresh store.

use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::id::{NodeId, RunId, TenantId, WaitId};
use dispatch::model::event::{Event, EventRecord, Rest, Segment};
use dispatch::model::run::Spent;
use dispatch::model::wait::{Resolution, Wait, WaitKind};
use dispatch::model::{Epoch, JournalEntry, Outcome, RunInput, RunState};
use dispatch::store::{Blob, Claim, Commit, Committed, Created, NewRun, Resolve, Resolved};
use serde_json::json;

struct World {
    clock: Clock,
    tenant: TenantId,
    node: NodeId,
    run: RunId,
    now: Timestamp,
}

fn world() -> World {
    let clock = Clock::system();
    let (tenant, node, run, now) = (TenantId::new(&clock), NodeId::new(&clock), RunId::new(&clock), clock.now());
    World { clock, tenant, node, run, now }
}

fn segment(first: u64, rest: Rest) -> Segment {
    let event = |seq| EventRecord::new(seq, &Event::Error { error: format!("e{seq}"), recoverable: true });
    Segment { events: vec![event(first), event(first + 1)], rest }
}

impl World {
    fn new_run(&self) -> NewRun {
        NewRun {
            id: self.run,
            tenant: self.tenant,
            flow: Blob::new("{\"flow\":1}".into()),
            flow_id: None,
            flow_name: "test".into(),
            input: RunInput::default(),
            sealed: Some(vec![1, 2, 255]),
            parent: None,
            key: None,
            lease: Some((self.node, self.now.after(Duration::from_secs(10)))),
            created_at: self.now,
            reserved: 64,
            journal: vec![],
            segment: Some(segment(0, Rest::None)),
        }
    }

    fn commit(&self, number: i64, state: RunState) -> Commit {
        Commit {
            run: self.run,
            epoch: Epoch(1),
            number,
            seen_nudges: None,
            state,
            wake_at: None,
            reserved: 128,
            spent: Spent { cost: 5, ..Spent::default() },
            output: Some(json!({"n": number})),
            failure: None,
            finished_at: None,
            journal: vec![JournalEntry { key: format!("steps/{number}"), outcome: Outcome::Done(json!(number)) }],
            segment: Some(segment(u64::try_from(number).unwrap() * 2, Rest::None)),
            waits: vec![],
            child_end: None,
            now: self.now,
        }
    }

    fn wait(&self) -> Wait {
        Wait {
            id: WaitId::new(&self.clock),
            run: self.run,
            tenant: self.tenant,
            key: "steps/a/approval".into(),
            kind: WaitKind::Approval,
            name: "call_1".into(),
            shown: json!({"amount": 5}),
            digest: Some("d".into()),
            deadline: None,
            created_at: self.now,
            resolution: None,
            resolved_at: None,
        }
    }
}

pub async fn a_run_is_created_committed_and_read(site: std::sync::Arc<super::super::site::Site>) {
    let store = &site.store;
    let world = world();
    assert_eq!(store.create_run(world.new_run()).await.unwrap(), Created::New);
    assert_eq!(store.commit_run(world.commit(1, RunState::Running)).await.unwrap(), Committed::Done);
    let large = "x".repeat(100_000);
    let end = Commit { output: Some(json!(large)), finished_at: Some(world.now), ..world.commit(2, RunState::Completed) };
    assert_eq!(store.commit_run(end).await.unwrap(), Committed::Done);
    let run = store.find_run(world.tenant, world.run).await.unwrap().unwrap();
    assert_eq!((run.state, run.commit, run.output, run.sealed), (RunState::Completed, 2, Some(json!(large)), None));
    assert_eq!(run.spent.cost, 5);
    let log = store.read_log(world.tenant, world.run, Some(1), 10).await.unwrap();
    let seqs: Vec<u64> = log.iter().flat_map(|segment| segment.events.iter().map(|event| event.seq)).collect();
    assert_eq!(seqs, [2, 3, 4, 5]);
    assert_eq!(store.read_journal(world.tenant, world.run).await.unwrap().len(), 2);
    let stranger = TenantId::new(&world.clock);
    assert!(store.find_run(stranger, world.run).await.unwrap().is_none());
    assert!(store.read_log(stranger, world.run, None, 10).await.unwrap().is_empty());
    assert!(store.read_journal(stranger, world.run).await.unwrap().is_empty());
}

pub async fn a_late_owner_is_refused(site: std::sync::Arc<super::super::site::Site>) {
    let store = &site.store;
    let world = world();
    store.create_run(world.new_run()).await.unwrap();
    let later = world.now.after(Duration::from_secs(11));
    let other = NodeId::new(&world.clock);
    let claim = Claim { node: other, now: later, until: later.after(Duration::from_secs(10)), max: 5, only: None };
    let leases = store.claim_runs(claim).await.unwrap();
    assert_eq!(leases.len(), 1);
    assert_eq!((leases[0].run.epoch, leases[0].recovered, leases[0].run.recoveries), (Epoch(2), true, 1));
    assert_eq!(leases[0].flow, "{\"flow\":1}");
    assert_eq!(leases[0].run.sealed, Some(vec![1, 2, 255]));
    assert_eq!(store.commit_run(world.commit(1, RunState::Running)).await.unwrap(), Committed::Fenced);
    assert!(store.read_journal(world.tenant, world.run).await.unwrap().is_empty());
    assert!(store.renew_runs(world.node, &[(world.run, Epoch(1))], later).await.unwrap().is_empty());
    let renewed = store.renew_runs(other, &[(world.run, Epoch(2))], later.after(Duration::from_secs(20))).await.unwrap();
    assert_eq!(renewed.len(), 1);
    assert!(store.claim_runs(Claim { node: world.node, now: later, ..claim }).await.unwrap().is_empty());
}

pub async fn a_commit_whose_answer_was_lost_is_recognised(site: std::sync::Arc<super::super::site::Site>) {
    let store = &site.store;
    let world = world();
    store.create_run(world.new_run()).await.unwrap();
    assert_eq!(store.create_run(world.new_run()).await.unwrap(), Created::New);
    store.commit_run(world.commit(1, RunState::Running)).await.unwrap();
    assert_eq!(store.commit_run(world.commit(1, RunState::Running)).await.unwrap(), Committed::Done);
    assert_eq!(store.commit_run(world.commit(3, RunState::Running)).await.unwrap(), Committed::Fenced);
}

pub async fn a_nudged_run_does_not_pause(site: std::sync::Arc<super::super::site::Site>) {
    let store = &site.store;
    let world = world();
    store.create_run(world.new_run()).await.unwrap();
    store.request_cancel(world.tenant, world.run, world.now).await.unwrap();
    let pause = |seen| Commit { seen_nudges: Some(seen), ..world.commit(1, RunState::Paused) };
    assert_eq!(store.commit_run(pause(0)).await.unwrap(), Committed::Nudged);
    assert_eq!(store.commit_run(pause(1)).await.unwrap(), Committed::Done);
}

pub async fn waits_are_answered_once(site: std::sync::Arc<super::super::site::Site>) {
    let store = &site.store;
    let world = world();
    store.create_run(world.new_run()).await.unwrap();
    let wait = world.wait();
    let pause = Commit { waits: vec![wait.clone()], ..world.commit(1, RunState::Paused) };
    store.commit_run(pause).await.unwrap();
    let answer = |tenant, decision: &str| Resolve {
        tenant,
        wait: wait.id,
        resolution: Resolution { answer: json!({"decision": decision}), by: "key_1".into(), timed_out: false },
        now: world.now,
    };
    assert_eq!(store.resolve_waits(vec![answer(TenantId::new(&world.clock), "approved")]).await.unwrap(), [Resolved::Closed]);
    assert_eq!(store.open_waits(world.tenant, None, 10).await.unwrap(), [wait.clone()]);
    assert_eq!(store.resolve_waits(vec![answer(world.tenant, "approved")]).await.unwrap(), [Resolved::First]);
    let before = Resolved::Before(answer(world.tenant, "approved").resolution);
    assert_eq!(store.resolve_waits(vec![answer(world.tenant, "denied")]).await.unwrap(), [before]);
    assert!(store.open_waits(world.tenant, None, 10).await.unwrap().is_empty());
    let claim = Claim { node: world.node, now: world.now, until: world.now, max: 5, only: Some(world.run) };
    let leases = store.claim_runs(claim).await.unwrap();
    assert_eq!(leases.len(), 1);
    assert!(!leases[0].recovered);
    assert!(leases[0].waits[0].resolution.is_some());
}
