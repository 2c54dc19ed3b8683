//! Values that cannot be printed, sealing for storage, and redaction by value.
//!
//! A [`Secret`] shows nothing through `Debug`, has no `Display` and no `Serialize`; whoever needs the text says
//! [`Secret::expose`], which is easy to search for. A [`Vault`] seals bytes with AES-256-GCM under the
//! server's key, bound to what they belong to. A [`Redactor`] removes known values from text on its way out.
//!
//! Must not know: where secrets come from or where sealed bytes are kept.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};

/// What stands where a secret was.
pub const REDACTED: &str = "[redacted]";

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

/// Removes known secret values from texts and JSON values.
#[derive(Clone, Default)]
pub struct Redactor(Arc<Vec<Secret>>);

/// Shorter values are words, not secrets; removing them would mangle ordinary text.
const SHORTEST_REDACTED: usize = 6;

/// How a secret may come back from whoever it was sent to, besides as it is: a host that was made of it is told in lower case; a text that quotes JSON
/// has it escaped, once for each time that it is quoted, and not by all writers alike; a query or a form has it percent-encoded.
fn other_forms(secret: &str) -> impl Iterator<Item = Secret> {
    let quoted = |text: &str| serde_json::Value::from(text).to_string().trim_matches('"').to_owned();
    let inner = |text: &str| {
        let text = quoted(text);
        [text.replace('/', "\\/"), ascii(&text), ascii(&text.replace('/', "\\/")), text]
    };
    let once = inner(secret);
    let twice = once.iter().flat_map(|text| inner(text)).collect::<Vec<_>>();
    let encoded = [url::form_urlencoded::byte_serialize(secret.as_bytes()).collect::<String>(), percent(secret)];
    let forms: std::collections::BTreeSet<String> =
        once.into_iter().chain(twice).chain(encoded).chain([secret.to_lowercase()]).filter(|form| form != secret).collect();
    forms.into_iter().map(Secret::new)
}

/// A JSON text whose characters outside ASCII are written by their numbers.
fn ascii(text: &str) -> String {
    let mut units = [0; 2];
    let escape = |letter: char, units: &mut [u16; 2]| letter.encode_utf16(units).iter().map(|unit| format!("\\u{unit:04x}")).collect();
    text.chars().map(|letter| if letter.is_ascii() { letter.to_string() } else { escape(letter, &mut units) }).collect()
}

/// Every byte but letters, digits and `-._~` as `%XX`.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

impl Redactor {
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Self {
        let mut secrets: Vec<Secret> = secrets.into_iter().filter(|secret| secret.expose().len() >= SHORTEST_REDACTED).collect();
        let others: Vec<Secret> = secrets.iter().flat_map(|secret| other_forms(secret.expose())).collect();
        secrets.extend(others);
        // Longest first, so that a secret that contains another leaves nothing behind.
        secrets.sort_by(|one, other| other.expose().len().cmp(&one.expose().len()).then_with(|| one.expose().cmp(other.expose())));
        secrets.dedup_by(|one, other| one.expose() == other.expose());
        Self(Arc::new(secrets))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A redactor of these values and more.
    pub fn with(&self, more: impl IntoIterator<Item = Secret>) -> Self {
        Self::new(self.0.iter().cloned().chain(more))
    }

    /// `text` without any of the secrets.
    pub fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), REDACTED))
    }

    /// Removes the secrets from every string of `value`, keys included.
    pub fn value(&self, value: &mut serde_json::Value) {
        use serde_json::Value;
        if self.is_empty() {
            return;
        }
        match value {
            Value::String(text) => {
                if self.0.iter().any(|secret| text.contains(secret.expose())) {
                    *text = self.text(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(map) => {
                let tainted = map.keys().any(|key| self.0.iter().any(|secret| key.contains(secret.expose())));
                if tainted {
                    *map = std::mem::take(map).into_iter().map(|(key, value)| (self.text(&key), value)).collect();
                }
                map.values_mut().for_each(|item| self.value(item));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.0.len())
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

    #[test]
    fn a_host_made_of_a_secret_is_found_too() {
        let redactor = Redactor::new([Secret::new("SK-Canary-1")]);
        assert_eq!(redactor.text("http://sk-canary-1.example.com and SK-Canary-1"), "http://[redacted].example.com and [redacted]");
        let mut value = serde_json::json!({ "sk-canary-1": "sk-canary-1" });
        redactor.value(&mut value);
        assert_eq!(value, serde_json::json!({ REDACTED: REDACTED }));
    }

    #[test]
    fn a_secret_is_found_however_it_is_quoted() {
        let secret = "-----BEGIN \"KEY\"-----\nMIIabc/def\u{fc}ber+\\9";
        let redactor = Redactor::new([Secret::new(secret)]);
        let json = |text: &str| serde_json::Value::from(text).to_string();
        let (once, twice) = (json(secret), json(&json(secret)));
        let foreign = once.replace('/', "\\/").replace('\u{fc}', "\\u00fc");
        let encoded: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        for text in [secret, &once, &twice, &foreign, &json(&foreign), &once.replace('\u{fc}', "\\u00fc"), &encoded, &percent(secret)] {
            let shown = redactor.text(&format!("it said {text}."));
            assert!(shown.contains(REDACTED) && !shown.contains("MII") && !shown.contains("ber"), "{text}: {shown}");
        }
    }

    #[test]
    fn redaction_reaches_keys_and_nested_values() {
        let redactor = Redactor::new([Secret::new("sk-canary"), Secret::new("sk-canary-long")]);
        let mut value = serde_json::json!({ "a sk-canary b": [{ "x": "Bearer sk-canary-long" }], "n": 1 });
        redactor.value(&mut value);
        assert!(!value.to_string().contains("canary"), "{value}");
    }
}
