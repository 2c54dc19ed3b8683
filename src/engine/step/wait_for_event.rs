//! `wait-for-event`: pauses until an event is published that it may take; or the first of several, or one of each. What was published before is kept and
//! taken.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::bus::{Bus, Published, is_event_name};
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Condition, Template};
use crate::model::wait::{Resolution, WaitKind};
use crate::model::{Outcome, Step};
use crate::store::Kept;

pub const TYPE: StepType = StepType {
    action: "wait-for-event",
    summary: "Pauses until an event of a name is published, or the first of several, or one of each, and takes it.",
    schema: || schemars::schema_for!(Config),
    compile,
};

/// What the wait is called; no signal's name begins like this.
const PREFIX: &str = "$event/";
/// Names that one step may wait for.
const MOST: usize = 20;
const NAME: &str = "an event's name has 1 to 200 characters, none of them a control character";
/// How long a waiting is remembered after its end.
const GRACE: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EventTimeout")]
enum OnTimeout {
    /// The step fails with `event_timeout`.
    #[default]
    Fail,
    /// The step's output is null, or, where all of several were waited for, those that came.
    Continue,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "WaitForEventConfig")]
struct Config {
    /// The event's name; a template. The output is the event.
    #[serde(default)]
    name: Option<String>,
    /// Or the names of several, of which the first to come is taken, which is the output; templates.
    #[serde(default)]
    #[schemars(length(min = 1, max = 20))]
    any: Option<Vec<String>>,
    /// Or the names of several, of which one each is taken; the output has them by their names.
    #[serde(default)]
    #[schemars(length(min = 1, max = 20))]
    all: Option<Vec<String>>,
    /// A JavaScript expression over the flow's variables and `event` (`id`, `name`, `payload`): events for which it does not hold are left to others.
    #[serde(default, rename = "match")]
    matches: Option<String>,
    /// How long to wait in milliseconds; 30 days unless said otherwise.
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    on_timeout: OnTimeout,
}

struct Body {
    names: Vec<Template>,
    wanted: Wanted,
    matches: Option<Condition>,
    lasts: Duration,
    on_timeout: OnTimeout,
}

/// Which of the events that it names a step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    First,
    All,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let lasts = fields.wait("timeoutMs", config.timeout_ms);
    let (names, wanted) = names(&mut fields, config.name, config.any, config.all);
    let matches = config.matches.and_then(|text| Condition::parse(&text).map_err(|error| fields.problem("match", error.to_string())).ok());
    if matches.as_ref().is_some_and(Condition::uses_secrets) {
        fields.problem("match", SECRETS);
    }
    fields.finish(Some(Body { names, wanted, matches, lasts, on_timeout: config.on_timeout }))
}

fn names(fields: &mut Fields, name: Option<String>, any: Option<Vec<String>>, all: Option<Vec<String>>) -> (Vec<Template>, Wanted) {
    let wanted = if all.is_some() { Wanted::All } else { Wanted::First };
    let (given, at) = match (name, any, all) {
        (Some(name), None, None) => (vec![(name, "name".to_owned())], "name"),
        (None, Some(names), None) => (numbered(names, "any"), "any"),
        (None, None, Some(names)) => (numbered(names, "all"), "all"),
        _ => {
            fields.problem("name", "expected one of `name`, `any` and `all`");
            return (Vec::new(), wanted);
        }
    };
    if given.is_empty() || given.len() > MOST {
        fields.problem(at, format!("expected 1 to {MOST} names"));
    }
    let mut names = Vec::with_capacity(given.len());
    for (index, (text, at)) in given.iter().enumerate() {
        let Some(name) = fields.template(at, text) else { continue };
        if name.is_literal() && !is_event_name(text) {
            fields.problem(at, NAME);
        }
        if given.iter().take(index).any(|(before, _)| before == text) {
            fields.problem(at, "the name stands here twice");
        }
        names.push(name);
    }
    (names, wanted)
}

fn numbered(names: Vec<String>, at: &str) -> Vec<(String, String)> {
    names.into_iter().enumerate().map(|(index, name)| (name, format!("{at}/{index}"))).collect()
}

fn shown(event: &Kept<Published>) -> Value {
    json!({ "id": event.id, "name": event.body.name, "payload": event.body.payload, "publishedAt": event.created_at })
}

impl Body {
    async fn fits(&self, context: &StepContext<'_>, event: &Kept<Published>) -> StepResult<bool> {
        let Some(condition) = &self.matches else { return Ok(true) };
        let own = Map::from_iter([("event".to_owned(), shown(event))]);
        Ok(condition.eval(&context.scope().within(&own), &context.sandbox()).await?)
    }

    /// Takes the first event of one of the names that fits, or the one that this very waiting took before a crash.
    async fn take(&self, context: &StepContext<'_>, names: &[String], waiting: &str) -> StepResult<Option<Value>> {
        let (run, bus) = (context.run, Bus::new(context.parts(), context.run.tenant));
        if let Some(taken) = run.patiently(|| bus.taken(waiting)).await? {
            return Ok(Some(shown(&taken)));
        }
        let mut moved = true;
        while std::mem::take(&mut moved) {
            let mut open = Vec::new();
            for name in names {
                open.extend(run.patiently(|| bus.open(name)).await?);
            }
            open.sort_by_key(|event| (event.created_at, event.id));
            for event in open {
                if !self.fits(context, &event).await? {
                    continue;
                }
                if run.patiently(|| bus.take(&event, waiting)).await? {
                    return Ok(Some(shown(&event)));
                }
                // Perhaps it was this one, and the answer was lost.
                if let Some(taken) = run.patiently(|| bus.taken(waiting)).await? {
                    return Ok(Some(shown(&taken)));
                }
                // Somebody took it, or only noted something about it: what is there now is looked at anew.
                moved = true;
                break;
            }
        }
        Ok(None)
    }

    /// Takes what is there. `Some`: everything that was wanted.
    async fn take_wanted(&self, context: &StepContext<'_>, names: &[String], waiting: &str) -> StepResult<Option<Value>> {
        if self.wanted == Wanted::First {
            return self.take(context, names, waiting).await;
        }
        let mut came = self.came(context, names);
        for (index, name) in names.iter().enumerate().filter(|(_, name)| !came.contains_key(*name)).collect::<Vec<_>>() {
            if let Some(event) = self.take(context, std::slice::from_ref(name), &format!("{waiting}/{index}")).await? {
                context.record(&context.key(&format!("event/{index}")), Outcome::Done(event.clone()));
                came.insert(name.clone(), event);
            }
        }
        Ok((came.len() == names.len()).then_some(Value::Object(came)))
    }

    /// Of several that are all wanted, those that were taken.
    fn came(&self, context: &StepContext<'_>, names: &[String]) -> Map<String, Value> {
        let taken = |index: usize| match context.recall(&context.key(&format!("event/{index}"))) {
            Some(Outcome::Done(event)) => Some(event),
            _ => None,
        };
        names.iter().enumerate().filter_map(|(index, name)| Some((name.clone(), taken(index)?))).collect()
    }

    /// Fails, and leaves what was taken to others.
    async fn give_up(&self, context: &StepContext<'_>, names: &[String], waiting: &str) -> StepResult<StepOutput> {
        let bus = Bus::new(context.parts(), context.run.tenant);
        if self.wanted == Wanted::All {
            for index in 0..names.len() {
                let place = format!("{waiting}/{index}");
                context.run.patiently(|| bus.give_back(&place)).await?;
            }
        }
        let came = self.came(context, names);
        let missing: Vec<&str> = names.iter().map(String::as_str).filter(|name| !came.contains_key(*name)).collect();
        let missing = missing.join("`, `");
        Err(StepFailure::new("event_timeout", format!("the event `{missing}` was not published in time")).into())
    }

    fn rendered(&self, context: &StepContext<'_>) -> StepResult<Vec<String>> {
        let mut names: Vec<String> = Vec::with_capacity(self.names.len());
        for name in &self.names {
            let name = name.render_text(&context.scope())?;
            if !is_event_name(&name) {
                return Err(StepFailure::new("invalid_event_name", NAME).into());
            }
            if names.contains(&name) {
                return Err(StepFailure::new("invalid_event_name", format!("`{name}` is waited for twice")).into());
            }
            names.push(name);
        }
        Ok(names)
    }
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let (run, bus) = (context.run, Bus::new(context.parts(), context.run.tenant));
        let taken = context.key("event");
        if let Some(Outcome::Done(event)) = context.recall(&taken) {
            return Ok(StepOutput::of(event));
        }
        let names = self.rendered(context)?;
        let wait_key = context.key("wait");
        let waiting = format!("{}/{wait_key}", run.run);
        let deadline = context.open_wait(&wait_key).and_then(|wait| wait.deadline).unwrap_or_else(|| context.now().after(self.lasts));
        context.settle().await;
        for name in &names {
            run.patiently(|| bus.wait(run.run, &waiting, name, deadline.after(GRACE))).await?;
        }
        let leave = async || {
            for name in &names {
                run.patiently(|| bus.leave(&waiting, name)).await?;
            }
            Ok::<_, Interrupt>(())
        };
        let given_up = context.key("given_up");
        if context.recall(&given_up).is_some() {
            return self.give_up(context, &names, &waiting).await;
        }
        if let Some(came) = self.take_wanted(context, &names, &waiting).await? {
            context.record(&taken, Outcome::Done(came.clone()));
            if let Some(wait) = context.open_wait(&wait_key) {
                let answer = match came.get("id") {
                    Some(id) if self.wanted == Wanted::First => json!({ "event": id }),
                    _ => json!({ "events": names.len() }),
                };
                let resolution = Resolution { answer, by: "event".into(), timed_out: false };
                context.answer(&wait, resolution).await?;
            }
            leave().await?;
            return Ok(StepOutput::of(came));
        }
        let shown = match (names.as_slice(), self.wanted) {
            ([name], Wanted::First) => json!({ "event": name, "stepId": context.step_id() }),
            _ => json!({ "events": names, "all": self.wanted == Wanted::All, "stepId": context.step_id() }),
        };
        let listed = names.join(",");
        let ask = Ask { kind: WaitKind::Signal, name: format!("{PREFIX}{listed}"), shown, digest: None, deadline: Some(deadline) };
        match context.ask(&wait_key, ask).await? {
            Asked::Open { .. } => Err(Interrupt::Suspend),
            Asked::Answered { .. } => {
                leave().await?;
                match self.on_timeout {
                    OnTimeout::Continue => {
                        let came = || Value::Object(self.came(context, &names));
                        let output = if self.wanted == Wanted::All { came() } else { Value::Null };
                        context.record(&taken, Outcome::Done(output.clone()));
                        Ok(StepOutput::of(output))
                    }
                    OnTimeout::Fail => {
                        // Nothing is taken any more once something is given back, whatever happens in between.
                        context.record(&given_up, Outcome::Done(Value::Bool(true)));
                        context.settle().await;
                        self.give_up(context, &names, &waiting).await
                    }
                }
            }
        }
    }
}
