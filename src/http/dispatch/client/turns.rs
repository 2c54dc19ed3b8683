//! Turns of conversations: the messages that a user sent in one call, and the execution that answers them.
//!
//! Each turn has its own row, which is written once, so that a message costs the same in a long conversation as in a short one. The conversation's row
//! contains only the sizes of its turns, which it needs to delete the oldest.
//!
//! Must not know: who asks, and how messages are shown.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounds::json_len;
use super::conversations::{self, Conversation};
use super::door::Door;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::id::{ConversationId, RunId, TenantId, TurnId};
use crate::store::{Collection, Document, Kept, StoreError};

/// Maximum number and total size of the stored messages of a turn; the newest are kept.
const MAX_MESSAGES: usize = 16;
const MAX_MESSAGES_BYTES: usize = 64 * 1024;
/// Maximum size of a stored message, and of the text that is shown instead of it, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Maximum size of a turn with all texts that are shown instead of its messages, in bytes.
const MAX_TURN_BYTES: usize = 256 * 1024;
/// Maximum length of a title, in characters.
const TITLE: usize = 80;
/// Turns per page of messages.
const PAGE: u32 = 50;

/// The messages of a user, and the execution that answers them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Turn {
    pub said: Vec<Said>,
    pub run: RunId,
    /// The id that the page chose for the answer.
    pub answer: Option<String>,
    /// The text that the page shows instead of the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
    pub at: Timestamp,
}

/// One message of the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Said {
    pub id: String,
    pub content: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shown: Option<String>,
}

/// A turn's row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TurnRow {
    conversation: ConversationId,
    /// The turn's number in its conversation, from 0.
    number: u32,
    turn: Turn,
}

impl Document for TurnRow {
    const KIND: &'static str = "conversation_turn";
    const TAKEN: &'static str = "the turn";
    type Id = TurnId;

    fn parent(&self) -> Option<String> {
        Some(self.conversation.to_string())
    }
}

impl TurnRow {
    fn bytes(&self) -> u32 {
        u32::try_from(json_len(self)).unwrap_or(u32::MAX)
    }
}

impl Said {
    /// A message as it is stored; long ones are truncated.
    pub fn new(id: String, content: Value, shown: Option<String>) -> Self {
        let content = if json_len(&content) <= MAX_MESSAGE_BYTES { content } else { Value::String(short(&text_of(&content))) };
        Self { id, content, shown: shown.map(|shown| short(&shown)) }
    }
}

/// Drops the oldest messages of a turn beyond the limits.
pub(super) fn newest(said: Vec<Said>) -> Vec<Said> {
    let mut bytes = 0;
    let fits = |said: &Said| {
        bytes += json_len(said);
        bytes <= MAX_MESSAGES_BYTES
    };
    let mut kept: Vec<Said> = said.into_iter().rev().take(MAX_MESSAGES).take_while(fits).collect();
    kept.reverse();
    kept
}

/// Truncates a text so that it takes at most [`MAX_MESSAGE_BYTES`] in its row, where JSON escapes take more bytes than in the text.
fn short(text: &str) -> String {
    let mut bytes = 0;
    let fits = |letter: &char| {
        bytes += match letter {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            '\0'..='\u{1f}' => 6,
            letter => letter.len_utf8(),
        };
        bytes <= MAX_MESSAGE_BYTES
    };
    text.chars().take_while(fits).collect()
}

/// Returns a message's text, given as a string or in parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

impl Turn {
    /// Returns the beginning of the first message.
    pub fn title(&self) -> Option<String> {
        self.said.first().map(|said| text_of(&said.content).chars().take(TITLE).collect())
    }

    /// Returns the beginning of the last message.
    pub fn preview(&self) -> Option<String> {
        self.said.last().map(|said| text_of(&said.content).chars().take(TITLE).collect())
    }

    /// How many messages of the user it has.
    fn count(&self) -> u32 {
        u32::try_from(self.said.len()).unwrap_or(u32::MAX)
    }

    /// Applies the present limits to a turn that was stored before there were any.
    fn within_bounds(self) -> Self {
        let id = |id: String| short(&id);
        let said = self.said.into_iter().map(|said| Said::new(id(said.id), said.content, said.shown)).collect();
        Self { said: newest(said), answer: self.answer.map(id), shown: self.shown.map(|shown| short(&shown)), ..self }
    }

    fn has(&self, message: &str) -> bool {
        self.answer.as_deref() == Some(message) || self.said.iter().any(|said| said.id == message)
    }

    /// Records the texts that a page shows instead of messages: pairs of a message's id and a text.
    fn show(&mut self, texts: &[(String, String)]) {
        for (id, text) in texts {
            self.said.iter_mut().filter(|said| said.id == *id).for_each(|said| said.shown = Some(text.clone()));
            if self.answer.as_ref() == Some(id) {
                self.shown = Some(text.clone());
            }
        }
    }
}

fn all(door: &Door, tenant: TenantId) -> Collection<'_, TurnRow> {
    Collection::of(&*door.store, tenant)
}

/// Returns the id of a turn: its conversation's id, with the turn's number in the last 32 bits, so that turns sort by number. The bits before
/// those tell conversations apart; on a collision the number counts as taken, and the next one is used.
fn turn_id(conversation: ConversationId, number: u32) -> TurnId {
    TurnId::from_u128((conversation.as_u128() & !u128::from(u32::MAX)) | u128::from(number))
}

/// Appends a turn to a conversation and deletes the oldest turns beyond the limits. Does nothing if the conversation was deleted in the meantime.
pub(super) async fn append(door: &Door, tenant: TenantId, kept: Kept<Conversation>, turn: Turn) -> Result<()> {
    let Some(kept) = move_old(door, tenant, kept).await? else { return Ok(()) };
    let (title, preview, said) = (turn.title(), turn.preview(), turn.count());
    let (number, bytes) = write(door, tenant, &kept, turn).await?;
    let limits = door.limits.options().conversations;
    let edit = move |conversation: &mut Conversation| {
        conversation.note(number, bytes, &limits);
        conversation.count(number, said);
        conversation.begin_with(title.as_ref());
        conversation.end_with(preview.as_ref());
    };
    settle(door, tenant, kept, edit).await.map(drop)
}

/// Writes a turn under the first free number; returns the number and the turn's size.
async fn write(door: &Door, tenant: TenantId, kept: &Kept<Conversation>, turn: Turn) -> Result<(u32, u32)> {
    let mut row = TurnRow { conversation: kept.id, number: kept.body.end(), turn };
    loop {
        match all(door, tenant).create(turn_id(kept.id, row.number), row.clone(), door.clock.now()).await {
            Ok(_) => return Ok((row.number, row.bytes())),
            // A concurrent message of the conversation took the number.
            Err(StoreError::Exists(_)) => row.number = row.number.saturating_add(1),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Changes a conversation's row and deletes the turns that it no longer lists. `None`: the conversation was deleted, and its turns are deleted too.
async fn settle(
    door: &Door,
    tenant: TenantId,
    kept: Kept<Conversation>,
    edit: impl Fn(&mut Conversation),
) -> Result<Option<Kept<Conversation>>> {
    let (id, first, now) = (kept.id, kept.body.first(), door.clock.now());
    let edit = move |conversation: &mut Conversation| {
        edit(conversation);
        conversation.keep_from(now);
        Ok::<_, Error>(())
    };
    let Some(settled) = conversations::all(door, tenant).amend(kept, now, edit).await? else {
        delete_all(door, tenant, id).await?;
        return Ok(None);
    };
    for number in first..settled.body.first() {
        all(door, tenant).delete(turn_id(id, number)).await?;
    }
    Ok(Some(settled))
}

/// Moves the turns of a conversation from an earlier version from its own row to rows of their own. `None`: it was deleted in the meantime.
async fn move_old(door: &Door, tenant: TenantId, kept: Kept<Conversation>) -> Result<Option<Kept<Conversation>>> {
    if kept.body.old().is_empty() {
        return Ok(Some(kept));
    }
    let title = kept.body.old().iter().find_map(Turn::title);
    let preview = kept.body.old().last().and_then(Turn::preview);
    let (mut sizes, mut counts) = (Vec::with_capacity(kept.body.old().len()), Vec::with_capacity(kept.body.old().len()));
    for (number, turn) in (0..).zip(kept.body.old()) {
        let row = TurnRow { conversation: kept.id, number, turn: turn.clone().within_bounds() };
        sizes.push((number, row.bytes()));
        counts.push((number, row.turn.count()));
        // An interrupted move starts again.
        all(door, tenant).create_once(turn_id(kept.id, number), row, door.clock.now()).await?;
    }
    let limits = door.limits.options().conversations;
    let edit = move |conversation: &mut Conversation| {
        conversation.forget_old(&sizes, &limits);
        counts.iter().for_each(|(number, said)| conversation.count(*number, *said));
        conversation.begin_with(title.as_ref());
        conversation.end_with(preview.as_ref());
    };
    settle(door, tenant, kept, edit).await
}

/// Returns a page of a conversation's turns before a number, oldest first, and the number before which the previous page ends.
pub(super) async fn page(door: &Door, tenant: TenantId, kept: &Kept<Conversation>, end: u32) -> Result<(Vec<Turn>, Option<u32>)> {
    let old = kept.body.old();
    if !old.is_empty() {
        let begin = end.saturating_sub(PAGE);
        let turns = old.get(begin as usize..end as usize).unwrap_or_default().to_vec();
        return Ok((turns, (begin > 0).then_some(begin)));
    }
    let (rows, earlier) = rows_before(door, tenant, kept, end).await?;
    Ok((rows.into_iter().map(|row| row.body.turn).collect(), earlier))
}

async fn rows_before(door: &Door, tenant: TenantId, kept: &Kept<Conversation>, end: u32) -> Result<(Vec<Kept<TurnRow>>, Option<u32>)> {
    let first = kept.body.first();
    let mut rows = all(door, tenant).list(Some(&kept.id.to_string()), Some(turn_id(kept.id, end)), PAGE + 1).await?;
    rows.retain(|row| row.body.number >= first);
    let more = rows.len() > PAGE as usize;
    rows.truncate(PAGE as usize);
    let earlier = rows.last().filter(|_| more).map(|row| row.body.number);
    rows.reverse();
    Ok((rows, earlier))
}

/// Stores the texts that a page shows instead of messages: pairs of a message's id and a text. `None`: the conversation was deleted in the meantime.
pub(super) async fn show(
    door: &Door,
    tenant: TenantId,
    kept: Kept<Conversation>,
    texts: &[(String, String)],
) -> Result<Option<Kept<Conversation>>> {
    let Some(kept) = move_old(door, tenant, kept).await? else { return Ok(None) };
    let mut named: Vec<Kept<TurnRow>> = Vec::new();
    let mut end = Some(kept.body.end());
    while let Some(before) = end {
        let (rows, earlier) = rows_before(door, tenant, &kept, before).await?;
        named.extend(rows.into_iter().filter(|row| texts.iter().any(|(id, _)| row.body.turn.has(id))));
        end = earlier;
    }
    // All of them are stored, or none.
    for row in &named {
        let mut next = row.body.clone();
        next.turn.show(texts);
        if json_len(&next) > MAX_TURN_BYTES {
            return Err(Error::invalid_at(
                "/messages",
                format!("the turn would have more than {MAX_TURN_BYTES} bytes; send shorter texts"),
            ));
        }
    }
    let mut sizes = Vec::with_capacity(named.len());
    for row in named {
        let edit = |row: &mut TurnRow| {
            row.turn.show(texts);
            Ok::<_, Error>(())
        };
        if let Some(row) = all(door, tenant).amend(row, door.clock.now(), edit).await? {
            sizes.push((row.body.number, row.body.bytes()));
        }
    }
    let limits = door.limits.options().conversations;
    let edit = move |conversation: &mut Conversation| {
        sizes.iter().for_each(|(number, bytes)| conversation.note(*number, *bytes, &limits));
    };
    settle(door, tenant, kept, edit).await
}

/// Deletes the turns of a conversation.
pub(super) async fn delete_all(door: &Door, tenant: TenantId, conversation: ConversationId) -> Result<u64> {
    Ok(all(door, tenant).delete_of(&conversation.to_string()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_no_more_than_its_bound_in_its_row() {
        for text in ["x", "ü", "\u{1}", "\"", "\\", "\n", "𝄞"] {
            let said = Said::new("m".into(), Value::String(text.repeat(100_000)), Some(text.repeat(100_000)));
            assert!(json_len(&said) <= 2 * MAX_MESSAGE_BYTES + 100, "{text:?}: {}", json_len(&said));
            assert!(json_len(&said.content) > MAX_MESSAGE_BYTES - 8, "{text:?}");
        }
    }

    #[test]
    fn a_turn_keeps_its_newest_messages() {
        let many = |length: usize| {
            (0..100).map(|number| Said::new(number.to_string(), Value::String("x".repeat(length)), None)).collect::<Vec<_>>()
        };
        let ids = |said: Vec<Said>| said.into_iter().map(|said| said.id).collect::<Vec<_>>();
        assert_eq!(ids(newest(many(10))), (84..100).map(|number| number.to_string()).collect::<Vec<_>>());
        assert_eq!(ids(newest(many(50_000))), ["97", "98", "99"]);
    }
}
