//! Random flows: chains, graphs, branches, prompts with tools, waits, and steps that fail in every way.

use std::time::Duration;

use dispatch::model::RunInput;
use dispatch::model::flow::{Backoff, FORMAT, Flow, Guard, OnError, Retry, Step};
use serde_json::{Map, Value, json};

use super::dice::Dice;

const HOUR: u64 = 3_600_000;
/// Longer than any world: what must not be cut short by its time limit.
const EVER: u64 = 1_000 * HOUR;

/// One flow with what is to be expected of it.
pub struct Case {
    pub name: String,
    pub flow: Flow,
    pub input: RunInput,
    pub plots: Vec<Plot>,
    /// Created under an idempotency key.
    pub keyed: bool,
    pub starts: Duration,
    pub cancelled: Option<Duration>,
}

/// What one step is meant to do, beside its configuration.
pub struct Plot {
    pub id: String,
    pub kind: Kind,
    /// Steps whose outputs its text quotes.
    pub reads: Vec<usize>,
    pub guard: Option<(usize, bool)>,
    /// Its own condition, and whether it holds.
    pub when: Option<bool>,
}

pub enum Kind {
    Set,
    Say,
    Choose(bool),
    Delay,
    /// A watched condition that holds, or never does.
    Watch(bool),
    Signal(String),
    Prompt(Script),
}

/// How a model behaves when this step asks it.
pub struct Script {
    /// Attempts that fail before any succeeds.
    pub faults: u64,
    pub end: End,
    /// Answers that are not the JSON that was asked for, before a good one.
    pub garbage: u64,
    pub json: bool,
    pub thinks: bool,
    /// The tool calls of each turn before the last.
    pub turns: Vec<Vec<ToolUse>>,
    /// Longest time between two pieces of an answer.
    pub pace: Duration,
    /// Every piece takes that long.
    pub steady: bool,
    pub pieces: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Answers,
    Refuses,
    Hangs,
}

pub struct ToolUse {
    pub id: String,
    /// `plain`, `guarded` (a person must approve) or one that does not exist.
    pub name: &'static str,
    pub arguments: Value,
}

pub const GUARDED: &str = "guarded";
pub const PLAIN: &str = "plain";
pub const UNKNOWN: &str = "missing";

impl Case {
    /// The text of a step: its id and what it quotes.
    pub fn text(&self, plot: &Plot, quoted: impl Fn(usize) -> String) -> String {
        text(plot, quoted)
    }

    pub fn step(&self, plot: &Plot) -> Option<&Step> {
        self.flow.steps.iter().find(|step| step.id == plot.id)
    }
}

fn text(plot: &Plot, quoted: impl Fn(usize) -> String) -> String {
    let quotes: Vec<String> = plot.reads.iter().map(|read| quoted(*read)).collect();
    format!("{}[{}]", plot.id, quotes.join("|"))
}

/// Draws a flow.
pub fn draw(dice: &Dice, number: usize, horizon: Duration) -> Case {
    let name = format!("case-{number}");
    let n = dice.below(8);
    let chain = dice.percent(50);
    let size = usize::try_from(dice.within(1, 7)).unwrap_or(1);
    let mut plots: Vec<Plot> = Vec::with_capacity(size);
    let mut steps = Vec::with_capacity(size);
    let mut ancestors: Vec<Vec<usize>> = Vec::with_capacity(size);
    for index in 0..size {
        let (after, guard) = place(dice, &plots, index, chain);
        let mut above: Vec<usize> = after.iter().flat_map(|before| ancestors[*before].iter().copied().chain([*before])).collect();
        above.sort_unstable();
        above.dedup();
        let reads = above.iter().copied().filter(|_| dice.percent(60)).collect();
        let when = dice.percent(15).then_some(n > 3);
        let plot = Plot { id: format!("s{index}"), kind: kind(dice, index), reads, guard, when };
        let plot = if matches!(plot.kind, Kind::Choose(_)) { Plot { kind: Kind::Choose(n.is_multiple_of(2)), ..plot } } else { plot };
        steps.push(step(dice, &name, &plot, &after, &plots));
        plots.push(plot);
        ancestors.push(above);
    }
    let flow = Flow {
        format: FORMAT,
        name: name.clone(),
        steps,
        max_parallel: usize::try_from(dice.within(1, 4)).unwrap_or(1),
        on_step_error: policy(dice, 80),
        timeout_ms: EVER,
        workflow: None,
    };
    let inputs = Map::from_iter([("n".to_owned(), json!(n))]);
    Case {
        name,
        flow,
        input: RunInput { inputs, ..RunInput::default() },
        plots,
        keyed: dice.percent(50),
        starts: dice.duration(horizon / 2),
        cancelled: dice.percent(10).then(|| dice.duration(horizon)),
    }
}

/// Where a step stands: after whom, and in which branch.
fn place(dice: &Dice, plots: &[Plot], index: usize, chain: bool) -> (Vec<usize>, Option<(usize, bool)>) {
    let mut after: Vec<usize> =
        if chain { index.checked_sub(1).into_iter().collect() } else { (0..index).filter(|_| dice.percent(35)).collect() };
    let choosers: Vec<usize> = (0..index).filter(|index| matches!(plots[*index].kind, Kind::Choose(_))).collect();
    let guard = dice.pick(&choosers).filter(|_| dice.percent(60)).map(|chooser| (*chooser, dice.percent(50)));
    if let Some((chooser, _)) = guard
        && !after.contains(&chooser)
    {
        after.push(chooser);
    }
    (after, guard)
}

fn kind(dice: &Dice, index: usize) -> Kind {
    match dice.below(20) {
        0..=2 => Kind::Set,
        3 => Kind::Say,
        4..=5 => Kind::Choose(true),
        6..=8 => Kind::Delay,
        9 => Kind::Watch(dice.percent(50)),
        10..=11 => Kind::Signal(format!("go-{}", dice.below(2))),
        _ => Kind::Prompt(script(dice, index)),
    }
}

fn script(dice: &Dice, index: usize) -> Script {
    let end = match dice.below(12) {
        0 => End::Refuses,
        1 => End::Hangs,
        _ => End::Answers,
    };
    let json = dice.percent(20);
    let garbage = if json && end == End::Answers { dice.below(3) } else { 0 };
    let turns = if end == End::Answers && dice.percent(50) { dice.within(1, 3) } else { 0 };
    let turns = (1..=turns).map(|turn| (0..dice.within(1, 2)).map(|call| tool_use(dice, index, turn, call)).collect()).collect();
    Script {
        faults: if end == End::Answers && dice.percent(40) { dice.below(if garbage > 0 { 5 } else { 13 }) } else { 0 },
        end,
        garbage,
        json,
        thinks: dice.percent(30),
        turns,
        pace: dice.duration(Duration::from_secs(if dice.percent(20) { 60 } else { 1 })),
        steady: false,
        pieces: dice.within(1, 8),
    }
}

fn tool_use(dice: &Dice, step: usize, turn: u64, call: u64) -> ToolUse {
    let name = match dice.below(10) {
        0 => UNKNOWN,
        1..=5 => PLAIN,
        _ => GUARDED,
    };
    ToolUse { id: format!("c{step}-{turn}-{call}"), name, arguments: json!({ "x": dice.below(1_000) }) }
}

fn policy(dice: &Dice, going_on: u64) -> OnError {
    if dice.percent(going_on) {
        return if dice.percent(70) { OnError::Continue } else { OnError::Default { value: json!("instead") } };
    }
    OnError::Stop
}

fn step(dice: &Dice, case: &str, plot: &Plot, after: &[usize], plots: &[Plot]) -> Step {
    let template = text(plot, |read| format!("{{{{o_{}}}}}", plots[read].id));
    let (action, config) = configure(dice, case, plot, &template);
    let (mut retry, mut timeout_ms) = (Retry::default(), EVER);
    if let Kind::Prompt(script) = &plot.kind {
        retry = Retry {
            max_attempts: if script.end == End::Hangs { u32::try_from(dice.within(1, 2)).unwrap_or(1) } else { 4 },
            delay_ms: u64::try_from(dice.duration(Duration::from_secs(if dice.percent(30) { 7_200 } else { 10 })).as_millis()).unwrap_or(1),
            backoff: if dice.percent(50) { Backoff::Exponential } else { Backoff::Constant },
            max_delay_ms: 3 * HOUR,
        };
        if script.end == End::Hangs {
            timeout_ms = dice.within(2_000, 30_000);
        }
    }
    Step {
        id: plot.id.clone(),
        name: plot.id.clone(),
        action: action.into(),
        config,
        after: after.iter().map(|before| plots[*before].id.clone()).collect(),
        guard: plot.guard.map(|(chooser, branch)| Guard { step: plots[chooser].id.clone(), branch }),
        when: plot.when.is_some().then(|| "n > 3".into()),
        when_in: None,
        undo: None,
        retry,
        timeout_ms,
        on_error: dice.percent(40).then(|| policy(dice, 70)),
        output: Some(format!("o_{}", plot.id)),
        stream: dice.percent(90),
        pointer: String::new(),
    }
}

fn configure(dice: &Dice, case: &str, plot: &Plot, template: &str) -> (&'static str, Value) {
    match &plot.kind {
        Kind::Set => ("set-variable", json!({ "variableName": format!("v_{}", plot.id), "value": template })),
        Kind::Say => ("send-stream", json!({ "message": template })),
        Kind::Choose(_) => ("conditional", json!({ "condition": "n % 2 == 0" })),
        Kind::Delay => {
            let longest = if dice.percent(50) { Duration::from_secs(4) } else { Duration::from_millis(5 * HOUR) };
            ("wait-until", json!({ "delayMs": u64::try_from(dice.duration(longest).as_millis()).unwrap_or(0) }))
        }
        Kind::Watch(holds) => {
            let interval = 100 + u64::try_from(dice.duration(Duration::from_secs(1_800)).as_millis()).unwrap_or(0);
            let condition = if *holds { "n >= 0" } else { "n > 100" };
            let times = dice.below(4);
            ("wait-until", json!({ "condition": condition, "pollIntervalMs": interval, "timeoutMs": interval * times }))
        }
        Kind::Signal(name) => {
            let timeout = dice.percent(30).then(|| dice.within(1, 3 * HOUR));
            ("wait-for-signal", json!({ "name": name, "timeoutMs": timeout }))
        }
        Kind::Prompt(script) => ("prompt", prompt(dice, case, &plot.id, script, template)),
    }
}

fn prompt(dice: &Dice, case: &str, id: &str, script: &Script, template: &str) -> Value {
    let mut config = json!({ "model": format!("sim/{case}.{id}"), "userPrompt": template });
    let schema = json!({ "type": "object", "properties": { "x": { "type": "integer" } }, "required": ["x"] });
    if let Some(map) = config.as_object_mut() {
        if script.json {
            map.insert("responseFormat".into(), json!("json"));
        }
        if !script.turns.is_empty() {
            let timeout = dice.percent(40).then(|| dice.within(10_000, 2 * HOUR));
            let tools = json!({
                "runtimeTools": [
                    { "name": PLAIN, "toolType": "local", "parametersSchema": schema },
                    { "name": GUARDED, "toolType": "local", "parametersSchema": schema, "requiresApproval": true },
                ],
                "approval": { "require": false, "timeout": timeout },
            });
            map.insert("tools".into(), tools);
        }
    }
    config
}
