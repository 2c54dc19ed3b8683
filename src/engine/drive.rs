//! Driving a run: start what is ready, take in what ends, until the run has ended, paused, or is lost.

use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse, FusedFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use serde_json::Value;

use super::RunLimits;
use super::compensate::Early;
use super::context::RunContext;
use super::decide::{self, Ready};
use super::log::{Lost, Move};
use super::memory::{Standing, StepRecord};
use super::meter;
use super::plan::Plan;
use super::run_step::{Ended, dollars, run_step};
use crate::clock::Timestamp;
use crate::failpoint;
use crate::id::RunId;
use crate::model::event::{Event, Rest, Tokens, told_output};
use crate::model::run::{Failure, Spent};
use crate::model::wait::{Resolution, WaitKind};
use crate::model::{Outcome, RunState, StepState, Target, TargetKind};
use crate::store::StoreError;

/// How long a server that stops waits for the answer to an effect that must not happen twice.
const LAST_WORD: Duration = Duration::from_secs(4);
/// How often it looks whether the answer is there.
const GLANCE: Duration = Duration::from_millis(50);
/// How long a run whose row cannot be read is left alone.
const UNREADABLE: Duration = Duration::from_secs(1);

/// Where a drive left its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    Ended(RunState),
    /// Paused; due at that time, if at any.
    Paused(Option<Timestamp>),
    /// Handed back for any node to take up at once.
    Released,
    /// Handed back for any node to take up at that time.
    Postponed(Timestamp),
    /// Not ours any more.
    Lost(Lost),
}

/// A step that was entered: its position, the news of the run at that time, and how it ended.
type Entered<'a> = BoxFuture<'a, (usize, u64, Ended)>;

/// How the walk over the steps came out.
pub(super) enum Walk {
    Finished,
    Failed(Failure),
    Cancelled,
    Pause,
    HandBack,
}

impl RunContext {
    /// Walks the run as far as it goes. `leave` asks to hand the run back at the next safe point.
    pub(super) async fn walk(&self, leave: &tokio_util::sync::CancellationToken) -> Departure {
        loop {
            let started = self.parts().clock.instant();
            let walk = match self.begin_workflow().await {
                Ok(()) => self.steps(leave, started).await,
                Err(failure) => Walk::Failed(failure),
            };
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.log.spend(&Spent { duration_ms: elapsed, ..Spent::default() });
            let departure = match walk {
                Walk::Finished => Some(match self.output().await {
                    Ok(output) => self.finish(output).await,
                    Err(failure) => self.failed(failure).await,
                }),
                Walk::Failed(failure) => Some(self.failed(failure).await),
                Walk::Cancelled => Some(self.cancelled().await),
                Walk::HandBack => Some(self.hand_back().await),
                Walk::Pause => self.pause().await,
            };
            match departure {
                Some(departure) => return departure,
                // Somebody answered while we were about to pause: look again.
                None => {
                    self.look_again().await;
                    self.enter_again();
                }
            }
        }
    }

    async fn steps(&self, leave: &tokio_util::sync::CancellationToken, started: tokio::time::Instant) -> Walk {
        let mut running = FuturesUnordered::new();
        let limit = Duration::from_millis(self.time_limit().saturating_sub(self.log.spent().duration_ms));
        let overdue = self.parts().clock.sleep(limit.saturating_sub(started.elapsed())).fuse();
        // A look takes as long as the store takes; the steps go on meanwhile.
        let looking = Fuse::terminated();
        // A server that stops waits a little for effects that must not happen twice.
        let last_word = Fuse::terminated();
        tokio::pin!(overdue, looking, last_word);
        let mut rung = Timestamp::default();
        loop {
            if last_word.is_terminated() {
                self.start_ready(&mut running);
            } else if !self.awaits_an_effect() {
                return Walk::HandBack;
            }
            match self.early_end(running.is_empty()).await {
                Early::Goes => {}
                Early::Begins => continue,
                Early::Ends(walk) => return walk,
            }
            if running.is_empty() {
                return if self.waiting_keys().is_empty() { Walk::Finished } else { Walk::Pause };
            }
            let ends_already = self.failing().is_some();
            if let Some(why) = self.is_too_large().filter(|_| !ends_already) {
                if self.begins_to_fail(&why) {
                    continue;
                }
                return Walk::Failed(why);
            }
            let due = self.next_deadline(rung);
            tokio::select! {
                // In this order, so that a run on virtual time replays from its seed.
                biased;
                () = self.cancel.cancelled(), if !ends_already => {}
                () = leave.cancelled(), if last_word.is_terminated() => {
                    last_word.set(self.parts().clock.sleep(LAST_WORD).fuse());
                }
                () = &mut last_word, if !last_word.is_terminated() => return Walk::HandBack,
                () = self.parts().clock.sleep(GLANCE), if !last_word.is_terminated() => {}
                Some((index, news, ended)) = running.next() => match ended {
                    Ended::Suspended => self.suspend(index, news),
                    Ended::Settled(record) => self.settle(index, record),
                    Ended::Fatal(record, why) => {
                        self.settle(index, record);
                        if !self.begins_to_fail(&why) {
                            return Walk::Failed(why);
                        }
                    }
                },
                () = self.poke.notified(), if looking.is_terminated() => looking.set(self.look_again().fuse()),
                () = &mut looking, if !looking.is_terminated() => self.enter_again(),
                // Other branches go on meanwhile: whoever waits for a time is not kept waiting for them.
                () = self.until(due) => {
                    rung = due.unwrap_or(rung);
                    self.enter_again();
                }
                () = &mut overdue => {
                    let why = self.overdue();
                    if !self.begins_to_fail(&why) {
                        return Walk::Failed(why);
                    }
                }
            }
        }
    }

    fn is_too_large(&self) -> Option<Failure> {
        let RunLimits { max_events, max_run_bytes, .. } = self.parts().limits.get();
        if self.log.next_seq() > max_events {
            return Some(failure("too_many_events", format!("a run may have {max_events} events")));
        }
        let too_much = self.memory.lock().weight > max_run_bytes;
        too_much.then(|| failure("too_much_data", format!("the results of a run's steps may take {} MiB of memory", max_run_bytes >> 20)))
    }

    fn time_limit(&self) -> u64 {
        let flow = self.plan.flow.timeout_ms;
        self.input.options.budget.duration_ms.map_or(flow, |budget| budget.min(flow))
    }

    fn overdue(&self) -> Failure {
        let limit = self.time_limit();
        if self.input.options.budget.duration_ms == Some(limit) {
            return failure("budget_exhausted", format!("the run's budget of duration, {limit} ms, is used up"));
        }
        failure("run_timeout", format!("the run took longer than {limit} ms"))
    }

    fn start_ready<'a>(&'a self, running: &mut FuturesUnordered<Entered<'a>>) {
        loop {
            let ready = decide::ready(&self.plan, &self.memory.lock().steps);
            let mut passed_over = false;
            for step in ready {
                if !self.may_begin(step) {
                    continue;
                }
                match step {
                    Ready::PassOver(index) => {
                        self.stand(index, StepState::Skipped);
                        passed_over = true;
                    }
                    Ready::Run(index) if running.len() < self.plan.flow.max_parallel => {
                        self.stand(index, StepState::Running);
                        let news = self.memory.lock().news;
                        running.push(async move { (index, news, run_step(self, index).await) }.boxed());
                    }
                    Ready::Run(_) => {}
                }
            }
            if !passed_over {
                return;
            }
        }
    }

    fn stand(&self, index: usize, state: StepState) {
        if let Some(standing) = self.memory.lock().steps.get_mut(index) {
            standing.state = Some(state);
        }
    }

    /// A step waits; unless what it waits for may have come since it was entered, for then it may not have seen it.
    fn suspend(&self, index: usize, news: u64) {
        let mut memory = self.memory.lock();
        let missed = memory.news != news;
        if let Some(standing) = memory.steps.get_mut(index) {
            *standing = if missed { Standing::default() } else { Standing { state: Some(StepState::Waiting), ..standing.clone() } };
        }
    }

    /// The journal keys below which the steps that wait keep what they wait for.
    pub(super) fn waiting_keys(&self) -> Vec<String> {
        let memory = self.memory.lock();
        let steps = self.plan.steps.iter().zip(&memory.steps);
        steps.filter(|(_, standing)| standing.state == Some(StepState::Waiting)).map(|(step, _)| format!("{}/", step.key())).collect()
    }

    /// Whether an effect was announced whose answer is still to come.
    fn awaits_an_effect(&self) -> bool {
        let memory = self.memory.lock();
        let asked = |key: &str| memory.open_below(&[format!("{key}/settlement/")]).next().is_some();
        memory.journal.iter().any(|(key, outcome)| *outcome == Outcome::Begun && !asked(key))
    }

    /// Steps that wait may be started again: what they wait for may be there.
    fn enter_again(&self) {
        let mut memory = self.memory.lock();
        memory.news += 1;
        for standing in &mut memory.steps {
            if standing.state == Some(StepState::Waiting) {
                *standing = Standing::default();
            }
        }
    }

    /// The first deadline after `rung` of what the steps wait for.
    fn next_deadline(&self, rung: Timestamp) -> Option<Timestamp> {
        let keys = self.waiting_keys();
        let memory = self.memory.lock();
        memory.open_below(&keys).filter_map(|wait| wait.deadline).filter(|deadline| *deadline > rung).min()
    }

    async fn until(&self, due: Option<Timestamp>) {
        match due {
            Some(due) => self.parts().clock.sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn settle(&self, index: usize, record: StepRecord) {
        let Some(planned) = self.plan.steps.get(index) else { return };
        let record = {
            let mut memory = self.memory.lock();
            let record = StepRecord { order: memory.settled, ..record };
            memory.settle(&self.plan, index, record.clone());
            record
        };
        let key = planned.key();
        self.log.step_settled(&key);
        self.record(&key, Outcome::Done(serde_json::to_value(&record).unwrap_or_default()));
        self.log.want();
        failpoint::hit("step.settled");
    }

    /// Reads what others may have done to the run meanwhile.
    async fn look_again(&self) {
        let store = &self.parts().store;
        let found = async {
            // The nudges first: what comes after this reading refuses the next pause.
            let run = self.patiently(|| store.find_run(self.tenant, self.run)).await?;
            Ok::<_, StoreError>((run, self.patiently(|| store.run_waits(self.tenant, self.run)).await?))
        };
        let (run, waits) = match found.await {
            Ok((Some(run), waits)) => (run, waits),
            Ok((None, _)) => return,
            Err(error) => {
                // Not now: whatever nudged the run refuses its next pause too.
                tracing::error!(run = %self.run, %error, "the run cannot be read");
                return self.parts().clock.sleep(UNREADABLE).await;
            }
        };
        if run.cancel_requested {
            self.cancel.cancel();
        }
        let mut memory = self.memory.lock();
        memory.nudges = run.nudges;
        memory.reload_waits(waits);
    }

    /// `None`: somebody nudged the run first.
    async fn pause(&self) -> Option<Departure> {
        failpoint::hit("pause.before");
        let (nudges, wake_at, rest) = {
            let keys = self.waiting_keys();
            let memory = self.memory.lock();
            let open = || memory.open_below(&keys);
            let rest = if open().any(|wait| wait.kind.needs_the_caller()) { Rest::Caller } else { Rest::Later };
            (memory.nudges, open().filter_map(|wait| wait.deadline).min(), rest)
        };
        let paused = Move { state: Some(RunState::Paused), wake_at, rest, seen_nudges: Some(nudges), ..Move::default() };
        let done = self.log.depart(paused).await;
        failpoint::hit("pause.after");
        done.then_some(Departure::Paused(wake_at))
    }

    async fn hand_back(&self) -> Departure {
        failpoint::hit("run.release.before");
        // What was under way begins again elsewhere.
        self.emit(Event::Custom { name: "dispatch.handed_back".into(), value: Value::Null });
        let queued = Move { state: Some(RunState::Queued), wake_at: Some(self.parts().clock.now()), ..Move::default() };
        self.log.depart(queued).await;
        failpoint::hit("run.release.after");
        Departure::Released
    }

    /// Lets go of a run whose owners went away one after the other, until that time.
    pub(super) async fn postpone(&self, until: Timestamp) -> Departure {
        self.emit(Event::Custom { name: "dispatch.recovery_postponed".into(), value: serde_json::json!({ "until": until }) });
        self.log.depart(Move { state: Some(RunState::Queued), wake_at: Some(until), ..Move::default() }).await;
        Departure::Postponed(until)
    }

    async fn cancelled(&self) -> Departure {
        failpoint::hit("cancel.seen");
        self.cancel_children().await;
        let why = failure("cancelled", "the run was cancelled");
        if self.failing().is_some() {
            self.compensate(&why).await;
        }
        self.emit(self.error_event(&why));
        let step = Move {
            state: Some(RunState::Cancelled),
            rest: Rest::End,
            failure: Some(why.clone()),
            answer: Some(answer(&why)),
            ..Move::default()
        };
        self.log.depart(step).await;
        tracing::info!("the execution was cancelled");
        meter::ended(RunState::Cancelled, meter::CANCELLED);
        Departure::Ended(RunState::Cancelled)
    }

    /// Children end with their parent.
    async fn cancel_children(&self) {
        let children: Vec<RunId> = {
            let memory = self.memory.lock();
            let open = memory.waits.values().filter(|wait| wait.kind == WaitKind::Child && wait.resolution.is_none());
            open.filter_map(|wait| wait.name.parse().ok()).collect()
        };
        for child in children {
            let cancelled = self.patiently(|| self.parts().store.request_cancel(self.tenant, child, self.parts().clock.now())).await;
            if let Err(error) = cancelled {
                tracing::warn!(run = %self.run, %child, %error, "a child run was not told to end");
            }
        }
    }

    async fn failed(&self, why: Failure) -> Departure {
        failpoint::hit("finish.before");
        self.cancel_children().await;
        if self.plan.workflow.is_some() {
            self.compensate(&why).await;
        }
        self.emit(self.error_event(&why));
        tracing::info!(code = why.code, step = why.step, "the execution failed");
        let answer = Some(answer(&why));
        let step = Move { state: Some(RunState::Failed), rest: Rest::End, failure: Some(why), answer, ..Move::default() };
        self.log.depart(step).await;
        failpoint::hit("finish.after");
        meter::ended(RunState::Failed, meter::FAILURE);
        Departure::Ended(RunState::Failed)
    }

    async fn finish(&self, output: Option<Value>) -> Departure {
        failpoint::hit("finish.before");
        self.emit(self.complete_event(output.clone()));
        let answer = serde_json::json!({ "ok": output, "spent": self.log.spent() });
        let answer = Some(Resolution { answer, by: "system".into(), timed_out: false });
        // The run completed; whether all steps succeeded is recorded as its failure.
        let failure = self.shortcoming();
        let outcome = if failure.is_some() { meter::FAILURE } else { meter::SUCCESS };
        if let Some(why) = &failure {
            tracing::info!(code = why.code, step = why.step, "the execution completed with failed steps");
        }
        let step = Move { state: Some(RunState::Completed), rest: Rest::End, output, failure, answer, ..Move::default() };
        self.log.depart(step).await;
        failpoint::hit("finish.after");
        meter::ended(RunState::Completed, outcome);
        Departure::Ended(RunState::Completed)
    }

    /// Returns the first step that failed although the flow defines no fallback for it.
    fn shortcoming(&self) -> Option<Failure> {
        let memory = self.memory.lock();
        let failed = memory.records.iter().filter(|(_, record)| record.state == StepState::Failed && !record.handled);
        let (index, first) = failed.min_by_key(|(_, record)| record.order)?;
        let step = self.plan.steps.get(*index).filter(|_| !self.is_agent());
        Some(Failure {
            code: first.code.clone().unwrap_or_else(|| "step_failed".into()),
            message: first.error.clone().unwrap_or_default(),
            step: step.map(|planned| planned.step.id.clone()),
            retryable: first.retryable,
        })
    }

    /// What a run that has come to its end gives.
    async fn output(&self) -> Result<Option<Value>, Failure> {
        let Some(tree) = self.plan.workflow.as_ref().and_then(|workflow| workflow.output.as_ref()) else { return Ok(self.final_output()) };
        let output = self.computed(tree).await.map_err(|error| failure("response_failed", format!("`response` failed: {error}")))?;
        Ok(Some(self.redactor.redact_value(output).await))
    }

    /// The output of the last step, in display order, that completed with one.
    fn final_output(&self) -> Option<Value> {
        let memory = self.memory.lock();
        let completed =
            |index: &usize| memory.records.get(index).filter(|record| record.state == StepState::Completed && !record.output.is_null());
        (0..self.plan.steps.len()).rev().find_map(|index| completed(&index)).map(|record| record.output.clone())
    }

    fn complete_event(&self, output: Option<Value>) -> Event {
        let (final_output, result) = told_output(output);
        let memory = self.memory.lock();
        let failed: Vec<&StepRecord> = memory.records.values().filter(|record| record.state == StepState::Failed).collect();
        let successful = memory.records.values().filter(|record| record.state == StepState::Completed).count();
        let spent = self.log.spent();
        let of_steps = |number: usize| (!self.is_agent()).then(|| count(number));
        let agent = memory.records.values().next().filter(|_| self.is_agent());
        Event::ExecutionComplete {
            kind: self.target.kind().as_str().into(),
            success: failed.iter().all(|record| record.handled),
            completed_at: self.parts().clock.now(),
            duration_ms: spent.duration_ms,
            final_output,
            result,
            stop_reason: agent.and_then(|record| record.stop_reason.clone()).unwrap_or_else(|| "complete".into()),
            iterations: agent.and_then(|record| record.turns),
            total_cost: dollars(spent.cost),
            total_tokens: Tokens { input: spent.input_tokens, output: spent.output_tokens },
            total_steps: of_steps(self.plan.steps.len()),
            successful_steps: of_steps(successful),
            failed_steps: of_steps(failed.len()),
            step_error_count: of_steps(failed.len()),
            cost_estimated: spent.estimated,
        }
    }

    fn error_event(&self, why: &Failure) -> Event {
        let spent = self.log.spent();
        Event::ExecutionError {
            kind: self.target.kind().as_str().into(),
            error: why.message.clone(),
            code: why.code.clone(),
            step_id: why.step.clone(),
            retryable: why.retryable,
            completed_at: self.parts().clock.now(),
            total_cost: dollars(spent.cost),
            total_tokens: Tokens { input: spent.input_tokens, output: spent.output_tokens },
        }
    }
}

/// The first event of a run's log.
pub(super) fn start_event(target: Target, plan: &Plan, source: &str, at: Timestamp) -> Event {
    let is_agent = target.kind() == TargetKind::Agent;
    let name = Some(plan.flow.name.clone());
    Event::ExecutionStart {
        kind: target.kind().as_str().into(),
        started_at: at,
        flow_id: target.flow_id().map(|id| id.to_string()),
        flow_name: name.clone().filter(|_| !is_agent),
        total_steps: (!is_agent).then(|| count(plan.steps.len())),
        agent_id: target.agent_id().map(|id| id.to_string()),
        agent_name: name.filter(|_| is_agent),
        max_turns: plan.steps.iter().find_map(|planned| planned.body.max_turns()).filter(|_| is_agent),
        source: source.into(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn failure(code: &str, message: impl Into<String>) -> Failure {
    Failure { code: code.into(), message: message.into(), step: None, retryable: false }
}

fn answer(why: &Failure) -> Resolution {
    Resolution { answer: serde_json::json!({ "error": why }), by: "system".into(), timed_out: false }
}
