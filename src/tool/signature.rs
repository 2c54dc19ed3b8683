//! Signing a call: HTTP Message Signatures (RFC 9421) with HMAC-SHA256, over a digest of the body (RFC 9530).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::http::HttpCall;
use crate::clock::Timestamp;
use crate::error::{Error, Result};
use crate::net::{self, HeaderText};
use crate::secret::Secret;

/// The signature's label.
const LABEL: &str = "dispatched";
/// What is signed besides method, address and digest, as far as the call has it.
const FIELDS: [&str; 3] = ["content-type", "idempotency-key", "dispatched-run"];

/// Adds `Content-Digest`, `Signature-Input` and `Signature`. `keyid` tells the receiver whose key it was.
pub fn sign(call: &mut HttpCall, key: &Secret, keyid: &str, created: Timestamp) -> Result<()> {
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(call.body())));
    call.set_header("content-digest", digest.clone());
    let address: String = net::parse_url(call.url()).map_err(|error| Error::invalid_at("/request/url", error.to_string()))?.into();
    let mut components = vec![("@method", call.method().to_owned()), ("@target-uri", address), ("content-digest", digest)];
    for name in FIELDS {
        if let Some(HeaderText::Plain(text)) = call.header(name) {
            components.push((name, text.trim().to_owned()));
        }
    }
    let names: Vec<String> = components.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    let seconds = created.as_millis() / 1_000;
    let params = format!("({});created={seconds};keyid=\"{keyid}\";alg=\"hmac-sha256\"", names.join(" "));
    let base = components.iter().map(|(name, text)| format!("\"{name}\": {text}\n")).collect::<String>()
        + &format!("\"@signature-params\": {params}");
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose().as_bytes()).map_err(Error::internal)?;
    mac.update(base.as_bytes());
    let signature = STANDARD.encode(mac.finalize().into_bytes());
    call.set_header("signature-input", format!("{LABEL}={params}"));
    call.set_header("signature", format!("{LABEL}=:{signature}:"));
    Ok(())
}
