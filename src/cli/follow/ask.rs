//! Questions to whoever sits at the terminal.

use std::io::{IsTerminal, Write};

use crate::error::{Error, Result};

/// Whether somebody can be asked.
pub fn has_person() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Asks until the answer is yes or no; nothing, and the end of input, are no.
///
/// The line is read on a thread of its own: one that nobody answers does not keep the process from ending.
pub async fn yes(question: &'static str) -> Result<bool> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().spawn(move || answer.send(read(question))).map_err(Error::internal)?;
    answered.await.map_err(Error::internal)?.map_err(Error::internal)
}

fn read(question: &str) -> std::io::Result<bool> {
    loop {
        let mut out = std::io::stdout().lock();
        out.write_all(question.as_bytes())?;
        out.flush()?;
        drop(out);
        let mut line = String::new();
        let length = std::io::stdin().read_line(&mut line)?;
        match line.trim().to_lowercase().as_str() {
            "y" | "yes" => return Ok(true),
            "n" | "no" | "" => return Ok(false),
            _ if length == 0 => return Ok(false),
            _ => {}
        }
    }
}
