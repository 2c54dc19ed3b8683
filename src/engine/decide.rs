//! What to do next: a pure function of the plan and where its steps stand.

use super::memory::Standing;
use super::plan::Plan;
use crate::model::StepState;

/// A step that can move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Run(usize),
    /// It belongs to a branch that was not taken: it is passed over without a word.
    PassOver(usize),
}

/// Every step that has not begun and whose predecessors are all settled, in display order.
pub fn ready(plan: &Plan, steps: &[Standing]) -> Vec<Ready> {
    let settled = |index: &usize| steps.get(*index).is_some_and(Standing::is_settled);
    plan.steps
        .iter()
        .enumerate()
        .filter(|(index, step)| steps.get(*index).is_some_and(|standing| standing.state.is_none()) && step.after.iter().all(settled))
        .map(|(index, step)| match step.guard {
            Some((chooser, branch)) if !chose(steps, chooser, branch) => Ready::PassOver(index),
            _ => Ready::Run(index),
        })
        .collect()
}

fn chose(steps: &[Standing], chooser: usize, branch: bool) -> bool {
    steps.get(chooser).is_some_and(|standing| standing.state == Some(StepState::Completed) && standing.branch == Some(branch))
}
