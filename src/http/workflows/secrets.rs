//! `/api/secrets`: values that workflows name as `secrets.NAME`. They are the tenant's managed secrets; a value is never shown.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, put_with};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, NoContent, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::engine::secret_context;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Id, InPath, UntypedBody};
use crate::http::scope::{Scoped, SecretsRead, SecretsWrite};
use crate::id::SecretId;
use crate::secret::Secret;
use crate::store::{SharedStore, StoreError, StoredSecret};

const TAG: &str = "HTTP workflow secrets";
const LONGEST_VALUE: usize = 10_000;
/// Most secrets of a tenant.
const MOST: usize = 1_000;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route("/api/secrets", get_with(list, about("listHttpSecrets", TAG, "List the names of secrets"))).api_route(
        "/api/secrets/{secret}",
        put_with(put, |op| {
            about("putHttpSecret", TAG, "Keep a secret, or replace its value")(op)
                .response::<200, Json<Kept>>()
                .response::<201, Json<Kept>>()
        })
        .delete_with(delete, about("deleteHttpSecret", TAG, "Delete a secret")),
    )
}

/// A secret's name, in upper-case letters.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct SecretName(#[schemars(regex(pattern = "^[A-Z][A-Z0-9_]{1,99}$"))] String);

impl std::str::FromStr for SecretName {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let plain = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
        let good = (2..=100).contains(&text.len()) && text.starts_with(|first: char| first.is_ascii_uppercase()) && plain;
        if good { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl InPath for SecretName {
    const PARAM: &'static str = "secret";
    const NOUN: &'static str = "secret";

    fn malformed() -> Error {
        Error::new(Kind::Malformed, "invalid_name", "a secret's name has 2 to 100 upper-case letters, digits and `_`, a letter first")
    }
}

/// A secret's value.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "HttpSecretInput")]
struct Input {
    /// 1 to 10,000 characters.
    value: Secret,
}

/// A secret that is kept; its value is not shown.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpSecret")]
struct Kept {
    name: String,
}

/// The names.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HttpSecrets")]
struct Names {
    secrets: Vec<Kept>,
}

async fn list(caller: Scoped<SecretsRead>, State(store): State<SharedStore>) -> Result<Json<Names>> {
    let secrets = store.list_secrets(caller.tenant).await?.into_iter().map(|secret| Kept { name: secret.key }).collect();
    Ok(Json(Names { secrets }))
}

async fn put(
    caller: Scoped<SecretsWrite>,
    State(state): State<AppState>,
    Id(name): Id<SecretName>,
    UntypedBody(Input { value }): UntypedBody<Input>,
) -> Result<Response> {
    if !(1..=LONGEST_VALUE).contains(&value.expose().chars().count()) {
        return Err(Error::invalid_at("/value", format!("expected 1 to {LONGEST_VALUE} characters")));
    }
    let (tenant, now) = (caller.tenant, state.clock.now());
    loop {
        let kept = state.store.list_secrets(tenant).await?;
        let sealed = |id: SecretId| state.vault.seal(value.expose().as_bytes(), &secret_context(tenant, id));
        if let Some(old) = kept.iter().find(|secret| secret.key == name.0) {
            let (id, version) = (old.id, old.version);
            let next =
                StoredSecret { sealed: Some(sealed(id)?), version: version + 1, rotated_at: Some(now), updated_at: now, ..old.clone() };
            if state.store.update_secret(tenant, next, version).await? {
                return Ok((StatusCode::OK, Json(Kept { name: name.0 })).into_response());
            }
            continue;
        }
        if kept.len() >= MOST {
            return Err(Error::new(Kind::Conflict, "too_many_secrets", format!("a tenant may have {MOST} secrets")));
        }
        let id = SecretId::new(&state.clock);
        let secret = StoredSecret {
            id,
            key: name.0.clone(),
            description: None,
            sealed: Some(sealed(id)?),
            version: 1,
            rotated_at: Some(now),
            created_at: now,
            updated_at: now,
        };
        match state.store.create_secret(tenant, secret).await {
            Ok(()) => return Ok((StatusCode::CREATED, Json(Kept { name: name.0 })).into_response()),
            // Somebody else kept it just now.
            Err(StoreError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn delete(caller: Scoped<SecretsWrite>, State(store): State<SharedStore>, Id(name): Id<SecretName>) -> Result<NoContent> {
    let kept = store.list_secrets(caller.tenant).await?;
    let found = kept.into_iter().find(|secret| secret.key == name.0).ok_or_else(SecretName::missing)?;
    if store.delete_secret(caller.tenant, found.id).await? { Ok(NoContent) } else { Err(SecretName::missing()) }
}
