//! Receives notifications from other nodes. A lost connection is reopened, and so is one to a read-only server: no node
//! can notify there. A missed notification only causes a delay.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Executor, Row};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::failed;
use crate::clock::Clock;
use crate::id::RunId;
use crate::store::Rung;
use crate::store::StoreResult;

/// The channel that `dispatch_ring` notifies: suffixes of run ids, joined by commas; those of due runs behind a `!`.
const CHANNEL: &str = "dispatch";
/// Waits between attempts to connect: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LAST_WAIT: Duration = Duration::from_secs(5);
/// A session that has been silent for this long is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Fails on a standby. The database shows a session by its last statement, so this one begins with `listen`, too.
const CHECK: &str = "listen dispatch; select pg_is_in_recovery() or current_setting('transaction_read_only')::bool";

/// Carries notifications to the store's bell.
pub(super) struct Ears {
    pub options: PgConnectOptions,
    pub bell: broadcast::Sender<Rung>,
    /// The writer's server process, whose notifications this node has rung already.
    pub own: Arc<AtomicU32>,
    pub clock: Clock,
}

impl Ears {
    /// Listens when it returns.
    pub async fn start(self, stop: CancellationToken) -> StoreResult<JoinHandle<()>> {
        let listener = self.connect().await.map_err(failed)?;
        Ok(tokio::spawn(async move { stop.run_until_cancelled(self.listen(listener)).await.unwrap_or_default() }))
    }

    async fn connect(&self) -> Result<PgListener, sqlx::Error> {
        let pool = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None).connect_lazy_with(self.options.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    async fn listen(&self, mut listener: PgListener) {
        loop {
            let heard = tokio::select! {
                heard = listener.try_recv() => heard,
                () = self.clock.sleep(CHECK_INTERVAL) => {
                    if is_read_only(&mut listener).await.unwrap_or(true) {
                        tracing::warn!("the notification connection is read-only, as after a fail-over; reconnecting");
                        listener = self.reconnect().await;
                    }
                    continue;
                }
            };
            match heard {
                Ok(Some(heard)) if heard.process_id() == self.own.load(Ordering::Relaxed) => {}
                Ok(Some(heard)) => self.ring(heard.payload()),
                // The connection was lost and is back.
                Ok(None) => tracing::warn!("missed notifications of other nodes for a moment"),
                Err(error) => {
                    tracing::warn!(%error, "cannot hear other nodes; their runs are found by looking");
                    listener = self.reconnect().await;
                }
            }
        }
    }

    async fn reconnect(&self) -> PgListener {
        let mut wait = FIRST_WAIT;
        loop {
            self.clock.sleep(wait).await;
            match self.connect().await {
                Ok(listener) => return listener,
                Err(_) => wait = (wait * 2).min(LAST_WAIT),
            }
        }
    }

    fn ring(&self, payload: &str) {
        for part in payload.split(',') {
            let (id, due) = part.strip_prefix('!').map_or((part, false), |id| (id, true));
            if let Ok(run) = RunId::from_suffix(id) {
                let _ = self.bell.send(Rung { run, due });
            }
        }
    }
}

/// Returns whether the listener's server is read-only.
async fn is_read_only(listener: &mut PgListener) -> Result<bool, sqlx::Error> {
    listener.fetch_one(sqlx::raw_sql(CHECK)).await?.try_get(0)
}
