//! Vectors in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::MemoryStore;
use crate::id::{TenantId, VectorId};
use crate::model::vector::Vector;
use crate::store::StoreResult;
use crate::store::text::Fit;
use crate::store::vectors::{Gather, MOST_READ, Near, Nearest, Put};

/// By tenant and id.
#[derive(Default)]
pub(super) struct Vectors(BTreeMap<(TenantId, VectorId), Vector>);

impl Vectors {
    /// Newest first.
    fn of<'a>(&'a self, tenant: TenantId, collection: &'a str) -> impl Iterator<Item = &'a Vector> {
        self.0
            .iter()
            .rev()
            .filter(move |((owner, _), vector)| *owner == tenant && vector.collection == collection)
            .map(|(_, vector)| vector)
    }
}

#[async_trait]
impl crate::store::Vectors for MemoryStore {
    async fn put_vectors(&self, tenant: TenantId, vectors: Vec<Vector>) -> StoreResult<Put> {
        vectors.iter().try_for_each(Fit::fit)?;
        let kept = &mut self.tables().vectors;
        let mut next = kept.0.clone();
        let mut ids = Vec::with_capacity(vectors.len());
        for vector in vectors {
            let namesake = kept.of(tenant, &vector.collection).find(|known| known.name.is_some() && known.name == vector.name);
            let id = namesake.map_or(vector.id, |known| known.id);
            ids.push(id);
            next.insert((tenant, id), Vector { id, ..vector });
        }
        let next = Vectors(next);
        let collection = ids.first().and_then(|id| next.0.get(&(tenant, *id))).map(|vector| vector.collection.clone());
        let count = collection.map_or(0, |collection| next.of(tenant, &collection).count() as u64);
        if count > MOST_READ {
            return Ok(Put::TooMany(MOST_READ));
        }
        *kept = next;
        Ok(Put::Kept(ids))
    }

    async fn nearest_vectors(&self, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>> {
        let tables = self.tables();
        let collection = query.collection.clone();
        let mut gather = Gather::new(query);
        tables.vectors.of(tenant, &collection).for_each(|vector| gather.see(vector.clone()));
        Ok(gather.nearest())
    }

    async fn delete_vectors(&self, tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> StoreResult<u64> {
        let kept = &mut self.tables().vectors.0;
        let before = kept.len();
        let meant = |vector: &Vector| {
            which
                .as_ref()
                .is_none_or(|which| which.contains(&vector.id.to_string()) || vector.name.as_ref().is_some_and(|name| which.contains(name)))
        };
        kept.retain(|(owner, _), vector| *owner != tenant || vector.collection != collection || !meant(vector));
        Ok((before - kept.len()) as u64)
    }
}
