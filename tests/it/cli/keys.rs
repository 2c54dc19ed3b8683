//! `dispatch keys`.

use super::ran::{Server, Shell, example};

#[test]
fn a_key_is_made_works_at_a_running_server_and_is_revoked() {
    let shell = Shell::new();
    let server = Server::start(&shell, "data");
    let made =
        shell.json(&["keys", "create", "--data", "data", "--name", "ci", "--scopes", "FLOWS:EXECUTE,FLOWS:READ", "--expires", "30d"]);
    let (id, key) = (made["apiKey"]["id"].as_str().unwrap(), made["apiKey"]["key"].as_str().unwrap());
    assert!(made["apiKey"]["expiresAt"].is_string(), "{made}");
    let file = example("01-sales-analysis.json");
    let call = ["run", &file, "--server", &server.url, "--key", key];
    assert_eq!(shell.json(&call)["execution"]["success"], true);
    insta::assert_snapshot!(shell.run(&["keys", "revoke", id, "--data", "data"]), @"
    exit 0
    --- stdout
    key_[id] is revoked; servers that run refuse it within [time]
    ");
    let listed = shell.json(&["keys", "list", "--data", "data"]);
    let keys = listed["apiKeys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["name"], &keys[1]["scopes"][1]), (2, &"first key".into(), &"FLOWS:READ".into()));
    assert!(keys[0]["revokedAt"].is_null() && keys[1]["revokedAt"].is_string(), "{listed}");
    assert!(keys.iter().all(|row| row.get("key").is_none() && row.get("hash").is_none()), "{listed}");
    drop(server);
    let server = Server::start(&shell, "data");
    let refused = shell.json(&["run", &file, "--server", &server.url, "--key", key]);
    assert_eq!((&refused["error"]["code"], &refused["exitCode"]), (&"revoked_api_key".into(), &2.into()));
}

#[test]
fn people_see_lines() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    insta::assert_snapshot!(shell.run(&["keys", "create", "--data", "data", "--name", "ci", "--scopes", "RECORDS:*", "--expires", "12h"]), @"
    exit 0
    --- stdout
    API key (shown once): [key]
    key_[id]  [key]...  until [date]    ci                    RECORDS:*
    ");
    insta::assert_snapshot!(shell.run(&["keys", "list", "--data", "data"]), @"
    exit 0
    --- stdout
    id                              key               state               name                  scopes
    key_[id]  [key]...  active              first key             *
    key_[id]  [key]...  until [date]    ci                    RECORDS:*
    ");
}

#[test]
fn what_is_not_there_is_not_found() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["keys", "list", "--data", "nowhere"]), @"
    exit 4
    --- stderr
    error: there is no database in nowhere (database_not_found)
    next: name its folder with --data, or start `dispatch serve` once: it makes the database and prints a key
    ");
    assert!(!std::path::Path::new(&shell.path("nowhere")).exists());
    drop(Server::start(&shell, "data"));
    for id in ["key_01m818aaaaaaaaaaaaaaaaaaaa", "nonsense"] {
        let ran = shell.json(&["keys", "revoke", id, "--data", "data"]);
        assert_eq!((&ran["error"]["code"], &ran["exitCode"]), (&"not_found".into(), &4.into()), "{id}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    let create = |scopes: &str, expires: &str| {
        shell.run(&["keys", "create", "--data", "data", "--name", " ", "--scopes", scopes, "--expires", expires])
    };
    insta::assert_snapshot!(create("FLOWS:READ,FLOWS:FLY", "1h"), @"
    exit 2
    --- stderr
    error: /name: expected 1 to 100 characters (and 1 more, see details) (validation_failed)
      at /name: expected 1 to 100 characters
      at /scopes/1: unknown scope `FLOWS:FLY`; one of *, FLOWS:{*,READ,WRITE,EXECUTE}, RECORDS:{*,READ,WRITE}, AGENTS:{*,READ,WRITE,EXECUTE,DEPLOY:LIVE}, TOOLS:{*,READ,WRITE}, ASSETS:{*,READ,WRITE}, SCHEDULES:{*,READ,WRITE}, CLIENT_TOKENS:{*,READ,WRITE}, API_KEYS:{*,READ,WRITE}, CREDENTIALS:{*,READ,WRITE}, SECRETS:{*,READ,WRITE}, JOBS:{*,READ,WRITE}, TELEMETRY:{*,WRITE}, ANALYTICS:{*,READ}, RUNTIME:{*,EXPORT}
    ");
    insta::assert_snapshot!(create("*", "soon"), @"
    exit 2
    --- stderr
    error: invalid value 'soon' for '--expires <EXPIRES>': `soon` is not a time span; write a number and a unit, as in 30d, 12h, 45m or 90s

    For more information, try '--help'.
    ");
}

#[test]
fn a_key_has_limits_and_usage_is_printed() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    let create = ["keys", "create", "--data", "data", "--name", "ci", "--scopes", "*", "--budget", "month=5", "--concurrent", "2"];
    let made = shell.json(&create);
    let wanted = serde_json::json!({ "budgets": [{ "period": "month", "maxCost": 5.0 }], "rateLimit": { "concurrent": 2 } });
    assert_eq!(made["apiKey"]["limits"], wanted);
    let id = made["apiKey"]["id"].as_str().unwrap();
    let limited = shell.json(&["keys", "limit", id, "--data", "data", "--token-budget", "day=10"]);
    assert_eq!((&limited["keyId"], &limited["limits"]["budgets"][0]["maxTokens"]), (&made["apiKey"]["id"], &10.into()));
    assert!(shell.json(&["keys", "limit", "--data", "data", "--concurrent", "9"])["keyId"].is_null());
    assert_eq!(shell.json(&["keys", "limit", "--data", "data", "--budget", "year=1"])["error"]["code"], "usage");
    assert_eq!(shell.json(&["keys", "limit", "--data", "data", "--concurrent", "0"])["error"]["code"], "validation_failed");
    assert_eq!(shell.json(&["usage", "--data", "data", "--group-by", "day,model"])["usage"], serde_json::json!([]));
    assert_eq!(shell.json(&["usage", "--data", "data", "--tenant", "nobody"])["error"]["code"], "tenant_not_found");
}
