//! Whose due runs a claim takes when more are due than it may take: some of each tenant.
//!
//! A claim looks at one row of each tenant with runs that go on, and at no more due runs than it takes, however many there are.

use super::row;
use crate::id::TenantId;

/// SQL: whether a run is due at the time of the first argument.
macro_rules! is_due {
    () => {
        "wake_at <= $1 and state in ('queued', 'running', 'paused', 'compensating')"
    };
}
pub(super) use is_due;

/// SQL: the tenants that have runs that somebody must look at some time, stepping from one to the next in the index.
const LINE: &str = "with recursive line (tenant) as (select min(tenant) from runs where wake_at is not null union all \
    select (select min(r.tenant) from runs r where r.wake_at is not null and r.tenant > line.tenant) from line where line.tenant is not null)";

/// SQL: the tenants with due runs, some left out.
pub(super) fn due_tenants(except: &[TenantId]) -> String {
    let except = row::except("line.tenant", except);
    let due = is_due!();
    format!(
        "{LINE} select tenant from line where tenant is not null{except} \
         and exists (select 1 from runs r where r.tenant = line.tenant and {due})"
    )
}

/// SQL: when the next run is due, those of some tenants left out.
pub(super) fn next_wake(except: &[TenantId]) -> String {
    if except.is_empty() {
        return "select min(wake_at) from runs where wake_at is not null".to_owned();
    }
    let except = row::except("line.tenant", except);
    format!(
        "{LINE} select min(at) from (select (select min(r.wake_at) from runs r where r.wake_at is not null and r.tenant = line.tenant) as at \
         from line where line.tenant is not null{except}) as wakes"
    )
}

/// The tenants of one claim, and how many runs it takes of each at most.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shares {
    pub tenants: Vec<TenantId>,
    pub each: usize,
}

impl Shares {
    /// Divides a claim of `max` runs among the tenants with due runs. If there are more tenants than runs, those behind `after` come first.
    pub fn new(mut due: Vec<TenantId>, after: Option<TenantId>, max: usize) -> Self {
        due.sort_unstable_by_key(|tenant| place(*tenant, after));
        due.truncate(max);
        let each = max / due.len().max(1);
        Self { tenants: due, each }
    }
}

/// A tenant's place in the order of turns.
fn place(tenant: TenantId, after: Option<TenantId>) -> (bool, TenantId) {
    (after.is_some_and(|after| tenant <= after), tenant)
}

/// Returns which of the tenants of a claim had the last turn.
pub fn last_turn(tenants: impl IntoIterator<Item = TenantId>, after: Option<TenantId>) -> Option<TenantId> {
    tenants.into_iter().max_by_key(|tenant| place(*tenant, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(due: &[u128], after: Option<u128>, max: usize) -> (Vec<u128>, usize) {
        let shares = Shares::new(due.iter().copied().map(TenantId::from_u128).collect(), after.map(TenantId::from_u128), max);
        (shares.tenants.iter().map(|tenant| tenant.as_u128()).collect(), shares.each)
    }

    #[test]
    fn a_claim_is_divided_among_the_tenants() {
        assert_eq!(shares(&[2, 1, 3], None, 64), (vec![1, 2, 3], 21));
        assert_eq!(shares(&[2, 1, 3], Some(1), 2), (vec![2, 3], 1));
        assert_eq!(shares(&[2, 1, 3], Some(2), 2), (vec![3, 1], 1));
        assert_eq!(shares(&[], None, 2), (vec![], 2));
    }

    #[test]
    fn the_next_claim_begins_behind_the_last_turn() {
        let last = |tenants: &[u128], after: Option<u128>| {
            last_turn(tenants.iter().copied().map(TenantId::from_u128), after.map(TenantId::from_u128)).map(|tenant| tenant.as_u128())
        };
        assert_eq!(last(&[2, 3], Some(1)), Some(3));
        assert_eq!(last(&[3, 1], Some(2)), Some(1));
        assert_eq!(last(&[], Some(2)), None);
    }
}
