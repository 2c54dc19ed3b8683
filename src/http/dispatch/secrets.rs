//! `/v1/secrets`: values that flows name as `{{secret:KEY}}`, sealed before they are stored and never shown again.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::deletion::Deletion;
use super::{about, tools};
use crate::clock::{Clock, Timestamp};
use crate::engine::secret_context;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, IdempotencyKey, InPath};
use crate::http::idempotency::{Call, Created, Receipts, fingerprint};
use crate::http::scope::{Scoped, SecretsRead, SecretsWrite};
use crate::id::{SecretId, TenantId};
use crate::model::TargetKind;
use crate::secret::{Secret, Vault};
use crate::store::{SharedStore, StoreError, StoredSecret};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/secrets",
            get_with(list, about("listSecrets", "Secrets", "List managed secrets, without their values"))
                .post_with(create, about("createSecret", "Secrets", "Keep a new managed secret")),
        )
        .api_route(
            "/v1/secrets/check",
            post_with(which, about("checkSecrets", "Secrets", "Say which keys have a value, without the values")),
        )
        .api_route(
            "/v1/secrets/{secretId}",
            get_with(read, about("getSecret", "Secrets", "Read a managed secret, without its value"))
                .put_with(update, about("updateSecret", "Secrets", "Give a managed secret another value or description"))
                .delete_with(delete, about("deleteSecret", "Secrets", "Delete a managed secret")),
        )
}

/// Saved flows that are read at once.
const PAGE: u32 = 200;
/// Keys that one call asks about.
const MOST_CHECKED: usize = 1_000;

/// A managed secret to keep.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecretInput")]
struct Input {
    /// 2 to 100 letters, digits and `_-.`; unique in the tenant.
    #[schemars(length(min = 2, max = 100))]
    key: String,
    /// 8 to 10,000 characters. Without it the secret is pending, and calls that need it fail.
    #[serde(default)]
    value: Option<Secret>,
    /// At most 500 characters.
    #[serde(default)]
    #[schemars(length(max = 500))]
    description: Option<String>,
}

/// Keys that a flow is going to name.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SecretCheck")]
struct Check {
    /// At most 1,000.
    #[schemars(length(max = 1_000))]
    keys: Vec<String>,
}

/// Whether a key has a value.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecretChecked")]
struct Checked {
    key: String,
    exists: bool,
    /// Also false while it is pending.
    has_value: bool,
}

/// Which keys have a value.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SecretsChecked")]
struct AllChecked {
    data: Vec<Checked>,
    /// Keys with a value.
    found: Vec<String>,
    /// Keys without a value.
    missing: Vec<String>,
    /// Always empty: a secret that is deleted is missing.
    revoked: Vec<String>,
}

/// What changes about a managed secret.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecretChange")]
struct Change {
    /// The new value; executions that start or go on from now on use it.
    #[serde(default)]
    value: Option<Secret>,
    #[serde(default)]
    #[schemars(length(max = 500))]
    description: Option<String>,
}

/// A managed secret, without its value.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Secret")]
struct Row {
    id: SecretId,
    key: String,
    description: Option<String>,
    /// Eight dots, or nothing while the value is missing: it says nothing about the value.
    value_preview: Option<&'static str>,
    status: Status,
    /// How often the value was given.
    version: u32,
    last_rotated_at: Option<Timestamp>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Whether there is a value.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SecretStatus")]
enum Status {
    Active,
    Pending,
}

/// The tenant's managed secrets, by key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SecretList")]
struct Rows {
    data: Vec<Row>,
    total: usize,
}

/// One managed secret, without its value.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SecretAnswer")]
struct SecretAnswer {
    #[serde(flatten)]
    row: Row,
    /// The same once more.
    data: Row,
}

impl From<StoredSecret> for SecretAnswer {
    fn from(secret: StoredSecret) -> Self {
        let row = Row::from(secret);
        Self { data: row.clone(), row }
    }
}

/// What was deleted, and what still names it.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecretDeletion")]
struct SecretDeletion {
    #[serde(flatten)]
    deleted: Deletion<SecretId>,
    /// How many saved flows, agents and tools name it as they are now.
    reference_count: usize,
}

const KEY_LENGTH: std::ops::RangeInclusive<usize> = 2..=100;
const VALUE_LENGTH: std::ops::RangeInclusive<usize> = 8..=10_000;
const LONGEST_DESCRIPTION: usize = 500;
/// Most secrets of a tenant.
const MOST: usize = 1_000;
const PREVIEW: &str = "••••••••";

impl From<StoredSecret> for Row {
    fn from(secret: StoredSecret) -> Self {
        let given = secret.sealed.is_some();
        Self {
            id: secret.id,
            key: secret.key,
            description: secret.description,
            value_preview: given.then_some(PREVIEW),
            status: if given { Status::Active } else { Status::Pending },
            version: secret.version,
            last_rotated_at: secret.rotated_at,
            created_at: secret.created_at,
            updated_at: secret.updated_at,
        }
    }
}

fn check(value: Option<&Secret>, description: Option<&str>, problems: &mut Problems) {
    if value.is_some_and(|value| !VALUE_LENGTH.contains(&value.expose().chars().count())) {
        problems.add("/value", format!("expected {} to {} characters", VALUE_LENGTH.start(), VALUE_LENGTH.end()));
    }
    let fits = |text: &str| text.chars().count() <= LONGEST_DESCRIPTION && !text.contains('\0');
    if !description.is_none_or(fits) {
        problems.add("/description", format!("expected at most {LONGEST_DESCRIPTION} characters"));
    }
}

/// What templates can name.
fn is_key(key: &str) -> bool {
    KEY_LENGTH.contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn seal(vault: &Vault, tenant: TenantId, id: SecretId, value: &Secret) -> Result<Vec<u8>> {
    vault.seal(value.expose().as_bytes(), &secret_context(tenant, id))
}

async fn list(caller: Scoped<SecretsRead>, State(store): State<SharedStore>) -> Result<Json<Rows>> {
    let data: Vec<Row> = store.list_secrets(caller.tenant).await?.into_iter().map(Row::from).collect();
    Ok(Json(Rows { total: data.len(), data }))
}

async fn create(
    caller: Scoped<SecretsWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    State(clock): State<Clock>,
    State(receipts): State<Receipts>,
    key: IdempotencyKey,
    body: Body<Input>,
) -> Result<Created<SecretAnswer>> {
    let tenant = caller.tenant;
    let mut problems = Problems::default();
    let Input { key: name, value, description } = body.value;
    if !is_key(&name) {
        problems.add("/key", format!("expected {} to {} letters, digits and `_-.`", KEY_LENGTH.start(), KEY_LENGTH.end()));
    }
    check(value.as_ref(), description.as_deref(), &mut problems);
    problems.into_result()?;
    let call = Call { tenant, route: "POST /v1/secrets", key, request: fingerprint(&body.raw), secret: false };
    receipts
        .once(call, move |seed| async move {
            let (id, now) = (SecretId::from_u128(seed), clock.now());
            let sealed = value.as_ref().map(|value| seal(&vault, tenant, id, value)).transpose()?;
            let given = sealed.is_some();
            let secret = StoredSecret {
                id,
                key: name,
                description,
                sealed,
                version: u32::from(given),
                rotated_at: given.then_some(now),
                created_at: now,
                updated_at: now,
            };
            if store.list_secrets(tenant).await?.len() >= MOST {
                return Err(Error::new(Kind::Conflict, "too_many_secrets", format!("a tenant may have {MOST} secrets")));
            }
            match store.create_secret(tenant, secret.clone()).await {
                Ok(()) => Ok(SecretAnswer::from(secret)),
                // Taken by ourselves, in a try whose answer was lost.
                Err(StoreError::Exists(_)) if store.find_secret(tenant, id).await?.is_some() => {
                    find(&store, tenant, id).await.map(SecretAnswer::from)
                }
                Err(error) => Err(error.into()),
            }
        })
        .await
}

async fn find(store: &SharedStore, tenant: TenantId, id: SecretId) -> Result<StoredSecret> {
    store.find_secret(tenant, id).await?.ok_or_else(SecretId::missing)
}

async fn read(caller: Scoped<SecretsRead>, State(store): State<SharedStore>, Id(id): Id<SecretId>) -> Result<Json<SecretAnswer>> {
    find(&store, caller.tenant, id).await.map(|secret| Json(secret.into()))
}

async fn update(
    caller: Scoped<SecretsWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    State(clock): State<Clock>,
    Id(id): Id<SecretId>,
    body: Body<Change>,
) -> Result<Json<SecretAnswer>> {
    let Change { value, description } = body.value;
    let old = find(&store, caller.tenant, id).await?;
    let mut problems = Problems::default();
    check(value.as_ref(), description.as_deref(), &mut problems);
    problems.into_result()?;
    let now = clock.now();
    let mut secret = StoredSecret { description: description.or(old.description), updated_at: now, ..old };
    let expected = secret.version;
    if let Some(value) = value {
        secret.sealed = Some(seal(&vault, caller.tenant, id, &value)?);
        secret.rotated_at = Some(now);
        secret.version += 1;
    }
    if !store.update_secret(caller.tenant, secret.clone(), expected).await? {
        find(&store, caller.tenant, id).await?;
        return Err(
            Error::new(Kind::Conflict, "secret_changed", "somebody else changed this secret at the same time").next("repeat the change")
        );
    }
    Ok(Json(secret.into()))
}

async fn delete(caller: Scoped<SecretsWrite>, State(store): State<SharedStore>, Id(id): Id<SecretId>) -> Result<Json<SecretDeletion>> {
    let secret = find(&store, caller.tenant, id).await?;
    let reference_count = references(&store, caller.tenant, &secret.key).await?;
    if !store.delete_secret(caller.tenant, id).await? {
        return Err(SecretId::missing());
    }
    Ok(Json(SecretDeletion { deleted: Deletion::of(id), reference_count }))
}

/// Whether a document names a secret.
fn names(document: &str, key: &str) -> bool {
    let name = format!("secret:{key}");
    let goes_on = |rest: &str| rest.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    document.match_indices(&name).any(|(at, _)| document.get(at + name.len()..).is_some_and(|rest| !goes_on(rest)))
}

/// How many saved flows, agents and tools name a secret as they are now.
async fn references(store: &SharedStore, tenant: TenantId, key: &str) -> Result<usize> {
    let mut count = 0;
    for kind in [TargetKind::Flow, TargetKind::Agent] {
        let mut before = None;
        loop {
            let page = store.list_flows(tenant, kind, before, None, PAGE).await?;
            for saved in &page {
                let version = store.find_flow_version(tenant, saved.current).await?;
                count += usize::from(version.is_some_and(|version| names(&version.document.to_string(), key)));
            }
            before = page.last().map(|saved| saved.id);
            if page.len() < PAGE as usize {
                break;
            }
        }
    }
    for tool in tools::every(store, tenant).await? {
        count += usize::from(names(&json!(tool.body.definition).to_string(), key));
    }
    Ok(count)
}

async fn which(caller: Scoped<SecretsRead>, State(store): State<SharedStore>, body: Body<Check>) -> Result<Json<AllChecked>> {
    if body.value.keys.len() > MOST_CHECKED {
        return Err(Error::invalid_at("/keys", format!("expected {MOST_CHECKED} at most")));
    }
    let kept = store.list_secrets(caller.tenant).await?;
    let checked = |key: String| {
        let found = kept.iter().find(|secret| secret.key == key);
        Checked { exists: found.is_some(), has_value: found.is_some_and(|secret| secret.sealed.is_some()), key }
    };
    let data: Vec<Checked> = body.value.keys.into_iter().map(checked).collect();
    let (found, missing) = data.iter().partition::<Vec<&Checked>, _>(|checked| checked.has_value);
    let keys = |checked: Vec<&Checked>| -> Vec<String> { checked.into_iter().map(|checked| checked.key.clone()).collect() };
    let (found, missing) = (keys(found), keys(missing));
    Ok(Json(AllChecked { data, found, missing, revoked: Vec::new() }))
}
