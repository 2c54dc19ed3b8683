//! `dispatch mcp`: the commands for jobs and modules as tools of the Model Context Protocol, over standard input and output.
//!
//! A tool runs this program with `--json` and answers with the document that it prints; so a tool and a command never differ.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use clap::CommandFactory;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::{ServerHandler, ServiceExt};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::Cli;
use super::command_list::{ArgumentEntry, ArgumentKind, CommandEntry, list_commands};
use super::kit::{KitContext, KitFault, KitPaths, KitResult};

/// The commands that are tools, by their first word.
const TOOL_COMMANDS: &[&str] = &["job", "run", "module", "memory", "defaults", "runtime", "schema", "doctor"];

pub async fn run(context: KitContext) -> KitResult<ExitCode> {
    let program = std::env::current_exe().map_err(|error| KitFault::runtime(format!("this program cannot be found: {error}")))?;
    let server = ToolServer { program, paths: context.paths, commands: tool_commands().into() };
    let service = server.serve((tokio::io::stdin(), tokio::io::stdout()));
    let service = service.await.map_err(|error| KitFault::runtime(format!("the client did not open a session: {error}")))?;
    service.waiting().await.map_err(|error| KitFault::runtime(format!("the session broke off: {error}")))?;
    Ok(ExitCode::SUCCESS)
}

fn tool_commands() -> Vec<CommandEntry> {
    let commands = list_commands(&Cli::command()).into_iter();
    commands.filter(|command| command.words.first().is_some_and(|word| TOOL_COMMANDS.contains(&word.as_str()))).collect()
}

/// The tools of one client.
#[derive(Clone)]
struct ToolServer {
    program: PathBuf,
    paths: KitPaths,
    commands: Arc<[CommandEntry]>,
}

impl ServerHandler for ToolServer {
    fn get_info(&self) -> ServerConfig {
        let mut info = ServerConfig::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("dispatch", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(
            "Compose a job case, then job_validate, job_run and job_assert. Every answer names the next commands in `next`. \
             module_list and schema_action show the actions of modules."
                .into(),
        );
        info
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: RequestContext<RoleServer>) -> Result<ListToolsResult, ErrorData> {
        let tools = self.commands.iter().map(|command| Tool::new(tool_name(command), command.about.clone(), input_schema(command)));
        Ok(ListToolsResult::with_all_items(tools.collect()))
    }

    async fn call_tool(&self, request: CallToolRequestParams, _: RequestContext<RoleServer>) -> Result<CallToolResponse, ErrorData> {
        let command = self.commands.iter().find(|command| tool_name(command) == request.name);
        let command = command.ok_or_else(|| ErrorData::invalid_params(format!("there is no tool `{}`", request.name), None))?;
        let words = command_line(command, &request.arguments.unwrap_or_default())
            .map_err(|faults| ErrorData::invalid_params(faults.join("; "), Some(json!({ "issues": faults }))))?;
        self.perform(&words).await.map(Into::into)
    }
}

impl ToolServer {
    async fn perform(&self, words: &[String]) -> Result<CallToolResult, ErrorData> {
        let output = Command::new(&self.program)
            .args(words)
            .env("DISPATCH_HOME", &self.paths.home)
            .env("DISPATCH_ROOT", &self.paths.root)
            .current_dir(&self.paths.cwd)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| ErrorData::internal_error(format!("the command could not be started: {error}"), None))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        let printed = text(&output.stdout);
        Ok(match (serde_json::from_str::<Value>(&printed), output.status.success()) {
            (Ok(document @ Value::Object(_)), true) => CallToolResult::structured(document),
            (Ok(document @ Value::Object(_)), false) => CallToolResult::structured_error(document),
            (_, true) => CallToolResult::success(vec![ContentBlock::text(printed)]),
            (_, false) => CallToolResult::error(vec![ContentBlock::text(if printed.is_empty() { text(&output.stderr) } else { printed })]),
        })
    }
}

/// `job_run`.
fn tool_name(command: &CommandEntry) -> String {
    command.words.join("_").replace('-', "_")
}

fn input_schema(command: &CommandEntry) -> Map<String, Value> {
    let properties: Map<String, Value> =
        command.arguments.iter().map(|argument| (argument.name.clone(), argument_schema(argument))).collect();
    let required: Vec<&str> =
        command.arguments.iter().filter(|argument| argument.is_required).map(|argument| argument.name.as_str()).collect();
    Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), Value::Object(properties)),
        ("required".to_owned(), json!(required)),
        ("additionalProperties".to_owned(), json!(false)),
    ])
}

fn argument_schema(argument: &ArgumentEntry) -> Value {
    let mut value = json!({ "type": ["string", "number"] });
    if let (false, Some(members)) = (argument.values.is_empty(), value.as_object_mut()) {
        members.insert("enum".into(), json!(argument.values));
    }
    let mut schema = match argument.kind {
        ArgumentKind::Switch => json!({ "type": "boolean" }),
        ArgumentKind::Value => value,
        ArgumentKind::List => json!({ "type": "array", "items": value }),
    };
    if let Some(members) = schema.as_object_mut() {
        members.insert("description".into(), json!(argument.help));
    }
    schema
}

/// The command line of a call; the error has every fault of its arguments.
fn command_line(command: &CommandEntry, given: &Map<String, Value>) -> Result<Vec<String>, Vec<String>> {
    let known: BTreeSet<&str> = command.arguments.iter().map(|argument| argument.name.as_str()).collect();
    let mut faults: Vec<String> = given
        .keys()
        .filter(|name| !known.contains(name.as_str()))
        .map(|name| format!("`{name}` is not an argument of {}", tool_name(command)))
        .collect();
    let mut words = command.words.clone();
    words.push("--json".into());
    let mut positional = vec!["--".to_owned()];
    for argument in &command.arguments {
        let Some(value) = given.get(&argument.name) else {
            if argument.is_required && argument.kind != ArgumentKind::Switch {
                faults.push(format!("`{}` is missing", argument.name));
            }
            // A switch that is always needed, such as `--print`, is given for the caller.
            if argument.is_required && argument.kind == ArgumentKind::Switch {
                words.push(format!("--{}", argument.name));
            }
            continue;
        };
        match texts(argument.kind, value) {
            Err(expected) => faults.push(format!("`{}` must be {expected}", argument.name)),
            Ok(texts) if argument.is_positional => positional.extend(texts),
            Ok(texts) if argument.kind == ArgumentKind::Switch => words.extend(texts.iter().map(|_| format!("--{}", argument.name))),
            Ok(texts) => words.extend(texts.iter().map(|text| format!("--{}={text}", argument.name))),
        }
    }
    if positional.len() > 1 {
        words.extend(positional);
    }
    if faults.is_empty() { Ok(words) } else { Err(faults) }
}

/// The texts of a value on the command line; the error says what was expected.
fn texts(kind: ArgumentKind, value: &Value) -> Result<Vec<String>, &'static str> {
    let text = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err("a text"),
    };
    match (kind, value) {
        (ArgumentKind::Switch, Value::Bool(is_on)) => Ok(if *is_on { vec![String::new()] } else { Vec::new() }),
        (ArgumentKind::Switch, _) => Err("true or false"),
        (ArgumentKind::List, Value::Array(items)) => items.iter().map(text).collect(),
        (ArgumentKind::List, _) => Err("a list of texts"),
        (ArgumentKind::Value, value) => text(value).map(|text| vec![text]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_becomes_a_command_line_that_cannot_add_flags() {
        let commands = tool_commands();
        let command = commands.iter().find(|command| tool_name(command) == "module_inspect").unwrap();
        let given = json!({ "name": "--verbose" });
        assert_eq!(command_line(command, given.as_object().unwrap()).unwrap(), ["module", "inspect", "--json", "--", "--verbose"]);
        let command = commands.iter().find(|command| tool_name(command) == "schema_action").unwrap();
        let given = json!({ "name": "flow.sleep" });
        assert_eq!(
            command_line(command, given.as_object().unwrap()).unwrap(),
            ["schema", "action", "--json", "--name=flow.sleep", "--print"]
        );
        let wrong = json!({ "nme": 1 });
        assert_eq!(command_line(command, wrong.as_object().unwrap()).unwrap_err().len(), 2);
    }
}
