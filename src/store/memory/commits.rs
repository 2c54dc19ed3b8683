//! Creations, commits and answers in memory: what the group statement does in the databases.

use std::collections::{BTreeMap, BTreeSet};

use super::runs::Row;
use super::{MemoryStore, Tables};
use crate::model::event::Segment;
use crate::model::job::JobState;
use crate::model::run::Spent;
use crate::model::{Epoch, JournalEntry, Run, RunInput, RunState};
use crate::store::batch::json;
use crate::store::text::Fit;
use crate::store::{Commit, Committed, Created, NewRun, StoreError, StoreResult};

/// The input as the databases give it back: what JSON cannot tell apart is the same here too.
fn through_json(input: &RunInput) -> StoreResult<RunInput> {
    serde_json::from_str(&json(input)).map_err(|why| StoreError::Refused(why.into()))
}

fn row(new: NewRun) -> StoreResult<(Row, String)> {
    let run = Run {
        id: new.id,
        tenant: new.tenant,
        state: if new.lease.is_some() { RunState::Running } else { RunState::Queued },
        flow_hash: new.flow.hash,
        target: new.target,
        flow_name: new.flow_name,
        input: through_json(&new.input)?,
        sealed: new.sealed,
        parent: new.parent,
        epoch: Epoch(i64::from(new.lease.is_some())),
        commit: 0,
        nudges: 0,
        reserved: new.reserved,
        cancel_requested: false,
        recoveries: 0,
        wake_at: Some(new.lease.map_or(new.created_at, |(_, until)| until)),
        created_at: new.created_at,
        finished_at: None,
        output: None,
        success: None,
        failure: None,
        spent: Spent::default(),
    };
    let mut row = Row {
        run,
        owner: new.lease.map(|(node, _)| node),
        journal: BTreeMap::new(),
        log: BTreeMap::new(),
        waits: BTreeSet::new(),
        signals: Vec::new(),
        compacted: false,
        log_deleted: false,
    };
    row.note(new.journal, new.segment);
    Ok((row, new.flow.body))
}

impl Row {
    fn note(&mut self, journal: Vec<JournalEntry>, segment: Option<Segment>) {
        self.journal.extend(journal.into_iter().map(|entry| (entry.key, entry.outcome)));
        if let Some(segment) = segment.filter(|segment| !segment.events.is_empty()) {
            self.log.entry(segment.last()).or_insert(segment);
        }
    }

    fn judge(&self, commit: &Commit) -> Committed {
        let run = &self.run;
        let active = matches!(run.state, RunState::Running | RunState::Compensating);
        if run.epoch != commit.epoch || run.commit != commit.number - 1 || !active {
            return Committed::Fenced;
        }
        if commit.seen_nudges.is_some_and(|seen| seen != run.nudges) { Committed::Nudged } else { Committed::Done }
    }

    fn apply(&mut self, commit: &mut Commit) {
        let run = &mut self.run;
        let ends = commit.state.is_terminal();
        run.state = commit.state;
        // A lease that was renewed while the commit was on its way is not shortened by it.
        let leased = matches!(commit.state, RunState::Running | RunState::Compensating);
        run.wake_at = if leased { commit.wake_at.max(run.wake_at) } else { commit.wake_at.filter(|_| !ends) };
        run.commit = commit.number;
        run.reserved = commit.reserved;
        run.spent = commit.spent;
        run.success = commit.success();
        run.output = commit.output.take();
        run.failure = commit.failure.take();
        run.finished_at = commit.finished_at;
        if commit.advances {
            run.recoveries = 0;
        }
        if ends {
            run.sealed = None;
        }
        if !matches!(commit.state, RunState::Running | RunState::Compensating) {
            self.owner = None;
        }
        self.note(std::mem::take(&mut commit.journal), commit.segment.take());
        self.waits.extend(commit.waits.iter().map(|wait| wait.id));
    }
}

impl Tables {
    fn commit(&mut self, mut commit: Commit) -> Committed {
        let Some(row) = self.runs.get(commit.run) else { return Committed::Fenced };
        if row.run.epoch == commit.epoch && row.run.commit == commit.number {
            return Committed::Done;
        }
        let judged = row.judge(&commit);
        if judged == Committed::Done {
            self.runs.change(commit.run, |row| row.apply(&mut commit));
            self.waits.open(std::mem::take(&mut commit.waits));
            if commit.state.is_terminal() {
                self.waits.close_run(&self.runs, commit.run);
            }
        }
        judged
    }
}

impl MemoryStore {
    pub(super) fn create(&self, new: NewRun) -> StoreResult<Created> {
        new.fit()?;
        let mut tables = self.tables();
        if tables.runs.get(new.id).is_some() {
            return Ok(Created::New);
        }
        let (id, queued) = (new.id, new.lease.is_none());
        let created = tables.receipts.take(&new)?;
        if created == Created::New {
            let (row, flow) = row(new)?;
            tables.runs.insert(row, flow);
            if queued {
                self.ring(id);
            }
        }
        Ok(created)
    }

    pub(super) fn commit(&self, commit: Commit) -> StoreResult<Committed> {
        commit.fit()?;
        let mut tables = self.tables();
        let (run, due, now) = (commit.run, commit.leaves_due(), commit.now);
        let (end, mut job_end) = (commit.child_end.clone(), commit.job_end.clone());
        let fresh = tables.runs.get(run).is_some_and(|row| row.run.commit != commit.number);
        let usage = commit.usage_lines();
        let committed = tables.commit(commit);
        if committed != Committed::Done || !fresh {
            return Ok(committed);
        }
        let Tables { runs, usage: days, .. } = &mut *tables;
        if let Some(row) = runs.get(run) {
            days.add(&row.run, &usage, now);
        }
        if due {
            self.ring(run);
        }
        if let Some(end) = &mut job_end {
            let cancelled = tables.runs.get(run).is_some_and(|row| row.run.cancel_requested);
            if cancelled && end.state == JobState::Retrying {
                end.state = JobState::Cancelled;
            }
            tables.end_job(end);
        }
        if let Some(end) = end
            && let Some(parent) = tables.resolve(end.tenant, end.parent.wait, end.resolution, now)
        {
            self.ring(parent);
        }
        Ok(committed)
    }
}
