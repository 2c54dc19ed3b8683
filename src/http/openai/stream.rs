//! An answer as server-sent events, written by a [`StreamEncoder`] as the execution's log grows.
//!
//! The head of the answer may wait for the first piece, so that a failure before it has the status of a failure.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::answer::{Answer, AnswerReader, Ending, Piece, Progress};
use super::error::WireError;
use super::execution::StartedExecution;
use crate::clock::Clock;
use crate::error::Result;
use crate::failpoint;
use crate::http::AppState;
use crate::http::disconnect::OnDisconnect;
use crate::http::headers::event_stream;
use crate::http::limits::StreamSlot;
use crate::id::TenantId;
use crate::queue::Workers;

const COMMENT: &str = ": keep-alive\n\n";

/// Writes an answer as the events of one wire format.
pub trait StreamEncoder: Send + 'static {
    /// Writes what comes before the answer.
    fn write_head(&mut self, _out: &mut String) {}

    fn write_text(&mut self, text: String, reader: &AnswerReader, out: &mut String);

    fn write_reasoning(&mut self, text: String, reader: &AnswerReader, out: &mut String);

    /// Writes the end of the answer.
    fn write_answer(&mut self, answer: Answer, reader: &AnswerReader, out: &mut String);

    /// Writes that the execution failed.
    fn write_failure(&mut self, error: &WireError, reader: &AnswerReader, out: &mut String);

    /// Writes that the stream ends here, whatever becomes of the execution.
    fn write_interruption(&mut self, error: &WireError, reader: &AnswerReader, out: &mut String);
}

/// What a stream is made of.
pub struct AnswerStream<E> {
    started: StartedExecution,
    encoder: E,
    clock: Clock,
    workers: Workers,
    tenant: TenantId,
    slot: StreamSlot,
}

/// A stream under way.
struct StreamWriter<E> {
    stream: AnswerStream<E>,
    /// Read already, while the head of the answer waited.
    read: Option<Result<Progress>>,
    has_head: bool,
    has_begun: bool,
    is_done: bool,
}

impl<E: StreamEncoder> AnswerStream<E> {
    pub fn new(started: StartedExecution, encoder: E, state: &AppState, tenant: TenantId, slot: StreamSlot) -> Self {
        Self { started, encoder, clock: state.clock.clone(), workers: state.workers.clone(), tenant, slot }
    }

    /// Answers with the stream, or with what failed before anything of it came.
    pub async fn answer_after_first(mut self) -> Response {
        match self.first().await {
            Some(Err(error)) => error.into_response(),
            Some(Ok(Progress { end: Some(Ending::Failed(error)), pieces })) if pieces.is_empty() => {
                self.disarm();
                error.into_response()
            }
            Some(Ok(Progress { end: Some(Ending::Waiting(error)), pieces })) if pieces.is_empty() => {
                self.abandon();
                error.into_response()
            }
            read => self.answer_with(read),
        }
    }

    /// Answers with the stream at once.
    pub fn answer(self) -> Response {
        self.answer_with(None)
    }

    fn answer_with(self, read: Option<Result<Progress>>) -> Response {
        let writer = StreamWriter { stream: self, read, has_head: false, has_begun: false, is_done: false };
        event_stream(Body::from_stream(stream::unfold(writer, |mut writer| async move {
            let part = writer.next().await?;
            Some((Ok::<Bytes, std::convert::Infallible>(part), writer))
        })))
    }

    /// The first stretch of the log that holds something of the answer, unless it takes long.
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
        let stretch = self.started.follower.next().await?;
        Ok(self.started.reader.take(&stretch.events, stretch.rest))
    }

    /// The answer came to its end: the caller may go.
    fn disarm(&mut self) {
        self.started.guard.take().into_iter().for_each(OnDisconnect::disarm);
    }

    /// Nobody can give what the execution waits for.
    fn abandon(&mut self) {
        self.disarm();
        self.workers.abandon(self.tenant, self.started.run);
    }
}

impl<E: StreamEncoder> StreamWriter<E> {
    /// The next bytes: all events that are ready together leave in one write.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        let mut text = String::new();
        if !std::mem::replace(&mut self.has_head, true) {
            self.stream.encoder.write_head(&mut text);
        }
        while text.is_empty() && !self.is_done {
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
                    let run = self.stream.started.run;
                    tracing::warn!(%run, ?error, "a streamed answer of the OpenAI API broke off; its caller was told to ask again");
                    self.interrupt(&error.into(), &mut text);
                }
            }
        }
        if !text.is_empty() && !std::mem::replace(&mut self.has_begun, true) {
            failpoint::hit("http.first_byte");
        }
        Some(text.into())
    }

    fn write(&mut self, progress: Progress, out: &mut String) {
        for piece in progress.pieces {
            let AnswerStream { started, encoder, .. } = &mut self.stream;
            match piece {
                Piece::Text(text) => encoder.write_text(text, &started.reader, out),
                Piece::Reasoning(text) => encoder.write_reasoning(text, &started.reader, out),
                Piece::Void => {
                    let message = "the model's answer broke off after some of it was sent; ask again";
                    self.interrupt(&WireError::of_failure("provider_cut", message, true), out);
                    return;
                }
            }
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
            self.interrupt(&WireError::of_failure("invalid_json", message, true), out);
            return;
        }
        let AnswerStream { started, encoder, .. } = &mut self.stream;
        encoder.write_answer(answer, &started.reader, out);
        failpoint::hit("http.last_byte");
        self.is_done = true;
    }

    fn fail(&mut self, error: &WireError, out: &mut String) {
        let AnswerStream { started, encoder, .. } = &mut self.stream;
        encoder.write_failure(error, &started.reader, out);
        self.is_done = true;
    }

    fn interrupt(&mut self, error: &WireError, out: &mut String) {
        let AnswerStream { started, encoder, .. } = &mut self.stream;
        encoder.write_interruption(error, &started.reader, out);
        self.is_done = true;
    }
}
