//! Responses that were stored: each is an execution, whose input says how the response was asked for.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::ResponseId;
use super::document::{CANCELLED, ResponseDocument, ResponseSettings, ResponseStatus};
use super::input::{ITEM_ID, REASONING_ITEMS};
use super::output::{OutputBuilder, item_id};
use crate::engine::step::ANSWER_STATE;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::openai::answer::{Answer, AnswerFacts, AnswerReader, Ending, Reading, seconds};
use crate::http::openai::error::WireError;
use crate::id::RunId;
use crate::model::{Caller, Run, RunState};
use crate::store::{Collection, Document};

/// The variable of an execution's input that says how its response was asked for.
pub const VARIABLE: &str = "_response";

/// How a response was asked for. Kept in the input of its execution, so fields may only be added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResponseOrigin {
    pub settings: ResponseSettings,
    pub facts: AnswerFacts,
    /// The answer carries the data that the model wants back.
    pub with_state: bool,
    /// The first message of the conversation is the request's `instructions`.
    pub has_instructions: bool,
}

/// The mark of a response that was deleted. Its execution stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct DeletedResponse {}

impl Document for DeletedResponse {
    const KIND: &'static str = "deleted_response";
    type Id = RunId;
}

/// A response that can be read.
pub struct StoredResponse {
    pub run: Run,
    pub origin: ResponseOrigin,
}

impl StoredResponse {
    /// Finds a response of the caller's tenant. One that was not to be stored, or was deleted, is not there.
    pub async fn find(state: &AppState, caller: &Caller, id: ResponseId) -> Result<Option<Self>> {
        let run = state.store.find_run(caller.tenant, id.0).await?.filter(|run| caller.may_see(run) && run.input.options.as_completion);
        let Some(run) = run else { return Ok(None) };
        let origin = run.input.inputs.get(VARIABLE).and_then(|origin| ResponseOrigin::deserialize(origin).ok());
        let Some(origin) = origin.filter(|origin| origin.settings.store) else { return Ok(None) };
        let is_deleted = Collection::<DeletedResponse>::of(&*state.store, caller.tenant).find(id.0).await?.is_some();
        Ok((!is_deleted).then_some(Self { run, origin }))
    }

    /// Marks the response as deleted. `false`: another call did so before.
    pub async fn delete(&self, state: &AppState) -> Result<bool> {
        let deleted = Collection::<DeletedResponse>::of(&*state.store, self.run.tenant);
        match deleted.create(self.run.id, DeletedResponse {}, state.clock.now()).await {
            Ok(_) => Ok(true),
            Err(crate::store::StoreError::Exists(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The response without its answer.
    pub fn head(&self) -> ResponseDocument {
        let metadata = self.run.input.metadata.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        ResponseDocument::new(self.run.id, self.origin.facts.model.clone(), metadata, self.origin.settings.clone())
    }

    /// A reader of the execution's log.
    pub fn reader(&self) -> AnswerReader {
        AnswerReader::new(Reading { run: self.run.id, facts: self.origin.facts.clone() })
    }

    /// How the execution ended, as far as its log tells, and when.
    async fn ending(&self, state: &AppState) -> Result<(Option<Ending>, Option<i64>)> {
        let log = state.store.read_log(self.run.tenant, self.run.id, None, u32::MAX).await?;
        let (mut reader, mut ending, mut waited) = (self.reader(), None, None);
        for segment in &log {
            let end = reader.take(&segment.events, segment.rest).end;
            if let Some(Ending::Waiting(error)) = &end {
                waited = Some(error.clone());
            }
            // A pause that is over is no end.
            ending = match (end, ending) {
                (None, Some(known @ (Ending::Answered(_) | Ending::Failed(_)))) => Some(known),
                (end, _) => end,
            };
        }
        // What nobody could answer was cancelled for that reason.
        let is_cancelled = matches!(&ending, Some(Ending::Failed(error)) if error.code() == CANCELLED);
        if let Some(error) = waited.filter(|_| is_cancelled) {
            ending = Some(Ending::Failed(error));
        }
        Ok((ending, reader.completed.map(seconds)))
    }

    /// The response as it stands. `with_state`: the answer carries the data that the model wants back.
    pub async fn document(&self, state: &AppState, with_state: bool) -> Result<ResponseDocument> {
        let head = self.head();
        // Callers poll: the log of an execution that goes on has no end to look for.
        if self.run.state != RunState::Paused && !self.run.state.is_terminal() {
            return Ok(self.standing(head));
        }
        Ok(match self.ending(state).await? {
            (Some(Ending::Answered(answer)), at) => {
                let output = OutputBuilder::items_of(self.run.id, with_state, &answer);
                head.answered(&answer, output, at)
            }
            (Some(Ending::Failed(error)), at) => head.failed(&error, Vec::new(), at),
            (Some(Ending::Waiting(error)), _) => {
                state.workers.abandon(self.run.tenant, self.run.id);
                head.failed(&error, Vec::new(), None)
            }
            (None, _) => self.standing(head),
        })
    }

    /// The response by the state of its execution, whose log has no end yet.
    fn standing(&self, head: ResponseDocument) -> ResponseDocument {
        let at = self.run.finished_at.map(seconds);
        let failed = |code: &str, message: &str| head.clone().failed(&WireError::of_failure(code, message, false), Vec::new(), at);
        match (self.run.state, &self.run.failure) {
            (RunState::Queued, _) => ResponseDocument { status: ResponseStatus::Queued, ..head },
            (RunState::Cancelled, _) => failed(CANCELLED, "the response was cancelled"),
            (RunState::Failed, Some(failure)) => failed(&failure.code, &failure.message),
            _ => head,
        }
    }

    /// The conversation up to the end of this response, for one that continues it. The instructions stay behind.
    async fn conversation(self, state: &AppState) -> Result<Vec<Value>> {
        let answer = match self.ending(state).await?.0 {
            Some(Ending::Answered(answer)) => answer,
            Some(Ending::Failed(_) | Ending::Waiting(_)) => return Err(not_continued("it failed")),
            None => return Err(not_continued("it has not ended")),
        };
        let mut messages = self.run.input.messages;
        if self.origin.has_instructions && !messages.is_empty() {
            messages.remove(0);
        }
        messages.extend(answer_message(self.run.id, *answer));
        Ok(messages)
    }
}

/// The conversation of the response that a request continues.
pub async fn previous_conversation(state: &AppState, caller: &Caller, id: &str) -> Result<Vec<Value>> {
    let found = match id.parse() {
        Ok(id) => StoredResponse::find(state, caller, id).await?,
        Err(_) => None,
    };
    match found {
        Some(stored) => stored.conversation(state).await,
        None => Err(Error::new(Kind::Invalid, "previous_response_not_found", "there is no stored response with this id")
            .details(json!({ "problems": [{ "pointer": "/previous_response_id", "message": "there is no stored response with this id" }] }))
            .next("send the whole conversation as `input`")),
    }
}

fn not_continued(why: &str) -> Error {
    Error::invalid_at("/previous_response_id", format!("this response cannot be continued: {why}"))
}

/// An answer as a message of a conversation; `None` if it says nothing.
fn answer_message(run: RunId, answer: Answer) -> Option<Value> {
    let Answer { content, refusal, reasoning, tool_calls, state, .. } = answer;
    let text = content.filter(|content| !content.is_empty()).map(|text| json!({ "type": "output_text", "text": text }));
    let part = text.or(refusal.map(|refusal| json!({ "type": "refusal", "refusal": refusal })));
    if part.is_none() && tool_calls.is_empty() {
        return None;
    }
    let call = |(index, call): (usize, &crate::http::openai::wire::ToolCall)| {
        let mut call = serde_json::to_value(call).unwrap_or_default();
        call[ITEM_ID] = item_id("fc", run, index).into();
        call
    };
    let calls: Vec<Value> = tool_calls.iter().enumerate().map(call).collect();
    let mut message = Map::new();
    message.insert("role".into(), "assistant".into());
    message.insert("id".into(), item_id("msg", run, 0).into());
    message.insert("content".into(), part.map_or(Value::Null, |part| json!([part])));
    if !calls.is_empty() {
        message.insert("tool_calls".into(), calls.into());
    }
    if let Some(thoughts) = reasoning {
        let summary = json!([{ "type": "summary_text", "text": thoughts }]);
        message.insert(REASONING_ITEMS.into(), json!([{ "type": "reasoning", "id": item_id("rs", run, 0), "summary": summary }]));
    }
    if let Some(state) = state {
        message.insert(ANSWER_STATE.into(), serde_json::to_value(state).unwrap_or_default());
    }
    Some(Value::Object(message))
}
