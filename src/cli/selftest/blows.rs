//! What may befall the servers under test and their database, one blow at a time.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use super::dice::Dice;
use super::site::{LEASE, Site};
use crate::error::{Error, Kind, Result};

/// Between two cuts of the connections that hear notifications.
const CUT: Duration = Duration::from_millis(50);
/// A page of SQLite's log with its header, in bytes.
const PAGE: u64 = 4_096 + 24;

/// A kind of blow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Blow {
    /// A server dies by `kill -9` and is started again, at once or after its leases are over.
    Kill,
    /// A server stands still for longer than its leases last, then goes on as if nothing had been (`SIGSTOP`, `SIGCONT`).
    Freeze,
    /// No server hears the notifications of the others for a while (PostgreSQL).
    Deaf,
    /// The disk takes no further write after the n-th, for a while (SQLite; needs `prlimit`).
    Disk,
    /// The database is restarted by the command of `--restart-database`.
    Database,
}

impl Blow {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Deaf => "deaf",
            Self::Disk => "disk",
            Self::Database => "database",
        }
    }

    /// Deals the blow; returns when it is over and every server is up again.
    pub async fn deal(self, site: &Site, dice: &mut Dice) -> Result<()> {
        let nodes = site.servers().count();
        let number = usize::try_from(dice.below(u64::try_from(nodes).unwrap_or(1))).unwrap_or(0);
        let server = site.servers().nth(number).unwrap_or(&site.world);
        let outlives = |dice: &mut Dice| dice.between(LEASE, LEASE * 2);
        match self {
            Self::Kill => {
                server.kill().await?;
                if nodes > 1 && dice.one_in(2) {
                    // The others take over what it had.
                    site.clock.sleep(outlives(dice)).await;
                }
                server.start(None).await?;
            }
            Self::Freeze => {
                server.freeze().await?;
                site.clock.sleep(outlives(dice)).await;
                site.ledger.wakes();
                server.thaw().await?;
            }
            Self::Deaf => {
                let over = site.clock.sleep(outlives(dice));
                tokio::pin!(over);
                loop {
                    site.place.deafen().await?;
                    tokio::select! {
                        () = &mut over => break,
                        () = site.clock.sleep(CUT) => {}
                    }
                }
            }
            Self::Disk => {
                let written = longest_file(&site.place.data());
                server.limit_files(Some(written + PAGE * dice.below(64))).await?;
                site.clock.sleep(dice.between(Duration::from_millis(100), LEASE)).await;
                server.limit_files(None).await?;
            }
            Self::Database => restart(site.restart_database.as_deref()).await?,
        }
        Ok(())
    }
}

/// The size in bytes of the log that is being written, or of the database when that is longer.
fn longest_file(folder: &Path) -> u64 {
    let sizes = std::fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
    sizes.map(|file| file.len()).max().unwrap_or(0)
}

async fn restart(command: Option<&str>) -> Result<()> {
    let command = command.ok_or_else(|| Error::internal("no command restarts the database"))?;
    let status = Command::new("sh").args(["-c", command]).status().await.map_err(Error::internal)?;
    if !status.success() {
        return Err(Error::new(Kind::Internal, "selftest_server_failed", format!("--restart-database ended with {status}")));
    }
    Ok(())
}
