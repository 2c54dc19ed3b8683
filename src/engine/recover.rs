//! Telling readers what a crash made void.
//!
//! What the log shows of a step without its end belongs to an attempt that is gone; the run's new owner says so
//! before it begins another. Pieces of text may have been shown that are not even in the log.

use std::collections::BTreeSet;

use super::context::RunContext;
use crate::model::event::{Event, Rest, Segment};

/// What the log tells of the steps that have not ended.
#[derive(Default)]
struct Story {
    under_way: BTreeSet<String>,
    /// Steps that were entered since the run last rested.
    entered: BTreeSet<String>,
    /// Open blocks, each with its step.
    blocks: Vec<(String, String)>,
}

impl Story {
    fn tell(&mut self, event: Event) {
        match event {
            Event::StepStart { id, .. } => {
                self.entered.insert(id.clone());
                self.under_way.insert(id);
            }
            Event::StepComplete { id, .. } | Event::StepSkip { id, .. } => drop(self.under_way.remove(&id)),
            Event::TextStart { id, step_id, .. } => self.blocks.push((id, step_id.unwrap_or_default())),
            Event::ReasoningStart { id, .. } => self.blocks.push((id, String::new())),
            Event::ToolStart { tool_call_id, step_id, .. } => self.blocks.push((tool_call_id, step_id)),
            Event::TextComplete { id, .. } | Event::ReasoningComplete { id, .. } => self.blocks.retain(|(open, _)| *open != id),
            Event::ToolComplete { tool_call_id, .. } => self.blocks.retain(|(open, _)| *open != tool_call_id),
            Event::Custom { name, value } if name == "dispatch.attempt_discarded" => {
                let void = |block: &str| value["blocks"].as_array().into_iter().flatten().any(|id| id == block);
                self.blocks.retain(|(open, _)| !void(open));
            }
            _ => {}
        }
    }

    fn open_blocks(&self, step: &str) -> Vec<&str> {
        self.blocks.iter().filter(|(_, of)| of == step || of.is_empty()).map(|(block, _)| block.as_str()).collect()
    }
}

/// Emits one `dispatch.attempt_discarded` per step that was under way.
pub(super) fn discard(run: &RunContext, log: &[Segment], recoveries: u32) {
    let mut story = Story::default();
    let last = log.last().map(Segment::last);
    for segment in log {
        segment.events.iter().filter_map(|record| record.event()).for_each(|event| story.tell(event));
        if segment.rest != Rest::None {
            story.entered.clear();
        }
    }
    for step in &story.under_way {
        let open = story.open_blocks(step);
        // A step that waits, or has not gone on since, did nothing that could be void.
        let waits = run.memory.lock().open_below(&[format!("steps/{step}/")]).next().is_some();
        if open.is_empty() && (waits || !story.entered.contains(step)) {
            continue;
        }
        // Blocks that began after `afterSeq` were shown, if at all, before they were committed.
        run.emit(Event::Custom {
            name: "dispatch.attempt_discarded".into(),
            value: serde_json::json!({ "stepId": step, "blocks": open, "afterSeq": last, "reason": "crash", "recoveries": recoveries }),
        });
    }
}
