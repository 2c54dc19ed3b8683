//! What handlers take from a request, refused with the envelope when it is not well-formed.
//!
//! [`Body`] reads JSON within limits, [`Params`] the query, [`Id`] and [`Ids`] the path. Unknown fields of
//! bodies and queries are accepted and ignored, since clients of other versions send them; but not those of [`Filters`].

use std::io::Read;
use std::str::FromStr;

use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::{HeaderStyle, Parameter, ReferenceOr};
use aide::openapi::{MediaType, Operation, ParameterData, ParameterSchemaOrContent, PathStyle, RequestBody, SchemaObject};
use aide::operation::{ParamLocation, add_parameters, parameters_from_schema, set_body};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, OptionalFromRequest, Query, RawPathParams, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::AppState;
use super::dispatch::is_of_pages;
use super::problem::Problem;
use super::unique;
use crate::error::{self, Error, Kind, Problems, Result};
use crate::id::{
    AgentId, AssetId, BatchId, ClientTokenId, ConversationId, CronId, DeadLetterId, DeliveryId, EvalId, FlowId, FlowVersionId, JobId,
    KeyId, RecordId, RunId, ScheduleId, SecretId, ToolId, TriggerId, WebhookId,
};
use crate::offload::give_way;

/// How much of a body that is too large is read and forgotten, and for how long.
const DISCARD_BYTES: usize = 16 * 1024 * 1024;
const DISCARD_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// Maximum length of an id or a name in a path, in bytes; names of 200 characters fit. Longer texts do not reach the store.
const MAX_PATH_TEXT: usize = 1_024;

/// A JSON body. `raw` is the text it was read from, for comparing requests.
#[derive(Debug, Clone)]
pub struct Body<T> {
    pub value: T,
    pub raw: Bytes,
}

impl<T: DeserializeOwned> FromRequest<AppState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> std::result::Result<Self, Problem> {
        let raw = receive(request, state).await?;
        Ok(Self { value: parse_object(&raw, state.limits.body().depth)?, raw })
    }
}

/// A [`Body`] that may also come without a content type, or with the one that curl gives to `--data`: it is JSON all the same.
#[derive(Debug, Clone)]
pub struct UntypedBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for UntypedBody<T> {
    type Rejection = Problem;

    async fn from_request(mut request: Request, state: &AppState) -> std::result::Result<Self, Problem> {
        if is_untyped(request.headers()) {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        <Body<T> as FromRequest<AppState>>::from_request(request, state).await.map(|body| Self(body.value))
    }
}

/// Whether the content type is absent, or the one that curl gives to `--data` whatever it is.
pub fn is_untyped(headers: &HeaderMap) -> bool {
    matches!(media_type(headers).as_str(), "" | "application/x-www-form-urlencoded")
}

/// The content type without its parameters, in lower case; empty when there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    full.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// `None` when there is no body at all.
impl<T: DeserializeOwned> OptionalFromRequest<AppState> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> std::result::Result<Option<Self>, Problem> {
        if axum::body::HttpBody::is_end_stream(request.body()) {
            return Ok(None);
        }
        <Self as FromRequest<AppState>>::from_request(request, state).await.map(Some)
    }
}

/// The body's bytes: right type, within limits, inflated.
async fn receive(request: Request, state: &AppState) -> std::result::Result<Bytes, Problem> {
    let gzipped = coding(request.headers())?;
    require_json(request.headers())?;
    let of_pages = request.extensions().get::<MatchedPath>().is_some_and(|route| is_of_pages(route.as_str()));
    let (parts, body) = request.into_parts();
    let bytes = as_sent(&parts.headers, body, state).await?;
    let limits = state.limits.body();
    // Anyone may call the routes of pages, so a compressed body may not be larger than a plain one.
    let limit = if of_pages { limits.raw.min(limits.inflated) } else { limits.inflated };
    if !gzipped {
        return Ok(bytes);
    }
    let inflated = bytes.len().saturating_mul(MAX_GZIP_RATIO).min(limit);
    Ok(give_way(inflated, || inflate(&bytes, limit))?)
}

/// A body's bytes of whatever type, as they were sent, within the limits of size and time.
pub async fn as_sent(headers: &HeaderMap, mut body: axum::body::Body, state: &AppState) -> std::result::Result<Bytes, Problem> {
    let limits = state.limits.body();
    let too_long = declared(headers).is_some_and(|length| length > limits.raw as u64);
    // Who asks before sending has sent nothing yet.
    let unsent = too_long && headers.contains_key(EXPECT);
    let bytes = if too_long {
        Err(too_large(limits.raw))
    } else {
        tokio::select! {
            bytes = collect(&mut body, limits.raw) => bytes,
            () = state.clock.sleep(limits.time) => {
                let error = Error::new(Kind::Malformed, "body_too_slow", format!("the request body did not come within {:?}", limits.time));
                return Err(Problem::new(StatusCode::REQUEST_TIMEOUT, error));
            }
        }
    };
    if bytes.as_ref().is_err_and(|refused| refused.kind() == Kind::TooLarge) && !unsent {
        tokio::select! { () = discard(&mut body) => {}, () = state.clock.sleep(DISCARD_TIME) => {} }
    }
    Ok(bytes?)
}

async fn collect(body: &mut axum::body::Body, limit: usize) -> Result<Bytes> {
    let body = Limited::new(body, limit).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return too_large(limit);
        }
        Error::new(Kind::Malformed, "body_incomplete", "the request body broke off").because(error)
    })?;
    Ok(body.to_bytes())
}

/// Reads on and forgets: a client that writes its whole body before it reads would find the connection closed instead of
/// the reason.
async fn discard(body: &mut axum::body::Body) {
    let mut left = DISCARD_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// Whether the body is gzipped; other codings are refused.
fn coding(headers: &HeaderMap) -> std::result::Result<bool, Problem> {
    let Some(coding) = headers.get(CONTENT_ENCODING) else { return Ok(false) };
    match coding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(false),
        "gzip" | "x-gzip" => Ok(true),
        _ => {
            let error = Error::new(Kind::Malformed, "unsupported_content_encoding", "request bodies may be plain or gzip");
            Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
        }
    }
}

fn require_json(headers: &HeaderMap) -> std::result::Result<(), Problem> {
    let essence = media_type(headers);
    if essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json")) {
        return Ok(());
    }
    let error = Error::new(Kind::Malformed, "unsupported_media_type", "the request body must be JSON")
        .next("send `Content-Type: application/json`");
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
}

fn declared(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Error {
    Error::new(Kind::TooLarge, "body_too_large", format!("the request body is larger than {limit} bytes"))
        .details(serde_json::json!({ "limitBytes": limit }))
}

/// How much larger than its compressed form a text can be (zlib's technical details).
const MAX_GZIP_RATIO: usize = 1_032;
/// Maximum number of gzip members of a request body: an empty one is 20 bytes that decompress to nothing.
const MAX_GZIP_MEMBERS: usize = 1_000;

fn inflate(bytes: &[u8], limit: usize) -> Result<Bytes> {
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(4).min(limit));
    let wrong = |cause: std::io::Error| Error::new(Kind::Malformed, "invalid_gzip", "the request body is not valid gzip").because(cause);
    let mut rest = bytes;
    for _ in 0..MAX_GZIP_MEMBERS {
        let mut member = GzDecoder::new(rest);
        let room = limit.saturating_add(1).saturating_sub(out.len());
        member.by_ref().take(room as u64).read_to_end(&mut out).map_err(wrong)?;
        if out.len() > limit {
            return Err(too_large(limit));
        }
        rest = member.into_inner();
        if rest.is_empty() {
            return Ok(out.into());
        }
    }
    Err(Error::new(Kind::Malformed, "invalid_gzip", format!("the request body has more than {MAX_GZIP_MEMBERS} gzip members")))
}

/// Like [`parse_document`], but accepts only an object: serde would accept a list for a struct.
pub fn parse_object<T: DeserializeOwned>(text: &[u8], max_depth: usize) -> Result<T> {
    if text.trim_ascii_start().starts_with(b"{") {
        return parse_document(text, max_depth);
    }
    parse::<serde_json::Value>(text, max_depth)?;
    Err(Error::invalid_at("", "expected an object"))
}

/// Parses JSON: 400 if it is invalid, 413 if it nests too deep, 422 with a pointer if it does not fit. Of duplicate members the last one counts.
pub fn parse<T: DeserializeOwned>(text: &[u8], max_depth: usize) -> Result<T> {
    parse_with(text, max_depth, |reader| serde_path_to_error::deserialize(reader))
}

/// Like [`parse`], for bodies of this API: duplicate members are a 422 with a pointer, too.
pub fn parse_document<T: DeserializeOwned>(text: &[u8], max_depth: usize) -> Result<T> {
    parse_with(text, max_depth, |reader| unique::deserialize(reader))
}

type JsonReader<'t> = serde_json::Deserializer<serde_json::de::StrRead<'t>>;

fn parse_with<'t, T>(
    text: &'t [u8],
    max_depth: usize,
    deserialize: impl FnOnce(&mut JsonReader<'t>) -> Result<T, serde_path_to_error::Error<serde_json::Error>>,
) -> Result<T> {
    give_way(text.len(), || read_with(text, max_depth, deserialize))
}

fn read_with<'t, T>(
    text: &'t [u8],
    max_depth: usize,
    deserialize: impl FnOnce(&mut JsonReader<'t>) -> Result<T, serde_path_to_error::Error<serde_json::Error>>,
) -> Result<T> {
    not_deeper(text, max_depth)?;
    // JSON is UTF-8 (RFC 8259, section 8.1), also in members that nobody reads.
    let text = std::str::from_utf8(text).map_err(|cause| {
        Error::new(Kind::Malformed, "invalid_json", format!("the request body is not valid JSON: it is not UTF-8: {cause}"))
    })?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = deserialize(&mut reader).map_err(|error| {
        if error.inner().is_data() { Problems::from(error::Problem::misfit(&error)).into() } else { not_json(error.inner()) }
    })?;
    reader.end().map_err(|cause| not_json(&cause))?;
    Ok(value)
}

fn not_json(cause: &serde_json::Error) -> Error {
    Error::new(Kind::Malformed, "invalid_json", format!("the request body is not valid JSON: {cause}"))
}

/// Refuses (413) a JSON text that is nested deeper.
pub fn not_deeper(text: &[u8], max_depth: usize) -> Result<()> {
    if depth(text) > max_depth {
        return Err(Error::new(Kind::TooLarge, "body_too_deep", format!("the JSON is nested more than {max_depth} levels deep")));
    }
    Ok(())
}

/// How deep the brackets of a JSON text go. Wrong texts get some number; the parser refuses them.
pub fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for byte in text {
        if in_string {
            (in_string, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

impl<T: JsonSchema> OperationInput for Body<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let json_schema = context.schema.subschema_for::<T>();
        let schema = Some(SchemaObject { json_schema, external_docs: None, example: None });
        let content = [("application/json".to_owned(), MediaType { schema, ..MediaType::default() })].into_iter().collect();
        set_body(context, operation, RequestBody { content, required: true, ..RequestBody::default() });
    }
}

impl<T: JsonSchema> OperationInput for UntypedBody<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Body::<T>::operation_input(context, operation);
    }
}

/// The query's parameters.
#[derive(Debug, Clone)]
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Problem> {
        let Query(value) = Query::try_from_uri(&parts.uri)
            .map_err(|refused| Error::new(Kind::Malformed, "invalid_query", format!("the query does not fit: {}", refused.body_text())))?;
        Ok(Self(value))
    }
}

/// Marks an operation in the API document whose query may not contain unknown parameters.
pub const STRICT: &str = "x-strict-query";

/// A query that knows the names of its parameters.
pub trait Known: DeserializeOwned {
    const NAMES: &'static [&'static str];
}

/// The query of a list. Unknown parameters are refused: a misspelt filter would be ignored, and the list would contain everything.
#[derive(Debug, Clone)]
pub struct Filters<T>(pub T);

impl<T: Known, S: Sync> FromRequestParts<S> for Filters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Problem> {
        let mut problems = Problems::default();
        for (name, _) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            if !T::NAMES.contains(&&*name) {
                let nearest = T::NAMES.iter().max_by(|one, other| {
                    let nearness = |known: &str| strsim::jaro_winkler(known, &name);
                    nearness(one).total_cmp(&nearness(other))
                });
                let message =
                    format!("unknown parameter; did you mean `{}`? Known parameters: {}", nearest.unwrap_or(&""), T::NAMES.join(", "));
                problems.add(format!("/{}", error::pointer_token(&name)), message);
            }
        }
        problems.into_result()?;
        Params::from_request_parts(parts, state).await.map(|Params(value)| Self(value))
    }
}

impl<T: JsonSchema> OperationInput for Filters<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        Params::<T>::operation_input(context, operation);
        operation.extensions.insert(STRICT.into(), true.into());
    }
}

impl<T: JsonSchema> OperationInput for Params<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let schema = context.schema.subschema_for::<T>();
        let parameters = parameters_from_schema(context, schema, ParamLocation::Query);
        add_parameters(context, operation, parameters);
    }
}

/// What may stand in a path: each noun under one name in every route.
pub trait InPath: FromStr + JsonSchema + Send {
    /// The parameter's name in routes: `{flowId}`.
    const PARAM: &'static str;
    /// What is missing when nothing answers to the id.
    const NOUN: &'static str;

    /// The refusal: the same for a text that is no id and for an id of somebody else.
    fn missing() -> Error {
        Error::missing(Self::NOUN)
    }

    /// The refusal of a text that is no id, where a surface tells it from an id that nothing has.
    fn malformed() -> Error {
        Self::missing()
    }
}

/// The refusal of a text that is no id.
pub fn no_id(noun: &str) -> Error {
    Error::new(Kind::Malformed, "invalid_id", format!("this is no {noun}'s id"))
}

/// Ids of the admin surface, which tells texts that are none from ids that nothing has.
macro_rules! in_admin_path {
    ($($id:ty = $param:literal, $noun:literal;)*) => {$(
        impl InPath for $id {
            const PARAM: &'static str = $param;
            const NOUN: &'static str = $noun;

            fn missing() -> Error {
                Error::not_found(Self::NOUN)
            }

            fn malformed() -> Error {
                no_id(Self::NOUN)
            }
        }
    )*};
}

in_admin_path! {
    JobId = "jobId", "job";
    CronId = "cronId", "cron entry";
    DeadLetterId = "entryId", "dlq entry";
    TriggerId = "triggerId", "trigger";
    WebhookId = "webhookId", "webhook";
    DeliveryId = "deliveryId", "delivery";
}

macro_rules! in_path {
    ($($id:ty = $param:literal, $noun:literal;)*) => {$(
        impl InPath for $id {
            const PARAM: &'static str = $param;
            const NOUN: &'static str = $noun;
        }
    )*};
}

in_path! {
    FlowId = "flowId", "flow";
    AgentId = "agentId", "agent";
    FlowVersionId = "versionId", "version";
    RecordId = "recordId", "record";
    RunId = "executionId", "execution";
    KeyId = "keyId", "API key";
    SecretId = "secretId", "secret";
    ToolId = "toolId", "tool";
    ScheduleId = "scheduleId", "schedule";
    AssetId = "assetId", "file";
    BatchId = "batchId", "batch";
    EvalId = "evalId", "eval";
    ClientTokenId = "clientTokenId", "client token";
    ConversationId = "conversationId", "conversation";
}

/// The path's id.
#[derive(Debug, Clone, Copy)]
pub struct Id<T>(pub T);

/// The path's two ids.
#[derive(Debug, Clone, Copy)]
pub struct Ids<A, B>(pub A, pub B);

async fn read<T: InPath, S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<T> {
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| T::missing())?;
    let text = params.iter().find_map(|(name, value)| (name == T::PARAM).then_some(value)).ok_or_else(T::missing)?;
    if text.len() > MAX_PATH_TEXT {
        return Err(T::malformed());
    }
    text.parse().map_err(|_| T::malformed())
}

impl<T: InPath, S: Send + Sync> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Problem> {
        Ok(Self(read(parts, state).await?))
    }
}

impl<A: InPath, B: InPath, S: Send + Sync> FromRequestParts<S> for Ids<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Problem> {
        Ok(Self(read(parts, state).await?, read(parts, state).await?))
    }
}

fn parameter<T: JsonSchema>(context: &mut GenContext, name: &str, description: Option<&str>, required: bool) -> ParameterData {
    let json_schema = context.schema.subschema_for::<T>();
    ParameterData {
        name: name.into(),
        description: description.map(str::to_owned),
        required,
        deprecated: None,
        format: ParameterSchemaOrContent::Schema(SchemaObject { json_schema, external_docs: None, example: None }),
        example: None,
        examples: Default::default(),
        explode: None,
        extensions: Default::default(),
    }
}

fn document<T: InPath>(context: &mut GenContext, operation: &mut Operation) {
    let parameter_data = parameter::<T>(context, T::PARAM, None, true);
    operation.parameters.push(ReferenceOr::Item(Parameter::Path { parameter_data, style: PathStyle::Simple }));
}

impl<T: InPath> OperationInput for Id<T> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        document::<T>(context, operation);
    }
}

impl<A: InPath, B: InPath> OperationInput for Ids<A, B> {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        document::<A>(context, operation);
        document::<B>(context, operation);
    }
}

/// The `Idempotency-Key` header, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(pub Option<String>);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Longer keys are refused.
const LONGEST_IDEMPOTENCY_KEY: usize = 255;

/// The header's text, for the API document.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the header; the text itself is read as bytes")]
struct KeyText(#[schemars(length(min = 1, max = 255), regex(pattern = "^[!-~]+$"))] String);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Problem> {
        let Some(value) = parts.headers.get(IDEMPOTENCY_KEY) else { return Ok(Self(None)) };
        let key = value.as_bytes();
        if !(1..=LONGEST_IDEMPOTENCY_KEY).contains(&key.len()) || !key.iter().all(u8::is_ascii_graphic) {
            let message = format!("an Idempotency-Key has 1 to {LONGEST_IDEMPOTENCY_KEY} visible ASCII characters");
            return Err(Error::new(Kind::Malformed, "invalid_idempotency_key", message).into());
        }
        Ok(Self(Some(String::from_utf8_lossy(key).into_owned())))
    }
}

impl OperationInput for IdempotencyKey {
    fn operation_input(context: &mut GenContext, operation: &mut Operation) {
        let text =
            "Makes the call safe to repeat for 24 hours: the same key and body give the same answer, marked `Idempotency-Replayed: true`.";
        let parameter_data = parameter::<KeyText>(context, "Idempotency-Key", Some(text), false);
        operation.parameters.push(ReferenceOr::Item(Parameter::Header { parameter_data, style: HeaderStyle::Simple }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn gzip_members_without_content_are_counted() {
        use std::io::Write;

        let gzip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(inflate(&members, 7).unwrap(), "one two");
        assert_eq!(inflate(&members, 6).unwrap_err().code(), "body_too_large");
        assert_eq!(inflate(&gzip(b"").repeat(MAX_GZIP_MEMBERS + 1), 100).unwrap_err().code(), "invalid_gzip");
        assert_eq!(inflate(b"", 100).unwrap_err().code(), "invalid_gzip");
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (text, expected) in [("1", 0), ("[]", 1), (r#"{"a":[{"b":1}]}"#, 3), (r#"["[[[","\"[[",{}]"#, 2), (r#"["\\",[]]"#, 2)] {
            assert_eq!(depth(text.as_bytes()), expected, "{text}");
        }
    }

    #[derive(Debug, serde::Deserialize)]
    struct Sample {
        #[serde(rename = "a/b")]
        _items: Vec<std::collections::BTreeMap<String, u8>>,
    }

    #[test]
    fn a_member_that_an_object_has_twice_is_pointed_at() {
        let pointer = |text: &str| {
            let refused = parse_document::<serde_json::Value>(text.as_bytes(), 8).err()?;
            Some((refused.code().to_owned(), refused.problems().first()?.pointer.clone()))
        };
        for (text, at) in [
            (r#"{"a":1,"a":2}"#, "/a"),
            (r#"{"a":1,"\u0061":1}"#, "/a"),
            (r#"{"steps":{"a":{},"b":[1,{"c/d":1,"c/d":[]}]}}"#, "/steps/b/1/c~1d"),
        ] {
            assert_eq!(pointer(text), Some(("validation_failed".into(), at.to_owned())), "{text}");
            assert!(parse::<serde_json::Value>(text.as_bytes(), 8).is_ok(), "{text}");
        }
        for text in [r#"{"a":{"a":[{"a":1},{"a":1}]},"b":{"a":"a"}}"#, "[]", "\"a\"", "1.5", "null", "{}"] {
            let read = parse_document::<serde_json::Value>(text.as_bytes(), 8).ok();
            assert_eq!(read, serde_json::from_str(text).ok(), "{text}");
        }
        let twice = parse_document::<Sample>(br#"{"a/b":[{"x":1,"x":2}]}"#, 8).err();
        assert_eq!(twice.and_then(|error| error.problems().first().map(|problem| problem.pointer.clone())).as_deref(), Some("/a~1b/0/x"));
    }

    #[test]
    fn a_misfit_is_pointed_at() {
        let error = parse::<Sample>(json!({"a/b": [{"x": 1}, {"y~": "no"}]}).to_string().as_bytes(), 8).err();
        let pointer = error.as_ref().and_then(|error| error.problems().first()).map(|problem| problem.pointer.clone());
        assert_eq!(pointer.as_deref(), Some("/a~1b/1/y~0"));
        let code = |text: &str| parse::<Sample>(text.as_bytes(), 8).err().map(|error| error.code().to_owned());
        assert_eq!(code("{").as_deref(), Some("invalid_json"));
        assert_eq!(code("{\"a/b\":[]} x").as_deref(), Some("invalid_json"));
        assert_eq!(code(&"[".repeat(9)).as_deref(), Some("body_too_deep"));
    }
}
