//! Vectors: kept by collection, and found by nearness.
//!
//! A search compares the query with everything in a collection that has its length, so it is exact. Where the database can compare by itself
//! (pgvector on PostgreSQL) it does; elsewhere the vectors are read and compared here.

use async_trait::async_trait;
use serde_json::{Map, Value};

use super::StoreResult;
use super::text::{holds_nul, is_plain};
use crate::id::{TenantId, VectorId};
use crate::model::vector::{Vector, cosine};

/// Vectors in one collection where they are read to be compared.
pub const MOST_READ: u64 = 20_000;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct Nearest {
    pub collection: String,
    pub parts: Vec<f32>,
    /// Only what has exactly these members in its metadata.
    pub filter: Map<String, Value>,
    /// Only what is at least so near.
    pub threshold: Option<f32>,
    pub limit: u32,
}

impl Nearest {
    /// Whether anything that is kept can pass: a NUL is in nothing.
    pub(super) fn fits(&self) -> bool {
        is_plain(&self.collection) && self.filter.iter().all(|(name, value)| is_plain(name) && !holds_nul(value))
    }
}

/// A vector that was found, and how near it is; its parts stay where they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Near {
    pub id: VectorId,
    pub name: Option<String>,
    pub text: Option<String>,
    pub metadata: Map<String, Value>,
    pub near: f32,
}

/// What became of vectors that were to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// They are durable, under these ids: one whose name was taken stands in the place of the one before.
    Kept(Vec<VectorId>),
    /// None was kept: a collection may have so many.
    TooMany(u64),
}

/// The store of vectors.
#[async_trait]
pub trait Vectors {
    /// Keeps vectors of one collection, all or none. The same ids again are the same vectors.
    async fn put_vectors(&self, tenant: TenantId, vectors: Vec<Vector>) -> StoreResult<Put>;

    /// The nearest, the nearest first; equals newest first.
    async fn nearest_vectors(&self, tenant: TenantId, query: Nearest) -> StoreResult<Vec<Near>>;

    /// Deletes by id or name, or a whole collection when `None`; how many there were.
    async fn delete_vectors(&self, tenant: TenantId, collection: &str, which: Option<Vec<String>>) -> StoreResult<u64>;
}

/// What words for vectors may mean: ids, as they are kept, and names.
pub(super) fn ids_and_names(which: Vec<String>) -> (Vec<String>, Vec<String>) {
    let ids = which.iter().filter_map(|word| word.parse().ok()).map(|id: VectorId| id.suffix()).collect();
    (ids, which.into_iter().filter(|word| is_plain(word)).collect())
}

/// Gathers the nearest of what it is shown.
pub(super) struct Gather {
    query: Nearest,
    found: Vec<Near>,
}

impl Gather {
    pub fn new(query: Nearest) -> Self {
        Self { query, found: Vec::new() }
    }

    /// Shows a vector; newer ones come before older ones.
    pub fn see(&mut self, vector: Vector) {
        if vector.parts.len() != self.query.parts.len() || !passes(&self.query.filter, &vector.metadata) {
            return;
        }
        let near = cosine(&self.query.parts, &vector.parts);
        if self.query.threshold.is_some_and(|threshold| near < threshold) {
            return;
        }
        let place = self.found.partition_point(|found| found.near.total_cmp(&near).is_ge());
        if place < self.query.limit as usize {
            let Vector { id, name, text, metadata, .. } = vector;
            self.found.insert(place, Near { id, name, text, metadata, near });
            self.found.truncate(self.query.limit as usize);
        }
    }

    pub fn nearest(self) -> Vec<Near> {
        self.found
    }
}

fn passes(filter: &Map<String, Value>, metadata: &Map<String, Value>) -> bool {
    filter.iter().all(|(name, value)| metadata.get(name) == Some(value))
}
