//! The caller's functions as tools that run in the caller, and which of them the model may call.

use serde_json::{Value, json};

use super::request::{ChatRequest, ToolDocument};
use crate::engine::Engine;
use crate::error::{Problem, Problems, Result};
use crate::id::TenantId;
use crate::tool::{Definition, MAX_TOOLS, Tool};

/// What the model is offered.
#[derive(Debug, Default, PartialEq)]
pub struct OfferedTools {
    /// Definitions of tools that run in the caller.
    pub definitions: Vec<Value>,
    /// `auto`, `required` or `none`.
    pub strategy: &'static str,
}

impl OfferedTools {
    /// Reads the caller's tools. One function that must be called is the only one offered, and calling one is required.
    pub async fn read(engine: &Engine, tenant: TenantId, request: &ChatRequest, problems: &mut Problems) -> Result<Self> {
        let tools = request.tools.as_deref().unwrap_or_default();
        if tools.len() > MAX_TOOLS {
            problems.add("/tools", format!("expected at most {MAX_TOOLS} tools"));
            return Ok(Self { strategy: "auto", ..Self::default() });
        }
        let mut definitions = Vec::with_capacity(tools.len());
        for (index, tool) in tools.iter().enumerate() {
            match definition(tool) {
                Ok(definition) => definitions.push(definition),
                Err(fault) => problems.0.push(fault.under(&format!("/tools/{index}"))),
            }
        }
        if definitions.len() == tools.len() {
            let faults = engine.read(tenant, || faults(&definitions)).await.map_err(|error| error.under("/tools"))?;
            problems.0.extend(faults.0);
        }
        let Choice { strategy, only } = choice(request.tool_choice.as_ref(), tools, problems);
        if let Some(only) = only {
            definitions.retain(|definition| only.iter().any(|name| definition["name"] == **name));
        }
        Ok(Self { definitions, strategy })
    }
}

/// The definition of a function as a tool of Dispatch.
fn definition(tool: &ToolDocument) -> Result<Value, Problem> {
    let fault = |pointer: &str, message: &str| Problem { pointer: pointer.into(), message: message.into() };
    if tool.kind != "function" {
        return Err(fault("/type", "expected `function`; tools that OpenAI or the model's vendor runs are not available here"));
    }
    let function = tool.function.as_ref().ok_or_else(|| fault("/function", "expected an object {name, description, parameters}"))?;
    let parameters = function.parameters.clone().filter(|parameters| !parameters.is_null());
    Ok(json!({
        "name": function.name,
        "description": function.description.clone().unwrap_or_default(),
        "toolType": "local",
        "parametersSchema": parameters.unwrap_or_else(|| json!({ "type": "object", "properties": {} })),
    }))
}

/// What is wrong with the definitions, at its place in the caller's `tools`.
fn faults(definitions: &[Value]) -> Problems {
    let mut problems = Problems::default();
    let mut names: Vec<&str> = Vec::with_capacity(definitions.len());
    for (index, definition) in definitions.iter().enumerate() {
        let name = definition["name"].as_str().unwrap_or_default();
        if names.contains(&name) {
            problems.add(format!("/tools/{index}/function/name"), format!("two functions are called `{name}`"));
        }
        names.push(name);
        let compiled = serde_path_to_error::deserialize::<_, Definition>(definition)
            .map_err(|error| Problems::from(Problem::misfit(&error)))
            .and_then(|definition| Tool::compile(definition).map(drop));
        if let Err(faults) = compiled {
            problems.0.extend(faults.0.into_iter().map(|fault| Problem { pointer: place(index, &fault.pointer), ..fault }));
        }
    }
    problems
}

/// Where the caller wrote what a fault of a definition is about.
pub fn place(index: usize, pointer: &str) -> String {
    format!("/tools/{index}/function{}", pointer.replacen("/parametersSchema", "/parameters", 1))
}

/// Which tools may be called.
#[derive(Debug, PartialEq)]
struct Choice {
    strategy: &'static str,
    /// The names of the only ones that are offered.
    only: Option<Vec<String>>,
}

impl Choice {
    fn of(mode: &str, only: Option<Vec<String>>) -> Option<Self> {
        let strategy = match mode {
            "auto" => "auto",
            "none" => "none",
            "required" => "required",
            _ => return None,
        };
        Some(Self { strategy, only })
    }
}

const WORDS: &str = "expected `auto`, `none`, `required`, a function or `allowed_tools`";

fn choice(given: Option<&Value>, tools: &[ToolDocument], problems: &mut Problems) -> Choice {
    let name_of = |tool: &Value| tool.pointer("/function/name").and_then(Value::as_str).map(str::to_owned);
    let read = match given {
        None | Some(Value::Null) => Choice::of("auto", None),
        Some(Value::String(mode)) => Choice::of(mode, None),
        Some(named) if named["type"] == "function" => name_of(named).and_then(|name| Choice::of("required", Some(vec![name]))),
        Some(allowed) if allowed["type"] == "allowed_tools" => {
            let allowed = &allowed["allowed_tools"];
            let names: Option<Vec<String>> = allowed["tools"].as_array().and_then(|tools| tools.iter().map(name_of).collect());
            names.and_then(|names| Choice::of(allowed["mode"].as_str().unwrap_or_default(), Some(names)))
        }
        Some(_) => None,
    };
    let Some(choice) = read else {
        problems.add("/tool_choice", WORDS);
        return Choice { strategy: "auto", only: None };
    };
    let is_offered = |name: &String| tools.iter().any(|tool| tool.function.as_ref().is_some_and(|function| function.name == *name));
    if let Some(unknown) = choice.only.iter().flatten().find(|name| !is_offered(name)) {
        problems.add("/tool_choice", format!("no function `{unknown}` is among the `tools`"));
    }
    if choice.strategy == "required" && tools.is_empty() {
        problems.add("/tool_choice", "there is nothing to call; give `tools`");
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<ToolDocument> {
        let tool = |name: &str| json!({ "type": "function", "function": { "name": name } });
        serde_json::from_value(json!([tool("a"), tool("b")])).unwrap()
    }

    fn chosen(given: Value) -> (Choice, Vec<String>) {
        let mut problems = Problems::default();
        let choice = choice(Some(&given), &tools(), &mut problems);
        (choice, problems.0.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn a_choice_says_what_is_offered_and_whether_it_must_be_called() {
        for (given, strategy, only) in [
            (json!("none"), "none", None),
            (json!(null), "auto", None),
            (json!({ "type": "function", "function": { "name": "b" } }), "required", Some(vec!["b".to_owned()])),
            (
                json!({ "type": "allowed_tools", "allowed_tools": { "mode": "auto", "tools": [{ "type": "function", "function": { "name": "a" } }] } }),
                "auto",
                Some(vec!["a".to_owned()]),
            ),
        ] {
            assert_eq!(chosen(given), (Choice { strategy, only }, Vec::new()));
        }
        assert_eq!(chosen(json!("sometimes")).1, [WORDS]);
        assert_eq!(chosen(json!({ "type": "function", "function": { "name": "c" } })).1, ["no function `c` is among the `tools`"]);
    }

    #[test]
    fn faults_of_functions_stand_where_the_caller_wrote_them() {
        let wrong = [json!({ "name": "a", "toolType": "local", "parametersSchema": { "type": "string" } })];
        let pointers: Vec<String> = faults(&wrong).0.into_iter().map(|problem| problem.pointer).collect();
        assert!(pointers.iter().all(|pointer| pointer.starts_with("/tools/0/function/parameters")) && !pointers.is_empty(), "{pointers:?}");
        let other = serde_json::from_value(json!({ "type": "web_search" })).unwrap();
        assert_eq!(definition(&other).unwrap_err().pointer, "/type");
    }
}
