//! One tool call: approval first when it is asked for, then the work, with everything journaled.
//!
//! A failed call is data for whoever asked, not a failure of the step. What waits suspends; the answers that
//! other calls of the same turn already have stay in the journal.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::Instrument;

use super::artifact;
use super::child::{Child, within_depth};
use super::http::{answer_failure, net_failure};
use super::mcp;
use super::prompt::messages::{ContentItem, mcp_content, read_part};
use super::state;
use super::text_of;
use super::transform_data::script_failure;
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::engine::traced;
use crate::failpoint;
use crate::model::event::Event;
use crate::model::run::RunInput;
use crate::model::wait::{Approver, WaitKind, digest};
use crate::model::{Flow, Target};
use crate::provider::Part;
use crate::tool::http::{HttpAnswer, HttpTemplate};
use crate::tool::{Body, ChildKind, Definition, Effect, OwnTool, Tool};

/// A call to make.
pub struct Invocation<'t> {
    /// Unique in the run: the provider's id of the call, unless it repeats itself.
    pub id: String,
    pub tool: &'t Tool,
    /// Complete: hidden parameters filled in, the reason taken out.
    pub arguments: Map<String, Value>,
    pub reason: Option<String>,
    /// The model's turn, from 1.
    pub turn: u32,
    /// Set when a person must approve.
    pub approval: Option<Asking>,
    /// What the tool runs, if it runs something.
    pub child: Option<Cow<'t, Flow>>,
}

/// How a person is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asking {
    /// How long the request lasts.
    pub lasts: Duration,
    pub approver: Approver,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolOutcome {
    pub success: bool,
    pub result: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Messages that the caller sent along with a local tool's output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Value>,
    /// Pictures, files and audio that the model is shown beside the result.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Why the result is plain text although its content type says JSON. The model is told, and can still use the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_json: Option<String>,
}

impl ToolOutcome {
    pub(super) fn done(result: Value) -> Self {
        Self { success: true, result, error: None, messages: Vec::new(), parts: Vec::new(), not_json: None }
    }

    pub fn failed(error: impl Into<String>) -> Self {
        let error = Some(error.into());
        Self { success: false, result: Value::Null, error, messages: Vec::new(), parts: Vec::new(), not_json: None }
    }

    /// Tells of the call's end.
    pub fn tell(&self, context: &StepContext<'_>, id: &str, tool: &str, turn: u32, took: u64) {
        context.emit(Event::ToolComplete {
            tool_call_id: id.into(),
            tool_name: tool.into(),
            success: self.success,
            result: self.success.then(|| self.result.clone()),
            error: self.error.clone(),
            execution_time: took,
            iteration: turn,
            step_id: context.step_id().into(),
        });
    }

    /// The text that the model reads. A result without one is its JSON text, so that the model sees that there is nothing more.
    pub fn text(&self) -> String {
        if let Some(error) = &self.error {
            return format!("Error: {error}");
        }
        let text = Some(text_of(&self.result)).filter(|text| !text.is_empty()).unwrap_or_else(|| self.result.to_string());
        match &self.not_json {
            Some(why) => format!("{text}\n\n(The response is shown as plain text: {why})"),
            None => text,
        }
    }
}

impl Invocation<'_> {
    /// Makes the call, or recalls it. `key` is the call's own journal path below the step.
    pub async fn run_traced(&self, context: &StepContext<'_>, key: &str) -> StepResult<ToolOutcome> {
        let outcome_key = context.key(key);
        if let Some(outcome) = context.recall_as::<ToolOutcome>(&outcome_key) {
            return Ok(outcome);
        }
        // A call that waits for approval is not made yet, so it has no span.
        if let Some(refusal) = self.approve(context, key).await? {
            self.finish(context, &outcome_key, &refusal, 0);
            return Ok(refusal);
        }
        let span = traced::tool(self.tool, &self.id);
        let result = self.run(context, key).instrument(span.clone()).await;
        if let Ok(ToolOutcome { success: false, .. }) = &result {
            traced::failed(&span, "tool_failed");
        }
        traced::ended(&span, &result);
        result
    }

    async fn run(&self, context: &StepContext<'_>, key: &str) -> StepResult<ToolOutcome> {
        let started = context.now();
        let outcome = match &self.tool.body {
            Body::Local => self.local(context, key).await?,
            Body::Http(call) => {
                // A call whose fate is unknown was begun, and told, before.
                if context.recall(&context.key(&format!("{key}/call"))).is_none() {
                    self.start(context);
                }
                let answer = self.http(context, key, call, &self.arguments).await;
                outcome_of(answer, call.effect(), |answer| {
                    if !answer.is_success() {
                        return ToolOutcome::failed(answer_failure(&answer).message);
                    }
                    match answer.read() {
                        Ok(value) => ToolOutcome::done(value),
                        Err(error) => ToolOutcome { not_json: Some(error.message().to_owned()), ..ToolOutcome::done(answer.value()) },
                    }
                })?
            }
            Body::GraphQl(operation) => {
                if context.recall(&context.key(&format!("{key}/call"))).is_none() {
                    self.start(context);
                }
                let own = Map::from_iter([
                    ("_query".to_owned(), operation.query.clone().into()),
                    ("_variables".to_owned(), Value::Object(self.arguments.clone())),
                ]);
                let answer = self.http(context, key, &operation.call, &own).await;
                outcome_of(answer, operation.call.effect(), |answer| graphql_outcome(&answer))?
            }
            Body::Own(OwnTool::Spawn) => self.child(context, key, ChildKind::Agent).await?,
            Body::Own(OwnTool::State) => {
                self.start(context);
                state::set(self, context)
            }
            Body::Own(kind) => {
                self.start(context);
                artifact::show(self, context, *kind)
            }
            Body::Script(code) => {
                self.start(context);
                self.script(context, code).await
            }
            Body::Child(kind) => self.child(context, key, *kind).await?,
            Body::Mcp(remote) => Box::pin(mcp::call(self, context, key, remote)).await?,
        };
        let took = u64::try_from(context.now().since(started).as_millis()).unwrap_or(u64::MAX);
        self.finish(context, &context.key(key), &outcome, took);
        Ok(outcome)
    }

    /// Whether a suspended call waits for the caller, or a person behind it.
    pub fn asks_the_caller(&self, context: &StepContext<'_>, key: &str) -> bool {
        ["approval", "output"].iter().any(|wait| context.open_wait(&context.key(&format!("{key}/{wait}"))).is_some())
            || mcp::open(context, key).is_some()
    }

    /// Says what a suspended call waits for. Told after every other call of the turn has ended, so that nothing comes
    /// between the last word and the end of the stream.
    pub fn announce(&self, context: &StepContext<'_>, key: &str) {
        if let Some(wait) = context.open_wait(&context.key(&format!("{key}/approval"))) {
            context.emit(Event::ApprovalStart {
                approval_id: wait.id.to_string(),
                tool_name: self.tool.name().into(),
                tool_call_id: self.id.clone(),
                tool_type: self.tool.kind().into(),
                description: Some(self.tool.definition.description.clone()).filter(|text| !text.is_empty()),
                reason: self.reason.clone(),
                parameters: Value::Object(self.arguments.clone()),
                digest: wait.digest.unwrap_or_default(),
                timeout: u64::try_from(wait.deadline.map_or(Duration::ZERO, |deadline| deadline.since(context.now())).as_millis())
                    .unwrap_or(u64::MAX),
                step_id: context.step_id().into(),
                started_at: wait.created_at,
            });
        } else if let Some(wait) = context.open_wait(&context.key(&format!("{key}/output"))) {
            context.emit(Event::Await {
                tool_id: format!("runtime_{}_{}", self.tool.name(), wait.id.suffix()),
                tool_call_id: self.id.clone(),
                tool_name: self.tool.name().strip_prefix("webmcp:").unwrap_or(self.tool.name()).into(),
                parameters: Value::Object(self.arguments.clone()),
                awaited_at: wait.created_at,
                step_id: context.step_id().into(),
                await_reason: None,
                elicitation: None,
                origin: self.tool.definition.origin.clone(),
                page_origin: self.tool.definition.page_origin.clone(),
            });
        } else if let Some((wait, elicitation)) = mcp::open(context, key) {
            context.emit(Event::Await {
                tool_id: format!("runtime_{}_{}", self.tool.name(), wait.id.suffix()),
                tool_call_id: wait.name,
                tool_name: self.tool.name().into(),
                parameters: Value::Object(self.arguments.clone()),
                awaited_at: wait.created_at,
                step_id: context.step_id().into(),
                await_reason: Some("elicitation".into()),
                elicitation: Some(elicitation),
                origin: None,
                page_origin: None,
            });
        }
    }

    pub(super) fn start(&self, context: &StepContext<'_>) {
        context.emit(Event::ToolStart {
            tool_call_id: self.id.clone(),
            tool_name: self.tool.name().into(),
            tool_type: self.tool.kind().into(),
            parameters: Value::Object(self.arguments.clone()),
            step_id: context.step_id().into(),
            iteration: self.turn,
            started_at: context.now(),
            origin: self.tool.definition.origin.clone(),
            hidden_parameter_names: self.tool.definition.hidden_parameter_names.clone(),
        });
    }

    fn finish(&self, context: &StepContext<'_>, key: &str, outcome: &ToolOutcome, took: u64) {
        outcome.tell(context, &self.id, self.tool.name(), self.turn, took);
        context.record_done(key, outcome);
        failpoint::hit("tool.recorded");
    }

    /// `Some`: refused, with what to tell the model.
    async fn approve(&self, context: &StepContext<'_>, key: &str) -> StepResult<Option<ToolOutcome>> {
        let Some(Asking { lasts, approver }) = self.approval else { return Ok(None) };
        let arguments = Value::Object(self.arguments.clone());
        let digest = digest(self.tool.name(), &arguments, &context.run.plan.blob.hash);
        let wait_key = context.key(&format!("{key}/approval"));
        let ask = Ask {
            kind: WaitKind::Approval,
            name: self.id.clone(),
            shown: json!({ "toolName": self.tool.name(), "parameters": arguments, "stepId": context.step_id(), "reason": self.reason, "approver": approver }),
            digest: Some(digest.clone()),
            deadline: Some(context.now().after(lasts)),
        };
        let (wait, resolution) = match context.ask(&wait_key, ask).await? {
            Asked::Answered { wait, resolution } => (wait, resolution),
            Asked::Open { .. } => return Err(Interrupt::Suspend),
        };
        let decision =
            if resolution.timed_out { "timeout" } else { resolution.answer.get("decision").and_then(Value::as_str).unwrap_or("denied") };
        let told_key = context.key(&format!("{key}/approval/told"));
        if context.recall(&told_key).is_none() {
            context.emit(Event::ApprovalComplete {
                approval_id: wait.to_string(),
                decision: decision.into(),
                resolved_by: if resolution.timed_out { "system" } else { "user" }.into(),
                completed_at: context.now(),
            });
            context.record_done(&told_key, &decision);
            failpoint::hit("approval.told");
        }
        if decision == "approved" && context.run.approved_digest(wait) == Some(digest) {
            return Ok(None);
        }
        let reason = resolution.answer.get("reason").and_then(Value::as_str).map(|reason| format!(": {reason}")).unwrap_or_default();
        Ok(Some(ToolOutcome::failed(match decision {
            "timeout" => "nobody approved this call in time; it was not made".to_owned(),
            "approved" => "the approved call and this one differ; it was not made".to_owned(),
            _ => format!("the user denied this call; it was not made{reason}"),
        })))
    }

    /// Lets the caller do it: the run waits for the output.
    async fn local(&self, context: &StepContext<'_>, key: &str) -> StepResult<ToolOutcome> {
        let wait_key = context.key(&format!("{key}/output"));
        let parameters = Value::Object(self.arguments.clone());
        let ask = Ask {
            kind: WaitKind::ToolOutput,
            name: self.id.clone(),
            shown: json!({ "toolName": self.tool.name(), "parameters": parameters, "stepId": context.step_id() }),
            digest: None,
            deadline: None,
        };
        match context.ask(&wait_key, ask).await? {
            Asked::Answered { resolution, .. } if resolution.timed_out => Ok(ToolOutcome::failed("the caller sent no output in time")),
            Asked::Answered { resolution, .. } => {
                let messages = resolution.answer.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
                let output = resolution.answer.get("output").cloned().unwrap_or(Value::Null);
                Ok(ToolOutcome { messages, ..page_outcome(output) })
            }
            Asked::Open { .. } => Err(Interrupt::Suspend),
        }
    }

    /// Makes an HTTP call, once or again as its effect class allows.
    async fn http(&self, context: &StepContext<'_>, key: &str, call: &HttpTemplate, own: &Map<String, Value>) -> StepResult<HttpAnswer> {
        let path = format!("{key}/call");
        let idempotency = context.idempotency_key(&path);
        let timeout = Duration::from_millis(self.tool.timeout_ms);
        let scope = context.scope_with_secrets();
        context
            .effect(&context.key(&path), call.effect(), || async {
                let call = call.render(&scope.within(own), &idempotency, timeout)?;
                failpoint::hit("tool.before");
                let call = call.with_max_response(context.limits().max_response_bytes);
                let answer = call.send(&context.parts().egress, &context.parts().clock, &context.run.redactor).await;
                failpoint::hit("tool.after");
                answer.map_err(|error| Interrupt::Fail(net_failure(&error)))
            })
            .await
    }

    /// Runs a flow or an agent of its own; its answer is the tool's.
    async fn child(&self, context: &StepContext<'_>, key: &str, kind: ChildKind) -> StepResult<ToolOutcome> {
        let Some(flow) = self.child.as_deref() else {
            return Ok(ToolOutcome::failed("what this tool runs is not there, or nested too deep"));
        };
        let target = match kind {
            ChildKind::Flow => Target::Flow(None),
            ChildKind::Agent => Target::Agent(None),
        };
        let given = self.tool.definition.config.get("timeoutMs").and_then(Value::as_u64);
        let own = matches!(self.tool.body, Body::Own(_)).then_some(flow.timeout_ms);
        let timeout = given.or(own).map(Duration::from_millis);
        let child = Child { at: key, flow, target, timeout };
        if !child.has_begun(context) {
            self.start(context);
        }
        let mut inputs = self.arguments.clone();
        if matches!(self.tool.body, Body::Own(OwnTool::Spawn)) {
            let instructions = self.arguments.get("instructions").cloned().unwrap_or_default();
            inputs = Map::from_iter([("_instructions".to_owned(), instructions)]);
        }
        let messages = match kind {
            ChildKind::Flow => Vec::new(),
            ChildKind::Agent => vec![json!({ "role": "user", "content": question(&self.arguments) })],
        };
        let answer = match within_depth(context) {
            Ok(()) => child.run(context, || Ok(RunInput { inputs, messages, ..RunInput::default() })).await,
            Err(interrupt) => Err(interrupt),
        };
        outcome_of(answer, Effect::Pure, |output| ToolOutcome::done(output.value))
    }

    async fn script(&self, context: &StepContext<'_>, code: &str) -> ToolOutcome {
        match context.sandbox().run(code, self.arguments.clone()).await {
            Ok(value) => ToolOutcome::done(value),
            Err(error) => ToolOutcome::failed(script_failure(&error).message),
        }
    }
}

/// What a GraphQL server said: `data`, or the words of its errors.
fn graphql_outcome(answer: &HttpAnswer) -> ToolOutcome {
    let value = match answer.read() {
        Err(error) if answer.is_success() => return ToolOutcome::failed(error.message()),
        read => read.unwrap_or_default(),
    };
    let words = value.get("errors").and_then(Value::as_array).map(|errors| {
        let texts: Vec<&str> = errors.iter().filter_map(|error| error.get("message").and_then(Value::as_str)).take(5).collect();
        texts.join("; ")
    });
    match (value.get("data").filter(|data| !data.is_null()), words) {
        // What is there is given, with what is missing said beside it.
        (Some(data), Some(words)) => ToolOutcome::done(json!({ "data": data, "errors": words })),
        (Some(data), None) => ToolOutcome::done(data.clone()),
        (None, Some(words)) => ToolOutcome::failed(format!("the GraphQL server refused: {words}")),
        (None, None) => ToolOutcome::failed(answer_failure(answer).message),
    }
}

/// What an agent is asked: the message, or all parameters when there is none.
fn question(parameters: &Map<String, Value>) -> String {
    let message = ["message", "task", "prompt"].iter().find_map(|name| parameters.get(*name).and_then(Value::as_str));
    message.map_or_else(|| Value::Object(parameters.clone()).to_string(), str::to_owned)
}

/// The flow that the document's compiler put into a tool's configuration, with the places of its steps.
pub fn child_of(definition: &Definition) -> Option<Flow> {
    let mut flow: Flow = serde_json::from_value(definition.config.get("compiled")?.clone()).ok()?;
    for step in &mut flow.steps {
        let place = definition.config.get("places").and_then(|places| places.get(&step.id)).and_then(Value::as_str);
        step.pointer = place.unwrap_or_default().to_owned();
    }
    Some(flow)
}

/// A failed exchange is told to whoever asked, unless the step should wait or the run end.
pub(super) fn outcome_of<T>(answer: StepResult<T>, class: Effect, read: impl FnOnce(T) -> ToolOutcome) -> StepResult<ToolOutcome> {
    match answer {
        Ok(answer) => Ok(read(answer)),
        Err(Interrupt::Suspend) => Err(Interrupt::Suspend),
        Err(Interrupt::Fail(failure)) if failure.fatal || failure.fate_unknown && class == Effect::Once => Err(failure.into()),
        Err(Interrupt::Fail(StepFailure { message, .. })) => Ok(ToolOutcome::failed(message)),
    }
}

/// Reads the output of a tool that runs in the caller. Pages answer in the form of MCP results, `{content: [{type, ...}], isError?}`: the
/// texts are the result, pictures and files go beside it, and a note to the model names each part that cannot be shown.
fn page_outcome(output: Value) -> ToolOutcome {
    let Some(blocks) = mcp_content(&output) else { return ToolOutcome::done(output) };
    let (mut texts, mut notes, mut parts) = (Vec::new(), Vec::new(), Vec::new());
    for block in blocks {
        match read_part(block) {
            Ok(ContentItem::Content(Part::Text { text })) => texts.push(text),
            Ok(ContentItem::Content(part)) => {
                notes.push(format!("({} is shown beside this text)", describe_part(&part)));
                parts.push(part);
            }
            Ok(_) => {}
            Err(problem) => {
                let kind = block.get("type").and_then(Value::as_str).unwrap_or_default();
                notes.push(format!("(a part of type `{kind}` was left out: {})", problem.message));
            }
        }
    }
    let structured = output.get("structuredContent").filter(|value| texts.is_empty() && !value.is_null());
    if let Some(structured) = structured.filter(|_| !notes.is_empty()) {
        texts.push(structured.to_string());
    }
    let structured = structured.filter(|_| notes.is_empty());
    let text = texts.into_iter().chain(notes).collect::<Vec<_>>().join("\n");
    let outcome = match output.get("isError").and_then(Value::as_bool) {
        Some(true) if text.is_empty() => ToolOutcome::failed("the tool failed and did not say why"),
        Some(true) => ToolOutcome::failed(text),
        _ => match structured {
            Some(structured) => ToolOutcome::done(structured.clone()),
            None if text.is_empty() => ToolOutcome::done(output.clone()),
            None => ToolOutcome::done(Value::String(text)),
        },
    };
    ToolOutcome { parts, ..outcome }
}

fn describe_part(part: &Part) -> &'static str {
    match part {
        Part::Image { .. } => "a picture",
        Part::Audio { .. } => "audio",
        Part::File { .. } => "a file",
        Part::Text { .. } | Part::Reasoning(_) => "a text",
    }
}
