//! Time and chance, handed in.
//!
//! One [`Clock`] gives the wall time, the passing of time and randomness. The system clock reads the
//! machine; a simulated clock follows tokio's paused timer and a seed, so that a whole run, hours
//! of virtual time included, replays from one number. `clippy.toml` forbids every other source.
//!
//! Must not know: who asks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::{StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};
use serde::{Deserialize, Serialize};

/// A point in time: milliseconds since 1970-01-01 UTC. Shown as ISO 8601 with `Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest representable time; "never".
    pub const MAX: Self = Self(253_402_207_200_000);

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// This time plus a duration; stops at [`Timestamp::MAX`].
    pub fn after(self, duration: Duration) -> Self {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis).min(Self::MAX.0))
    }

    /// This time less a duration.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long from `earlier` to this time; zero when it lies in the other direction.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::MAX);
        write!(f, "{time:.3}")
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(time.as_millisecond()))
    }
}

impl schemars::JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// Time and randomness for everything above. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    rng: Mutex<StdRng>,
    origin: Origin,
}

enum Origin {
    System,
    /// Virtual: a wall time that moves with tokio's (paused) timer.
    Simulated {
        wall: Timestamp,
        start: tokio::time::Instant,
    },
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.origin {
            Origin::System => "Clock(system)",
            Origin::Simulated { .. } => "Clock(simulated)",
        })
    }
}

impl Clock {
    /// The machine's time, and randomness seeded by the operating system.
    pub fn system() -> Self {
        let mut seed = [0u8; 32];
        if SysRng.try_fill_bytes(&mut seed).is_err() {
            // No entropy source: ids and keys would be guessable, so nothing may start.
            std::process::abort();
        }
        Self(Arc::new(Inner { rng: Mutex::new(StdRng::from_seed(seed)), origin: Origin::System }))
    }

    /// Virtual time that starts at `wall` and follows tokio's timer, and randomness from `seed`.
    /// Use inside a current-thread runtime whose clock is paused.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn simulated(seed: u64, wall: Timestamp) -> Self {
        let origin = Origin::Simulated { wall, start: tokio::time::Instant::now() };
        Self(Arc::new(Inner { rng: Mutex::new(StdRng::seed_from_u64(seed)), origin }))
    }

    /// The wall time now.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0.origin {
            Origin::System => Timestamp(jiff::Timestamp::now().as_millisecond()),
            Origin::Simulated { wall, start } => wall.after(start.elapsed()),
        }
    }

    /// A monotonic reading for measuring durations; virtual when the clock is simulated.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn instant(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    /// Waits for a duration.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Waits until a wall time; returns at once when it has passed.
    pub async fn sleep_until(&self, time: Timestamp) {
        let wait = time.since(self.now());
        if !wait.is_zero() {
            self.sleep(wait).await;
        }
    }

    /// Fills a buffer with random bytes fit for keys and tokens.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.rng.lock().fill_bytes(bytes);
    }

    /// A random number below `bound`; zero when `bound` is zero.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.rng.lock().next_u64() % bound }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_survives_its_text() {
        let time = Timestamp::from_millis(1_735_000_000_123);
        let text = serde_json::to_string(&time).unwrap_or_default();
        assert_eq!(text, "\"2024-12-24T00:26:40.123Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).ok(), Some(time));
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_moves_only_when_waited_for() {
        let clock = Clock::simulated(1, Timestamp::from_millis(1_000));
        assert_eq!(clock.now().as_millis(), 1_000);
        clock.sleep(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now().as_millis(), 3_601_000);
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_seed_gives_the_same_randomness() {
        let draw = |seed| {
            let mut bytes = [0u8; 10];
            Clock::simulated(seed, Timestamp::from_millis(0)).fill(&mut bytes);
            bytes
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
