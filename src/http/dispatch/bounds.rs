//! What documents of this surface may ask for at most, whatever they are of.

/// A flow's time budget in milliseconds, unless it says otherwise.
pub const FLOW_TIMEOUT_MS: u64 = 15 * 60 * 1_000;
/// The longest time budget a flow may ask for; pauses do not count.
pub const LONGEST_FLOW_MS: u64 = 24 * 60 * 60 * 1_000;
/// What is wrong with a name that cannot be printed.
pub const NO_CONTROLS: &str = "expected a text without control characters";
