//! The writer with a database that refuses what it is told to.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::id::{NodeId, TenantId};
use crate::model::run::Spent;
use crate::model::wait::Resolution;
use crate::model::{Epoch, JournalEntry, Outcome, RunInput};
use crate::store::Blob;
use crate::store::batch::json;

/// What the fake database saw: the size of each group.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<usize>>>);

/// A database without tables: it takes everything but batches that hold the poisoned text.
struct Fake {
    seen: Seen,
    away: bool,
}

const POISON: &str = "poison";

#[async_trait]
impl Apply for Fake {
    async fn apply(&mut self, batch: &Batch) -> StoreResult<Won> {
        self.seen.0.lock().push(batch.runs.len() + batch.commits.len() + batch.resolutions.len());
        if self.away {
            return Err(StoreError::unavailable("away"));
        }
        if batch.arguments().iter().flatten().any(|rows| rows.contains(POISON)) {
            return Err(StoreError::Refused("poisoned".into()));
        }
        let ids = |rows: String, key: &str| -> Vec<String> {
            let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap_or_default();
            rows.iter().filter_map(|row| row[key].as_str().map(str::to_owned)).collect()
        };
        Ok(Won {
            created: ids(json(&batch.runs), "id"),
            committed: ids(json(&batch.commits), "run"),
            resolved: ids(json(&batch.resolutions), "wait"),
            ..Won::default()
        })
    }

    async fn probe(&mut self) -> StoreResult<()> {
        Ok(())
    }

    async fn explain_create(&mut self, _: &NewRun) -> StoreResult<Created> {
        Err(StoreError::unavailable("nothing loses here"))
    }

    async fn explain_commit(&mut self, _: &Commit) -> StoreResult<Committed> {
        Ok(Committed::Fenced)
    }

    async fn explain_resolve(&mut self, answer: &Resolve) -> StoreResult<Resolved> {
        Ok(Resolved::Before(answer.resolution.clone()))
    }

    async fn explain_enqueue(&mut self, _: &NewJob) -> StoreResult<Enqueued> {
        Err(StoreError::unavailable("nothing loses here"))
    }

    fn knows_flow(&self, _: &str) -> bool {
        true
    }

    fn note_flow(&mut self, _: &str) {}

    fn ring(&self, _: RunId) {}

    async fn close(&mut self) {}
}

fn new_run(clock: &Clock, flow_name: &str) -> NewRun {
    NewRun {
        id: RunId::new(clock),
        tenant: TenantId::from_u128(1),
        flow: Blob::new("{}".into()),
        target: crate::model::Target::default(),
        flow_name: flow_name.into(),
        input: RunInput::default(),
        sealed: None,
        parent: None,
        key: None,
        lease: Some((NodeId::from_u128(1), Timestamp::MAX)),
        created_at: Timestamp::from_millis(0),
        reserved: 0,
        journal: Vec::new(),
        segment: None,
    }
}

/// A commit with so many journal entries of 30 KB.
fn commit(run: RunId, number: i64, entries: usize) -> Commit {
    let value = serde_json::Value::String("x".repeat(30_000));
    let entry = |turn| JournalEntry { key: format!("steps/{turn}"), outcome: Outcome::Done(value.clone()) };
    Commit {
        tenant: TenantId::from_u128(1),
        run,
        epoch: Epoch(1),
        number,
        seen_nudges: None,
        advances: false,
        state: RunState::Running,
        wake_at: None,
        reserved: 0,
        spent: Spent::default(),
        output: None,
        failure: None,
        finished_at: None,
        journal: (0..entries).map(entry).collect(),
        segment: None,
        waits: Vec::new(),
        usage: Vec::new(),
        child_end: None,
        job_end: None,
        now: Timestamp::from_millis(0),
    }
}

fn answer(wait: u128) -> Resolve {
    let now = Timestamp::from_millis(0);
    Resolve { tenant: TenantId::from_u128(1), wait: WaitId::from_u128(wait), resolution: Resolution::timeout(), now }
}

fn start(away: bool) -> (Writer, Seen) {
    let seen = Seen::default();
    (Writer::start(Fake { seen: seen.clone(), away }, Clock::system()).0, seen)
}

#[tokio::test]
async fn a_refused_write_is_found_by_halving() {
    let (writer, seen) = start(false);
    let clock = Clock::system();
    let creations = (0..64).map(|turn| writer.create(new_run(&clock, if turn == 40 { POISON } else { "sound" })));
    let results = futures_util::future::join_all(creations).await;
    let refused: Vec<usize> = results.iter().enumerate().filter(|(_, result)| result.is_err()).map(|(turn, _)| turn).collect();
    assert_eq!(refused, [40]);
    assert_eq!(*seen.0.lock(), [64, 32, 32, 16, 8, 8, 4, 2, 1, 1, 2, 4, 16]);
}

#[tokio::test]
async fn an_absent_database_is_not_asked_again_for_each_write() {
    let (writer, seen) = start(true);
    let clock = Clock::system();
    let results = futures_util::future::join_all((0..64).map(|_| writer.create(new_run(&clock, "x")))).await;
    assert!(results.iter().all(|result| matches!(result, Err(StoreError::Unavailable(_)))));
    assert_eq!(*seen.0.lock(), [64]);
}

#[tokio::test]
async fn a_group_holds_one_write_about_a_run_and_one_answer_to_a_wait() {
    let (writer, seen) = start(false);
    let clock = Clock::system();
    let new = new_run(&clock, "x");
    let run = new.id;
    let (created, one, two, other, first, second) = tokio::join!(
        writer.create(new),
        writer.commit(commit(run, 1, 1)),
        writer.commit(commit(run, 2, 1)),
        writer.commit(commit(RunId::new(&clock), 1, 1)),
        writer.resolve(vec![answer(1), answer(2), answer(1)]),
        writer.resolve(vec![answer(2)]),
    );
    assert!(created.is_ok() && one.is_ok() && two.is_ok() && other.is_ok() && second.is_ok());
    let first = first.unwrap_or_default();
    assert_eq!(first[..2], [Resolved::First, Resolved::First]);
    assert!(matches!(first[2], Resolved::Before(_)), "the second answer in one call");
    assert_eq!(*seen.0.lock(), [4, 2, 1]);
}

#[tokio::test]
async fn heavy_writes_go_in_several_groups() {
    let (writer, seen) = start(false);
    let clock = Clock::system();
    let commits = (0..6).map(|_| writer.commit(commit(RunId::new(&clock), 1, 60)));
    assert!(futures_util::future::join_all(commits).await.iter().all(Result::is_ok));
    assert_eq!(*seen.0.lock(), [5, 1]);
}
