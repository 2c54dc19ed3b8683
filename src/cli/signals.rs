//! Interrupt and termination, as something to wait for.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Result};

/// What the shell expects of a process that an interrupt ended.
pub const INTERRUPTED: u8 = 130;

/// `SIGXFSZ`, on Linux, macOS and the BSDs.
const FILE_TOO_LARGE: i32 = 25;

/// From its making on, neither signal ends the process by itself.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(Error::internal);
        // Once heard, it does not end the process: the write that was too much fails, as on a full disk.
        drop(listen(SignalKind::from_raw(FILE_TOO_LARGE))?);
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// The next signal.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
