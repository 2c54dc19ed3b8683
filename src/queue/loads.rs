//! How many runs of each tenant are in a node's hands, and whether it takes one more.

use std::collections::HashMap;

use crate::id::TenantId;

/// Of the room for runs, one part in so many is left to tenants with few runs in hand.
const KEPT: usize = 10;
/// Runs that all tenants together may begin on a node that is overloaded by one of them.
const WHILE_LATE: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TenantLoads {
    runs: HashMap<TenantId, usize>,
    all: usize,
}

impl TenantLoads {
    pub fn add(&mut self, tenant: TenantId) {
        self.all += 1;
        *self.runs.entry(tenant).or_default() += 1;
    }

    pub fn remove(&mut self, tenant: TenantId) {
        if let Some(count) = self.runs.get_mut(&tenant) {
            self.all -= 1;
            *count -= 1;
            if *count == 0 {
                self.runs.remove(&tenant);
            }
        }
    }

    /// Runs of a tenant.
    pub fn of(&self, tenant: TenantId) -> usize {
        self.runs.get(&tenant).copied().unwrap_or(0)
    }

    /// The tenants that have any.
    pub fn tenants(&self) -> impl Iterator<Item = TenantId> {
        self.runs.keys().copied()
    }

    /// Whether a tenant may begin one more run, of room for `most`: beside others it may have half of it, and it leaves room as
    /// [`TenantLoads::leaves_room`] says.
    pub fn has_room(&self, tenant: TenantId, most: usize) -> bool {
        let is_small = self.others(tenant) == 0 || self.of(tenant) < most.div_ceil(2);
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
    fn fill(loads: &mut TenantLoads, tenant: TenantId, most: usize) -> usize {
        while loads.has_room(tenant, most) {
            loads.add(tenant);
        }
        loads.of(tenant)
    }

    #[test]
    fn the_last_tenth_is_for_those_who_have_little() {
        let mut loads = TenantLoads::default();
        assert_eq!(fill(&mut loads, ONE, 100), 90);
        assert_eq!(fill(&mut loads, TWO, 100), 5, "half of the last tenth");
        assert_eq!(fill(&mut loads, THREE, 100), 3);
        assert_eq!(fill(&mut loads, ONE, 100), 90);
        (0..60).for_each(|_| loads.remove(ONE));
        assert_eq!(fill(&mut loads, TWO, 100), 50, "half of all, beside others");
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
        (0..1_000).for_each(|_| loads.add(ONE));
        assert!(!loads.is_light(ONE) && loads.is_light(TWO));
        (0..128).for_each(|_| loads.add(TWO));
        assert!(!loads.is_light(TWO) && loads.is_light(THREE));
        (0..128).for_each(|_| loads.remove(TWO));
        assert_eq!(loads.of(TWO), 0);
        assert!(loads.is_light(TWO));
    }
}
