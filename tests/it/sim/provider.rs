//! A model that follows its step's script: it stalls, breaks off, asks for tools, and answers with a digest of all
//! that it was told.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use dispatch::id::{NodeId, RunId};
use dispatch::provider::{Class, Finish, Message, ModelEvent, Part, Provider, ProviderCall, ProviderError, Role, Usage};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

use super::dice::Dice;
use super::flows::{Case, End, Kind, Script, ToolUse};
use super::ledger::Ledger;
use super::wire::Gate;

/// What has been used up of the scripts, whichever node asked.
#[derive(Default)]
pub struct Used(Mutex<BTreeMap<String, (u64, u64)>>);

impl Used {
    /// One more fault of this model, if its script has any left.
    fn fault(&self, model: &str, script: &Script) -> bool {
        let mut used = self.0.lock();
        let (faults, _) = used.entry(model.to_owned()).or_default();
        let left = *faults < script.faults;
        *faults += u64::from(left);
        left
    }

    fn garbage(&self, model: &str, script: &Script) -> bool {
        let mut used = self.0.lock();
        let (_, garbage) = used.entry(model.to_owned()).or_default();
        let left = *garbage < script.garbage;
        *garbage += u64::from(left);
        left
    }
}

/// The models as one node reaches them.
#[derive(Clone)]
pub struct Scripted {
    pub cases: Arc<BTreeMap<String, Case>>,
    pub used: Arc<Used>,
    pub ledger: Arc<Ledger>,
    pub gate: Gate,
    pub node: NodeId,
    pub dice: Dice,
    pub clock: dispatch::clock::Clock,
}

/// What a model says in a turn, and the tools it asks for.
pub struct Reply<'a> {
    pub text: String,
    pub calls: &'a [ToolUse],
}

/// The whole of a conversation in one text.
pub fn transcript<'a>(messages: impl Iterator<Item = (&'static str, &'a str)>) -> String {
    messages.map(|(role, text)| format!("{role}>{text}\n")).collect()
}

/// What a model says to a conversation: the same each time, and nothing else to any other one.
pub fn reply<'a>(step: &str, script: &'a Script, turn: usize, transcript: &str) -> Reply<'a> {
    if let Some(calls) = turn.checked_sub(1).and_then(|index| script.turns.get(index)) {
        return Reply { text: format!("{step} asks in turn {turn}"), calls };
    }
    let mut hash = DefaultHasher::new();
    transcript.hash(&mut hash);
    let text = format!("{step} heard {:016x} in turn {turn}", hash.finish());
    Reply { text: if script.json { json!({ "said": text }).to_string() } else { text }, calls: &[] }
}

pub fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

fn words(message: &Message) -> &str {
    message.content.iter().find_map(|part| if let Part::Text { text } = part { Some(text.as_str()) } else { None }).unwrap_or_default()
}

/// What was said, without what the gateway adds: the instruction to answer in JSON, and the broken answer with the request to mend it.
fn conversation(call: &ProviderCall) -> impl Iterator<Item = &Message> {
    let messages = &call.request.messages;
    let mends = call.request.idempotency_key.as_deref().is_some_and(|key| key.ends_with("/repair"));
    let said = messages.len() - if mends { 2 } else { 0 };
    messages.iter().take(said).filter(|message| message.role != Role::System || !words(message).starts_with("Answer with one JSON value"))
}

type Item = Result<ModelEvent, ProviderError>;

impl Provider for Scripted {
    fn wire(&self) -> &'static str {
        "sim"
    }

    fn stream(&self, call: ProviderCall) -> BoxStream<'static, Item> {
        let (out, items) = mpsc::channel(1);
        let model = self.clone();
        // The work runs inside the stream: dropping the call drops it.
        let work = async move { model.answer(call, out).await };
        let work = futures_util::stream::once(work).filter_map(|()| async { None });
        let items = futures_util::stream::unfold(items, |mut items| async move { items.recv().await.map(|item| (item, items)) });
        futures_util::stream::select(items, work).boxed()
    }
}

/// Where a call goes and what for: run, step and turn.
fn address(call: &ProviderCall) -> Option<(RunId, String, String)> {
    let key = call.request.idempotency_key.as_deref()?;
    let mut parts = key.splitn(4, '/');
    let (run, _, step, turn) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((run.parse().ok()?, step.to_owned(), turn.to_owned()))
}

impl Scripted {
    async fn answer(&self, call: ProviderCall, out: mpsc::Sender<Item>) {
        let gone = || ProviderError::new(Class::Connect, "this node is dead");
        if !self.gate.pass().await {
            let _ = out.send(Err(gone())).await;
            return;
        }
        let Some((run, step, turn)) = address(&call) else {
            self.ledger.wrong(format!("a model call without a usable key: {:?}", call.request.idempotency_key));
            return;
        };
        self.ledger.called(self.node, run, &step, &turn);
        let script = call.model.split_once('.').and_then(|(case, step)| {
            let plot = self.cases.get(case)?.plots.iter().find(|plot| plot.id == step)?;
            if let Kind::Prompt(script) = &plot.kind { Some(script) } else { None }
        });
        let Some(script) = script else {
            self.ledger.wrong(format!("no script for the model {}", call.model));
            return;
        };
        let number: usize = turn.trim_start_matches("turn/").split('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        for item in self.items(&call, script, &step, number) {
            self.clock.sleep(if script.steady { script.pace } else { self.dice.duration(script.pace) }).await;
            let item = match item {
                Some(item) => item,
                None => std::future::pending().await,
            };
            if !self.gate.pass().await {
                let _ = out.send(Err(gone())).await;
                return;
            }
            self.ledger.heard(self.node, run);
            if out.send(item).await.is_err() {
                return;
            }
        }
    }

    /// What comes over the wire; `None` is silence without end.
    fn items(&self, call: &ProviderCall, script: &Script, step: &str, turn: usize) -> Vec<Option<Item>> {
        match script.end {
            End::Refuses => return vec![Some(Err(ProviderError::new(Class::BadRequest, "no")))],
            End::Hangs => return vec![Some(Ok(ModelEvent::Text("well".into()))), None],
            End::Answers => {}
        }
        let whole = self.whole(call, script, step, turn);
        // The last faults of a script come for certain, the others by chance.
        if self.dice.percent(60) && self.used.fault(&call.model, script) {
            let kept = usize::try_from(self.dice.below(whole.len() as u64)).unwrap_or(0);
            let mut items: Vec<Option<Item>> = whole.into_iter().take(kept).map(|event| Some(Ok(event))).collect();
            items.push(Some(Err(self.fault())));
            return items;
        }
        whole.into_iter().map(|event| Some(Ok(event))).collect()
    }

    fn fault(&self) -> ProviderError {
        let classes = [Class::Cut, Class::ServerError, Class::Overloaded, Class::RateLimited, Class::TimeoutStall, Class::Connect];
        let mut error = ProviderError::new(self.dice.pick(&classes).copied().unwrap_or(Class::Cut), "as scripted");
        if error.class == Class::RateLimited {
            error.retry_after = Some(Duration::from_secs(self.dice.within(1, 90)));
        }
        error
    }

    fn whole(&self, call: &ProviderCall, script: &Script, step: &str, turn: usize) -> Vec<ModelEvent> {
        let heard = transcript(conversation(call).map(|message| (role(message.role), words(message))));
        let reply = reply(step, script, turn, &heard);
        let text = if script.json && reply.calls.is_empty() && self.used.garbage(&call.model, script) {
            "not what was asked for".to_owned()
        } else {
            reply.text
        };
        let mut events = Vec::new();
        if script.thinks {
            events.push(ModelEvent::Reasoning("hm".into()));
            events.push(ModelEvent::ReasoningEnd { signature: Some("seal".into()), redacted: false });
        }
        let size = text.len().div_ceil(usize::try_from(script.pieces).unwrap_or(1)).max(1);
        let letters: Vec<char> = text.chars().collect();
        events.extend(letters.chunks(size).map(|piece| ModelEvent::Text(piece.iter().collect())));
        for (index, call) in reply.calls.iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(0);
            events.push(ModelEvent::ToolCallStart { index, id: call.id.clone(), name: call.name.into(), signature: None });
            events.push(ModelEvent::ToolCallDelta { index, delta: call.arguments.to_string() });
        }
        events.push(ModelEvent::Usage(Usage { input: 10, output: 5, ..Usage::default() }));
        events.push(ModelEvent::Finish(if reply.calls.is_empty() { Finish::EndTurn } else { Finish::ToolCalls }));
        events
    }
}
