//! The binary: a runtime around the commands.

use std::process::ExitCode;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long threads that are still busy when a command has ended may take to finish.
const THREADS_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_multi_thread().enable_all().build() else { return ExitCode::from(1) };
    let code = runtime.block_on(dispatch::cli::main());
    runtime.shutdown_timeout(THREADS_TIMEOUT);
    code
}
