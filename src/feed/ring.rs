//! The latest events of a run that is being advanced here, shared by all its readers.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, broadcast};

use crate::id::RunId;
use crate::model::EventRecord;
use crate::model::event::Rest;

/// Committed events beyond this many bytes leave the ring; readers find them in the store.
const KEEP_BYTES: usize = 256 * 1024;

/// See the module.
pub struct Ring {
    run: RunId,
    /// Told of each commit, whoever the run's readers are.
    activity: broadcast::Sender<RunId>,
    state: Mutex<State>,
    /// Wakes readers in the order they came, so that virtual time replays; a watch channel would wake them by chance.
    changed: Notify,
}

struct State {
    /// Every event from this number on is, or will be, here.
    start: u64,
    events: VecDeque<EventRecord>,
    bytes: usize,
    /// Events below this number may be shown.
    shown: u64,
    /// Events below this number are in the store.
    committed: u64,
    rest: Rest,
    closed: bool,
}

/// What a reader finds.
pub(super) enum Look {
    /// The cursor lies before the ring, which starts at this number: read the store up to there.
    Behind(u64),
    /// Events after the cursor, and where the run rests if these are the last ones.
    Events(Vec<EventRecord>, Rest),
    /// Nothing yet.
    Nothing,
    /// The ring is closed and the reader has seen all of it.
    Closed,
}

impl Ring {
    pub(super) fn new(run: RunId, start: u64, activity: broadcast::Sender<RunId>) -> Self {
        let state = State { start, events: VecDeque::new(), bytes: 0, shown: start, committed: start, rest: Rest::None, closed: false };
        Self { run, activity, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Appends events and shows everything below `shown`.
    pub fn push(&self, events: impl IntoIterator<Item = EventRecord>, shown: u64) {
        let mut state = self.state.lock();
        for event in events {
            state.bytes += event.body.len();
            state.events.push_back(event);
        }
        let visible = shown > state.shown;
        state.shown = state.shown.max(shown);
        drop(state);
        if visible {
            self.changed.notify_waiters();
        }
    }

    /// Everything below `below` is in the store; everything below `shown` may be seen.
    pub fn commit(&self, below: u64, shown: u64, rest: Rest) {
        let mut state = self.state.lock();
        state.committed = below;
        state.shown = state.shown.max(shown);
        state.rest = rest;
        while state.bytes > KEEP_BYTES && state.events.front().is_some_and(|event| event.seq < below) {
            if let Some(event) = state.events.pop_front() {
                state.bytes -= event.body.len();
                state.start = event.seq + 1;
            }
        }
        drop(state);
        self.changed.notify_waiters();
        if self.activity.receiver_count() > 0 {
            // Fails only if the last receiver has gone meanwhile.
            let _ = self.activity.send(self.run);
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_waiters();
    }

    /// The next change; enable it before looking.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// What lies from number `next` on.
    pub(super) fn look(&self, next: u64) -> Look {
        let state = self.state.lock();
        if next < state.start {
            return Look::Behind(state.start);
        }
        let from = state.events.partition_point(|event| event.seq < next);
        let events: Vec<EventRecord> = state.events.range(from..).take_while(|event| event.seq < state.shown).cloned().collect();
        match events.last() {
            Some(last) => {
                let all = state.events.back().is_some_and(|newest| newest.seq == last.seq);
                let rest = if all { state.rest } else { Rest::None };
                Look::Events(events, rest)
            }
            None if state.closed => Look::Closed,
            None => Look::Nothing,
        }
    }
}
