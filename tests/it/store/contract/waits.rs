//! A wait is answered once, for its tenant, while its run lives.

use dispatch::model::wait::{Wait, WaitKind};
use dispatch::model::{Epoch, RunState};
use dispatch::store::{Claim, Commit, Resolve, Resolved};
use futures_util::future::join_all;
use serde_json::json;

use super::Site;
use super::world::world;

pub async fn the_first_answer_is_final(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let approved = world.answer(&wait, "approved");
    assert_eq!(store.resolve_waits(vec![approved.clone()]).await.unwrap(), [Resolved::First]);
    let before = || Resolved::Before(approved.resolution.clone());
    assert_eq!(store.resolve_waits(vec![world.answer(&wait, "denied")]).await.unwrap(), [before()]);
    assert_eq!(store.resolve_waits(vec![approved.clone()]).await.unwrap(), [before()]);
    let found = store.find_wait(world.tenant, wait.id).await.unwrap().unwrap();
    let resolved_after = world.seqs(store, run).await.last().copied();
    assert!(resolved_after.is_some(), "the log is not empty");
    assert_eq!(found, Wait { resolution: Some(approved.resolution.clone()), resolved_at: Some(world.now), resolved_after, ..wait });
    assert!(store.open_waits(world.tenant, None, 10).await.unwrap().is_empty());
    let found = world.find(store, run).await;
    assert_eq!((found.nudges, found.wake_at), (1, Some(world.now)), "due at once, and nudged by the first answer only");
}

pub async fn a_wait_is_kept_as_it_was_asked(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let waits: Vec<Wait> = WaitKind::ALL
        .into_iter()
        .map(|kind| Wait { kind, name: format!("ünï {kind:?}"), deadline: Some(world.at(60)), digest: None, ..world.wait(run) })
        .collect();
    world.done(store, Commit { waits: waits.clone(), ..world.commit(run, 1, RunState::Paused) }).await;
    assert_eq!(store.run_waits(world.tenant, run).await.unwrap(), waits);
    assert_eq!(store.open_waits(world.tenant, None, 2).await.unwrap(), waits[..2]);
    assert_eq!(store.open_waits(world.tenant, Some(waits[1].id), 10).await.unwrap(), waits[2..]);
    store.resolve_waits(vec![world.answer(&waits[0], "yes")]).await.unwrap();
    assert_eq!(store.run_waits(world.tenant, run).await.unwrap().len(), waits.len(), "settled ones too");
    assert_eq!(store.open_waits(world.tenant, None, 100).await.unwrap(), waits[1..]);
}

/// The engine gives rising ids to the waits of a run, so that this is the order in which they were opened, also within one millisecond.
pub async fn waits_are_read_in_the_order_of_their_ids(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let waits: Vec<Wait> =
        (0..20).map(|call| Wait { kind: WaitKind::ToolOutput, name: format!("call_{}", (call * 7) % 20), ..world.wait(run) }).collect();
    let mut written = waits.clone();
    written.reverse();
    let late = written.split_off(10);
    world.done(store, Commit { waits: written, ..world.commit(run, 1, RunState::Running) }).await;
    world.done(store, Commit { waits: late, ..world.commit(run, 2, RunState::Paused) }).await;
    assert_eq!(store.run_waits(world.tenant, run).await.unwrap(), waits);
    let answer = Resolve { now: world.at(1), ..world.answer(&waits[3], "yes") };
    store.resolve_waits(vec![answer]).await.unwrap();
    let read = store.run_waits(world.tenant, run).await.unwrap();
    assert_eq!(read.iter().map(|wait| wait.id).collect::<Vec<_>>(), waits.iter().map(|wait| wait.id).collect::<Vec<_>>());
}

pub async fn nobody_sees_or_answers_a_stranger_s_wait(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let foreign = Resolve { tenant: world.stranger, ..world.answer(&wait, "approved") };
    assert_eq!(store.resolve_waits(vec![foreign.clone()]).await.unwrap(), [Resolved::Closed]);
    assert!(store.find_wait(world.stranger, wait.id).await.unwrap().is_none());
    assert!(store.run_waits(world.stranger, run).await.unwrap().is_empty());
    assert!(store.open_waits(world.stranger, None, 10).await.unwrap().is_empty());
    assert_eq!(world.find(store, run).await.wake_at, None);
    store.resolve_waits(vec![world.answer(&wait, "approved")]).await.unwrap();
    assert_eq!(store.resolve_waits(vec![foreign]).await.unwrap(), [Resolved::Closed], "nor what others answered");
    assert_eq!(world.find(store, run).await.nudges, 1, "nor is its run disturbed");
}

pub async fn answers_in_one_call_stand_alone(site: Site) {
    let (world, store) = (world(), &site.store);
    let (_, one) = world.paused(store).await;
    let (_, two) = world.paused(store).await;
    let nowhere = Wait { id: dispatch::id::WaitId::from_u128(world.next()), ..one.clone() };
    let answers = vec![
        world.answer(&one, "approved"),
        world.answer(&nowhere, "approved"),
        world.answer(&two, "denied"),
        world.answer(&one, "denied"),
    ];
    let before = Resolved::Before(answers[0].resolution.clone());
    assert_eq!(store.resolve_waits(answers).await.unwrap(), [Resolved::First, Resolved::Closed, Resolved::First, before]);
    assert!(store.resolve_waits(vec![]).await.unwrap().is_empty());
}

pub async fn of_many_answers_at_once_one_wins(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for _ in 0..5 {
        let (run, wait) = world.paused(store).await;
        let answers = (0..20).map(|turn| {
            let answer = world.answer(&wait, &format!("answer {turn}"));
            let store = if turn % 2 == 0 { store } else { &other };
            async move { (answer.resolution.clone(), store.resolve_waits(vec![answer]).await.unwrap().remove(0)) }
        });
        let results = join_all(answers).await;
        let winners: Vec<_> = results.iter().filter(|(_, resolved)| *resolved == Resolved::First).collect();
        assert_eq!(winners.len(), 1);
        let won = &winners[0].0;
        assert!(results.iter().all(|(mine, resolved)| mine == won || *resolved == Resolved::Before(won.clone())));
        assert_eq!(store.find_wait(world.tenant, wait.id).await.unwrap().unwrap().resolution.as_ref(), Some(won));
        assert_eq!(world.find(store, run).await.nudges, 1);
    }
}

pub async fn waits_close_when_their_run_ends(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let (answered, open, last) = (world.wait(run), world.wait(run), world.wait(run));
    let both = vec![answered.clone(), open.clone()];
    world.done(store, Commit { waits: both, ..world.commit(run, 1, RunState::Running) }).await;
    store.resolve_waits(vec![world.answer(&answered, "yes")]).await.unwrap();
    world.done(store, Commit { waits: vec![last.clone()], ..world.commit(run, 2, RunState::Cancelled) }).await;
    assert!(store.open_waits(world.tenant, None, 10).await.unwrap().is_empty());
    let late = vec![world.answer(&open, "yes"), world.answer(&last, "yes"), world.answer(&answered, "no")];
    let before = Resolved::Before(world.resolution("yes"));
    assert_eq!(store.resolve_waits(late).await.unwrap(), [Resolved::Closed, Resolved::Closed, before]);
    let found = world.find(store, run).await;
    assert_eq!((found.nudges, found.wake_at), (1, None));
}

pub async fn an_answer_nudges_a_run_that_is_held(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let wait = world.wait(run);
    world.done(store, Commit { waits: vec![wait.clone()], ..world.commit(run, 1, RunState::Running) }).await;
    store.resolve_waits(vec![world.answer(&wait, "yes")]).await.unwrap();
    assert!(store.claim_runs(world.claim()).await.unwrap().is_empty(), "its owner goes on with it");
    let renewed = store.renew_runs(world.node, &[(run, Epoch(1))], world.at(20)).await.unwrap();
    assert_eq!(renewed[0].nudges, 1);
}

pub async fn an_answer_keeps_an_earlier_wake_up(site: Site) {
    let (world, store) = (world(), &site.store);
    for (wake, expected) in [(world.at(100), world.at(50)), (world.at(7), world.at(7))] {
        let run = world.start(store).await;
        let wait = world.wait(run);
        let pause = Commit { wake_at: Some(wake), waits: vec![wait.clone()], ..world.commit(run, 1, RunState::Paused) };
        world.done(store, pause).await;
        store.resolve_waits(vec![Resolve { now: world.at(50), ..world.answer(&wait, "yes") }]).await.unwrap();
        assert_eq!(world.find(store, run).await.wake_at, Some(expected));
    }
}

pub async fn a_timeout_is_an_answer(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let timeout = dispatch::model::wait::Resolution::timeout();
    let answer = Resolve { resolution: timeout.clone(), ..world.answer(&wait, "") };
    assert_eq!(store.resolve_waits(vec![answer]).await.unwrap(), [Resolved::First]);
    let leases = store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap();
    assert_eq!(leases[0].waits[0].resolution, Some(timeout));
    assert_eq!(leases[0].waits[0].shown, json!({"amount": 5}));
}
