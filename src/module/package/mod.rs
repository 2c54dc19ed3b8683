//! Packages of modules: a folder or a `.dpmod.zip` that holds everything a module needs to run.

mod archive;
mod imports;
mod install;
mod normalize;

use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::manifest::{MANIFEST_FILE, Manifest};

pub use archive::{MAX_PACKAGE_BYTES, read_tarball, read_zip, write_zip};
pub use install::{InstalledModule, find_installed, install_folder, uninstall};
pub use normalize::{check_sources, normalize};

/// The record of how a package was made.
pub const ARTIFACT_FILE: &str = "artifact.json";
/// The code of every package.
pub const BUNDLED_ENTRY: &str = "dist/index.mjs";

/// The issues of packages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PackageIssueCode {
    /// The manifest's entry does not exist.
    MissingEntry,
    /// The code cannot be put into one folder.
    BundleFailed,
    /// The code imports something that a package does not hold.
    UnresolvedRuntimeImport,
    /// The manifest, a path or a file of the package is wrong.
    InvalidArtifactLayout,
    /// Installed by a version that did not make packages.
    LegacyInstalledFormat,
}

/// A reason why a module cannot be packed or installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PackageIssue {
    pub code: PackageIssueCode,
    /// The file or import in question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub message: String,
}

impl PackageIssue {
    pub(super) fn new(code: PackageIssueCode, path: Option<String>, message: impl Into<String>) -> Self {
        Self { code, path, message: message.into() }
    }

    /// Returns the issue of a package whose layout is wrong.
    fn layout(message: impl Into<String>) -> Self {
        Self::new(PackageIssueCode::InvalidArtifactLayout, None, message)
    }

    /// Returns the issue of a file that cannot be read or written.
    fn file(path: &Path, error: &std::io::Error) -> Self {
        Self::layout(format!("{}: {error}", path.display()))
    }
}

impl fmt::Display for PackageIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The result of packing and installing.
pub type PackageResult<T> = Result<T, Vec<PackageIssue>>;

/// `artifact.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArtifactRecord {
    pub artifact_schema_version: u32,
    pub module_name: String,
    pub module_version: String,
    /// The entry in the module's source.
    pub source_entry: String,
    pub bundled_entry: String,
    pub cli_version: String,
    pub normalized_at: String,
    /// The hash of the source's files.
    pub source_hash: String,
    pub bundler: String,
    pub bundler_version: String,
}

impl ArtifactRecord {
    /// Reads the record; the error says why it cannot be read.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Returns every reason why a folder is not an installed package.
pub fn check_installed(folder: &Path) -> Vec<PackageIssue> {
    let manifest = match Manifest::read(folder) {
        Ok(manifest) => manifest,
        Err(faults) => return faults.iter().map(|fault| PackageIssue::layout(format!("{MANIFEST_FILE}: {fault}"))).collect(),
    };
    if !folder.join(ARTIFACT_FILE).is_file() || manifest.entry != BUNDLED_ENTRY {
        let message = format!("{} was installed in the old non-portable format", manifest.name);
        return vec![PackageIssue::new(PackageIssueCode::LegacyInstalledFormat, None, message)];
    }
    let mut issues = Vec::new();
    match ArtifactRecord::read(&folder.join(ARTIFACT_FILE)) {
        Ok(record) if (&record.module_name, &record.module_version) != (&manifest.name, &manifest.version) => {
            let (name, version) = (&record.module_name, &record.module_version);
            issues.push(PackageIssue::layout(format!(
                "{ARTIFACT_FILE} is of {name}@{version}, not of {}@{}",
                manifest.name, manifest.version
            )));
        }
        Ok(record) if record.artifact_schema_version != 1 || record.bundled_entry != BUNDLED_ENTRY => {
            issues.push(PackageIssue::layout(format!("{ARTIFACT_FILE} has a format that this version does not know")));
        }
        Ok(_) => {}
        Err(reason) => issues.push(PackageIssue::layout(reason)),
    }
    if folder.join(BUNDLED_ENTRY).is_file() {
        issues.extend(imports::check_bundle(&folder.join("dist")));
    } else {
        issues.push(PackageIssue::layout(format!("{BUNDLED_ENTRY} is missing")));
    }
    issues
}
