//! The stored conversation: what it knows of its turns, and when it is deleted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::turns::{Turn, TurnRow};
use crate::clock::Timestamp;
use crate::http::limits::ConversationLimits;
use crate::id::{ClientTokenId, ConversationId, VisitorId};
use crate::store::{Document, SharedStore, StoreResult};

/// A stored conversation, without its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Conversation {
    token: ClientTokenId,
    /// The flow or agent that it talks to.
    pub target: String,
    visitor: Option<VisitorId>,
    /// The beginning of its first message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// The number of the next turn.
    #[serde(default)]
    next: u32,
    /// The sizes in bytes of the stored turns, oldest first; 0 for a number that has not been written yet.
    #[serde(default)]
    sizes: Vec<u32>,
    /// How many messages of the user the stored turns have, as `sizes`. Shorter in conversations of earlier versions, whose turns count as one.
    #[serde(default)]
    said: Vec<u32>,
    /// The beginning of the latest message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preview: Option<String>,
    /// When it is deleted. Absent in conversations of earlier versions until their next message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forget_at: Option<Timestamp>,
    /// The turns of a conversation from an earlier version, which stored them in this row. The next turn moves them to rows of their own.
    #[serde(rename = "turns", default, skip_serializing_if = "Vec::is_empty")]
    old: Vec<Turn>,
}

impl Document for Conversation {
    const KIND: &'static str = "conversation";
    type Id = ConversationId;

    fn parent(&self) -> Option<String> {
        Some(self.token.to_string())
    }

    fn due_at(&self) -> Option<Timestamp> {
        self.forget_at
    }
}

/// How long a conversation without messages is stored: longer than any session lives without a message.
const EMPTY_TTL: Duration = Duration::from_secs(31 * 24 * 3_600);
/// How long a conversation is stored after its last message.
const CONVERSATION_TTL: Duration = Duration::from_secs(365 * 24 * 3_600);
/// Maximum number of conversations that one sweep deletes.
const SWEEP: u32 = 500;

impl Conversation {
    pub fn new(token: ClientTokenId, target: String, visitor: Option<VisitorId>, now: Timestamp) -> Self {
        let forget_at = Some(now.after(EMPTY_TTL));
        Self {
            token,
            target,
            visitor,
            title: None,
            next: 0,
            sizes: Vec::new(),
            said: Vec::new(),
            preview: None,
            forget_at,
            old: Vec::new(),
        }
    }

    /// Returns the turns in this row.
    pub fn old(&self) -> &[Turn] {
        &self.old
    }

    /// Returns the number of the oldest stored turn.
    pub fn first(&self) -> u32 {
        self.next.saturating_sub(u32::try_from(self.sizes.len()).unwrap_or(u32::MAX))
    }

    /// Returns the number after its last turn.
    pub fn end(&self) -> u32 {
        if self.old.is_empty() { self.next } else { u32::try_from(self.old.len()).unwrap_or(u32::MAX) }
    }

    /// Records the size of a written turn, and removes the oldest turns beyond the limits.
    pub fn note(&mut self, number: u32, bytes: u32, limits: &ConversationLimits) {
        while self.next <= number {
            self.sizes.push(0);
            self.next += 1;
        }
        let first = self.first();
        // A turn that was deleted in the meantime does not count.
        if number >= first
            && let Some(size) = self.sizes.get_mut((number - first) as usize)
        {
            *size = bytes;
        }
        while self.sizes.len() > 1 && (self.sizes.len() > limits.max_turns || self.bytes() > limits.max_bytes) {
            self.sizes.remove(0);
            if !self.said.is_empty() {
                self.said.remove(0);
            }
        }
    }

    /// Records how many messages of the user a turn has, which [`Conversation::note`] has recorded.
    pub fn count(&mut self, number: u32, said: u32) {
        let known = self.sizes.len();
        while self.said.len() < known {
            // Of turns whose count was never recorded: one message each.
            self.said.push(1);
        }
        if let Some(count) = number.checked_sub(self.first()).and_then(|place| self.said.get_mut(place as usize)) {
            *count = said;
        }
    }

    /// How many messages are stored: those of the user, and an answer for each turn.
    pub fn message_count(&self) -> usize {
        if !self.old.is_empty() {
            return self.old.iter().map(|turn| turn.said.len() + 1).sum();
        }
        let written = self.sizes.iter().enumerate().filter(|(_, size)| **size > 0);
        written.map(|(place, _)| self.said.get(place).map_or(1, |said| *said as usize) + 1).sum()
    }

    fn bytes(&self) -> u64 {
        self.sizes.iter().map(|size| u64::from(*size)).sum()
    }

    /// Records that its old turns now have rows of their own, with these numbers and sizes.
    pub fn forget_old(&mut self, moved: &[(u32, u32)], limits: &ConversationLimits) {
        if !self.old.is_empty() {
            self.old.clear();
            moved.iter().for_each(|(number, bytes)| self.note(*number, *bytes, limits));
        }
    }

    /// Sets the title, unless it has one.
    pub fn begin_with(&mut self, title: Option<&String>) {
        if self.title.is_none() {
            self.title = title.cloned();
        }
    }

    /// Records a message at this time.
    pub fn keep_from(&mut self, now: Timestamp) {
        self.forget_at = Some(now.after(CONVERSATION_TTL));
    }

    /// Sets the preview to the beginning of the latest message.
    pub fn end_with(&mut self, preview: Option<&String>) {
        if preview.is_some() {
            self.preview = preview.cloned();
        }
    }

    pub fn turn_count(&self) -> usize {
        if self.old.is_empty() { self.sizes.iter().filter(|size| **size > 0).count() } else { self.old.len() }
    }

    pub fn title(&self) -> Option<String> {
        self.title.clone().or_else(|| self.old.iter().find_map(Turn::title))
    }

    pub fn preview(&self) -> Option<String> {
        self.preview.clone().or_else(|| self.old.last().and_then(Turn::preview)).or_else(|| self.title())
    }
}

/// Deletes conversations whose time has come; returns how many.
pub(super) async fn forget(store: &SharedStore, now: Timestamp) -> StoreResult<u64> {
    let mut forgotten = 0;
    for (tenant, row) in store.due_documents(Conversation::KIND, now, &[], SWEEP).await? {
        let parent = format!("{}_{}", ConversationId::PREFIX, row.id);
        store.delete_documents_of(tenant, TurnRow::KIND, &parent).await?;
        forgotten += u64::from(store.delete_document(tenant, Conversation::KIND, &row.id).await?);
    }
    Ok(forgotten)
}
