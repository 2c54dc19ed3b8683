//! `loop`: a list of steps, again and again: for each item of a list, a number of times, or as long as a condition holds.
//!
//! Each round is a child execution with a log of its own; it sees the flow's variables, `item`, `index` and `previous`, what the round before came
//! to. What a round sets stays its own. What decides about the rounds is in the journal: a loop that is taken up goes on where it stood.

use std::collections::HashMap;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::child::{Child, placed, within_depth};
use super::{Fields, SECRETS, StepBody, StepOutput, StepType, config};
use crate::engine::begin::FLOW;
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::{Condition, TemplateTree};
use crate::model::run::RunInput;
use crate::model::{Flow, Step, Target};

pub const TYPE: StepType = StepType {
    action: "loop",
    summary: "Runs steps for each item of a list, some times, or while a condition holds.",
    schema: || schemars::schema_for!(Config),
    compile,
};

/// Rounds unless said otherwise, and at most.
const ROUNDS: u32 = 100;
const MOST_ROUNDS: u32 = 1_000;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "LoopConfig")]
struct Config {
    /// The steps of one round; the last one's output is the round's.
    steps: Value,
    /// A list, or a template that comes to one: a round for each item.
    #[serde(default)]
    over: Option<Value>,
    /// Or how many rounds; a number, or a template that comes to one.
    #[serde(default)]
    times: Option<Value>,
    /// Before each round: a JavaScript expression over the flow's variables, `index` and `previous`; falsy ends the loop.
    #[serde(default, rename = "while")]
    condition: Option<String>,
    /// After each round: the same; truthy ends the loop.
    #[serde(default)]
    until: Option<String>,
    /// The name of the item in a round; `item` when absent.
    #[serde(default)]
    item_variable: Option<String>,
    /// 1 to 1,000; 100 when absent. Items beyond it are left out.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    max_iterations: Option<u32>,
    /// What a round that fails does to the loop.
    #[serde(default)]
    on_round_error: OnRoundError,
    /// The compiled steps, put in by the document's compiler.
    #[serde(default)]
    #[schemars(skip)]
    compiled: Option<Flow>,
    /// Where each of them stands, for faults.
    #[serde(default)]
    #[schemars(skip)]
    places: HashMap<String, String>,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum OnRoundError {
    /// The step fails as the round did.
    #[default]
    Fail,
    /// The round's output is `{"error": …}`, and the next one follows.
    Continue,
}

struct Body {
    flow: Option<Flow>,
    over: Option<TemplateTree>,
    times: Option<TemplateTree>,
    condition: Option<Condition>,
    until: Option<Condition>,
    item: String,
    most: u32,
    on_error: OnRoundError,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if !config.steps.is_array() {
        fields.problem("steps", "expected a list of steps");
    }
    if config.over.is_some() && config.times.is_some() {
        fields.problem("times", "expected either `over` or `times`");
    }
    if config.over.is_none() && config.times.is_none() && config.condition.is_none() && config.until.is_none() {
        fields.problem("over", "expected what the loop runs over: `over`, `times`, `while` or `until`");
    }
    let over = config.over.as_ref().and_then(|value| fields.tree("over", value));
    let times = config.times.as_ref().and_then(|value| fields.tree("times", value));
    let mut condition = |name: &str, source: &Option<String>| {
        let condition =
            source.as_deref().and_then(|source| Condition::parse(source).map_err(|error| fields.problem(name, error.to_string())).ok());
        if condition.as_ref().is_some_and(Condition::uses_secrets) {
            fields.problem(name, SECRETS);
        }
        condition
    };
    let (holds, until) = (condition("while", &config.condition), condition("until", &config.until));
    let most = config.max_iterations.unwrap_or(ROUNDS);
    if !(1..=MOST_ROUNDS).contains(&most) {
        fields.problem("maxIterations", format!("expected 1 to {MOST_ROUNDS}"));
    }
    let item = config.item_variable.unwrap_or_else(|| "item".into());
    if item.trim().is_empty() || item.starts_with('_') {
        fields.problem("itemVariable", "expected a name that does not begin with `_`");
    }
    let flow = placed(config.compiled, &config.places);
    fields.finish(Some(Body { flow, over, times, condition: holds, until, item, most, on_error: config.on_round_error }))
}

impl Body {
    /// The items of the rounds, chosen once; `None` when only conditions end the loop.
    fn items(&self, context: &StepContext<'_>) -> StepResult<Option<Vec<Value>>> {
        let key = context.key("items");
        if let Some(items) = context.recall_as::<Option<Vec<Value>>>(&key) {
            return Ok(items);
        }
        let wrong = |name: &str, wanted: &str| StepFailure::new("invalid_loop", format!("`{name}` came to something else than {wanted}"));
        let items = match (&self.over, &self.times) {
            (Some(over), _) => match context.fill_tree(over)? {
                Value::Array(mut items) => {
                    items.truncate(self.most as usize);
                    Some(items)
                }
                Value::Null => Some(Vec::new()),
                _ => return Err(wrong("over", "a list").into()),
            },
            (None, Some(times)) => {
                let value = context.fill_tree(times)?;
                let times = value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
                let times = times.ok_or_else(|| wrong("times", "a whole number"))?.min(u64::from(self.most));
                Some((0..times).map(|number| json!(number)).collect())
            }
            (None, None) => None,
        };
        context.record_done(&key, &items);
        Ok(items)
    }

    /// Whether a condition holds, asked once.
    async fn holds(&self, context: &StepContext<'_>, condition: &Condition, key: &str, own: &Map<String, Value>) -> StepResult<bool> {
        let key = context.key(key);
        if let Some(holds) = context.recall_as(&key) {
            return Ok(holds);
        }
        let holds = condition.eval(&context.scope().within(own), &context.sandbox()).await?;
        context.record_done(&key, &holds);
        Ok(holds)
    }
}

/// What a round begins with: the flow's variables but for those that every execution has of its own.
fn variables(context: &StepContext<'_>) -> Map<String, Value> {
    let mut variables = context.scope().flatten();
    let is_own = |name: &str| name.starts_with('_') && name != FLOW || ["messages", "user_message"].contains(&name);
    variables.retain(|name, _| !is_own(name.as_str()));
    variables
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        within_depth(context)?;
        let flow = self.flow.as_ref().ok_or_else(|| StepFailure::new("invalid_loop", "the loop has no steps"))?;
        let items = self.items(context)?;
        let rounds = items.as_ref().map_or(self.most as usize, Vec::len);
        let mut outputs: Vec<Value> = Vec::new();
        for index in 0..rounds {
            let mut own = Map::new();
            own.insert("index".into(), json!(index));
            own.insert("previous".into(), outputs.last().cloned().unwrap_or_default());
            own.insert(self.item.clone(), items.as_ref().and_then(|items| items.get(index)).cloned().unwrap_or_default());
            if let Some(condition) = &self.condition
                && !self.holds(context, condition, &format!("round/{index}/while"), &own).await?
            {
                break;
            }
            let at = format!("round/{index}");
            let child = Child { at: &at, flow, target: Target::Flow(None), timeout: None };
            let input = || {
                let inputs = variables(context).into_iter().chain(own.clone()).collect();
                Ok(RunInput { inputs, messages: context.run.input.messages.clone(), ..RunInput::default() })
            };
            let output = match child.run(context, input).await {
                Ok(output) => output.value,
                Err(Interrupt::Fail(failure)) if self.on_error == OnRoundError::Continue && !failure.fatal => {
                    json!({ "error": { "code": failure.code, "message": failure.message } })
                }
                Err(interrupt) => return Err(interrupt),
            };
            outputs.push(output.clone());
            own.insert("previous".into(), output);
            if let Some(until) = &self.until
                && self.holds(context, until, &format!("round/{index}/until"), &own).await?
            {
                break;
            }
        }
        Ok(StepOutput::of(Value::Array(outputs)))
    }

    fn children(&self) -> Vec<(String, &Flow)> {
        self.flow.iter().map(|flow| (String::new(), flow)).collect()
    }
}
