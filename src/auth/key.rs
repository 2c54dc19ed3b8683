//! The text of API keys: making, hashing, hinting.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::clock::Clock;
use crate::model::wait::hex;
use crate::secret::Secret;

/// What keys made here begin with, so that scanners and people know them.
const PREFIX: &str = "dsp_live_";
/// Shorter keys are refused, whoever chose them.
pub const SHORTEST_KEY: usize = 16;
/// How much of a key lists show after the prefix of the keys made here; a third of the shortest key at most.
const HINT: usize = 4;

/// A new key: the prefix and 256 random bits in base64url.
pub(super) fn mint(clock: &Clock) -> Secret {
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    clock.fill(bytes.as_mut_slice());
    Secret::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())))
}

/// SHA-256, lowercase hex. Keys are random, so no slow hash is needed.
pub(super) fn hash(key: &Secret) -> String {
    hex(&Sha256::digest(key.expose().as_bytes()))
}

/// The first characters, for people to tell keys apart.
pub(super) fn hint(key: &Secret) -> String {
    let shown = if key.expose().starts_with(PREFIX) { PREFIX.len() + HINT } else { HINT };
    key.expose().chars().take(shown).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_256_bits_and_its_hint_shows_few_of_them() {
        let key = mint(&Clock::system());
        assert_eq!(key.expose().len(), PREFIX.len() + 43);
        assert_eq!(hint(&key).len(), PREFIX.len() + HINT + 3);
        assert_ne!(hash(&key), hash(&mint(&Clock::system())));
        assert_eq!(hint(&Secret::new("tv_live_abcdefgh")), "tv_l...");
    }
}
