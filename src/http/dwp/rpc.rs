//! `POST /dwp/rpc`: one request frame in, one frame out.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::frame::{AnswerFrame, Frame, Refusal};
use super::{credentials, methods};
use crate::auth::Credentials;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{as_sent, parse_object};
use crate::http::guard::API_KEY;
use crate::http::problem::Problem;
use crate::secret::Secret;

pub(super) async fn call(State(state): State<AppState>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let text = as_sent(&headers, body, &state).await?;
    let frame = match parse_object::<Frame>(&text, state.limits.body().depth) {
        Ok(frame) => frame,
        Err(error) => return Ok(refuse(&state, "", &invalid_frame(error))),
    };
    let id = frame.id.clone();
    Ok(match answer(&state, &headers, frame).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refuse(&state, &id, &refusal),
    })
}

/// The refusal of a text that is no frame.
pub(super) fn invalid_frame(error: Error) -> Refusal {
    Refusal::from(Error::new(Kind::Malformed, "invalid_frame", format!("this is not a frame: {}", error.message())))
}

fn refuse(state: &AppState, to: &str, refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(AnswerFrame::refusal(&state.clock, to, refusal))).into_response()
}

async fn answer(state: &AppState, headers: &HeaderMap, frame: Frame) -> Result<AnswerFrame, Refusal> {
    let Frame { id, kind, method, token, data, .. } = frame;
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(Secret::new);
    let credentials = match token.filter(|token| !token.expose().is_empty()) {
        Some(token) => credentials(token),
        None => Credentials { authorization: text(AUTHORIZATION), api_key: text(API_KEY) },
    };
    let caller = state.auth.authenticate(&credentials).await?;
    state.limits.count(caller.who).map_err(|limited| limited.error())?;
    if kind == "ping" {
        return Ok(AnswerFrame::pong(&state.clock, &id));
    }
    let data = methods::handle(state, &caller, &method, data).await?;
    Ok(AnswerFrame::response(&state.clock, &id, data))
}
