//! What each rule does to a conversation.

use serde_json::json;

use super::*;
use crate::provider::chat::{Effort, Message, Part, Reasoning, ResponseFormat, Sampling, Source, Thought, ToolCall, ToolChoice, ToolSpec};
use crate::provider::rules::{IdRule, JsonSupport, NameRule};

const STRICT: WireRules = WireRules {
    tool_name: NameRule { max_len: 12, extra: "-", letter_first: true },
    call_id: IdRule::Plain { max_len: 20 },
    max_description: 10,
    user_first: true,
    no_blank_text: true,
    images: &["image/png", "image/jpeg"],
    image_detail: false,
    files: &["application/pdf"],
    audio: false,
    video: false,
    url_schemes: WireRules::WEB,
    json: JsonSupport::Native,
    unknown_settings: &["seed"],
    signed_thoughts: true,
};

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.into(), signature: Some("sig".into()), ..ToolCall::default() }
}

fn asked(calls: &[ToolCall]) -> Message {
    let mut message = Message::assistant("");
    message.content = vec![Part::Reasoning(Thought { text: "hm".into(), signature: Some("seal".into()), redacted: false })];
    message.tool_calls = calls.to_vec();
    message.origin = Some("p/m".into());
    message.state = Some(json!({ "opaque": 1 }));
    message
}

fn prepared_for(origin: &str, chat: &ChatRequest, quirks: &Quirks, capabilities: &[Capability]) -> PreparedRequest {
    let target = RequestTarget { origin: origin.into(), rules: STRICT, quirks, capabilities };
    prepare(chat, &target).unwrap_or_else(|error| panic!("{error:?}"))
}

fn chat(messages: Vec<Message>) -> ChatRequest {
    ChatRequest { messages, ..ChatRequest::default() }
}

#[test]
fn state_goes_back_to_its_own_model_only() {
    let calls = [call("c1", "look", "{}")];
    let history = chat(vec![Message::user("Go"), asked(&calls), Message::tool(&calls[0], "seen")]);
    let own = prepared_for("p/m", &history, &Quirks::default(), &[]).request.messages;
    assert_eq!((own[1].content.len(), own[1].state.is_some(), own[1].tool_calls[0].signature.is_some()), (1, true, true));
    let other = prepared_for("q/n", &history, &Quirks::default(), &[]).request.messages;
    assert_eq!((other[1].content.len(), other[1].state.is_some(), other[1].tool_calls[0].signature.is_some()), (0, false, false));
}

#[test]
fn results_follow_their_calls_in_order_and_none_is_missing() {
    let calls = [call("c1", "look", "{}"), call("c2", "look", ""), call("c3", "look", "{\"a\":")];
    let history = chat(vec![
        Message::assistant("Hello."),
        asked(&calls),
        Message::tool(&calls[1], "two"),
        Message::user("Be quick"),
        Message::tool(&calls[0], "one"),
        Message { tool_call_id: Some("lost".into()), ..Message::tool(&calls[0], "orphan") },
    ]);
    let messages = prepared_for("q/n", &history, &Quirks::default(), &[]).request.messages;
    let shape: Vec<(Role, String)> = messages.iter().map(|message| (message.role, message.text())).collect();
    let expected = [
        (Role::User, "(The conversation begins.)"),
        (Role::Assistant, "Hello."),
        (Role::Assistant, ""),
        (Role::Tool, "one"),
        (Role::Tool, "two"),
        (Role::Tool, "This call was not answered."),
        (Role::User, "Be quick"),
        (Role::User, "Result of an earlier call of `look`:\norphan"),
    ];
    assert_eq!(shape, expected.map(|(role, text)| (role, text.to_owned())));
    let arguments: Vec<&str> = messages[2].tool_calls.iter().map(|call| call.arguments.as_str()).collect();
    assert_eq!(arguments, ["{}", "{}", "{\"invalid_arguments\":\"{\\\"a\\\":\"}"]);
}

#[test]
fn many_calls_are_paired_with_their_results() {
    let calls: Vec<ToolCall> = (0..10_000).map(|number| call(&format!("c{number}"), "look", "{}")).collect();
    let unnamed = Message { tool_call_id: None, ..Message::tool(&calls[9_999], "9999") };
    let named = calls.iter().take(9_999).enumerate().rev().map(|(number, call)| Message::tool(call, number.to_string()));
    let history = [Message::user("Go"), asked(&calls)].into_iter().chain(named).chain([unnamed, asked(&calls)]).collect();
    let messages = prepared_for("p/m", &chat(history), &Quirks::default(), &[]).request.messages;
    let texts: Vec<String> = messages.iter().filter(|message| message.role == Role::Tool).map(Message::text).collect();
    assert_eq!(texts.len(), 20_000);
    assert!(texts.iter().take(10_000).enumerate().all(|(number, text)| *text == number.to_string()));
    assert!(texts.iter().skip(10_000).all(|text| text == "This call was not answered."));
}

#[test]
fn ids_and_names_are_written_as_the_wire_takes_them_and_map_back() {
    let calls = [call("functions.look:0", "cart.add", "{}"), call("functions.look:0", "cart_add", "{}")];
    let tool =
        |name: &str| ToolSpec { name: name.into(), description: "A long description".into(), parameters: json!({ "type": "object" }) };
    let history = ChatRequest {
        tools: vec![tool("cart.add"), tool("cart_add"), tool("1st"), tool("a-very-long-name-indeed")],
        ..chat(vec![Message::user("Go"), asked(&calls), Message::tool(&calls[0], "a")])
    };
    let prepared = prepared_for("q/n", &history, &Quirks::default(), &[]);
    let names: Vec<&str> = prepared.request.tools.iter().map(|tool| tool.name.as_str()).collect();
    assert_eq!(names, ["cart_add_2", "cart_add", "_1st", "a-very-long-"]);
    for (sent, own) in names.iter().zip(["cart.add", "cart_add", "1st", "a-very-long-name-indeed"]) {
        assert_eq!(prepared.names.original((*sent).to_owned()), own);
    }
    assert_eq!(prepared.request.tools[0].description, "A long de…");
    assert_eq!(prepared.request.tools[0].parameters, json!({ "type": "object", "properties": {} }));
    let asked = &prepared.request.messages[1].tool_calls;
    assert_ne!(asked[0].id, asked[1].id);
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    assert!(asked.iter().all(|call| call.id.len() <= 20 && call.id.chars().all(plain)), "{asked:?}");
    let short = Quirks { short_call_ids: true, ..Quirks::default() };
    let asked = &prepared_for("q/n", &history, &short, &[]).request.messages[1].tool_calls;
    assert!(asked.iter().all(|call| call.id.len() == 9));
}

#[test]
fn json_is_asked_for_by_what_the_model_has() {
    let schema = json!({ "type": "object" });
    let with = |format: ResponseFormat, tools: bool| ChatRequest {
        response_format: format,
        tools: if tools { vec![ToolSpec { name: "look".into(), description: String::new(), parameters: json!({}) }] } else { Vec::new() },
        ..chat(vec![Message::user("Name a colour")])
    };
    let of_schema = || ResponseFormat::JsonSchema { name: "a".into(), schema: schema.clone(), strict: false };
    let outcome = |chat: &ChatRequest, quirks: &Quirks, capabilities: &[Capability]| {
        let request = prepared_for("q/n", chat, quirks, capabilities).request;
        (request.response_format, request.messages.iter().any(|message| message.role == Role::System))
    };
    let none = Quirks::default();
    assert_eq!(outcome(&with(ResponseFormat::Json, false), &none, &[]), (ResponseFormat::Json, true), "the word is needed");
    assert_eq!(outcome(&with(of_schema(), false), &none, &[]), (of_schema(), false));
    assert_eq!(outcome(&with(of_schema(), false), &none, &[Capability::Json]), (ResponseFormat::Json, true));
    assert_eq!(outcome(&with(of_schema(), false), &none, &[Capability::Tools]), (ResponseFormat::Text, true));
    let apart = Quirks { no_json_with_tools: true, ..Quirks::default() };
    assert_eq!(outcome(&with(of_schema(), true), &apart, &[]), (ResponseFormat::Text, true));
    assert_eq!(outcome(&with(of_schema(), false), &apart, &[]), (of_schema(), false));
}

#[test]
fn media_are_normalised_converted_or_refused() {
    let with = |part: Part| {
        let mut message = Message::user("Look");
        message.content.push(part);
        let target = RequestTarget { origin: "q/n".into(), rules: STRICT, quirks: &Quirks::default(), capabilities: &[] };
        prepare(&chat(vec![message]), &target)
            .map(|prepared| prepared.request.messages[0].content[1].clone())
            .map_err(|error| error.message.clone())
    };
    let data = |mime: &str, data: &str| Source::Data { mime: mime.into(), data: data.into() };
    let image = |mime: &str| Part::image(data(mime, "AAAA"));
    let file = |mime: &str, body: &str| Part::File { name: Some("a".into()), source: data(mime, body) };
    assert_eq!(with(image("IMAGE/JPG;name=a")), Ok(image("image/jpeg")));
    assert!(with(image("image/tiff")).unwrap_err().contains("image/tiff"));
    assert_eq!(with(file("text/csv", "YSxi")), Ok(Part::text("a:\na,b")));
    assert_eq!(with(file("application/pdf", "AAAA")), Ok(file("application/pdf", "AAAA")));
    assert!(with(file("application/zip", "AAAA")).is_err());
    assert!(with(file("video/mp4", "AAAA")).unwrap_err().contains("video"));
    let remote = |url: &str| Part::image(Source::remote(url));
    assert_eq!(with(remote("https://a.example/b.png")), Ok(remote("https://a.example/b.png")));
    assert!(with(remote("gs://bucket/b.png")).unwrap_err().contains("`gs:`"));
    assert!(with(Part::Audio { source: data("audio/wav", "AAAA") }).is_err());
}

#[test]
fn refused_settings_are_left_out_and_named() {
    let chat = ChatRequest {
        sampling: Sampling { temperature: Some(0.5), seed: Some(7), stop: vec!["END".into()], ..Sampling::default() },
        reasoning: Some(Reasoning { enabled: true, effort: Some(Effort::XHigh), budget_tokens: None }),
        tool_choice: ToolChoice::Required,
        tools: vec![ToolSpec { name: "look".into(), description: String::new(), parameters: json!({}) }],
        ..chat(vec![Message::user("Go")])
    };
    let quirks = Quirks { fixed_sampling: true, no_stop: true, efforts: vec!["low".into(), "high".into()], ..Quirks::default() };
    let prepared = prepared_for("q/n", &chat, &quirks, &[]);
    let named: Vec<&str> = prepared.adjustments.iter().map(|adjustment| adjustment.setting).collect();
    assert_eq!(named, ["reasoning.effort", "temperature", "seed", "stop", "toolCallStrategy"]);
    assert_eq!(prepared.request.sampling, Sampling::default());
    assert_eq!(prepared.request.reasoning.unwrap().effort, Some(Effort::High));
    assert_eq!(prepared.request.tool_choice, ToolChoice::Auto);
}

#[test]
fn a_model_that_takes_over_a_tool_loop_does_not_think_in_it() {
    let calls = [call("c1", "look", "{}")];
    let history = ChatRequest {
        reasoning: Some(Reasoning { enabled: true, effort: None, budget_tokens: None }),
        ..chat(vec![Message::user("Go"), asked(&calls), Message::tool(&calls[0], "seen")])
    };
    assert!(prepared_for("p/m", &history, &Quirks::default(), &[]).request.reasoning.is_some());
    let other = prepared_for("q/n", &history, &Quirks::default(), &[]);
    assert_eq!((other.request.reasoning, other.adjustments[0].setting), (None, "reasoning"));
}

#[test]
fn a_conversation_without_content_is_an_error() {
    let target = RequestTarget { origin: "q/n".into(), rules: STRICT, quirks: &Quirks::default(), capabilities: &[] };
    let blank = chat(vec![Message::system("Be brief."), Message::user("  ")]);
    let error = prepare(&blank, &target).map(|_| ()).unwrap_err();
    assert_eq!((error.class, error.sent), (Class::BadRequest, false));
}
