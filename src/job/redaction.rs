//! Secrets in what is kept of a run: by the names of members, beside the known values that a redactor removes.

use serde_json::Value;

/// The text in the place of a secret member's value.
pub const REDACTED: &str = "[REDACTED]";

/// Names of members and headers whose values are secret, in lower case.
const SECRET_KEYS: &[&str] = &[
    "password",
    "token",
    "cookie",
    "set-cookie",
    "authorization",
    "proxy-authorization",
    "apikey",
    "api-key",
    "api_key",
    "x-api-key",
    "x-auth-token",
    "clientsecret",
    "client-secret",
    "client_secret",
    "secret",
    "access_token",
    "accesstoken",
    "refresh_token",
    "refreshtoken",
    "id_token",
    "private_key",
    "privatekey",
];

/// Whether the value of a member or header of this name is a secret.
pub fn is_secret_key(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_KEYS.contains(&name.as_str())
}

/// Replaces the values of secret members, at any depth; returns whether there was one.
pub fn redact_keys(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            let mut found = false;
            for (name, item) in map {
                if is_secret_key(name) && !is_expression(item) {
                    *item = Value::String(REDACTED.to_owned());
                    found = true;
                } else {
                    found |= redact_keys(item);
                }
            }
            found
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| redact_keys(item) | found),
        _ => false,
    }
}

/// An expression names where a secret is and does not hold it.
fn is_expression(value: &Value) -> bool {
    value.as_str().is_some_and(super::interpolation::is_whole)
}

/// The text of a body without the values of secret members, if it is JSON.
pub fn redact_text(text: &str) -> String {
    if let Ok(mut value) = serde_json::from_str::<Value>(text)
        && redact_keys(&mut value)
    {
        return value.to_string();
    }
    text.to_owned()
}

/// Whether a value holds something that was redacted, so that it cannot be used again.
pub fn is_redacted(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(REDACTED) || text.contains(crate::secret::REDACTED),
        Value::Array(items) => items.iter().any(is_redacted),
        Value::Object(map) => map.values().any(is_redacted),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn members_are_known_by_their_names() {
        let mut value = json!({ "Password": "x", "a": [{ "token": { "b": 1 } }], "key": 1, "secret": "${env.S}" });
        assert!(redact_keys(&mut value));
        assert_eq!(value, json!({ "Password": REDACTED, "a": [{ "token": REDACTED }], "key": 1, "secret": "${env.S}" }));
        assert_eq!(redact_text("{\"a\": 1}"), "{\"a\": 1}");
        assert!(is_redacted(&value) && !is_redacted(&json!({ "a": 1 })));
    }
}
