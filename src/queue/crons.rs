//! Crons: entries that put a job in its queue at certain times.
//!
//! A slot's job has a key of its own, and an entry goes on by compare-and-set: however many nodes see the same slot, and wherever they die, it is
//! one job, and nobody need lead.
//!
//! Must not know: HTTP.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::Jobs;
use super::broker::StreamEvent;
use crate::clock::Timestamp;
use crate::error::Result;
use crate::id::{CronId, JobId, KeyId, TenantId};
use crate::model::Cadence;
use crate::model::cadence::Fault;
use crate::model::job::{Job, Order, Placed};
use crate::store::{Collection, Document, Enqueued, Kept, SharedStore, due};

/// How often it is looked for entries whose time has come: about as late a slot may be.
const PAUSE: Duration = Duration::from_millis(500);
/// Entries of one look.
const MOST: u32 = 100;
/// Entries that are fired beside each other.
const AT_ONCE: usize = 16;
/// The metric of fired times.
pub const FIRED: &str = "dispatch_slots_fired_total";
/// How late a slot may be that is not caught up with.
const LATE: Duration = Duration::from_secs(60);
/// Slots that are caught up with at once.
pub const MOST_SLOTS: u32 = 1_000;

/// What happens to times that passed while no server was running. Times that pass while an entry is disabled are skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CronCatchUp")]
pub enum CatchUp {
    /// They are passed over.
    Skip,
    /// The last one is done.
    #[default]
    Last,
    /// All are done, up to a number.
    All,
}

/// What happens when the job of the slot before is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CronOverlap")]
pub enum Overlap {
    #[default]
    Allow,
    /// The slot is passed over.
    Skip,
}

/// An entry as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cron {
    pub name: String,
    pub schedule: String,
    pub timezone: String,
    pub enabled: bool,
    /// What its jobs are to do.
    #[serde(flatten)]
    pub placed: Placed,
    pub catch_up: CatchUp,
    /// The most slots that are caught up with.
    pub catch_up_max: u32,
    pub overlap: Overlap,
    /// Jobs begin up to so much later, in milliseconds.
    pub jitter_ms: u64,
    /// The next slot.
    pub next: Option<Timestamp>,
    /// The last slot that became a job, and the job.
    pub last: Option<Timestamp>,
    pub last_job: Option<JobId>,
}

impl Document for Cron {
    const KIND: &'static str = "cron";
    const TAKEN: &'static str = "a cron entry with this name";
    type Id = CronId;

    fn place(&self) -> Option<String> {
        Some(self.name.clone())
    }

    fn due_at(&self) -> Option<Timestamp> {
        self.next.filter(|_| self.enabled)
    }
}

impl Cron {
    /// When its slots are. `CRON_TZ=` or `TZ=` in front of the schedule names a zone too.
    pub fn cadence(&self) -> Result<Cadence, Fault> {
        let schedule = self.schedule.trim();
        let prefixed = ["CRON_TZ=", "TZ="].iter().find_map(|prefix| schedule.strip_prefix(prefix));
        match prefixed.and_then(|rest| rest.split_once(char::is_whitespace)) {
            Some((zone, schedule)) => Cadence::new(schedule, zone),
            None => Cadence::new(schedule, &self.timezone),
        }
    }

    /// The slots that have passed and are to become jobs now, oldest first, and the next one after them.
    fn due_slots(&self, now: Timestamp) -> Result<(Vec<Timestamp>, Option<Timestamp>), Fault> {
        let cadence = self.cadence()?;
        let Some(first) = self.next.filter(|first| *first <= now) else { return Ok((Vec::new(), self.next)) };
        let next = cadence.next(now);
        let wanted = if self.catch_up == CatchUp::All { self.catch_up_max.clamp(1, MOST_SLOTS) as usize } else { 1 };
        // Only the last ones count, and an outage may have been long: they are looked for from now backwards, twice as far each time.
        let mut back = LATE;
        let mut slots: Vec<Timestamp>;
        loop {
            let from = now.before(back).max(first);
            slots = cadence.following(from.before(Duration::from_millis(1))).take_while(|slot| *slot <= now).collect();
            if slots.len() >= wanted || from == first {
                break;
            }
            back = back.saturating_mul(2);
        }
        slots.drain(..slots.len().saturating_sub(wanted));
        slots.retain(|slot| self.catch_up != CatchUp::Skip || now.since(*slot) <= LATE);
        Ok((slots, next))
    }

    fn job(&self, id: CronId, job: JobId, tenant: TenantId, slot: Option<Timestamp>, now: Timestamp, jitter: u64) -> Job {
        let order = Order { cron: Some(id), ..self.placed.order.clone() };
        let placed = Placed { order, ..self.placed.clone() };
        let run_at = slot.unwrap_or(now).after(Duration::from_millis(jitter));
        Job { run_at, ..Job::new(job, tenant, placed, now) }
    }
}

/// Puts the jobs of due entries in their queues, for ever.
pub async fn beat(jobs: Jobs) {
    let clock = jobs.clock().clone();
    loop {
        match due::<Cron>(&**jobs.store(), clock.now(), &[], MOST).await {
            // Beside each other, so that their jobs share commits; entries like to be due at the full hour.
            Ok(found) => stream::iter(found).for_each_concurrent(AT_ONCE, |(tenant, entry)| fire(&jobs, tenant, entry)).await,
            Err(error) => tracing::warn!(%error, "it cannot be looked for cron entries"),
        }
        clock.sleep(PAUSE).await;
    }
}

async fn fire(jobs: &Jobs, tenant: TenantId, entry: Kept<Cron>) {
    let id = entry.id;
    if let Err(error) = tick(jobs, tenant, entry).await {
        tracing::warn!(cron = %id, ?error, "a cron entry's time has come, and it could not be fired; it is tried again");
    }
}

/// Fires an entry's slots that have come, and lets it wait for the next one.
async fn tick(jobs: &Jobs, tenant: TenantId, entry: Kept<Cron>) -> Result<()> {
    let clock = jobs.clock();
    let now = clock.now();
    // A schedule was understood when it was kept. Should it not be any more, nothing is known of a next time.
    let (slots, next) = entry.body.due_slots(now).unwrap_or_default();
    let mut after = Cron { next, ..entry.body.clone() };
    for slot in slots {
        if entry.body.overlap == Overlap::Skip && is_open(jobs.store(), tenant, after.last_job).await? {
            continue;
        }
        let key = format!("cron/{}/{}", entry.id, slot.as_millis());
        let job = entry.body.job(entry.id, JobId::new(clock), tenant, Some(slot), now, clock.below(entry.body.jitter_ms.saturating_add(1)));
        let id = job.id;
        let job = match jobs.enqueue(job, Some(key)).await? {
            Enqueued::New => id,
            Enqueued::Before(before) => before,
        };
        fired("cron");
        jobs.broker().publish(tenant, StreamEvent::of_cron(&entry.body.name, job, now));
        tracing::info!(cron = %entry.id, %job, %slot, "a cron entry fired");
        (after.last, after.last_job) = (Some(slot), Some(job));
    }
    // Whoever changed it meanwhile has said when it fires next.
    Collection::of(&**jobs.store(), tenant).change(&entry, after, now).await?;
    Ok(())
}

/// Counts a fired time.
pub fn fired(kind: &'static str) {
    metrics::counter!(FIRED, "kind" => kind).increment(1);
}

/// Fires an entry by hand, besides its times; the job.
pub async fn fire_now(jobs: &Jobs, (tenant, key_id): (TenantId, Option<KeyId>), entry: &Kept<Cron>, job: JobId) -> Result<Job> {
    let mut job = entry.body.job(entry.id, job, tenant, None, jobs.clock().now(), 0);
    job.order.key_id = key_id;
    jobs.enqueue(job.clone(), None).await?;
    Ok(job)
}

async fn is_open(store: &SharedStore, tenant: TenantId, job: Option<JobId>) -> Result<bool> {
    let Some(job) = job else { return Ok(false) };
    Ok(store.find_job(tenant, job).await?.is_some_and(|job| !job.state.is_over()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    fn entry(schedule: &str, catch_up: CatchUp, catch_up_max: u32, next: i64) -> Cron {
        let order = Order {
            name: "x".into(),
            payload: serde_json::Value::Null,
            callback: None,
            max_retries: 0,
            timeout_ms: None,
            scope: crate::model::job::JobScope::default(),
            key_id: None,
            cron: None,
            replay_of: None,
        };
        Cron {
            name: "x".into(),
            schedule: schedule.into(),
            timezone: "UTC".into(),
            enabled: true,
            placed: Placed { queue: "default".into(), priority: 0, order },
            catch_up,
            catch_up_max,
            overlap: Overlap::Allow,
            jitter_ms: 0,
            next: Some(Timestamp::from_millis(next)),
            last: None,
            last_job: None,
        }
    }

    fn slots(entry: &Cron, now: i64) -> (Vec<i64>, Option<i64>) {
        let (slots, next) = entry.due_slots(Timestamp::from_millis(now)).unwrap();
        (slots.iter().map(|slot| slot.as_millis() / HOUR).collect(), next.map(|next| next.as_millis() / HOUR))
    }

    #[test]
    fn missed_slots_are_caught_up_with_as_the_entry_says() {
        let now = 10 * HOUR + 120_000;
        for (catch_up, max, expected) in [
            (CatchUp::Last, 100, vec![10]),
            (CatchUp::Skip, 100, vec![]),
            (CatchUp::All, 100, vec![3, 4, 5, 6, 7, 8, 9, 10]),
            (CatchUp::All, 3, vec![8, 9, 10]),
            (CatchUp::All, 0, vec![10]),
        ] {
            assert_eq!(slots(&entry("0 * * * *", catch_up, max, 3 * HOUR), now), (expected, Some(11)), "{catch_up:?} {max}");
        }
        assert_eq!(slots(&entry("0 * * * *", CatchUp::Skip, 1, 3 * HOUR), 3 * HOUR + 59_000), (vec![3], Some(4)), "hardly late");
        assert_eq!(slots(&entry("0 * * * *", CatchUp::All, 100, 3 * HOUR), 3 * HOUR - 1), (vec![], Some(3)), "not yet");
        // A year of seconds is no more work than the last thousand.
        let (seconds, _) = entry("@every 1s", CatchUp::All, 1_000, 1_000).due_slots(Timestamp::from_millis(8_766 * HOUR)).unwrap();
        assert_eq!((seconds.len(), seconds.last().map(|slot| slot.as_millis())), (1_000, Some(8_766 * HOUR)));
    }

    #[test]
    fn a_zone_may_stand_in_front_of_the_schedule() {
        let at = |schedule: &str| {
            entry(schedule, CatchUp::Last, 1, 0).cadence().unwrap().next(Timestamp::from_millis(0)).unwrap().as_millis() / HOUR
        };
        assert_eq!((at("0 3 * * *"), at("TZ=Asia/Tokyo 0 3 * * *"), at("CRON_TZ=Asia/Tokyo 0 3 * * *")), (3, 18, 18));
        assert!(entry("TZ=Nowhere/Land 0 3 * * *", CatchUp::Last, 1, 0).cadence().is_err());
    }
}
