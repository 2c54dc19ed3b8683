//! What a flow comes to when one thing happens after the other and nothing ever breaks.
//!
//! The only inputs besides the flow are the answers that the outside gave: which came first is theirs to know.

use std::collections::BTreeMap;

use dispatch::model::flow::OnError;
use dispatch::model::wait::Resolution;
use serde_json::{Map, Value, json};

use super::flows::{Case, End, GUARDED, Kind, Plot, Script, ToolUse, UNKNOWN};
use super::provider::{reply, transcript};

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// Its branch was not taken.
    PassedOver,
    Skipped,
    Completed(Value),
    Failed {
        code: &'static str,
        output: Value,
        stops: bool,
    },
    /// It waits for something that was never answered, or for such a step.
    Open,
}

impl Fate {
    /// How later texts quote it.
    fn quoted(&self) -> String {
        match self {
            Self::Completed(value) | Self::Failed { output: value, .. } => plain(value),
            Self::PassedOver | Self::Skipped | Self::Open => String::new(),
        }
    }
}

/// A value as templates insert it.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// What the outside told one run.
pub struct Told<'a> {
    /// The answers to waits, by journal key.
    pub answers: BTreeMap<&'a str, &'a Resolution>,
    /// The signals that its steps took, by step.
    pub signals: BTreeMap<String, Value>,
}

/// The fate of every step, in display order.
pub fn fates(case: &Case, told: &Told<'_>) -> Vec<Fate> {
    let mut fates: Vec<Fate> = Vec::with_capacity(case.plots.len());
    for plot in &case.plots {
        let fate = fate(case, plot, &fates, told);
        fates.push(fate);
    }
    fates
}

fn fate(case: &Case, plot: &Plot, before: &[Fate], told: &Told<'_>) -> Fate {
    if let Some((chooser, branch)) = plot.guard {
        match &before[chooser] {
            Fate::Open => return Fate::Open,
            Fate::Completed(value) if value["branch"] == json!(branch) => {}
            _ => return Fate::PassedOver,
        }
    }
    if plot.when == Some(false) {
        return Fate::Skipped;
    }
    if plot.reads.iter().any(|read| before[*read] == Fate::Open) {
        return Fate::Open;
    }
    let text = case.text(plot, |read| before[read].quoted());
    match work(plot, &text, told) {
        Work::Done(value) => Fate::Completed(value),
        Work::Open => Fate::Open,
        Work::Failed(code) => {
            let policy = case.step(plot).and_then(|step| step.on_error.clone()).unwrap_or_else(|| case.flow.on_step_error.clone());
            let output = if let OnError::Default { value } = &policy { value.clone() } else { Value::Null };
            Fate::Failed { code, output, stops: policy == OnError::Stop }
        }
    }
}

enum Work {
    Done(Value),
    Failed(&'static str),
    Open,
}

fn work(plot: &Plot, text: &str, told: &Told<'_>) -> Work {
    match &plot.kind {
        Kind::Set | Kind::Say => Work::Done(json!(text)),
        Kind::Choose(holds) => Work::Done(json!({ "branch": holds })),
        Kind::Delay => Work::Done(Value::Null),
        Kind::Watch(true) => Work::Done(json!(true)),
        Kind::Watch(false) => Work::Failed("wait_exhausted"),
        Kind::Signal(_) => match told.signals.get(&plot.id) {
            Some(payload) => Work::Done(payload.clone()),
            None if told.answers.get(format!("steps/{}/wait", plot.id).as_str()).is_some_and(|answer| answer.timed_out) => {
                Work::Failed("signal_timeout")
            }
            None => Work::Open,
        },
        Kind::Prompt(script) => prompt(plot, script, text, told),
    }
}

fn prompt(plot: &Plot, script: &Script, text: &str, told: &Told<'_>) -> Work {
    match script.end {
        End::Refuses => return Work::Failed("provider_rejected_request"),
        End::Hangs => return Work::Failed("step_timeout"),
        End::Answers => {}
    }
    let mut conversation: Vec<(&'static str, String)> = vec![("user", text.to_owned())];
    for turn in 1.. {
        let heard = transcript(conversation.iter().map(|(role, text)| (*role, text.as_str())));
        let reply = reply(&plot.id, script, turn, &heard);
        if reply.calls.is_empty() {
            let value = if script.json { serde_json::from_str(&reply.text).unwrap_or_default() } else { json!(reply.text) };
            return Work::Done(value);
        }
        conversation.push(("assistant", reply.text));
        // Results of parallel calls stay together; what callers said along with them follows the last.
        let mut said = Vec::new();
        for call in reply.calls {
            let key = format!("steps/{}/turn/{turn}/tool/{}", plot.id, call.id);
            let Some((result, messages)) = tool(call, &key, told) else { return Work::Open };
            conversation.push(("tool", result));
            said.extend(messages.into_iter().map(|text| ("user", text)));
        }
        conversation.extend(said);
    }
    Work::Open
}

/// What the model is told of a call, and what the caller said along with it; `None` while it waits.
fn tool(call: &ToolUse, key: &str, told: &Told<'_>) -> Option<(String, Vec<String>)> {
    let refused = |why: String| Some((format!("Error: {why}"), Vec::new()));
    if call.name == UNKNOWN {
        return refused(format!("there is no tool `{UNKNOWN}`"));
    }
    if call.name == GUARDED {
        let decision = told.answers.get(format!("{key}/approval").as_str())?;
        if decision.timed_out {
            return refused("nobody approved this call in time; it was not made".into());
        }
        if decision.answer["decision"] != "approved" {
            let reason = decision.answer["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
            return refused(format!("the user denied this call; it was not made{reason}"));
        }
    }
    let output = told.answers.get(format!("{key}/output").as_str())?;
    if output.timed_out {
        return refused("the caller sent no output in time".into());
    }
    let said = |message: &Value| message["content"].as_str().map(str::to_owned);
    let messages = output.answer["messages"].as_array().map(|messages| messages.iter().filter_map(said).collect());
    Some((plain(&output.answer["output"]), messages.unwrap_or_default()))
}

/// What a caller sends as a tool's output.
pub fn output(call: &str, arguments: &Value) -> Value {
    Value::Object(Map::from_iter([("for".to_owned(), json!(call)), ("of".to_owned(), arguments["x"].clone())]))
}
