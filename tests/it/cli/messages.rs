//! What the help and the errors of the command line say.

use super::ran::Shell;

#[test]
fn the_options_of_a_server_are_in_groups() {
    let ran = Shell::new().run(&["serve", "--help"]);
    assert_eq!(ran.code, Some(0), "{ran}");
    for group in ["server:", "http:", "models:", "logs:"] {
        assert!(ran.stdout.lines().any(|line| line == group), "{group}: {ran}");
    }
}

#[test]
fn an_unreachable_postgres_server_is_named_once() {
    let shell = Shell::new();
    let address = "postgres://user:hunter2@127.0.0.1:1/runs?sslmode=disable";
    let ran = shell.run(&["serve", "--log", "off", "--data", "data", "--listen", "127.0.0.1:0", "--database-url", address]);
    assert_eq!(ran.code, Some(3), "{ran}");
    let told: Vec<&str> = ran.stderr.lines().collect();
    assert!(told.len() == 2 && told[1].starts_with("next: "), "{ran}");
    assert!(told[0].starts_with("error: the database server at 127.0.0.1:1 cannot be reached: "), "{ran}");
    assert!(!ran.stderr.contains("hunter2"), "{ran}");
}
