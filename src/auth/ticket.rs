//! Tickets: texts that a page or a visitor holds, and that say themselves whose they are.
//!
//! A ticket is a prefix and 64 bytes in base64url: the tenant, the id of its row, and 256 random bits. So no look-up crosses
//! tenants: the row is sought where the ticket says, and the row's hash says whether the ticket is real.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::key;
use crate::clock::Clock;
use crate::id::TenantId;
use crate::secret::Secret;

const LEN: usize = 64;

/// A ticket that was read, and may still be false.
#[derive(Debug, Clone)]
pub struct Ticket {
    pub tenant: TenantId,
    /// The 128 bits of its row's id.
    pub id: u128,
    hash: String,
}

/// A new ticket and the hash that its row keeps.
pub fn mint(clock: &Clock, prefix: &str, tenant: TenantId, id: u128) -> (Secret, String) {
    let mut bytes = zeroize::Zeroizing::new([0u8; LEN]);
    bytes[..16].copy_from_slice(&tenant.as_u128().to_be_bytes());
    bytes[16..32].copy_from_slice(&id.to_be_bytes());
    clock.fill(&mut bytes[32..]);
    let text = Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())));
    let hash = key::hash(&text);
    (text, hash)
}

/// Reads a ticket with one of these prefixes.
pub fn read(text: &Secret, prefixes: &[&str]) -> Option<Ticket> {
    let body = prefixes.iter().find_map(|prefix| text.expose().strip_prefix(prefix))?;
    let bytes: [u8; LEN] = URL_SAFE_NO_PAD.decode(body).ok()?.try_into().ok()?;
    let number = |from: usize| bytes[from..from + 16].iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    Some(Ticket { tenant: TenantId::from_u128(number(0)), id: number(16), hash: key::hash(text) })
}

impl Ticket {
    /// Whether this is the ticket whose hash a row keeps.
    pub fn is(&self, hash: &str) -> bool {
        Secret::new(hash).matches(&self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_says_whose_it_is_and_cannot_be_made_up() {
        let clock = Clock::system();
        let (tenant, id) = (TenantId::new(&clock), 7);
        let (text, hash) = mint(&clock, "ct_", tenant, id);
        let ticket = read(&text, &["x_", "ct_"]).unwrap();
        assert_eq!((ticket.tenant, ticket.id, ticket.is(&hash)), (tenant, id, true));
        let (other, _) = mint(&clock, "ct_", tenant, id);
        assert!(!read(&other, &["ct_"]).unwrap().is(&hash));
        for wrong in ["", "ct_", "ct_AAAA", "x_", &text.expose()[..80], &text.expose().replace("ct_", "sess_")] {
            assert!(read(&Secret::new(wrong), &["ct_"]).is_none(), "{wrong}");
        }
    }
}
