//! Templates, conditions, documents and scripts, through their public surface.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops where it is")]

mod limits;
mod properties;
#[cfg(feature = "js")]
mod scripts;
mod vectors;
#[cfg(feature = "js")]
mod workers;

use dispatch::clock::{Clock, Timestamp};
use dispatch::expr::script::{Limits, Sandbox};
use serde_json::{Map, Value};

/// 2023-11-14T22:13:20Z, the moment every test runs at.
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

fn clock() -> Clock {
    Clock::simulated(7, NOW)
}

fn sandbox() -> Sandbox {
    Sandbox::new(Limits::default(), clock())
}
