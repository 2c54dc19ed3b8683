//! Every setting that is a number: its name, unit, range and place in the [`Config`]. The default is that of the place.
//!
//! Flags, environment variables, keys of the configuration file and docs/configuration.md are made from this one table. To add a setting: a field
//! in the options of its layer, and a row here.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use crate::http::limits::Rate;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Seconds,
    /// Things.
    Number,
    PerSecond,
}

impl Unit {
    /// The unit's name; empty for plain numbers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Number => "",
            Self::PerSecond => "per second",
        }
    }
}

/// Where a setting is kept.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Size(fn(&mut Config) -> &mut usize),
    Small(fn(&mut Config) -> &mut u32),
    Large(fn(&mut Config) -> &mut u64),
    Seconds(fn(&mut Config) -> &mut Duration),
    /// Computed from other facts when absent.
    Optional(fn(&mut Config) -> &mut Option<usize>),
    Special {
        get: fn(&Config) -> u64,
        set: fn(&mut Config, u64),
    },
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct NumberSetting {
    /// The flag's long name, and the key in the file.
    pub name: &'static str,
    /// The table of the file.
    pub table: &'static str,
    pub unit: Unit,
    pub min: u64,
    pub max: u64,
    /// What it limits, in one sentence or more.
    pub help: &'static str,
    /// Whether a running server takes over a new value.
    pub reloads: bool,
    slot: Slot,
}

impl NumberSetting {
    const fn new(table: &'static str, name: &'static str, unit: Unit, range: (u64, u64), slot: Slot, help: &'static str) -> Self {
        Self { name, table, unit, min: range.0, max: range.1, help, reloads: false, slot }
    }

    /// The same setting as one that a running server takes over.
    const fn reloading(self) -> Self {
        Self { reloads: true, ..self }
    }

    /// The environment variable.
    pub fn variable(&self) -> String {
        format!("DISPATCH_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }

    /// The default; `None` when it is computed at the start.
    pub fn default_value(&self) -> Option<u64> {
        self.read(&mut Config::new(PathBuf::new()))
    }

    /// Returns the value at its place.
    fn read(&self, config: &mut Config) -> Option<u64> {
        match self.slot {
            Slot::Size(slot) => Some(*slot(config) as u64),
            Slot::Small(slot) => Some(u64::from(*slot(config))),
            Slot::Large(slot) => Some(*slot(config)),
            Slot::Seconds(slot) => Some(slot(config).as_secs()),
            Slot::Optional(slot) => slot(config).map(|value| value as u64),
            Slot::Special { get, .. } => Some(get(config)),
        }
    }

    /// Writes the value to its place.
    pub fn apply(&self, config: &mut Config, value: u64) {
        let size = usize::try_from(value).unwrap_or(usize::MAX);
        match self.slot {
            Slot::Size(slot) => *slot(config) = size,
            Slot::Small(slot) => *slot(config) = u32::try_from(value).unwrap_or(u32::MAX),
            Slot::Large(slot) => *slot(config) = value,
            Slot::Seconds(slot) => *slot(config) = Duration::from_secs(value),
            Slot::Optional(slot) => *slot(config) = Some(size),
            Slot::Special { set, .. } => set(config, value),
        }
    }
}

/// A count as one for rates; `None` for 0.
fn non_zero(value: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(value).unwrap_or(u32::MAX))
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// Every setting that is a number, in the order of the documentation. The burst of new sessions follows their rate, which it is part of.
pub const NUMBERS: &[NumberSetting] = &[
    NumberSetting::new(
        "server",
        "grace-seconds",
        Unit::Seconds,
        (0, HOUR),
        Slot::Seconds(|config| &mut config.grace),
        "How long runs may take to end when the server stops; the rest is handed back.",
    ),
    NumberSetting::new(
        "server",
        "database-connections",
        Unit::Number,
        (2, 1_000),
        Slot::Small(|config| &mut config.limits.database_connections),
        "Maximum number of pooled connections to PostgreSQL. Each server needs two more.",
    ),
    NumberSetting::new(
        "http",
        "rate-limit",
        Unit::PerSecond,
        (0, 1_000_000),
        Slot::Special {
            get: |config| config.limits.http.rate.map_or(0, |rate| u64::from(rate.per_second.get())),
            set: |config, value| {
                let twice = NonZeroU32::MIN.saturating_add(1);
                let rate = |per_second: NonZeroU32| Rate { per_second, burst: per_second.saturating_mul(twice) };
                config.limits.http.rate = non_zero(value).map(rate);
            },
        },
        "Calls of one key; twice as many at once after a quiet time; 0 removes the limit.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "max-connections",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.connections.max_connections),
        "Maximum number of concurrent connections. The server raises its limit on open files to the hard limit; if that is low, it accepts \
         fewer connections: a quarter of the limit (at least 128, at most 8,192) is reserved for the database, files and outgoing calls.",
    ),
    NumberSetting::new(
        "http",
        "max-connections-per-peer",
        Unit::Number,
        (0, 1_000_000),
        Slot::Optional(|config| &mut config.limits.connections.max_per_peer),
        "Maximum number of connections from one address, or from one IPv6 network (/64). The default is a quarter of --max-connections; 0 \
         removes the limit. Loopback addresses are not limited. Behind a proxy on another machine all callers share one address: set 0 and \
         let the proxy limit them.",
    ),
    NumberSetting::new(
        "http",
        "max-header-bytes",
        Unit::Bytes,
        (8 * KIB, MIB),
        Slot::Size(|config| &mut config.limits.connections.max_header_bytes),
        "Maximum size of a request's head.",
    ),
    NumberSetting::new(
        "http",
        "header-seconds",
        Unit::Seconds,
        (1, 300),
        Slot::Seconds(|config| &mut config.limits.connections.header_timeout),
        "How long a request's head may take to arrive; an idle connection is closed after this time.",
    ),
    NumberSetting::new(
        "http",
        "max-http2-streams",
        Unit::Number,
        (1, 10_000),
        Slot::Small(|config| &mut config.limits.connections.max_http2_streams),
        "Maximum number of concurrent requests on one HTTP/2 connection.",
    ),
    NumberSetting::new(
        "http",
        "max-body-bytes",
        Unit::Bytes,
        (KIB, 64 * MIB),
        Slot::Size(|config| &mut config.limits.http.body.raw),
        "Maximum size of a request body as it is sent.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "max-inflated-body-bytes",
        Unit::Bytes,
        (KIB, 256 * MIB),
        Slot::Size(|config| &mut config.limits.http.body.inflated),
        "Maximum size of a compressed request body after decompression. On the routes of pages --max-body-bytes applies too.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "body-seconds",
        Unit::Seconds,
        (1, HOUR),
        Slot::Seconds(|config| &mut config.limits.http.body.time),
        "How long a request body may take to arrive.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "max-streams-per-key",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.http.streams_per_key),
        "Maximum number of streams that one key holds open.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "stream-seconds",
        Unit::Seconds,
        (60, DAY),
        Slot::Seconds(|config| &mut config.limits.http.stream_time),
        "How long a stream of events may stay open; then `retry:` asks its reader to reconnect.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "keep-alive-seconds",
        Unit::Seconds,
        (1, 300),
        Slot::Seconds(|config| &mut config.limits.http.keep_alive),
        "Interval of the comments that keep proxies from closing a silent stream.",
    )
    .reloading(),
    NumberSetting::new(
        "http",
        "idempotency-seconds",
        Unit::Seconds,
        (60, 30 * DAY),
        Slot::Seconds(|config| &mut config.limits.http.idempotency_ttl),
        "How long an `Idempotency-Key` is known.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "page-storage-mib",
        Unit::Number,
        (0, 1_048_576),
        Slot::Special {
            get: |config| config.limits.http.page_bytes.map_or(0, |bytes| bytes / MIB),
            set: |config, value| config.limits.http.page_bytes = (value > 0).then_some(value * MIB),
        },
        "MiB that the executions of one client token may store. Then messages of its pages are refused (`page_storage_exceeded`) until \
         executions are deleted. 0 removes the limit.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "new-sessions-per-second",
        Unit::PerSecond,
        (0, 1_000_000),
        Slot::Special {
            get: |config| config.limits.http.new_sessions.map_or(0, |rate| u64::from(rate.per_second.get())),
            set: |config, value| {
                let burst = config.limits.http.new_sessions.map_or(NonZeroU32::MIN, |rate| rate.burst);
                config.limits.http.new_sessions = non_zero(value).map(|per_second| Rate { per_second, burst });
            },
        },
        "New sessions and new visitors of one client token; 0 removes the limit.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "new-sessions-burst",
        Unit::Number,
        (1, 1_000_000),
        Slot::Special {
            get: |config| config.limits.http.new_sessions.map_or(0, |rate| u64::from(rate.burst.get())),
            set: |config, value| {
                if let (Some(rate), Some(burst)) = (&mut config.limits.http.new_sessions, non_zero(value)) {
                    rate.burst = burst;
                }
            },
        },
        "New sessions and new visitors of one client token at once after a quiet time.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "max-conversation-turns",
        Unit::Number,
        (1, 10_000),
        Slot::Size(|config| &mut config.limits.http.conversations.max_turns),
        "Maximum number of stored turns of a conversation; the oldest are deleted.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "max-conversation-bytes",
        Unit::Bytes,
        (64 * KIB, 64 * MIB),
        Slot::Large(|config| &mut config.limits.http.conversations.max_bytes),
        "Maximum size of the stored turns of a conversation; the oldest are deleted.",
    )
    .reloading(),
    NumberSetting::new(
        "pages",
        "max-visitor-conversations",
        Unit::Number,
        (1, 10_000),
        Slot::Size(|config| &mut config.limits.http.conversations.max_per_visitor),
        "Maximum number of conversations that a visitor can return to; the oldest are dropped.",
    )
    .reloading(),
    NumberSetting::new(
        "models",
        "model-first-byte-seconds",
        Unit::Seconds,
        (1, HOUR),
        Slot::Seconds(|config| &mut config.limits.models.first_byte),
        "How long a model's server may take to answer at all. Local models that read long prompts may need more.",
    ),
    NumberSetting::new(
        "models",
        "model-idle-seconds",
        Unit::Seconds,
        (1, HOUR),
        Slot::Seconds(|config| &mut config.limits.models.between_chunks),
        "How long a model may be silent in the middle of its answer.",
    ),
    NumberSetting::new(
        "models",
        "model-total-seconds",
        Unit::Seconds,
        (1, DAY),
        Slot::Seconds(|config| &mut config.limits.models.total),
        "How long one answer of a model may take.",
    ),
    NumberSetting::new(
        "models",
        "max-model-answer-bytes",
        Unit::Bytes,
        (MIB, 48 * MIB),
        Slot::Size(|config| &mut config.limits.runs.max_model_answer_bytes),
        "Maximum size of one answer of a model: text, reasoning and arguments of tool calls.",
    )
    .reloading(),
    NumberSetting::new(
        "tools",
        "default-tool-calls",
        Unit::Number,
        (1, 200),
        Slot::Small(|config| &mut config.limits.runs.default_tool_calls),
        "Tool calls of a prompt that does not set `tools.maxToolCalls`.",
    )
    .reloading(),
    NumberSetting::new(
        "tools",
        "max-response-bytes",
        Unit::Bytes,
        (64 * KIB, 64 * MIB),
        Slot::Large(|config| &mut config.limits.runs.max_response_bytes),
        "Maximum size of the response of an HTTP step or tool.",
    )
    .reloading(),
    NumberSetting::new(
        "tools",
        "max-workflow-response-bytes",
        Unit::Bytes,
        (64 * KIB, 64 * MIB),
        Slot::Large(|config| &mut config.limits.runs.max_workflow_response_bytes),
        "Maximum size of the response to a request of a workflow.",
    )
    .reloading(),
    NumberSetting::new(
        "tools",
        "max-file-bytes",
        Unit::Bytes,
        (64 * KIB, 100 * MIB),
        Slot::Large(|config| &mut config.limits.runs.max_file_bytes),
        "Maximum size of a file that a step stores.",
    )
    .reloading(),
    NumberSetting::new(
        "tools",
        "max-outgoing-calls",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.outgoing_calls),
        "Outgoing calls that one tenant's executions may have at the same time, to models and other services. Further ones wait, those of the \
         tenant and of visitors of its pages in turn.",
    ),
    NumberSetting::new(
        "tools",
        "max-mcp-programs",
        Unit::Number,
        (1, 1_000),
        Slot::Large(|config| &mut config.limits.mcp_programs),
        "Maximum number of running programs of --mcp-command.",
    ),
    NumberSetting::new(
        "runs",
        "lease-seconds",
        Unit::Seconds,
        (1, HOUR),
        Slot::Seconds(|config| &mut config.limits.workers.lease),
        "How long a node's lease on a run lasts without being renewed: after a crash, others wait that long.",
    ),
    NumberSetting::new(
        "runs",
        "max-recoveries",
        Unit::Number,
        (1, 1_000_000),
        Slot::Small(|config| &mut config.limits.workers.max_recoveries),
        "How many servers in a row an execution may lose without progress. After that it fails with `recovery_exhausted`.",
    ),
    NumberSetting::new(
        "runs",
        "max-active-runs",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.workers.max_active),
        "Maximum number of executions that this server advances at the same time.",
    ),
    NumberSetting::new(
        "runs",
        "max-run-events",
        Unit::Number,
        (1_000, 1_000_000),
        Slot::Large(|config| &mut config.limits.runs.max_events),
        "Maximum number of events of an execution.",
    )
    .reloading(),
    NumberSetting::new(
        "runs",
        "max-result-bytes",
        Unit::Bytes,
        (64 * KIB, 128 * MIB),
        Slot::Size(|config| &mut config.limits.runs.max_result_bytes),
        "Maximum size of the result of a step, as held in memory.",
    )
    .reloading(),
    NumberSetting::new(
        "runs",
        "max-run-bytes",
        Unit::Bytes,
        (MIB, 1_024 * MIB),
        Slot::Size(|config| &mut config.limits.runs.max_run_bytes),
        "Maximum size of the results of an execution, as held in memory.",
    )
    .reloading(),
    NumberSetting::new(
        "runs",
        "max-waits",
        Unit::Number,
        (1, 10_000),
        Slot::Size(|config| &mut config.limits.runs.max_waits),
        "Maximum number of things that an execution waits for at the same time.",
    )
    .reloading(),
    NumberSetting::new(
        "runs",
        "compact-after-seconds",
        Unit::Seconds,
        (0, 3_650 * DAY),
        Slot::Special {
            get: |config| config.compact_after.map_or(0, |after| after.as_secs()),
            set: |config, value| config.compact_after = (value > 0).then(|| Duration::from_secs(value)),
        },
        "How long after an execution's end its log keeps every piece of its texts; then pieces that follow one another are joined. 0 keeps \
         them forever.",
    ),
    NumberSetting::new(
        "events",
        "max-stored-events",
        Unit::Number,
        (1, 1_000_000),
        Slot::Small(|config| &mut config.limits.runs.events.max_number),
        "Maximum number of events that are stored for `wait-for-event`, for each tenant; the oldest are deleted.",
    )
    .reloading(),
    NumberSetting::new(
        "events",
        "max-stored-event-bytes",
        Unit::Bytes,
        (MIB, 4_096 * MIB),
        Slot::Large(|config| &mut config.limits.runs.events.max_bytes),
        "Maximum size of these events; the oldest are deleted.",
    )
    .reloading(),
    NumberSetting::new(
        "events",
        "stored-event-seconds",
        Unit::Seconds,
        (60, 365 * DAY),
        Slot::Seconds(|config| &mut config.limits.runs.events.ttl),
        "How long such an event is stored.",
    )
    .reloading(),
    NumberSetting::new(
        "jobs",
        "jobs-at-once",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.jobs.at_once),
        "Jobs that this server works on at the same time for one tenant. A tenth more is reserved for tenants that have none in progress here.",
    ),
    NumberSetting::new(
        "webhooks",
        "webhook-seconds",
        Unit::Seconds,
        (1, 120),
        Slot::Seconds(|config| &mut config.limits.jobs.deliveries.timeout),
        "Time limit of one delivery attempt.",
    ),
    NumberSetting::new(
        "webhooks",
        "max-deliveries",
        Unit::Number,
        (1, 10_000),
        Slot::Size(|config| &mut config.limits.jobs.deliveries.concurrent),
        "Maximum number of deliveries that this server sends at the same time.",
    ),
    NumberSetting::new(
        "webhooks",
        "max-deliveries-per-tenant",
        Unit::Number,
        (1, 10_000),
        Slot::Size(|config| &mut config.limits.jobs.deliveries.per_tenant),
        "The same maximum for one tenant.",
    ),
    NumberSetting::new(
        "webhooks",
        "max-deliveries-per-address",
        Unit::Number,
        (1, 1_000),
        Slot::Size(|config| &mut config.limits.jobs.deliveries.per_address),
        "The same maximum for one webhook.",
    ),
    NumberSetting::new(
        "scripts",
        "script-seconds",
        Unit::Seconds,
        (1, 60),
        Slot::Seconds(|config| &mut config.limits.scripts.time),
        "Time limit of a script, of parsing all scripts and schemas of a document, and of validating a value against a schema.",
    ),
    NumberSetting::new(
        "scripts",
        "script-memory-bytes",
        Unit::Bytes,
        (8 * MIB, 256 * MIB),
        Slot::Size(|config| &mut config.limits.scripts.memory),
        "Memory limit of a script, its variables included.",
    ),
    NumberSetting::new(
        "scripts",
        "script-result-bytes",
        Unit::Bytes,
        (KIB, 16 * MIB),
        Slot::Size(|config| &mut config.limits.scripts.output),
        "Maximum size of a script's result as JSON.",
    ),
    NumberSetting::new(
        "scripts",
        "script-workers",
        Unit::Number,
        (1, 256),
        Slot::Optional(|config| &mut config.limits.script_workers),
        "Processes that run scripts at the same time. The default is one for each core, at least 4 and at most 16.",
    ),
    NumberSetting::new(
        "scripts",
        "script-queue",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.scripts.queue),
        "Maximum number of one tenant's scripts that wait for a process.",
    ),
    NumberSetting::new(
        "printing",
        "print-seconds",
        Unit::Seconds,
        (1, HOUR),
        Slot::Seconds(|config| &mut config.limits.printing.time),
        "Time limit for printing one document.",
    ),
    NumberSetting::new(
        "printing",
        "print-workers",
        Unit::Number,
        (1, 64),
        Slot::Optional(|config| &mut config.limits.printing.workers),
        "Processes that print at the same time; each may use 2 GiB of memory. The default is one for each core, at most 4.",
    ),
    NumberSetting::new(
        "printing",
        "print-queue",
        Unit::Number,
        (1, 1_000_000),
        Slot::Size(|config| &mut config.limits.printing.queue),
        "Maximum number of one tenant's documents that wait to be printed.",
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_default_is_in_its_range_and_every_name_is_used_once() {
        let mut names = BTreeSet::new();
        for setting in NUMBERS {
            assert!(names.insert(setting.name), "{} is there twice", setting.name);
            let default = setting.default_value();
            assert!(default.is_none_or(|value| (setting.min..=setting.max).contains(&value)), "{}: {default:?}", setting.name);
        }
    }

    #[test]
    fn a_value_that_is_written_is_read_again() {
        for setting in NUMBERS {
            let mut config = Config::new(PathBuf::new());
            setting.apply(&mut config, setting.max);
            assert_eq!(setting.read(&mut config), Some(setting.max), "{}", setting.name);
        }
    }
}
