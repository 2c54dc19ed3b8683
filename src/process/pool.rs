//! A pool of worker processes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Process;
use crate::clock::Clock;
use crate::fair::{FairSemaphore, Party, QueueFull};

/// Maximum length of one party's queue unless the operator sets one.
pub const MAX_QUEUED: usize = 4_096;

/// The workers of a pool.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    pub program: PathBuf,
    /// The subcommand that makes the program a worker.
    pub command: &'static str,
    /// Maximum number of concurrent requests.
    pub turns: usize,
    /// Maximum length of one party's queue.
    pub queue: usize,
    /// Requests after which a worker is replaced by a fresh one.
    pub uses: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolError {
    /// The party's queue is full.
    QueueFull,
    /// The worker exceeded the time limit and was killed.
    Late,
    /// The worker died during the request: it ran out of memory or stack.
    Gone,
    /// No worker could be started.
    Unstartable,
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PoolOptions,
    clock: Clock,
    turns: FairSemaphore,
    /// Idle workers, at most as many as ever worked concurrently.
    idle: Mutex<Vec<Worker>>,
}

#[derive(Debug)]
struct Worker {
    process: Process,
    uses: u32,
}

impl Pool {
    pub fn new(options: PoolOptions, clock: Clock) -> Self {
        let turns = FairSemaphore::new(options.turns, options.queue);
        Self(Arc::new(Inner { options, clock, turns, idle: Mutex::default() }))
    }

    /// Waits for the party's turn and sends the request to a worker, which is killed when it exceeds `time`, or when the future is dropped.
    /// An answer has at most `most` bytes.
    pub async fn ask(&self, party: Party, request: &[u8], time: Duration, most: usize) -> Result<Vec<u8>, PoolError> {
        let inner = &*self.0;
        let _turn = inner.turns.acquire(party).await.map_err(|QueueFull| PoolError::QueueFull)?;
        let idle = inner.idle.lock().pop();
        // An idle worker may have died in the meantime; a fresh one has not.
        if let Some(worker) = idle
            && let Some(answer) = inner.exchange(worker, request, time, most).await?
        {
            return Ok(answer);
        }
        inner.exchange(inner.start()?, request, time, most).await?.ok_or(PoolError::Gone)
    }
}

impl Inner {
    fn start(&self) -> Result<Worker, PoolError> {
        let process = Process::start(&self.options.program, self.options.command).map_err(|_| PoolError::Unstartable)?;
        Ok(Worker { process, uses: 0 })
    }

    /// Sends the request to one worker, which becomes idle afterwards. `None`: it had died before it received the request.
    async fn exchange(&self, mut worker: Worker, request: &[u8], time: Duration, most: usize) -> Result<Option<Vec<u8>>, PoolError> {
        let answer = tokio::select! {
            answer = worker.exchange(request, time, most) => answer?,
            // Dropping the worker kills it.
            () = self.clock.sleep(time) => return Err(PoolError::Late),
        };
        worker.uses += 1;
        if answer.is_some() && worker.uses < self.options.uses {
            self.idle.lock().push(worker);
        }
        Ok(answer)
    }
}

impl Worker {
    async fn exchange(&mut self, request: &[u8], time: Duration, most: usize) -> Result<Option<Vec<u8>>, PoolError> {
        let length = u32::try_from(request.len()).map_err(|_| PoolError::Gone)?;
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        if self.send(&[length.to_le_bytes(), millis.to_le_bytes()].concat(), request).await.is_err() {
            return Ok(None);
        }
        let output = &mut self.process.output;
        let length = output.read_u32_le().await.map_err(|_| PoolError::Gone)? as usize;
        // Workers keep to this limit themselves, but the server does not trust them.
        if length > most {
            return Err(PoolError::Gone);
        }
        let mut answer = vec![0; length];
        output.read_exact(&mut answer).await.map_err(|_| PoolError::Gone)?;
        Ok(Some(answer))
    }

    async fn send(&mut self, head: &[u8], request: &[u8]) -> std::io::Result<()> {
        let input = &mut self.process.input;
        input.write_all(head).await?;
        input.write_all(request).await?;
        input.flush().await
    }
}
