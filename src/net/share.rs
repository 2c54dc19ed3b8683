//! On whose behalf requests go out: each party has a limited number of them at once, and names are looked up in turns.

use crate::fair::Party;

tokio::task_local! {
    static PARTY: Party;
}

/// Does the work; the requests that it makes count as the party's.
pub fn on_behalf_of<T>(party: Party, work: impl Future<Output = T>) -> impl Future<Output = T> {
    PARTY.scope(party, work)
}

/// The party that the current task works for; nobody if it does not say.
pub(super) fn party() -> Party {
    PARTY.try_with(|party| *party).unwrap_or(Party::NOBODY)
}
