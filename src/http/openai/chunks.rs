//! A chat completion in chunks, `[DONE]` at the end. A failure is an `error` object in the last chunk, without `[DONE]`.

use serde::Serialize;

use super::answer::{Answer, AnswerReader, completion_id, seconds};
use super::error::WireError;
use super::stream::StreamEncoder;
use super::wire::{ChatCompletionChunk, ChunkChoice, Delta, FinishReason, ToolCallDelta};
use crate::clock::Clock;

const DONE: &str = "data: [DONE]\n\n";

/// Writes the chunks of a chat completion.
pub struct ChunkEncoder {
    clock: Clock,
    /// A last chunk tells the usage.
    include_usage: bool,
    has_begun: bool,
}

impl ChunkEncoder {
    pub const fn new(clock: Clock, include_usage: bool) -> Self {
        Self { clock, include_usage, has_begun: false }
    }

    fn chunk(&mut self, mut delta: Delta, finish_reason: Option<FinishReason>, reader: &AnswerReader, out: &mut String) {
        if !std::mem::replace(&mut self.has_begun, true) {
            delta.role = Some("assistant");
        }
        let choices = vec![ChunkChoice { index: 0, delta, finish_reason }];
        write_event(&ChatCompletionChunk { choices, ..self.head(reader) }, out);
    }

    /// What every chunk says.
    fn head(&self, reader: &AnswerReader) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: completion_id(reader.reading().run),
            object: "chat.completion.chunk",
            created: seconds(reader.created.unwrap_or_else(|| self.clock.now())),
            model: reader.reading().facts.model.clone(),
            choices: Vec::new(),
            usage: self.include_usage.then_some(None),
        }
    }
}

impl StreamEncoder for ChunkEncoder {
    fn write_text(&mut self, text: String, reader: &AnswerReader, out: &mut String) {
        self.chunk(Delta { content: Some(text), ..Delta::default() }, None, reader, out);
    }

    fn write_reasoning(&mut self, text: String, reader: &AnswerReader, out: &mut String) {
        self.chunk(Delta { reasoning_content: Some(text), ..Delta::default() }, None, reader, out);
    }

    fn write_answer(&mut self, answer: Answer, reader: &AnswerReader, out: &mut String) {
        // What was not streamed, such as the output of a step that asks no model, comes whole.
        if !reader.has_text()
            && let Some(content) = answer.content.filter(|content| !content.is_empty())
        {
            self.chunk(Delta { content: Some(content), ..Delta::default() }, None, reader, out);
        }
        if !reader.has_text() && answer.refusal.is_some() {
            self.chunk(Delta { refusal: answer.refusal, ..Delta::default() }, None, reader, out);
        }
        let calls = answer.tool_calls.into_iter().enumerate().map(|(index, call)| ToolCallDelta { index, call });
        for call in calls {
            self.chunk(Delta { tool_calls: vec![call], ..Delta::default() }, None, reader, out);
        }
        self.chunk(Delta::default(), Some(answer.finish_reason), reader, out);
        if self.include_usage {
            let usage = ChatCompletionChunk { choices: Vec::new(), usage: Some(Some(answer.usage)), ..self.head(reader) };
            write_event(&usage, out);
        }
        out.push_str(DONE);
    }

    fn write_failure(&mut self, error: &WireError, _: &AnswerReader, out: &mut String) {
        write_event(&error.chunk(), out);
    }

    // A caller of this API cannot come back to a stream.
    fn write_interruption(&mut self, error: &WireError, reader: &AnswerReader, out: &mut String) {
        self.write_failure(error, reader, out);
    }
}

fn write_event(event: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(event).unwrap_or_default());
    out.push_str("\n\n");
}
