//! The runs that are in flight while the server dies: what is sent, and what must have come of it.

use serde_json::{Value, json};

use super::ledger::Class;
use super::sink;

/// An effect that a run must have had by its end; one that is cancelled may have had it.
#[derive(Debug, Clone)]
pub struct Expected {
    /// `tag/label`.
    pub effect: String,
    pub class: Class,
}

/// How the caller asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// `Prefer: respond-async`, then its events.
    Async,
    /// One stream from the first event on.
    Stream,
    /// As a job in a queue; the body is the job.
    Job,
    /// As a run of a workflow; the body is its document.
    Workflow,
    /// As [`Manner::Async`], and an address is told of its end.
    Told,
}

/// One run. See the module.
#[derive(Debug, Clone)]
pub struct Story {
    pub name: &'static str,
    pub tag: String,
    pub body: Value,
    pub manner: Manner,
    /// The state it ends in.
    pub status: &'static str,
    /// Its final output; `None` when that is not told.
    pub output: Option<Value>,
    pub effects: Vec<Expected>,
    /// The flow is saved first, with an `Idempotency-Key` of its own.
    pub saved: bool,
    /// Its approval is left to expire.
    pub expires: bool,
    /// It is cancelled when it waits for its caller.
    pub cancelled: bool,
}

/// What every story begins with: the run's tag, and where the sink is.
pub struct Teller<'a> {
    pub sink: &'a str,
}

/// The effect in whose middle the slow story of a tag stays.
pub fn slow_effect(tag: &str) -> String {
    format!("{tag}-slow/a")
}

type Make = fn(&Teller<'_>, String) -> Story;

/// Every kind of story.
const ALL: &[Make] = &[
    chain, graph, agent, approval, client, flaky, lost, stream, cancelled, saved, expiry, failing, branch, lost_tool, signal, job,
    workflow, undone, event,
];
/// What is walked through once for each point, and too much for a mix: whoever is told here is told of every run.
const WALKED: &[Make] = &[told];
/// What takes longer than a walk through the failpoints should.
const LONG: &[Make] = &[timer, graph, agent, chain];

impl Teller<'_> {
    /// One story of each kind, for a walk through the failpoints.
    pub fn each(&self, tag: &str) -> Vec<Story> {
        ALL.iter().chain(WALKED).enumerate().map(|(place, make)| make(self, format!("{tag}-{place}"))).collect()
    }

    /// One that is certainly in the middle of an effect for a while; see [`slow_effect`].
    pub fn slow(&self, tag: &str) -> Story {
        let steps = json!([put("a", "slow-1500"), put("z", "ok")]);
        self.story("slow", format!("{tag}-slow"), steps, "z").idempotent(&["a", "z"])
    }

    /// The n-th story of an endless mix.
    pub fn nth(&self, number: usize, tag: &str) -> Story {
        let mix: Vec<&Make> = ALL.iter().chain(LONG).collect();
        let make = mix.get(number % mix.len()).copied().unwrap_or(&(chain as Make));
        make(self, format!("{tag}-{number}"))
    }

    fn story(&self, name: &'static str, tag: String, steps: Value, last: &str) -> Story {
        let body = json!({
            "flow": { "name": name, "steps": steps },
            "inputs": { "sink": self.sink, "tag": tag },
        });
        let output = Some(sink::answer_of(&format!("{tag}/{last}")));
        Story {
            name,
            tag,
            body,
            manner: Manner::Async,
            status: "completed",
            output,
            effects: Vec::new(),
            saved: false,
            expires: false,
            cancelled: false,
        }
    }
}

impl Story {
    /// Where the outside world is.
    pub fn sink(&self) -> &str {
        self.body.pointer("/inputs/sink").and_then(Value::as_str).unwrap_or_default()
    }

    fn having(mut self, class: Class, labels: &[&str]) -> Self {
        self.effects.extend(labels.iter().map(|label| Expected { effect: format!("{}/{label}", self.tag), class }));
        self
    }

    fn idempotent(self, labels: &[&str]) -> Self {
        self.having(Class::Idempotent, labels)
    }

    fn once(self, labels: &[&str]) -> Self {
        self.having(Class::Once, labels)
    }
}

fn http(method: &str, class: &str, behaviour: &str, label: &str) -> Value {
    json!({ "url": format!("{{{{sink}}}}/{class}/{behaviour}/{{{{tag}}}}/{label}"), "method": method, "body": { "tag": "{{tag}}" } })
}

/// A step whose callee honours keys.
fn put(id: &str, behaviour: &str) -> Value {
    json!({ "id": id, "type": "fetch-url", "config": { "http": http("PUT", "put", behaviour, id), "outputVariable": id } })
}

/// A step whose callee does not.
fn post(id: &str, behaviour: &str) -> Value {
    json!({ "id": id, "type": "fetch-url", "config": { "http": http("POST", "once", behaviour, id), "outputVariable": id } })
}

fn with(mut step: Value, name: &str, value: Value) -> Value {
    if let Some(map) = step.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
    step
}

fn retried(step: Value) -> Value {
    with(step, "retry", json!({ "maxAttempts": 4, "delayMs": 40 }))
}

fn tool(name: &str, method: &str, class: &str, behaviour: &str) -> Value {
    json!({
        "name": name, "toolType": "external", "description": "an effect",
        "parametersSchema": { "type": "object", "properties": {} }, "config": http(method, class, behaviour, name),
    })
}

fn prompt(id: &str, model: &str, tools: Value) -> Value {
    json!({ "id": id, "type": "prompt", "config": { "model": format!("openai/{model}"), "userPrompt": "go", "tools": tools, "outputVariable": id } })
}

/// One after the other, of both classes.
fn chain(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([put("a", "ok"), post("b", "ok"), put("c", "slow-60"), post("d", "slow-30"), put("e", "ok")]);
    teller.story("chain", tag, steps, "e").idempotent(&["a", "c", "e"]).once(&["b", "d"])
}

/// Branches side by side that meet again.
fn graph(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([
        put("a", "ok"),
        with(put("b", "slow-120"), "after", json!(["a"])),
        with(post("c", "slow-40"), "after", json!(["a"])),
        with(prompt("d", "fake-chunks-6-slow-15", json!({})), "after", json!(["a"])),
        with(put("e", "ok"), "after", json!(["b", "c", "d"])),
        with(post("f", "ok"), "after", json!(["e"])),
    ]);
    teller.story("graph", tag, steps, "f").idempotent(&["a", "b", "e"]).once(&["c", "f"])
}

/// A model that calls three tools at once.
fn agent(teller: &Teller<'_>, tag: String) -> Story {
    let tools = json!({ "runtimeTools": [tool("t1", "PUT", "put", "slow-30"), tool("t2", "POST", "once", "ok"), tool("t3", "PUT", "put", "slow-90")] });
    let steps = json!([prompt("p", "fake-tools-chunks-8-slow-10", tools), put("z", "ok")]);
    teller.story("agent", tag, steps, "z").idempotent(&["t1", "t3", "z"]).once(&["t2"])
}

/// A call that a person approves, and one of a model's calls that a person approves beside one that needs none.
fn approval(teller: &Teller<'_>, tag: String) -> Story {
    let call = json!({ "id": "call", "type": "tool-call", "config": { "tool": tool("t", "POST", "once", "ok"), "parameters": {}, "approval": { "timeout": 600_000 } } });
    let tools =
        json!({ "runtimeTools": [tool("u", "POST", "once", "ok"), tool("v", "PUT", "put", "ok")], "approval": { "require": ["u"] } });
    let steps = json!([call, prompt("p", "fake-tools", tools), put("z", "ok")]);
    teller.story("approval", tag, steps, "z").idempotent(&["v", "z"]).once(&["t", "u"])
}

/// Two tools that run in the caller, beside one that does not.
fn client(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([prompt("p", "fake-tools", json!({ "runtimeTools": [tool("t", "PUT", "put", "ok")] })), put("z", "ok")]);
    let mut story = teller.story("client", tag, steps, "z").idempotent(&["t", "z"]);
    if let Some(body) = story.body.as_object_mut() {
        body.insert("clientTools".into(), json!([client_tool("page_one"), client_tool("page_two")]));
    }
    story
}

fn client_tool(name: &str) -> Value {
    json!({ "name": name, "description": "runs in the caller", "parametersSchema": { "type": "object", "properties": {} } })
}

/// Callees that refuse at first.
fn flaky(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([retried(put("a", "flaky")), retried(post("b", "flaky")), put("z", "ok")]);
    teller.story("flaky", tag, steps, "z").idempotent(&["a", "z"]).once(&["b"])
}

/// An effect whose answer is lost: a person settles it.
fn lost(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([post("a", "drop"), retried(put("b", "drop")), put("z", "ok")]);
    teller.story("lost", tag, steps, "z").idempotent(&["b", "z"]).once(&["a"])
}

/// A model's tool call whose answer is lost.
fn lost_tool(teller: &Teller<'_>, tag: String) -> Story {
    let tools = json!({ "runtimeTools": [tool("t", "POST", "once", "drop"), tool("u", "PUT", "put", "ok")] });
    let steps = json!([prompt("p", "fake-tools", tools), put("z", "ok")]);
    teller.story("lost tool", tag, steps, "z").idempotent(&["u", "z"]).once(&["t"])
}

/// A long answer, streamed to the one who asked.
fn stream(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([put("a", "ok"), prompt("p", "fake-chunks-30-slow-10-reasoning", json!({})), put("z", "ok")]);
    Story { manner: Manner::Stream, ..teller.story("stream", tag, steps, "z").idempotent(&["a", "z"]) }
}

fn cancelled(teller: &Teller<'_>, tag: String) -> Story {
    Story { name: "cancelled", status: "cancelled", output: None, cancelled: true, ..client(teller, tag) }
}

fn saved(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([post("a", "ok"), put("z", "ok")]);
    Story { saved: true, ..teller.story("saved", tag, steps, "z").idempotent(&["z"]).once(&["a"]) }
}

/// An approval that nobody gives in time: the call is not made, and the run goes on.
fn expiry(teller: &Teller<'_>, tag: String) -> Story {
    let call = json!({ "id": "call", "type": "tool-call", "config": { "tool": tool("t", "POST", "once", "ok"), "parameters": {}, "approval": { "timeout": 250 } } });
    let steps = json!([call, put("z", "ok")]);
    Story { expires: true, ..teller.story("expiry", tag, steps, "z").idempotent(&["z"]) }
}

/// A step that fails for good ends its run.
fn failing(teller: &Teller<'_>, tag: String) -> Story {
    let mut steps = json!([post("a", "ok"), put("x", "gone"), put("z", "ok")]);
    if let Some(step) = steps.get_mut(1) {
        *step = with(step.take(), "onError", json!("stop"));
    }
    Story { status: "failed", output: None, ..teller.story("failing", tag, steps, "z").once(&["a"]) }
}

/// A condition, and a step that is skipped.
fn branch(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([
        put("a", "ok"),
        { "id": "if", "type": "conditional", "config": {
            "condition": "a.effect.length > 0", "trueSteps": [post("yes", "ok")], "falseSteps": [post("no", "ok")] } },
        with(post("never", "ok"), "when", json!("false")),
        put("z", "ok"),
    ]);
    teller.story("branch", tag, steps, "z").idempotent(&["a", "z"]).once(&["yes"])
}

/// A wait for a word from outside.
fn signal(teller: &Teller<'_>, tag: String) -> Story {
    let wait = json!({ "id": "wait", "type": "wait-for-signal", "config": { "name": "go" } });
    let steps = json!([put("a", "ok"), wait, post("b", "ok"), put("z", "ok")]);
    teller.story("signal", tag, steps, "z").idempotent(&["a", "z"]).once(&["b"])
}

/// Events of its own, published and taken; one is left to nobody.
fn event(teller: &Teller<'_>, tag: String) -> Story {
    let publish = |number: u32| {
        let config = json!({ "name": "told-{{tag}}", "payload": { "tag": "{{tag}}", "n": number } });
        json!({ "id": format!("tell{number}"), "type": "publish-event", "config": config })
    };
    let wait = |number: u32| {
        let config = json!({ "name": "told-{{tag}}", "match": format!("event.payload.n === {number}") });
        json!({ "id": format!("wait{number}"), "type": "wait-for-event", "config": config })
    };
    let steps = json!([put("a", "ok"), publish(1), publish(2), wait(2), publish(3), wait(1), put("z", "ok")]);
    teller.story("event", tag, steps, "z").idempotent(&["a", "z"])
}

/// A run of whose end an address is told.
fn told(teller: &Teller<'_>, tag: String) -> Story {
    let steps = json!([put("a", "ok"), put("z", "ok")]);
    Story { manner: Manner::Told, ..teller.story("told", tag, steps, "z").idempotent(&["a", "z"]) }
}

/// A job whose callee refuses it at first.
fn job(teller: &Teller<'_>, tag: String) -> Story {
    let url = format!("{}/put/flaky/{tag}/a", teller.sink);
    let body = json!({ "name": "job", "callback": { "url": url }, "payload": { "tag": tag } });
    Story { manner: Manner::Job, body, ..teller.story("job", tag, json!([]), "a").idempotent(&["a"]) }
}

/// A call of a workflow's step; the callee honours keys.
fn call(teller: &Teller<'_>, tag: &str, behaviour: &str, label: &str) -> Value {
    json!({ "method": "POST", "url": format!("{}/put/{behaviour}/{tag}/{label}", teller.sink), "body": { "tag": "{{ trigger.body.tag }}" } })
}

/// A workflow: attempts, many calls, a race of one good contender, a signal.
fn workflow(teller: &Teller<'_>, tag: String) -> Story {
    let again = json!({ "max": 5, "delay": "20ms" });
    let steps = json!({
        "a": { "request": call(teller, &tag, "flaky", "a"), "retry": again },
        "b": { "after": ["a"], "request": call(teller, &tag, "drop", "b"), "retry": again },
        "c": { "after": ["a"], "request": call(teller, &tag, "slow-30", "c{{ item }}"), "strategy": { "type": "fan_out", "over": [0, 1, 2], "concurrency": 2 } },
        "d": { "after": ["b"], "strategy": { "type": "race", "requests": {
            "good": call(teller, &tag, "ok", "d"), "bad": call(teller, &tag, "gone", "none") } } },
        "e": { "after": ["c", "d"], "request": call(teller, &tag, "ok", "e"), "wait": { "signal": "go" } },
        "z": { "after": ["e"], "request": call(teller, &tag, "ok", "z") },
    });
    let body = json!({ "version": 1, "steps": steps });
    let story = Story { manner: Manner::Workflow, body, output: None, ..teller.story("workflow", tag, json!([]), "z") };
    story.idempotent(&["a", "b", "c0", "c1", "c2", "d", "e", "z"])
}

/// A workflow that fails, and undoes what it did.
fn undone(teller: &Teller<'_>, tag: String) -> Story {
    let again = json!({ "max": 5, "delay": "20ms" });
    let steps = json!({
        "a": { "request": call(teller, &tag, "ok", "a"), "retry": again, "compensate": call(teller, &tag, "drop", "undo-a") },
        "b": { "after": ["a"], "request": call(teller, &tag, "slow-40", "b"), "retry": again, "compensate": call(teller, &tag, "flaky", "undo-b") },
        "x": { "after": ["b"], "request": call(teller, &tag, "gone", "x") },
    });
    let body = json!({ "version": 1, "steps": steps });
    let story = Story { manner: Manner::Workflow, body, status: "failed", output: None, ..teller.story("undone", tag, json!([]), "x") };
    story.idempotent(&["a", "b", "undo-a", "undo-b"])
}

/// A wait that outlives several servers.
fn timer(teller: &Teller<'_>, tag: String) -> Story {
    let pause = json!({ "id": "pause", "type": "wait-until", "config": { "delayMs": 2_600 } });
    let steps = json!([post("a", "ok"), pause, post("b", "ok"), put("z", "ok")]);
    teller.story("timer", tag, steps, "z").idempotent(&["z"]).once(&["a", "b"])
}
