//! Usage: added by commits, once each.

use dispatch::id::KeyId;
use dispatch::model::quota::day_of;
use dispatch::model::run::Failure;
use dispatch::model::{ModelUsage, RunInput, RunState};
use dispatch::store::{Commit, Committed, NewRun, SharedStore, UsageFigures, UsageGrouping, UsageQuery, UsageTotal};

use super::Site;
use super::world::{World, world};

fn used(model: &str, tokens: u64) -> ModelUsage {
    ModelUsage { model: model.into(), requests: 1, input_tokens: tokens, output_tokens: 1, cost: 10 * tokens, ..ModelUsage::default() }
}

async fn read(store: &SharedStore, world: &World, by: UsageGrouping) -> Vec<UsageTotal> {
    let day = day_of(world.now);
    let query = UsageQuery { first_day: day.clone(), last_day: day, by, limit: 100, ..UsageQuery::default() };
    store.read_usage(world.tenant, query).await.unwrap()
}

async fn sum(store: &SharedStore, world: &World) -> UsageFigures {
    read(store, world, UsageGrouping::default()).await.first().map(|total| total.figures).unwrap_or_default()
}

pub async fn a_commit_adds_its_usage_once(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let first = Commit { usage: vec![used("p/a", 5)], ..world.commit(run, 1, RunState::Running) };
    world.done(store, first.clone()).await;
    // Its answer was lost, so it is sent again.
    world.done(store, first.clone()).await;
    let fenced = Commit { epoch: dispatch::model::Epoch(9), ..world.commit(run, 2, RunState::Running) };
    assert_eq!(store.commit_run(Commit { usage: vec![used("p/a", 100)], ..fenced }).await.unwrap(), Committed::Fenced);
    let nudged = Commit { seen_nudges: Some(9), usage: vec![used("p/a", 100)], ..world.commit(run, 2, RunState::Paused) };
    assert_eq!(store.commit_run(nudged).await.unwrap(), Committed::Nudged);
    let figures = sum(store, &world).await;
    assert_eq!((figures.requests, figures.input_tokens, figures.output_tokens, figures.cost), (1, 5, 1, 50));
    let failure = Failure { code: "x".into(), message: "y".into(), step: None, retryable: false };
    let last = Commit { usage: vec![used("p/a", 2), used("p/b", 3)], failure: Some(failure), ..world.commit(run, 2, RunState::Failed) };
    world.done(store, last.clone()).await;
    world.done(store, last).await;
    let figures = sum(store, &world).await;
    assert_eq!((figures.requests, figures.input_tokens, figures.executions, figures.failures), (3, 10, 1, 1));
}

pub async fn usage_is_told_apart_as_asked(site: Site) {
    let (world, store) = (world(), &site.store);
    let keys = [KeyId::from_u128(world.next()), KeyId::from_u128(world.next())];
    for (place, key) in keys.into_iter().enumerate() {
        let new = NewRun { input: RunInput { key_id: Some(key), ..RunInput::default() }, ..world.leased() };
        let run = world.create(store, new).await;
        let usage = vec![used("p/a", 1 + place as u64), used("p/b", 10)];
        world.done(store, Commit { usage, ..world.commit(run, 1, RunState::Completed) }).await;
    }
    let by = UsageGrouping { key: true, model: true, ..UsageGrouping::default() };
    let rows = read(store, &world, by).await;
    let shown: Vec<(Option<KeyId>, Option<&str>, u64, u64)> =
        rows.iter().map(|row| (row.key, row.model.as_deref(), row.figures.input_tokens, row.figures.executions)).collect();
    let [one, other] = keys.map(Some);
    let wanted = [
        (one, None, 0, 1),
        (one, Some("p/a"), 1, 0),
        (one, Some("p/b"), 10, 0),
        (other, None, 0, 1),
        (other, Some("p/a"), 2, 0),
        (other, Some("p/b"), 10, 0),
    ];
    assert_eq!(shown, wanted);
    assert!(rows.iter().all(|row| row.day.is_none() && row.target.is_none()));
    let day = day_of(world.now);
    let paged = UsageQuery { first_day: day.clone(), last_day: day, by, offset: 4, limit: 1, key: None };
    assert_eq!(store.read_usage(world.tenant, paged.clone()).await.unwrap(), rows[4..5]);
    let of_one = UsageQuery { key: Some(keys[0]), offset: 0, limit: 100, ..paged.clone() };
    assert_eq!(store.read_usage(world.tenant, of_one).await.unwrap(), rows[..3]);
    assert!(store.read_usage(world.stranger, paged.clone()).await.unwrap().is_empty());
    let other_days = UsageQuery { first_day: "2000-01-01".into(), last_day: "2000-12-31".into(), ..paged };
    assert!(store.read_usage(world.tenant, other_days).await.unwrap().is_empty());
}
