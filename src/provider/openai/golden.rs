//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::*;
use crate::provider::chat::{Effort, Sampling, Thought, ToolCall, ToolSpec};
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
    let call =
        ToolCall { id: "c1".into(), name: "get".into(), arguments: "{\"a\":1}".into(), signature: Some("s".into()), ..ToolCall::default() };
    let mut asked = Message::assistant("");
    asked.content = vec![Part::Reasoning(Thought { text: "hm".into(), ..Thought::default() })];
    asked.tool_calls = vec![call.clone()];
    let mut user = Message::user("Look:");
    user.content.push(Part::image(Source::from_url("data:image/png;base64,AAAA")));
    user.content.push(Part::File { name: Some("a.pdf".into()), source: Source::from_url("data:application/pdf;base64,BBBB") });
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, Message::tool(&call, "42")],
        tools: vec![ToolSpec { name: "get".into(), description: "Gets.".into(), parameters: json!({ "type": "object" }) }],
        tool_choice: ToolChoice::Required,
        response_format: ResponseFormat::JsonSchema { name: "out".into(), schema: json!({ "type": "object" }), strict: true },
        sampling: Sampling {
            temperature: Some(0.5),
            top_k: Some(5),
            max_tokens: Some(9),
            seed: Some(7),
            stop: vec!["END".into()],
            ..Sampling::default()
        },
        stream: true,
        ..ChatRequest::default()
    };
    let expected = json!({
        "model": "m",
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [
                { "type": "text", "text": "Look:" },
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } },
                { "type": "file", "file": { "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB" } },
            ] },
            { "role": "assistant", "content": null, "tool_calls": [
                { "id": "c1", "type": "function", "function": { "name": "get", "arguments": "{\"a\":1}" } },
            ] },
            { "role": "tool", "content": "42", "tool_call_id": "c1" },
        ],
        "tools": [{ "type": "function", "function": { "name": "get", "description": "Gets.", "parameters": { "type": "object" } } }],
        "tool_choice": "required",
        "response_format": { "type": "json_schema", "json_schema": { "name": "out", "schema": { "type": "object" }, "strict": true } },
        "temperature": 0.5,
        "seed": 7,
        "max_tokens": 9,
        "stop": ["END"],
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    assert_eq!(written(&chat, &Quirks::default()), expected);
}

#[test]
fn quirks_change_what_is_written() {
    let chat = ChatRequest {
        messages: vec![Message::user("Hi")],
        sampling: Sampling { temperature: Some(0.5), top_k: Some(5), max_tokens: Some(9), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled: true, effort: Some(Effort::High), budget_tokens: None }),
        stream: true,
        ..ChatRequest::default()
    };
    let quirks = Quirks {
        max_tokens_field: MaxTokensField::MaxCompletionTokens,
        fixed_sampling: true,
        top_k: true,
        no_stream_options: true,
        ..Quirks::default()
    };
    let messages = json!([{ "role": "user", "content": "Hi" }]);
    let expected = json!({
        "model": "m", "messages": messages, "top_k": 5, "max_completion_tokens": 9, "reasoning_effort": "high", "stream": true,
    });
    assert_eq!(written(&chat, &quirks), expected);
    let object = Quirks { reasoning: ReasoningStyle::Object, ..Quirks::default() };
    assert_eq!(written(&chat, &object)["reasoning"], json!({ "effort": "high" }));
    let none = Quirks { reasoning: ReasoningStyle::None, ..Quirks::default() };
    assert_eq!(written(&chat, &none).get("reasoning_effort"), None);
}

#[test]
fn images_of_a_tool_are_shown_by_the_user() {
    let call = ToolCall { id: "c1".into(), ..ToolCall::default() };
    let mut result = Message::tool(&call, "seen");
    result.content.push(Part::image(Source::from_url("https://h/i.png")));
    let chat = ChatRequest { messages: vec![result], ..ChatRequest::default() };
    let expected = json!([
        { "role": "tool", "content": "seen", "tool_call_id": "c1" },
        { "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "https://h/i.png" } }] },
    ]);
    assert_eq!(written(&chat, &Quirks::default())["messages"], expected);
}

#[test]
fn a_stream_with_parallel_calls_and_late_usage_is_read() {
    let text = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}

data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}

data: {"choices":[{"index":0,"delta":{"content":"Hel"}}]}

data: {"choices":[{"index":0,"delta":{"content":"lo"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"a","type":"function","function":{"name":"f","arguments":""}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"b","type":"function","function":{"name":"g","arguments":"{"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":"}},{"index":1,"function":{"arguments":"}"}}]}}]}

data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":3}}}

data: [DONE]

"#;
    let delta = |index, delta: &str| ModelEvent::ToolCallDelta { index, delta: delta.into() };
    let start = |index, id: &str, name: &str| ModelEvent::ToolCallStart { index, id: id.into(), name: name.into(), signature: None };
    let early = Usage { input: 1, output: 1, ..Usage::default() };
    let last = Usage { input: 10, output: 20, cached_input: 4, reasoning: 3, ..Usage::default() };
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::Text("Hel".into()),
        ModelEvent::Text("lo".into()),
        ModelEvent::Usage(early),
        start(0, "a", "f"),
        start(1, "b", "g"),
        delta(1, "{"),
        delta(0, "{\"x\":"),
        delta(1, "}"),
        delta(0, "1}"),
        ModelEvent::Finish(Finish::ToolCalls),
        ModelEvent::Usage(last),
        ModelEvent::State(json!({ "member": "reasoning_content" })),
    ];
    assert_eq!(stream(text), Ok(expected));
}

#[test]
fn servers_that_number_every_call_zero_are_understood() {
    let text = r#"data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"f","arguments":"{}"}}]}}]}

data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"b","function":{"name":"f","arguments":{"y":2}}}]},"finish_reason":"stop"}]}

"#;
    let calls: Vec<ModelEvent> = stream(text).unwrap();
    let started = calls.iter().filter(|event| matches!(event, ModelEvent::ToolCallStart { .. })).count();
    assert_eq!(started, 2);
    assert!(calls.contains(&ModelEvent::ToolCallDelta { index: 1, delta: "{\"y\":2}".into() }));
}

#[test]
fn an_end_is_believed_only_with_its_mark() {
    let said = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let stopped = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    assert_eq!(stream(said), Err(Class::Cut));
    assert!(stream(&format!("{said}data: [DONE]\n\n")).is_ok());
    assert!(stream(&format!("{said}{stopped}")).is_ok(), "some servers leave out [DONE]");
}

#[test]
fn errors_inside_a_stream_are_errors() {
    let said = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    for (tail, class) in [
        ("data: {\"error\":{\"message\":\"overloaded\",\"code\":529}}\n\n", Class::Overloaded),
        ("event: error\ndata: {\"message\":\"Rate limit reached\"}\n\n", Class::RateLimited),
        ("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n", Class::ServerError),
        ("data: {\"x_groq\":{\"error\":\"boom\"}}\n\n", Class::ServerError),
        ("data: {\"choices\n\n", Class::Malformed),
    ] {
        assert_eq!(stream(&format!("{said}{tail}")), Err(class), "{tail}");
    }
}

#[test]
fn a_whole_answer_gives_the_same_events() {
    let body = json!({
        "choices": [{ "index": 0, "finish_reason": "tool_calls", "message": {
            "role": "assistant", "content": null, "reasoning": "hm",
            "tool_calls": [{ "id": "a", "type": "function", "function": { "name": "f", "arguments": "{}" } }],
        } }],
        "usage": { "prompt_tokens": 10, "completion_tokens": 2, "prompt_cache_hit_tokens": 6 },
    });
    let mut events = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut events).unwrap();
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ToolCallStart { index: 0, id: "a".into(), name: "f".into(), signature: None },
        ModelEvent::ToolCallDelta { index: 0, delta: "{}".into() },
        ModelEvent::Finish(Finish::ToolCalls),
        ModelEvent::Usage(Usage { input: 10, output: 2, cached_input: 6, ..Usage::default() }),
    ];
    assert_eq!(events, expected);
}

#[test]
fn what_an_answer_rests_on_is_named() {
    let body = json!({
        "choices": [{ "index": 0, "finish_reason": "stop", "message": { "content": "Yes.", "annotations": [
            { "type": "url_citation", "url_citation": { "url": "https://a.example/", "title": "A" } },
            { "type": "url_citation", "url_citation": { "url": "javascript:alert(1)" } },
            { "type": "file_citation" }, 3,
        ] } }],
        "citations": ["https://b.example/", 7, "ftp://c.example/"],
    });
    let mut whole = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut whole).unwrap();
    let cited = |url: &str, title: Option<&str>| ModelEvent::Citation(Citation { url: url.into(), title: title.map(Into::into) });
    let expected = vec![
        ModelEvent::Text("Yes.".into()),
        cited("https://a.example/", Some("A")),
        ModelEvent::Finish(Finish::EndTurn),
        cited("https://b.example/", None),
    ];
    assert_eq!(whole, expected);
    let chunk = body.to_string().replace("\"message\"", "\"delta\"");
    assert_eq!(stream(&format!("data: {chunk}\n\ndata: [DONE]\n\n")), Ok(expected));
}
