//! A flow made ready to run: the graph resolved to positions, every template and condition parsed.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::step::{SECRETS, StepBody, StepType};
use crate::error::{Problems, Result};
use crate::expr::script::Sandbox;
use crate::expr::{Block, Condition, Language, Reads, Scope, TemplateTree};
use crate::model::flow::Workflow;
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
    /// There for workflows.
    pub workflow: Option<PlannedWorkflow>,
}

/// What a workflow has besides its steps.
pub struct PlannedWorkflow {
    /// Values that are computed once.
    pub vars: Option<TemplateTree>,
    /// Those that read secrets: computed wherever a call or a condition sees them, and never stored.
    pub open_vars: Option<TemplateTree>,
    pub output: Option<TemplateTree>,
}

/// What a step's texts read: those that leave with its calls, and those whose results are stored.
#[derive(Debug, Clone, Default)]
pub struct StepReads {
    pub sent: Reads,
    pub stored: Reads,
}

/// A step's condition.
pub enum When {
    Script(Condition),
    Block(Block),
}

impl When {
    /// Whether it holds.
    pub async fn holds(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<bool> {
        match self {
            Self::Script(condition) => condition.eval(scope, sandbox).await,
            Self::Block(block) => block.holds(scope, sandbox).await,
        }
    }
}

/// One step, with its predecessors as positions in [`Plan::steps`].
pub struct PlannedStep {
    pub step: Step,
    pub index: u32,
    pub after: Vec<usize>,
    /// Runs only when that step chose that branch.
    pub guard: Option<(usize, bool)>,
    pub when: Option<When>,
    pub body: Box<dyn StepBody>,
    /// What undoes it: a step of its own, below this one in the journal.
    pub undo: Option<Box<PlannedStep>>,
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
        let workflow = flow.workflow.as_ref().map(|workflow| compile_workflow(workflow, &mut problems));
        for (index, step) in flow.steps.iter().enumerate() {
            if let Some(planned) = compile_step(step, index, &places, workflow.is_some(), types, &mut problems) {
                steps.push(planned);
            }
        }
        if let Some(workflow) = &workflow {
            check_reads(&flow, workflow, &steps, &mut problems);
        }
        if problems.0.is_empty() {
            find_cycle(&steps, &mut problems);
        }
        (Self { flow, blob, steps, workflow }, problems)
    }
}

/// Where a workflow's values and its answer stand in its document, for faults.
const VARS: &str = "/vars";
const OUTPUT: &str = "/response";

/// The names that a workflow's texts may begin with, those of strategies and of undoing included.
const ROOTS: [&str; 11] = ["trigger", "steps", "vars", "run", "item", "index", "batch", "acc", "result", "error", "self"];
/// Those that are there before the first step.
const FIRST_ROOTS: [&str; 2] = ["trigger", "run"];

fn parse_tree(value: &Value, at: &str, problems: &mut Problems) -> Option<TemplateTree> {
    let parsed = TemplateTree::parse_in(value, Language::Paths);
    parsed.map_err(|faults| faults.0.into_iter().for_each(|fault| problems.add(format!("{at}{}", fault.pointer), fault.message))).ok()
}

fn compile_workflow(workflow: &Workflow, problems: &mut Problems) -> PlannedWorkflow {
    let (mut vars, mut open_vars) = (Map::new(), Map::new());
    for (name, value) in &workflow.vars {
        let at = format!("{VARS}/{}", crate::error::pointer_token(name));
        let Some(tree) = parse_tree(value, &at, problems) else { continue };
        if let Some(root) = tree.roots().iter().find(|root| !FIRST_ROOTS.contains(&root.as_str())) {
            problems.add(&at, format!("`{root}` is not there when the run begins; `vars` may read trigger, run and secrets"));
        }
        if tree.uses_secrets() { &mut open_vars } else { &mut vars }.insert(name.clone(), value.clone());
    }
    let output = workflow.output.as_ref().and_then(|output| parse_tree(output, OUTPUT, problems));
    if output.as_ref().is_some_and(TemplateTree::uses_secrets) {
        problems.add(OUTPUT, SECRETS);
    }
    let mut tree = |vars: Map<String, Value>| (!vars.is_empty()).then(|| parse_tree(&Value::Object(vars), VARS, problems)).flatten();
    PlannedWorkflow { vars: tree(vars), open_vars: tree(open_vars), output }
}

/// Names that lead nowhere, and secrets on their way to where they would be stored.
fn check_reads(flow: &Flow, workflow: &PlannedWorkflow, steps: &[PlannedStep], problems: &mut Problems) {
    let own = flow.workflow.as_ref().map(|workflow| &workflow.vars);
    let known_var = |name: &str| own.is_some_and(|vars| vars.contains_key(name));
    let is_open = |name: &str| {
        let value = own.and_then(|vars| vars.get(name)).and_then(|value| TemplateTree::parse_in(value, Language::Paths).ok());
        value.is_some_and(|tree| tree.uses_secrets())
    };
    let mut check = |reads: &Reads, stored: bool, at: &str| {
        for root in reads.roots.iter().filter(|root| !ROOTS.contains(&root.as_str())) {
            problems.add(at, format!("`{root}` means nothing here; texts begin with trigger, steps, vars, secrets or run"));
        }
        for (root, name) in &reads.members {
            match root.as_str() {
                "steps" if !flow.steps.iter().any(|step| step.id == *name) => {
                    problems.add(at, format!("`steps.{name}` is not a step of this workflow"));
                }
                "vars" if !known_var(name) => problems.add(at, format!("`vars.{name}` is not one of this workflow's `vars`")),
                "vars" if stored && is_open(name) => problems.add(at, format!("`vars.{name}` reads secrets: {SECRETS}")),
                _ => {}
            }
        }
    };
    for planned in steps {
        for (body, at) in [(Some(&planned.body), ""), (planned.undo.as_ref().map(|undo| &undo.body), "/compensate")] {
            let at = format!("{}{at}", planned.step.pointer);
            let reads = body.map(|body| body.reads()).unwrap_or_default();
            check(&reads.sent, false, &at);
            check(&reads.stored, true, &at);
        }
        if let Some(When::Block(when)) = &planned.when {
            check(when.reads(), false, &format!("{}/when", planned.step.pointer));
        }
    }
    if let Some(output) = &workflow.output {
        check(output.reads(), true, OUTPUT);
    }
}

fn compile_when(source: &str, step: &Step, is_workflow: bool, problems: &mut Problems) -> Option<When> {
    let at = format!("{}/when", step.pointer);
    let parsed = if is_workflow || step.when_in.is_some() {
        Block::parse(source, step.when_in.as_deref()).map(When::Block)
    } else {
        Condition::parse(source).map(When::Script)
    };
    match parsed {
        Ok(When::Script(when)) if when.uses_secrets() => problems.add(at, SECRETS),
        Ok(when) => return Some(when),
        Err(error) => problems.add(at, error.to_string()),
    }
    None
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

/// Longest name of an unknown step type, in bytes, that is compared with the known ones: comparing takes time for each character.
const MAX_COMPARED: usize = 64;

fn unknown_type<'t>(step: &Step, known: impl Iterator<Item = &'t str>) -> String {
    let message = format!("step `{}` has the unknown type `{}`", step.id, step.action);
    if step.action.len() > MAX_COMPARED {
        return message;
    }
    let nearest = known.min_by_key(|known| strsim::levenshtein(known, &step.action)).unwrap_or_default();
    format!("{message}; the nearest known one is `{nearest}`")
}

fn compile_step(
    step: &Step,
    index: usize,
    places: &HashMap<&str, usize>,
    is_workflow: bool,
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
    let when = step.when.as_deref().and_then(|source| compile_when(source, step, is_workflow, problems));
    let Some(kind) = types.get(step.action.as_str()) else {
        problems.add(format!("{at}/type"), unknown_type(step, types.keys().copied()));
        return None;
    };
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let undo = step.undo.as_ref().and_then(|config| {
        let undo = Step { id: format!("{}/undo", step.id), config: config.clone(), undo: None, when: None, when_in: None, ..step.clone() };
        let body = compiled(kind, &undo, Some("/compensate"), problems)?;
        Some(Box::new(PlannedStep { step: undo, index, after: Vec::new(), guard: None, when: None, body, undo: None }))
    });
    // The members of a workflow's step are its configuration.
    let body = compiled(kind, step, is_workflow.then_some("/request"), problems)?;
    Some(PlannedStep { step: step.clone(), index, after, guard, when, body, undo })
}

/// `call`: where a workflow's document has the call that the configuration has under `request`.
fn compiled(kind: &StepType, step: &Step, call: Option<&str>, problems: &mut Problems) -> Option<Box<dyn StepBody>> {
    let faults = match (kind.compile)(step) {
        Ok(body) => return Some(body),
        Err(faults) => faults,
    };
    for fault in faults.0 {
        let pointer = match (call, fault.pointer.strip_prefix("/request")) {
            (Some(call), Some(rest)) => format!("{call}{rest}"),
            (Some(_), None) => fault.pointer,
            (None, _) => format!("/config{}", fault.pointer),
        };
        problems.add(format!("{}{pointer}", step.pointer), fault.message);
    }
    None
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
        let stuck = steps.iter().zip(&left).filter(|(_, left)| **left > 0).map(|(step, _)| &step.step).collect::<Vec<_>>();
        let at = stuck.first().map(|step| format!("{}/after", step.pointer)).unwrap_or_default();
        let stuck: Vec<&str> = stuck.iter().map(|step| step.id.as_str()).collect();
        problems.add(at, format!("these steps wait for each other: {}", stuck.join(", ")));
    }
}
