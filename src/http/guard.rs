//! The guard before every route of a secret key: who calls, and how often.
//!
//! A middleware rather than an extractor, so that a new route is shut unless it is put outside on purpose.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::AppState;
use crate::auth::Credentials;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// The other header that may hold a key.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Proves the caller, counts the call against its rate, and hands the caller on.
pub async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let caller = match prove(&state, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    tracing::Span::current().record("tenant", tracing::field::display(caller.tenant));
    let quota = match state.limits.count(caller.key) {
        Ok(quota) => quota,
        Err(refused) => return refused.into_response(),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if let Some(quota) = quota {
        quota.write(response.headers_mut());
    }
    response
}

async fn prove(state: &AppState, headers: &HeaderMap) -> Result<crate::model::Caller> {
    let credentials = Credentials { authorization: read(headers, &AUTHORIZATION)?, api_key: read(headers, &API_KEY)? };
    state.auth.authenticate(&credentials).await
}

fn read(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Secret>> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return if headers.contains_key(name) { Err(unreadable(name)) } else { Ok(None) };
    };
    value.to_str().map(|text| Some(Secret::new(text))).map_err(|_| unreadable(name))
}

fn unreadable(name: &HeaderName) -> Error {
    Error::new(Kind::Unauthenticated, "invalid_api_key", format!("the {name} header must be sent once, in visible ASCII characters"))
}
