//! The items of an answer, and the events that tell of them as they come.
//!
//! An answer that is there as a whole goes the same way as one that comes in pieces, so that both have the same items under the same ids.

use super::document::{ContentPart, ItemStatus, OutputItem, ResponseDocument, SummaryPart, incomplete_reason};
use super::events::StreamEvent;
use super::input::sealed_state;
use crate::http::openai::answer::{Answer, AnswerReader, seconds};
use crate::http::openai::error::WireError;
use crate::http::openai::stream::StreamEncoder;
use crate::http::openai::wire::ToolCall;
use crate::id::RunId;

/// An item as far as it has come.
#[derive(Debug)]
struct DraftItem {
    kind: DraftKind,
    /// The text, or the arguments of a call.
    text: String,
    /// The data that the model wants back, of a reasoning item.
    sealed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DraftKind {
    Reasoning,
    Text,
    Refusal,
    Call { call_id: String, name: String },
}

/// Makes the items of an answer.
#[derive(Debug)]
pub struct OutputBuilder {
    run: RunId,
    drafts: Vec<DraftItem>,
    /// The position of the item that the next piece may belong to.
    open: Option<usize>,
    /// The data that the model wants back is given, in its first reasoning item.
    with_state: bool,
    /// The reasoning item that is done once that data is known.
    unsealed: Option<usize>,
    events: Vec<StreamEvent>,
}

impl OutputBuilder {
    pub const fn new(run: RunId, with_state: bool) -> Self {
        Self { run, drafts: Vec::new(), open: None, with_state, unsealed: None, events: Vec::new() }
    }

    /// The items of an answer that is there as a whole.
    pub fn items_of(run: RunId, with_state: bool, answer: &Answer) -> Vec<OutputItem> {
        let mut builder = Self::new(run, with_state);
        if let Some(thoughts) = &answer.reasoning {
            builder.push(&DraftKind::Reasoning, thoughts);
        }
        if let Some(content) = answer.content.as_deref().filter(|content| !content.is_empty()) {
            builder.push(&DraftKind::Text, content);
        }
        builder.finish(answer)
    }

    /// Appends a piece; another kind than the last begins an item of its own.
    fn push(&mut self, kind: &DraftKind, delta: &str) {
        let index = match self.open.filter(|index| self.drafts.get(*index).is_some_and(|draft| draft.kind == *kind)) {
            Some(index) => index,
            None => {
                self.close(ItemStatus::Completed);
                self.begin(kind)
            }
        };
        if let Some(draft) = self.drafts.get_mut(index) {
            draft.text.push_str(delta);
        }
        let (item_id, output_index, delta) = (self.id(index), index, delta.to_owned());
        self.events.push(match kind {
            DraftKind::Reasoning => StreamEvent::SummaryTextDelta { item_id, output_index, summary_index: 0, delta },
            DraftKind::Text => StreamEvent::TextDelta { item_id, output_index, content_index: 0, delta, logprobs: Vec::new() },
            DraftKind::Refusal => StreamEvent::RefusalDelta { item_id, output_index, content_index: 0, delta },
            DraftKind::Call { .. } => StreamEvent::ArgumentsDelta { item_id, output_index, delta },
        });
    }

    /// Begins an item; its position.
    fn begin(&mut self, kind: &DraftKind) -> usize {
        let index = self.add(kind.clone());
        let (item_id, output_index, content_index) = (self.id(index), index, 0);
        let event = match kind {
            DraftKind::Text => StreamEvent::PartAdded { item_id, output_index, content_index, part: ContentPart::text(String::new()) },
            DraftKind::Refusal => {
                StreamEvent::PartAdded { item_id, output_index, content_index, part: ContentPart::Refusal { refusal: String::new() } }
            }
            DraftKind::Reasoning => {
                StreamEvent::SummaryAdded { item_id, output_index, summary_index: 0, part: SummaryPart::new(String::new()) }
            }
            DraftKind::Call { .. } => return index,
        };
        self.events.push(event);
        index
    }

    /// Adds an item without parts.
    fn add(&mut self, kind: DraftKind) -> usize {
        let index = self.drafts.len();
        self.drafts.push(DraftItem { kind, text: String::new(), sealed: None });
        self.open = Some(index);
        let item = self.item(index, ItemStatus::InProgress);
        self.events.extend(item.map(|item| StreamEvent::ItemAdded { output_index: index, item }));
        index
    }

    /// Ends the open item.
    fn close(&mut self, status: ItemStatus) {
        let Some(index) = self.open.take() else { return };
        let Some(DraftItem { kind, text, .. }) = self.drafts.get(index) else { return };
        let (item_id, output_index, content_index, text) = (self.id(index), index, 0, text.clone());
        let is_reasoning = *kind == DraftKind::Reasoning;
        let events = match kind {
            DraftKind::Text => vec![
                StreamEvent::TextDone { item_id: item_id.clone(), output_index, content_index, text: text.clone(), logprobs: Vec::new() },
                StreamEvent::PartDone { item_id, output_index, content_index, part: ContentPart::text(text) },
            ],
            DraftKind::Refusal => vec![
                StreamEvent::RefusalDone { item_id: item_id.clone(), output_index, content_index, refusal: text.clone() },
                StreamEvent::PartDone { item_id, output_index, content_index, part: ContentPart::Refusal { refusal: text } },
            ],
            DraftKind::Reasoning => vec![
                StreamEvent::SummaryTextDone { item_id: item_id.clone(), output_index, summary_index: 0, text: text.clone() },
                StreamEvent::SummaryDone { item_id, output_index, summary_index: 0, part: SummaryPart::new(text) },
            ],
            DraftKind::Call { name, .. } => {
                vec![StreamEvent::ArgumentsDone { item_id, output_index, name: name.clone(), arguments: text }]
            }
        };
        self.events.extend(events);
        if is_reasoning && self.with_state && self.unsealed.is_none() {
            self.unsealed = Some(index);
        } else {
            self.done(index, if is_reasoning { ItemStatus::Completed } else { status });
        }
    }

    fn done(&mut self, index: usize, status: ItemStatus) {
        let item = self.item(index, status);
        self.events.extend(item.map(|item| StreamEvent::ItemDone { output_index: index, item }));
    }

    /// Ends the answer: what was not streamed comes whole, then the calls. All items.
    pub fn finish(&mut self, answer: &Answer) -> Vec<OutputItem> {
        let status = if incomplete_reason(answer).is_some() { ItemStatus::Incomplete } else { ItemStatus::Completed };
        self.close(status);
        self.seal(answer);
        let has_words = self.drafts.iter().any(|draft| matches!(draft.kind, DraftKind::Text | DraftKind::Refusal));
        for (kind, text) in [(DraftKind::Text, &answer.content), (DraftKind::Refusal, &answer.refusal)] {
            if let Some(text) = text.as_deref().filter(|text| !has_words && !text.is_empty()) {
                self.push(&kind, text);
            }
        }
        self.close(status);
        for call in &answer.tool_calls {
            let ToolCall { id, function, .. } = call;
            self.push(&DraftKind::Call { call_id: id.clone(), name: function.name.clone() }, &function.arguments);
            self.close(ItemStatus::Completed);
        }
        self.items(status)
    }

    /// Puts the data that the model wants back into its first reasoning item, or into one that has nothing else.
    fn seal(&mut self, answer: &Answer) {
        let sealed = answer.state.as_ref().filter(|_| self.with_state).map(sealed_state);
        let index = match self.unsealed.take() {
            Some(index) => index,
            None if sealed.is_some() => {
                let index = self.add(DraftKind::Reasoning);
                self.open = None;
                index
            }
            None => return,
        };
        if let Some(draft) = self.drafts.get_mut(index) {
            draft.sealed = sealed;
        }
        self.done(index, ItemStatus::Completed);
    }

    /// Breaks the answer off. All items.
    fn abort(&mut self) -> Vec<OutputItem> {
        self.close(ItemStatus::Incomplete);
        if let Some(index) = self.unsealed.take() {
            self.done(index, ItemStatus::Incomplete);
        }
        self.items(ItemStatus::Incomplete)
    }

    /// All items; the last words have this status.
    fn items(&self, status: ItemStatus) -> Vec<OutputItem> {
        let last = self.drafts.iter().rposition(|draft| matches!(draft.kind, DraftKind::Text | DraftKind::Refusal));
        let status_of = |index: usize| if Some(index) == last { status } else { ItemStatus::Completed };
        (0..self.drafts.len()).filter_map(|index| self.item(index, status_of(index))).collect()
    }

    fn item(&self, index: usize, status: ItemStatus) -> Option<OutputItem> {
        let DraftItem { kind, text, sealed } = self.drafts.get(index)?;
        let (id, text, is_open) = (self.id(index), text.clone(), status == ItemStatus::InProgress);
        let content = |part: ContentPart| if is_open { Vec::new() } else { vec![part] };
        Some(match kind {
            DraftKind::Reasoning => {
                let summary = if text.is_empty() { Vec::new() } else { vec![SummaryPart::new(text)] };
                OutputItem::Reasoning { id, summary, encrypted_content: sealed.clone(), status }
            }
            DraftKind::Text => OutputItem::Message { id, role: "assistant", status, content: content(ContentPart::text(text)) },
            DraftKind::Refusal => {
                OutputItem::Message { id, role: "assistant", status, content: content(ContentPart::Refusal { refusal: text }) }
            }
            DraftKind::Call { call_id, name } => {
                OutputItem::FunctionCall { id, call_id: call_id.clone(), name: name.clone(), arguments: text, status }
            }
        })
    }

    /// The id of an item: the execution's, and a number from the second item of a kind on.
    fn id(&self, index: usize) -> String {
        let prefix = |kind: &DraftKind| match kind {
            DraftKind::Reasoning => "rs",
            DraftKind::Text | DraftKind::Refusal => "msg",
            DraftKind::Call { .. } => "fc",
        };
        let own = self.drafts.get(index).map_or("msg", |draft| prefix(&draft.kind));
        let before = self.drafts.iter().take(index).filter(|draft| prefix(&draft.kind) == own).count();
        item_id(own, self.run, before)
    }
}

/// The id of the item of a kind that comes after `before` others. Calls are numbered from the first on, as in their `call_id`.
pub fn item_id(prefix: &str, run: RunId, before: usize) -> String {
    if before == 0 && prefix != "fc" { format!("{prefix}_{}", run.suffix()) } else { format!("{prefix}_{}{before}", run.suffix()) }
}

/// Writes a response as its events.
#[derive(Debug)]
pub struct EventEncoder {
    /// The response without its answer.
    head: ResponseDocument,
    builder: OutputBuilder,
    /// The number of the next event.
    next: u64,
    /// Events up to this number are known to the caller.
    after: Option<u64>,
}

impl EventEncoder {
    pub fn new(head: ResponseDocument, with_state: bool, after: Option<u64>) -> Self {
        let run = head.id.0;
        Self { head, builder: OutputBuilder::new(run, with_state), next: 0, after }
    }

    fn emit(&mut self, event: StreamEvent, out: &mut String) {
        let number = self.next;
        self.next += 1;
        if self.after.is_none_or(|after| number > after) {
            event.write(number, out);
        }
    }

    fn flush(&mut self, out: &mut String) {
        for event in std::mem::take(&mut self.builder.events) {
            self.emit(event, out);
        }
    }

    fn push(&mut self, kind: &DraftKind, text: &str, out: &mut String) {
        self.builder.push(kind, text);
        self.flush(out);
    }
}

impl StreamEncoder for EventEncoder {
    fn write_head(&mut self, out: &mut String) {
        let response = || Box::new(self.head.clone());
        let mut events = vec![StreamEvent::Created { response: response() }];
        if self.head.settings.background {
            events.push(StreamEvent::Queued { response: response() });
        }
        events.push(StreamEvent::InProgress { response: response() });
        events.into_iter().for_each(|event| self.emit(event, out));
    }

    fn write_text(&mut self, text: String, _: &AnswerReader, out: &mut String) {
        self.push(&DraftKind::Text, &text, out);
    }

    fn write_reasoning(&mut self, text: String, _: &AnswerReader, out: &mut String) {
        self.push(&DraftKind::Reasoning, &text, out);
    }

    fn write_answer(&mut self, answer: Answer, reader: &AnswerReader, out: &mut String) {
        let output = self.builder.finish(&answer);
        self.flush(out);
        let response = Box::new(self.head.clone().answered(&answer, output, reader.completed.map(seconds)));
        let event =
            if response.incomplete_details.is_some() { StreamEvent::Incomplete { response } } else { StreamEvent::Completed { response } };
        self.emit(event, out);
    }

    fn write_failure(&mut self, error: &WireError, reader: &AnswerReader, out: &mut String) {
        let output = self.builder.abort();
        self.flush(out);
        let response = self.head.clone().failed(error, output, reader.completed.map(seconds));
        self.emit(StreamEvent::Failed { response: Box::new(response) }, out);
    }

    fn write_interruption(&mut self, error: &WireError, _: &AnswerReader, out: &mut String) {
        let param = error.param().map(str::to_owned);
        self.emit(StreamEvent::Error { code: error.code().to_owned(), message: error.message().to_owned(), param }, out);
    }
}
