//! `dispatch openapi`, `dispatch schema` and `dispatch completion`, and the generated files that are checked in.

use std::collections::BTreeSet;
use std::path::Path;

use dispatch::http::{openapi, schemas};
use serde_json::Value;

use super::ran::Shell;

#[test]
fn the_schemas_are_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    let fresh = schemas::all();
    for document in &fresh {
        let kept = std::fs::read_to_string(folder.join(format!("{}.json", document.name))).unwrap_or_default();
        assert!(
            kept == document.text(),
            "{} changed: look at it with `dispatch schema --out schemas` and git diff schemas/",
            document.name
        );
    }
    let kept: BTreeSet<String> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(kept, fresh.iter().map(|document| format!("{}.json", document.name)).collect());
}

#[test]
fn every_schema_is_one_and_every_example_fits_the_request() {
    let validators: Vec<_> =
        schemas::all().iter().map(|document| (document.name.clone(), jsonschema::validator_for(&document.schema).unwrap())).collect();
    let (_, request) = validators.iter().find(|(name, _)| name == "dispatch-request").unwrap();
    let examples = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).unwrap();
    let mut seen = 0;
    for file in examples.map(|file| file.unwrap().path()).filter(|file| file.extension().is_some_and(|kind| kind == "json")) {
        let example: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        let faults: Vec<String> = request.iter_errors(&example).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
        assert!(faults.is_empty(), "{}: {faults:?}", file.display());
        for step in example["flow"]["steps"].as_array().into_iter().flatten() {
            let name = format!("step-{}", step["type"].as_str().unwrap());
            let (_, schema) = validators.iter().find(|(known, _)| *known == name).unwrap();
            let faults: Vec<String> =
                schema.iter_errors(&step["config"]).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
            assert!(faults.is_empty(), "{} {name}: {faults:?}", file.display());
        }
        seen += 1;
    }
    assert!(seen >= 2, "only {seen} examples were found");
}

#[test]
fn documents_are_printed_or_written() {
    let shell = Shell::new();
    assert_eq!(shell.run(&["openapi"]).stdout, openapi::text());
    assert_eq!(shell.json(&["openapi"])["document"], openapi::document());
    insta::assert_snapshot!(shell.run(&["openapi", "--out", "a/b.json"]), @"
    exit 0
    --- stdout
    wrote a/b.json
    ");
    assert_eq!(std::fs::read_to_string(shell.path("a/b.json")).unwrap(), openapi::text());
    let prompt = schemas::all().into_iter().find(|document| document.name == "step-prompt").unwrap();
    assert_eq!(shell.run(&["schema", "prompt"]).stdout, prompt.text());
    assert_eq!(shell.json(&["schema", "step-prompt"])["schema"], prompt.schema);
    let files = shell.json(&["schema", "--out", "all"])["files"].as_array().unwrap().len();
    assert_eq!((files, std::fs::read_dir(shell.path("all")).unwrap().count()), (schemas::all().len(), files));
    insta::assert_snapshot!(shell.run(&["schema", "prompt", "--out", "one"]), @"
    exit 0
    --- stdout
    wrote one/step-prompt.json
    ");
    std::fs::write(shell.path("file"), "").unwrap();
    let ran = shell.run(&["openapi", "--out", "file/below.json"]);
    assert_eq!(ran.code, Some(2), "{ran}");
}

#[test]
fn schemas_are_listed_and_a_wrong_name_is_not_found() {
    let shell = Shell::new();
    let listed = shell.run(&["schema"]).stdout;
    assert_eq!(listed.lines().count(), schemas::all().len());
    assert!(listed.contains("step-wait-until          Pauses for a time"), "{listed}");
    assert_eq!(shell.json(&["schema"])["schemas"][0]["name"], "dispatch-request");
    insta::assert_snapshot!(shell.run(&["schema", "promt"]), @"
    exit 4
    --- stderr
    error: there is no schema `promt` (schema_not_found)
    next: did you mean `prompt`? `dispatch schema` lists all
    ");
    assert_eq!(shell.json(&["schema", "promt"])["error"]["code"], "schema_not_found");
}

#[test]
fn three_shells_can_complete_the_commands() {
    let shell = Shell::new();
    for name in ["bash", "zsh", "fish"] {
        let ran = shell.run(&["completion", name]);
        assert!(ran.code == Some(0) && ran.stdout.contains("fake-provider") && ran.stdout.contains("revoke"), "{name}: {ran}");
        assert_eq!(shell.json(&["completion", name])["script"].as_str().unwrap(), ran.stdout.trim_end());
    }
}
