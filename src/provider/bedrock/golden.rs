//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::super::{model_url, read};
use super::*;
use crate::provider::chat::{Effort, Sampling, Thought, ToolCall};
use crate::provider::frames::tests::{event_frame, frame};
use crate::provider::transport::Decode;
use crate::provider::{Citation, Finish, ModelEvent, Usage};

const CLAUDE: &str = "us.anthropic.claude-sonnet-4-6";

fn written(chat: &ChatRequest, model: &str, quirks: &Quirks) -> Value {
    serde_json::to_value(request(chat, model, quirks).unwrap()).unwrap()
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.into(), name: "get".into(), arguments: "{\"a\":1}".into(), ..ToolCall::default() }
}

fn data(mime: &str, data: &str) -> Source {
    Source::Data { mime: mime.into(), data: data.into() }
}

#[test]
fn a_whole_conversation_is_written() {
    let calls = [call("c1"), call("c2")];
    let mut user = Message::user("Look:");
    user.content.push(Part::image(data("image/jpeg", "AAAA")));
    user.content.push(Part::File { name: Some("Q3_report.final.pdf".into()), source: data("application/pdf", "BBBB") });
    let mut asked = Message::assistant("On it.");
    asked.content.insert(0, Part::Reasoning(Thought { text: "hm".into(), signature: Some("s".into()), redacted: false }));
    asked.content.insert(1, Part::Reasoning(Thought { text: String::new(), signature: Some("eA==".into()), redacted: true }));
    asked.tool_calls = calls.to_vec();
    let mut shown = Message::tool(&calls[0], "42");
    shown.content.push(Part::image(data("image/png", "CCCC")));
    let mut failed = Message::tool(&calls[1], "no such city");
    failed.is_error = true;
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, shown, failed, Message::user("And?")],
        tools: vec![ToolSpec { name: "get".into(), description: "Gets.".into(), parameters: json!({ "type": "object" }) }],
        tool_choice: ToolChoice::Required,
        sampling: Sampling {
            temperature: Some(1.5),
            top_p: Some(0.5),
            top_k: Some(5),
            max_tokens: Some(100),
            stop: vec!["END".into(), " ".into()],
            ..Sampling::default()
        },
        response_format: ResponseFormat::JsonSchema { name: "an answer".into(), schema: json!({ "type": "object" }), strict: true },
        ..ChatRequest::default()
    };
    let expected = json!({
        "messages": [
            { "role": "user", "content": [
                { "text": "Look:" },
                { "image": { "format": "jpeg", "source": { "bytes": "AAAA" } } },
                { "document": { "name": "Q3 report final pdf", "format": "pdf", "source": { "bytes": "BBBB" } } },
            ] },
            { "role": "assistant", "content": [
                { "reasoningContent": { "reasoningText": { "text": "hm", "signature": "s" } } },
                { "reasoningContent": { "redactedContent": "eA==" } },
                { "text": "On it." },
                { "toolUse": { "toolUseId": "c1", "name": "get", "input": { "a": 1 } } },
                { "toolUse": { "toolUseId": "c2", "name": "get", "input": { "a": 1 } } },
            ] },
            { "role": "user", "content": [
                { "toolResult": { "toolUseId": "c1", "content": [
                    { "text": "42" },
                    { "image": { "format": "png", "source": { "bytes": "CCCC" } } },
                ] } },
                { "toolResult": { "toolUseId": "c2", "content": [{ "text": "no such city" }], "status": "error" } },
                { "text": "And?" },
            ] },
        ],
        "system": [{ "text": "Be brief." }],
        "inferenceConfig": { "maxTokens": 100, "temperature": 1.0, "stopSequences": ["END"] },
        "toolConfig": {
            "tools": [{ "toolSpec": { "name": "get", "description": "Gets.", "inputSchema": { "json": { "type": "object" } } } }],
            "toolChoice": { "any": {} },
        },
        "outputConfig": { "textFormat": {
            "type": "json_schema",
            "structure": { "jsonSchema": { "name": "ananswer", "schema": "{\"type\":\"object\"}" } },
        } },
        "additionalModelRequestFields": { "top_k": 5 },
    });
    assert_eq!(written(&chat, CLAUDE, &Quirks::default()), expected);
    let other = written(&chat, "mistral.mistral-large", &Quirks::default());
    let results = other["messages"][2]["content"].as_array().unwrap();
    let kinds: Vec<&String> = results.iter().flat_map(|block| block.as_object().unwrap().keys()).collect();
    assert_eq!(kinds, ["toolResult", "toolResult", "image", "text"]);
    assert_eq!((results[1]["toolResult"].get("status"), other.get("additionalModelRequestFields")), (None, None));
    assert_eq!(other["inferenceConfig"]["topP"], 0.5);
}

#[test]
fn tools_stay_described_while_the_conversation_has_calls() {
    let mut asked = Message::assistant("");
    asked.tool_calls = vec![call("c1"), call("c2")];
    let results = [Message::tool(&call("c1"), ""), Message::tool(&call("c2"), "2")];
    let mut chat = ChatRequest { messages: [vec![Message::user("Hi"), asked], results.to_vec()].concat(), ..ChatRequest::default() };
    let tools = written(&chat, CLAUDE, &Quirks::default())["toolConfig"]["tools"].clone();
    assert_eq!((tools.as_array().unwrap().len(), &tools[0]["toolSpec"]["name"]), (1, &json!("get")));
    let content = written(&chat, CLAUDE, &Quirks::default())["messages"][2]["content"][0]["toolResult"]["content"].clone();
    assert_eq!(content, json!([{ "text": "(The tool returned nothing.)" }]));
    chat.messages.truncate(1);
    chat.tools = vec![ToolSpec { name: "get".into(), description: String::new(), parameters: json!({ "type": "object" }) }];
    chat.tool_choice = ToolChoice::None;
    assert_eq!(written(&chat, CLAUDE, &Quirks::default()).get("toolConfig"), None);
}

#[test]
fn reasoning_is_asked_for_in_the_words_of_the_family() {
    let chat = ChatRequest {
        messages: vec![Message::user("Hi")],
        sampling: Sampling { temperature: Some(0.5), top_k: Some(5), max_tokens: Some(1_000), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled: true, effort: Some(Effort::Low), budget_tokens: None }),
        ..ChatRequest::default()
    };
    let asked = |model: &str, style: ReasoningStyle| {
        let request = written(&chat, model, &Quirks { reasoning: style, max_output: Some(64_000), ..Quirks::default() });
        (request["additionalModelRequestFields"].clone(), request["inferenceConfig"].clone())
    };
    assert_eq!(
        asked(CLAUDE, ReasoningStyle::Usual),
        (json!({ "thinking": { "type": "enabled", "budget_tokens": 2_048 } }), json!({ "maxTokens": 3_048 }))
    );
    assert_eq!(
        asked(CLAUDE, ReasoningStyle::Level),
        (json!({ "thinking": { "type": "adaptive" }, "output_config": { "effort": "low" } }), json!({ "maxTokens": 1_000 }))
    );
    let sampled = json!({ "maxTokens": 1_000, "temperature": 0.5 });
    assert_eq!(asked("openai.gpt-oss-120b-1:0", ReasoningStyle::Usual), (json!({ "reasoning_effort": "low" }), sampled.clone()));
    assert_eq!(asked("qwen.qwen3-32b-v1:0", ReasoningStyle::Object), (json!({ "reasoning_config": "low" }), sampled.clone()));
    assert_eq!(asked("qwen.qwen3-32b-v1:0", ReasoningStyle::Usual), (Value::Null, sampled.clone()));
    assert_eq!(asked("amazon.nova-pro-v1:0", ReasoningStyle::Usual), (Value::Null, sampled.clone()));
    let nova = json!({ "reasoningConfig": { "type": "enabled", "maxReasoningEffort": "low" } });
    assert_eq!(asked("us.amazon.nova-2-lite-v1:0", ReasoningStyle::Usual), (nova, sampled));
}

#[test]
fn media_that_cannot_be_sent_is_an_error() {
    let with = |part: Part| {
        let message = Message { content: vec![part], ..Message::user("") };
        request(&ChatRequest { messages: vec![message], ..ChatRequest::default() }, CLAUDE, &Quirks::default())
    };
    for part in [
        Part::image(Source::remote("https://a.example/x.png")),
        Part::image(data("image/tiff", "AAAA")),
        Part::File { name: None, source: data("application/zip", "AAAA") },
        Part::Audio { source: data("audio/wav", "AAAA") },
    ] {
        let error = with(part).unwrap_err();
        assert_eq!((error.class, error.sent), (Class::BadRequest, false));
    }
    let file = with(Part::File { name: None, source: Source::remote("s3://bucket/a.PDF") }).unwrap();
    let expected = json!([
        { "document": { "name": "Document", "format": "pdf", "source": { "s3Location": { "uri": "s3://bucket/a.PDF" } } } },
        { "text": "See the attached document." },
    ]);
    assert_eq!(serde_json::to_value(&file.messages[0].content).unwrap(), expected);
}

#[test]
fn documents_have_names_of_their_own() {
    let mut names = DocumentNames::default();
    let claimed = [Some("a/b  c.txt"), Some("a b c txt"), None, Some("\u{fc}")].map(|name| names.claim(name));
    assert_eq!(claimed, ["a b c txt", "a b c txt (2)", "Document", "Document (2)"]);
}

#[test]
fn a_model_is_one_segment_of_the_path() {
    let url = |model: &str| model_url("https://bedrock-runtime.us-east-1.amazonaws.com", model, "converse").unwrap();
    assert_eq!(url("amazon.nova-micro-v1:0"), "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-micro-v1%3A0/converse");
    assert!(url("arn:aws:bedrock:us-east-1:1:p/x").ends_with("/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ap%2Fx/converse"));
}

/// A stream of every kind of block.
fn events() -> Vec<(&'static str, Value)> {
    vec![
        ("messageStart", json!({ "role": "assistant", "p": "ab" })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 0, "delta": { "reasoningContent": { "text": "hm" } } })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 0, "delta": { "reasoningContent": { "signature": "s" } } })),
        ("contentBlockStop", json!({ "contentBlockIndex": 0 })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 1, "delta": { "reasoningContent": { "redactedContent": "eA==" } } })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 1, "delta": { "reasoningContent": { "redactedContent": "eQ==" } } })),
        ("contentBlockStop", json!({ "contentBlockIndex": 1 })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 2, "delta": { "text": "Hello" } })),
        ("contentBlockStop", json!({ "contentBlockIndex": 2 })),
        ("contentBlockStart", json!({ "contentBlockIndex": 3, "start": { "toolUse": { "toolUseId": "t", "name": "get" } } })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 3, "delta": { "toolUse": { "input": "{\"a\"" } } })),
        ("contentBlockDelta", json!({ "contentBlockIndex": 3, "delta": { "toolUse": { "input": ":1}" } } })),
        ("contentBlockStop", json!({ "contentBlockIndex": 3 })),
        ("somethingNew", json!({ "x": 1 })),
        ("messageStop", json!({ "stopReason": "tool_use" })),
        ("metadata", json!({ "usage": { "inputTokens": 10, "outputTokens": 25, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 5 } })),
    ]
}

fn framed(events: &[(&'static str, Value)]) -> Vec<u8> {
    events.iter().flat_map(|(name, payload)| event_frame(name, &payload.to_string())).collect()
}

const TOTAL: Usage = Usage { input: 45, output: 25, cached_input: 30, cache_write: 5, reasoning: 0, estimated: false };

fn expected() -> Vec<ModelEvent> {
    vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ReasoningEnd { signature: Some("s".into()), redacted: false },
        ModelEvent::ReasoningEnd { signature: Some("eHk=".into()), redacted: true },
        ModelEvent::Text("Hello".into()),
        ModelEvent::ToolCallStart { index: 0, id: "t".into(), name: "get".into(), signature: None },
        ModelEvent::ToolCallDelta { index: 0, delta: "{\"a\"".into() },
        ModelEvent::ToolCallDelta { index: 0, delta: ":1}".into() },
        ModelEvent::Finish(Finish::ToolCalls),
        ModelEvent::Usage(TOTAL),
    ]
}

#[test]
fn a_stream_is_read_in_both_framings() {
    assert_eq!(read(&framed(&events()), true).unwrap(), expected());
    let lines: Vec<String> = events().into_iter().map(|(name, payload)| format!("data: {}\n\n", json!({ name: payload }))).collect();
    assert_eq!(read(lines.concat().as_bytes(), true).unwrap(), expected());
}

#[test]
fn the_stop_reason_makes_a_stream_whole() {
    let all = events();
    for count in 0..all.len() {
        let outcome = read(&framed(&all[..count]), true).map(|events| events.len()).map_err(|error| error.class);
        let expected = if count == all.len() - 1 { Ok(8) } else { Err(Class::Cut) };
        assert_eq!(outcome, expected, "after {count} events");
    }
}

#[test]
fn only_known_reasons_are_a_success() {
    let ended = |reason: &str| read(&framed(&[("messageStop", json!({ "stopReason": reason }))]), true).map_err(|error| error.class);
    for (reason, finish) in [
        ("end_turn", Finish::EndTurn),
        ("stop_sequence", Finish::EndTurn),
        ("max_tokens", Finish::Length),
        ("model_context_window_exceeded", Finish::Length),
        ("guardrail_intervened", Finish::ContentFilter),
        ("content_filtered", Finish::ContentFilter),
    ] {
        assert_eq!(ended(reason), Ok(vec![ModelEvent::Finish(finish)]), "{reason}");
    }
    assert_eq!(ended("malformed_tool_use"), Err(Class::Malformed));
    assert_eq!(ended("something_new"), Err(Class::Cut));
    assert_eq!(read(&framed(&[("messageStop", json!({}))]), true).map_err(|error| error.class), Err(Class::Cut));
}

#[test]
fn an_exception_is_an_error() {
    for (kind, message, class) in [
        ("throttlingException", "Too many requests", Class::RateLimited),
        ("serviceUnavailableException", "Try later", Class::Overloaded),
        ("modelStreamErrorException", "The model failed", Class::ServerError),
        ("internalServerException", "Oops", Class::ServerError),
        ("modelTimeoutException", "Too slow", Class::TimeoutFirstByte),
        ("validationException", "Bad value", Class::BadRequest),
        ("validationException", "Input is too long for requested model.", Class::ContextLength),
    ] {
        let thrown = frame(&[(":message-type", "exception"), (":exception-type", kind)], &json!({ "message": message }).to_string());
        let error = read(&[event_frame("messageStart", "{}"), thrown].concat(), true).unwrap_err();
        assert_eq!((error.class, error.message.as_str()), (class, message), "{kind}");
    }
}

#[test]
fn a_whole_answer_gives_the_same_events() {
    let cited = json!({ "title": "A", "location": { "web": { "url": "https://a.example/" } } });
    let body = json!({
        "output": { "message": { "role": "assistant", "content": [
            { "reasoningContent": { "reasoningText": { "text": "hm", "signature": "s" } } },
            { "reasoningContent": { "redactedContent": "eHk=" } },
            { "type": "text", "text": "Hello" },
            { "citationsContent": { "content": [{ "text": "Yes." }], "citations": [cited, { "location": { "documentChar": {} } }] } },
            { "toolUse": { "toolUseId": "v", "name": "interpreter", "input": {}, "type": "server_tool_use" } },
            { "toolResult": { "toolUseId": "v", "content": [] } },
            { "toolUse": { "toolUseId": "t", "name": "get", "input": { "a": 1.0 } } },
        ] } },
        "stopReason": "tool_use",
        "usage": { "inputTokens": 10, "outputTokens": 25, "cacheReadInputTokens": 30, "cacheWriteInputTokens": 5 },
        "additionalModelResponseFields": "x",
    });
    let mut events = Vec::new();
    Decoder::default().whole(body.to_string().as_bytes(), &mut events).unwrap();
    let expected = vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::ReasoningEnd { signature: Some("s".into()), redacted: false },
        ModelEvent::ReasoningEnd { signature: Some("eHk=".into()), redacted: true },
        ModelEvent::Text("Hello".into()),
        ModelEvent::Text("Yes.".into()),
        ModelEvent::Citation(Citation { url: "https://a.example/".into(), title: Some("A".into()) }),
        ModelEvent::ToolCallStart { index: 0, id: "t".into(), name: "get".into(), signature: None },
        ModelEvent::ToolCallDelta { index: 0, delta: "{\"a\":1.0}".into() },
        ModelEvent::Usage(TOTAL),
        ModelEvent::Finish(Finish::ToolCalls),
    ];
    assert_eq!(events, expected);
}

#[test]
fn a_body_without_an_answer_is_an_error() {
    for (body, class) in [
        ("", Class::Empty),
        ("{}", Class::Malformed),
        ("{\"output\":{}}", Class::Malformed),
        ("{\"message\":\"The provided model identifier is invalid.\"}", Class::NotFound),
        ("{\"output\":{\"message\":{\"content\":[]}}}", Class::Cut),
    ] {
        let error = Decoder::default().whole(body.as_bytes(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.class, class, "{body}");
    }
}
