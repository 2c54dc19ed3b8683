//! Processes that wait for work.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Process;
use crate::clock::Clock;
use crate::fair::{Crowded, FairSemaphore, Party};

/// Requests of one party that may wait for their turn.
const MOST_WAITING: usize = 4_096;

/// What the processes of a pool are.
#[derive(Debug, Clone)]
pub struct PoolOptions {
    pub program: PathBuf,
    /// The command that makes such a process of the program.
    pub command: &'static str,
    /// How many work at once.
    pub turns: usize,
    /// Requests after which a process makes room for a fresh one.
    pub uses: u32,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unanswered {
    /// Too many requests of the same party wait already.
    Crowded,
    /// It took too long, and was killed.
    Late,
    /// The process went away over it: there was no more memory for it, or stack.
    Gone,
    /// No process could be started.
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
    /// Those that wait for their next request, as many as ever worked at once.
    idle: Mutex<Vec<Worker>>,
}

#[derive(Debug)]
struct Worker {
    process: Process,
    uses: u32,
}

impl Pool {
    pub fn new(options: PoolOptions, clock: Clock) -> Self {
        let turns = FairSemaphore::new(options.turns, MOST_WAITING);
        Self(Arc::new(Inner { options, clock, turns, idle: Mutex::default() }))
    }

    /// Waits for the party's turn and asks a process, which is killed when it takes longer than `time`, or when nobody waits for its answer any more.
    /// An answer has `most` bytes at most.
    pub async fn ask(&self, party: Party, request: &[u8], time: Duration, most: usize) -> Result<Vec<u8>, Unanswered> {
        let inner = &*self.0;
        let _turn = inner.turns.acquire(party).await.map_err(|Crowded| Unanswered::Crowded)?;
        let idle = inner.idle.lock().pop();
        // One that waited may have died meanwhile; a fresh one has not.
        if let Some(worker) = idle
            && let Some(answer) = inner.exchange(worker, request, time, most).await?
        {
            return Ok(answer);
        }
        inner.exchange(inner.start()?, request, time, most).await?.ok_or(Unanswered::Gone)
    }
}

impl Inner {
    fn start(&self) -> Result<Worker, Unanswered> {
        let process = Process::start(&self.options.program, self.options.command).map_err(|_| Unanswered::Unstartable)?;
        Ok(Worker { process, uses: 0 })
    }

    /// Asks one process, which waits for the next request afterwards. `None`: it was gone before it had this one.
    async fn exchange(&self, mut worker: Worker, request: &[u8], time: Duration, most: usize) -> Result<Option<Vec<u8>>, Unanswered> {
        let answer = tokio::select! {
            answer = worker.exchange(request, time, most) => answer?,
            // Dropping the worker kills it.
            () = self.clock.sleep(time) => return Err(Unanswered::Late),
        };
        worker.uses += 1;
        if answer.is_some() && worker.uses < self.options.uses {
            self.idle.lock().push(worker);
        }
        Ok(answer)
    }
}

impl Worker {
    async fn exchange(&mut self, request: &[u8], time: Duration, most: usize) -> Result<Option<Vec<u8>>, Unanswered> {
        let length = u32::try_from(request.len()).map_err(|_| Unanswered::Gone)?;
        let millis = u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        if self.send(&[length.to_le_bytes(), millis.to_le_bytes()].concat(), request).await.is_err() {
            return Ok(None);
        }
        let output = &mut self.process.output;
        let length = output.read_u32_le().await.map_err(|_| Unanswered::Gone)? as usize;
        // The process keeps to its limit; nobody relies on that.
        if length > most {
            return Err(Unanswered::Gone);
        }
        let mut answer = vec![0; length];
        output.read_exact(&mut answer).await.map_err(|_| Unanswered::Gone)?;
        Ok(Some(answer))
    }

    async fn send(&mut self, head: &[u8], request: &[u8]) -> std::io::Result<()> {
        let input = &mut self.process.input;
        input.write_all(head).await?;
        input.write_all(request).await?;
        input.flush().await
    }
}
