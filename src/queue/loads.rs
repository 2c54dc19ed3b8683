//! How many runs of each tenant are in a node's hands, and whether it takes one more.

use std::collections::HashMap;

use crate::id::TenantId;
use crate::model::Requester;

/// Of the room for runs, one part in so many is left to tenants with few runs in hand.
const KEPT: usize = 10;
/// Runs that all tenants together may begin on a node that is overloaded by one of them.
const WHILE_LATE: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TenantLoads {
    runs: HashMap<TenantId, Load>,
    all: usize,
}

/// A tenant's runs, and those of them that visitors of its pages began.
#[derive(Debug, Default)]
struct Load {
    all: usize,
    visitors: usize,
}

impl TenantLoads {
    pub fn add(&mut self, requester: Requester) {
        self.all += 1;
        let load = self.runs.entry(requester.tenant).or_default();
        load.all += 1;
        load.visitors += usize::from(requester.is_visitor);
    }

    pub fn remove(&mut self, requester: Requester) {
        if let Some(load) = self.runs.get_mut(&requester.tenant) {
            self.all -= 1;
            load.all -= 1;
            load.visitors -= usize::from(requester.is_visitor);
            if load.all == 0 {
                self.runs.remove(&requester.tenant);
            }
        }
    }

    /// Runs of a tenant.
    pub fn of(&self, tenant: TenantId) -> usize {
        self.runs.get(&tenant).map_or(0, |load| load.all)
    }

    /// The tenants that have any.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> {
        self.runs.keys().copied()
    }

    /// Whether somebody may begin one more run, of room for `most`: beside others a tenant may have half of it, its visitors half of what the
    /// tenant may have, and it leaves room as [`TenantLoads::leaves_room`] says.
    pub fn has_room(&self, requester: Requester, most: usize) -> bool {
        let Requester { tenant, is_visitor } = requester;
        let share = if self.others(tenant) == 0 { most } else { most.div_ceil(2) };
        let visitors = self.runs.get(&tenant).map_or(0, |load| load.visitors);
        let is_small = self.of(tenant) < share && (!is_visitor || visitors < share.div_ceil(2));
        is_small && self.leaves_room(tenant, most)
    }

    /// Whether one more run of a tenant leaves the others their room, of room for `most`: of the last tenth it has no more than an equal part.
    pub fn leaves_room(&self, tenant: TenantId, most: usize) -> bool {
        let kept = most / KEPT;
        let part = (kept / (self.others(tenant) + 1)).max(1);
        self.all < most && (self.all < most - kept || self.of(tenant) < part)
    }

    /// Whether a tenant has less in hand than its share of what may begin though the node is overloaded: it is not the one that makes it so.
    pub fn is_light(&self, tenant: TenantId) -> bool {
        let others = self.others(tenant);
        others > 0 && self.of(tenant) < (WHILE_LATE / (others + 1)).max(1)
    }

    fn others(&self, tenant: TenantId) -> usize {
        self.runs.len() - usize::from(self.runs.contains_key(&tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TenantId = TenantId::from_u128(1);
    const TWO: TenantId = TenantId::from_u128(2);
    const THREE: TenantId = TenantId::from_u128(3);

    /// Adds runs of a tenant as long as there is room; how many there are then.
    fn fill(loads: &mut TenantLoads, requester: impl Into<Requester>, most: usize) -> usize {
        let requester = requester.into();
        while loads.has_room(requester, most) {
            loads.add(requester);
        }
        loads.of(requester.tenant)
    }

    #[test]
    fn the_last_tenth_is_for_those_who_have_little() {
        let mut loads = TenantLoads::default();
        assert_eq!(fill(&mut loads, ONE, 100), 90);
        assert_eq!(fill(&mut loads, TWO, 100), 5, "half of the last tenth");
        assert_eq!(fill(&mut loads, THREE, 100), 3);
        assert_eq!(fill(&mut loads, ONE, 100), 90);
        (0..60).for_each(|_| loads.remove(ONE.into()));
        assert_eq!(fill(&mut loads, TWO, 100), 50, "half of all, beside others");
    }

    #[test]
    fn visitors_leave_half_of_the_room_to_their_tenant() {
        let mut loads = TenantLoads::default();
        let visitor = Requester { tenant: ONE, is_visitor: true };
        assert_eq!(fill(&mut loads, visitor, 100), 50);
        assert_eq!(fill(&mut loads, ONE, 100), 90);
        (0..50).for_each(|_| loads.remove(visitor));
        (0..40).for_each(|_| loads.remove(ONE.into()));
        loads.add(TWO.into());
        assert_eq!(fill(&mut loads, visitor, 100), 25, "half of what the tenant may have beside others");
        assert_eq!(fill(&mut loads, ONE, 100), 50);
    }

    #[test]
    fn little_room_is_room_for_one_tenant() {
        let mut loads = TenantLoads::default();
        assert_eq!(fill(&mut loads, ONE, 3), 3);
        assert_eq!(fill(&mut loads, TWO, 3), 0);
        assert_eq!(fill(&mut loads, ONE, 0), 3);
    }

    #[test]
    fn an_overloaded_node_takes_a_little_of_those_who_did_not_make_it_so() {
        let mut loads = TenantLoads::default();
        assert!(!loads.is_light(ONE));
        (0..1_000).for_each(|_| loads.add(ONE.into()));
        assert!(!loads.is_light(ONE) && loads.is_light(TWO));
        (0..128).for_each(|_| loads.add(TWO.into()));
        assert!(!loads.is_light(TWO) && loads.is_light(THREE));
        (0..128).for_each(|_| loads.remove(TWO.into()));
        assert_eq!(loads.of(TWO), 0);
        assert!(loads.is_light(TWO));
    }
}
