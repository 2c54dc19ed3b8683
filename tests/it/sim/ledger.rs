//! What really happened to the store, operation by operation, and what must never happen there.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::id::{NodeId, RunId, WaitId};
use dispatch::model::wait::WaitKind;
use dispatch::model::{Epoch, Outcome, Wait};
use dispatch::store::{Claim, Commit, Committed, Created, Lease, NewRun, Renewed, Resolve, Resolved};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

/// How late anything may be noticed while every node lives and the store works.
const PROMPT: Duration = Duration::from_secs(1);

pub struct Ledger {
    clock: Clock,
    /// Nothing is broken in this world: lateness is a fault.
    calm: bool,
    state: Mutex<State>,
    fresh: mpsc::UnboundedSender<RunId>,
    /// Rings with every commit.
    pub busy: Notify,
}

#[derive(Default)]
struct State {
    trace: DefaultHasher,
    /// The trace in words, when somebody wants to read it.
    words: Option<Vec<String>>,
    runs: BTreeMap<RunId, Book>,
    wrong: Vec<String>,
    counts: Counts,
}

/// What one world went through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub commits: u64,
    /// Commits of owners that had lost their run: all refused.
    pub fenced: u64,
    pub claims: u64,
    pub recoveries: u64,
    pub answers: u64,
    pub model_calls: u64,
    /// Calls made by a node that did not know yet that it had lost the run.
    pub late_calls: u64,
    /// Pieces of answers that such a node took in.
    pub late_pieces: u64,
    pub worst_wake: Duration,
}

/// One run, as the store has seen it.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub case: String,
    /// Every signal that was sent, by name and id.
    signals: BTreeSet<(String, String)>,
    pub owner: Option<NodeId>,
    epoch: i64,
    number: i64,
    last_seq: Option<u64>,
    /// Journal keys with a result.
    results: BTreeSet<String>,
    waits: BTreeMap<WaitId, Wait>,
    wait_keys: BTreeSet<String>,
    /// The first answer that nobody has acted upon yet.
    unattended: Option<Timestamp>,
    pub ended: bool,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.fenced += other.fenced;
        self.claims += other.claims;
        self.recoveries += other.recoveries;
        self.answers += other.answers;
        self.model_calls += other.model_calls;
        self.late_calls += other.late_calls;
        self.late_pieces += other.late_pieces;
        self.worst_wake = self.worst_wake.max(other.worst_wake);
    }
}

impl Ledger {
    /// With a receiver that tells of every new run.
    pub fn new(clock: Clock, calm: bool, in_words: bool) -> (Self, mpsc::UnboundedReceiver<RunId>) {
        let state = State { words: in_words.then(Vec::new), ..State::default() };
        let (fresh, runs) = mpsc::unbounded_channel();
        (Self { clock, calm, state: Mutex::new(state), fresh, busy: Notify::new() }, runs)
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: &str) {
        let now = self.clock.now().as_millis();
        let mut state = self.state.lock();
        (now, what).hash(&mut state.trace);
        if let Some(words) = &mut state.words {
            words.push(format!("{now} {what}"));
        }
    }

    pub fn wrong(&self, what: String) {
        self.note(&format!("WRONG {what}"));
        let now = self.clock.now();
        self.state.lock().wrong.push(format!("{now}: {what}"));
    }

    pub fn trace(&self) -> u64 {
        self.state.lock().trace.finish()
    }

    pub fn words(&self) -> Vec<String> {
        self.state.lock().words.clone().unwrap_or_default()
    }

    pub fn faults(&self) -> Vec<String> {
        self.state.lock().wrong.clone()
    }

    pub fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    /// Every run that exists, with the case it belongs to.
    pub fn runs(&self) -> Vec<(RunId, Book)> {
        self.state.lock().runs.iter().map(|(run, book)| (*run, book.clone())).collect()
    }

    pub fn live(&self) -> usize {
        self.state.lock().runs.values().filter(|book| !book.ended).count()
    }

    fn with<T>(&self, run: RunId, act: impl FnOnce(&mut Book, &mut Counts) -> T) -> Option<T> {
        let state = &mut *self.state.lock();
        let book = state.runs.get_mut(&run)?;
        Some(act(book, &mut state.counts))
    }

    pub fn created(&self, new: &NewRun, created: &Created) {
        self.note(&format!("create {} {} {created:?}", new.flow_name, new.id));
        if *created != Created::New {
            return;
        }
        let book = Book {
            case: new.flow_name.clone(),
            owner: new.lease.map(|(node, _)| node),
            epoch: i64::from(new.lease.is_some()),
            last_seq: new.segment.as_ref().map(dispatch::model::event::Segment::last),
            ..Book::default()
        };
        // A creation whose answer was lost is sent again, and is new again.
        let mut state = self.state.lock();
        if let Entry::Vacant(place) = state.runs.entry(new.id) {
            place.insert(book);
            drop(state);
            let _ = self.fresh.send(new.id);
        }
    }

    pub fn committed(&self, commit: &Commit, committed: Committed) {
        let keys: Vec<&str> = commit.journal.iter().map(|entry| entry.key.as_str()).collect();
        let events: Vec<(u64, &str)> =
            commit.segment.iter().flat_map(|segment| &segment.events).map(|event| (event.seq, event.kind())).collect();
        self.note(&format!(
            "commit {} epoch {} number {} {} {committed:?} {keys:?} {events:?} wake {:?}",
            commit.run,
            commit.epoch.0,
            commit.number,
            commit.state.as_str(),
            commit.wake_at,
        ));
        if committed != Committed::Done {
            self.state.lock().counts.fenced += u64::from(committed == Committed::Fenced);
            return;
        }
        self.busy.notify_waiters();
        let now = self.clock.now();
        let wrong = self.with(commit.run, |book, counts| book.commit(commit, now, counts));
        match wrong {
            None => self.wrong(format!("{} was committed and never created", commit.run)),
            Some((wrong, waited)) => {
                wrong.into_iter().for_each(|what| self.wrong(format!("{}: {what}", commit.run)));
                if let Some(waited) = waited {
                    self.waited(commit.run, "an answer", waited);
                }
            }
        }
    }

    /// Something that was due was noticed after this long.
    fn waited(&self, run: RunId, what: &str, waited: Duration) {
        if !self.calm {
            return;
        }
        {
            let worst = &mut self.state.lock().counts.worst_wake;
            *worst = waited.max(*worst);
        }
        if waited >= PROMPT {
            self.wrong(format!("{run}: {what} was noticed after {waited:?}"));
        }
    }

    pub fn claimed(&self, claim: &Claim, lease: &Lease) {
        let (run, epoch) = (lease.run.id, lease.run.epoch.0);
        self.note(&format!("claim {run} epoch {epoch} recovered {} by {}", lease.recovered, claim.node));
        let stale = self.with(run, |book, counts| {
            counts.claims += 1;
            counts.recoveries += u64::from(lease.recovered);
            let stale = epoch != book.epoch + 1 || book.ended;
            book.epoch = epoch;
            book.owner = Some(claim.node);
            stale
        });
        if stale != Some(false) {
            self.wrong(format!("{run}: claimed with epoch {epoch}, out of turn or after its end"));
        }
        if claim.until <= claim.now {
            self.wrong(format!("{run}: claimed under a lease that was over already"));
        }
        if !lease.recovered
            && let Some(due) = lease.run.wake_at
        {
            self.waited(run, "a due run", claim.now.since(due));
        }
    }

    pub fn renewed(&self, node: NodeId, held: &[(RunId, Epoch)], renewed: &[Renewed]) {
        if !held.is_empty() {
            self.note(&format!("renew {node} {} of {}", renewed.len(), held.len()));
        }
    }

    pub fn stuck(&self, run: RunId) {
        self.wrong(format!("{run}: paused, and nothing could have woken it"));
    }

    pub fn resolved(&self, answer: &Resolve, resolved: &Resolved) {
        self.note(&format!("answer {} {} {resolved:?}", answer.wait, answer.resolution.answer));
        if *resolved != Resolved::First {
            return;
        }
        let Some((run, twice, late)) = self.answered(answer) else { return };
        if twice {
            self.wrong(format!("{}: answered twice", answer.wait));
        }
        if let Some(late) = late {
            self.waited(run, "a deadline", late);
        }
    }

    /// Notes the first answer to a wait: whose it is, whether there was one before, and how late its deadline was seen.
    fn answered(&self, answer: &Resolve) -> Option<(RunId, bool, Option<Duration>)> {
        let now = self.clock.now();
        let state = &mut *self.state.lock();
        state.counts.answers += 1;
        let (run, book) = state.runs.iter_mut().find(|(_, book)| book.waits.contains_key(&answer.wait))?;
        let wait = book.waits.get_mut(&answer.wait)?;
        let twice = wait.resolution.replace(answer.resolution.clone()).is_some();
        if !answer.resolution.timed_out && answer.resolution.by != "signal" {
            book.unattended.get_or_insert(now);
        }
        let late = wait.deadline.filter(|_| answer.resolution.timed_out).map(|deadline| now.since(deadline));
        Some((*run, twice, late))
    }

    pub fn signalled(&self, run: RunId, name: &str, id: &str, kept: bool) {
        self.note(&format!("signal {run} {name} {id} {kept}"));
        let now = self.clock.now();
        self.with(run, |book, _| {
            let waits = book.waits.values().any(|wait| wait.kind == WaitKind::Signal && wait.resolution.is_none() && wait.name == name);
            // The same delivery once more is no news.
            let new = book.signals.insert((name.to_owned(), id.to_owned()));
            if kept && new && waits {
                book.unattended.get_or_insert(now);
            }
        });
    }

    /// A node takes in what a model says.
    pub fn heard(&self, node: NodeId, run: RunId) {
        self.with(run, |book, counts| counts.late_pieces += u64::from(book.owner.is_some_and(|owner| owner != node)));
    }

    /// A node asks a model.
    pub fn called(&self, node: NodeId, run: RunId, step: &str, turn: &str) {
        self.note(&format!("call {run} {step} {turn} by {node}"));
        // A run that has no key asks its model while it is being created.
        self.state.lock().counts.model_calls += 1;
        let again = self.with(run, |book, counts| {
            if book.owner != Some(node) {
                counts.late_calls += 1;
                return false;
            }
            book.results.contains(&format!("steps/{step}")) || book.results.contains(&format!("steps/{step}/{turn}"))
        });
        if again == Some(true) {
            self.wrong(format!("{run}: {step} {turn} was asked again after its result was durable"));
        }
    }
}

impl Book {
    /// Notes a commit that was applied; what was wrong with it, and how long an answer had waited for it.
    fn commit(&mut self, commit: &Commit, now: Timestamp, counts: &mut Counts) -> (Vec<String>, Option<Duration>) {
        let mut wrong = Vec::new();
        if (commit.epoch.0, commit.number) == (self.epoch, self.number) {
            return (wrong, None);
        }
        counts.commits += 1;
        if commit.epoch.0 != self.epoch || commit.number != self.number + 1 {
            wrong.push(format!("commit {} of epoch {} on top of {} of {}", commit.number, commit.epoch.0, self.number, self.epoch));
        }
        if self.ended {
            wrong.push("it was written to after its end".into());
        }
        self.number = commit.number;
        self.ended = commit.state.is_terminal();
        for event in commit.segment.iter().flat_map(|segment| &segment.events) {
            if self.last_seq.is_some_and(|last| event.seq <= last) {
                wrong.push(format!("event {} after event {:?}", event.seq, self.last_seq));
            }
            self.last_seq = Some(event.seq);
        }
        for entry in &commit.journal {
            // How often a step was tried is counted under one key.
            let counted = entry.key.ends_with("/attempts");
            if matches!(entry.outcome, Outcome::Done(_)) && !counted && !self.results.insert(entry.key.clone()) {
                wrong.push(format!("a second result of {}", entry.key));
            }
        }
        for wait in &commit.waits {
            if !self.wait_keys.insert(wait.key.clone()) {
                wrong.push(format!("a second wait under {}", wait.key));
            }
            self.waits.insert(wait.id, wait.clone());
        }
        (wrong, self.unattended.take().map(|since| now.since(since)))
    }
}
