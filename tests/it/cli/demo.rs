//! `dispatch demo`.

use super::ran::Shell;

#[test]
fn it_shows_a_stream_an_approval_and_a_restart_and_leaves_nothing_behind() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["demo"]), @r#""#);
    assert_eq!(std::fs::read_dir(shell.folder.path()).unwrap().count(), 0);
}

#[test]
fn its_envelope_holds_both_executions() {
    let shell = Shell::new();
    let envelope = shell.json(&["demo"]);
    let executions = envelope["executions"].as_array().unwrap();
    assert_eq!(executions.len(), 2);
    assert!(executions.iter().all(|execution| execution["success"] == true && execution["status"] == "completed"), "{envelope}");
    let said = |index: usize| executions[index]["finalOutput"].as_str().unwrap();
    assert!(said(0).contains("Analyze the sales performance for Q4 2024 in North America."), "{}", said(0));
    assert!(said(1).contains("R-1042"), "{}", said(1));
}
