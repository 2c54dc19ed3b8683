//! What tokens cost: exact integer arithmetic, from the final usage only, so that a streamed and an unstreamed
//! answer cost the same to the last unit.

use serde::{Deserialize, Deserializer, Serialize};

use super::completion::Usage;

/// An amount of money in billionths of a US dollar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cost {
    pub nano_usd: u64,
    /// Part of it was computed from estimated usage.
    pub estimated: bool,
    /// Part of it has no known price and is missing from the sum.
    pub unpriced: bool,
}

impl Cost {
    /// In dollars, for people; `None` when a price is missing.
    pub fn usd(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "for display; sums are made in integers")]
        let usd = self.nano_usd as f64 / 1e9;
        (!self.unpriced).then_some(usd)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            nano_usd: self.nano_usd.saturating_add(other.nano_usd),
            estimated: self.estimated || other.estimated,
            unpriced: self.unpriced || other.unpriced,
        }
    }

    /// Tokens were used whose price nobody has stated.
    pub fn unknown(usage: &Usage) -> Self {
        Self { nano_usd: 0, estimated: usage.estimated, unpriced: usage.total() > 0 }
    }
}

/// The price of one token, in millionths of a millionth of a dollar: what `USD per million tokens` times a
/// million gives. Written in the catalogue as USD per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// From USD per million tokens; exact to six decimals.
    pub fn per_million(usd: f64) -> Option<Self> {
        let pico = (usd * 1e6).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
        (0.0..=1e15).contains(&pico).then_some(Self(pico as u64))
    }

    /// As USD per million tokens.
    pub fn usd_per_million(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "bounded by 1e15, which is exact")]
        let pico = self.0 as f64;
        pico / 1e6
    }

    fn times(self, tokens: u64) -> u128 {
        u128::from(self.0) * u128::from(tokens)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let usd = f64::deserialize(deserializer)?;
        Self::per_million(usd).ok_or_else(|| serde::de::Error::custom("a price is USD per million tokens, not below zero"))
    }
}

/// A model's prices.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    pub input: Rate,
    pub output: Rate,
    /// Absent: cached input costs what input costs.
    #[serde(default)]
    pub cached_input: Option<Rate>,
    /// Absent: writing to the cache costs what input costs.
    #[serde(default)]
    pub cache_write: Option<Rate>,
    /// Other prices for the whole call when its input is longer than this.
    #[serde(default)]
    pub long: Option<LongPrice>,
}

/// Prices of calls with a long input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LongPrice {
    /// Input tokens above which these prices hold.
    pub above: u64,
    pub input: Rate,
    pub output: Rate,
    #[serde(default)]
    pub cached_input: Option<Rate>,
    #[serde(default)]
    pub cache_write: Option<Rate>,
}

impl Price {
    /// What this usage costs. Summed in pico-dollars and rounded half up once.
    pub fn cost(&self, usage: &Usage) -> Cost {
        let (input, output, cached, write) = match &self.long {
            Some(long) if usage.input > long.above => (long.input, long.output, long.cached_input, long.cache_write),
            _ => (self.input, self.output, self.cached_input, self.cache_write),
        };
        let fresh = usage.input.saturating_sub(usage.cached_input).saturating_sub(usage.cache_write);
        let pico = input.times(fresh)
            + cached.unwrap_or(input).times(usage.cached_input)
            + write.unwrap_or(input).times(usage.cache_write)
            + output.times(usage.output);
        let nano_usd = u64::try_from((pico + 500) / 1_000).unwrap_or(u64::MAX);
        Cost { nano_usd, estimated: usage.estimated, unpriced: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(text: &str) -> Price {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn cached_and_written_tokens_have_their_own_price() {
        let price = price("input = 3\noutput = 15\ncached_input = 0.3\ncache_write = 3.75");
        let usage = Usage { input: 1_000, cached_input: 600, cache_write: 100, output: 10, ..Usage::default() };
        // 300 * 3000 + 600 * 300 + 100 * 3750 + 10 * 15000 nano-dollars
        assert_eq!(price.cost(&usage).nano_usd, 900_000 + 180_000 + 375_000 + 150_000);
    }

    #[test]
    fn a_rate_below_a_nano_dollar_is_not_lost() {
        let price = price("input = 0.0375\noutput = 0.15");
        let cost = |input| price.cost(&Usage { input, ..Usage::default() }).nano_usd;
        assert_eq!((cost(1), cost(2), cost(1_000_000)), (38, 75, 37_500_000));
    }

    #[test]
    fn a_long_input_changes_the_price_of_the_whole_call() {
        let price = price("input = 1.25\noutput = 10\nlong = { above = 200000, input = 2.5, output = 15 }");
        let cost = |input| price.cost(&Usage { input, output: 1, ..Usage::default() }).nano_usd;
        assert_eq!(cost(200_000), 200_000 * 1_250 + 10_000);
        assert_eq!(cost(200_001), 200_001 * 2_500 + 15_000);
    }

    #[test]
    fn an_unknown_price_is_said_and_not_called_zero() {
        let usage = Usage { input: 5, ..Usage::default() };
        assert_eq!(Cost::unknown(&usage).usd(), None);
        assert_eq!(Cost::default().plus(Cost::unknown(&usage)).usd(), None);
        assert!(toml::from_str::<Price>("input = -1\noutput = 1").is_err());
    }
}
