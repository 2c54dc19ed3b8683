//! Claimed rows to leases, the same for both SQL databases.
//!
//! A run that this version cannot read must not stop the others from being claimed: it is told to the log and held
//! back until the lease that nobody works under has expired.

use std::collections::HashMap;

use super::row::{self, Columns};
use super::{Lease, StoreError, StoreResult};
use crate::model::{Epoch, RunState};

/// The rows of claimed runs: one query per table, however many runs.
pub(super) struct Claimed<R> {
    /// As they were before the claim, with the flow's text in the column `flow`.
    pub runs: Vec<R>,
    pub journal: Vec<R>,
    pub waits: Vec<R>,
    /// Of runs that were taken from an owner only.
    pub log: Vec<R>,
}

/// The ids of claimed runs; of all, and of those that were taken from an owner.
pub(super) fn ids(runs: &[impl Columns]) -> StoreResult<(Vec<String>, Vec<String>)> {
    let (mut all, mut recovered) = (Vec::with_capacity(runs.len()), Vec::new());
    for run in runs {
        let id = run.text("id")?.unwrap_or_default();
        if run.text("state")?.is_some_and(|state| is_held(RunState::parse(&state))) {
            recovered.push(id.clone());
        }
        all.push(id);
    }
    Ok((all, recovered))
}

/// A run that is due in one of these states had an owner, whose lease has expired.
fn is_held(state: Option<RunState>) -> bool {
    matches!(state, Some(RunState::Running | RunState::Compensating))
}

/// Rows by the run in their column `run`.
fn by_run<R: Columns>(rows: &[R]) -> StoreResult<HashMap<String, Vec<&R>>> {
    let mut map: HashMap<String, Vec<&R>> = HashMap::new();
    for row in rows {
        map.entry(row.text("run")?.unwrap_or_default()).or_default().push(row);
    }
    Ok(map)
}

fn decoded<R, T>(rows: Option<&Vec<&R>>, decode: impl Fn(&R) -> StoreResult<T>) -> StoreResult<Vec<T>> {
    rows.into_iter().flatten().map(|row| decode(row)).collect()
}

impl<R: Columns> Claimed<R> {
    pub fn leases(&self) -> StoreResult<Vec<Lease>> {
        let (journal, waits, log) = (by_run(&self.journal)?, by_run(&self.waits)?, by_run(&self.log)?);
        let lease = |found: &R| -> StoreResult<Lease> {
            let mut run = row::run(found)?;
            let id = run.id.suffix();
            let recovered = is_held(Some(run.state));
            run.epoch = Epoch(run.epoch.0 + 1);
            run.recoveries += u32::from(recovered);
            let flow = found.text("flow")?.ok_or_else(|| row::broken("blobs", "body", &run.flow_hash, "missing"))?;
            let tail = decoded(log.get(&id), row::segment)?;
            Ok(Lease {
                run,
                flow,
                journal: decoded(journal.get(&id), row::entry)?,
                waits: decoded(waits.get(&id), row::wait)?,
                tail,
                recovered,
            })
        };
        let readable = |found: &R| match lease(found) {
            Err(error @ StoreError::Broken { .. }) => {
                tracing::error!(%error, "a run cannot be read; it is held back");
                None
            }
            other => Some(other),
        };
        self.runs.iter().filter_map(readable).collect()
    }
}
