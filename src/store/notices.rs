//! Notices: runs of which something is still to be told outside.
//!
//! A notice is an entry of the run's journal, so it is there exactly if the commit is that it speaks of.

use async_trait::async_trait;

use super::StoreResult;
use crate::id::{RunId, TenantId};

/// The journal's key of a notice.
pub const NOTICE: &str = "notice";

/// The store of notices. They are made by commits of their runs.
#[async_trait]
pub trait Notices {
    /// Runs with a notice, the oldest first; those of some tenants left out.
    async fn noticed_runs(&self, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>>;

    /// Takes a notice away, unless the run has been committed to since `commit`. Whether it did.
    async fn notice_told(&self, tenant: TenantId, run: RunId, commit: i64) -> StoreResult<bool>;
}

/// The store of notices on a SQL database: the statements are the same on each.
macro_rules! in_sql {
    ($store:ty, |$this:ident| read: $read:expr, write: $write:expr) => {
        #[async_trait::async_trait]
        impl $crate::store::Notices for $store {
            async fn noticed_runs(&$this, except: &[TenantId], limit: u32) -> StoreResult<Vec<(TenantId, RunId)>> {
                let except = row::except("r.tenant", except);
                let noticed = format!(
                    "select r.tenant, r.id from journal j join runs r on r.id = j.run where j.key = 'notice'{except} order by j.run limit $1"
                );
                let rows =
                    sqlx::query(sqlx::AssertSqlSafe(noticed)).bind(i64::from(limit)).fetch_all($read).await.map_err(failed)?;
                rows.iter().map(row::run_of_tenant).collect()
            }

            async fn notice_told(&$this, tenant: TenantId, run: RunId, commit: i64) -> StoreResult<bool> {
                let told = sqlx::query(
                    "delete from journal where run = $1 and key = 'notice' \
                     and exists (select 1 from runs r where r.id = $1 and r.tenant = $2 and r.commit_no = $3)",
                )
                .bind(run.suffix())
                .bind(tenant.suffix())
                .bind(commit)
                .execute($write)
                .await
                .map_err(failed)?;
                Ok(told.rows_affected() > 0)
            }
        }
    };
}
pub(super) use in_sql;
