//! One world: nodes over one store, runs that start, people who answer, readers who come and go, and trouble.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dispatch::asset::Assets;
use dispatch::clock::{Clock, Timestamp};
use dispatch::engine::{Engine, Mailing, Parts, StartRun};
use dispatch::expr::script::{Limits, Sandbox};
use dispatch::feed::Feed;
use dispatch::id::{NodeId, RunId, TenantId};
use dispatch::net::{Egress, Policy};
use dispatch::provider::{Catalogue, Models, Setup};
use dispatch::queue::{Options, Workers};
use dispatch::secret::Vault;
use dispatch::store::faulty::{Faulty, Plan};
use dispatch::store::memory::MemoryStore;
use dispatch::store::{Created, RunKey};
use dispatch::tool::mcp::{Clients, Commands};
use dispatch::tool::services::Services;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

use super::dice::Dice;
use super::flows::{self, Case};
use super::ledger::Ledger;
use super::provider::{Scripted, Used};
use super::wire::{Gate, Line, Pulse, Watched};

/// The kinds of trouble a world has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// Of 1,000 operations: fail before they are applied, and lose their answer.
    pub faults: (u64, u64),
    pub delay: Duration,
    pub deaths: bool,
    pub stalls: bool,
    pub restarts: bool,
    /// No bell is heard.
    pub deaf: bool,
}

impl Trouble {
    fn draw(dice: &Dice) -> Self {
        let delay = dice.duration(Duration::from_millis(if dice.percent(20) { 800 } else { 40 }));
        match dice.below(7) {
            0 => Self { delay: delay.min(Duration::from_millis(5)), ..Self::default() },
            1 => Self { faults: (dice.below(60), dice.below(60)), delay, ..Self::default() },
            2 => Self { deaths: true, delay, ..Self::default() },
            3 => Self { stalls: true, delay, ..Self::default() },
            4 => Self { restarts: true, delay, ..Self::default() },
            5 => Self { deaf: true, delay, ..Self::default() },
            _ => {
                Self { faults: (dice.below(60), dice.below(60)), delay, deaths: true, stalls: true, restarts: true, deaf: dice.percent(30) }
            }
        }
    }

    /// Nothing is broken: everything must be noticed at once.
    pub fn is_none(&self) -> bool {
        self.faults == (0, 0) && !self.deaths && !self.stalls && !self.restarts && !self.deaf
    }
}

/// One server process.
pub struct Node {
    pub gate: Gate,
    pub engine: Engine,
    pub workers: Workers,
    pub feed: Feed,
    pub line: Arc<Faulty<Watched>>,
}

/// What a world is made of.
pub struct Draft {
    pub clock: Clock,
    pub dice: Dice,
    pub trouble: Trouble,
    pub horizon: Duration,
    pub cases: Vec<Case>,
    pub options: Options,
    pub in_words: bool,
}

pub struct World {
    pub clock: Clock,
    pub dice: Dice,
    pub trouble: Trouble,
    pub horizon: Duration,
    pub tenant: TenantId,
    /// The store as it is, without faults; nothing done here is watched.
    pub truth: Arc<Watched>,
    pub ledger: Arc<Ledger>,
    pub cases: Arc<BTreeMap<String, Case>>,
    pub nodes: Mutex<Vec<Arc<Node>>>,
    /// Nodes that are no more, kept until they are buried.
    pub graves: Mutex<Vec<Arc<Node>>>,
    /// Trouble is over: everything that is open is answered now.
    closing: CancellationToken,
    used: Arc<Used>,
    options: Options,
}

/// Building one takes longer than a whole world, and nothing is ever sent through it.
fn egress() -> Egress {
    static EGRESS: OnceLock<Egress> = OnceLock::new();
    EGRESS.get_or_init(|| Egress::new(Policy::default(), Clock::system()).unwrap()).clone()
}

fn catalogue() -> Catalogue {
    static CATALOGUE: OnceLock<Catalogue> = OnceLock::new();
    CATALOGUE.get_or_init(|| Catalogue::built_in().unwrap()).clone()
}

impl World {
    /// A world with its nodes running, and the runs it will come to know.
    pub fn new(seed: u64, in_words: bool) -> (Arc<Self>, UnboundedReceiver<RunId>) {
        let clock = Clock::simulated(seed, Timestamp::from_millis(1_750_000_000_000));
        let dice = Dice::new(seed, 1);
        let trouble = Trouble::draw(&dice);
        let horizon = Duration::from_secs(dice.within(3_600, 3 * 3_600));
        let count = usize::try_from(dice.within(2, 8)).unwrap_or(2);
        let mut cases: Vec<Case> = (0..count).map(|number| flows::draw(&dice, number, horizon)).collect();
        if trouble.is_none() {
            // Here lateness is a fault, and a step that waits for another to make room is late for a good reason.
            cases.iter_mut().for_each(|case| case.flow.max_parallel = case.flow.steps.len().max(1));
        }
        let options = Options {
            poll: Duration::from_secs(dice.within(2, 60)),
            sweep: Duration::from_secs(dice.within(30, 600)),
            max_recoveries: 10_000,
            ..Options::default()
        };
        let (world, runs) = Self::of(Draft { clock, dice, trouble, horizon, cases, options, in_words });
        for _ in 0..world.dice.within(2, 3) {
            world.add_node();
        }
        (world, runs)
    }

    /// A world without nodes yet.
    pub fn of(draft: Draft) -> (Arc<Self>, UnboundedReceiver<RunId>) {
        let Draft { clock, dice, trouble, horizon, cases, options, in_words } = draft;
        let (ledger, runs) = Ledger::new(clock.clone(), trouble.is_none(), in_words);
        let ledger = Arc::new(ledger);
        let world = Arc::new(Self {
            trouble,
            horizon,
            tenant: TenantId::new(&clock),
            truth: Arc::new(Watched { store: MemoryStore::new(), ledger: ledger.clone() }),
            ledger,
            cases: Arc::new(cases.into_iter().map(|case| (case.name.clone(), case)).collect()),
            nodes: Mutex::default(),
            graves: Mutex::default(),
            closing: CancellationToken::new(),
            used: Arc::default(),
            options,
            clock,
            dice,
        });
        (world, runs)
    }

    /// Starts a server process.
    pub fn add_node(&self) -> Arc<Node> {
        let (gate, node) = (Gate::new(), NodeId::new(&self.clock));
        let line = Arc::new(Faulty::new(self.truth.clone(), self.clock.clone(), self.plan()));
        let deaf = self.trouble.deaf.then(|| tokio::sync::broadcast::channel(1).0);
        let store = Arc::new(Line { store: line.clone(), gate: gate.clone(), ledger: self.ledger.clone(), deaf });
        let feed = Feed::new(store.clone(), self.clock.clone());
        let models = Models::new(Setup {
            catalogue: catalogue(),
            env: std::collections::HashMap::new(),
            egress: egress(),
            clock: self.clock.clone(),
            deadlines: dispatch::net::Deadlines::default(),
            dev: false,
            default_provider: None,
            aliases: std::collections::BTreeMap::new(),
        });
        let models = models.register(Arc::new(Scripted {
            cases: self.cases.clone(),
            used: self.used.clone(),
            ledger: self.ledger.clone(),
            gate: gate.clone(),
            node,
            dice: self.dice.clone(),
            clock: self.clock.clone(),
        }));
        let vault = Vault::new([7; 32], self.clock.clone());
        let engine = Engine::new(Parts {
            store: store.clone(),
            feed: feed.clone(),
            models,
            mcp: Clients::new(egress(), Commands::new()),
            services: Services::default(),
            mail: Mailing::default(),
            assets: Assets::new(Arc::new(InMemory::new()), store.clone(), vault.clone(), self.clock.clone(), "http://localhost"),
            egress: egress(),
            sandbox: Sandbox::new(Limits::default(), self.clock.clone()),
            printer: dispatch::html::Printer::new(None, dispatch::html::PrintLimits::default(), self.clock.clone()),
            limits: dispatch::engine::SharedLimits::default(),
            listeners: dispatch::engine::notice::Listeners::default(),
            vault,
            clock: self.clock.clone(),
            node,
        });
        let workers = Workers::start(engine.clone(), self.options);
        self.ledger.note(&format!("node {node} starts"));
        let node = Arc::new(Node { gate, engine, workers, feed, line });
        self.nodes.lock().push(node.clone());
        node
    }

    /// How the store treats its nodes now.
    pub fn plan(&self) -> Plan {
        let (before, after) = if self.is_closing() { (0, 0) } else { self.trouble.faults };
        Plan { before, after, delay: self.trouble.delay, ..Plan::default() }
    }

    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Waits; not longer than a moment once trouble is over.
    pub async fn pause(&self, duration: Duration) {
        if self.is_closing() {
            return self.clock.sleep(duration.min(Duration::from_millis(700))).await;
        }
        tokio::select! {
            biased;
            () = self.clock.sleep(duration) => {}
            () = self.closing.cancelled() => {}
        }
    }

    /// Some node that is not known to be dead.
    pub async fn node(&self) -> Arc<Node> {
        loop {
            let nodes = self.nodes.lock().clone();
            if let Some(node) = self.dice.pick(&nodes) {
                return node.clone();
            }
            self.clock.sleep(Duration::from_secs(1)).await;
        }
    }

    /// Asks some node; `None` when it died before it answered.
    pub async fn ask<T, F: Future<Output = T>>(&self, act: impl FnOnce(Arc<Node>) -> F) -> Option<T> {
        let node = self.node().await;
        let gate = node.gate.clone();
        tokio::select! {
            biased;
            () = gate.died() => None,
            answer = act(node) => Some(answer),
        }
    }

    /// Starts the runs of a case, as often as its caller has to ask.
    pub async fn start(&self, case: &Case) {
        self.pause(case.starts).await;
        let twice = case.keyed && self.dice.percent(30);
        if twice {
            let (one, two) = tokio::join!(self.start_one(case), self.start_one(case));
            if one != two {
                self.ledger.wrong(format!("{}: the same key gave {one} and {two}", case.name));
            }
        } else {
            self.start_one(case).await;
        }
    }

    pub async fn start_one(&self, case: &Case) -> RunId {
        loop {
            let started = self.ask(async |node: Arc<Node>| node.workers.start_run(self.start_run(case, &node)?).await).await;
            match started {
                Some(Ok((run, Created::New))) => return run,
                Some(Ok((_, Created::Duplicate { run, .. }))) => return run,
                Some(Err(error)) if !error.kind().retryable() && error.code() != "internal_error" => {
                    self.ledger.wrong(format!("{} was refused: {error:?}", case.name));
                }
                Some(Err(_)) | None => {}
            }
            self.pause(Duration::from_secs(2)).await;
        }
    }

    fn start_run(&self, case: &Case, node: &Node) -> dispatch::error::Result<StartRun> {
        let key = RunKey { route: "simulated".into(), key: case.name.clone(), request_hash: case.name.clone(), expires_at: Timestamp::MAX };
        Ok(StartRun {
            id: None,
            tenant: self.tenant,
            plan: node.engine.check(&case.flow)?,
            target: dispatch::model::Target::default(),
            input: case.input.clone(),
            secrets: BTreeMap::new(),
            key: case.keyed.then_some(key),
            parent: None,
        })
    }

    /// Makes trouble until the horizon.
    pub async fn trouble(&self) {
        let end = self.clock.now().after(self.horizon);
        while self.clock.now() < end {
            let left = end.since(self.clock.now());
            let pause = self.dice.duration(Duration::from_secs(1_800)).min(left);
            self.clock.sleep(pause).await;
            if self.dice.percent(80) {
                // Most of a world's time nothing happens: trouble is worth more when something does.
                let busy = self.ledger.busy.notified();
                tokio::select! {
                    biased;
                    () = busy => {}
                    () = self.clock.sleep(end.since(self.clock.now())) => {}
                }
                self.clock.sleep(self.dice.duration(Duration::from_millis(300))).await;
            }
            self.one_trouble().await;
        }
    }

    async fn one_trouble(&self) {
        let kinds = [self.trouble.deaths, self.trouble.stalls, self.trouble.restarts];
        let kind = usize::try_from(self.dice.below(3)).unwrap_or(0);
        if !kinds[kind] {
            return;
        }
        match kind {
            0 => {
                // Sometimes every node dies at once.
                let all = self.dice.percent(15);
                for _ in 0..if all { self.nodes.lock().len() } else { 1 } {
                    self.kill();
                }
                self.clock.sleep(self.dice.duration(Duration::from_secs(60))).await;
                while self.nodes.lock().len() < 2 {
                    self.add_node();
                }
            }
            1 => {
                let node = self.node().await;
                self.ledger.note("a node stalls");
                node.gate.set(Pulse::Stalls);
                self.clock.sleep(self.dice.duration(Duration::from_secs(40))).await;
                if node.gate.pulse() == Pulse::Stalls {
                    node.gate.set(Pulse::Lives);
                }
            }
            _ => {
                let Some(node) = self.take_node() else { return };
                self.ledger.note("a node shuts down");
                node.workers.shutdown(self.dice.duration(Duration::from_secs(20))).await;
                self.graves.lock().push(node);
                self.add_node();
            }
        }
    }

    fn take_node(&self) -> Option<Arc<Node>> {
        let mut nodes = self.nodes.lock();
        let index = usize::try_from(self.dice.below(nodes.len() as u64)).unwrap_or(0);
        (index < nodes.len()).then(|| nodes.remove(index))
    }

    pub fn kill(&self) {
        if let Some(node) = self.take_node() {
            self.ledger.note("a node dies");
            node.gate.set(Pulse::Dead);
            self.graves.lock().push(node);
        }
    }

    /// Ends all trouble.
    pub fn close(&self) {
        self.ledger.note("trouble is over");
        self.closing.cancel();
        for node in self.nodes.lock().iter() {
            node.line.follow(self.plan());
        }
        while self.nodes.lock().len() < 2 {
            self.add_node();
        }
    }

    /// Shuts every node down and lets the dead end; whatever is left of them then has leaked.
    pub async fn bury(&self) {
        let dead: Vec<Arc<Node>> = std::mem::take(&mut *self.graves.lock());
        let nodes: Vec<Arc<Node>> = std::mem::take(&mut *self.nodes.lock());
        dead.iter().for_each(|node| node.gate.set(Pulse::Buried));
        for node in dead.iter().chain(&nodes) {
            node.workers.shutdown(Duration::ZERO).await;
        }
        self.clock.sleep(Duration::from_secs(120)).await;
        for node in dead.iter().chain(&nodes) {
            let (active, rings) = (node.workers.active(), node.feed.open_rings());
            if active + rings > 0 {
                self.ledger.wrong(format!("after its end a node holds {active} runs and {rings} rings"));
            }
        }
    }
}
