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
    number_calls(messages);
    let mut index = ResultIndex::new(messages);
    let mut rest: Vec<Option<Message>> = std::mem::take(messages).into_iter().map(Some).collect();
    for place in 0..rest.len() {
        // A result that stands behind its call already.
        let Some(mut message) = rest.get_mut(place).and_then(Option::take) else { continue };
        if message.role == Role::Tool {
            messages.push(orphan(message));
            continue;
        }
        let calls = std::mem::take(&mut message.tool_calls);
        let mut results: Vec<Option<Message>> =
            calls.iter().map(|call| rest.get_mut(index.take_result(place, call)?).and_then(Option::take)).collect();
        // Results without ids answer what is open, in order.
        for (call, result) in calls.iter().zip(&mut results).filter(|(_, result)| result.is_none()) {
            *result = index.take_unnamed(place, call).and_then(|at| rest.get_mut(at)).and_then(Option::take);
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

/// Gives each call that has no id one of its own.
fn number_calls(messages: &mut [Message]) {
    let turns = messages.iter_mut().filter(|message| message.role != Role::Tool);
    let unnamed = turns.flat_map(|message| &mut message.tool_calls).filter(|call| call.id.is_empty());
    for (index, call) in unnamed.enumerate() {
        call.id = format!("call_{}", index + 1);
    }
}

/// Where the calls and the results of a conversation stand. Callers choose how many there are, so nothing is searched for.
#[derive(Default)]
struct ResultIndex {
    /// Messages with calls.
    turns: VecDeque<usize>,
    /// By the id of a call: the messages that make it.
    callers: HashMap<String, VecDeque<usize>>,
    /// By the id of a call: its results.
    results: HashMap<String, VecDeque<usize>>,
    /// By the name of a tool, empty if unknown: results without an id.
    unnamed: HashMap<String, VecDeque<usize>>,
}

impl ResultIndex {
    fn new(messages: &[Message]) -> Self {
        let mut index = Self::default();
        for (place, message) in messages.iter().enumerate() {
            if !message.tool_calls.is_empty() {
                index.turns.push_back(place);
            }
            for call in &message.tool_calls {
                index.callers.entry(call.id.clone()).or_default().push_back(place);
            }
            if message.role == Role::Tool {
                let places = match message.tool_call_id.as_deref().filter(|id| !id.is_empty()) {
                    Some(id) => index.results.entry(id.to_owned()).or_default(),
                    None => index.unnamed.entry(message.tool_name.clone().unwrap_or_default()).or_default(),
                };
                places.push_back(place);
            }
        }
        index
    }

    /// Takes the place of the result of a call of the message at `place`, up to the next turn that uses the id again. Places rise from call
    /// to call.
    fn take_result(&mut self, place: usize, call: &ToolCall) -> Option<usize> {
        let end = self.callers.get_mut(&call.id).and_then(|callers| first_after(callers, place)).unwrap_or(usize::MAX);
        let results = self.results.get_mut(&call.id)?;
        if first_after(results, place)? < end { results.pop_front() } else { None }
    }

    /// Takes the place of a result without an id that fits the call's tool, up to the next turn with calls.
    fn take_unnamed(&mut self, place: usize, call: &ToolCall) -> Option<usize> {
        let end = first_after(&mut self.turns, place).unwrap_or(usize::MAX);
        let names = ["", call.name.as_str()];
        let fitting = names.into_iter().filter_map(|name| Some((first_after(self.unnamed.get_mut(name)?, place)?, name))).min();
        let (_, name) = fitting.filter(|(at, _)| *at < end)?;
        self.unnamed.get_mut(name)?.pop_front()
    }
}

/// The first place after `place`; those up to it are dropped.
fn first_after(places: &mut VecDeque<usize>, place: usize) -> Option<usize> {
    while places.front().is_some_and(|first| *first <= place) {
        places.pop_front();
    }
    places.front().copied()
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
