//! Runs that pages began, by their client token, with the bytes that each stores.
//!
//! Pages are anonymous, so what they can store needs a bound. A run is weighed while it goes on and for the last time after its end; then its weight is in
//! its row, and the sum of a token is one look at an index. A deleted run takes its row along.

use async_trait::async_trait;

use super::StoreResult;
use crate::id::{ClientTokenId, RunId, TenantId};

/// Runs that are weighed in one call, of those that have not been weighed after their end; those that were never weighed come first.
pub(super) const MAX_WEIGHED: i64 = 200;

/// The store of pages' runs.
#[async_trait]
pub trait PageRuns {
    /// Notes that a run was begun with a client token.
    async fn note_page_run(&self, tenant: TenantId, token: ClientTokenId, run: RunId) -> StoreResult<()>;

    /// Weighs the runs of a client token that may have grown, and returns how many bytes all of its runs store. Texts that several runs share count for
    /// each of them.
    async fn page_bytes(&self, tenant: TenantId, token: ClientTokenId) -> StoreResult<u64>;
}

/// SQL for the bytes of a column's text, or of the blob that it refers to.
macro_rules! weight {
    ($column:literal) => {
        concat!(
            "case when substr(",
            $column,
            ", 1, 1) = '@' then coalesce((select octet_length(b.body) from blobs b where b.hash = substr(",
            $column,
            ", 2)), 0) else octet_length(",
            $column,
            ") end"
        )
    };
}
pub(super) use weight;

/// Implements [`PageRuns`] for a SQL database; the statements are the same on each.
macro_rules! in_sql {
    ($store:ty, $connection:ty, |$this:ident| write: $write:expr, unit: |$work:ident| $unit:expr) => {
        #[async_trait]
        impl PageRuns for $store {
            async fn note_page_run(&$this, tenant: TenantId, token: ClientTokenId, run: RunId) -> StoreResult<()> {
                sqlx::query(
                    "insert into page_runs (run, tenant, token, bytes, weighed) \
                     select r.id, r.tenant, $3, 0, 0 from runs r where r.id = $1 and r.tenant = $2 on conflict do nothing",
                )
                .bind(run.suffix())
                .bind(tenant.suffix())
                .bind(token.suffix())
                .execute($write)
                .await
                .map(drop)
                .map_err(failed)
            }

            async fn page_bytes(&$this, tenant: TenantId, token: ClientTokenId) -> StoreResult<u64> {
                let $work = async move |tx: &mut $connection| {
                    sqlx::query(concat!(
                        "update page_runs set \
                            weighed = case when exists (select 1 from runs r where r.id = page_runs.run and r.finished_at is null) then 0 else 1 end, \
                            bytes = cast( \
                                coalesce((select sum(", $crate::store::page_runs::weight!("r.input"), ") from runs r where r.id = page_runs.run), 0) \
                                + coalesce((select sum(", $crate::store::page_runs::weight!("r.output"), ") from runs r where r.id = page_runs.run and r.output is not null), 0) \
                                + coalesce((select sum(", $crate::store::page_runs::weight!("j.outcome"), ") from journal j where j.run = page_runs.run), 0) \
                                + coalesce((select sum(", $crate::store::page_runs::weight!("w.shown"), ") from waits w where w.run = page_runs.run), 0) \
                                + coalesce((select sum(octet_length(e.body)) from events e where e.run = page_runs.run), 0) as bigint) \
                         where run in (select p.run from page_runs p where p.tenant = $1 and p.token = $2 and p.weighed = 0 order by p.bytes, p.run limit $3)"
                    ))
                    .bind(tenant.suffix())
                    .bind(token.suffix())
                    .bind(MAX_WEIGHED)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                    let bytes: i64 =
                        sqlx::query_scalar("select cast(coalesce(sum(bytes), 0) as bigint) from page_runs where tenant = $1 and token = $2")
                            .bind(tenant.suffix())
                            .bind(token.suffix())
                            .fetch_one(&mut *tx)
                            .await
                            .map_err(failed)?;
                    Ok(u64::try_from(bytes).unwrap_or(0))
                };
                $unit
            }
        }
    };
}
pub(super) use in_sql;
