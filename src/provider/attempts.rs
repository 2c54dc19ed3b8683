//! A call of a model, over as many attempts as it takes: the one owner of retries and fallback.
//!
//! Before the first content of an attempt a failure is silent but for [`Piece::Retrying`]. After it, what readers
//! saw is declared void with [`Piece::Discarded`] before anything new is said. A cut answer is never passed off
//! as a whole one. Every attempt is reported and billed, also when the call fails or its stream is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::completion::{AttemptReport, Completion, Usage};
use super::draft::Draft;
use super::error::{Class, ProviderError, Summary};
use super::models::Resolved;
use super::prepare::{self, Adjustment, PreparedRequest, ToolNames};
use super::price::Cost;
use super::retry::{self, Next, RetryPolicy, Standing};
use super::routing::Deployment;
use super::{ChatRequest, Citation, Deadlines, ModelEvent, ProviderCall};
use crate::clock::{Clock, Timestamp};
use crate::net::{Output, produce};

/// What is to be asked, of whom, and for how long.
#[derive(Debug, Clone)]
pub struct Call {
    /// The chain: the first is asked first, the others take over.
    pub candidates: Vec<Resolved>,
    pub request: ChatRequest,
    pub retry: RetryPolicy,
    /// Of each attempt.
    pub deadlines: Deadlines,
}

/// What a caller sees of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// A request goes out.
    Attempt {
        number: u32,
        provider: String,
        model: String,
        substituted_for: Option<String>,
        /// Settings that are not sent as they were asked for.
        adjustments: Vec<Adjustment>,
    },
    Text(String),
    Reasoning(String),
    ToolCallStart {
        index: u32,
        id: String,
        name: String,
    },
    ToolCallDelta {
        index: u32,
        delta: String,
    },
    /// A picture, in base64.
    Media {
        media_type: String,
        data: String,
    },
    /// What the answer rests on.
    Citation(Citation),
    /// Attempt `number` failed; another one follows after `wait`.
    Retrying {
        number: u32,
        error: Summary,
        wait: Duration,
    },
    /// All pieces of attempt `number` are void. `shown` says that text or reasoning was among them.
    Discarded {
        number: u32,
        reason: Class,
        shown: bool,
    },
    /// The whole answer; the last piece.
    Done(Box<Completion>),
}

/// The pieces of a call. Ends after [`Piece::Done`] or an error. Dropping it closes the vendor's connection.
pub struct ModelStream {
    pieces: BoxStream<'static, Result<Piece, ProviderError>>,
    ledger: Ledger,
}

impl ModelStream {
    /// Every attempt until now, the unfinished one included: what to book when the stream is dropped.
    pub fn attempts(&self) -> Vec<AttemptReport> {
        self.ledger.reports()
    }

    /// What every attempt until now cost together.
    pub fn cost(&self) -> Cost {
        self.ledger.cost()
    }
}

impl Stream for ModelStream {
    type Item = Result<Piece, ProviderError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_next_unpin(cx)
    }
}

/// Starts a call. Nothing is sent before the stream is polled.
pub(super) fn start(call: Call, clock: Clock) -> ModelStream {
    let request = Arc::new(call.request);
    let book = Book { clock: clock.clone(), request: request.clone(), done: Vec::new(), open: None };
    let ledger = Ledger(Arc::new(Mutex::new(book)));
    let own = ledger.clone();
    let pieces = produce(move |out| {
        let runner = Runner { clock, ledger: own, out, retry: call.retry, deadlines: call.deadlines, candidates: call.candidates, request };
        runner.run()
    });
    ModelStream { pieces: Box::pin(pieces), ledger }
}

/// The attempts of a call, readable while it runs. Locked for moments only, never across a wait.
#[derive(Clone)]
struct Ledger(Arc<Mutex<Book>>);

struct Book {
    clock: Clock,
    request: Arc<ChatRequest>,
    done: Vec<AttemptReport>,
    open: Option<Open>,
}

/// The attempt that is running.
struct Open {
    candidate: Resolved,
    draft: Draft,
    started_at: Timestamp,
    started: Instant,
    first_content: Option<Duration>,
    shown_bytes: u64,
    /// Some piece of this attempt was given out.
    emitted: bool,
}

impl Ledger {
    fn open(&self, candidate: &Resolved) -> u32 {
        let mut book = self.0.lock();
        let (started_at, started) = (book.clock.now(), book.clock.instant());
        book.open = Some(Open {
            candidate: candidate.clone(),
            draft: Draft::default(),
            started_at,
            started,
            first_content: None,
            shown_bytes: 0,
            emitted: false,
        });
        u32::try_from(book.done.len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Notes an event of the running attempt.
    fn take(&self, event: &ModelEvent) {
        let mut book = self.0.lock();
        let now = book.clock.instant();
        let Some(open) = &mut book.open else { return };
        open.draft.take(event);
        if open.first_content.is_none() && open.draft.has_content() {
            open.first_content = Some(now.duration_since(open.started));
        }
        match event {
            ModelEvent::Text(delta) | ModelEvent::Reasoning(delta) => {
                open.shown_bytes += u64::try_from(delta.len()).unwrap_or(0);
                open.emitted = true;
            }
            ModelEvent::ToolCallStart { .. } | ModelEvent::ToolCallDelta { .. } => open.emitted = true,
            _ => {}
        }
    }

    /// Resets the running attempt after a restart. Returns whether text was shown, or `None` when nothing was emitted.
    fn restart(&self) -> Option<bool> {
        let mut book = self.0.lock();
        let open = book.open.as_mut()?;
        let shown = std::mem::take(&mut open.shown_bytes) > 0;
        std::mem::take(&mut open.emitted).then_some(shown)
    }

    /// Closes the running attempt and gives back what had come of it.
    fn close(&self, error: Option<&ProviderError>) -> Option<Open> {
        let mut book = self.0.lock();
        let open = book.open.take()?;
        let report = book.report(&open, error.map(ProviderError::summary));
        book.done.push(report);
        Some(open)
    }

    fn reports(&self) -> Vec<AttemptReport> {
        let book = self.0.lock();
        let mut reports = book.done.clone();
        reports.extend(book.open.as_ref().map(|open| book.report(open, None)));
        reports
    }

    fn cost(&self) -> Cost {
        self.reports().iter().fold(Cost::default(), |sum, report| sum.plus(report.cost))
    }
}

impl Book {
    fn report(&self, open: &Open, error: Option<Summary>) -> AttemptReport {
        let usage = open.draft.usage(&self.request);
        AttemptReport {
            number: u32::try_from(self.done.len()).unwrap_or(u32::MAX).saturating_add(1),
            provider: open.candidate.provider.clone(),
            model: open.candidate.model.clone(),
            started_at: open.started_at,
            duration_ms: millis(self.clock.instant().duration_since(open.started)),
            first_content_ms: open.first_content.map(millis),
            error,
            cost: open.candidate.cost(&usage),
            usage,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Runner {
    clock: Clock,
    ledger: Ledger,
    out: Output<Result<Piece, ProviderError>>,
    retry: RetryPolicy,
    deadlines: Deadlines,
    candidates: Vec<Resolved>,
    request: Arc<ChatRequest>,
}

impl Runner {
    async fn run(self) {
        let last = match self.chain().await {
            Ok(completion) => Ok(Piece::Done(Box::new(completion))),
            Err(mut error) => {
                error.attempts = self.ledger.reports();
                Err(error)
            }
        };
        self.out.send(last).await;
    }

    async fn chain(&self) -> Result<Completion, ProviderError> {
        let begun = self.clock.instant();
        let mut at = 0usize;
        let mut here = 0u32;
        loop {
            let Some(candidate) = self.candidates.get(at) else {
                return Err(ProviderError::new(Class::Unconfigured, "the call names no model"));
            };
            let prepared = prepare::prepare(&self.request, &candidate.target());
            let adjustments = prepared.as_ref().map(|prepared| prepared.adjustments.clone()).unwrap_or_default();
            let number = self.announce(candidate, adjustments).await;
            here += 1;
            let now = self.clock.instant();
            let deployment = candidate.router.pick(&candidate.deployments, now, |sum| self.clock.below(sum));
            let attempt = match (prepared, deployment) {
                (Ok(prepared), Some(deployment)) => self.attempt(candidate, deployment, prepared, number, begun).await,
                (Err(error), _) => Err(error),
                (_, None) => Err(ProviderError::new(Class::Unconfigured, "the provider has no server")),
            };
            let error = match attempt {
                Ok(()) => return Ok(self.completion(candidate)),
                Err(error) => self.void(candidate, number, error).await,
            };
            let now = self.clock.instant();
            if let Some(deployment) = deployment {
                candidate.router.record_failure(deployment, error.class, error.retry_after, now);
            }
            let standing = Standing {
                attempts: number,
                here,
                left: u32::try_from(self.candidates.len() - at - 1).unwrap_or(u32::MAX),
                elapsed: now.duration_since(begun),
                has_alternative: candidate.router.has_awake(&candidate.deployments, now),
            };
            let jitter = u32::try_from(self.clock.below(1_001)).unwrap_or(0);
            let wait = match retry::next(&self.retry, standing, error.class, error.retry_after, jitter) {
                Next::Fail => return Err(error),
                Next::Retry(wait) => wait,
                Next::FallBack => {
                    at += 1;
                    here = 0;
                    self.candidates.get(at).map_or(Duration::ZERO, |next| next.delay)
                }
            };
            // The caller may end the call here; another attempt begins only when it asks for more.
            self.out.send_and_wait(Ok(Piece::Retrying { number, error: error.summary(), wait })).await;
            if !wait.is_zero() {
                self.clock.sleep(wait).await;
            }
        }
    }

    async fn announce(&self, candidate: &Resolved, adjustments: Vec<Adjustment>) -> u32 {
        let number = self.ledger.open(candidate);
        let piece = Piece::Attempt {
            number,
            provider: candidate.provider.clone(),
            model: candidate.model.clone(),
            substituted_for: candidate.substituted_for.clone(),
            adjustments,
        };
        self.out.send(Ok(piece)).await;
        number
    }

    /// One request, its content given out as it comes.
    async fn attempt(
        &self,
        candidate: &Resolved,
        deployment: &Deployment,
        prepared: PreparedRequest,
        number: u32,
        begun: Instant,
    ) -> Result<(), ProviderError> {
        let left = self.retry.budget.saturating_sub(self.clock.instant().duration_since(begun));
        let deadlines = Deadlines { total: self.deadlines.total.min(left), ..self.deadlines };
        let mut events = candidate.client.stream(ProviderCall {
            base_url: deployment.base_url.clone(),
            key: deployment.key.clone(),
            auth: candidate.auth.clone(),
            model: candidate.model.clone(),
            headers: candidate.headers.clone(),
            quirks: candidate.quirks.clone(),
            request: Arc::new(prepared.request),
            deadlines,
        });
        while let Some(event) = events.next().await {
            let event = match event? {
                ModelEvent::LimitReached(wait) => {
                    candidate.router.record_limit(deployment, wait, self.clock.instant());
                    continue;
                }
                event => self.named(event, &prepared.names),
            };
            if event == ModelEvent::Restart
                && let Some(shown) = self.ledger.restart()
            {
                let piece = Piece::Discarded { number, reason: Class::Cut, shown };
                self.out.send(Ok(piece)).await;
            }
            self.ledger.take(&event);
            if let Some(piece) = piece(event) {
                self.out.send(Ok(piece)).await;
            }
        }
        candidate.router.record_success(deployment);
        Ok(())
    }

    /// Gives a tool call the caller's name of its tool, and an id when its vendor gave none.
    fn named(&self, event: ModelEvent, names: &ToolNames) -> ModelEvent {
        let ModelEvent::ToolCallStart { index, id, name, signature } = event else { return event };
        let name = names.original(name);
        if !id.is_empty() {
            return ModelEvent::ToolCallStart { index, id, name, signature };
        }
        let mut bytes = [0u8; 12];
        self.clock.fill(&mut bytes);
        let id = bytes.iter().fold("call_".to_owned(), |id, byte| format!("{id}{byte:02x}"));
        ModelEvent::ToolCallStart { index, id, name, signature }
    }

    /// Books a failed attempt and takes back what was shown of it.
    async fn void(&self, candidate: &Resolved, number: u32, mut error: ProviderError) -> ProviderError {
        error.provider.clone_from(&candidate.provider);
        error.model.clone_from(&candidate.model);
        if let Some(open) = self.ledger.close(Some(&error)) {
            error.shown_bytes = open.shown_bytes;
            if open.emitted {
                let piece = Piece::Discarded { number, reason: error.class, shown: open.shown_bytes > 0 };
                self.out.send(Ok(piece)).await;
            }
        }
        error
    }

    fn completion(&self, candidate: &Resolved) -> Completion {
        let mut draft = self.ledger.close(None).map(|open| open.draft).unwrap_or_default();
        let attempts = self.ledger.reports();
        Completion {
            finish: draft.finish(),
            tool_calls: draft.tool_calls(),
            text: draft.text,
            reasoning: draft.reasoning,
            state: draft.state,
            usage: attempts.last().map_or_else(Usage::default, |attempt| attempt.usage),
            cost: self.ledger.cost(),
            model: candidate.model.clone(),
            provider: candidate.provider.clone(),
            attempts,
        }
    }
}

fn piece(event: ModelEvent) -> Option<Piece> {
    match event {
        ModelEvent::Text(delta) => Some(Piece::Text(delta)),
        ModelEvent::Reasoning(delta) => Some(Piece::Reasoning(delta)),
        ModelEvent::ToolCallStart { index, id, name, .. } => Some(Piece::ToolCallStart { index, id, name }),
        ModelEvent::ToolCallDelta { index, delta } => Some(Piece::ToolCallDelta { index, delta }),
        ModelEvent::Media { media_type, data } => Some(Piece::Media { media_type, data }),
        ModelEvent::Citation(citation) => Some(Piece::Citation(citation)),
        ModelEvent::Restart
        | ModelEvent::ReasoningEnd { .. }
        | ModelEvent::ToolCallState { .. }
        | ModelEvent::State(_)
        | ModelEvent::LimitReached(_)
        | ModelEvent::Usage(_)
        | ModelEvent::Finish(_) => None,
    }
}
