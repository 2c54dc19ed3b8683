//! Waits: read, and answered once.

use async_trait::async_trait;

use super::StoreResult;
use crate::clock::Timestamp;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::wait::{Resolution, Wait};

/// An answer to a wait.
#[derive(Debug, Clone)]
pub struct Resolve {
    pub tenant: TenantId,
    pub wait: WaitId,
    pub resolution: Resolution,
    pub now: Timestamp,
}

/// What became of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Resolved {
    /// It is the answer, and its run is due, in the same commit.
    First,
    /// The wait was answered before, with this.
    Before(Resolution),
    /// No such wait, or its run has ended.
    Closed,
}

/// The store of waits. They are created by commits of their runs.
#[async_trait]
pub trait Waits {
    /// Answers waits, each alone; the first answer to each is final.
    async fn resolve_waits(&self, answers: Vec<Resolve>) -> StoreResult<Vec<Resolved>>;

    /// Returns a run's waits in the order of their ids, which is the order in which they were opened; settled ones too.
    async fn run_waits(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<Wait>>;

    /// One wait.
    async fn find_wait(&self, tenant: TenantId, wait: WaitId) -> StoreResult<Option<Wait>>;

    /// Open waits of a tenant, oldest first.
    async fn open_waits(&self, tenant: TenantId, after: Option<WaitId>, limit: u32) -> StoreResult<Vec<Wait>>;

    /// Keeps a signal, whether the run waits for it yet or not, and makes the run look: its owner matches kept signals
    /// to waits. The same name and id again is the same signal. `false`: no such run, or it takes no signals any more.
    /// [`StoreError::TooManySignals`](super::StoreError::TooManySignals): the run has [`MAX_SIGNALS`] signals or [`MAX_SIGNAL_BYTES`] of payloads;
    /// the server's own signals, whose names begin with `$`, are neither counted nor refused.
    async fn send_signal(&self, tenant: TenantId, run: RunId, signal: Signal, now: Timestamp) -> StoreResult<bool>;

    /// Lists the signals of a run without their payloads, in the order of their arrival.
    async fn list_signals(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<SignalKey>>;

    /// Returns one of the signals of a run.
    async fn find_signal(&self, tenant: TenantId, run: RunId, key: &SignalKey) -> StoreResult<Option<Signal>>;
}

/// Maximum number of signals of one run, including those that its steps have taken.
pub const MAX_SIGNALS: usize = 1_000;
/// Maximum total size of the payloads of one run's signals, in bytes.
pub const MAX_SIGNAL_BYTES: usize = 16 * 1024 * 1024;

/// Returns whether signals of this name are reserved for the server.
pub fn is_reserved_signal(name: &str) -> bool {
    name.starts_with('$')
}

/// Identifies one delivery of a signal to a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalKey {
    pub name: String,
    /// The sender's id of the delivery.
    pub id: String,
}

/// A signal that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Signal {
    pub name: String,
    /// The sender's id of this delivery; the same id again is the same signal.
    pub id: String,
    pub payload: serde_json::Value,
}
