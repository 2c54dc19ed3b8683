//! The one answer to everything that goes wrong: the error envelope with its status.
//!
//! [`Error`] is answered by its kind. A few refusals exist only in HTTP (405, 415); [`Problem`] carries
//! their status. The cause of a fault of ours goes to the log here, and nowhere else.

use std::any::Any;

use aide::OperationOutput;
use axum::Json;
use axum::http::header::{HeaderValue, RETRY_AFTER};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::error::{Envelope, Error, Kind};
use crate::store::StoreError;

/// The code that an answer refuses with, for the layers around the routes.
#[derive(Debug, Clone)]
pub struct Code(pub std::borrow::Cow<'static, str>);

/// An error with the status it is answered with.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    error: Error,
    /// Members beside those of the envelope.
    facts: Option<Box<Value>>,
}

impl Problem {
    /// A refusal that only HTTP knows.
    pub fn new(status: StatusCode, error: Error) -> Self {
        Self { status, error, facts: None }
    }

    /// Adds members beside those of the envelope, for clients that look for them there.
    #[must_use]
    pub fn with(self, facts: Value) -> Self {
        Self { facts: Some(Box::new(facts)), ..self }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let status = StatusCode::from_u16(error.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self::new(status, error)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, error, facts } = self;
        match error.kind() {
            Kind::Internal => tracing::error!(code = error.code(), error = ?error, "a request failed"),
            Kind::Unavailable => tracing::warn!(code = error.code(), error = ?error, "a request could not be served"),
            _ => tracing::debug!(code = error.code(), error = ?error, "a request was refused"),
        }
        let code = Code(error.static_code());
        let envelope = error.envelope();
        let wait = envelope.retry_after;
        let mut response = match facts.map(|facts| *facts) {
            None => (status, Json(envelope)).into_response(),
            Some(facts) => (status, Json(beside(&envelope, facts))).into_response(),
        };
        if let Some(seconds) = wait {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(code);
        response
    }
}

/// The envelope with further members.
fn beside(envelope: &Envelope<'_>, facts: Value) -> Value {
    let mut body = serde_json::to_value(envelope).unwrap_or_default();
    if let (Some(body), Value::Object(facts)) = (body.as_object_mut(), facts) {
        body.extend(facts);
    }
    body
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

/// Errors are documented once for all operations, see [`super::openapi`].
impl OperationOutput for Error {
    type Inner = Self;
}

impl OperationOutput for Problem {
    type Inner = Self;
}

/// Unknown routes. Clients compare this very text, so nothing else may say it.
pub async fn no_such_route() -> Problem {
    Error::new(Kind::Missing, "route_not_found", "Not Found").next("GET /v1/openapi.json lists every route").into()
}

/// A known route with a method that it does not have.
pub async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let message = format!("{} does not answer {method}", uri.path());
    let error = Error::new(Kind::Malformed, "method_not_allowed", message).next("the Allow header lists the methods of this route");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// What a panic in a handler becomes. Its text goes to the log only.
pub fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<&str>().map(|text| (*text).to_owned()).or_else(|| cause.downcast_ref::<String>().cloned());
    Error::internal(format!("panic: {}", text.unwrap_or_default())).into_response()
}
