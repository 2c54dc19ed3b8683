//! Group commit: one writer gathers what arrives while the last group is being written.
//!
//! A group is one transaction and one forced write, however many runs it carries; each write in it succeeds or
//! fails alone. It holds at most one write about a run and one answer to a wait, so that statements over whole
//! sets do what one write after the other would do. When the database refuses a group it is halved until the
//! refused write stands alone, so that a poisoned one harms nobody else.
//!
//! Whether the database accepts writes is tested with a write. A success is cached for a moment, unless a write
//! fails in the meantime.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::{Batch, Won};
use super::text::Fit;
use super::{Commit, Committed, Created, Enqueued, NewJob, NewRun, Resolve, Resolved, StoreError, StoreResult};
use crate::clock::Clock;
use crate::failpoint;
use crate::id::{JobId, RunId, WaitId};
use crate::model::RunState;
use crate::model::job::JobEnd;

/// Most writes that one group carries.
const MAX_GROUP: usize = 256;
/// Writes that may queue before callers wait.
const QUEUE: usize = 4_096;
/// How long a successful write counts as proof that writes are accepted.
const PROBE_TTL: Duration = Duration::from_secs(1);

/// What a database does for the writer.
#[async_trait]
pub(super) trait Apply: Send + 'static {
    /// Writes a batch in one transaction; durable when it returns.
    async fn apply(&mut self, batch: &Batch) -> StoreResult<Won>;
    /// Replaces a row without meaning, to test whether the database accepts writes. The row has [`PROBE_BYTES`], so that a
    /// disk without room for new pages is detected.
    async fn probe(&mut self) -> StoreResult<()>;
    /// Why a creation that did not win lost; [`Created::New`] when an earlier try had won.
    async fn explain_create(&mut self, new: &NewRun) -> StoreResult<Created>;
    /// Why a commit that did not win lost; [`Committed::Done`] when an earlier try had won.
    async fn explain_commit(&mut self, commit: &Commit) -> StoreResult<Committed>;
    /// The answer that stands in the way of one that did not win.
    async fn explain_resolve(&mut self, answer: &Resolve) -> StoreResult<Resolved>;
    /// Why a job that did not win was not put in its queue; [`Enqueued::New`] when an earlier try had won.
    async fn explain_enqueue(&mut self, new: &NewJob) -> StoreResult<Enqueued>;
    /// Whether a flow's blob is known to be stored; noted after a group that carried it.
    fn knows_flow(&self, hash: &str) -> bool;
    fn note_flow(&mut self, hash: &str);
    /// Rings for a run that became due.
    fn ring(&self, run: RunId);
    /// Every write is answered; nothing more will come.
    async fn close(&mut self);
}

type Reply<T> = oneshot::Sender<StoreResult<T>>;

enum Write {
    Create(Box<NewRun>, Reply<Created>),
    Commit(Box<Commit>, Reply<Committed>),
    Resolve(Vec<Resolve>, Reply<Vec<Resolved>>),
    Enqueue(Box<NewJob>, Reply<Enqueued>),
    EndJob(Box<JobEnd>, Reply<bool>),
    Probe(Reply<()>),
}

/// What a write is about; a group holds one write about each.
#[derive(PartialEq, Eq, Hash)]
enum Subject {
    Run(RunId),
    Wait(WaitId),
    Job(JobId),
}

/// Size of the probe row in bytes.
pub(super) const PROBE_BYTES: i64 = 64 * 1024;

/// The sending end of a writer task.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Write>,
    /// The database refused the last write.
    falters: Arc<AtomicBool>,
    /// When a probe succeeded last.
    probed: Arc<Mutex<Option<Instant>>>,
    clock: Clock,
}

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

impl Writer {
    /// Starts the writer task; it ends when every sender is gone and the queue is empty.
    pub fn start(driver: impl Apply, clock: Clock) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let falters = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(work(driver, receiver, falters.clone()));
        (Self { queue: sender, falters, probed: Arc::default(), clock }, task)
    }

    async fn ask<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(write(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub async fn create(&self, new: NewRun) -> StoreResult<Created> {
        new.fit()?;
        self.ask(|reply| Write::Create(Box::new(new), reply)).await
    }

    pub async fn commit(&self, commit: Commit) -> StoreResult<Committed> {
        commit.fit()?;
        self.ask(|reply| Write::Commit(Box::new(commit), reply)).await
    }

    pub async fn resolve(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        self.ask(|reply| Write::Resolve(answers, reply)).await
    }

    pub async fn enqueue(&self, new: NewJob) -> StoreResult<Enqueued> {
        new.fit()?;
        self.ask(|reply| Write::Enqueue(Box::new(new), reply)).await
    }

    pub async fn end_job(&self, end: JobEnd) -> StoreResult<bool> {
        self.ask(|reply| Write::EndJob(Box::new(end), reply)).await
    }

    /// Tests whether the database accepts writes. A success is cached for [`PROBE_TTL`], unless a write fails in the meantime.
    pub async fn probe(&self) -> StoreResult<()> {
        let now = self.clock.instant();
        let fresh = self.probed.lock().is_some_and(|probed| now.duration_since(probed) < PROBE_TTL);
        if fresh && !self.falters.load(Ordering::Relaxed) && !self.queue.is_closed() {
            return Ok(());
        }
        self.ask(Write::Probe).await?;
        *self.probed.lock() = Some(now);
        Ok(())
    }
}

impl Write {
    fn subjects(&self) -> HashSet<Subject> {
        match self {
            Self::Create(new, _) => HashSet::from([Subject::Run(new.id)]),
            Self::Commit(commit, _) => {
                let (wait, job) = (commit.child_wait().map(Subject::Wait), commit.job_end.as_ref().map(|end| Subject::Job(end.job)));
                [Subject::Run(commit.run)].into_iter().chain(wait).chain(job).collect()
            }
            Self::Enqueue(new, _) => HashSet::from([Subject::Job(new.job.id)]),
            Self::EndJob(end, _) => HashSet::from([Subject::Job(end.job)]),
            Self::Resolve(answers, _) => answers.iter().map(|answer| Subject::Wait(answer.wait)).collect(),
            Self::Probe(_) => HashSet::new(),
        }
    }

    fn add_to(&self, batch: &mut Batch, driver: &impl Apply) {
        match self {
            Self::Create(new, _) => batch.create(new, driver.knows_flow(&new.flow.hash)),
            Self::Commit(commit, _) => batch.commit(commit),
            Self::Resolve(answers, _) => answers.iter().for_each(|answer| batch.resolve(answer)),
            Self::Enqueue(new, _) => batch.enqueue(new),
            Self::EndJob(end, _) => batch.end_job(end),
            Self::Probe(_) => {}
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Self::Create(_, reply) => drop(reply.send(Err(error.again()))),
            Self::Commit(_, reply) => drop(reply.send(Err(error.again()))),
            Self::Resolve(_, reply) => drop(reply.send(Err(error.again()))),
            Self::Enqueue(_, reply) => drop(reply.send(Err(error.again()))),
            Self::EndJob(_, reply) => drop(reply.send(Err(error.again()))),
            Self::Probe(reply) => drop(reply.send(Err(error.again()))),
        }
    }
}

async fn work(mut driver: impl Apply, mut receiver: mpsc::Receiver<Write>, falters: Arc<AtomicBool>) {
    let mut waiting = Vec::with_capacity(MAX_GROUP);
    while !waiting.is_empty() || receiver.recv_many(&mut waiting, MAX_GROUP).await > 0 {
        while waiting.len() < MAX_GROUP
            && let Ok(write) = receiver.try_recv()
        {
            waiting.push(write);
        }
        let (group, batch) = gather(&driver, &mut waiting);
        write(&mut driver, group, batch, &falters).await;
    }
    driver.close().await;
}

/// Takes the next group out of what waits. Writes about one subject stay in their order.
fn gather(driver: &impl Apply, waiting: &mut Vec<Write>) -> (Vec<Write>, Batch) {
    let (mut group, mut batch, mut seen) = (Vec::new(), Batch::default(), HashSet::new());
    for write in std::mem::take(waiting) {
        let subjects = write.subjects();
        let free = subjects.is_disjoint(&seen);
        seen.extend(subjects);
        if free && !batch.is_heavy() {
            write.add_to(&mut batch, driver);
            group.push(write);
        } else {
            waiting.push(write);
        }
    }
    (group, batch)
}

async fn write(driver: &mut impl Apply, group: Vec<Write>, batch: Batch, falters: &AtomicBool) {
    let mut parts = vec![(group, batch)];
    while let Some((mut part, batch)) = parts.pop() {
        failpoint::hit("store.group.before");
        let written = if part.iter().any(|write| matches!(write, Write::Probe(_))) { driver.probe().await } else { Ok(()) };
        let written = match written {
            Ok(()) => driver.apply(&batch).await,
            Err(error) => Err(error),
        };
        falters.store(matches!(written, Err(StoreError::Unavailable(_))), Ordering::Relaxed);
        match written {
            Ok(won) => {
                failpoint::hit("store.group.after");
                answer(driver, part, &won).await;
            }
            Err(error) if part.len() < 2 || matches!(error, StoreError::Unavailable(_)) => {
                part.into_iter().for_each(|write| write.refuse(&error));
            }
            Err(_) => {
                let later = part.split_off(part.len() / 2);
                for half in [later, part] {
                    let mut batch = Batch::default();
                    half.iter().for_each(|write| write.add_to(&mut batch, driver));
                    parts.push((half, batch));
                }
            }
        }
    }
}

async fn answer(driver: &mut impl Apply, group: Vec<Write>, won: &Won) {
    won.nudged.iter().filter_map(|id| RunId::from_suffix(id).ok()).for_each(|run| driver.ring(run));
    for write in group {
        match write {
            Write::Create(new, reply) => drop(reply.send(created(driver, &new, won).await)),
            Write::Commit(commit, reply) => drop(reply.send(committed(driver, &commit, won).await)),
            Write::Resolve(answers, reply) => drop(reply.send(resolved(driver, &answers, won).await)),
            Write::Enqueue(new, reply) => drop(reply.send(enqueued(driver, &new, won).await)),
            Write::EndJob(end, reply) => drop(reply.send(Ok(won.has_ended(end.job)))),
            Write::Probe(reply) => drop(reply.send(Ok(()))),
        }
    }
}

async fn enqueued(driver: &mut impl Apply, new: &NewJob, won: &Won) -> StoreResult<Enqueued> {
    if won.has_enqueued(new.job.id) { Ok(Enqueued::New) } else { driver.explain_enqueue(new).await }
}

async fn created(driver: &mut impl Apply, new: &NewRun, won: &Won) -> StoreResult<Created> {
    driver.note_flow(&new.flow.hash);
    if !won.has_created(new.id) {
        return driver.explain_create(new).await;
    }
    if new.lease.is_none() {
        driver.ring(new.id);
    }
    Ok(Created::New)
}

async fn committed(driver: &mut impl Apply, commit: &Commit, won: &Won) -> StoreResult<Committed> {
    if !won.has_committed(commit.run) {
        return driver.explain_commit(commit).await;
    }
    if commit.leaves_due() {
        driver.ring(commit.run);
    }
    Ok(Committed::Done)
}

async fn resolved(driver: &mut impl Apply, answers: &[Resolve], won: &Won) -> StoreResult<Vec<Resolved>> {
    let mut results = Vec::with_capacity(answers.len());
    let mut seen = HashSet::new();
    for answer in answers {
        // Of several answers to one wait in one call the first was written.
        let first = seen.insert(answer.wait) && won.has_resolved(answer.wait);
        results.push(if first { Resolved::First } else { driver.explain_resolve(answer).await? });
    }
    Ok(results)
}

/// Where a run's row stands.
pub(super) struct Stand {
    pub state: RunState,
    pub epoch: i64,
    /// Of its last commit.
    pub number: i64,
    pub nudges: i64,
}

impl Stand {
    /// Why a commit did not win on this row.
    pub fn judge(&self, commit: &Commit) -> Committed {
        if self.epoch != commit.epoch.0 {
            return Committed::Fenced;
        }
        if self.number == commit.number {
            return Committed::Done;
        }
        let next = self.number == commit.number - 1 && matches!(self.state, RunState::Running | RunState::Compensating);
        if next && commit.seen_nudges.is_some_and(|seen| seen != self.nudges) { Committed::Nudged } else { Committed::Fenced }
    }
}

#[cfg(test)]
mod tests;
