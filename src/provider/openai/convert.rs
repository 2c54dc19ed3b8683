//! From the neutral conversation to chat completions and back. Pure.

use serde_json::{Value, json};

use super::wire::{self, Answer, Choice, Delta, Said, SaidPart};
use crate::net::sse::Event;
use crate::provider::chat::{ChatRequest, Message, Part, Reasoning, ResponseFormat, Role, Source, ToolChoice};
use crate::provider::error::{Class, ProviderError};
use crate::provider::quirks::{MaxTokensField, Quirks, ReasoningStyle};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, refusal};

/// The request as this server wants it.
pub(super) fn request(chat: &ChatRequest, model: &str, quirks: &Quirks) -> wire::Request {
    let sampling = &chat.sampling;
    let free = |value: Option<f64>| value.filter(|_| !quirks.fixed_sampling);
    let limit = |field| sampling.max_tokens.filter(|_| quirks.max_tokens_field == field);
    wire::Request {
        model: model.to_owned(),
        messages: chat.messages.iter().flat_map(messages).collect(),
        tools: chat.tools.iter().map(tool).collect(),
        tool_choice: tool_choice(chat),
        response_format: response_format(&chat.response_format),
        temperature: free(sampling.temperature),
        top_p: free(sampling.top_p),
        top_k: sampling.top_k.filter(|_| quirks.top_k),
        frequency_penalty: free(sampling.frequency_penalty),
        presence_penalty: free(sampling.presence_penalty),
        seed: sampling.seed,
        max_tokens: limit(MaxTokensField::MaxTokens),
        max_completion_tokens: limit(MaxTokensField::MaxCompletionTokens),
        stop: sampling.stop.clone(),
        reasoning_effort: chat.reasoning.as_ref().and_then(|reasoning| effort(reasoning, quirks)),
        reasoning: chat.reasoning.as_ref().filter(|_| quirks.reasoning == ReasoningStyle::Object).map(reasoning_object),
        stream: chat.stream,
        stream_options: (chat.stream && !quirks.no_stream_options).then_some(wire::StreamOptions { include_usage: true }),
    }
}

fn tool(spec: &crate::provider::chat::ToolSpec) -> wire::Tool {
    wire::Tool {
        kind: "function",
        function: wire::Function { name: spec.name.clone(), description: spec.description.clone(), parameters: spec.parameters.clone() },
    }
}

/// A choice without tools is refused, so it is said only when there are some.
fn tool_choice(chat: &ChatRequest) -> Option<&'static str> {
    match chat.tool_choice {
        _ if chat.tools.is_empty() => None,
        ToolChoice::Auto => None,
        ToolChoice::Required => Some("required"),
        ToolChoice::None => Some("none"),
    }
}

fn response_format(format: &ResponseFormat) -> Option<Value> {
    match format {
        ResponseFormat::Text => None,
        ResponseFormat::Json => Some(json!({ "type": "json_object" })),
        ResponseFormat::JsonSchema { name, schema, strict } => {
            Some(json!({ "type": "json_schema", "json_schema": { "name": name, "schema": schema, "strict": strict } }))
        }
    }
}

fn effort(reasoning: &Reasoning, quirks: &Quirks) -> Option<&'static str> {
    (reasoning.enabled && matches!(quirks.reasoning, ReasoningStyle::Usual | ReasoningStyle::Level)).then(|| reasoning.level().name())
}

fn reasoning_object(reasoning: &Reasoning) -> Value {
    match reasoning {
        Reasoning { enabled: false, .. } => json!({ "enabled": false }),
        Reasoning { budget_tokens: Some(budget), .. } => json!({ "max_tokens": budget }),
        reasoning => json!({ "effort": reasoning.level().name() }),
    }
}

/// One neutral message; two when a tool's result holds images, which only a user may show here.
fn messages(message: &Message) -> Vec<wire::Message> {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    };
    let plain = |role, content| wire::Message { role, content, tool_calls: Vec::new(), tool_call_id: None };
    match message.role {
        Role::System => vec![plain(role, Some(wire::Content::Text(message.text())))],
        Role::User => vec![plain(role, Some(content(message)))],
        Role::Assistant => {
            let text = message.text();
            let silent = text.is_empty() && !message.tool_calls.is_empty();
            vec![wire::Message {
                tool_calls: message.tool_calls.iter().map(call).collect(),
                ..plain(role, (!silent).then_some(wire::Content::Text(text)))
            }]
        }
        Role::Tool => {
            let result = wire::Message {
                tool_call_id: Some(message.tool_call_id.clone().unwrap_or_default()),
                ..plain(role, Some(wire::Content::Text(message.text())))
            };
            let shown: Vec<wire::Part> = message.content.iter().filter(|part| part.as_text().is_none()).filter_map(part).collect();
            let shown = (!shown.is_empty()).then(|| plain("user", Some(wire::Content::Parts(shown))));
            std::iter::once(result).chain(shown).collect()
        }
    }
}

fn call(call: &crate::provider::chat::ToolCall) -> wire::Call {
    let function = wire::CalledFunction { name: call.name.clone(), arguments: call.arguments.clone() };
    wire::Call { id: call.id.clone(), kind: "function", function }
}

fn content(message: &Message) -> wire::Content {
    match message.content.as_slice() {
        [Part::Text { text }] => wire::Content::Text(text.clone()),
        parts if parts.iter().all(|part| part.as_text().is_some()) => wire::Content::Text(message.text()),
        parts => wire::Content::Parts(parts.iter().filter_map(part).collect()),
    }
}

fn part(part: &Part) -> Option<wire::Part> {
    match part {
        Part::Text { text } => Some(wire::Part::Text { text: text.clone() }),
        Part::Image { source } => Some(wire::Part::ImageUrl { image_url: wire::Url { url: source.to_url() } }),
        Part::File { name, source } => {
            let filename = name.clone().unwrap_or_else(|| "file".to_owned());
            Some(match source {
                Source::Data { .. } => wire::Part::File { file: wire::File { filename, file_data: source.to_url() } },
                // The format takes no URL for a file; the model can at least be told of it.
                Source::Url { url } => wire::Part::Text { text: format!("[{filename}]({url})") },
            })
        }
        Part::Audio { .. } | Part::Reasoning(_) => None,
    }
}

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    finished: bool,
    /// Ids of the tool calls begun, in order.
    calls: Vec<String>,
    /// The server's index of the last call, and ours.
    last: Option<(u32, u32)>,
    refused: bool,
}

impl Decode for Decoder {
    /// Images of image models come as one chunk.
    const EVENT_CAP: usize = 16 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let data = event.data.trim();
        if data == "[DONE]" {
            return Ok(Flow::End);
        }
        if event.event == "error" {
            let value: Value = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
            return Err(refusal::in_stream(refusal::error_in(&value).unwrap_or(&value)));
        }
        let answer: Answer = parse(data.as_bytes())?;
        self.answer(answer, out)?;
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let answer: Answer = parse(body)?;
        self.answer(answer, out)?;
        // A whole answer is framed by HTTP; a missing reason does not make it less whole.
        self.finished = true;
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.finished
    }
}

fn parse(bytes: &[u8]) -> Result<Answer, ProviderError> {
    serde_json::from_slice(bytes).map_err(|error| ProviderError::new(Class::Malformed, format!("the answer is not as agreed: {error}")))
}

impl Decoder {
    fn answer(&mut self, answer: Answer, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let (groq_usage, groq_error) = answer.x_groq.map_or((None, None), |groq| (groq.usage, groq.error));
        if let Some(error) = answer.error.or(groq_error) {
            return Err(refusal::in_stream(&error));
        }
        let cited = answer.citations.as_ref().and_then(Value::as_array).into_iter().flatten();
        let first = answer.choices.unwrap_or_default().into_iter().find(|choice| choice.index == 0);
        let usage = answer.usage.or(groq_usage);
        if let Some(choice) = first {
            self.choice(choice, out)?;
        }
        out.extend(cited.filter_map(|url| Citation::at(url.as_str()?, None)).map(ModelEvent::Citation));
        out.extend(usage.and_then(|usage| self::usage(&usage)).map(ModelEvent::Usage));
        Ok(())
    }

    fn choice(&mut self, choice: Choice, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if let Some(delta) = choice.delta {
            self.delta(delta, out);
        }
        let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) else { return Ok(()) };
        if reason == "error" {
            return Err(ProviderError::new(Class::ServerError, "the server ended the answer with an error"));
        }
        self.finished = true;
        let finish = if self.refused { Finish::ContentFilter } else { finish(&reason) };
        out.push(ModelEvent::Finish(finish));
        Ok(())
    }

    fn delta(&mut self, delta: Delta, out: &mut Vec<ModelEvent>) {
        let thought = delta.reasoning_content.or(delta.reasoning).filter(|text| !text.is_empty());
        out.extend(thought.map(ModelEvent::Reasoning));
        match delta.content {
            Some(Said::Text(text)) if !text.is_empty() => out.push(ModelEvent::Text(text)),
            Some(Said::Parts(parts)) => parts.into_iter().for_each(|part| said_part(part, out)),
            _ => {}
        }
        if let Some(refusal) = delta.refusal.filter(|text| !text.is_empty()) {
            self.refused = true;
            out.push(ModelEvent::Text(refusal));
        }
        let drawn = delta.images.as_ref().and_then(Value::as_array).into_iter().flatten();
        out.extend(drawn.filter_map(|image| picture(image.get("image_url")?.get("url")?.as_str()?)));
        let notes = delta.annotations.as_ref().and_then(Value::as_array).into_iter().flatten();
        out.extend(notes.filter_map(|note| Citation::of(note.get("url_citation")?, &["url"])).map(ModelEvent::Citation));
        for call in delta.tool_calls.unwrap_or_default() {
            self.call(call, out);
        }
    }

    fn call(&mut self, call: wire::CallDelta, out: &mut Vec<ModelEvent>) {
        let function = call.function.unwrap_or_default();
        let id = call.id.unwrap_or_default();
        let name = function.name.unwrap_or_default();
        let index = match self.known(call.index, &id, &name) {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.calls.len()).unwrap_or(u32::MAX);
                self.calls.push(id.clone());
                self.last = Some((call.index.unwrap_or(index), index));
                out.push(ModelEvent::ToolCallStart { index, id, name, signature: None });
                index
            }
        };
        let delta = match function.arguments {
            None | Some(Value::Null) => return,
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        if !delta.is_empty() {
            out.push(ModelEvent::ToolCallDelta { index, delta });
        }
    }

    /// Our index of a call that has begun; `None` for a new one. Some servers number every parallel call 0, or not
    /// at all: a new id, or a name without an index, begins a new call there.
    fn known(&self, theirs: Option<u32>, id: &str, name: &str) -> Option<u32> {
        let (last_theirs, last) = self.last?;
        let same_index = theirs.map_or(name.is_empty(), |theirs| theirs == last_theirs);
        let known_id = self.calls.get(usize::try_from(last).ok()?)?;
        let same_id = id.is_empty() || known_id.is_empty() || id == known_id;
        if same_index && same_id {
            return Some(last);
        }
        let by_id = self.calls.iter().position(|known| !id.is_empty() && known == id);
        // Deltas of parallel calls may be interleaved; then the index is all they carry.
        let by_index = theirs.filter(|theirs| id.is_empty() && usize::try_from(*theirs).is_ok_and(|at| at < self.calls.len()));
        by_id.and_then(|at| u32::try_from(at).ok()).or(by_index)
    }
}

/// A picture, or where it is.
fn picture(url: &str) -> Option<ModelEvent> {
    let Some(inline) = url.strip_prefix("data:") else {
        return url.starts_with("https://").then(|| ModelEvent::Text(format!("![image]({url})")));
    };
    let (media_type, data) = inline.split_once(";base64,")?;
    Some(ModelEvent::Media { media_type: media_type.to_owned(), data: data.to_owned() })
}

fn said_part(part: SaidPart, out: &mut Vec<ModelEvent>) {
    let thoughts = part.thinking.unwrap_or_default().into_iter().filter_map(|part| part.text);
    out.extend(thoughts.filter(|text| !text.is_empty()).map(ModelEvent::Reasoning));
    out.extend(part.text.filter(|text| !text.is_empty()).map(ModelEvent::Text));
}

fn finish(reason: &str) -> Finish {
    match reason {
        "stop" | "end_turn" | "eos" => Finish::EndTurn,
        "tool_calls" | "function_call" => Finish::ToolCalls,
        "length" | "max_tokens" | "model_length" => Finish::Length,
        "content_filter" => Finish::ContentFilter,
        _ => Finish::Unknown,
    }
}

fn usage(usage: &wire::Usage) -> Option<Usage> {
    // Some servers send an empty usage with every chunk.
    usage.prompt_tokens.or(usage.completion_tokens)?;
    let prompt = usage.prompt_tokens_details.as_ref();
    let cached = prompt.and_then(|details| details.cached_tokens).or(usage.prompt_cache_hit_tokens);
    let reasoning = usage.completion_tokens_details.as_ref().and_then(|details| details.reasoning_tokens);
    Some(Usage {
        input: usage.prompt_tokens.unwrap_or(0),
        output: usage.completion_tokens.unwrap_or(0),
        cached_input: cached.unwrap_or(0),
        cache_write: prompt.and_then(|details| details.cache_write_tokens).unwrap_or(0),
        reasoning: reasoning.unwrap_or(0),
        estimated: false,
    })
}

#[cfg(test)]
#[path = "golden.rs"]
mod golden;
