//! Identity proofs: short texts in which an owner's backend says who a page's user is.
//!
//! A proof is a JSON Web Token (RFC 7519) signed with HMAC-SHA256 (`alg: HS256`) under a secret that the owner shares with this server. Nothing of it
//! is believed before its signature was checked, and no other algorithm is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::clock::Timestamp;
use crate::secret::Secret;

/// How long a proof may be good for at most, from its making: a day. What lasts longer is a password.
const LONGEST_LIFE: f64 = 24.0 * 3_600.0;
/// How far clocks may differ, in seconds.
const SKEW: f64 = 60.0;
/// Bytes of a proof, and of the name that it has.
const LONGEST: usize = 8 * 1024;
const LONGEST_NAME: usize = 255;

/// Why a proof was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    #[error("it is no JSON Web Token signed with HS256, with `exp` a number and `sub` a text")]
    Malformed,
    #[error("its signature is not of the secret that was agreed upon")]
    Signature,
    #[error("it has expired, or is good for more than a day, or says nothing of that (`exp`)")]
    Expired,
    #[error("it is not good yet (`nbf`)")]
    TooEarly,
    #[error("it names nobody (`sub`, 1 to 255 characters)")]
    Nobody,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    /// Names what must be understood; nothing of it is.
    crit: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// Who a proof says that somebody is.
pub fn read(proof: &str, key: &Secret, now: Timestamp) -> Result<String, Doubt> {
    if proof.len() > LONGEST {
        return Err(Doubt::Malformed);
    }
    let (signed, signature) = proof.rsplit_once('.').ok_or(Doubt::Malformed)?;
    let (header, claims) = signed.split_once('.').ok_or(Doubt::Malformed)?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Doubt::Malformed);
    let header: Header = serde_json::from_slice(&bytes(header)?).map_err(|_| Doubt::Malformed)?;
    if header.alg != "HS256" || header.crit.is_some() {
        return Err(Doubt::Malformed);
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose().as_bytes()).map_err(|_| Doubt::Signature)?;
    mac.update(signed.as_bytes());
    mac.verify_slice(&bytes(signature)?).map_err(|_| Doubt::Signature)?;
    let claims: Claims = serde_json::from_slice(&bytes(claims)?).map_err(|_| Doubt::Malformed)?;
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact for 285 million years")]
    let now = (now.as_millis() / 1_000) as f64;
    if !claims.exp.is_some_and(|end| now < end + SKEW && end <= now + LONGEST_LIFE + SKEW) {
        return Err(Doubt::Expired);
    }
    if claims.nbf.is_some_and(|begin| begin > now + SKEW) {
        return Err(Doubt::TooEarly);
    }
    claims.sub.filter(|name| !name.trim().is_empty() && name.len() <= LONGEST_NAME && !name.contains(char::is_control)).ok_or(Doubt::Nobody)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn made(header: &Value, claims: &Value, key: &str) -> String {
        let text = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", text(header), text(claims));
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn the_standard_s_own_example_is_verified() {
        // RFC 7515, appendix A.1: the key is given there as a JSON Web Key; its bytes are no text, so the signature is checked here by itself.
        let key = URL_SAFE_NO_PAD.decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow").unwrap();
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(signed.as_bytes());
        assert!(mac.verify_slice(&URL_SAFE_NO_PAD.decode("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk").unwrap()).is_ok());
    }

    #[test]
    fn only_a_good_proof_is_believed() {
        let (key, now) = (Secret::new("shared-with-the-owner"), Timestamp::from_millis(1_000_000_000));
        let (head, good) = (json!({ "alg": "HS256", "typ": "JWT" }), json!({ "sub": "user-7", "exp": 1_000_600 }));
        let read = |proof: &str| read(proof, &key, now);
        assert_eq!(read(&made(&head, &good, "shared-with-the-owner")), Ok("user-7".into()));
        assert_eq!(read(&made(&head, &good, "another")), Err(Doubt::Signature));
        for (claims, doubt) in [
            (json!({ "sub": "user-7" }), Doubt::Expired),
            (json!({ "sub": "user-7", "exp": 999_900 }), Doubt::Expired),
            (json!({ "sub": "user-7", "exp": 1_200_000 }), Doubt::Expired),
            (json!({ "sub": "user-7", "exp": 1_000_600, "nbf": 1_000_500 }), Doubt::TooEarly),
            (json!({ "exp": 1_000_600 }), Doubt::Nobody),
            (json!({ "sub": " ", "exp": 1_000_600 }), Doubt::Nobody),
        ] {
            assert_eq!(read(&made(&head, &claims, "shared-with-the-owner")), Err(doubt), "{claims}");
        }
        assert_eq!(read(&made(&head, &json!({ "sub": "user-7", "exp": 1_000_600.5 }), "shared-with-the-owner")), Ok("user-7".into()));
        let critical = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
        assert_eq!(read(&made(&critical, &good, "shared-with-the-owner")), Err(Doubt::Malformed));
        for alg in ["none", "RS256", "hs256"] {
            assert_eq!(read(&made(&json!({ "alg": alg }), &good, "shared-with-the-owner")), Err(Doubt::Malformed), "{alg}");
        }
        for wrong in ["", "a.b", "a.b.c", "...."] {
            assert_eq!(read(wrong), Err(Doubt::Malformed), "{wrong}");
        }
    }
}
