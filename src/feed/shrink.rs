//! Making the logs of ended runs small, a few at a time, so that nobody who works waits for it.

use std::time::Duration;

use super::Feed;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::failpoint;
use crate::id::{RunId, TenantId};
use crate::model::compact::compact;
use crate::model::event::Segment;
use crate::store::SmallLog;

/// Logs in one transaction.
const BATCH: u32 = 32;
/// Bytes of logs that are held at once, but for the last one.
const WEIGHT: usize = 8 * 1024 * 1024;
/// Segments read from the store at once.
const PAGE: u32 = 256;
/// Between two transactions the store is everybody else's.
const PAUSE: Duration = Duration::from_millis(20);

impl Feed {
    /// Joins the deltas in the logs of all runs that ended before a time. Returns how many logs were looked at.
    pub async fn shrink(&self, before: Timestamp) -> Result<u64> {
        let mut seen = 0;
        loop {
            let bulky = self.0.store.bulky_logs(before, &[], BATCH).await?;
            if bulky.is_empty() {
                return Ok(seen);
            }
            let (mut small, mut weight) = (Vec::with_capacity(bulky.len()), 0);
            for (tenant, run) in bulky {
                let log = match self.whole(tenant, run).await {
                    Ok(log) => {
                        weight += log.iter().flat_map(|segment| &segment.events).map(|event| event.body.len()).sum::<usize>();
                        compact(log)
                    }
                    Err(error) if error.kind().retryable() => return Err(error),
                    Err(error) => {
                        // It stays as it is; those that ended later are not held up by it.
                        tracing::error!(%run, ?error, "the log of an ended execution cannot be read");
                        None
                    }
                };
                small.push(SmallLog { tenant, run, log });
                if weight >= WEIGHT {
                    break;
                }
            }
            failpoint::hit("log.shrink.before");
            let taken = self.0.store.shrink_logs(small).await?;
            failpoint::hit("log.shrink.after");
            seen += taken;
            self.0.clock.sleep(PAUSE).await;
        }
    }

    async fn whole(&self, tenant: TenantId, run: RunId) -> Result<Vec<Segment>> {
        let mut log: Vec<Segment> = Vec::new();
        loop {
            let after = log.last().map(Segment::last);
            let page = self.0.store.read_log(tenant, run, after, PAGE).await?;
            let whole = page.len() < PAGE as usize;
            log.extend(page);
            if whole {
                return Ok(log);
            }
        }
    }
}
