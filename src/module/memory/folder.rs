//! The files of memory: `HOME/memory/<namespace>.json`.
//!
//! A file is written whole or not at all, under a lock, so that processes do not undo each other's changes. A file that is not a
//! JSON object is refused, never overwritten.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::module::call::ActionFault;

/// The folder of all namespaces.
#[derive(Debug, Clone)]
pub struct MemoryFolder {
    folder: PathBuf,
}

/// A namespace that has a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct NamespaceFile {
    pub namespace: String,
    pub path: PathBuf,
}

/// The part of a namespace below a prefix.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefixListing {
    pub prefix: String,
    /// The keys directly below the prefix, each with the prefix.
    pub keys: Vec<String>,
    pub contents: Value,
}

impl MemoryFolder {
    /// Returns the memory of a state folder.
    pub fn new(home: &Path) -> Self {
        Self { folder: home.join("memory") }
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the file of a namespace: the name in lower case, other characters turned to `-`.
    pub fn file(&self, namespace: &str) -> PathBuf {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        let name: String = namespace.to_lowercase().chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
        self.folder.join(format!("{name}.json"))
    }

    /// Returns the namespaces that have a file, by name.
    pub fn namespaces(&self) -> Result<Vec<NamespaceFile>, ActionFault> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(&self.folder, &error)),
        };
        let files = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
        let mut found: Vec<NamespaceFile> = files
            .filter_map(|path| {
                let namespace = path.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
                (!namespace.starts_with('.')).then_some(NamespaceFile { namespace, path })
            })
            .collect();
        found.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        Ok(found)
    }

    /// Returns the contents of a namespace; `None` when it has no file.
    pub fn read(&self, namespace: &str) -> Result<Option<Map<String, Value>>, ActionFault> {
        let path = self.file(namespace);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error)),
        };
        match serde_json::from_str(&text) {
            Ok(Value::Object(contents)) => Ok(Some(contents)),
            _ => Err(ActionFault::new(format!("the memory file {} does not hold a JSON object. Repair it, or remove it.", path.display()))),
        }
    }

    /// Returns the value at a dotted key. A stored null is found.
    pub fn find(&self, namespace: &str, key: &str) -> Result<Option<Value>, ActionFault> {
        let contents = self.read(namespace)?.unwrap_or_default();
        Ok(find_in(&contents, key).cloned())
    }

    /// Returns the part of a namespace below a prefix.
    pub fn list(&self, namespace: &str, prefix: &str) -> Result<PrefixListing, ActionFault> {
        let prefix = prefix.trim_end_matches('.');
        let found = self.find(namespace, prefix)?;
        let keys = match &found {
            Some(Value::Object(members)) => members.keys().map(|key| format!("{prefix}.{key}")).collect(),
            Some(_) => vec![prefix.to_owned()],
            None => Vec::new(),
        };
        Ok(PrefixListing { prefix: prefix.to_owned(), keys, contents: found.unwrap_or_else(|| Value::Object(Map::new())) })
    }

    /// Changes a namespace under its lock, and writes the file when the change succeeds.
    pub fn update<T>(
        &self,
        namespace: &str,
        change: impl FnOnce(&mut Map<String, Value>) -> Result<T, ActionFault>,
    ) -> Result<T, ActionFault> {
        fs::create_dir_all(&self.folder).map_err(|error| unwritable(&self.folder, &error))?;
        let path = self.file(namespace);
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let lock_path = self.folder.join(format!(".{name}.lock"));
        let lock = File::create(&lock_path).map_err(|error| unwritable(&lock_path, &error))?;
        lock.lock().map_err(|error| unwritable(&lock_path, &error))?;
        let mut contents = self.read(namespace)?.unwrap_or_default();
        let result = change(&mut contents)?;
        write_whole(&path, &contents).map_err(|error| unwritable(&path, &error))?;
        Ok(result)
    }
}

/// Writes the file beside its place and moves it there.
fn write_whole(path: &Path, contents: &Map<String, Value>) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(contents)? + "\n";
    let temporary = path.with_extension(format!("json.{}.tmp", std::process::id()));
    let mut file = File::create(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

/// Returns the value at a dotted key; objects only.
pub(super) fn find_in<'a>(contents: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let mut names = key.split('.');
    let first = contents.get(names.next()?)?;
    names.try_fold(first, |place, name| place.as_object()?.get(name))
}

/// Stores a value at a dotted key. Parents that are missing or no objects are replaced by objects.
pub(super) fn store_in(contents: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            contents.insert(key.to_owned(), value);
        }
        Some((name, rest)) => {
            let parent = contents.entry(name).or_insert(Value::Null);
            if !parent.is_object() {
                *parent = Value::Object(Map::new());
            }
            if let Value::Object(parent) = parent {
                store_in(parent, rest, value);
            }
        }
    }
}

/// Removes the value at a dotted key, and the parents that become empty. Reports whether it was there.
pub(super) fn remove_in(contents: &mut Map<String, Value>, key: &str) -> bool {
    let Some((name, rest)) = key.split_once('.') else { return contents.shift_remove(key).is_some() };
    let Some(Value::Object(parent)) = contents.get_mut(name) else { return false };
    let was_there = remove_in(parent, rest);
    if was_there && parent.is_empty() {
        contents.shift_remove(name);
    }
    was_there
}

fn unreadable(path: &Path, error: &std::io::Error) -> ActionFault {
    ActionFault::new(format!("{} cannot be read: {error}", path.display()))
}

fn unwritable(path: &Path, error: &std::io::Error) -> ActionFault {
    ActionFault::new(format!("{} cannot be written: {error}", path.display()))
}
