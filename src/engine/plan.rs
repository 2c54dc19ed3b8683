//! A flow made ready to run: the graph resolved to positions, every template and condition parsed.

use std::collections::HashMap;

use super::step::{SECRETS, StepBody, StepType};
use crate::error::{Problems, Result};
use crate::expr::Condition;
use crate::model::{Flow, Step};
use crate::store::Blob;

/// Steps of one flow.
pub const MAX_STEPS: usize = 500;

/// See the module.
pub struct Plan {
    pub flow: Flow,
    /// The flow as it is stored.
    pub blob: Blob,
    pub steps: Vec<PlannedStep>,
}

/// One step, with its predecessors as positions in [`Plan::steps`].
pub struct PlannedStep {
    pub step: Step,
    pub index: u32,
    pub after: Vec<usize>,
    /// Runs only when that step chose that branch.
    pub guard: Option<(usize, bool)>,
    pub when: Option<Condition>,
    pub body: Box<dyn StepBody>,
}

impl PlannedStep {
    /// The beginning of all of the step's journal keys.
    pub fn key(&self) -> String {
        format!("steps/{}", self.step.id)
    }
}

impl Plan {
    /// Compiles every step, reporting all faults with pointers into the document that the flow came from.
    pub fn compile(flow: Flow, blob: Blob, types: &HashMap<&'static str, StepType>) -> Result<Self> {
        let (plan, problems) = Self::examine(flow, blob, types);
        problems.into_result()?;
        Ok(plan)
    }

    /// [`Plan::compile`] as far as it goes: a plan is whole only if there are no problems.
    pub fn examine(flow: Flow, blob: Blob, types: &HashMap<&'static str, StepType>) -> (Self, Problems) {
        let mut problems = Problems::default();
        if flow.steps.len() > MAX_STEPS {
            problems.add("", format!("a flow may have {MAX_STEPS} steps, this one has {}", flow.steps.len()));
        }
        let places = places(&flow, &mut problems);
        let mut steps = Vec::with_capacity(flow.steps.len());
        for (index, step) in flow.steps.iter().enumerate() {
            if let Some(planned) = compile_step(step, index, &places, types, &mut problems) {
                steps.push(planned);
            }
        }
        if problems.0.is_empty() {
            find_cycle(&steps, &mut problems);
        }
        (Self { flow, blob, steps }, problems)
    }
}

fn places<'a>(flow: &'a Flow, problems: &mut Problems) -> HashMap<&'a str, usize> {
    let mut places = HashMap::with_capacity(flow.steps.len());
    for (index, step) in flow.steps.iter().enumerate() {
        if places.insert(step.id.as_str(), index).is_some() {
            problems.add(format!("{}/id", step.pointer), format!("the id `{}` is used by more than one step", step.id));
        }
    }
    places
}

fn compile_step(
    step: &Step,
    index: usize,
    places: &HashMap<&str, usize>,
    types: &HashMap<&'static str, StepType>,
    problems: &mut Problems,
) -> Option<PlannedStep> {
    let at = &step.pointer;
    let mut after = Vec::with_capacity(step.after.len());
    for (number, name) in step.after.iter().enumerate() {
        match places.get(name.as_str()) {
            Some(place) => after.push(*place),
            None => problems
                .add(format!("{at}/after/{number}"), format!("step `{}` comes after `{name}`, which is not a step of this flow", step.id)),
        }
    }
    let guard = step.guard.as_ref().and_then(|guard| places.get(guard.step.as_str()).map(|place| (*place, guard.branch)));
    if let Some((chooser, _)) = guard.filter(|(chooser, _)| !after.contains(chooser)) {
        // Whatever a step of a branch waits for, the branch must be chosen first.
        after.push(chooser);
    }
    let when = step.when.as_deref().and_then(|source| match Condition::parse(source) {
        Ok(when) if when.uses_secrets() => {
            problems.add(format!("{at}/when"), SECRETS);
            None
        }
        Ok(when) => Some(when),
        Err(error) => {
            problems.add(format!("{at}/when"), error.to_string());
            None
        }
    });
    let Some(kind) = types.get(step.action.as_str()) else {
        let nearest = types.keys().min_by_key(|known| strsim::levenshtein(known, &step.action)).copied().unwrap_or_default();
        problems.add(
            format!("{at}/type"),
            format!("step `{}` has the unknown type `{}`; the nearest known one is `{nearest}`", step.id, step.action),
        );
        return None;
    };
    match (kind.compile)(step) {
        Ok(body) => Some(PlannedStep { step: step.clone(), index: u32::try_from(index).unwrap_or(u32::MAX), after, guard, when, body }),
        Err(faults) => {
            for fault in faults.0 {
                problems.add(format!("{at}/config{}", fault.pointer), fault.message);
            }
            None
        }
    }
}

/// Names the steps of a cycle, if there is one.
fn find_cycle(steps: &[PlannedStep], problems: &mut Problems) {
    let mut left: Vec<usize> = steps.iter().map(|step| step.after.len()).collect();
    let mut free: Vec<usize> = (0..steps.len()).filter(|index| left.get(*index) == Some(&0)).collect();
    let mut done = 0;
    while let Some(index) = free.pop() {
        done += 1;
        for (later, step) in steps.iter().enumerate() {
            let times = step.after.iter().filter(|before| **before == index).count();
            if let Some(count) = left.get_mut(later).filter(|_| times > 0) {
                *count -= times;
                if *count == 0 {
                    free.push(later);
                }
            }
        }
    }
    if done < steps.len() {
        let stuck: Vec<&str> = steps.iter().zip(&left).filter(|(_, left)| **left > 0).map(|(step, _)| step.step.id.as_str()).collect();
        problems.add("", format!("these steps wait for each other: {}", stuck.join(", ")));
    }
}
