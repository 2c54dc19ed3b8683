//! Vectors on SQLite: their parts as little-endian floats of 32 bits, compared here.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{Connection, Row};

use super::{SqliteStore, failed};
use crate::id::TenantId;
use crate::model::vector::Vector;
use crate::store::batch::json;
use crate::store::text::Fit;
use crate::store::vectors::{Gather, MOST_READ, Near, Nearest, Put, Vectors, ids_and_names};
use crate::store::{StoreResult, row};

#[async_trait]
impl Vectors for SqliteStore {
    async fn put_vectors(&self, tenant: TenantId, vectors: Vec<Vector>) -> StoreResult<Put> {
        vectors.iter().try_for_each(Fit::fit)?;
        let Some(collection) = vectors.first().map(|vector| vector.collection.clone()) else { return Ok(Put::Kept(Vec::new())) };
        let mut connection = self.writing().await?;
        let mut open = connection.begin_with("begin immediate").await.map_err(failed)?;
        let mut ids = Vec::with_capacity(vectors.len());
        for vector in vectors {
            let bytes: Vec<u8> = vector.parts.iter().flat_map(|part| part.to_le_bytes()).collect();
            let row = sqlx::query(
                "insert into vectors (tenant, id, collection, name, parts, text, metadata) values ($1, $2, $3, $4, $5, $6, $7) \
                 on conflict (tenant, collection, name) do update set parts = excluded.parts, text = excluded.text, metadata = excluded.metadata \
                 on conflict (tenant, id) do update set parts = excluded.parts, text = excluded.text, metadata = excluded.metadata \
                 returning id",
            )
            .bind(tenant.suffix())
            .bind(vector.id.suffix())
            .bind(vector.collection)
            .bind(vector.name)
            .bind(bytes)
            .bind(vector.text)
            .bind(json(&vector.metadata))
            .fetch_one(&mut *open)
            .await
            .map_err(failed)?;
            ids.push(row::vector_id(&row)?);
        }
        let count: i64 = sqlx::query_scalar("select count(*) from vectors where tenant = $1 and collection = $2")
            .bind(tenant.suffix())
            .bind(collection)
            .fetch_one(&mut *open)
            .await
            .map_err(failed)?;
        if u64::try_from(count).unwrap_or(u64::MAX) > MOST_READ {
            open.rollback().await.map_err(failed)?;
            return Ok(Put::TooMany(MOST_READ));
        }
        open.commit().await.map_err(failed)?;
        Ok(Put::Kept(ids))
    }

    async fn nearest_vectors(&self, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>> {
        let collection = query.collection.clone();
        let mut gather = Gather::new(query);
        let mut reading = self.reading().await?;
        let mut rows =
            sqlx::query("select id, name, parts, text, metadata from vectors where tenant = $1 and collection = $2 order by id desc")
                .bind(tenant.suffix())
                .bind(collection.clone())
                .fetch(&mut *reading);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let bytes: Vec<u8> = row.try_get("parts").map_err(failed)?;
            let parts = bytes.as_chunks::<4>().0.iter().map(|part| f32::from_le_bytes(*part)).collect();
            gather.see(row::vector(&row, &collection, parts)?);
        }
        Ok(gather.nearest())
    }

    async fn delete_vectors(&self, tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> StoreResult<u64> {
        let (ids, names) = which.map(ids_and_names).unzip();
        sqlx::query(
            "delete from vectors where tenant = $1 and collection = $2 and ($3 is null \
                or id in (select value from json_each($3)) or name in (select value from json_each($4)))",
        )
        .bind(tenant.suffix())
        .bind(collection.to_owned())
        .bind(ids.map(|ids| json(&ids)))
        .bind(names.map(|names| json(&names)))
        .execute(&mut *self.writing().await?)
        .await
        .map(|result| result.rows_affected())
        .map_err(failed)
    }
}
