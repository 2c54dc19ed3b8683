//! What one key, and one request, may take: sizes, calls per second, open streams.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota as Pace, RateLimiter};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::ClientTokenId;
use crate::model::Who;

/// The limits' figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitOptions {
    pub body: BodyLimits,
    /// Calls per second and key; `None` is no limit.
    pub rate: Option<Rate>,
    /// Streams that one key may hold open.
    pub streams_per_key: usize,
    /// How long a stream of an execution's events stays open before its reader has to reconnect.
    pub stream_time: Duration,
    /// How long a stream is silent before it carries a comment, so that proxies do not close it.
    pub keep_alive: Duration,
    /// How long a call's `Idempotency-Key` is known.
    pub idempotency_ttl: Duration,
    /// New sessions and visitors per second and client token; `None` is no limit.
    pub new_sessions: Option<Rate>,
    /// Bytes that the executions of one client token may store; `None` is no limit.
    pub page_bytes: Option<u64>,
    pub conversations: ConversationLimits,
}

/// What is stored of a page's conversations. The oldest is deleted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConversationLimits {
    /// Maximum number of a conversation's turns.
    pub max_turns: usize,
    /// Maximum size of a conversation's turns, in bytes.
    pub max_bytes: u64,
    /// Maximum number of a visitor's conversations.
    pub max_per_visitor: usize,
}

impl Default for ConversationLimits {
    fn default() -> Self {
        Self { max_turns: 200, max_bytes: 2 * 1024 * 1024, max_per_visitor: 200 }
    }
}

/// What a request body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Bytes on the wire.
    pub raw: usize,
    /// Bytes after inflation.
    pub inflated: usize,
    /// Nesting of JSON.
    pub depth: usize,
    /// From the head of the request until the body is complete.
    pub time: Duration,
}

/// How often a key may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub per_second: NonZeroU32,
    /// How many calls may come at once after a quiet time.
    pub burst: NonZeroU32,
}

const PER_SECOND: NonZeroU32 = NonZeroU32::new(500).unwrap();
const BURST: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
const SESSIONS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();
const SESSIONS_BURST: NonZeroU32 = NonZeroU32::new(600).unwrap();

/// Bytes that the executions of one client token may store, if nobody says otherwise.
const PAGE_BYTES: u64 = 256 * 1024 * 1024;

impl Default for LimitOptions {
    fn default() -> Self {
        let body = BodyLimits { raw: 2 * 1024 * 1024, inflated: 8 * 1024 * 1024, depth: 64, time: Duration::from_secs(30) };
        let rate = Some(Rate { per_second: PER_SECOND, burst: BURST });
        Self {
            body,
            rate,
            streams_per_key: 1_000,
            stream_time: Duration::from_secs(3_600),
            keep_alive: Duration::from_secs(15),
            idempotency_ttl: Duration::from_secs(24 * 3_600),
            new_sessions: Some(Rate { per_second: SESSIONS_PER_SECOND, burst: SESSIONS_BURST }),
            page_bytes: Some(PAGE_BYTES),
            conversations: ConversationLimits::default(),
        }
    }
}

/// The server's time as the rate limiter reads it: since the limiter was made.
#[derive(Debug, Clone)]
struct Elapsed {
    clock: Clock,
    start: Instant,
}

impl governor::clock::Clock for Elapsed {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.clock.instant().duration_since(self.start)
    }
}

type Limiter = RateLimiter<Who, DashMapStateStore<Who>, Elapsed, StateInformationMiddleware>;

/// The limits at work. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Inner>);

struct Inner {
    elapsed: Elapsed,
    current: RwLock<ActiveLimits>,
    streams: Mutex<HashMap<Who, usize>>,
}

/// The figures in force and what counts by them.
#[derive(Clone)]
struct ActiveLimits {
    options: LimitOptions,
    calls: Option<Arc<Limiter>>,
    sessions: Option<Arc<Limiter>>,
}

impl std::fmt::Debug for Limits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.options(), f)
    }
}

fn limiter(rate: Option<Rate>, elapsed: &Elapsed) -> Option<Arc<Limiter>> {
    rate.map(|rate| {
        let pace = Pace::per_second(rate.per_second).allow_burst(rate.burst);
        Arc::new(Limiter::new(pace, DashMapStateStore::default(), elapsed.clone()))
    })
}

impl Limits {
    pub fn new(options: LimitOptions, clock: Clock) -> Self {
        let elapsed = Elapsed { start: clock.instant(), clock };
        let (calls, sessions) = (limiter(options.rate, &elapsed), limiter(options.new_sessions, &elapsed));
        Self(Arc::new(Inner { elapsed, current: RwLock::new(ActiveLimits { options, calls, sessions }), streams: Mutex::default() }))
    }

    /// Replaces the figures. Open streams and accepted calls are not affected; a rate that does not change keeps its counts.
    pub fn set(&self, options: LimitOptions) {
        let mut current = self.0.current.write();
        if options.rate != current.options.rate {
            current.calls = limiter(options.rate, &self.0.elapsed);
        }
        if options.new_sessions != current.options.new_sessions {
            current.sessions = limiter(options.new_sessions, &self.0.elapsed);
        }
        current.options = options;
    }

    /// Returns the figures in force.
    pub fn options(&self) -> LimitOptions {
        self.0.current.read().options
    }

    /// What a request body may be.
    pub fn body(&self) -> BodyLimits {
        self.options().body
    }

    fn current(&self) -> ActiveLimits {
        self.0.current.read().clone()
    }

    /// Returns how many bytes the executions of one client token may store.
    pub fn page_bytes(&self) -> Option<u64> {
        self.options().page_bytes
    }

    /// Counts one call of a key; refuses when its rate is used up.
    pub fn count(&self, who: Who) -> std::result::Result<Option<Quota>, Limited> {
        let ActiveLimits { options, calls, .. } = self.current();
        let (Some(limiter), Some(rate)) = (calls, options.rate) else { return Ok(None) };
        let limit = rate.burst.get();
        match limiter.check_key(&who) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let reset = f64::from(limit.saturating_sub(remaining)) / f64::from(rate.per_second.get());
                Ok(Some(Quota { limit, remaining, reset: reset.ceil() as u64 }))
            }
            Err(wait) => Err(Limited { limit, wait: wait.wait_time_from(governor::clock::Clock::now(&self.0.elapsed)) }),
        }
    }

    /// Counts a new session or visitor of a client token. Refusal: 429 `rate_limited`.
    pub fn count_new_session(&self, token: ClientTokenId) -> Result<()> {
        let Some(limiter) = self.current().sessions else { return Ok(()) };
        limiter.check_key(&Who::ClientToken(token)).map(drop).map_err(|wait| {
            let wait = wait.wait_time_from(governor::clock::Clock::now(&self.0.elapsed));
            Error::new(Kind::Limited, "rate_limited", "too many new sessions for this client token")
                .retry_after(wait.max(Duration::from_millis(1)))
                .next("wait for Retry-After; a page that sends its earlier `sessionId` continues that session instead")
        })
    }

    /// Forgets keys that have not called for long. To be called now and then.
    pub fn sweep(&self) {
        let ActiveLimits { calls, sessions, .. } = self.current();
        for limiter in [calls, sessions].into_iter().flatten() {
            limiter.retain_recent();
        }
    }

    /// A place for one more open stream of a key, held until the slot is dropped. Refusal: 429 `too_many_streams`.
    pub fn open_stream(&self, who: Who) -> Result<StreamSlot> {
        let cap = self.options().streams_per_key;
        let mut streams = self.0.streams.lock();
        let open = streams.entry(who).or_default();
        if *open >= cap {
            return Err(Error::new(Kind::Limited, "too_many_streams", format!("this caller holds {cap} open streams, the most it may"))
                .retry_after(Duration::from_secs(1))
                .next("close streams that nobody reads, or ask without streaming"));
        }
        *open += 1;
        Ok(StreamSlot { limits: self.clone(), who })
    }

    /// How many streams a key holds open.
    pub fn open_streams(&self, who: Who) -> usize {
        self.0.streams.lock().get(&who).copied().unwrap_or_default()
    }
}

/// One open stream's place. Keep it as long as the stream's body lives.
#[derive(Debug)]
pub struct StreamSlot {
    limits: Limits,
    who: Who,
}

impl StreamSlot {
    /// How long the stream may be silent.
    pub fn keep_alive(&self) -> Duration {
        self.limits.options().keep_alive
    }

    /// How long the stream may stay open.
    pub fn stream_time(&self) -> Duration {
        self.limits.options().stream_time
    }
}

impl Drop for StreamSlot {
    fn drop(&mut self) {
        let mut streams = self.limits.0.streams.lock();
        if let Some(open) = streams.get_mut(&self.who) {
            *open -= 1;
            if *open == 0 {
                streams.remove(&self.who);
            }
        }
    }
}

const LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// What is left of a key's rate.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    limit: u32,
    remaining: u32,
    /// Seconds until all of it is back.
    reset: u64,
}

impl Quota {
    /// Adds the `RateLimit-*` headers.
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(LIMIT, HeaderValue::from(self.limit));
        headers.insert(REMAINING, HeaderValue::from(self.remaining));
        headers.insert(RESET, HeaderValue::from(self.reset));
    }
}

/// A call that came too soon.
#[derive(Debug, Clone, Copy)]
pub struct Limited {
    limit: u32,
    wait: Duration,
}

impl Limited {
    fn wait(self) -> Duration {
        self.wait.max(Duration::from_millis(1))
    }

    /// The refusal, for callers that are told no more than to wait.
    pub fn error(self) -> Error {
        let message = format!("this caller called more than {} times at once", self.limit);
        Error::new(Kind::Limited, "rate_limited", message).retry_after(self.wait()).next("wait as Retry-After says, then call again")
    }
}

impl IntoResponse for Limited {
    fn into_response(self) -> Response {
        let mut response = self.error().into_response();
        Quota { limit: self.limit, remaining: 0, reset: self.wait().as_secs_f64().ceil() as u64 }.write(response.headers_mut());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::KeyId;

    fn key(id: u128) -> Who {
        Who::Key(KeyId::from_u128(id))
    }

    fn limits(burst: u32, streams: usize) -> Limits {
        let rate = NonZeroU32::new(burst).map(|burst| Rate { per_second: NonZeroU32::MIN, burst });
        let clock = Clock::simulated(1, Timestamp::from_millis(0));
        Limits::new(LimitOptions { rate, streams_per_key: streams, ..LimitOptions::default() }, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_comes_back_with_time_and_is_each_keys_own() {
        let (limits, key) = (limits(2, 1), key(1));
        assert!(limits.count(key).is_ok());
        assert!(limits.count(key).is_ok());
        assert!(limits.count(key).is_err());
        assert!(limits.count(self::key(2)).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.count(key).is_ok());
        assert!(limits.count(key).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn changed_figures_are_in_force_at_once() {
        let (limits, key) = (limits(1, 1), key(1));
        assert!(limits.count(key).is_ok() && limits.count(key).is_err());
        let (first, same_rate) = (limits.open_stream(key).ok(), limits.options().rate);
        assert!(first.is_some() && limits.open_stream(key).is_err());
        limits.set(LimitOptions { rate: same_rate, streams_per_key: 2, ..LimitOptions::default() });
        assert!(limits.open_stream(key).is_ok());
        assert!(limits.count(key).is_err(), "a rate that stays keeps its counts");
        limits.set(LimitOptions { rate: None, ..LimitOptions::default() });
        assert!(limits.count(key).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_stream_frees_its_place() {
        let (limits, key) = (limits(1, 2), key(1));
        let first = limits.open_stream(key).ok();
        let second = limits.open_stream(key).ok();
        assert!(first.is_some() && second.is_some());
        assert_eq!(limits.open_stream(key).err().map(|error| error.code().to_owned()).as_deref(), Some("too_many_streams"));
        assert!(limits.open_stream(self::key(2)).is_ok());
        drop(first);
        assert!(limits.open_stream(key).is_ok());
        drop(second);
        assert_eq!(limits.open_streams(key), 0);
    }
}
