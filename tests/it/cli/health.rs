//! `dispatch health`.

use super::ran::{Server, Shell};

#[test]
fn a_server_is_ready_until_it_is_gone() {
    let shell = Shell::new();
    let server = Server::start(&shell, "data");
    let url = server.url.clone();
    assert_eq!(shell.json(&["health", "--server", &url])["url"], url.as_str());
    // In a container a server listens on every address.
    let everywhere = url.replace("http://127.0.0.1", "0.0.0.0");
    let ran = shell.run(&["health", "--listen", &everywhere]);
    assert!(ran.code == Some(0) && ran.stdout.contains("is ready"), "{ran}");
    let elsewhere = shell.json(&["health", "--server", &format!("{url}/nowhere")]);
    assert_eq!((&elsewhere["error"]["code"], &elsewhere["exitCode"]), (&"server_not_ready".into(), &3.into()));
    drop(server);
    let gone = shell.json(&["health", "--server", &url]);
    assert_eq!((&gone["error"]["code"], &gone["exitCode"]), (&"server_unreachable".into(), &3.into()));
}
