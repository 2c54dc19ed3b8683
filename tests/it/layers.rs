//! The layers: who may import whom, kept by reading every path in `src/` that begins at the crate's root.
//!
//! Cargo keeps crates acyclic; within one crate nobody does, so this test does. ARCHITECTURE.md draws the table.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A module and what it may import, lowest first. A row names only rows above it, so there can be no circle.
///
/// A row for a part of a module (`cli::fake_provider`) is for that part alone.
const TABLE: &[(&str, &str)] = &[
    // Ground.
    ("clock", ""),
    ("error", ""),
    ("failpoint", ""),
    ("fair", ""),
    ("number", ""),
    ("offload", ""),
    ("process", "clock fair"),
    ("id", "clock"),
    ("secret", "clock error fair offload"),
    // Matter.
    ("model", "clock error id number"),
    ("expr", "clock error fair number process secret"),
    ("net", "clock error fair secret"),
    ("html", "clock fair process"),
    // Ports. An adapter knows a conversation or a call, never a run: neither `provider` nor `tool` sees `model`.
    ("store", "clock error failpoint id model secret"),
    ("feed", "clock error failpoint id model store"),
    ("provider", "clock error net offload secret"),
    ("tool", "clock error expr net offload provider secret"),
    ("asset", "clock error id net secret store"),
    // Actions of jobs, and the folders that they come from; their HTTP goes through a port.
    ("module", "clock"),
    // What a job case is and comes to: documents and files, no runs.
    ("job", "clock module secret"),
    // The engine writes the rings of the runs that it advances, so it sees `feed`.
    ("engine", "asset clock error expr failpoint fair feed html id job model module net provider secret store tool"),
    // Work.
    ("auth", "clock error id model offload secret store"),
    ("queue", "clock engine error failpoint feed id model net secret store tool"),
    // Surfaces.
    ("http", "asset auth clock engine error failpoint feed id model number offload provider queue secret store tool"),
    // Roof.
    ("config", "auth clock engine error expr feed html http model net provider queue secret store tool"),
    ("app", "asset auth clock config engine error expr failpoint feed html http id model net provider queue secret store tool"),
    ("cli::fake_provider", "clock error provider"),
    // It talks to the server under test through the one door out.
    ("cli::selftest", "clock error failpoint id net store"),
    ("cli", "app auth clock config engine error expr failpoint feed html http id job model module net process secret store tool"),
    ("main", "cli"),
];

/// Surfaces are strangers to each other.
const SURFACES: &[&str] = &["admin", "console", "dispatch", "openai", "workflows", "workspace"];

/// A path from the crate's root, as found in a file.
struct Import {
    file: PathBuf,
    line: usize,
    /// `store::SharedStore`, as far as it names modules.
    path: String,
}

#[test]
fn the_table_has_no_circle() {
    for (place, (module, imports)) in TABLE.iter().enumerate() {
        for import in imports.split_whitespace() {
            let lower = TABLE.iter().take(place).any(|(lower, _)| *lower == import);
            assert!(lower, "`{module}` may import `{import}`, which is not below it");
        }
    }
}

#[test]
fn imports_point_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = String::new();
    let mut seen = 0;
    for file in rust_files(&source) {
        let inside = module_of(file.strip_prefix(&source).unwrap());
        for import in imports(&file, inside.len()) {
            seen += 1;
            if let Some(fault) = judge(&inside, &import.path) {
                writeln!(faults, "{}:{}: {fault}", import.file.strip_prefix(&source).unwrap().display(), import.line).unwrap();
            }
        }
    }
    assert!(seen > 500, "only {seen} imports were found: the reader of this test is broken");
    assert!(faults.is_empty(), "imports that the layers forbid (src/):\n{faults}");
}

/// Why a module may not use a path, if it may not.
fn judge(inside: &[String], path: &str) -> Option<String> {
    let mut names = path.split("::");
    let (target, part) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    let module = inside.first().map_or("lib", String::as_str);
    if module == target {
        let surface = inside.get(1).map(String::as_str).filter(|own| module == "http" && SURFACES.contains(own));
        let foreign = surface.is_some_and(|own| own != part && SURFACES.contains(&part));
        return foreign.then(|| format!("the surface `{}` imports the surface `{part}`", inside[1]));
    }
    let qualified = format!("{module}::{}", inside.get(1).map_or("", String::as_str));
    let row = [qualified.as_str(), module].into_iter().find_map(|name| TABLE.iter().find(|(row, _)| *row == name));
    match row {
        None => Some(format!("`{module}` has no row in the table")),
        Some((_, allowed)) if allowed.split_whitespace().any(|name| name == target) => None,
        Some((row, allowed)) => {
            Some(format!("`{row}` imports `{path}`; it may import: {}", if allowed.is_empty() { "nothing" } else { allowed }))
        }
    }
}

/// Every Rust file, in a stable order.
pub fn rust_files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let here = files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    here.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

/// The module that a file below `src/` holds, from the root: `["store", "sqlite", "runs"]`; none for `lib.rs`.
fn module_of(file: &Path) -> Vec<String> {
    let mut names: Vec<String> = file.with_extension("").iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if names.last().is_some_and(|last| last == "mod") || names == ["lib"] {
        names.pop();
    }
    names
}

/// Every path of a file that begins at the crate's root: after `crate::`, after enough `super::`, and in `main.rs`
/// after the crate's own name.
fn imports(file: &Path, depth: usize) -> Vec<Import> {
    let code = code_only(&fs::read_to_string(file).unwrap());
    let main = file.file_name().is_some_and(|name| name == "main.rs");
    let root = if main { "dispatch::" } else { "crate::" };
    let mut found = Vec::new();
    let mut note = |at: usize, after: usize| {
        let line = code[..at].matches('\n').count() + 1;
        for path in paths(&code[after..]) {
            found.push(Import { file: file.to_owned(), line, path });
        }
    };
    for (at, text) in code.match_indices(root) {
        if !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':') {
            note(at, at + text.len());
        }
    }
    let up = "super::".repeat(depth);
    for (at, text) in code.match_indices(&up).filter(|_| depth > 0) {
        let after = at + text.len();
        let module = paths(&code[after..]).first().is_some_and(|path| TABLE.iter().any(|(row, _)| *row == first(path)));
        if module && !code[..at].ends_with("super::") {
            note(at, after);
        }
    }
    found
}

fn first(path: &str) -> &str {
    path.split("::").next().unwrap_or_default()
}

/// The paths that a text begins with: one, or those of a list in braces, each as far as its second name.
fn paths(text: &str) -> Vec<String> {
    let Some(list) = text.strip_prefix('{') else { return vec![path(text)] };
    let mut depth = 0;
    let mut starts = vec![0];
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts.into_iter().map(|start| path(list[start..].trim_start())).filter(|path| !path.is_empty()).collect()
}

fn path(text: &str) -> String {
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_' && character != ':').unwrap_or(text.len());
    text[..end].split("::").filter(|name| !name.is_empty()).take(2).collect::<Vec<_>>().join("::")
}

/// The text with comments and the contents of strings blanked; line breaks stay where they are.
fn code_only(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while !rest.is_empty() {
        let (blank, length) = token(rest, &code);
        let (piece, after) = rest.split_at(length);
        if blank {
            code.extend(piece.chars().filter(|character| *character == '\n'));
            code.push(' ');
        } else {
            code.push_str(piece);
        }
        rest = after;
    }
    code
}

/// Whether the next piece of source is to be blanked, and its length.
fn token(rest: &str, before: &str) -> (bool, usize) {
    let until = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |at| from + at + end.len());
    if rest.starts_with("//") {
        return (true, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (true, until("*/", 2));
    }
    let in_word = before.ends_with(|character: char| character.is_alphanumeric() || character == '_');
    if !in_word && let Some(hashes) = raw_string(rest) {
        let open = rest.find('"').unwrap_or_default() + 1;
        return (true, until(&format!("\"{}", "#".repeat(hashes)), open));
    }
    if rest.starts_with('"') {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, character)| {
            let ends = *character == '"' && !escaped;
            escaped = *character == '\\' && !escaped;
            ends
        });
        return (true, end.map_or(rest.len(), |(at, _)| at + 1));
    }
    if rest.starts_with("'\\") {
        return (true, until("'", 3));
    }
    let mut characters = rest.char_indices();
    let first = characters.next().map_or(1, |(_, character)| character.len_utf8());
    // A character literal; anything else that begins so is a lifetime.
    if rest.starts_with('\'') && characters.nth(1).is_some_and(|(_, character)| character == '\'') {
        return (true, 1 + rest[1..].find('\'').unwrap_or_default() + 1);
    }
    (false, first)
}

/// How many `#` a raw string that begins here has.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r')?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    after[hashes..].starts_with('"').then_some(hashes)
}

#[test]
fn the_reader_sees_paths_and_nothing_else() {
    let source = r##"
        //! See [`crate::http`].
        use crate::{clock::Clock, store::{self, Runs}};
        /* crate::auth */ fn f<'a>(x: &'a str) -> char { let _ = "crate::cli"; let _ = r#"crate::app"#; '"' }
        let x = crate::engine::plan::Plan::new();
    "##;
    let code = code_only(source);
    let found: Vec<String> = code.match_indices("crate::").flat_map(|(at, text)| paths(&code[at + text.len()..])).collect();
    assert_eq!(found, ["clock::Clock", "store", "engine::plan"]);
    assert_eq!(code.matches('\n').count(), source.matches('\n').count());
}

#[test]
fn what_the_layers_forbid_is_found() {
    let inside = |path: &str| path.split("::").map(str::to_owned).collect::<Vec<_>>();
    let forbidden = [
        ("store::sqlite", "engine::Engine"),
        ("provider::openai", "model::Flow"),
        ("engine::step::http", "queue::Workers"),
        ("auth", "http::AppState"),
        ("http::dispatch::flows", "http::admin"),
        ("cli::serve", "provider::Models"),
        ("nowhere", "clock"),
    ];
    for (module, path) in forbidden {
        assert!(judge(&inside(module), path).is_some(), "`{module}` may import `{path}`");
    }
    for (module, path) in
        [("engine::log", "feed::Ring"), ("http::dispatch", "http::extract"), ("cli::fake_provider::plan", "provider::instance")]
    {
        assert_eq!(judge(&inside(module), path), None);
    }
}
