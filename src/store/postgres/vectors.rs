//! Vectors on PostgreSQL: compared by the database where it has pgvector, and here where it has not.

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::{PostgresStore, failed, unit};
use crate::id::TenantId;
use crate::model::vector::Vector;
use crate::store::batch::json;
use crate::store::text::{Fit, is_plain};
use crate::store::vectors::{Gather, MOST_READ, Near, Nearest, Put, Vectors, ids_and_names};
use crate::store::{StoreResult, row};

/// Vectors in one collection where the database compares them.
const MOST_COMPARED: u64 = 1_000_000;

/// The schema that pgvector is installed in, as an SQL name; it need not be on the search path.
pub(super) async fn extension(connection: &mut PgConnection) -> StoreResult<Option<String>> {
    sqlx::query_scalar(
        "select quote_ident(nspname) from pg_extension join pg_namespace on pg_namespace.oid = extnamespace where extname = 'vector'",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed)
}

impl PostgresStore {
    fn most_vectors(&self) -> u64 {
        if self.pgvector.is_some() { MOST_COMPARED } else { MOST_READ }
    }

    /// By the database, in the schema of its extension. A distance is undefined (NaN) for a vector of no length: it is near nothing.
    async fn compared(&self, schema: &str, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>> {
        let rows = sqlx::query(AssertSqlSafe(format!(
            "select id, name, text, metadata, near from ( \
                select id, name, text, metadata, \
                    1 - coalesce(nullif(parts::{schema}.vector operator({schema}.<=>) $3::real[]::{schema}.vector, 'NaN'), 1) as near \
                from vectors where tenant = $1 and collection = $2 and cardinality(parts) = cardinality($3::real[]) \
                    and not exists (select 1 from jsonb_each($4::jsonb) as wanted (name, value) \
                        where vectors.metadata::jsonb -> wanted.name is distinct from wanted.value)) as all_of_them \
             where $5::float8 is null or near >= $5 order by near desc, id desc limit $6"
        )))
        .bind(tenant.suffix())
        .bind(query.collection)
        .bind(query.parts)
        .bind(json(&query.filter))
        .bind(query.threshold.map(f64::from))
        .bind(i64::from(query.limit))
        .fetch_all(&self.pool)
        .await
        .map_err(failed)?;
        rows.iter()
            .map(|row| {
                let Vector { id, name, text, metadata, .. } = row::vector(row, "", Vec::new())?;
                #[expect(clippy::cast_possible_truncation, reason = "nearness is told to six places")]
                let near = row.try_get::<f64, _>("near").map_err(failed)? as f32;
                Ok(Near { id, name, text, metadata, near })
            })
            .collect()
    }
}

/// Of two unique keys one may be named; a vector with a name is known by it.
const BY_NAME: &str = "insert into vectors (tenant, id, collection, name, parts, text, metadata) values ($1, $2, $3, $4, $5, $6, $7) \
     on conflict (tenant, collection, name) do update set parts = excluded.parts, text = excluded.text, metadata = excluded.metadata returning id";
const BY_ID: &str = "insert into vectors (tenant, id, collection, name, parts, text, metadata) values ($1, $2, $3, $4, $5, $6, $7) \
     on conflict (tenant, id) do update set parts = excluded.parts, text = excluded.text, metadata = excluded.metadata returning id";

#[async_trait]
impl Vectors for PostgresStore {
    async fn put_vectors(&self, tenant: TenantId, vectors: Vec<Vector>) -> StoreResult<Put> {
        vectors.iter().try_for_each(Fit::fit)?;
        let Some(collection) = vectors.first().map(|vector| vector.collection.clone()) else { return Ok(Put::Kept(Vec::new())) };
        let (pool, most) = (self.pool.clone(), self.most_vectors());
        unit(async move {
            let mut open = pool.begin().await.map_err(failed)?;
            // Two at once must not both find room for the last one.
            sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
                .bind(format!("vectors/{}/{collection}", tenant.suffix()))
                .execute(&mut *open)
                .await
                .map_err(failed)?;
            let mut ids = Vec::with_capacity(vectors.len());
            for vector in vectors {
                let row = sqlx::query(if vector.name.is_some() { BY_NAME } else { BY_ID })
                    .bind(tenant.suffix())
                    .bind(vector.id.suffix())
                    .bind(vector.collection)
                    .bind(vector.name)
                    .bind(vector.parts)
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
            if u64::try_from(count).unwrap_or(u64::MAX) > most {
                open.rollback().await.map_err(failed)?;
                return Ok(Put::TooMany(most));
            }
            open.commit().await.map_err(failed)?;
            Ok(Put::Kept(ids))
        })
        .await
    }

    async fn nearest_vectors(&self, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>> {
        if !query.fits() {
            return Ok(Vec::new());
        }
        if let Some(schema) = self.pgvector.clone() {
            return self.compared(&schema, tenant, query).await;
        }
        let collection = query.collection.clone();
        let mut gather = Gather::new(query);
        let mut rows =
            sqlx::query("select id, name, parts, text, metadata from vectors where tenant = $1 and collection = $2 order by id desc")
                .bind(tenant.suffix())
                .bind(collection.clone())
                .fetch(&self.pool);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let parts = row.try_get("parts").map_err(failed)?;
            gather.see(row::vector(&row, &collection, parts)?);
        }
        Ok(gather.nearest())
    }

    async fn delete_vectors(&self, tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> StoreResult<u64> {
        if !is_plain(collection) {
            return Ok(0);
        }
        let (ids, names) = which.map(ids_and_names).unzip();
        sqlx::query("delete from vectors where tenant = $1 and collection = $2 and ($3::text[] is null or id = any($3) or name = any($4))")
            .bind(tenant.suffix())
            .bind(collection.to_owned())
            .bind(ids)
            .bind(names)
            .execute(&self.pool)
            .await
            .map(|result| result.rows_affected())
            .map_err(failed)
    }
}
