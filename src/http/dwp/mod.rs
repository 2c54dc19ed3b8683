//! The wire protocol (DWP) of xraph/dispatch, which its clients for Go, TypeScript and Python speak.
//!
//! Three ways in: a WebSocket ([`socket`]), a stream of events ([`sse`]), and single requests ([`rpc`]). A request is one [`frame`]; [`methods`] says
//! which function of the [`super::admin`] surface it is, so that both surfaces do the same. Callers prove themselves by an API key in their first
//! frame, in a frame, or in a header; so these routes stand outside the guard. To add a method: a line in [`methods`].
//!
//! Must not know: how a job or a run moves, the store.

mod frame;
mod methods;
mod pending;
mod rpc;
mod socket;
mod sse;

use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Extension, Router};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AppState;
use super::admin::BASES;
use crate::auth::Credentials;
use crate::error::{Error, Kind, Result};
use crate::http::scope::{FlowsRead, JobsRead, Scope, require};
use crate::model::Caller;
use crate::queue::broker::Channel;
use crate::secret::Secret;
use pending::{PendingPlace, PendingSockets};

/// Sockets that one server holds open.
const MAX_SOCKETS: usize = 4_096;

/// Every route of this surface, at the root and wherever the admin surface is served.
pub fn routes() -> Router<AppState> {
    let bases = std::iter::once("").chain(BASES);
    let router = bases.fold(Router::new(), |router, base| {
        router
            .route(&format!("{base}/dwp"), get(socket::upgrade))
            .route(&format!("{base}/dwp/sse"), get(sse::open))
            .route(&format!("{base}/dwp/rpc"), post(rpc::call))
    });
    router.layer(Extension(Sockets::default()))
}

/// The sockets of this server.
#[derive(Clone)]
struct Sockets {
    new: PendingSockets,
    open: Arc<Semaphore>,
}

impl Default for Sockets {
    fn default() -> Self {
        Self { new: PendingSockets::default(), open: Arc::new(Semaphore::new(MAX_SOCKETS)) }
    }
}

impl Sockets {
    /// A place for one whose caller is not known, held until it is dropped.
    fn admit_new(&self) -> PendingPlace {
        self.new.admit()
    }

    /// A place for one whose caller is known.
    fn admit(&self) -> Result<OwnedSemaphorePermit> {
        self.open.clone().try_acquire_owned().map_err(|_| too_many())
    }
}

fn too_many() -> Error {
    Error::new(Kind::Unavailable, "too_many_connections", "the server holds as many connections as it may")
        .retry_after(std::time::Duration::from_secs(1))
}

/// The credentials in a token as clients of this protocol send it: the key, with or without `Bearer` before it.
fn credentials(token: Secret) -> Credentials {
    Credentials { authorization: Some(token), api_key: None }
}

/// Reads the name of a channel. Error `invalid_channel` (400).
fn read_channel(name: &str) -> Result<Channel> {
    Channel::parse(name).ok_or_else(|| {
        Error::new(Kind::Malformed, "invalid_channel", format!("there is no channel `{name}`"))
            .next("use jobs, workflows, firehose, job:<id>, workflow:<run id> or queue:<name>")
    })
}

/// Refuses a caller that may not read what a channel carries.
fn require_channel(caller: &Caller, channel: &Channel) -> Result<()> {
    if channel.carries_jobs() {
        require(caller, JobsRead::NAME)?;
    }
    if channel.carries_runs() {
        require(caller, FlowsRead::NAME)?;
    }
    Ok(())
}
