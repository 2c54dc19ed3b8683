//! Typed, prefixed, time-sortable ids.
//!
//! Every noun has one id: a UUIDv7, printed as a TypeID (`prefix_` and 26 characters of Crockford
//! base32, see the TypeID specification 0.3). A run is one noun under several foreign names, so
//! [`RunId`] accepts each of its prefixes. The store keeps the bare 26 characters: they sort by time.
//!
//! Must not know: what an id refers to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::clock::{Clock, Timestamp};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Length of the part after the prefix.
pub const SUFFIX_LEN: usize = 26;

/// Why a text is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected an id like {expected}_01h455vb4pex5vsknk084sn02q")]
pub struct ParseIdError {
    expected: &'static str,
}

fn encode(value: u128) -> [u8; SUFFIX_LEN] {
    let mut out = [b'0'; SUFFIX_LEN];
    let mut rest = value;
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(rest & 31) as usize];
        rest >>= 5;
    }
    out
}

fn decode(text: &str) -> Option<u128> {
    let bytes = text.as_bytes();
    // 26 characters carry 130 bits; the first may use only three of its five.
    if bytes.len() != SUFFIX_LEN || bytes[0] > b'7' {
        return None;
    }
    bytes.iter().try_fold(0u128, |sum, byte| {
        let digit = ALPHABET.iter().position(|known| known == byte)?;
        Some((sum << 5) | digit as u128)
    })
}

/// A fresh UUIDv7 (RFC 9562 section 5.7): the clock's time in milliseconds, then the clock's randomness.
fn uuid_v7(clock: &Clock) -> u128 {
    let mut random = [0u8; 10];
    clock.fill(&mut random);
    let millis = u64::try_from(clock.now().as_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128()
}

/// Any kind of id, for what treats them alike.
pub trait TypedId: Copy + Send + Sync + fmt::Display + FromStr<Err = ParseIdError> {
    /// The 26 characters that the store keeps.
    fn suffix(self) -> String;

    /// Reads the 26 characters that the store keeps.
    fn from_suffix(text: &str) -> Result<Self, ParseIdError>;
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal $(| $alias:literal)*;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// The prefix this kind of id is printed with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id: its time part from the clock, the rest from the clock's randomness.
            pub fn new(clock: &Clock) -> Self {
                Self(uuid_v7(clock))
            }

            /// The id with the given 128 bits.
            pub const fn from_u128(value: u128) -> Self {
                Self(value)
            }

            /// The id's 128 bits.
            pub const fn as_u128(self) -> u128 {
                self.0
            }

            /// The 26 characters that the store keeps.
            pub fn suffix(self) -> String {
                encode(self.0).iter().map(|byte| char::from(*byte)).collect()
            }

            /// Reads the 26 characters that the store keeps.
            pub fn from_suffix(text: &str) -> Result<Self, ParseIdError> {
                decode(text).map(Self).ok_or(ParseIdError { expected: $prefix })
            }
        }

        impl TypedId for $name {
            fn suffix(self) -> String {
                Self::suffix(self)
            }

            fn from_suffix(text: &str) -> Result<Self, ParseIdError> {
                Self::from_suffix(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!($prefix, "_"))?;
                encode(self.0).iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = ParseIdError { expected: $prefix };
                let (prefix, suffix) = text.rsplit_once('_').ok_or(wrong.clone())?;
                if prefix != $prefix $(&& prefix != $alias)* {
                    return Err(wrong);
                }
                decode(suffix).map(Self).ok_or(wrong)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": concat!("^", $prefix, "_[0-7][0-9a-hjkmnp-tv-z]{25}$"),
                })
            }
        }
    )*};
}

ids! {
    /// One tenant: the owner of everything else.
    TenantId = "tenant";
    /// An API key's row; never the key itself.
    KeyId = "key";
    /// A saved flow.
    FlowId = "flow";
    /// A saved agent.
    AgentId = "agent";
    /// One immutable version of a saved flow or agent.
    FlowVersionId = "fver";
    /// A record.
    RecordId = "record";
    /// A name for a version of an agent.
    ReleaseId = "release";
    /// A change of what an alias names.
    DeploymentId = "deploy";
    /// One execution of a flow. Surfaces print their own prefix over the same suffix.
    RunId = "exec" | "run" | "wfrun";
    /// What a paused run waits for.
    WaitId = "wait" | "appr";
    /// One running server process.
    NodeId = "node";
    /// A provider credential's row.
    CredentialId = "cred";
    /// A managed secret's row.
    SecretId = "secret";
    /// A saved tool.
    ToolId = "tool";
    /// Something that is kept of somebody.
    MemoryId = "mem";
    /// An answer in the cache of prompts.
    CachedAnswerId = "ans";
    /// What an MCP server said of its tools.
    McpPinsId = "mcppin";
    /// A flow over many records.
    BatchId = "batch";
    /// A flow or agent over many cases, graded.
    EvalId = "evalgrp";
    /// A file that is kept.
    AssetId = "asset";
    /// A vector that is kept.
    VectorId = "vec";
    /// A schedule.
    ScheduleId = "sched";
    /// One time that a schedule fired.
    FiringId = "firing";
    /// A job.
    JobId = "job";
    /// A cron entry.
    CronId = "cron";
    /// An address at which webhooks arrive.
    TriggerId = "trig";
    /// A workflow, found by its name.
    WorkflowId = "wf";
    /// The first half of a session's beginning.
    HandshakeId = "hs";
    /// A session of the workflows' API; never its token.
    ApiSessionId = "apisess";
    /// An event that runs may take.
    EventId = "evt";
    /// A run that waits for an event.
    WaiterId = "waiter";
    /// An address that is told what happens.
    WebhookId = "hook";
    /// Something that an address is told.
    DeliveryId = "msg";
    /// A job that failed for the last time.
    DeadLetterId = "dlq";
    /// A client token's row; never the token itself.
    ClientTokenId = "ctok";
    /// A page's session with a client token; never the text that the page holds.
    SessionId = "sess";
    /// What one visitor and one target said to each other.
    ConversationId = "conv";
    /// One turn of a conversation.
    TurnId = "turn";
    /// Somebody who comes back to a page.
    VisitorId = "visitor";
    /// A word on an answer.
    FeedbackId = "feedback";
    /// One HTTP request.
    RequestId = "req";
}

impl RunId {
    /// Returns the smallest id of those created at this time: ids begin with their time of creation.
    pub fn first_of(time: Timestamp) -> Self {
        Self(u128::try_from(time.as_millis()).unwrap_or(0) << 80)
    }
}

/// Agents are kept among the flows, under the same bits.
impl AgentId {
    pub const fn as_flow(self) -> FlowId {
        FlowId(self.0)
    }

    pub const fn of_flow(id: FlowId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_the_specification_s_example() {
        // TypeID specification, valid.yml: uuid 01890a5d-ac96-774b-bcce-b302099a8057.
        let id = FlowId::from_u128(0x01890a5d_ac96_774b_bcce_b302099a8057);
        assert_eq!(id.to_string(), "flow_01h455vb4pex5vsknk084sn02q");
        assert_eq!("flow_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let clock = |seed| Clock::simulated(seed, crate::clock::Timestamp::from_millis(0));
        assert_eq!(RunId::new(&clock(7)), RunId::new(&clock(7)));
        assert_ne!(RunId::new(&clock(7)), RunId::new(&clock(8)));
    }

    #[test]
    fn a_run_answers_to_every_surface_s_prefix() {
        let id: RunId = "exec_01h455vb4pex5vsknk084sn02q".parse().unwrap_or(RunId::from_u128(0));
        assert_eq!("run_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
        assert_eq!("wfrun_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
        assert!("flow_01h455vb4pex5vsknk084sn02q".parse::<RunId>().is_err());
    }

    #[test]
    fn refuses_what_is_not_an_id() {
        for text in [
            "",
            "flow_",
            "flow",
            "flow_81h455vb4pex5vsknk084sn02q",
            "flow_01H455VB4PEX5VSKNK084SN02Q",
            "flow_01h455vb4pex5vsknk084sn02",
            "flow_01h455vb4pex5vsknk084sn02é",
        ] {
            assert!(text.parse::<FlowId>().is_err(), "{text}");
        }
    }
}
