//! The budget of an execution, as callers of every surface write it.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::error::Problems;
use crate::model::run::Budget;

/// Hard limits, reserved before each model call.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetDocument {
    /// US dollars.
    pub max_cost: Option<f64>,
    /// Input and output tokens together.
    pub max_tokens: Option<u64>,
    /// Model calls.
    pub max_calls: Option<u64>,
    /// Milliseconds of running; pauses are free.
    pub max_duration_ms: Option<u64>,
}

/// Largest sum in US dollars that a budget may name.
const MOST_DOLLARS: f64 = 1e9;

impl BudgetDocument {
    /// Reads the budget that stands at `at` of the request.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
    pub fn read(&self, at: &str, problems: &mut Problems) -> Budget {
        let cost = self.max_cost.filter(|cost| {
            let fits = (0.0..=MOST_DOLLARS).contains(cost);
            if !fits {
                problems.add(format!("{at}/maxCost"), "expected US dollars, 0 or more");
            }
            fits
        });
        Budget {
            cost: cost.map(|dollars| (dollars * 1e9).round() as u64),
            tokens: self.max_tokens,
            calls: self.max_calls,
            duration_ms: self.max_duration_ms,
        }
    }
}
