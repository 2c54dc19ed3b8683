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
    insta::assert_snapshot!(shell.run(&["keys", "revoke", id, "--data", "data"]), @"");
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
    insta::assert_snapshot!(shell.run(&["keys", "create", "--data", "data", "--name", "ci", "--scopes", "RECORDS:*", "--expires", "12h"]), @"");
    insta::assert_snapshot!(shell.run(&["keys", "list", "--data", "data"]), @"");
}

#[test]
fn what_is_not_there_is_not_found() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["keys", "list", "--data", "nowhere"]), @"");
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
    insta::assert_snapshot!(create("FLOWS:READ,FLOWS:FLY", "1h"), @"");
    insta::assert_snapshot!(create("*", "soon"), @"");
}
