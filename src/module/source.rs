//! The files of a module: which belong to it, and the hash over them.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::registry::{JobKind, ModuleJob};

/// Maximum number of files of a module.
const MAX_FILES: usize = 20_000;
/// Folders that are no part of a module.
const FOREIGN_FOLDERS: &[&str] = &["node_modules"];

/// Returns the files below a folder, relative to it and sorted; hidden ones, symbolic links and `node_modules` are left out.
pub fn files_below(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(place) = folders.pop() {
        for entry in fs::read_dir(&place)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let kind = entry.file_type()?;
            if name.starts_with('.') || FOREIGN_FOLDERS.contains(&name.as_ref()) {
                continue;
            }
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                found.push(path.strip_prefix(folder).map(Path::to_owned).unwrap_or(path));
            }
            if found.len() > MAX_FILES {
                return Err(std::io::Error::other(format!("{} has more than {MAX_FILES} files", folder.display())));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the hash of a folder's files in hex: SHA-256 over path, NUL, contents, NUL of each, in the order of their paths.
pub fn hash_folder(folder: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    for path in files_below(folder)? {
        hash.update(path.to_string_lossy().as_bytes());
        hash.update([0u8]);
        hash.update(fs::read(folder.join(&path))?);
        hash.update([0u8]);
    }
    Ok(hex(&hash.finalize()[..]))
}

/// Returns the bytes in hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the jobs below a module's `jobs/`, by id; a seed comes before a case of the same id.
pub fn jobs_of(folder: &Path) -> Vec<ModuleJob> {
    let jobs = folder.join("jobs");
    let files = files_below(&jobs).unwrap_or_default();
    let mut found: Vec<ModuleJob> = files
        .into_iter()
        .filter_map(|path| {
            let name = path.to_str()?.to_owned();
            let kinds = [(".job.seed.json", JobKind::Seed), (".job.case.json", JobKind::Case)];
            let (id, kind) = kinds.into_iter().find_map(|(suffix, kind)| Some((name.strip_suffix(suffix)?.to_owned(), kind)))?;
            Some(ModuleJob { id, kind, path: jobs.join(path) })
        })
        .collect();
    found.sort_by(|one, other| (&one.id, one.kind).cmp(&(&other.id, other.kind)));
    found
}
