//! What the outside may do to a run: answer what it waits for, cancel it, give it up.
//!
//! Each writes to the store in one commit that also makes the run due, and rings. The run's owner does the rest.

use serde_json::{Map, Value, json};

use super::{Engine, meter};
use crate::clock::Clock;
use crate::error::{Error, Kind, Problems, Result};
use crate::failpoint;
use crate::id::{DeadLetterId, RunId, TenantId, WaitId};
use crate::model::event::{Event, EventRecord, Rest, Segment, Tokens};
use crate::model::job::Attempt;
use crate::model::run::Failure;
use crate::model::wait::{Resolution, Wait, WaitKind};
use crate::model::{Epoch, Run, RunState};
use crate::store::{ChildEnd, Commit, Committed, Resolve, Resolved, Signal};

use super::run_step::dollars;

/// Longest name of a signal, in characters.
pub const LONGEST_SIGNAL: usize = 200;

/// Whether a signal can have this name.
pub fn is_signal_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= LONGEST_SIGNAL && !name.contains(char::is_control)
}

/// A person's word on an approval.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    pub decision: Decision,
    pub reason: Option<&'a str>,
    /// Of the call that the decision is meant for, as it was shown.
    pub digest: Option<&'a str>,
    /// Who said it.
    pub by: &'a str,
}

/// An answer is in force: this one, or one before it that said the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Waits that had no answer before.
    pub new: usize,
    /// The number of the run's last event then: what came of the answer comes after it.
    pub after: Option<u64>,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    Approved,
    Denied,
}

impl Decision {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Denied => "denied",
        }
    }
}

/// What became of an effect whose answer was lost, as a person says.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    Succeeded(Value),
    Failed,
    Retry,
}

/// The text is part of the contract of the dispatch surface.
pub fn no_paused_run() -> Error {
    Error::new(Kind::Missing, "execution_not_paused", "No paused execution found for this executionId")
        .next("GET /v1/executions/{id} tells where the execution stands")
}

impl Engine {
    /// Decides an approval. The first decision is final: the same one again succeeds, another is a conflict.
    pub async fn approve(&self, tenant: TenantId, run: RunId, approval: WaitId, word: Verdict<'_>) -> Result<Answered> {
        let Verdict { decision, reason, digest, by } = word;
        let store = &self.parts().store;
        store.find_run(tenant, run).await?.ok_or_else(no_paused_run)?;
        let wait = store.find_wait(tenant, approval).await?.filter(|wait| wait.run == run && wait.kind == WaitKind::Approval);
        let wait = wait.ok_or_else(|| Error::missing("approval of this execution"))?;
        if let (Some(shown), Some(meant)) = (&wait.digest, digest)
            && shown != meant
        {
            return Err(Error::new(
                Kind::Conflict,
                "approval_digest_mismatch",
                "the digest is not that of the call that waits for approval",
            )
            .next("read the approval again and decide about what it shows now"));
        }
        let answer = json!({ "decision": decision, "reason": reason });
        let new = match self.answer(&wait, answer, by).await? {
            Resolved::First => 1,
            Resolved::Before(before) => {
                let in_force = before.answer.get("decision").and_then(Value::as_str).unwrap_or("timeout");
                if in_force != decision.as_str() {
                    return Err(Error::new(Kind::Conflict, "APPROVAL_ALREADY_RESOLVED", format!("Decision {in_force} is in force.")));
                }
                0
            }
            Resolved::Closed => return Err(no_paused_run()),
        };
        let after = store.find_wait(tenant, approval).await?.and_then(|wait| wait.resolved_after);
        Ok(Answered { new, after })
    }

    /// Delivers outputs of tools that run in the caller, keyed by tool call id or tool name.
    pub async fn deliver(
        &self,
        tenant: TenantId,
        run: RunId,
        outputs: &Map<String, Value>,
        messages: &[Value],
        by: &str,
    ) -> Result<Answered> {
        let store = &self.parts().store;
        let found = store.find_run(tenant, run).await?.ok_or_else(no_paused_run)?;
        let waits: Vec<Wait> = store.run_waits(tenant, run).await?.into_iter().filter(|wait| wait.kind == WaitKind::ToolOutput).collect();
        if found.state.is_terminal() && !waits.iter().any(|wait| outputs.keys().any(|key| addressed(wait, key))) || waits.is_empty() {
            return Err(no_paused_run());
        }
        let answers = self.match_outputs(&waits, outputs, messages, by)?;
        failpoint::hit("store.resolve.before");
        let results = store.resolve_waits(answers.clone()).await?;
        failpoint::hit("store.resolve.after");
        let mut new = 0;
        for (result, mine) in results.iter().zip(&answers) {
            match result {
                Resolved::First => new += 1,
                Resolved::Before(before) if output_of(before) == output_of(&mine.resolution) => {}
                Resolved::Before(_) => {
                    return Err(Error::new(
                        Kind::Conflict,
                        "tool_output_already_delivered",
                        "another output was delivered for this tool call before",
                    ));
                }
                Resolved::Closed => return Err(no_paused_run()),
            }
        }
        let waits = store.run_waits(tenant, run).await?;
        let answered = waits.iter().filter(|wait| answers.iter().any(|answer| answer.wait == wait.id));
        Ok(Answered { new, after: answered.filter_map(|wait| wait.resolved_after).max() })
    }

    fn match_outputs(&self, waits: &[Wait], outputs: &Map<String, Value>, messages: &[Value], by: &str) -> Result<Vec<Resolve>> {
        let mut problems = Problems::default();
        let mut answers: Vec<Resolve> = Vec::with_capacity(outputs.len());
        let named = |key: &str| waits.iter().filter(|wait| wait.name == *key).min_by_key(|wait| (wait.resolution.is_some(), wait.id));
        // A call whose id is given is not answered a second time under its tool's name.
        let mut taken: Vec<WaitId> = outputs.keys().filter_map(|key| named(key)).map(|wait| wait.id).collect();
        for (key, output) in outputs {
            // A tool's name means the call of it that has been open the longest; if all are answered, the one with this very answer.
            let oldest = || {
                let free = waits.iter().filter(|wait| addressed(wait, key) && !taken.contains(&wait.id));
                free.min_by_key(|wait| {
                    let differs = wait.resolution.as_ref().is_some_and(|before| output_of(before) != Some(output));
                    (wait.resolution.is_some(), differs, wait.id)
                })
            };
            let Some(wait) = named(key).or_else(oldest) else {
                let asked: Vec<&str> = waits.iter().filter(|wait| wait.resolution.is_none()).map(|wait| wait.name.as_str()).collect();
                let pointer = format!("/toolOutputs/{}", crate::error::pointer_token(key));
                problems.add(pointer, format!("no tool call `{key}` was asked for; open ones: {}", asked.join(", ")));
                continue;
            };
            // New user input rides with the first output: both reach the model at once.
            let messages = if answers.is_empty() { messages } else { &[] };
            let answer = json!({ "output": output, "messages": messages });
            let resolution = Resolution { answer, by: by.to_owned(), timed_out: false };
            taken.push(wait.id);
            answers.push(Resolve { tenant: wait.tenant, wait: wait.id, resolution, now: self.parts().clock.now() });
        }
        problems.into_result()?;
        Ok(answers)
    }

    /// Says what became of an effect whose answer was lost.
    pub async fn settle(&self, tenant: TenantId, run: RunId, wait: WaitId, fate: Fate, by: &str) -> Result<()> {
        let found = self.parts().store.find_wait(tenant, wait).await?;
        let wait =
            found.filter(|wait| wait.run == run && wait.kind == WaitKind::Settlement).ok_or_else(|| Error::missing("unsettled effect"))?;
        let answer = match fate {
            Fate::Succeeded(result) => json!({ "outcome": "succeeded", "result": result }),
            Fate::Failed => json!({ "outcome": "failed" }),
            Fate::Retry => json!({ "outcome": "retry" }),
        };
        match self.answer(&wait, answer.clone(), by).await? {
            Resolved::First => Ok(()),
            Resolved::Before(before) if before.answer == answer => Ok(()),
            Resolved::Before(_) => Err(Error::new(Kind::Conflict, "effect_already_settled", "the effect was settled otherwise before")),
            Resolved::Closed => Err(no_paused_run()),
        }
    }

    async fn answer(&self, wait: &Wait, answer: Value, by: &str) -> Result<Resolved> {
        let resolution = Resolution { answer, by: by.to_owned(), timed_out: false };
        let resolve = Resolve { tenant: wait.tenant, wait: wait.id, resolution, now: self.parts().clock.now() };
        failpoint::hit("store.resolve.before");
        let resolved = self.parts().store.resolve_waits(vec![resolve]).await?.pop().unwrap_or(Resolved::Closed);
        failpoint::hit("store.resolve.after");
        Ok(resolved)
    }

    /// Sends a signal to a run; kept when nothing waits for it yet. The same id again is the same signal.
    pub async fn signal(&self, tenant: TenantId, run: RunId, signal: Signal) -> Result<()> {
        let now = self.parts().clock.now();
        failpoint::hit("signal.before");
        let kept = self.parts().store.send_signal(tenant, run, signal, now).await?;
        failpoint::hit("signal.after");
        if kept {
            return Ok(());
        }
        match self.parts().store.find_run(tenant, run).await? {
            Some(_) => Err(Error::new(Kind::Conflict, "execution_ended", "the execution has ended; nothing waits for signals any more")),
            None => Err(Error::missing("execution")),
        }
    }

    /// Asks for a run to be cancelled; the state it was in. Cancelling an ended run changes nothing.
    pub async fn cancel(&self, tenant: TenantId, run: RunId) -> Result<RunState> {
        let now = self.parts().clock.now();
        failpoint::hit("cancel.before");
        let before = self.parts().store.request_cancel(tenant, run, now).await?.ok_or_else(|| Error::missing("execution"))?;
        failpoint::hit("cancel.asked");
        Ok(before)
    }

    /// Ends a run in this node's hands whose commit the store will never take. `false`: it is in other hands now.
    pub async fn refuse(&self, tenant: TenantId, id: RunId, epoch: Epoch) -> Result<bool> {
        let found = self.parts().store.find_run(tenant, id).await?;
        let Some(run) = found.filter(|run| run.epoch == epoch && !run.state.is_terminal()) else { return Ok(false) };
        let message = "the database cannot keep what a step recorded; the server's log tells what".to_owned();
        let failure = Failure { code: "unstorable".into(), message, step: None, retryable: false };
        self.give_up(&run, failure).await.map(|()| true)
    }

    /// Ends a claimed run that cannot go on, visibly.
    pub async fn give_up(&self, run: &Run, failure: Failure) -> Result<()> {
        let mut commit = failing_commit(run, failure, &self.parts().clock);
        commit.journal.extend(self.parts().listeners.notice(run.tenant, RunState::Failed, Rest::End));
        let code = commit.failure.as_ref().map(|failure| failure.code.clone());
        let request = run.input.origin.as_ref().and_then(|origin| origin.request.as_deref());
        if self.parts().store.commit_run(commit).await? == Committed::Done {
            tracing::info!(run = %run.id, flow = run.flow_name, request_id = request, code, "the execution failed");
            meter::ended(RunState::Failed, meter::FAILURE);
        }
        Ok(())
    }
}

/// The last commit of a claimed run that fails as a whole; it notifies readers, its parent and its job.
pub fn failing_commit(run: &Run, failure: Failure, clock: &Clock) -> Commit {
    let now = clock.now();
    let event = Event::ExecutionError {
        kind: run.target.kind().as_str().into(),
        error: failure.message.clone(),
        code: failure.code.clone(),
        step_id: failure.step.clone(),
        retryable: failure.retryable,
        completed_at: now,
        total_cost: dollars(run.spent.cost),
        total_tokens: Tokens { input: run.spent.input_tokens, output: run.spent.output_tokens },
    };
    let child_end = run.parent.map(|parent| ChildEnd {
        parent,
        tenant: run.tenant,
        resolution: Resolution { answer: json!({ "error": failure }), by: "system".into(), timed_out: false },
    });
    let ended = |attempt: Attempt| {
        attempt.end(run.tenant, RunState::Failed, Some(&failure), now, |most| clock.below(most), || DeadLetterId::new(clock))
    };
    let job_end = run.input.job.and_then(ended);
    Commit { child_end, job_end, ..end(run, EventRecord::new(run.reserved, &event), failure, now) }
}

fn end(run: &Run, event: EventRecord, failure: Failure, now: crate::clock::Timestamp) -> Commit {
    Commit {
        tenant: run.tenant,
        run: run.id,
        epoch: run.epoch,
        number: run.commit + 1,
        seen_nudges: None,
        state: RunState::Failed,
        advances: false,
        wake_at: None,
        reserved: run.reserved + 1,
        spent: run.spent,
        output: None,
        failure: Some(failure),
        finished_at: Some(now),
        journal: Vec::new(),
        segment: Some(Segment { events: vec![event], rest: Rest::End }),
        waits: Vec::new(),
        usage: Vec::new(),
        child_end: None,
        job_end: None,
        now,
    }
}

fn output_of(resolution: &Resolution) -> Option<&Value> {
    resolution.answer.get("output")
}

/// Whether a key of `toolOutputs` means this wait: by call id, by tool name, by the name in the page's namespace.
fn addressed(wait: &Wait, key: &str) -> bool {
    let tool = wait.shown.get("toolName").and_then(Value::as_str).unwrap_or_default();
    let bare = |name: &str| name.strip_prefix("webmcp:").unwrap_or(name).to_owned();
    wait.name == key || !tool.is_empty() && bare(tool) == bare(key)
}
