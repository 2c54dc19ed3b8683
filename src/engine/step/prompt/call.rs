//! One model call, streamed into the log.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;
use tracing::Instrument;

use super::config::Prompt;
use crate::engine::budget::Worst;
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::engine::meter::{self, Asked};
use crate::engine::quotas::QuotaHold;
use crate::engine::traced;
use crate::failpoint;
use crate::model::ModelUsage;
use crate::model::event::Event;
use crate::model::quota::PeriodBudget;
use crate::model::run::Spent;
use crate::provider::{
    Adjustment, Call, ChatRequest, Citation, Class, Completion, Cost, ModelStream, Piece, ProviderError, Resolved, RetryPolicy, Usage,
};
use crate::store::LimitsRow;

/// Sources of one answer that are told.
const MOST_SOURCES: usize = 100;
/// Output tokens that a capped call may use at a model that names no limit.
const UNKNOWN_OUTPUT: u32 = 8_192;

/// Makes the call. What is shown while it runs is void if it fails; the log says so.
pub async fn make(prompt: &Prompt, context: &StepContext<'_>, request: ChatRequest, turn: u32) -> StepResult<Completion> {
    ask(prompt, context, request, ChainPlace { turn, from: 0 }, prompt.show).await
}

/// [`make`] with the models from a place of the chain on.
pub async fn make_from(prompt: &Prompt, context: &StepContext<'_>, request: ChatRequest, turn: u32, from: usize) -> StepResult<Completion> {
    ask(prompt, context, request, ChainPlace { turn, from }, prompt.show).await
}

/// The place in the chain of the models behind the one that answered; none behind the last.
pub fn next_place(prompt: &Prompt, context: &StepContext<'_>, answered: &Completion, from: usize) -> StepResult<Option<usize>> {
    let candidates = candidates(prompt, context, from)?;
    let at = candidates.iter().position(|model| model.provider == answered.provider && model.model == answered.model);
    let next = at.map_or(1, |at| at + 1);
    Ok((next < candidates.len()).then_some(from + next))
}

/// Which call of a step it is.
#[derive(Clone, Copy)]
struct ChainPlace {
    turn: u32,
    /// The first model of the chain that is asked.
    from: usize,
}

/// Shows an answer that was given before.
pub fn show_cached(prompt: &Prompt, context: &StepContext<'_>, completion: &Completion, turn: u32) {
    let mut show = Shown::new(context, turn, prompt.show);
    let value = json!({ "stepId": context.step_id(), "model": format!("{}/{}", completion.provider, completion.model) });
    context.emit(Event::Custom { name: "dispatch.answer_cached".into(), value });
    let thought = completion.reasoning_text();
    if prompt.show && !thought.is_empty() {
        show.reasoning(thought);
    }
    if prompt.show && !completion.text.is_empty() {
        show.text(completion.text.clone());
    }
    show.keep();
}

/// [`make`], of whose answer the log tells nothing while it comes.
pub async fn make_silently(prompt: &Prompt, context: &StepContext<'_>, request: ChatRequest, turn: u32) -> StepResult<Completion> {
    ask(prompt, context, request, ChainPlace { turn, from: 0 }, false).await
}

async fn ask(prompt: &Prompt, context: &StepContext<'_>, request: ChatRequest, place: ChainPlace, visible: bool) -> StepResult<Completion> {
    let candidates = candidates(prompt, context, place.from)?;
    let Some(first) = candidates.first() else { return Err(StepFailure::new("unknown_model", "the prompt names no model").into()) };
    let span = traced::model("chat", first);
    let result = converse(context, candidates, request, place, visible).instrument(span.clone()).await;
    traced::came_out(&span, &result);
    result
}

async fn converse(
    context: &StepContext<'_>,
    candidates: Vec<Resolved>,
    request: ChatRequest,
    place: ChainPlace,
    visible: bool,
) -> StepResult<Completion> {
    let limits = context.usage_limits().await?;
    check_prices(&candidates, context, &limits)?;
    let request = bound(request, &candidates, context, &limits);
    let worst = worst(&candidates, &request);
    let mut reserved = Some(context.reserve(worst)?);
    let hold = context.hold(&limits, worst).await?;
    context.settle().await;
    failpoint::hit("model.before");
    let call = Call { candidates, request, retry: retry(context), deadlines: context.parts().models.deadlines() };
    let models = &context.parts().models;
    let asked = call.candidates.first().map_or_else(Asked::default, |first| Asked::of(models, &first.provider, &first.model));
    let model = call.candidates.first().map_or_else(String::new, |first| format!("{}/{}", first.provider, first.model));
    let begun = context.parts().clock.instant();
    let mut stream = Booked {
        stream: models.stream(call),
        context,
        booked: Spent::default(),
        detailed: Usage::default(),
        counted: false,
        ended: false,
        asked,
        model,
        hold,
        begun,
    };
    let mut show = Shown::new(context, place.turn, visible);
    // Blocks of the calls before have their own numbers.
    show.blocks = u32::try_from(place.from).unwrap_or(0) * 100;
    let (mut heard, max_bytes) = (0, context.limits().max_model_answer_bytes);
    while let Some(piece) = context.outside(stream.stream.next()).await {
        match piece {
            Ok(Piece::Done(completion)) => {
                failpoint::hit("model.after");
                show.keep();
                show.tell_sources();
                stream.book(completion.cost, &completion.total_usage());
                stream.end(meter::SUCCESS);
                stream.settle().await;
                return Ok(*completion);
            }
            Ok(piece) => {
                if let Piece::Attempt { provider, model, .. } = &piece {
                    stream.asked = Asked::of(models, provider, model);
                    stream.model = format!("{provider}/{model}");
                }
                // A failed attempt is billed, so the next one needs room of its own in the budget.
                if let Piece::Retrying { error, .. } = &piece {
                    stream.refused(error.class, &error.message);
                    stream.book_partial();
                    drop(reserved.take());
                    stream.settle().await;
                    show.piece(piece);
                    let room = context.reserve(worst);
                    let hold = if room.is_ok() { context.hold(&limits, worst).await } else { Ok(None) };
                    (reserved, stream.hold) = match (room, hold) {
                        (Ok(room), Ok(hold)) => (Some(room), hold),
                        (Err(refused), _) | (_, Err(refused)) => {
                            stream.end(meter::FAILURE);
                            return Err(refused);
                        }
                    };
                    continue;
                }
                heard += length(&piece);
                if heard > max_bytes {
                    show.void("too_large");
                    stream.book_partial();
                    stream.end(meter::FAILURE);
                    let most = max_bytes >> 20;
                    return Err(StepFailure::new("answer_too_large", format!("the model's answer is larger than {most} MiB")).into());
                }
                show.piece(piece);
            }
            Err(error) => {
                show.void("failed");
                stream.refused(error.class, &error.message);
                stream.book_partial();
                stream.end(meter::FAILURE);
                let model_attempts = stream.stream.attempts();
                return Err(StepFailure { model_attempts, ..failure(&error) }.into());
            }
        }
    }
    show.void("ended");
    stream.book_partial();
    stream.end(meter::FAILURE);
    drop(reserved);
    Err(StepFailure::transient("provider_ended", "the provider's stream ended without an answer").into())
}

fn length(piece: &Piece) -> usize {
    match piece {
        Piece::Text(delta) | Piece::Reasoning(delta) | Piece::ToolCallDelta { delta, .. } => delta.len(),
        Piece::Media { data, .. } => data.len(),
        _ => 0,
    }
}

/// The models that can be asked, from a place among them on.
fn candidates(prompt: &Prompt, context: &StepContext<'_>, from: usize) -> StepResult<Vec<Resolved>> {
    let models = &context.parts().models;
    let mut candidates = Vec::with_capacity(prompt.models.len());
    let mut refused = None;
    for (name, delay) in prompt.models.iter().zip(&prompt.delays) {
        match models.resolve(name).and_then(|model| models.check(&model, &context.run.keys)) {
            Ok(mut resolved) => {
                resolved.delay = *delay;
                candidates.push(resolved);
            }
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    candidates.drain(..from.min(candidates.len()));
    match refused {
        Some(error) if candidates.is_empty() => Err(error.into()),
        _ => Ok(candidates),
    }
}

/// Attempts and time of a model call share one budget; the step's own policy may narrow the attempts.
fn retry(context: &StepContext<'_>) -> RetryPolicy {
    RetryPolicy { budget: Duration::from_millis(context.planned.step.timeout_ms), ..RetryPolicy::default() }
}

/// Whether a cap in money can bind: a model without a price needs a cap in tokens beside it.
fn check_prices(candidates: &[Resolved], context: &StepContext<'_>, limits: &[LimitsRow]) -> StepResult<()> {
    let budget = &context.run.input.options.budget;
    let of_key = limits.iter().flat_map(|row| &row.limits.budgets).any(PeriodBudget::caps_money_only);
    let unpriced = candidates.iter().find(|model| model.price.is_none());
    match unpriced.filter(|_| of_key || budget.cost.is_some() && budget.tokens.is_none()) {
        None => Ok(()),
        Some(model) => {
            Err(StepFailure { fatal: true, ..StepFailure::new("price_unknown", unpriced_message(&model.name().to_string())) }.into())
        }
    }
}

/// Why a cap in money is refused for a model.
pub fn unpriced_message(model: &str) -> String {
    format!("`{model}` has no known price, so `maxCost` cannot bind; add `maxTokens` to the budget, or state the price in a provider file")
}

/// With a cap, an answer that nothing limits gets a limit: what is set aside must cover it.
fn bound(mut request: ChatRequest, candidates: &[Resolved], context: &StepContext<'_>, limits: &[LimitsRow]) -> ChatRequest {
    let budget = &context.run.input.options.budget;
    let of_key = limits.iter().any(|row| !row.limits.budgets.is_empty() || row.limits.rate_limit.tokens_per_minute.is_some());
    let is_capped = of_key || budget.cost.is_some() || budget.tokens.is_some();
    if is_capped && request.sampling.max_tokens.is_none() && candidates.iter().any(|model| model.max_output.is_none()) {
        request.sampling.max_tokens = Some(UNKNOWN_OUTPUT);
    }
    request
}

/// The most that one attempt may cost, at whichever model of the chain.
fn worst(candidates: &[Resolved], request: &ChatRequest) -> Worst {
    let each = candidates.iter().map(|model| {
        let usage = model.worst_usage(request);
        (model.worst_cost(&usage), usage.total())
    });
    each.fold(Worst { calls: 1, ..Worst::default() }, |most, (cost, tokens)| Worst {
        cost: most.cost.max(cost),
        tokens: most.tokens.max(tokens),
        ..most
    })
}

fn failure(error: &ProviderError) -> StepFailure {
    // The code is the one that a refused request would carry: a failure has one name wherever it is met.
    let named = crate::error::Error::from(error.clone());
    StepFailure {
        // The provider layer has spent its own budget of attempts; a step's policy may grant another round.
        retryable: error.class.remedy().retry,
        retry_after: error.retry_after,
        ..StepFailure::new(named.code().to_owned(), error.message.clone())
    }
}

/// A stream whose cost is booked however it ends, also when it is dropped by a cancellation. Attempts are booked as they end.
struct Booked<'c, 'a> {
    stream: ModelStream,
    context: &'c StepContext<'a>,
    /// What is booked already.
    booked: Spent,
    /// The cached tokens and those of reasoning among it.
    detailed: Usage,
    /// The call itself is booked already.
    counted: bool,
    ended: bool,
    /// The label of the model that is asked now.
    asked: Asked,
    /// Its own name, for the tenant's usage.
    model: String,
    /// What is booked against the limits of the key and the tenant.
    hold: Option<QuotaHold>,
    begun: Instant,
}

impl Booked<'_, '_> {
    /// Books what the attempts together used beyond what is booked already.
    fn book(&mut self, cost: Cost, usage: &Usage) {
        let spent = Spent {
            cost: cost.nano_usd.saturating_sub(self.booked.cost),
            input_tokens: usage.input.saturating_sub(self.booked.input_tokens),
            output_tokens: usage.output.saturating_sub(self.booked.output_tokens),
            calls: u64::from(!std::mem::replace(&mut self.counted, true)),
            duration_ms: 0,
            estimated: cost.estimated || cost.unpriced || usage.estimated,
        };
        self.booked.cost = self.booked.cost.max(cost.nano_usd);
        self.booked.input_tokens = self.booked.input_tokens.max(usage.input);
        self.booked.output_tokens = self.booked.output_tokens.max(usage.output);
        let detail = |now: u64, before: &mut u64| {
            let later = now.max(*before);
            later.saturating_sub(std::mem::replace(before, later))
        };
        let used = ModelUsage {
            model: self.model.clone(),
            requests: spent.calls,
            input_tokens: spent.input_tokens,
            output_tokens: spent.output_tokens,
            cached_tokens: detail(usage.cached_input, &mut self.detailed.cached_input),
            reasoning_tokens: detail(usage.reasoning, &mut self.detailed.reasoning),
            cost: spent.cost,
        };
        if let Some(hold) = &self.hold {
            hold.note(used.cost, used.tokens());
        }
        meter::spent(&self.asked, &spent);
        self.context.bill(&spent, used);
    }

    /// Corrects what is booked against the limits, now that it is known what was used.
    async fn settle(&mut self) {
        if let Some(hold) = self.hold.take() {
            hold.settle().await;
        }
    }

    fn book_partial(&mut self) {
        let usage = self.stream.attempts().iter().fold(Usage::default(), |sum, attempt| sum.plus(&attempt.usage));
        self.book(self.stream.cost(), &usage);
    }

    /// Logs and counts a failed attempt. The vendor's message may repeat what it was sent, so it is redacted.
    fn refused(&self, class: Class, message: &str) {
        meter::refused(&self.asked, class.name());
        let context = self.context;
        tracing::info!(
            run = %context.run.run, step = context.step_id(), provider = self.asked.provider, model = self.asked.model,
            class = class.name(), error = context.run.redactor.text(message), "an attempt of a model call failed"
        );
    }

    fn end(&mut self, outcome: &'static str) {
        self.ended = true;
        meter::called(&self.asked, outcome, self.begun.elapsed());
    }
}

impl Drop for Booked<'_, '_> {
    fn drop(&mut self) {
        if !self.ended {
            self.book_partial();
            self.end(meter::CANCELLED);
        }
    }
}

/// What of the call stands in the log, block by block. Dropped in the middle, by a time limit, a cancellation or a shutdown,
/// it takes back what is open.
struct Shown<'c, 'a> {
    context: &'c StepContext<'a>,
    turn: u32,
    text: Option<(String, String)>,
    reasoning: Option<(String, String)>,
    /// Finished blocks of this attempt; a failure voids them too.
    ended: Vec<String>,
    /// Told when the answer is whole.
    cited: Vec<Citation>,
    blocks: u32,
    visible: bool,
    /// The model that was asked first.
    first: Option<String>,
    /// Models whose adjusted settings were named.
    adjusted: Vec<String>,
}

impl<'c, 'a> Shown<'c, 'a> {
    fn new(context: &'c StepContext<'a>, turn: u32, visible: bool) -> Self {
        Self {
            context,
            turn,
            text: None,
            reasoning: None,
            ended: Vec::new(),
            cited: Vec::new(),
            blocks: 0,
            visible,
            first: None,
            adjusted: Vec::new(),
        }
    }
}

impl Shown<'_, '_> {
    fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Attempt { number, provider, model, substituted_for, adjustments } => {
                self.attempt(number, &provider, &model, substituted_for);
                self.tell_adjustments(&provider, &model, adjustments);
            }
            Piece::Text(delta) if self.visible => self.text(delta),
            Piece::Reasoning(delta) if self.visible => self.reasoning(delta),
            Piece::Citation(citation) => self.cite(citation),
            Piece::Media { media_type, data } if self.visible => self.picture(media_type, data),
            Piece::Media { .. } | Piece::Text(_) | Piece::Reasoning(_) | Piece::ToolCallDelta { .. } => {}
            Piece::ToolCallStart { .. } => self.close(),
            Piece::Retrying { number, error, wait } => {
                let value = json!({
                    "stepId": self.context.step_id(), "attempt": number, "error": error.message, "class": error.class,
                    "waitMs": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                });
                self.context.emit(Event::Custom { name: "dispatch.provider_retry".into(), value });
            }
            Piece::Discarded { reason, .. } => self.void(reason.name()),
            // Taken out by the caller.
            Piece::Done(_) => {}
        }
    }

    fn attempt(&mut self, number: u32, provider: &str, model: &str, substituted_for: Option<String>) {
        let name = format!("{provider}/{model}");
        let step = self.context.step_id();
        if let Some(wanted) = substituted_for.filter(|_| number == 1) {
            tracing::debug!(run = %self.context.run.run, %wanted, "no key for this model's provider; local/echo answers instead");
            let reason = "the model is unknown or its provider has no key, and the server runs with --dev";
            let value = json!({ "stepId": step, "wanted": wanted, "used": name, "reason": reason });
            self.context.emit(Event::Custom { name: "dispatch.model_substituted".into(), value });
        }
        match &self.first {
            None => self.first = Some(name),
            Some(first) if *first != name => {
                let value = json!({ "phase": "start", "stepId": step, "type": "model", "attempt": number, "from": first, "model": name });
                self.context.emit(Event::Custom { name: "runtype.fallback".into(), value });
            }
            Some(_) => {}
        }
    }

    /// Says once for each model which settings it was not sent as they were asked for.
    fn tell_adjustments(&mut self, provider: &str, model: &str, adjustments: Vec<Adjustment>) {
        let name = format!("{provider}/{model}");
        if adjustments.is_empty() || self.adjusted.contains(&name) || self.turn > 1 {
            return;
        }
        let value = json!({ "stepId": self.context.step_id(), "model": name, "changes": adjustments });
        self.context.emit(Event::Custom { name: "dispatch.request_adjusted".into(), value });
        self.adjusted.push(name);
    }

    fn block(&mut self, kind: &str) -> String {
        let id = self.context.block(kind, self.turn * 1_000 + self.blocks);
        self.blocks += 1;
        id
    }

    fn text(&mut self, delta: String) {
        self.close_reasoning();
        if self.text.is_none() {
            failpoint::hit("model.first_token");
            let id = self.block("text");
            let step = Some(self.context.step_id().to_owned());
            self.context.emit(Event::TextStart { id: id.clone(), role: "assistant".into(), step_id: step });
            self.text = Some((id, String::new()));
        } else {
            failpoint::hit("model.middle");
        }
        if let Some((id, text)) = &mut self.text {
            text.push_str(&delta);
            self.context.emit(Event::TextDelta { id: id.clone(), delta });
        }
    }

    fn reasoning(&mut self, delta: String) {
        if self.reasoning.is_none() {
            let id = self.block("reasoning");
            self.context.emit(Event::ReasoningStart { id: id.clone(), scope: "turn".into() });
            self.reasoning = Some((id, String::new()));
        }
        if let Some((id, text)) = &mut self.reasoning {
            text.push_str(&delta);
            self.context.emit(Event::ReasoningDelta { id: id.clone(), delta });
        }
    }

    fn close_reasoning(&mut self) {
        if let Some((id, text)) = self.reasoning.take() {
            self.ended.push(id.clone());
            self.context.emit(Event::ReasoningComplete { id, text, scope: "turn".into() });
        }
    }

    /// Ends the open blocks: they are whole.
    fn close(&mut self) {
        self.close_reasoning();
        if let Some((id, text)) = self.text.take() {
            self.ended.push(id.clone());
            self.context.emit(Event::TextComplete { id, text });
        }
    }

    /// Ends the open blocks of a complete answer, which can no longer be voided.
    fn keep(&mut self) {
        self.close();
        self.ended.clear();
    }

    fn picture(&mut self, media_type: String, data: String) {
        self.close();
        let id = self.block("media");
        self.ended.push(id.clone());
        let (role, tool_call_id) = ("assistant".into(), None);
        self.context.emit(Event::MediaStart { id: id.clone(), media_type: media_type.clone(), role, tool_call_id });
        self.context.emit(Event::MediaComplete { id, media_type, data, tool_call_id: None });
    }

    /// Some vendors name every source again with every chunk.
    fn cite(&mut self, citation: Citation) {
        if self.visible && self.cited.len() < MOST_SOURCES && !self.cited.iter().any(|known| known.url == citation.url) {
            self.cited.push(citation);
        }
    }

    fn tell_sources(&mut self) {
        for Citation { url, title } in std::mem::take(&mut self.cited) {
            let id = self.block("source");
            self.context.emit(Event::Source { id, url, title, source_type: "url".into() });
        }
    }

    /// Declares all blocks of this attempt void. Open ones are not ended as if they were complete.
    fn void(&mut self, reason: &str) {
        self.cited.clear();
        let open = [self.reasoning.take(), self.text.take()].into_iter().flatten().map(|(id, _)| id);
        let blocks: Vec<String> = std::mem::take(&mut self.ended).into_iter().chain(open).collect();
        if blocks.is_empty() {
            return;
        }
        let value = json!({ "stepId": self.context.step_id(), "blocks": blocks, "reason": reason });
        self.context.emit(Event::Custom { name: "dispatch.attempt_discarded".into(), value });
    }
}

/// A call that is dropped, because its step ran out of time or its run ends, leaves nothing open.
impl Drop for Shown<'_, '_> {
    fn drop(&mut self) {
        self.void("interrupted");
    }
}
