//! Content parts as chat APIs and SDKs write them.
//!
//! [`read_part`] turns one part into a [`ContentItem`]. A part that cannot be sent to a model is a [`Problem`] whose pointer begins at
//! the part.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::media::{MediaKind, read_media};
use crate::error::Problem;
use crate::provider::{ImageDetail, Part, Source, ToolCall, media_type_of_name};

/// What one content part of a caller's message holds.
#[derive(Debug, Clone, PartialEq)]
pub enum ContentItem {
    Content(Part),
    Call(ToolCall),
    Result(ToolResult),
    /// A call together with its result, as AI SDK pages keep them.
    CallWithResult(ToolCall, ToolResult),
    /// Another step of the assistant begins.
    StepBoundary,
    /// Reasoning without proof of its origin, sources and page data: no model reads them.
    Ignored,
}

/// The result of a tool call in a caller's history.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// The id of the call that it answers, if it names one.
    pub call_id: Option<String>,
    pub tool_name: Option<String>,
    pub content: Vec<Part>,
    pub is_error: bool,
}

/// Part types that can stand in a tool's result. A list of anything else is plain JSON.
const RESULT_TYPES: [&str; 18] = [
    "text",
    "input_text",
    "output_text",
    "image",
    "image_url",
    "image-data",
    "image-url",
    "input_image",
    "audio",
    "input_audio",
    "file",
    "file-data",
    "file-url",
    "input_file",
    "media",
    "document",
    "resource",
    "resource_link",
];

/// Reads one content part of OpenAI (chat and Responses), Anthropic, Gemini, the AI SDK (versions 4 to 6) or MCP.
pub fn read_part(value: &Value) -> Result<ContentItem, Problem> {
    let map = match value {
        Value::String(text) => return Ok(text_item(text)),
        Value::Object(map) => map,
        _ => return Err(problem("", "expected a content part: an object with a `type`, or a text")),
    };
    let Some(kind) = map.get("type") else { return read_gemini_part(map) };
    let Some(kind) = kind.as_str() else { return Err(problem("/type", "expected a text")) };
    match kind {
        "text" | "input_text" | "output_text" => Ok(text_item(required(map, "text")?)),
        "refusal" => Ok(text_item(required(map, "refusal")?)),
        "reasoning" | "thinking" | "redacted_thinking" | "source" | "source-url" | "source-document" => Ok(ContentItem::Ignored),
        "step-start" => Ok(ContentItem::StepBoundary),
        "image" | "image-data" | "image-url" => read_image(map),
        "image_url" | "input_image" => read_image_url(map),
        "document_url" | "video_url" => read_addressed_file(map, kind),
        "file" | "file-data" | "file-url" | "media" => read_file(map),
        "input_file" => read_uploaded_file(map),
        "document" => match map.get("source") {
            Some(source) => read_source(source, text(map, &["title"]), MediaKind::File),
            None => Err(problem("/source", "expected the source of the document")),
        },
        "audio" | "input_audio" => read_audio(map, kind),
        "resource" => read_resource(map),
        "resource_link" => {
            let uri = required(map, "uri")?;
            let name = text(map, &["title", "name"]).unwrap_or(uri);
            Ok(ContentItem::Content(Part::text(format!("[{name}]({uri})"))))
        }
        "tool_use" => Ok(ContentItem::Call(tool_call(required(map, "id")?, required(map, "name")?, map.get("input")))),
        "tool_result" => read_anthropic_result(map),
        "tool-call" if !map.contains_key("state") => {
            let arguments = map.get("input").or_else(|| map.get("args"));
            Ok(ContentItem::Call(tool_call(required(map, "toolCallId")?, required(map, "toolName")?, arguments)))
        }
        "tool-result" if !map.contains_key("state") => read_ai_result(map),
        "tool-invocation" if map.contains_key("toolInvocation") => match map.get("toolInvocation").and_then(Value::as_object) {
            Some(invocation) => read_invocation(invocation).map_err(|problem| problem.under("/toolInvocation")),
            None => Err(problem("/toolInvocation", "expected an object")),
        },
        "dynamic-tool" => read_page_tool(map, required(map, "toolName")?),
        other => read_other(map, other),
    }
}

fn read_other(map: &Map<String, Value>, kind: &str) -> Result<ContentItem, Problem> {
    if kind.starts_with("data-") {
        return Ok(ContentItem::Ignored);
    }
    match kind.strip_prefix("tool-") {
        Some(name) if !name.is_empty() && map.contains_key("toolCallId") => read_page_tool(map, name),
        _ => Err(problem("/type", format!("a part of type `{kind}` cannot be sent to a model; docs/agents.md lists the types that can"))),
    }
}

/// Reads a part of Gemini's format, which has no `type`: its kind is the name of its only member.
fn read_gemini_part(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    if map.get("thought") == Some(&Value::Bool(true)) {
        return Ok(ContentItem::Ignored);
    }
    if let Some(text) = text(map, &["text"]) {
        return Ok(text_item(text));
    }
    let member = |names: [&'static str; 2]| names.into_iter().find_map(|name| Some((name, map.get(name)?.as_object()?)));
    if let Some((name, blob)) = member(["inlineData", "inline_data"]) {
        let mime = text(blob, &["mimeType", "mime_type"]);
        let data = required(blob, "data").map_err(|problem| problem.under(&format!("/{name}")))?;
        return read_media(data, mime, None, MediaKind::File, &format!("/{name}/data"));
    }
    if let Some((name, file)) = member(["fileData", "file_data"]) {
        let mime = text(file, &["mimeType", "mime_type"]);
        let uri = text(file, &["fileUri", "file_uri"]).ok_or_else(|| problem(&format!("/{name}/fileUri"), "expected a text"))?;
        return read_media(uri, mime, None, MediaKind::File, &format!("/{name}/fileUri"));
    }
    if let Some((name, call)) = member(["functionCall", "function_call"]) {
        let tool = required(call, "name").map_err(|problem| problem.under(&format!("/{name}")))?;
        return Ok(ContentItem::Call(tool_call(text(call, &["id"]).unwrap_or_default(), tool, call.get("args"))));
    }
    if let Some((_, response)) = member(["functionResponse", "function_response"]) {
        let (content, is_error) = result_content(response.get("response").unwrap_or(&Value::Null))?;
        let (call_id, tool_name) = (owned(response, &["id"]), owned(response, &["name"]));
        return Ok(ContentItem::Result(ToolResult { call_id, tool_name, content, is_error }));
    }
    Err(problem("/type", "the part has no `type`"))
}

/// A text; one of white space only says nothing, and some models refuse it.
fn text_item(text: &str) -> ContentItem {
    if text.trim().is_empty() { ContentItem::Ignored } else { ContentItem::Content(Part::text(text)) }
}

fn read_image(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    if let Some(source) = map.get("source") {
        return read_source(source, None, MediaKind::Image);
    }
    let mime = text(map, &["mediaType", "mimeType", "media_type"]);
    let given = ["image", "data", "url"].into_iter().find(|name| map.contains_key(*name));
    let name = given.ok_or_else(|| problem("/image", "expected a picture: a URL, a `data:` URL or base64"))?;
    read_media(required(map, name)?, mime, None, MediaKind::Image, &format!("/{name}"))
}

/// Reads `image_url`, an object with a `url` or the URL itself.
fn read_image_url(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    match map.get("image_url") {
        Some(Value::String(url)) => {
            let detail = image_detail(map)?;
            Ok(with_detail(read_media(url, None, None, MediaKind::Image, "/image_url")?, detail))
        }
        Some(Value::Object(image)) => {
            let url = required(image, "url").map_err(|problem| problem.under("/image_url"))?;
            let detail = image_detail(image).map_err(|problem| problem.under("/image_url"))?;
            Ok(with_detail(read_media(url, None, None, MediaKind::Image, "/image_url/url")?, detail))
        }
        _ if map.contains_key("file_id") => Err(foreign_file("/file_id")),
        _ => Err(problem("/image_url", "expected a URL, or an object with a `url`")),
    }
}

/// How closely the model should look at a picture, in OpenAI's terms.
fn image_detail(map: &Map<String, Value>) -> Result<Option<ImageDetail>, Problem> {
    match map.get("detail") {
        None | Some(Value::Null) => Ok(None),
        Some(given) => match ImageDetail::deserialize(given) {
            Ok(detail) => Ok(Some(detail)),
            Err(_) => Err(problem("/detail", "expected `auto`, `low`, `high` or `original`")),
        },
    }
}

fn with_detail(item: ContentItem, wanted: Option<ImageDetail>) -> ContentItem {
    match item {
        ContentItem::Content(Part::Image { source, .. }) => ContentItem::Content(Part::Image { source, detail: wanted }),
        other => other,
    }
}

/// Reads `document_url` (Mistral) and `video_url` (OpenRouter, vLLM): a URL, or an object with a `url`.
fn read_addressed_file(map: &Map<String, Value>, kind: &str) -> Result<ContentItem, Problem> {
    let name = text(map, &["document_name"]);
    let (url, pointer) = match map.get(kind) {
        Some(Value::Object(file)) => (required(file, "url").map_err(|problem| problem.under(&format!("/{kind}")))?, format!("/{kind}/url")),
        _ => (required(map, kind)?, format!("/{kind}")),
    };
    // The type of the part gives the media type of a URL without a file extension.
    let mime = if media_type_of_name(url).is_some() {
        None
    } else if kind == "video_url" {
        Some("video/mp4")
    } else {
        Some("application/pdf")
    };
    read_media(url, mime, name, MediaKind::File, &pointer)
}

fn read_file(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    if let Some(file) = map.get("file").and_then(Value::as_object) {
        return read_uploaded_file(file).map_err(|problem| problem.under("/file"));
    }
    let mime = text(map, &["mediaType", "mimeType", "media_type"]);
    let file_name = text(map, &["filename", "name"]);
    let given = ["data", "url", "file"].into_iter().find(|name| map.contains_key(*name));
    let name = given.ok_or_else(|| problem("/data", "expected a file: base64 as `data`, or a `url`"))?;
    read_media(required(map, name)?, mime, file_name, MediaKind::File, &format!("/{name}"))
}

/// Reads a file of OpenAI's formats: `filename` beside `file_data` or `file_url`.
fn read_uploaded_file(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    let file_name = text(map, &["filename"]);
    let given = ["file_data", "file_url"].into_iter().find(|name| map.get(*name).is_some_and(|value| !value.is_null()));
    match given {
        Some(name) => read_media(required(map, name)?, None, file_name, MediaKind::File, &format!("/{name}")),
        None if map.contains_key("file_id") => Err(foreign_file("/file_id")),
        None => Err(problem("/file_data", "expected a file: a `data:` URL")),
    }
}

fn foreign_file(pointer: &str) -> Problem {
    problem(pointer, "a file id holds for one provider's account only; send the file itself, or its URL")
}

/// Reads the `source` of Anthropic's pictures and documents.
fn read_source(source: &Value, title: Option<&str>, kind: MediaKind) -> Result<ContentItem, Problem> {
    let Some(map) = source.as_object() else { return Err(problem("/source", "expected an object")) };
    let member = |name: &str| required(map, name).map_err(|problem| problem.under("/source"));
    let mime = text(map, &["media_type", "mediaType"]);
    match member("type")? {
        "base64" => read_media(member("data")?, mime, title, kind, "/source/data"),
        "url" => read_media(member("url")?, mime, title, kind, "/source/url"),
        "text" => plain_file(member("data")?, mime, title, "/source/data"),
        "content" if map.get("content").is_some_and(Value::is_string) => plain_file(member("content")?, mime, title, "/source/content"),
        "file" => Err(foreign_file("/source/file_id")),
        other => Err(problem("/source/type", format!("a source of type `{other}` cannot be sent; expected base64, url or text"))),
    }
}

fn plain_file(data: &str, mime: Option<&str>, title: Option<&str>, pointer: &str) -> Result<ContentItem, Problem> {
    if data.trim().is_empty() {
        return Err(problem(pointer, "the document is empty"));
    }
    let source = Source::from_text(mime.unwrap_or("text/plain"), data);
    Ok(ContentItem::Content(Part::File { name: title.map(str::to_owned), source }))
}

/// Reads audio as OpenAI writes it (`{data, format}` below the type's name), or as MCP does (`data` with `mimeType`).
fn read_audio(map: &Map<String, Value>, kind: &str) -> Result<ContentItem, Problem> {
    let Some(audio) = map.get(kind).and_then(Value::as_object) else {
        return read_media(required(map, "data")?, text(map, &["mimeType", "mediaType"]), None, MediaKind::Audio, "/data");
    };
    let data = required(audio, "data").map_err(|problem| problem.under(&format!("/{kind}")))?;
    let mime = text(audio, &["format"]).map(|format| format!("audio/{format}"));
    read_media(data, mime.as_deref(), None, MediaKind::Audio, &format!("/{kind}/data"))
}

/// Reads an embedded resource of MCP: a text, or bytes as `blob`.
fn read_resource(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    let Some(resource) = map.get("resource").and_then(Value::as_object) else { return Err(problem("/resource", "expected an object")) };
    if let Some(text) = text(resource, &["text"]) {
        return Ok(text_item(text));
    }
    let blob = required(resource, "blob").map_err(|problem| problem.under("/resource"))?;
    let name = text(resource, &["uri"]).and_then(|uri| uri.rsplit('/').next()).filter(|name| !name.is_empty());
    read_media(blob, text(resource, &["mimeType"]), name, MediaKind::File, "/resource/blob")
}

fn read_anthropic_result(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    let content = match map.get("content") {
        None | Some(Value::Null) => vec![Part::text("")],
        Some(Value::Array(parts)) => content_parts(parts).map_err(|problem| problem.under("/content"))?,
        Some(other) => result_content(other).map_err(|problem| problem.under("/content"))?.0,
    };
    let is_error = map.get("is_error").and_then(Value::as_bool).unwrap_or(false);
    Ok(ContentItem::Result(ToolResult { call_id: Some(required(map, "tool_use_id")?.to_owned()), tool_name: None, content, is_error }))
}

/// Reads a result of the AI SDK: `result` of version 4, or a typed `output` of later ones.
fn read_ai_result(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    let (name, given) = match (map.get("output"), map.get("result")) {
        (Some(output), _) => ("output", output),
        (None, Some(result)) => ("result", result),
        (None, None) => return Err(problem("/output", "expected the result of the call")),
    };
    let (content, failed) = typed_output(given).map_err(|problem| problem.under(&format!("/{name}")))?;
    let is_error = failed || map.get("isError").and_then(Value::as_bool).unwrap_or(false);
    let call_id = Some(required(map, "toolCallId")?.to_owned());
    Ok(ContentItem::Result(ToolResult { call_id, tool_name: owned(map, &["toolName"]), content, is_error }))
}

/// Reads `{type, value}`, the form of the AI SDK since version 5, or any other value.
fn typed_output(output: &Value) -> Result<(Vec<Part>, bool), Problem> {
    let plain = |value: &Value| vec![Part::text(plain_text(value))];
    match (output.get("type").and_then(Value::as_str), output.get("value")) {
        (Some("text" | "json"), Some(value)) => Ok((plain(value), false)),
        (Some("error-text" | "error-json"), Some(value)) => Ok((plain(value), true)),
        (Some("content"), Some(Value::Array(parts))) => Ok((content_parts(parts).map_err(|problem| problem.under("/value"))?, false)),
        (Some("execution-denied"), _) => {
            let reason = output.get("reason").and_then(Value::as_str).map(|reason| format!(": {reason}")).unwrap_or_default();
            Ok((vec![Part::text(format!("the user denied this call{reason}"))], true))
        }
        _ => result_content(output),
    }
}

/// Reads a tool part of an AI SDK page: the call, and its result once there is one.
fn read_page_tool(map: &Map<String, Value>, name: &str) -> Result<ContentItem, Problem> {
    let arguments = map.get("input").or_else(|| map.get("rawInput"));
    let call = tool_call(required(map, "toolCallId")?, name, arguments);
    let failed = |text: &str| (vec![Part::text(text)], true);
    let (content, is_error) = match text(map, &["state"]) {
        Some("output-available") => {
            result_content(map.get("output").unwrap_or(&Value::Null)).map_err(|problem| problem.under("/output"))?
        }
        Some("output-error") => failed(text(map, &["errorText"]).unwrap_or("the tool failed")),
        Some("output-denied") => failed("the user denied this call"),
        _ => return Ok(ContentItem::Call(call)),
    };
    let result = ToolResult { call_id: Some(call.id.clone()), tool_name: Some(name.to_owned()), content, is_error };
    Ok(ContentItem::CallWithResult(call, result))
}

/// Reads a tool invocation of an AI SDK 4 page.
pub fn read_invocation(map: &Map<String, Value>) -> Result<ContentItem, Problem> {
    let (id, name) = (required(map, "toolCallId")?, required(map, "toolName")?);
    let call = tool_call(id, name, map.get("args"));
    if text(map, &["state"]) != Some("result") {
        return Ok(ContentItem::Call(call));
    }
    let (content, is_error) = result_content(map.get("result").unwrap_or(&Value::Null)).map_err(|problem| problem.under("/result"))?;
    let result = ToolResult { call_id: Some(id.to_owned()), tool_name: Some(name.to_owned()), content, is_error };
    Ok(ContentItem::CallWithResult(call, result))
}

/// Reads one entry of an assistant's `tool_calls`, or its `function_call`.
pub fn read_call(value: &Value) -> Result<ContentItem, Problem> {
    let Some(call) = value.as_object() else { return Err(problem("", "expected an object")) };
    let (function, pointer) = match call.get("function").and_then(Value::as_object) {
        Some(function) => (function, "/function/name"),
        None => (call, "/name"),
    };
    let name = text(function, &["name", "toolName"]).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| problem(pointer, "expected the name of the tool that was called"))?;
    let id = text(call, &["id", "toolCallId", "call_id"]).unwrap_or_default();
    let arguments = ["arguments", "args", "input"].into_iter().find_map(|name| function.get(name));
    Ok(ContentItem::Call(tool_call(id, name, arguments)))
}

fn tool_call(id: &str, name: &str, arguments: Option<&Value>) -> ToolCall {
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) if text.trim().is_empty() => "{}".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    ToolCall { id: id.to_owned(), name: name.to_owned(), arguments, ..ToolCall::default() }
}

/// Reads the value of a tool's result: parts where it is made of them, as MCP results are, else its JSON text. `true` means that the
/// result says that the call failed.
pub fn result_content(value: &Value) -> Result<(Vec<Part>, bool), Problem> {
    if let Value::Array(parts) = value
        && is_part_list(parts)
    {
        return Ok((content_parts(parts)?, false));
    }
    match mcp_content(value) {
        Some(parts) => {
            let is_error = value.get("isError").and_then(Value::as_bool).unwrap_or(false);
            Ok((content_parts(parts).map_err(|problem| problem.under("/content"))?, is_error))
        }
        None => Ok((vec![Part::text(plain_text(value))], false)),
    }
}

/// The content of an MCP result: `{content: [{type, …}]}`.
pub fn mcp_content(value: &Value) -> Option<&[Value]> {
    value.get("content").and_then(Value::as_array).map(Vec::as_slice).filter(|parts| is_part_list(parts))
}

fn is_part_list(parts: &[Value]) -> bool {
    let is_part = |part: &Value| part.get("type").and_then(Value::as_str).is_some_and(|kind| RESULT_TYPES.contains(&kind));
    !parts.is_empty() && parts.iter().all(is_part)
}

/// Reads the parts of a result, which holds texts, pictures, files and audio only.
fn content_parts(parts: &[Value]) -> Result<Vec<Part>, Problem> {
    let mut content = Vec::with_capacity(parts.len());
    for (number, part) in parts.iter().enumerate() {
        match read_part(part).map_err(|problem| problem.under(&format!("/{number}")))? {
            ContentItem::Content(part) => content.push(part),
            ContentItem::Ignored | ContentItem::StepBoundary => {}
            ContentItem::Call(_) | ContentItem::Result(_) | ContentItem::CallWithResult(..) => {
                return Err(problem(&format!("/{number}/type"), "a tool's result holds texts, pictures, files and audio only"));
            }
        }
    }
    if content.is_empty() {
        content.push(Part::text(""));
    }
    Ok(content)
}

/// A text as it is, any other value as its JSON text.
fn plain_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The first of these members that is a text.
pub(super) fn text<'v>(map: &'v Map<String, Value>, names: &[&str]) -> Option<&'v str> {
    names.iter().find_map(|name| map.get(*name).and_then(Value::as_str))
}

/// The first of these members that is a text and not empty, to keep.
pub(super) fn owned(map: &Map<String, Value>, names: &[&str]) -> Option<String> {
    text(map, names).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn required<'v>(map: &'v Map<String, Value>, name: &str) -> Result<&'v str, Problem> {
    map.get(name).and_then(Value::as_str).ok_or_else(|| problem(&format!("/{name}"), "expected a text"))
}

pub(super) fn problem(pointer: &str, message: impl Into<String>) -> Problem {
    Problem { pointer: pointer.to_owned(), message: message.into() }
}
