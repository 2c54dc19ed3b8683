//! How much waits in a database, of all tenants together: figures for whoever watches over the server. They tell of nobody.
//!
//! Only what is alive is counted, by indexes that hold nothing else, so that it costs little however much has ended.

use async_trait::async_trait;

use super::StoreResult;

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Census {
    /// Runs that nobody holds yet, or that were handed back.
    pub queued: u64,
    /// Runs that a node holds, those that undo what they did included.
    pub running: u64,
    /// Runs that wait: for a time, for a signal, for an answer.
    pub paused: u64,
    /// Jobs whose time has come.
    pub jobs_ready: u64,
    /// Jobs whose time is to come.
    pub jobs_later: u64,
    pub jobs_running: u64,
    /// Dead letters that nobody replayed.
    pub dead_letters: u64,
    /// Runs whose news is to be told to webhooks.
    pub notices: u64,
    /// Deliveries to webhooks whose time has come.
    pub deliveries: u64,
    /// Connections to the database that are lent now, and that are not.
    pub connections_used: u64,
    pub connections_idle: u64,
}

/// The store's own figures.
#[async_trait]
pub trait Censuses {
    async fn census(&self, now: crate::clock::Timestamp) -> StoreResult<Census>;
}

/// The figures of a SQL database: the statements are the same on each. `connections`: how many are lent, and how many are not.
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

/// What is counted, by name. A run that waits for no time has nothing but its open waits to be found by.
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
    /// Adds a figure to the one that it belongs to.
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
