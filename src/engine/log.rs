//! One run's writing end: events get their numbers here, facts gather here, commits leave from here.
//!
//! Everything a step records is pending until the committer takes all of it at once, so that a commit is always a
//! prefix of what happened. Deltas are shown as soon as every state event before them is committed; they
//! are committed lazily. Numbers are given out only below the reserved mark, which each commit moves on, so
//! that a number shown to anyone is never used twice, whatever crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tracing::Instrument;

use super::node_lease::RunLease;
use super::notice::Listeners;
use super::patience::patiently;
use super::traced;
use crate::clock::{Clock, Timestamp};
use crate::failpoint;
use crate::feed::Ring;
use crate::id::{DeadLetterId, RunId, TenantId};
use crate::model::event::{Event, EventRecord, Rest, Segment};
use crate::model::job::Attempt;
use crate::model::run::{Failure, Parent, Spent};
use crate::model::wait::{Resolution, Wait};
use crate::model::{Epoch, JournalEntry, ModelUsage, Outcome, RunState};
use crate::store::{ChildEnd, Commit, Committed, Created, NewRun, SharedStore, StoreError, StoreResult};

/// How many numbers a commit reserves ahead.
pub const RESERVE: u64 = 512;
/// Deltas wait this long for company before they are committed.
const LINGER: Duration = Duration::from_millis(250);
/// Pending events that are committed at once.
const CROWD: usize = 200;
/// How long a creation is tried before its caller is told that the store cannot serve.
const BIRTH: Duration = Duration::from_secs(3);

/// Why a run must be let go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Another owner holds the run.
    Fenced,
    /// The store refused a commit: trying again would not help.
    Refused,
    /// It was never created: its key belongs to another, or the store could not serve.
    Unborn,
}

/// A run's first write: its creation, with all that happened before it went out.
pub struct Birth {
    pub new: NewRun,
    pub told: oneshot::Sender<StoreResult<Created>>,
}

/// Where the run goes with a commit.
#[derive(Debug, Clone, Default)]
pub struct Move {
    pub state: Option<RunState>,
    /// For a paused or queued run: when it is due.
    pub wake_at: Option<Timestamp>,
    pub rest: Rest,
    pub output: Option<serde_json::Value>,
    pub failure: Option<Failure>,
    /// Pause only if nobody nudged since this reading.
    pub seen_nudges: Option<i64>,
    /// Tell the parent's wait how this run ended.
    pub answer: Option<Resolution>,
}

/// An entry of the journal that is still to be committed.
struct Fact {
    entry: JournalEntry,
    /// The journal has nothing under its key.
    first: bool,
}

#[derive(Default)]
struct Pending {
    next_seq: u64,
    reserved: u64,
    events: Vec<EventRecord>,
    /// The first pending event that tells of state.
    barrier: Option<u64>,
    /// The same of the commit that is under way.
    in_flight: Option<u64>,
    journal: Vec<Fact>,
    waits: Vec<Wait>,
    spent: Spent,
    /// What models used since the last commit.
    usage: Vec<ModelUsage>,
    /// Counts everything recorded; a commit covers all up to its count.
    recorded: u64,
    /// Some pending fact is new.
    advances: bool,
    /// The count of the last fact that an effect may depend on.
    facts: u64,
    /// The count that the commit under way, or the last one, covers.
    taken: u64,
    /// The count that somebody waits for.
    wanted: u64,
    last_move: Option<Move>,
    /// A run that undoes what it did goes on doing so.
    compensating: bool,
}

impl Pending {
    fn shown(&self) -> u64 {
        self.in_flight.or(self.barrier).unwrap_or(self.next_seq).min(self.reserved)
    }
}

/// See the module.
pub struct RunLog {
    pub run: RunId,
    pub tenant: TenantId,
    pub epoch: Epoch,
    parent: Option<Parent>,
    job: Option<Attempt>,
    store: SharedStore,
    listeners: Listeners,
    ring: Arc<Ring>,
    clock: Clock,
    pending: Mutex<Pending>,
    work: Notify,
    done: Mutex<Progress>,
    /// Wakes those who wait for a commit in the order they came, so that virtual time replays.
    moved: Notify,
    lease: Arc<RunLease>,
    /// The run has a row.
    born: AtomicBool,
    /// The first number of this owner.
    first_seq: u64,
    pub before: Before,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    committed: u64,
    nudged: bool,
}

/// What a log starts from.
pub struct Start {
    pub run: RunId,
    pub tenant: TenantId,
    pub epoch: Epoch,
    pub parent: Option<Parent>,
    pub job: Option<Attempt>,
    pub next_seq: u64,
    pub reserved: u64,
    pub spent: Spent,
    pub lease: Arc<RunLease>,
    pub before: Before,
    /// It was undoing what it did.
    pub compensating: bool,
}

/// How the run stood when this owner took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// It is new.
    Nothing,
    /// It was paused: its log ends with a rest, and readers know.
    Rested,
    /// Its owner went away, or handed it back in the middle.
    CutShort,
}

impl RunLog {
    pub fn new(start: Start, store: SharedStore, listeners: Listeners, ring: Arc<Ring>, clock: Clock) -> Self {
        let (next_seq, reserved, spent) = (start.next_seq, start.reserved, start.spent);
        let pending = Pending { next_seq, reserved, spent, compensating: start.compensating, ..Pending::default() };
        Self {
            run: start.run,
            tenant: start.tenant,
            epoch: start.epoch,
            parent: start.parent,
            job: start.job,
            store,
            listeners,
            ring,
            clock,
            pending: Mutex::new(pending),
            work: Notify::new(),
            done: Mutex::default(),
            moved: Notify::new(),
            lease: start.lease,
            born: AtomicBool::new(start.before != Before::Nothing),
            first_seq: start.next_seq,
            before: start.before,
        }
    }

    /// The hold on the run.
    pub fn lease(&self) -> &Arc<RunLease> {
        &self.lease
    }

    /// Whether the run is in the store: until then nobody can lose it.
    pub fn is_born(&self) -> bool {
        self.born.load(Ordering::Acquire)
    }

    pub fn ring(&self) -> &Arc<Ring> {
        &self.ring
    }

    /// Appends an event. It is shown at once if it is a delta and nothing before it is uncommitted state.
    pub fn emit(&self, event: &Event) {
        self.emit_all(std::iter::once(event));
    }

    /// Appends events that belong together; readers see them together.
    pub fn emit_all<'a>(&self, events: impl Iterator<Item = &'a Event>) {
        let mut pending = self.pending.lock();
        let from = pending.events.len();
        for event in events {
            let seq = pending.next_seq;
            pending.next_seq += 1;
            pending.recorded += 1;
            if !event.is_delta() && pending.barrier.is_none() {
                pending.barrier = Some(seq);
            }
            pending.events.push(EventRecord::new(seq, event));
        }
        let crowded = pending.events.len() >= CROWD || pending.next_seq + RESERVE / 4 >= pending.reserved;
        self.ring.push(pending.events.get(from..).unwrap_or_default().iter().cloned(), pending.shown());
        drop(pending);
        if crowded || from == 0 {
            self.work.notify_one();
        }
    }

    /// How many events the run has, numbers skipped after crashes included.
    pub fn next_seq(&self) -> u64 {
        self.pending.lock().next_seq
    }

    /// A step is settled, which its own entry tells. What only led there, and was not committed yet, need not be: nobody enters the step again.
    pub fn step_settled(&self, key: &str) {
        let led_there = |fact: &Fact| fact.first && fact.entry.key.strip_prefix(key).is_some_and(|below| below.starts_with('/'));
        self.pending.lock().journal.retain(|fact| !led_there(fact));
    }

    /// Records what the journal must know; durable with the next commit. `before`: what it says under the same key so far.
    pub fn record(&self, entry: JournalEntry, before: Option<&Outcome>) {
        let (first, new) = (before.is_none(), before != Some(&entry.outcome));
        let mut pending = self.pending.lock();
        pending.advances |= new;
        pending.recorded += 1;
        pending.facts = pending.recorded;
        pending.journal.push(Fact { entry, first });
    }

    /// Opens a wait; it exists for others with the next commit, which is not long in coming.
    pub fn wait(&self, wait: Wait) {
        let mut pending = self.pending.lock();
        pending.advances = true;
        pending.recorded += 1;
        pending.facts = pending.recorded;
        pending.wanted = pending.recorded;
        pending.waits.push(wait);
        drop(pending);
        self.work.notify_one();
    }

    /// What the run has used so far.
    pub fn spent(&self) -> Spent {
        self.pending.lock().spent
    }

    pub fn spend(&self, more: &Spent) {
        let mut pending = self.pending.lock();
        pending.recorded += 1;
        pending.spent.add(more);
    }

    /// Adds what a model used to the tenant's usage, with the next commit. What the run has used in all is another figure: [`RunLog::spend`].
    pub fn bill(&self, usage: ModelUsage) {
        usage.add_to(&mut self.pending.lock().usage);
    }

    /// From now on the run undoes what it did; durable with the next commit.
    pub fn begin_to_compensate(&self) {
        self.pending.lock().compensating = true;
    }

    /// Asks for a commit without waiting for it.
    pub fn want(&self) -> u64 {
        let mut pending = self.pending.lock();
        pending.wanted = pending.recorded;
        let wanted = pending.wanted;
        drop(pending);
        self.work.notify_one();
        wanted
    }

    /// Waits until everything recorded so far is durable. Never returns when the run is lost: the driver ends.
    pub async fn commit(&self) {
        let wanted = self.want();
        self.reached(wanted).await;
    }

    /// Call before an outside effect: what it may depend on becomes durable first, also what a commit that nobody
    /// asked for is carrying just now.
    pub async fn settle(&self) {
        let (facts, taken) = {
            let pending = self.pending.lock();
            (pending.facts, pending.taken)
        };
        if facts > taken {
            self.want();
        }
        self.reached(facts).await;
    }

    async fn reached(&self, count: u64) -> bool {
        loop {
            let moved = self.moved.notified();
            tokio::pin!(moved);
            moved.as_mut().enable();
            let progress = *self.done.lock();
            if progress.committed >= count {
                return !progress.nudged;
            }
            moved.await;
        }
    }

    fn committed(&self) -> u64 {
        self.done.lock().committed
    }

    fn progress(&self, progress: Progress) {
        *self.done.lock() = progress;
        self.moved.notify_waiters();
    }

    /// Commits everything together with a move of the run, as its last act here. `false`: somebody nudged the
    /// run, so it did not pause; everything but the move is durable.
    pub async fn depart(&self, step: Move) -> bool {
        let wanted = {
            let mut pending = self.pending.lock();
            pending.recorded += 1;
            pending.last_move = Some(step);
            pending.wanted = pending.recorded;
            pending.wanted
        };
        self.work.notify_one();
        self.reached(wanted).await
    }

    /// Commits what is pending, again and again. Polled beside the run's steps, so that dropping a step never drops a
    /// commit. Ends only when the run is lost. `number` is the run's last commit.
    pub async fn keep_committing(&self, birth: Option<Box<Birth>>, mut number: i64) -> Lost {
        if let Some(birth) = birth
            && let Err(lost) = Box::pin(self.create(*birth)).await
        {
            return lost;
        }
        loop {
            self.until_due().await;
            let Some((commit, count, shown_after)) = self.take(number + 1) else { continue };
            let below = commit.segment.as_ref().map(|segment| segment.last() + 1);
            let rest = commit.segment.as_ref().map_or(Rest::None, |segment| segment.rest);
            failpoint::hit("run.commit.before");
            let span = traced::commit(commit.number, commit.state.as_str());
            let nudged = match self.send(commit).instrument(span).await {
                Ok(committed) => committed == Committed::Nudged,
                Err(lost) => return lost,
            };
            failpoint::hit("run.commit.after");
            number += 1;
            self.show(below, shown_after, if nudged { Rest::None } else { rest });
            self.progress(Progress { committed: count, nudged });
        }
    }

    fn show(&self, below: Option<u64>, reserved: u64, rest: Rest) {
        let shown = {
            let mut pending = self.pending.lock();
            pending.reserved = pending.reserved.max(reserved);
            pending.in_flight = None;
            pending.shown()
        };
        self.ring.commit(below.unwrap_or(shown), shown, rest);
        failpoint::hit("event.shown");
    }

    async fn create(&self, birth: Birth) -> Result<(), Lost> {
        let (new, count) = {
            let mut pending = self.pending.lock();
            let mut events = std::mem::take(&mut pending.events);
            let mut journal = std::mem::take(&mut pending.journal);
            pending.in_flight = pending.barrier.take();
            let reserved = pending.next_seq + RESERVE;
            let whole = pending.last_move.is_none() && pending.waits.is_empty();
            if !whole {
                // A creation carries no waits and no move: what tells of them stays with the commit that does.
                pending.events = events.split_off(events.len().min(1));
                pending.barrier = pending.events.first().map(|event| event.seq);
                pending.journal = std::mem::take(&mut journal);
            }
            pending.taken = if whole { pending.recorded } else { 0 };
            let segment = (!events.is_empty()).then_some(Segment { events, rest: Rest::None });
            let journal = journal.into_iter().map(|fact| fact.entry).collect();
            (NewRun { reserved, journal, segment, ..birth.new }, pending.taken)
        };
        let (below, reserved) = (new.segment.as_ref().map(|segment| segment.last() + 1), new.reserved);
        failpoint::hit("run.create.before");
        let created = self.bear(new).instrument(traced::commit(0, RunState::Running.as_str())).await;
        failpoint::hit("run.create.after");
        let born = matches!(created, Ok(Created::New));
        if born {
            self.born.store(true, Ordering::Release);
            self.show(below, reserved, Rest::None);
            self.progress(Progress { committed: count, nudged: false });
        }
        // The caller may be gone; the run lives on.
        let _ = birth.told.send(created);
        if born { Ok(()) } else { Err(Lost::Unborn) }
    }

    /// Creates the run. That the answer was lost does not mean that nothing was written, so the store is asked again
    /// for a while: the same creation is known by its id.
    async fn bear(&self, new: NewRun) -> StoreResult<Created> {
        let asking = patiently(&self.clock, || self.store.create_run(new.clone()));
        tokio::select! {
            biased;
            created = asking => created,
            () = self.clock.sleep(BIRTH) => Err(StoreError::unavailable("no answer in time")),
        }
    }

    /// Returns when a commit is due: somebody waits for it, many events are pending, or some have waited long enough.
    async fn until_due(&self) {
        loop {
            let notified = self.work.notified();
            let (wanted, crowded, some) = {
                let pending = self.pending.lock();
                let wanted = pending.wanted > self.committed();
                let crowded = pending.events.len() >= CROWD || pending.next_seq + RESERVE / 4 >= pending.reserved;
                (wanted, crowded && !pending.events.is_empty(), !pending.events.is_empty())
            };
            if wanted || crowded {
                return;
            }
            if some {
                tokio::select! {
                    biased;
                    () = notified => {}
                    () = self.clock.sleep(LINGER) => return,
                }
            } else {
                notified.await;
            }
        }
    }

    /// Takes everything pending as one commit, with the count it covers and the mark it reserves.
    fn take(&self, number: i64) -> Option<(Commit, u64, u64)> {
        let now = self.clock.now();
        let mut pending = self.pending.lock();
        let step = pending.last_move.take();
        let nothing = pending.events.is_empty() && pending.journal.is_empty() && pending.waits.is_empty();
        if step.is_none() && nothing && pending.wanted <= self.committed() {
            return None;
        }
        let step = step.unwrap_or_default();
        let going_on = if pending.compensating { RunState::Compensating } else { RunState::Running };
        let state = step.state.unwrap_or(going_on);
        let as_before = self.before == Before::Rested && pending.next_seq == self.first_seq;
        if state == RunState::Paused && pending.events.is_empty() && !as_before {
            // A rest is told with an event; readers who saw all others must learn of it too.
            let seq = pending.next_seq;
            pending.next_seq += 1;
            let event = EventRecord::new(seq, &Event::Custom { name: "dispatch.paused".into(), value: serde_json::Value::Null });
            self.ring.push(std::iter::once(event.clone()), 0);
            pending.events.push(event);
        }
        // Whoever stops writing leaves no gap: nothing beyond the last event was shown to anyone.
        let reserved = if state == going_on { pending.next_seq + RESERVE } else { pending.next_seq };
        let events = std::mem::take(&mut pending.events);
        pending.in_flight = pending.barrier.take();
        pending.taken = pending.recorded;
        let notice = self.listeners.notice(self.tenant, state, step.rest);
        let segment = (!events.is_empty()).then_some(Segment { events, rest: step.rest });
        let child_end = match (self.parent, step.answer) {
            (Some(parent), Some(resolution)) => Some(ChildEnd { parent, tenant: self.tenant, resolution }),
            _ => None,
        };
        let (clock, failure) = (&self.clock, step.failure.as_ref());
        let ended = |attempt: Attempt| attempt.end(self.tenant, state, failure, now, |most| clock.below(most), || DeadLetterId::new(clock));
        let job_end = self.job.and_then(ended);
        let commit = Commit {
            tenant: self.tenant,
            run: self.run,
            epoch: self.epoch,
            number,
            seen_nudges: step.seen_nudges,
            state,
            advances: std::mem::take(&mut pending.advances),
            wake_at: if state == going_on { Some(self.lease.promised()) } else { step.wake_at },
            reserved,
            spent: pending.spent,
            output: step.output,
            failure: step.failure,
            finished_at: state.is_terminal().then_some(now),
            journal: std::mem::take(&mut pending.journal).into_iter().map(|fact| fact.entry).chain(notice).collect(),
            segment,
            waits: std::mem::take(&mut pending.waits),
            usage: std::mem::take(&mut pending.usage),
            child_end,
            job_end,
            now,
        };
        Some((commit, pending.recorded, reserved))
    }

    /// Sends a commit until it is answered. Sending it twice is harmless: it is known by its number.
    async fn send(&self, commit: Commit) -> Result<Committed, Lost> {
        if self.deliver(&commit).await? != Committed::Nudged {
            return Ok(Committed::Done);
        }
        // The move is off, but what happened stays: commit it without the move.
        let rest = Commit {
            seen_nudges: None,
            state: RunState::Running,
            wake_at: Some(self.lease.promised()),
            reserved: commit.reserved + RESERVE,
            output: None,
            failure: None,
            finished_at: None,
            child_end: None,
            job_end: None,
            segment: commit.segment.map(|segment| Segment { rest: Rest::None, ..segment }),
            ..commit
        };
        self.deliver(&rest).await?;
        Ok(Committed::Nudged)
    }

    async fn deliver(&self, commit: &Commit) -> Result<Committed, Lost> {
        match patiently(&self.clock, || self.store.commit_run(commit.clone())).await {
            Ok(Committed::Fenced) => Err(Lost::Fenced),
            Ok(done) => Ok(done),
            Err(error) => {
                tracing::error!(run = %self.run, %error, "the store refused a commit");
                Err(Lost::Refused)
            }
        }
    }
}
