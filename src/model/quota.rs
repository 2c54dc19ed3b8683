//! Limits of an API key or of a tenant over many executions: budgets per period, and rates.
//!
//! Must not know: where the counters are, and who is refused.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::error::Problems;

/// Largest sum in US dollars that a budget may name.
const MAX_DOLLARS: f64 = 1e9;
/// Largest number of tokens that a limit may name.
const MAX_TOKENS: u64 = 1_000_000_000_000;
/// Largest number of requests a minute, and of executions at once, that a limit may name.
const MAX_REQUESTS: u32 = 1_000_000;
const MINUTE_MILLIS: i64 = 60_000;
const DAY_MILLIS: i64 = 86_400_000;

/// What a key, or all of a tenant, may spend and how often it may call. Absent limits do not limit.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct UsageLimits {
    /// At most one for each period.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<PeriodBudget>,
    #[serde(skip_serializing_if = "RateLimit::is_empty", deserialize_with = "super::object::from_object")]
    pub rate_limit: RateLimit,
}

/// A cap on what is spent in a period.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeriodBudget {
    /// A day or a month in UTC, or all time.
    pub period: BudgetPeriod,
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<f64>,
    /// Input and output tokens together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
}

/// How long a budget lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BudgetPeriod {
    Day,
    Month,
    Total,
}

/// How often, and how much at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "KeyRateLimit")]
pub struct RateLimit {
    /// Calls that start an execution or make embeddings, in a minute of the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Input and output tokens together, in a minute of the clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Executions that are queued or running at the same time. Paused ones do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u32>,
}

/// A stretch of time in which something is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaWindow {
    /// Tells it apart from others of the same key.
    pub name: String,
    /// Its first day, where earlier usage counts.
    pub first_day: Option<String>,
    /// When the next one begins; `None`: never.
    pub ends_at: Option<Timestamp>,
}

impl UsageLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.budgets.is_empty() && self.rate_limit.is_empty()
    }

    /// Notes every fault of limits that stand at `at` of a document.
    pub fn check(&self, at: &str, problems: &mut Problems) {
        for (place, budget) in self.budgets.iter().enumerate() {
            let at = format!("{at}/budgets/{place}");
            if self.budgets.iter().take(place).any(|earlier| earlier.period == budget.period) {
                problems.add(format!("{at}/period"), "another budget has this period; expected one budget for each period");
            }
            budget.check(&at, problems);
        }
        self.rate_limit.check(&format!("{at}/rateLimit"), problems);
    }
}

impl PeriodBudget {
    fn check(&self, at: &str, problems: &mut Problems) {
        if self.max_cost.is_none() && self.max_tokens.is_none() {
            problems.add(at, "expected `maxCost`, `maxTokens` or both");
        }
        if self.max_cost.is_some_and(|cost| !(0.0..=MAX_DOLLARS).contains(&cost)) {
            problems.add(format!("{at}/maxCost"), "expected US dollars, 0 to 1000000000");
        }
        if self.max_tokens.is_some_and(|tokens| tokens > MAX_TOKENS) {
            problems.add(format!("{at}/maxTokens"), format!("expected 0 to {MAX_TOKENS} tokens"));
        }
    }

    /// The cap in nano-dollars.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked when the limit was set")]
    pub fn nano_dollars(&self) -> Option<u64> {
        self.max_cost.map(|dollars| (dollars.clamp(0.0, MAX_DOLLARS) * 1e9).round() as u64)
    }

    /// Whether only money is capped, so that a model without a price cannot be held to it.
    pub const fn caps_money_only(&self) -> bool {
        self.max_cost.is_some() && self.max_tokens.is_none()
    }
}

impl RateLimit {
    /// Whether nothing is limited.
    pub const fn is_empty(&self) -> bool {
        self.requests_per_minute.is_none() && self.tokens_per_minute.is_none() && self.concurrent.is_none()
    }

    fn check(&self, at: &str, problems: &mut Problems) {
        for (name, value) in [("requestsPerMinute", self.requests_per_minute), ("concurrent", self.concurrent)] {
            if value.is_some_and(|value| !(1..=MAX_REQUESTS).contains(&value)) {
                problems.add(format!("{at}/{name}"), format!("expected 1 to {MAX_REQUESTS}"));
            }
        }
        if self.tokens_per_minute.is_some_and(|tokens| !(1..=MAX_TOKENS).contains(&tokens)) {
            problems.add(format!("{at}/tokensPerMinute"), format!("expected 1 to {MAX_TOKENS}"));
        }
    }
}

impl BudgetPeriod {
    /// Its name, as documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
            Self::Total => "total",
        }
    }

    /// The window of this period that a time lies in.
    pub fn window(self, now: Timestamp) -> QuotaWindow {
        let day = day_of(now);
        match self {
            Self::Day => QuotaWindow { name: format!("day {day}"), ends_at: Some(next_day(now)), first_day: Some(day) },
            Self::Month => {
                let month = day.get(..7).unwrap_or(&day).to_owned();
                QuotaWindow {
                    name: format!("month {month}"),
                    first_day: Some(format!("{month}-01")),
                    ends_at: Some(next_month(&month, now)),
                }
            }
            Self::Total => QuotaWindow { name: "total".into(), first_day: Some(String::new()), ends_at: None },
        }
    }
}

/// The minute of the clock that a time lies in.
pub fn minute_window(now: Timestamp) -> QuotaWindow {
    let minute = now.as_millis().div_euclid(MINUTE_MILLIS);
    let ends_at = Some(Timestamp::from_millis((minute + 1) * MINUTE_MILLIS));
    QuotaWindow { name: format!("minute {minute}"), first_day: None, ends_at }
}

/// The day of a time in UTC, as in `2026-11-30`.
pub fn day_of(time: Timestamp) -> String {
    time.to_string().chars().take(10).collect()
}

fn next_day(now: Timestamp) -> Timestamp {
    Timestamp::from_millis((now.as_millis().div_euclid(DAY_MILLIS) + 1) * DAY_MILLIS)
}

/// The first moment of the month after `month`, written `2026-11`.
fn next_month(month: &str, now: Timestamp) -> Timestamp {
    let mut parts = month.split('-').map(|part| part.parse::<i32>().unwrap_or(1));
    let (year, number) = (parts.next().unwrap_or(1970), parts.next().unwrap_or(1));
    let (year, number) = if number >= 12 { (year + 1, 1) } else { (year, number + 1) };
    let first = format!("{year:04}-{number:02}-01T00:00:00Z").parse::<jiff::Timestamp>();
    first.map_or_else(|_| next_day(now), |first| Timestamp::from_millis(first.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        serde_json::from_value(serde_json::json!(text)).unwrap()
    }

    #[test]
    fn windows_end_where_the_next_begins() {
        let now = at("2026-12-31T23:59:30.500Z");
        let day = BudgetPeriod::Day.window(now);
        assert_eq!((day.name.as_str(), day.first_day.as_deref()), ("day 2026-12-31", Some("2026-12-31")));
        assert_eq!(day.ends_at, Some(at("2027-01-01T00:00:00Z")));
        let month = BudgetPeriod::Month.window(now);
        assert_eq!((month.name.as_str(), month.first_day.as_deref()), ("month 2026-12", Some("2026-12-01")));
        assert_eq!(month.ends_at, Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(BudgetPeriod::Month.window(at("2028-02-29T10:00:00Z")).ends_at, Some(at("2028-03-01T00:00:00Z")));
        assert_eq!(BudgetPeriod::Total.window(now).ends_at, None);
        assert_eq!(minute_window(now).ends_at, Some(at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn every_fault_of_limits_is_named() {
        let limits: UsageLimits = serde_json::from_value(serde_json::json!({
            "budgets": [{ "period": "day" }, { "period": "day", "maxCost": -1.0 }, { "period": "total", "maxTokens": 5 }],
            "rateLimit": { "requestsPerMinute": 0, "tokensPerMinute": 0, "concurrent": 3 },
        }))
        .unwrap();
        let mut problems = Problems::default();
        limits.check("", &mut problems);
        let pointers: Vec<&str> = problems.0.iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            ["/budgets/0", "/budgets/1/period", "/budgets/1/maxCost", "/rateLimit/requestsPerMinute", "/rateLimit/tokensPerMinute"]
        );
    }
}
