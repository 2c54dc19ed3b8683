//! Which key or server of a provider a request goes to: by weight, and past those that failed lately or have used up their limit.
//!
//! The state is this node's own and lives in memory: another node learns of a limit from its own answers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::Class;
use crate::secret::Secret;

/// Failures in a row after which a server that fails for passing reasons rests.
const MAX_FAILURES: u32 = 3;
/// How long it rests.
const FAILURE_COOLDOWN: Duration = Duration::from_secs(30);
/// How long a key rests that is refused or in debt.
const REFUSAL_COOLDOWN: Duration = Duration::from_secs(60);
/// Longest rest, whatever a server asks for.
const MAX_COOLDOWN: Duration = Duration::from_secs(60 * 60);
/// Deployments whose state is kept.
const MAX_ENTRIES: usize = 10_000;

/// A key at a server.
#[derive(Clone)]
pub(super) struct Deployment {
    /// Without a trailing slash.
    pub base_url: String,
    pub key: Option<Secret>,
    /// Its share of the requests; 0 takes none while others can.
    pub weight: u32,
    id: u64,
}

impl Deployment {
    pub fn new(provider: &str, base_url: String, key: Option<Secret>, weight: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        (provider, &base_url, key.as_ref().map(Secret::expose)).hash(&mut hasher);
        Self { base_url, key, weight, id: hasher.finish() }
    }
}

/// The state of all deployments. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct DeploymentRouter(Arc<Mutex<HashMap<u64, DeploymentState>>>);

#[derive(Debug, Clone, Copy, Default)]
struct DeploymentState {
    failures: u32,
    resting_until: Option<Instant>,
}

impl DeploymentRouter {
    /// Picks a deployment. `draw` is a random number below the sum of the weights that [`weight`](Self::weight) gives; when all rest, the
    /// one that has rested longest is taken.
    pub fn pick<'a>(&self, deployments: &'a [Deployment], now: Instant, draw: impl FnOnce(u64) -> u64) -> Option<&'a Deployment> {
        let [first, _, ..] = deployments else { return deployments.first() };
        let states = self.0.lock();
        let rest = |deployment: &Deployment| states.get(&deployment.id).and_then(|state| state.resting_until).filter(|until| *until > now);
        let awake: Vec<&Deployment> = deployments.iter().filter(|deployment| rest(deployment).is_none()).collect();
        if awake.is_empty() {
            return deployments.iter().min_by_key(|deployment| rest(deployment));
        }
        let sum: u64 = awake.iter().map(|deployment| u64::from(deployment.weight)).sum();
        if sum == 0 {
            return awake.first().copied().or(Some(first));
        }
        let mut place = draw(sum) % sum;
        awake.iter().copied().find(|deployment| match place.checked_sub(u64::from(deployment.weight)) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        })
    }

    /// Whether a deployment that does not rest is left.
    pub fn has_awake(&self, deployments: &[Deployment], now: Instant) -> bool {
        let states = self.0.lock();
        let rests =
            |deployment: &Deployment| states.get(&deployment.id).and_then(|state| state.resting_until).is_some_and(|until| until > now);
        deployments.len() > 1 && !deployments.iter().all(rests)
    }

    /// Notes that a deployment answered.
    pub fn record_success(&self, deployment: &Deployment) {
        if let Some(state) = self.0.lock().get_mut(&deployment.id) {
            state.failures = 0;
        }
    }

    /// Notes that a deployment has used up its limit for so long.
    pub fn record_limit(&self, deployment: &Deployment, wait: Duration, now: Instant) {
        self.update(deployment, |state| state.resting_until = Some(now + wait.min(MAX_COOLDOWN)));
    }

    /// Notes a failure; what is the request's own fault tells nothing of its server.
    pub fn record_failure(&self, deployment: &Deployment, class: Class, retry_after: Option<Duration>, now: Instant) {
        let rest = match class {
            Class::Auth | Class::Billing | Class::Forbidden => Some(REFUSAL_COOLDOWN),
            Class::RateLimited => Some(retry_after.unwrap_or(FAILURE_COOLDOWN).min(MAX_COOLDOWN)),
            Class::Overloaded | Class::ServerError | Class::Connect | Class::Tls | Class::TimeoutConnect | Class::TimeoutFirstByte => None,
            _ => return,
        };
        self.update(deployment, |state| {
            state.failures = state.failures.saturating_add(1);
            let rest = rest.or_else(|| (state.failures >= MAX_FAILURES).then_some(FAILURE_COOLDOWN));
            if let Some(rest) = rest {
                state.resting_until = Some(now + rest);
                state.failures = 0;
            }
        });
    }

    fn update(&self, deployment: &Deployment, change: impl FnOnce(&mut DeploymentState)) {
        let mut states = self.0.lock();
        if states.len() >= MAX_ENTRIES {
            states.clear();
        }
        change(states.entry(deployment.id).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Timestamp};

    fn deployments() -> Vec<Deployment> {
        [("a", 1), ("b", 3)].map(|(key, weight)| Deployment::new("p", "http://h".into(), Some(Secret::new(key)), weight)).into()
    }

    fn now() -> Instant {
        Clock::simulated(1, Timestamp::from_millis(0)).instant()
    }

    fn picked(router: &DeploymentRouter, all: &[Deployment], now: Instant, draw: u64) -> String {
        router.pick(all, now, |_| draw).unwrap().key.as_ref().unwrap().expose().to_owned()
    }

    #[test]
    fn weights_decide_while_all_are_well() {
        let (router, all, now) = (DeploymentRouter::default(), deployments(), now());
        let drawn: Vec<String> = (0..4).map(|draw| picked(&router, &all, now, draw)).collect();
        assert_eq!(drawn, ["a", "b", "b", "b"]);
    }

    #[test]
    fn a_limited_key_rests_as_long_as_it_was_told() {
        let (router, all, now) = (DeploymentRouter::default(), deployments(), now());
        router.record_failure(&all[1], Class::RateLimited, Some(Duration::from_secs(5)), now);
        assert!(router.has_awake(&all, now));
        assert_eq!(picked(&router, &all, now, 0), "a");
        assert_eq!(picked(&router, &all, now + Duration::from_secs(6), 3), "b");
        router.record_limit(&all[0], Duration::from_secs(9), now);
        assert!(!router.has_awake(&all, now));
        assert_eq!(picked(&router, &all, now, 0), "b", "the one that wakes first");
    }

    #[test]
    fn passing_failures_count_only_in_a_row() {
        let (router, all, now) = (DeploymentRouter::default(), deployments(), now());
        for _ in 0..2 {
            router.record_failure(&all[0], Class::ServerError, None, now);
        }
        router.record_success(&all[0]);
        router.record_failure(&all[0], Class::ServerError, None, now);
        assert_eq!(picked(&router, &all, now, 0), "a");
        router.record_failure(&all[0], Class::BadRequest, None, now);
        for _ in 0..2 {
            router.record_failure(&all[0], Class::Overloaded, None, now);
        }
        assert_eq!(picked(&router, &all, now, 0), "b");
    }
}
