//! The front door: one router for every surface, and what all of them share.
//!
//! A request meets, from the outside in: the reader of unread bodies ([`unread`]), request id and safe headers ([`headers`]), the trace span and
//! metrics ([`observe`]), the catch for panics, CORS ([`cors`]), then its route. Routes of secret keys stand
//! behind [`guard`], which proves who calls and counts the call; everything after it reads the proven
//! [`crate::model::Caller`]. Pages have no key: their routes ([`dispatch`], `client`) prove a client token or a session themselves. Every refusal
//! is one envelope ([`problem`]).
//!
//! To add a surface: a folder with `routes() -> ApiRouter<AppState>`, one line in [`openapi::surfaces`].
//! To add a part that handlers take: a field of [`AppState`] and a line in `parts!`.
//!
//! Must not know: how a run moves, SQL, providers' wire formats.

pub mod admin;
pub mod admission;
pub mod budget;
mod connections;
pub mod cors;
mod disconnect;
pub mod dispatch;
pub mod docs;
pub mod dwp;
pub mod extract;
pub mod guard;
pub mod headers;
pub mod idempotency;
pub mod limits;
pub mod observe;
pub mod openai;
pub mod openapi;
pub mod paging;
pub mod problem;
pub mod saved;
pub mod schemas;
pub mod scope;
pub mod serve;
mod unique;
mod unread;
pub mod workflows;

use std::sync::Arc;

use aide::openapi::{MediaType, ReferenceOr, RequestBody, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::Router;
use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::catch_panic::CatchPanicLayer;

use crate::asset::Assets;
use crate::auth::Auth;
use crate::clock::Clock;
use crate::engine::Engine;
use crate::feed::Feed;
use crate::model::RetentionPolicy;
use crate::queue::{Jobs, Workers};
use crate::secret::Vault;
use crate::store::SharedStore;
use crate::store::sealing::Sealing;

/// The parts that handlers take, each by its type.
#[derive(Clone)]
pub struct AppState {
    pub assets: Assets,
    pub auth: Auth,
    pub store: SharedStore,
    pub sealing: Arc<Sealing>,
    pub vault: Vault,
    pub clock: Clock,
    pub limits: limits::Limits,
    pub readiness: docs::Readiness,
    pub engine: Engine,
    pub feed: Feed,
    pub workers: Workers,
    pub jobs: Jobs,
    pub saved: Arc<dyn saved::SavedTargets>,
    /// How long data is kept where a tenant does not say.
    pub retention: RetentionPolicy,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AppState({})", self.store.name())
    }
}

macro_rules! parts {
    ($($field:ident: $part:ty),* $(,)?) => {$(
        impl FromRef<AppState> for $part {
            fn from_ref(state: &AppState) -> Self {
                state.$field.clone()
            }
        }
    )*};
}

parts! {
    assets: Assets,
    auth: Auth,
    store: SharedStore,
    vault: Vault,
    clock: Clock,
    limits: limits::Limits,
    readiness: docs::Readiness,
    engine: Engine,
    feed: Feed,
    workers: Workers,
    jobs: Jobs,
    saved: Arc<dyn saved::SavedTargets>,
    retention: RetentionPolicy,
}

/// What the operator chooses about the front door.
#[derive(Clone, Default)]
pub struct HttpOptions {
    /// Web origins that may call; none by default.
    pub cors: cors::Origins,
    /// Where `/metrics` reads from; absent, there is no such route.
    pub metrics: Option<PrometheusHandle>,
}

impl std::fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpOptions").field("cors", &self.cors).field("metrics", &self.metrics.is_some()).finish()
    }
}

/// The whole router, ready to serve.
pub fn router(state: AppState, options: HttpOptions) -> Router {
    let (mut router, _) = openapi::surfaces(|routes| routes.route_layer(from_fn_with_state(state.clone(), guard::guard)));
    router = router.merge(docs::front());
    if let Some(handle) = options.metrics {
        router = router.merge(docs::metrics(handle));
    }
    for base in admin::BASES {
        router = router.nest(base, Router::from(admin::routes()).route_layer(from_fn_with_state(state.clone(), guard::guard)));
    }
    router
        .merge(dispatch::mcp_routes(state.clone()).route_layer(from_fn_with_state(state.clone(), guard::guard)))
        .merge(dwp::routes())
        .merge(openai::unlisted_routes(|routes| routes.route_layer(from_fn_with_state(state.clone(), guard::guard))))
        .fallback(problem::no_such_route)
        .method_not_allowed_fallback(problem::no_such_method)
        .layer(from_fn_with_state(options.cors, cors::cors))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn_with_state(state.clock.clone(), observe::observe))
        .layer(from_fn_with_state(state.clock.clone(), headers::stamp))
        .layer(from_fn(unread::drain))
        .with_state(state)
}

/// An operation's name, group and one-line summary.
fn about(id: &'static str, tag: &'static str, summary: &'static str) -> impl FnOnce(TransformOperation<'_>) -> TransformOperation<'_> {
    move |operation| operation.id(id).tag(tag).summary(summary)
}

/// Says that an operation's body may be anything of a media type, or nothing.
fn takes_anything<'t>(mut operation: TransformOperation<'t>, media_type: &str) -> TransformOperation<'t> {
    let schema = SchemaObject { json_schema: schemars::json_schema!({}), external_docs: None, example: None };
    let content = [(media_type.to_owned(), MediaType { schema: Some(schema), ..MediaType::default() })].into_iter().collect();
    operation.inner_mut().request_body = Some(ReferenceOr::Item(RequestBody { content, ..RequestBody::default() }));
    operation
}

/// Says that an operation may be refused with these statuses, besides those that follow from its kind.
fn may_refuse<'t>(mut operation: TransformOperation<'t>, statuses: &[u16]) -> TransformOperation<'t> {
    let responses = &mut operation.inner_mut().responses.get_or_insert_default().responses;
    for status in statuses {
        responses.insert(StatusCode::Code(*status), ReferenceOr::ref_(&format!("#/components/responses/Error{status}")));
    }
    operation
}

/// Marks an operation's body as one that may be left out.
fn body_optional(mut operation: TransformOperation<'_>) -> TransformOperation<'_> {
    if let Some(body) = operation.inner_mut().request_body.as_mut().and_then(|body| body.as_item_mut()) {
        body.required = false;
    }
    operation
}
