//! Whether to try again, go on to the next model, or stop: one pure decision, made in one place, from one
//! budget of attempts and time that covers retries and the fallback chain together.

use std::time::Duration;

use super::error::Class;

/// The budget of one call and the shape of its waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Requests in all, over every model of the chain.
    pub max_attempts: u32,
    /// From the first request to the last answer.
    pub budget: Duration,
    /// The first wait; each further one on the same model doubles it.
    pub base_delay: Duration,
    /// The longest wait of our own choosing.
    pub max_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            budget: Duration::from_secs(15 * 60),
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// One attempt and no more.
    pub fn once() -> Self {
        Self { max_attempts: 1, ..Self::default() }
    }
}

/// Where a call stands after a failed attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// Attempts made, this one included.
    pub attempts: u32,
    /// Attempts made on this model, this one included.
    pub here: u32,
    /// Models of the chain after this one.
    pub left: u32,
    /// Since the call began.
    pub elapsed: Duration,
    /// Another key or server of this model is at hand.
    pub has_alternative: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait, then ask the same model.
    Retry(Duration),
    /// Ask the next model of the chain at once.
    FallBack,
    Fail,
}

/// Tries of a model while others of the chain have not been asked yet.
const TRIES_BEFORE_FALLBACK: u32 = 2;

/// Tries of a model whose answers cannot be read: each is billed.
const MAX_MALFORMED_TRIES: u32 = 2;

/// Decides. `jitter` is a random number from 0 to 1000.
pub(super) fn next(policy: &RetryPolicy, standing: Standing, class: Class, retry_after: Option<Duration>, jitter: u32) -> Next {
    let remedy = class.remedy();
    let attempts_left = policy.max_attempts.saturating_sub(standing.attempts);
    let time_left = policy.budget.saturating_sub(standing.elapsed);
    if attempts_left == 0 || time_left.is_zero() {
        return Next::Fail;
    }
    let is_local = matches!(
        class,
        Class::RateLimited
            | Class::Auth
            | Class::Billing
            | Class::Forbidden
            | Class::Overloaded
            | Class::ServerError
            | Class::Connect
            | Class::TimeoutConnect
    );
    if standing.has_alternative && is_local {
        return Next::Retry(Duration::ZERO);
    }
    let can_fall_back = remedy.fall_back && standing.left > 0;
    let wait = retry_after.unwrap_or_else(|| delay(policy, standing.here, jitter));
    // With another model at hand nobody waits long for this one, and every model of the chain keeps its turn.
    // What a server writes differently once it will write differently again; one more try is for a slip of the model.
    let worth_retrying = if class == Class::Malformed && standing.here >= MAX_MALFORMED_TRIES {
        false
    } else if can_fall_back {
        standing.here < TRIES_BEFORE_FALLBACK && attempts_left > standing.left && wait <= policy.max_delay
    } else {
        true
    };
    if remedy.retry && worth_retrying && wait < time_left {
        Next::Retry(wait)
    } else if can_fall_back {
        Next::FallBack
    } else {
        Next::Fail
    }
}

/// Exponential, with the upper half left to chance so that many callers do not return together.
fn delay(policy: &RetryPolicy, here: u32, jitter: u32) -> Duration {
    let doubled = policy.base_delay.saturating_mul(1u32.checked_shl(here.saturating_sub(1)).unwrap_or(u32::MAX));
    let full = doubled.min(policy.max_delay);
    full / 2 + (full / 2).saturating_mul(jitter.min(1_000)) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(attempts: u32, here: u32, left: u32) -> Standing {
        Standing { attempts, here, left, elapsed: Duration::ZERO, has_alternative: false }
    }

    fn decide(standing: Standing, class: Class, retry_after: Option<u64>) -> Next {
        next(&RetryPolicy::default(), standing, class, retry_after.map(Duration::from_secs), 1_000)
    }

    #[test]
    fn a_single_model_is_tried_until_the_attempts_are_spent() {
        let waits: Vec<Next> = (1..=5).map(|n| decide(standing(n, n, 0), Class::Overloaded, None)).collect();
        let millis = |ms| Next::Retry(Duration::from_millis(ms));
        assert_eq!(waits, [millis(500), millis(1_000), millis(2_000), millis(4_000), Next::Fail]);
    }

    #[test]
    fn a_chain_moves_on_after_two_tries_and_keeps_a_turn_for_everyone() {
        assert!(matches!(decide(standing(1, 1, 1), Class::ServerError, None), Next::Retry(_)));
        assert_eq!(decide(standing(2, 2, 1), Class::ServerError, None), Next::FallBack);
        // Four models after this one and four attempts left: no second try.
        assert_eq!(decide(standing(1, 1, 4), Class::ServerError, None), Next::FallBack);
    }

    #[test]
    fn a_wait_that_is_asked_for_is_kept_or_avoided_never_shortened() {
        assert_eq!(decide(standing(1, 1, 0), Class::RateLimited, Some(120)), Next::Retry(Duration::from_secs(120)));
        assert_eq!(decide(standing(1, 1, 1), Class::RateLimited, Some(120)), Next::FallBack);
        assert_eq!(decide(standing(1, 1, 0), Class::RateLimited, Some(901)), Next::Fail);
    }

    #[test]
    fn hopeless_failures_are_not_repeated() {
        assert_eq!(decide(standing(1, 1, 0), Class::Auth, None), Next::Fail);
        assert_eq!(decide(standing(1, 1, 1), Class::Auth, None), Next::FallBack);
        assert_eq!(decide(standing(1, 1, 1), Class::ContentFilter, None), Next::Fail);
    }

    #[test]
    fn the_time_budget_ends_it_too() {
        let late = Standing { elapsed: Duration::from_secs(900), ..standing(1, 1, 1) };
        assert_eq!(decide(late, Class::Overloaded, None), Next::Fail);
    }
}
