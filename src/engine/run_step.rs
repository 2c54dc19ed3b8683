//! One step from its start to its record: condition, attempts, error policy, events.

use serde_json::Value;
use tracing::Instrument;

use super::context::{Entry, Interrupt, RunContext, StepContext, StepFailure};
use super::log::Before;
use super::memory::{Orders, StepRecord, begun};
use super::plan::{PlannedStep, When};
use super::step::StepOutput;
use super::traced;
use crate::clock::Timestamp;
use crate::expr::bounds::Misfit;
use crate::failpoint;
use crate::model::event::Event;
use crate::model::flow::OnError;
use crate::model::run::Failure;
use crate::model::{Outcome, StepState};

/// How a step left the engine's hands.
pub enum Ended {
    Settled(StepRecord),
    Suspended,
    /// It failed, and the run with it.
    Fatal(StepRecord, Failure),
}

/// Runs one step until it is settled or suspended.
pub async fn run_step(run: &RunContext, index: usize) -> Ended {
    let Some(planned) = run.plan.steps.get(index) else { return Ended::Suspended };
    let key = planned.key();
    let again = run.memory.lock().has_waited(&key);
    let before = run.memory.lock().journal.get(&begun(&key)).cloned();
    let marked = before.is_some();
    let started_at = before.and_then(begun_at).unwrap_or_else(|| run.parts().clock.now());
    if !again
        && !marked
        && let Some(skipped) = skip(run, planned, started_at).await
    {
        return skipped;
    }
    if run.plan.workflow.is_some() && !marked {
        // Known before its first effect goes out: an early end of the run has to wait for it, and to undo it.
        run.record(&begun(&key), Outcome::Done(serde_json::to_value(started_at).unwrap_or_default()));
    }
    // Who slept begins no second time in a stream that slept with it. What was cut short begins anew, once.
    let told = {
        let mut memory = run.memory.lock();
        let anew = memory.entered.insert(index) && run.log.before == Before::CutShort;
        again && !anew && memory.has_slept(&key)
    };
    let start = (!run.is_agent()).then(|| start_event(run, planned, started_at));
    let entry = if told { Entry::default() } else { Entry::new(start) };
    let mut made = attempts_made(run, &key);
    loop {
        let context = StepContext::new(run, planned, &entry, made + 1);
        if !again {
            context.announce();
        }
        let span = traced::step(planned, made + 1);
        let result = attempt(&context).instrument(span.clone()).await;
        traced::ended(&span, &result);
        drop(span);
        failpoint::hit("step.end");
        let max_bytes = context.limits().max_result_bytes;
        let failure = match result.and_then(|output| judged(output, max_bytes)) {
            Ok(output) => return Ended::Settled(complete(&context, output, started_at, made).await),
            Err(Interrupt::Suspend) => return Ended::Suspended,
            Err(Interrupt::Fail(failure)) => failure,
        };
        made += 1;
        let retry = &planned.step.retry;
        if failure.fatal || !failure.retryable || made >= retry.max_attempts {
            return fail(&context, failure, started_at, made);
        }
        let own = std::time::Duration::from_millis(retry.delay_after(made));
        let wait = failure.retry_after.map_or(own, |asked| asked.max(own));
        let due = context.now().after(wait);
        context
            .record(&format!("{key}/attempts"), Outcome::Done(serde_json::json!({ "made": made, "due": due, "error": failure.message })));
        context.emit(Event::Custom {
            name: "dispatch.retrying".into(),
            value: serde_json::json!({
                "stepId": planned.step.id, "attempt": made, "of": retry.max_attempts, "error": run.redactor.text(&failure.message),
                "code": failure.code, "retryAt": due,
            }),
        });
        failpoint::hit("retry.before_wait");
        match context.sleep_until(&format!("{key}/retry/{made}"), due).await {
            Ok(()) => {}
            Err(Interrupt::Suspend) => return Ended::Suspended,
            Err(Interrupt::Fail(failure)) => return fail(&context, failure, started_at, made),
        }
        failpoint::hit("retry.after_wait");
    }
}

/// When a step began, as its mark says.
fn begun_at(mark: Outcome) -> Option<Timestamp> {
    match mark {
        Outcome::Done(at) => serde_json::from_value(at).ok(),
        Outcome::Begun | Outcome::Failed(_) => None,
    }
}

/// What a step made, if the run can keep it.
fn judged(output: StepOutput, max_bytes: usize) -> Result<StepOutput, Interrupt> {
    let misfit = std::iter::once(&output.value).chain(output.variables.values()).find_map(|value| Misfit::of(value, max_bytes));
    misfit.map_or(Ok(output), |misfit| Err(StepFailure::from(misfit).into()))
}

/// How often the step was tried, and the wait before its next attempt, are facts of the run.
fn attempts_made(run: &RunContext, key: &str) -> u32 {
    match run.memory.lock().journal.get(&format!("{key}/attempts")) {
        Some(Outcome::Done(value)) => value.get("made").and_then(Value::as_u64).and_then(|made| u32::try_from(made).ok()).unwrap_or(0),
        _ => 0,
    }
}

async fn attempt(context: &StepContext<'_>) -> Result<StepOutput, Interrupt> {
    let key = context.planned.key();
    if context.attempt > 1 {
        // The wait before this attempt may have been cut short by a restart.
        let due = match context.recall(&format!("{key}/attempts")) {
            Some(Outcome::Done(value)) => value.get("due").cloned().and_then(|due| serde_json::from_value::<Timestamp>(due).ok()),
            _ => None,
        };
        if let Some(due) = due {
            context.sleep_until(&format!("{key}/retry/{}", context.attempt - 1), due).await?;
        }
    }
    let limit = std::time::Duration::from_millis(context.planned.step.timeout_ms);
    tokio::select! {
        biased;
        result = context.planned.body.run(context) => result,
        () = context.parts().clock.sleep(limit) => {
            if context.has_begun() {
                // An effect that must not happen twice was under way: entered again, the step asks what became of it.
                return context.planned.body.run(context).await;
            }
            Err(StepFailure::transient("step_timeout", format!("the step took longer than {} ms", context.planned.step.timeout_ms)).into())
        }
    }
}

fn start_event(run: &RunContext, planned: &PlannedStep, at: Timestamp) -> Event {
    Event::StepStart {
        id: planned.step.id.clone(),
        name: planned.step.name.clone(),
        step_type: planned.step.action.clone(),
        index: planned.index,
        total_steps: u32::try_from(run.plan.steps.len()).unwrap_or(u32::MAX),
        started_at: at,
        output_variable: planned.step.output.clone(),
    }
}

/// Judges the step's condition. `None`: it runs.
async fn skip(run: &RunContext, planned: &PlannedStep, now: Timestamp) -> Option<Ended> {
    let entry = Entry::default();
    let context = StepContext::new(run, planned, &entry, 1);
    if run.memory.lock().orders.skip.contains(&planned.step.id) {
        return Some(skipped(&context, None, now));
    }
    let when = planned.when.as_ref()?;
    match holds(&context, when).await {
        Ok(true) => None,
        Ok(false) => Some(skipped(&context, planned.step.when.clone(), now)),
        Err(error) => {
            run.emit(start_event(run, planned, now));
            let failure = StepFailure::new("condition_failed", format!("`when` failed: {error}"));
            Some(fail(&context, failure, now, 1))
        }
    }
}

async fn holds(context: &StepContext<'_>, when: &When) -> Result<bool, String> {
    let sandbox = &context.sandbox();
    let told = |error: crate::error::Error| error.message().to_owned();
    if context.run.plan.workflow.is_none() {
        return when.holds(&context.scope(), sandbox).await.map_err(told);
    }
    // What a condition of a workflow reads stays in it: all that comes out is whether it holds.
    let vars = context.open_vars().await.map_err(|interrupt| match interrupt {
        Interrupt::Fail(failure) => failure.message,
        Interrupt::Suspend => "it waits".into(),
    })?;
    when.holds(&context.scope_with_secrets().within(&vars), sandbox).await.map_err(told)
}

fn skipped(context: &StepContext<'_>, when: Option<String>, now: Timestamp) -> Ended {
    let (run, planned) = (context.run, context.planned);
    run.emit(Event::StepSkip {
        id: planned.step.id.clone(),
        name: planned.step.name.clone(),
        step_type: planned.step.action.clone(),
        index: planned.index,
        total_steps: u32::try_from(run.plan.steps.len()).unwrap_or(u32::MAX),
        when,
        skipped_at: now,
    });
    Ended::Settled(StepRecord { state: StepState::Skipped, ..record(context, now, 0) })
}

/// Steps are what flows are made of; an agent's log has none.
fn tell(context: &StepContext<'_>, event: Event) {
    if !context.run.is_agent() {
        context.emit(event);
    }
}

fn record(context: &StepContext<'_>, started_at: Timestamp, retries: u32) -> StepRecord {
    let (tokens, cost) = context.noted_usage();
    StepRecord {
        state: StepState::Completed,
        order: 0,
        output: Value::Null,
        variables: serde_json::Map::new(),
        branch: None,
        error: None,
        code: None,
        retryable: false,
        handled: false,
        started_at,
        completed_at: context.now(),
        stop_reason: None,
        turns: None,
        tokens,
        cost,
        retries,
        inquiry: context.noted_inquiry(),
        orders: Orders::default(),
    }
}

/// Nano-dollars as dollars.
#[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
pub(super) fn dollars(nano: u64) -> f64 {
    nano as f64 / 1e9
}

async fn complete(context: &StepContext<'_>, mut output: StepOutput, started_at: Timestamp, retries: u32) -> StepRecord {
    let run = context.run;
    output.value = run.redactor.redact_value(std::mem::take(&mut output.value)).await;
    let record = StepRecord {
        output: output.value.clone(),
        variables: output.variables,
        branch: output.branch,
        stop_reason: output.stop_reason.clone().filter(|_| run.is_agent()),
        turns: output.turns,
        orders: output.orders,
        ..record(context, started_at, retries)
    };
    tell(
        context,
        Event::StepComplete {
            id: context.planned.step.id.clone(),
            name: context.planned.step.name.clone(),
            step_type: context.planned.step.action.clone(),
            success: true,
            result: Some(output.shown.unwrap_or(output.value)),
            error: None,
            code: None,
            retryable: false,
            duration_ms: u64::try_from(record.completed_at.since(started_at).as_millis()).unwrap_or(u64::MAX),
            completed_at: record.completed_at,
            stop_reason: output.stop_reason,
            tokens_used: (record.tokens > 0).then_some(record.tokens),
            cost: (record.tokens > 0).then_some(dollars(record.cost)),
            unresolved_variables: context.noted_unresolved(),
            fallback: output.fallback,
        },
    );
    record
}

fn fail(context: &StepContext<'_>, failure: StepFailure, started_at: Timestamp, made: u32) -> Ended {
    let run = context.run;
    let step = &context.planned.step;
    let message = run.redactor.text(&failure.message);
    let policy = step.on_error.as_ref().unwrap_or(&run.plan.flow.on_step_error);
    let output = if let OnError::Default { value } = policy { value.clone() } else { Value::Null };
    let attempts = failure.attempts.map(|attempts| serde_json::json!({ "attempts": attempts }));
    let record = StepRecord {
        state: StepState::Failed,
        output: attempts.filter(|_| output.is_null()).unwrap_or_else(|| output.clone()),
        error: Some(message.clone()),
        code: Some(failure.code.clone()),
        retryable: failure.retryable,
        // Going on was asked for, not merely the flow's default.
        handled: matches!(step.on_error, Some(OnError::Continue | OnError::Default { .. })),
        ..record(context, started_at, made.saturating_sub(1))
    };
    tell(
        context,
        Event::StepComplete {
            id: step.id.clone(),
            name: step.name.clone(),
            step_type: step.action.clone(),
            success: false,
            result: (!output.is_null()).then_some(output),
            error: Some(message.clone()),
            code: Some(failure.code.clone()),
            retryable: failure.retryable,
            duration_ms: u64::try_from(record.completed_at.since(started_at).as_millis()).unwrap_or(u64::MAX),
            completed_at: record.completed_at,
            stop_reason: Some("error".into()),
            tokens_used: (record.tokens > 0).then_some(record.tokens),
            cost: (record.tokens > 0).then_some(dollars(record.cost)),
            unresolved_variables: context.noted_unresolved(),
            fallback: None,
        },
    );
    if failure.fatal || matches!(policy, OnError::Stop) {
        let failure =
            Failure { code: failure.code, message, step: (!run.is_agent()).then(|| step.id.clone()), retryable: failure.retryable };
        return Ended::Fatal(record, failure);
    }
    Ended::Settled(record)
}
