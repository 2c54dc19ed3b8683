//! The worker's side.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use super::bound;

/// How much later than its parent a worker ends itself.
const GRACE: Duration = Duration::from_secs(1);
/// Stack of the watchdog thread.
const STACK: usize = 128 * 1024;

/// How much lower the priority of workers is than the server's, as `nice` counts.
const NICENESS: i32 = 5;

/// Answers the requests on standard input until it ends, with `memory` bytes of memory. Blocks, and may be killed at any moment.
pub fn serve(memory: u64, mut answer: impl FnMut(&[u8]) -> Vec<u8>) -> io::Result<()> {
    bound(memory);
    // For this thread and those that it starts: the server answers its callers also when scripts keep every core busy.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!(%error, "the worker keeps the server's priority");
    }
    let time = watch()?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    loop {
        let (mut length, mut millis) = ([0; 4], [0; 4]);
        match input.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        input.read_exact(&mut millis)?;
        let mut request = vec![0; u32::from_le_bytes(length) as usize];
        input.read_exact(&mut request)?;
        let limit = Duration::from_millis(u32::from_le_bytes(millis).into());
        let _ = time.send(Some(limit.saturating_add(GRACE)));
        let said = answer(&request);
        let _ = time.send(None);
        let length = u32::try_from(said.len()).map_err(io::Error::other)?;
        output.write_all(&length.to_le_bytes())?;
        output.write_all(&said)?;
        output.flush()?;
    }
}

/// Ends this process when a request exceeds its time limit: the parent, which would kill it, may itself have been killed.
fn watch() -> io::Result<Sender<Option<Duration>>> {
    let (sender, told) = mpsc::channel::<Option<Duration>>();
    let watch = move || {
        let mut limit = None;
        loop {
            let next = match limit {
                None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(limit) => told.recv_timeout(limit),
            };
            match next {
                Ok(next) => limit = next,
                Err(RecvTimeoutError::Timeout) => std::process::exit(1),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    };
    std::thread::Builder::new().name("watch".into()).stack_size(STACK).spawn(watch)?;
    Ok(sender)
}
