//! Scopes as types: a handler says in its signature what its caller must hold.

use std::marker::PhantomData;
use std::ops::Deref;

use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::Operation;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::problem::Problem;
use crate::error::{Error, Kind, Result};
use crate::model::Caller;

/// A scope of [`crate::auth::scope::FAMILIES`], as a type.
pub trait Scope: Send + Sync + 'static {
    const NAME: &'static str;
}

macro_rules! scopes {
    ($($name:ident = $text:literal),* $(,)?) => {
        $(
            #[doc = concat!("`", $text, "`.")]
            #[derive(Debug, Clone, Copy)]
            pub struct $name;
            impl Scope for $name {
                const NAME: &'static str = $text;
            }
        )*

        #[cfg(test)]
        const ALL: &[&str] = &[$($text),*];
    };
}

scopes! {
    FlowsRead = "FLOWS:READ",
    FlowsWrite = "FLOWS:WRITE",
    FlowsExecute = "FLOWS:EXECUTE",
    AgentsRead = "AGENTS:READ",
    AgentsWrite = "AGENTS:WRITE",
    AgentsExecute = "AGENTS:EXECUTE",
    RecordsRead = "RECORDS:READ",
    RecordsWrite = "RECORDS:WRITE",
    ApiKeysRead = "API_KEYS:READ",
    ApiKeysWrite = "API_KEYS:WRITE",
    SecretsRead = "SECRETS:READ",
    SecretsWrite = "SECRETS:WRITE",
    SchedulesRead = "SCHEDULES:READ",
    SchedulesWrite = "SCHEDULES:WRITE",
    ToolsRead = "TOOLS:READ",
    ToolsWrite = "TOOLS:WRITE",
    JobsRead = "JOBS:READ",
    JobsWrite = "JOBS:WRITE",
    AssetsRead = "ASSETS:READ",
    AssetsWrite = "ASSETS:WRITE",
    ClientTokensRead = "CLIENT_TOKENS:READ",
    ClientTokensWrite = "CLIENT_TOKENS:WRITE",
    CredentialsRead = "CREDENTIALS:READ",
    CredentialsWrite = "CREDENTIALS:WRITE",
    AnalyticsRead = "ANALYTICS:READ",
}

/// The caller, proven to hold a scope. Without it the answer is 403 `missing_scope`.
#[derive(Debug, Clone)]
pub struct Scoped<S> {
    caller: Caller,
    scope: PhantomData<S>,
}

impl<S> Deref for Scoped<S> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<S> Scoped<S> {
    pub fn into_caller(self) -> Caller {
        self.caller
    }
}

/// Refuses a caller that lacks a scope.
pub fn require(caller: &Caller, scope: &str) -> Result<()> {
    if caller.may(scope) {
        return Ok(());
    }
    Err(Error::new(Kind::Forbidden, "missing_scope", format!("this call needs a key with the scope `{scope}`"))
        .details(serde_json::json!({ "required": scope, "held": caller.scopes }))
        .next("use a key that holds it; keys are made at POST /v1/api-keys"))
}

impl<S: Scope, State: Sync> FromRequestParts<State> for Scoped<S> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &State) -> std::result::Result<Self, Problem> {
        // The guard put the caller here; a route outside the guard has none and stays shut.
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Error::new(Kind::Unauthenticated, "missing_api_key", "this call needs an API key"))?;
        require(&caller, S::NAME)?;
        Ok(Self { caller, scope: PhantomData })
    }
}

impl<S: Scope> OperationInput for Scoped<S> {
    fn operation_input(_: &mut GenContext, operation: &mut Operation) {
        operation.extensions.insert("x-required-scope".into(), S::NAME.into());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_scope_can_be_granted() {
        for scope in super::ALL {
            assert!(crate::auth::scope::is_known(scope), "{scope}");
        }
    }
}
