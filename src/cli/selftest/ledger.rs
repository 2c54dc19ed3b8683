//! What really arrived outside, by `Idempotency-Key`: the truth that the server's word is compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::Clock;

/// Arrivals so soon after a server that stood still was woken are told apart when a step turns out to be redone: they may be what
/// it had handed to its network before it slept. They excuse nothing.
const WAKING: Duration = Duration::from_millis(500);

/// How a callee is meant to be treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// It honours the key: repetitions are fine as long as the key stays.
    Idempotent,
    /// It does not: it must not be asked twice, unless the first time is known to have come to nothing.
    Once,
    /// A model call.
    Model,
}

/// All arrivals with one key.
#[derive(Debug, Clone)]
pub struct Seen {
    pub class: Class,
    /// `tag/label`: which effect of which run it was meant to be.
    pub effect: String,
    pub arrivals: u32,
    /// Those of them that came just after a sleeper was woken, whoever sent them.
    pub late: u32,
    /// How often the effect took place.
    pub performed: u32,
    /// How often the callee said that nothing took place.
    pub refused: u32,
}

/// What arrived for one run, by key.
pub type Arrived = BTreeMap<String, Seen>;

/// See the module.
pub struct Ledger {
    seen: Mutex<BTreeMap<String, Seen>>,
    /// Which runs which addresses were told of.
    told: Mutex<BTreeSet<(String, String)>>,
    clock: Clock,
    /// When a server that stood still last went on.
    woken: Mutex<Option<Instant>>,
}

/// What an arrival came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Performed,
    Refused,
}

impl Ledger {
    pub fn new(clock: Clock) -> Self {
        Self { seen: Mutex::default(), told: Mutex::default(), clock, woken: Mutex::default() }
    }

    /// An address was told of a run.
    pub fn tell(&self, tag: &str, run: &str) {
        self.told.lock().insert((tag.to_owned(), run.to_owned()));
    }

    pub fn was_told(&self, tag: &str, run: &str) -> bool {
        self.told.lock().contains(&(tag.to_owned(), run.to_owned()))
    }

    /// A server that stood still goes on now.
    pub fn wakes(&self) {
        *self.woken.lock() = Some(self.clock.instant());
    }

    /// Notes an arrival whose fate depends on how many came before with its key.
    pub fn arrive(&self, key: &str, class: Class, effect: &str, fate: impl FnOnce(u32) -> Fate) -> u32 {
        let late = self.woken.lock().is_some_and(|woken| woken.elapsed() < WAKING);
        let mut seen = self.seen.lock();
        let first = || Seen { class, effect: effect.to_owned(), arrivals: 0, late: 0, performed: 0, refused: 0 };
        let entry = seen.entry(key.to_owned()).or_insert_with(first);
        let before = entry.arrivals;
        entry.arrivals += 1;
        entry.late += u32::from(late);
        match fate(before) {
            Fate::Performed => entry.performed += 1,
            Fate::Refused => entry.refused += 1,
        }
        before
    }

    /// Arrivals whose key begins so: all that a step of a run has caused.
    pub fn under(&self, prefix: &str) -> u32 {
        let seen = self.seen.lock();
        seen.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)).map(|(_, seen)| seen.arrivals).sum()
    }

    /// The same by key, for a report: arrivals, and those that came just after a sleeper was woken.
    pub fn told_under(&self, prefix: &str) -> String {
        let seen = self.seen.lock();
        let keys = seen.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let told: Vec<String> = keys
            .map(|(key, seen)| format!("{} {:?} {} ({} after a waking)", &key[prefix.len()..], seen.class, seen.arrivals, seen.late))
            .collect();
        told.join(", ")
    }

    /// Whether the effect with this key took place.
    pub fn performed(&self, key: &str) -> bool {
        self.seen.lock().get(key).is_some_and(|seen| seen.performed > 0)
    }

    /// Whether an effect was asked for.
    pub fn has(&self, effect: &str) -> bool {
        self.seen.lock().values().any(|seen| seen.effect == effect)
    }

    pub fn effect(&self, key: &str) -> Option<String> {
        self.seen.lock().get(key).map(|seen| seen.effect.clone())
    }

    /// Everything, by the tag of the run it was meant for, then by key.
    pub fn by_tag(&self) -> BTreeMap<String, Arrived> {
        let mut tags: BTreeMap<String, Arrived> = BTreeMap::new();
        for (key, seen) in self.seen.lock().iter() {
            let tag = seen.effect.split('/').next().unwrap_or_default();
            tags.entry(tag.to_owned()).or_default().insert(key.clone(), seen.clone());
        }
        tags
    }
}
