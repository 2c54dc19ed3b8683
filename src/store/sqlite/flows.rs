//! Saved flows on SQLite.

use async_trait::async_trait;
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use super::{SqliteStore, failed, unless_taken};
use crate::clock::Timestamp;
use crate::id::{FlowId, FlowVersionId, TenantId};
use crate::model::TargetKind;
use crate::store::flows::{FlowVersion, Flows, SavedFlow};
use crate::store::text::Fit;
use crate::store::{StoreResult, row};

/// Adds a version under the next free number.
async fn insert_version(connection: &mut SqliteConnection, version: FlowVersion) -> StoreResult<()> {
    sqlx::query(
        "insert into flow_versions (id, flow, number, document, created_at, published_at) \
         values ($1, $2, (select coalesce(max(number), 0) + 1 from flow_versions where flow = $2), $3, $4, $5)",
    )
    .bind(version.id.suffix())
    .bind(version.flow.suffix())
    .bind(version.document.to_string())
    .bind(version.created_at.as_millis())
    .bind(version.published_at.map(Timestamp::as_millis))
    .execute(connection)
    .await
    .map(drop)
    .map_err(failed)
}

const TAKEN: &str = "a flow with this name";

#[async_trait]
impl Flows for SqliteStore {
    async fn create_flow(&self, tenant: TenantId, flow: SavedFlow, version: FlowVersion) -> StoreResult<()> {
        flow.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        sqlx::query(
            "insert into flows (id, tenant, name, description, current_version, published_version, created_at, updated_at, folded, kind) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(flow.id.suffix())
        .bind(tenant.suffix())
        .bind(flow.name.clone())
        .bind(flow.description)
        .bind(flow.current.suffix())
        .bind(flow.published.map(|id| id.suffix()))
        .bind(flow.created_at.as_millis())
        .bind(flow.updated_at.as_millis())
        .bind(flow.name.to_lowercase())
        .bind(flow.kind.as_str())
        .execute(&mut *open)
        .await
        .map_err(unless_taken(TAKEN))?;
        insert_version(&mut open, version).await?;
        open.commit().await.map_err(failed)
    }

    async fn update_flow(
        &self,
        tenant: TenantId,
        flow: SavedFlow,
        version: Option<FlowVersion>,
        expected: Option<FlowVersionId>,
    ) -> StoreResult<Option<SavedFlow>> {
        flow.fit()?;
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let row = sqlx::query(
            "update flows set name = $3, folded = $8, description = $4, current_version = $5, updated_at = $6 \
             where id = $1 and tenant = $2 and kind = $9 and ($7 is null or current_version = $7) returning *",
        )
        .bind(flow.id.suffix())
        .bind(tenant.suffix())
        .bind(flow.name.clone())
        .bind(flow.description)
        .bind(version.as_ref().map_or(flow.current, |version| version.id).suffix())
        .bind(flow.updated_at.as_millis())
        .bind(expected.map(|id| id.suffix()))
        .bind(flow.name.to_lowercase())
        .bind(flow.kind.as_str())
        .fetch_optional(&mut *open)
        .await
        .map_err(unless_taken(TAKEN))?;
        let Some(row) = row else { return Ok(None) };
        let saved = row::flow(&row)?;
        if let Some(version) = version {
            insert_version(&mut open, version).await?;
        }
        open.commit().await.map_err(failed)?;
        Ok(Some(saved))
    }

    async fn find_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<Option<SavedFlow>> {
        let row = sqlx::query("select * from flows where id = $1 and tenant = $2 and kind = $3")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .bind(kind.as_str())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::flow).transpose()
    }

    async fn find_flow_by_name(&self, tenant: TenantId, kind: TargetKind, name: &str) -> StoreResult<Option<SavedFlow>> {
        let row = sqlx::query("select * from flows where tenant = $1 and name = $2 and kind = $3")
            .bind(tenant.suffix())
            .bind(name.to_owned())
            .bind(kind.as_str())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::flow).transpose()
    }

    async fn list_flows(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        before: Option<FlowId>,
        search: Option<&str>,
        limit: u32,
    ) -> StoreResult<Vec<SavedFlow>> {
        let rows = sqlx::query(
            "select * from flows where tenant = $1 and ($2 is null or id < $2) and ($3 is null or instr(folded, $3) > 0) \
             and kind = $5 order by id desc limit $4",
        )
        .bind(tenant.suffix())
        .bind(before.map(|id| id.suffix()))
        .bind(search.map(str::to_lowercase))
        .bind(i64::from(limit))
        .bind(kind.as_str())
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::flow).collect()
    }

    async fn delete_flow(&self, tenant: TenantId, kind: TargetKind, id: FlowId) -> StoreResult<bool> {
        let result = sqlx::query("delete from flows where id = $1 and tenant = $2 and kind = $3")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .bind(kind.as_str())
            .execute(&mut *self.writing().await?)
            .await
            .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }

    async fn find_flow_version(&self, tenant: TenantId, id: FlowVersionId) -> StoreResult<Option<FlowVersion>> {
        let row = sqlx::query("select v.* from flow_versions v join flows f on f.id = v.flow where v.id = $1 and f.tenant = $2")
            .bind(id.suffix())
            .bind(tenant.suffix())
            .fetch_optional(&mut *self.reading().await?)
            .await
            .map_err(failed)?;
        row.as_ref().map(row::flow_version).transpose()
    }

    async fn list_flow_versions(&self, tenant: TenantId, flow: FlowId) -> StoreResult<Vec<FlowVersion>> {
        let rows = sqlx::query(
            "select v.* from flow_versions v join flows f on f.id = v.flow where v.flow = $1 and f.tenant = $2 order by v.number desc",
        )
        .bind(flow.suffix())
        .bind(tenant.suffix())
        .fetch_all(&mut *self.reading().await?)
        .await
        .map_err(failed)?;
        rows.iter().map(row::flow_version).collect()
    }

    async fn delete_flow_version(&self, tenant: TenantId, flow: FlowId, version: FlowVersionId) -> StoreResult<bool> {
        let result = sqlx::query(
            "delete from flow_versions where id = $1 and flow = $2 and exists (select 1 from flows f where f.id = $2 and f.tenant = $3 \
             and f.current_version <> $1 and (f.published_version is null or f.published_version <> $1))",
        )
        .bind(version.suffix())
        .bind(flow.suffix())
        .bind(tenant.suffix())
        .execute(&mut *self.writing().await?)
        .await
        .map_err(failed)?;
        Ok(result.rows_affected() > 0)
    }

    async fn publish_flow(
        &self,
        tenant: TenantId,
        kind: TargetKind,
        flow: FlowId,
        version: FlowVersionId,
        now: Timestamp,
    ) -> StoreResult<bool> {
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let result = sqlx::query(
            "update flows set published_version = $3, updated_at = $4 where id = $1 and tenant = $2 and kind = $5 \
                and exists (select 1 from flow_versions v where v.id = $3 and v.flow = $1)",
        )
        .bind(flow.suffix())
        .bind(tenant.suffix())
        .bind(version.suffix())
        .bind(now.as_millis())
        .bind(kind.as_str())
        .execute(&mut *open)
        .await
        .map_err(failed)?;
        if result.rows_affected() == 0 {
            return Ok(false);
        }
        sqlx::query("update flow_versions set published_at = coalesce(published_at, $2) where id = $1")
            .bind(version.suffix())
            .bind(now.as_millis())
            .execute(&mut *open)
            .await
            .map_err(failed)?;
        open.commit().await.map_err(failed)?;
        Ok(true)
    }
}
