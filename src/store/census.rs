//! Counts the backlog of a database, over all tenants, for monitoring.
//!
//! Only live rows are counted, with indexes that contain nothing else, so that the cost does not depend on how much has ended.

use async_trait::async_trait;

use super::StoreResult;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Runs that no node has claimed yet, or that were handed back.
    pub queued: u64,
    /// Runs that a node holds, including compensating ones.
    pub running: u64,
    /// Runs that wait for a time, a signal or an answer.
    pub paused: u64,
    /// Jobs that are due.
    pub jobs_ready: u64,
    /// Jobs that are due later.
    pub jobs_later: u64,
    pub jobs_running: u64,
    /// Dead letters that have not been replayed.
    pub dead_letters: u64,
    /// Runs with notifications for webhooks that have not been queued.
    pub notices: u64,
    /// Webhook deliveries that are due.
    pub deliveries: u64,
    /// Database connections in use, and idle ones.
    pub connections_used: u64,
    pub connections_idle: u64,
}

/// Counts the backlog.
#[async_trait]
pub trait Censuses {
    async fn census(&self, now: crate::clock::Timestamp) -> StoreResult<Census>;
}

/// Implements the counts for a SQL database; the statements are the same for each. `connections`: how many are in use, and how many are idle.
macro_rules! in_sql {
    ($store:ty, |$this:ident| read: $read:expr, connections: $connections:expr) => {
        #[async_trait::async_trait]
        impl $crate::store::Censuses for $store {
            async fn census(&$this, now: $crate::clock::Timestamp) -> StoreResult<Census> {
                let (connections_used, connections_idle) = $connections;
                let rows = sqlx::query_as::<_, (String, i64)>($crate::store::census::FIGURES)
                    .bind(now.as_millis())
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                let mut census = Census { connections_used, connections_idle, ..Census::default() };
                for (figure, count) in rows {
                    census.note(&figure, u64::try_from(count).unwrap_or(0));
                }
                Ok(census)
            }
        }
    };
}
pub(super) use in_sql;

/// The counts by name. A paused run without a wake-up time is found by its open waits only.
pub(super) const FIGURES: &str = "select state as figure, count(*) as count from runs where wake_at is not null group by state \
     union all select 'waiting', count(distinct w.run) from waits w join runs r on r.id = w.run \
         where w.state = 'open' and r.state = 'paused' and r.wake_at is null \
     union all select 'jobs_ready', count(*) from jobs where ready = 1 \
     union all select 'jobs_later', count(*) from jobs where ready = 0 and state in ('pending', 'retrying') \
     union all select 'jobs_running', count(*) from jobs where state = 'running' \
     union all select 'dead_letters', count(*) from dead_letters where replayed_at is null \
     union all select 'notices', count(*) from journal where key = 'notice' \
     union all select 'deliveries', count(*) from documents where kind = 'webhook_delivery' and due_at <= $1";

impl Census {
    /// Adds a count to its field.
    pub(super) fn note(&mut self, figure: &str, count: u64) {
        let place = match figure {
            "queued" => &mut self.queued,
            "running" | "compensating" => &mut self.running,
            "paused" | "waiting" => &mut self.paused,
            "jobs_ready" => &mut self.jobs_ready,
            "jobs_later" => &mut self.jobs_later,
            "jobs_running" => &mut self.jobs_running,
            "dead_letters" => &mut self.dead_letters,
            "notices" => &mut self.notices,
            "deliveries" => &mut self.deliveries,
            _ => return,
        };
        *place += count;
    }
}
