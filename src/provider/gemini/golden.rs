//! Conversations and answers as bytes, both ways.

use serde_json::{Value, json};

use super::super::decode::Decoder;
use super::*;
use crate::provider::chat::{Effort, Sampling};
use crate::provider::error::Class;
use crate::provider::transport::{Decode, read_all};
use crate::provider::{Citation, Finish, ModelEvent, Usage};

fn written(chat: &ChatRequest, quirks: &Quirks) -> Value {
    serde_json::to_value(request(chat, quirks)).unwrap()
}

fn stream(text: &str) -> Result<Vec<ModelEvent>, Class> {
    read_all(Decoder::default(), text.as_bytes()).map_err(|error| error.class)
}

#[test]
fn a_whole_conversation_is_written() {
    let call = |id: &str, signature: Option<&str>| ToolCall {
        id: id.into(),
        name: "get".into(),
        arguments: "{\"a\":1}".into(),
        signature: signature.map(Into::into),
        ..ToolCall::default()
    };
    let calls = [call("c1", Some("s")), call("c2", None)];
    let mut asked = Message::assistant("On it.");
    asked.tool_calls = calls.to_vec();
    let mut failed = Message::tool(&calls[1], "no such city");
    failed.is_error = true;
    let mut user = Message::user("Look:");
    user.content.push(Part::image(Source::from_url("data:image/png;base64,AAAA")));
    let chat = ChatRequest {
        messages: vec![Message::system("Be brief."), user, asked, Message::tool(&calls[0], "{\"t\":42}"), failed],
        tools: vec![
            ToolSpec {
                name: "get".into(),
                description: "Gets.".into(),
                parameters: json!({ "type": "object", "properties": { "a": {} } }),
            },
            ToolSpec { name: "now".into(), description: "Now.".into(), parameters: json!({ "type": "object", "properties": {} }) },
        ],
        tool_choice: ToolChoice::Required,
        response_format: ResponseFormat::JsonSchema { name: "n".into(), schema: json!({ "type": "object" }), strict: false },
        sampling: Sampling { temperature: Some(0.5), top_k: Some(5), max_tokens: Some(9), ..Sampling::default() },
        reasoning: Some(Reasoning { enabled: true, effort: Some(Effort::Low), budget_tokens: None }),
        ..ChatRequest::default()
    };
    let expected = json!({
        "contents": [
            { "role": "user", "parts": [{ "text": "Look:" }, { "inlineData": { "mimeType": "image/png", "data": "AAAA" } }] },
            { "role": "model", "parts": [
                { "text": "On it." },
                { "functionCall": { "name": "get", "args": { "a": 1 } }, "thoughtSignature": "s" },
                { "functionCall": { "name": "get", "args": { "a": 1 } } },
            ] },
            { "role": "user", "parts": [
                { "functionResponse": { "name": "get", "response": { "t": 42 } } },
                { "functionResponse": { "name": "get", "response": { "error": "no such city" } } },
            ] },
        ],
        "systemInstruction": { "parts": [{ "text": "Be brief." }] },
        "tools": [{ "functionDeclarations": [
            { "name": "get", "description": "Gets.", "parametersJsonSchema": { "type": "object", "properties": { "a": {} } } },
            { "name": "now", "description": "Now." },
        ] }],
        "toolConfig": { "functionCallingConfig": { "mode": "ANY" } },
        "generationConfig": {
            "temperature": 0.5, "topK": 5, "maxOutputTokens": 2_057,
            "responseMimeType": "application/json", "responseJsonSchema": { "type": "object" },
            "thinkingConfig": { "includeThoughts": true, "thinkingBudget": 2_048 },
        },
    });
    assert_eq!(written(&chat, &Quirks::default()), expected);
}

#[test]
fn a_call_made_elsewhere_is_excused_from_its_seal() {
    let mut asked = Message::assistant("");
    asked.tool_calls = vec![ToolCall { name: "get".into(), arguments: "broken".into(), ..ToolCall::default() }; 2];
    let chat = ChatRequest { messages: vec![asked], ..ChatRequest::default() };
    let call = json!({ "name": "get", "args": { "invalid_arguments": "broken" } });
    let level = Quirks { reasoning: ReasoningStyle::Level, ..Quirks::default() };
    let expected = json!([{ "functionCall": call, "thoughtSignature": NO_SIGNATURE }, { "functionCall": call }]);
    assert_eq!(written(&chat, &level)["contents"][0]["parts"], expected);
}

const STREAM: &str = "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"hm\",\"thought\":true}],\"role\":\"model\"}}],\"usageMetadata\":{\"promptTokenCount\":10}}\r\n\r\n\
data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hello\"},{\"functionCall\":{\"name\":\"get\",\"args\":{\"a\":1}},\"thoughtSignature\":\"s\"}],\"role\":\"model\"}}]}\r\n\r\n\
data: {\"candidates\":[{\"content\":{\"parts\":[{\"functionCall\":{\"name\":\"now\"}}],\"role\":\"model\"},\"finishReason\":\"STOP\"}]}\r\n\r\n\
data: {\"usageMetadata\":{\"promptTokenCount\":10,\"candidatesTokenCount\":20,\"thoughtsTokenCount\":5,\"cachedContentTokenCount\":4,\"toolUsePromptTokenCount\":2}}\r\n\r\n";

fn expected() -> Vec<ModelEvent> {
    let delta = |index, delta: &str| ModelEvent::ToolCallDelta { index, delta: delta.into() };
    let start = |index, name: &str, signature: Option<&str>| ModelEvent::ToolCallStart {
        index,
        id: String::new(),
        name: name.into(),
        signature: signature.map(Into::into),
    };
    vec![
        ModelEvent::Reasoning("hm".into()),
        ModelEvent::Usage(Usage { input: 10, ..Usage::default() }),
        ModelEvent::Text("Hello".into()),
        start(0, "get", Some("s")),
        delta(0, "{\"a\":1}"),
        start(1, "now", None),
        delta(1, "{}"),
        ModelEvent::Finish(Finish::EndTurn),
        ModelEvent::Usage(Usage { input: 12, output: 25, cached_input: 4, reasoning: 5, ..Usage::default() }),
    ]
}

#[test]
fn a_stream_is_read() {
    assert_eq!(stream(STREAM), Ok(expected()));
}

#[test]
fn an_array_of_chunks_is_read_like_a_stream() {
    let chunks: Vec<&str> = STREAM.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let mut events = Vec::new();
    Decoder::default().whole(format!("[{}]", chunks.join(",\r\n")).as_bytes(), &mut events).unwrap();
    assert_eq!(events, expected());
}

#[test]
fn only_a_finish_reason_ends_an_answer() {
    let parts: Vec<&str> = STREAM.split_inclusive("\r\n\r\n").collect();
    assert_eq!(stream(&parts[..2].concat()), Err(Class::Cut));
    assert!(stream(&parts[..3].concat()).is_ok());
}

#[test]
fn blocks_and_errors_are_told_apart() {
    for (text, class) in [
        ("{\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}", Class::ContentFilter),
        ("{\"error\":{\"code\":503,\"message\":\"overloaded\",\"status\":\"UNAVAILABLE\"}}", Class::Overloaded),
        ("{\"candidates\":[{\"finishReason\":\"MALFORMED_FUNCTION_CALL\"}]}", Class::Malformed),
        ("[broken", Class::Malformed),
    ] {
        assert_eq!(stream(&format!("data: {text}\n\n")), Err(class), "{text}");
    }
}

#[test]
fn what_an_answer_rests_on_is_named() {
    let found =
        json!({ "groundingChunks": [{ "web": { "uri": "https://a.example/", "title": "A" } }, { "retrievedContext": {} }, { "web": {} }] });
    let answer =
        json!({ "candidates": [{ "content": { "parts": [{ "text": "Yes." }] }, "finishReason": "STOP", "groundingMetadata": found }] });
    let expected = vec![
        ModelEvent::Text("Yes.".into()),
        ModelEvent::Citation(Citation { url: "https://a.example/".into(), title: Some("A".into()) }),
        ModelEvent::Finish(Finish::EndTurn),
    ];
    assert_eq!(stream(&format!("data: {answer}\r\n\r\n")), Ok(expected));
}
