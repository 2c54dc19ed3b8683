//! The server's own key: given by the operator, or made once and kept in the data folder.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::sealed_data;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::store::SharedStore;

/// The key's file in the data folder.
pub const FILE: &str = "master.key";
/// How often a key that another server is writing is looked at, and how long between.
const MAX_LOOKS: u32 = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The key's 32 bytes.
pub struct MasterKey {
    pub bytes: [u8; 32],
    /// The key's file, if it was created just now.
    pub made: Option<PathBuf>,
}

/// Reads the key, or creates a missing one. Refuses to create one if the database contains data that only the missing key opens, unless
/// the operator asks for a new key.
pub async fn read(config: &Config, store: &SharedStore, clock: &Clock) -> Result<MasterKey> {
    if let Some(bytes) = existing(config)? {
        return Ok(MasterKey { bytes, made: None });
    }
    let path = config.data.join(FILE);
    if !config.new_master_key
        && let Some(what) = sealed_data::find(&**store).await?
    {
        return Err(missing(&path, what));
    }
    match create(&path, clock) {
        Ok(bytes) => Ok(MasterKey { bytes, made: Some(path) }),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => made_by_another(config, clock).await,
        Err(error) => Err(unusable(&path, error)),
    }
}

/// Reads the key that another server over the same folder has just created, and may still be writing.
async fn made_by_another(config: &Config, clock: &Clock) -> Result<MasterKey> {
    for _ in 0..MAX_LOOKS {
        if let Ok(Some(bytes)) = existing(config) {
            return Ok(MasterKey { bytes, made: None });
        }
        clock.sleep(LOOK_AGAIN).await;
    }
    let bytes = existing(config)?.ok_or_else(|| Error::internal("the master key was created and deleted"))?;
    Ok(MasterKey { bytes, made: None })
}

/// Like [`read`], but never creates a key.
pub fn existing(config: &Config) -> Result<Option<[u8; 32]>> {
    if let Some(key) = &config.master_key {
        return decode(key.expose()).map(Some).ok_or_else(|| wrong("DISPATCH_MASTER_KEY"));
    }
    let path = config.data.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => decode(&Zeroizing::new(text)).map(Some).ok_or_else(|| wrong(&path.display().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unusable(&path, error)),
    }
}

/// 32 bytes as base64 or hex.
fn decode(text: &str) -> Option<[u8; 32]> {
    let text = text.trim();
    let bytes = match STANDARD.decode(text) {
        Ok(bytes) if bytes.len() == 32 => bytes,
        _ => hex(text)?,
    };
    bytes.try_into().ok()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn create(path: &Path, clock: &Clock) -> std::io::Result<[u8; 32]> {
    let mut key = [0u8; 32];
    clock.fill(&mut key);
    let text = Zeroizing::new(STANDARD.encode(key));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(key)
}

fn wrong(place: &str) -> Error {
    Error::new(Kind::Invalid, "master_key_invalid", format!("{place} is not 32 bytes as base64 or hex"))
}

fn missing(path: &Path, what: &str) -> Error {
    let message = format!("there is no master key in {}, and the database contains {what} that only the missing key opens", path.display());
    Error::new(Kind::Invalid, "master_key_missing", message).next(
        "restore master.key from a backup, or set DISPATCH_MASTER_KEY to the key; \
         with --new-master-key the server makes a new one, and what the old one seals stays unreadable",
    )
}

fn unusable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Invalid, "master_key_unreadable", format!("the master key {} cannot be used: {error}", path.display())).because(error)
}
