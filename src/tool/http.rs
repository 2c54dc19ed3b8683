//! An HTTP call as data: templates for its parts, sent through the egress door, answered as a value.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Clock;
use crate::error::{Error, Kind, Problems, Result};
use crate::expr::script::Sandbox;
use crate::expr::{Insert, Language, Missing, Reads, Scope, Template, TemplateTree, secret_named, text_of};
use crate::net::{self, Deadlines, Egress, HeaderText, Request, Trust, retry_after};
use crate::offload::give_way;
use crate::secret::{REDACTED, Redactor, Secret};
use crate::tool::Effect;
pub use crate::tool::answer::HttpAnswer;
use crate::tool::answer::kept_headers;
use crate::tool::url::{Joined, join};

/// Largest answer unless the caller sets another limit, in bytes after inflation.
pub const MAX_ANSWER: u64 = 10 * 1024 * 1024;
/// Largest answer to a workflow.
pub const MAX_REPLY: u64 = 5 * 1024 * 1024;
/// Longest address, and longest headers together, in bytes.
const LONGEST_HEAD: usize = 64 * 1024;
/// Longest body that is shown.
const LONGEST_SHOWN: usize = 8 * 1024;

/// A call as documents write it. Every text is a template.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpConfig {
    /// A value at the very start is the address; elsewhere values are percent-encoded and stay in their part of the URL.
    pub url: String,
    /// `GET` unless said otherwise.
    pub method: String,
    pub headers: Map<String, Value>,
    /// Added to the URL's query.
    pub query: Map<String, Value>,
    /// A text, or JSON whose strings are templates; with the content type `application/x-www-form-urlencoded` an object goes out as a form.
    /// Ignored for GET, HEAD and DELETE.
    pub body: Option<Value>,
    pub auth: Option<AuthConfig>,
    /// What may happen when the answer is lost: `idempotent` calls are repeated with the same `Idempotency-Key`,
    /// `once` calls wait for a person to say what became of them. POST and PATCH are `once` unless declared.
    pub effect: Option<Effect>,
}

/// Credentials of a call.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthConfig {
    /// `none`, `bearer`, `basic` or `api_key`.
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(alias = "value", alias = "apiKey", alias = "key")]
    pub token: String,
    pub username: String,
    pub password: String,
    /// The header of an `api_key`.
    #[serde(alias = "header")]
    pub header_name: Option<String>,
}

/// How values enter the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A flow's step: values enter as they read; a missing one is empty.
    Step,
    /// A tool: `{{param}}` in a body enters as JSON; a missing one stays as it was written.
    Tool,
    /// A workflow's step: texts are in the language of paths, a body keeps the type that it comes to, redirects are answers.
    Workflow,
}

impl Mode {
    fn language(self) -> Language {
        if self == Self::Workflow { Language::Paths } else { Language::Fields }
    }
}

#[derive(Debug, Clone)]
enum BodyTemplate {
    Text(Template),
    Json(TemplateTree),
}

impl BodyTemplate {
    fn uses_secrets(&self) -> bool {
        match self {
            Self::Text(template) => template.uses_secrets(),
            Self::Json(tree) => tree.uses_secrets(),
        }
    }
}

#[derive(Debug, Clone)]
enum AuthTemplate {
    Bearer(Template),
    Basic(Template, Template),
    Header(String, Template),
}

/// A compiled call.
#[derive(Debug, Clone)]
pub struct HttpTemplate {
    method: Method,
    url: Template,
    headers: Vec<(String, Template)>,
    query: Vec<(String, Template)>,
    body: Option<BodyTemplate>,
    auth: Option<AuthTemplate>,
    effect: Effect,
    mode: Mode,
}

/// A call ready to be sent.
pub struct HttpCall {
    request: Request,
    pub unresolved: Vec<String>,
    /// What secrets became on their way into the call: a callee that says it back is not repeated.
    scrub: Redactor,
    /// An answer that is no text is kept whole, in base64.
    binary: bool,
}

impl HttpTemplate {
    /// Compiles a call; pointers of problems are relative to the configuration.
    pub fn compile(config: &HttpConfig, mode: Mode) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let method = if config.method.is_empty() { "GET".to_owned() } else { config.method.to_uppercase() };
        if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].contains(&method.as_str()) {
            problems.add("/method", format!("`{method}` is not supported; one of GET, HEAD, POST, PUT, PATCH, DELETE"));
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::GET);
        if config.url.trim().is_empty() {
            problems.add("/url", "expected an http or https URL");
        }
        let language = mode.language();
        let url = parse(&mut problems, "/url", &config.url, language);
        let headers = parse_map(&mut problems, "/headers", &config.headers, language);
        let query = parse_map(&mut problems, "/query", &config.query, language);
        let takes_body = !matches!(method, Method::GET | Method::HEAD) && (mode == Mode::Workflow || method != Method::DELETE);
        let body = config.body.as_ref().filter(|body| takes_body && !body.is_null()).and_then(|body| match body {
            Value::String(text) if mode != Mode::Workflow => parse(&mut problems, "/body", text, language).map(BodyTemplate::Text),
            other => match TemplateTree::parse_in(other, language) {
                Ok(tree) => Some(BodyTemplate::Json(tree)),
                Err(faults) => {
                    faults.0.into_iter().for_each(|fault| problems.add(format!("/body{}", fault.pointer), fault.message));
                    None
                }
            },
        });
        let auth = config.auth.as_ref().and_then(|auth| compile_auth(auth, &mut problems));
        let effect =
            config.effect.unwrap_or(if matches!(method, Method::POST | Method::PATCH) { Effect::Once } else { Effect::Idempotent });
        if mode == Mode::Workflow && !takes_body && config.body.is_some() {
            problems.add("/body", format!("{method} takes no body"));
        }
        match url {
            Some(url) if problems.0.is_empty() => Ok(Self { method, url, headers, query, body, auth, effect, mode }),
            _ => Err(problems),
        }
    }

    /// What may happen when an answer is lost.
    pub const fn effect(&self) -> Effect {
        self.effect
    }

    /// Everything that its templates read.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        let texts = self.headers.iter().chain(&self.query).map(|(_, template)| template);
        texts.chain([&self.url]).for_each(|template| reads.add(template.reads()));
        match &self.body {
            Some(BodyTemplate::Text(template)) => reads.add(template.reads()),
            Some(BodyTemplate::Json(tree)) => reads.add(tree.reads()),
            None => {}
        }
        reads
    }

    /// What the blocks in its body come to, for [`HttpTemplate::render_around`].
    pub async fn blocks(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<Vec<Value>> {
        match &self.body {
            Some(BodyTemplate::Json(tree)) => tree.blocks(scope, sandbox).await,
            Some(BodyTemplate::Text(_)) | None => Ok(Vec::new()),
        }
    }

    /// Fills the templates in. Error `secret_missing`: a secret that it names is not there. `key` goes out as `Idempotency-Key` with everything but GET and HEAD.
    pub fn render(&self, scope: &Scope<'_>, key: &str, budget: Duration) -> Result<HttpCall> {
        self.render_around(scope, key, budget, &[])
    }

    /// [`HttpTemplate::render`] with what the blocks in the body came to.
    pub fn render_around(&self, scope: &Scope<'_>, key: &str, budget: Duration, blocks: &[Value]) -> Result<HttpCall> {
        let (missing, insert) = match self.mode {
            Mode::Step | Mode::Workflow => (Missing::Empty, Insert::Text),
            Mode::Tool => (Missing::KeepPlaceholder, Insert::Json),
        };
        let (pieces, mut unresolved) = self.url.pieces(scope, missing)?;
        secrets_are_there(&unresolved)?;
        let Joined { mut url, encoded: mut derived } = join(&pieces, &self.method)?;
        // The fragment is not sent, and the query is added before it.
        if let Some(fragment) = url.find('#') {
            url.truncate(fragment);
        }
        let reads = self.reads();
        for secret in reads.secrets.iter().chain(&reads.managed).filter_map(|name| scope.secret(name)) {
            derived.extend(spellings(secret.expose()));
        }
        let mut text = |template: &Template, insert: Insert| -> Result<String> {
            let rendered = template.render_with(scope, missing, insert)?;
            unresolved.extend(rendered.unresolved);
            Ok(match rendered.value {
                Value::String(text) => text,
                other => text_of(&other),
            })
        };
        for (name, value) in &self.query {
            let secret = value.uses_secrets();
            let value = text(value, Insert::Text)?;
            if secret {
                derived.push(Secret::new(::url::form_urlencoded::byte_serialize(value.as_bytes()).collect::<String>()));
            }
            let pair = ::url::form_urlencoded::Serializer::new(String::new()).append_pair(name, &value).finish();
            url = format!("{url}{}{pair}", if url.contains('?') { '&' } else { '?' });
        }
        let mut request = Request::new(self.method.clone(), url, Trust::Judged);
        request.max_bytes = MAX_ANSWER;
        if self.mode == Mode::Workflow {
            request.max_bytes = MAX_REPLY;
            request.max_redirects = 0;
        }
        request.deadlines = Deadlines { first_byte: budget, total: budget, ..request.deadlines };
        for (name, value) in &self.headers {
            let secret = value.uses_secrets();
            let value = text(value, Insert::Text)?;
            let value = if secret { HeaderText::Secret(Secret::new(value)) } else { HeaderText::Plain(value) };
            request.headers.push((name.clone(), value));
        }
        match &self.auth {
            Some(AuthTemplate::Bearer(token)) => {
                let token = text(token, Insert::Text)?;
                request = request.header("authorization", Secret::new(format!("Bearer {token}")));
            }
            Some(AuthTemplate::Basic(user, password)) => {
                let pair = format!("{}:{}", text(user, Insert::Text)?, text(password, Insert::Text)?);
                let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
                derived.push(Secret::new(encoded.clone()));
                request = request.header("authorization", Secret::new(format!("Basic {encoded}")));
            }
            Some(AuthTemplate::Header(name, value)) => {
                let value = text(value, Insert::Text)?;
                request = request.header(name, Secret::new(value));
            }
            None => {}
        }
        let mut is_json = matches!(self.body, Some(BodyTemplate::Json(_)));
        let body = match &self.body {
            Some(BodyTemplate::Text(template)) => Some(text(template, insert)?),
            Some(BodyTemplate::Json(tree)) => {
                let rendered = tree.render_around(scope, blocks)?;
                unresolved.extend(rendered.unresolved);
                let form = request.headers.iter().any(|(name, value)| is_form(name, value));
                match rendered.value {
                    Value::Null if self.mode == Mode::Workflow => None,
                    Value::String(text) if self.mode == Mode::Workflow => {
                        is_json = false;
                        Some(text)
                    }
                    value if form => Some(urlencoded(&value)),
                    value => Some(value.to_string()),
                }
            }
            None => None,
        };
        secrets_are_there(&unresolved)?;
        let spoken = |value: &HeaderText| match value {
            HeaderText::Plain(text) => text.len(),
            HeaderText::Secret(secret) => secret.expose().len(),
        };
        let length: usize = request.headers.iter().map(|(name, value)| name.len() + spoken(value)).sum();
        if length > LONGEST_HEAD || request.url.len() > LONGEST_HEAD {
            let message = format!("a call's address, and its headers together, have {LONGEST_HEAD} bytes at most");
            return Err(Error::new(Kind::Invalid, "call_too_large", message).next("send what is large in the body"));
        }
        let has = |request: &Request, name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if let Some(body) = body {
            if !has(&request, "content-type") {
                let json = is_json || self.mode != Mode::Workflow && body.trim_start().starts_with(['{', '[']);
                request = request.header("content-type", if json { "application/json" } else { "text/plain; charset=utf-8" });
            }
            request.body = Some(Bytes::from(body));
            request.body_is_secret = self.body.as_ref().is_some_and(BodyTemplate::uses_secrets);
        }
        if !matches!(self.method, Method::GET | Method::HEAD) && !has(&request, "idempotency-key") {
            request = request.header("idempotency-key", key);
        }
        if !has(&request, "user-agent") {
            request = request.header("user-agent", concat!("dispatch/", env!("CARGO_PKG_VERSION")));
        }
        Ok(HttpCall { request, unresolved, scrub: Redactor::new(derived), binary: self.mode == Mode::Workflow })
    }
}

/// A secret as it may come back: as it is, in a form, in a JSON text, there with slashes escaped.
fn spellings(text: &str) -> [Secret; 4] {
    let form: String = ::url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    let json = Value::String(text.to_owned()).to_string();
    let json = json.get(1..json.len().saturating_sub(1)).unwrap_or_default().to_owned();
    let slashed = json.replace('/', "\\/");
    [text.to_owned(), form, json, slashed].map(Secret::new)
}

fn leaves(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
        Value::Object(fields) => fields.values().for_each(|item| leaves(item, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_form(name: &str, value: &HeaderText) -> bool {
    let form = |text: &String| text.trim().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded");
    name.eq_ignore_ascii_case("content-type") && matches!(value, HeaderText::Plain(text) if form(text))
}

/// An object as a form: its members as texts, those of a list one after the other.
fn urlencoded(value: &Value) -> String {
    let mut form = ::url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in value.as_object().into_iter().flatten() {
        let text = |value: &Value| if value.is_null() { value.to_string() } else { text_of(value) };
        match value {
            Value::Null => {}
            Value::Array(values) => {
                for value in values {
                    form.append_pair(name, &text(value));
                }
            }
            value => {
                form.append_pair(name, &text(value));
            }
        }
    }
    form.finish()
}

/// A call without its credentials is not the call that was meant: it does not go out.
fn secrets_are_there(unresolved: &[String]) -> Result<()> {
    let missing: BTreeSet<&str> = unresolved.iter().filter_map(|name| secret_named(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let message = format!("the call needs the secrets {names}, which are not there: neither sent in `secrets` nor kept");
    Err(Error::new(Kind::Invalid, "secret_missing", message))
}

/// Where a call goes and with what credentials, without what it says.
#[derive(Debug, Clone)]
pub struct Head {
    pub url: String,
    pub headers: Vec<(String, HeaderText)>,
    /// What secrets became on their way into it.
    pub scrub: Redactor,
}

impl HttpCall {
    /// Limits the size of the response, in bytes.
    #[must_use]
    pub fn with_max_response(mut self, bytes: u64) -> Self {
        self.request.max_bytes = bytes;
        self
    }

    /// The address is the operator's own.
    pub(super) const fn of_operator(&mut self) {
        self.request.trust = Trust::Operator;
    }

    pub(super) fn without_credentials(&mut self) {
        self.request.headers.retain(|(_, value)| matches!(value, HeaderText::Plain(_)));
    }

    /// Appends segments to the path. Error `invalid_url`: one leads elsewhere.
    pub(super) fn append(&mut self, segments: &[&str]) -> Result<()> {
        let refused = |why: &str| Error::new(Kind::Invalid, "invalid_url", why.to_owned());
        if segments.is_empty() {
            return Ok(());
        }
        if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
            return Err(refused("a path may not have the segments `.` and `..`"));
        }
        let mut url = net::parse_url(&self.request.url).map_err(|error| refused(&error.to_string()))?;
        url.path_segments_mut().map_err(|()| refused("the address has no path"))?.pop_if_empty().extend(segments);
        self.request.url = url.into();
        Ok(())
    }

    /// Leaves members of a JSON body out that came to null or to an empty list.
    pub(super) fn leave_nothings_out(&mut self) {
        let read = |body: &Bytes| give_way(body.len(), || serde_json::from_slice::<Map<String, Value>>(body).ok());
        let body = self.request.body.as_ref().and_then(read);
        if let Some(mut body) = body {
            body.retain(|_, value| !value.is_null() && value.as_array().is_none_or(|items| !items.is_empty()));
            self.request.body = Some(Bytes::from(Value::Object(body).to_string()));
        }
    }

    pub fn method(&self) -> &str {
        self.request.method.as_str()
    }

    pub fn url(&self) -> &str {
        &self.request.url
    }

    pub fn body(&self) -> &[u8] {
        self.request.body.as_deref().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&HeaderText> {
        self.request.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// What is made of these values is not repeated: every text in them.
    pub fn hide(&mut self, values: &Value) {
        let mut texts = Vec::new();
        leaves(values, &mut texts);
        self.scrub = self.scrub.with(texts.into_iter().flat_map(|text| spellings(&text)));
    }

    /// Sets a header, unless the call has one of this name.
    pub fn add_header(&mut self, name: &str, value: impl Into<HeaderText>) {
        if !self.request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
            self.request.headers.push((name.to_owned(), value.into()));
        }
    }

    /// Sets a header, whatever the call had of this name.
    pub fn set_header(&mut self, name: &str, value: impl Into<HeaderText>) {
        self.request.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.request.headers.push((name.to_owned(), value.into()));
    }

    /// The call as it may be shown: method, URL, headers and a body that is not too long, without credentials.
    pub fn shown(&self) -> Value {
        let headers = self.request.headers.iter().map(|(name, value)| {
            let shown = match value {
                HeaderText::Plain(text) if !is_credential(name) => self.scrub.text(text),
                HeaderText::Plain(_) | HeaderText::Secret(_) => REDACTED.to_owned(),
            };
            (name.to_ascii_lowercase(), Value::String(shown))
        });
        let mut shown = Map::new();
        shown.insert("method".into(), self.request.method.as_str().into());
        shown.insert("url".into(), self.scrub.text(&self.request.url).into());
        shown.insert("headers".into(), Value::Object(headers.collect()));
        if let Some(body) = self.request.body.as_ref().filter(|body| body.len() <= LONGEST_SHOWN) {
            // Parse JSON before redacting it: a redacted text might not parse.
            let text = String::from_utf8_lossy(body);
            let mut body = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
            self.scrub.value(&mut body);
            shown.insert("body".into(), body);
        }
        Value::Object(shown)
    }

    /// For what speaks a protocol of its own to the same place.
    pub fn into_head(self) -> Head {
        Head { url: self.request.url, headers: self.request.headers, scrub: self.scrub }
    }

    /// Sends the call and reads the whole response, without the secrets of the call and the ones in `known`.
    pub async fn send(self, egress: &Egress, clock: &Clock, known: &Redactor) -> Result<HttpAnswer, net::Error> {
        let response = egress.send(self.request).await?;
        let retry_after_ms = retry_after(&response.headers, clock.now()).map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let mut headers = Value::Object(kept_headers(&response.headers));
        self.scrub.value(&mut headers);
        let headers = headers.as_object().cloned().unwrap_or_default();
        let (status, media_type) = (response.status.as_u16(), response.media_type());
        let content_type = response.content_type().to_owned();
        let bytes = response.bytes().await?;
        let answer = HttpAnswer { status, headers, media_type, retry_after_ms, ..HttpAnswer::default() };
        Ok(answer.with_body(&bytes, &content_type, self.binary, [&self.scrub, known]))
    }
}

/// Headers whose values are nobody's to see.
fn is_credential(name: &str) -> bool {
    ["authorization", "x-api-key", "cookie", "set-cookie", "proxy-authorization"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

fn parse(problems: &mut Problems, at: &str, source: &str, language: Language) -> Option<Template> {
    Template::parse_in(source, language).map_err(|error| problems.add(at, error.to_string())).ok()
}

fn parse_map(problems: &mut Problems, at: &str, map: &Map<String, Value>, language: Language) -> Vec<(String, Template)> {
    let mut parsed = Vec::with_capacity(map.len());
    for (name, value) in map {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => continue,
            Value::Number(_) | Value::Bool(_) => text_of(value),
            Value::Array(_) | Value::Object(_) => {
                problems.add(format!("{at}/{name}"), "expected a text, a number or a boolean");
                continue;
            }
        };
        if let Some(template) = parse(problems, &format!("{at}/{name}"), &text, language) {
            parsed.push((name.clone(), template));
        }
    }
    parsed
}

fn compile_auth(auth: &AuthConfig, problems: &mut Problems) -> Option<AuthTemplate> {
    match auth.kind.as_str() {
        "" | "none" => None,
        "bearer" => parse(problems, "/auth/token", &auth.token, Language::Fields).map(AuthTemplate::Bearer),
        "basic" => {
            let user = parse(problems, "/auth/username", &auth.username, Language::Fields);
            user.zip(parse(problems, "/auth/password", &auth.password, Language::Fields))
                .map(|(user, password)| AuthTemplate::Basic(user, password))
        }
        "api_key" | "apiKey" | "header" => {
            let name = auth.header_name.clone().unwrap_or_else(|| "x-api-key".into());
            parse(problems, "/auth/token", &auth.token, Language::Fields).map(|token| AuthTemplate::Header(name, token))
        }
        other => {
            problems.add("/auth/type", format!("unknown `{other}`; one of none, bearer, basic, api_key"));
            None
        }
    }
}
