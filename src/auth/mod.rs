//! Who is calling: API keys in, a [`Caller`] out.
//!
//! Keys are 256 random bits (`dsp_live_` and 43 characters), or any text of the operator's choice with
//! at least [`SHORTEST_KEY`] characters. Only their SHA-256 is stored. What a key may do is a list of
//! [`scope`]s. A revoked key stops working at once on this node and within [`cache::TTL`] on every other.
//!
//! Must not know: HTTP types, routes, what a scope protects.

mod cache;
pub mod hook;
pub mod identity;
mod key;
pub mod scope;
pub mod ticket;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub use key::SHORTEST_KEY;

use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Problems, Result};
use crate::id::{KeyId, TenantId};
use crate::model::{Caller, Who};
use crate::secret::Secret;
use crate::store::{ApiKey, SharedStore, StoreError, Tenant};

/// Longer credentials are refused before they are hashed.
const LONGEST_KEY: usize = 512;
/// Longest name of a key, in characters.
const LONGEST_NAME: usize = 100;

/// What a request brought to prove who sends it: the values of the two headers, as they came.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// `Authorization`: `Bearer <key>`, or the bare key.
    pub authorization: Option<Secret>,
    /// `X-API-Key`: the bare key.
    pub api_key: Option<Secret>,
}

impl Credentials {
    /// The one key in them.
    pub fn key(&self) -> Result<Secret> {
        let bearer = self.authorization.as_ref().map(|value| bearer(value.expose())).transpose()?;
        match (bearer, &self.api_key) {
            (Some(one), Some(other)) if !other.matches(one.expose()) => {
                Err(Error::new(Kind::Malformed, "ambiguous_credentials", "the Authorization and X-API-Key headers hold different keys")
                    .next("send one of the two"))
            }
            (Some(key), _) => Ok(key),
            (None, Some(key)) => Ok(key.clone()),
            (None, None) => Err(Error::new(Kind::Unauthenticated, "missing_api_key", "this call needs an API key")
                .next("send the header `Authorization: Bearer <key>`; the first start of the server printed a key")),
        }
    }
}

/// The key in an `Authorization` value.
fn bearer(value: &str) -> Result<Secret> {
    let value = value.trim();
    match value.split_once(' ') {
        None => Ok(Secret::new(value)),
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Secret::new(key.trim())),
        Some(_) => Err(unknown_key().next("the only scheme is Bearer: `Authorization: Bearer <key>`")),
    }
}

fn unknown_key() -> Error {
    Error::new(Kind::Unauthenticated, "invalid_api_key", "the API key is not valid")
        .next("check that the whole key was sent; `dispatch keys create` beside the database, or POST /v1/api-keys, makes another")
}

/// A key that was just made; its text exists nowhere else.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub row: ApiKey,
    pub key: Secret,
}

/// What a new key shall be.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    /// The row's id; fresh, or the one that a repeated call made first.
    pub id: KeyId,
    pub name: String,
    pub scopes: Vec<String>,
    pub expires_at: Option<Timestamp>,
}

/// Checks keys and makes them. Cheap to clone.
#[derive(Clone)]
pub struct Auth {
    store: SharedStore,
    clock: Clock,
    cache: Arc<cache::Cache>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Auth")
    }
}

impl Auth {
    pub fn new(store: SharedStore, clock: Clock) -> Self {
        Self { store, clock, cache: Arc::default() }
    }

    /// Who sends these credentials. Errors: `missing_api_key`, `invalid_api_key`, `expired_api_key`,
    /// `revoked_api_key` (all 401), `ambiguous_credentials` (400).
    pub async fn authenticate(&self, credentials: &Credentials) -> Result<Caller> {
        let key = credentials.key()?;
        let length = key.expose().len();
        if !(SHORTEST_KEY..=LONGEST_KEY).contains(&length) {
            return Err(unknown_key());
        }
        let hash = key::hash(&key);
        let row = self.find(&hash).await?.filter(|row| Secret::new(row.hash.as_str()).matches(&hash)).ok_or_else(unknown_key)?;
        if row.revoked_at.is_some() {
            return Err(Error::new(Kind::Unauthenticated, "revoked_api_key", "this API key was revoked").next("use another key"));
        }
        if row.expires_at.is_some_and(|at| at <= self.clock.now()) {
            return Err(Error::new(Kind::Unauthenticated, "expired_api_key", "this API key has expired").next("use or make another key"));
        }
        Ok(Caller { tenant: row.tenant, who: Who::Key(row.id), scopes: row.scopes.clone() })
    }

    /// The caller that a key stands for, found by its row; `None` when it is good no more.
    pub async fn holder(&self, tenant: TenantId, id: KeyId) -> Result<Option<Caller>> {
        let now = self.clock.now();
        let found = self.store.list_keys(tenant).await?.into_iter().find(|row| row.id == id);
        let good = found.filter(|row| row.revoked_at.is_none() && row.expires_at.is_none_or(|at| at > now));
        Ok(good.map(|row| Caller { tenant, who: Who::Key(id), scopes: row.scopes }))
    }

    async fn find(&self, hash: &str) -> Result<Option<Arc<ApiKey>>> {
        if let Some(row) = self.cache.get(hash, self.clock.instant()) {
            return Ok(Some(row));
        }
        // Read the time first: a row that was slow to come is not fresher for it.
        let now = self.clock.instant();
        let epoch = self.cache.epoch();
        let row = self.store.find_key(hash).await?.map(Arc::new);
        if let Some(row) = &row {
            self.cache.put(row.clone(), now, epoch);
        }
        Ok(row)
    }

    /// Makes a key for the caller's tenant. It may not hold a scope that the caller lacks
    /// (`scope_not_held`, 403).
    pub async fn create_key(&self, caller: &Caller, request: KeyRequest) -> Result<NewKey> {
        self.check(&request)?;
        if let Some(scope) = request.scopes.iter().find(|scope| !caller.may(scope)) {
            return Err(Error::new(Kind::Forbidden, "scope_not_held", format!("your key does not hold `{scope}`, so it cannot grant it"))
                .next("leave the scope out, or use a key that holds it"));
        }
        let key = key::mint(&self.clock);
        // Each call reads the list.
        let mut known = BTreeSet::new();
        let scopes = request.scopes.into_iter().filter(|scope| known.insert(scope.clone())).collect();
        let row = self.row(caller.tenant, request.id, &key, request.name, scopes, request.expires_at);
        match self.store.create_key(row.clone()).await {
            Ok(()) => Ok(NewKey { row, key }),
            // An earlier try under this id got as far as the store, but nobody was shown its key: replace it.
            Err(StoreError::Exists(_)) => {
                self.revoke_key(caller.tenant, request.id).await?;
                let row = ApiKey { id: KeyId::new(&self.clock), ..row };
                self.store.create_key(row.clone()).await?;
                Ok(NewKey { row, key })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn check(&self, request: &KeyRequest) -> Result<()> {
        let mut problems = Problems::default();
        if request.name.trim().is_empty() || request.name.chars().count() > LONGEST_NAME {
            problems.add("/name", format!("expected 1 to {LONGEST_NAME} characters"));
        } else if request.name.contains(char::is_control) {
            problems.add("/name", "expected a text without control characters");
        }
        if request.scopes.is_empty() {
            problems.add("/scopes", "expected at least one scope; `*` allows everything");
        }
        for (index, scope) in request.scopes.iter().enumerate() {
            if !scope::is_known(scope) {
                problems.add(format!("/scopes/{index}"), format!("unknown scope `{scope}`; one of {}", scope::list()));
            }
        }
        if request.expires_at.is_some_and(|at| at <= self.clock.now()) {
            problems.add("/expiresAt", "expected a time in the future");
        }
        problems.into_result()
    }

    fn row(&self, tenant: TenantId, id: KeyId, key: &Secret, name: String, scopes: Vec<String>, expires_at: Option<Timestamp>) -> ApiKey {
        let (hash, hint) = (key::hash(key), key::hint(key));
        ApiKey { id, tenant, name, hash, hint, scopes, created_at: self.clock.now(), expires_at, revoked_at: None }
    }

    /// The tenant's keys, oldest first; revoked and expired ones too.
    pub async fn list_keys(&self, tenant: TenantId) -> Result<Vec<ApiKey>> {
        Ok(self.store.list_keys(tenant).await?)
    }

    /// Revokes a key; whether it was there. Effective at once on this node.
    pub async fn revoke_key(&self, tenant: TenantId, id: KeyId) -> Result<bool> {
        let found = self.store.revoke_key(tenant, id, self.clock.now()).await?;
        self.cache.forget(id);
        Ok(found)
    }

    /// Makes a tenant with a key that may do everything. Errors: `validation_failed`.
    pub async fn create_tenant(&self, id: TenantId, name: String) -> Result<(Tenant, NewKey)> {
        let request = KeyRequest { id: KeyId::new(&self.clock), name, scopes: vec!["*".into()], expires_at: None };
        self.check(&request)?;
        let tenant = Tenant { id, name: request.name, created_at: self.clock.now() };
        let key = key::mint(&self.clock);
        let row = self.row(id, request.id, &key, "first key".into(), request.scopes, None);
        self.store.create_tenant(tenant.clone(), row.clone()).await?;
        Ok((tenant, NewKey { row, key }))
    }

    /// Makes sure that somebody can call: the first start creates a tenant with a key. A fresh key is
    /// returned, to be shown once. A `preset` key, chosen by the operator, is made to exist instead.
    pub async fn bootstrap(&self, preset: Option<Secret>) -> Result<Option<Secret>> {
        if let Some(key) = &preset {
            refuse_weak(key)?;
        }
        let tenant = Tenant { id: TenantId::new(&self.clock), name: "default".into(), created_at: self.clock.now() };
        let key = preset.clone().unwrap_or_else(|| key::mint(&self.clock));
        let row = |tenant| self.row(tenant, KeyId::new(&self.clock), &key, "first key".into(), vec!["*".into()], None);
        if self.store.create_first_tenant(tenant.clone(), row(tenant.id)).await? {
            return Ok(preset.is_none().then_some(key));
        }
        if preset.is_some() {
            self.ensure(&key, row).await?;
        }
        Ok(None)
    }

    /// Makes a preset key exist in a database that has tenants already.
    async fn ensure(&self, key: &Secret, row: impl Fn(TenantId) -> ApiKey) -> Result<()> {
        if let Some(known) = self.store.find_key(&key::hash(key)).await? {
            if known.revoked_at.is_some() {
                tracing::warn!(key = %known.id, "the preset API key was revoked earlier and stays revoked");
            }
            return Ok(());
        }
        let tenants = self.store.list_tenants().await?;
        let oldest = tenants.first().ok_or_else(|| Error::internal("the database refused a first tenant but has none"))?;
        match self.store.create_key(row(oldest.id)).await {
            // Another node was faster.
            Ok(()) | Err(StoreError::Exists(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn refuse_weak(key: &Secret) -> Result<()> {
    let length = key.expose().len();
    if !(SHORTEST_KEY..=LONGEST_KEY).contains(&length) || !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("a preset API key needs {SHORTEST_KEY} to {LONGEST_KEY} visible ASCII characters");
        return Err(Error::new(Kind::Invalid, "weak_api_key", message).next("`openssl rand -hex 32` makes a good one"));
    }
    Ok(())
}

/// How soon a revocation made on another node holds here.
pub const REVOCATION_DELAY: Duration = cache::TTL;
