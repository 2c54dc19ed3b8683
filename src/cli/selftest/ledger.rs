//! What really arrived outside, by `Idempotency-Key`: the truth that the server's word is compared with.

use std::collections::BTreeMap;

use parking_lot::Mutex;

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
    /// How often the effect took place.
    pub performed: u32,
    /// How often the callee said that nothing took place.
    pub refused: u32,
}

/// What arrived for one run, by key.
pub type Arrived = BTreeMap<String, Seen>;

/// See the module.
#[derive(Default)]
pub struct Ledger(Mutex<BTreeMap<String, Seen>>);

/// What an arrival came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Performed,
    Refused,
}

impl Ledger {
    /// Notes an arrival whose fate depends on how many came before with its key.
    pub fn arrive(&self, key: &str, class: Class, effect: &str, fate: impl FnOnce(u32) -> Fate) -> u32 {
        let mut seen = self.0.lock();
        let entry =
            seen.entry(key.to_owned()).or_insert_with(|| Seen { class, effect: effect.to_owned(), arrivals: 0, performed: 0, refused: 0 });
        let before = entry.arrivals;
        entry.arrivals += 1;
        match fate(before) {
            Fate::Performed => entry.performed += 1,
            Fate::Refused => entry.refused += 1,
        }
        before
    }

    /// Arrivals whose key begins so: all that a step of a run has caused.
    pub fn under(&self, prefix: &str) -> u32 {
        let seen = self.0.lock();
        seen.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix)).map(|(_, seen)| seen.arrivals).sum()
    }

    /// Whether the effect with this key took place.
    pub fn performed(&self, key: &str) -> bool {
        self.0.lock().get(key).is_some_and(|seen| seen.performed > 0)
    }

    /// Whether an effect was asked for.
    pub fn has(&self, effect: &str) -> bool {
        self.0.lock().values().any(|seen| seen.effect == effect)
    }

    pub fn effect(&self, key: &str) -> Option<String> {
        self.0.lock().get(key).map(|seen| seen.effect.clone())
    }

    /// Everything, by the tag of the run it was meant for, then by key.
    pub fn by_tag(&self) -> BTreeMap<String, Arrived> {
        let mut tags: BTreeMap<String, Arrived> = BTreeMap::new();
        for (key, seen) in self.0.lock().iter() {
            let tag = seen.effect.split('/').next().unwrap_or_default();
            tags.entry(tag.to_owned()).or_default().insert(key.clone(), seen.clone());
        }
        tags
    }
}
