//! From a model's name to what happens. Pure.

use std::time::Duration;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// Words of the answer.
    pub chunks: usize,
    pub before_first: Duration,
    pub between: Duration,
    pub fault: Option<Fault>,
    pub retry_after: Option<u32>,
    /// Fails this often before it answers.
    pub flaky: Option<u32>,
    /// How many times in a row it calls every offered tool before it answers.
    pub tools: usize,
    pub reasoning: bool,
    pub cites: bool,
    pub draws: bool,
    pub mark: bool,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Stall,
    StallAfter(usize),
    CutAfter(usize),
    EndAfter(usize),
    LateError,
    Malformed,
    Empty,
    Blank,
    WrongType,
    HugeLine,
    Status(u16),
    Billing,
    Context,
    Filter,
}

const DEFAULT_CHUNKS: usize = 5;
const MOST_CHUNKS: usize = 100_000;

impl Plan {
    /// Whether the answer depends on more than the model's name.
    pub(super) fn looks_at_request(&self) -> bool {
        self.tools > 0
    }
}

pub(super) fn plan(model: &str) -> Plan {
    let mut plan = Plan {
        chunks: DEFAULT_CHUNKS,
        before_first: Duration::ZERO,
        between: Duration::ZERO,
        fault: None,
        retry_after: None,
        flaky: None,
        tools: 0,
        reasoning: false,
        cites: false,
        draws: false,
        mark: false,
    };
    // A relay's name may stand in front: `vendor/fake-ok`.
    let Some(rest) = model.rsplit('/').next().and_then(|name| name.strip_prefix("fake-")) else { return plan };
    let words: Vec<&str> = rest.split('-').collect();
    let mut words = words.as_slice();
    while let Some(left) = plan.read(words) {
        words = left;
    }
    plan
}

impl Plan {
    /// Takes the next feature off the name; unknown words are passed over.
    fn read<'a>(&mut self, words: &'a [&'a str]) -> Option<&'a [&'a str]> {
        let millis = |text: &str| text.parse().map(Duration::from_millis).ok();
        let count = |text: &str| text.parse::<usize>().ok();
        let (fault, left) = match words {
            [] => return None,
            ["chunks", n, left @ ..] => {
                self.chunks = count(n).unwrap_or(DEFAULT_CHUNKS).min(MOST_CHUNKS);
                (None, left)
            }
            ["slow", "first", ms, left @ ..] => {
                self.before_first = millis(ms).unwrap_or_default();
                (None, left)
            }
            ["slow", ms, left @ ..] => {
                self.between = millis(ms).unwrap_or_default();
                (None, left)
            }
            ["retry", "after", seconds, left @ ..] => {
                self.retry_after = seconds.parse().ok();
                (None, left)
            }
            ["flaky", n, left @ ..] => {
                self.flaky = n.parse().ok();
                (None, left)
            }
            ["tools", n, left @ ..] if count(n).is_some_and(|n| n < 400) => {
                self.tools = count(n).unwrap_or(1);
                (None, left)
            }
            ["tools", left @ ..] => {
                self.tools = 1;
                (None, left)
            }
            ["reasoning", left @ ..] => {
                self.reasoning = true;
                (None, left)
            }
            ["cites", left @ ..] => {
                self.cites = true;
                (None, left)
            }
            ["draws", left @ ..] => {
                self.draws = true;
                (None, left)
            }
            ["bom", left @ ..] => {
                self.mark = true;
                (None, left)
            }
            ["stall", "after", n, left @ ..] => (count(n).map(Fault::StallAfter), left),
            ["cut", "after", n, left @ ..] => (count(n).map(Fault::CutAfter), left),
            ["end", "after", n, left @ ..] => (count(n).map(Fault::EndAfter), left),
            ["late", "error", left @ ..] => (Some(Fault::LateError), left),
            ["wrong", "type", left @ ..] => (Some(Fault::WrongType), left),
            ["huge", "line", left @ ..] => (Some(Fault::HugeLine), left),
            ["stall", left @ ..] => (Some(Fault::Stall), left),
            ["malformed", left @ ..] => (Some(Fault::Malformed), left),
            ["empty", left @ ..] => (Some(Fault::Empty), left),
            ["blank", left @ ..] => (Some(Fault::Blank), left),
            ["billing", left @ ..] => (Some(Fault::Billing), left),
            ["context", left @ ..] => (Some(Fault::Context), left),
            ["filter", left @ ..] => (Some(Fault::Filter), left),
            [word, left @ ..] => (word.parse().ok().filter(|status| (400..600).contains(status)).map(Fault::Status), left),
        };
        self.fault = fault.or(self.fault);
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_combine() {
        let plan = plan("vendor/fake-chunks-20-slow-first-300-slow-5-cut-after-7");
        assert_eq!((plan.chunks, plan.fault), (20, Some(Fault::CutAfter(7))));
        assert_eq!((plan.before_first, plan.between), (Duration::from_millis(300), Duration::from_millis(5)));
    }

    #[test]
    fn a_status_may_say_when_to_come_back() {
        let plan = plan("fake-429-retry-after-1");
        assert_eq!((plan.fault, plan.retry_after), (Some(Fault::Status(429)), Some(1)));
    }

    #[test]
    fn other_names_are_good_models() {
        assert_eq!(plan("gpt-4o").fault, None);
        assert_eq!(plan("fake-").chunks, DEFAULT_CHUNKS);
        assert_eq!(plan("fake-200").fault, None);
    }
}
