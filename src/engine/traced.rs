//! Spans of a run's work, for traces. Spans of models and tools follow OpenTelemetry's conventions for generative AI
//! (<https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>). They contain no prompts, answers or arguments.
//!
//! They have the level of debugging, so that lines of a log at `info` are not long with them; whoever collects traces gets them all. Numbers are signed:
//! unsigned ones would be texts in traces.

use opentelemetry::trace::Status;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::context::{Interrupt, StepResult};
use super::drive::Departure;
use super::plan::PlannedStep;
use crate::model::RunState;
use crate::provider::{Completion, Resolved, Usage};
use crate::tool::Tool;

/// An attempt of a step.
pub(super) fn step(planned: &PlannedStep, attempt: u32) -> Span {
    let step = &planned.step;
    tracing::debug_span!(
        "step",
        otel.name = %format!("step {}", step.id),
        dispatch.step.id = step.id,
        "dispatch.step.type" = step.action,
        dispatch.step.attempt = i64::from(attempt),
        dispatch.paused = Empty,
        otel.status_code = Empty,
        "error.type" = Empty
    )
}

/// A commit of a run.
pub(super) fn commit(number: i64, state: &'static str) -> Span {
    tracing::debug_span!("commit", dispatch.commit.number = number, dispatch.commit.state = state)
}

/// A model call, including its retries and fallbacks. `operation`: `chat` or `embeddings`.
pub(super) fn model(operation: &'static str, wanted: &Resolved) -> Span {
    tracing::debug_span!(
        "model",
        otel.name = %format!("{operation} {}", wanted.model),
        otel.kind = "client",
        gen_ai.operation.name = operation,
        gen_ai.provider.name = vendor(&wanted.provider),
        gen_ai.request.model = wanted.model,
        gen_ai.response.model = Empty,
        gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty,
        otel.status_code = Empty,
        "error.type" = Empty
    )
}

/// A tool call.
pub(super) fn tool(tool: &Tool, call: &str) -> Span {
    tracing::debug_span!(
        "tool",
        otel.name = %format!("execute_tool {}", tool.name()),
        gen_ai.operation.name = "execute_tool",
        gen_ai.tool.name = tool.name(),
        "gen_ai.tool.type" = "function",
        gen_ai.tool.call.id = call,
        dispatch.paused = Empty,
        otel.status_code = Empty,
        "error.type" = Empty
    )
}

/// Records which model answered, and its usage.
pub(super) fn answered(span: &Span, model: &str, usage: &Usage) {
    span.record("gen_ai.response.model", model);
    span.record("gen_ai.usage.input_tokens", signed(usage.input));
    span.record("gen_ai.usage.output_tokens", signed(usage.output));
}

/// Records the outcome of a model call.
pub(super) fn came_out(span: &Span, result: &StepResult<Completion>) {
    if let Ok(completion) = result {
        answered(span, &completion.model, &completion.total_usage());
    }
    ended(span, result);
}

/// Notes that what a span is of has failed, if it has, or waits and will be entered again. A pause is no failure.
pub(super) fn ended<T>(span: &Span, result: &StepResult<T>) {
    match result {
        Ok(_) => {}
        Err(Interrupt::Suspend) => {
            span.record("dispatch.paused", true);
        }
        Err(Interrupt::Fail(failure)) => failed(span, &failure.code),
    }
}

pub(super) fn failed(span: &Span, code: &str) {
    span.record("error.type", code);
    span.record("otel.status_code", "ERROR");
}

/// Notes how a run left the node's hands.
pub(super) fn left(span: &Span, departure: Departure) {
    let state = match departure {
        Departure::Ended(state) => state.as_str(),
        Departure::Paused(_) => RunState::Paused.as_str(),
        Departure::Released | Departure::Postponed(_) => RunState::Queued.as_str(),
        Departure::Lost(_) => "lost",
    };
    span.set_attribute("dispatch.run.state", state);
    if departure == Departure::Ended(RunState::Failed) {
        span.set_status(Status::error(""));
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// The conventions' name of a provider, where they have one.
fn vendor(provider: &str) -> &str {
    match provider {
        "bedrock" => "aws.bedrock",
        "azure" => "azure.ai.openai",
        "gemini" => "gcp.gemini",
        "vertex" => "gcp.vertex_ai",
        "mistral" => "mistral_ai",
        "moonshot" => "moonshot_ai",
        "xai" => "x_ai",
        other => other,
    }
}
