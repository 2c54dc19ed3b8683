//! Makes the folder of a package from a module's source.
//!
//! The entry and the files that it imports are taken as they are; nothing is compiled. A declarative module gets a small generated
//! entry, so that it also runs where declarative actions are unknown.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{ARTIFACT_FILE, ArtifactRecord, BUNDLED_ENTRY, PackageIssue, PackageIssueCode, PackageResult, imports};
use crate::clock::Clock;
use crate::module::manifest::{MANIFEST_FILE, Manifest, is_inside};
use crate::module::source::{files_below, hash_folder};

const DECLARED: &str = include_str!("declared.mjs");
/// The place of the definition in [`DECLARED`].
const DEFINITION_MARK: &str = "\"MODULE_DEFINITION\"";
/// The file of every package's entry.
const ENTRY_FILE: &str = "index.mjs";

/// Returns every reason why a module cannot be packed.
pub fn check_sources(folder: &Path, manifest: &Manifest) -> Vec<PackageIssue> {
    let mut issues = code_files(folder, manifest).err().unwrap_or_default();
    issues.extend(assets(folder, manifest).err().unwrap_or_default());
    issues
}

/// Writes the package of a module into an empty folder.
pub fn normalize(folder: &Path, manifest: &Manifest, target: &Path, clock: &Clock) -> PackageResult<()> {
    let (code, included) = match (code_files(folder, manifest), assets(folder, manifest)) {
        (Ok(code), Ok(included)) => (code, included),
        (code, included) => return Err([code.err(), included.err()].into_iter().flatten().flatten().collect()),
    };
    for (path, bytes) in &code {
        write(&target.join("dist").join(path), bytes)?;
    }
    for path in files_below(&folder.join("jobs")).unwrap_or_default() {
        copy(&folder.join("jobs").join(&path), &target.join("jobs").join(&path))?;
    }
    for path in &included {
        copy(&folder.join(path), &target.join("assets").join(path))?;
    }
    let hash = hash_folder(folder).map_err(|error| vec![PackageIssue::file(folder, &error)])?;
    let record = ArtifactRecord {
        artifact_schema_version: 1,
        module_name: manifest.name.clone(),
        module_version: manifest.version.clone(),
        source_entry: if manifest.is_declarative() { MANIFEST_FILE.into() } else { manifest.entry.clone() },
        bundled_entry: BUNDLED_ENTRY.into(),
        cli_version: env!("CARGO_PKG_VERSION").into(),
        normalized_at: clock.now().to_string(),
        source_hash: hash,
        bundler: "dispatch".into(),
        bundler_version: env!("CARGO_PKG_VERSION").into(),
    };
    write_json(&target.join(ARTIFACT_FILE), &json!(record))?;
    write_json(&target.join(MANIFEST_FILE), &packed_manifest(folder)?)
}

/// The code of the package: paths below `dist/` and contents.
fn code_files(folder: &Path, manifest: &Manifest) -> PackageResult<Vec<(PathBuf, Vec<u8>)>> {
    if manifest.is_declarative() {
        let definition = serde_json::to_string_pretty(&raw_manifest(folder)?).unwrap_or_default();
        return Ok(vec![(ENTRY_FILE.into(), DECLARED.replace(DEFINITION_MARK, &definition).into_bytes())]);
    }
    let entry = folder.join(&manifest.entry);
    if !entry.is_file() {
        let message = format!("the entry {} does not exist", manifest.entry);
        return Err(vec![PackageIssue::new(PackageIssueCode::MissingEntry, Some(manifest.entry.clone()), message)]);
    }
    if !entry.extension().is_some_and(|extension| extension == "mjs" || extension == "js") {
        let message = format!("the entry {} is not JavaScript. Build it first, and name the built file as entry.", manifest.entry);
        return Err(vec![PackageIssue::new(PackageIssueCode::BundleFailed, Some(manifest.entry.clone()), message)]);
    }
    let files = imports::reachable(&entry)?;
    let base = entry.parent().unwrap_or(folder);
    let mut code = Vec::with_capacity(files.len() + 1);
    for path in &files {
        let place = base.join(path);
        code.push((path.clone(), fs::read(&place).map_err(|error| vec![PackageIssue::file(&place, &error)])?));
    }
    let own_name = files.first().map(|path| path.display().to_string()).unwrap_or_default();
    if own_name != ENTRY_FILE {
        if files.iter().any(|path| path == Path::new(ENTRY_FILE)) {
            let message = format!("the entry {} imports an {ENTRY_FILE}, which is the name of every package's entry", manifest.entry);
            return Err(vec![PackageIssue::new(PackageIssueCode::BundleFailed, Some(manifest.entry.clone()), message)]);
        }
        let specifier = json!(format!("./{own_name}"));
        let forward = format!("export * from {specifier};\nexport {{ default }} from {specifier};\n");
        code.push((ENTRY_FILE.into(), forward.into_bytes()));
    }
    Ok(code)
}

/// The files that `pack.include` names, relative to the module.
fn assets(folder: &Path, manifest: &Manifest) -> PackageResult<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut issues = Vec::new();
    for item in &manifest.pack.include {
        let path = item.strip_suffix("/**").unwrap_or(item);
        let place = folder.join(path);
        if !is_inside(path) {
            issues.push(PackageIssue::layout(format!("pack.include: `{item}` is not a path inside the module")));
        } else if path.contains(['*', '?', '[']) {
            issues.push(PackageIssue::layout(format!(
                "pack.include: `{item}` is a pattern; only files, folders and `folder/**` can be included"
            )));
        } else if place.is_file() {
            found.push(PathBuf::from(path));
        } else if place.is_dir() {
            let files = files_below(&place).map_err(|error| vec![PackageIssue::file(&place, &error)])?;
            found.extend(files.into_iter().map(|file| Path::new(path).join(file)));
        } else {
            issues.push(PackageIssue::layout(format!("pack.include: `{item}` does not exist")));
        }
    }
    found.sort();
    found.dedup();
    if issues.is_empty() { Ok(found) } else { Err(issues) }
}

fn raw_manifest(folder: &Path) -> PackageResult<Map<String, Value>> {
    let path = folder.join(MANIFEST_FILE);
    let text = fs::read_to_string(&path).map_err(|error| vec![PackageIssue::file(&path, &error)])?;
    serde_json::from_str(&text).map_err(|error| vec![PackageIssue::layout(format!("{MANIFEST_FILE}: {error}"))])
}

/// The package's manifest: what it needs at run time.
fn packed_manifest(folder: &Path) -> PackageResult<Value> {
    let raw = raw_manifest(folder)?;
    let mut packed = Map::new();
    for name in ["name", "version", "entry", "metadata", "actions"] {
        let value = if name == "entry" { Some(BUNDLED_ENTRY.into()) } else { raw.get(name).cloned() };
        packed.extend(value.map(|value| (name.to_owned(), value)));
    }
    packed.entry("metadata").or_insert_with(|| json!({}));
    Ok(packed.into())
}

fn write_json(path: &Path, value: &Value) -> PackageResult<()> {
    let text = serde_json::to_string_pretty(value).unwrap_or_default() + "\n";
    write(path, text.as_bytes())
}

fn write(path: &Path, bytes: &[u8]) -> PackageResult<()> {
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, bytes)).map_err(|error| vec![PackageIssue::file(path, &error)])
}

fn copy(from: &Path, to: &Path) -> PackageResult<()> {
    let made = to.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::copy(from, to)).map(drop).map_err(|error| vec![PackageIssue::file(from, &error)])
}
