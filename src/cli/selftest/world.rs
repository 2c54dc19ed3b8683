//! The server under test: a real process that is started, dies, and is started again over the same database.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, watch};

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
/// Points that are reached when logs are made small, which happens a day after a run's end when nobody says otherwise.
pub const SHRINKING: &str = "log.shrink.";
/// The signal that a failpoint dies by.
const ABORT: i32 = 6;

/// How the server is started.
#[derive(Clone)]
pub struct Setup {
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, String)>,
    /// What the server writes to its standard error is gathered here.
    pub log: PathBuf,
    pub clock: Clock,
}

/// How a start came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    Serving,
    /// It died before it served, as an armed failpoint may have it.
    Died,
}

/// Where the servers are reached, each in its place, while they serve.
pub type Bases = Vec<Option<String>>;

/// See the module.
pub struct World {
    setup: Setup,
    child: Mutex<Option<Child>>,
    bases: watch::Sender<Bases>,
    /// The place of this server's address among them.
    number: usize,
}

impl World {
    /// The first of `count` servers over one database.
    pub fn new(setup: Setup, count: usize) -> Self {
        Self { setup, child: Mutex::new(None), bases: watch::Sender::new(vec![None; count.max(1)]), number: 0 }
    }

    /// Another of them.
    pub fn fellow(&self, number: usize) -> Self {
        Self { setup: self.setup.clone(), child: Mutex::new(None), bases: self.bases.clone(), number }
    }

    /// Where this server and its fellows are reached.
    pub fn bases(&self) -> watch::Receiver<Bases> {
        self.bases.subscribe()
    }

    fn tell(&self, base: Option<String>) {
        self.bases.send_modify(|bases| {
            if let Some(place) = bases.get_mut(self.number) {
                *place = base;
            }
        });
    }

    /// Starts the server, with a failpoint armed if one is given.
    pub async fn start(&self, failpoint: Option<&str>) -> Result<Began> {
        let mut place = self.child.lock().await;
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.setup.log).map_err(Error::internal)?;
        let mut command = Command::new(std::env::current_exe().map_err(Error::internal)?);
        command.args(&self.setup.arguments).env_clear().envs(self.setup.environment.iter().cloned());
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(failpoint) = failpoint {
            command.env("DISPATCH_FAILPOINT", failpoint);
            if failpoint.starts_with(SHRINKING) {
                command.env("DISPATCH_COMPACT_AFTER_SECONDS", "1");
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(log)).kill_on_drop(true);
        let mut child = command.spawn().map_err(Error::internal)?;
        let mut lines = BufReader::new(child.stdout.take().ok_or_else(|| Error::internal("no standard output"))?).lines();
        let first = tokio::select! {
            line = lines.next_line() => line.map_err(Error::internal)?,
            () = self.setup.clock.sleep(START) => return Err(self.failed("the server did not start in time")),
        };
        let said: Value = first.as_deref().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let Some(url) = said.get("url").and_then(Value::as_str) else {
            let status = child.wait().await.map_err(Error::internal)?;
            if failpoint.is_some() && died_on_purpose(status) {
                return Ok(Began::Died);
            }
            return Err(self.failed(&format!("the server did not start: {}", first.unwrap_or_else(|| status.to_string()))));
        };
        self.tell(Some(url.to_owned()));
        *place = Some(child);
        Ok(Began::Serving)
    }

    /// Kills the server as a power cut would: no word, no clean-up.
    pub async fn kill(&self) -> Result<()> {
        let mut place = self.child.lock().await;
        if let Some(child) = place.as_mut() {
            child.kill().await.map_err(Error::internal)?;
        }
        *place = None;
        self.tell(None);
        Ok(())
    }

    /// Asks the server to stop in order.
    pub async fn terminate(&self) -> Result<()> {
        self.act("kill", "-TERM").await
    }

    /// Stops the server where it stands, as a machine that is suspended does.
    pub async fn freeze(&self) -> Result<()> {
        self.act("kill", "-STOP").await
    }

    pub async fn thaw(&self) -> Result<()> {
        self.act("kill", "-CONT").await
    }

    /// The size in bytes beyond which the disk takes no write of the server; `None`: as the system has it.
    pub async fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        // The hard limit stays, or the soft one could not be raised again.
        let Some(pid) = self.pid().await else { return Ok(()) };
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={limit}:")]).status().await.map_err(Error::internal)?;
        if status.success() { Ok(()) } else { Err(self.failed("prlimit could not limit the server's files")) }
    }

    async fn act(&self, command: &str, option: &str) -> Result<()> {
        if let Some(pid) = self.pid().await {
            Command::new(command).args([option, &pid]).status().await.map_err(Error::internal)?;
        }
        Ok(())
    }

    async fn pid(&self) -> Option<String> {
        self.child.lock().await.as_ref().and_then(Child::id).map(|pid| pid.to_string())
    }

    /// Waits until the server is gone by itself; whether it died on purpose.
    pub async fn gone(&self) -> Result<bool> {
        let mut place = self.child.lock().await;
        let status = match place.as_mut() {
            Some(child) => child.wait().await.map_err(Error::internal)?,
            None => return Ok(false),
        };
        *place = None;
        self.tell(None);
        Ok(died_on_purpose(status))
    }

    fn failed(&self, why: &str) -> Error {
        Error::new(Kind::Internal, "selftest_server_failed", why.to_owned())
            .next(format!("read what it said in {}", self.setup.log.display()))
    }
}

fn died_on_purpose(status: ExitStatus) -> bool {
    status.signal() == Some(ABORT)
}
