//! A tenant's keys, and what is sealed under them.
//!
//! A *wrapping key*, which is the tenant's own or the server's, opens the tenant's keys; the newest of these seals. Each value has a key of its own,
//! derived from the tenant's with a random salt (HKDF-SHA256, RFC 5869), and is sealed with AES-256-GCM, bound to the tenant and to its place in the
//! database. So the keys can be wrapped anew without touching a value, no two values share a key, and no value opens in another's place.
//!
//! A sealed text is `sealed:1:` and, in base64, the key's id (16 bytes), the salt (16), the nonce (12), the ciphertext and its tag (16).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::id::TenantId;
use crate::secret::Vault;
use crate::store::{StoreError, StoreResult};

/// What every sealed text begins with.
const MARK: &str = "sealed:1:";
/// The member of an object that stands for a sealed one.
pub(super) const SEALED: &str = "sealed";
const ID: usize = 16;
const SALT: usize = 16;
/// What the keys of values are derived for.
const INFO: &[u8] = b"dispatch/value/v1";

/// One key of a tenant.
struct Key {
    id: [u8; ID],
    secret: Zeroizing<[u8; 32]>,
}

/// A tenant's keys in memory, the newest last: never empty.
pub(super) struct Keys {
    tenant: TenantId,
    all: Vec<Key>,
    clock: Clock,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({}, {})", self.tenant, self.all.len())
    }
}

/// A key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WrappedKey {
    /// Of the key, in base64.
    id: String,
    /// The key, sealed under the wrapping key, in base64.
    sealed: String,
}

fn failed(why: impl fmt::Display) -> StoreError {
    StoreError::Refused(why.to_string().into())
}

fn context(tenant: TenantId, id: &[u8]) -> String {
    format!("tenant-key/{tenant}/{}", STANDARD.encode(id))
}

impl WrappedKey {
    /// A new key, wrapped.
    pub fn new(tenant: TenantId, wrapping: &Vault, clock: &Clock) -> StoreResult<Self> {
        let (mut id, mut secret) = ([0; ID], Zeroizing::new([0; 32]));
        clock.fill(&mut id);
        clock.fill(secret.as_mut_slice());
        Self::wrap(tenant, &Key { id, secret }, wrapping)
    }

    fn wrap(tenant: TenantId, key: &Key, wrapping: &Vault) -> StoreResult<Self> {
        let sealed = wrapping.seal(key.secret.as_slice(), &context(tenant, &key.id)).map_err(failed)?;
        Ok(Self { id: STANDARD.encode(key.id), sealed: STANDARD.encode(sealed) })
    }
}

impl Keys {
    /// Opens a tenant's keys; `None`: this is not their wrapping key.
    pub fn open(tenant: TenantId, wrapped: &[WrappedKey], wrapping: &Vault, clock: &Clock) -> Option<Self> {
        let open = |key: &WrappedKey| {
            let id: [u8; ID] = STANDARD.decode(&key.id).ok()?.try_into().ok()?;
            let secret = wrapping.open(&STANDARD.decode(&key.sealed).ok()?, &context(tenant, &id)).ok()?;
            Some(Key { id, secret: Zeroizing::new(secret.as_slice().try_into().ok()?) })
        };
        let all = wrapped.iter().map(open).collect::<Option<Vec<_>>>()?;
        (!all.is_empty()).then(|| Self { tenant, all, clock: clock.clone() })
    }

    /// The same keys under another wrapping key, and a new one that seals from now on.
    pub fn rewrap(&self, wrapping: &Vault) -> StoreResult<Vec<WrappedKey>> {
        let old = self.all.iter().map(|key| WrappedKey::wrap(self.tenant, key, wrapping));
        old.chain([WrappedKey::new(self.tenant, wrapping, &self.clock)]).collect()
    }

    fn vault(&self, key: &Key, salt: &[u8]) -> StoreResult<Vault> {
        let mut own = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(salt), key.secret.as_slice()).expand(INFO, own.as_mut_slice()).map_err(failed)?;
        Ok(Vault::new(*own, self.clock.clone()))
    }

    fn bound(&self, key: &Key, place: &Place<'_>) -> String {
        format!("{}/{}/{}/{}/{}", self.tenant, place.table, place.row, place.column, STANDARD.encode(key.id))
    }

    /// Seals bytes.
    pub fn seal_bytes(&self, plain: &[u8], place: &Place<'_>) -> StoreResult<Vec<u8>> {
        let key = self.all.last().ok_or(StoreError::Locked)?;
        let mut salt = [0; SALT];
        self.clock.fill(&mut salt);
        let sealed = self.vault(key, &salt)?.seal(plain, &self.bound(key, place)).map_err(failed)?;
        Ok([key.id.as_slice(), &salt, &sealed].concat())
    }

    /// Opens what [`Keys::seal_bytes`] sealed at this place. `Locked`: under a key that is not here.
    pub fn open_bytes(&self, sealed: &[u8], place: &Place<'_>) -> StoreResult<Zeroizing<Vec<u8>>> {
        let broken = || place.broken("it does not open");
        let (id, rest) = sealed.split_first_chunk::<ID>().ok_or_else(broken)?;
        let (salt, body) = rest.split_first_chunk::<SALT>().ok_or_else(broken)?;
        let key = self.all.iter().find(|key| key.id == *id).ok_or(StoreError::Locked)?;
        self.vault(key, salt)?.open(body, &self.bound(key, place)).map_err(|_| broken())
    }

    /// Seals a text.
    pub fn seal(&self, plain: &str, place: &Place<'_>) -> StoreResult<String> {
        Ok(format!("{MARK}{}", STANDARD.encode(self.seal_bytes(plain.as_bytes(), place)?)))
    }

    /// Opens a text; one that was never sealed is itself.
    pub fn open_text(&self, text: &str, place: &Place<'_>) -> StoreResult<String> {
        let Some(sealed) = text.strip_prefix(MARK) else { return Ok(text.to_owned()) };
        let sealed = STANDARD.decode(sealed).map_err(|why| place.broken(why))?;
        let plain = self.open_bytes(&sealed, place)?;
        Ok(std::str::from_utf8(&plain).map_err(|why| place.broken(why))?.to_owned())
    }

    /// Seals a text in its place.
    pub fn hide(&self, text: &mut String, place: &Place<'_>) -> StoreResult<()> {
        *text = self.seal(text, place)?;
        Ok(())
    }

    pub fn show(&self, text: &mut String, place: &Place<'_>) -> StoreResult<()> {
        *text = self.open_text(text, place)?;
        Ok(())
    }

    /// Seals a value: a text stands for it.
    pub fn hide_value(&self, value: &mut Value, place: &Place<'_>) -> StoreResult<()> {
        *value = Value::String(self.seal(&value.to_string(), place)?);
        Ok(())
    }

    pub fn show_value(&self, value: &mut Value, place: &Place<'_>) -> StoreResult<()> {
        if let Value::String(text) = value
            && text.starts_with(MARK)
        {
            *value = serde_json::from_str(&self.open_text(text, place)?).map_err(|why| place.broken(why))?;
        }
        Ok(())
    }

    /// Seals an object: one with a single member stands for it.
    pub fn hide_map(&self, map: &mut Map<String, Value>, place: &Place<'_>) -> StoreResult<()> {
        let sealed = self.seal(&crate::store::batch::json(map), place)?;
        *map = [(SEALED.to_owned(), Value::String(sealed))].into_iter().collect();
        Ok(())
    }

    pub fn show_map(&self, map: &mut Map<String, Value>, place: &Place<'_>) -> StoreResult<()> {
        if let Some(sealed) = sealed_in(map) {
            *map = serde_json::from_str(&self.open_text(sealed, place)?).map_err(|why| place.broken(why))?;
        }
        Ok(())
    }

    /// Seals a JSON text: a JSON text stands for it.
    pub fn seal_json(&self, json: &str, place: &Place<'_>) -> StoreResult<String> {
        // Base64 needs no escapes.
        Ok(format!("\"{}\"", self.seal(json, place)?))
    }

    pub fn open_json(&self, json: &str, place: &Place<'_>) -> StoreResult<String> {
        let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        self.open_text(inner.filter(|text| text.starts_with(MARK)).unwrap_or(json), place)
    }

    /// A hash that only holders of the tenant's first key can make: of the same text it is always the same.
    pub fn hash(&self, text: &str) -> StoreResult<String> {
        let key = self.all.first().ok_or(StoreError::Locked)?;
        let mut hash = [0; 32];
        Hkdf::<Sha256>::new(Some(text.as_bytes()), key.secret.as_slice()).expand(b"dispatch/hash/v1", &mut hash).map_err(failed)?;
        Ok(crate::model::wait::hex(&hash))
    }
}

/// What stands sealed for an object, if it is sealed.
pub(super) fn sealed_in(map: &Map<String, Value>) -> Option<&str> {
    map.get(SEALED).and_then(Value::as_str).filter(|text| text.starts_with(MARK))
}

/// Where a value is kept; it opens nowhere else.
pub(super) struct Place<'a> {
    pub table: &'static str,
    pub row: &'a str,
    pub column: &'static str,
}

impl<'a> Place<'a> {
    pub const fn new(table: &'static str, row: &'a str, column: &'static str) -> Self {
        Self { table, row, column }
    }

    pub fn broken(&self, why: impl fmt::Display) -> StoreError {
        StoreError::Broken { table: self.table, column: self.column, row: self.row.to_owned(), why: why.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: TenantId = TenantId::from_u128(1);
    const PLACE: Place<'_> = Place::new("runs", "a", "output");

    fn vault(byte: u8) -> Vault {
        Vault::new([byte; 32], Clock::system())
    }

    fn keys(wrapped: &[WrappedKey], wrapping: &Vault) -> Option<Keys> {
        Keys::open(TENANT, wrapped, wrapping, &Clock::system())
    }

    #[test]
    fn a_value_opens_in_its_place_only_and_only_under_its_tenants_key() {
        let wrapped = [WrappedKey::new(TENANT, &vault(1), &Clock::system()).unwrap()];
        let keys = keys(&wrapped, &vault(1)).unwrap();
        let (one, other) = (keys.seal("plain words", &PLACE).unwrap(), keys.seal("plain words", &PLACE).unwrap());
        assert!(one != other && !one.contains("plain"));
        assert_eq!(keys.open_text(&one, &PLACE).unwrap(), "plain words");
        assert!(keys.open_text(&one, &Place { row: "b", ..PLACE }).is_err());
        assert!(keys.open_text(&one, &Place { column: "input", ..PLACE }).is_err());
        assert!(self::keys(&wrapped, &vault(2)).is_none(), "another wrapping key");
        let other = [WrappedKey::new(TENANT, &vault(1), &Clock::system()).unwrap()];
        let stranger = self::keys(&other, &vault(1)).unwrap();
        assert!(matches!(stranger.open_text(&one, &PLACE), Err(StoreError::Locked)));
    }

    #[test]
    fn wrapped_anew_the_old_is_read_and_the_new_is_sealed_under_a_new_key() {
        let first = [WrappedKey::new(TENANT, &vault(1), &Clock::system()).unwrap()];
        let old = keys(&first, &vault(1)).unwrap();
        let second = old.rewrap(&vault(2)).unwrap();
        let new = keys(&second, &vault(2)).unwrap();
        assert!(keys(&second, &vault(1)).is_none() && keys(&first, &vault(2)).is_none());
        assert_eq!(new.open_text(&old.seal("before", &PLACE).unwrap(), &PLACE).unwrap(), "before");
        assert!(matches!(old.open_text(&new.seal("after", &PLACE).unwrap(), &PLACE), Err(StoreError::Locked)));
        assert_eq!(old.hash("flow").unwrap(), new.hash("flow").unwrap());
    }

    #[test]
    fn values_and_json_texts_stay_json() {
        let wrapped = [WrappedKey::new(TENANT, &vault(1), &Clock::system()).unwrap()];
        let keys = keys(&wrapped, &vault(1)).unwrap();
        let mut value = serde_json::json!({ "a": [1, "sealed:1:"] });
        let plain = value.clone();
        keys.hide_value(&mut value, &PLACE).unwrap();
        assert!(value.as_str().is_some_and(|text| text.starts_with(MARK)));
        keys.show_value(&mut value, &PLACE).unwrap();
        assert_eq!(value, plain);
        let json = keys.seal_json(&plain.to_string(), &PLACE).unwrap();
        assert!(serde_json::from_str::<String>(&json).is_ok());
        assert_eq!(keys.open_json(&json, &PLACE).unwrap(), plain.to_string());
        // What was never sealed is read as it is, also a text of somebody's own.
        assert_eq!(keys.open_json("\"x\"", &PLACE).unwrap(), "\"x\"");
    }
}
