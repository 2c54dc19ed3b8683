//! Runs in memory: kept, claimed, read. What changes them by commits is in `commits`.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;

use super::{MemoryStore, Tables};
use crate::clock::Timestamp;
use crate::id::{NodeId, RunId, TenantId, WaitId};
use crate::model::event::Segment;
use crate::model::{Epoch, JournalEntry, Outcome, Run, RunState, Target};
use crate::store::due_runs::Shares;
use crate::store::{
    Claim, Commit, Committed, Created, Lease, MAX_CLAIM, NewRun, Renewed, RunFilter, RunSummary, Signal, StoreError, StoreResult,
};

/// One run with everything that only it refers to.
pub(super) struct Row {
    pub run: Run,
    pub owner: Option<NodeId>,
    pub journal: BTreeMap<String, Outcome>,
    /// By the last sequence number.
    pub log: BTreeMap<u64, Segment>,
    pub waits: BTreeSet<WaitId>,
    /// In the order of arrival.
    pub signals: Vec<Signal>,
    /// Its log was made small.
    pub compacted: bool,
    /// Its log was deleted, except for the end.
    pub log_deleted: bool,
}

/// The tables of this noun.
#[derive(Default)]
pub(super) struct Runs {
    rows: BTreeMap<RunId, Row>,
    /// When somebody must look at which run; follows `wake_at`.
    due: BTreeSet<(Timestamp, RunId)>,
    /// Flows by content hash.
    flows: BTreeMap<String, String>,
}

impl Runs {
    fn tenant_of(&self, id: RunId) -> Option<TenantId> {
        self.rows.get(&id).map(|row| row.run.tenant)
    }

    /// The due runs that a claim takes, the longest due first.
    fn to_claim(&self, claim: &Claim) -> Vec<RunId> {
        let due = self.due.iter().take_while(|(at, _)| *at <= claim.now).map(|(_, id)| *id);
        let wanted = due.filter(|id| claim.only.is_none_or(|only| only == *id));
        let known = wanted.filter_map(|id| self.tenant_of(id).map(|tenant| (tenant, id)));
        let mut due: Vec<(TenantId, RunId)> = known.filter(|(tenant, _)| !claim.except.contains(tenant)).collect();
        let max = claim.max.min(MAX_CLAIM) as usize;
        if due.len() > max {
            let tenants: BTreeSet<TenantId> = due.iter().map(|(tenant, _)| *tenant).collect();
            let Shares { tenants, each } = Shares::new(tenants.into_iter().collect(), claim.after, max);
            let mut left: BTreeMap<TenantId, usize> = tenants.into_iter().map(|tenant| (tenant, each)).collect();
            due.retain(|(tenant, _)| {
                let Some(left) = left.get_mut(tenant).filter(|left| **left > 0) else { return false };
                *left -= 1;
                true
            });
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    pub fn insert(&mut self, row: Row, flow: String) {
        let (id, wake_at) = (row.run.id, row.run.wake_at);
        self.flows.insert(row.run.flow_hash.clone(), flow);
        self.rows.insert(id, row);
        self.due.extend(wake_at.map(|at| (at, id)));
    }

    /// Deletes a run.
    pub fn remove(&mut self, id: RunId) {
        if let Some(at) = self.rows.remove(&id).and_then(|row| row.run.wake_at) {
            self.due.remove(&(at, id));
        }
    }

    /// Returns whether a run uses this flow.
    fn uses_flow(&self, hash: &str) -> bool {
        self.rows.values().any(|row| row.run.flow_hash == hash)
    }

    /// Returns the hashes of flows after a hash, with whether a run uses them.
    pub fn flows_after(&self, after: &str, limit: usize) -> Vec<(String, bool)> {
        let later = self.flows.keys().filter(|hash| hash.as_str() > after).take(limit);
        later.map(|hash| (hash.clone(), self.uses_flow(hash))).collect()
    }

    /// Deletes a flow that no run uses.
    pub fn remove_flow(&mut self, hash: &str) {
        self.flows.remove(hash);
    }

    pub fn all(&self) -> impl Iterator<Item = &Row> {
        self.rows.values()
    }

    pub fn get(&self, id: RunId) -> Option<&Row> {
        self.rows.get(&id)
    }

    /// Changes a run and keeps the index of due runs in step.
    pub fn change<T>(&mut self, id: RunId, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let row = self.rows.get_mut(&id)?;
        let before = row.run.wake_at;
        let result = change(row);
        if row.run.wake_at != before {
            before.map(|at| self.due.remove(&(at, id)));
            self.due.extend(row.run.wake_at.map(|at| (at, id)));
        }
        Some(result)
    }

    pub fn owned(&self, tenant: TenantId, id: RunId) -> Option<&Row> {
        self.rows.get(&id).filter(|row| row.run.tenant == tenant)
    }

    /// Lets everyone who works on the run look again; due at once when nobody does.
    pub fn nudge(&mut self, id: RunId, now: Timestamp) -> bool {
        let nudged = self.change(id, |row| {
            let live = !row.run.state.is_terminal();
            row.run.nudges += i64::from(live);
            if row.run.state == RunState::Paused {
                row.run.wake_at = Some(row.run.wake_at.map_or(now, |at| at.min(now)));
            }
            live
        });
        nudged.unwrap_or(false)
    }
}

impl Row {
    pub fn entries(&self) -> Vec<JournalEntry> {
        self.journal.iter().map(|(key, outcome)| JournalEntry { key: key.clone(), outcome: outcome.clone() }).collect()
    }

    fn is_active(&self) -> bool {
        matches!(self.run.state, RunState::Running | RunState::Compensating)
    }

    /// Gives the run to a node; the returned row is as it was found, under its new epoch.
    fn claim(&mut self, claim: &Claim) -> (Run, bool) {
        let recovered = self.is_active();
        let mut found = self.run.clone();
        found.epoch = Epoch(found.epoch.0 + 1);
        found.recoveries += u32::from(recovered);
        self.run.epoch = found.epoch;
        self.run.recoveries = found.recoveries;
        if self.run.state != RunState::Compensating {
            self.run.state = RunState::Running;
        }
        self.run.wake_at = Some(claim.until);
        self.owner = Some(claim.node);
        (found, recovered)
    }

    fn summary(&self) -> RunSummary {
        let run = &self.run;
        RunSummary {
            id: run.id,
            state: run.state,
            target: run.target,
            flow_name: run.flow_name.clone(),
            created_at: run.created_at,
            finished_at: run.finished_at,
            success: run.success,
            failure: run.failure.clone(),
            spent: run.spent,
        }
    }
}

impl Tables {
    fn lease(&mut self, id: RunId, claim: &Claim) -> StoreResult<Option<Lease>> {
        let Some((run, recovered)) = self.runs.change(id, |row| row.claim(claim)) else { return Ok(None) };
        let waits = self.waits.of_run(&self.runs, id);
        let flow = self.runs.flows.get(&run.flow_hash).cloned().ok_or(StoreError::Broken {
            table: "blobs",
            column: "body",
            row: run.flow_hash.clone(),
            why: "missing".into(),
        })?;
        let Some(row) = self.runs.get(id) else { return Ok(None) };
        let tail = if recovered { row.log.values().cloned().collect() } else { Vec::new() };
        Ok(Some(Lease { flow, journal: row.entries(), waits, tail, recovered, run }))
    }
}

#[async_trait]
impl crate::store::Runs for MemoryStore {
    async fn create_run(&self, new: NewRun) -> StoreResult<Created> {
        self.create(new)
    }

    async fn commit_run(&self, commit: Commit) -> StoreResult<Committed> {
        self.commit(commit)
    }

    async fn claim_runs(&self, claim: Claim) -> StoreResult<Vec<Lease>> {
        let mut tables = self.tables();
        let ids = tables.runs.to_claim(&claim);
        ids.into_iter().filter_map(|id| tables.lease(id, &claim).transpose()).collect()
    }

    async fn renew_runs(&self, node: NodeId, held: &[(RunId, Epoch)], until: Timestamp) -> StoreResult<Vec<Renewed>> {
        let runs = &mut self.tables().runs;
        let renewed = held.iter().filter_map(|(id, epoch)| {
            runs.change(*id, |row| {
                let held = row.owner == Some(node) && row.run.epoch == *epoch && row.is_active();
                held.then(|| {
                    row.run.wake_at = Some(until);
                    Renewed { run: *id, cancel_requested: row.run.cancel_requested, nudges: row.run.nudges }
                })
            })
            .flatten()
        });
        Ok(renewed.collect())
    }

    async fn next_wake(&self, except: &[TenantId]) -> StoreResult<Option<Timestamp>> {
        let runs = &self.tables().runs;
        let wanted = |id: RunId| runs.tenant_of(id).is_none_or(|tenant| !except.contains(&tenant));
        Ok(runs.due.iter().find(|(_, id)| wanted(*id)).map(|(at, _)| *at))
    }

    async fn request_cancel(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<Option<RunState>> {
        let runs = &mut self.tables().runs;
        let Some(state) = runs.owned(tenant, run).map(|row| row.run.state) else { return Ok(None) };
        if !state.is_terminal() {
            runs.change(run, |row| {
                row.run.cancel_requested = true;
                row.run.nudges += 1;
                if matches!(state, RunState::Queued | RunState::Paused) {
                    row.run.wake_at = Some(now);
                }
            });
            self.ring(run);
        }
        Ok(Some(state))
    }

    async fn find_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<Run>> {
        Ok(self.tables().runs.owned(tenant, run).map(|row| row.run.clone()))
    }

    async fn list_runs(&self, tenant: TenantId, filter: RunFilter) -> StoreResult<Vec<RunSummary>> {
        let tables = self.tables();
        let mut all: Vec<&Row> = tables.runs.rows.values().collect();
        if !filter.oldest_first {
            all.reverse();
        }
        let wanted = all.into_iter().filter(|row| {
            let run = &row.run;
            run.tenant == tenant
                && (filter.states.is_empty() || filter.states.contains(&run.state))
                && (filter.key.is_none() || filter.key == run.input.key_id)
                && (filter.record.is_none() || filter.record == run.input.record_id())
                && filter.target.is_none_or(|target| target == run.target)
                && (filter.success.is_none() || filter.success == run.did_well())
                && filter.flow_name.as_ref().is_none_or(|name| *name == run.flow_name)
                && filter.since.is_none_or(|since| run.created_at >= since)
                && filter.until.is_none_or(|until| run.created_at < until)
                && (!filter.workflows || matches!(run.target, Target::Workflow(_)))
                && filter.before.is_none_or(|before| run.id < before)
                && filter.after.is_none_or(|after| run.id > after)
        });
        Ok(wanted.skip(filter.offset as usize).take(filter.limit as usize).map(Row::summary).collect())
    }

    async fn flow_of_run(&self, tenant: TenantId, run: RunId) -> StoreResult<Option<String>> {
        let tables = self.tables();
        Ok(tables.runs.owned(tenant, run).and_then(|row| tables.runs.flows.get(&row.run.flow_hash).cloned()))
    }

    async fn count_runs(&self, tenant: TenantId) -> StoreResult<Vec<(RunState, u64)>> {
        let mut counts: BTreeMap<&'static str, (RunState, u64)> = BTreeMap::new();
        for run in self.tables().runs.rows.values().map(|row| &row.run).filter(|run| run.tenant == tenant) {
            counts.entry(run.state.as_str()).or_insert((run.state, 0)).1 += 1;
        }
        Ok(counts.into_values().collect())
    }

    async fn read_log(&self, tenant: TenantId, run: RunId, after: Option<u64>, limit: u32) -> StoreResult<Vec<Segment>> {
        let tables = self.tables();
        let Some(row) = tables.runs.owned(tenant, run) else { return Ok(Vec::new()) };
        let later = row.log.iter().filter(|(last, _)| after.is_none_or(|after| **last > after));
        Ok(later.take(limit as usize).map(|(_, segment)| segment.clone()).collect())
    }

    async fn read_journal(&self, tenant: TenantId, run: RunId) -> StoreResult<Vec<JournalEntry>> {
        Ok(self.tables().runs.owned(tenant, run).map(Row::entries).unwrap_or_default())
    }

    async fn stuck_runs(&self, limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
        let tables = self.tables();
        let stuck = tables.runs.rows.values().filter(|row| {
            matches!(row.run.state, RunState::Queued | RunState::Paused)
                && row.run.wake_at.is_none()
                && !row.waits.iter().any(|wait| tables.waits.is_open(*wait))
        });
        Ok(stuck.take(limit as usize).map(|row| (row.run.tenant, row.run.id)).collect())
    }

    async fn wake_run(&self, tenant: TenantId, run: RunId, now: Timestamp) -> StoreResult<()> {
        let runs = &mut self.tables().runs;
        let Some(row) = runs.owned(tenant, run) else { return Ok(()) };
        if matches!(row.run.state, RunState::Queued | RunState::Running | RunState::Paused) {
            runs.change(run, |row| {
                row.run.nudges += 1;
                if row.run.state != RunState::Running {
                    row.run.wake_at = Some(now);
                }
            });
            self.ring(run);
        }
        Ok(())
    }
}
