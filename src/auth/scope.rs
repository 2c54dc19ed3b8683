//! What a key may do: the list of scopes.
//!
//! A scope is `FAMILY:ACTION`; `FAMILY:*` holds every action of a family and `*` everything. To add one,
//! add it to [`FAMILIES`].

/// Every family and its actions.
pub const FAMILIES: &[(&str, &[&str])] = &[
    ("FLOWS", &["READ", "WRITE", "EXECUTE"]),
    ("RECORDS", &["READ", "WRITE"]),
    ("AGENTS", &["READ", "WRITE", "EXECUTE", "DEPLOY:LIVE"]),
    ("TOOLS", &["READ", "WRITE"]),
    ("ASSETS", &["READ", "WRITE"]),
    ("SCHEDULES", &["READ", "WRITE"]),
    ("CLIENT_TOKENS", &["READ", "WRITE"]),
    ("API_KEYS", &["READ", "WRITE"]),
    ("CREDENTIALS", &["READ", "WRITE"]),
    ("SECRETS", &["READ", "WRITE"]),
    ("JOBS", &["READ", "WRITE"]),
    ("TELEMETRY", &["WRITE"]),
    ("ANALYTICS", &["READ"]),
    ("RUNTIME", &["EXPORT"]),
];

/// Whether a text is a scope, a family or `*`.
pub fn is_known(scope: &str) -> bool {
    let Some((family, action)) = scope.split_once(':') else { return scope == "*" };
    FAMILIES.iter().any(|(known, actions)| *known == family && (action == "*" || actions.contains(&action)))
}

/// Every scope, for people.
pub fn list() -> String {
    let families = FAMILIES.iter().map(|(family, actions)| format!("{family}:{{*,{}}}", actions.join(",")));
    std::iter::once("*".to_owned()).chain(families).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_scopes_are_known() {
        for known in ["*", "FLOWS:*", "FLOWS:EXECUTE", "AGENTS:DEPLOY:LIVE"] {
            assert!(is_known(known), "{known}");
        }
        for unknown in ["", "FLOWS", "flows:read", "FLOWS:DELETE", "X:*", "*:READ", "FLOWS:"] {
            assert!(!is_known(unknown), "{unknown}");
        }
    }
}
