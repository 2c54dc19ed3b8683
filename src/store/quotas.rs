//! Limits of keys and tenants, and the counters that all servers of a database book against them.
//!
//! A counter belongs to a key, or to its tenant as a whole, and to a window of time. Booking is a compare-and-set: a counter is raised only
//! if it stays within the cap that the caller names, and several are raised together or not at all. What a call may use at most is booked
//! before it and corrected after it. A server that dies in between leaves the higher figure: nobody knows what its call has used.
//!
//! Executions at the same time are not counted but looked up, so that a server that dies leaves no wrong count: those whose rows say that
//! they are queued or running, and those that were admitted and have no row yet ([`QuotaSlot`]).
//!
//! Must not know: what is refused when a cap is reached.

use async_trait::async_trait;

use super::StoreResult;
use super::row::{Columns, broken};
use super::usage::column;
use crate::clock::Timestamp;
use crate::id::{KeyId, RunId, TenantId};
use crate::model::UsageLimits;

/// The limits of a key, or of its tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsRow {
    /// `None`: the tenant's.
    pub key: Option<KeyId>,
    pub limits: UsageLimits,
}

/// What is to be booked on one counter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuotaTake {
    /// `None`: the tenant's counter.
    pub key: Option<KeyId>,
    /// The window's name.
    pub name: String,
    /// A counter that is new begins with the usage from this day on; with nothing if there is none.
    pub first_day: Option<String>,
    pub cost: u64,
    pub tokens: u64,
    pub requests: u64,
    /// The counter's caps after the booking. A figure without a cap is counted all the same.
    pub max_cost: Option<u64>,
    pub max_tokens: Option<u64>,
    pub max_requests: Option<u64>,
    /// When the counter may be forgotten.
    pub expires_at: Option<Timestamp>,
}

/// What became of a booking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaAnswer {
    /// All of it is booked; the requests that each counter has now.
    Taken(Vec<u64>),
    /// Nothing is booked: the counter at this position would exceed its cap.
    Refused(usize),
}

/// A correction of a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaChange {
    pub key: Option<KeyId>,
    pub name: String,
    pub cost: i64,
    pub tokens: i64,
    pub requests: i64,
}

/// An execution that is about to begin, under a cap on executions at the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaSlot {
    /// `None`: the tenant's cap.
    pub key: Option<KeyId>,
    pub max: u32,
}

/// Where a counter stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QuotaCount {
    pub key: Option<KeyId>,
    pub name: String,
    pub cost: u64,
    pub tokens: u64,
    pub requests: u64,
}

/// The store of limits and their counters.
#[async_trait]
pub trait Quotas {
    /// Replaces the limits of a key or, without one, of the tenant; empty limits are removed.
    async fn put_limits(&self, tenant: TenantId, row: LimitsRow, now: Timestamp) -> StoreResult<()>;

    /// The limits of the tenant and of this key, as far as there are any.
    async fn find_limits(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<LimitsRow>>;

    /// All limits of a tenant and its keys.
    async fn list_limits(&self, tenant: TenantId) -> StoreResult<Vec<LimitsRow>>;

    /// Books on every counter or on none. Callers that book on several name them in one order, so that they do not block each other.
    async fn take_quota(&self, tenant: TenantId, takes: Vec<QuotaTake>) -> StoreResult<QuotaAnswer>;

    /// Corrects counters; none falls below zero. A counter that is gone stays gone.
    async fn correct_quota(&self, tenant: TenantId, changes: Vec<QuotaChange>) -> StoreResult<()>;

    /// The counters of the tenant and of this key.
    async fn count_quota(&self, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<QuotaCount>>;

    /// Makes room for an execution under every cap, or under none: then the position of the cap that is reached. The room is kept until the
    /// execution has a row, or until `until`.
    async fn take_slots(
        &self,
        tenant: TenantId,
        run: RunId,
        slots: Vec<QuotaSlot>,
        now: Timestamp,
        until: Timestamp,
    ) -> StoreResult<Option<usize>>;

    /// Forgets counters and admissions whose time is over; how many.
    async fn purge_quotas(&self, now: Timestamp) -> StoreResult<u64>;
}

impl QuotaTake {
    /// What takes this booking back.
    pub fn undone(&self) -> QuotaChange {
        QuotaChange {
            key: self.key,
            name: self.name.clone(),
            cost: -column(self.cost),
            tokens: -column(self.tokens),
            requests: -column(self.requests),
        }
    }
}

/// A key as a column keeps it; the tenant's own rows have the empty text.
pub(super) fn suffix(key: Option<KeyId>) -> String {
    key.map(KeyId::suffix).unwrap_or_default()
}

fn key(row: &impl Columns, table: &'static str) -> StoreResult<Option<KeyId>> {
    let text = row.text("api_key")?.unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    KeyId::from_suffix(&text).map(Some).map_err(|why| broken(table, "api_key", &text, why))
}

pub(super) fn read_limits(row: &impl Columns) -> StoreResult<LimitsRow> {
    let key = key(row, "usage_limits")?;
    let body = row.text("body")?.unwrap_or_default();
    let limits = serde_json::from_str(&body).map_err(|why| broken("usage_limits", "body", &suffix(key), why))?;
    Ok(LimitsRow { key, limits })
}

pub(super) fn read_count(row: &impl Columns) -> StoreResult<QuotaCount> {
    let count =
        |column: &'static str| -> StoreResult<u64> { Ok(row.number(column)?.and_then(|count| u64::try_from(count).ok()).unwrap_or(0)) };
    Ok(QuotaCount {
        key: key(row, "quota_counters")?,
        name: row.text("name")?.unwrap_or_default(),
        cost: count("cost")?,
        tokens: count("tokens")?,
        requests: count("requests")?,
    })
}

/// The name of the row whose lock makes admissions under one cap take turns.
pub(super) const SLOTS: &str = "slots";

/// The store of limits on a SQL database: the statements are the same on each.
macro_rules! in_sql {
    ($store:ty, $connection:ty, |$this:ident| read: $read:expr, write: $write:expr, unit: |$work:ident| $unit:expr) => {
        /// Books on one counter that exists; the requests that it has then.
        async fn book(open: &mut $connection, tenant: TenantId, take: &QuotaTake) -> StoreResult<Option<i64>> {
            sqlx::query_scalar(
                "update quota_counters set cost = cost + $4, tokens = tokens + $5, requests = requests + $6 \
                 where tenant = $1 and api_key = $2 and name = $3 and (cast($7 as bigint) is null or cost + $4 <= $7) \
                    and (cast($8 as bigint) is null or tokens + $5 <= $8) and (cast($9 as bigint) is null or requests + $6 <= $9) \
                 returning requests",
            )
            .bind(tenant.suffix())
            .bind(suffix(take.key))
            .bind(take.name.clone())
            .bind(column(take.cost))
            .bind(column(take.tokens))
            .bind(column(take.requests))
            .bind(take.max_cost.map(column))
            .bind(take.max_tokens.map(column))
            .bind(take.max_requests.map(column))
            .fetch_optional(&mut *open)
            .await
            .map_err(failed)
        }

        /// Makes a counter that begins with the usage of its window so far. `false`: it was there.
        async fn open_counter(open: &mut $connection, tenant: TenantId, take: &QuotaTake) -> StoreResult<bool> {
            let opened = sqlx::query(
                "insert into quota_counters (tenant, api_key, name, cost, tokens, requests, expires_at) \
                 select $1, $2, $3, coalesce(sum(cost), 0), coalesce(sum(input_tokens + output_tokens), 0), 0, $5 from usage_days \
                 where cast($4 as text) is not null and tenant = $1 and day >= $4 and ($2 = '' or api_key = $2) \
                 on conflict (tenant, api_key, name) do nothing",
            )
            .bind(tenant.suffix())
            .bind(suffix(take.key))
            .bind(take.name.clone())
            .bind(take.first_day.clone())
            .bind(take.expires_at.map(Timestamp::as_millis))
            .execute(&mut *open)
            .await
            .map_err(failed)?;
            Ok(opened.rows_affected() > 0)
        }

        async fn correct(open: &mut $connection, tenant: TenantId, change: &QuotaChange) -> StoreResult<()> {
            sqlx::query(
                "update quota_counters set cost = case when cost + $4 < 0 then 0 else cost + $4 end, \
                    tokens = case when tokens + $5 < 0 then 0 else tokens + $5 end, \
                    requests = case when requests + $6 < 0 then 0 else requests + $6 end \
                 where tenant = $1 and api_key = $2 and name = $3",
            )
            .bind(tenant.suffix())
            .bind(suffix(change.key))
            .bind(change.name.clone())
            .bind(change.cost)
            .bind(change.tokens)
            .bind(change.requests)
            .execute(&mut *open)
            .await
            .map(drop)
            .map_err(failed)
        }

        async fn take_all(open: &mut $connection, tenant: TenantId, takes: &[QuotaTake]) -> StoreResult<QuotaAnswer> {
            let mut requests = Vec::with_capacity(takes.len());
            for (place, take) in takes.iter().enumerate() {
                let mut booked = book(open, tenant, take).await?;
                if booked.is_none() {
                    // Whether it was made now or by another at the same time, it is there now.
                    open_counter(open, tenant, take).await?;
                    booked = book(open, tenant, take).await?;
                }
                let Some(count) = booked else {
                    for undone in takes.iter().take(place) {
                        correct(open, tenant, &undone.undone()).await?;
                    }
                    return Ok(QuotaAnswer::Refused(place));
                };
                requests.push(u64::try_from(count).unwrap_or(0));
            }
            Ok(QuotaAnswer::Taken(requests))
        }

        /// How many executions are under way or about to begin. The caps of others are not touched: see [`SLOTS`].
        async fn under_way(open: &mut $connection, tenant: TenantId, key: &str, now: Timestamp) -> StoreResult<i64> {
            sqlx::query(
                "insert into quota_counters (tenant, api_key, name, cost, tokens, requests) values ($1, $2, $3, 0, 0, 0) \
                 on conflict (tenant, api_key, name) do update set requests = 0",
            )
            .bind(tenant.suffix())
            .bind(key.to_owned())
            .bind(SLOTS)
            .execute(&mut *open)
            .await
            .map_err(failed)?;
            sqlx::query("delete from quota_slots where tenant = $1 and api_key = $2 and expires_at <= $3")
                .bind(tenant.suffix())
                .bind(key.to_owned())
                .bind(now.as_millis())
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            sqlx::query_scalar(
                "select (select count(*) from runs r where r.wake_at is not null and r.tenant = $1 and ($2 = '' or r.api_key = $2) \
                    and r.parent_run is null and r.state in ('queued', 'running', 'compensating')) \
                 + (select count(*) from quota_slots s where s.tenant = $1 and s.api_key = $2 \
                    and not exists (select 1 from runs r where r.id = s.run))",
            )
            .bind(tenant.suffix())
            .bind(key.to_owned())
            .fetch_one(&mut *open)
            .await
            .map_err(failed)
        }

        async fn admit(
            open: &mut $connection,
            (tenant, run): (TenantId, RunId),
            slots: &[QuotaSlot],
            now: Timestamp,
            until: Timestamp,
        ) -> StoreResult<Option<usize>> {
            for (place, slot) in slots.iter().enumerate() {
                let key = suffix(slot.key);
                if under_way(open, tenant, &key, now).await? >= i64::from(slot.max) {
                    sqlx::query("delete from quota_slots where tenant = $1 and run = $2")
                        .bind(tenant.suffix())
                        .bind(run.suffix())
                        .execute(&mut *open)
                        .await
                        .map_err(failed)?;
                    return Ok(Some(place));
                }
                sqlx::query(
                    "insert into quota_slots (tenant, api_key, run, expires_at) values ($1, $2, $3, $4) \
                     on conflict (tenant, api_key, run) do nothing",
                )
                .bind(tenant.suffix())
                .bind(key)
                .bind(run.suffix())
                .bind(until.as_millis())
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            }
            Ok(None)
        }

        #[async_trait]
        impl Quotas for $store {
            async fn put_limits(&$this, tenant: TenantId, row: LimitsRow, now: Timestamp) -> StoreResult<()> {
                let query = if row.limits.is_empty() {
                    sqlx::query("delete from usage_limits where tenant = $1 and api_key = $2").bind(tenant.suffix()).bind(suffix(row.key))
                } else {
                    sqlx::query(
                        "insert into usage_limits (tenant, api_key, body, updated_at) values ($1, $2, $3, $4) \
                         on conflict (tenant, api_key) do update set body = excluded.body, updated_at = excluded.updated_at",
                    )
                    .bind(tenant.suffix())
                    .bind(suffix(row.key))
                    .bind(json(&row.limits))
                    .bind(now.as_millis())
                };
                query.execute($write).await.map(drop).map_err(failed)
            }

            async fn find_limits(&$this, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<LimitsRow>> {
                let rows = sqlx::query(
                    "select api_key, body from usage_limits where tenant = $1 and api_key in ('', $2) order by api_key",
                )
                .bind(tenant.suffix())
                .bind(suffix(key))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                rows.iter().map(read_limits).collect()
            }

            async fn list_limits(&$this, tenant: TenantId) -> StoreResult<Vec<LimitsRow>> {
                let rows = sqlx::query("select api_key, body from usage_limits where tenant = $1 order by api_key")
                    .bind(tenant.suffix())
                    .fetch_all($read)
                    .await
                    .map_err(failed)?;
                rows.iter().map(read_limits).collect()
            }

            async fn take_quota(&$this, tenant: TenantId, takes: Vec<QuotaTake>) -> StoreResult<QuotaAnswer> {
                let $work = async move |open: &mut $connection| self::take_all(open, tenant, &takes).await;
                $unit
            }

            async fn correct_quota(&$this, tenant: TenantId, changes: Vec<QuotaChange>) -> StoreResult<()> {
                let $work = async move |open: &mut $connection| {
                    for change in &changes {
                        correct(open, tenant, change).await?;
                    }
                    Ok(())
                };
                $unit
            }

            async fn count_quota(&$this, tenant: TenantId, key: Option<KeyId>) -> StoreResult<Vec<QuotaCount>> {
                let rows = sqlx::query(
                    "select api_key, name, cost, tokens, requests from quota_counters where tenant = $1 and api_key in ('', $2) \
                     order by api_key, name",
                )
                .bind(tenant.suffix())
                .bind(suffix(key))
                .fetch_all($read)
                .await
                .map_err(failed)?;
                rows.iter().map(read_count).collect()
            }

            async fn take_slots(
                &$this,
                tenant: TenantId,
                run: RunId,
                slots: Vec<QuotaSlot>,
                now: Timestamp,
                until: Timestamp,
            ) -> StoreResult<Option<usize>> {
                let $work = async move |open: &mut $connection| self::admit(open, (tenant, run), &slots, now, until).await;
                $unit
            }

            async fn purge_quotas(&$this, now: Timestamp) -> StoreResult<u64> {
                let $work = async move |open: &mut $connection| {
                    let mut purged = 0;
                    for table in ["delete from quota_counters where expires_at <= $1", "delete from quota_slots where expires_at <= $1"] {
                        let done = sqlx::query(table).bind(now.as_millis()).execute(&mut *open).await.map_err(failed)?;
                        purged += done.rows_affected();
                    }
                    Ok(purged)
                };
                $unit
            }
        }
    };
}
pub(super) use in_sql;
