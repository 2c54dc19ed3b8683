//! Every form of a message that is understood, and what is refused.

use serde_json::{Value, json};

use super::read::{check_literal_messages, check_messages, read_messages};
use crate::provider::{ImageDetail, Message, Part, Role, Source};

const PNG: &str = "iVBORw0KGgo=";
const PDF: &str = "JVBERi0xLjQ=";

fn data(mime: &str, data: &str) -> Source {
    Source::Data { mime: mime.into(), data: data.into() }
}

fn link(url: &str) -> Source {
    Source::remote(url)
}

fn image() -> Part {
    Part::image(data("image/png", PNG))
}

fn pdf(name: Option<&str>) -> Part {
    Part::File { name: name.map(str::to_owned), source: data("application/pdf", PDF) }
}

fn wav() -> Part {
    Part::Audio { source: data("audio/wav", "UklGRg==") }
}

#[test]
fn parts_of_every_dialect_are_read() {
    let png_url = format!("data:image/png;base64,{PNG}");
    let pdf_url = format!("data:application/pdf;base64,{PDF}");
    let cases = [
        (json!("plain"), Part::text("plain")),
        (json!({ "type": "text", "text": "a" }), Part::text("a")),
        (json!({ "type": "input_text", "text": "a" }), Part::text("a")),
        (json!({ "text": "a" }), Part::text("a")),
        (
            json!({ "type": "image_url", "image_url": { "url": png_url, "detail": "low" } }),
            Part::Image { source: data("image/png", PNG), detail: Some(ImageDetail::Low) },
        ),
        (json!({ "type": "image_url", "image_url": png_url }), image()),
        (json!({ "type": "input_image", "image_url": "https://a.example/b.png" }), Part::image(link("https://a.example/b.png"))),
        (json!({ "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": PNG } }), image()),
        (json!({ "type": "image", "source": { "type": "url", "url": "https://a.example/b" } }), Part::image(link("https://a.example/b"))),
        (json!({ "type": "image", "image": PNG, "mimeType": "image/png" }), image()),
        (json!({ "type": "image", "image": PNG, "mediaType": "IMAGE/PNG; x=1" }), image()),
        (json!({ "type": "image", "image": PNG }), image()),
        (json!({ "type": "image", "data": PNG, "mimeType": "image/png" }), image()),
        (json!({ "type": "file", "file": { "filename": "a.pdf", "file_data": pdf_url } }), pdf(Some("a.pdf"))),
        (json!({ "type": "input_file", "filename": "a.pdf", "file_data": PDF }), pdf(Some("a.pdf"))),
        (json!({ "type": "file", "data": PDF, "mediaType": "application/pdf", "filename": "a.pdf" }), pdf(Some("a.pdf"))),
        (json!({ "type": "file", "url": png_url, "mediaType": "image/png" }), image()),
        (json!({ "type": "file", "data": PNG, "mimeType": "image/png" }), image()),
        (
            json!({ "type": "document", "source": { "type": "base64", "media_type": "application/pdf", "data": PDF }, "title": "T" }),
            pdf(Some("T")),
        ),
        (
            json!({ "type": "document", "source": { "type": "text", "media_type": "text/plain", "data": "hi" } }),
            Part::File { name: None, source: data("text/plain", "aGk=") },
        ),
        (json!({ "type": "input_audio", "input_audio": { "data": "UklGRg==", "format": "wav" } }), wav()),
        (json!({ "type": "audio", "data": "UklGRg==", "mimeType": "audio/x-wav" }), wav()),
        (
            json!({ "type": "resource", "resource": { "uri": "file:///a.pdf", "mimeType": "application/pdf", "blob": PDF } }),
            pdf(Some("a.pdf")),
        ),
        (json!({ "type": "resource", "resource": { "uri": "file:///a", "text": "words" } }), Part::text("words")),
        (json!({ "type": "resource_link", "uri": "https://a.example/", "name": "A" }), Part::text("[A](https://a.example/)")),
        (json!({ "inlineData": { "mimeType": "image/png", "data": PNG } }), image()),
        (json!({ "inline_data": { "mime_type": "application/pdf", "data": PDF } }), pdf(None)),
        (
            json!({ "fileData": { "mimeType": "image/png", "fileUri": "gs://bucket/b" } }),
            Part::image(Source::Url { url: "gs://bucket/b".into(), mime: Some("image/png".into()) }),
        ),
        (
            json!({ "type": "video_url", "video_url": { "url": "https://a.example/b.mp4" } }),
            Part::File { name: None, source: link("https://a.example/b.mp4") },
        ),
        (
            json!({ "type": "document_url", "document_url": "https://a.example/b", "document_name": "B" }),
            Part::File {
                name: Some("B".into()),
                source: Source::Url { url: "https://a.example/b".into(), mime: Some("application/pdf".into()) },
            },
        ),
    ];
    for (given, wanted) in cases {
        let read =
            read_messages(&json!([{ "role": "user", "content": [given] }])).unwrap_or_else(|problems| panic!("{given}: {problems:?}"));
        assert_eq!(read.iter().map(|message| message.content.clone()).collect::<Vec<_>>(), [vec![wanted]], "{given}");
    }
}

#[test]
fn urls_of_data_are_normalised() {
    let cases = [
        ("data:image/jpg;base64,/9j/4AAQ", data("image/jpeg", "/9j/4AAQ")),
        ("data:image/png;name=a.png;base64,iVBORw0KGgo=", data("image/png", PNG)),
        ("DATA:IMAGE/PNG;BASE64,iVBORw0KGgo%3D", data("image/png", PNG)),
        ("data:image/png;base64,iVBOR\nw0KGgo=", data("image/png", PNG)),
        ("data:text/plain;charset=utf-8,a%20b", data("text/plain", "YSBi")),
        ("data:,hi", data("text/plain", "aGk=")),
        ("data:image/png", link("data:image/png")),
        ("https://a.example/b.png", link("https://a.example/b.png")),
    ];
    for (url, wanted) in cases {
        assert_eq!(Source::from_url(url), wanted, "{url}");
    }
}

/// A conversation in short: role, text, the calls' ids, names and arguments, and of results the call's id, the tool's name and whether it
/// failed.
fn shape(messages: &[Message]) -> Value {
    let one = |message: &Message| {
        let calls: Vec<Value> = message.tool_calls.iter().map(|call| json!([call.id, call.name, call.arguments])).collect();
        match message.role {
            Role::Assistant => json!(["assistant", message.text(), calls]),
            Role::Tool => json!(["tool", message.text(), message.tool_call_id, message.tool_name, message.is_error]),
            Role::User => json!(["user", message.text()]),
            Role::System => json!(["system", message.text()]),
        }
    };
    messages.iter().map(one).collect()
}

#[test]
fn calls_and_results_of_every_dialect_are_read() {
    let called = json!([
        ["user", "hi"],
        ["assistant", "look", [["c1", "f", "{\"a\":1}"]]],
        ["tool", "5", "c1", "f", false],
        ["assistant", "five", []]
    ]);
    let hi = json!({ "role": "user", "content": "hi" });
    let five = json!({ "role": "assistant", "content": "five" });
    let openai = json!({ "role": "assistant", "content": "look", "tool_calls": [
        { "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{\"a\":1}" } },
    ] });
    let cases = [
        json!([hi, openai, { "role": "tool", "tool_call_id": "c1", "content": "5" }, five]),
        json!([
            hi,
            { "role": "assistant", "content": [{ "type": "thinking", "thinking": "hm" }, { "type": "text", "text": "look" },
                { "type": "tool_use", "id": "c1", "name": "f", "input": { "a": 1 } }] },
            { "role": "user", "content": [{ "type": "tool_result", "tool_use_id": "c1", "content": [{ "type": "text", "text": "5" }] }] },
            five,
        ]),
        json!([
            hi,
            { "role": "assistant", "content": [{ "type": "reasoning", "text": "hm" }, { "type": "text", "text": "look" },
                { "type": "tool-call", "toolCallId": "c1", "toolName": "f", "input": { "a": 1 } }] },
            { "role": "tool", "content": [
                { "type": "tool-result", "toolCallId": "c1", "toolName": "f", "output": { "type": "json", "value": 5 } },
            ] },
            five,
        ]),
        json!([hi, { "role": "assistant", "parts": [
            { "type": "step-start" }, { "type": "text", "text": "look" },
            { "type": "tool-f", "toolCallId": "c1", "state": "output-available", "input": { "a": 1 }, "output": 5 },
            { "type": "step-start" }, { "type": "source-url", "sourceId": "s", "url": "https://a.example" },
            { "type": "text", "text": "five" },
        ] }]),
        json!([hi, { "role": "assistant", "content": "look", "toolInvocations": [
            { "state": "result", "toolCallId": "c1", "toolName": "f", "args": { "a": 1 }, "result": 5 },
        ] }, five]),
        json!([
            { "role": "user", "parts": [{ "text": "hi" }] },
            { "role": "model", "parts": [{ "text": "look" }, { "functionCall": { "id": "c1", "name": "f", "args": { "a": 1 } } }] },
            { "role": "function", "parts": [{ "functionResponse": { "id": "c1", "name": "f", "response": 5 } }] },
            { "role": "model", "parts": [{ "text": "five" }] },
        ]),
    ];
    for case in cases {
        assert_eq!(shape(&read_messages(&case).unwrap_or_else(|problems| panic!("{case}: {problems:?}"))), called, "{case}");
    }
}

#[test]
fn results_follow_their_calls() {
    let calls = json!({ "role": "assistant", "content": null, "tool_calls": [
        { "id": "a", "function": { "name": "f", "arguments": "" } }, { "id": "b", "function": { "name": "g", "arguments": { "n": 1 } } },
    ] });
    let assistant = json!(["assistant", "", [["a", "f", "{}"], ["b", "g", "{\"n\":1}"]]]);
    let cases = [
        (
            // Words between the call and its results.
            json!([calls, { "role": "user", "content": [
                { "type": "text", "text": "see" }, { "type": "tool_result", "tool_use_id": "a", "is_error": true },
                { "type": "tool_result", "tool_use_id": "b", "content": "2" },
            ] }]),
            json!([assistant, ["tool", "", "a", "f", true], ["tool", "2", "b", "g", false], ["user", "see"]]),
        ),
        (
            json!([calls, { "role": "user", "content": "wait" }, { "role": "tool", "tool_call_id": "a", "content": "1" },
                { "role": "tool", "tool_call_id": "b", "content": "2" }]),
            json!([assistant, ["tool", "1", "a", "f", false], ["tool", "2", "b", "g", false], ["user", "wait"]]),
        ),
        (
            // The old form of OpenAI, without ids.
            json!([
                { "role": "assistant", "content": "", "function_call": { "name": "f", "arguments": "{}" } },
                { "role": "function", "name": "f", "content": "1" },
            ]),
            json!([["assistant", "", [["call_0_1", "f", "{}"]]], ["tool", "1", "call_0_1", "f", false]]),
        ),
        (
            json!([{ "role": "assistant", "parts": [
                { "type": "dynamic-tool", "toolName": "f", "toolCallId": "a", "state": "output-error", "input": {}, "errorText": "no" },
                { "type": "tool-invocation", "toolInvocation": {
                    "state": "result", "toolCallId": "b", "toolName": "g", "args": {}, "result": { "n": 1 },
                } },
            ] }]),
            json!([
                ["assistant", "", [["a", "f", "{}"], ["b", "g", "{}"]]],
                ["tool", "no", "a", "f", true],
                ["tool", "{\"n\":1}", "b", "g", false]
            ]),
        ),
    ];
    for (case, wanted) in cases {
        assert_eq!(shape(&read_messages(&case).unwrap_or_else(|problems| panic!("{case}: {problems:?}"))), wanted, "{case}");
    }
    let shown = json!([calls, { "role": "tool", "tool_call_id": "a", "content": [
        { "type": "text", "text": "seen" }, { "type": "image", "data": PNG, "mimeType": "image/png" },
    ] }]);
    assert_eq!(read_messages(&shown).unwrap()[1].content, [Part::text("seen"), image()]);
}

#[test]
fn empty_texts_of_assistants_are_left_out() {
    let said = json!([{ "role": "system", "content": "" }, { "role": "assistant", "content": "" },
        { "role": "assistant", "content": [{ "type": "text", "text": "" }] },
        { "role": "user", "content": [{ "type": "text", "text": "" }, { "type": "text", "text": "hi" }], "createdAt": "now" }]);
    assert_eq!(shape(&read_messages(&said).unwrap()), json!([["user", "hi"]]));
    assert!(read_messages(&json!("")).unwrap().is_empty());
}

#[test]
fn what_cannot_be_sent_is_named() {
    let user = |part: Value| json!({ "role": "user", "content": [part] });
    let cases = [
        (json!("hi"), ""),
        (json!({ "role": "critic", "content": "x" }), "/role"),
        (json!({ "role": "user", "content": "" }), "/content"),
        (json!({ "role": "user" }), "/content"),
        (json!({ "role": "user", "parts": [{ "type": "data-x", "data": 1 }] }), "/parts"),
        (json!({ "role": "assistant", "content": [{ "type": "reasoning", "text": "hm" }] }), "/content"),
        (json!({ "role": "assistant", "tool_calls": [{ "id": "a", "function": {} }] }), "/tool_calls/0/function/name"),
        (json!({ "role": "assistant", "content": [{ "type": "image", "image": PNG }] }), "/content/0"),
        (json!({ "role": "system", "content": [{ "type": "image", "image": PNG }] }), "/content/0"),
        (json!({ "role": "tool", "content": "5" }), "/tool_call_id"),
        (user(json!(7)), "/content/0"),
        (user(json!({ "type": "video_url", "video_url": {} })), "/content/0/video_url/url"),
        (
            user(json!({ "type": "image_url", "image_url": { "url": "https://a.example/b.png", "detail": "close" } })),
            "/content/0/image_url/detail",
        ),
        (user(json!({ "type": "hologram" })), "/content/0/type"),
        (user(json!({ "type": "image", "image": "" })), "/content/0/image"),
        (user(json!({ "type": "image", "image": "ftp://a.example/b.png" })), "/content/0/image"),
        (user(json!({ "type": "image", "image": "not a picture" })), "/content/0/image"),
        (user(json!({ "type": "image", "image": "AAAA" })), "/content/0/image"),
        (user(json!({ "type": "image_url", "image_url": { "url": "data:image/png;base64," } })), "/content/0/image_url/url"),
        (user(json!({ "type": "file", "file": { "file_id": "file_1" } })), "/content/0/file/file_id"),
        (user(json!({ "type": "image", "source": { "type": "file", "file_id": "file_1" } })), "/content/0/source/file_id"),
    ];
    for (message, pointer) in cases {
        let problems = check_messages(&[json!({ "role": "user", "content": "hi" }), message.clone()]).unwrap_err();
        let pointers: Vec<&str> = problems.0.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(pointers, [format!("/1{pointer}")], "{message}");
    }
}

#[test]
fn messages_with_templates_are_judged_when_they_are_filled_in() {
    let messages = json!([{ "role": "user", "content": "{{words}}" },
        { "role": "user", "content": [{ "type": "image", "image": "{{picture}}" }] }, "{{more}}",
        { "role": "user", "content": "" }, { "role": "function", "name": "f", "content": "1" }]);
    let problems = check_literal_messages(messages.as_array().unwrap());
    assert_eq!(problems.0.iter().map(|problem| problem.pointer.as_str()).collect::<Vec<_>>(), ["/3/content"]);
}

#[test]
fn the_results_of_many_calls_are_placed() {
    const CALLS: usize = 5_000;
    let calls: Vec<Value> =
        (0..CALLS).map(|number| json!({ "id": format!("c{number}"), "function": { "name": "f", "arguments": "{}" } })).collect();
    let asked = json!({ "role": "assistant", "tool_calls": calls });
    let unnamed = (0..CALLS).map(|number| json!({ "role": "function", "name": "f", "content": number.to_string() }));
    let named = (0..CALLS).map(|number| json!({ "role": "tool", "tool_call_id": format!("c{number}"), "content": number.to_string() }));
    for results in [unnamed.collect::<Vec<Value>>(), named.collect()] {
        let list: Vec<Value> = [asked.clone(), json!({ "role": "user", "content": "hi" })].into_iter().chain(results).collect();
        let read = read_messages(&Value::Array(list)).unwrap();
        assert_eq!((read.len(), read[CALLS + 1].role), (CALLS + 2, Role::User));
        for (number, result) in read[1..=CALLS].iter().enumerate() {
            assert_eq!((result.tool_call_id.as_deref(), result.text()), (Some(&*format!("c{number}")), number.to_string()));
        }
    }
}

#[test]
fn results_without_ids_answer_open_calls_of_their_tool() {
    let call = |id: &str, name: &str| json!({ "id": id, "function": { "name": name, "arguments": "{}" } });
    let list = json!([
        { "role": "function", "name": "f", "tool_call_id": "z", "content": "0" },
        { "role": "assistant", "tool_calls": [call("a", "f"), call("b", "g"), call("c", "f")] },
        { "role": "function", "name": "g", "content": "1" },
        { "role": "tool", "tool_call_id": "a", "content": "2" },
        { "role": "tool", "tool_call_id": "x", "content": "3" },
        { "role": "function", "name": "f", "content": "4" },
    ]);
    let read = read_messages(&list).unwrap();
    let placed: Vec<(Option<&str>, String)> = read.iter().map(|message| (message.tool_call_id.as_deref(), message.text())).collect();
    let text = str::to_owned;
    assert_eq!(
        placed,
        [
            (Some("z"), text("0")),
            (None, text("")),
            (Some("b"), text("1")),
            (Some("a"), text("2")),
            (Some("x"), text("3")),
            (Some("c"), text("4"))
        ]
    );
    let more = json!([{ "role": "assistant", "tool_calls": [call("a", "f")] }, { "role": "function", "name": "f", "content": "1" },
        { "role": "function", "name": "f", "content": "2" }]);
    assert_eq!(read_messages(&more).unwrap_err().0[0].pointer, "/2/tool_call_id");
}
