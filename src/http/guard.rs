//! The guard before every route of a secret key: who calls, and how often.
//!
//! A middleware rather than an extractor, so that a new route is shut unless it is put outside on purpose. On a few routes a page's session,
//! and on those of workflows theirs, stands in the place of a key; which ones, and whose it is, their own modules say.

use axum::extract::{FromRef, MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HeaderName};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::dispatch::{Door, takes_sessions};
use super::workflows;
use super::{AppState, admission};
use crate::auth::Credentials;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// The other header that may hold a key.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Proves the caller, counts the call against its rate, and hands the caller on.
pub async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let caller = match prove(&state, request.headers(), request.uri(), route).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    tracing::Span::current().record("tenant", tracing::field::display(caller.tenant));
    let quota = match state.limits.count(caller.who) {
        Ok(quota) => quota,
        Err(refused) => return refused.into_response(),
    };
    request.extensions_mut().insert(caller);
    let mut response = admission::with_headers(next.run(request)).await;
    if let Some(quota) = quota {
        quota.write(response.headers_mut());
    }
    response
}

async fn prove(state: &AppState, headers: &HeaderMap, uri: &Uri, route: Option<&str>) -> Result<crate::model::Caller> {
    if let Some(session) = workflows::session_of(route.unwrap_or_default(), headers, uri)? {
        return workflows::prove(state, &session).await;
    }
    let credentials = Credentials { authorization: read(headers, &AUTHORIZATION)?, api_key: read(headers, &API_KEY)? };
    if route.is_some_and(takes_sessions)
        && let Ok(key) = credentials.key()
        && Door::is_session(&key)
    {
        return Door::from_ref(state).caller(&key, headers).await;
    }
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
