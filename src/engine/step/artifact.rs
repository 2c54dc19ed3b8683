//! What a model shows beside its answer: a call becomes events, once.

use serde_json::{Map, Value};

use super::tool_run::{Invocation, ToolOutcome};
use crate::engine::context::StepContext;
use crate::model::event::Event;
use crate::tool::OwnTool;

/// Tells the artifact; the model hears that it is shown.
pub fn show(invocation: &Invocation<'_>, context: &StepContext<'_>, kind: OwnTool) -> ToolOutcome {
    let text = |name: &str| invocation.arguments.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = format!("artifact_{}", invocation.id);
    let (artifact_type, component) = match kind {
        OwnTool::ComponentArtifact => ("component", text("component")),
        OwnTool::MarkdownArtifact | OwnTool::Spawn | OwnTool::State => ("markdown", None),
    };
    context.emit(Event::ArtifactStart {
        id: id.clone(),
        artifact_type: artifact_type.into(),
        title: text("title"),
        component: component.clone(),
    });
    match component {
        Some(component) => {
            let props = invocation.arguments.get("props").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
            context.emit(Event::ArtifactUpdate { id: id.clone(), component, props: Value::Object(props) });
        }
        None => context.emit(Event::ArtifactDelta { id: id.clone(), delta: text("content").unwrap_or_default() }),
    }
    context.emit(Event::ArtifactComplete { id: id.clone() });
    ToolOutcome::done(serde_json::json!({ "shown": true, "artifactId": id }))
}
