//! How long data is kept: the server's policy, and what a tenant sets in its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A kind of data that is deleted after a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionKind {
    /// Ended executions with all that belongs to them, from their end on.
    Executions,
    /// The events of ended executions, except for the last ones, from their end on.
    Events,
    /// Conversations of pages, from their last message on.
    Conversations,
    /// Webhook deliveries that were delivered or given up, from then on.
    Deliveries,
    /// Ended jobs, from their end on.
    Jobs,
}

impl RetentionKind {
    pub const ALL: [Self; 5] = [Self::Executions, Self::Events, Self::Conversations, Self::Deliveries, Self::Jobs];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Executions => "executions",
            Self::Events => "events",
            Self::Conversations => "conversations",
            Self::Deliveries => "deliveries",
            Self::Jobs => "jobs",
        }
    }
}

/// How long each kind of data is kept; a kind that is absent is kept for ever.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionPolicy(BTreeMap<RetentionKind, Duration>);

impl RetentionPolicy {
    /// Returns how long a kind is kept; `None` for ever.
    pub fn get(&self, kind: RetentionKind) -> Option<Duration> {
        self.0.get(&kind).copied()
    }

    /// Sets how long a kind is kept; `None` for ever.
    pub fn set(&mut self, kind: RetentionKind, span: Option<Duration>) {
        match span {
            Some(span) => self.0.insert(kind, span),
            None => self.0.remove(&kind),
        };
    }

    /// Returns this policy with some kinds kept for another time.
    #[must_use]
    pub fn with(&self, overrides: impl IntoIterator<Item = (RetentionKind, Option<Duration>)>) -> Self {
        let mut policy = self.clone();
        overrides.into_iter().for_each(|(kind, span)| policy.set(kind, span));
        policy
    }
}
