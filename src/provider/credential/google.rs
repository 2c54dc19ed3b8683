//! Google Cloud: access tokens as they are, or bought with a service account's key (RFC 7523, RS256).
//!
//! A bought token is kept until shortly before it expires, under a hash of the key that bought it.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use moka::sync::Cache;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use url::{Host, form_urlencoded};

use super::unusable_key;
use crate::clock::{Clock, Timestamp};
use crate::net::{Deadlines, Egress, Request, Trust, parse_url, retry_after};
use crate::provider::error::{Class, ProviderError};
use crate::provider::{lenient, refusal};
use crate::secret::Secret;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long an assertion may be used.
const ASSERTION_TTL: Duration = Duration::from_secs(3_600);
/// A token is no longer used this long before it expires.
const EXPIRY_MARGIN: Duration = Duration::from_secs(60);
const MAX_CACHED_TOKENS: u64 = 1_000;
const MAX_TOKEN_ANSWER: u64 = 64 * 1024;
/// How much of an error's body is read.
const MAX_ERROR_BODY: usize = 4 * 1024;
const TOKEN_DEADLINES: Deadlines =
    Deadlines { first_byte: Duration::from_secs(10), between_chunks: Duration::from_secs(10), total: Duration::from_secs(20) };

/// Tokens by the hash of the key that bought them.
static TOKENS: LazyLock<Cache<[u8; 32], CachedToken>> = LazyLock::new(|| Cache::new(MAX_CACHED_TOKENS));

#[derive(Clone)]
struct CachedToken {
    token: Secret,
    expires_at: Timestamp,
}

/// The members of a service account's key that buy a token.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: Secret,
    #[serde(default)]
    private_key_id: Option<String>,
    token_uri: String,
}

/// Returns a token that authenticates requests to Google Cloud: the key itself, or one that the service account in it buys.
pub(super) async fn access_token(key: &Secret, base_url: &str, egress: &Egress, clock: &Clock) -> Result<Secret, ProviderError> {
    let text = key.expose().trim();
    if !text.starts_with('{') {
        return Ok(Secret::new(text));
    }
    let digest = key_digest(key);
    let cached = TOKENS.get(&digest).filter(|cached| clock.now().after(EXPIRY_MARGIN) < cached.expires_at);
    if let Some(cached) = cached {
        return Ok(cached.token);
    }
    // The parser's own words could quote the key.
    let account: ServiceAccount = serde_json::from_str(text).map_err(|_| {
        unusable_key("the Google key is no service account: it needs `client_email`, `private_key` and `token_uri`, or use an access token")
    })?;
    let bought = buy_token(&account, base_url, egress, clock).await?;
    TOKENS.insert(digest, bought.clone());
    Ok(bought.token)
}

/// The secrets inside of a key, and the token that it bought last.
pub(super) fn secret_parts(key: &Secret) -> Vec<Secret> {
    let account = serde_json::from_str::<ServiceAccount>(key.expose()).ok();
    let bought = TOKENS.get(&key_digest(key)).map(|cached| cached.token);
    account.map(|account| account.private_key).into_iter().chain(bought).collect()
}

fn key_digest(key: &Secret) -> [u8; 32] {
    Sha256::digest(key.expose().trim().as_bytes()).into()
}

async fn buy_token(account: &ServiceAccount, base_url: &str, egress: &Egress, clock: &Clock) -> Result<CachedToken, ProviderError> {
    let trust = token_trust(&account.token_uri, base_url)?;
    let asked_at = clock.now();
    let assertion = sign_assertion(account, asked_at)?;
    let form =
        form_urlencoded::Serializer::new(String::new()).append_pair("grant_type", GRANT_TYPE).append_pair("assertion", &assertion).finish();
    let mut request = Request::new(Method::POST, account.token_uri.as_str(), trust)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(form);
    request.deadlines = TOKEN_DEADLINES;
    request.max_bytes = MAX_TOKEN_ANSWER;
    request.max_redirects = 0;
    let response = egress.send(request).await.map_err(|error| unsent(error.into()))?;
    let status = response.status.as_u16();
    if !response.status.is_success() {
        let wait = retry_after(&response.headers, clock.now());
        let mut error = refused_token(status, &response.prefix(MAX_ERROR_BODY).await);
        error.retry_after = wait.or(error.retry_after);
        return Err(unsent(error));
    }
    let body = response.bytes().await.map_err(|error| unsent(error.into()))?;
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let Some(token) = answer.get("access_token").and_then(Value::as_str).filter(|token| !token.is_empty()) else {
        return Err(unsent(ProviderError::new(Class::Malformed, "the token endpoint gave no access token")));
    };
    let lifetime = lenient::count(answer.get("expires_in")).unwrap_or(0);
    Ok(CachedToken { token: Secret::new(token), expires_at: asked_at.after(Duration::from_secs(lifetime)) })
}

/// The model has not been asked yet.
fn unsent(mut error: ProviderError) -> ProviderError {
    error.sent = false;
    error
}

/// An answer of the token endpoint that refuses.
fn refused_token(status: u16, body: &[u8]) -> ProviderError {
    let mut error = refusal::read(status, body);
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let said = body.get("error_description").and_then(Value::as_str).map_or_else(|| error.message.clone(), str::to_owned);
    error.message = format!("the token endpoint refused the service account: {said}");
    // A bad assertion is told as `400 invalid_grant`.
    if matches!(status, 400 | 401 | 403) {
        error.class = Class::Auth;
    }
    error
}

/// Who chose the address that sells tokens. It stands in the key, which may be a tenant's, so it is judged unless it is Google's own or the
/// server's that the operator has configured.
fn token_trust(token_uri: &str, base_url: &str) -> Result<Trust, ProviderError> {
    let uri = parse_url(token_uri).map_err(|error| unusable_key(format!("the service account's `token_uri` cannot be used: {error}")))?;
    let is_secure = uri.scheme() == "https";
    let is_googles = is_secure && uri.host_str().is_some_and(|host| host.ends_with(".googleapis.com"));
    if is_googles || parse_url(base_url).is_ok_and(|base| base.origin() == uri.origin()) {
        return Ok(Trust::Operator);
    }
    let is_loopback = match uri.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    if is_secure || is_loopback { Ok(Trust::Judged) } else { Err(unusable_key("the service account's `token_uri` is not https")) }
}

/// A signed statement of who asks for what, for an hour.
fn sign_assertion(account: &ServiceAccount, now: Timestamp) -> Result<String, ProviderError> {
    let mut header = json!({ "alg": "RS256", "typ": "JWT" });
    if let Some(id) = &account.private_key_id {
        header["kid"] = id.as_str().into();
    }
    let seconds = |time: Timestamp| time.as_millis() / 1_000;
    let claims = json!({
        "iss": account.client_email,
        "scope": SCOPE,
        "aud": account.token_uri,
        "iat": seconds(now),
        "exp": seconds(now.after(ASSERTION_TTL)),
    });
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = signing_key(account.private_key.expose())
        .ok_or_else(|| unusable_key("the service account's `private_key` is no RSA key of at least 2048 bits in PEM"))?;
    let mut signature = vec![0u8; key.public().modulus_len()];
    // Randomness only blinds the computation: the signature is the same without it.
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .map_err(|_| unusable_key("the service account's `private_key` cannot sign"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn signing_key(pem: &str) -> Option<RsaKeyPair> {
    // Keys that went through a shell often have their line feeds written out.
    let pem = pem.replace("\\n", "\n");
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()? {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).ok(),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Policy;

    const VERTEX: &str = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/us-central1/publishers/google";

    #[test]
    fn only_google_and_the_configured_server_are_trusted_with_assertions() {
        for (uri, base, expected) in [
            ("https://oauth2.googleapis.com/token", VERTEX, Ok(Trust::Operator)),
            ("http://127.0.0.1:9090/token", "http://127.0.0.1:9090/v1", Ok(Trust::Operator)),
            ("http://127.0.0.1:9091/token", "http://127.0.0.1:9090/v1", Ok(Trust::Judged)),
            ("https://tokens.example/token", VERTEX, Ok(Trust::Judged)),
            ("http://oauth2.googleapis.com/token", VERTEX, Err(Class::Auth)),
            ("http://10.0.0.1/token", VERTEX, Err(Class::Auth)),
            ("not a url", VERTEX, Err(Class::Auth)),
        ] {
            assert_eq!(token_trust(uri, base).map_err(|error| error.class), expected, "{uri}");
        }
    }

    #[tokio::test]
    async fn a_token_is_used_as_it_is_and_a_broken_account_is_refused() {
        let clock = Clock::system();
        let egress = Egress::new(Policy::default(), clock.clone()).unwrap();
        let token = |key: &'static str| {
            let (egress, clock) = (egress.clone(), clock.clone());
            async move { access_token(&Secret::new(key), VERTEX, &egress, &clock).await }
        };
        assert_eq!(token(" ya29.token\n").await.unwrap().expose(), "ya29.token");
        let incomplete = token("{\"type\":\"authorized_user\",\"refresh_token\":\"r\"}").await.unwrap_err();
        assert_eq!((incomplete.class, incomplete.sent), (Class::Auth, false));
        let broken = "{\"client_email\":\"a@b\",\"private_key\":\"no key\",\"token_uri\":\"https://oauth2.googleapis.com/token\"}";
        let unsigned = token(broken).await.unwrap_err();
        assert!(unsigned.class == Class::Auth && unsigned.message.contains("private_key"), "{unsigned}");
    }

    #[test]
    fn a_refusal_says_why() {
        let error = refused_token(400, b"{\"error\":\"invalid_grant\",\"error_description\":\"Invalid JWT Signature.\"}");
        assert_eq!(error.class, Class::Auth);
        assert_eq!(error.message, "the token endpoint refused the service account: Invalid JWT Signature.");
        assert_eq!(refused_token(503, b"").class, Class::Overloaded);
    }
}
