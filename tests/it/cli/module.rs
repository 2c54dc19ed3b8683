//! `dispatch module`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::kit::{Kit, tickets};

fn module<'d>(document: &'d Value, name: &str) -> &'d Value {
    document["modules"].as_array().unwrap().iter().find(|module| module["name"] == name).unwrap_or_else(|| panic!("no {name}: {document}"))
}

#[test]
fn builtin_and_workspace_modules_are_listed() {
    let kit = Kit::new();
    kit.write("modules/tickets/module.json", &tickets("0.1.0"));
    kit.write("modules/tickets/jobs/open.job.case.json", "{}");
    kit.write("modules/tickets/jobs/deep/fill.job.seed.json", "{}");
    kit.write("modules/broken/module.json", r#"{ "name": "broken" }"#);
    let listed = kit.json(&["module", "list"]);
    assert_eq!(listed.code, Some(0));
    assert!(listed.document.get("actions").is_none());
    assert_eq!(module(&listed.document, "flow")["sourcePath"], "builtin:flow");
    assert_eq!(module(&listed.document, "memory")["actionCount"], 6);
    let found = module(&listed.document, "tickets");
    assert_eq!((&found["layer"], &found["actionCount"]), (&"repo".into(), &1.into()));
    let jobs: Vec<&Value> = found["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert_eq!(jobs, ["deep/fill", "open"]);
    assert!(found["actions"][0].get("schema").is_none() && found["actions"][0]["exportsSchema"].is_object(), "{found}");
    let warnings = listed.document["warnings"].as_array().unwrap();
    assert!(warnings.len() == 1 && warnings[0].as_str().unwrap().starts_with("Failed loading repo module"), "{warnings:?}");
    let (code, stdout, stderr) = kit.run(&["module", "list"]);
    assert!(code == Some(0) && stdout.contains("tickets@0.1.0  repo · 1 actions") && stderr.is_empty(), "{stdout}{stderr}");
}

#[test]
fn a_module_is_inspected_by_its_name() {
    let kit = Kit::new();
    kit.write("modules/tickets/module.json", &tickets("0.1.0"));
    let inspected = kit.json(&["module", "inspect", "tickets"]).document;
    assert_eq!(inspected["actions"][0]["schema"]["required"], json!(["title"]));
    assert_eq!(inspected["hash"].as_str().unwrap().len(), 64);
    assert!(kit.json(&["module", "inspect", "memory"]).document.get("hash").is_none());
    let (_, stdout, _) = kit.run(&["module", "inspect", "tickets"]);
    assert!(stdout.contains("exports: ticketId:integer") && stdout.contains("credentials: token:string"), "{stdout}");
    let (_, stdout, _) = kit.run(&["module", "inspect", "memory"]);
    assert!(stdout.contains("found:boolean"), "{stdout}");
    let missing = kit.json(&["module", "inspect", "nothing"]);
    assert_eq!((missing.code, &missing.document["next"][0]["command"]), (Some(4), &"dispatch module list".into()));
}

#[test]
fn a_module_is_packed_installed_and_removed() {
    let kit = Kit::new();
    kit.write("src/module.json", &tickets("0.1.0").replacen('{', r#"{ "pack": { "include": ["data/**"] }, "#, 1));
    kit.write("src/jobs/open.job.case.json", r#"{ "scenario": { "steps": [{ "action": "tickets.open" }] } }"#);
    kit.write("src/data/list.txt", "a");
    kit.write("src/README.md", "not packed");
    let packed = kit.json(&["module", "pack", "--path", "src", "--out", "out/tickets.dpmod.zip"]);
    assert_eq!(packed.code, Some(0), "{}", packed.document);
    let installed = kit.json(&["module", "install", "--bundle", "out/tickets.dpmod.zip"]).document;
    assert_eq!((&installed["name"], &installed["version"]), (&"tickets".into(), &"0.1.0".into()), "{installed}");
    let folder = kit.path("home/modules/tickets@0.1.0");
    for name in ["module.json", "artifact.json", "dist/index.mjs", "jobs/open.job.case.json", "assets/data/list.txt"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    assert!(!folder.join("README.md").exists());
    let manifest: Value = serde_json::from_slice(&std::fs::read(folder.join("module.json")).unwrap()).unwrap();
    assert_eq!((&manifest["entry"], &manifest["metadata"]["team"]), (&"dist/index.mjs".into(), &"support".into()));
    let listed = kit.json(&["module", "list"]).document;
    assert_eq!((&module(&listed, "tickets")["layer"], &listed["warnings"]), (&"user".into(), &json!([])));
    // What an interrupted installation left is removed, and the old files are gone.
    kit.write("home/modules/.tmp-install-1/x", "");
    kit.write("home/modules/tickets@0.1.0/old.txt", "");
    assert_eq!(kit.json(&["module", "install", "--bundle", "out/tickets.dpmod.zip"]).code, Some(0));
    assert!(!folder.join("old.txt").exists() && !kit.path("home/modules/.tmp-install-1").exists());
    std::fs::create_dir(kit.path("home/modules/.install.lock")).unwrap();
    let busy = kit.json(&["module", "install", "--bundle", "out/tickets.dpmod.zip"]).document;
    assert!(busy["message"].as_str().unwrap().contains("already in progress"), "{busy}");
    std::fs::remove_dir(kit.path("home/modules/.install.lock")).unwrap();
    assert_eq!(kit.json(&["module", "uninstall", "--name", "tickets"]).document["removed"][0]["version"], "0.1.0");
    assert!(!folder.exists());
    assert_eq!(kit.json(&["module", "uninstall", "--name", "tickets"]).code, Some(4));
}

#[test]
fn the_highest_installed_version_wins_and_an_identical_copy_is_no_conflict() {
    let kit = Kit::new();
    for version in ["0.10.0", "0.9.0"] {
        kit.write("modules/tickets/module.json", &tickets(version));
        assert_eq!(kit.json(&["module", "bootstrap"]).code, Some(0));
    }
    kit.write("modules/tickets/module.json", &tickets("0.10.0"));
    let listed = kit.json(&["module", "list"]).document;
    let conflicts = listed["conflicts"].as_array().unwrap();
    assert_eq!(conflicts.len(), 1, "{listed}");
    assert_eq!((&conflicts[0]["winner"]["version"], &conflicts[0]["previous"]["version"]), (&"0.10.0".into(), &"0.9.0".into()));
    let warning = "action 'tickets.open' overridden winner=tickets@0.10.0(user) replaced=tickets@0.9.0(user)";
    assert_eq!(listed["warnings"], json!([warning]));
    // A copy that differs is another module.
    kit.write("modules/tickets/notes.txt", "drift");
    assert_eq!(kit.json(&["module", "list"]).document["conflicts"].as_array().unwrap().len(), 2);
}

#[test]
fn modules_that_cannot_be_packed_name_the_issue() {
    let kit = Kit::new();
    let manifest = |name: &str| json!({ "name": name, "version": "1.0.0" }).to_string();
    for (name, entry, code) in [
        ("none", None, "missing-entry"),
        ("bare", Some("import { z } from 'zod'; export default {};"), "unresolved-runtime-import"),
        ("outside", Some("import '../shared.mjs'; export default {};"), "bundle-failed"),
        ("lost", Some("export { default } from './lost.mjs';"), "bundle-failed"),
    ] {
        kit.write(&format!("{name}/module.json"), &manifest(name));
        if let Some(entry) = entry {
            kit.write(&format!("{name}/index.mjs"), entry);
        }
        let refused = kit.json(&["module", "pack", "--path", name, "--out", "out.dpmod.zip"]);
        assert_eq!(refused.code, Some(2), "{name}");
        assert_eq!(refused.document["details"]["issues"][0]["code"], code, "{}", refused.document);
        let readiness = &kit.json(&["module", "validate", "--path", name]).document["details"]["artifactReadiness"];
        assert_eq!((&readiness["status"], &readiness["errors"][0]["code"]), (&"fail".into(), &code.into()), "{readiness}");
    }
    assert!(!kit.path("out.dpmod.zip").exists());
}

#[test]
fn a_package_that_is_hostile_or_old_is_refused() {
    let kit = Kit::new();
    kit.write("text.dpmod.zip", "no zip at all");
    let refused = kit.json(&["module", "install", "--bundle", "text.dpmod.zip"]);
    assert_eq!((refused.code, &refused.document["details"]["issues"][0]["code"]), (Some(2), &"invalid-artifact-layout".into()));
    let mut archive = ZipWriter::new(std::fs::File::create(kit.path("evil.dpmod.zip")).unwrap());
    archive.start_file("../../evil.txt", SimpleFileOptions::default()).unwrap();
    archive.write_all(b"evil").unwrap();
    archive.finish().unwrap();
    let refused = kit.json(&["module", "install", "--bundle", "evil.dpmod.zip"]);
    assert!(refused.document["message"].as_str().unwrap().contains("leaves the package"), "{}", refused.document);
    assert!(!kit.path("evil.txt").exists() && !kit.path("home/evil.txt").exists());
    kit.write("home/modules/old@1.0.0/module.json", r#"{ "name": "old", "version": "1.0.0" }"#);
    let warnings = kit.json(&["module", "list"]).document["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("old non-portable format"), "{warnings}");
    let doctor = kit.json(&["doctor"]);
    assert_eq!((doctor.code, &doctor.document["code"]), (Some(1), &"RUNTIME_ERROR".into()));
    let checks = doctor.document["details"]["result"]["checks"].as_array().unwrap();
    let legacy = checks.iter().find(|check| check["name"] == "legacy installed modules").unwrap();
    assert_eq!(legacy["ok"], false);
    let mixed = kit.json(&["module", "install", "--bundle", "text.dpmod.zip", "--name", "x"]);
    assert_eq!((mixed.code, &mixed.document["code"]), (Some(2), &"USAGE_ERROR".into()));
}

#[test]
fn a_module_is_validated_with_its_jobs() {
    let kit = Kit::new();
    kit.write("modules/tickets/module.json", &tickets("0.1.0"));
    kit.write(
        "modules/tickets/jobs/good.job.case.json",
        r#"{ "scenario": { "steps": [{ "action": "other.go" }, { "action": "tickets.open" }] } }"#,
    );
    kit.write("modules/other/module.json", &tickets("1.0.0").replace("\"tickets\"", "\"other\"").replace("\"open\"", "\"go\""));
    let valid = kit.json(&["module", "validate", "--path", "modules/tickets"]);
    assert_eq!(valid.code, Some(0), "{}", valid.document);
    assert_eq!(valid.document["authoringValidity"]["status"], "pass");
    kit.write(
        "modules/tickets/jobs/bad.job.case.json",
        r#"{ "scenario": { "steps": [{ "action": "memory.store" }, { "action": "flow.poll", "payload": { "action": "memory.forget" } }, { "action": "no.such" }] } }"#,
    );
    let invalid = kit.json(&["module", "validate", "--path", "modules/tickets"]);
    assert_eq!(invalid.code, Some(2));
    let errors = invalid.document["details"]["authoringValidity"]["errors"].as_array().unwrap();
    let found: Vec<(&str, &str)> = errors.iter().map(|error| (error["code"].as_str().unwrap(), error["path"].as_str().unwrap())).collect();
    assert_eq!(
        found,
        [
            ("DISALLOWED_MEMORY_MUTATION", "bad:scenario.steps.0.action"),
            ("DISALLOWED_MEMORY_MUTATION", "bad:scenario.steps.1.payload.action"),
            ("UNKNOWN_ACTION", "bad:scenario.steps.2.action"),
        ]
    );
    assert_eq!(kit.json(&["module", "validate", "--path", "nowhere"]).code, Some(4));
    kit.write("wrong/module.json", r#"{ "name": "Wrong", "version": "" }"#);
    let faults = kit.json(&["module", "validate", "--path", "wrong"]).document;
    assert_eq!(faults["details"]["issues"].as_array().unwrap().len(), 2, "{faults}");
}

#[test]
fn scaffolds_are_written_and_skills_are_printed() {
    let kit = Kit::new();
    let (code, stdout, _) = kit.run(&["module", "init", "--name", "mine", "--out", "modules/mine"]);
    assert!(code == Some(0) && stdout.starts_with("✓ Initialized module scaffold at "), "{stdout}");
    assert!(kit.path("modules/mine/index.mjs").is_file());
    assert_eq!(kit.json(&["module", "pack", "--path", "modules/mine", "--out", "mine.dpmod.zip"]).code, Some(0));
    assert_eq!(kit.json(&["module", "init", "--name", "mine", "--out", "modules/mine"]).code, Some(2), "nothing is overwritten");
    assert_eq!(kit.json(&["module", "init", "--name", "Not A Name", "--out", "x"]).code, Some(2));
    let typed = kit.json(&["module", "init", "--name", "typed", "--version", "2.0.0", "--typescript", "--out", "typed"]);
    assert_eq!(typed.code, Some(0), "{}", typed.document);
    assert!(kit.path("typed/src/schemas.ts").is_file() && !kit.path("typed/index.mjs").exists());
    let manifest: Value = serde_json::from_slice(&std::fs::read(kit.path("typed/module.json")).unwrap()).unwrap();
    assert_eq!((&manifest["entry"], &manifest["version"]), (&"dist/index.mjs".into(), &"2.0.0".into()));
    assert_eq!(kit.json(&["module", "override", "init", "--from", "memory", "--out", "over"]).code, Some(0));
    let manifest: Value = serde_json::from_slice(&std::fs::read(kit.path("over/module.json")).unwrap()).unwrap();
    assert_eq!(manifest["name"], "memory");
    kit.write("typed/SKILL.md", "# Typed\n\nNo newline at the end");
    assert_eq!(kit.run(&["module", "skill", "--path", "typed"]), (Some(0), "# Typed\n\nNo newline at the end".to_owned(), String::new()));
    let (code, stdout, stderr) = kit.run(&["module", "skill", "--path", "over"]);
    assert!(code == Some(1) && stdout.is_empty() && stderr.contains("no SKILL.md"), "{stdout}{stderr}");
}

#[test]
fn without_node_a_javascript_module_is_a_warning() {
    let kit = Kit::new().with_variable("PATH", "/nowhere");
    kit.run(&["module", "init", "--name", "mine", "--out", "modules/mine"]);
    let warnings = kit.json(&["module", "list"]).document["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("node is needed"), "{warnings}");
    let kit = kit.with_path();
    if std::process::Command::new("node").arg("--version").output().is_err() {
        return;
    }
    let listed = kit.json(&["module", "list"]).document;
    assert_eq!((&listed["warnings"], &module(&listed, "mine")["actions"][0]["key"]), (&json!([]), &"mine.ping".into()));
    let schema = kit.json(&["schema", "action", "--name", "mine.ping", "--print"]).document;
    assert_eq!(schema["inputSchema"]["properties"]["text"]["type"], "string");
    assert_eq!(kit.json(&["module", "validate", "--path", "modules/mine"]).code, Some(0));
}

#[test]
fn no_registry_is_a_usage_error_and_the_configuration_is_read() {
    let kit = Kit::new();
    let install = ["module", "install", "--name", "tickets", "--version", "^1.0.0"];
    assert!(kit.json(&install).document["message"].as_str().unwrap().contains("no registry is configured"));
    kit.write("dispatch.config.json", r#"{ "registry": { "url": "http://127.0.0.1:1/${env.PART}", "scope": "@acme" } }"#);
    let kit = kit.with_variable("PART", "npm");
    let refused = kit.json(&install);
    assert_eq!((refused.code, &refused.document["code"]), (Some(3), &"TRANSIENT_ERROR".into()), "{}", refused.document);
    kit.write("dispatch.config.json", r#"{ "registry": { "url": "http://127.0.0.1:1", "scope": "acme" } }"#);
    assert!(kit.json(&install).document["message"].as_str().unwrap().contains("no registry is configured"));
}

/// An npm-like registry with one module, until the test ends. It answers only requests that carry the token.
fn registry(tarball: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let versions: serde_json::Map<String, Value> = ["1.0.0", "1.2.0", "2.0.0"]
        .into_iter()
        .map(|version| (version.to_owned(), json!({ "dist": { "tarball": format!("{base}/{version}.tgz") } })))
        .collect();
    let document = json!({ "versions": versions }).to_string().into_bytes();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve_package(stream.unwrap(), &document, &tarball);
        }
    });
    base
}

fn serve_package(mut stream: TcpStream, document: &[u8], tarball: &[u8]) {
    let mut head = Vec::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok) {
        if line.is_empty() {
            break;
        }
        head.push(line.to_lowercase());
    }
    let is_allowed = head.iter().any(|line| line == "authorization: bearer t0ken");
    let (status, body) = match head.first().map(String::as_str) {
        Some("get /@acme%2fdispatch-module-tickets http/1.1") if is_allowed => ("200 OK", document),
        Some("get /1.2.0.tgz http/1.1") if is_allowed => ("200 OK", tarball),
        _ => ("404 Not Found", &b""[..]),
    };
    let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(body);
}

/// The files of a folder as a gzipped tar file below `package/`.
fn tarball(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, contents) in files {
        let mut header = [0u8; 512];
        let path = format!("package/{name}");
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", contents.len()).as_bytes());
        header[156] = b'0';
        archive.extend_from_slice(&header);
        archive.extend_from_slice(contents);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    let mut zipped = Vec::new();
    flate2::read::GzEncoder::new(&archive[..], flate2::Compression::fast()).read_to_end(&mut zipped).unwrap();
    zipped
}

#[test]
fn a_range_is_installed_from_the_registry_with_a_token_of_the_environment() {
    let kit = Kit::new().with_variable("TOKEN", "t0ken");
    // The package of a registry is an installed module.
    kit.write("src/module.json", &tickets("1.2.0"));
    kit.json(&["module", "pack", "--path", "src", "--out", "tickets.dpmod.zip"]);
    kit.json(&["module", "install", "--bundle", "tickets.dpmod.zip"]);
    let files = ["module.json", "artifact.json", "dist/index.mjs"]
        .map(|name| (name, std::fs::read(kit.path("home/modules/tickets@1.2.0").join(name)).unwrap()));
    kit.json(&["module", "uninstall", "--name", "tickets"]);
    let url = registry(tarball(&files));
    let config = json!({ "registry": { "url": url, "scope": "@acme", "authToken": "${env.TOKEN}" } });
    kit.write("home/config.json", &config.to_string());
    let installed = kit.json(&["module", "install", "--name", "tickets", "--version", "^1.0.0"]);
    assert_eq!((installed.code, &installed.document["version"]), (Some(0), &"1.2.0".into()), "{}", installed.document);
    assert_eq!(module(&kit.json(&["module", "list"]).document, "tickets")["layer"], "user");
    // An installed version needs no request.
    kit.write("home/config.json", &config.to_string().replace(&url, "http://127.0.0.1:1"));
    assert_eq!(kit.json(&["module", "install", "--name", "tickets", "--version", "1.2.0"]).code, Some(0));
    kit.write("home/config.json", &config.to_string());
    let missing = kit.json(&["module", "install", "--name", "tickets", "--version", "^3.0.0"]);
    assert_eq!((missing.code, &missing.document["code"]), (Some(4), &"NOT_FOUND".into()));
}
