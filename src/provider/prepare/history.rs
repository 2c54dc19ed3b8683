//! The conversation so far: what other models left in it, the order of tool results, ids, blank texts.

use std::collections::{HashMap, HashSet, VecDeque};

use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use super::RequestTarget;
use crate::provider::chat::{Message, Part, Role, ToolCall};
use crate::provider::rules::{IdRule, WireRules};

/// What a model reads of a call that nobody answered.
const UNANSWERED: &str = "This call was not answered.";
/// The user's part of a conversation that the assistant began.
const FIRST_WORDS: &str = "(The conversation begins.)";

/// Leaves out the reasoning, signatures and state that another model wrote: they prove nothing to this one.
pub(super) fn drop_foreign_state(messages: &mut [Message], origin: &str) {
    for message in messages.iter_mut().filter(|message| message.role == Role::Assistant && message.origin.as_deref() != Some(origin)) {
        message.content.retain(|part| !matches!(part, Part::Reasoning(_)));
        message.state = None;
        for call in &mut message.tool_calls {
            call.signature = None;
            call.state = None;
        }
    }
}

/// Puts the results of a turn's calls right after it, in the calls' order: chat formats want them together and complete. A call without a
/// result gets one that says so; a result without a call becomes a user's words.
pub(super) fn pair_results(messages: &mut Vec<Message>) {
    if !messages.iter().any(|message| message.role == Role::Tool || !message.tool_calls.is_empty()) {
        return;
    }
    let mut rest: VecDeque<Message> = std::mem::take(messages).into();
    let mut unnamed = 0usize;
    while let Some(mut message) = rest.pop_front() {
        if message.role == Role::Tool {
            messages.push(orphan(message));
            continue;
        }
        let mut calls = std::mem::take(&mut message.tool_calls);
        for call in calls.iter_mut().filter(|call| call.id.is_empty()) {
            unnamed += 1;
            call.id = format!("call_{unnamed}");
        }
        let mut results: Vec<Option<Message>> = calls.iter().map(|call| take_result(&mut rest, call)).collect();
        // Results without ids answer what is open, in order.
        for (call, result) in calls.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            *result = take_unnamed_result(&mut rest, call);
        }
        message.tool_calls = calls;
        let answers: Vec<Message> = message
            .tool_calls
            .iter()
            .zip(results)
            .map(|(call, result)| match result {
                Some(mut result) => {
                    result.tool_call_id = Some(call.id.clone());
                    result.tool_name = result.tool_name.filter(|name| !name.is_empty()).or_else(|| Some(call.name.clone()));
                    result
                }
                None => Message { is_error: true, ..Message::tool(call, UNANSWERED) },
            })
            .collect();
        messages.push(message);
        messages.extend(answers);
    }
}

/// The result of a call, up to the next turn that uses the id again.
fn take_result(rest: &mut VecDeque<Message>, call: &ToolCall) -> Option<Message> {
    let end = rest.iter().position(|message| message.tool_calls.iter().any(|other| other.id == call.id)).unwrap_or(rest.len());
    let at = rest.iter().take(end).position(|message| message.role == Role::Tool && message.tool_call_id.as_deref() == Some(&call.id))?;
    rest.remove(at)
}

fn take_unnamed_result(rest: &mut VecDeque<Message>, call: &ToolCall) -> Option<Message> {
    let end = rest.iter().position(|message| !message.tool_calls.is_empty()).unwrap_or(rest.len());
    let unnamed = |message: &Message| message.role == Role::Tool && message.tool_call_id.as_deref().is_none_or(str::is_empty);
    let of_tool = |message: &Message| message.tool_name.as_deref().is_none_or(|name| name.is_empty() || name == call.name);
    let at = rest.iter().take(end).position(|message| unnamed(message) && of_tool(message))?;
    rest.remove(at)
}

fn orphan(result: Message) -> Message {
    let name = result.tool_name.as_deref().filter(|name| !name.is_empty());
    let label = name.map_or_else(|| "Result of an earlier tool call:".to_owned(), |name| format!("Result of an earlier call of `{name}`:"));
    let mut content = vec![Part::text(label)];
    content.extend(result.content);
    Message { role: Role::User, content, tool_call_id: None, tool_name: None, ..result }
}

/// Makes every call's arguments an object: servers that parse them refuse the whole conversation for a slip in one.
pub(super) fn fit_arguments(messages: &mut [Message]) {
    for call in messages.iter_mut().flat_map(|message| &mut message.tool_calls) {
        let is_object = serde_json::from_str::<HashMap<String, IgnoredAny>>(&call.arguments).is_ok();
        if !is_object {
            let blank = matches!(call.arguments.trim(), "" | "null");
            call.arguments = if blank { "{}".to_owned() } else { serde_json::json!({ "invalid_arguments": call.arguments }).to_string() };
        }
    }
}

/// Leaves out texts of white space, and the messages that held nothing else.
pub(super) fn drop_blank_texts(messages: &mut Vec<Message>, rules: &WireRules) {
    if !rules.no_blank_text {
        return;
    }
    for message in messages.iter_mut() {
        message.content.retain(|part| part.as_text().is_none_or(|text| !text.trim().is_empty()));
    }
    messages.retain(|message| message.role == Role::Tool || !message.content.is_empty() || !message.tool_calls.is_empty());
}

/// Gives a conversation that the assistant began a user's message first.
pub(super) fn begin_with_user(messages: &mut Vec<Message>, rules: &WireRules) {
    let first = messages.iter().position(|message| message.role != Role::System);
    if let Some(at) = first.filter(|at| rules.user_first && messages.get(*at).is_some_and(|message| message.role == Role::Assistant)) {
        messages.insert(at, Message::user(FIRST_WORDS));
    }
}

/// Writes the ids of calls as the format takes them, each one once in the conversation.
pub(super) fn fit_ids(messages: &mut [Message], target: &RequestTarget<'_>) {
    let mut taken: HashSet<String> = HashSet::new();
    // The newest call under each of the ids as they were.
    let mut written: HashMap<String, String> = HashMap::new();
    for message in messages {
        for call in &mut message.tool_calls {
            let mut id = fit_id(&call.id, target);
            let mut number = 1u32;
            while !taken.insert(id.clone()) {
                number += 1;
                id = fit_id(&hashed(&format!("{}#{number}", call.id), target), target);
            }
            written.insert(std::mem::replace(&mut call.id, id.clone()), id);
        }
        if message.role == Role::Tool
            && let Some(id) = message.tool_call_id.as_mut()
            && let Some(fit) = written.get(id)
        {
            id.clone_from(fit);
        }
    }
}

/// Letters and digits of an id where a format takes exactly nine.
const SHORT_ID: usize = 9;

fn fit_id(id: &str, target: &RequestTarget<'_>) -> String {
    if target.quirks.short_call_ids {
        let fits = id.len() == SHORT_ID && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        return if fits { id.to_owned() } else { hashed(id, target) };
    }
    match target.rules.call_id {
        IdRule::Any { max_len } if id.len() <= max_len => id.to_owned(),
        IdRule::Plain { max_len } if id.len() <= max_len => {
            let plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-');
            if id.chars().all(plain) { id.to_owned() } else { hashed(id, target) }
        }
        _ => hashed(id, target),
    }
}

/// An id made of another one: the same each time, so that a conversation reads the same on every turn.
fn hashed(id: &str, target: &RequestTarget<'_>) -> String {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let digest = Sha256::digest(id.as_bytes());
    let letters = digest.iter().map(|byte| char::from(LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().unwrap_or(b'a')));
    if target.quirks.short_call_ids {
        return letters.take(SHORT_ID).collect();
    }
    let (IdRule::Any { max_len } | IdRule::Plain { max_len }) = target.rules.call_id;
    let prefix = "call_";
    format!("{prefix}{}", letters.take(max_len.saturating_sub(prefix.len()).min(24)).collect::<String>())
}
