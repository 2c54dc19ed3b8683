//! Process signals as futures.

use std::process::exit;
use std::time::Duration;

use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::clock::Clock;
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
        survive_large_files()?;
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

/// From now on a write that exceeds the limit on the size of files fails, as on a full disk, and does not end the process.
fn survive_large_files() -> Result<()> {
    listen(SignalKind::from_raw(FILE_TOO_LARGE)).map(drop)
}

/// The signals that do not stop the server.
pub struct Requests {
    hangup: Signal,
    status: Signal,
}

/// What such a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `SIGHUP`: reload.
    Reload,
    /// `SIGUSR1`: log the status.
    Status,
}

impl Requests {
    pub fn listen() -> Result<Self> {
        Ok(Self { hangup: listen(SignalKind::hangup())?, status: listen(SignalKind::user_defined1())? })
    }

    /// Returns the next request.
    pub async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.hangup.recv() => Request::Reload,
            _ = self.status.recv() => Request::Status,
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(Error::internal)
}

/// Ends the process if it has not ended by itself `limit` after the first stop signal, or at the second one.
///
/// It listens on its own thread and runtime: tasks that never yield may block every thread of the server's runtime, which
/// would then not receive signals.
pub fn end_in_any_case(limit: Duration) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Error::internal)?;
    let signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let watch = move || runtime.block_on(end_after(signals, limit));
    std::thread::Builder::new().name("dispatch-stop".into()).spawn(watch).map(drop).map_err(Error::internal)
}

async fn end_after(mut signals: Signals, limit: Duration) {
    signals.next().await;
    let clock = Clock::system();
    tokio::select! {
        () = signals.next() => tracing::warn!("received a second signal; ending the process"),
        () = clock.sleep(limit) => {
            tracing::error!(seconds = limit.as_secs(), "the server did not stop in time because its threads are blocked; ending the process");
        }
    }
    exit(1)
}
