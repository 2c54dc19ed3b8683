//! `dispatch memory`, `defaults`, `runtime`, and the commands that an agent reads first.

use serde_json::{Value, json};

use super::kit::{Kit, tickets};

#[test]
fn memory_is_listed_and_inspected() {
    let kit = Kit::new();
    let fresh = kit.json(&["memory", "list"]);
    assert_eq!((fresh.code, &fresh.document["namespaces"]), (Some(0), &json!([])));
    kit.write("home/memory/users.json", r#"{ "alice": { "id": 1, "tags": null }, "bob": [] }"#);
    kit.write("home/memory/empty.json", "{}\n");
    let names: Vec<Value> =
        kit.json(&["memory", "list"]).document["namespaces"].as_array().unwrap().iter().map(|file| file["namespace"].clone()).collect();
    assert_eq!(names, ["empty", "users"]);
    let whole = kit.json(&["memory", "inspect", "--namespace", "users"]).document;
    assert_eq!(whole["values"], json!({ "alice": { "id": 1, "tags": null }, "bob": [] }), "what is stored stays exact");
    let part = kit.json(&["memory", "inspect", "--namespace", "users", "--prefix", "alice."]).document;
    assert_eq!((&part["prefix"], &part["keys"], &part["count"]), (&"alice".into(), &json!(["alice.id", "alice.tags"]), &2.into()));
    let missing = kit.json(&["memory", "inspect", "--namespace", "nobody"]);
    assert_eq!((missing.code, &missing.document["code"]), (Some(4), &"NOT_FOUND".into()));
    assert_eq!(kit.json(&["memory", "inspect", "--namespace", "empty"]).document["values"], json!({}));
}

#[test]
fn defaults_are_set_shown_and_removed_below_the_state_folder() {
    let kit = Kit::new();
    kit.write("payload.json", r#"{ "duration": "1ms" }"#);
    kit.write("list.json", "[]");
    let set = kit.json(&["defaults", "set", "--action", "flow.sleep", "--file", "payload.json"]).document;
    assert_eq!(set["values"], json!({ "flow.sleep": { "duration": "1ms" } }));
    assert!(kit.path("home/action-defaults.json").is_file());
    assert_eq!(kit.json(&["defaults", "show", "--action", "flow.sleep"]).document["values"], json!({ "duration": "1ms" }));
    assert!(kit.json(&["defaults", "show", "--action", "no.such"]).document.get("values").is_none());
    assert_eq!(kit.json(&["defaults", "set", "--action", "flow.sleep", "--file", "list.json"]).code, Some(2));
    assert_eq!(kit.json(&["defaults", "unset", "--action", "no.such"]).code, Some(0));
    assert_eq!(kit.json(&["defaults", "unset", "--action", "flow.sleep"]).document["values"], json!({}));
}

#[test]
fn runtime_overrides_are_only_removed_as_a_whole() {
    let kit = Kit::new();
    kit.write("home/runtime-overrides.json", r#"{ "other": 1, "scoreDefaults": { "clock": { "minute": 3, "hour": 1 } } }"#);
    let kept = json!({ "scoreDefaults": { "clock": { "minute": 3 } } });
    assert_eq!(kit.json(&["runtime", "show"]).document["values"], kept);
    assert_eq!(kit.json(&["runtime", "unset"]).document["values"], kept);
    assert_eq!(kit.json(&["runtime", "unset", "--all"]).document["values"], json!({}));
    assert_eq!(std::fs::read_to_string(kit.path("home/runtime-overrides.json")).unwrap(), "{}\n");
}

#[test]
fn the_manifest_lists_commands_and_actions() {
    let kit = Kit::new();
    kit.write("modules/tickets/module.json", &tickets("0.1.0"));
    let (code, stdout, stderr) = kit.run(&["--llms"]);
    assert!(code == Some(0) && stderr.is_empty(), "{stderr}");
    let manifest: Value = serde_json::from_str(&stdout).unwrap();
    let members: Vec<&String> = manifest.as_object().unwrap().keys().collect();
    assert_eq!(members, ["version", "hint", "commands", "actions"]);
    let commands: Vec<&str> = manifest["commands"].as_array().unwrap().iter().map(|command| command["cmd"].as_str().unwrap()).collect();
    for expected in ["module inspect <name>", "module pack --path <dir> --out <file>", "schema action --name <name> --print", "serve"] {
        assert!(commands.contains(&expected), "no {expected}: {commands:?}");
    }
    for left_out in ["version", "skill-version", "completion", "self-check", "help", "script-worker"] {
        assert!(!commands.iter().any(|command| command.split(' ').next() == Some(left_out)), "{left_out}");
    }
    let actions: Vec<&str> = manifest["actions"].as_array().unwrap().iter().map(|action| action["key"].as_str().unwrap()).collect();
    assert!(actions.is_sorted() && actions.contains(&"tickets.open") && actions.contains(&"flow.poll"), "{actions:?}");
}

#[test]
fn a_fresh_installation_passes_its_checks() {
    let kit = Kit::new();
    let doctor = kit.json(&["doctor"]);
    assert_eq!((doctor.code, &doctor.document["ok"]), (Some(0), &true.into()), "{}", doctor.document);
    let names: Vec<&Value> = doctor.document["checks"].as_array().unwrap().iter().map(|check| &check["name"]).collect();
    assert_eq!(names, ["module registry", "legacy installed modules", "run-output writable"]);
    let skill = kit.run(&["skill-version"]).1;
    assert_eq!(doctor.document["skillVersion"], skill.trim());
    assert_eq!(kit.run(&["--skill-version"]).1, skill);
    assert_eq!(kit.json(&["self-check"]).document["results"][0]["ok"], true);
    assert_eq!(kit.run(&["version"]).1, concat!("dispatch v", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(kit.run(&["--cli-version"]).1.starts_with("dispatch "));
}

#[test]
fn schemas_of_cases_and_actions_are_printed() {
    let kit = Kit::new();
    let example = kit.json(&["schema", "case", "--print"]).document;
    let schema = kit.json(&["schema", "case", "--print", "--schema"]).document;
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&example), "{example}");
    assert!(!validator.is_valid(&json!({ "schemaVersion": 0, "jobType": "x", "scenario": { "steps": [] } })));
    let poll = kit.json(&["schema", "action", "--name", "flow.poll", "--print"]).document;
    let validator = jsonschema::validator_for(&poll["inputSchema"]).unwrap();
    let rule = |rule: Value| json!({ "action": "a.b", "conditions": { "mode": "ALL", "rules": [rule] } });
    assert!(validator.is_valid(&rule(json!({ "path": "$.a", "op": "exists" }))));
    assert!(validator.is_valid(&rule(json!({ "mode": "ANY", "rules": [{ "path": "$.a", "op": "eq", "value": 1 }] }))));
    assert!(!validator.is_valid(&rule(json!({ "path": "$.a", "op": "eq" }))));
    assert!(!validator.is_valid(&rule(json!({ "path": "$.a", "op": "exists", "other": 1 }))));
    let missing = kit.json(&["schema", "action", "--name", "flow.pol", "--print"]);
    assert!(missing.code == Some(4) && missing.document["message"].as_str().unwrap().contains("`flow.poll`"), "{}", missing.document);
}

#[test]
fn the_guide_is_printed_and_skills_need_a_configuration() {
    let kit = Kit::new();
    let (code, stdout, _) = kit.run(&["skill", "print"]);
    assert!(code == Some(0) && stdout.contains("dispatch job validate --case"), "{stdout}");
    let refused = kit.json(&["skill", "install", "tickets"]).document;
    assert!(refused["message"].as_str().unwrap().starts_with("No modules configured"), "{refused}");
    kit.write("dispatch.config.json", r#"{ "modules": { "tickets": { "repo": "acme/skills", "version": "1" } } }"#);
    assert_eq!(kit.json(&["skill", "install"]).code, Some(2));
    assert_eq!(kit.json(&["skill", "update", "other"]).code, Some(4));
}

#[test]
fn a_wrong_command_line_is_an_envelope() {
    let kit = Kit::new();
    let refused = kit.json(&["module", "inspect"]).document;
    assert_eq!((&refused["code"], &refused["status"]), (&"USAGE_ERROR".into(), &"error".into()));
    assert_eq!(kit.json(&["memory", "nothing"]).code, Some(2));
}
