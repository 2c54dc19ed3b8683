//! Models against the fake provider over real HTTP: every fault, every wire format, streamed and not, with a
//! fallback and without; cost; cancellation.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dispatch::cli::fake_provider::{self, FakeOptions};
use dispatch::clock::Clock;
use dispatch::error::Kind;
use dispatch::net::{Deadlines, Egress, Policy};
use dispatch::provider::{
    Call, Catalogue, ChatRequest, Class, Completion, Finish, Message, ModelStream, Models, Piece, ProviderError, Reasoning, ResponseFormat,
    RetryPolicy, Setup, TenantKeys, ToolSpec,
};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const WIRES: [&str; 3] = ["openai", "anthropic", "gemini"];

/// Only a silent provider runs into a deadline: other faults are noticed, however busy the machine is.
fn deadlines(names: &[&str]) -> Deadlines {
    let is_silent = names.iter().any(|name| name.contains("fake-stall"));
    let patience = Duration::from_millis(if is_silent { 1_000 } else { 60_000 });
    Deadlines { first_byte: patience, between_chunks: patience, total: Duration::from_secs(60) }
}

/// A fake provider and the models that reach it.
struct Bench {
    port: u16,
    models: Models,
    egress: Egress,
}

impl Bench {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(fake_provider::serve(listener, FakeOptions::default()));
        Self::at(port)
    }

    fn at(port: u16) -> Self {
        Self::towards("http", port)
    }

    fn towards(scheme: &str, port: u16) -> Self {
        let egress = Egress::new(Policy { allow_loopback: true, ..Policy::default() }, Clock::system()).unwrap();
        let env = [
            ("OPENAI_API_KEY", "sk-canary-openai".to_owned()),
            ("ANTHROPIC_API_KEY", "sk-canary-anthropic".to_owned()),
            ("GEMINI_API_KEY", "sk-canary-gemini".to_owned()),
            ("OPENAI_BASE_URL", format!("{scheme}://127.0.0.1:{port}/v1")),
            ("ANTHROPIC_BASE_URL", format!("{scheme}://127.0.0.1:{port}")),
            ("GEMINI_BASE_URL", format!("{scheme}://127.0.0.1:{port}/")),
            ("RESPONSES_BASE_URL", format!("{scheme}://127.0.0.1:{port}/v1")),
            ("COHERE_BASE_URL", format!("{scheme}://127.0.0.1:{port}")),
            ("BEDROCK_BASE_URL", format!("{scheme}://127.0.0.1:{port}")),
            ("SHARED_KEY_1", "sk-canary-one".to_owned()),
            ("SHARED_KEY_2", "sk-canary-two".to_owned()),
        ];
        let env: HashMap<String, String> = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let setup = Setup {
            catalogue: priced(),
            env,
            egress: egress.clone(),
            clock: Clock::system(),
            deadlines: Deadlines::default(),
            dev: false,
            default_provider: None,
            aliases: std::collections::BTreeMap::new(),
        };
        Self { port, models: Models::new(setup), egress }
    }

    fn call(&self, names: &[&str], request: ChatRequest, attempts: u32) -> Call {
        let resolved = names.iter().map(|name| self.models.check(&self.models.resolve(name).unwrap(), &TenantKeys::default()).unwrap());
        Call {
            candidates: resolved.collect(),
            request,
            retry: RetryPolicy { max_attempts: attempts, base_delay: Duration::from_millis(2), ..RetryPolicy::default() },
            deadlines: deadlines(names),
        }
    }

    async fn run(&self, names: &[&str], request: ChatRequest, attempts: u32) -> Outcome {
        gather(self.models.stream(self.call(names, request, attempts))).await
    }

    async fn stats(&self) -> Value {
        let url = format!("http://127.0.0.1:{}/_fake/stats", self.port);
        self.fetch(&url).await
    }

    async fn fetch(&self, url: &str) -> Value {
        let request = dispatch::net::Request::new(http::Method::GET, url, dispatch::net::Trust::Operator);
        serde_json::from_slice(&self.egress.send(request).await.unwrap().bytes().await.unwrap()).unwrap()
    }

    /// Asks until the statistics are as wanted; the deadline is generous, the usual case is at once.
    async fn until(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..2_000 {
            let stats = self.stats().await;
            if wanted(&stats) {
                return stats;
            }
        }
        panic!("{}", self.stats().await);
    }
}

/// The built-in catalogue with prices for some of the fake's models.
fn priced() -> Catalogue {
    let mut catalogue = Catalogue::built_in().unwrap();
    for wire in ["responses", "cohere", "bedrock"] {
        let variable = wire.to_uppercase();
        let text = format!(
            "name = \"{wire}\"\nwire = \"{wire}\"\nbase_url = \"http://127.0.0.1\"\nbase_url_env = \"{variable}_BASE_URL\"\nkeyless = true\nauth = \"none\""
        );
        catalogue.add("test", &text).unwrap();
    }
    for wire in WIRES {
        let mut entry = catalogue.provider(wire).unwrap().clone();
        for name in ["fake-chunks-20-reasoning", "fake-cut-after-3", "fake-ok"] {
            let text = format!("name = \"{name}\"\nprice = {{ input = 3, cached_input = 0.3, output = 15 }}");
            entry.models.push(toml::from_str(&text).unwrap());
        }
        catalogue.put(entry);
    }
    catalogue
}

fn ask(stream: bool) -> ChatRequest {
    ChatRequest { messages: vec![Message::system("Be brief."), Message::user("Hello")], stream, ..ChatRequest::default() }
}

#[derive(Debug)]
struct Outcome {
    pieces: Vec<Piece>,
    end: Result<Completion, ProviderError>,
}

impl Outcome {
    fn done(self) -> Completion {
        self.end.unwrap()
    }

    fn discarded(&self) -> Vec<(u32, Class)> {
        let discarded = |piece: &Piece| match piece {
            Piece::Discarded { number, reason, .. } => Some((*number, *reason)),
            _ => None,
        };
        self.pieces.iter().filter_map(discarded).collect()
    }

    /// The text that a reader is left with who obeys `Discarded`.
    fn shown(&self) -> String {
        self.pieces.iter().fold(String::new(), |mut text, piece| {
            match piece {
                Piece::Text(delta) => text.push_str(delta),
                Piece::Discarded { .. } => text.clear(),
                _ => {}
            }
            text
        })
    }
}

async fn gather(mut stream: ModelStream) -> Outcome {
    let mut pieces = Vec::new();
    let mut end = None;
    while let Some(item) = stream.next().await {
        assert!(end.is_none(), "nothing follows the end");
        match item {
            Ok(Piece::Done(completion)) => end = Some(Ok(*completion)),
            Ok(piece) => pieces.push(piece),
            Err(error) => end = Some(Err(error)),
        }
    }
    Outcome { pieces, end: end.expect("a stream has an end") }
}

/// Model, its class streamed, its class whole.
const FAULTS: &[(&str, Class, Class)] = &[
    ("fake-400", Class::BadRequest, Class::BadRequest),
    ("fake-401", Class::Auth, Class::Auth),
    ("fake-402", Class::Billing, Class::Billing),
    ("fake-403", Class::Forbidden, Class::Forbidden),
    ("fake-404", Class::NotFound, Class::NotFound),
    ("fake-408", Class::TimeoutFirstByte, Class::TimeoutFirstByte),
    ("fake-429", Class::RateLimited, Class::RateLimited),
    ("fake-429-retry-after-1", Class::RateLimited, Class::RateLimited),
    ("fake-500", Class::ServerError, Class::ServerError),
    ("fake-502", Class::ServerError, Class::ServerError),
    ("fake-503", Class::Overloaded, Class::Overloaded),
    ("fake-504", Class::TimeoutFirstByte, Class::TimeoutFirstByte),
    ("fake-529", Class::Overloaded, Class::Overloaded),
    ("fake-billing", Class::Billing, Class::Billing),
    ("fake-context", Class::ContextLength, Class::ContextLength),
    ("fake-filter", Class::ContentFilter, Class::ContentFilter),
    ("fake-empty", Class::Cut, Class::Empty),
    ("fake-blank", Class::Empty, Class::Empty),
    ("fake-stall", Class::TimeoutFirstByte, Class::TimeoutFirstByte),
    ("fake-stall-after-0", Class::TimeoutStall, Class::TimeoutStall),
    ("fake-stall-after-3", Class::TimeoutStall, Class::TimeoutStall),
    ("fake-cut-after-0", Class::Cut, Class::Cut),
    ("fake-cut-after-3", Class::Cut, Class::Cut),
    ("fake-end-after-3", Class::Cut, Class::Malformed),
    ("fake-malformed", Class::Malformed, Class::Malformed),
    ("fake-late-error", Class::Overloaded, Class::Overloaded),
    ("fake-wrong-type", Class::Malformed, Class::Malformed),
    ("fake-huge-line", Class::Malformed, Class::Malformed),
];

async fn matrix(wire: &str) {
    let bench = Bench::start().await;
    let good = format!("{wire}/fake-ok");
    let mut cells = 0;
    for (model, streamed, whole) in FAULTS {
        let bad = format!("{wire}/{model}");
        for (stream, class) in [(true, *streamed), (false, *whole)] {
            let cell = format!("{bad} {}", if stream { "streamed" } else { "whole" });
            let alone = bench.run(&[&bad], ask(stream), 1).await;
            let error = alone.end.expect_err(&cell);
            assert_eq!(error.class, class, "{cell}: {error:?}");
            assert_eq!((error.attempts.len(), error.provider.as_str()), (1, wire), "{cell}");

            let chain = bench.run(&[&bad, &good], ask(stream), 2).await;
            let (shown, discarded) = (chain.shown(), chain.discarded());
            if class.remedy().fall_back {
                let done = chain.end.expect(&cell);
                assert_eq!((done.text.as_str(), done.model.as_str()), ("word1 word2 word3 word4 word5 ", "fake-ok"), "{cell}");
                assert_eq!(shown, done.text, "{cell}: an obedient reader sees the answer and nothing else");
                assert_eq!(done.attempts[0].error.as_ref().map(|error| error.class), Some(class), "{cell}");
                let began = stream && (model.contains("after-3") || matches!(*model, "fake-malformed" | "fake-late-error"));
                assert_eq!(discarded, if began { vec![(1, class)] } else { vec![] }, "{cell}");
            } else {
                assert_eq!(chain.end.expect_err(&cell).class, class, "{cell}");
            }
            cells += 2;
        }
    }
    assert_eq!(cells, FAULTS.len() * 4);
}

#[tokio::test]
async fn every_fault_of_openai_has_its_outcome() {
    matrix("openai").await;
}

#[tokio::test]
async fn every_fault_of_anthropic_has_its_outcome() {
    matrix("anthropic").await;
}

#[tokio::test]
async fn every_fault_of_gemini_has_its_outcome() {
    matrix("gemini").await;
}

#[tokio::test]
async fn every_fault_of_responses_has_its_outcome() {
    matrix("responses").await;
}

#[tokio::test]
async fn every_fault_of_cohere_has_its_outcome() {
    matrix("cohere").await;
}

#[tokio::test]
async fn every_fault_of_bedrock_has_its_outcome() {
    matrix("bedrock").await;
}

#[tokio::test]
async fn the_further_wires_call_tools_and_think() {
    let bench = Bench::start().await;
    let schema = json!({ "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] });
    let tool = |name: &str| ToolSpec { name: name.into(), description: "Looks.".into(), parameters: schema.clone() };
    for wire in ["responses", "cohere", "bedrock"] {
        for stream in [true, false] {
            let asked = ChatRequest { tools: vec![tool("look.at"), tool("look_for")], ..ask(stream) };
            let done = bench.run(&[&format!("{wire}/fake-tools")], asked.clone(), 1).await.done();
            let calls: Vec<&str> = done.tool_calls.iter().map(|call| call.name.as_str()).collect();
            assert_eq!((calls, done.finish), (vec!["look.at", "look_for"], Finish::ToolCalls), "{wire}");
            assert!(done.tool_calls.iter().all(|call| call.arguments.contains("city") && !call.id.is_empty()), "{wire}");
            let mut next = asked;
            next.messages.push(done.message());
            next.messages.extend(done.tool_calls.iter().map(|call| Message::tool(call, "seen")));
            let done = bench.run(&[&format!("{wire}/fake-tools")], next, 1).await.done();
            assert_eq!((done.text.as_str(), done.finish), ("word1 word2 word3 word4 word5 ", Finish::EndTurn), "{wire}");
            let done = bench.run(&[&format!("{wire}/fake-reasoning")], ask(stream), 1).await.done();
            assert_eq!(done.reasoning_text(), "Let me think.", "{wire}");
            assert_eq!(done.usage.input, 100, "{wire}");
        }
    }
}

/// A provider with two keys.
fn shared() -> Catalogue {
    let mut catalogue = priced();
    let text = "name = \"shared\"\nwire = \"openai\"\nbase_url = \"http://127.0.0.1\"\nbase_url_env = \"OPENAI_BASE_URL\"\n\
                key_env = [\"SHARED_KEY_1\"]\n[[deployments]]\nkey_env = \"SHARED_KEY_2\"\nweight = 3";
    catalogue.add("test", text).unwrap();
    catalogue
}

#[tokio::test]
async fn names_of_the_operator_and_unknown_names_find_a_model() {
    let egress = Egress::new(Policy::default(), Clock::system()).unwrap();
    let models = |dev: bool, default_provider: Option<&str>| {
        let setup = Setup {
            catalogue: shared(),
            env: HashMap::from([("OPENAI_API_KEY".to_owned(), "sk-1".to_owned())]),
            egress: egress.clone(),
            clock: Clock::system(),
            deadlines: Deadlines::default(),
            dev,
            default_provider: default_provider.map(str::to_owned),
            aliases: BTreeMap::from([("fast".to_owned(), "openai/gpt-4o-mini".to_owned())]),
        };
        Models::new(setup)
    };
    let plain = models(false, None);
    assert_eq!(plain.resolve("fast").unwrap().to_string(), "openai/gpt-4o-mini");
    assert_eq!(plain.resolve("nobody-knows").unwrap_err().code(), "unknown_model");
    let chosen = models(false, Some("openai"));
    assert_eq!(chosen.resolve("nobody-knows").unwrap().to_string(), "openai/nobody-knows");
    assert_eq!(chosen.resolve("gpt-4o").unwrap().to_string(), "openai/gpt-4o");
    let dev = models(true, None);
    let played = dev.check(&dev.resolve("nobody-knows").unwrap(), &TenantKeys::default()).unwrap();
    assert_eq!((played.name().to_string(), played.substituted_for.as_deref()), ("local/echo".to_owned(), Some("nobody-knows")));
}

#[tokio::test]
async fn nobody_there_and_no_encryption_are_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = free.local_addr().unwrap().port();
    drop(free);
    let plain = Bench::start().await.port;
    let mut cells = 0;
    for (bench, class, tries) in [(Bench::at(closed), Class::Connect, 3), (Bench::towards("https", plain), Class::Tls, 1)] {
        for (wire, stream) in WIRES.into_iter().flat_map(|wire| [(wire, true), (wire, false)]) {
            let name = format!("{wire}/fake-ok");
            let error = bench.run(&[&name], ask(stream), 3).await.end.unwrap_err();
            assert_eq!((error.class, error.attempts.len(), error.sent), (class, tries, false), "{name}");
            let chain = bench.run(&[&name, "local/echo"], ask(stream), 3).await;
            let done = chain.end.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            let failed: Vec<Class> = done.attempts.iter().filter_map(|attempt| Some(attempt.error.as_ref()?.class)).collect();
            assert!(!failed.is_empty() && failed.iter().all(|found| *found == class), "{name}: {failed:?}");
            assert_eq!(done.provider, "local", "{name}");
            cells += 2;
        }
    }
    assert_eq!(cells, 2 * WIRES.len() * 4);
}

#[tokio::test]
async fn one_budget_counts_every_request_on_the_wire() {
    let bench = Bench::start().await;
    let outcome = bench.run(&["openai/fake-500"], ask(true), 4).await;
    assert_eq!(outcome.end.unwrap_err().attempts.len(), 4);
    let outcome = bench.run(&["openai/fake-503", "anthropic/fake-503", "gemini/fake-503"], ask(true), 5).await;
    let providers: Vec<String> = outcome.end.unwrap_err().attempts.iter().map(|attempt| attempt.provider.clone()).collect();
    assert_eq!(providers, ["openai", "openai", "anthropic", "anthropic", "gemini"]);
    let stats = bench.stats().await;
    assert_eq!((&stats["requests"]["fake-500"], &stats["requests"]["fake-503"]), (&json!(4), &json!(5)));
}

#[tokio::test]
async fn passing_troubles_pass() {
    let bench = Bench::start().await;
    for wire in WIRES {
        let outcome = bench
            .run(&[&format!("{wire}/fake-flaky-2")], ChatRequest { idempotency_key: Some(format!("key-{wire}")), ..ask(true) }, 5)
            .await;
        let retries = outcome.pieces.iter().filter(|piece| matches!(piece, Piece::Retrying { .. })).count();
        let done = outcome.done();
        assert_eq!((done.attempts.len(), retries), (3, 2), "{wire}");
        assert_eq!(done.cost.nano_usd, 0);
    }
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_kept() {
    let bench = Bench::start().await;
    let outcome = bench.run(&["openai/fake-429-retry-after-1"], ask(true), 2).await;
    let waits: Vec<Duration> =
        outcome.pieces.iter().filter_map(|piece| if let Piece::Retrying { wait, .. } = piece { Some(*wait) } else { None }).collect();
    assert_eq!(waits, [Duration::from_secs(1)]);
    let long = bench.run(&["openai/fake-429-retry-after-3600"], ask(true), 5).await;
    let error = long.end.unwrap_err();
    assert_eq!((error.attempts.len(), error.retry_after), (1, Some(Duration::from_secs(3_600))));
}

#[tokio::test]
async fn a_streamed_answer_costs_what_a_whole_one_costs() {
    let bench = Bench::start().await;
    for wire in WIRES {
        let name = format!("{wire}/fake-chunks-20-reasoning");
        let streamed = bench.run(&[&name], ask(true), 1).await.done();
        let whole = bench.run(&[&name], ask(false), 1).await.done();
        // 60 fresh at 3, 40 cached at 0.3, 27 out at 15 USD per million.
        assert_eq!(streamed.cost.nano_usd, 60 * 3_000 + 40 * 300 + 27 * 15_000, "{wire}");
        assert_eq!(
            (streamed.cost, streamed.usage, &streamed.text, streamed.reasoning_text(), streamed.finish),
            (whole.cost, whole.usage, &whole.text, whole.reasoning_text(), whole.finish),
            "{wire}"
        );
        assert_eq!((streamed.usage.cached_input, streamed.usage.estimated, streamed.finish), (40, false, Finish::EndTurn), "{wire}");
        assert_eq!(streamed.text.split_whitespace().count(), 20);
    }
}

#[tokio::test]
async fn a_cut_answer_is_billed_and_flagged() {
    let bench = Bench::start().await;
    for wire in WIRES {
        let cut = format!("{wire}/fake-cut-after-3");
        let done = bench.run(&[&cut, &format!("{wire}/fake-ok")], ask(true), 2).await.done();
        let (failed, good) = (&done.attempts[0], &done.attempts[1]);
        assert!(failed.cost.nano_usd > 0 && failed.cost.estimated && failed.usage.estimated, "{wire}: {failed:?}");
        assert!(!good.cost.estimated);
        assert_eq!(done.cost, failed.cost.plus(good.cost), "{wire}");
    }
}

#[tokio::test]
async fn tools_are_called_and_answered() {
    let bench = Bench::start().await;
    let tool = |name: &str| ToolSpec {
        name: name.into(),
        description: String::new(),
        parameters: json!({ "type": "object", "properties": { "city": { "type": "string", "minLength": 1 } }, "required": ["city"] }),
    };
    for wire in WIRES {
        for stream in [true, false] {
            let name = format!("{wire}/fake-tools-reasoning");
            let mut request = ChatRequest { tools: vec![tool("weather"), tool("news")], ..ask(stream) };
            let first = bench.run(&[&name], request.clone(), 1).await.done();
            let names: Vec<&str> = first.tool_calls.iter().map(|call| call.name.as_str()).collect();
            assert_eq!((names, first.finish), (vec!["weather", "news"], Finish::ToolCalls), "{wire}");
            assert!(first.tool_calls.iter().all(|call| !call.id.is_empty() && call.arguments == "{\"city\":\"x\"}"), "{wire}: {first:?}");
            request.messages.push(first.message());
            request.messages.extend(first.tool_calls.iter().map(|call| Message::tool(call, "fine")));
            let second = bench.run(&[&name], request, 1).await.done();
            assert_eq!((second.text.split_whitespace().count(), second.finish), (5, Finish::EndTurn), "{wire}");
        }
    }
    let sent = bench.fetch(&format!("http://127.0.0.1:{}/_fake/last/fake-tools-reasoning", bench.port)).await;
    assert_eq!(sent["contents"][1]["parts"][0]["thoughtSignature"], "sealed", "Gemini gets its seal back");
}

#[tokio::test]
async fn a_mark_at_the_start_is_no_fault() {
    let bench = Bench::start().await;
    for wire in WIRES {
        for stream in [true, false] {
            assert!(bench.run(&[&format!("{wire}/fake-bom")], ask(stream), 1).await.done().text.starts_with("word1"), "{wire}");
        }
    }
}

#[tokio::test]
async fn dropping_the_stream_closes_the_vendors_connection_in_every_phase() {
    let bench = Bench::start().await;
    let mut aborted = 0;
    for wire in WIRES {
        for model in ["fake-stall", "fake-stall-after-0", "fake-stall-after-2"] {
            let call = bench.call(&[&format!("{wire}/{model}")], ask(true), 1);
            let patient = Call { deadlines: Deadlines::default(), ..call };
            let mut stream = bench.models.stream(patient);
            let wanted = if model.ends_with('2') { 3 } else { 1 };
            for _ in 0..wanted {
                stream.next().await.unwrap().unwrap();
            }
            // Polled until the vendor has the request: a stream that is not polled sends nothing.
            tokio::select! {
                item = stream.next() => panic!("{item:?}"),
                _ = bench.until(|stats| stats["openRequests"] == json!(1)) => {}
            }
            let shown = stream.attempts();
            assert_eq!((shown.len(), shown[0].usage.output > 0), (1, model.ends_with('2')), "{model}: {shown:?}");
            drop(stream);
            aborted += 1;
            bench.until(|stats| stats["aborted"] == json!(aborted) && stats["openRequests"] == json!(0)).await;
        }
    }
}

#[tokio::test]
async fn no_key_is_ever_shown() {
    let bench = Bench::start().await;
    for wire in WIRES {
        for (model, ..) in FAULTS {
            let outcome = bench.run(&[&format!("{wire}/{model}")], ask(true), 1).await;
            let error = outcome.end.unwrap_err();
            let text = format!("{error} {error:?} {:?}", dispatch::error::Error::from(error.clone()));
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_model_without_a_key_is_refused_or_played_by_echo() {
    let egress = Egress::new(Policy::default(), Clock::system()).unwrap();
    let models = |dev| {
        let setup = Setup {
            catalogue: priced(),
            env: HashMap::new(),
            egress: egress.clone(),
            clock: Clock::system(),
            deadlines: Deadlines::default(),
            dev,
            default_provider: None,
            aliases: BTreeMap::new(),
        };
        Models::new(setup)
    };
    let strict = models(false);
    let error = strict.check(&strict.resolve("claude-sonnet-4-6").unwrap(), &TenantKeys::default()).unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unconfigured, "provider_not_configured"));
    assert!(error.envelope().next.unwrap().contains("ANTHROPIC_API_KEY"));
    let mut keys = TenantKeys::default();
    keys.set("anthropic", dispatch::secret::Secret::new("own"));
    assert!(strict.check(&strict.resolve("claude-sonnet-4-6").unwrap(), &keys).is_ok(), "a tenant may bring a key");

    let dev = models(true);
    let resolved = dev.check(&dev.resolve("gpt-4o").unwrap(), &TenantKeys::default()).unwrap();
    assert_eq!(resolved.substituted_for.as_deref(), Some("openai/gpt-4o"));
    let call = Call { candidates: vec![resolved], request: ask(true), retry: RetryPolicy::default(), deadlines: Deadlines::default() };
    let outcome = gather(dev.stream(call)).await;
    assert!(matches!(&outcome.pieces[0], Piece::Attempt { substituted_for: Some(wanted), .. } if wanted == "openai/gpt-4o"));
    let done = outcome.done();
    assert_eq!((done.text.as_str(), done.cost.usd()), ("Echo (instructed: Be brief.):\n\nHello", Some(0.0)));
}

#[tokio::test]
async fn echo_answers_json_and_thinks_when_told() {
    let bench = Bench::start().await;
    let mut request = ask(true);
    request.messages.push(Message::user("think about it\njson {\"a\": [1, 2]}"));
    request.response_format = ResponseFormat::Json;
    request.reasoning = Some(Reasoning { enabled: true, effort: None, budget_tokens: None });
    let done = bench.run(&["local/echo"], request, 1).await.done();
    assert_eq!((done.text.as_str(), done.reasoning_text().as_str()), ("{\"a\":[1,2]}", "about it"));
    assert!(done.usage.estimated && done.usage.output > 0);
}

#[test]
fn names_are_found_and_nearby_ones_suggested() {
    let catalogue = Catalogue::built_in().unwrap();
    for (name, full) in [
        ("gpt-4o", "openai/gpt-4o"),
        ("claude-sonnet-4-6", "anthropic/claude-sonnet-4-6"),
        ("claude-haiku-4-5", "anthropic/claude-haiku-4-5-20251001"),
        ("gemini-2.5-flash", "gemini/gemini-2.5-flash"),
        ("openai:gpt-5.4-mini", "openai/gpt-5.4-mini"),
        ("anthropic/claude-haiku-4-5", "anthropic/claude-haiku-4-5-20251001"),
        ("openai/not-listed", "openai/not-listed"),
        ("ollama/llama3.2:3b", "ollama/llama3.2:3b"),
        ("openrouter/anthropic/claude-sonnet-4.6", "openrouter/anthropic/claude-sonnet-4.6"),
        ("local/echo", "local/echo"),
    ] {
        assert_eq!(catalogue.resolve(name).unwrap().to_string(), full, "{name}");
    }
    for (name, near) in [("gpt-4p", "gpt-4"), ("openia/gpt-4o", "openai/gpt-4o"), ("claude-sonet-4-6", "claude-sonnet-4-6")] {
        let error = catalogue.resolve(name).unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, "unknown_model"));
        assert!(error.message().contains(near), "{error}");
    }
    assert!(catalogue.resolve("").is_err() && catalogue.resolve("openai/").is_err());
}

#[tokio::test]
async fn a_model_without_a_price_says_so() {
    let bench = Bench::start().await;
    let done = bench.run(&["openai/fake-chunks-2"], ask(true), 1).await.done();
    assert!(done.cost.unpriced && done.cost.usd().is_none());
    let cards = bench.models.list(&TenantKeys::default());
    let card = cards.iter().find(|card| card.id == "openai/gpt-4o").unwrap();
    assert!(card.configured && card.price.as_ref().is_some_and(|price| price.input > 0.0));
}
