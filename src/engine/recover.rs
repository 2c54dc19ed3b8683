//! Telling readers what a crash made void.
//!
//! What the log shows of a step without its end belongs to an attempt that is gone; the run's new owner says so
//! before it begins another.

use std::collections::BTreeSet;

use super::context::RunContext;
use crate::model::event::{Event, Segment};

/// Emits one `dispatch.attempt_discarded` per step that was under way.
pub(super) fn discard(run: &RunContext, log: &[Segment], recoveries: u32) {
    let mut under_way: BTreeSet<String> = BTreeSet::new();
    let mut blocks: Vec<(String, String)> = Vec::new();
    let last = log.last().map(Segment::last);
    for event in log.iter().flat_map(|segment| &segment.events).filter_map(|record| record.event()) {
        match event {
            Event::StepStart { id, .. } => drop(under_way.insert(id)),
            Event::StepComplete { id, .. } | Event::StepSkip { id, .. } => drop(under_way.remove(&id)),
            Event::TextStart { id, step_id, .. } => blocks.push((id, step_id.unwrap_or_default())),
            Event::ReasoningStart { id, .. } => blocks.push((id, String::new())),
            Event::ToolStart { tool_call_id, step_id, .. } => blocks.push((tool_call_id, step_id)),
            Event::TextComplete { id, .. } | Event::ReasoningComplete { id, .. } => blocks.retain(|(open, _)| *open != id),
            Event::ToolComplete { tool_call_id, .. } => blocks.retain(|(open, _)| *open != tool_call_id),
            _ => {}
        }
    }
    for step in under_way {
        let open: Vec<&str> = blocks.iter().filter(|(_, of)| *of == step || of.is_empty()).map(|(block, _)| block.as_str()).collect();
        // A step that only waited did nothing that could be void.
        if open.is_empty() && run.memory.lock().has_waited(&format!("steps/{step}")) {
            continue;
        }
        // Blocks that began after `afterSeq` were shown, if at all, before they were committed.
        run.emit(Event::Custom {
            name: "dispatch.attempt_discarded".into(),
            value: serde_json::json!({ "stepId": step, "blocks": open, "afterSeq": last, "reason": "crash", "recoveries": recoveries }),
        });
    }
}
