//! Files that flows make: kept as objects in a folder or a bucket, described in the database, reached by signed URLs.
//!
//! A file's bytes are written before its description, so what is described is there. Its URL carries a token that only this server can make: it
//! names the file and its owner, and says until when it opens it.
//!
//! Must not know: runs, surfaces. To add a kind of storage: a branch of [`open`].

mod bucket;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Place;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::id::{AssetId, TenantId};
use crate::net::Egress;
use crate::secret::Vault;
use crate::store::{Collection, Document, Kept, SharedStore, StoreError};

/// Largest file that any limit allows, in bytes: files are held in memory.
pub const LARGEST: u64 = 100 * 1024 * 1024;
/// How long a URL of a private file opens it, unless said otherwise, and at most.
pub const OPENS: Duration = Duration::from_secs(7 * 24 * 3_600);
pub const OPENS_LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);
/// What tokens are sealed for.
const PURPOSE: &str = "asset-url";

/// A file, without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asset {
    pub filename: String,
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    pub visibility: Visibility,
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "AssetVisibility")]
pub enum Visibility {
    /// Whoever has a URL, until it expires.
    #[default]
    Private,
    /// Whoever has a URL, which does not expire.
    Public,
}

impl Document for Asset {
    const KIND: &'static str = "asset";
    type Id = AssetId;
}

/// What a URL's token says.
#[derive(Serialize, Deserialize)]
struct Token {
    tenant: TenantId,
    asset: AssetId,
    until: Option<Timestamp>,
}

/// Where files are kept. Cheap to clone.
#[derive(Clone)]
pub struct Assets {
    objects: Arc<dyn ObjectStore>,
    store: SharedStore,
    vault: Vault,
    clock: Clock,
    base: Arc<str>,
}

impl fmt::Debug for Assets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Assets({})", self.objects)
    }
}

/// Opens `s3://bucket/prefix` (credentials, region and endpoint from the environment's `AWS_…`) or a folder.
pub fn open(place: &str, env: &HashMap<String, String>, egress: &Egress) -> Result<Arc<dyn ObjectStore>> {
    let unusable = |why: String| Error::new(Kind::Invalid, "assets_unusable", format!("files cannot be kept in {place}: {why}"));
    if place.starts_with("s3://") {
        return bucket::open(place, env, egress).map_err(|error| unusable(error.to_string()));
    }
    let folder = Path::new(place.strip_prefix("file://").unwrap_or(place));
    std::fs::create_dir_all(folder).map_err(|error| unusable(error.to_string()))?;
    let folder = LocalFileSystem::new_with_prefix(folder).map_err(|error| unusable(error.to_string()))?;
    Ok(Arc::new(folder.with_automatic_cleanup(true)))
}

impl Assets {
    /// `base`: the server's address as readers of files know it.
    pub fn new(objects: Arc<dyn ObjectStore>, store: SharedStore, vault: Vault, clock: Clock, base: &str) -> Self {
        Self { objects, store, vault, clock, base: base.trim_end_matches('/').into() }
    }

    fn all(&self, tenant: TenantId) -> Collection<'_, Asset> {
        Collection::of(&*self.store, tenant)
    }

    /// Keeps a file. Doing it again with the same id keeps the same file.
    pub async fn keep(&self, tenant: TenantId, id: AssetId, asset: Asset, bytes: Bytes) -> Result<()> {
        self.objects.put(&place(tenant, id), PutPayload::from_bytes(bytes)).await.map_err(|error| unavailable(&error))?;
        match self.all(tenant).create(id, asset, self.clock.now()).await {
            Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A file and its bytes.
    pub async fn read(&self, tenant: TenantId, id: AssetId) -> Result<Option<(Asset, Bytes)>> {
        let Some(kept) = self.all(tenant).find(id).await? else { return Ok(None) };
        let found = match self.objects.get(&place(tenant, id)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(&error)),
        };
        let bytes = found.bytes().await.map_err(|error| unavailable(&error))?;
        Ok(Some((kept.body, bytes)))
    }

    /// Newest first.
    pub async fn list(&self, tenant: TenantId, before: Option<AssetId>, limit: u32) -> Result<Vec<Kept<Asset>>> {
        Ok(self.all(tenant).list(None, before, limit).await?)
    }

    /// Deletes a file; whether it was there.
    pub async fn delete(&self, tenant: TenantId, id: AssetId) -> Result<bool> {
        let known = self.all(tenant).delete(id).await?;
        match self.objects.delete(&place(tenant, id)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(known),
            Err(error) => Err(unavailable(&error)),
        }
    }

    /// Where the file can be read. `opens`: for how long, when it is private.
    pub fn url(&self, tenant: TenantId, id: AssetId, asset: &Asset, opens: Duration) -> Result<String> {
        let until = (asset.visibility == Visibility::Private).then(|| self.clock.now().after(opens));
        let token = serde_json::to_vec(&Token { tenant, asset: id, until }).map_err(Error::internal)?;
        let token = URL_SAFE_NO_PAD.encode(self.vault.seal(&token, PURPOSE)?);
        let mut url = url::Url::parse(&self.base).map_err(Error::internal)?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["v1", "assets", &id.to_string(), &asset.filename]);
        }
        url.query_pairs_mut().append_pair("token", &token);
        Ok(url.into())
    }

    /// Whose file a token opens, if it opens this one now.
    pub fn opened(&self, id: AssetId, token: &str) -> Option<TenantId> {
        let sealed = URL_SAFE_NO_PAD.decode(token).ok()?;
        let opened = self.vault.open(&sealed, PURPOSE).ok()?;
        let Token { tenant, asset, until } = serde_json::from_slice(&opened).ok()?;
        (asset == id && until.is_none_or(|until| self.clock.now() < until)).then_some(tenant)
    }
}

/// Names of files are their owners' to choose; where their bytes are is not.
fn place(tenant: TenantId, id: AssetId) -> Place {
    Place::from_iter([tenant.to_string(), id.to_string()])
}

fn unavailable(error: &object_store::Error) -> Error {
    tracing::warn!(%error, "the storage of files cannot be reached");
    Error::new(Kind::Unavailable, "assets_unavailable", "the storage of files cannot be reached")
}
