//! Reflection: every few turns an agent looks back at what it has done, before it goes on. Its thoughts are told as reasoning of the loop.

use super::call;
use super::config::Prompt;
use crate::engine::context::{StepContext, StepResult};
use crate::model::event::Event;
use crate::provider::{ChatRequest, Completion, Message, ResponseFormat, ToolChoice};

const QUESTION: &str = "Before you go on, look back: what was asked, what is done, what went wrong, what is still missing? \
                        Say in a few sentences what you will do next and why. Call no tools now.";

/// What the agent thinks after this many turns, as a message of the conversation. Asked once; the answer is in the journal.
pub async fn reflect(prompt: &Prompt, context: &StepContext<'_>, conversation: &[Message], turns: u32) -> StepResult<Message> {
    let path = format!("reflection/{turns}");
    let key = context.key(&path);
    let thought = match context.recall_as::<Completion>(&key) {
        Some(completion) => {
            let usage = completion.total_usage();
            context.spent_before(usage.input, usage.output, completion.cost.nano_usd);
            completion.text
        }
        None => {
            let mut messages = conversation.to_vec();
            messages.push(Message::user(QUESTION.to_owned()));
            let request = ChatRequest {
                messages,
                tools: Vec::new(),
                tool_choice: ToolChoice::None,
                response_format: ResponseFormat::Text,
                sampling: prompt.sampling.clone(),
                reasoning: None,
                stream: prompt.stream,
                idempotency_key: Some(context.idempotency_key(&path)),
            };
            let completion = call::make_silently(prompt, context, request, turns).await?;
            let id = context.block("reflection", turns);
            context.emit(Event::ReasoningStart { id: id.clone(), scope: "loop".into() });
            context.emit(Event::ReasoningDelta { id: id.clone(), delta: completion.text.clone() });
            context.emit(Event::ReasoningComplete { id, text: completion.text.clone(), scope: "loop".into() });
            context.record_done(&key, &completion);
            completion.text
        }
    };
    Ok(Message::user(format!("(Your reflection: {thought})\nGo on.")))
}
