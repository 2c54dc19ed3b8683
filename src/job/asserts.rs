//! `job assert`: checks of a finished run, from its files alone.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::folder::{RunFolder, is_failed_call};

/// The checks that there are.
pub const CHECKS: &[&str] = &["no-failed-calls", "summary-present", "module-resolution-present", "calls-count-min", "run-succeeded"];
/// The checks without `--check`.
pub const DEFAULT_CHECKS: &[&str] = &["no-failed-calls", "summary-present", "run-succeeded"];

/// What a check came to.
#[derive(Debug, Clone, Serialize)]
pub struct CheckResult {
    pub name: String,
    /// `PASS` or `FAIL`.
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl CheckResult {
    /// Whether the check holds.
    pub fn passed(&self) -> bool {
        self.status == "PASS"
    }
}

/// The parameters that a check reads.
pub fn parameters_of(check: &str) -> &'static [&'static str] {
    if check == "calls-count-min" { &["min"] } else { &[] }
}

/// Evaluates one check. Error: a parameter that cannot be read.
pub fn evaluate(check: &str, run: &RunFolder, parameters: &BTreeMap<String, String>) -> Result<CheckResult, String> {
    let mut details = Value::Null;
    let reason = match check {
        "no-failed-calls" => {
            let failed = run.calls().iter().filter(|call| is_failed_call(call)).count();
            details = json!({ "failedCount": failed });
            (failed > 0).then(|| format!("{failed} calls were not answered with 200 to 299"))
        }
        "summary-present" => is_absent(run, "summary.json"),
        "module-resolution-present" => is_absent(run, "module_resolution.json"),
        "calls-count-min" => {
            let given = parameters.get("min").map_or("1", String::as_str);
            let least: usize = given.parse().map_err(|_| format!("--param min={given}: expected a whole number"))?;
            let count = run.calls().len();
            details = json!({ "count": count, "min": least });
            (count < least).then(|| format!("{count} calls were made; at least {least} were expected"))
        }
        "run-succeeded" => {
            let summary = run.summary().unwrap_or_default();
            let status = summary.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            details = json!({ "status": status });
            (status != "SUCCESS").then(|| format!("the run's status is {status}"))
        }
        other => return Err(format!("unknown check `{other}`; one of {}", CHECKS.join(", "))),
    };
    let status = if reason.is_none() { "PASS" } else { "FAIL" };
    Ok(CheckResult { name: check.to_owned(), status, reason, details })
}

fn is_absent(run: &RunFolder, file: &str) -> Option<String> {
    let found = run.json(file).is_some_and(|content| content.get("_raw").is_none());
    (!found).then(|| format!("{file} is missing, or it is not JSON"))
}
