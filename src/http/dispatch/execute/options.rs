//! What the options of a dispatch change: how the run behaves, and what stands in the document in the place of its own.

use serde_json::{Map, Value};

use super::super::bounds::LONGEST_FLOW_MS;
use super::super::{agent_document, document, unavailable};
use super::request::OptionsDocument;
use crate::error::{Problem, Problems};
use crate::model::TargetKind;
use crate::model::run::RunOptions;

/// Notes the options that cannot be honoured.
pub(super) fn refuse_unavailable(options: &Map<String, Value>, problems: &mut Problems) {
    unavailable::refuse(options, &unavailable::OF_OPTIONS, "/options", problems);
}

/// Reads the options that a run keeps.
pub(super) fn run_options(options: &OptionsDocument, problems: &mut Problems) -> RunOptions {
    let cancel_on_disconnect = match options.on_disconnect.as_deref() {
        None | Some("continue") => false,
        Some("cancel") => true,
        Some(other) => {
            problems.add("/options/onDisconnect", format!("unknown `{other}`; one of continue, cancel"));
            false
        }
    };
    if options.step_timeout_ms == Some(0) {
        problems.add("/options/stepTimeoutMs", "expected 1 or more");
    }
    if options.logging_policy.as_deref().is_some_and(|policy| !["default", "on"].contains(&policy)) {
        problems.add("/options/loggingPolicy", "expected `default` or `on`: the events of every execution are kept");
    }
    RunOptions {
        auto_append_metadata: options.auto_append_metadata.unwrap_or(false),
        debug: options.debug_mode.unwrap_or(false),
        cancel_on_disconnect,
        budget: options.budget.map(|budget| budget.read("/options/budget", problems)).unwrap_or_default(),
        source: String::new(),
        depth: 0,
        by_visitor: false,
        as_completion: false,
        reports_state: false,
    }
}

/// What the options say in the place of a document.
pub(super) struct OptionOverrides {
    model: Option<String>,
    flow_timeout: Option<u64>,
    /// Milliseconds of a step that names none.
    pub step_timeout: u64,
}

impl OptionOverrides {
    pub fn read(options: &OptionsDocument, problems: &mut Problems) -> Self {
        let model = options.model_override.as_deref().map(str::trim).filter(|model| !model.is_empty());
        let flow_timeout = options.flow_timeout_ms;
        if flow_timeout.is_some_and(|timeout| !(1..=LONGEST_FLOW_MS).contains(&timeout)) {
            problems.add("/options/flowTimeoutMs", format!("expected 1 to {LONGEST_FLOW_MS}"));
        }
        Self { model: model.map(str::to_owned), flow_timeout, step_timeout: options.step_timeout_ms.unwrap_or(document::STEP_TIMEOUT_MS) }
    }

    /// The document with what the options say instead of its own.
    pub fn apply(&self, kind: TargetKind, mut document: Value) -> Value {
        match kind {
            TargetKind::Flow => {
                self.put(document.as_object_mut(), false);
                let prompts = document::configs(&document).into_iter().filter(|(_, action)| action == "prompt" && self.model.is_some());
                for (path, _) in prompts {
                    if let (Some(config), Some(model)) = (document.pointer_mut(&path).and_then(Value::as_object_mut), &self.model) {
                        config.insert("model".into(), model.clone().into());
                    }
                }
            }
            TargetKind::Agent => {
                let place = agent_document::place(&document);
                self.put(document.pointer_mut(place).and_then(Value::as_object_mut), true);
            }
        }
        document
    }

    fn put(&self, settings: Option<&mut Map<String, Value>>, with_model: bool) {
        let Some(settings) = settings else { return };
        if let Some(timeout) = self.flow_timeout {
            settings.insert("timeoutMs".into(), timeout.into());
        }
        if let Some(model) = self.model.as_ref().filter(|_| with_model) {
            settings.insert("model".into(), model.clone().into());
        }
    }

    /// Puts the faults of what the options say at its place in them.
    pub fn place(&self, problems: &mut Problems) {
        let is_model = |pointer: &str| pointer.ends_with("/config/model") || ["/agent/model", "/agent/agentId/model"].contains(&pointer);
        let mut seen = false;
        let all = std::mem::take(&mut problems.0).into_iter();
        problems.0.extend(all.filter_map(|problem| match problem.pointer.as_str() {
            pointer if self.model.is_some() && is_model(pointer) => {
                let first = !std::mem::replace(&mut seen, true);
                first.then(|| Problem { pointer: "/options/modelOverride".into(), ..problem })
            }
            "/flow/timeoutMs" | "/agent/timeoutMs" | "/agent/config/timeoutMs" | "/agent/agentId/timeoutMs"
                if self.flow_timeout.is_some() =>
            {
                // Said already.
                None
            }
            _ => Some(problem),
        }));
    }
}
