//! `dispatch backup` and `dispatch restore`: copies of the embedded database and its files, also while a server runs.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::database::Location;
use super::output::Output;
use crate::app::{self, BackupContents};
use crate::clock::Clock;
use crate::error::{Error, Result};

/// Arguments of `dispatch backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArguments {
    /// Folder to write the backup to; it must not exist.
    to: PathBuf,
    #[command(flatten)]
    database: Location,
    /// Where the server keeps files, if not in the data folder: a folder, or `s3://bucket/prefix`, which is not copied.
    #[arg(long, env = "DISPATCH_ASSETS")]
    assets: Option<String>,
    /// Copy the master key, too. Anyone who holds such a backup can read the stored secrets.
    #[arg(long)]
    include_master_key: bool,
}

/// Arguments of `dispatch restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArguments {
    /// Folder that `dispatch backup` wrote.
    from: PathBuf,
    #[command(flatten)]
    database: Location,
}

pub async fn backup(arguments: BackupArguments, output: &Output) -> Result<()> {
    let mut config = arguments.database.existing()?;
    config.assets = arguments.assets;
    let contents = app::back_up(&config, &Clock::system(), &arguments.to, arguments.include_master_key).await?;
    output.say(format_args!(
        "backup of the database ({} KiB) and {} files in {}",
        contents.database_bytes.div_ceil(1_024),
        contents.assets,
        contents.folder.display()
    ));
    let mut keep = Vec::new();
    if !contents.master_key {
        keep.push(format!(
            "the master key ({}, or DISPATCH_MASTER_KEY): stored secrets cannot be decrypted without it",
            key_file(&config.data)
        ));
    }
    keep.extend(contents.bucket.iter().map(|bucket| format!("the files in {bucket}")));
    keep.iter().for_each(|what| output.say(format_args!("keep separately: {what}")));
    output.envelope(json!({ "backup": shown(&contents)?, "keepSeparately": keep }))
}

pub async fn restore(arguments: RestoreArguments, output: &Output) -> Result<()> {
    let config = arguments.database.config();
    let contents = app::restore(&config, &Clock::system(), &arguments.from).await?;
    output.say(format_args!("restored the database and {} files to {}", contents.assets, contents.folder.display()));
    if !contents.master_key {
        output.say(format_args!(
            "the backup has no master key: put it to {}, or set DISPATCH_MASTER_KEY, before the server starts",
            key_file(&config.data)
        ));
    }
    output.envelope(json!({ "restored": shown(&contents)? }))
}

fn key_file(data: &std::path::Path) -> String {
    data.join("master.key").display().to_string()
}

fn shown(contents: &BackupContents) -> Result<Value> {
    serde_json::to_value(contents).map_err(Error::internal)
}
