//! MCP servers' tools in a run: what a server offers is asked once and kept, what it asks in the middle of a call is a wait.
//!
//! A tenant's first word with a server is believed. A tool that the server describes otherwise later needs a person's word before each call,
//! until one is given: descriptions are read by models, and a changed one may say anything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tool_run::{Invocation, ToolOutcome, outcome_of};
use crate::engine::context::{Ask, Asked, Interrupt, StepContext, StepFailure, StepResult};
use crate::failpoint;
use crate::id::McpPinsId;
use crate::model::Outcome;
use crate::model::event::Event;
use crate::model::wait::{Wait, WaitKind};
use crate::store::{Collection, Document, StoreError};
use crate::tool::mcp::{Answer, Failure, Listed, Place, Server};
use crate::tool::{Body, Definition, Effect, Remote, Tool};

/// Questions of one call, one after the other.
const MOST_ROUNDS: u32 = 10;
/// How long somebody may take to answer one.
const LONGEST_ANSWER: Duration = Duration::from_secs(30 * 24 * 3_600);

/// What a tenant was told by a server of its tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pins {
    server: String,
    /// The fingerprint of each tool.
    tools: BTreeMap<String, String>,
}

impl Document for Pins {
    const KIND: &'static str = "mcp_pins";
    type Id = McpPinsId;

    fn place(&self) -> Option<String> {
        Some(self.server.clone())
    }
}

/// What a server offered when the step asked.
#[derive(Serialize, Deserialize)]
struct Offered {
    tool: Listed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed: Option<String>,
}

/// The tools of a step's servers. `taken` are names that are in use.
pub async fn tools(context: &StepContext<'_>, servers: &[Arc<Server>], mut taken: Vec<String>) -> StepResult<Vec<Tool>> {
    let mut tools = Vec::new();
    for server in servers {
        for Offered { tool, changed } in offered(context, server).await? {
            let name = free_name(&server.name, &tool.name, &taken);
            taken.push(name.clone());
            let definition = Definition {
                name,
                description: tool.description,
                tool_type: "mcp".into(),
                parameters_schema: tool.parameters,
                config: Value::Null,
                hidden_parameter_names: Vec::new(),
                requires_approval: server.requires_approval || changed.is_some(),
                origin: None,
                page_origin: None,
            };
            let remote = Remote { server: server.clone(), tool: tool.name, effect: tool.effect, changed };
            let timeout_ms = u64::try_from(server.timeout.as_millis()).unwrap_or(u64::MAX);
            tools.push(Tool { definition, body: Body::Mcp(Box::new(remote)), timeout_ms });
        }
    }
    Ok(tools)
}

/// A name that models may call a tool by: its own, with its server's in front when that is taken.
fn free_name(server: &str, tool: &str, taken: &[String]) -> String {
    let plain = |text: &str| -> String {
        text.chars()
            .map(|letter| if letter.is_ascii_alphanumeric() || letter == '_' || letter == '-' { letter } else { '_' })
            .take(64)
            .collect()
    };
    let own = plain(tool);
    if !own.is_empty() && !taken.contains(&own) {
        return own;
    }
    let long = plain(&format!("{server}_{tool}"));
    (1..)
        .map(|number| if number == 1 { long.clone() } else { format!("{}_{number}", long.chars().take(60).collect::<String>()) })
        .find(|name| !taken.contains(name))
        .unwrap_or(long)
}

async fn offered(context: &StepContext<'_>, server: &Server) -> StepResult<Vec<Offered>> {
    let key = context.key(&format!("mcp/{}", server.name));
    context
        .effect(&key, Effect::Idempotent, || async {
            let place = server.place(&context.scope_with_secrets())?;
            let (run, tenant) = (context.run.run.to_string(), context.run.tenant.to_string());
            let listed = context.parts().mcp.list(&run, &tenant, server, &place).await.map_err(|failure| failed(&failure))?;
            let known = pinned(context, &known_as(context, &place), &listed).await?;
            let changed = |tool: &Listed| {
                let now = tool.fingerprint();
                known.get(&tool.name).is_some_and(|before| *before != now).then_some(now)
            };
            Ok(listed.into_iter().map(|tool| Offered { changed: changed(&tool), tool }).collect())
        })
        .await
}

/// What a server's fingerprints are kept under: no secret of its address, so that a new one changes nothing either.
fn known_as(context: &StepContext<'_>, place: &Place) -> String {
    context.run.redactor.text(&place.shown())
}

/// The fingerprints that were known before; what is new is known from now on.
async fn pinned(context: &StepContext<'_>, server: &str, listed: &[Listed]) -> StepResult<BTreeMap<String, String>> {
    let (store, tenant, now) = (&context.parts().store, context.run.tenant, context.now());
    let id = McpPinsId::new(&context.parts().clock);
    let all = Collection::<Pins>::of(&**store, tenant);
    let look = || async {
        let new: BTreeMap<String, String> = listed.iter().map(|tool| (tool.name.clone(), tool.fingerprint())).collect();
        let Some(known) = all.find_at(server).await? else {
            return match all.create(id, Pins { server: server.to_owned(), tools: new.clone() }, now).await {
                Ok(_) | Err(StoreError::Exists(_)) => Ok(new),
                Err(error) => Err(error),
            };
        };
        let before = known.body.tools.clone();
        if new.keys().any(|name| !before.contains_key(name)) {
            let add = |pins: &mut Pins| -> Result<(), StoreError> {
                for (name, fingerprint) in &new {
                    pins.tools.entry(name.clone()).or_insert_with(|| fingerprint.clone());
                }
                Ok(())
            };
            all.amend(known, now, add).await?;
        }
        Ok(before)
    };
    Ok(context.run.patiently(look).await?)
}

/// A person has approved a call of a tool that is described otherwise than before.
async fn accept(context: &StepContext<'_>, server: &str, tool: &str, fingerprint: &str) -> StepResult<()> {
    let (store, tenant, now) = (&context.parts().store, context.run.tenant, context.now());
    let all = Collection::<Pins>::of(&**store, tenant);
    let keep = || async {
        let Some(known) = all.find_at(server).await? else { return Ok(()) };
        let set = |pins: &mut Pins| -> Result<(), StoreError> {
            pins.tools.insert(tool.to_owned(), fingerprint.to_owned());
            Ok(())
        };
        all.amend(known, now, set).await.map(drop)
    };
    Ok(context.run.patiently(keep).await?)
}

/// Makes the call; what the server asks for in the middle of it is asked of the caller, and the call made again with the answers.
pub async fn call(invocation: &Invocation<'_>, context: &StepContext<'_>, key: &str, remote: &Remote) -> StepResult<ToolOutcome> {
    let scope = context.scope_with_secrets();
    let place = match remote.server.place(&scope) {
        Ok(place) => place,
        Err(error) => return Ok(ToolOutcome::failed(error.message())),
    };
    if let Some(fingerprint) = &remote.changed {
        accept(context, &known_as(context, &place), &remote.tool, fingerprint).await?;
    }
    let mut answered = None;
    for round in 1..=MOST_ROUNDS {
        let call_key = context.key(&format!("{key}/call/{round}"));
        if round == 1 && context.recall(&call_key).is_none() {
            invocation.start(context);
        }
        let with = answered.take();
        let made = context
            .effect(&call_key, remote.effect, || async {
                failpoint::hit("tool.before");
                let (run, arguments) = (context.run.run.to_string(), invocation.arguments.clone());
                let answer = context.parts().mcp.call(&run, &remote.server, &place, &remote.tool, arguments, with).await;
                failpoint::hit("tool.after");
                match answer {
                    // Redact the data, not its text: a secret that is a number is then removed too.
                    Ok(Answer::Result { value, beside }) => {
                        Ok(Answer::Result { value: context.run.redactor.redact_value(value).await, beside })
                    }
                    Ok(answer) => Ok(answer),
                    Err(failure) => Err(failed(&failure)),
                }
            })
            .await;
        let (questions, state) = match made {
            Ok(Answer::Asks { questions, state }) => (questions, state),
            Ok(Answer::Result { value, beside }) => {
                show(invocation, context, key, &beside);
                return Ok(ToolOutcome::done(value));
            }
            Ok(Answer::Error(text)) => return Ok(ToolOutcome::failed(text)),
            Err(interrupt) => return outcome_of(Err(interrupt), remote.effect, |(): ()| ToolOutcome::done(Value::Null)),
        };
        if let Some(other) = questions.values().find(|question| question.get("method").is_some_and(|method| method != "elicitation/create"))
        {
            return Ok(ToolOutcome::failed(format!("the MCP server asked for {}, which is not offered", other["method"])));
        }
        if questions.is_empty() {
            // It only wanted to be asked again.
            answered = Some((Map::new(), state));
            continue;
        }
        let output = match ask(invocation, context, key, round, &remote.server.name, &questions).await? {
            Some(output) => output,
            None => return Ok(ToolOutcome::failed("nobody answered the MCP server's question in time")),
        };
        answered = Some((answers(&questions, &output), state));
    }
    Ok(ToolOutcome::failed(format!("the MCP server asked more than {MOST_ROUNDS} times")))
}

/// Tells readers of what a tool gave beside its words: pictures and sounds, and where something comes from. Once.
fn show(invocation: &Invocation<'_>, context: &StepContext<'_>, key: &str, beside: &[Value]) {
    let told = context.key(&format!("{key}/shown"));
    if beside.is_empty() || context.recall(&told).is_some() {
        return;
    }
    let text = |block: &Value, name: &str| block.get(name).and_then(Value::as_str).map(str::to_owned);
    for (number, block) in beside.iter().enumerate() {
        let id = format!("{}_{number}", invocation.id);
        match (text(block, "mimeType"), text(block, "data"), text(block, "uri")) {
            (Some(media_type), Some(data), _) => {
                let tool_call_id = Some(invocation.id.clone());
                let start = Event::MediaStart {
                    id: format!("media_{id}"),
                    media_type: media_type.clone(),
                    role: "assistant".into(),
                    tool_call_id: tool_call_id.clone(),
                };
                context.emit(start);
                context.emit(Event::MediaComplete { id: format!("media_{id}"), media_type, data, tool_call_id });
            }
            (_, _, Some(url)) => {
                let title = text(block, "title").or_else(|| text(block, "name"));
                context.emit(Event::Source { id: format!("source_{id}"), url, title, source_type: "url".into() });
            }
            _ => {}
        }
    }
    context.record_done(&told, &true);
}

async fn ask(
    invocation: &Invocation<'_>,
    context: &StepContext<'_>,
    key: &str,
    round: u32,
    server: &str,
    questions: &Map<String, Value>,
) -> StepResult<Option<Value>> {
    let name = if round == 1 { invocation.id.clone() } else { format!("{}_{round}", invocation.id) };
    let elicitation = elicitation(server, questions, round);
    let ask = Ask {
        kind: WaitKind::ToolOutput,
        name,
        shown: json!({ "toolName": invocation.tool.name(), "parameters": invocation.arguments, "stepId": context.step_id(), "elicitation": elicitation }),
        digest: None,
        deadline: Some(context.now().after(LONGEST_ANSWER)),
    };
    match context.ask(&wait_key(context, key, round), ask).await? {
        Asked::Answered { resolution, .. } if resolution.timed_out => Ok(None),
        Asked::Answered { resolution, .. } => Ok(Some(resolution.answer.get("output").cloned().unwrap_or(Value::Null))),
        Asked::Open { .. } => Err(Interrupt::Suspend),
    }
}

fn wait_key(context: &StepContext<'_>, key: &str, round: u32) -> String {
    context.key(&format!("{key}/elicitation/{round}"))
}

/// The question of a server that waits for an answer now, and how events tell of it.
pub fn open(context: &StepContext<'_>, key: &str) -> Option<(Wait, Value)> {
    (1..=MOST_ROUNDS)
        .take_while(|round| matches!(context.recall(&context.key(&format!("{key}/call/{round}"))), Some(Outcome::Done(_))))
        .find_map(|round| context.open_wait(&wait_key(context, key, round)))
        .map(|wait| {
            let elicitation = wait.shown.get("elicitation").cloned().unwrap_or_default();
            (wait, elicitation)
        })
}

fn elicitation(server: &str, questions: &Map<String, Value>, round: u32) -> Value {
    let params = |question: &Value| question.get("params").cloned().unwrap_or_default();
    let requests: Vec<Value> = questions
        .iter()
        .map(|(name, question)| {
            let mut request = params(question);
            if let Some(request) = request.as_object_mut() {
                request.insert("id".into(), name.clone().into());
            }
            request
        })
        .collect();
    let first = questions.values().next().map(params).unwrap_or_default();
    let mode = first.get("mode").and_then(Value::as_str).unwrap_or("form");
    let mut told =
        json!({ "mode": mode, "message": first.get("message"), "serverName": server, "pauseCount": round, "requests": requests });
    for name in ["requestedSchema", "url"] {
        if let Some(value) = first.get(name) {
            told[name] = value.clone();
        }
    }
    told
}

/// The caller's output as answers: `{action, content}`, or the content alone, which accepts; by the questions' names when there are several.
fn answers(questions: &Map<String, Value>, output: &Value) -> Map<String, Value> {
    let one = |value: &Value| match value.get("action").and_then(Value::as_str) {
        Some(_) => value.clone(),
        None if value.is_null() => json!({ "action": "cancel" }),
        None => json!({ "action": "accept", "content": value }),
    };
    let single = questions.len() == 1;
    questions.keys().map(|name| (name.clone(), one(if single { output } else { output.get(name).unwrap_or(&Value::Null) }))).collect()
}

fn failed(failure: &Failure) -> Interrupt {
    let failed =
        StepFailure { retryable: failure.transient, fate_unknown: failure.sent, ..StepFailure::new(failure.code, failure.message.clone()) };
    Interrupt::Fail(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_name_gets_its_server_in_front() {
        let taken = ["search".to_owned(), "web_search".to_owned()];
        assert_eq!(free_name("web", "find", &taken), "find");
        assert_eq!(free_name("wiki", "search", &taken), "wiki_search");
        assert_eq!(free_name("web", "search", &taken), "web_search_2");
        assert_eq!(free_name("web", "a b/c", &taken), "a_b_c");
    }

    #[test]
    fn an_output_answers_one_question_or_each_by_its_name() {
        let one = Map::from_iter([("q".to_owned(), json!({}))]);
        assert_eq!(
            answers(&one, &json!({"name": "Ada"})),
            *json!({"q": {"action": "accept", "content": {"name": "Ada"}}}).as_object().unwrap()
        );
        assert_eq!(answers(&one, &json!({"action": "decline"})), *json!({"q": {"action": "decline"}}).as_object().unwrap());
        let two = Map::from_iter([("a".to_owned(), json!({})), ("b".to_owned(), json!({}))]);
        let given = answers(&two, &json!({"a": {"x": 1}}));
        assert_eq!(given, *json!({"a": {"action": "accept", "content": {"x": 1}}, "b": {"action": "cancel"}}).as_object().unwrap());
    }
}
