//! The events of a streamed response, in OpenAI's form.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::document::{ContentPart, OutputItem, ResponseDocument, SummaryPart};

/// An event with its number, from 0.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "OpenAiResponseEvent")]
pub struct NumberedEvent {
    #[serde(flatten)]
    event: StreamEvent,
    sequence_number: u64,
}

/// One event of a streamed response.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum StreamEvent {
    #[serde(rename = "response.created")]
    Created { response: Box<ResponseDocument> },
    /// Of responses in the background.
    #[serde(rename = "response.queued")]
    Queued { response: Box<ResponseDocument> },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Box<ResponseDocument> },
    #[serde(rename = "response.completed")]
    Completed { response: Box<ResponseDocument> },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Box<ResponseDocument> },
    #[serde(rename = "response.failed")]
    Failed { response: Box<ResponseDocument> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: usize, item: OutputItem },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: usize, item: OutputItem },
    #[serde(rename = "response.content_part.added")]
    PartAdded { item_id: String, output_index: usize, content_index: usize, part: ContentPart },
    #[serde(rename = "response.content_part.done")]
    PartDone { item_id: String, output_index: usize, content_index: usize, part: ContentPart },
    #[serde(rename = "response.output_text.delta")]
    TextDelta { item_id: String, output_index: usize, content_index: usize, delta: String, logprobs: Vec<Value> },
    #[serde(rename = "response.output_text.done")]
    TextDone { item_id: String, output_index: usize, content_index: usize, text: String, logprobs: Vec<Value> },
    #[serde(rename = "response.refusal.delta")]
    RefusalDelta { item_id: String, output_index: usize, content_index: usize, delta: String },
    #[serde(rename = "response.refusal.done")]
    RefusalDone { item_id: String, output_index: usize, content_index: usize, refusal: String },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: String, output_index: usize, delta: String },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: String, output_index: usize, name: String, arguments: String },
    #[serde(rename = "response.reasoning_summary_part.added")]
    SummaryAdded { item_id: String, output_index: usize, summary_index: usize, part: SummaryPart },
    #[serde(rename = "response.reasoning_summary_part.done")]
    SummaryDone { item_id: String, output_index: usize, summary_index: usize, part: SummaryPart },
    #[serde(rename = "response.reasoning_summary_text.delta")]
    SummaryTextDelta { item_id: String, output_index: usize, summary_index: usize, delta: String },
    #[serde(rename = "response.reasoning_summary_text.done")]
    SummaryTextDone { item_id: String, output_index: usize, summary_index: usize, text: String },
    /// The stream ends here, whatever becomes of the response.
    #[serde(rename = "error")]
    Error { code: String, message: String, param: Option<String> },
}

impl StreamEvent {
    /// Appends the event as a server-sent one, under its number.
    pub fn write(self, sequence_number: u64, out: &mut String) {
        let event = serde_json::to_value(NumberedEvent { event: self, sequence_number }).unwrap_or_default();
        let name = event.get("type").and_then(Value::as_str).unwrap_or_default();
        out.push_str(&format!("event: {name}\ndata: {event}\n\n"));
    }
}
