//! The admin surface: the shape of xraph/dispatch's API, for jobs, dead letters, crons, queues and runs of flows.
//!
//! What its routes do is in functions that the wire protocol ([`super::dwp`]) calls as well: one language, two ways in.
//!
//! Bare lists with `limit` and `offset`, names in snake case, 400 for whatever does not fit. Served under `/v1` and, for those who mounted the
//! original there, under each of [`BASES`]. To add a noun: a file with `routes()`, one line below.

mod answer;
pub(in crate::http) mod crons;
pub(in crate::http) mod dlq;
pub(in crate::http) mod events;
pub(in crate::http) mod jobs;
mod order;
mod queues;
pub(in crate::http) mod stats;
pub(in crate::http) mod time;
mod triggers;
mod webhooks;
pub(in crate::http) mod workflows;

use aide::axum::ApiRouter;
use axum::http::StatusCode;
use axum::middleware::map_response;
use axum::response::Response;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{AppState, about, body_optional, may_refuse, takes_anything};
use crate::error::{Error, Kind, Result};

/// Where else this surface is served: the base paths that the original's code and its documentation mount it under.
pub const BASES: [&str; 2] = ["/dispatch", "/api/dispatch"];

/// Every route of this surface.
pub fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .merge(jobs::routes())
        .merge(dlq::routes())
        .merge(events::routes())
        .merge(crons::routes())
        .merge(queues::routes())
        .merge(stats::routes())
        .merge(triggers::routes())
        .merge(webhooks::routes())
        .merge(workflows::routes())
        .route_layer(map_response(invalid_is_bad))
}

/// What senders of webhooks call.
pub fn public_routes() -> ApiRouter<AppState> {
    triggers::public_routes()
}

/// Whoever reads this API knows one status for input that is wrong.
async fn invalid_is_bad(mut response: Response) -> Response {
    if response.status() == StatusCode::UNPROCESSABLE_ENTITY {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    response
}

/// Rows of a list when nobody says, and at most.
const ROWS: i64 = 50;
const MOST_ROWS: i64 = 1_000;

/// Which part of a list.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
pub(in crate::http) struct Window {
    /// 50 when absent or below 1; 1,000 at most.
    #[serde(default)]
    limit: Option<i64>,
    /// Rows to leave out; past the end there are none.
    #[serde(default)]
    offset: Option<i64>,
}

impl Window {
    const fn of(limit: Option<i64>, offset: Option<i64>) -> Self {
        Self { limit, offset }
    }

    fn limit(self) -> u32 {
        let limit = self.limit.filter(|limit| *limit > 0).unwrap_or(ROWS).min(MOST_ROWS);
        u32::try_from(limit).unwrap_or(u32::MAX)
    }

    fn offset(self) -> u32 {
        u32::try_from(self.offset.unwrap_or(0).max(0)).unwrap_or(u32::MAX)
    }
}

/// Reads one of a few words of a query.
fn word<T>(name: &str, text: Option<&str>, parse: impl FnOnce(&str) -> Option<T>, words: &str) -> Result<Option<T>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = || Error::new(Kind::Malformed, "invalid_query", format!("`{name}` is `{text}`; expected one of {words}"));
    parse(text).map(Some).ok_or_else(wrong)
}

/// Something that is not an empty text.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
