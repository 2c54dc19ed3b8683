//! Printing in a process of its own (`dispatch print-worker`), one for each document.
//!
//! Nobody can say beforehand how long a page takes, or how deep the printer's recursion goes; a process can be killed, and dies alone. It has an empty
//! environment and bounded memory: a line of JSON comes in, and out comes the PDF, or why there is none.

use std::io::{Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::Layout;
use super::pdf::{self, LARGEST, LONGEST, Unprintable};
use crate::process::{self, Process};

/// The command that makes a printing process of this program.
pub const COMMAND: &str = "print-worker";
/// Memory of one process in bytes, its stack among it.
const MEMORY: u64 = 2 << 30;
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

/// Prints one document after the other: each keeps a whole core busy.
#[derive(Debug)]
pub struct Printer {
    /// Not there: this process cannot make others of its kind.
    program: Option<PathBuf>,
    turn: Semaphore,
}

impl Printer {
    /// A printer whose processes are of `program`.
    pub fn new(program: Option<PathBuf>) -> Self {
        Self { program, turn: Semaphore::new(1) }
    }

    /// Prints a document. Ends with the future: whoever no longer waits for it has it killed.
    pub async fn print(&self, markup: Markup, document: String, layout: Layout) -> Result<Vec<u8>, Unprintable> {
        if document.len() > LONGEST {
            return Err(Unprintable::TooLong(document.len()));
        }
        let _turn = self.turn.acquire().await.map_err(|_| Unprintable::Unavailable)?;
        let program = self.program.as_ref().ok_or(Unprintable::Unavailable)?;
        let job = serde_json::to_vec(&Job { markup, document, layout }).map_err(|error| Unprintable::Broken(error.to_string()))?;
        let Process { child: _child, mut input, output } = Process::start(program, COMMAND).map_err(|_| Unprintable::Unavailable)?;
        // One that is gone says so by an output that ends early.
        if input.write_all(&job).await.is_ok() {
            drop(input);
        }
        let mut printed = Vec::new();
        let read = output.take(LARGEST as u64 + 1).read_to_end(&mut printed).await;
        read.map_err(|error| Unprintable::Broken(error.to_string()))?;
        match printed.starts_with(MAGIC) {
            true if printed.len() > LARGEST => Err(Unprintable::TooLarge(printed.len())),
            true => Ok(printed),
            false => Err(serde_json::from_slice(&printed).unwrap_or(Unprintable::Unlaid)),
        }
    }
}

/// The process's side. Blocks; may be killed at any moment.
pub fn serve() -> std::io::Result<()> {
    process::bound(MEMORY);
    let mut line = String::new();
    std::io::stdin().lock().read_to_string(&mut line)?;
    let Job { markup, document, layout } = serde_json::from_str(&line)?;
    let printed = match markup {
        Markup::Html => pdf::from_html(&document, &layout),
        Markup::Markdown => pdf::from_markdown(&document, &layout),
    };
    let mut output = std::io::stdout().lock();
    match printed {
        Ok(pdf) => output.write_all(&pdf)?,
        Err(why) => serde_json::to_writer(&mut output, &why)?,
    }
    output.flush()
}
