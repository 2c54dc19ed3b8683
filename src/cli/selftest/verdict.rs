//! The model: what must hold of a run whatever died meanwhile, and where it does not.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::ledger::{Arrived, Class, Ledger, Seen};
use super::story::Story;
use super::told::{Breach, Told, Violation, is_delta, is_end, kind_of, seq_of};

/// Judges one run by what it was, what the caller was told, and what really arrived outside.
pub fn judge(story: &Story, told: &Told, ledger: &Ledger, arrived: &Arrived) -> Vec<Violation> {
    let mut verdict = Verdict { about: format!("{} {}", story.name, told.runs.first().unwrap_or(&story.tag)), violations: Vec::new() };
    for (breach, what) in &told.faults {
        verdict.add(*breach, what.clone());
    }
    verdict.end(story, told);
    verdict.committed_steps(told, ledger);
    verdict.effects(story, told, arrived);
    verdict.log(told);
    verdict.violations
}

struct Verdict {
    about: String,
    violations: Vec<Violation>,
}

impl Verdict {
    fn add(&mut self, breach: Breach, what: impl Into<String>) {
        self.violations.push(Violation { breach, about: self.about.clone(), what: what.into() });
    }

    fn end(&mut self, story: &Story, told: &Told) {
        if told.runs.len() > 1 {
            self.add(Breach::Doubled, format!("one Idempotency-Key started {} runs: {:?}", told.runs.len(), told.runs));
        }
        match &told.status {
            None => self.add(Breach::Stuck, "the run did not end in time"),
            Some(status) if *status != story.status => self.add(Breach::Lost, format!("the run ended {status}, not {}", story.status)),
            Some(_) => {}
        }
        if let (Some(_), Some(output)) = (&told.status, &story.output)
            && *output != told.output
        {
            self.add(Breach::Lost, format!("the output is {}, not {output}", told.output));
        }
    }

    /// What a step had caused when it was shown as complete is all that it ever causes.
    fn committed_steps(&mut self, told: &Told, ledger: &Ledger) {
        let Some(run) = told.runs.first() else { return };
        for (step, then) in &told.complete {
            let prefix = format!("{run}/steps/{step}/");
            let now = ledger.under(&prefix);
            if now != *then {
                let told = ledger.told_under(&prefix);
                self.add(Breach::Redone, format!("step {step} was complete with {then} requests and has {now} now: {told}"));
            }
        }
    }

    fn effects(&mut self, story: &Story, told: &Told, arrived: &Arrived) {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, seen) in arrived {
            keys.entry(&seen.effect).or_default().insert(key);
            if seen.class == Class::Once && seen.performed > 1 {
                self.add(Breach::Doubled, format!("effect {} happened {} times", seen.effect, seen.performed));
            }
        }
        for (effect, keys) in keys.iter().filter(|(_, keys)| keys.len() > 1) {
            self.add(Breach::Doubled, format!("effect {effect} came with {} keys: {keys:?}", keys.len()));
        }
        if told.status.as_deref() != Some(story.status) {
            return;
        }
        for expected in story.effects.iter().filter(|_| !story.cancelled) {
            let done = arrived.values().any(|seen| seen.effect == expected.effect && seen.class == expected.class && seen.performed > 0);
            if !done {
                self.add(Breach::Lost, format!("effect {} never happened", expected.effect));
            }
        }
        let known = |seen: &Seen| story.effects.iter().any(|expected| expected.effect == seen.effect);
        for seen in arrived.values().filter(|seen| seen.performed > 0 && !known(seen)) {
            self.add(Breach::Doubled, format!("effect {} was never asked for", seen.effect));
        }
    }

    fn log(&mut self, told: &Told) {
        let Some(log) = &told.log else { return };
        let mut by_seq: BTreeMap<u64, &Value> = BTreeMap::new();
        let mut last = None;
        for event in log {
            let seq = seq_of(event);
            if seq.is_none() || seq <= last {
                self.add(Breach::Log, format!("the log goes from {last:?} to {seq:?}"));
            }
            last = seq.or(last);
            by_seq.insert(seq.unwrap_or_default(), event);
        }
        let ends = log.iter().filter(|event| is_end(event)).count();
        if ends != 1 || !log.last().is_some_and(is_end) {
            let tail: Vec<&str> = log.iter().rev().take(3).map(kind_of).collect();
            self.add(Breach::Log, format!("the log has {ends} ends; its last events are {tail:?}"));
        }
        let mut completed = BTreeSet::new();
        for event in log.iter().filter(|event| kind_of(event) == "step_complete") {
            if let Some(step) = event.get("id").and_then(Value::as_str)
                && !completed.insert(step)
            {
                self.add(Breach::Redone, format!("the log completes step {step} twice"));
            }
        }
        for (seq, shown) in &told.shown {
            match by_seq.get(seq) {
                Some(logged) if *logged == shown => {}
                // What was told in pieces may have been joined since.
                Some(logged) if is_delta(shown) && is_delta(logged) && is_told(shown, log) => {}
                Some(logged) => self.add(Breach::Log, format!("event {seq} was shown as {shown} and is {logged}")),
                None if is_delta(shown) || is_reset(shown) => {}
                None => self.add(Breach::Lost, format!("event {seq} was shown and is not in the log: {shown}")),
            }
        }
    }
}

/// The block that a delta belongs to, and its piece of text.
fn piece(event: &Value) -> Option<(&str, &str, &str)> {
    let id = event.get("id").or_else(|| event.get("toolCallId"))?.as_str()?;
    Some((kind_of(event), id, event.get("delta")?.as_str()?))
}

/// Whether the log tells the piece within its block.
fn is_told(shown: &Value, log: &[Value]) -> bool {
    let Some((kind, id, text)) = piece(shown) else { return false };
    let whole: String = log.iter().filter_map(piece).filter(|(a, b, _)| (*a, *b) == (kind, id)).map(|(_, _, text)| text).collect();
    whole.contains(text)
}

fn is_reset(event: &Value) -> bool {
    event.get("name").and_then(Value::as_str) == Some("dispatch.reset")
}
