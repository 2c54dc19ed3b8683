//! The imports of JavaScript sources: a reader that skips comments, texts and regular expressions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::{PackageIssue, PackageIssueCode};
use crate::module::source::files_below;

/// Modules that are part of node and may be imported without `node:`.
const NODE_BUILTINS: &[&str] = &[
    "assert",
    "async_hooks",
    "buffer",
    "child_process",
    "cluster",
    "console",
    "constants",
    "crypto",
    "dgram",
    "diagnostics_channel",
    "dns",
    "domain",
    "events",
    "fs",
    "http",
    "http2",
    "https",
    "inspector",
    "module",
    "net",
    "os",
    "path",
    "perf_hooks",
    "process",
    "punycode",
    "querystring",
    "readline",
    "repl",
    "stream",
    "string_decoder",
    "timers",
    "tls",
    "trace_events",
    "tty",
    "url",
    "util",
    "v8",
    "vm",
    "wasi",
    "worker_threads",
    "zlib",
];

/// An import of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SourceImport {
    /// `./schemas.mjs`.
    Relative(String),
    /// Part of node.
    Builtin,
    /// A package, an absolute path or a URL.
    Foreign(String),
    /// `import(name)`.
    Computed,
}

impl SourceImport {
    fn of_specifier(specifier: &str) -> Self {
        let root = specifier.split('/').next().unwrap_or_default();
        if specifier.starts_with("./") || specifier.starts_with("../") {
            Self::Relative(specifier.to_owned())
        } else if specifier.starts_with("node:") || NODE_BUILTINS.contains(&root) {
            Self::Builtin
        } else {
            Self::Foreign(specifier.to_owned())
        }
    }
}

/// Returns every file that an entry reaches by relative imports, the entry first, relative to the entry's folder.
pub(super) fn reachable(entry: &Path) -> Result<Vec<PathBuf>, Vec<PackageIssue>> {
    let folder = entry.parent().unwrap_or(Path::new("."));
    let first = entry.file_name().map(PathBuf::from).unwrap_or_default();
    let mut found = vec![first.clone()];
    let mut seen = BTreeSet::from([first]);
    let mut issues = Vec::new();
    let mut next = 0;
    while let Some(file) = found.get(next).cloned() {
        next += 1;
        let source = match fs::read_to_string(folder.join(&file)) {
            Ok(source) => source,
            Err(error) => {
                issues.push(PackageIssue::new(
                    PackageIssueCode::BundleFailed,
                    Some(file.display().to_string()),
                    format!("{} cannot be read: {error}", file.display()),
                ));
                continue;
            }
        };
        for import in imports(&source) {
            match target(&file, &import) {
                Ok(Some(path)) if seen.insert(path.clone()) => found.push(path),
                Ok(_) => {}
                Err(issue) => issues.push(issue),
            }
        }
    }
    if issues.is_empty() { Ok(found) } else { Err(issues) }
}

/// The file that an import leads to, from the folder of the entry; `None` for parts of node.
fn target(file: &Path, import: &SourceImport) -> Result<Option<PathBuf>, PackageIssue> {
    let place = file.display();
    match import {
        SourceImport::Builtin => Ok(None),
        SourceImport::Computed => Err(PackageIssue::new(
            PackageIssueCode::UnresolvedRuntimeImport,
            Some(place.to_string()),
            format!("{place} imports a module by a computed name, which a package cannot hold"),
        )),
        SourceImport::Foreign(specifier) => Err(PackageIssue::new(
            PackageIssueCode::UnresolvedRuntimeImport,
            Some(place.to_string()),
            format!(
                "{place} imports `{specifier}`, which is not in the module. Bundle the entry into one file first, for example with \
                 `esbuild --bundle --format=esm --platform=node`."
            ),
        )),
        SourceImport::Relative(specifier) => join_inside(file.parent().unwrap_or(Path::new("")), specifier).map(Some).ok_or_else(|| {
            PackageIssue::new(
                PackageIssueCode::BundleFailed,
                Some(place.to_string()),
                format!(
                    "{place} imports `{specifier}`, which is outside the folder of the entry. Move it below that \
                 folder, or bundle the entry."
                ),
            )
        }),
    }
}

/// A relative path from a folder, without dots; `None` when it leaves the top.
fn join_inside(folder: &Path, specifier: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for component in Path::new(specifier).components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                if !path.pop() {
                    return None;
                }
            }
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// Returns every import of a package's code that the package does not hold.
pub(super) fn check_bundle(dist: &Path) -> Vec<PackageIssue> {
    let files = files_below(dist).unwrap_or_default();
    let held: BTreeSet<&PathBuf> = files.iter().collect();
    let mut issues = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "mjs" || extension == "js")) {
        for import in imports(&fs::read_to_string(dist.join(file)).unwrap_or_default()) {
            match target(file, &import) {
                Ok(Some(path)) if !held.contains(&path) => issues.push(PackageIssue::new(
                    PackageIssueCode::UnresolvedRuntimeImport,
                    Some(file.display().to_string()),
                    format!("dist/{} imports {}, which the package does not hold", file.display(), path.display()),
                )),
                Ok(_) => {}
                Err(issue) => issues.push(issue),
            }
        }
    }
    issues
}

/// Returns the imports of a source, in their order.
pub(super) fn imports(source: &str) -> Vec<SourceImport> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| tokens.get(index));
        let Token::Word(word) = token else { continue };
        // `object.import` and `object.from` are members.
        if before == Some(&Token::Mark('.')) {
            continue;
        }
        match (*word, tokens.get(index + 1), tokens.get(index + 2)) {
            ("from" | "import", Some(Token::Text(specifier)), _) => found.push(SourceImport::of_specifier(specifier)),
            ("import", Some(Token::Mark('(')), Some(Token::Text(specifier))) => found.push(SourceImport::of_specifier(specifier)),
            ("import", Some(Token::Mark('(')), Some(_)) => found.push(SourceImport::Computed),
            _ => {}
        }
    }
    found
}

/// A token of JavaScript, as far as imports need it.
#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    /// The contents of a text in single or double quotes.
    Text(&'a str),
    Mark(char),
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    // The depth of braces at which each open template goes on.
    let mut templates: Vec<usize> = Vec::new();
    let mut depth = 0;
    while let Some(letter) = rest.chars().next() {
        let after = rest.get(letter.len_utf8()..).unwrap_or_default();
        rest = match letter {
            '/' if after.starts_with('/') => after.find('\n').and_then(|end| after.get(end..)).unwrap_or_default(),
            '/' if after.starts_with('*') => skip_past(after, "*/"),
            '/' if begins_regex(tokens.last()) => skip_regex(after),
            '\'' | '"' => {
                let end = end_of_text(after, letter);
                tokens.push(Token::Text(after.get(..end).unwrap_or_default()));
                after.get(end + 1..).unwrap_or_default()
            }
            '`' => skip_template(after, &mut templates, depth),
            '}' if templates.last() == Some(&depth) => {
                templates.pop();
                skip_template(after, &mut templates, depth)
            }
            _ if is_word(letter) => {
                let end = rest.find(|letter| !is_word(letter)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                tokens.push(Token::Word(word));
                after
            }
            _ if letter.is_whitespace() => after,
            _ => {
                depth = match letter {
                    '{' => depth + 1,
                    '}' => usize::saturating_sub(depth, 1),
                    _ => depth,
                };
                tokens.push(Token::Mark(letter));
                after
            }
        };
    }
    tokens
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$'
}

fn skip_past<'a>(text: &'a str, end: &str) -> &'a str {
    text.split_once(end).map_or("", |(_, after)| after)
}

/// The place of the closing quote.
fn end_of_text(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote || letter == '\n' => return at,
            _ => {}
        }
    }
    text.len()
}

/// Skips the text of a template up to its end, or to an expression in it, which is read as code.
fn skip_template<'a>(text: &'a str, templates: &mut Vec<usize>, depth: usize) -> &'a str {
    let mut escaped = false;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => {
                escaped = false;
                before = ' ';
                continue;
            }
            '\\' => escaped = true,
            '`' => return text.get(at + 1..).unwrap_or_default(),
            '{' if before == '$' => {
                templates.push(depth);
                return text.get(at + 1..).unwrap_or_default();
            }
            _ => {}
        }
        before = letter;
    }
    ""
}

/// Reports whether a slash begins a regular expression: after a value it divides.
fn begins_regex(before: Option<&Token<'_>>) -> bool {
    match before {
        None => true,
        Some(Token::Word(word)) => matches!(
            *word,
            "return" | "typeof" | "case" | "in" | "of" | "delete" | "void" | "throw" | "new" | "else" | "do" | "await" | "yield"
        ),
        Some(Token::Text(_)) => false,
        Some(Token::Mark(mark)) => !matches!(mark, ')' | ']' | '}'),
    }
}

fn skip_regex(text: &str) -> &str {
    let (mut escaped, mut in_class) = (false, false);
    for (at, letter) in text.char_indices() {
        match letter {
            '\n' => return text.get(at..).unwrap_or_default(),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '/' if !in_class => return text.get(at + 1..).unwrap_or_default(),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_and_texts_are_not() {
        let source = r#"
            import a, { b } from './a.mjs'; import "node:fs"; import fs from 'fs/promises';
            export * from "../b.js"; // import x from './no.mjs'
            /* import './no.mjs' */ const t = `import './no.mjs' ${`${await import("./c.mjs")}`} from './no.mjs'`;
            const r = /["'] from '.no'/; const q = 4 / 2; const s = "import './no.mjs'"; object.from('./no.mjs');
            import { z } from "zod"; const u = `\${ ' not code`; await import(name); Array.from("x");
        "#;
        let relative = |path: &str| SourceImport::Relative(path.to_owned());
        assert_eq!(
            imports(source),
            [
                relative("./a.mjs"),
                SourceImport::Builtin,
                SourceImport::Builtin,
                relative("../b.js"),
                relative("./c.mjs"),
                SourceImport::Foreign("zod".to_owned()),
                SourceImport::Computed,
            ]
        );
    }
}
