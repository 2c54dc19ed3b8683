//! Limits of keys and tenants as options of commands.

use crate::error::{Problems, Result};
use crate::model::UsageLimits;
use crate::model::quota::{BudgetPeriod, PeriodBudget, RateLimit};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct LimitOptions {
    /// A cap in US dollars: day=5, month=100.50 or total=1000; repeat for several periods.
    #[arg(long = "budget", value_name = "PERIOD=DOLLARS", value_parser = parse_cap::<f64>)]
    budgets: Vec<(BudgetPeriod, f64)>,
    /// A cap in tokens: day=1000000; repeat for several periods.
    #[arg(long = "token-budget", value_name = "PERIOD=TOKENS", value_parser = parse_cap::<u64>)]
    token_budgets: Vec<(BudgetPeriod, u64)>,
    /// Calls a minute that start executions.
    #[arg(long)]
    requests_per_minute: Option<u32>,
    /// Tokens a minute.
    #[arg(long)]
    tokens_per_minute: Option<u64>,
    /// Executions at the same time.
    #[arg(long)]
    concurrent: Option<u32>,
}

impl LimitOptions {
    /// The limits. Error: `validation_failed`.
    pub fn read(&self) -> Result<UsageLimits> {
        let mut budgets: Vec<PeriodBudget> = Vec::new();
        for (period, dollars) in &self.budgets {
            budgets.push(PeriodBudget { period: *period, max_cost: Some(*dollars), max_tokens: None });
        }
        for (period, tokens) in &self.token_budgets {
            match budgets.iter_mut().find(|budget| budget.period == *period && budget.max_tokens.is_none()) {
                Some(budget) => budget.max_tokens = Some(*tokens),
                None => budgets.push(PeriodBudget { period: *period, max_cost: None, max_tokens: Some(*tokens) }),
            }
        }
        let rate_limit = RateLimit {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            concurrent: self.concurrent,
        };
        let limits = UsageLimits { budgets, rate_limit };
        let mut problems = Problems::default();
        limits.check("", &mut problems);
        problems.into_result().map(|()| limits)
    }
}

/// `month=50`.
fn parse_cap<T: std::str::FromStr>(text: &str) -> Result<(BudgetPeriod, T), String> {
    let refuse = || format!("`{text}` is not a cap; write a period and a figure, as in day=5, month=100 or total=1000");
    let (period, figure) = text.split_once('=').ok_or_else(refuse)?;
    let periods = [BudgetPeriod::Day, BudgetPeriod::Month, BudgetPeriod::Total];
    let period = periods.into_iter().find(|known| known.as_str() == period).ok_or_else(refuse)?;
    Ok((period, figure.parse().map_err(|_| refuse())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_a_period_and_a_figure() {
        assert_eq!(parse_cap::<f64>("month=50.5"), Ok((BudgetPeriod::Month, 50.5)));
        assert_eq!(parse_cap::<u64>("day=1000"), Ok((BudgetPeriod::Day, 1_000)));
        for wrong in ["", "month", "year=5", "day=many", "=5"] {
            assert!(parse_cap::<u64>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn caps_of_one_period_are_one_budget() {
        let options = LimitOptions {
            budgets: vec![(BudgetPeriod::Day, 5.0)],
            token_budgets: vec![(BudgetPeriod::Day, 10), (BudgetPeriod::Total, 20)],
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrent: None,
        };
        let limits = options.read().unwrap();
        assert_eq!(limits.budgets.len(), 2);
        assert_eq!((limits.budgets[0].max_cost, limits.budgets[0].max_tokens), (Some(5.0), Some(10)));
    }
}
