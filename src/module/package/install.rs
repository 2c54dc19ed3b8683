//! Installed modules: `HOME/modules/<name>@<version>/`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{PackageIssue, PackageResult, check_installed};
use crate::clock::Clock;
use crate::module::manifest::{MANIFEST_FILE, Manifest};
use crate::module::source::hex;

/// Beginnings of the names of folders that an installation leaves when it is interrupted.
const STALE_PREFIXES: &[&str] = &[".tmp-install-", ".tmp-backup-"];
const LOCK: &str = ".install.lock";

/// A module that is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledModule {
    pub name: String,
    pub version: String,
    pub install_dir: PathBuf,
}

/// The lock of the folder of installed modules; released when it is dropped.
struct InstallLock(PathBuf);

impl InstallLock {
    fn take(modules: &Path) -> PackageResult<Self> {
        fs::create_dir_all(modules).map_err(|error| vec![PackageIssue::file(modules, &error)])?;
        let path = modules.join(LOCK);
        fs::create_dir(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => vec![PackageIssue::layout(format!(
                "an installation is already in progress. If none is, remove the folder {}.",
                path.display()
            ))],
            _ => vec![PackageIssue::file(&path, &error)],
        })?;
        Ok(Self(path))
    }
}

impl Drop for InstallLock {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Installs the package that `fill` writes into the folder it is given. The version that is there is replaced as a whole, and comes
/// back when the new one cannot be put in its place.
pub fn install_folder(home: &Path, clock: &Clock, fill: impl FnOnce(&Path) -> PackageResult<()>) -> PackageResult<InstalledModule> {
    let modules = home.join("modules");
    let _lock = InstallLock::take(&modules)?;
    remove_stale(&modules);
    let mut random = [0; 8];
    clock.fill(&mut random);
    let temporary = modules.join(format!(".tmp-install-{}", hex(&random)));
    let backup = modules.join(format!(".tmp-backup-{}", hex(&random)));
    let installed = prepare(&temporary, fill).and_then(|manifest| replace(&modules, &manifest, &temporary, &backup));
    let _ = fs::remove_dir_all(&temporary);
    installed
}

fn prepare(temporary: &Path, fill: impl FnOnce(&Path) -> PackageResult<()>) -> PackageResult<Manifest> {
    fs::create_dir_all(temporary).map_err(|error| vec![PackageIssue::file(temporary, &error)])?;
    fill(temporary)?;
    let issues = check_installed(temporary);
    if !issues.is_empty() {
        return Err(issues);
    }
    let manifest = Manifest::read(temporary);
    manifest.map_err(|faults| faults.iter().map(|fault| PackageIssue::layout(format!("{MANIFEST_FILE}: {fault}"))).collect())
}

fn replace(modules: &Path, manifest: &Manifest, temporary: &Path, backup: &Path) -> PackageResult<InstalledModule> {
    let target = modules.join(folder_name(&manifest.name, &manifest.version)?);
    let refuse = |error: std::io::Error| vec![PackageIssue::file(&target, &error)];
    let had_one = target.exists();
    if had_one {
        fs::rename(&target, backup).map_err(refuse)?;
    }
    if let Err(error) = fs::rename(temporary, &target) {
        if had_one {
            let _ = fs::rename(backup, &target);
        }
        return Err(refuse(error));
    }
    let _ = fs::remove_dir_all(backup);
    Ok(InstalledModule { name: manifest.name.clone(), version: manifest.version.clone(), install_dir: target })
}

/// The folder's name; a version that would be a path is refused.
fn folder_name(name: &str, version: &str) -> PackageResult<String> {
    if version.contains(['/', '\\']) || version.starts_with('.') {
        return Err(vec![PackageIssue::layout(format!("version: `{version}` cannot be the name of a folder"))]);
    }
    Ok(format!("{name}@{version}"))
}

/// Returns the installed versions of a module.
pub fn find_installed(home: &Path, name: &str, version: Option<&str>) -> Vec<InstalledModule> {
    let modules = home.join("modules");
    let entries = fs::read_dir(&modules).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<InstalledModule> = entries
        .filter_map(|path| {
            let (found_name, found_version) = path.file_name()?.to_str()?.rsplit_once('@')?;
            let is_asked = found_name == name && version.is_none_or(|version| version == found_version);
            let module = InstalledModule { name: name.to_owned(), version: found_version.to_owned(), install_dir: path.clone() };
            (is_asked && path.is_dir()).then_some(module)
        })
        .collect();
    found.sort_by(|one, other| one.version.cmp(&other.version));
    found
}

/// Removes installed versions of a module, all unless one is named, and returns them.
pub fn uninstall(home: &Path, name: &str, version: Option<&str>) -> PackageResult<Vec<InstalledModule>> {
    let found = find_installed(home, name, version);
    if found.is_empty() {
        return Ok(found);
    }
    let _lock = InstallLock::take(&home.join("modules"))?;
    for module in &found {
        fs::remove_dir_all(&module.install_dir).map_err(|error| vec![PackageIssue::file(&module.install_dir, &error)])?;
    }
    Ok(found)
}

fn remove_stale(modules: &Path) {
    for path in fs::read_dir(modules).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if STALE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}
