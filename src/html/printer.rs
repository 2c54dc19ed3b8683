//! Prints documents in subprocesses (`dispatch print-worker`), one for each document.
//!
//! Nobody can say beforehand how long a page takes, or how deep the printer's recursion goes; a process can be killed, and dies alone. It has an empty
//! environment and limited memory and time; free printers are given to waiting tenants in turn.

use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Layout;
use super::pdf::{self, LARGEST, LONGEST, Unprintable};
use crate::clock::Clock;
use crate::fair::Party;
use crate::process::{self, MAX_QUEUED, Pool, PoolError, PoolOptions};

/// The command that makes a printing process of this program.
pub const COMMAND: &str = "print-worker";
/// Memory of one process in bytes, its stack among it.
const MEMORY: u64 = 2 << 30;
/// Maximum number of documents that are printed at once unless the operator sets one: each keeps a core busy.
const MAX_CONCURRENT: usize = 4;
/// Maximum length of the message that explains why there is no PDF, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// What every PDF begins with.
const MAGIC: &[u8] = b"%PDF-";

/// What a document is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Markup {
    Html,
    /// CommonMark with tables.
    Markdown,
}

#[derive(Serialize, Deserialize)]
struct Job {
    markup: Markup,
    document: String,
    layout: Layout,
}

/// How much may be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrintLimits {
    /// Time limit for one document.
    pub time: Duration,
    /// Documents that are printed at once; one for each core and at most 4 when absent.
    pub workers: Option<usize>,
    /// Maximum number of one tenant's documents that wait to be printed.
    pub queue: usize,
}

impl Default for PrintLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), workers: None, queue: MAX_QUEUED }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Printer {
    /// Not there: this process cannot make others of its kind.
    pool: Option<Pool>,
    longest: Duration,
}

impl Printer {
    /// Returns a printer whose subprocesses run `program`.
    pub fn new(program: Option<PathBuf>, limits: PrintLimits, clock: Clock) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        // A fresh process for each document: nothing of one document can affect the next.
        let turns = limits.workers.unwrap_or(cores.min(MAX_CONCURRENT));
        let options = |program| PoolOptions { program, command: COMMAND, turns, queue: limits.queue, uses: 1 };
        Self { pool: program.map(|program| Pool::new(options(program), clock)), longest: limits.time }
    }

    /// Prints a document when the party's turn comes. Dropping the future kills the subprocess.
    pub async fn print(&self, party: Party, markup: Markup, document: String, layout: Layout) -> Result<Vec<u8>, Unprintable> {
        if document.len() > LONGEST {
            return Err(Unprintable::TooLong(document.len()));
        }
        let pool = self.pool.as_ref().ok_or(Unprintable::Unavailable)?;
        let job = serde_json::to_vec(&Job { markup, document, layout }).map_err(|error| Unprintable::Broken(error.to_string()))?;
        let printed = pool.ask(party, &job, self.longest, LARGEST + MAX_MESSAGE_BYTES).await.map_err(|why| match why {
            PoolError::QueueFull => Unprintable::QueueFull,
            PoolError::Late => Unprintable::Late(self.longest),
            PoolError::Gone => Unprintable::Unlaid,
            PoolError::Unstartable => Unprintable::Unavailable,
        })?;
        match printed.starts_with(MAGIC) {
            true if printed.len() > LARGEST => Err(Unprintable::TooLarge(printed.len())),
            true => Ok(printed),
            false => Err(serde_json::from_slice(&printed).unwrap_or(Unprintable::Unlaid)),
        }
    }
}

/// The process's side. Blocks; may be killed at any moment.
pub fn serve() -> std::io::Result<()> {
    process::serve(MEMORY, |request| {
        let printed = serde_json::from_slice(request).map_err(|error| Unprintable::Broken(error.to_string())).and_then(
            |Job { markup, document, layout }| match markup {
                Markup::Html => pdf::from_html(&document, &layout),
                Markup::Markdown => pdf::from_markdown(&document, &layout),
            },
        );
        printed.unwrap_or_else(|why| serde_json::to_vec(&why).unwrap_or_default())
    })
}
