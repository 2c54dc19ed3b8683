//! Many calls in one step: for each element of a list, for each chunk of it, all at once, in a race, or one after the other into one value.

use std::collections::BTreeSet;
use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use indexmap::IndexMap;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::{Call, Maker, Place, Rest};
use super::reply::Reply;
use super::{Fields, Request, Requests, Several, emit, shown_tree};
use crate::clock::Timestamp;
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::memory::Orders;
use crate::engine::plan::StepReads;
use crate::expr::{Block, TemplateTree, is_lua};
use crate::model::Outcome;

/// Elements of one strategy.
const MOST_ELEMENTS: usize = 10_000;
/// Calls of one step at once.
const MOST_AT_ONCE: u32 = 100;
/// What stands behind an undo's key.
const UNDO: &str = "compensate";
/// Contenders, and requests that stand in the document.
const MOST_REQUESTS: usize = 100;

/// How a step makes many calls.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "WorkflowStrategy")]
pub(super) enum Config {
    /// The step's request for each element, so many at once.
    FanOut {
        /// A list: a path expression, Lua that begins with `return`, a template, or a block `{expr, lang}`.
        over: Value,
        /// Calls at once; 5 when absent, 100 at most.
        #[serde(default)]
        concurrency: Option<u32>,
        /// The element's name in texts, besides `item`.
        #[serde(default, rename = "as")]
        name: Option<String>,
        /// What a failed element does to the step.
        #[serde(default)]
        on_error: OnError,
    },
    /// The same all at once; or several requests.
    Scatter {
        #[serde(default)]
        over: Option<Value>,
        #[serde(default, rename = "as")]
        name: Option<String>,
        #[serde(default)]
        requests: Option<Several>,
        #[serde(default)]
        on_error: OnError,
    },
    /// Several requests at once; the first good reply is the step's.
    Race {
        requests: Several,
        /// Whether the others are cut off then; true when absent.
        #[serde(default)]
        cancel_losers: Option<bool>,
    },
    /// The step's request for each chunk, which texts see as `batch`.
    Batch {
        over: Value,
        /// Elements of a chunk.
        size: u32,
        /// Chunks at once; 1 when absent, 100 at most.
        #[serde(default)]
        concurrency: Option<u32>,
        #[serde(default)]
        on_error: OnError,
    },
    /// One element after the other, into one value.
    Reduce {
        over: Value,
        /// What `acc` is at first.
        #[serde(default)]
        initial: Value,
        /// The next `acc`, of `acc`, `item`, `index` and, when there is a request, `result`: the reply, and the members of its body beside it.
        expr: String,
        /// `path`, `jsonpath` or `lua`; a path when absent.
        #[serde(default)]
        lang: Option<String>,
    },
}

/// What a failed element does to the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "WorkflowOnError")]
pub(super) enum OnError {
    /// The step fails, when the calls that are under way have ended.
    #[default]
    Fail,
    /// The element's result is `{error}`, and the others go on.
    Continue,
}

/// Compiled.
pub(super) enum Strategy {
    Each { over: TemplateTree, at_once: usize, name: Option<String>, on_error: OnError },
    All { requests: Requests, named: bool, on_error: OnError },
    Race { requests: Requests, cancel_losers: bool },
    Batch { over: TemplateTree, size: usize, at_once: usize, on_error: OnError },
    Reduce { over: TemplateTree, initial: TemplateTree, next: Block },
}

/// What a strategy goes over: a list, a template that gives one, or an expression, read as in `when`.
fn over_tree(fields: &mut Fields, over: &Value) -> Option<TemplateTree> {
    match over {
        Value::String(text) if !text.contains("{{") => {
            let lang = if is_lua(text) { "lua" } else { "path" };
            if let Err(fault) = Block::parse(text, Some(lang)) {
                fields.problem("strategy/over", fault.to_string());
                return None;
            }
            shown_tree(fields, "strategy/over", &json!({ "expr": text, "lang": lang }))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            fields.problem("strategy/over", "expected a list, or an expression that gives one, as `trigger.body.items`");
            None
        }
        Value::String(_) | Value::Array(_) | Value::Object(_) => shown_tree(fields, "strategy/over", over),
    }
}

impl Config {
    pub fn compile(self, fields: &mut Fields, make: &Maker, has_call: bool) -> Option<Strategy> {
        let needs_call = |fields: &mut Fields| {
            if !has_call {
                fields.problem("request", "expected, since the strategy makes it for each element");
            }
        };
        let at_once = |fields: &mut Fields, given: Option<u32>, default: u32| {
            let at_once = given.unwrap_or(default);
            if !(1..=MOST_AT_ONCE).contains(&at_once) {
                fields.problem("strategy/concurrency", format!("expected 1 to {MOST_AT_ONCE}"));
            }
            at_once as usize
        };
        let alone = |fields: &mut Fields| {
            if has_call {
                fields.problem("request", "the strategy has requests of its own");
            }
        };
        match self {
            Self::FanOut { over, concurrency, name, on_error } => {
                needs_call(fields);
                let at_once = at_once(fields, concurrency, 5);
                Some(Strategy::Each { over: over_tree(fields, &over)?, at_once, name: name_of(fields, name), on_error })
            }
            Self::Scatter { over: Some(over), name, requests: None, on_error } => {
                needs_call(fields);
                let over = over_tree(fields, &over)?;
                Some(Strategy::Each { over, at_once: MOST_AT_ONCE as usize, name: name_of(fields, name), on_error })
            }
            Self::Scatter { over: None, requests: Some(several), on_error, .. } => {
                alone(fields);
                let named = matches!(several, Several::Named(_));
                Some(Strategy::All { requests: requests(fields, make, several, 1)?, named, on_error })
            }
            Self::Scatter { .. } => {
                fields.problem("strategy", "expected either `over` or `requests`");
                None
            }
            Self::Race { requests: several, cancel_losers } => {
                alone(fields);
                Some(Strategy::Race { requests: requests(fields, make, several, 2)?, cancel_losers: cancel_losers.unwrap_or(true) })
            }
            Self::Batch { over, size, concurrency, on_error } => {
                needs_call(fields);
                if size == 0 {
                    fields.problem("strategy/size", "expected 1 or more");
                }
                let at_once = at_once(fields, concurrency, 1);
                Some(Strategy::Batch { over: over_tree(fields, &over)?, size: size.max(1) as usize, at_once, on_error })
            }
            Self::Reduce { over, initial, expr, lang } => {
                let next = Block::parse(&expr, lang.as_deref()).map_err(|fault| fields.problem("strategy/expr", fault.to_string())).ok();
                if next.as_ref().is_some_and(|next| next.reads().uses_secrets()) {
                    fields.problem("strategy/expr", super::SECRETS);
                }
                let (over, initial) = (over_tree(fields, &over), shown_tree(fields, "strategy/initial", &initial));
                Some(Strategy::Reduce { over: over?, initial: initial?, next: next? })
            }
        }
    }
}

fn name_of(fields: &mut Fields, name: Option<String>) -> Option<String> {
    let name = name.filter(|name| name != "item")?;
    let taken = ["trigger", "steps", "vars", "secrets", "run", "index", "batch"];
    let plain = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && name.starts_with(|first: char| first.is_ascii_alphabetic());
    if !plain || taken.contains(&name.as_str()) {
        fields.problem("strategy/as", "expected a name of letters, digits and `_` that means nothing else");
    }
    Some(name)
}

fn requests(fields: &mut Fields, make: &Maker, several: Several, least: usize) -> Option<Requests> {
    let listed: Vec<(String, Request)> = match several {
        Several::Named(map) => map.into_iter().collect(),
        Several::Listed(list) => list.into_iter().enumerate().map(|(index, request)| (index.to_string(), request)).collect(),
    };
    if !(least..=MOST_REQUESTS).contains(&listed.len()) {
        fields.problem("strategy/requests", format!("expected {least} to {MOST_REQUESTS}"));
    }
    let mut requests = IndexMap::with_capacity(listed.len());
    for (name, request) in listed {
        let plain =
            !name.is_empty() && name.len() <= 100 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        if !plain || name == UNDO {
            fields
                .problem("strategy/requests", format!("`{name}` is no name of a request: letters, digits, `_` and `-`, and not `{UNDO}`"));
        }
        let call = make.call(fields, &format!("strategy/requests/{}", crate::error::pointer_token(&name)), &request);
        requests.insert(name, call?);
    }
    Some(requests)
}

/// How one of a strategy's calls stopped.
enum CallOutcome<T> {
    Ended(Result<T, StepFailure>),
    /// Its next attempt is due at this time. Until then it does not count towards the concurrency.
    RetryAt(Timestamp),
    /// The outcome of an attempt is unknown and must be settled first.
    Suspended,
}

/// The calls that wait for their next attempt, by the time at which it is due.
#[derive(Default)]
struct CallQueue(BTreeSet<(Timestamp, usize)>);

impl CallQueue {
    fn add(&mut self, due: Timestamp, index: usize) {
        self.0.insert((due, index));
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until the first of them is due.
    fn next_due(&self) -> Option<Timestamp> {
        self.0.first().map(|(due, _)| *due)
    }

    /// Removes the first one that is due.
    fn take_due(&mut self, now: Timestamp) -> Option<usize> {
        self.next_due().filter(|due| *due <= now)?;
        self.0.pop_first().map(|(_, index)| index)
    }
}

/// Waits until a time, or for ever without one.
async fn until(context: &StepContext<'_>, time: Option<Timestamp>) {
    match time {
        Some(time) => context.parts().clock.sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Strategy {
    /// Adds what its texts read, but for the name that it gives elements.
    pub fn reads(&self, reads: &mut StepReads) {
        match self {
            Self::Each { over, name, .. } => {
                if let Some(name) = name {
                    reads.sent.roots.remove(name);
                }
                reads.stored.add(over.reads());
            }
            Self::Batch { over, .. } => reads.stored.add(over.reads()),
            Self::All { requests, .. } | Self::Race { requests, .. } => requests.values().for_each(|call| reads.sent.add(&call.reads())),
            Self::Reduce { over, initial, next } => {
                [over.reads(), initial.reads(), next.reads()].into_iter().for_each(|read| reads.stored.add(read));
            }
        }
    }

    /// Makes the calls, and puts what they came to into the step's `value`.
    pub async fn run(
        &self,
        context: &StepContext<'_>,
        call: Option<&Call>,
        own: &Map<String, Value>,
        value: &mut Map<String, Value>,
    ) -> StepResult<Orders> {
        let due = Mutex::new(None);
        loop {
            let orders = Mutex::new(Orders::default());
            let sharing = Sharing { context, own, due: &due, orders: &orders };
            match self.run_once(&sharing, call, value).await {
                Err(Interrupt::Suspend) => {}
                ended => return ended.map(|()| orders.into_inner()),
            }
            // No call is in progress. The first due call wakes the step; however many calls wait, there is one wait.
            let Some(first) = due.lock().take() else { return Err(Interrupt::Suspend) };
            context.sleep_until(&context.key(&format!("due/{}", first.as_millis())), first).await?;
        }
    }

    async fn run_once(&self, sharing: &Sharing<'_>, call: Option<&Call>, value: &mut Map<String, Value>) -> StepResult<()> {
        let Sharing { context, own, .. } = *sharing;
        let no_call = || StepFailure::new("no_request", "the step has no request");
        match self {
            Self::Each { over, at_once, name, on_error } => {
                let call = call.ok_or_else(no_call)?;
                let items = elements(context, over).await?;
                let one = |index: usize, item: Value| async move {
                    let mut own = own.clone();
                    own.insert("index".into(), json!(index));
                    if let Some(name) = name {
                        own.insert(name.clone(), item.clone());
                    }
                    own.insert("item".into(), item);
                    element(sharing, call, index, &index.to_string(), &own).await
                };
                value.insert("items".into(), Value::Array(many(sharing, &items, *at_once, *on_error, one).await?));
            }
            Self::Batch { over, size, at_once, on_error } => {
                let call = call.ok_or_else(no_call)?;
                let items = elements(context, over).await?;
                let chunks: Vec<Value> = items.chunks(*size).map(|chunk| Value::Array(chunk.to_vec())).collect();
                let one = |index: usize, batch: Value| async move {
                    let mut own = own.clone();
                    own.insert("index".into(), json!(index));
                    own.insert("batch".into(), batch);
                    element(sharing, call, index, &index.to_string(), &own).await
                };
                value.insert("items".into(), Value::Array(many(sharing, &chunks, *at_once, *on_error, one).await?));
            }
            Self::All { requests, named, on_error } => {
                let names: Vec<Value> = requests.keys().map(|name| Value::String(name.clone())).collect();
                let one = |index: usize, name: Value| async move {
                    let Some((_, call)) = requests.get_index(index) else { return CallOutcome::Ended(Err(no_call())) };
                    element(sharing, call, index, name.as_str().unwrap_or_default(), own).await
                };
                let items = many(sharing, &names, MOST_AT_ONCE as usize, *on_error, one).await?;
                let items = if *named { Value::Object(requests.keys().cloned().zip(items).collect()) } else { Value::Array(items) };
                value.insert("items".into(), items);
            }
            Self::Race { requests, cancel_losers } => race(sharing, requests, *cancel_losers, value).await?,
            Self::Reduce { over, initial, next } => {
                let items = elements(context, over).await?;
                value.insert("result".into(), reduce(sharing, items, initial, next, call).await?);
            }
        }
        Ok(())
    }
}

/// What the calls of one step share.
#[derive(Clone, Copy)]
struct Sharing<'s> {
    context: &'s StepContext<'s>,
    /// What their texts see besides what everybody sees.
    own: &'s Map<String, Value>,
    /// The time at which a suspended step resumes by itself.
    due: &'s Mutex<Option<Timestamp>>,
    /// What services said of the rest of the run.
    orders: &'s Mutex<Orders>,
}

impl Sharing<'_> {
    fn heed(&self, reply: &Reply) {
        let said = reply.directives.orders();
        let mut orders = self.orders.lock();
        orders.skip.extend(said.skip);
        orders.end = orders.end.max(said.end);
    }

    /// Runs one of the step's calls until it ends or waits for its next attempt.
    async fn make(&self, call: &Call, index: usize, name: &str, own: &Map<String, Value>, told: bool) -> CallOutcome<Reply> {
        let step = self.context.step_id();
        let due = Mutex::new(None);
        let place = Place { at: format!("call/{index}"), key: format!("{step}/{name}"), step, own, rest: Rest::Told(&due), told };
        match call.make(self.context, &place).await {
            Ok(reply) => CallOutcome::Ended(Ok(reply)),
            Err(Interrupt::Fail(failure)) => CallOutcome::Ended(Err(failure)),
            Err(Interrupt::Suspend) => {
                let due = *due.lock();
                due.map_or(CallOutcome::Suspended, CallOutcome::RetryAt)
            }
        }
    }

    /// Suspends the step until that time, or until it is woken.
    fn suspend(&self, due: Option<Timestamp>) -> Interrupt {
        *self.due.lock() = due;
        Interrupt::Suspend
    }
}

/// The elements, computed once; of what is stored, so they see no secrets.
async fn elements(context: &StepContext<'_>, over: &TemplateTree) -> StepResult<Vec<Value>> {
    let key = context.key("elements");
    if let Some(items) = context.recall_as(&key) {
        return Ok(items);
    }
    let items = match over.fill(&context.scope(), &context.sandbox()).await?.value {
        Value::Array(items) => items,
        // Also without elements.
        Value::Object(map) if map.is_empty() => Vec::new(),
        _ => return Err(StepFailure::new("over_not_a_list", "`strategy.over` came to something else than a list").into()),
    };
    if items.len() > MOST_ELEMENTS {
        let message = format!("`strategy.over` evaluated to {} elements; the maximum is {MOST_ELEMENTS}", items.len());
        return Err(StepFailure::new("too_many_elements", message).into());
    }
    context.record_done(&key, &items);
    Ok(items)
}

/// One element's call; its result as later steps see it.
async fn element(sharing: &Sharing<'_>, call: &Call, index: usize, name: &str, own: &Map<String, Value>) -> CallOutcome<Value> {
    let context = sharing.context;
    let made = match sharing.make(call, index, name, own, false).await {
        CallOutcome::Ended(made) => made,
        CallOutcome::RetryAt(due) => return CallOutcome::RetryAt(due),
        CallOutcome::Suspended => return CallOutcome::Suspended,
    };
    let told = context.key(&format!("call/{index}/ended"));
    if context.recall(&told).is_none() {
        let mut value = json!({ "stepId": context.step_id(), "index": index, "name": name });
        match &made {
            Ok(reply) => value["status"] = json!(reply.answer.status),
            Err(failure) => value["error"] = json!({ "code": failure.code, "message": failure.message }),
        }
        emit(context, "dispatch.item", value);
        context.record_done(&told, &true);
    }
    if let Ok(reply) = &made {
        sharing.heed(reply);
    }
    CallOutcome::Ended(made.map(|reply| json!({ "status": reply.answer.status, "response": reply.value() })))
}

/// Runs a call for each item, at most `at_once` concurrently, and returns the results in the order of the items. A call that waits for its next
/// attempt releases its slot, and gets the next free slot once the attempt is due. When a call fails and the failure counts, no more calls begin,
/// and those in progress run to their end.
async fn many<F: Future<Output = CallOutcome<Value>>>(
    sharing: &Sharing<'_>,
    items: &[Value],
    at_once: usize,
    on_error: OnError,
    one: impl Fn(usize, Value) -> F,
) -> StepResult<Vec<Value>> {
    let context = sharing.context;
    let (at_once, one) = (at_once.max(1), &one);
    let mut fresh = items.iter().enumerate();
    let mut retries = CallQueue::default();
    let mut calling = FuturesUnordered::new();
    let mut results: Vec<Value> = vec![Value::Null; items.len()];
    let (mut failed, mut suspended): (Option<(usize, StepFailure)>, bool) = (None, false);
    loop {
        while failed.is_none() && calling.len() < at_once {
            let due = retries.take_due(context.now()).and_then(|index| Some((index, items.get(index)?)));
            let Some((index, item)) = due.or_else(|| fresh.next()) else { break };
            calling.push(async move { (index, one(index, item.clone()).await) });
        }
        if calling.is_empty() {
            break;
        }
        let next_retry = retries.next_due().filter(|_| failed.is_none() && calling.len() < at_once);
        let (index, outcome) = tokio::select! {
            // The branches are polled in this order, so that a simulated run can be replayed from its seed.
            biased;
            Some(came) = calling.next() => came,
            () = until(context, next_retry) => continue,
        };
        match outcome {
            CallOutcome::Ended(Ok(value)) => results[index] = value,
            CallOutcome::RetryAt(due) => retries.add(due, index),
            CallOutcome::Suspended => suspended = true,
            CallOutcome::Ended(Err(failure)) if on_error == OnError::Continue && !failure.fatal => {
                results[index] = json!({ "error": { "code": failure.code, "message": failure.message } });
            }
            CallOutcome::Ended(Err(failure)) => {
                if failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    failed = Some((index, failure));
                }
            }
        }
    }
    match failed {
        Some((index, failure)) => {
            let message = format!("element {index}: {}", failure.message);
            Err(StepFailure { message, ..failure }.into())
        }
        None if suspended || !retries.is_empty() => Err(sharing.suspend(retries.next_due())),
        None => Ok(results),
    }
}

/// The first good reply wins.
async fn race(sharing: &Sharing<'_>, requests: &Requests, cancel_losers: bool, value: &mut Map<String, Value>) -> StepResult<()> {
    let Sharing { context, own, .. } = *sharing;
    let won = context.key("winner");
    if let Some(Outcome::Done(winner)) = context.recall(&won) {
        value.extend(winner.as_object().cloned().unwrap_or_default());
        return Ok(());
    }
    let mut queue = CallQueue::default();
    (0..requests.len()).for_each(|index| queue.add(Timestamp::default(), index));
    let mut calling = FuturesUnordered::new();
    let (mut winner, mut suspended): (Option<(&String, Reply)>, bool) = (None, false);
    let mut failures = Vec::new();
    loop {
        while winner.is_none()
            && let Some(index) = queue.take_due(context.now())
        {
            if let Some((name, call)) = requests.get_index(index) {
                calling.push(async move { (index, name, sharing.make(call, index, name, own, true).await) });
            }
        }
        if calling.is_empty() {
            break;
        }
        let next_retry = queue.next_due().filter(|_| winner.is_none());
        let (index, name, outcome) = tokio::select! {
            // The branches are polled in this order, so that a simulated run can be replayed from its seed.
            biased;
            Some(came) = calling.next() => came,
            () = until(context, next_retry) => continue,
        };
        match outcome {
            CallOutcome::Ended(Ok(reply)) if winner.is_none() => {
                winner = Some((name, reply));
                if cancel_losers {
                    break;
                }
            }
            CallOutcome::Ended(Ok(_)) => {}
            CallOutcome::Ended(Err(failure)) => failures.push(format!("{name}: {}", failure.message)),
            CallOutcome::RetryAt(due) => queue.add(due, index),
            CallOutcome::Suspended => suspended = true,
        }
    }
    // The losers' connections close here.
    drop(calling);
    let Some((name, reply)) = winner else {
        if suspended || !queue.is_empty() {
            return Err(sharing.suspend(queue.next_due()));
        }
        return Err(StepFailure::new("race_lost", format!("every request failed: {}", failures.join("; "))).into());
    };
    sharing.heed(&reply);
    let result = json!({ "winner": name, "response": reply.value(), "attempts": reply.attempts });
    context.record_done(&won, &result);
    value.extend(result.as_object().cloned().unwrap_or_default());
    Ok(())
}

async fn reduce(sharing: &Sharing<'_>, items: Vec<Value>, initial: &TemplateTree, next: &Block, call: Option<&Call>) -> StepResult<Value> {
    let context = sharing.context;
    let scope = context.scope();
    let mut acc = initial.fill(&scope, &context.sandbox()).await?.value;
    for (index, item) in items.into_iter().enumerate() {
        let key = context.key(&format!("reduce/{index}"));
        if let Some(Outcome::Done(known)) = context.recall(&key) {
            acc = known;
            continue;
        }
        // The call may see secrets; what is stored may not.
        let mut seen = Map::from_iter([("acc".to_owned(), acc), ("item".to_owned(), item), ("index".to_owned(), json!(index))]);
        if let Some(call) = call {
            let own = sharing.own.iter().map(|(name, value)| (name.clone(), value.clone())).chain(seen.clone()).collect();
            let result = match element(sharing, call, index, &index.to_string(), &own).await {
                CallOutcome::Ended(result) => result?,
                CallOutcome::RetryAt(due) => return Err(sharing.suspend(Some(due))),
                CallOutcome::Suspended => return Err(sharing.suspend(None)),
            };
            seen.insert("result".into(), reply_with_body(&result["response"]));
        }
        acc = next.eval(&scope.within(&seen), &context.sandbox()).await?;
        if let Some(misfit) = crate::expr::bounds::Misfit::of(&acc, context.limits().max_result_bytes) {
            return Err(StepFailure::from(misfit).into());
        }
        context.record(&key, Outcome::Done(acc.clone()));
    }
    Ok(acc)
}

/// A reply as a reduction sees it: `status`, `headers` and `body`, and beside them the members of a body that is an object, so that
/// `result.amount` and `result.body.amount` are the same. The reply's own members win.
fn reply_with_body(reply: &Value) -> Value {
    let mut joined = reply.get("body").and_then(Value::as_object).cloned().unwrap_or_default();
    joined.extend(reply.as_object().cloned().unwrap_or_default());
    Value::Object(joined)
}
