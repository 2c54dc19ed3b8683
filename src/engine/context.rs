//! What a step sees of its run, and how it touches the outside.
//!
//! Everything goes through here: an effect whose result is in the journal is not performed again, a wait is
//! either answered or suspends the step, events get their place in the log. Recording and emitting never
//! wait, so what a step does between two awaits leaves in one commit.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::budget::Worst;
use super::log::RunLog;
use super::memory::{Inquiry, Memory, weight};
use super::meter::Meter;
use super::plan::{Plan, PlannedStep};
use super::{Inner, Parts, RunLimits};
use crate::clock::Timestamp;
use crate::expr::bounds::Misfit;
use crate::expr::script::Sandbox;
use crate::expr::{Rendered, Scope, Template, TemplateTree};
use crate::failpoint;
use crate::fair::Party;
use crate::id::{RunId, TenantId, WaitId};
use crate::model::event::Event;
use crate::model::run::{Budget, Spent};
use crate::model::wait::{Resolution, Wait, WaitKind};
use crate::model::{JournalEntry, ModelUsage, Outcome, Requester, RunInput, Target};
use crate::provider::{AttemptReport, TenantKeys};
use crate::secret::{Redactor, Secret};
use crate::store::{Resolve, Resolved};
use crate::tool::Effect;

/// How long a wait lasts that nobody gave a deadline.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Why a step did not give a result. A pause is no failure and can never be counted or retried as one.
#[derive(Debug, Clone, PartialEq)]
pub enum Interrupt {
    /// It waits; it will be called again, and the journal brings it back to where it was.
    Suspend,
    Fail(StepFailure),
}

/// A failed step or effect.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepFailure {
    /// Stable identifier.
    pub code: String,
    pub message: String,
    /// The same attempt may succeed later.
    pub retryable: bool,
    pub retry_after: Option<Duration>,
    /// The whole run ends, whatever the step's policy says: an exhausted budget, a limit of the run.
    pub fatal: bool,
    /// The effect went out and its answer was lost: it may have happened.
    pub fate_unknown: bool,
    /// How often the step's call was made, where that is counted.
    pub attempts: Option<u32>,
    /// The requests of the model call that failed.
    pub model_attempts: Vec<AttemptReport>,
}

/// The result of what a step does.
pub type StepResult<T> = Result<T, Interrupt>;

impl StepFailure {
    /// A failure that trying again does not mend.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    /// A failure that may pass.
    pub fn transient(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { retryable: true, ..Self::new(code, message) }
    }
}

impl From<Misfit> for StepFailure {
    fn from(misfit: Misfit) -> Self {
        Self::new(misfit.code(), misfit.to_string())
    }
}

impl From<StepFailure> for Interrupt {
    fn from(failure: StepFailure) -> Self {
        Self::Fail(failure)
    }
}

impl From<crate::error::Error> for StepFailure {
    fn from(error: crate::error::Error) -> Self {
        let retryable = error.kind().retryable();
        Self { retryable, retry_after: error.wait(), ..Self::new(error.code().to_owned(), error.message().to_owned()) }
    }
}

impl From<crate::error::Error> for Interrupt {
    fn from(error: crate::error::Error) -> Self {
        Self::Fail(error.into())
    }
}

impl From<crate::store::StoreError> for Interrupt {
    fn from(error: crate::store::StoreError) -> Self {
        crate::error::Error::from(error).into()
    }
}

/// One run in the hands of its owner, shared by its steps.
pub struct RunContext {
    pub(super) engine: Arc<Inner>,
    pub run: RunId,
    pub tenant: TenantId,
    /// What it runs, as its log speaks of it.
    pub target: Target,
    pub plan: Arc<Plan>,
    pub input: RunInput,
    /// The variables that the run began with.
    pub base: Map<String, Value>,
    /// Of the request.
    pub secrets: BTreeMap<String, Secret>,
    /// These and the managed ones that the flow names.
    pub(super) known_secrets: BTreeMap<String, Secret>,
    pub redactor: Redactor,
    pub keys: TenantKeys,
    pub log: RunLog,
    pub(super) meter: Meter,
    pub(super) memory: Mutex<Memory>,
    pub cancel: CancellationToken,
    /// Rings when the run was nudged from outside.
    pub poke: Arc<Notify>,
}

impl RunContext {
    /// An agent's log tells of its turns; the one step that makes them is not told of.
    pub const fn is_agent(&self) -> bool {
        matches!(self.target, Target::Agent(_))
    }

    /// What the approval of this wait was given for.
    pub fn approved_digest(&self, wait: WaitId) -> Option<String> {
        self.memory.lock().waits.values().find(|known| known.id == wait).and_then(|known| known.digest.clone())
    }

    pub fn parts(&self) -> &Parts {
        &self.engine.parts
    }

    /// On whose behalf the run works.
    pub const fn requester(&self) -> Requester {
        Requester { tenant: self.tenant, is_visitor: self.input.is_by_visitor() }
    }

    /// The party that the run's work is accounted to in fair queues.
    pub fn party(&self) -> Party {
        super::party(self.requester())
    }

    /// The sandbox that runs its scripts.
    pub fn sandbox(&self) -> Sandbox {
        self.parts().sandbox.on_behalf_of(self.party())
    }

    /// A span for the time that this node advances the run. It has the id of the request that started the run, and that request's span as parent on whichever
    /// node it runs; so it has no other parent.
    pub(super) fn span(&self) -> tracing::Span {
        let span =
            tracing::info_span!(parent: None, "run", run = %self.run, flow = self.plan.flow.name, request_id = tracing::field::Empty);
        if let Some(origin) = &self.input.origin {
            if let Some(request) = &origin.request {
                span.record("request_id", request);
            }
            origin.adopt(&span);
        }
        span
    }
}

/// One entry into a step, shared by its attempts.
///
/// A step that waits is entered each time that the run is nudged, and mostly finds that nothing is there for it: of such
/// an entry the log tells nothing. So its start is told with the first thing that comes of it.
#[derive(Default)]
pub struct Entry {
    /// What the first thing that comes of it is preceded by.
    start: Mutex<Option<Event>>,
    /// Nothing has come of it yet.
    quiet: AtomicBool,
}

impl Entry {
    /// An entry that is told of with the first thing that comes of it, if there is anything to tell.
    pub(super) fn new(start: Option<Event>) -> Self {
        Self { start: Mutex::new(start), quiet: AtomicBool::new(true) }
    }
}

/// What one step sees.
pub struct StepContext<'a> {
    pub run: &'a RunContext,
    pub planned: &'a PlannedStep,
    entry: &'a Entry,
    /// From 1.
    pub attempt: u32,
    variables: Arc<Map<String, Value>>,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    unresolved: Vec<String>,
    cost: u64,
    inquiry: Inquiry,
}

/// A wait to open.
pub struct Ask {
    pub kind: WaitKind,
    /// What an answer is addressed by: a tool call's id, a signal's name.
    pub name: String,
    pub shown: Value,
    pub digest: Option<String>,
    pub deadline: Option<Timestamp>,
}

/// Where a wait stands.
pub enum Asked {
    Answered { wait: WaitId, resolution: Resolution },
    Open { wait: WaitId },
}

impl<'a> StepContext<'a> {
    pub(super) fn new(run: &'a RunContext, planned: &'a PlannedStep, entry: &'a Entry, attempt: u32) -> Self {
        let variables = run.memory.lock().variables.clone();
        Self { run, planned, entry, attempt, variables, noted: Mutex::default() }
    }

    /// Tells that the step was entered, unless that is told already.
    pub(super) fn announce(&self) {
        if self.entry.quiet.swap(false, Ordering::AcqRel)
            && let Some(start) = self.entry.start.lock().take()
        {
            self.run.emit(start);
            failpoint::hit("step.start");
        }
    }

    /// Call before an outside effect: what it may depend on becomes durable first.
    pub async fn settle(&self) {
        self.announce();
        self.run.log.settle().await;
    }

    pub fn parts(&self) -> &'a Parts {
        self.run.parts()
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> RunLimits {
        self.parts().limits.get()
    }

    /// The sandbox that runs the run's scripts.
    pub fn sandbox(&self) -> Sandbox {
        self.run.sandbox()
    }

    pub fn step_id(&self) -> &'a str {
        &self.planned.step.id
    }

    pub fn now(&self) -> Timestamp {
        self.parts().clock.now()
    }

    /// The step's journal key with a path below it.
    pub fn key(&self, path: &str) -> String {
        format!("steps/{}/{path}", self.planned.step.id)
    }

    /// Stable over attempts and restarts: what callees deduplicate by.
    pub fn idempotency_key(&self, path: &str) -> String {
        format!("{}/{}", self.run.run, self.key(path).trim_end_matches('/'))
    }

    /// The variables that templates see: the run's input, then the outputs of settled steps. No secrets.
    pub fn scope(&self) -> Scope<'_> {
        Scope::new([&self.run.base, &*self.variables])
    }

    /// The same with the request's secrets, for what goes out through the egress door only.
    pub fn scope_with_secrets(&self) -> Scope<'_> {
        self.scope().with_secrets(&self.run.known_secrets)
    }

    /// What texts that leave with calls, and conditions, see besides: the workflow's values that read secrets.
    pub async fn open_vars(&self) -> StepResult<Map<String, Value>> {
        let mut layer = Map::new();
        if let Some(tree) = self.run.plan.workflow.as_ref().and_then(|workflow| workflow.open_vars.as_ref()) {
            let mut vars = self.variable("vars").and_then(Value::as_object).cloned().unwrap_or_default();
            let rendered = tree.fill(&self.scope_with_secrets(), &self.sandbox()).await?;
            vars.extend(rendered.value.as_object().cloned().unwrap_or_default());
            layer.insert("vars".into(), Value::Object(vars));
        }
        Ok(layer)
    }

    /// One variable.
    pub fn variable(&self, name: &str) -> Option<&Value> {
        self.variables.get(name).or_else(|| self.run.base.get(name))
    }

    /// The id of a text or reasoning block: never used twice in a run, also after a crash.
    pub fn block(&self, kind: &str, number: u32) -> String {
        format!("{kind}_{}_{}_{}_{number}", self.planned.index, self.run.log.epoch.0, self.attempt)
    }

    /// A template filled in with what the step sees.
    pub fn fill(&self, template: &Template) -> StepResult<Value> {
        Ok(self.noting(template.render(&self.scope())?))
    }

    /// [`StepContext::fill`] of a value whose strings are templates.
    pub fn fill_tree(&self, tree: &TemplateTree) -> StepResult<Value> {
        Ok(self.noting(tree.render(&self.scope())?))
    }

    fn noting(&self, rendered: Rendered) -> Value {
        self.unresolved(rendered.unresolved);
        rendered.value
    }

    /// Notes names that led nowhere; they are reported with the step.
    pub fn unresolved(&self, names: Vec<String>) {
        let mut noted = self.noted.lock();
        for name in names {
            if !noted.unresolved.contains(&name) {
                noted.unresolved.push(name);
            }
        }
    }

    pub(super) fn noted_unresolved(&self) -> Vec<String> {
        self.noted.lock().unresolved.clone()
    }

    /// Tokens and nano-dollars.
    pub(super) fn noted_usage(&self) -> (u64, u64) {
        let noted = self.noted.lock();
        (noted.inquiry.input_tokens.saturating_add(noted.inquiry.output_tokens), noted.cost)
    }

    pub(super) fn noted_inquiry(&self) -> Option<Inquiry> {
        self.noted.lock().inquiry.clone().told()
    }

    /// Records the system prompt and the user message that a model is asked. Only the first conversation is recorded.
    pub fn asks(&self, system: Option<&str>, user: Option<&str>) {
        self.noted.lock().inquiry.open(system, user);
    }

    /// Records the model that is about to answer, or that answered.
    pub fn asks_model(&self, name: String) {
        self.noted.lock().inquiry.model = Some(name);
    }

    /// Books what the step used.
    pub fn spend(&self, spent: &Spent) {
        self.announce();
        self.spent_before(spent.input_tokens, spent.output_tokens, spent.cost);
        self.run.log.spend(spent);
    }

    /// Books what a call of one model used, with the run and in its tenant's usage.
    pub fn bill(&self, spent: &Spent, usage: ModelUsage) {
        self.run.log.bill(usage);
        self.spend(spent);
    }

    /// What an earlier entry into the step used, in tokens and nano-dollars: booked with the run then, told with the step now.
    pub fn spent_before(&self, input: u64, output: u64, cost: u64) {
        let mut noted = self.noted.lock();
        noted.inquiry.input_tokens = noted.inquiry.input_tokens.saturating_add(input);
        noted.inquiry.output_tokens = noted.inquiry.output_tokens.saturating_add(output);
        noted.cost = noted.cost.saturating_add(cost);
    }

    /// Appends an event, with every known secret removed.
    pub fn emit(&self, event: Event) {
        failpoint::hit("event.emit");
        self.announce();
        self.run.emit(event);
    }

    /// What the journal knows under a key.
    pub fn recall(&self, key: &str) -> Option<Outcome> {
        self.run.memory.lock().journal.get(key).cloned()
    }

    /// A recorded result, in its type. An entry that this version cannot read counts as absent.
    pub fn recall_as<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        match self.recall(key) {
            Some(Outcome::Done(value)) => serde_json::from_value(value).ok(),
            _ => None,
        }
    }

    /// Records a result. Durable before anything that may depend on it: effects settle the log first.
    pub fn record(&self, key: &str, outcome: Outcome) {
        self.announce();
        self.run.record(key, outcome);
    }

    /// [`StepContext::record`] of a result in its type.
    pub fn record_done<T: Serialize>(&self, key: &str, result: &T) {
        self.record(key, Outcome::Done(serde_json::to_value(result).unwrap_or_default()));
    }

    /// What is chosen once: the same however often the step is entered, and durable before anything can depend on it.
    pub async fn chosen<T: Serialize + DeserializeOwned + Send>(&self, path: &str, choose: impl FnOnce() -> T + Send) -> T {
        let key = self.key(path);
        if let Some(chosen) = self.recall_as(&key) {
            return chosen;
        }
        let chosen = choose();
        self.record_done(&key, &chosen);
        self.run.log.commit().await;
        chosen
    }

    /// Performs an outside effect, or recalls it.
    ///
    /// `Pure` and `Idempotent` effects are performed again when a crash lost their result. A `Once` effect is
    /// announced in the journal first; when the announcement is found without a result, its fate is unknown and the
    /// step waits until someone settles it.
    pub async fn effect<T, F>(&self, key: &str, class: Effect, act: impl FnOnce() -> F + Send) -> StepResult<T>
    where
        T: Serialize + DeserializeOwned + Send + Sync,
        F: Future<Output = StepResult<T>> + Send,
    {
        match self.recall(key) {
            Some(Outcome::Done(value)) => {
                return serde_json::from_value(value).map_err(|error| StepFailure::new("journal_unreadable", error.to_string()).into());
            }
            Some(Outcome::Begun) => {
                if let Some(result) = self.settle_unknown(key).await? {
                    return serde_json::from_value(result)
                        .map_err(|error| StepFailure::new("settlement_invalid", error.to_string()).into());
                }
            }
            Some(Outcome::Failed(_)) | None => {}
        }
        if class == Effect::Once {
            self.record(key, Outcome::Begun);
            self.run.log.commit().await;
            failpoint::hit("effect.begun");
        } else {
            self.settle().await;
        }
        failpoint::hit("effect.before");
        // The result as the journal stores it, so that later steps see the same before and after a restart.
        let result = match self.outside(act()).await {
            Ok(result) => Ok(self.run.redactor.redact_typed(result).await),
            Err(interrupt) => Err(interrupt),
        };
        failpoint::hit("effect.after");
        match &result {
            Ok(value) => {
                self.announce();
                self.run.record_clean(key, Outcome::Done(serde_json::to_value(value).unwrap_or_default()));
            }
            Err(Interrupt::Fail(failure)) if class == Effect::Once && failure.fate_unknown => {
                self.settle_unknown(key).await?;
            }
            Err(Interrupt::Fail(failure)) if class == Effect::Once => {
                self.record(key, Outcome::Failed(serde_json::json!({ "code": failure.code, "message": failure.message })));
            }
            Err(_) => {}
        }
        failpoint::hit("effect.recorded");
        result
    }

    /// Asks a person what became of an effect whose answer was lost. `Some`: it happened, with that result; `None`: do it again.
    async fn settle_unknown(&self, key: &str) -> StepResult<Option<Value>> {
        let shown = serde_json::json!({ "effect": key, "stepId": self.step_id() });
        // Each time the effect is done again it can be lost again, and is asked about anew.
        let round_key = format!("{key}/settled");
        let round: u32 = self.recall_as(&round_key).unwrap_or(0);
        let wait_key = format!("{key}/settlement/{round}");
        let ask = Ask { kind: WaitKind::Settlement, name: key.to_owned(), shown: shown.clone(), digest: None, deadline: None };
        match self.ask(&wait_key, ask).await? {
            // Told when it began to wait; a nudge alone is no news.
            Asked::Open { .. } if self.is_quiet() => Err(Interrupt::Suspend),
            Asked::Open { wait } => {
                failpoint::hit("effect.unknown");
                let value = serde_json::json!({
                    "waitId": wait, "stepId": self.step_id(), "effect": key, "at": self.now(),
                    "message": "this effect went out and its answer was lost; say what became of it",
                });
                self.emit(Event::Custom { name: "dispatch.effect_unknown".into(), value });
                Err(Interrupt::Suspend)
            }
            Asked::Answered { resolution, .. } => match resolution.answer.get("outcome").and_then(Value::as_str) {
                Some("succeeded") => {
                    failpoint::hit("effect.settled");
                    let result = resolution.answer.get("result").cloned().unwrap_or(Value::Null);
                    self.record(key, Outcome::Done(result.clone()));
                    Ok(Some(result))
                }
                Some("retry") => {
                    self.record_done(&round_key, &(round + 1));
                    Ok(None)
                }
                _ => Err(StepFailure::new("effect_settled_as_failed", "the effect was settled as failed").into()),
            },
        }
    }

    /// The answer to a wait, or the wait itself, opened if it is new. A deadline that has passed answers it.
    pub async fn ask(&self, key: &str, ask: Ask) -> StepResult<Asked> {
        let known = self.run.memory.lock().waits.get(key).cloned();
        if let Some(wait) = known {
            if let Some(resolution) = wait.resolution {
                failpoint::hit("wait.resolved");
                return Ok(Asked::Answered { wait: wait.id, resolution });
            }
            if wait.deadline.is_some_and(|deadline| deadline <= self.now()) {
                let resolution = self.expire(&wait).await?;
                return Ok(Asked::Answered { wait: wait.id, resolution });
            }
            return Ok(Asked::Open { wait: wait.id });
        }
        if ask.name.contains('\0') || key.contains('\0') {
            return Err(StepFailure::new("invalid_name", "a name that holds a NUL character cannot be waited for").into());
        }
        let (now, max_waits) = (self.now(), self.limits().max_waits);
        let mut memory = self.run.memory.lock();
        if memory.waits.values().filter(|wait| wait.resolution.is_none()).count() >= max_waits {
            return Err(StepFailure::new("too_many_waits", format!("a run may wait for {max_waits} things at once")).into());
        }
        // The waits of a run sort by their ids in the order in which they were opened, also within one millisecond.
        let latest = memory.waits.values().map(|wait| wait.id).max();
        let fresh = WaitId::new(&self.parts().clock);
        let id = latest.map_or(fresh, |latest| fresh.max(WaitId::from_u128(latest.as_u128().saturating_add(1))));
        let wait = Wait {
            id,
            run: self.run.run,
            tenant: self.run.tenant,
            key: key.to_owned(),
            kind: ask.kind,
            name: ask.name,
            shown: ask.shown,
            digest: ask.digest,
            deadline: Some(ask.deadline.unwrap_or_else(|| now.after(LONGEST_WAIT))),
            created_at: now,
            resolution: None,
            resolved_at: None,
            resolved_after: None,
        };
        memory.waits.insert(key.to_owned(), wait.clone());
        drop(memory);
        self.announce();
        self.run.log.wait(wait);
        failpoint::hit("wait.opened");
        Ok(Asked::Open { wait: id })
    }

    /// A wait that is still open.
    pub fn open_wait(&self, key: &str) -> Option<Wait> {
        self.run.memory.lock().waits.get(key).filter(|wait| wait.resolution.is_none()).cloned()
    }

    /// Answers a wait whose deadline has passed, unless somebody was quicker.
    async fn expire(&self, wait: &Wait) -> StepResult<Resolution> {
        failpoint::hit("timer.due");
        let resolution = self.answer(wait, Resolution::timeout()).await?;
        failpoint::hit("timer.expired");
        Ok(resolution)
    }

    /// Answers a wait of this step; the answer that is in force then.
    pub async fn answer(&self, wait: &Wait, resolution: Resolution) -> StepResult<Resolution> {
        // One that is not in the store yet would be opened after its answer.
        self.settle().await;
        let answer = Resolve { tenant: wait.tenant, wait: wait.id, resolution: resolution.clone(), now: self.now() };
        let resolved = self.run.patiently(|| self.parts().store.resolve_waits(vec![answer.clone()])).await?.pop();
        let in_force = if let Some(Resolved::Before(before)) = resolved { before } else { resolution };
        if let Some(wait) = self.run.memory.lock().waits.get_mut(&wait.key) {
            wait.resolution = Some(in_force.clone());
        }
        Ok(in_force)
    }

    /// Nothing has come of this entry into the step yet.
    pub fn is_quiet(&self) -> bool {
        self.entry.quiet.load(Ordering::Acquire)
    }

    /// The ids of all tool calls that models made in this run, in whichever step.
    pub fn calls(&self) -> HashSet<String> {
        self.run.memory.lock().calls()
    }

    /// Whether an effect of this step was announced and has no result yet.
    pub(super) fn has_begun(&self) -> bool {
        let prefix = self.key("");
        self.run.memory.lock().journal.iter().any(|(key, outcome)| *outcome == Outcome::Begun && key.starts_with(&prefix))
    }

    /// Waits until a time: short waits stay here, long ones pause the step.
    pub async fn sleep_until(&self, key: &str, time: Timestamp) -> StepResult<()> {
        let clock = &self.parts().clock;
        if time.since(clock.now()) <= SHORT_SLEEP && !self.run.memory.lock().waits.contains_key(key) {
            self.outside(clock.sleep_until(time)).await;
            return Ok(());
        }
        let ask = Ask { kind: WaitKind::Timer, name: String::new(), shown: Value::Null, digest: None, deadline: Some(time) };
        match self.ask(key, ask).await? {
            Asked::Answered { .. } => Ok(()),
            Asked::Open { .. } => Err(Interrupt::Suspend),
        }
    }

    /// Waits for somebody else: the time is not Dispatch's own.
    pub async fn outside<T>(&self, other: impl Future<Output = T>) -> T {
        let _outside = self.run.meter.outside();
        other.await
    }

    /// What the run's budget still covers.
    pub(super) fn left(&self, budget: &Budget) -> Budget {
        let spent = self.run.log.spent();
        self.run.memory.lock().reserved.left(budget, &spent)
    }

    /// Sets the worst case of a model call aside; fails the run when its budget does not cover it. The guard gives it back.
    pub fn reserve(&self, worst: Worst) -> StepResult<Reservation<'a>> {
        let spent = self.run.log.spent();
        let budget = &self.run.input.options.budget;
        self.run.memory.lock().reserved.reserve(budget, &spent, worst).map_err(|limit| StepFailure {
            fatal: true,
            ..StepFailure::new("budget_exhausted", format!("the run's budget of {limit} does not cover the next model call"))
        })?;
        Ok(Reservation { run: self.run, worst })
    }
}

/// Waits shorter than this do not leave memory.
const SHORT_SLEEP: Duration = Duration::from_secs(2);

/// A part of the budget that is set aside while a call runs.
pub struct Reservation<'a> {
    run: &'a RunContext,
    worst: Worst,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.run.memory.lock().reserved.release(self.worst);
    }
}

impl RunContext {
    /// Sets a child's share aside until [`RunContext::unkeep`]; once per key.
    pub(super) fn keep(&self, key: &str, worst: Worst) {
        let mut memory = self.memory.lock();
        if memory.kept.insert(key.to_owned(), worst).is_none() {
            memory.reserved.take(worst);
        }
    }

    pub(super) fn unkeep(&self, key: &str) {
        let mut memory = self.memory.lock();
        if let Some(worst) = memory.kept.remove(key) {
            memory.reserved.release(worst);
        }
    }

    /// Appends an event, with every known secret removed.
    pub(super) fn emit(&self, event: Event) {
        // The deltas of a text are too short to be searched for secrets.
        let event = if event.is_delta() { event } else { self.redactor.typed(event) };
        self.log.emit(&event);
    }

    pub(super) fn record(&self, key: &str, mut outcome: Outcome) {
        if let Outcome::Done(value) | Outcome::Failed(value) = &mut outcome {
            self.redactor.strings(value);
        }
        self.record_clean(key, outcome);
    }

    /// Like [`RunContext::record`], for an outcome without secrets.
    fn record_clean(&self, key: &str, outcome: Outcome) {
        let before = {
            let mut memory = self.memory.lock();
            memory.weight += weight(&outcome);
            memory.journal.insert(key.to_owned(), outcome.clone())
        };
        self.log.record(JournalEntry { key: key.to_owned(), outcome }, before.as_ref());
    }
}
