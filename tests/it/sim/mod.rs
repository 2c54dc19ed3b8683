//! The deterministic simulation: engine, workers and feed on virtual time, over a store that fails and nodes that die.
//!
//! A world is drawn from one number: random flows, scripted models, people who answer late, twice or not at all, readers
//! who come and go. What comes of it is compared with a sequential model. A seed gives the same trace each time, so a
//! failing one replays alone: `SIM_SEED=n cargo nextest run sim`. `SIM_TRACE=file` writes its trace.
//! `DISPATCH_SIM_SEEDS` sets how many seeds the test tries.

mod check;
mod crons;
mod dice;
mod flows;
mod ledger;
mod model;
mod people;
mod provider;
mod reader;
mod scenes;
mod wire;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dispatch::clock::Timestamp;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use ledger::Counts;
use world::World;

/// Seeds tried unless the environment says otherwise.
const SEEDS: u64 = 200;
/// How long after the end of all trouble a run may take at most: its timers are hours long.
const PATIENCE: Duration = Duration::from_secs(14 * 24 * 3_600);

/// What came of one world.
struct Outcome {
    trace: u64,
    faults: Vec<String>,
    words: Vec<String>,
    counts: Counts,
    runs: usize,
    /// Virtual time that passed.
    lasted: Duration,
}

fn play(seed: u64, in_words: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(live(seed, in_words))
}

async fn live(seed: u64, in_words: bool) -> Outcome {
    let (world, mut fresh) = World::new(seed, in_words);
    let began = world.clock.now();
    let mut starters = JoinSet::new();
    for name in world.cases.keys() {
        let (world, name) = (world.clone(), name.clone());
        starters.spawn(async move {
            if let Some(case) = world.cases.get(&name) {
                world.start(case).await;
            }
        });
    }
    let (mut people, mut readers) = (JoinSet::new(), JoinSet::new());
    let trouble = world.trouble();
    tokio::pin!(trouble);
    let mut patience = None;
    loop {
        let deadline = patience.unwrap_or(Timestamp::MAX);
        tokio::select! {
            biased;
            Some(run) = fresh.recv() => {
                let case = world.ledger.runs().into_iter().find(|(known, _)| *known == run).map(|(_, book)| book.case).unwrap_or_default();
                let world = world.clone();
                for _ in 0..world.dice.within(1, 2) {
                    let world = world.clone();
                    readers.spawn(async move { (run, reader::follow(world, run).await) });
                }
                people.spawn(async move { (run, people::attend(world, run, &case).await) });
            }
            () = &mut trouble, if patience.is_none() => {
                world.close();
                patience = Some(world.clock.now().after(PATIENCE));
            }
            () = world.clock.sleep(Duration::from_secs(60)) => {}
        }
        while starters.try_join_next().is_some() {}
        let done = patience.is_some() && starters.is_empty() && world.ledger.live() == 0 && fresh.is_empty();
        if done || world.clock.now() >= deadline {
            break;
        }
    }
    let lasted = world.clock.now().since(began);
    check::all(&world, people, readers).await;
    world.bury().await;
    starters.abort_all();
    while starters.join_next().await.is_some() {}
    let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    if left > 0 {
        world.ledger.wrong(format!("{left} tasks have leaked"));
    }
    let ledger = &world.ledger;
    Outcome {
        trace: ledger.trace(),
        faults: ledger.faults(),
        words: ledger.words(),
        counts: ledger.counts(),
        runs: ledger.runs().len(),
        lasted,
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn every_world_keeps_its_promises() {
    if let Some(seed) = number("SIM_SEED") {
        let outcome = play(seed, true);
        if let Ok(file) = std::env::var("SIM_TRACE") {
            std::fs::write(file, outcome.words.join("\n")).unwrap();
        }
        assert!(outcome.faults.is_empty(), "SIM_SEED={seed}\n{}", outcome.faults.join("\n"));
        return;
    }
    let seeds = number("DISPATCH_SIM_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let (failed, sum) = (Mutex::new(Vec::new()), Mutex::new((Duration::ZERO, 0, Counts::default())));
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = play(seed, false);
                    let mut sum = sum.lock();
                    sum.0 += outcome.lasted;
                    sum.1 += outcome.runs;
                    sum.2.add(&outcome.counts);
                    if !outcome.faults.is_empty() {
                        failed.lock().push((seed, outcome.faults));
                    }
                }
            });
        }
    });
    let (lasted, runs, counts) = *sum.lock();
    println!("{seeds} seeds, {} virtual hours, {runs} runs, {counts:?}", lasted.as_secs() / 3_600);
    let mut failed = failed.into_inner();
    failed.sort();
    let shown: Vec<String> = failed.iter().take(10).map(|(seed, faults)| format!("SIM_SEED={seed}\n  {}", faults.join("\n  "))).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds failed\n{}", failed.len(), shown.join("\n"));
}

#[test]
fn a_seed_gives_the_same_trace_each_time() {
    for seed in [1, 5, 11, 23] {
        let (one, two) = (play(seed, true), play(seed, true));
        let parting = one.words.iter().zip(&two.words).position(|(one, two)| one != two);
        let around = parting.map(|at| (one.words.get(at), two.words.get(at)));
        assert_eq!(one.trace, two.trace, "SIM_SEED={seed}: the traces part at {around:?}");
    }
}
