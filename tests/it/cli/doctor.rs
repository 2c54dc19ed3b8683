//! `dispatch doctor`.

use super::ran::{Server, Shell};

#[test]
fn a_database_is_checked_with_and_without_a_server() {
    let shell = Shell::new();
    let nothing = shell.json(&["doctor", "--data", "nowhere"]);
    assert_eq!((&nothing["error"]["code"], &nothing["exitCode"]), (&"database_faulty".into(), &2.into()));
    assert_eq!(nothing["findings"][0]["check"], "file");
    assert!(nothing["findings"][0]["next"].is_string(), "{nothing}");
    let server = Server::start(&shell, "data");
    let check = |name: &str| {
        let said = shell.json(&["doctor", "--data", "data"]);
        let found = said["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {said}"))["message"].as_str().unwrap().to_owned()
    };
    assert!(check("server").contains("a server uses it"));
    drop(server);
    assert!(check("server").contains("no server"));
    assert!(check("integrity").contains("nothing wrong"));
    let ran = shell.run(&["doctor", "--data", "data"]);
    assert!(ran.code == Some(0) && ran.stdout.contains("good  modes: ") && ran.stderr.is_empty(), "{ran}");
}

#[test]
fn a_damaged_file_is_found_and_not_served() {
    let shell = Shell::new();
    drop(Server::start(&shell, "data"));
    for name in ["dispatch.db-wal", "dispatch.db-shm"] {
        let _ = std::fs::remove_file(shell.path(&format!("data/{name}")));
    }
    std::fs::write(shell.path("data/dispatch.db"), "no database at all, and nothing like one".repeat(500)).unwrap();
    let ran = shell.run(&["doctor", "--data", "data"]);
    assert!(ran.code == Some(2) && ran.stdout.contains("BAD   integrity: "), "{ran}");
    let ran = shell.run(&["serve", "--data", "data", "--listen", "127.0.0.1:0", "--log", "off"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("(database_corrupt)"), "{ran}");
}
