//! Builders: a tenant, a stranger, two nodes and runs, in few words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::id::{NodeId, RunId, TenantId, WaitId};
use dispatch::model::event::{Event, EventRecord, Rest, Segment};
use dispatch::model::run::Spent;
use dispatch::model::wait::{Resolution, Wait, WaitKind};
use dispatch::model::{Epoch, JournalEntry, Outcome, Run, RunInput, RunState};
use dispatch::store::{Blob, Claim, Commit, Committed, Created, NewRun, Resolve, RunKey, SharedStore};
use serde_json::{Value, json};

pub struct World {
    pub tenant: TenantId,
    pub stranger: TenantId,
    pub node: NodeId,
    pub rival: NodeId,
    pub now: Timestamp,
    last: AtomicU64,
    first: u128,
}

pub fn world() -> World {
    let clock = Clock::system();
    let (node, first, now) = (NodeId::new(&clock), RunId::new(&clock).as_u128(), clock.now());
    let id = |place: u128| TenantId::from_u128(first + place);
    World { tenant: id(1), stranger: id(2), node, rival: NodeId::new(&clock), now, last: AtomicU64::new(2), first }
}

/// A stretch of two events.
pub fn segment(first: u64, rest: Rest) -> Segment {
    let event = |seq| EventRecord::new(seq, &Event::Error { error: format!("e{seq}"), recoverable: true });
    Segment { events: vec![event(first), event(first + 1)], rest }
}

pub fn done(key: &str, value: Value) -> JournalEntry {
    JournalEntry { key: key.into(), outcome: Outcome::Done(value) }
}

impl World {
    /// One more tenant, whose id is greater than those of the two.
    pub fn third(&self) -> TenantId {
        TenantId::from_u128(self.first + 1_000_000)
    }

    /// The next id: greater than those before, however quickly it is asked for.
    pub fn next(&self) -> u128 {
        self.first + u128::from(self.last.fetch_add(1, Ordering::Relaxed)) + 1
    }

    /// `now` plus seconds.
    pub fn at(&self, seconds: u64) -> Timestamp {
        self.now.after(Duration::from_secs(seconds))
    }

    /// A run born under this node's lease, until 10 s from now.
    pub fn leased(&self) -> NewRun {
        NewRun {
            id: RunId::from_u128(self.next()),
            tenant: self.tenant,
            flow: Blob::new("{\"flow\":1}".into()),
            target: dispatch::model::Target::default(),
            flow_name: "test".into(),
            input: RunInput::default(),
            sealed: Some(vec![1, 2, 255]),
            parent: None,
            key: None,
            lease: Some((self.node, self.at(10))),
            created_at: self.now,
            reserved: 64,
            journal: vec![],
            segment: Some(segment(0, Rest::None)),
        }
    }

    /// A run that anyone may take.
    pub fn queued(&self) -> NewRun {
        NewRun { lease: None, ..self.leased() }
    }

    pub fn key(&self, key: &str, hash: &str) -> RunKey {
        RunKey { route: "POST /v1/dispatch".into(), key: key.into(), request_hash: hash.into(), expires_at: self.at(3_600) }
    }

    /// Commit `number` under epoch 1, with one journal entry and two events.
    pub fn commit(&self, run: RunId, number: i64, state: RunState) -> Commit {
        Commit {
            tenant: self.tenant,
            run,
            epoch: Epoch(1),
            number,
            seen_nudges: None,
            advances: false,
            state,
            wake_at: (state == RunState::Running).then(|| self.at(10)),
            reserved: 128,
            spent: Spent { cost: 5, ..Spent::default() },
            output: Some(json!({"n": number})),
            failure: None,
            finished_at: state.is_terminal().then_some(self.now),
            journal: vec![done(&format!("steps/{number}"), json!(number))],
            segment: Some(segment(u64::try_from(number).unwrap() * 2, Rest::None)),
            waits: vec![],
            usage: vec![],
            child_end: None,
            job_end: None,
            now: self.now,
        }
    }

    pub fn wait(&self, run: RunId) -> Wait {
        Wait {
            id: WaitId::from_u128(self.next()),
            run,
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
            resolved_after: None,
        }
    }

    pub fn resolution(&self, answer: &str) -> Resolution {
        Resolution { answer: json!({"decision": answer}), by: "key_1".into(), timed_out: false }
    }

    pub fn answer(&self, wait: &Wait, answer: &str) -> Resolve {
        Resolve { tenant: self.tenant, wait: wait.id, resolution: self.resolution(answer), now: self.now }
    }

    /// A claim of everything that is due now.
    pub fn claim(&self) -> Claim {
        Claim { node: self.node, now: self.now, until: self.at(10), max: 64, only: None, except: Vec::new(), after: None }
    }

    /// Creates a leased run.
    pub async fn start(&self, store: &SharedStore) -> RunId {
        self.create(store, self.leased()).await
    }

    pub async fn create(&self, store: &SharedStore, new: NewRun) -> RunId {
        let id = new.id;
        assert_eq!(store.create_run(new).await.unwrap(), Created::New);
        id
    }

    /// Commits, and insists that it wins.
    pub async fn done(&self, store: &SharedStore, commit: Commit) {
        assert_eq!(store.commit_run(commit).await.unwrap(), Committed::Done);
    }

    /// A run that is paused on one wait.
    pub async fn paused(&self, store: &SharedStore) -> (RunId, Wait) {
        let run = self.start(store).await;
        let wait = self.wait(run);
        self.done(store, Commit { waits: vec![wait.clone()], ..self.commit(run, 1, RunState::Paused) }).await;
        (run, wait)
    }

    pub async fn find(&self, store: &SharedStore, run: RunId) -> Run {
        store.find_run(self.tenant, run).await.unwrap().unwrap()
    }

    /// Every sequence number in a run's log.
    pub async fn seqs(&self, store: &SharedStore, run: RunId) -> Vec<u64> {
        let log = store.read_log(self.tenant, run, None, 1_000).await.unwrap();
        log.iter().flat_map(|segment| segment.events.iter().map(|event| event.seq)).collect()
    }

    pub async fn keys(&self, store: &SharedStore, run: RunId) -> Vec<String> {
        store.read_journal(self.tenant, run).await.unwrap().into_iter().map(|entry| entry.key).collect()
    }
}
