//! How requests prove who sends them: a key as it is, a signature (AWS), or a token that a key buys (Google Cloud).
//!
//! To add a way, add a variant to [`Auth`](super::catalogue::Auth) and an arm here. Must not know: wire formats, models.

mod aws;
mod google;

use super::ProviderCall;
use super::catalogue::Auth;
use super::error::{Class, ProviderError};
use crate::clock::Clock;
use crate::net::{Egress, Request};
use crate::secret::Secret;

/// Adds the headers to a finished request that authenticate it. A call without a key stays as it is.
pub(super) async fn authorize(call: &ProviderCall, egress: &Egress, clock: &Clock, mut request: Request) -> Result<Request, ProviderError> {
    let Some(key) = &call.key else { return Ok(request) };
    match &call.auth {
        Auth::None => {}
        Auth::Bearer => request = request.header("authorization", bearer(key.expose())),
        Auth::Header(name) => request = request.header(name, key.clone()),
        Auth::Aws => {
            let headers = aws::headers(key, &request, clock.now())?;
            request.headers.extend(headers);
        }
        Auth::Google => {
            let token = google::access_token(key, &call.base_url, egress, clock).await?;
            request = request.header("authorization", bearer(token.expose()));
        }
    }
    Ok(request)
}

/// Every secret text of a call that a vendor's message could repeat, for redaction.
pub(super) fn secrets(call: &ProviderCall) -> Vec<Secret> {
    let Some(key) = &call.key else { return Vec::new() };
    let parts = match &call.auth {
        Auth::Aws => aws::secret_parts(key),
        Auth::Google => google::secret_parts(key),
        Auth::Bearer | Auth::Header(_) | Auth::None => Vec::new(),
    };
    std::iter::once(key.clone()).chain(parts).collect()
}

fn bearer(token: &str) -> Secret {
    Secret::new(format!("Bearer {token}"))
}

/// A key that cannot be used; nothing has been sent.
fn unusable_key(why: impl Into<String>) -> ProviderError {
    let mut error = ProviderError::new(Class::Auth, why);
    error.sent = false;
    error
}
