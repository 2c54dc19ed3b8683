//! `local/echo`: a model that needs no key and no network and always answers the same.
//!
//! It streams back what it was asked, word by word: a heading, the first line of the system prompt, the last
//! user message. Lines of the last user message that are commands change that:
//!
//! | line | effect |
//! |---|---|
//! | `say TEXT` | answers TEXT (several lines are joined) |
//! | `json VALUE` | answers VALUE, compact, when it is JSON |
//! | `think TEXT` | reasons TEXT first |
//! | `repeat N WORD` | answers WORD N times (at most 10,000) |
//! | `slow MS` | waits MS milliseconds before each word (at most 60,000) |
//! | `call TOOL {ARGUMENTS}` | calls an offered tool; several lines are parallel calls |
//!
//! Results of tools are quoted back. When JSON is wanted it answers JSON: the value of a `json` line, else a small
//! instance of the schema, else `{"echo": ...}`. `toolChoice` "required" without a `call` line calls the first
//! tool with a small instance of its schema. Usage is estimated at four bytes to a token, and flagged so.
//!
//! Must not know: the network.

mod answer;

use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};

use self::answer::{Answer, answer};
use super::embed::{self, EmbedCall, Embedded};
use super::{Finish, ModelEvent, Provider, ProviderCall, ProviderError, estimate};
use crate::clock::Clock;
use crate::net::{Output, produce};

/// The echo model.
#[derive(Debug, Clone)]
pub struct Echo {
    clock: Clock,
}

impl Echo {
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }
}

impl Provider for Echo {
    fn wire(&self) -> &'static str {
        "echo"
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let clock = self.clock.clone();
        produce(move |out| async move {
            let answer = answer(&call.request);
            let speaker = Speaker { clock, out, pause: answer.pause, whole: !call.request.stream };
            let usage = estimate::usage(&call.request, answer.output_bytes(), answer.thought.len());
            let finish = if answer.calls.is_empty() { Finish::EndTurn } else { Finish::ToolCalls };
            speaker.speak(answer).await;
            speaker.send(ModelEvent::Usage(usage)).await;
            speaker.send(ModelEvent::Finish(finish)).await;
        })
        .boxed()
    }

    fn embed(&self, call: EmbedCall) -> BoxFuture<'static, Result<Embedded, ProviderError>> {
        async move { Ok(embed::own(&call)) }.boxed()
    }
}

struct Speaker {
    clock: Clock,
    out: Output<Result<ModelEvent, ProviderError>>,
    pause: Duration,
    /// Say everything at once.
    whole: bool,
}

impl Speaker {
    async fn send(&self, event: ModelEvent) {
        self.out.send(Ok(event)).await;
    }

    async fn speak(&self, answer: Answer) {
        self.words(&answer.thought, ModelEvent::Reasoning).await;
        self.words(&answer.text, ModelEvent::Text).await;
        for (index, call) in (0u32..).zip(answer.calls) {
            self.send(ModelEvent::ToolCallStart { index, id: String::new(), name: call.name, signature: None }).await;
            self.words(&call.arguments, |delta| ModelEvent::ToolCallDelta { index, delta }).await;
        }
    }

    async fn words(&self, text: &str, event: impl Fn(String) -> ModelEvent) {
        if text.is_empty() {
            return;
        }
        if self.whole {
            self.wait().await;
            return self.send(event(text.to_owned())).await;
        }
        for word in text.split_inclusive(char::is_whitespace) {
            self.wait().await;
            self.send(event(word.to_owned())).await;
        }
    }

    async fn wait(&self) {
        if !self.pause.is_zero() {
            self.clock.sleep(self.pause).await;
        }
    }
}
