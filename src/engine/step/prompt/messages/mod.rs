//! The conversation that a prompt sends: system, what was said before, the user's message.
//!
//! `read` takes messages as callers write them, `part` their content parts, `media` the pictures and files in these; `results`
//! puts tool results behind their calls.

mod media;
mod part;
mod read;
mod results;

pub use part::{ContentItem, mcp_content, read_part};
pub use read::{check_literal_messages, check_messages};

use serde_json::Value;

use super::config::Prompt;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::engine::step::text_of;
use crate::error::Problems;
use crate::provider::{Message, Role};

/// Renders the conversation.
pub fn render(prompt: &Prompt, context: &StepContext<'_>) -> StepResult<Vec<Message>> {
    let scope = context.scope();
    let text = |template: &crate::expr::Template| -> StepResult<String> {
        let rendered = template.render(&scope)?;
        context.unresolved(rendered.unresolved);
        Ok(text_of(&rendered.value))
    };
    let mut messages = Vec::new();
    if let Some(system) = &prompt.system {
        messages.push(Message::system(text(system)?));
    }
    if let Some(previous) = &prompt.previous {
        let rendered = previous.render(&scope)?;
        context.unresolved(rendered.unresolved);
        messages.extend(read_all(&rendered.value, "previousMessages")?);
    }
    if let Some(user) = &prompt.user {
        let mut words = text(user)?;
        append_metadata(context, &mut words);
        let said = messages.last().is_some_and(|last| last.role == Role::User && last.text() == words);
        // The history may end with the very message that the prompt is made of.
        let silent = words.is_empty() && !messages.is_empty();
        if !said && !silent {
            messages.push(Message::user(words));
        }
    }
    if !messages.iter().any(|message| message.role != Role::System) {
        return Err(StepFailure::new("empty_prompt", "the prompt has no message for the model").into());
    }
    Ok(messages)
}

/// With `autoAppendMetadata`, the record's metadata follows the prompt, one line a key.
fn append_metadata(context: &StepContext<'_>, words: &mut String) {
    if !context.run.input.options.auto_append_metadata {
        return;
    }
    let metadata = context.run.input.record.as_ref().and_then(|record| record.get("metadata")).and_then(Value::as_object);
    let Some(metadata) = metadata.filter(|metadata| !metadata.is_empty()) else { return };
    words.push_str("\n\nRecord metadata:");
    for (key, value) in metadata {
        words.push_str(&format!("\n- {key}: {}", text_of(value)));
    }
}

/// Reads messages as callers write them. `field` names the list in the failure's message.
pub fn read_all(value: &Value, field: &str) -> StepResult<Vec<Message>> {
    read::read_messages(value).map_err(|problems| invalid_messages(&problems, field).into())
}

fn invalid_messages(problems: &Problems, field: &str) -> StepFailure {
    let texts: Vec<String> =
        problems.0.iter().take(3).map(|problem| format!("`{field}{}`: {}", problem.pointer, problem.message)).collect();
    StepFailure::new("invalid_messages", texts.join("; "))
}

#[cfg(test)]
mod tests;
