//! Small worlds, each set up for one thing that once went wrong.

use std::sync::Arc;
use std::time::Duration;

use dispatch::clock::{Clock, Timestamp};
use dispatch::engine::{Decision, Verdict};
use dispatch::id::RunId;
use dispatch::model::flow::{FORMAT, Flow, OnError, Step};
use dispatch::model::{Run, RunInput, RunState, Wait};
use dispatch::queue::Options;
use dispatch::store::faulty::Plan;
use dispatch::store::{Runs, Signal, Waits};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::check;
use super::dice::Dice;
use super::flows::{Case, End, GUARDED, Kind, PLAIN, Plot, Script, ToolUse};
use super::wire::Pulse;
use super::world::{Draft, Node, Trouble, World};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn plot(id: &str, kind: Kind) -> Plot {
    Plot { id: id.into(), kind, reads: Vec::new(), guard: None, when: None }
}

fn step(id: &str, action: &str, config: Value, after: &[&str]) -> Step {
    Step {
        id: id.into(),
        name: id.into(),
        action: action.into(),
        config,
        after: after.iter().map(|id| (*id).to_owned()).collect(),
        guard: None,
        when: None,
        when_in: None,
        undo: None,
        retry: dispatch::model::flow::Retry::default(),
        timeout_ms: 3_600_000 * 100,
        on_error: None,
        output: Some(format!("o_{id}")),
        stream: true,
        pointer: String::new(),
    }
}

fn script(pieces: u64, pace: Duration, turns: Vec<Vec<ToolUse>>) -> Script {
    Script { faults: 0, end: End::Answers, garbage: 0, json: false, thinks: false, turns, pace, steady: true, pieces }
}

/// A prompt that says nothing special, in so many pieces.
fn talk(id: &str, pieces: u64, pace: Duration) -> (Plot, Step) {
    let config = json!({ "model": format!("sim/scene.{id}"), "userPrompt": format!("{id}[]") });
    (plot(id, Kind::Prompt(script(pieces, pace, Vec::new()))), step(id, "prompt", config, &[]))
}

/// A prompt whose model asks for one tool.
fn ask(id: &str, tool: &'static str) -> (Plot, Step) {
    let schema = json!({ "type": "object", "properties": { "x": { "type": "integer" } } });
    let tools = json!({ "runtimeTools": [
        { "name": PLAIN, "toolType": "local", "parametersSchema": schema },
        { "name": GUARDED, "toolType": "local", "parametersSchema": schema, "requiresApproval": true },
    ] });
    let config = json!({ "model": format!("sim/scene.{id}"), "userPrompt": format!("{id}[]"), "tools": tools });
    let turns = vec![vec![ToolUse { id: format!("call-{id}"), name: tool, arguments: json!({ "x": 1 }) }]];
    (plot(id, Kind::Prompt(script(1, Duration::from_millis(10), turns))), step(id, "prompt", config, &[]))
}

fn rest(id: &str, length: Duration) -> (Plot, Step) {
    (plot(id, Kind::Delay), step(id, "wait-until", json!({ "delayMs": u64::try_from(length.as_millis()).unwrap() }), &[]))
}

/// A world with one case, and nothing in it that happens by itself.
struct Scene {
    world: Arc<World>,
    run: RunId,
}

impl Scene {
    fn node(&self) -> Arc<Node> {
        self.world.nodes.lock()[0].clone()
    }

    async fn after(&self, time: Duration) {
        self.world.clock.sleep(time).await;
    }

    fn plan(&self, plan: &Plan) {
        self.world.nodes.lock().iter().for_each(|node| node.line.follow(plan.clone()));
    }

    async fn found(&self) -> Run {
        self.world.truth.store.find_run(self.world.tenant, self.run).await.unwrap().unwrap()
    }

    async fn waits(&self) -> Vec<Wait> {
        self.world.truth.store.run_waits(self.world.tenant, self.run).await.unwrap()
    }

    async fn wait(&self) -> Wait {
        self.waits().await.into_iter().find(|wait| wait.resolution.is_none()).unwrap()
    }

    async fn events(&self) -> Vec<String> {
        let log = self.world.truth.store.read_log(self.world.tenant, self.run, None, u32::MAX).await.unwrap();
        log.into_iter().flat_map(|segment| segment.events).map(|event| event.body.to_string()).collect()
    }
}

/// Plays a scene; everything that every world must keep is checked at its end.
fn scene(nodes: usize, trouble: Trouble, steps: Vec<(Plot, Step)>, play: impl AsyncFnOnce(&Scene)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (plots, steps): (Vec<Plot>, Vec<Step>) = steps.into_iter().unzip();
    let flow = Flow {
        format: FORMAT,
        name: "scene".into(),
        steps,
        max_parallel: 4,
        on_step_error: OnError::Stop,
        timeout_ms: 3_600_000_000,
        workflow: None,
    };
    let case =
        Case { name: "scene".into(), flow, input: RunInput::default(), plots, keyed: false, starts: Duration::ZERO, cancelled: None };
    runtime.block_on(async {
        let clock = Clock::simulated(7, Timestamp::from_millis(1_750_000_000_000));
        let options = Options { poll: 30 * SECOND, ..Options::default() };
        let dice = Dice::new(7, 1);
        let (world, _runs) = World::of(Draft { clock, dice, trouble, horizon: MINUTE, cases: vec![case], options, in_words: true });
        for _ in 0..nodes {
            world.add_node();
        }
        let run = world.start_one(&world.cases["scene"]).await;
        let scene = Scene { world: world.clone(), run };
        play(&scene).await;
        check::all(&world, JoinSet::new(), JoinSet::new()).await;
        world.bury().await;
        let faults = world.ledger.faults();
        assert!(faults.is_empty(), "{}\n{}", faults.join("\n"), world.ledger.words().join("\n"));
    });
}

fn calm() -> Trouble {
    Trouble { delay: Duration::from_millis(2), ..Trouble::default() }
}

/// Anything but calm: lateness is forgiven.
fn rough(delay: Duration) -> Trouble {
    Trouble { stalls: true, delay, ..Trouble::default() }
}

#[test]
fn a_run_whose_pause_is_refused_while_the_store_fails_does_not_end() {
    scene(1, rough(Duration::from_millis(40)), vec![ask("a", PLAIN), ask("b", GUARDED)], async |scene| {
        let world = &scene.world;
        scene.plan(&Plan { before: 400, delay: Duration::from_millis(40), ..Plan::default() });
        for number in 0..200 {
            let signal = Signal { name: "noise".into(), id: number.to_string(), payload: Value::Null };
            let store = &world.truth.store;
            store.send_signal(world.tenant, scene.run, signal, world.clock.now()).await.unwrap();
            scene.after(Duration::from_millis(37)).await;
        }
        scene.plan(&Plan::default());
        scene.after(MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Paused);
        answer_all(scene).await;
    });
}

/// Answers what the run waits for until it has ended.
async fn answer_all(scene: &Scene) {
    let (world, node) = (&scene.world, scene.node());
    for _ in 0..50 {
        scene.after(5 * SECOND).await;
        if scene.found().await.state.is_terminal() {
            return;
        }
        let Some(wait) = scene.waits().await.into_iter().find(|wait| wait.resolution.is_none()) else { continue };
        if wait.digest.is_some() {
            let word = Verdict { decision: Decision::Approved, reason: None, digest: None, by: "key_1" };
            node.engine.approve(world.tenant, scene.run, wait.id, word).await.unwrap();
        } else {
            let outputs = serde_json::Map::from_iter([(wait.name.clone(), json!("done"))]);
            node.engine.deliver(world.tenant, scene.run, &outputs, &[], "key_1").await.unwrap();
        }
    }
}

#[test]
fn a_timer_that_the_store_cannot_settle_at_once_is_no_failure() {
    scene(1, rough(Duration::from_millis(5)), vec![rest("a", 10 * MINUTE)], async |scene| {
        scene.after(10 * MINUTE - SECOND).await;
        scene.plan(&Plan { before: 600, delay: Duration::from_millis(5), ..Plan::default() });
        scene.after(9 * SECOND).await;
        scene.plan(&Plan::default());
        scene.after(MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}

#[test]
fn a_signal_that_cannot_be_looked_for_at_once_is_no_failure() {
    let step = step("a", "wait-for-signal", json!({ "name": "go" }), &[]);
    scene(1, rough(Duration::from_millis(5)), vec![(plot("a", Kind::Signal("go".into())), step)], async |scene| {
        let world = &scene.world;
        scene.after(MINUTE).await;
        scene.plan(&Plan { before: 700, delay: Duration::from_millis(5), ..Plan::default() });
        let signal = Signal { name: "go".into(), id: "1".into(), payload: json!(1) };
        world.truth.store.send_signal(world.tenant, scene.run, signal, world.clock.now()).await.unwrap();
        scene.after(3 * SECOND).await;
        scene.plan(&Plan::default());
        scene.after(MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}

#[test]
fn a_timer_wakes_its_step_while_another_step_runs() {
    scene(1, calm(), vec![rest("a", MINUTE), talk("b", 8, 3 * MINUTE)], async |scene| {
        scene.after(MINUTE + SECOND).await;
        let timer = scene.waits().await.into_iter().find(|wait| wait.key.starts_with("steps/a/")).unwrap();
        assert!(timer.resolution.is_some(), "the timer was not noticed");
        scene.after(60 * MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}

#[test]
fn an_answer_is_seen_though_the_first_look_fails_and_another_step_runs() {
    scene(1, rough(Duration::from_millis(5)), vec![ask("a", PLAIN), talk("b", 8, 10 * MINUTE)], async |scene| {
        let world = &scene.world;
        scene.after(20 * SECOND).await;
        let wait = scene.wait().await;
        scene.plan(&Plan { before: 1_000, ..Plan::default() });
        let outputs = json!({ "output": "done", "messages": [] });
        let resolution = dispatch::model::wait::Resolution { answer: outputs, by: "key_1".into(), timed_out: false };
        let answer = dispatch::store::Resolve { tenant: world.tenant, wait: wait.id, resolution, now: world.clock.now() };
        world.truth.resolve_waits(vec![answer]).await.unwrap();
        scene.after(Duration::from_millis(300)).await;
        scene.plan(&Plan::default());
        scene.after(2 * SECOND).await;
        let events = scene.events().await;
        assert!(events.iter().any(|event| event.contains("tool_complete")), "the answer was not seen: {events:#?}");
        scene.after(200 * MINUTE).await;
    });
}

#[test]
fn a_node_that_stood_still_takes_nothing_up_before_it_has_renewed() {
    scene(1, rough(Duration::from_millis(5)), vec![rest("a", MINUTE), talk("b", 4, 2 * MINUTE)], async |scene| {
        for _ in 0..8 {
            scene.after(3 * SECOND).await;
            scene.node().gate.set(Pulse::Stalls);
            scene.after(25 * SECOND).await;
            scene.node().gate.set(Pulse::Lives);
        }
        scene.after(30 * MINUTE).await;
        let run = scene.found().await;
        let counts = scene.world.ledger.counts();
        assert_eq!((run.state, counts.recoveries), (RunState::Completed, 0), "nobody else was there to take it over");
        assert_eq!(counts.model_calls, 1, "what was under way went on: {counts:?}");
    });
}

#[test]
fn a_node_cut_off_from_the_store_stops_before_its_lease_ends() {
    scene(2, rough(Duration::from_millis(5)), vec![talk("a", 8, MINUTE / 4)], async |scene| {
        scene.after(2 * SECOND).await;
        let owner = scene.world.nodes.lock().iter().find(|node| node.workers.active() > 0).cloned().unwrap();
        owner.line.follow(Plan { before: 1_000, delay: Duration::from_millis(900), ..Plan::default() });
        scene.after(60 * MINUTE).await;
        let run = scene.found().await;
        let counts = scene.world.ledger.counts();
        assert_eq!((run.state, counts.recoveries), (RunState::Completed, 1));
        assert_eq!((counts.late_calls, counts.late_pieces), (0, 0), "the old owner went on: {counts:?}");
    });
}

#[test]
fn an_owner_that_lost_its_run_while_it_stood_still_lets_it_go() {
    scene(2, rough(Duration::from_millis(5)), vec![talk("a", 8, MINUTE / 4)], async |scene| {
        scene.after(2 * SECOND).await;
        let owner = scene.world.nodes.lock().iter().find(|node| node.workers.active() > 0).cloned().unwrap();
        owner.gate.set(Pulse::Stalls);
        // The other node looks for due runs every 30 seconds here.
        scene.after(45 * SECOND).await;
        owner.gate.set(Pulse::Lives);
        scene.after(5 * SECOND).await;
        assert_eq!(owner.workers.active(), 0, "the late owner still holds the run");
        scene.after(60 * MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}

#[test]
fn text_of_a_call_that_a_shutdown_cut_short_is_taken_back() {
    scene(1, rough(Duration::from_millis(5)), vec![talk("a", 8, MINUTE / 4)], async |scene| {
        let shown = async || scene.events().await.iter().any(|event| event.contains("text_start"));
        while !shown().await {
            scene.after(SECOND).await;
        }
        let node = scene.world.nodes.lock().remove(0);
        node.workers.shutdown(Duration::ZERO).await;
        scene.world.graves.lock().push(node);
        scene.world.add_node();
        scene.after(60 * MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}

#[test]
fn a_wait_is_known_to_others_while_another_step_runs() {
    let step = step("a", "wait-for-signal", json!({ "name": "go" }), &[]);
    scene(1, calm(), vec![(plot("a", Kind::Signal("go".into())), step), talk("b", 2, 10 * MINUTE)], async |scene| {
        let world = &scene.world;
        scene.after(SECOND).await;
        assert_eq!(scene.waits().await.len(), 1);
        let signal = Signal { name: "go".into(), id: "1".into(), payload: json!(1) };
        world.truth.send_signal(world.tenant, scene.run, signal, world.clock.now()).await.unwrap();
        scene.after(SECOND).await;
        assert!(scene.waits().await.iter().all(|wait| wait.resolution.is_some()));
        scene.after(60 * MINUTE).await;
    });
}

#[test]
fn what_a_run_does_not_wait_for_leaves_no_trace_in_its_log() {
    let step = step("a", "wait-for-signal", json!({ "name": "go" }), &[]);
    scene(1, calm(), vec![(plot("a", Kind::Signal("go".into())), step)], async |scene| {
        let world = &scene.world;
        let signal = async |name: &str, id: &str| {
            let signal = Signal { name: name.into(), id: id.into(), payload: json!(1) };
            world.truth.send_signal(world.tenant, scene.run, signal, world.clock.now()).await.unwrap();
            scene.after(SECOND).await;
        };
        scene.after(SECOND).await;
        let before = scene.events().await;
        for number in 0..20 {
            signal("noise", &number.to_string()).await;
        }
        assert_eq!(scene.found().await.state, RunState::Paused);
        assert_eq!(scene.events().await, before);
        signal("go", "1").await;
        assert_eq!(scene.found().await.state, RunState::Completed);
        let starts = scene.events().await.iter().filter(|event| event.contains("step_start")).count();
        assert_eq!(starts, 1, "it slept, and its readers with it");
    });
}

/// The run's owner dies each time that it has asked the model, so often. `asked`: the calls until then.
async fn lose_owners(scene: &Scene, times: u32, asked: &mut u64) {
    let world = &scene.world;
    for _ in 0..times {
        while world.ledger.counts().model_calls == *asked {
            scene.after(SECOND / 10).await;
            if scene.found().await.state.is_terminal() {
                return;
            }
        }
        *asked = world.ledger.counts().model_calls;
        world.kill();
        world.add_node();
    }
}

#[test]
fn a_run_that_loses_owner_after_owner_rests_between_them_and_completes() {
    let deaths = Trouble { deaths: true, ..calm() };
    scene(1, deaths, vec![talk("a", 4, 2 * SECOND)], async |scene| {
        lose_owners(scene, 10, &mut 0).await;
        let events = scene.events().await;
        let rests = events.iter().filter(|event| event.contains("dispatch.recovery_postponed")).count();
        assert!(rests >= 5, "{}", scene.world.ledger.words().join("\n"));
        scene.after(10 * MINUTE).await;
        let run = scene.found().await;
        assert_eq!((run.state, run.recoveries), (RunState::Completed, 0));
    });
}

#[test]
fn owners_that_die_long_after_each_other_do_not_end_a_run_that_gets_further() {
    let steps = (0..6).map(|number| talk(&format!("s{number}"), 2, 2 * SECOND)).collect();
    scene(1, Trouble { deaths: true, ..calm() }, steps, async |scene| {
        let mut asked = 0;
        for _ in 0..6 {
            lose_owners(scene, 5, &mut asked).await;
            scene.after(40 * SECOND).await;
        }
        scene.after(10 * MINUTE).await;
        assert_eq!(scene.found().await.state, RunState::Completed);
    });
}
