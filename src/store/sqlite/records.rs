//! Records on SQLite. Filters are judged by the model, page by page, so that every store answers alike.

use async_trait::async_trait;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::{RecordId, TenantId};
use crate::model::Record;
use crate::store::batch::json;
use crate::store::records::{RecordPage, RecordQuery, Records};
use crate::store::text::Fit;
use crate::store::{StoreError, StoreResult, row};

/// Rows read at once while a filter is judged.
const SCAN: i64 = 500;

const TAKEN: &str = "a record with this type and name";

#[async_trait]
impl Records for SqliteStore {
    async fn create_record(&self, tenant: TenantId, record: Record) -> StoreResult<()> {
        record.fit()?;
        let result = sqlx::query(
            "insert into records (id, tenant, kind, name, metadata, messages, created_at, updated_at) \
             values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing",
        )
        .bind(record.id.suffix())
        .bind(tenant.suffix())
        .bind(record.kind)
        .bind(record.name)
        .bind(json(&record.metadata))
        .bind(json(&record.messages))
        .bind(record.created_at.as_millis())
        .bind(record.updated_at.as_millis())
        .execute(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        if result.rows_affected() == 0 { Err(StoreError::Exists(TAKEN)) } else { Ok(()) }
    }

    async fn replace_record(&self, tenant: TenantId, record: Record, expected: Timestamp) -> StoreResult<bool> {
        record.fit()?;
        let result = sqlx::query(
            "update records set kind = $3, name = $4, metadata = $5, messages = $6, updated_at = max($7, updated_at + 1) \
             where id = $1 and tenant = $2 and updated_at = $8",
        )
        .bind(record.id.suffix())
        .bind(tenant.suffix())
        .bind(record.kind)
        .bind(record.name)
        .bind(json(&record.metadata))
        .bind(json(&record.messages))
        .bind(record.updated_at.as_millis())
        .bind(expected.as_millis())
        .execute(&mut *self.writing().await?)
        .await
        .map_err(unless_taken(TAKEN))?;
        Ok(result.rows_affected() > 0)
    }

    async fn find_record(&self, tenant: TenantId, id: RecordId) -> StoreResult<Option<Record>> {
        let row = sqlx::query("select * from records where id = $1 and tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::record).transpose()
    }

    async fn find_record_by_name(&self, tenant: TenantId, kind: &str, name: &str) -> StoreResult<Option<Record>> {
        let row = sqlx::query("select * from records where tenant = $1 and kind = $2 and name = $3")
            .bind(tenant.suffix())
            .bind(kind.to_owned())
            .bind(name.to_owned())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::record).transpose()
    }

    async fn list_records(&self, tenant: TenantId, query: RecordQuery) -> StoreResult<RecordPage> {
        let wanted = query.limit as usize;
        let mut page = RecordPage::default();
        let mut after = query.after;
        loop {
            let rows = sqlx::query(
                "select * from records where tenant = $1 and ($2 is null or kind = $2) and ($3 is null or name = $3) \
                    and ($4 is null or (updated_at, id) < ($4, $5)) order by updated_at desc, id desc limit $6",
            )
            .bind(tenant.suffix())
            .bind(query.kind.clone())
            .bind(query.name.clone())
            .bind(after.map(|(at, _)| at.as_millis()))
            .bind(after.map(|(_, id)| id.suffix()))
            .bind(SCAN)
            .fetch_all(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
            let last = rows.len() < usize::try_from(SCAN).unwrap_or(usize::MAX);
            for row in &rows {
                let record = row::record(row)?;
                after = Some((record.updated_at, record.id));
                if !query.filter.matches(&record) {
                    continue;
                }
                if page.records.len() == wanted {
                    page.more = true;
                    return Ok(page);
                }
                page.records.push(record);
            }
            if last {
                return Ok(page);
            }
        }
    }

    async fn delete_records(&self, tenant: TenantId, ids: &[RecordId]) -> StoreResult<u64> {
        let ids: Vec<String> = ids.iter().map(|id| id.suffix()).collect();
        sqlx::query("delete from records where tenant = $1 and id in (select value from json_each($2))")
            .bind(tenant.suffix())
            .bind(json(&ids))
            .execute(&mut *self.writing().await?)
            .await
            .map(|result| result.rows_affected())
            .map_err(failed)
    }
}
