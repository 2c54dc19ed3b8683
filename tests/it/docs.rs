//! The pages under `docs/` say what the code does: every error code, every step type, every option.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use dispatch::engine::plan::Plan;
use dispatch::engine::step;
use dispatch::error::Kind;
use dispatch::http::dispatch::{agent_document, document};
use serde_json::{Value, json};

use crate::layers::rust_files;

fn read(page: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap()
}

/// A code as the source uses it: with the kinds of error that carry it, or none where a step fails with it.
type Codes = BTreeMap<String, BTreeSet<u16>>;

/// What stands before a code in the source, up to its opening quote.
const BEFORE_A_CODE: &[&str] =
    &["Failure::new(", "Self::new(", "StepFailure::transient(", "failure(", "not_ready(", "self.give_up(&lease, "];

fn codes_in_source() -> Codes {
    let mut codes = Codes::new();
    for file in rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src")) {
        let name = file.to_string_lossy().into_owned();
        if name.contains("fake_provider") || name.ends_with("golden.rs") {
            continue;
        }
        let source = fs::read_to_string(&file).unwrap();
        let source = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (at, _) in source.match_indices("Kind::") {
            let Some((kind, rest)) = source[at + "Kind::".len()..].split_once(',') else { continue };
            if let (Some(status), Some(code)) = (status(kind), literal(rest)) {
                codes.entry(code).or_default().insert(status);
            }
        }
        for before in BEFORE_A_CODE {
            for (at, _) in source.match_indices(before) {
                codes.extend(
                    literal(&source[at + before.len()..]).map(|code| (code, BTreeSet::new())).filter(|(code, _)| !codes.contains_key(code)),
                );
            }
        }
        for (at, _) in source.match_indices("fn code(") {
            let body = source[at..].split("\n    }\n").next().unwrap_or_default();
            for (arm, _) in body.match_indices("=> ") {
                if let Some(code) = literal(&body[arm + "=> ".len()..]) {
                    codes.entry(code).or_default();
                }
            }
        }
        // One refusal is written by hand, before there is a request to answer.
        for (at, text) in source.match_indices("\\\"code\\\":\\\"") {
            let code = source[at + text.len()..].split('\\').next().unwrap_or_default();
            codes.entry(code.to_owned()).or_default().insert(Kind::Unavailable.status());
        }
    }
    codes
}

/// The string literal that a text begins with, if it looks like a code.
fn literal(text: &str) -> Option<String> {
    let code = text.trim_start().strip_prefix('"')?.split('"').next()?;
    let letters = code.chars().all(|character| character.is_ascii_alphabetic() || character == '_');
    (letters && !code.is_empty()).then(|| code.to_owned())
}

fn status(kind: &str) -> Option<u16> {
    let kinds = [
        ("Malformed", Kind::Malformed),
        ("Invalid", Kind::Invalid),
        ("Unauthenticated", Kind::Unauthenticated),
        ("Forbidden", Kind::Forbidden),
        ("Unconfigured", Kind::Unconfigured),
        ("Missing", Kind::Missing),
        ("Conflict", Kind::Conflict),
        ("TooLarge", Kind::TooLarge),
        ("Limited", Kind::Limited),
        ("Unavailable", Kind::Unavailable),
        ("Internal", Kind::Internal),
    ];
    kinds.iter().find(|(name, _)| *name == kind.trim()).map(|(_, kind)| kind.status())
}

/// The first cell of every row of a page's tables, where it is code, with the second.
fn rows(page: &str) -> Vec<(String, String)> {
    let cells = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    cells.map(|(name, rest)| (name.to_owned(), rest.split(" |").next().unwrap_or_default().to_owned())).collect()
}

#[test]
fn every_error_code_is_explained_and_no_other() {
    let page = read("docs/errors.md");
    let explained: BTreeSet<String> = rows(&page).into_iter().map(|(code, _)| code).collect();
    let used: BTreeSet<String> = codes_in_source().into_keys().collect();
    let missing: Vec<_> = used.difference(&explained).collect();
    assert!(missing.is_empty(), "docs/errors.md does not explain: {missing:?}");
    let stale: Vec<_> = explained.difference(&used).collect();
    assert!(stale.is_empty(), "docs/errors.md explains codes that no source file uses: {stale:?}");
}

#[test]
fn the_statuses_are_those_of_the_source() {
    // Refusals that only HTTP knows have a status of their own, finer than their kind's.
    const FINER: &[(&str, &str)] = &[
        ("body_too_slow", "408"),
        ("unsupported_media_type", "415"),
        ("unsupported_content_encoding", "415"),
        ("method_not_allowed", "405"),
        ("unknown_method", "405"),
        ("upgrade_required", "426"),
        ("conversation_deleted", "410"),
        ("range_not_satisfiable", "416"),
        ("invalid_response", "502"),
    ];
    let page = read("docs/errors.md");
    let answers = page.split("\n## ").find(|section| section.starts_with("Answers to a call")).unwrap();
    let codes = codes_in_source();
    for (code, shown) in rows(answers) {
        if FINER.contains(&(code.as_str(), shown.as_str())) {
            continue;
        }
        let statuses = &codes[&code];
        assert!(statuses.contains(&shown.parse().unwrap()), "`{code}` is answered with {statuses:?}, the page says {shown}");
    }
}

/// The section of docs/steps.md about a step type.
fn section<'p>(page: &'p str, action: &str) -> Option<&'p str> {
    page.split("\n## ").find(|section| section.lines().next().is_some_and(|title| title.contains(&format!("`{action}`"))))
}

#[test]
fn every_step_type_and_field_is_described() {
    let page = read("docs/steps.md");
    for kind in step::ALL {
        let section = section(&page, kind.action).unwrap_or_else(|| panic!("docs/steps.md has no section about `{}`", kind.action));
        let schema = serde_json::to_value((kind.schema)()).unwrap();
        for field in schema["properties"].as_object().unwrap().keys() {
            assert!(section.contains(&format!("`{field}`")), "the section about `{}` does not mention `{field}`", kind.action);
        }
        assert!(section.contains("```json"), "the section about `{}` has no example", kind.action);
    }
}

#[test]
fn the_examples_of_steps_compile() {
    let page = read("docs/steps.md");
    let types: HashMap<_, _> = step::ALL.iter().map(|kind| (kind.action, *kind)).collect();
    let blocks: Vec<&str> = page.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= types.len());
    for block in blocks {
        let example: Value = serde_json::from_str(block).unwrap_or_else(|error| panic!("{error} in\n{block}"));
        let steps = if example.is_array() { example } else { json!([example]) };
        let flow = document::compile(&json!({ "name": "example", "steps": steps })).unwrap_or_else(|error| panic!("{error:?} in\n{block}"));
        let blob = flow.blob();
        if let Err(error) = Plan::compile(flow, blob, &types) {
            panic!("{error:?} in\n{block}");
        }
    }
}

#[test]
fn the_agent_of_the_docs_compiles() {
    let page = read("docs/agents.md");
    let block = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let request: Value = serde_json::from_str(block).unwrap();
    let flow = agent_document::compile(&request["agent"]).unwrap();
    let types: HashMap<_, _> = step::ALL.iter().map(|kind| (kind.action, *kind)).collect();
    let blob = flow.blob();
    assert_eq!(Plan::compile(flow, blob, &types).unwrap().steps[0].body.max_turns(), Some(4));
}

#[test]
fn every_command_and_option_is_described() {
    use clap::CommandFactory;
    let page = read("docs/configuration.md");
    for command in dispatch::cli::Cli::command().get_subcommands() {
        assert!(
            page.contains(&format!("`dispatch {}", command.get_name())),
            "docs/configuration.md does not mention `{}`",
            command.get_name()
        );
        if command.get_name() != "fake-provider" {
            describes_options(&page, command);
        }
    }
}

fn describes_options(page: &str, command: &clap::Command) {
    for argument in command.get_arguments().filter(|argument| !argument.is_hide_set() && !argument.is_positional()) {
        let flag = format!("`--{}`", argument.get_long().unwrap());
        assert!(page.contains(&flag), "docs/configuration.md does not describe {flag} of `{}`", command.get_name());
        if let Some(variable) = argument.get_env() {
            let variable = variable.to_string_lossy();
            assert!(page.contains(&format!("`{variable}`")), "docs/configuration.md does not describe {variable}");
        }
    }
    command.get_subcommands().for_each(|command| describes_options(page, command));
}

#[test]
fn the_readme_s_first_call_is_the_first_example() {
    let readme = read("README.md");
    let body = readme.split("-d '").find(|part| part.trim_start().starts_with('{')).unwrap().split("'\n```").next().unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    let example: Value = serde_json::from_str(&read("examples/01-sales-analysis.json")).unwrap();
    assert_eq!(body, example);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "docs/api.md",
        "docs/configuration.md",
        "docs/compatibility.md",
        "docs/guarantees.md",
        "docs/steps.md",
        "docs/workflows.md",
    ] {
        let folder = root.join(page).parent().unwrap().to_owned();
        for target in read(page).split("](").skip(1).map(|rest| rest.split(')').next().unwrap_or_default().to_owned()) {
            let file = target.split('#').next().unwrap_or_default();
            assert!(target.starts_with("http") || file.is_empty() || folder.join(file).exists(), "{page} links to {target}");
        }
    }
}

/// Every `path::of::a_test` that a section names.
fn named_tests(section: &str) -> Vec<&str> {
    let code = section.split('`').skip(1).step_by(2);
    code.filter(|code| code.contains("::") && code.starts_with(|letter: char| letter.is_ascii_lowercase())).collect()
}

/// Why there is no such test, read from the sources: a function of that name in its module that is run as one.
fn no_such_test(name: &str) -> Option<String> {
    let (module, function) = name.rsplit_once("::")?;
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let path = module.replace("::", "/");
    let files = [format!("{path}.rs"), format!("{path}/mod.rs")];
    let Some(source) = files.iter().find_map(|file| fs::read_to_string(tests.join(file)).ok()) else {
        return Some(format!("{name}: there is no module {module}"));
    };
    let Some((before, _)) = source.split_once(&format!("fn {function}(")) else {
        return Some(format!("{name}: {module} has no such function"));
    };
    let marked = before.rsplit("\n\n").next().is_some_and(|above| above.contains("#[test]") || above.contains("#[tokio::test"));
    // Cases that run on several databases are listed: beside themselves, or for the store's contract in one place.
    let lists = if module.starts_with("store::contract") { fs::read_to_string(tests.join("store/mod.rs")).ok()? } else { source.clone() };
    let listed = ["on_both!(", "on_one!(", "contract! {"].iter().flat_map(|list| lists.split(list).skip(1)).any(|list| {
        let list = list.split([')', '}']).next().unwrap_or_default();
        list.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == function)
    });
    (!marked && !listed).then(|| format!("{name}: nobody runs it"))
}

#[test]
fn the_lessons_of_others_name_tests_that_exist() {
    let page = read("docs/proof.md");
    let lessons = page.split("\n## ").find(|section| section.starts_with("Lessons of others")).unwrap();
    let rows: Vec<&str> = lessons.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() >= 20, "{} lessons", rows.len());
    for row in rows {
        assert!(row.contains('#') && !named_tests(row).is_empty(), "a lesson names where it was told and its test: {row}");
    }
    let missing: Vec<String> = named_tests(lessons).into_iter().filter_map(no_such_test).collect();
    assert!(missing.is_empty(), "docs/proof.md names tests that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn a_test_that_is_missing_or_not_run_is_noticed() {
    assert_eq!(no_such_test("docs::a_test_that_is_missing_or_not_run_is_noticed"), None);
    assert_eq!(no_such_test("dispatch::pauses::two_answers_at_the_same_time"), None);
    assert_eq!(no_such_test("store::contract::waits::the_first_answer_is_final"), None);
    for wrong in
        ["nowhere::at_all", "docs::there_is_none", "docs::no_such_test", "dispatch::pauses::two_calls", "store::contract::world::world"]
    {
        assert!(no_such_test(wrong).is_some(), "{wrong}");
    }
}

/// The README quotes figures; each must be what the page of proofs says was seen.
#[test]
fn figures_are_those_of_the_proofs() {
    let (readme, proof) = (read("README.md"), read("docs/proof.md"));
    let section = readme.split("\n## ").find(|section| section.starts_with("Measured")).expect("the README has a section of figures");
    let rows: Vec<Vec<&str>> = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let figures: Vec<&Vec<&str>> = rows.iter().filter(|row| row[0] != "What").filter(|row| !row[0].starts_with("---")).collect();
    assert!(figures.len() >= 5, "the README lost its figures");
    for row in figures {
        let [what, seen] = row.as_slice() else { panic!("not a claim and what was seen: {row:?}") };
        assert!(seen.chars().any(|character| character.is_ascii_digit()), "{what}: no figure in {seen:?}");
        assert!(proof.contains(seen), "{what}: docs/proof.md does not say {seen:?}");
    }
}
