//! Places each tool result behind the call that it answers.
//!
//! Callers choose how many calls and results a conversation has, so every lookup is by hash: the time grows with the number of messages, not
//! with its square.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::provider::{Message, ToolCall};

/// A message and the tool results that follow it.
struct MessageGroup {
    message: Message,
    results: Vec<Message>,
}

/// A conversation under construction.
#[derive(Default)]
pub(super) struct ConversationBuilder {
    /// Results that come before any other message.
    leading: Vec<Message>,
    groups: Vec<MessageGroup>,
    /// By the id of a call: the place of the latest message that makes it, and the name of its tool.
    calls: HashMap<String, (usize, String)>,
    open: OpenCalls,
}

/// The calls of the latest message that makes any. Results without an id answer them in their order.
#[derive(Default)]
struct OpenCalls {
    all: VecDeque<String>,
    by_tool: HashMap<String, VecDeque<String>>,
    answered: HashSet<String>,
}

impl OpenCalls {
    fn new(calls: &[ToolCall]) -> Self {
        let mut open = Self::default();
        for call in calls {
            open.all.push_back(call.id.clone());
            open.by_tool.entry(call.name.clone()).or_default().push_back(call.id.clone());
        }
        open
    }

    /// Returns the id of the first call that has no result, of this tool if it is named.
    fn first(&mut self, tool: Option<&str>) -> Option<String> {
        let calls = match tool {
            Some(tool) => self.by_tool.get_mut(tool)?,
            None => &mut self.all,
        };
        while calls.front().is_some_and(|id| self.answered.contains(id)) {
            calls.pop_front();
        }
        calls.front().cloned()
    }
}

impl ConversationBuilder {
    /// Adds a message that is not a tool's.
    pub fn push(&mut self, message: Message) {
        let place = self.groups.len();
        if !message.tool_calls.is_empty() {
            self.open = OpenCalls::new(&message.tool_calls);
        }
        for call in &message.tool_calls {
            let known = self.calls.entry(call.id.clone()).or_insert_with(|| (place, call.name.clone()));
            if known.0 != place {
                *known = (place, call.name.clone());
            }
        }
        self.groups.push(MessageGroup { message, results: Vec::new() });
    }

    /// Adds a tool's message behind the call with its id, or behind the first open call of its tool if it has none. A result whose call is
    /// not known stays where it stands. `false`: it has no id, and no call is open.
    pub fn push_result(&mut self, mut result: Message) -> bool {
        let id = result.tool_call_id.take().or_else(|| self.open.first(result.tool_name.as_deref()));
        let Some(id) = id else { return false };
        let call = self.calls.get(&id);
        if result.tool_name.is_none() {
            result.tool_name = call.map(|(_, name)| name.clone());
        }
        let group = match call {
            Some((place, _)) => self.groups.get_mut(*place),
            None => self.groups.last_mut(),
        };
        self.open.answered.insert(id.clone());
        result.tool_call_id = Some(id);
        group.map_or(&mut self.leading, |group| &mut group.results).push(result);
        true
    }

    /// Returns the messages in their order.
    pub fn into_messages(self) -> Vec<Message> {
        let groups = self.groups.into_iter().flat_map(|MessageGroup { message, results }| std::iter::once(message).chain(results));
        self.leading.into_iter().chain(groups).collect()
    }
}
