//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::*;
use crate::provider::chat::{Effort, Sampling, Thought};
use crate::provider::error::Class;
use crate::provider::transport::{Decode, read_all};
use crate::provider::{Finish, ModelEvent, Usage};

fn written(chat: &ChatRequest, quirks: &Quirks) -> Value {
    serde_json::to_value(request(chat, "m", quirks)).unwrap()
}

fn stream(events: &[Value]) -> Result<Vec<ModelEvent>, Class> {
    let framed = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("message"));
    let text: String = events.iter().map(framed).collect();
    read_all(Decoder::default(), text.as_bytes()).map_err(|error| error.class)
}

fn whole(body: &Value) -> Result<Vec<ModelEvent>, Class> {
    let mut events = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut events).map_err(|error| error.class)?;
    Ok(events)
}

fn start(index: u32, id: &str, name: &str) -> ModelEvent {
    ModelEvent::ToolCallStart { index, id: id.into(), name: name.into(), signature: None }
}

fn delta(index: u32, delta: &str) -> ModelEvent {
    ModelEvent::ToolCallDelta { index, delta: delta.into() }
}

fn content(index: u32, content: Value) -> Value {
    json!({ "type": "content-delta", "index": index, "delta": { "message": { "content": content } } })
}

fn call_event(kind: &str, index: u32, call: Value) -> Value {
    json!({ "type": kind, "index": index, "delta": { "message": { "tool_calls": call } } })
}

fn end(reason: &str) -> Value {
    json!({ "type": "message-end", "delta": { "finish_reason": reason } })
}

#[test]
fn a_whole_conversation_is_written() {
    let calls = ["c1", "c2"].map(|id| ToolCall { id: id.into(), name: "get".into(), arguments: "{\"a\":1}".into(), ..ToolCall::default() });
    let mut user = Message::user("Look:");
    user.content.push(Part::image(Source::from_url("data:image/png;base64,AAAA")));
    let mut asked = Message::assistant("On it.");
    asked.content.insert(0, Part::Reasoning(Thought { text: "hm".into(), ..Thought::default() }));
    asked.tool_calls = calls.to_vec();
    asked.state = Some(json!({ "tool_plan": "First this." }));
    let mut shown = Message::tool(&calls[0], "seen");
    shown.content.push(Part::image(Source::from_url("https://h/i.png")));
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, shown, Message::tool(&calls[1], "42"), Message::user("And?")],
        tools: vec![ToolSpec { name: "get".into(), description: "Gets.".into(), parameters: json!({ "type": "object" }) }],
        tool_choice: ToolChoice::Required,
        sampling: Sampling {
            temperature: Some(0.5),
            top_p: Some(1.0),
            top_k: Some(900),
            frequency_penalty: Some(-1.0),
            seed: Some(7),
            max_tokens: Some(9),
            stop: vec![String::new(), "END".into()],
            ..Sampling::default()
        },
        stream: true,
        ..ChatRequest::default()
    };
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "get", "arguments": "{\"a\":1}" } });
    let expected = json!({
        "model": "m",
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [
                { "type": "text", "text": "Look:" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
            ] },
            {
                "role": "assistant",
                "content": [{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "On it." }],
                "tool_calls": [call("c1"), call("c2")],
                "tool_plan": "First this.",
            },
            { "role": "tool", "tool_call_id": "c1", "content": "seen" },
            { "role": "tool", "tool_call_id": "c2", "content": "42" },
            { "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "https://h/i.png" } }] },
            { "role": "user", "content": "And?" },
        ],
        "tools": [{ "type": "function", "function": { "name": "get", "description": "Gets.", "parameters": { "type": "object" } } }],
        "tool_choice": "REQUIRED",
        "temperature": 0.5,
        "p": 0.99,
        "k": 500,
        "frequency_penalty": 0.0,
        "seed": 7,
        "max_tokens": 9,
        "stop_sequences": ["END"],
        "stream": true,
    });
    assert_eq!(written(&chat, &Quirks::default()), expected);
}

#[test]
fn thinking_and_json_are_asked_for() {
    let with = |enabled| ChatRequest {
        messages: vec![Message::user("Hi")],
        sampling: Sampling { temperature: Some(0.5), max_tokens: Some(1_000), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled, effort: Some(Effort::Low), budget_tokens: None }),
        response_format: ResponseFormat::JsonSchema { name: "n".into(), schema: json!({ "type": "object" }), strict: false },
        ..ChatRequest::default()
    };
    let fixed = written(&with(true), &Quirks { fixed_sampling: true, ..Quirks::default() });
    assert_eq!(fixed["thinking"], json!({ "type": "enabled", "token_budget": 2_048 }));
    assert_eq!((fixed.get("temperature"), &fixed["max_tokens"]), (None, &json!(3_048)));
    assert_eq!(fixed["response_format"], json!({ "type": "json_object", "json_schema": { "type": "object" } }));
    assert_eq!(fixed["stream"], json!(false));
    let off = written(&with(false), &Quirks::default());
    assert_eq!((&off["thinking"], &off["max_tokens"]), (&json!({ "type": "disabled" }), &json!(1_000)));
    let plain = written(&with(true), &Quirks { reasoning: ReasoningStyle::None, ..Quirks::default() });
    assert_eq!((plain.get("thinking"), &plain["max_tokens"]), (None, &json!(1_000)));
}

#[test]
fn a_stream_with_parallel_calls_is_read() {
    let function = |name: &str, arguments: Value| json!({ "function": { "name": name, "arguments": arguments } });
    let begun = |id: &str, name: &str| json!({ "id": id, "type": "function", "function": { "name": name, "arguments": "" } });
    let more = |text: &str| json!({ "function": { "arguments": text } });
    let counts = json!({
        "billed_units": { "input_tokens": 1, "output_tokens": 1 },
        "tokens": { "input_tokens": 10.0, "output_tokens": "20" },
        "cached_tokens": 4,
    });
    let events = [
        json!({ "id": "x", "type": "message-start", "delta": { "message": { "role": "assistant", "content": [], "tool_plan": "" } } }),
        json!({ "type": "tool-plan-delta", "delta": { "message": { "tool_plan": "I " } } }),
        json!({ "type": "tool-plan-delta", "delta": { "message": { "tool_plan": "will." } } }),
        json!({ "type": "content-start", "index": 0, "delta": { "message": { "content": { "type": "thinking", "thinking": "" } } } }),
        content(0, json!({ "thinking": "hm" })),
        json!({ "type": "content-end", "index": 0 }),
        content(1, json!({ "text": "Hel" })),
        content(1, json!({ "text": "lo" })),
        call_event("tool-call-start", 0, begun("a", "f")),
        call_event("tool-call-start", 0, begun("a", "f")),
        call_event("tool-call-start", 1, begun("b", "g")),
        call_event("tool-call-delta", 1, more("{")),
        call_event("tool-call-delta", 0, more("{\"x\":1}")),
        call_event("tool-call-delta", 1, more("}")),
        call_event("tool-call-start", 2, function("h", json!("null"))),
        json!({ "type": "tool-call-end", "index": 0 }),
        json!({ "type": "tool-call-end", "index": 2 }),
        json!({ "type": "a-later-event", "message": "no error" }),
        json!({ "type": "message-end", "delta": { "finish_reason": "TOOL_CALL", "usage": counts } }),
    ];
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::Text("Hel".into()),
        ModelEvent::Text("lo".into()),
        start(0, "a", "f"),
        start(1, "b", "g"),
        delta(1, "{"),
        delta(0, "{\"x\":1}"),
        delta(1, "}"),
        start(2, "", "h"),
        ModelEvent::Usage(Usage { input: 10, output: 20, cached_input: 4, ..Usage::default() }),
        ModelEvent::State(json!({ "tool_plan": "I will." })),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(stream(&events), Ok(expected));
}

#[test]
fn a_whole_answer_gives_the_same_events() {
    let body = json!({
        "id": "x",
        "message": {
            "role": "assistant",
            "content": [{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "Hello" }],
            "tool_plan": "I will.",
            "tool_calls": [
                { "id": "a", "type": "function", "function": { "name": "f", "arguments": "{\"x\":1}" } },
                { "id": "b", "type": "function", "function": { "name": "g", "arguments": null } },
            ],
            "citations": [{ "sources": [{ "type": "tool", "tool_output": { "content": "no page" } }] }],
        },
        "finish_reason": "COMPLETE",
        "usage": { "billed_units": { "input_tokens": 3, "output_tokens": 2 } },
    });
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::Text("Hello".into()),
        start(0, "a", "f"),
        delta(0, "{\"x\":1}"),
        start(1, "b", "g"),
        ModelEvent::Usage(Usage { input: 3, output: 2, ..Usage::default() }),
        ModelEvent::State(json!({ "tool_plan": "I will." })),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(whole(&body), Ok(expected));
}

#[test]
fn only_known_endings_are_a_success() {
    let said = content(0, json!({ "text": "a" }));
    let ended = |reason: &str| {
        let last = stream(&[said.clone(), end(reason)]).map(|events| events.last().cloned());
        last.map(|last| matches!(last, Some(ModelEvent::Finish(_))).then_some(last).flatten())
    };
    let finish = |finish| Ok(Some(ModelEvent::Finish(finish)));
    assert_eq!(ended("COMPLETE"), finish(Finish::EndTurn));
    assert_eq!(ended("STOP_SEQUENCE"), finish(Finish::EndTurn));
    assert_eq!(ended("MAX_TOKENS"), finish(Finish::Length));
    assert_eq!(ended("ERROR_TOXIC"), finish(Finish::ContentFilter));
    assert_eq!(ended("TOOL_CALL"), Err(Class::Cut));
    assert_eq!(ended("TIMEOUT"), Err(Class::Cut));
    assert_eq!(ended("ERROR"), Err(Class::ServerError));
    assert_eq!(ended(""), Err(Class::Cut));
    assert_eq!(stream(std::slice::from_ref(&said)), Err(Class::Cut));
    let torn = [
        call_event("tool-call-start", 0, json!({ "id": "a", "function": { "name": "f", "arguments": "" } })),
        call_event("tool-call-delta", 0, json!({ "function": { "arguments": "{\"x\":" } })),
        end("TOOL_CALL"),
    ];
    assert_eq!(stream(&torn), Err(Class::Cut));
}

#[test]
fn errors_are_told_from_answers() {
    assert_eq!(whole(&json!({ "message": "invalid api key", "id": "x" })), Err(Class::Auth));
    assert_eq!(whole(&json!({ "id": "x" })), Err(Class::Malformed));
    let said = content(0, json!({ "text": "a" }));
    let failed = json!({ "type": "message-end", "delta": { "finish_reason": "ERROR", "error": "the model is overloaded" } });
    assert_eq!(stream(&[said.clone(), failed]), Err(Class::Overloaded));
    assert_eq!(stream(&[said.clone(), json!({ "message": "the model is overloaded" })]), Err(Class::Overloaded));
    assert_eq!(stream(&[said, json!({ "type": "error", "error": { "message": "overloaded", "code": 529 } })]), Err(Class::Overloaded));
}
