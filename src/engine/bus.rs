//! Events between runs: what is published under a name is kept until a run that waits for it takes it, the oldest first, each once.
//!
//! A run says that it waits before it looks, and whoever publishes looks for waiters once the event is kept: neither can miss the other.
//!
//! Must not know: which step waits, who published, what else an event begins.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EventLimits, Parts};
use crate::clock::Timestamp;
use crate::failpoint;
use crate::id::{EventId, RunId, TenantId, WaiterId};
use crate::store::{Collection, Document, Kept, StoreError, StoreResult};

/// The limits on stored events are checked after one of this many published events, chosen at random.
const TRIM_INTERVAL: u64 = 64;
/// Events, or waiters, that are read at once.
const PAGE: u32 = 200;
/// Longest name, in characters.
const LONGEST_NAME: usize = 200;

/// An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub name: String,
    pub payload: Value,
    /// The waiting that took it.
    pub taken_by: Option<String>,
    /// Whatever it begins has begun.
    pub told: bool,
    pub forget_at: Timestamp,
}

impl Document for Published {
    const KIND: &'static str = "event";
    const TAKEN: &'static str = "the event";
    type Id = EventId;

    /// One waiting takes one event.
    fn place(&self) -> Option<String> {
        self.taken_by.clone()
    }

    /// Those of its name that nobody has taken.
    fn parent(&self) -> Option<String> {
        self.taken_by.is_none().then(|| self.name.clone())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(if self.told { self.forget_at } else { Timestamp::from_millis(0) })
    }
}

/// A run that waits for an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiter {
    name: String,
    run: RunId,
    /// Which waiting of the run.
    waiting: String,
    forget_at: Timestamp,
}

impl Document for Waiter {
    const KIND: &'static str = "event_waiter";
    const TAKEN: &'static str = "the waiter";
    type Id = WaiterId;

    fn place(&self) -> Option<String> {
        Some(place(&self.waiting, &self.name))
    }

    fn parent(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn due_at(&self) -> Option<Timestamp> {
        Some(self.forget_at)
    }
}

/// Where a waiting keeps that it waits for a name.
fn place(waiting: &str, name: &str) -> String {
    format!("{waiting}={name}")
}

/// Whether a text can be an event's name.
pub fn is_event_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.contains(char::is_control)
}

/// The events of a tenant.
#[derive(Clone, Copy)]
pub struct Bus<'a> {
    parts: &'a Parts,
    tenant: TenantId,
}

impl<'a> Bus<'a> {
    pub const fn new(parts: &'a Parts, tenant: TenantId) -> Self {
        Self { parts, tenant }
    }

    fn events(&self) -> Collection<'a, Published> {
        Collection::of(&*self.parts.store, self.tenant)
    }

    fn waiters(&self) -> Collection<'a, Waiter> {
        Collection::of(&*self.parts.store, self.tenant)
    }

    fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Publishes an event, whose name [`is_event_name`]; durable when it returns, and runs that wait for it look. The same id again is the same event.
    ///
    /// Beyond the limits the oldest events are deleted first: refusing new ones would fail the runs that publish them.
    pub async fn publish(&self, id: EventId, name: &str, payload: Value) -> StoreResult<Kept<Published>> {
        let EventLimits { max_number, max_bytes, ttl } = self.parts.limits.get().events;
        let now = self.now();
        let event = Published { name: name.to_owned(), payload, taken_by: None, told: false, forget_at: now.after(ttl) };
        failpoint::hit("event.publish.before");
        let kept = self.events().create_once(id, event, now).await?;
        failpoint::hit("event.publish.after");
        self.wake(name).await?;
        if self.parts.clock.below(TRIM_INTERVAL) == 0
            && let Err(error) = self.trim(max_number, max_bytes).await
        {
            tracing::warn!(tenant = %self.tenant, %error, "failed to delete the oldest events; retrying with a later event");
        }
        Ok(kept)
    }

    /// Deletes the oldest events beyond a number and a size, and returns how many were deleted.
    pub async fn trim(&self, number: u32, bytes: u64) -> StoreResult<u64> {
        let forgotten = self.events().trim(number, bytes).await?;
        if forgotten > 0 {
            tracing::warn!(tenant = %self.tenant, forgotten, "the tenant reached its limit on stored events; the oldest were deleted");
        }
        Ok(forgotten)
    }

    /// Lets every run that waits for an event of this name look.
    pub async fn wake(&self, name: &str) -> StoreResult<()> {
        let mut before = None;
        loop {
            let page = self.waiters().list(Some(name), before, PAGE).await?;
            for waiter in &page {
                self.parts.store.wake_run(self.tenant, waiter.body.run, self.now()).await?;
            }
            match page.last() {
                Some(last) if page.len() == PAGE as usize => before = Some(last.id),
                _ => return Ok(()),
            }
        }
    }

    /// Whatever an event begins has begun. `false`: somebody changed it meanwhile.
    pub async fn told(&self, event: &Kept<Published>) -> StoreResult<bool> {
        let told = Published { told: true, ..event.body.clone() };
        Ok(self.events().change(event, told, self.now()).await?.is_some())
    }

    /// Says that a run waits for events of a name, until a time.
    pub(super) async fn wait(&self, run: RunId, waiting: &str, name: &str, until: Timestamp) -> StoreResult<()> {
        if self.waiters().find_at(&place(waiting, name)).await?.is_some() {
            return Ok(());
        }
        let waiter = Waiter { name: name.to_owned(), run, waiting: waiting.to_owned(), forget_at: until };
        let clock = &self.parts.clock;
        match self.waiters().create(WaiterId::new(clock), waiter, clock.now()).await {
            // An earlier try whose answer was lost.
            Ok(_) | Err(StoreError::Exists(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// It waits for that name no more.
    pub(super) async fn leave(&self, waiting: &str, name: &str) -> StoreResult<()> {
        if let Some(waiter) = self.waiters().find_at(&place(waiting, name)).await? {
            self.waiters().delete(waiter.id).await?;
        }
        Ok(())
    }

    /// The event that a waiting took before, if it did.
    pub(super) async fn taken(&self, waiting: &str) -> StoreResult<Option<Kept<Published>>> {
        self.events().find_at(waiting).await
    }

    /// Events of a name that nobody has taken, the oldest first.
    pub(super) async fn open(&self, name: &str) -> StoreResult<Vec<Kept<Published>>> {
        let mut all: Vec<Kept<Published>> = Vec::new();
        loop {
            let page = self.events().list(Some(name), all.last().map(|last| last.id), PAGE).await?;
            let whole = page.len() < PAGE as usize;
            all.extend(page);
            if whole {
                all.reverse();
                return Ok(all);
            }
        }
    }

    /// Leaves the event that a waiting took to others, if it took one.
    pub(super) async fn give_back(&self, waiting: &str) -> StoreResult<()> {
        while let Some(event) = self.taken(waiting).await? {
            let left = Published { taken_by: None, ..event.body.clone() };
            if self.events().change(&event, left, self.now()).await?.is_some() {
                return self.wake(&event.body.name).await;
            }
        }
        Ok(())
    }

    /// Takes an event. `false`: somebody was quicker.
    pub(super) async fn take(&self, event: &Kept<Published>, waiting: &str) -> StoreResult<bool> {
        let taken = Published { taken_by: Some(waiting.to_owned()), ..event.body.clone() };
        Ok(self.events().change(event, taken, self.now()).await?.is_some())
    }
}
