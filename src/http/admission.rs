//! Whether a call is admitted under the limits of its key and tenant, and what its answer says of them: the headers
//! `x-ratelimit-limit-requests`, `x-ratelimit-remaining-requests` and `x-ratelimit-reset-requests`, where requests are limited.
//!
//! Must not know: how limits are counted.

use std::cell::Cell;
use std::future::Future;

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::engine::{Admission, Engine, RequestRate, StartRun};
use crate::error::Result;
use crate::id::{KeyId, RunId, TenantId};
use crate::model::Caller;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit-requests");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining-requests");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset-requests");

tokio::task_local! {
    /// What the request that this task answers has left.
    static RATE: Cell<Option<RequestRate>>;
}

/// Answers a request, and adds the headers of the rate that was counted meanwhile.
pub async fn with_headers(answer: impl Future<Output = Response>) -> Response {
    let answered = async {
        let mut response = answer.await;
        if let Some(rate) = RATE.with(Cell::get) {
            write(rate, response.headers_mut());
        }
        response
    };
    RATE.scope(Cell::new(None), answered).await
}

fn write(rate: RequestRate, headers: &mut HeaderMap) {
    headers.insert(LIMIT, HeaderValue::from(rate.limit));
    headers.insert(REMAINING, HeaderValue::from(rate.remaining));
    // As OpenAI's API writes it.
    if let Ok(reset) = HeaderValue::from_str(&format!("{}s", rate.reset.as_secs_f64().ceil())) {
        headers.insert(RESET, reset);
    }
}

/// Admits an execution that a caller is about to start, and ties it to the caller's key. See [`admit`].
pub async fn admit_start(engine: &Engine, caller: &Caller, start: &mut StartRun) -> Result<()> {
    start.input.key_id = caller.key_id();
    let run = *start.id.get_or_insert_with(|| RunId::new(&engine.parts().clock));
    admit(engine, (caller.tenant, caller.key_id()), Some(run)).await
}

/// Counts a call against the limits. Refusals: `budget_exceeded` (402), `rate_limited` and `too_many_executions` (429).
pub async fn admit(engine: &Engine, (tenant, key): (TenantId, Option<KeyId>), run: Option<RunId>) -> Result<()> {
    let Admission { rate, outcome } = engine.quotas().admit(tenant, key, run).await;
    if let Some(rate) = rate {
        // Outside of a request there is nobody to tell.
        let _ = RATE.try_with(|told| told.set(Some(rate)));
    }
    outcome
}
