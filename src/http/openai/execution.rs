//! The execution behind an answer: started, or found again by its `Idempotency-Key`, and followed to its end.

use axum::http::header::{HeaderName, HeaderValue};
use axum::response::Response;

use super::answer::{Answer, AnswerReader, Ending, Reading};
use super::error::WireError;
use super::target::Prepared;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::feed::Follower;
use crate::http::disconnect::{self, OnDisconnect};
use crate::http::extract::IdempotencyKey;
use crate::http::{AppState, admission};
use crate::id::{RunId, TenantId};
use crate::model::Caller;
use crate::store::{Created, RunKey};

const EXECUTION_ID: HeaderName = HeaderName::from_static("x-execution-id");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How an execution is started.
pub struct ExecutionCall {
    /// The route of the call; the same key on another route is another key.
    pub route: &'static str,
    pub key: IdempotencyKey,
    /// Hash of the request's body.
    pub request_hash: String,
    /// The execution goes on when the caller goes away.
    pub is_detached: bool,
}

/// An execution that was started, and what follows it.
pub struct StartedExecution {
    pub run: RunId,
    /// An earlier call with the same `Idempotency-Key` started it.
    pub is_replayed: bool,
    pub reader: AnswerReader,
    pub follower: Follower,
    /// Cancels the execution when the caller goes away.
    pub guard: Option<OnDisconnect>,
}

impl StartedExecution {
    /// Starts the execution, or finds the one that an earlier call with the same key started.
    pub async fn start(state: &AppState, caller: &Caller, prepared: Prepared, call: ExecutionCall) -> Result<Self> {
        let ExecutionCall { route, key, request_hash, is_detached } = call;
        let Prepared { mut start, facts } = prepared;
        let is_detached = is_detached || key.0.is_some();
        let expires_at = state.clock.now().after(state.limits.options().idempotency_ttl);
        start.key = key.0.map(|key| RunKey { route: route.into(), key, request_hash: request_hash.clone(), expires_at });
        // A caller that repeats a call under its key wants the first one to finish.
        start.input.options.cancel_on_disconnect = !is_detached;
        admission::admit_start(&state.engine, caller, &mut start).await?;
        let (run, created, guard) = if is_detached {
            let (run, created) = state.workers.start_run(start).await?;
            (run, created, None)
        } else {
            disconnect::start(&state.workers, start).await?
        };
        let (run, is_replayed) = match created {
            Created::New => (run, false),
            Created::Duplicate { run, request_hash: before } if before == request_hash => (run, true),
            Created::Duplicate { .. } => {
                return Err(Error::new(Kind::Invalid, "idempotency_key_reused", "this Idempotency-Key was used with another request body")
                    .next("send the first body again, or choose a new key"));
            }
        };
        failpoint::hit("http.accepted");
        let reader = AnswerReader::new(Reading { run, facts });
        let follower = state.feed.follow(caller.tenant, run, None);
        Ok(Self { run, is_replayed, reader, follower, guard })
    }

    /// Waits for the answer. An execution that waits for what no caller of this API can give is cancelled, which is a failure.
    pub async fn finish(&mut self, state: &AppState, tenant: TenantId) -> Result<Result<Box<Answer>, WireError>> {
        let ending = loop {
            let stretch = self.follower.next().await?;
            if let Some(ending) = self.reader.take(&stretch.events, stretch.rest).end {
                break ending;
            }
        };
        let answer = match ending {
            Ending::Answered(answer) => Ok(answer),
            Ending::Failed(error) => Err(error),
            Ending::Waiting(error) => {
                state.workers.abandon(tenant, self.run);
                Err(error)
            }
        };
        self.guard.take().into_iter().for_each(OnDisconnect::disarm);
        Ok(answer)
    }
}

/// Adds the headers that name the execution.
pub fn with_execution_headers(mut response: Response, run: RunId, is_replayed: bool) -> Response {
    if let Ok(id) = HeaderValue::from_str(&run.to_string()) {
        response.headers_mut().insert(EXECUTION_ID, id);
    }
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
