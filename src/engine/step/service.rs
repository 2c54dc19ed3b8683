//! A call of a service that does what the step is for: mail, texts, search, code.

use std::time::Duration;

use serde_json::{Map, Value};

use super::http::send;
use crate::engine::context::{StepContext, StepResult};
use crate::tool::http::HttpAnswer;
use crate::tool::services::Service;

/// Asks the service, once or again as its effect class allows; a refusal is a failure of the step.
pub async fn ask(
    context: &StepContext<'_>,
    service: &Service,
    key: &str,
    values: &Map<String, Value>,
    path: &[&str],
) -> StepResult<HttpAnswer> {
    let idempotency = context.idempotency_key(key);
    let budget = Duration::from_millis(context.planned.step.timeout_ms);
    let call = || Ok(service.call(values, path, &context.run.keys, &idempotency, budget)?);
    send(context, key, service.effect(), call).await
}
