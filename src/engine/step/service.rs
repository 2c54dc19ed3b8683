//! A call of a service that does what the step is for: mail, texts, search, code.

use std::time::Duration;

use serde_json::{Map, Value};

use super::http::{answer_failure, net_failure};
use crate::engine::context::{Interrupt, StepContext, StepResult};
use crate::failpoint;
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
    context
        .effect(&context.key(key), service.effect(), || async {
            let call = service.call(values, path, &context.run.keys, &idempotency, budget)?;
            failpoint::hit("tool.before");
            let answer = call.send(&context.parts().egress, &context.parts().clock).await;
            failpoint::hit("tool.after");
            let answer = answer.map_err(|error| Interrupt::Fail(net_failure(&error)))?;
            if answer.is_success() { Ok(answer) } else { Err(answer_failure(&answer).into()) }
        })
        .await
}
