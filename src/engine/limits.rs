//! What runs may use and keep on this server, as the operator chooses it.
//!
//! Limits of documents (steps of a flow, nesting) are no part of this: a saved flow means the same on every server.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;

use crate::tool::http;

const MIB: usize = 1024 * 1024;

/// The limits' figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunLimits {
    /// Maximum number of events of a run.
    pub max_events: u64,
    /// Maximum size of what one step makes, as held in memory, in bytes.
    pub max_result_bytes: usize,
    /// Maximum size of the results that a run keeps, as held in memory, in bytes.
    pub max_run_bytes: usize,
    /// Maximum size of one answer of a model, in bytes.
    pub max_model_answer_bytes: usize,
    /// Maximum number of things that a run waits for at the same time.
    pub max_waits: usize,
    /// Tool calls of a prompt that does not set `maxToolCalls`.
    pub default_tool_calls: u32,
    /// Maximum size of the response of an HTTP step or tool, in bytes.
    pub max_response_bytes: u64,
    /// Maximum size of the response to a request of a workflow, in bytes.
    pub max_workflow_response_bytes: u64,
    /// Maximum size of a stored file, in bytes.
    pub max_file_bytes: u64,
    pub events: EventLimits,
}

/// The events that are stored for `wait-for-event`, for each tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventLimits {
    pub max_number: u32,
    pub max_bytes: u64,
    /// How long an event is stored.
    pub ttl: Duration,
}

impl Default for EventLimits {
    fn default() -> Self {
        Self { max_number: 50_000, max_bytes: 64 * MIB as u64, ttl: Duration::from_secs(30 * 24 * 3_600) }
    }
}

impl Default for RunLimits {
    fn default() -> Self {
        Self {
            max_events: 50_000,
            max_result_bytes: 24 * MIB,
            max_run_bytes: 64 * MIB,
            max_model_answer_bytes: 8 * MIB,
            max_waits: 100,
            default_tool_calls: 10,
            max_response_bytes: http::MAX_ANSWER,
            max_workflow_response_bytes: http::MAX_REPLY,
            max_file_bytes: 25 * MIB as u64,
            events: EventLimits::default(),
        }
    }
}

/// The limits in force, which can change while runs are advanced. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct SharedLimits(Arc<RwLock<RunLimits>>);

impl SharedLimits {
    pub fn new(limits: RunLimits) -> Self {
        Self(Arc::new(RwLock::new(limits)))
    }

    /// Returns the limits in force.
    pub fn get(&self) -> RunLimits {
        *self.0.read()
    }

    /// Replaces the limits. Steps that run already may still work by the earlier ones.
    pub fn set(&self, limits: RunLimits) {
        *self.0.write() = limits;
    }
}
