//! Limits and their counters.

use dispatch::id::{KeyId, RunId, TenantId};
use dispatch::model::quota::{BudgetPeriod, PeriodBudget};
use dispatch::model::{ModelUsage, RunInput, RunState, UsageLimits};
use dispatch::store::{Commit, LimitsRow, NewRun, QuotaAnswer, QuotaChange, QuotaCount, QuotaSlot, QuotaTake, SharedStore};
use futures_util::future::join_all;

use super::Site;
use super::world::{World, world};

fn key(world: &World) -> KeyId {
    KeyId::from_u128(world.next())
}

fn limits(tokens: u64) -> UsageLimits {
    let budget = PeriodBudget { period: BudgetPeriod::Day, max_cost: None, max_tokens: Some(tokens) };
    UsageLimits { budgets: vec![budget], ..UsageLimits::default() }
}

fn take(key: Option<KeyId>, tokens: u64, max: u64) -> QuotaTake {
    QuotaTake { key, name: "day 2026-11-30".into(), tokens, max_tokens: Some(max), ..QuotaTake::default() }
}

async fn count(store: &SharedStore, tenant: TenantId, key: Option<KeyId>) -> QuotaCount {
    let counts = store.count_quota(tenant, key).await.unwrap();
    counts.into_iter().find(|count| count.key == key).unwrap_or_default()
}

pub async fn limits_are_kept_replaced_and_removed(site: Site) {
    let (world, store) = (world(), &site.store);
    let (own, other) = (key(&world), key(&world));
    for (key, tokens) in [(None, 1), (Some(own), 2), (Some(own), 3), (Some(other), 4)] {
        store.put_limits(world.tenant, LimitsRow { key, limits: limits(tokens) }, world.now).await.unwrap();
    }
    let wanted = [LimitsRow { key: None, limits: limits(1) }, LimitsRow { key: Some(own), limits: limits(3) }];
    assert_eq!(store.find_limits(world.tenant, Some(own)).await.unwrap(), wanted);
    assert_eq!(store.list_limits(world.tenant).await.unwrap().len(), 3);
    assert!(store.find_limits(world.stranger, Some(own)).await.unwrap().is_empty());
    store.put_limits(world.tenant, LimitsRow { key: Some(own), limits: UsageLimits::default() }, world.now).await.unwrap();
    assert_eq!(store.find_limits(world.tenant, Some(own)).await.unwrap(), wanted[..1]);
}

pub async fn a_counter_stops_at_its_cap(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let key = Some(key(&world));
    let takes = (0..50).map(|turn| {
        let store = if turn % 2 == 0 { store } else { &other };
        let tenant = world.tenant;
        async move { store.take_quota(tenant, vec![take(key, 3, 31)]).await.unwrap() }
    });
    let answers = join_all(takes).await;
    let taken = answers.iter().filter(|answer| matches!(answer, QuotaAnswer::Taken(_))).count();
    assert_eq!((taken, count(store, world.tenant, key).await.tokens), (10, 30), "of fifty that want three of 31");
    // What was not used comes back.
    let change = QuotaChange { key, name: "day 2026-11-30".into(), cost: 7, tokens: -40, requests: 0 };
    store.correct_quota(world.tenant, vec![change]).await.unwrap();
    let corrected = count(store, world.tenant, key).await;
    assert_eq!((corrected.tokens, corrected.cost), (0, 7), "and none falls below zero");
    assert_eq!(count(store, world.stranger, key).await, QuotaCount::default());
}

pub async fn counters_are_raised_together_or_not_at_all(site: Site) {
    let (world, store) = (world(), &site.store);
    let key = Some(key(&world));
    let both = |tokens| vec![take(None, tokens, 10), take(key, tokens, 4)];
    assert_eq!(store.take_quota(world.tenant, both(3)).await.unwrap(), QuotaAnswer::Taken(vec![0, 0]));
    assert_eq!(store.take_quota(world.tenant, both(3)).await.unwrap(), QuotaAnswer::Refused(1));
    assert_eq!(count(store, world.tenant, None).await.tokens, 3, "the first counter is as before");
    assert_eq!(store.take_quota(world.tenant, vec![take(None, 7, 10)]).await.unwrap(), QuotaAnswer::Taken(vec![0]));
}

pub async fn a_new_counter_begins_with_what_was_used(site: Site) {
    let (world, store) = (world(), &site.store);
    let (own, other) = (key(&world), key(&world));
    let used = |tokens| ModelUsage { model: "p/m".into(), requests: 1, input_tokens: tokens, cost: 5, ..ModelUsage::default() };
    store.add_usage(world.tenant, Some(own), used(6), world.now).await.unwrap();
    store.add_usage(world.tenant, Some(other), used(30), world.now).await.unwrap();
    let first = |key| QuotaTake { first_day: Some(String::new()), ..take(key, 1, 10) };
    assert_eq!(store.take_quota(world.tenant, vec![first(Some(own))]).await.unwrap(), QuotaAnswer::Taken(vec![0]));
    let counted = count(store, world.tenant, Some(own)).await;
    assert_eq!((counted.tokens, counted.cost), (7, 5));
    assert_eq!(store.take_quota(world.tenant, vec![first(None)]).await.unwrap(), QuotaAnswer::Refused(0), "36 of 10 are used");
    let later = QuotaTake { first_day: Some("9999-01-01".into()), name: "later".into(), ..take(Some(own), 1, 10) };
    assert_eq!(store.take_quota(world.tenant, vec![later]).await.unwrap(), QuotaAnswer::Taken(vec![0]));
}

fn run_of(world: &World, key: KeyId) -> NewRun {
    NewRun { input: RunInput { key_id: Some(key), ..RunInput::default() }, ..world.leased() }
}

pub async fn executions_at_the_same_time_are_counted_by_their_rows(site: Site) {
    let (world, store) = (world(), &site.store);
    let key = key(&world);
    let slots = |max| vec![QuotaSlot { key: Some(key), max }];
    let until = world.at(30);
    let (first, second, third) = (run_of(&world, key), run_of(&world, key), RunId::from_u128(world.next()));
    assert_eq!(store.take_slots(world.tenant, first.id, slots(2), world.now, until).await.unwrap(), None);
    let first = world.create(store, first).await;
    assert_eq!(store.take_slots(world.tenant, second.id, slots(2), world.now, until).await.unwrap(), None, "a row counts once");
    assert_eq!(
        store.take_slots(world.tenant, third, slots(2), world.now, until).await.unwrap(),
        Some(0),
        "an admission counts before its row"
    );
    assert_eq!(
        store.take_slots(world.tenant, third, slots(2), world.at(31), world.at(60)).await.unwrap(),
        None,
        "one that never came is forgotten"
    );
    assert_eq!(store.take_slots(world.stranger, RunId::from_u128(world.next()), slots(1), world.now, until).await.unwrap(), None);
    // What rests or has ended makes room.
    let later = world.at(61);
    assert_eq!(store.take_slots(world.tenant, second.id, slots(1), later, world.at(90)).await.unwrap(), Some(0));
    world.done(store, Commit { wake_at: None, ..world.commit(first, 1, RunState::Paused) }).await;
    assert_eq!(store.take_slots(world.tenant, second.id, slots(1), later, world.at(90)).await.unwrap(), None);
}

pub async fn counters_whose_time_is_over_are_forgotten(site: Site) {
    let (world, store) = (world(), &site.store);
    let kept = QuotaTake { name: "total".into(), ..take(None, 1, 10) };
    let gone = QuotaTake { expires_at: Some(world.at(10)), ..take(None, 1, 10) };
    store.take_quota(world.tenant, vec![gone, kept]).await.unwrap();
    assert_eq!(store.purge_quotas(world.at(9)).await.unwrap(), 0);
    assert_eq!(store.purge_quotas(world.at(10)).await.unwrap(), 1);
    let names: Vec<String> = store.count_quota(world.tenant, None).await.unwrap().into_iter().map(|count| count.name).collect();
    assert_eq!(names, ["total"]);
}
