//! From a plan to the steps of an answer, in the words of a wire format. Pure.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use serde_json::Value;

use super::plan::{Fault, Plan};
use super::{anthropic, bedrock, cohere, gemini, openai, responses};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wire {
    OpenAi,
    Anthropic,
    Gemini,
    Responses,
    Cohere,
    Bedrock,
}

/// A request, as far as it matters.
pub(super) struct Asked {
    pub wire: Wire,
    pub model: String,
    pub stream: bool,
    pub body: Bytes,
}

/// An answer, ready to be sent any number of times.
#[derive(Debug)]
pub(super) struct Rendered {
    pub status: u16,
    pub content_type: Cow<'static, str>,
    pub retry_after: Option<u32>,
    /// Before the status.
    pub wait: Duration,
    pub steps: Vec<Step>,
}

/// One thing that happens to the connection.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// One write.
    Write(Bytes),
    Wait(Duration),
    /// Nothing, for ever.
    Hang,
    /// The connection breaks.
    Abort,
}

/// What an answer says.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub model: String,
    pub words: Vec<String>,
    pub thought: Option<&'static str>,
    /// A picture as PNG, in base64.
    pub drawn: Option<&'static str>,
    /// Title and address of a page.
    pub cited: Option<(&'static str, &'static str)>,
    /// Name and arguments.
    pub calls: Vec<(String, Value)>,
}

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
pub(super) const INPUT_TOKENS: u64 = 100;
pub(super) const CACHED_TOKENS: u64 = 40;
pub(super) const REASONING_TOKENS: u64 = 7;

impl Script {
    pub(super) fn text(&self) -> String {
        self.words.concat()
    }

    pub(super) fn reasoning_tokens(&self) -> u64 {
        if self.thought.is_some() { REASONING_TOKENS } else { 0 }
    }

    /// Tokens of the answer without its reasoning.
    pub(super) fn answer_tokens(&self) -> u64 {
        u64::try_from(self.words.len() + self.calls.len()).unwrap_or(0)
    }
}

/// An answer as the chunks of a stream.
pub(super) struct Chunks {
    /// Everything before the first word.
    pub head: Vec<u8>,
    pub words: Vec<Vec<u8>>,
    /// Everything after the last word.
    pub tail: Vec<u8>,
}

impl Chunks {
    /// Chunks of a format that is text.
    pub(super) fn of_text(head: String, words: Vec<String>, tail: String) -> Self {
        Self { head: head.into(), words: words.into_iter().map(String::into_bytes).collect(), tail: tail.into() }
    }
}

pub(super) fn render(plan: &Plan, asked: &Asked) -> Rendered {
    let status = match plan.fault {
        Some(Fault::Status(status)) => Some(status),
        Some(Fault::Billing | Fault::Context | Fault::Filter) => Some(400),
        _ => None,
    };
    let (content_type, steps) = match (status, plan.fault) {
        (Some(status), fault) => ("application/json", vec![write(&error_body(asked.wire, status, fault).to_string())]),
        (None, Some(Fault::Stall)) => ("application/json", Vec::new()),
        (None, Some(Fault::WrongType)) => ("text/html; charset=utf-8", vec![write("<html><body>It works!</body></html>")]),
        (None, Some(Fault::HugeLine)) => (kind(asked), endless_line(asked)),
        (None, Some(Fault::Empty)) => (kind(asked), Vec::new()),
        (None, _) if asked.stream => (kind(asked), streamed(plan, asked)),
        (None, _) => ("application/json", whole(plan, asked)),
    };
    let never = plan.fault == Some(Fault::Stall);
    Rendered {
        status: status.unwrap_or(200),
        content_type: content_type.into(),
        retry_after: plan.retry_after,
        wait: if never { Duration::MAX } else { plan.before_first },
        steps,
    }
}

/// A failure with a status, outside of any plan.
pub(super) fn failure(wire: Wire, status: u16, retry_after: Option<u32>) -> Arc<Rendered> {
    let body = error_body(wire, status, None).to_string();
    Arc::new(Rendered { status, content_type: "application/json".into(), retry_after, wait: Duration::ZERO, steps: vec![write(&body)] })
}

fn kind(asked: &Asked) -> &'static str {
    match (asked.stream, asked.wire) {
        (false, _) => "application/json",
        (true, Wire::Bedrock) => "application/vnd.amazon.eventstream",
        (true, _) => "text/event-stream",
    }
}

/// How often tools have answered since the last words of a user, and a call of each offered one.
pub(super) fn tools(wire: Wire, body: &Value) -> (usize, Vec<(String, Value)>) {
    match wire {
        Wire::OpenAi => openai::tools(body),
        Wire::Anthropic => anthropic::tools(body),
        Wire::Gemini => gemini::tools(body),
        Wire::Responses => responses::tools(body),
        Wire::Cohere => cohere::tools(body),
        Wire::Bedrock => bedrock::tools(body),
    }
}

fn write(text: &str) -> Step {
    Step::Write(Bytes::copy_from_slice(text.as_bytes()))
}

/// Larger than any reader should take.
fn endless_line(asked: &Asked) -> Vec<Step> {
    const PART: usize = 1024 * 1024;
    let parts = if asked.stream { 18 } else { 66 };
    let part = Bytes::from(vec![b'x'; PART]);
    let start = if asked.stream { "data: " } else { "{\"x\": \"" };
    std::iter::once(write(start)).chain(std::iter::repeat_n(Step::Write(part), parts)).collect()
}

fn script(plan: &Plan, asked: &Asked) -> Script {
    let calls = if plan.tools > 0 { tool_calls(plan.tools, asked) } else { Vec::new() };
    let silent = plan.fault == Some(Fault::Blank) || !calls.is_empty();
    let words = if silent { Vec::new() } else { (1..=plan.chunks).map(|n| format!("word{n} ")).collect() };
    let thought = plan.reasoning.then_some("Let me think.");
    let cited = plan.cites.then_some(("A page", "https://page.example/"));
    Script { model: asked.model.clone(), words, thought, drawn: plan.draws.then_some(PIXEL), cited, calls }
}

/// One call of every offered tool, unless tools have already answered so many times in a row.
fn tool_calls(times: usize, asked: &Asked) -> Vec<(String, Value)> {
    let body: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    let (answered, tools) = tools(asked.wire, &body);
    if answered >= times { Vec::new() } else { tools }
}

fn streamed(plan: &Plan, asked: &Asked) -> Vec<Step> {
    let script = script(plan, asked);
    let chunks = match asked.wire {
        Wire::OpenAi => openai::chunks(&script),
        Wire::Anthropic => anthropic::chunks(&script),
        Wire::Gemini => gemini::chunks(&script),
        Wire::Responses => responses::chunks(&script),
        Wire::Cohere => cohere::chunks(&script),
        Wire::Bedrock => bedrock::chunks(&script),
    };
    let mut head = if plan.mark { "\u{feff}".as_bytes().to_vec() } else { Vec::new() };
    head.extend(chunks.head);
    let mut steps = vec![Step::Write(head.into())];
    let said = match plan.fault {
        Some(Fault::StallAfter(n) | Fault::CutAfter(n) | Fault::EndAfter(n)) => n,
        Some(Fault::LateError | Fault::Malformed) => 2,
        _ => chunks.words.len(),
    };
    for (at, word) in chunks.words.iter().take(said).enumerate() {
        if at > 0 && !plan.between.is_zero() {
            steps.push(Step::Wait(plan.between));
        }
        steps.push(Step::Write(Bytes::copy_from_slice(word)));
    }
    steps.extend(match plan.fault {
        Some(Fault::StallAfter(_)) => Some(Step::Hang),
        Some(Fault::CutAfter(_)) => Some(Step::Abort),
        Some(Fault::EndAfter(_)) => None,
        Some(Fault::LateError) => Some(Step::Write(late_error(asked.wire).into())),
        // What is no frame of AWS's either.
        Some(Fault::Malformed) => Some(write("data: {\"choices\": [{\"delta\"\n\n")),
        _ => Some(Step::Write(chunks.tail.into())),
    });
    steps.retain(|step| !matches!(step, Step::Write(bytes) if bytes.is_empty()));
    steps
}

fn late_error(wire: Wire) -> Vec<u8> {
    let body = error_body(wire, 529, None);
    match wire {
        Wire::Anthropic => format!("event: error\ndata: {body}\n\n").into_bytes(),
        Wire::Bedrock => bedrock::late_error(),
        Wire::OpenAi | Wire::Gemini | Wire::Responses | Wire::Cohere => format!("data: {body}\n\n").into_bytes(),
    }
}

fn whole(plan: &Plan, asked: &Asked) -> Vec<Step> {
    if plan.fault == Some(Fault::LateError) {
        return vec![write(&error_body(asked.wire, 529, None).to_string())];
    }
    let script = script(plan, asked);
    let body = match asked.wire {
        Wire::OpenAi => openai::whole(&script),
        Wire::Anthropic => anthropic::whole(&script),
        Wire::Gemini => gemini::whole(&script),
        Wire::Responses => responses::whole(&script),
        Wire::Cohere => cohere::whole(&script),
        Wire::Bedrock => bedrock::whole(&script),
    };
    let mark = if plan.mark { "\u{feff}" } else { "" };
    let text = format!("{mark}{body}");
    let half = || write(&text.chars().take(text.chars().count() / 2).collect::<String>());
    match plan.fault {
        Some(Fault::StallAfter(_)) => vec![half(), Step::Hang],
        Some(Fault::CutAfter(_)) => vec![half(), Step::Abort],
        Some(Fault::EndAfter(_) | Fault::Malformed) => vec![half()],
        _ => vec![write(&text)],
    }
}

fn error_body(wire: Wire, status: u16, fault: Option<Fault>) -> Value {
    match wire {
        Wire::OpenAi => openai::error(status, fault),
        Wire::Anthropic => anthropic::error(status, fault),
        Wire::Gemini => gemini::error(status, fault),
        Wire::Responses => responses::error(status, fault),
        Wire::Cohere => cohere::error(status, fault),
        Wire::Bedrock => bedrock::error(status, fault),
    }
}
