//! What a run runs: a flow or an agent, saved or sent along, or a workflow.
//!
//! All are compiled to a [`super::Flow`] and run by the same engine; they differ in how their log speaks of them.

use serde::{Deserialize, Serialize};

use crate::id::{AgentId, FlowId, WorkflowId};

/// The two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TargetKind {
    #[default]
    Flow,
    Agent,
}

impl TargetKind {
    /// The word of the log and of the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flow => "flow",
            Self::Agent => "agent",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Flow, Self::Agent].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What one run runs; with an id when it is a saved one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Flow(Option<FlowId>),
    Agent(Option<AgentId>),
    Workflow(WorkflowId),
}

impl Default for Target {
    fn default() -> Self {
        Self::Flow(None)
    }
}

impl Target {
    pub const fn kind(self) -> TargetKind {
        match self {
            Self::Flow(_) | Self::Workflow(_) => TargetKind::Flow,
            Self::Agent(_) => TargetKind::Agent,
        }
    }

    pub const fn flow_id(self) -> Option<FlowId> {
        match self {
            Self::Flow(id) => id,
            Self::Agent(_) | Self::Workflow(_) => None,
        }
    }

    pub const fn agent_id(self) -> Option<AgentId> {
        match self {
            Self::Flow(_) | Self::Workflow(_) => None,
            Self::Agent(id) => id,
        }
    }

    /// As a store keeps it: nothing for a flow that was sent along, a saved flow's bare suffix, `agent`, `agent_` or `wf_` with a suffix.
    pub fn stored(self) -> Option<String> {
        match self {
            Self::Flow(id) => id.map(FlowId::suffix),
            Self::Agent(None) => Some(AgentId::PREFIX.into()),
            Self::Agent(Some(id)) => Some(id.to_string()),
            Self::Workflow(id) => Some(id.to_string()),
        }
    }

    /// Reads [`Target::stored`].
    pub fn read(stored: Option<&str>) -> Option<Self> {
        match stored {
            None => Some(Self::Flow(None)),
            Some(AgentId::PREFIX) => Some(Self::Agent(None)),
            Some(text) => match (text.parse(), text.parse()) {
                (Ok(id), _) => Some(Self::Agent(Some(id))),
                (_, Ok(id)) => Some(Self::Workflow(id)),
                _ => FlowId::from_suffix(text).ok().map(|id| Self::Flow(Some(id))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_back() {
        let (flow, agent) = (FlowId::from_u128(7), AgentId::from_u128(7));
        let workflow = Target::Workflow(WorkflowId::from_u128(7));
        for target in [Target::Flow(None), Target::Flow(Some(flow)), Target::Agent(None), Target::Agent(Some(agent)), workflow] {
            assert_eq!(Target::read(target.stored().as_deref()), Some(target));
        }
        assert_eq!(Target::read(Some("record")), None);
    }
}
