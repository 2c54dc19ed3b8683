//! The server's own key: given by the operator, or made once and kept in the data folder.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Kind, Result};

const FILE: &str = "master.key";

/// The key's 32 bytes.
pub struct MasterKey {
    pub bytes: [u8; 32],
    /// The key's file, if it was created just now.
    pub made: Option<PathBuf>,
}

/// Reads the key, or creates one if there is none.
pub fn read(config: &Config, clock: &Clock) -> Result<MasterKey> {
    let known = |bytes| MasterKey { bytes, made: None };
    if let Some(key) = &config.master_key {
        return decode(key.expose()).map(known).ok_or_else(|| wrong("DISPATCH_MASTER_KEY"));
    }
    let path = config.data.join(FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => decode(&Zeroizing::new(text)).map(known).ok_or_else(|| wrong(&path.display().to_string())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create(&path, clock).map(|bytes| MasterKey { bytes, made: Some(path) })
        }
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// Like [`read`], but never creates a key.
pub fn existing(config: &Config, clock: &Clock) -> Result<Option<[u8; 32]>> {
    let there = config.master_key.is_some() || config.data.join(FILE).exists();
    there.then(|| read(config, clock).map(|key| key.bytes)).transpose()
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

fn create(path: &Path, clock: &Clock) -> Result<[u8; 32]> {
    let mut key = [0u8; 32];
    clock.fill(&mut key);
    let text = Zeroizing::new(STANDARD.encode(key));
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())).map_err(|error| unreadable(path, &error))?;
    Ok(key)
}

fn wrong(place: &str) -> Error {
    Error::new(Kind::Invalid, "master_key_invalid", format!("{place} is not 32 bytes as base64 or hex"))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Invalid, "master_key_unreadable", format!("the master key {} cannot be used: {error}", path.display()))
}
