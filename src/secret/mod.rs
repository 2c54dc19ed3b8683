//! Values that cannot be printed, sealing for storage, and redaction by value.
//!
//! A [`Secret`] shows nothing through `Debug`, has no `Display` and no `Serialize`; whoever needs the text says
//! [`Secret::expose`], which is easy to search for. A [`Vault`] seals bytes with AES-256-GCM under the
//! server's key, bound to what they belong to. A [`Redactor`] removes known values from text on its way out: `spellings`
//! lists the forms of a secret, `matcher` finds them in one pass, and in one more for each `encoding` that a text may contain.
//!
//! Must not know: where secrets come from or where sealed bytes are kept.

mod encoding;
mod matcher;
mod redactor;
mod spellings;

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

pub use self::redactor::Redactor;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};

/// What stands where a secret was.
pub const REDACTED: &str = "[redacted]";

/// Shorter values are words, not secrets; removing them would mangle ordinary text.
const MIN_REDACTED: usize = 6;

/// A text that must not be printed, logged or stored in the clear.
#[derive(Clone, Default)]
pub struct Secret(Arc<Zeroizing<String>>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(Arc::new(Zeroizing::new(text.into())))
    }

    /// The text itself. Every call is a place to review.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares in constant time for equal lengths.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl schemars::JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "writeOnly": true })
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self::new(text))
    }
}

/// Seals and opens bytes with the server's key (AES-256-GCM, 96-bit random nonce in front).
#[derive(Clone)]
pub struct Vault {
    cipher: Arc<Aes256Gcm>,
    clock: Clock,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

const NONCE_LEN: usize = 12;

impl Vault {
    pub fn new(mut key: [u8; 32], clock: Clock) -> Self {
        let cipher = Arc::new(Aes256Gcm::new(&key.into()));
        key.zeroize();
        Self { cipher, clock }
    }

    /// Seals `plain`, bound to `context` (tenant, kind and name of what it is): opening under any other context fails.
    pub fn seal(&self, plain: &[u8], context: &str) -> Result<Vec<u8>> {
        let mut nonce = [0u8; NONCE_LEN];
        self.clock.fill(&mut nonce);
        let payload = Payload { msg: plain, aad: context.as_bytes() };
        let sealed = self.cipher.encrypt(&nonce.into(), payload).map_err(|_| Error::internal("sealing failed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Vault::seal`] made under the same key and context.
    pub fn open(&self, sealed: &[u8], context: &str) -> Result<Zeroizing<Vec<u8>>> {
        let unreadable = || {
            Error::new(Kind::Unavailable, "sealed_value_unreadable", "a stored secret cannot be opened with this server's key")
                .next("start the server with the key that sealed it (DISPATCH_MASTER_KEY, or master.key in the data folder)")
        };
        let (nonce, body) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(unreadable)?;
        let payload = Payload { msg: body, aad: context.as_bytes() };
        self.cipher.decrypt(&(*nonce).into(), payload).map(Zeroizing::new).map_err(|_| unreadable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("sk-canary-1")), REDACTED);
    }

    #[test]
    fn sealed_bytes_open_only_in_their_context() {
        let vault = Vault::new([7; 32], Clock::system());
        let sealed = vault.seal(b"hello", "tenant/a").unwrap_or_default();
        assert_eq!(vault.open(&sealed, "tenant/a").ok().as_deref().map(Vec::as_slice), Some(b"hello".as_slice()));
        assert!(vault.open(&sealed, "tenant/b").is_err());
        assert!(vault.open(&sealed[..5], "tenant/a").is_err());
    }
}
