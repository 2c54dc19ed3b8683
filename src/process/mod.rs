//! Processes of this program that do what only killing is sure to stop.
//!
//! A [`Pool`] starts workers on demand, sends each one request at a time, and kills one that exceeds its time limit; [`serve`] is their
//! side. Requests and answers are bytes with a length prefix.
//!
//! Must not know: what they do.

mod pool;
mod serve;

use std::io;
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, ChildStdin, ChildStdout, Command};

pub use pool::{MAX_QUEUED, Pool, PoolError, PoolOptions};
pub use serve::serve;

/// A process, and its ends. It is killed when it is dropped.
#[derive(Debug)]
struct Process {
    /// Killed when this is dropped.
    _child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Process {
    /// Starts `program` with one of its commands and an empty environment.
    fn start(program: &Path, command: &str) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(command)
            .env_clear()
            // The allocator would set aside more than such a process may have.
            .env("MIMALLOC_ARENA_RESERVE", "32768")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .inspect_err(|error| tracing::error!(program = %program.display(), %command, %error, "no process could be started"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { _child: child, input, output }),
            _ => Err(io::Error::other("a process without input or output")),
        }
    }
}

/// Bounds the memory of this process, in bytes, where the system can.
fn bound(memory: u64) {
    if let Err(error) = rlimit::setrlimit(rlimit::Resource::DATA, memory, memory) {
        tracing::debug!(%error, "no limit on memory here");
    }
}

/// Raises this process's limit on open files to the hard limit; returns the new limit, if there is one.
pub fn raise_open_files() -> Option<u64> {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => Some(limit).filter(|limit| *limit < u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "failed to raise the limit on open files");
            rlimit::getrlimit(rlimit::Resource::NOFILE).ok().map(|(soft, _)| soft)
        }
    }
}
