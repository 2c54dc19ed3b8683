//! Chance: everything that a world draws comes from its seed.

use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};

/// A source of chance of its own, so that what one part draws does not shift what another one gets.
#[derive(Clone)]
pub struct Dice(Clock);

impl Dice {
    /// Must be made inside the runtime of the world.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(Clock::simulated(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ purpose, Timestamp::from_millis(0)))
    }

    /// A number below `bound`.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.below(bound)
    }

    /// A number from `low` to `high`, both included.
    pub fn within(&self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&self, chance: u64) -> bool {
        self.below(100) < chance
    }

    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        items.get(usize::try_from(self.below(items.len() as u64)).unwrap_or(0))
    }

    /// A duration up to `longest`; short ones are as likely as long ones, on every scale.
    pub fn duration(&self, longest: Duration) -> Duration {
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX).max(1);
        let scale = self.below(u64::from(millis.ilog2()) + 1);
        Duration::from_millis(self.below((2 << scale).min(millis + 1)))
    }
}
