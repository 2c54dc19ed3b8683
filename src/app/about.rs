//! Describes the started server to its operator, and stores the first API key.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use url::Url;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::secret::Secret;

/// File in the data folder that receives the first API key when it must not be printed.
const FIRST_KEY: &str = "first-api-key";

/// The facts about a server that its operator sees at the start.
#[derive(Debug, Clone)]
pub struct About {
    /// The folder of the embedded database, the master key and the assets.
    pub data: PathBuf,
    /// The database's address without user name and password.
    pub database: String,
    /// The master key's file, if this start created it.
    pub new_master_key: Option<PathBuf>,
    /// The model providers that the server has keys for.
    pub providers: Vec<String>,
}

/// Returns a database's address in a form that may be logged.
pub(super) fn database(address: &str) -> String {
    match Url::parse(address) {
        Ok(url) if url.scheme() != "sqlite" => {
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
        }
        _ => address.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// Writes the first API key into the data folder, readable only by its owner, and returns the path.
pub fn keep_first_key(config: &Config, key: &Secret) -> Result<PathBuf> {
    let path = config.data.join(FIRST_KEY);
    write(&path, key).map_err(|error| {
        let message = format!("the first API key cannot be written to {}: {error}", path.display());
        Error::new(Kind::Invalid, "data_folder_unusable", message)
            .next("choose another folder with --data, or set the key with DISPATCH_API_KEY")
    })?;
    Ok(path)
}

fn write(path: &Path, key: &Secret) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // An existing file keeps its mode, so set it.
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(key.expose().as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (address, shown) in [
            ("postgres://user:secret@db.example:5433/runs?password=secret", "postgres://db.example:5433/runs"),
            ("postgresql://db/runs", "postgresql://db/runs"),
            ("sqlite://data/dispatch.db?mode=rwc", "sqlite://data/dispatch.db"),
        ] {
            assert_eq!(database(address), shown);
        }
    }
}
