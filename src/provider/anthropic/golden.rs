//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::*;
use crate::provider::chat::{Effort, Sampling, Thought, ToolCall};
use crate::provider::error::Class;
use crate::provider::transport::{Decode, read_all};
use crate::provider::{Citation, Finish, ModelEvent, Usage};

fn written(chat: &ChatRequest, quirks: &Quirks) -> Value {
    serde_json::to_value(request(chat, "m", quirks)).unwrap()
}

fn stream(text: &str) -> Result<Vec<ModelEvent>, Class> {
    read_all(Decoder::default(), text.as_bytes()).map_err(|error| error.class)
}

#[test]
fn a_whole_conversation_is_written() {
    let calls: Vec<ToolCall> = ["c1", "c2"]
        .map(|id| ToolCall { id: id.into(), name: "get".into(), arguments: "{\"a\":1}".into(), signature: None, ..ToolCall::default() })
        .into();
    let mut asked = Message::assistant("On it.");
    asked.content.insert(0, Part::Reasoning(Thought { text: "hm".into(), signature: Some("s".into()), redacted: false }));
    asked.content.insert(1, Part::Reasoning(Thought { text: "unsealed".into(), ..Thought::default() }));
    asked.tool_calls = calls.clone();
    let mut failed = Message::tool(&calls[1], "no such city");
    failed.is_error = true;
    let mut user = Message::user("Look:");
    user.content.push(Part::image(Source::from_url("data:image/png;base64,AAAA")));
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, Message::tool(&calls[0], "42"), failed, Message::user("And?")],
        tools: vec![ToolSpec { name: "get".into(), description: "Gets.".into(), parameters: json!({ "type": "object" }) }],
        tool_choice: ToolChoice::Required,
        sampling: Sampling {
            temperature: Some(1.5),
            top_p: Some(0.9),
            max_tokens: Some(9),
            stop: vec!["END".into(), " ".into()],
            ..Sampling::default()
        },
        ..ChatRequest::default()
    };
    let expected = json!({
        "model": "m",
        "max_tokens": 9,
        "system": "Be brief.",
        "messages": [
            { "role": "user", "content": [
                { "type": "text", "text": "Look:" },
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AAAA" } },
            ] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "hm", "signature": "s" },
                { "type": "text", "text": "On it." },
                { "type": "tool_use", "id": "c1", "name": "get", "input": { "a": 1 } },
                { "type": "tool_use", "id": "c2", "name": "get", "input": { "a": 1 } },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "c1", "content": [{ "type": "text", "text": "42" }] },
                { "type": "tool_result", "tool_use_id": "c2", "content": [{ "type": "text", "text": "no such city" }], "is_error": true },
                { "type": "text", "text": "And?" },
            ] },
        ],
        "tools": [{ "name": "get", "description": "Gets.", "input_schema": { "type": "object" } }],
        "tool_choice": { "type": "any" },
        "temperature": 1.0,
        "stop_sequences": ["END"],
    });
    assert_eq!(written(&chat, &Quirks::default()), expected);
}

#[test]
fn thinking_gets_its_budget_on_top_and_no_sampling() {
    let chat = ChatRequest {
        messages: vec![Message::user("Hi")],
        sampling: Sampling { temperature: Some(0.5), top_k: Some(5), max_tokens: Some(1_000), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled: true, effort: Some(Effort::Low), budget_tokens: None }),
        ..ChatRequest::default()
    };
    let usual = written(&chat, &Quirks { max_output: Some(64_000), ..Quirks::default() });
    assert_eq!(usual["thinking"], json!({ "type": "enabled", "budget_tokens": 2_048 }));
    assert_eq!((&usual["max_tokens"], usual.get("temperature"), usual.get("top_k")), (&json!(3_048), None, None));
    let level = written(&chat, &Quirks { reasoning: ReasoningStyle::Level, ..Quirks::default() });
    assert_eq!((&level["thinking"], &level["output_config"]), (&json!({ "type": "adaptive" }), &json!({ "effort": "low" })));
    let tight = written(&chat, &Quirks { max_output: Some(1_500), ..Quirks::default() });
    assert_eq!((&tight["max_tokens"], &tight["thinking"]["budget_tokens"]), (&json!(1_500), &json!(1_499)));
}

#[test]
fn json_is_asked_for_or_enforced() {
    let with = |format| ChatRequest {
        messages: vec![Message::system("S"), Message::user("Hi")],
        response_format: format,
        ..ChatRequest::default()
    };
    let schema = json!({ "type": "object" });
    let asked = written(&with(ResponseFormat::JsonSchema { name: "n".into(), schema: schema.clone(), strict: false }), &Quirks::default());
    assert!(asked["system"].as_str().unwrap().starts_with("S\n\nAnswer with one JSON value"), "{asked}");
    assert!(asked["system"].as_str().unwrap().ends_with("{\"type\":\"object\"}"), "{asked}");
    let enforced =
        written(&with(ResponseFormat::JsonSchema { name: "n".into(), schema: schema.clone(), strict: true }), &Quirks::default());
    assert_eq!(enforced["output_config"], json!({ "format": { "type": "json_schema", "schema": schema } }));
    assert_eq!(enforced["system"], "S");
}

const STREAM: &str = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":10,"cache_read_input_tokens":30,"cache_creation_input_tokens":5,"output_tokens":3}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"s"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: ping
data: {"type":"ping"}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: content_block_start
data: {"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t","name":"get","input":{}}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\":1}"}}

event: content_block_stop
data: {"type":"content_block_stop","index":2}

event: something_new
data: {"type":"something_new","x":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},"usage":{"output_tokens":25}}

event: message_stop
data: {"type":"message_stop"}

"#;

#[test]
fn a_stream_is_read() {
    let start = Usage { input: 45, cached_input: 30, cache_write: 5, ..Usage::default() };
    let expected = vec![
        ModelEvent::Usage(start),
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ReasoningEnd { signature: Some("s".into()), redacted: false },
        ModelEvent::Text("Hello".into()),
        ModelEvent::ToolCallStart { index: 0, id: "t".into(), name: "get".into(), signature: None },
        ModelEvent::ToolCallDelta { index: 0, delta: "{\"a\":1}".into() },
        ModelEvent::Usage(Usage { output: 25, ..start }),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(stream(STREAM), Ok(expected));
}

#[test]
fn every_early_end_is_a_cut() {
    let whole: Vec<&str> = STREAM.split_inclusive("\n\n").collect();
    for count in 0..whole.len() - 1 {
        assert_eq!(stream(&whole[..count].concat()), Err(Class::Cut), "after {count} events");
    }
}

#[test]
fn an_error_event_is_an_error() {
    let head = STREAM.split_inclusive("\n\n").next().unwrap();
    let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    assert_eq!(stream(&format!("{head}{error}")), Err(Class::Overloaded));
}

#[test]
fn a_whole_answer_gives_the_same_events() {
    let body = json!({
        "content": [
            { "type": "thinking", "thinking": "hm", "signature": "s" },
            { "type": "redacted_thinking", "data": "xx" },
            { "type": "text", "text": "Hello" },
            { "type": "tool_use", "id": "t", "name": "get", "input": { "a": 1 } },
        ],
        "stop_reason": "tool_use",
        "usage": { "input_tokens": 10, "output_tokens": 25 },
    });
    let mut events = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut events).unwrap();
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ReasoningEnd { signature: Some("s".into()), redacted: false },
        ModelEvent::ReasoningEnd { signature: Some("xx".into()), redacted: true },
        ModelEvent::Text("Hello".into()),
        ModelEvent::ToolCallStart { index: 0, id: "t".into(), name: "get".into(), signature: None },
        ModelEvent::ToolCallDelta { index: 0, delta: "{\"a\":1}".into() },
        ModelEvent::Usage(Usage { input: 10, output: 25, ..Usage::default() }),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(events, expected);
}

#[test]
fn what_an_answer_rests_on_is_named() {
    let citation = json!({ "type": "web_search_result_location", "url": "https://a.example/", "title": "A", "cited_text": "yes" });
    let place = json!({ "type": "char_location", "document_index": 0 });
    let expected = ModelEvent::Citation(Citation { url: "https://a.example/".into(), title: Some("A".into()) });
    let body = json!({ "content": [{ "type": "text", "text": "Yes.", "citations": [citation, place] }], "stop_reason": "end_turn" });
    let mut whole = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut whole).unwrap();
    assert_eq!(whole[..2], [ModelEvent::Text("Yes.".into()), expected.clone()]);
    let cites = |citation: &Value| {
        let event = json!({ "type": "content_block_delta", "index": 1, "delta": { "type": "citations_delta", "citation": citation } });
        format!("event: content_block_delta\ndata: {event}\n\n")
    };
    let hello = "\"text\":\"Hello\"}}\n\n";
    let streamed = stream(&STREAM.replace(hello, &format!("{hello}{}{}", cites(&citation), cites(&place)))).unwrap();
    let cited: Vec<&ModelEvent> = streamed.iter().filter(|event| matches!(event, ModelEvent::Citation(_))).collect();
    assert_eq!(cited, [&expected]);
}
