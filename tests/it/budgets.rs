//! Budgets as properties: whatever a model is asked, what it costs, and how often its attempts fail, a run never spends more than its cap allows.
//! `DISPATCH_BUDGET_CASES` says how many cases are drawn; 10,000 in `scripts/proof budgets`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dispatch::asset::Assets;
use dispatch::clock::{Clock, Timestamp};
use dispatch::engine::{Engine, Mailing, Parts, StartRun};
use dispatch::expr::script::{Limits, Sandbox};
use dispatch::feed::Feed;
use dispatch::http::dispatch::document;
use dispatch::id::{KeyId, NodeId, RunId, TenantId};
use dispatch::model::run::{Budget, Run, RunInput};
use dispatch::net::{Deadlines, Egress, Policy};
use dispatch::provider::{
    Catalogue, Class, Finish, ModelEvent, Models, Provider, ProviderCall, ProviderEntry, ProviderError, Setup, Usage,
};
use dispatch::queue::{Options, Workers};
use dispatch::secret::Vault;
use dispatch::store::memory::MemoryStore;
use dispatch::store::{ApiKey, SharedStore, Tenant};
use dispatch::tool::mcp::{Clients, Commands};
use dispatch::tool::services::Services;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use object_store::memory::InMemory;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A model that bills what it is allowed to, fails as it is drawn, and asks for tools that do not exist.
struct BillingModel {
    clock: Clock,
    /// Nano-dollars that were billed, by the model's name.
    billed: Mutex<HashMap<String, u64>>,
}

/// Input and output prices in US dollars per million tokens.
const PRICES: [(f64, f64); 4] = [(0.1, 0.4), (2.5, 10.0), (15.0, 75.0), (0.0, 3.0)];

impl Provider for BillingModel {
    fn wire(&self) -> &'static str {
        "billing"
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Result<ModelEvent, ProviderError>> {
        let below = |limit: u64| self.clock.below(limit);
        let request = &call.request;
        let said: usize = request.messages.iter().map(|message| message.text().len()).sum();
        let input = below(u64::try_from(said / 4 + 8).unwrap());
        let most = u64::from(request.sampling.max_tokens.unwrap());
        // A model that stops at its limit is the usual worst case.
        let output = if below(3) == 0 { most } else { below(most) + 1 };
        let usage = Usage { input, output, ..Usage::default() };
        let price: usize = call.model.split('-').nth(1).unwrap().parse().unwrap();
        let (input_price, output_price) = PRICES[price];
        let fault = below(10);
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers of a test")]
        let cost = |usage: &Usage| (usage.input as f64 * input_price * 1_000.0 + usage.output as f64 * output_price * 1_000.0) as u64;
        let error = |class| Err(ProviderError::new(class, "as drawn"));
        if fault == 0 {
            return stream::iter([error(Class::Overloaded)]).boxed();
        }
        *self.billed.lock().entry(call.model.clone()).or_default() += cost(&usage);
        let text = Ok(ModelEvent::Text("word ".repeat(usize::try_from(output.min(20)).unwrap())));
        let mut events = vec![text, Ok(ModelEvent::Usage(usage))];
        match fault {
            1 | 2 => events.push(error(Class::Cut)),
            3 => events.push(error(Class::ServerError)),
            4 | 5 => {
                events.push(Ok(ModelEvent::ToolCallStart { index: 0, id: String::new(), name: "absent".into(), signature: None }));
                events.push(Ok(ModelEvent::Finish(Finish::ToolCalls)));
            }
            _ => events.push(Ok(ModelEvent::Finish(Finish::EndTurn))),
        }
        stream::iter(events).boxed()
    }
}

struct Bench {
    clock: Clock,
    tenant: TenantId,
    store: SharedStore,
    engine: Engine,
    workers: Workers,
    model: Arc<BillingModel>,
}

impl Bench {
    async fn new(seed: u64) -> Self {
        let clock = Clock::simulated(seed, Timestamp::from_millis(1_750_000_000_000));
        let store: SharedStore = Arc::new(MemoryStore::new());
        let tenant = TenantId::new(&clock);
        let key = ApiKey {
            id: KeyId::new(&clock),
            tenant,
            name: "first".into(),
            hash: "hash".into(),
            hint: "hint".into(),
            scopes: vec!["*".into()],
            created_at: clock.now(),
            expires_at: None,
            revoked_at: None,
        };
        store.create_tenant(Tenant { id: tenant, name: "first".into(), created_at: clock.now() }, key).await.unwrap();
        let mut catalogue = Catalogue::built_in().unwrap();
        let mut entry = ProviderEntry::keyless("billing");
        for (number, (input, output)) in PRICES.iter().enumerate() {
            let text = format!("name = \"m-{number}\"\nprice = {{ input = {input:?}, output = {output:?} }}");
            entry.models.push(toml::from_str(&text).unwrap());
        }
        catalogue.put(entry);
        let egress = Egress::new(Policy::default(), clock.clone()).unwrap();
        let setup = Setup {
            catalogue,
            env: HashMap::new(),
            egress: egress.clone(),
            clock: clock.clone(),
            deadlines: Deadlines::default(),
            dev: false,
            default_provider: None,
            aliases: BTreeMap::new(),
        };
        let model = Arc::new(BillingModel { clock: clock.clone(), billed: Mutex::default() });
        let vault = Vault::new([7; 32], clock.clone());
        let engine = Engine::new(Parts {
            store: store.clone(),
            feed: Feed::new(store.clone(), clock.clone()),
            models: Models::new(setup).register(model.clone()),
            mcp: Clients::new(egress.clone(), Commands::new()),
            services: Services::default(),
            mail: Mailing::default(),
            assets: Assets::new(Arc::new(InMemory::new()), store.clone(), vault.clone(), clock.clone(), "http://localhost"),
            egress,
            sandbox: Sandbox::new(Limits::default(), clock.clone()),
            printer: dispatch::html::Printer::new(None, dispatch::html::PrintLimits::default(), clock.clone()),
            limits: dispatch::engine::SharedLimits::default(),
            listeners: dispatch::engine::notice::Listeners::default(),
            vault,
            clock: clock.clone(),
            node: NodeId::new(&clock),
        });
        let workers = Workers::start(engine.clone(), Options::default());
        Self { clock, tenant, store, engine, workers, model }
    }

    fn below(&self, limit: u64) -> u64 {
        self.clock.below(limit)
    }

    /// A flow of prompts, one after the other or side by side, and a cap that covers some of it.
    fn draw(&self) -> (Value, Budget) {
        let steps: Vec<Value> = (0..=self.below(3))
            .map(|number| {
                let mut config = json!({
                    "model": format!("billing/m-{}", self.below(4)),
                    "userPrompt": "word ".repeat(usize::try_from(self.below(400)).unwrap() + 1),
                    "fallbacks": if self.below(3) == 0 { vec![format!("billing/m-{}", self.below(4))] } else { Vec::new() },
                });
                if self.below(5) > 0 {
                    config["maxTokens"] = json!(self.below(2_000) + 1);
                }
                if self.below(2) == 0 {
                    let tool =
                        json!({ "name": "look", "description": "Looks.", "toolType": "local", "parametersSchema": { "type": "object" } });
                    config["tools"] = json!({ "runtimeTools": [tool] });
                }
                json!({ "id": format!("s{number}"), "type": "prompt", "name": "s", "config": config, "continueOnError": true })
            })
            .collect();
        let cap = self.below(60_000_000) + 1;
        let budget = match self.below(3) {
            0 => Budget { cost: Some(cap), ..Budget::default() },
            1 => Budget { tokens: Some(self.below(8_000) + 1), ..Budget::default() },
            _ => Budget { cost: Some(cap), tokens: Some(self.below(20_000) + 1), ..Budget::default() },
        };
        (json!({ "name": "f", "steps": steps }), budget)
    }

    async fn run(&self, flow: &Value, budget: Budget) -> Run {
        let flow = document::compile(flow).unwrap_or_else(|error| panic!("{error:?}"));
        let mut input = RunInput::default();
        input.options.budget = budget;
        let start = StartRun {
            id: None,
            tenant: self.tenant,
            plan: self.engine.check(&flow).unwrap(),
            target: dispatch::model::Target::default(),
            input,
            secrets: BTreeMap::new(),
            key: None,
            parent: None,
        };
        let (run, _): (RunId, _) = self.workers.start_run(start).await.unwrap();
        loop {
            let found = self.store.find_run(self.tenant, run).await.unwrap();
            match found.filter(|run| run.state.is_terminal()) {
                Some(run) => return run,
                None => self.clock.sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_run_spends_more_than_its_cap() {
    let cases: u64 = std::env::var("DISPATCH_BUDGET_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300);
    let bench = Bench::new(7).await;
    let (mut exhausted, mut near) = (0u64, 0u64);
    for case in 0..cases {
        bench.model.billed.lock().clear();
        let (flow, budget) = bench.draw();
        let run = bench.run(&flow, budget).await;
        let billed: u64 = bench.model.billed.lock().values().sum();
        let spent = run.spent;
        // Rounding of prices aside, what is booked is what the vendor bills.
        assert!(spent.cost.abs_diff(billed) <= 100, "case {case}: {billed} billed, {} booked\n{flow}", spent.cost);
        if let Some(cap) = budget.cost {
            assert!(spent.cost <= cap, "case {case}: {} spent under a cap of {cap}\n{flow}", spent.cost);
            near += u64::from(spent.cost * 10 > cap * 8);
        }
        if let Some(cap) = budget.tokens {
            let tokens = spent.input_tokens + spent.output_tokens;
            assert!(tokens <= cap, "case {case}: {tokens} tokens under a cap of {cap}\n{flow}");
        }
        exhausted += u64::from(run.failure.is_some_and(|failure| failure.code == "budget_exhausted"));
    }
    println!("{cases} cases: {exhausted} exhausted their budget, {near} spent more than 80 % of a cap in money");
    assert!(exhausted > cases / 20, "caps that never bind prove nothing");
}
