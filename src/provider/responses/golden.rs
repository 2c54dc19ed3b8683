//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::*;
use crate::net::sse::Event;
use crate::provider::chat::{Effort, Sampling};
use crate::provider::error::Class;
use crate::provider::transport::{Decode, read_all};
use crate::provider::{Citation, Finish, ModelEvent, Usage};

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

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "get".into(), arguments: "{\"a\":1}".into(), ..ToolCall::default() }
}

fn start(index: u32, id: &str, name: &str) -> ModelEvent {
    ModelEvent::ToolCallStart { index, id: id.into(), name: name.into(), signature: None }
}

fn delta(index: u32, delta: &str) -> ModelEvent {
    ModelEvent::ToolCallDelta { index, delta: delta.into() }
}

fn completed(output: &Value) -> Value {
    json!({ "type": "response.completed", "response": { "status": "completed", "output": output } })
}

fn message(id: &str, text: &str) -> Value {
    json!({ "type": "message", "id": id, "role": "assistant", "content": [{ "type": "output_text", "text": text, "annotations": [] }] })
}

fn function_item(id: &str, call_id: &str, arguments: &str) -> Value {
    json!({ "type": "function_call", "id": id, "call_id": call_id, "name": "get", "arguments": arguments })
}

fn added(index: u32, item: &Value) -> Value {
    json!({ "type": "response.output_item.added", "output_index": index, "item": item })
}

fn done(index: u32, item: &Value) -> Value {
    json!({ "type": "response.output_item.done", "output_index": index, "item": item })
}

fn arguments(index: u32, id: &str, delta: &str) -> Value {
    json!({ "type": "response.function_call_arguments.delta", "output_index": index, "item_id": id, "delta": delta })
}

fn said(index: u32, id: &str, delta: &str) -> Value {
    json!({ "type": "response.output_text.delta", "output_index": index, "item_id": id, "content_index": 0, "delta": delta })
}

/// Text, arguments by call and the finish, whatever the pieces were.
fn folded(events: &[ModelEvent]) -> (String, Vec<String>, Option<Finish>) {
    let (mut text, mut calls, mut finish) = (String::new(), Vec::new(), None);
    for event in events {
        match event {
            ModelEvent::Text(more) => text += more,
            ModelEvent::ToolCallStart { .. } => calls.push(String::new()),
            ModelEvent::ToolCallDelta { index, delta } => calls[usize::try_from(*index).unwrap()] += delta,
            ModelEvent::Finish(reason) => finish = Some(*reason),
            _ => {}
        }
    }
    (text, calls, finish)
}

#[test]
fn a_whole_conversation_is_written() {
    let calls = [call("c1"), call("c2")];
    let mut user = Message::user("Look:");
    user.content.push(Part::image(Source::from_url("data:image/png;base64,AAAA")));
    user.content.push(Part::File { name: Some("a.pdf".into()), source: Source::from_url("data:application/pdf;base64,BBBB") });
    user.content.push(Part::File { name: None, source: Source::from_url("https://h/b.pdf") });
    let mut asked = Message::assistant("On it.");
    asked.tool_calls = calls.to_vec();
    let mut shown = Message::tool(&calls[1], "seen");
    shown.content.push(Part::image(Source::from_url("https://h/i.png")));
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, Message::tool(&calls[0], "42"), shown],
        tools: vec![ToolSpec { name: "get".into(), description: "Gets.".into(), parameters: json!({ "type": "object" }) }],
        tool_choice: ToolChoice::Required,
        response_format: ResponseFormat::JsonSchema { name: "out".into(), schema: json!({ "type": "object" }), strict: true },
        sampling: Sampling {
            temperature: Some(0.5),
            top_k: Some(5),
            seed: Some(7),
            max_tokens: Some(90),
            stop: vec!["END".into()],
            ..Sampling::default()
        },
        stream: true,
        ..ChatRequest::default()
    };
    let expected = json!({
        "model": "m",
        "input": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [
                { "type": "input_text", "text": "Look:" },
                { "type": "input_image", "image_url": "data:image/png;base64,AAAA" },
                { "type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB" },
                { "type": "input_file", "file_url": "https://h/b.pdf" },
            ] },
            { "role": "assistant", "content": [{ "type": "output_text", "text": "On it." }] },
            { "type": "function_call", "call_id": "c1", "name": "get", "arguments": "{\"a\":1}" },
            { "type": "function_call", "call_id": "c2", "name": "get", "arguments": "{\"a\":1}" },
            { "type": "function_call_output", "call_id": "c1", "output": "42" },
            { "type": "function_call_output", "call_id": "c2", "output": [
                { "type": "input_text", "text": "seen" },
                { "type": "input_image", "image_url": "https://h/i.png" },
            ] },
        ],
        "store": false,
        "include": ["reasoning.encrypted_content"],
        "tools": [{ "type": "function", "name": "get", "description": "Gets.", "parameters": { "type": "object" }, "strict": false }],
        "tool_choice": "required",
        "text": { "format": { "type": "json_schema", "name": "out", "schema": { "type": "object" }, "strict": true } },
        "max_output_tokens": 90,
        "temperature": 0.5,
        "stream": true,
    });
    assert_eq!(written(&chat, &Quirks::default()), expected);
}

#[test]
fn reasoning_is_asked_for_only_of_models_that_reason() {
    let with = |enabled| ChatRequest {
        messages: vec![Message::user("Hi")],
        sampling: Sampling { temperature: Some(0.5), max_tokens: Some(1), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled, effort: Some(Effort::Low), budget_tokens: None }),
        ..ChatRequest::default()
    };
    let fixed = written(&with(true), &Quirks { fixed_sampling: true, ..Quirks::default() });
    assert_eq!(fixed["reasoning"], json!({ "effort": "low", "summary": "auto" }));
    assert_eq!((fixed.get("temperature"), &fixed["max_output_tokens"]), (None, &json!(16)));
    assert_eq!(written(&with(false), &Quirks::default())["reasoning"], json!({ "effort": "none" }));
    let plain = written(&with(true), &Quirks { reasoning: ReasoningStyle::None, ..Quirks::default() });
    assert_eq!((plain.get("reasoning"), plain.get("include")), (None, None));
}

#[test]
fn reasoning_goes_back_to_its_place() {
    let thought = |id: &str| json!({ "type": "reasoning", "id": id, "summary": [], "encrypted_content": "sealed", "status": "completed" });
    let events = stream(&[
        done(0, &thought("r1")),
        done(1, &json!({ "type": "message", "id": "m1", "phase": "commentary", "content": [{ "type": "output_text", "text": "One." }] })),
        done(2, &json!({ "type": "reasoning", "id": "r2", "summary": [], "encrypted_content": null })),
        done(3, &thought("r3")),
        done(4, &function_item("f1", "c1", "{\"a\":1}")),
        done(5, &function_item("f2", "c2", "{\"a\":1}")),
        completed(&json!([])),
    ])
    .unwrap();
    let state = events.iter().find_map(|event| match event {
        ModelEvent::State(state) => Some(state.clone()),
        _ => None,
    });
    let mut answer = Message::assistant("One.");
    answer.tool_calls = vec![call("c1"), call("c2")];
    answer.state = state;
    let input = |answer: Message| {
        let chat = ChatRequest { messages: vec![answer], ..ChatRequest::default() };
        written(&chat, &Quirks::default())["input"].clone()
    };
    let sealed = |id: &str| json!({ "type": "reasoning", "id": id, "summary": [], "encrypted_content": "sealed" });
    let said = |text: &str| json!({ "role": "assistant", "content": [{ "type": "output_text", "text": text }] });
    let called = |id: &str| json!({ "type": "function_call", "call_id": id, "name": "get", "arguments": "{\"a\":1}" });
    let with = |mut item: Value, name: &str, value: &str| {
        item[name] = value.into();
        item
    };
    let first = with(with(said("One."), "id", "m1"), "phase", "commentary");
    let (third, fourth) = (with(called("c1"), "id", "f1"), with(called("c2"), "id", "f2"));
    assert_eq!(input(answer.clone()), json!([sealed("r1"), first, sealed("r3"), third, fourth]));

    // What led to words that were altered, or to calls that are gone, is left out.
    answer.content = vec![Part::text("Another.")];
    answer.tool_calls.pop();
    assert_eq!(input(answer.clone()), json!([said("Another."), called("c1")]));

    for strange in [json!(3), json!({ "output": "x" }), json!({ "output": [{ "reasoning": 3 }, { "message": { "bytes": 1 } }] })] {
        answer.state = Some(strange);
        assert_eq!(input(answer.clone()), json!([said("Another."), called("c1")]));
    }
}

#[test]
fn a_stream_with_parallel_calls_is_read() {
    let (f, g) = (function_item("f1", "c1", "{\"x\":1}"), function_item("f2", "c2", "{}"));
    let part = |index: u32, delta: &str| {
        let kind = "response.reasoning_summary_text.delta";
        json!({ "type": kind, "output_index": 0, "item_id": "r", "summary_index": index, "delta": delta })
    };
    let note = json!({ "type": "url_citation", "url": "https://a.example/", "title": "A" });
    let usage = json!({
        "input_tokens": 10, "output_tokens": "20", "total_tokens": -3,
        "input_tokens_details": { "cached_tokens": 4.0 }, "output_tokens_details": { "reasoning_tokens": 3 },
    });
    let events = [
        json!({ "type": "response.created", "response": { "status": "in_progress", "usage": null, "error": null } }),
        added(0, &json!({ "type": "reasoning", "id": "r", "summary": [] })),
        part(0, "hm"),
        part(1, "so"),
        done(0, &json!({ "type": "reasoning", "id": "r", "summary": [{ "text": "hm" }, { "text": "so" }] })),
        said(1, "m", "Hel"),
        said(1, "m", "lo"),
        json!({ "type": "response.output_text.annotation.added", "output_index": 1, "annotation": note }),
        done(1, &message("m", "Hello")),
        added(2, &json!({ "type": "function_call", "id": "f1", "call_id": "c1", "name": "get", "arguments": "" })),
        added(3, &json!({ "type": "function_call", "id": "f2", "call_id": "c2", "name": "get", "arguments": "" })),
        arguments(3, "f2", "{"),
        arguments(2, "f1", "{\"x\":"),
        arguments(3, "f2", "}"),
        arguments(2, "f1", "1}"),
        json!({ "type": "response.function_call_arguments.done", "output_index": 2, "item_id": "f1", "arguments": "{\"x\":1}" }),
        done(2, &f),
        done(3, &g),
        json!({ "type": "response.a_later_event", "error": "no error of ours" }),
        json!({ "type": "response.completed", "response": {
            "status": "completed", "error": null, "output": [message("m", "Hello"), f, g], "usage": usage,
        } }),
    ];
    let mut read = stream(&events).unwrap();
    let state = read.iter().position(|event| matches!(event, ModelEvent::State(_))).unwrap();
    read.remove(state);
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::Reasoning("\n".into()),
        ModelEvent::Reasoning("so".into()),
        ModelEvent::ReasoningEnd { signature: None, redacted: false },
        ModelEvent::Text("Hel".into()),
        ModelEvent::Text("lo".into()),
        ModelEvent::Citation(Citation { url: "https://a.example/".into(), title: Some("A".into()) }),
        start(0, "c1", "get"),
        start(1, "c2", "get"),
        delta(1, "{"),
        delta(0, "{\"x\":"),
        delta(1, "}"),
        delta(0, "1}"),
        ModelEvent::Usage(Usage { input: 10, output: 20, cached_input: 4, reasoning: 3, ..Usage::default() }),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(read, expected);
}

#[test]
fn a_whole_answer_gives_the_same_events() {
    let content = json!([{ "type": "reasoning_text", "text": "hm" }]);
    let thought = json!({ "type": "reasoning", "id": "r", "content": content, "encrypted_content": "e" });
    let picture = json!({ "type": "image_generation_call", "id": "i", "result": "AAAA", "output_format": "webp" });
    let found = json!({ "type": "output_text", "text": "Hi", "annotations": [
        { "type": "url_citation", "url": "https://a.example/" },
        { "type": "url_citation", "url": "https://a.example/" },
        { "type": "file_citation", "file_id": "x" }, 3,
    ] });
    let output = json!([
        thought,
        { "type": "web_search_call", "id": "w", "status": "completed" },
        picture,
        { "type": "message", "id": "m", "content": [found] },
        { "type": "function_call", "id": "f1", "name": "get", "arguments": { "y": 2 } },
    ]);
    let response = json!({ "status": "completed", "output": output, "usage": { "input_tokens": 10, "output_tokens": 2 } });
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ReasoningEnd { signature: None, redacted: false },
        ModelEvent::Media { media_type: "image/webp".into(), data: "AAAA".into() },
        ModelEvent::Text("Hi".into()),
        ModelEvent::Citation(Citation { url: "https://a.example/".into(), title: None }),
        start(0, "f1", "get"),
        delta(0, "{\"y\":2}"),
        ModelEvent::Usage(Usage { input: 10, output: 2, ..Usage::default() }),
        ModelEvent::State(json!({ "output": [
            { "reasoning": thought },
            { "message": { "bytes": 2, "id": "m" } },
            { "call": { "index": 0, "id": "f1" } },
        ] })),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(whole(&response), Ok(expected.clone()));
    // A stream may consist of its last event alone, or repeat its items there.
    let last = json!({ "type": "response.completed", "response": response });
    assert_eq!(stream(std::slice::from_ref(&last)), Ok(expected.clone()));
    let items = (0..).zip(output.as_array().unwrap()).map(|(index, item)| done(index, item));
    let repeated: Vec<Value> = items.chain([last]).collect();
    assert_eq!(stream(&repeated), Ok(expected));
}

#[test]
fn nothing_is_doubled_and_nothing_is_lost() {
    let (one, two) = (function_item("f1", "c1", "{\"a\":1}"), function_item("f2", "c2", "{\"b\":2}"));
    let head = |index: u32, id: &str, call_id: &str| added(index, &function_item(id, call_id, ""));
    let both = vec!["{\"a\":1}".to_owned(), "{\"b\":2}".to_owned()];
    let read = |events: &[Value]| folded(&stream(events).unwrap());
    let every = |index: u32| {
        vec![
            head(0, "f1", "c1"),
            head(index, "f2", "c2"),
            arguments(index, "f2", "{\"b\":2}"),
            arguments(0, "f1", "{\"a\":"),
            done(0, &one),
            done(index, &two),
            completed(&json!([one, two])),
        ]
    };
    // Whether the indexes are right, or the same for every item.
    for index in [1, 0] {
        assert_eq!(read(&every(index)).1, both);
    }
    // Another id for the same item in every event.
    let unstable = [
        head(0, "x1", "c1"),
        arguments(0, "x2", "{\"a\":1}"),
        done(0, &function_item("x3", "c1", "{\"a\":1}")),
        done(1, &function_item("x4", "c2", "{\"b\":2}")),
        completed(&json!([function_item("x5", "c1", "{\"a\":1}"), function_item("x6", "c2", "{\"b\":2}")])),
    ];
    assert_eq!(read(&unstable).1, both);
    // The calls are in the last event only, or only there in full.
    assert_eq!(read(&[head(0, "f1", "c1"), completed(&json!([one, two]))]).1, both);
    // Deltas without marks; the rest of the text is in the item.
    let bare = |delta: &str| json!({ "type": "response.output_text.delta", "delta": delta });
    let text = [bare("Hel"), bare("l"), done(0, &message("m", "Hello")), completed(&json!([message("m", "Hello")]))];
    assert_eq!(read(&text).0, "Hello");
    let differs = [said(0, "m", "Hello!"), done(0, &message("m", "Hallo")), completed(&Value::Null)];
    assert_eq!(read(&differs).0, "Hello!");
}

#[test]
fn half_a_call_is_never_made() {
    let head = added(0, &function_item("f1", "c1", ""));
    let torn = [head.clone(), arguments(0, "f1", "{\"a\":"), completed(&Value::Null)];
    assert_eq!(stream(&torn), Err(Class::Cut));
    let gap = [head.clone(), arguments(0, "f1", "{\"a\":}"), done(0, &function_item("f1", "c1", "{\"a\":1}")), completed(&Value::Null)];
    assert_eq!(stream(&gap), Err(Class::Malformed));
    let spaced = [head, arguments(0, "f1", "{\"a\": 1}"), done(0, &function_item("f1", "c1", "{\"a\":1}")), completed(&Value::Null)];
    assert_eq!(folded(&stream(&spaced).unwrap()).1, ["{\"a\": 1}"]);
}

#[test]
fn a_refusal_is_shown_as_one() {
    let part = json!({ "type": "refusal", "refusal": "I can't." });
    let response = json!({ "status": "completed", "output": [{ "type": "message", "id": "m", "content": [part] }] });
    let expected = vec![ModelEvent::Text("I can't.".into()), ModelEvent::Finish(Finish::Refusal)];
    assert_eq!(whole(&response), Ok(expected.clone()));
    let delta = json!({ "type": "response.refusal.delta", "output_index": 0, "item_id": "m", "delta": "I can't." });
    assert_eq!(stream(&[delta, json!({ "type": "response.completed", "response": response })]), Ok(expected));
}

#[test]
fn only_known_endings_are_a_success() {
    let ended = |status: &str, reason: Value| {
        let response = json!({ "status": status, "incomplete_details": reason, "output": [message("m", "a")], "usage": null });
        whole(&response).map(|events| folded(&events).2)
    };
    let because = |reason: &str| json!({ "reason": reason });
    assert_eq!(ended("completed", Value::Null), Ok(Some(Finish::EndTurn)));
    assert_eq!(ended("incomplete", because("max_output_tokens")), Ok(Some(Finish::Length)));
    assert_eq!(ended("incomplete", because("content_filter")), Ok(Some(Finish::ContentFilter)));
    assert_eq!(ended("incomplete", because("interrupted")), Err(Class::Cut));
    assert_eq!(ended("incomplete", Value::Null), Err(Class::Cut));
    assert_eq!(ended("in_progress", Value::Null), Err(Class::Cut));
    assert_eq!(ended("cancelled", Value::Null), Err(Class::Cut));
    assert_eq!(ended("failed", Value::Null), Err(Class::ServerError));
    assert_eq!(whole(&json!({ "output": [] })), Err(Class::Cut));
    // The end mark of another format is no end.
    let mut decoder = Decoder::default();
    let mut out = Vec::new();
    decoder.event(&Event { data: said(0, "m", "a").to_string(), ..Event::default() }, &mut out).unwrap();
    decoder.event(&Event { data: "[DONE]".into(), ..Event::default() }, &mut out).unwrap();
    assert!(!decoder.is_whole());
}

#[test]
fn failures_keep_their_meaning_and_their_usage() {
    let failed = json!({ "type": "response.failed", "response": {
        "status": "failed", "error": { "code": "rate_limit_exceeded", "message": "Rate limit reached" }, "output": [],
        "usage": { "input_tokens": 5, "output_tokens": 1 },
    } });
    let mut out = Vec::new();
    let error = Decoder::default().event(&Event { data: failed.to_string(), ..Event::default() }, &mut out).unwrap_err();
    assert_eq!((error.class, error.message.as_str()), (Class::RateLimited, "Rate limit reached"));
    assert_eq!(out, [ModelEvent::Usage(Usage { input: 5, output: 1, ..Usage::default() })]);
    for (event, class) in [
        (json!({ "type": "error", "code": "server_error", "message": "The server had an error", "param": null }), Class::ServerError),
        (json!({ "type": "error", "error": { "message": "overloaded", "code": 529 } }), Class::Overloaded),
        (json!({ "error": { "message": "overloaded", "code": 529 } }), Class::Overloaded),
        (json!({ "type": "response.failed", "response": { "error": null } }), Class::ServerError),
    ] {
        assert_eq!(stream(&[said(0, "m", "a"), event.clone()]), Err(class), "{event}");
    }
    assert_eq!(whole(&json!({ "error": { "message": "overloaded", "code": 529 }, "status": "failed" })), Err(Class::Overloaded));
    assert_eq!(read_all(Decoder::default(), b"data: {\"type\n\n").map_err(|error| error.class), Err(Class::Malformed));
}
