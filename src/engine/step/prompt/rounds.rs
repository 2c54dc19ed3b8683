//! The turns of a loop: when it goes on, why it ends, and what an agent's log tells of it.
//!
//! Everything here follows from the journal and the compiled prompt, so that whoever takes the run up comes to the same numbers. A turn is
//! told of once, also when its run was taken over in the middle.
//!
//! Must not know: what is said in a turn.

use super::config::{Prompt, Turns};
use crate::engine::context::StepContext;
use crate::engine::run_step::dollars;
use crate::model::event::{Event, Tokens};
use crate::provider::{Completion, Finish};

/// Most model calls of a prompt.
const PROMPT_CALLS: u32 = 100;
/// Most model calls of an agent.
const AGENT_CALLS: u32 = 1_000;

/// Where the loop stands.
pub struct Rounds<'c, 'a> {
    context: &'c StepContext<'a>,
    bounds: Option<Turns>,
    /// Tool calls of a turn.
    each: u32,
    /// The number of the turn as the log tells it, from 1. A pause ends a turn there.
    iteration: u32,
    /// Turns as the bound counts them: pauses end none.
    turns: u32,
    /// Model calls so far.
    asked: u32,
    /// Tool calls of this turn.
    calls: u32,
    tokens: Tokens,
    /// Nano-dollars, of this turn and of all.
    cost: u64,
    spent: u64,
    /// A turn has just ended, and another begins.
    fresh: bool,
    /// Why the loop ends although the model would go on.
    stopped: Option<&'static str>,
    /// The last tool calls are the caller's to make.
    leaves_calls: bool,
}

impl<'c, 'a> Rounds<'c, 'a> {
    pub fn new(prompt: &Prompt, context: &'c StepContext<'a>) -> Self {
        Self {
            context,
            bounds: prompt.turns,
            each: prompt.max_tool_calls.unwrap_or(context.limits().default_tool_calls),
            iteration: 1,
            turns: 1,
            asked: 0,
            calls: 0,
            tokens: Tokens::default(),
            cost: 0,
            spent: 0,
            fresh: false,
            stopped: None,
            leaves_calls: false,
        }
    }

    /// The turn's number as the log tells it.
    pub const fn iteration(&self) -> u32 {
        self.iteration
    }

    /// Tool calls that one turn may have.
    pub const fn max_calls(&self) -> u32 {
        self.each
    }

    /// Tool calls of this turn.
    pub const fn calls(&self) -> u32 {
        self.calls
    }

    /// Whether the next model call may ask for tools. Begins another turn when this one has used its tool calls up.
    pub fn may_call(&mut self) -> bool {
        let most = if self.bounds.is_some() { AGENT_CALLS } else { PROMPT_CALLS };
        if self.asked + 1 >= most {
            self.stopped = self.bounds.map(|_| "max_turns");
            return false;
        }
        if self.calls < self.each {
            return true;
        }
        let Some(bounds) = self.bounds.filter(|_| self.each > 0) else { return false };
        if bounds.cost.is_some_and(|most| self.spent >= most) {
            self.stopped = Some("max_cost");
        } else if self.turns >= bounds.most {
            self.stopped = Some("max_turns");
        } else {
            self.end("max_tool_calls");
            self.turns += 1;
            self.calls = 0;
            self.fresh = true;
            return true;
        }
        false
    }

    /// Whether the agent looks back before the turn that begins now; after how many turns.
    pub fn reflects(&mut self) -> Option<u32> {
        let fresh = std::mem::take(&mut self.fresh);
        let interval = self.bounds.and_then(|bounds| bounds.reflection)?;
        let done = self.turns - 1;
        (fresh && done.is_multiple_of(interval)).then_some(done)
    }

    /// A model is about to be asked.
    pub fn begin(&self) {
        self.tell_once("begun", || Event::TurnStart {
            id: self.id(),
            role: "assistant".into(),
            iteration: self.iteration,
            started_at: self.context.now(),
        });
    }

    /// A model has answered, now or before.
    pub fn answered(&mut self, completion: &Completion) {
        let usage = completion.total_usage();
        self.asked += 1;
        self.tokens.input = self.tokens.input.saturating_add(usage.input);
        self.tokens.output = self.tokens.output.saturating_add(usage.output);
        self.cost = self.cost.saturating_add(completion.cost.nano_usd);
        self.spent = self.spent.saturating_add(completion.cost.nano_usd);
    }

    /// The tool calls of the last answer wait for somebody: the log's turn ends without a word, and what follows is the next one.
    pub fn pause(&self) {
        if self.context.run.is_agent() && self.context.recall(&self.paused()).is_none() {
            self.context.record_done(&self.paused(), &true);
        }
    }

    /// The tool calls of the last answer are done.
    pub fn called(&mut self, calls: usize) {
        self.calls = self.calls.saturating_add(u32::try_from(calls).unwrap_or(u32::MAX));
        if self.context.recall(&self.paused()).is_some() {
            self.next();
        }
    }

    /// The loop ends with tool calls that the caller makes.
    pub fn leave_calls(&mut self) {
        self.leaves_calls = true;
    }

    /// The last turn ends with the model's last word; why the loop is over.
    pub fn finish(mut self, completion: &Completion) -> (&'static str, u32) {
        let why = self.stopped.unwrap_or(match completion.finish {
            _ if self.leaves_calls => "tool_calls",
            Finish::ToolCalls => "max_tool_calls",
            Finish::EndTurn => "end_turn",
            Finish::Length => "length",
            Finish::ContentFilter | Finish::Refusal => "content_filter",
            Finish::Pause => "pause",
            Finish::Error => "error",
            Finish::Unknown => "unknown",
        });
        let turns = self.iteration;
        self.end(if self.stopped.is_some() { "max_tool_calls" } else { why });
        (why, turns)
    }

    /// The last turn ends without a word of the model; the number of turns.
    pub fn give_up(mut self) -> u32 {
        let turns = self.iteration;
        self.end("fallback");
        turns
    }

    fn end(&mut self, why: &'static str) {
        self.tell_once("ended", || Event::TurnComplete {
            id: self.id(),
            role: "assistant".into(),
            iteration: self.iteration,
            stop_reason: why.into(),
            tokens: self.tokens,
            cost: dollars(self.cost),
            completed_at: self.context.now(),
        });
        self.next();
    }

    fn next(&mut self) {
        self.iteration += 1;
        self.tokens = Tokens::default();
        self.cost = 0;
    }

    fn id(&self) -> String {
        format!("turn_{}", self.iteration)
    }

    fn paused(&self) -> String {
        self.context.key(&format!("turn/{}/paused", self.asked))
    }

    fn tell_once(&self, what: &str, event: impl FnOnce() -> Event) {
        let key = self.context.key(&format!("round/{}/{what}", self.iteration));
        if self.context.run.is_agent() && self.context.recall(&key).is_none() {
            self.context.emit(event());
            self.context.record_done(&key, &true);
        }
    }
}
