//! A server as a child process: started, asked for its CPU time and memory, ended with the driver.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// See the module.
pub struct Server {
    _child: Child,
    pid: u32,
    pub url: String,
    pub address: String,
}

/// Clock ticks a second, as Linux reports CPU times.
const TICKS: f64 = 100.0;
/// KiB of a memory page.
const PAGE_KIB: u64 = 4;

impl Server {
    /// Starts a command that prints one JSON line with its `url`.
    pub async fn start(binary: &Path, arguments: &[&str], environment: &[(&str, &str)], pin: Option<usize>) -> Result<Self> {
        let mut command = match pin {
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.args(arguments).envs(environment.iter().copied()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", binary.display()))?;
        let pid = child.id().context("the server ended at once")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let line = BufReader::new(stdout).lines().next_line().await?.context("the server said nothing")?;
        let hello: Value = serde_json::from_str(&line)?;
        let url = hello["url"].as_str().context("no url")?.to_owned();
        let address = url.trim_start_matches("http://").to_owned();
        Ok(Self { _child: child, pid, url, address })
    }

    /// User and system time so far, in milliseconds.
    pub fn cpu_ms(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
        Ok((ticks(11) + ticks(12)) / TICKS * 1_000.0)
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid))?;
        let pages: u64 = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or_default();
        Ok(pages * PAGE_KIB)
    }

    /// Open files and sockets.
    pub fn open_files(&self) -> Result<u64> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid))?.count() as u64)
    }
}
