//! Settings that a format or a model does not take: left out, and said.

use super::{Adjustment, RequestTarget};
use crate::provider::chat::{ChatRequest, Effort, Message, Part, Role, ToolChoice};
use crate::provider::quirks::ReasoningStyle;

/// Leaves out what would be refused.
pub(super) fn fit_settings(request: &mut ChatRequest, target: &RequestTarget<'_>, adjustments: &mut Vec<Adjustment>) {
    fit_reasoning(request, target, adjustments);
    fit_sampling(request, target, adjustments);
    let thinks = request.reasoning.as_ref().is_some_and(|reasoning| reasoning.enabled) && target.quirks.reasoning == ReasoningStyle::Usual;
    if thinks && target.rules.signed_thoughts && request.tool_choice == ToolChoice::Required && !request.tools.is_empty() {
        request.tool_choice = ToolChoice::Auto;
        adjustments
            .push(Adjustment::omitted("toolCallStrategy", "a model with a token budget for thinking does not support forced tool calls"));
    }
}

fn fit_reasoning(request: &mut ChatRequest, target: &RequestTarget<'_>, adjustments: &mut Vec<Adjustment>) {
    let Some(reasoning) = &request.reasoning else { return };
    if target.quirks.reasoning == ReasoningStyle::None {
        if reasoning.enabled {
            adjustments.push(Adjustment::omitted("reasoning", format!("`{}` has no such setting", target.origin)));
        }
        request.reasoning = None;
        return;
    }
    if reasoning.enabled && target.rules.signed_thoughts && has_unsigned_calls(&request.messages) {
        adjustments.push(Adjustment::omitted(
            "reasoning",
            "the tool calls of this turn were made by another model, whose thoughts are not signed",
        ));
        request.reasoning = None;
        return;
    }
    let word = if reasoning.enabled { reasoning.level() } else { Effort::None };
    if word == Effort::None {
        // A model that always thinks cannot be told not to; one whose words nobody has stated is told.
        if target.quirks.refuses_effort(word.name()) {
            adjustments.push(Adjustment::omitted("reasoning", format!("`{}` always thinks", target.origin)));
            request.reasoning = None;
        }
        return;
    }
    if reasoning.effort.is_some() && target.quirks.refuses_effort(word.name()) {
        let reason = format!("`{}` takes {}", target.origin, target.quirks.efforts.join(", "));
        adjustments.push(Adjustment::mapped("reasoning.effort", reason));
        let mapped = nearest_effort(word, &target.quirks.efforts);
        if let Some(reasoning) = &mut request.reasoning {
            reasoning.effort = mapped;
        }
    }
}

const EFFORTS: [Effort; 6] = [Effort::Minimal, Effort::Low, Effort::Medium, Effort::High, Effort::XHigh, Effort::Max];

/// The taken effort that comes nearest, the lower of two.
fn nearest_effort(wanted: Effort, taken: &[String]) -> Option<Effort> {
    let place = |effort: Effort| EFFORTS.iter().position(|known| *known == effort).unwrap_or(0);
    let known = EFFORTS.into_iter().filter(|effort| taken.iter().any(|word| word == effort.name()));
    known.min_by_key(|effort| place(*effort).abs_diff(place(wanted)))
}

/// Whether the tool loop that the request continues has a call without a signed thought before it.
fn has_unsigned_calls(messages: &[Message]) -> bool {
    let since = messages.iter().rev().take_while(|message| message.role != Role::User);
    since.filter(|message| !message.tool_calls.is_empty()).any(|message| {
        let signed = |part: &Part| matches!(part, Part::Reasoning(thought) if thought.signature.is_some());
        !message.content.iter().any(signed)
    })
}

fn fit_sampling(request: &mut ChatRequest, target: &RequestTarget<'_>, adjustments: &mut Vec<Adjustment>) {
    let (quirks, unknown) = (target.quirks, target.rules.unknown_settings);
    let sampling = &mut request.sampling;
    let mut omit = |name: &'static str, refused: bool, is_set: bool| {
        let omitted = is_set && (refused || unknown.contains(&name));
        if omitted {
            adjustments.push(Adjustment::omitted(name, format!("`{}` does not take it", target.origin)));
        }
        omitted
    };
    let fixed = quirks.fixed_sampling;
    if omit("temperature", fixed, sampling.temperature.is_some()) {
        sampling.temperature = None;
    }
    if omit("topP", fixed, sampling.top_p.is_some()) {
        sampling.top_p = None;
    }
    if omit("topK", fixed && target.rules.signed_thoughts, sampling.top_k.is_some()) {
        sampling.top_k = None;
    }
    if omit("frequencyPenalty", fixed || quirks.no_penalties, sampling.frequency_penalty.is_some()) {
        sampling.frequency_penalty = None;
    }
    if omit("presencePenalty", fixed || quirks.no_penalties, sampling.presence_penalty.is_some()) {
        sampling.presence_penalty = None;
    }
    if omit("seed", false, sampling.seed.is_some()) {
        sampling.seed = None;
    }
    if omit("stop", quirks.no_stop, !sampling.stop.is_empty()) {
        sampling.stop = Vec::new();
    }
}
