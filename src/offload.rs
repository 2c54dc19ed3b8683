//! Long computations in tasks: parsing and searching large texts must not keep other tasks of the runtime waiting.
//!
//! Must not know: what is computed.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Size in bytes above which a text is not parsed or searched on a thread that runs other tasks.
pub const LARGE: usize = 256 * 1024;

/// Runs work on this thread. If there is much of it, the other tasks of this thread move to another one first.
pub fn give_way<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_threads = || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > LARGE && has_threads() { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn other_tasks_go_on_during_long_work() {
        let (sender, receiver) = mpsc::channel();
        let long = tokio::spawn(async move {
            let other = tokio::spawn(async move { sender.send(()) });
            let went_on = give_way(LARGE + 1, || receiver.recv_timeout(Duration::from_secs(30)));
            let _ = other.await;
            went_on
        });
        assert_eq!(long.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_does_the_work_itself() {
        assert_eq!(give_way(LARGE + 1, || 7), 7);
    }
}
