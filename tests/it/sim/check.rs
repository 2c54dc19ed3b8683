//! What must be true of a world when everything in it has come to rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dispatch::engine::StepRecord;
use dispatch::id::RunId;
use dispatch::model::event::{Event, EventRecord, output_of};
use dispatch::model::wait::{WaitKind, digest};
use dispatch::model::{Outcome, Run, RunState, StepState, Wait};
use dispatch::store::{Runs, Signal, Waits};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::flows::{Case, Kind};
use super::model::{self, Fate, Told};
use super::people::Promised;
use super::reader::Seen;
use super::world::World;
use crate::store::site::kept_signals;

/// Everything of one run that the store holds in the end.
struct Remains {
    run: Run,
    events: Vec<EventRecord>,
    waits: Vec<Wait>,
    journal: BTreeMap<String, Outcome>,
    signals: Vec<Signal>,
}

/// Collects what everyone saw, then looks at every run.
pub async fn all(world: &Arc<World>, people: JoinSet<(RunId, Promised)>, readers: JoinSet<(RunId, Seen)>) {
    let promises: BTreeMap<RunId, Promised> = gather(world, people, "a person").await.into_iter().collect();
    let seen = gather(world, readers, "a reader").await;
    let runs = world.ledger.runs();
    let mut by_case: BTreeMap<&str, u32> = BTreeMap::new();
    for (run, book) in &runs {
        *by_case.entry(book.case.as_str()).or_default() += 1;
        let Some(case) = world.cases.get(&book.case) else { continue };
        let remains = remains(world, *run).await;
        let mut faults = Vec::new();
        ending(&remains, &mut faults);
        log(&remains, &mut faults);
        steps(case, &remains, &mut faults);
        if let Some(promised) = promises.get(run) {
            kept(world, *run, &remains, promised, &mut faults).await;
        }
        for (_, seen) in seen.iter().filter(|(read, _)| read == run) {
            reading(&remains, seen, &mut faults);
        }
        faults.into_iter().for_each(|fault| world.ledger.wrong(format!("{run} ({}): {fault}", book.case)));
    }
    for case in world.cases.values() {
        let runs = by_case.get(case.name.as_str()).copied().unwrap_or(0);
        if runs == 0 || case.keyed && runs != 1 {
            world.ledger.wrong(format!("{} has {runs} runs", case.name));
        }
    }
}

async fn gather<T: 'static>(world: &World, mut tasks: JoinSet<T>, who: &str) -> Vec<T> {
    let mut all = Vec::new();
    let deadline = world.clock.now().after(Duration::from_secs(300));
    while !tasks.is_empty() {
        let next = tokio::select! {
            biased;
            next = tasks.join_next() => next,
            () = world.clock.sleep_until(deadline) => {
                world.ledger.wrong(format!("{who} waits for ever ({} of them)", tasks.len()));
                tasks.abort_all();
                while tasks.join_next().await.is_some() {}
                return all;
            }
        };
        match next {
            Some(Ok(done)) => all.push(done),
            Some(Err(error)) => world.ledger.wrong(format!("{who}: {error}")),
            None => {}
        }
    }
    all
}

async fn remains(world: &World, run: RunId) -> Remains {
    let store = &world.truth.store;
    let log = store.read_log(world.tenant, run, None, u32::MAX).await.unwrap();
    Remains {
        run: store.find_run(world.tenant, run).await.unwrap().unwrap(),
        events: log.into_iter().flat_map(|segment| segment.events).collect(),
        waits: store.run_waits(world.tenant, run).await.unwrap(),
        signals: kept_signals(store, world.tenant, run).await,
        journal: store.read_journal(world.tenant, run).await.unwrap().into_iter().map(|entry| (entry.key, entry.outcome)).collect(),
    }
}

impl Remains {
    fn record(&self, step: &str) -> Option<StepRecord> {
        match self.journal.get(&format!("steps/{step}"))? {
            Outcome::Done(value) => serde_json::from_value(value.clone()).ok(),
            _ => None,
        }
    }
}

fn ending(remains: &Remains, faults: &mut Vec<String>) {
    let run = &remains.run;
    if !run.state.is_terminal() {
        let open: Vec<&str> = remains.waits.iter().filter(|wait| wait.resolution.is_none()).map(|wait| wait.key.as_str()).collect();
        faults.push(format!("it has not ended: {:?}, due {:?}, waits for {open:?}", run.state, run.wake_at));
    } else if run.finished_at.is_none() || run.wake_at.is_some() || run.sealed.is_some() {
        faults.push(format!("ended, but finished {:?}, due {:?}", run.finished_at, run.wake_at));
    }
}

/// The log by itself: in order, begun once, ended once, nothing of a step after its end, no block left open.
fn log(remains: &Remains, faults: &mut Vec<String>) {
    let events = &remains.events;
    if events.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
        faults.push("its numbers do not rise".into());
    }
    if events.first().is_none_or(|first| first.kind() != "execution_start" || first.seq != 0) {
        faults.push("it does not begin with execution_start".into());
    }
    let terminal = |event: &EventRecord| matches!(event.kind(), "execution_complete" | "execution_error");
    let ends = events.iter().filter(|event| terminal(event)).count();
    if remains.run.state.is_terminal() && (ends != 1 || !events.last().is_some_and(terminal)) {
        faults.push(format!("{ends} terminal events; the last event is {:?}", events.last().map(|event| event.kind())));
    }
    let mut story = Story::default();
    events.iter().for_each(|record| match record.event() {
        Some(event) => story.tell(record.seq, event, faults),
        None => faults.push(format!("event {} cannot be read: {}", record.seq, record.body)),
    });
    story.end(faults);
}

/// What the log has told so far.
#[derive(Default)]
struct Story {
    settled: BTreeSet<String>,
    /// Text and reasoning that has begun and neither ended nor been taken back.
    open: BTreeSet<String>,
    texts: BTreeMap<String, String>,
    approvals: BTreeMap<String, Value>,
}

impl Story {
    fn tell(&mut self, seq: u64, event: Event, faults: &mut Vec<String>) {
        match event {
            Event::StepStart { id, .. } if self.settled.contains(&id) => faults.push(format!("{seq}: {id} starts after its end")),
            Event::StepComplete { id, .. } | Event::StepSkip { id, .. } if !self.settled.insert(id.clone()) => {
                faults.push(format!("{seq}: {id} ends twice"));
            }
            Event::TextStart { id, .. } | Event::ReasoningStart { id, .. } => {
                if self.texts.insert(id.clone(), String::new()).is_some() {
                    faults.push(format!("{seq}: the block {id} begins twice"));
                }
                self.open.insert(id);
            }
            Event::TextDelta { id, delta } | Event::ReasoningDelta { id, delta } => match self.texts.get_mut(&id) {
                Some(text) if self.open.contains(&id) => text.push_str(&delta),
                _ => faults.push(format!("{seq}: a piece of {id}, which is not open")),
            },
            Event::TextComplete { id, text } | Event::ReasoningComplete { id, text, .. }
                if !self.open.remove(&id) || self.texts.get(&id) != Some(&text) =>
            {
                faults.push(format!("{seq}: {id} ends with a text that was not told"));
            }
            Event::Custom { name, value } if name == "dispatch.attempt_discarded" => {
                for block in value["blocks"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    self.open.remove(block);
                }
            }
            Event::ApprovalStart { tool_call_id, parameters, tool_name, digest: shown, step_id, .. } => {
                self.approvals.insert(format!("{step_id}/{tool_call_id}"), parameters);
                let _ = (shown, tool_name);
            }
            Event::Await { tool_call_id, parameters, step_id, .. }
                if self.approvals.get(&format!("{step_id}/{tool_call_id}")).is_some_and(|approved| *approved != parameters) =>
            {
                faults.push(format!("{seq}: {tool_call_id} runs with {parameters}, which nobody approved"));
            }
            _ => {}
        }
    }

    fn end(&self, faults: &mut Vec<String>) {
        if !self.open.is_empty() {
            faults.push(format!("blocks that neither end nor are taken back: {:?}", self.open));
        }
    }
}

/// The steps and the end, against the model.
fn steps(case: &Case, remains: &Remains, faults: &mut Vec<String>) {
    let answers = remains.waits.iter().filter_map(|wait| Some((wait.key.as_str(), wait.resolution.as_ref()?))).collect();
    let mut signals: BTreeMap<String, Value> = BTreeMap::new();
    for (key, outcome) in &remains.journal {
        let (Some(signal), Outcome::Done(Value::String(step))) = (key.strip_prefix("signals/"), outcome) else { continue };
        let sent = remains.signals.iter().find(|sent| signal == format!("{}/{}", sent.name, sent.id));
        let Some(payload) = sent.map(|sent| sent.payload.clone()) else {
            faults.push(format!("{step} took the signal {signal}, which nobody sent"));
            continue;
        };
        if let Some(before) = signals.insert(step.clone(), payload) {
            faults.push(format!("{step} took two signals, {before} and {signal}"));
        }
    }
    let fates = model::fates(case, &Told { answers, signals });
    let completed = remains.run.state == RunState::Completed;
    for (plot, fate) in case.plots.iter().zip(&fates) {
        let record = remains.record(&plot.id);
        let told = record.as_ref().map(|record| (record.state, &record.output, record.code.as_deref()));
        let fits = match (fate, &told) {
            (Fate::PassedOver, None) => true,
            (Fate::Skipped, Some((StepState::Skipped, _, _))) => true,
            (Fate::Completed(value), Some((StepState::Completed, output, _))) => value == *output,
            (Fate::Failed { code, output, .. }, Some((StepState::Failed, recorded, found))) => output == *recorded && Some(*code) == *found,
            (Fate::PassedOver, Some(_)) => false,
            // A run that was stopped has steps that never came to their end.
            (_, None) => !completed,
            _ => false,
        };
        if !fits {
            faults.push(format!("{}: expected {fate:?}, found {told:?}", plot.id));
        }
    }
    whole(case, remains, &fates, faults);
    for wait in remains.waits.iter().filter(|wait| wait.kind == WaitKind::Approval) {
        let tool = wait.shown["toolName"].as_str().unwrap_or_default();
        if wait.digest != Some(digest(tool, &wait.shown["parameters"], &remains.run.flow_hash)) {
            faults.push(format!("{}: the digest is not that of what was shown", wait.key));
        }
    }
}

fn whole(case: &Case, remains: &Remains, fates: &[Fate], faults: &mut Vec<String>) {
    let run = &remains.run;
    let stopper = |fate: &Fate| matches!(fate, Fate::Failed { stops: true, .. });
    match run.state {
        RunState::Completed => {
            if fates.iter().any(stopper) {
                faults.push("it completed although a step should have stopped it".into());
            }
            let output = fates.iter().rev().find_map(|fate| match fate {
                Fate::Completed(value) if !value.is_null() => Some(value.clone()),
                _ => None,
            });
            if run.output != output {
                faults.push(format!("its output is {:?}, not {output:?}", run.output));
            }
        }
        RunState::Failed => {
            let why = run.failure.as_ref();
            let step = why.and_then(|why| why.step.clone()).unwrap_or_default();
            let known = case.plots.iter().position(|plot| plot.id == step).and_then(|index| fates.get(index));
            if !known.is_some_and(stopper) {
                faults.push(format!("it failed with {why:?}"));
            }
        }
        RunState::Cancelled if !run.cancel_requested => faults.push("it was cancelled, and nobody asked for that".into()),
        _ => {}
    }
    let last = remains.events.last().and_then(EventRecord::event);
    let fits = match (&last, run.state) {
        (Some(Event::ExecutionComplete { final_output, result, .. }), RunState::Completed) => {
            output_of(final_output.clone(), result.clone()) == run.output
        }
        (Some(Event::ExecutionError { code, .. }), RunState::Failed) => Some(code) == run.failure.as_ref().map(|why| &why.code),
        (Some(Event::ExecutionError { code, .. }), RunState::Cancelled) => code == "cancelled",
        (_, state) => !state.is_terminal(),
    };
    if !fits {
        faults.push(format!("it is {:?}, and its last event says {last:?}", run.state));
    }
    // Whatever is in the log of a step is in the journal too, and the other way round.
    for event in remains.events.iter().filter_map(EventRecord::event) {
        if let Event::StepComplete { id, success, .. } = event {
            let record = remains.record(&id);
            if record.is_none_or(|record| (record.state == StepState::Completed) != success) {
                faults.push(format!("{id}: its end was told, and is not in the journal"));
            }
        }
    }
    if case.plots.iter().any(|plot| {
        matches!(plot.kind, Kind::Choose(_))
            && remains.record(&plot.id).is_some_and(|record| record.state == StepState::Completed && record.branch.is_none())
    }) {
        faults.push("a branch was not recorded".into());
    }
}

/// What people were promised holds in the end.
async fn kept(world: &World, run: RunId, remains: &Remains, promised: &Promised, faults: &mut Vec<String>) {
    let answer = |id| remains.waits.iter().find(|wait| wait.id == id).and_then(|wait| wait.resolution.as_ref());
    for (wait, decision) in &promised.decisions {
        if answer(*wait).is_none_or(|answer| answer.answer["decision"] != json!(decision)) {
            faults.push(format!("{wait} was {decision}, and now it is {:?}", answer(*wait)));
        }
    }
    for (wait, output) in &promised.outputs {
        // A tool may be named by an older call too: what counts is that the output was taken for some wait of that name.
        if answer(*wait).is_none_or(|answer| answer.answer["output"] != *output) {
            faults.push(format!("{wait} was answered with {output}, and now it is {:?}", answer(*wait)));
        }
    }
    let signals = kept_signals(&world.truth.store, world.tenant, run).await;
    for id in &promised.signals {
        if signals.iter().filter(|signal| signal.id == *id).count() != 1 {
            faults.push(format!("the signal {id} was taken and is not kept once"));
        }
    }
    if remains.run.state == RunState::Cancelled && !promised.cancelled {
        faults.push("it was cancelled by nobody".into());
    }
}

/// A reader saw the log: all of it, once, in order; and besides it only pieces of attempts that the log takes back.
fn reading(remains: &Remains, seen: &Seen, faults: &mut Vec<String>) {
    if seen.events.windows(2).any(|pair| pair[0].seq >= pair[1].seq) {
        faults.push("a reader saw events out of order".into());
    }
    let log: BTreeMap<u64, &EventRecord> = remains.events.iter().map(|event| (event.seq, event)).collect();
    let read: BTreeSet<u64> = seen.events.iter().map(|event| event.seq).collect();
    let missed: Vec<u64> = log.keys().copied().filter(|seq| !read.contains(seq)).collect();
    if !missed.is_empty() {
        faults.push(format!("a reader (back {} times) missed {missed:?}", seen.returns));
    }
    let voids: Vec<(u64, u64)> = remains
        .events
        .iter()
        .filter_map(|record| match record.event()? {
            Event::Custom { name, value } if name == "dispatch.attempt_discarded" => Some((value["afterSeq"].as_u64()?, record.seq)),
            _ => None,
        })
        .collect();
    for event in &seen.events {
        match log.get(&event.seq) {
            Some(logged) if logged.body == event.body => {}
            Some(logged) => faults.push(format!("a reader saw {} where the log has {}", event.body, logged.body)),
            None => {
                let delta = event.event().is_some_and(|event| event.is_delta());
                let taken_back = voids.iter().any(|(after, told)| (*after..*told).contains(&event.seq) && *after != event.seq);
                if !delta || !taken_back {
                    faults.push(format!("a reader saw {} {}, which is not in the log and was not taken back", event.seq, event.body));
                }
            }
        }
    }
}
