//! The store in memory, for simulation: ordered maps behind one lock, no tasks, no time of its own.
//!
//! It passes the contract suite, so what holds here holds on the databases. Every call is done when it is first
//! polled; delays, failures and lost answers come from [`super::faulty`]. Nothing survives the process.

mod accounts;
mod census;
mod commits;
mod documents;
mod flows;
mod idempotency;
mod jobs;
mod logs;
mod notices;
mod page_runs;
mod quotas;
mod records;
mod retention;
mod runs;
mod secrets;
mod usage;
mod vault;
mod vectors;
mod waits;

use std::collections::BTreeMap;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::broadcast;

use super::{Rung, Store, StoreResult};
use crate::id::{ClientTokenId, RunId};

/// See the module.
pub struct MemoryStore {
    tables: Mutex<Tables>,
    bell: broadcast::Sender<Rung>,
}

/// Everything that is kept.
#[derive(Default)]
struct Tables {
    accounts: accounts::Accounts,
    credentials: vault::Credentials,
    documents: documents::Documents,
    flows: flows::Flows,
    jobs: jobs::Jobs,
    /// The client tokens of runs that pages began.
    page_runs: BTreeMap<RunId, ClientTokenId>,
    quotas: quotas::QuotaTables,
    records: records::Records,
    secrets: secrets::Secrets,
    receipts: idempotency::Receipts,
    runs: runs::Runs,
    usage: usage::Usage,
    vectors: vectors::Vectors,
    waits: waits::Waits,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self { tables: Mutex::default(), bell: broadcast::channel(1_024).0 }
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock()
    }

    fn ring(&self, run: RunId) {
        let _ = self.bell.send(Rung::due(run));
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn bell(&self) -> broadcast::Receiver<Rung> {
        self.bell.subscribe()
    }

    async fn ping(&self) -> StoreResult<()> {
        Ok(())
    }

    async fn close(&self) {}

    fn name(&self) -> &'static str {
        "memory"
    }
}
