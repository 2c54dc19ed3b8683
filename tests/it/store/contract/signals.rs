//! Signals are kept, whether anyone waits for them yet or not.

use dispatch::model::RunState;
use dispatch::store::{Claim, Commit, Committed, MAX_SIGNAL_BYTES, MAX_SIGNALS, Signal, SignalKey, StoreError};
use serde_json::json;

use super::Site;
use super::world::world;
use crate::store::site::kept_signals;

fn signal(name: &str, id: &str) -> Signal {
    Signal { name: name.into(), id: id.into(), payload: json!({"to": "Ωmega", "n": null, "id": id}) }
}

pub async fn a_signal_before_its_wait_is_kept(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    assert!(store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap());
    assert_eq!(kept_signals(&**store, world.tenant, run).await, [signal("paid", "1")]);
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
    assert_eq!(kept_signals(&**store, world.tenant, run).await.len(), 1);
}

pub async fn signals_stay_in_the_order_of_arrival(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.create(store, world.queued()).await;
    let sent = [signal("z", "9"), signal("a", "5"), signal("m", "1"), signal("a", "1")];
    for signal in &sent {
        assert!(store.send_signal(world.tenant, run, signal.clone(), world.now).await.unwrap());
    }
    assert_eq!(kept_signals(&**store, world.tenant, run).await, sent);
}

pub async fn the_same_delivery_is_one_signal(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    for payload in [1, 2, 3] {
        let again = Signal { payload: json!(payload), ..signal("paid", "same") };
        assert!(store.send_signal(world.tenant, run, again, world.now).await.unwrap());
    }
    let kept = kept_signals(&**store, world.tenant, run).await;
    assert_eq!(kept.iter().map(|signal| &signal.payload).collect::<Vec<_>>(), [&json!(1)], "the first one");
}

pub async fn an_ended_run_takes_no_signal(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    world.done(store, world.commit(run, 1, RunState::Completed)).await;
    assert!(!store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap());
    assert!(kept_signals(&**store, world.tenant, run).await.is_empty());
    assert_eq!(world.find(store, run).await.wake_at, None);
}

pub async fn nobody_signals_or_reads_a_stranger_s_run(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    assert!(!store.send_signal(world.stranger, run, signal("paid", "1"), world.now).await.unwrap());
    assert!(kept_signals(&**store, world.tenant, run).await.is_empty());
    store.send_signal(world.tenant, run, signal("paid", "1"), world.now).await.unwrap();
    assert!(kept_signals(&**store, world.stranger, run).await.is_empty());
}

pub async fn one_signal_is_read_without_the_others(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let sent = [signal("paid", "1"), signal("paid", "2"), signal("sent", "1")];
    for signal in &sent {
        store.send_signal(world.tenant, run, signal.clone(), world.now).await.unwrap();
    }
    let key = |name: &str, id: &str| SignalKey { name: name.into(), id: id.into() };
    assert_eq!(store.list_signals(world.tenant, run).await.unwrap(), [key("paid", "1"), key("paid", "2"), key("sent", "1")]);
    assert_eq!(store.find_signal(world.tenant, run, &key("paid", "2")).await.unwrap().as_ref(), Some(&sent[1]));
    assert_eq!(store.find_signal(world.tenant, run, &key("sent", "2")).await.unwrap(), None);
    assert_eq!(store.find_signal(world.stranger, run, &key("paid", "2")).await.unwrap(), None);
}

pub async fn a_run_keeps_so_many_signals_and_no_more(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    for number in 0..MAX_SIGNALS {
        assert!(store.send_signal(world.tenant, run, signal("paid", &number.to_string()), world.now).await.unwrap());
    }
    let nudges = world.find(store, run).await.nudges;
    let refused = store.send_signal(world.tenant, run, signal("paid", "one more"), world.now).await;
    assert!(matches!(refused, Err(StoreError::TooManySignals)), "{refused:?}");
    assert_eq!(world.find(store, run).await.nudges, nudges, "nothing is changed");
    // A repeated signal is accepted, and so are the server's own signals.
    assert!(store.send_signal(world.tenant, run, signal("paid", "7"), world.now).await.unwrap());
    assert!(store.send_signal(world.tenant, run, signal("$own", "1"), world.now).await.unwrap());
    assert_eq!(store.list_signals(world.tenant, run).await.unwrap().len(), MAX_SIGNALS + 1);
    assert!(!store.send_signal(world.stranger, run, signal("paid", "x"), world.now).await.unwrap(), "nobody else learns of it");
    let other = world.start(store).await;
    assert!(store.send_signal(world.tenant, other, signal("paid", "1"), world.now).await.unwrap(), "each run has its own bound");
}

pub async fn a_run_keeps_so_many_bytes_of_signals_and_no_more(site: Site) {
    let (world, store) = (world(), &site.store);
    let run = world.start(store).await;
    let large = |id: &str, bytes: usize| Signal { name: "paid".into(), id: id.into(), payload: json!("x".repeat(bytes - 2)) };
    for number in 0..4 {
        let part = large(&number.to_string(), MAX_SIGNAL_BYTES / 4);
        assert!(store.send_signal(world.tenant, run, part, world.now).await.unwrap());
    }
    let refused = store.send_signal(world.tenant, run, large("4", 10), world.now).await;
    assert!(matches!(refused, Err(StoreError::TooManySignals)), "{refused:?}");
    assert_eq!(store.list_signals(world.tenant, run).await.unwrap().len(), 4);
}
