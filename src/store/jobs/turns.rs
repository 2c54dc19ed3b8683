//! Whose jobs a claim takes: one of each tenant in turn, the tenant with the fewest attempts in hand first.
//!
//! A priority is a word of a tenant about its own jobs; between tenants it means nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::JobClaim;
use crate::id::TenantId;

/// What a node that claims has in hand, and whose turn it is.
#[derive(Debug, Clone, Default)]
pub struct JobTurns {
    /// Attempts in the node's hands, by tenant.
    pub held: BTreeMap<TenantId, u32>,
    /// How much of the claim's room is kept for tenants that have no attempt in hand.
    pub reserved: u32,
    /// The tenant that had the last turn. Among those that have equally many in hand, the ones behind it come first.
    pub after: Option<TenantId>,
}

/// A turn's place among all turns of a claim: attempts in hand before it, whether the round begins anew before it, the tenant.
pub(in crate::store) type Place = (u32, bool, TenantId);

/// The turns of one claim.
#[derive(Debug)]
pub(in crate::store) struct Turns {
    held: BTreeMap<TenantId, u32>,
    /// Tenants with jobs that may be taken.
    waiting: BTreeSet<TenantId>,
    reserved: usize,
    after: Option<TenantId>,
}

impl Turns {
    /// The turns of the tenants that have jobs whose time has come.
    pub fn new(claim: &JobClaim, ready: impl IntoIterator<Item = TenantId>) -> Self {
        let JobTurns { held, reserved, after } = claim.turns.clone();
        let waiting = ready.into_iter().filter(|tenant| !claim.except.contains(tenant)).collect();
        Self { held, waiting, reserved: reserved as usize, after }
    }

    /// How many jobs each tenant may have of the room that is left, in the order of their first turns.
    pub fn deal(&self, room: usize) -> Vec<(TenantId, usize)> {
        let mut line: BinaryHeap<Reverse<Place>> = self.waiting.iter().map(|tenant| Reverse(self.place(*tenant))).collect();
        let mut dealt: Vec<(TenantId, usize)> = Vec::new();
        for left in (1..=room).rev() {
            let Some(Reverse((held, is_behind, tenant))) = line.pop() else { break };
            // Nobody in the line has fewer.
            if held > 0 && left <= self.reserved {
                break;
            }
            match dealt.iter_mut().find(|(dealt_to, _)| *dealt_to == tenant) {
                Some((_, count)) => *count += 1,
                None => dealt.push((tenant, 1)),
            }
            line.push(Reverse((held + 1, is_behind, tenant)));
        }
        dealt
    }

    /// A job of the tenant was taken; the place of its turn.
    pub fn take(&mut self, tenant: TenantId) -> Place {
        let place = self.place(tenant);
        *self.held.entry(tenant).or_default() += 1;
        place
    }

    /// The tenant has no more jobs that may be taken.
    pub fn leave(&mut self, tenant: TenantId) {
        self.waiting.remove(&tenant);
    }

    fn place(&self, tenant: TenantId) -> Place {
        (self.held.get(&tenant).copied().unwrap_or(0), self.after.is_some_and(|after| tenant <= after), tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::NodeId;

    fn tenant(number: u128) -> TenantId {
        TenantId::from_u128(number)
    }

    fn turns(held: &[(u128, u32)], reserved: u32, after: Option<u128>) -> Turns {
        let held = held.iter().map(|(number, count)| (tenant(*number), *count)).collect();
        let now = Timestamp::from_millis(0);
        let turns = JobTurns { held, reserved, after: after.map(tenant) };
        let claim = JobClaim { node: NodeId::from_u128(1), now, check_at: now, max: 10, except: vec![tenant(9)], turns };
        Turns::new(&claim, [1, 2, 3, 9].map(tenant))
    }

    fn dealt(turns: &Turns, room: usize) -> Vec<(u128, usize)> {
        turns.deal(room).into_iter().map(|(tenant, count)| (tenant.as_u128(), count)).collect()
    }

    #[test]
    fn everybody_has_a_turn_before_anybody_has_a_second_one() {
        assert_eq!(dealt(&turns(&[], 0, None), 5), [(1, 2), (2, 2), (3, 1)]);
        assert_eq!(dealt(&turns(&[], 0, Some(1)), 2), [(2, 1), (3, 1)]);
        assert_eq!(dealt(&turns(&[], 0, Some(3)), 1), [(1, 1)]);
    }

    #[test]
    fn who_has_fewer_in_hand_comes_first() {
        assert_eq!(dealt(&turns(&[(1, 4), (2, 2)], 0, None), 3), [(3, 2), (2, 1)]);
    }

    #[test]
    fn what_is_reserved_is_for_those_with_nothing_in_hand() {
        assert_eq!(dealt(&turns(&[(1, 4), (2, 2)], 3, None), 3), [(3, 1)]);
        assert!(dealt(&turns(&[(1, 1), (2, 1), (3, 1)], 2, None), 2).is_empty());
        assert_eq!(dealt(&turns(&[(1, 1), (2, 1), (3, 1)], 1, None), 2), [(1, 1)]);
    }

    #[test]
    fn turns_that_were_taken_count() {
        let mut turns = turns(&[], 0, None);
        assert!(turns.take(tenant(1)) < turns.take(tenant(2)));
        turns.leave(tenant(3));
        assert_eq!(dealt(&turns, 1), [(1, 1)]);
        assert!(turns.take(tenant(1)) < turns.take(tenant(2)));
    }
}
