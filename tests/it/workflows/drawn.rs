//! Workflows drawn at random, their server killed meanwhile, held against a model that knows no concurrency and no crash.
//!
//! What a drawn step does is part of the draw: it works, works at the second attempt, fails, is skipped, waits for a signal that comes, or makes many
//! calls. So the model knows beforehand which steps can complete and whether the run can. `DISPATCH_DAG_SEEDS` says how many are drawn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{begin, register_whole, signal};
use crate::support::app::within_minutes;
use crate::support::sink::{Reply, Seen};
use crate::support::world::World;

on_both!(drawn_workflows_do_as_the_model_says);

/// Workflows of one wave: they run at the same time, over one crash.
const WAVE: u64 = 50;

/// Numbers of a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Works,
    /// At the second attempt.
    Flaky,
    Fails,
    Skipped,
    Waits,
    FansOut(u64),
    Races,
    Batches,
}

#[derive(Debug, Clone)]
struct Plot {
    kind: Kind,
    after: Vec<usize>,
    has_undo: bool,
}

/// One workflow and what can come of it.
struct Case {
    name: String,
    plots: Vec<Plot>,
    document: Value,
}

fn draw(seed: u64, world: &World) -> Case {
    let dice = &mut Dice(seed);
    let name = format!("drawn-{seed}");
    let may_fail = dice.percent(40);
    let mut plots: Vec<Plot> = Vec::new();
    for index in 0..usize::try_from(2 + dice.below(7)).unwrap() {
        let after = (0..index).filter(|_| dice.percent(35)).collect();
        let kind = match dice.below(100) {
            0..30 => Kind::Works,
            30..45 => Kind::Flaky,
            45..55 if may_fail => Kind::Fails,
            45..60 => Kind::Skipped,
            60..72 => Kind::Waits,
            72..84 => Kind::FansOut(dice.below(5)),
            84..92 => Kind::Races,
            _ => Kind::Batches,
        };
        plots.push(Plot { kind, after, has_undo: dice.percent(50) });
    }
    let steps: Map<String, Value> = plots.iter().enumerate().map(|(index, plot)| (id(index), step(&name, index, plot, world))).collect();
    let document = json!({ "name": name, "version": 1, "steps": steps });
    Case { name, plots, document }
}

fn id(index: usize) -> String {
    format!("s{index}")
}

fn step(name: &str, index: usize, plot: &Plot, world: &World) -> Value {
    let url = |what: &str| world.sink.url(&format!("/{name}/{}/{what}", id(index)));
    let post = |what: &str| json!({ "method": "POST", "url": url(what), "body": { "seen": "{{ trigger.body.n }}" } });
    let after: Vec<String> = plot.after.iter().map(|index| id(*index)).collect();
    let mut step = match plot.kind {
        Kind::Works => json!({ "request": post("call") }),
        Kind::Flaky | Kind::Fails => json!({ "request": post("call"), "retry": { "on": [503], "max": 2, "delay": "1ms" } }),
        Kind::Skipped => json!({ "request": post("call"), "when": "trigger.body.n > 1000" }),
        Kind::Waits => json!({ "request": post("call"), "wait": { "signal": format!("go-{index}") } }),
        Kind::FansOut(count) => json!({
            "request": post("{{ item }}"), "strategy": { "type": "fan_out", "over": (0..count).collect::<Vec<_>>(), "concurrency": 2 },
        }),
        Kind::Races => json!({ "strategy": { "type": "race", "requests": { "a": post("a"), "b": post("b") } } }),
        Kind::Batches => json!({ "request": post("{{ index }}"), "strategy": { "type": "batch", "over": [1, 2, 3], "size": 2 } }),
    };
    step["after"] = json!(after);
    if plot.has_undo {
        step["compensate"] = json!({ "method": "POST", "url": url("undo") });
    }
    match plot.kind {
        Kind::Flaky => world.sink.on(&format!("/{name}/{}/call", id(index)), [Reply::status(503, json!({})), Reply::json(json!({}))]),
        Kind::Fails => world.sink.on(&format!("/{name}/{}/call", id(index)), [Reply::status(400, json!({}))]),
        _ => {}
    }
    step
}

impl Case {
    /// Whether a step can come to its end: none before it fails.
    fn is_reached(&self, index: usize) -> bool {
        self.plots[index].after.iter().all(|before| self.is_reached(*before) && self.plots[*before].kind != Kind::Fails)
    }

    /// The steps that fail if they are let.
    fn failing(&self) -> BTreeSet<String> {
        let fails = |index: &usize| self.plots[*index].kind == Kind::Fails && self.is_reached(*index);
        (0..self.plots.len()).filter(fails).map(id).collect()
    }

    /// All steps before a step.
    fn ancestors(&self, index: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::new();
        let mut open = self.plots[index].after.clone();
        while let Some(before) = open.pop() {
            if all.insert(before) {
                open.extend(&self.plots[before].after);
            }
        }
        all
    }

    /// The calls that a completed step has made, by what stands behind the run's id in their keys.
    fn calls(&self, index: usize) -> Vec<String> {
        let step = id(index);
        match self.plots[index].kind {
            Kind::Skipped => Vec::new(),
            Kind::FansOut(count) => (0..count).map(|item| format!("{step}/{item}")).collect(),
            Kind::Batches => vec![format!("{step}/0"), format!("{step}/1")],
            // Which of them is asked in time to matter is nobody's to know.
            Kind::Races => Vec::new(),
            Kind::Works | Kind::Flaky | Kind::Fails | Kind::Waits => vec![step],
        }
    }

    fn check(&self, run: &str, view: &Value, came: &[Seen], crashes: usize) {
        let told = format!("{}: {view}", self.name);
        let failing = self.failing();
        let status = |index: usize| view["steps"][id(index)]["status"].as_str().unwrap().to_owned();
        let mut by_key: BTreeMap<String, Vec<&Seen>> = BTreeMap::new();
        let mut undone = Vec::new();
        for seen in came.iter().filter(|seen| seen.header("dispatched-run") == run) {
            let key = seen.header("idempotency-key").strip_prefix(run).unwrap().trim_start_matches('/').to_owned();
            if let Some(step) = key.strip_suffix("/compensate")
                && !undone.contains(&step.to_owned())
            {
                undone.push(step.to_owned());
            }
            by_key.entry(key).or_default().push(seen);
        }
        let done = |index: usize| ["completed", "compensated"].contains(&status(index).as_str());
        for index in 0..self.plots.len() {
            for key in self.calls(index).into_iter().filter(|_| done(index)) {
                let calls = by_key.get(&key).map_or(0, Vec::len);
                let attempts = if self.plots[index].kind == Kind::Flaky { 2 } else { 1 };
                assert!((attempts..=attempts + crashes).contains(&calls), "{calls} calls of {key}; {told}");
            }
            let settled = |before: &usize| done(*before) || status(*before) == "skipped";
            assert!(!done(index) || self.ancestors(index).iter().all(settled), "{} came too early; {told}", id(index));
        }
        if failing.is_empty() {
            assert_eq!(view["status"], "completed", "{told}");
            for (index, plot) in self.plots.iter().enumerate() {
                assert_eq!(status(index), if plot.kind == Kind::Skipped { "skipped" } else { "completed" }, "{told}");
            }
            assert!(undone.is_empty() && view["compensation"].is_null(), "{told}");
            return;
        }
        assert_eq!(view["status"], "failed", "{told}");
        assert!(failing.contains(view["error"]["step"].as_str().unwrap()), "{told}");
        let to_undo: BTreeSet<String> = (0..self.plots.len()).filter(|index| self.plots[*index].has_undo && done(*index)).map(id).collect();
        assert_eq!(undone.iter().cloned().collect::<BTreeSet<_>>(), to_undo, "{told}");
        assert_eq!(view["compensation"].as_str(), (!to_undo.is_empty()).then_some("completed"), "{told}");
        for index in 0..self.plots.len() {
            let place = |index: usize| undone.iter().position(|step| *step == id(index));
            for before in self.ancestors(index) {
                assert!(
                    place(before).zip(place(index)).is_none_or(|(before, after)| after < before),
                    "undone in the wrong order: {undone:?}; {told}"
                );
            }
        }
    }
}

async fn drawn_workflows_do_as_the_model_says(world: Arc<World>) {
    let seeds: u64 = std::env::var("DISPATCH_DAG_SEEDS").map_or(100, |seeds| seeds.parse().unwrap());
    for wave in (0..seeds).step_by(usize::try_from(WAVE).unwrap()) {
        let cases: Vec<Case> = (wave..seeds.min(wave + WAVE)).map(|seed| draw(seed, &world)).collect();
        let mut runs = Vec::new();
        for case in &cases {
            register_whole(&world.node(), case.document.clone()).await;
            let run = begin(&world.node(), &case.name, &json!({ "n": 1 })).await;
            // Some signals come before anything waits for them, some after the crash.
            for index in (0..case.plots.len()).filter(|index| index % 2 == 0) {
                signal(&world.node(), &run, &format!("go-{index}"), &json!({})).await;
            }
            runs.push(run);
        }
        let node = world.crash().await;
        for (case, run) in cases.iter().zip(&runs) {
            for index in (0..case.plots.len()).filter(|index| index % 2 == 1) {
                signal(&node, run, &format!("go-{index}"), &json!({})).await;
            }
        }
        for (case, run) in cases.iter().zip(&runs) {
            let path = format!("/api/runs/{run}");
            let over = async {
                loop {
                    let view = node.get(&path).ok().await;
                    if ["completed", "failed"].contains(&view["status"].as_str().unwrap()) {
                        return view;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let view = within_minutes(over).await;
            case.check(run, &view, &world.sink.everything(), 1);
        }
    }
}
