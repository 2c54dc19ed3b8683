//! The loop of a prompt: a model call, its tool calls, the next model call, until the model is done.

use std::borrow::Cow;
use std::collections::HashSet;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::Prompt;
use super::reflect::reflect;
use super::remember::question;
use super::rounds::Rounds;
use super::{cache, call, fallbacks, messages, report};
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::step::mcp;
use crate::engine::step::tool_run::{Invocation, ToolOutcome};
use crate::engine::step::{StepBody, StepOutput};
use crate::expr::bounds::Misfit;
use crate::expr::script::accepted;
use crate::model::Flow;
use crate::model::event::Event;
use crate::provider::{
    ChatRequest, Completion, Finish, Message, Part, Resolved, ResponseFormat, Role, ToolCall, ToolChoice, ToolSpec, Usage,
};
use crate::tool::{Body, Definition, OwnTool, REASON_PARAMETER, Tool, read_exact_integers};

/// What the first turn was asked, kept because a later one must continue the very same conversation.
#[derive(Serialize, Deserialize)]
struct Opening {
    messages: Vec<Message>,
}

#[async_trait]
impl StepBody for Prompt {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let client = client_tools(context)?;
        let remote = match &self.servers[..] {
            [] => Vec::new(),
            servers => {
                let taken = self.tools.iter().chain(&client).map(|tool| tool.name().to_owned()).collect();
                // In a box: few prompts have servers, and every prompt's task would be as large as if it had.
                Box::pin(mcp::tools(context, servers, taken)).await?
            }
        };
        let tools: Vec<&Tool> = offered(&self.tools, &client).into_iter().chain(&remote).collect();
        let mut conversation = self.opening(context, !tools.is_empty()).await?;
        note_opening(context, self.models.first(), &conversation);
        let asked = if self.remember.is_some() { question(&conversation) } else { String::new() };
        let mut calls_made = Vec::new();
        let mut rounds = Rounds::new(self, context);
        let mut turn = 1;
        let mut used = Usage::default();
        let (completion, leaves_calls) = loop {
            let may_call = rounds.may_call();
            if let Some(turns) = rounds.reflects() {
                conversation.push(Box::pin(reflect(self, context, &conversation, turns)).await?);
            }
            let mut completion = match self.turn(context, &conversation, &tools, turn, may_call, &rounds).await {
                Err(Interrupt::Fail(failure)) => match self.message_for(context, &failure) {
                    Some(message) => return Ok(self.answer_with(context, message, &failure, rounds)),
                    None => return Err(failure.into()),
                },
                answered => answered?,
            };
            rounds.answered(&completion);
            used = used.plus(&completion.total_usage());
            context.asks_model(format!("{}/{}", completion.provider, completion.model));
            if completion.tool_calls.is_empty() || !may_call {
                break (completion, false);
            }
            if self.leaves_calls(context, &tools, &completion.tool_calls) {
                rounds.leave_calls();
                completion.tool_calls.retain(|call| !call.cut && called_tool(&tools, call).is_some_and(runs_in_caller));
                break (completion, true);
            }
            conversation.push(completion.message());
            let outcomes = self.calls(context, &tools, &completion.tool_calls, turn, &rounds, &calls_made).await?;
            rounds.called(outcomes.len());
            // The results of one turn stay together; what callers said beside them follows the last one.
            let mut said = Vec::new();
            for (call, outcome) in completion.tool_calls.iter().zip(outcomes) {
                calls_made.push(call.name.clone());
                conversation.push(answer(call, &outcome));
                said.extend(outcome.messages);
            }
            conversation.extend(messages::read_all(&Value::Array(said), "messages")?);
            turn += 1;
        };
        if let Some(remember) = self.remember.as_ref().filter(|_| !leaves_calls) {
            Box::pin(remember.end(context, &asked, &completion.text)).await?;
        }
        let as_completion = answers_as_completion(context);
        if as_completion {
            let calls = if leaves_calls { &completion.tool_calls[..] } else { &[] };
            let reads_json = !matches!(self.format, ResponseFormat::Text);
            report::tell(context, &completion, calls, used, reads_json);
        }
        let as_written = leaves_calls || as_completion && !is_whole(completion.finish);
        self.output(&completion, rounds, turn, calls_made.len(), as_written)
    }

    fn max_turns(&self) -> Option<u32> {
        self.turns.map(|turns| turns.most)
    }

    fn check_model(&self, model: &Resolved) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort);
        if let Some(effort) =
            effort.filter(|effort| !model.efforts().is_empty() && !model.efforts().iter().any(|word| word == effort.name()))
        {
            let taken = model.efforts().join(", ");
            faults.push((
                "reasoning".to_owned(),
                format!("`{}` does not take the effort `{}`; it takes {taken}", model.name(), effort.name()),
            ));
        }
        if self.turns.is_some_and(|turns| turns.cost.is_some_and(|most| most > 0)) && model.price.is_none() {
            faults.push(("loopConfig/maxCost".to_owned(), call::unpriced_message(&model.name().to_string())));
        }
        faults
    }

    fn models(&self) -> &[String] {
        &self.models
    }

    fn children(&self) -> Vec<(String, &Flow)> {
        let place = |index: usize| {
            let kind = self.tools.get(index).map(|tool| tool.definition.tool_type.as_str());
            format!("/tools/runtimeTools/{index}/config/{}", if kind == Some("flow") { "flow" } else { "agent" })
        };
        self.children.iter().map(|(index, flow)| (place(*index), flow)).collect()
    }
}

impl Prompt {
    /// The conversation to begin with. One that tools may interrupt is journaled with the first turn.
    async fn opening(&self, context: &StepContext<'_>, journaled: bool) -> StepResult<Vec<Message>> {
        let key = context.key("opening");
        if let Some(opening) = context.recall_as::<Opening>(&key) {
            return Ok(opening.messages);
        }
        let mut messages = messages::render(self, context)?;
        if let Some(remember) = &self.remember {
            Box::pin(remember.begin(context, &mut messages)).await?;
        }
        // What is remembered may be another the next time that it is asked for.
        if journaled || self.remember.is_some() {
            context.record_done(&key, &Opening { messages: messages.clone() });
        }
        Ok(messages)
    }

    async fn turn(
        &self,
        context: &StepContext<'_>,
        conversation: &[Message],
        tools: &[&Tool],
        turn: u32,
        may_call: bool,
        rounds: &Rounds<'_, '_>,
    ) -> StepResult<Completion> {
        let path = format!("turn/{turn}");
        let key = context.key(&path);
        if let Some(completion) = context.recall_as::<Completion>(&key) {
            let usage = completion.total_usage();
            context.spent_before(usage.input, usage.output, completion.cost.nano_usd);
            return Ok(completion);
        }
        rounds.begin();
        let choice = match self.choice {
            _ if !may_call => ToolChoice::None,
            // Required on every turn would never end.
            ToolChoice::Required if turn > 1 => ToolChoice::Auto,
            choice => choice,
        };
        let request = ChatRequest {
            messages: conversation.to_vec(),
            tools: tools.iter().map(|tool| self.spec(tool)).collect(),
            tool_choice: choice,
            response_format: self.format.clone(),
            sampling: self.sampling.clone(),
            reasoning: self.reasoning.clone(),
            stream: self.stream,
            idempotency_key: Some(context.idempotency_key(&path)),
        };
        let cached = self.cache.map(|ttl| (cache::CacheKey::of(&self.models, &request), ttl));
        if let Some((place, _)) = &cached
            && let Some(completion) = Box::pin(cache::find(context, place)).await
        {
            call::show_cached(self, context, &completion, turn);
            if !tools.is_empty() {
                context.record_done(&key, &completion);
            }
            return Ok(completion);
        }
        let mut completion = call::make(self, context, request.clone(), turn).await?;
        let mut from = 0;
        while self.is_empty_answer(&completion) {
            let Some(next) = call::next_place(self, context, &completion, from)? else {
                let failure = StepFailure::new("empty_answer", "the model answered without a text");
                return Err(StepFailure { model_attempts: completion.attempts, ..failure }.into());
            };
            from = next;
            let mut request = request.clone();
            request.idempotency_key = Some(context.idempotency_key(&format!("turn/{turn}/fallback/{from}")));
            completion = completion.followed_by(Box::pin(call::make_from(self, context, request, turn, from)).await?);
        }
        if completion.tool_calls.is_empty()
            && let Some(fault) = self.mends(context, &completion).await?
        {
            completion = Box::pin(self.repair(context, request, turn, completion, &fault)).await?;
        }
        name_calls(&mut completion.tool_calls, || context.calls());
        if completion.tool_calls.is_empty() {
            // The answer itself: it is committed with the step that it ends.
            self.check(context, &completion).await?;
            // What a completion ends with although it is not whole was not checked; a later prompt would take it for an answer.
            if let Some((place, ttl)) = cached.as_ref().filter(|_| !answers_as_completion(context) || is_whole(completion.finish)) {
                Box::pin(cache::keep(context, place, *ttl, &completion)).await;
            }
        }
        if !tools.is_empty() {
            context.record_done(&key, &completion);
        }
        Ok(completion)
    }

    /// Shows the model what is wrong with its JSON and asks once more. Both calls are booked; the answer is the second.
    async fn repair(
        &self,
        context: &StepContext<'_>,
        mut request: ChatRequest,
        turn: u32,
        broken: Completion,
        fault: &StepFailure,
    ) -> StepResult<Completion> {
        request.messages.push(broken.message());
        let words = format!("{}. Answer again with the corrected JSON and nothing else: no prose, no code fence.", fault.message);
        request.messages.push(Message::user(words));
        request.tool_choice = ToolChoice::None;
        request.idempotency_key = Some(context.idempotency_key(&format!("turn/{turn}/repair")));
        let mut repaired = call::make_silently(self, context, request, turn).await?;
        repaired.tool_calls.clear();
        Ok(broken.followed_by(repaired))
    }

    fn spec(&self, tool: &Tool) -> ToolSpec {
        let with_reason = self.approval.with_reason && self.approval.covers(tool, None);
        let name = tool.name().strip_prefix("webmcp:").unwrap_or(tool.name()).to_owned();
        ToolSpec { name, description: tool.definition.description.clone(), parameters: tool.shown_schema(with_reason) }
    }

    /// Whether the caller makes the calls of this turn and sends the whole conversation again. Calls of other tools beside them are not made: their
    /// results would be lost. A call that needs a person's word is asked about here, as ever.
    fn leaves_calls(&self, context: &StepContext<'_>, tools: &[&Tool], calls: &[ToolCall]) -> bool {
        let mut left = calls.iter().filter_map(|call| called_tool(tools, call)).filter(|tool| runs_in_caller(tool)).peekable();
        answers_as_completion(context) && left.peek().is_some() && !left.any(|tool| self.approval.covers(tool, None))
    }

    /// Makes the calls of one turn, side by side. Suspends when any of them waits; the others are done by then.
    async fn calls(
        &self,
        context: &StepContext<'_>,
        tools: &[&Tool],
        calls: &[ToolCall],
        turn: u32,
        rounds: &Rounds<'_, '_>,
        made: &[String],
    ) -> StepResult<Vec<ToolOutcome>> {
        let iteration = if context.run.is_agent() { rounds.iteration() } else { turn };
        let mut planned: Vec<(String, Result<Invocation<'_>, ToolOutcome>)> = Vec::with_capacity(calls.len());
        for (number, call) in calls.iter().enumerate() {
            let key = format!("turn/{turn}/tool/{}", call.id);
            let earlier = calls.iter().take(number).filter(|other| other.name == call.name).count();
            let refusal = call.cut.then(|| ToolOutcome::failed(CUT_CALL));
            let prepared = match refusal.or_else(|| self.over_limit(call, rounds, made, earlier, number)) {
                Some(refusal) => Err(refusal),
                None => self.invocation(context, tools, call, iteration, &key).map_err(ToolOutcome::failed),
            };
            let invocation = match prepared {
                Ok((invocation, judged)) => match invocation.tool.check(&judged, &context.sandbox()).await? {
                    Some(fault) => Err(ToolOutcome::failed(fault)),
                    None => Ok(invocation),
                },
                Err(refusal) => Err(refusal),
            };
            planned.push((key, invocation));
        }
        let runs = planned.iter().zip(calls).map(|((key, invocation), call)| async move {
            match invocation {
                Ok(invocation) => invocation.run_traced(context, key).await,
                Err(refusal) => {
                    refuse(context, key, call, iteration, refusal);
                    Ok(refusal.clone())
                }
            }
        });
        let mut outcomes = Vec::with_capacity(calls.len());
        let (mut interrupt, mut asks) = (None, false);
        let results = join_all(runs).await;
        let quiet = context.is_quiet();
        for (result, (key, invocation)) in results.into_iter().zip(&planned) {
            match result {
                Ok(outcome) => outcomes.push(outcome),
                Err(Interrupt::Fail(failure)) => interrupt = Some(Interrupt::Fail(failure)),
                Err(Interrupt::Suspend) => {
                    // A caller who answered one call is told again of those that still wait; a nudge alone is no news.
                    if let Ok(invocation) = invocation {
                        asks |= invocation.asks_the_caller(context, key);
                        if !quiet {
                            invocation.announce(context, key);
                        }
                    }
                    interrupt = interrupt.or(Some(Interrupt::Suspend));
                }
            }
        }
        // A child at work is no pause: the turn goes on when it has ended.
        if asks && interrupt == Some(Interrupt::Suspend) {
            rounds.pause();
        }
        interrupt.map_or(Ok(outcomes), Err)
    }

    /// `made`: names of all earlier calls, `earlier`: calls of the same tool beside this one.
    fn over_limit(&self, call: &ToolCall, rounds: &Rounds<'_, '_>, made: &[String], earlier: usize, number: usize) -> Option<ToolOutcome> {
        let max_tool_calls = rounds.max_calls();
        let all = usize::try_from(rounds.calls()).unwrap_or(usize::MAX).saturating_add(number);
        if all >= usize::try_from(max_tool_calls).unwrap_or(usize::MAX) {
            return Some(ToolOutcome::failed(format!("the limit of {max_tool_calls} tool calls is reached; this call was not made")));
        }
        let (_, most) = self.limits.iter().find(|(name, _)| *name == call.name)?;
        let of_this = made.iter().filter(|name| **name == call.name).count() + earlier;
        (of_this >= usize::try_from(*most).unwrap_or(usize::MAX))
            .then(|| ToolOutcome::failed(format!("the limit of {most} calls of `{}` is reached; this call was not made", call.name)))
    }

    /// The call with completed arguments, stored if they depend on variables, and validated against the tool's schema.
    fn invocation<'t>(
        &'t self,
        context: &StepContext<'_>,
        tools: &[&'t Tool],
        call: &ToolCall,
        turn: u32,
        key: &str,
    ) -> Result<(Invocation<'t>, Value), String> {
        let tool = called_tool(tools, call).ok_or_else(|| format!("there is no tool `{}`", call.name))?;
        let text = if call.arguments.trim().is_empty() { "{}" } else { &call.arguments };
        let given: Value = serde_json::from_str(text).map_err(|error| format!("the arguments are not JSON: {error}"))?;
        if let Some(misfit) = Misfit::of(&given, context.limits().max_result_bytes) {
            return Err(format!("the arguments cannot be used: {misfit}"));
        }
        let Value::Object(mut given) = given else { return Err("the arguments are not a JSON object".into()) };
        let reason = given.remove(REASON_PARAMETER).and_then(|reason| reason.as_str().map(str::to_owned));
        let kept = context.key(&format!("{key}/arguments"));
        let known = context.recall_as::<Map<String, Value>>(&kept);
        let variable = |name: &str| match &known {
            Some(known) => known.get(name).cloned(),
            None => context.variable(name).cloned(),
        };
        // Schemas and conditions judge numbers; the tool, its approver and the log get every digit of them.
        let exact = read_exact_integers(text).map(|mut exact| {
            exact.remove(REASON_PARAMETER);
            tool.arguments(exact, variable)
        });
        let judged = tool.arguments(given, variable);
        let arguments = exact.unwrap_or_else(|| judged.clone());
        if known.is_none() && !tool.definition.hidden_parameter_names.is_empty() {
            context.record_done(&kept, &arguments);
        }
        let approval = self.approval.covers(tool, Some(&judged)).then_some(self.approval.asking);
        let reason = reason.filter(|_| approval.is_some());
        let child = match (&tool.body, &self.spawn) {
            (Body::Own(OwnTool::Spawn), Some(spawn)) => Some(Cow::Owned(spawn.agent(&arguments))),
            _ => self.child(tool).map(Cow::Borrowed),
        };
        Ok((Invocation { id: call.id.clone(), tool, arguments, reason, turn, approval, child }, Value::Object(judged)))
    }

    /// What a tool runs; a page's tool of the same name runs nothing.
    fn child(&self, tool: &Tool) -> Option<&Flow> {
        self.children.iter().find(|(place, _)| self.tools.get(*place).is_some_and(|known| std::ptr::eq(known, tool))).map(|(_, flow)| flow)
    }

    /// Whether an answer is what the prompt asked for.
    async fn check(&self, context: &StepContext<'_>, completion: &Completion) -> StepResult<()> {
        let wants_json = !matches!(self.format, ResponseFormat::Text);
        if answers_as_completion(context) && !is_whole(completion.finish) {
            return Ok(());
        }
        match completion.finish {
            Finish::Refusal => {
                let refusal: String = completion.text.chars().take(MAX_REFUSAL).collect();
                return Err(StepFailure::new("content_filtered", format!("the model refused: {refusal}")).into());
            }
            Finish::ContentFilter if completion.text.is_empty() || wants_json => {
                return Err(StepFailure::new("content_filtered", "the provider withheld the answer").into());
            }
            _ => {}
        }
        if !wants_json {
            return Ok(());
        }
        match self.judge_json(context, &completion.text).await? {
            Some(_) if completion.finish == Finish::Length => Err(StepFailure::new(
                "invalid_json",
                "the token limit cut the model's answer before its JSON was complete; raise `maxTokens`",
            )
            .into()),
            Some(fault) => Err(fault.into()),
            None => Ok(()),
        }
    }

    /// Returns why the text of an answer is not the requested JSON, if it is not.
    async fn judge_json(&self, context: &StepContext<'_>, text: &str) -> StepResult<Option<StepFailure>> {
        let value = match parse_json(text) {
            Ok(value) => value,
            Err(error) => {
                let message = format!("the model's answer is not the requested JSON: {error}");
                return Ok(Some(StepFailure::transient("invalid_json", message)));
            }
        };
        let Some(schema) = &self.schema else { return Ok(None) };
        let faults = schema.judge(&value, &context.sandbox()).await?;
        Ok(faults.first().map(|(pointer, message)| {
            StepFailure::transient("schema_mismatch", format!("the model's answer does not fit the schema at `{pointer}`: {message}"))
        }))
    }

    /// Whether one more call may repair an answer, and its fault: it is broken JSON that was neither truncated nor withheld.
    async fn mends(&self, context: &StepContext<'_>, completion: &Completion) -> StepResult<Option<StepFailure>> {
        let is_whole = matches!(completion.finish, Finish::EndTurn | Finish::Unknown) && !completion.text.trim().is_empty();
        if matches!(self.format, ResponseFormat::Text) || !is_whole {
            return Ok(None);
        }
        self.judge_json(context, &completion.text).await
    }

    /// `as_written`: a text that is not the JSON that was asked for is the output.
    fn output(
        &self,
        completion: &Completion,
        rounds: Rounds<'_, '_>,
        asked: u32,
        calls: usize,
        as_written: bool,
    ) -> StepResult<StepOutput> {
        let value = match self.format {
            ResponseFormat::Text => Value::String(completion.text.clone()),
            ResponseFormat::Json | ResponseFormat::JsonSchema { .. } => match parse_json(&completion.text) {
                Ok(value) => value,
                Err(_) if as_written => Value::String(completion.text.clone()),
                Err(error) => return Err(StepFailure::new("invalid_json", error.to_string()).into()),
            },
        };
        let mut shown = json!({ "response": completion.text, "model": format!("{}/{}", completion.provider, completion.model) });
        if let Some(map) = shown.as_object_mut() {
            if !value.is_string() {
                map.insert("json".into(), value.clone());
            }
            if calls > 0 {
                map.insert("turns".into(), asked.into());
                map.insert("toolCalls".into(), calls.into());
            }
        }
        let (stop, turns) = rounds.finish(completion);
        let turns = self.turns.map(|_| turns);
        Ok(StepOutput {
            shown: Some(shown),
            stop_reason: Some(stop.into()),
            turns,
            fallback: fallbacks::report(completion),
            ..StepOutput::of(value)
        })
    }
}

/// Whether the caller wants the model's answer as it is.
fn answers_as_completion(context: &StepContext<'_>) -> bool {
    context.run.input.options.as_completion
}

/// Whether a model said all that it had to say.
const fn is_whole(finish: Finish) -> bool {
    !matches!(finish, Finish::Length | Finish::ContentFilter | Finish::Refusal)
}

/// The tool that a model calls; models see the tools of a page without the prefix of their namespace.
fn called_tool<'t>(tools: &[&'t Tool], call: &ToolCall) -> Option<&'t Tool> {
    tools.iter().copied().find(|tool| tool.name().strip_prefix("webmcp:").unwrap_or(tool.name()) == call.name)
}

const fn runs_in_caller(tool: &Tool) -> bool {
    matches!(tool.body, Body::Local)
}

/// Records the first request of the step: the system prompt and the last user message.
fn note_opening(context: &StepContext<'_>, model: Option<&String>, conversation: &[Message]) {
    let system = conversation.iter().find(|message| message.role == Role::System).map(Message::text);
    let user = conversation.iter().rfind(|message| message.role == Role::User).map(Message::text);
    context.asks(system.as_deref(), user.as_deref());
    if let Some(model) = model {
        context.asks_model(model.clone());
    }
}

/// Tells of a call that was not made: to the caller's eye it failed at once.
fn refuse(context: &StepContext<'_>, key: &str, call: &ToolCall, turn: u32, refusal: &ToolOutcome) {
    let key = context.key(key);
    if context.recall(&key).is_some() {
        return;
    }
    context.emit(Event::ToolStart {
        tool_call_id: call.id.clone(),
        tool_name: call.name.clone(),
        tool_type: "refused".into(),
        parameters: serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::String(call.arguments.clone())),
        step_id: context.step_id().into(),
        iteration: turn,
        started_at: context.now(),
        origin: None,
        hidden_parameter_names: Vec::new(),
    });
    refusal.tell(context, &call.id, &call.name, turn, 0);
    context.record_done(&key, refusal);
}

/// Reads the JSON of an answer: all of it, what follows a thought, or what stands in a fence.
fn parse_json(text: &str) -> Result<Value, serde_json::Error> {
    let text = text.trim().trim_start_matches('\u{feff}');
    let error = match serde_json::from_str(text) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let after_thought = text.rsplit_once("</think>").map(|(_, rest)| rest.trim());
    let candidates = after_thought.into_iter().chain(fenced(after_thought.unwrap_or(text)));
    candidates.into_iter().find_map(|candidate| serde_json::from_str(candidate).ok()).ok_or(error)
}

/// The contents of code fences, in order.
fn fenced(text: &str) -> impl Iterator<Item = &str> {
    text.split("```").skip(1).step_by(2).map(|block| {
        let (info, body) = block.split_once('\n').unwrap_or(("", block));
        let is_info = info.trim().chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-');
        let inline = block.trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
        if is_info && block.contains('\n') { body.trim() } else { inline.trim() }
    })
}

/// What a model reads of a call that its token limit cut.
const CUT_CALL: &str =
    "The answer ended before the arguments of this call were complete, so the call was not made. Ask for it again, shorter.";
/// Characters of a refusal that are shown.
const MAX_REFUSAL: usize = 500;

/// Bytes of a call's id; longer ones are replaced.
const MAX_ID: usize = 256;

/// Every call of a run has its own id, whatever the provider says: callers address their answers by it, and one that is
/// sent again must not be taken for the answer to another call.
fn name_calls(calls: &mut [ToolCall], earlier: impl FnOnce() -> HashSet<String>) {
    if calls.is_empty() {
        return;
    }
    let mut taken = earlier();
    for call in calls {
        if call.id.len() > MAX_ID || call.id.contains(char::is_control) {
            call.id.clear();
        }
        let base = if call.id.is_empty() { "call".to_owned() } else { call.id.clone() };
        let mut number = 1;
        while call.id.is_empty() || taken.contains(&call.id) {
            number += 1;
            call.id = format!("{base}_{number}");
        }
        taken.insert(call.id.clone());
    }
}

fn answer(call: &ToolCall, outcome: &ToolOutcome) -> Message {
    Message {
        role: Role::Tool,
        content: std::iter::once(Part::text(outcome.text())).chain(outcome.parts.iter().cloned()).collect(),
        tool_calls: Vec::new(),
        tool_call_id: Some(call.id.clone()),
        tool_name: Some(call.name.clone()),
        is_error: !outcome.success,
        origin: None,
        state: None,
    }
}

/// The tools of the request that run in the caller.
fn client_tools(context: &StepContext<'_>) -> StepResult<Vec<Tool>> {
    let definitions = &context.run.input.client_tools;
    let mut tools = Vec::with_capacity(definitions.len());
    for definition in definitions {
        let definition: Definition =
            serde_json::from_value(definition.clone()).map_err(|error| StepFailure::new("invalid_client_tool", error.to_string()))?;
        // The schemas were parsed when the request was accepted.
        let tool = accepted(|| Tool::compile(Definition { tool_type: "local".into(), ..definition }));
        tools.push(tool.map_err(|problems| StepFailure::from(crate::error::Error::from(problems)))?);
    }
    Ok(tools)
}

/// A tool of the request hides the flow's own of the same name.
fn offered<'t>(own: &'t [Tool], client: &'t [Tool]) -> Vec<&'t Tool> {
    let hidden = |tool: &&Tool| !client.iter().any(|other| other.name() == tool.name());
    own.iter().filter(hidden).chain(client).collect()
}
