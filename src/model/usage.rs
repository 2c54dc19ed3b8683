//! What calls of one model used: the figures that a commit adds to its tenant's usage.

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelUsage {
    /// `provider/model`.
    pub model: String,
    /// Calls; attempts of one call are not counted apart.
    pub requests: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of the input: read from a cache.
    pub cached_tokens: u64,
    /// Of the output: reasoning.
    pub reasoning_tokens: u64,
    /// Nano-dollars.
    pub cost: u64,
}

impl ModelUsage {
    /// Adds figures of the same model.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.reasoning_tokens = self.reasoning_tokens.saturating_add(other.reasoning_tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }

    /// Input and output tokens together.
    pub const fn tokens(&self) -> u64 {
        self.input_tokens.saturating_add(self.output_tokens)
    }

    /// Adds figures to those of the same model in a list.
    pub fn add_to(self, all: &mut Vec<Self>) {
        match all.iter_mut().find(|kept| kept.model == self.model) {
            Some(kept) => kept.add(&self),
            None => all.push(self),
        }
    }
}
