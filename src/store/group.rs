//! Group commit: one writer gathers what arrives while the last group is being written.
//!
//! A group is one transaction and one forced write, however many runs it carries; each write in it succeeds or
//! fails alone. When a whole group fails, its writes are tried one by one, so that a poisoned one harms nobody else.

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::batch::{Batch, Won};
use super::{Commit, Committed, Created, NewRun, Resolve, Resolved, StoreError, StoreResult};

/// Most writes that one group carries.
const MAX_GROUP: usize = 256;
/// Writes that may queue before callers wait.
const QUEUE: usize = 4_096;

/// What a database does for the writer.
#[async_trait]
pub(super) trait Apply: Send + 'static {
    /// Writes a batch in one transaction; durable when it returns.
    async fn apply(&mut self, batch: &Batch) -> StoreResult<Won>;
    /// Why a creation that did not win lost.
    async fn explain_create(&mut self, new: &NewRun) -> StoreResult<Created>;
    /// Why a commit that did not win lost; [`Committed::Done`] when an earlier try had won.
    async fn explain_commit(&mut self, commit: &Commit) -> StoreResult<Committed>;
    /// The answer that stands in the way of one that did not win.
    async fn explain_resolve(&mut self, answer: &Resolve) -> StoreResult<Resolved>;
    /// Whether a flow's blob is known to be stored; noted after a group that carried it.
    fn knows_flow(&self, hash: &str) -> bool;
    fn note_flow(&mut self, hash: &str);
    /// Rings for runs that became due, or whose log grew.
    fn ring(&self, won: &Won);
}

type Reply<T> = oneshot::Sender<StoreResult<T>>;

enum Write {
    Create(Box<NewRun>, Reply<Created>),
    Commit(Box<Commit>, Reply<Committed>),
    Resolve(Vec<Resolve>, Reply<Vec<Resolved>>),
}

/// The sending end of a writer task.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Write>);

fn closed() -> StoreError {
    StoreError::unavailable("the store is closed")
}

impl Writer {
    /// Starts the writer task; it ends when every sender is gone and the queue is empty.
    pub fn start(driver: impl Apply) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), tokio::spawn(run(driver, receiver)))
    }

    async fn ask<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> StoreResult<T> {
        let (reply, answer) = oneshot::channel();
        self.0.send(write(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    pub async fn create(&self, new: NewRun) -> StoreResult<Created> {
        self.ask(|reply| Write::Create(Box::new(new), reply)).await
    }

    pub async fn commit(&self, commit: Commit) -> StoreResult<Committed> {
        self.ask(|reply| Write::Commit(Box::new(commit), reply)).await
    }

    pub async fn resolve(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>> {
        self.ask(|reply| Write::Resolve(answers, reply)).await
    }
}

async fn run(mut driver: impl Apply, mut receiver: mpsc::Receiver<Write>) {
    let mut group = Vec::with_capacity(MAX_GROUP);
    while receiver.recv_many(&mut group, MAX_GROUP).await > 0 {
        write(&mut driver, std::mem::take(&mut group)).await;
    }
}

async fn write(driver: &mut impl Apply, group: Vec<Write>) {
    match driver.apply(&batch(driver, &group)).await {
        Ok(won) => answer(driver, group, &won).await,
        Err(error) if group.len() == 1 => refuse(group, &error),
        Err(_) => {
            for single in group {
                let single = vec![single];
                match driver.apply(&batch(driver, &single)).await {
                    Ok(won) => answer(driver, single, &won).await,
                    Err(error) => refuse(single, &error),
                }
            }
        }
    }
}

fn batch(driver: &impl Apply, group: &[Write]) -> Batch {
    let mut batch = Batch::default();
    for write in group {
        match write {
            Write::Create(new, _) => batch.create(new, driver.knows_flow(&new.flow.hash)),
            Write::Commit(commit, _) => batch.commit(commit),
            Write::Resolve(answers, _) => answers.iter().for_each(|answer| batch.resolve(answer)),
        }
    }
    batch
}

async fn answer(driver: &mut impl Apply, group: Vec<Write>, won: &Won) {
    driver.ring(won);
    for write in group {
        match write {
            Write::Create(new, reply) => {
                driver.note_flow(&new.flow.hash);
                let created = if won.has_created(new.id) { Ok(Created::New) } else { driver.explain_create(&new).await };
                let _ = reply.send(created);
            }
            Write::Commit(commit, reply) => {
                let done = if won.has_committed(commit.run) { Ok(Committed::Done) } else { driver.explain_commit(&commit).await };
                let _ = reply.send(done);
            }
            Write::Resolve(answers, reply) => {
                let mut results = Vec::with_capacity(answers.len());
                let mut failed = None;
                for answer in &answers {
                    if won.has_resolved(answer.wait) {
                        results.push(Resolved::First);
                        continue;
                    }
                    match driver.explain_resolve(answer).await {
                        Ok(resolved) => results.push(resolved),
                        Err(error) => failed = Some(error),
                    }
                }
                let _ = reply.send(failed.map_or(Ok(results), Err));
            }
        }
    }
}

fn refuse(group: Vec<Write>, error: &StoreError) {
    for write in group {
        let error = StoreError::unavailable(error.to_string());
        match write {
            Write::Create(_, reply) => drop(reply.send(Err(error))),
            Write::Commit(_, reply) => drop(reply.send(Err(error))),
            Write::Resolve(_, reply) => drop(reply.send(Err(error))),
        }
    }
}
