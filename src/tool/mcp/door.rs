//! The protocol's streamable HTTP over the one way out.
//!
//! A message goes out as a POST; its answer is JSON or a stream of events. No stream stays open between calls: what a server would say of
//! itself meanwhile is not listened to.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use rmcp::model::{ClientJsonRpcMessage, ClientRequest, ErrorData, JsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse};
use sse_stream::{Sse, SseStream};

use crate::net::{self, Deadlines, Egress, HeaderText, Request, Trust};
use crate::offload::give_way;
use crate::secret::Redactor;
use crate::tool::http::Head;

/// Largest answer, in bytes.
const MAX_ANSWER: u64 = 5 * 1024 * 1024;
/// Of a refusal, what is told on.
const WORDS: usize = 300;
const SESSION: &str = "mcp-session-id";
const EVENTS: &str = "text/event-stream";

type Fault = StreamableHttpError<net::Error>;

/// One server's address.
#[derive(Clone)]
pub(super) struct Door {
    egress: Egress,
    headers: Arc<[(String, HeaderText)]>,
    deadlines: Deadlines,
    scrub: Arc<Redactor>,
}

impl Door {
    pub(super) fn new(egress: Egress, head: Head, timeout: Duration) -> Self {
        let deadlines = Deadlines { first_byte: timeout, between_chunks: timeout, total: timeout };
        Self { egress, headers: head.headers.into(), deadlines, scrub: Arc::new(head.scrub) }
    }

    fn request(&self, method: Method, uri: &str, session: Option<&str>, own: HashMap<HeaderName, HeaderValue>) -> Request {
        let mut request = Request::new(method, uri, Trust::Judged);
        request.headers = self.headers.to_vec();
        request.deadlines = self.deadlines;
        request.max_bytes = MAX_ANSWER;
        for (name, value) in own {
            request.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
            request = request.header(name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
        match session {
            Some(session) => request.header(SESSION, session),
            None => request,
        }
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> Fault {
        Fault::UnexpectedServerResponse(format!("the MCP server answered {}", self.words(status, body)).into())
    }

    fn words(&self, status: StatusCode, body: &[u8]) -> String {
        let words: String = self.scrub.text(&String::from_utf8_lossy(body)).chars().take(WORDS).collect();
        format!("{}: {}", status.as_u16(), words.trim())
    }
}

impl StreamableHttpClient for Door {
    type Error = net::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Fault> {
        let body = Bytes::from(serde_json::to_vec(&message)?);
        let request = self
            .request(Method::POST, &uri, session.as_deref(), headers)
            .header("accept", format!("{EVENTS}, application/json"))
            .header("content-type", "application/json")
            .body(body);
        let response = self.egress.send(request).await.map_err(Fault::Client)?;
        let status = response.status;
        if status == StatusCode::NOT_FOUND && session.is_some() {
            return Err(Fault::SessionExpired);
        }
        let opened = response.headers.get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if status.is_success() && response.media_type() == EVENTS {
            let events = SseStream::from_bytes_stream(Box::pin(response.stream())).boxed();
            return Ok(StreamableHttpPostResponse::Sse(events, opened));
        }
        let body = response.bytes().await.map_err(Fault::Client)?;
        let JsonRpcMessage::Request(asked) = &message else {
            return if status.is_success() { Ok(StreamableHttpPostResponse::Accepted) } else { Err(self.refused(status, &body)) };
        };
        match give_way(body.len(), || serde_json::from_slice::<ServerJsonRpcMessage>(&body)) {
            Ok(answer) if status.is_success() => Ok(StreamableHttpPostResponse::Json(answer, opened)),
            // Servers of earlier revisions refuse the question with which later ones begin; that is an answer to it, whatever its id.
            answer if status.is_client_error() && matches!(asked.request, ClientRequest::DiscoverRequest(_)) => {
                if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    return Err(self.refused(status, &body));
                }
                let error = match answer {
                    Ok(JsonRpcMessage::Error(answer)) => answer.error,
                    _ => ErrorData::invalid_request(format!("HTTP {}", status.as_u16()), None),
                };
                Ok(StreamableHttpPostResponse::Json(ServerJsonRpcMessage::error(error, Some(asked.id.clone())), None))
            }
            Ok(answer @ JsonRpcMessage::Error(_)) => Ok(StreamableHttpPostResponse::Json(answer, opened)),
            Err(error) if status.is_success() => Err(Fault::Deserialize(error)),
            // It did nothing: an answer, like a refusal in the protocol's own words.
            _ if status.is_client_error() => {
                let error = ErrorData::invalid_request(self.words(status, &body), None);
                Ok(StreamableHttpPostResponse::Json(ServerJsonRpcMessage::error(error, Some(asked.id.clone())), opened))
            }
            _ => Err(self.refused(status, &body)),
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        _: Option<String>,
        headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Fault> {
        self.egress.send(self.request(Method::DELETE, &uri, Some(&session), headers)).await.map(drop).map_err(Fault::Client)
    }

    async fn get_stream(
        &self,
        _: Arc<str>,
        _: Option<Arc<str>>,
        _: Option<String>,
        _: Option<String>,
        _: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Fault> {
        Err(Fault::ServerDoesNotSupportSse)
    }
}
