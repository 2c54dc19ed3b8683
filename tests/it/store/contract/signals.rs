//! Signals are kept, whether anyone waits for them yet or not.

use dispatch::model::RunState;
use dispatch::store::{Claim, Commit, Committed, Signal};
use serde_json::json;

use super::Site;
use super::world::world;

fn signal(name: &str, id: &str) -> Signal {
    Signal { name: name.into(), id: id.into(), payload: json!({"to": "Ωmega", "n": null, "id": id}) }
}

pub async fn a_signal_before_its_wait_is_kept(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    assert!(store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap());
    assert_eq!(store.kept_signals(world.tenant, run).await.unwrap(), [signal("paid", "1")]);
    let pause = Commit { seen_nudges: Some(0), waits: vec![world.wait(run)], ..world.commit(run, 1, RunState::Paused) };
    assert_eq!(store.commit_run(pause).await.unwrap(), Committed::Nudged, "its owner looks before it pauses");
}

pub async fn a_signal_after_its_wait_makes_the_run_due(site: Site) {
    let (world, store) = (world(), &site.store);
    let (run, _) = world.paused(store).await;
    assert!(store.send_signal(world.tenant, run, signal("paid", "1"), world.at(2)).await.unwrap());
    assert_eq!(world.find(store, run).await.wake_at, Some(world.at(2)));
    let claim = Claim { now: world.at(2), only: Some(run), ..world.claim() };
    assert_eq!(store.claim_runs(claim).await.unwrap()[0].run.nudges, 1);
    assert_eq!(store.kept_signals(world.tenant, run).await.unwrap().len(), 1);
}

pub async fn signals_stay_in_the_order_of_arrival(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.create(store, world.queued()).await;
    let sent = [signal("z", "9"), signal("a", "5"), signal("m", "1"), signal("a", "1")];
    for signal in &sent {
        assert!(store.send_signal(world.tenant, run, signal.clone(), world.now).await.unwrap());
    }
    assert_eq!(store.kept_signals(world.tenant, run).await.unwrap(), sent);
}

pub async fn the_same_delivery_is_one_signal(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    for payload in [1, 2, 3] {
        let again = Signal { payload: json!(payload), ..signal("paid", "same") };
        assert!(store.send_signal(world.tenant, run, again, world.now).await.unwrap());
    }
    let kept = store.kept_signals(world.tenant, run).await.unwrap();
    assert_eq!(kept.iter().map(|signal| &signal.payload).collect::<Vec<_>>(), [&json!(1)], "the first one");
}

pub async fn an_ended_run_takes_no_signal(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, world.commit(run, 1, RunState::Completed)).await;
    assert!(!store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap());
    assert!(store.kept_signals(world.tenant, run).await.unwrap().is_empty());
    assert_eq!(world.find(store, run).await.wake_at, None);
}

pub async fn nobody_signals_or_reads_a_stranger_s_run(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    assert!(!store.send_signal(world.stranger, run, signal("paid", "1"), world.now).await.unwrap());
    assert!(store.kept_signals(world.tenant, run).await.unwrap().is_empty());
    store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap();
    assert!(store.kept_signals(world.stranger, run).await.unwrap().is_empty());
}
