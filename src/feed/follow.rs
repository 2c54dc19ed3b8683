//! A reader of one run: a cursor over the ring, then the store.

use std::time::Duration;

use tokio::sync::broadcast;

use super::Feed;
use super::ring::Look;
use crate::error::{Error, Kind, Result};
use crate::id::{RunId, TenantId};
use crate::model::EventRecord;
use crate::model::compact::{Reset, cut};
use crate::model::event::Rest;
use crate::store::Rung;

/// Segments read from the store at once.
const PAGE: u32 = 64;
/// The safety net under the bell: a reader looks by itself, the longer nothing came the more seldom.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LAST_LOOK: Duration = Duration::from_secs(8);

/// How soon another server may be asked.
const COME_BACK: Duration = Duration::from_secs(1);

/// Events that became visible together, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stretch {
    pub events: Vec<EventRecord>,
    /// Where the run rests after these events.
    pub rest: Rest,
}

/// See the module.
pub struct Follower {
    feed: Feed,
    tenant: TenantId,
    run: RunId,
    /// The next number wanted.
    next: u64,
    bell: Option<broadcast::Receiver<Rung>>,
    /// When to look without having been told to.
    patience: Duration,
    /// Where the log rests after the last event that was given out, as long as that may yet be all.
    rest: Rest,
}

impl Follower {
    pub(super) fn new(feed: Feed, tenant: TenantId, run: RunId, cursor: Option<u64>) -> Self {
        let next = cursor.map_or(0, |cursor| cursor.saturating_add(1));
        Self { feed, tenant, run, next, bell: None, patience: FIRST_LOOK, rest: Rest::None }
    }

    /// The number after the last event that was given out.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Waits for the next events. After a stretch that rests at [`Rest::End`] or [`Rest::Caller`] there may be
    /// nothing more for a long time: the caller decides whether to go on. Dropping the future loses nothing.
    /// Error `shutting_down`: nothing more is there, and this server is about to stop.
    pub async fn next(&mut self) -> Result<Stretch> {
        loop {
            // Listen before looking: what comes between the look and the wait is not lost.
            let feed = self.feed.clone();
            let stop = &feed.0.stop;
            let stopping = stop.is_cancelled();
            let opened = feed.0.opened.notified();
            tokio::pin!(opened);
            opened.as_mut().enable();
            if let Some(ring) = self.feed.ring(self.run) {
                let changed = ring.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                match ring.look(self.next) {
                    Look::Events(events, rest) => return Ok(self.give(events, rest)),
                    Look::Nothing if stopping => return Err(shutting_down()),
                    Look::Nothing => {
                        tokio::select! {
                            biased;
                            () = changed => {}
                            () = stop.cancelled() => {}
                        }
                        continue;
                    }
                    Look::Behind(start) => {
                        if let Some(stretch) = self.read().await? {
                            // The ring knows what comes after. It may close again without a word, so the rest is kept.
                            self.rest = stretch.rest;
                            return Ok(Stretch { rest: Rest::None, ..stretch });
                        }
                        // The store holds nothing below the ring's start: those numbers were skipped after a crash.
                        self.next = start;
                        continue;
                    }
                    Look::Closed => {}
                }
            }
            if let Some(stretch) = self.read().await? {
                return Ok(stretch);
            }
            if self.feed.ring(self.run).is_some() {
                continue;
            }
            let rest = std::mem::take(&mut self.rest);
            if rest != Rest::None {
                return Ok(Stretch { events: Vec::new(), rest });
            }
            let run = self.feed.0.store.find_run(self.tenant, self.run).await?;
            if run.is_none_or(|run| run.state.is_terminal()) {
                // The log may have grown between the two looks.
                return Ok(self.read().await?.unwrap_or(Stretch { events: Vec::new(), rest: Rest::End }));
            }
            if stopping {
                return Err(shutting_down());
            }
            let bell = self.bell.get_or_insert_with(|| self.feed.0.store.bell());
            tokio::select! {
                biased;
                () = opened => {}
                () = rung(bell, self.run) => {}
                () = stop.cancelled() => {}
                () = self.feed.0.clock.sleep(self.patience) => self.patience = (self.patience * 2).min(LAST_LOOK),
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Stretch>> {
        let after = self.next.checked_sub(1);
        // One more than is given out tells whether that is all.
        let mut segments = self.feed.0.store.read_log(self.tenant, self.run, after, PAGE + 1).await?;
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let more = segments.len() > page;
        segments.truncate(page);
        let Some(last) = segments.last() else { return Ok(None) };
        let rest = if more { Rest::None } else { last.rest };
        let next = self.next;
        let mut events: Vec<EventRecord> =
            segments.into_iter().flat_map(|segment| segment.events).filter(|event| event.seq >= next).collect();
        if let Some((since, last)) = cut(next, &events) {
            // The reader saw a part of what has been joined since.
            let reset = self.reset(since, last).await?;
            let joined = events.partition_point(|event| event.seq <= last);
            events.splice(..joined, [reset]);
        }
        Ok(Some(self.give(events, rest)))
    }

    /// What the reader is told in the place of the joined events from `since` to `last`.
    async fn reset(&self, since: u64, last: u64) -> Result<EventRecord> {
        let (mut reset, mut after) = (Reset::default(), None);
        loop {
            let segments = self.feed.0.store.read_log(self.tenant, self.run, after, PAGE).await?;
            let Some(end) = segments.last().map(|segment| segment.last()) else { break };
            let seen = segments.iter().flat_map(|segment| &segment.events).take_while(|event| event.seq <= last);
            seen.for_each(|event| reset.see(event, since));
            if end >= last {
                break;
            }
            after = Some(end);
        }
        Ok(reset.event(last))
    }

    fn give(&mut self, events: Vec<EventRecord>, rest: Rest) -> Stretch {
        if let Some(last) = events.last() {
            self.next = last.seq + 1;
            self.patience = FIRST_LOOK;
            self.rest = Rest::None;
        }
        Stretch { events, rest }
    }
}

fn shutting_down() -> Error {
    Error::new(Kind::Unavailable, "shutting_down", "the server is shutting down; the execution goes on elsewhere or when it is back")
        .retry_after(COME_BACK)
}

/// Waits until the bell rings for this run, or so loudly that it may have been missed.
async fn rung(bell: &mut broadcast::Receiver<Rung>, wanted: RunId) {
    loop {
        match bell.recv().await {
            Ok(rung) if rung.run != wanted => {}
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
            // The store is closing; the reader's own clock decides.
            Err(broadcast::error::RecvError::Closed) => return std::future::pending().await,
        }
    }
}
