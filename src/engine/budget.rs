//! Hard limits, reserved before the call: what may be spent at most is set aside first and settled afterwards, so
//! that concurrent calls together never exceed the limit.

use crate::model::run::{Budget, Spent};

/// What running calls may still spend.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reserved {
    cost: u64,
    tokens: u64,
    calls: u64,
}

/// The most that one call may spend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Worst {
    /// Nano-dollars.
    pub cost: u64,
    pub tokens: u64,
    pub calls: u64,
}

impl Reserved {
    /// Sets the worst case aside, or names the limit that it would break.
    pub fn reserve(&mut self, budget: &Budget, spent: &Spent, worst: Worst) -> Result<(), &'static str> {
        let breaks = |limit: Option<u64>, spent: u64, reserved: u64, more: u64| {
            limit.is_some_and(|limit| spent.saturating_add(reserved).saturating_add(more) > limit)
        };
        if breaks(budget.calls, spent.calls, self.calls, worst.calls) {
            return Err("calls");
        }
        if breaks(budget.tokens, spent.tokens(), self.tokens, worst.tokens) {
            return Err("tokens");
        }
        if breaks(budget.cost, spent.cost, self.cost, worst.cost) {
            return Err("cost");
        }
        self.take(worst);
        Ok(())
    }

    /// Sets aside what is known to be left.
    pub fn take(&mut self, worst: Worst) {
        self.cost = self.cost.saturating_add(worst.cost);
        self.tokens = self.tokens.saturating_add(worst.tokens);
        self.calls = self.calls.saturating_add(worst.calls);
    }

    /// What a budget still covers beside what is spent and set aside.
    pub fn left(&self, budget: &Budget, spent: &Spent) -> Budget {
        Budget {
            cost: budget.cost.map(|limit| limit.saturating_sub(spent.cost).saturating_sub(self.cost)),
            tokens: budget.tokens.map(|limit| limit.saturating_sub(spent.tokens()).saturating_sub(self.tokens)),
            calls: budget.calls.map(|limit| limit.saturating_sub(spent.calls).saturating_sub(self.calls)),
            duration_ms: budget.duration_ms.map(|limit| limit.saturating_sub(spent.duration_ms)),
        }
    }

    /// Gives back what was set aside; what was really used is in the run's [`Spent`] by then.
    pub fn release(&mut self, worst: Worst) {
        self.cost = self.cost.saturating_sub(worst.cost);
        self.tokens = self.tokens.saturating_sub(worst.tokens);
        self.calls = self.calls.saturating_sub(worst.calls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_exceed_the_limit_together() {
        let budget = Budget { cost: Some(100), ..Budget::default() };
        let worst = Worst { cost: 30, ..Worst::default() };
        let mut reserved = Reserved::default();
        let taken = (0..10).filter(|_| reserved.reserve(&budget, &Spent::default(), worst).is_ok()).count();
        assert_eq!(taken, 3);
        reserved.release(worst);
        assert_eq!(reserved.reserve(&budget, &Spent { cost: 10, ..Spent::default() }, worst), Ok(()));
        assert_eq!(reserved.reserve(&budget, &Spent { cost: 10, ..Spent::default() }, worst), Err("cost"));
    }
}
