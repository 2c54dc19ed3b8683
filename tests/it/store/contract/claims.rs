//! Leases: who may move a run, and until when.

use std::collections::HashSet;

use dispatch::model::{Epoch, RunState};
use dispatch::store::{Claim, Commit, Committed, NewRun};
use futures_util::future::join_all;

use super::Site;
use super::world::world;

pub async fn an_expired_lease_is_taken_over(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, world.commit(run, 1, RunState::Running)).await;
    let claim = Claim { node: world.rival, now: world.at(10), until: world.at(20), ..world.claim() };
    assert!(store.claim_runs(Claim { now: world.at(9), ..claim.clone() }).await.unwrap().is_empty(), "not before it expires");
    let leases = store.claim_runs(claim).await.unwrap();
    let lease = &leases[0];
    assert_eq!((lease.run.id, lease.run.epoch, lease.run.commit), (run, Epoch(2), 1));
    assert_eq!((lease.recovered, lease.run.recoveries, lease.run.state), (true, 1, RunState::Running));
    assert_eq!((lease.flow.as_str(), lease.run.sealed.as_deref()), ("{\"flow\":1}", Some(&[1, 2, 255][..])));
    assert_eq!((lease.journal.len(), lease.tail.len()), (1, 2), "the log is there to tell what is void");
    assert_eq!(store.commit_run(world.commit(run, 2, RunState::Running)).await.unwrap(), Committed::Fenced);
    assert_eq!(world.keys(store, run).await, ["steps/1"]);
    world.done(store, Commit { epoch: Epoch(2), ..world.commit(run, 2, RunState::Completed) }).await;
}

pub async fn owners_that_went_away_are_counted_until_the_run_gets_further(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let taken = async |seconds| {
        let claim = Claim { now: world.at(seconds), until: world.at(seconds + 1), ..world.claim() };
        let lease = store.claim_runs(claim).await.unwrap().remove(0);
        (lease.run.epoch, lease.run.recoveries)
    };
    let commit = |epoch, number, advances| Commit {
        epoch: Epoch(epoch),
        advances,
        wake_at: Some(world.at(0)),
        ..world.commit(run, number, RunState::Running)
    };
    assert_eq!(taken(100).await, (Epoch(2), 1));
    assert_eq!(taken(200).await, (Epoch(3), 2));
    world.done(store, commit(3, 1, false)).await;
    assert_eq!(taken(300).await, (Epoch(4), 3), "a commit without news is no step further");
    world.done(store, commit(4, 2, true)).await;
    assert_eq!(taken(400).await, (Epoch(5), 1));
}

pub async fn a_lease_tells_everything_that_is_needed_to_go_on(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, wait) = world.paused(store).await;
    let answer = world.answer(&wait, "approved");
    store.resolve_waits(vec![answer.clone()]).await.unwrap();
    let leases = store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap();
    let lease = &leases[0];
    assert_eq!((lease.run.state, lease.recovered, lease.run.nudges), (RunState::Paused, false, 1));
    assert!(lease.tail.is_empty(), "nothing was cut short");
    assert_eq!(lease.waits.iter().map(|wait| wait.resolution.clone()).collect::<Vec<_>>(), [Some(answer.resolution)]);
    assert_eq!(lease.journal.len(), 1);
}

pub async fn the_longest_due_run_is_claimed_first(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut expected = Vec::new();
    for seconds in [3, 1, 2] {
        let run = world.start(store).await;
        world.done(store, Commit { wake_at: Some(world.at(seconds)), ..world.commit(run, 1, RunState::Paused) }).await;
        expected.push((seconds, run));
    }
    expected.sort_unstable();
    assert_eq!(store.next_wake(&[]).await.unwrap(), Some(world.at(1)));
    assert!(store.claim_runs(world.claim()).await.unwrap().is_empty(), "a timer that has not passed");
    let claimed = async |max| -> Vec<_> {
        let claim = Claim { now: world.at(5), until: world.at(60), max, ..world.claim() };
        store.claim_runs(claim).await.unwrap().iter().map(|lease| lease.run.id).collect()
    };
    assert_eq!(claimed(0).await, []);
    assert_eq!(claimed(2).await, [expected[0].1, expected[1].1]);
    assert_eq!(store.next_wake(&[]).await.unwrap(), Some(world.at(3)));
    assert_eq!(claimed(64).await, [expected[2].1]);
    assert_eq!(store.next_wake(&[]).await.unwrap(), Some(world.at(60)), "the leases' end");
}

pub async fn one_run_can_be_claimed_by_name(site: Site) {
    let (world, store) = (world(), &site.store);
    world.create(store, world.queued()).await;
    let run = world.create(store, world.queued()).await;
    let leases = store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.run.id).collect::<Vec<_>>(), [run]);
    assert!(store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap().is_empty());
}

pub async fn runs_of_some_tenants_are_left_where_they_are(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.create(store, world.queued()).await;
    let without = |tenant| Claim { only: Some(run), except: vec![tenant], ..world.claim() };
    assert!(store.claim_runs(without(world.tenant)).await.unwrap().is_empty());
    assert_eq!(store.next_wake(&[world.tenant]).await.unwrap(), None);
    assert_eq!(store.next_wake(&[world.stranger]).await.unwrap(), Some(world.now));
    assert_eq!(store.claim_runs(without(world.stranger)).await.unwrap().len(), 1);
}

pub async fn due_runs_of_tenants_take_turns(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut many = Vec::new();
    for _ in 0..12 {
        many.push(world.create(store, world.queued()).await);
    }
    // Due after all of the others.
    let late = async || world.create(store, NewRun { tenant: world.stranger, created_at: world.at(1), ..world.queued() }).await;
    let claimed = async |claim: Claim| -> Vec<_> {
        let claim = Claim { now: world.at(5), until: world.at(60), ..claim };
        store.claim_runs(claim).await.unwrap().iter().map(|lease| lease.run.id).collect()
    };
    let few = [late().await, late().await];
    assert_eq!(claimed(Claim { max: 4, ..world.claim() }).await, [many[0], many[1], few[0], few[1]], "as many of each tenant");
    assert_eq!(claimed(Claim { max: 2, ..world.claim() }).await, many[2..4], "nobody else has any left");
    let behind = |tenant| Claim { max: 1, after: Some(tenant), ..world.claim() };
    let one = late().await;
    assert_eq!(claimed(behind(world.tenant)).await, [one]);
    let other = late().await;
    assert_eq!(claimed(behind(world.stranger)).await, [many[4]]);
    assert_eq!(store.next_wake(&[world.tenant]).await.unwrap(), Some(world.at(1)));
    assert_eq!(claimed(Claim { except: vec![world.tenant], ..world.claim() }).await, [other]);
    assert_eq!(claimed(Claim { except: vec![world.stranger], max: 3, ..world.claim() }).await, many[5..8]);
    assert_eq!(claimed(world.claim()).await, many[8..]);
}

pub async fn two_nodes_never_claim_the_same_run(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let created = join_all((0..80).map(|_| world.create(store, world.queued()))).await;
    let work = |store: dispatch::store::SharedStore, node| {
        let claim = Claim { node, max: 3, ..world.claim() };
        async move {
            let mut mine = Vec::new();
            let mut empty = 0;
            // Runs that the other one is taking right now are skipped, so one empty answer is not the end.
            while empty < 3 {
                let leases = store.claim_runs(claim.clone()).await.unwrap();
                empty = if leases.is_empty() { empty + 1 } else { 0 };
                mine.extend(leases.into_iter().map(|lease| lease.run.id));
            }
            mine
        }
    };
    let (first, second, third, fourth) = tokio::join!(
        tokio::spawn(work(store.clone(), world.node)),
        tokio::spawn(work(other.clone(), world.rival)),
        tokio::spawn(work(store.clone(), world.node)),
        tokio::spawn(work(other.clone(), world.rival)),
    );
    let claimed: Vec<_> = [first, second, third, fourth].into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(claimed.len(), created.len(), "each once");
    assert_eq!(claimed.into_iter().collect::<HashSet<_>>(), created.into_iter().collect::<HashSet<_>>());
}

pub async fn leases_are_renewed_by_their_owner(site: Site) {
    let (world, store) = (world(), &site.store);
    let (one, two, ended) = (world.start(store).await, world.start(store).await, world.start(store).await);
    world.done(store, world.commit(ended, 1, RunState::Completed)).await;
    store.request_cancel(world.tenant, two, world.now).await.unwrap();
    let held = [(one, Epoch(1)), (two, Epoch(1)), (ended, Epoch(1)), (dispatch::id::RunId::from_u128(world.next()), Epoch(1))];
    let mut renewed = store.renew_runs(world.node, &held, world.at(50)).await.unwrap();
    renewed.sort_by_key(|renewed| renewed.run);
    let told: Vec<_> = renewed.iter().map(|renewed| (renewed.run, renewed.cancel_requested, renewed.nudges)).collect();
    assert_eq!(told, [(one, false, 0), (two, true, 1)]);
    assert_eq!(world.find(store, one).await.wake_at, Some(world.at(50)));
    assert!(store.renew_runs(world.rival, &held, world.at(60)).await.unwrap().is_empty());
    assert!(store.renew_runs(world.node, &[(one, Epoch(2))], world.at(60)).await.unwrap().is_empty());
    assert!(store.renew_runs(world.node, &[], world.at(60)).await.unwrap().is_empty());
}

pub async fn a_lease_is_either_renewed_or_taken_over(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    for _ in 0..30 {
        let run = world.start(store).await;
        let claim =
            Claim { node: world.rival, now: world.at(11), until: world.at(30), max: 1, only: Some(run), except: Vec::new(), after: None };
        let held = [(run, Epoch(1))];
        let (renewed, claimed) = tokio::join!(store.renew_runs(world.node, &held, world.at(40)), other.claim_runs(claim));
        let (renewed, claimed) = (renewed.unwrap().len(), claimed.unwrap().len());
        assert_eq!(renewed + claimed, 1, "renewed {renewed}, claimed {claimed}");
        let commit = store.commit_run(world.commit(run, 1, RunState::Running)).await.unwrap();
        assert_eq!(commit == Committed::Done, renewed == 1);
    }
}
