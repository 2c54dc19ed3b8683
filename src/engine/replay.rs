//! Replaying: a new run of what an ended run pinned, in which the steps before a step count as done.
//!
//! Must not know: who asks, under which name.

use std::collections::BTreeMap;

use serde_json::json;

use super::memory::StepRecord;
use super::plan::Plan;
use super::{Engine, StartRun};
use crate::error::{Error, Kind, Result};
use crate::id::{KeyId, RunId, TenantId};
use crate::model::event::{Event, EventRecord, Rest, Segment};
use crate::model::{JournalEntry, Outcome, Run, RunInput, StepState, Target, TargetKind};
use crate::store::{Created, NewRun, RunKey};

impl Engine {
    /// Makes a run like an ended one, in which `from` and what comes after it are done anew, and everything else that came out well counts as done. Secrets of the request
    /// are gone with the run that they came with. `key_id`: the API key of whoever asks, whose limits hold. `new`: the id of the run that is made.
    ///
    /// Errors: `not_found`, `run_goes_on` (409), `step_not_found` (422).
    pub async fn replay(
        &self,
        (tenant, key_id): (TenantId, Option<KeyId>),
        id: RunId,
        new: RunId,
        from: &str,
        key: Option<RunKey>,
    ) -> Result<(RunId, Created)> {
        let store = &self.parts().store;
        let run = store.find_run(tenant, id).await?.ok_or_else(|| Error::missing("execution"))?;
        if matches!(run.target, Target::Workflow(_)) {
            // Services know its calls by the run's id; under the same keys they would not do them again.
            let message = "a run of a workflow cannot be done again from a step on; start another run";
            return Err(Error::new(Kind::Conflict, "not_replayable", message));
        }
        if !run.state.is_terminal() {
            return Err(Error::new(Kind::Conflict, "run_goes_on", "the execution goes on; only one that has ended can be replayed"));
        }
        let text = store.flow_of_run(tenant, id).await?.ok_or_else(|| Error::internal("an execution without its flow"))?;
        let plan = self.plan(&run.flow_hash, &text)?;
        let place = plan.steps.iter().position(|planned| planned.step.id == from);
        let place = place.filter(|_| run.target.kind() == TargetKind::Flow).ok_or_else(|| unknown(&run, &plan, from))?;
        let again = after(&plan, place);
        let mut kept = Vec::new();
        for entry in store.read_journal(tenant, id).await? {
            let step = entry.key.strip_prefix("steps/").filter(|step| !step.contains('/'));
            let index = step.and_then(|step| plan.steps.iter().position(|planned| planned.step.id == step));
            if index.is_some_and(|index| !again.contains(&index)) && came_out(&entry) {
                kept.push(entry);
            }
        }
        let input = RunInput { job: None, origin: None, key_id, ..run.input.clone() };
        let start = StartRun { id: None, tenant, plan, target: run.target, input, secrets: BTreeMap::new(), key, parent: None };
        let queued = self.queued(new, &start)?;
        let told = Event::Custom { name: "dispatch.replay".into(), value: json!({ "of": id, "fromStep": from, "kept": kept.len() }) };
        let mut events: Vec<EventRecord> = queued.segment.into_iter().flat_map(|segment| segment.events).collect();
        events.push(EventRecord::new(queued.reserved, &told));
        let segment = Some(Segment { events, rest: Rest::None });
        let created = store.create_run(NewRun { journal: kept, segment, reserved: queued.reserved + 1, ..queued }).await?;
        Ok((new, created))
    }
}

/// A step and everything that waits for it, however far behind.
fn after(plan: &Plan, place: usize) -> Vec<usize> {
    let mut again = vec![place];
    let mut looked = 0;
    while let Some(before) = again.get(looked).copied() {
        looked += 1;
        let behind = plan.steps.iter().enumerate().filter(|(_, step)| step.after.contains(&before)).map(|(index, _)| index);
        let new: Vec<usize> = behind.filter(|index| !again.contains(index)).collect();
        again.extend(new);
    }
    again
}

/// Whether an entry tells that a step is done and came out well.
fn came_out(entry: &JournalEntry) -> bool {
    let Outcome::Done(value) = &entry.outcome else { return false };
    serde_json::from_value::<StepRecord>(value.clone())
        .is_ok_and(|record| matches!(record.state, StepState::Completed | StepState::Skipped))
}

fn unknown(run: &Run, plan: &Plan, from: &str) -> Error {
    let known: Vec<&str> = plan.steps.iter().map(|planned| planned.step.id.as_str()).collect();
    let message = match run.target.kind() {
        TargetKind::Flow => format!("the flow has no step `{from}`; it has: {}", known.join(", ")),
        TargetKind::Agent => "an agent has no steps; ask it again instead".to_owned(),
    };
    Error::new(Kind::Invalid, "step_not_found", message)
}
