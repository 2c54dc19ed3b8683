//! JavaScript modules: their actions run in a process of node, and all their HTTP goes through this side.
//!
//! A small bridge, embedded in this binary, loads the module's entry there. Messages are lines of JSON on its standard streams.

mod describe;
mod process;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::call::{ActionFault, ActionOutcome, LocalCall, ModuleResponse};
use process::{BridgeMessage, ScriptProcess};

pub(super) use describe::describe;

/// An action of a JavaScript module.
#[derive(Debug, Clone)]
pub struct ScriptEntry {
    /// The action's name in the module.
    action: String,
    host: Arc<ScriptHost>,
}

/// The processes of one module. A process that performed an action is used again, so the module keeps its state.
#[derive(Debug)]
struct ScriptHost {
    entry: PathBuf,
    idle: Mutex<Vec<ScriptProcess>>,
}

impl ScriptHost {
    fn new(entry: PathBuf) -> Self {
        Self { entry, idle: Mutex::new(Vec::new()) }
    }

    fn take_process(&self) -> Result<ScriptProcess, ActionFault> {
        let idle = self.idle.lock().pop();
        idle.map_or_else(|| ScriptProcess::start(&self.entry), Ok)
    }
}

impl ScriptEntry {
    fn new(action: &str, host: &Arc<ScriptHost>) -> Self {
        Self { action: action.to_owned(), host: Arc::clone(host) }
    }

    /// Returns the module's entry file.
    pub fn entry(&self) -> &Path {
        &self.host.entry
    }
}

/// Performs an action of a JavaScript module.
pub(super) async fn call(entry: &ScriptEntry, key: &str, call: LocalCall<'_>) -> Result<ActionOutcome, ActionFault> {
    let mut process = entry.host.take_process()?;
    let outcome = perform(&mut process, &entry.action, key, call).await;
    if !process.is_broken() {
        entry.host.idle.lock().push(process);
    }
    outcome
}

/// The number of a request, and what became of it.
type HttpExchange = (u64, Result<ModuleResponse, ActionFault>);

async fn perform(process: &mut ScriptProcess, action: &str, key: &str, call: LocalCall<'_>) -> Result<ActionOutcome, ActionFault> {
    let LocalCall { step_id, payload, credential, runtime, http, log, .. } = call;
    let step = json!({ "id": step_id, "action": key, "payload": payload });
    let mut request = json!({ "type": "call", "id": step_id, "action": action, "payload": payload, "step": step, "runtime": runtime });
    if let (Some(members), Some(credential)) = (request.as_object_mut(), credential) {
        members.insert("credential".into(), credential);
    }
    process.send(&request).await?;
    let mut exchanges: FuturesUnordered<BoxFuture<'_, HttpExchange>> = FuturesUnordered::new();
    loop {
        let answered = tokio::select! {
            message = process.receive() => match message? {
                BridgeMessage::Activity { line } => { log.line(&line); None }
                BridgeMessage::Progress { line } => { log.progress(&line); None }
                BridgeMessage::Http { rid, request } => {
                    exchanges.push(Box::pin(async move { (rid, http.send(request).await) }));
                    None
                }
                BridgeMessage::Result(outcome) => return Ok(outcome),
                BridgeMessage::Error { message, retryable } => return Err(ActionFault { message, retryable }),
                BridgeMessage::Failure { message } => return Err(ActionFault::new(message)),
                BridgeMessage::Module(_) => None,
            },
            Some(answered) = exchanges.next(), if !exchanges.is_empty() => Some(answered),
        };
        if let Some((rid, reply)) = answered {
            process.send(&reply_message(rid, reply)).await?;
        }
    }
}

fn reply_message(rid: u64, reply: Result<ModuleResponse, ActionFault>) -> Value {
    match reply {
        Ok(ModuleResponse { status, body }) => json!({ "type": "reply", "rid": rid, "status": status, "body": body }),
        Err(fault) => json!({ "type": "reply", "rid": rid, "message": fault.message, "retryable": fault.retryable }),
    }
}
