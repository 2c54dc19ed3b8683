//! `/v1/credentials`: the tenant's own provider keys, sealed before they are stored and never shown again.

use std::str::FromStr;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, put_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, InPath};
use crate::http::scope::{CredentialsRead, CredentialsWrite, Scoped};
use crate::id::{CredentialId, TenantId};
use crate::secret::{Secret, Vault};
use crate::store::{Credential, SharedStore};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/credentials", get_with(list, about("listCredentials", "Credentials", "List provider keys, masked")))
        .api_route(
            "/v1/credentials/{provider}",
            put_with(put, about("putCredential", "Credentials", "Store or replace a provider's key"))
                .delete_with(delete, about("deleteCredential", "Credentials", "Delete a provider's key")),
        )
}

/// A provider's name in a path: lowercase letters, digits and `-_.`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
struct Provider(#[schemars(regex(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$"))] String);

impl FromStr for Provider {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let starts_well = text.bytes().next().is_some_and(legal);
        (starts_well && text.len() <= 64 && text.bytes().all(|byte| legal(byte) || b"-_.".contains(&byte)))
            .then(|| Self(text.to_owned()))
            .ok_or(())
    }
}

impl InPath for Provider {
    const PARAM: &'static str = "provider";
    const NOUN: &'static str = "provider";
}

/// A provider's key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CredentialInput")]
struct Input {
    /// 8 to 10,000 characters.
    api_key: Secret,
}

/// A stored provider key, masked.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Credential")]
struct Row {
    id: CredentialId,
    provider: String,
    /// How the key ends.
    hint: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// The tenant's provider keys.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CredentialList")]
struct Rows {
    data: Vec<Row>,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedCredential")]
struct Deleted {
    provider: String,
    /// Always true.
    deleted: bool,
}

impl From<Credential> for Row {
    fn from(credential: Credential) -> Self {
        let Credential { id, provider, hint, created_at, updated_at, .. } = credential;
        Self { id, provider, hint, created_at, updated_at }
    }
}

/// What a sealed provider key is bound to; whoever opens it says the same.
fn context(tenant: TenantId, provider: &str) -> String {
    format!("credential/{tenant}/{provider}")
}

/// How much of a key lists show.
const HINT: usize = 4;
const SHORTEST: usize = 8;
const LONGEST: usize = 10_000;

async fn list(caller: Scoped<CredentialsRead>, State(store): State<SharedStore>) -> Result<Json<Rows>> {
    let credentials = store.list_credentials(caller.tenant).await?;
    Ok(Json(Rows { data: credentials.into_iter().map(Row::from).collect() }))
}

async fn put(
    caller: Scoped<CredentialsWrite>,
    State(store): State<SharedStore>,
    State(vault): State<Vault>,
    State(clock): State<Clock>,
    Id(Provider(provider)): Id<Provider>,
    body: Body<Input>,
) -> Result<Json<Row>> {
    let key = body.value.api_key;
    let key = key.expose().trim();
    if !(SHORTEST..=LONGEST).contains(&key.len()) || key.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::invalid_at("/apiKey", format!("expected {SHORTEST} to {LONGEST} printable characters")));
    }
    let sealed = vault.seal(key.as_bytes(), &context(caller.tenant, &provider))?;
    let last: Vec<char> = key.chars().rev().take(HINT).collect();
    let hint = format!("...{}", last.into_iter().rev().collect::<String>());
    let now = clock.now();
    let credential = Credential { id: CredentialId::new(&clock), provider, sealed, hint, created_at: now, updated_at: now };
    Ok(Json(store.put_credential(caller.tenant, credential).await?.into()))
}

async fn delete(
    caller: Scoped<CredentialsWrite>,
    State(store): State<SharedStore>,
    Id(Provider(provider)): Id<Provider>,
) -> Result<Json<Deleted>> {
    if !store.delete_credential(caller.tenant, &provider).await? {
        return Err(Error::missing("credential"));
    }
    Ok(Json(Deleted { provider, deleted: true }))
}
