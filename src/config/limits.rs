//! The limits of one server, grouped by the layer that enforces them.

use crate::engine::RunLimits;
use crate::expr::script::Limits as ScriptLimits;
use crate::html::PrintLimits;
use crate::http::limits::LimitOptions;
use crate::http::serve::ServeOptions;
use crate::net::{Deadlines, MAX_REQUESTS};
use crate::queue;
use crate::store::POOL_CONNECTIONS;
use crate::tool::mcp::MAX_PROGRAMS;

/// See the module. The composition root hands each part its own.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// What a key, a request and a page may take.
    pub http: LimitOptions,
    /// Connections and request heads.
    pub connections: ServeOptions,
    /// Executions that a node advances, and its leases on them.
    pub workers: queue::Options,
    /// Jobs and webhook deliveries.
    pub jobs: queue::jobs::Options,
    /// What one execution may use and keep.
    pub runs: RunLimits,
    /// Time limits of each model call.
    pub models: Deadlines,
    /// What one script may use.
    pub scripts: ScriptLimits,
    /// Scripts that run at once; one for each core, at least 4 and at most 16 when absent.
    pub script_workers: Option<usize>,
    pub printing: PrintLimits,
    /// Requests to models and other services that one tenant's executions have out at once.
    pub outgoing_calls: usize,
    /// Running programs that speak MCP.
    pub mcp_programs: u64,
    /// Pooled connections to PostgreSQL.
    pub database_connections: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            http: LimitOptions::default(),
            connections: ServeOptions::default(),
            workers: queue::Options::default(),
            jobs: queue::jobs::Options::default(),
            runs: RunLimits::default(),
            models: Deadlines::default(),
            scripts: ScriptLimits::default(),
            script_workers: None,
            printing: PrintLimits::default(),
            outgoing_calls: MAX_REQUESTS,
            mcp_programs: MAX_PROGRAMS,
            database_connections: POOL_CONNECTIONS,
        }
    }
}
