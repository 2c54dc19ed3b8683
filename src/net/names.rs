//! How names become addresses.
//!
//! Must not know: which addresses may be reached; whoever asks judges every answer.

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::sync::LazyLock;

use async_trait::async_trait;

use super::share;
use crate::fair::FairSemaphore;

/// Lookups at once. Each keeps a thread busy until the machine's resolver gives up, also when nobody waits for it any more.
const MAX_LOOKUPS: usize = 64;

/// Turns at the machine's resolver.
static TURNS: LazyLock<FairSemaphore> = LazyLock::new(|| FairSemaphore::new(MAX_LOOKUPS, usize::MAX));

/// Resolves names.
#[async_trait]
pub trait Names: Debug + Send + Sync + 'static {
    /// All addresses of a name, now.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The machine's own resolver.
#[derive(Debug)]
pub struct SystemNames;

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let turn = TURNS.acquire(share::party()).await.map_err(io::Error::other)?;
        let name = name.to_owned();
        // A task of its own, which keeps its turn as long as its thread is busy.
        let lookup = tokio::spawn(async move {
            let _turn = turn;
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok::<Vec<IpAddr>, io::Error>(found.map(|address| address.ip()).collect())
        });
        lookup.await.map_err(io::Error::other)?
    }
}
