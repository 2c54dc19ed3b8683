//! A run's progress for people: one line when a step begins, one when it ends.

use serde_json::Value;

use crate::cli::output::Output;
use crate::job::record::position;

/// Shows the events of one run.
pub struct Progress {
    output: Output,
    is_shown: bool,
    /// Ids and actions of the steps.
    steps: Vec<(String, String)>,
}

impl Progress {
    /// Shows each step.
    pub const fn shown(output: Output, steps: Vec<(String, String)>) -> Self {
        Self { output, is_shown: true, steps }
    }

    /// Shows nothing: for one of many runs.
    pub const fn hidden(output: Output) -> Self {
        Self { output, is_shown: false, steps: Vec::new() }
    }

    /// Shows an event, if there is something in it for people.
    pub fn show(&self, event: &Value) {
        if !self.is_shown {
            return;
        }
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
        let Some(index) = position(text("id")) else { return };
        match text("type") {
            "step_start" => {
                let action = self.steps.get(index).map_or("", |(_, action)| action.as_str());
                self.output.say(format_args!("[{}/{}] {action} … running", index + 1, self.steps.len()));
            }
            "step_complete" if event.get("success") == Some(&Value::Bool(true)) => {
                let millis = event.get("durationMs").and_then(Value::as_u64).unwrap_or_default();
                let detail = event.pointer("/result/detail").and_then(Value::as_str).unwrap_or_default();
                let line = format!("✓ {}.{}s  {}", millis / 1_000, millis % 1_000 / 100, printable(detail));
                self.output.say(line.trim_end());
            }
            "step_complete" => self.output.say(format_args!("✗ {}", printable(text("error")))),
            _ => {}
        }
    }
}

/// A text that cannot command the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}
