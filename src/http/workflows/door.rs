//! Who calls: by an API key, by a session, or by a run's token.
//!
//! A session stands for the key that began it, for as long as that key is good. A run's token may start workflows, read its own run and signal it, for
//! a day and not after the run's end; it is made of the run's id and the server's key, so nothing of it is kept.

use std::time::Duration;

use aide::OperationInput;
use aide::generate::GenContext;
use aide::openapi::Operation;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::session::sessions;
use super::{Run, ended};
use crate::auth::ticket;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::InPath;
use crate::http::problem::Problem;
use crate::http::scope::{FlowsExecute, FlowsRead, Scope, require};
use crate::id::{ApiSessionId, RunId, TenantId};
use crate::model::{Caller, Who};
use crate::secret::{Secret, Vault};
use crate::store::SharedStore;

/// The header that holds a session's token, or a run's.
const HEADER: HeaderName = HeaderName::from_static("dispatched-session");
/// The parameter of the query, where no header can be set.
const PARAMETER: &str = "session";
/// What the tokens begin with.
pub(super) const SESSION: &str = "dst_sess_";
const RUN: &str = "dst_run_";
/// How long a run's token is good.
const RUN_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// The routes of this surface.
const ROUTES: [&str; 2] = ["/api/", "/workflows/"];

/// The token that a call of this surface brings, if it brings one. Error `ambiguous_credentials` (400): two different ones.
pub fn session_of(route: &str, headers: &HeaderMap, uri: &Uri) -> Result<Option<Secret>> {
    if !ROUTES.iter().any(|root| route.starts_with(root)) {
        return Ok(None);
    }
    let header = headers
        .get(HEADER)
        .filter(|value| !value.is_empty())
        .map(|value| value.to_str().map(Secret::new).map_err(|_| unknown()))
        .transpose()?;
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let parameter = pairs.into_iter().find(|(name, _)| name == PARAMETER).map(|(_, value)| Secret::new(value.into_owned()));
    match (header, parameter) {
        (Some(one), Some(other)) if !one.matches(other.expose()) => {
            Err(Error::new(Kind::Malformed, "ambiguous_credentials", "the header and the query hold different sessions")
                .next("send one of the two"))
        }
        (one, other) => Ok(one.or(other)),
    }
}

fn unknown() -> Error {
    Error::new(Kind::Unauthenticated, "invalid_session", "the session is not valid, or has ended")
        .next("begin another one at POST /api/session, or send an API key")
}

/// Who holds a token.
pub async fn prove(state: &AppState, token: &Secret) -> Result<Caller> {
    if token.expose().starts_with(RUN) {
        return run(state, token).await;
    }
    let ticket = ticket::read(token, &[SESSION]).ok_or_else(unknown)?;
    let id = ApiSessionId::from_u128(ticket.id);
    let kept = sessions(&state.store, ticket.tenant).find(id).await?;
    let kept = kept.filter(|kept| ticket.is(&kept.body.hash) && kept.body.expires_at > state.clock.now()).ok_or_else(unknown)?;
    if !kept.body.unlock(state, ticket.tenant, id, token).await? {
        return Err(unknown());
    }
    state.auth.holder(ticket.tenant, kept.body.key).await?.ok_or_else(unknown)
}

async fn run(state: &AppState, token: &Secret) -> Result<Caller> {
    let (tenant, id) = read_run_token(&state.vault, token)?.ok_or_else(unknown)?;
    let found = state.store.find_run(tenant, id).await?.ok_or_else(unknown)?;
    let over = found.state.is_terminal() || found.created_at.after(RUN_LIFE) <= state.clock.now();
    if over { Err(unknown()) } else { Ok(Caller { tenant, who: Who::Run(id), scopes: Vec::new() }) }
}

/// What a run's token is sealed as.
fn context() -> String {
    "run-session".into()
}

/// A run's token: its tenant and id, sealed by the server.
pub(super) fn run_token(vault: &Vault, tenant: TenantId, run: RunId) -> Result<Secret> {
    let plain = [tenant.as_u128().to_be_bytes(), run.as_u128().to_be_bytes()].concat();
    Ok(Secret::new(format!("{RUN}{}", URL_SAFE_NO_PAD.encode(vault.seal(&plain, &context())?))))
}

fn read_run_token(vault: &Vault, token: &Secret) -> Result<Option<(TenantId, RunId)>> {
    let sealed = token.expose().strip_prefix(RUN).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    let Some(plain) = sealed.and_then(|sealed| vault.open(&sealed, &context()).ok()) else { return Ok(None) };
    let Ok(bytes) = <[u8; 32]>::try_from(plain.as_slice()) else { return Ok(None) };
    let number = |from: usize| bytes[from..from + 16].iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    Ok(Some((TenantId::from_u128(number(0)), RunId::from_u128(number(16)))))
}

/// Whoever may start workflows: the holder of `FLOWS:EXECUTE`, or a run.
#[derive(Debug, Clone)]
pub(super) struct Starter(Caller);

impl Starter {
    /// Whoever it is.
    pub fn caller(&self) -> &Caller {
        &self.0
    }

    pub fn tenant(&self) -> TenantId {
        self.0.tenant
    }
}

/// Whoever may read runs, or one run.
#[derive(Debug, Clone)]
pub(super) struct Reader(Caller);

/// Whoever may signal runs, or one run.
#[derive(Debug, Clone)]
pub(super) struct Signaller(Caller);

fn caller(parts: &Parts, scope: &str) -> Result<Caller> {
    let caller = parts.extensions.get::<Caller>().cloned().ok_or_else(unknown)?;
    if !matches!(caller.who, Who::Run(_)) {
        require(&caller, scope)?;
    }
    Ok(caller)
}

macro_rules! callers {
    ($($name:ident = $scope:ty),*) => {$(
        impl<S: Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Problem> {
                Ok(Self(caller(parts, <$scope>::NAME)?))
            }
        }

        impl OperationInput for $name {
            fn operation_input(_: &mut GenContext, operation: &mut Operation) {
                operation.extensions.insert("x-required-scope".into(), <$scope>::NAME.into());
            }
        }
    )*};
}

callers! { Starter = FlowsExecute, Reader = FlowsRead, Signaller = FlowsExecute }

/// The run that a caller may see.
async fn visible(store: &SharedStore, caller: &Caller, run: Run) -> Result<crate::model::Run> {
    if let Who::Run(own) = caller.who
        && own != run.0
    {
        return Err(Error::new(Kind::Forbidden, "run_session", "a run's session reads and signals that run only"));
    }
    let found = store.find_run(caller.tenant, run.0).await?;
    found.filter(|found| matches!(found.target, crate::model::Target::Workflow(_))).ok_or_else(Run::missing)
}

impl Reader {
    pub async fn find(&self, store: &SharedStore, run: Run) -> Result<crate::model::Run> {
        visible(store, &self.0, run).await
    }
}

impl Signaller {
    pub async fn find(&self, store: &SharedStore, run: Run) -> Result<crate::model::Run> {
        let found = visible(store, &self.0, run).await?;
        if found.state.is_terminal() { Err(ended()) } else { Ok(found) }
    }
}
