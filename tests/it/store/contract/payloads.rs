//! Documents come back as they went in, of whatever size and whatever they hold.

use dispatch::model::RunState;
use dispatch::store::{Blob, Claim, Commit, Resolve, Signal};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::Site;
use super::world::{done, world};
use crate::store::site::kept_signals;

/// Values above this many bytes of JSON are kept once, by content.
const LARGE: usize = 32 * 1024;

fn text(bytes: usize) -> Value {
    json!("ä".repeat(bytes / 2))
}

/// Values that storage is known to bend.
fn odd() -> Value {
    let mut deep = json!("bottom");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    json!({
        "z": 1, "a": {"y": null, "b": [true, false, null, "", {}, []]},
        "numbers": [u64::MAX, i64::MIN, 0, -1, 1.5, 1e300, 1.0, 9007199254740993u64],
        "nul": "a\u{0}b", "quote": "\"'\\$$;--", "at": "@0123", "unicode": "ẞ 🦀 e\u{301} \u{feff}\u{2028}\u{10ffff}", "control": "\u{1}\r\n\t\u{7f}",
        "@": "@", "a.b": "$.c", "deep": deep,
    })
}

pub async fn documents_come_back_as_they_went_in(site: Site) {
    let (world, store) = (world(), &site.store);
    let mut new = world.leased();
    new.flow = Blob::new(format!(" {{\"text\":  {} }}\n", odd()));
    new.input.inputs.insert("odd".into(), odd());
    let flow = new.flow.body.clone();
    let run = world.create(store, new).await;
    let mut wait = world.wait(run);
    wait.shown = odd();
    let journal = vec![done("odd", odd()), done("reference", json!("@x")), done("null", Value::Null)];
    let pause =
        Commit { waits: vec![wait.clone()], output: Some(odd()), journal: journal.clone(), ..world.commit(run, 1, RunState::Paused) };
    world.done(store, pause).await;
    let mut answer = world.answer(&wait, "");
    answer.resolution.answer = odd();
    store.resolve_waits(vec![answer]).await.unwrap();
    store.send_signal(world.tenant, run, Signal { name: "s".into(), id: "1".into(), payload: odd() }, world.now).await.unwrap();
    let lease = store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap().remove(0);
    let same = |value: &Value| assert_eq!(value.to_string(), odd().to_string(), "order of keys included");
    assert_eq!(lease.flow, flow, "byte for byte");
    same(&lease.run.input.inputs["odd"]);
    same(lease.run.output.as_ref().unwrap());
    same(&lease.waits[0].shown);
    same(&lease.waits[0].resolution.as_ref().unwrap().answer);
    same(&kept_signals(&**store, world.tenant, run).await[0].payload);
    let mut sorted = journal;
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(lease.journal, sorted);
}

pub async fn large_values_come_back_whole(site: Site) {
    let (world, store) = (world(), &site.store);
    for size in [LARGE - 4, LARGE - 2, LARGE, LARGE + 2, 1_000_000] {
        let mut new = world.leased();
        new.input.inputs.insert("large".into(), text(size));
        let run = world.create(store, new).await;
        let mut wait = world.wait(run);
        wait.shown = text(size);
        let pause = Commit {
            waits: vec![wait.clone()],
            output: Some(text(size)),
            journal: vec![done("large", text(size))],
            ..world.commit(run, 1, RunState::Paused)
        };
        world.done(store, pause).await;
        let mut answer: Resolve = world.answer(&wait, "");
        answer.resolution.answer = text(size);
        store.resolve_waits(vec![answer]).await.unwrap();
        let lease = store.claim_runs(Claim { only: Some(run), ..world.claim() }).await.unwrap().remove(0);
        assert_eq!(lease.run.input.inputs["large"], text(size));
        assert_eq!(lease.run.output, Some(text(size)));
        assert_eq!(lease.journal, [done("large", text(size))]);
        assert_eq!((&lease.waits[0].shown, &lease.waits[0].resolution.as_ref().unwrap().answer), (&text(size), &text(size)));
        assert_eq!(world.find(store, run).await.output, Some(text(size)));
        assert_eq!(store.read_journal(world.tenant, run).await.unwrap(), [done("large", text(size))]);
        assert_eq!(store.run_waits(world.tenant, run).await.unwrap()[0].shown, text(size));
    }
}

pub async fn equal_large_values_are_shared_by_many_runs(site: Site) {
    let (world, store, other) = (world(), &site.store, site.other().await);
    let runs = (0..30).map(|turn| {
        let (world, store) = (&world, if turn % 2 == 0 { store } else { &other });
        let mut new = world.leased();
        new.input.inputs.insert("large".into(), text(100_000));
        async move {
            let run = world.create(store, new).await;
            world.done(store, Commit { output: Some(text(100_000)), ..world.commit(run, 1, RunState::Completed) }).await;
            run
        }
    });
    for run in join_all(runs).await {
        let found = world.find(store, run).await;
        assert_eq!((found.input.inputs.get("large"), found.output.as_ref()), (Some(&text(100_000)), Some(&text(100_000))));
    }
}

pub async fn heavy_commits_fit_beside_each_other(site: Site) {
    let (world, store) = (world(), &site.store);
    let runs = (0..6).map(|_| async {
        let run = world.start(store).await;
        let output = text(2_000_000);
        world.done(store, Commit { output: Some(output.clone()), ..world.commit(run, 1, RunState::Completed) }).await;
        (run, output)
    });
    for (run, output) in join_all(runs).await {
        assert_eq!(world.find(store, run).await.output, Some(output));
    }
}
