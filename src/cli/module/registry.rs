//! Modules from a registry that speaks as npm's does.

use http::Method;
use serde_json::Value;

use super::package_fault;
use crate::cli::kit::{KitConfig, KitContext, KitFault, KitResult, RegistryConfig};
use crate::clock::Clock;
use crate::error::Error;
use crate::module::package::{self, InstalledModule, MAX_PACKAGE_BYTES};
use crate::module::version::{Version, VersionRange};
use crate::net::{Egress, Policy, Request, Trust};
use crate::secret::Secret;

/// Maximum size of a package's document in a registry, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 32 * 1024 * 1024;

/// Installs a module from the registry of the configuration. A version that is installed is returned without a request.
pub(super) async fn install(name: &str, version: &str, config: &KitConfig, context: &KitContext) -> KitResult<InstalledModule> {
    if let Some(module) = package::find_installed(&context.paths.home, name, Some(version)).into_iter().next() {
        return Ok(module);
    }
    let registry = config.registry.as_ref().ok_or_else(|| {
        KitFault::usage(
            "no registry is configured. Add `registry` with `url` and `scope` to dispatch.config.json or to the user's config.json.",
        )
    })?;
    let range =
        VersionRange::parse(version).ok_or_else(|| KitFault::usage(format!("--version: `{version}` is not a version or a range")))?;
    let clock = Clock::system();
    let egress = Egress::new(Policy::default(), clock.clone()).map_err(Error::from)?;
    let url = format!("{}/{}%2Fdispatch-module-{name}", registry.url.trim_end_matches('/'), registry.scope);
    let bytes = fetch(&egress, registry, url.clone(), MAX_DOCUMENT_BYTES).await?;
    let document: Value =
        serde_json::from_slice(&bytes).map_err(|error| KitFault::runtime(format!("{url} did not answer with JSON: {error}")))?;
    let (found, tarball) = choose(&document, version, &range)
        .ok_or_else(|| KitFault::not_found(format!("the registry has no version of {name} in the range {version}")))?;
    if let Some(module) = package::find_installed(&context.paths.home, name, Some(&found)).into_iter().next() {
        return Ok(module);
    }
    let bytes = fetch(&egress, registry, tarball, MAX_PACKAGE_BYTES).await?;
    package::install_folder(&context.paths.home, &clock, |target| package::read_tarball(&bytes, target))
        .map_err(|issues| package_fault(&issues))
}

/// The highest version in the range, or the one of that very name, and the address of its tarball.
fn choose(document: &Value, version: &str, range: &VersionRange) -> Option<(String, String)> {
    let versions = document.get("versions")?.as_object()?;
    let matching = versions.keys().filter_map(|key| Some((Version::parse(key)?, key))).filter(|(parsed, _)| range.matches(parsed));
    let highest = matching.max_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, key)| key);
    let key = versions.keys().find(|key| *key == version).or(highest)?;
    let tarball = versions.get(key)?.pointer("/dist/tarball")?.as_str()?;
    Some((key.clone(), tarball.to_owned()))
}

async fn fetch(egress: &Egress, registry: &RegistryConfig, url: String, max_bytes: u64) -> KitResult<Vec<u8>> {
    let mut request = Request::new(Method::GET, url.clone(), Trust::Operator);
    request.max_bytes = max_bytes;
    if let Some(token) = registry.auth_token.as_ref().filter(|token| !token.expose().is_empty() && is_same_origin(&registry.url, &url)) {
        request = request.header("authorization", Secret::new(format!("Bearer {}", token.expose())));
    }
    let response = egress.send(request).await.map_err(Error::from)?;
    let status = response.status;
    if !status.is_success() {
        let message = format!("{url} answered with HTTP {}", status.as_u16());
        return Err(match status.as_u16() {
            404 => KitFault::not_found(message),
            429 | 502..=504 => KitFault::transient(message),
            _ => KitFault::runtime(message),
        });
    }
    Ok(response.bytes().await.map_err(Error::from)?.to_vec())
}

/// Reports whether a token that belongs to one address may go to another.
fn is_same_origin(one: &str, other: &str) -> bool {
    let origin = |text: &str| url::Url::parse(text).ok().map(|url| url.origin());
    origin(one).is_some_and(|found| origin(other) == Some(found))
}
