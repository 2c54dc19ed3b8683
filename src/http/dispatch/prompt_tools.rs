//! The tools of a prompt or an agent, in the spellings in which clients send them.
//!
//! Some clients spell the members of `tools` in snake_case; the engine reads one spelling. What the engine cannot honour is refused here.

use serde_json::{Map, Value};

use super::tools::builtin;
use super::unavailable;
use crate::error::Problems;

/// Members of `tools`, and of a tool in it, with the spelling that the engine reads.
const SPELLINGS: [(&str, &str); 14] = [
    ("runtime_tools", "runtimeTools"),
    ("tool_ids", "toolIds"),
    ("mcp_servers", "mcpServers"),
    ("max_tool_calls", "maxToolCalls"),
    ("tool_call_strategy", "toolCallStrategy"),
    ("per_tool_limits", "perToolLimits"),
    ("subagent_config", "subagentConfig"),
    ("code_mode_config", "codeModeConfig"),
    ("tool_configs", "toolConfigs"),
    ("tool_search", "toolSearch"),
    ("tool_type", "toolType"),
    ("parameters_schema", "parametersSchema"),
    ("requires_approval", "requiresApproval"),
    ("hidden_parameter_names", "hiddenParameterNames"),
];

/// Respells the tools of a prompt's configuration, puts built-in tools in the place of their names, and refuses what cannot be honoured.
pub(super) fn normalize(config: &mut Map<String, Value>, at: &str, problems: &mut Problems) {
    let at = format!("{at}/tools");
    let Some(tools) = config.get_mut("tools").and_then(Value::as_object_mut) else { return };
    respell(tools, &at, problems);
    unavailable::refuse(tools, &unavailable::OF_TOOLS, &at, problems);
    for (index, tool) in tools.get_mut("runtimeTools").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let at = format!("{at}/runtimeTools/{index}");
        if let Some(map) = tool.as_object_mut() {
            respell(map, &at, problems);
        }
        if tool.get("toolType").and_then(Value::as_str) == Some("builtin") {
            match named_builtin(tool) {
                Some(found) => *tool = found,
                None => problems.add(at, "no such built-in tool; GET /v1/tools/builtin lists them"),
            }
        }
    }
}

/// [`normalize`] for every prompt of a flow, before saved tools are put in.
pub(super) fn respell_tools(config: &mut Value) {
    let Some(tools) = config.get_mut("tools").and_then(Value::as_object_mut) else { return };
    let mut unheard = Problems::default();
    respell(tools, "", &mut unheard);
    for tool in tools.get_mut("runtimeTools").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        respell(tool, "", &mut unheard);
    }
}

fn respell(map: &mut Map<String, Value>, at: &str, problems: &mut Problems) {
    for (given, wanted) in SPELLINGS {
        if !map.contains_key(given) {
            continue;
        }
        if map.contains_key(wanted) {
            problems.add(format!("{at}/{given}"), format!("`{wanted}` says the same; give one of them"));
        } else if let Some(value) = map.shift_remove(given) {
            map.insert(wanted.into(), value);
        }
    }
}

/// The built-in tool that a definition names, under the definition's own name and words.
fn named_builtin(tool: &Value) -> Option<Value> {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let config = tool.get("config");
    let of_config = ["toolId", "builtinToolId", "name"].iter().find_map(|name| text(config.and_then(|config| config.get(*name))));
    let id = text(tool.get("toolId")).or(of_config).or_else(|| text(tool.get("name")))?;
    let mut found = builtin::find(id.strip_prefix("builtin:").unwrap_or(&id))?;
    for name in ["name", "description"] {
        if let Some(own) = tool.get(name).filter(|own| own.is_string()) {
            found[name] = own.clone();
        }
    }
    Some(found)
}
