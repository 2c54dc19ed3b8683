//! Creating calls that may be repeated: a receipt first, then the work, then its answer is filed.
//!
//! The work runs in a task of its own, so that a caller who hangs up neither stops it half-way nor leaves
//! the receipt open. It creates its object under the receipt's seed: whoever takes over after a crash
//! makes the same object again, not a second one.

use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Documented, StatusCode as Code};
use axum::Json;
use axum::extract::FromRef;
use axum::http::StatusCode;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::Instrument;

use super::AppState;
use super::extract::IdempotencyKey;
use super::limits::Limits;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint;
use crate::id::{RequestId, TenantId};
use crate::model::Origin;
use crate::model::wait::{canonical, hex};
use crate::offload::give_way;
use crate::secret::Vault;
use crate::store::{Answer, Begun, Receipt, SharedStore};

/// How long a claim is left alone before another call may take over.
const LEASE: Duration = Duration::from_secs(10);
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A created object: 201 with its row.
#[derive(Debug)]
pub struct Created<T> {
    body: Value,
    replayed: bool,
    row: PhantomData<T>,
}

impl<T: DeserializeOwned> Created<T> {
    /// Returns what was created, and whether an earlier call created it; for answers in another form.
    pub fn read(self) -> Result<(T, bool)> {
        let row = serde_json::from_value(self.body).map_err(Error::internal)?;
        Ok((row, self.replayed))
    }
}

impl<T> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = (StatusCode::CREATED, Json(self.body)).into_response();
        if self.replayed {
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

impl<T: JsonSchema> OperationOutput for Created<T> {
    type Inner = T;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Documented> {
        Json::<T>::operation_response(context, operation)
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<Code>, Documented)> {
        Self::operation_response(context, operation).map(|response| (Some(Code::Code(201)), response)).into_iter().collect()
    }
}

/// The result of a call that creates several things: 200 with its body, marked when it is a repeated one.
#[derive(Debug)]
pub struct Repeatable<T>(Created<T>);

impl<T> IntoResponse for Repeatable<T> {
    fn into_response(self) -> Response {
        let mut response = self.0.into_response();
        *response.status_mut() = StatusCode::OK;
        response
    }
}

impl<T: JsonSchema> OperationOutput for Repeatable<T> {
    type Inner = T;

    fn operation_response(context: &mut GenContext, operation: &mut Operation) -> Option<Documented> {
        Json::<T>::operation_response(context, operation)
    }

    fn inferred_responses(context: &mut GenContext, operation: &mut Operation) -> Vec<(Option<Code>, Documented)> {
        Json::<T>::inferred_responses(context, operation)
    }
}

/// What tells one creating call from another.
#[derive(Debug, Clone)]
pub struct Call {
    pub tenant: TenantId,
    /// Method and pattern: the same key on another route is another call.
    pub route: &'static str,
    pub key: IdempotencyKey,
    /// See [`fingerprint`].
    pub request: String,
    /// The answer holds a secret: file it sealed.
    pub secret: bool,
}

/// What two requests have in common when they ask the same: SHA-256 of the body in canonical JSON.
pub fn fingerprint(body: &[u8]) -> String {
    give_way(body.len(), || {
        let text = serde_json::from_slice::<Value>(body).map(|value| canonical(&value).into_bytes()).unwrap_or_else(|_| body.to_vec());
        hex(&Sha256::digest(text))
    })
}

/// The keeper of receipts.
#[derive(Clone)]
pub struct Receipts {
    store: SharedStore,
    vault: Vault,
    clock: Clock,
    limits: Limits,
}

impl FromRef<AppState> for Receipts {
    fn from_ref(state: &AppState) -> Self {
        Self { store: state.store.clone(), vault: state.vault.clone(), clock: state.clock.clone(), limits: state.limits.clone() }
    }
}

impl Receipts {
    /// Does creating work at most once per key. `work` gets 128 bits, in the form of a UUIDv7, for the new
    /// object's id. Errors besides the work's own: `idempotency_key_reused` (422), `idempotency_in_progress` (409).
    pub async fn once<T, F>(&self, call: Call, work: impl FnOnce(u128) -> F + Send + 'static) -> Result<Created<T>>
    where
        T: Serialize,
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let seed = RequestId::new(&self.clock).as_u128();
        let Some(key) = call.key.0.clone() else {
            return work(seed).await.map(|row| created(&row, false))?;
        };
        match self.begin(&call, key.clone(), seed).await? {
            Some(Claim::Answered(body)) => Ok(Created { body, replayed: true, row: PhantomData }),
            Some(Claim::Mine(seed)) => {
                failpoint::hit("receipt.begun");
                let keeper = self.clone();
                let task = async move { keeper.carry_out(&call, &key, work(seed)).await };
                let origin = Origin::current().unwrap_or_default();
                tokio::spawn(origin.of(task).instrument(tracing::Span::current())).await.map_err(Error::internal)?
            }
            None => Err(Error::new(Kind::Conflict, "idempotency_in_progress", "a call with this Idempotency-Key is being worked on")
                .retry_after(Duration::from_secs(1))),
        }
    }

    /// [`Receipts::once`] for a call that creates several things, whose answer has the status 200.
    pub async fn once_for_all<T, F>(&self, call: Call, work: impl FnOnce(u128) -> F + Send + 'static) -> Result<Repeatable<T>>
    where
        T: Serialize,
        F: Future<Output = Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        self.once(call, work).await.map(Repeatable)
    }

    async fn begin(&self, call: &Call, key: String, seed: u128) -> Result<Option<Claim>> {
        let now = self.clock.now();
        let receipt = Receipt {
            route: call.route.into(),
            key: key.clone(),
            request_hash: call.request.clone(),
            seed,
            lease_until: now.after(LEASE),
            expires_at: now.after(self.limits.options().idempotency_ttl),
        };
        match self.store.begin_receipt(call.tenant, receipt, now).await? {
            Begun::Mine { seed } => Ok(Some(Claim::Mine(seed))),
            Begun::Answered { request_hash, .. } | Begun::InProgress { request_hash } if request_hash != call.request => {
                Err(Error::new(Kind::Invalid, "idempotency_key_reused", "this Idempotency-Key was used with another request body")
                    .next("send the first body again, or choose a new key"))
            }
            Begun::Answered { answer, .. } => Ok(Some(Claim::Answered(self.open(call, &key, answer.body)?))),
            Begun::InProgress { .. } => Ok(None),
        }
    }

    async fn carry_out<T: Serialize>(&self, call: &Call, key: &str, work: impl Future<Output = Result<T>>) -> Result<Created<T>> {
        let done = work.await.and_then(|row| created(&row, false));
        failpoint::hit("receipt.done");
        let noted = match &done {
            Ok(answer) => self.file(call, key, &answer.body).await,
            // Nobody knows how far it got: the receipt stays, so that a repeated call goes on under the same seed.
            Err(error) if matches!(error.kind(), Kind::Internal | Kind::Unavailable) => Ok(()),
            Err(_) => self.store.drop_receipt(call.tenant, call.route, key).await.map_err(Error::from),
        };
        failpoint::hit("receipt.filed");
        // What was done was done, and the receipt's lease sees to the rest.
        if let Err(error) = noted {
            tracing::warn!(route = call.route, ?error, "the receipt of an idempotent call could not be closed");
        }
        done
    }

    async fn file(&self, call: &Call, key: &str, body: &Value) -> Result<()> {
        let filed = Answer { status: StatusCode::CREATED.as_u16(), body: self.seal(call, key, body)? };
        Ok(self.store.file_answer(call.tenant, call.route, key, filed).await?)
    }

    fn seal(&self, call: &Call, key: &str, body: &Value) -> Result<Value> {
        if !call.secret {
            return Ok(body.clone());
        }
        let sealed = self.vault.seal(body.to_string().as_bytes(), &context(call, key))?;
        Ok(json!({ "sealed": STANDARD.encode(sealed) }))
    }

    fn open(&self, call: &Call, key: &str, body: Value) -> Result<Value> {
        if !call.secret {
            return Ok(body);
        }
        let text = body.get("sealed").and_then(Value::as_str).unwrap_or_default();
        let sealed = STANDARD.decode(text).map_err(Error::internal)?;
        let plain = self.vault.open(&sealed, &context(call, key))?;
        serde_json::from_slice(&plain).map_err(Error::internal)
    }
}

enum Claim {
    Mine(u128),
    Answered(Value),
}

fn created<T: Serialize>(row: &T, replayed: bool) -> Result<Created<T>> {
    let body = serde_json::to_value(row).map_err(Error::internal)?;
    Ok(Created { body, replayed, row: PhantomData })
}

/// What a sealed answer is bound to.
fn context(call: &Call, key: &str) -> String {
    format!("receipt/{}/{}/{key}", call.tenant, call.route)
}
