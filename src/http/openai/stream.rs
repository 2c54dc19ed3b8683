//! A chat completion in chunks: server-sent events, `[DONE]` at the end.
//!
//! The head of the answer waits for the first piece, so that a failure before it has the status of a failure. One that comes later is an `error`
//! object in the last chunk, without `[DONE]`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;

use super::answer::{Answer, AnswerReader, Ending, Piece, Progress, completion_id, seconds};
use super::error::WireError;
use super::wire::{ChatCompletionChunk, ChunkChoice, Delta, FinishReason, ToolCallDelta};
use crate::clock::Clock;
use crate::error::Result;
use crate::failpoint;
use crate::feed::Follower;
use crate::http::disconnect::OnDisconnect;
use crate::http::headers::event_stream;
use crate::http::limits::StreamSlot;
use crate::id::TenantId;
use crate::queue::Workers;

const COMMENT: &str = ": keep-alive\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// What a stream is made of.
pub struct ChunkStream {
    pub reader: AnswerReader,
    pub follower: Follower,
    pub clock: Clock,
    /// A last chunk tells the usage.
    pub include_usage: bool,
    pub workers: Workers,
    pub tenant: TenantId,
    pub guard: Option<OnDisconnect>,
    pub slot: StreamSlot,
}

/// A stream under way.
struct Writer {
    stream: ChunkStream,
    /// Read already, while the head of the answer waited.
    read: Option<Result<Progress>>,
    has_begun: bool,
    is_done: bool,
}

/// Answers with the stream, or with what failed before anything of it came.
pub async fn answer(mut stream: ChunkStream) -> Response {
    match stream.first().await {
        Some(Err(error)) => error.into_response(),
        Some(Ok(Progress { end: Some(Ending::Failed(error)), pieces })) if pieces.is_empty() => {
            stream.disarm();
            error.into_response()
        }
        Some(Ok(Progress { end: Some(Ending::Waiting(error)), pieces })) if pieces.is_empty() => {
            stream.abandon();
            error.into_response()
        }
        read => {
            let writer = Writer { stream, read, has_begun: false, is_done: false };
            event_stream(Body::from_stream(stream::unfold(writer, |mut writer| async move {
                let part = writer.next().await?;
                Some((Ok::<Bytes, std::convert::Infallible>(part), writer))
            })))
        }
    }
}

impl ChunkStream {
    /// The first stretch of the log that holds something of the answer, unless the stream would be silent for too long.
    async fn first(&mut self) -> Option<Result<Progress>> {
        let (clock, until) = (self.clock.clone(), self.clock.instant() + self.slot.keep_alive());
        loop {
            let left = until.saturating_duration_since(clock.instant());
            tokio::select! {
                read = self.read() => match read {
                    Ok(progress) if progress.is_empty() => {}
                    read => return Some(read),
                },
                () = clock.sleep(left) => return None,
            }
        }
    }

    async fn read(&mut self) -> Result<Progress> {
        let stretch = self.follower.next().await?;
        Ok(self.reader.take(&stretch.events, stretch.rest))
    }

    /// The answer came to its end: the caller may go.
    fn disarm(&mut self) {
        self.guard.take().into_iter().for_each(OnDisconnect::disarm);
    }

    /// Nobody can give what the execution waits for.
    fn abandon(&mut self) {
        self.disarm();
        self.workers.abandon(self.tenant, self.reader.reading().run);
    }
}

impl Writer {
    /// The next bytes: all chunks that are ready together leave in one write.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        let mut text = String::new();
        while text.is_empty() {
            let read = match self.read.take() {
                Some(read) => read,
                None => {
                    let (clock, keep_alive) = (self.stream.clock.clone(), self.stream.slot.keep_alive());
                    tokio::select! {
                        read = self.stream.read() => read,
                        () = clock.sleep(keep_alive) => return Some(Bytes::from_static(COMMENT.as_bytes())),
                    }
                }
            };
            match read {
                Ok(progress) => self.write(progress, &mut text),
                Err(error) => {
                    // A caller of this API cannot come back to a stream.
                    let run = self.stream.reader.reading().run;
                    tracing::warn!(%run, ?error, "a streamed chat completion broke off; its caller was told to ask again");
                    self.fail(&error.into(), &mut text);
                }
            }
        }
        Some(text.into())
    }

    fn write(&mut self, progress: Progress, out: &mut String) {
        for piece in progress.pieces {
            let delta = match piece {
                Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Piece::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
                Piece::Void => {
                    let message = "the model's answer broke off after some of it was sent; ask again";
                    self.fail(&WireError::of_failure("provider_cut", message, true), out);
                    return;
                }
            };
            self.chunk(delta, None, out);
        }
        match progress.end {
            None => {}
            Some(Ending::Answered(answer)) => self.finish(*answer, out),
            Some(Ending::Failed(error)) => {
                self.stream.disarm();
                self.fail(&error, out);
            }
            Some(Ending::Waiting(error)) => {
                self.stream.abandon();
                self.fail(&error, out);
            }
        }
    }

    fn finish(&mut self, answer: Answer, out: &mut String) {
        self.stream.disarm();
        if answer.is_replaced {
            let message = "the model's answer was not the JSON that was asked for, and was corrected after it was sent; ask again, or without a stream";
            self.fail(&WireError::of_failure("invalid_json", message, true), out);
            return;
        }
        // What was not streamed, such as the output of a step that asks no model, comes whole.
        if !self.stream.reader.has_text()
            && let Some(content) = answer.content.filter(|content| !content.is_empty())
        {
            self.chunk(Delta { content: Some(content), ..Delta::default() }, None, out);
        }
        if !self.stream.reader.has_text() && answer.refusal.is_some() {
            self.chunk(Delta { refusal: answer.refusal, ..Delta::default() }, None, out);
        }
        let calls = answer.tool_calls.into_iter().enumerate().map(|(index, call)| ToolCallDelta { index, call });
        for call in calls {
            self.chunk(Delta { tool_calls: vec![call], ..Delta::default() }, None, out);
        }
        self.chunk(Delta::default(), Some(answer.finish_reason), out);
        if self.stream.include_usage {
            let usage = ChatCompletionChunk { choices: Vec::new(), usage: Some(Some(answer.usage)), ..self.head() };
            write_event(&usage, out);
        }
        failpoint::hit("http.last_byte");
        out.push_str(DONE);
        self.is_done = true;
    }

    fn fail(&mut self, error: &WireError, out: &mut String) {
        write_event(&error.chunk(), out);
        self.is_done = true;
    }

    fn chunk(&mut self, mut delta: Delta, finish_reason: Option<FinishReason>, out: &mut String) {
        if !std::mem::replace(&mut self.has_begun, true) {
            failpoint::hit("http.first_byte");
            delta.role = Some("assistant");
        }
        let choices = vec![ChunkChoice { index: 0, delta, finish_reason }];
        write_event(&ChatCompletionChunk { choices, ..self.head() }, out);
    }

    /// What every chunk says.
    fn head(&self) -> ChatCompletionChunk {
        let reader = &self.stream.reader;
        ChatCompletionChunk {
            id: completion_id(reader.reading().run),
            object: "chat.completion.chunk",
            created: seconds(reader.created.unwrap_or_else(|| self.stream.clock.now())),
            model: reader.reading().model.clone(),
            choices: Vec::new(),
            usage: self.stream.include_usage.then_some(None),
        }
    }
}

fn write_event(event: &impl Serialize, out: &mut String) {
    out.push_str("data: ");
    out.push_str(&serde_json::to_string(event).unwrap_or_default());
    out.push_str("\n\n");
}
