//! Turns of conversations: what a user said at once, and which execution answers it.
//!
//! A turn has a row of its own that is written once, so a message costs as much in a long conversation as in a short one. The conversation's row
//! holds only the sizes of its turns, by which it knows when to let the oldest go.
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

/// Messages of a turn that are kept, the newest, and their bytes together.
const MAX_MESSAGES: usize = 16;
const MAX_MESSAGES_BYTES: usize = 64 * 1024;
/// Bytes of one message that are kept, and of what is shown in its place.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Bytes of a turn with everything that a page shows in the place of its messages.
const MAX_TURN_BYTES: usize = 256 * 1024;
/// Characters of a title.
const TITLE: usize = 80;
/// Turns on a page of messages.
const PAGE: u32 = 50;

/// What the user said, and what answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Turn {
    pub said: Vec<Said>,
    pub run: RunId,
    /// The id that the page gave the answer.
    pub answer: Option<String>,
    /// What the page shows in the answer's place.
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
    /// The turn's place in its conversation, from 0.
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
    /// A message as a conversation keeps it: of one that is very long, how its text begins.
    pub fn new(id: String, content: Value, shown: Option<String>) -> Self {
        let content = if json_len(&content) <= MAX_MESSAGE_BYTES { content } else { Value::String(short(&text_of(&content))) };
        Self { id, content, shown: shown.map(|shown| short(&shown)) }
    }
}

/// Of the messages of a turn those that are kept: the newest.
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

/// How a text begins: as much as takes [`MAX_MESSAGE_BYTES`] in its row, where some characters take more than in the text.
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

/// A message's text, whether it came as a text or in parts.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    }
}

impl Turn {
    /// How the first message begins.
    pub fn title(&self) -> Option<String> {
        self.said.first().map(|said| text_of(&said.content).chars().take(TITLE).collect())
    }

    /// The turn as it is kept now, of one that was kept when turns had no bounds.
    fn within_bounds(self) -> Self {
        let id = |id: String| short(&id);
        let said = self.said.into_iter().map(|said| Said::new(id(said.id), said.content, said.shown)).collect();
        Self { said: newest(said), answer: self.answer.map(id), shown: self.shown.map(|shown| short(&shown)), ..self }
    }

    fn has(&self, message: &str) -> bool {
        self.answer.as_deref() == Some(message) || self.said.iter().any(|said| said.id == message)
    }

    /// Notes what a page shows in the place of messages: pairs of a message's id and a text.
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

/// The id of a turn: its conversation's, with the turn's number in the last 32 bits, so that the store has turns in their order. The bits before
/// those tell conversations apart; where they do not, the number is taken, and the next one is used.
fn turn_id(conversation: ConversationId, number: u32) -> TurnId {
    TurnId::from_u128((conversation.as_u128() & !u128::from(u32::MAX)) | u128::from(number))
}

/// Adds a turn to a conversation, and lets the oldest turns go when it keeps too much. One that was deleted meanwhile keeps nothing.
pub(super) async fn append(door: &Door, tenant: TenantId, kept: Kept<Conversation>, turn: Turn) -> Result<()> {
    let Some(kept) = move_old(door, tenant, kept).await? else { return Ok(()) };
    let title = turn.title();
    let (number, bytes) = write(door, tenant, &kept, turn).await?;
    let edit = move |conversation: &mut Conversation| {
        conversation.note(number, bytes);
        conversation.begin_with(title.as_ref());
    };
    settle(door, tenant, kept, edit).await.map(drop)
}

/// Writes a turn under the first number that is free; its number and size.
async fn write(door: &Door, tenant: TenantId, kept: &Kept<Conversation>, turn: Turn) -> Result<(u32, u32)> {
    let mut row = TurnRow { conversation: kept.id, number: kept.body.end(), turn };
    loop {
        match all(door, tenant).create(turn_id(kept.id, row.number), row.clone(), door.clock.now()).await {
            Ok(_) => return Ok((row.number, row.bytes())),
            // Another message of the conversation came at the same time.
            Err(StoreError::Exists(_)) => row.number = row.number.saturating_add(1),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Changes a conversation's row and deletes the turns that it lets go. `None`: the conversation was deleted; then its turns are, too.
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

/// Gives the turns of a conversation that was begun when turns stood in its own row rows of their own. `None`: it was deleted meanwhile.
async fn move_old(door: &Door, tenant: TenantId, kept: Kept<Conversation>) -> Result<Option<Kept<Conversation>>> {
    if kept.body.old().is_empty() {
        return Ok(Some(kept));
    }
    let title = kept.body.old().iter().find_map(Turn::title);
    let mut sizes = Vec::with_capacity(kept.body.old().len());
    for (number, turn) in (0..).zip(kept.body.old()) {
        let row = TurnRow { conversation: kept.id, number, turn: turn.clone().within_bounds() };
        sizes.push((number, row.bytes()));
        // A move that was interrupted begins anew.
        all(door, tenant).create_once(turn_id(kept.id, number), row, door.clock.now()).await?;
    }
    let edit = move |conversation: &mut Conversation| {
        conversation.forget_old(&sizes);
        conversation.begin_with(title.as_ref());
    };
    settle(door, tenant, kept, edit).await
}

/// A page of a conversation's turns before a number, oldest first, and the number before which the page before it ends.
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

/// Keeps what a page shows in the place of messages: pairs of a message's id and a text. `None`: the conversation was deleted meanwhile.
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
    // All of them are kept, or none.
    for row in &named {
        let mut next = row.body.clone();
        next.turn.show(texts);
        if json_len(&next) > MAX_TURN_BYTES {
            return Err(Error::invalid_at("/messages", format!("a turn would take more than {MAX_TURN_BYTES} bytes; send shorter texts")));
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
    let edit = move |conversation: &mut Conversation| sizes.iter().for_each(|(number, bytes)| conversation.note(*number, *bytes));
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
