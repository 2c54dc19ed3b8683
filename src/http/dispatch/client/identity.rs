//! Who a page's user is, in the word of the page's owner.
//!
//! A client token names a managed secret; the owner's backend signs a proof under it for the user that it knows, and the page carries it here.

use axum::http::HeaderMap;

use super::door::Door;
use super::tokens::Settings;
use crate::auth::identity;
use crate::engine::secret_context;
use crate::error::{Error, Kind, Result};
use crate::id::TenantId;
use crate::secret::Secret;

/// The header that carries a proof on the routes of history.
const HEADER: &str = "x-identity-proof";

/// What a page shows of its user's identity: perhaps nothing.
pub(super) struct Proof<'a>(Option<&'a str>);

impl<'a> Proof<'a> {
    pub const fn new(text: Option<&'a str>) -> Self {
        Self(text)
    }

    pub fn of(headers: &'a HeaderMap) -> Self {
        // What is no text is no proof either, but it was shown.
        Self(headers.get(HEADER).map(|value| value.to_str().unwrap_or_default()))
    }

    pub const fn is_shown(&self) -> bool {
        self.0.is_some()
    }

    /// What becomes of it, as pages are told.
    pub const fn status(&self, settings: &Settings) -> &'static str {
        match (self.0, &settings.identity_secret) {
            (None, _) => "not_provided",
            (Some(_), None) => "ignored",
            (Some(_), Some(_)) => "admitted",
        }
    }

    /// The user whom it proves; `None` when it was not shown, or nobody here reads it.
    /// Errors: `invalid_identity_proof` (401); `identity_proof_not_admitted` (503), when the owner's secret is gone or empty.
    pub async fn user(&self, door: &Door, tenant: TenantId, settings: &Settings) -> Result<Option<String>> {
        let (Some(proof), Some(key)) = (self.0, &settings.identity_secret) else { return Ok(None) };
        let kept = door.store.list_secrets(tenant).await?.into_iter().find(|secret| secret.key == *key);
        let Some((id, sealed)) = kept.and_then(|secret| Some((secret.id, secret.sealed?))) else {
            return Err(Error::new(Kind::Unavailable, "identity_proof_not_admitted", "identity_proof_not_admitted")
                .next("the token's owner gives the managed secret that `identitySecret` names a value, or names another"));
        };
        let plain = door.vault.open(&sealed, &secret_context(tenant, id))?;
        let secret = Secret::new(String::from_utf8_lossy(&plain).into_owned());
        identity::read(proof, &secret, door.clock.now()).map(Some).map_err(|doubt| {
            Error::new(Kind::Unauthenticated, "invalid_identity_proof", format!("invalid_identity_proof: {doubt}"))
                .next("the owner's backend makes another for the signed-in user: a JSON Web Token, HS256, with `sub` and `exp`")
        })
    }
}
