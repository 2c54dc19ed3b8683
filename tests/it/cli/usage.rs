//! Command lines that cannot be read.

use super::ran::Shell;

#[test]
fn a_wrong_command_line_exits_with_2() {
    let shell = Shell::new();
    insta::assert_snapshot!(shell.run(&["demi"]), @"
    exit 2
    --- stderr
    error: unrecognized subcommand 'demi'

      tip: a similar subcommand exists: 'demo'

    Usage: dispatch [OPTIONS] <COMMAND>

    For more information, try '--help'.
    ");
    for wrong in [&["run"][..], &["completion", "ksh"], &["keys"], &["demo", "--nope"], &["run", "x", "--server", "http://x", "--dev"]] {
        let ran = shell.run(wrong);
        assert!(ran.code == Some(2) && ran.stdout.is_empty() && !ran.stderr.is_empty(), "{wrong:?}: {ran}");
    }
}

#[test]
fn it_is_said_in_json_where_json_is_wanted() {
    let error = &Shell::new().json(&["demo", "--nope"])["error"];
    assert_eq!((&error["code"], &error["retryable"]), (&"usage".into(), &false.into()));
    assert!(error["error"].as_str().unwrap().starts_with("unexpected argument '--nope' found"), "{error}");
}

#[test]
fn help_names_what_is_no_option() {
    let shell = Shell::new();
    for (command, names) in [
        ("serve", &["DISPATCH_API_KEY", "DISPATCH_MASTER_KEY", "OPENAI_API_KEY"][..]),
        ("fake-provider", &["fake-429", "fake-cut-after-N", "fake-tools-N"]),
    ] {
        let ran = shell.run(&[command, "--help"]);
        assert_eq!(ran.code, Some(0), "{ran}");
        for name in names {
            assert!(ran.stdout.contains(name), "{name}: {ran}");
        }
    }
}

#[test]
fn help_and_version_are_no_failures() {
    let shell = Shell::new();
    for asked in ["--help", "--version"] {
        let ran = shell.run(&[asked]);
        assert!(ran.code == Some(0) && ran.stderr.is_empty() && ran.stdout.contains("ispatch"), "{ran}");
    }
}
