//! Tenants that are told outside what becomes of their runs.
//!
//! Must not know: who is told, and how.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use crate::id::TenantId;
use crate::model::event::Rest;
use crate::model::{JournalEntry, Outcome, RunState};
use crate::store::NOTICE;

/// Tenants somebody listens to. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Listeners(Arc<RwLock<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    known: HashSet<TenantId>,
    /// Of whom it cannot be known at every moment whether somebody listens.
    always: HashSet<TenantId>,
}

impl Listeners {
    /// Whoever asked to be told, all of them.
    pub fn set(&self, tenants: HashSet<TenantId>) {
        self.0.write().known = tenants;
    }

    /// One more.
    pub fn add(&self, tenant: TenantId) {
        self.0.write().known.insert(tenant);
    }

    /// One of whom everything is noted from now on, whether somebody listens or not.
    pub fn always(&self, tenant: TenantId) {
        self.0.write().always.insert(tenant);
    }

    fn hear(&self, tenant: TenantId) -> bool {
        let heard = self.0.read();
        heard.known.contains(&tenant) || heard.always.contains(&tenant)
    }

    /// What a commit notes so that it is told: of ends, and of waiting for a person.
    pub(super) fn notice(&self, tenant: TenantId, state: RunState, rest: Rest) -> Option<JournalEntry> {
        let news = state.is_terminal() || (state == RunState::Paused && rest == Rest::Caller);
        (news && self.hear(tenant)).then(|| JournalEntry { key: NOTICE.into(), outcome: Outcome::Done(Value::Null) })
    }
}
