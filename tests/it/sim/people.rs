//! The outside: people who approve, callers who send what they were asked for (twice, late, or otherwise), signals,
//! and those who cancel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dispatch::engine::{Answered, Decision, Verdict};
use dispatch::error::{Kind, Result};
use dispatch::id::{RunId, WaitId};
use dispatch::model::Wait;
use dispatch::model::wait::WaitKind;
use dispatch::store::{Runs, Signal, Waits};
use serde_json::{Map, Value, json};

use super::flows::{self, Case};
use super::model;
use super::world::{Node, World};

/// What the outside was promised about one run.
#[derive(Debug, Default)]
pub struct Promised {
    /// Decisions that were accepted, or found to be in force.
    pub decisions: BTreeMap<WaitId, &'static str>,
    /// Outputs that were accepted.
    pub outputs: BTreeMap<WaitId, Value>,
    pub signals: Vec<String>,
    pub cancelled: bool,
}

/// Plays everyone who has to do with a run until it has ended.
pub async fn attend(world: Arc<World>, run: RunId, case: &str) -> Promised {
    let mut promised = Promised::default();
    let Some(case) = world.cases.get(case) else { return promised };
    let mut cancel = case.cancelled.map(|after| world.clock.now().after(after));
    let mut sent = 0;
    loop {
        world.pause(world.dice.duration(Duration::from_secs(1_200))).await;
        let state = world.truth.store.find_run(world.tenant, run).await.unwrap().unwrap().state;
        if state.is_terminal() {
            return promised;
        }
        if cancel.is_some_and(|at| at <= world.clock.now()) {
            promised.cancelled = true;
            let asked = world.ask(async |node: Arc<Node>| node.engine.cancel(world.tenant, run).await).await;
            if matches!(asked, Some(Ok(_))) {
                cancel = None;
            }
        }
        let waits = world.truth.store.run_waits(world.tenant, run).await.unwrap();
        let awaited = waits.iter().any(|wait| wait.kind == WaitKind::Signal && wait.resolution.is_none());
        signal(&world, run, case, awaited, &mut sent, &mut promised).await;
        // Settled ones are answered again now and then: that must change nothing.
        let open: Vec<Wait> = waits.into_iter().filter(|wait| wait.resolution.is_none() || world.dice.percent(5)).collect();
        let Some(wait) = world.dice.pick(&open).cloned() else { continue };
        let soon = wait.deadline.is_some_and(|deadline| deadline.since(world.clock.now()) < Duration::from_secs(3 * 3_600));
        if soon && !world.is_closing() && world.dice.percent(40) {
            continue;
        }
        match wait.kind {
            WaitKind::Approval => decide(&world, run, &wait, &mut promised).await,
            WaitKind::ToolOutput => deliver(&world, run, &wait, &mut promised).await,
            WaitKind::Timer | WaitKind::Signal | WaitKind::Child | WaitKind::Settlement => {}
        }
    }
}

/// Whether an answer was refused for a reason that only someone else's answer, or the run's end, can give.
fn expected(world: &World, what: &str, refused: &dispatch::error::Error) {
    let known = ["APPROVAL_ALREADY_RESOLVED", "tool_output_already_delivered", "execution_not_paused", "execution_ended"];
    let usual = refused.kind().retryable() || refused.kind() == Kind::Conflict || known.contains(&refused.code());
    if !usual {
        world.ledger.wrong(format!("{what} was refused: {refused:?}"));
    }
}

async fn decide(world: &World, run: RunId, wait: &Wait, promised: &mut Promised) {
    let decision = if world.dice.percent(70) { Decision::Approved } else { Decision::Denied };
    let reason = world.dice.percent(30).then_some("because");
    let digest = wait.digest.clone();
    let by = |node: Arc<Node>| {
        let digest = digest.clone();
        async move {
            let word = Verdict { decision, reason, digest: digest.as_deref(), by: "key_1" };
            node.engine.approve(world.tenant, run, wait.id, word).await
        }
    };
    let told: Vec<Option<Result<Answered>>> = if world.dice.percent(15) {
        let (one, two) = tokio::join!(world.ask(by), world.ask(by));
        vec![one, two]
    } else {
        vec![world.ask(by).await]
    };
    for told in told.into_iter().flatten() {
        match told {
            Ok(_) => {
                if promised.decisions.insert(wait.id, decision.as_str()).is_some_and(|before| before != decision.as_str()) {
                    world.ledger.wrong(format!("{}: approved and denied", wait.id));
                }
            }
            Err(error) => expected(world, "a decision", &error),
        }
    }
}

async fn deliver(world: &World, run: RunId, wait: &Wait, promised: &mut Promised) {
    let mut output = model::output(&wait.name, &wait.shown["parameters"]);
    if world.dice.percent(10) {
        // Two callers, two opinions: the first one counts.
        output["otherwise"] = json!(true);
    }
    let messages = if world.dice.percent(20) { vec![json!({ "role": "user", "content": "and hurry" })] } else { Vec::new() };
    let outputs = Map::from_iter([(wait.name.clone(), output.clone())]);
    let by = |node: Arc<Node>| {
        let (outputs, messages) = (&outputs, &messages);
        async move { node.engine.deliver(world.tenant, run, outputs, messages, "key_1").await }
    };
    let told = if world.dice.percent(15) {
        let (one, two) = tokio::join!(world.ask(by), world.ask(by));
        if let (Some(Ok(one)), Some(Ok(two))) = (&one, &two)
            && one.new + two.new > 1
        {
            world.ledger.wrong(format!("{}: the same output was new twice", wait.id));
        }
        vec![one, two]
    } else {
        vec![world.ask(by).await]
    };
    for told in told.into_iter().flatten() {
        match told {
            Ok(_) => {
                if promised.outputs.insert(wait.id, output.clone()).is_some_and(|before| before != output) {
                    world.ledger.wrong(format!("{}: two different outputs were taken", wait.id));
                }
            }
            Err(error) => expected(world, "an output", &error),
        }
    }
}

/// Sends a signal that some step of the flow may wait for, now or later, once or twice.
async fn signal(world: &World, run: RunId, case: &Case, awaited: bool, sent: &mut u64, promised: &mut Promised) {
    let names: Vec<&String> =
        case.plots.iter().filter_map(|plot| if let flows::Kind::Signal(name) = &plot.kind { Some(name) } else { None }).collect();
    if !world.dice.percent(if !world.is_closing() {
        25
    } else if awaited {
        100
    } else {
        2
    }) {
        return;
    }
    let Some(name) = world.dice.pick(&names) else { return };
    let id = format!("{name}-{}", *sent - u64::from(*sent > 0 && world.dice.percent(20)));
    *sent += 1;
    let signal = Signal { name: (*name).clone(), id: id.clone(), payload: json!({ "id": id }) };
    let told = world.ask(async |node: Arc<Node>| node.engine.signal(world.tenant, run, signal).await).await;
    match told {
        Some(Ok(())) => promised.signals.push(id),
        Some(Err(error)) => expected(world, "a signal", &error),
        None => {}
    }
}
