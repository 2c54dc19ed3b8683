//! A process of node that holds one module.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::describe::DescribedModule;
use crate::module::call::{ActionFault, ActionOutcome, ModuleRequest};

const BRIDGE: &str = include_str!("bridge.mjs");
const SCHEMAS: &str = include_str!("schemas.mjs");
const HOOKS: &str = include_str!("hooks.mjs");
const SHIM: &str = include_str!("shim.mjs");

/// A message of the bridge.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub(super) enum BridgeMessage {
    /// The module's description.
    Module(DescribedModule),
    /// The module cannot be loaded.
    Failure { message: String },
    /// A line for `activity.log`.
    Activity { line: String },
    /// A line for an interactive terminal.
    Progress { line: String },
    /// A request to send; the answer carries its `rid`.
    Http {
        rid: u64,
        #[serde(flatten)]
        request: ModuleRequest,
    },
    /// The action succeeded.
    Result(ActionOutcome),
    /// The action failed.
    Error {
        message: String,
        #[serde(default)]
        retryable: bool,
    },
}

/// The process, and its ends. It is killed when it is dropped.
#[derive(Debug)]
pub(super) struct ScriptProcess {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    broken: bool,
}

impl ScriptProcess {
    /// Starts node with the bridge and a module's entry.
    pub(super) fn start(entry: &Path) -> Result<Self, ActionFault> {
        let program = std::env::var_os("DISPATCH_NODE").filter(|program| !program.is_empty()).unwrap_or_else(|| "node".into());
        let child = Command::new(&program)
            .args(["--no-warnings", "--input-type=module", "--eval", &bridge_source(), "--"])
            .arg(entry)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn();
        let mut child = child.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ActionFault::new(format!(
                "node is needed for the JavaScript module {} and was not found. Install Node.js 20.6 or later, or name it in DISPATCH_NODE.",
                entry.display()
            )),
            _ => ActionFault::new(format!("{} could not be started: {error}", program.display())),
        })?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Self { _child: child, input, output: BufReader::new(output).lines(), broken: false }),
            _ => Err(ActionFault::new("a process without input or output")),
        }
    }

    pub(super) async fn send(&mut self, message: &Value) -> Result<(), ActionFault> {
        let line = format!("{message}\n");
        self.input.write_all(line.as_bytes()).await.map_err(|_| self.ended())
    }

    /// Returns the next message. Safe to drop while it waits.
    pub(super) async fn receive(&mut self) -> Result<BridgeMessage, ActionFault> {
        match self.output.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(|error| {
                self.broken = true;
                ActionFault::new(format!("the process of the module sent an unreadable message: {error}"))
            }),
            Ok(None) | Err(_) => Err(self.ended()),
        }
    }

    /// Reports whether the process cannot be used again.
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }

    fn ended(&mut self) -> ActionFault {
        self.broken = true;
        ActionFault::new("the process of the module ended before the action did; its output on stderr may say why")
    }
}

fn bridge_source() -> String {
    let literal = |text: &str| Value::from(text).to_string();
    format!("const HOOKS_SOURCE = {};\nconst SHIM_SOURCE = {};\n{SCHEMAS}\n{BRIDGE}", literal(HOOKS), literal(SHIM))
}
