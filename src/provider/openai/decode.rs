//! From chat completions to events. Pure.
//!
//! Text belongs to the answer until the stream ends, whatever finish reasons came before it. A finish reason that is neither a good end,
//! the length nor a filter is a failure.

use serde_json::{Value, json};

use super::calls::CallAssembler;
use super::wire::{Answer, AnswerContent, AnswerPart, CallDelta, Choice, Delta};
use crate::net::sse::Event;
use crate::provider::error::{Class, ProviderError};
use crate::provider::transport::{Decode, Flow};
use crate::provider::{Citation, Finish, ModelEvent, Usage, lenient, refusal};

/// Reads answers, whole and streamed.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    calls: CallAssembler,
    finished: bool,
    /// Content followed a finish reason: this server gives one with every chunk.
    resumed: bool,
    /// The totals that follow the last chunk have come.
    totalled: bool,
    refused: bool,
    usage: Option<Usage>,
    /// The member in which reasoning came; it goes back under the same name.
    reasoning_member: Option<&'static str>,
    reasoning_details: Vec<Value>,
}

impl Decode for Decoder {
    /// Images of image models come as one chunk.
    const EVENT_CAP: usize = 16 * 1024 * 1024;

    fn event(&mut self, event: &Event, out: &mut Vec<ModelEvent>) -> Result<Flow, ProviderError> {
        let data = event.data.trim();
        if data == "[DONE]" {
            return Ok(Flow::End);
        }
        if event.event == "error" {
            let value: Value = serde_json::from_str(data).unwrap_or_else(|_| Value::from(data));
            return Err(refusal::in_stream(refusal::error_in(&value).unwrap_or(&value)));
        }
        let answer: Answer = parse(data.as_bytes())?;
        self.answer(answer, data.as_bytes(), true, out)?;
        Ok(Flow::More)
    }

    fn whole(&mut self, body: &[u8], out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err(ProviderError::new(Class::Empty, "the answer has no body"));
        }
        let answer: Answer = parse(body)?;
        let has_choices = answer.choices.is_some();
        self.answer(answer, body, false, out)?;
        if !has_choices {
            return Err(ProviderError::new(Class::Malformed, "the answer has no `choices`; is the base URL that of a model server?"));
        }
        // A whole answer is framed by HTTP; a missing reason does not make it less whole.
        self.finished = true;
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<ModelEvent>) {
        self.calls.finish(out);
        if self.refused && !self.finished {
            out.push(ModelEvent::Finish(Finish::Refusal));
        }
        let details = std::mem::take(&mut self.reasoning_details);
        let state = match (self.reasoning_member, details.is_empty()) {
            (None, true) => return,
            (Some(member), true) => json!({ "member": member }),
            (None, false) => json!({ "details": details }),
            (Some(member), false) => json!({ "member": member, "details": details }),
        };
        out.push(ModelEvent::State(state));
    }

    fn is_whole(&self) -> bool {
        self.finished
    }

    fn may_break_off(&self) -> bool {
        !self.resumed
    }

    fn is_totalled(&self) -> bool {
        self.totalled
    }
}

fn parse(bytes: &[u8]) -> Result<Answer, ProviderError> {
    lenient::parse(bytes).map_err(|error| ProviderError::new(Class::Malformed, format!("the answer is not a chat completion: {error}")))
}

impl Decoder {
    fn answer(&mut self, answer: Answer, raw: &[u8], streamed: bool, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let (groq_usage, groq_error) = answer.x_groq.map_or((None, None), |groq| (groq.usage, groq.error));
        let choices = answer.choices.map(|choices| choices.0).unwrap_or_default();
        let usage = answer.usage.or(groq_usage).filter(|usage| usage.is_object());
        if let Some(error) = answer.error.or(groq_error).filter(|error| !matches!(error, Value::Null | Value::Bool(false))) {
            self.count(usage.as_ref(), out);
            let whole: Value = serde_json::from_slice(raw).unwrap_or(Value::Null);
            return Err(refusal::in_stream(refusal::error_in(&whole).unwrap_or(&error)));
        }
        if choices.is_empty() && usage.is_none() {
            let whole: Value = serde_json::from_slice(raw).unwrap_or(Value::Null);
            if let Some(error) = refusal::error_in(&whole) {
                return Err(refusal::in_stream(error));
            }
        }
        self.totalled |= self.finished && choices.is_empty() && usage.is_some();
        let cited = answer.citations.as_ref().and_then(Value::as_array).into_iter().flatten();
        // Only one choice was asked for. Some servers count something else in `index`, so the first of a chunk is it.
        let read = choices.into_iter().next().map_or(Ok(()), |choice| self.choice(choice, streamed, out));
        out.extend(cited.filter_map(|url| Citation::at(url.as_str()?, None)).map(ModelEvent::Citation));
        // An answer that failed is billed, too.
        self.count(usage.as_ref(), out);
        read
    }

    fn count(&mut self, usage: Option<&Value>, out: &mut Vec<ModelEvent>) {
        let Some(new) = usage.and_then(self::usage) else { return };
        let total = self.usage.map_or(new, |old| old.updated(&new));
        self.usage = Some(total);
        out.push(ModelEvent::Usage(total));
    }

    fn choice(&mut self, choice: Choice, streamed: bool, out: &mut Vec<ModelEvent>) -> Result<(), ProviderError> {
        let before = out.len();
        // Where both are given, `message` repeats what the deltas have said so far.
        let said = if streamed { choice.delta.or(choice.message) } else { choice.message.or(choice.delta) };
        match said {
            Some(delta) => self.delta(delta, streamed, out),
            None => out.extend(choice.text.filter(|text| !text.is_empty()).map(ModelEvent::Text)),
        }
        self.resumed |= self.finished && out.len() > before;
        if let Some(error) = choice.error.filter(|error| !error.is_null()) {
            return Err(refusal::in_stream(&error));
        }
        let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) else { return Ok(()) };
        let finish = finish(&reason)?;
        self.finished = true;
        out.push(ModelEvent::Finish(if self.refused { Finish::Refusal } else { finish }));
        Ok(())
    }

    fn delta(&mut self, delta: Delta, streamed: bool, out: &mut Vec<ModelEvent>) {
        self.reasoning(&delta, out);
        match delta.content {
            Some(AnswerContent::Text(text)) if !text.is_empty() => out.push(ModelEvent::Text(text)),
            Some(AnswerContent::Parts(parts)) => parts.into_iter().for_each(|part| self.part(part, out)),
            _ => {}
        }
        self.refuse(delta.refusal, out);
        let drawn = delta.images.as_ref().and_then(Value::as_array).into_iter().flatten();
        out.extend(drawn.filter_map(|image| picture(image.get("image_url")?.get("url")?.as_str()?)));
        let notes = delta.annotations.as_ref().and_then(Value::as_array).into_iter().flatten();
        out.extend(notes.filter_map(|note| Citation::of(note.get("url_citation")?, &["url"])).map(ModelEvent::Citation));
        let old_form = delta.function_call.map(|function| CallDelta { index: Some(0), function: Some(function), ..CallDelta::default() });
        // A call in both forms is one call.
        let old_form = old_form.filter(|_| delta.tool_calls.is_empty());
        for call in delta.tool_calls.into_iter().chain(old_form) {
            if streamed { self.calls.add_fragment(call, out) } else { self.calls.add_whole(call, out) }
        }
    }

    /// Reasoning as text, and what its vendor wants back of it.
    fn reasoning(&mut self, delta: &Delta, out: &mut Vec<ModelEvent>) {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let member = filled(&delta.reasoning_content)
            .map(|text| ("reasoning_content", text))
            .or_else(|| filled(&delta.reasoning).map(|text| ("reasoning", text)));
        let details = delta.reasoning_details.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        match member {
            Some((name, text)) => {
                self.reasoning_member = Some(name);
                out.push(ModelEvent::Reasoning(text));
            }
            None => {
                let texts = details.iter().filter_map(|detail| detail.get("text").or_else(|| detail.get("summary"))?.as_str());
                out.extend(texts.filter(|text| !text.is_empty()).map(|text| ModelEvent::Reasoning(text.to_owned())));
            }
        }
        details.iter().for_each(|detail| merge_detail(&mut self.reasoning_details, detail));
    }

    fn part(&mut self, part: AnswerPart, out: &mut Vec<ModelEvent>) {
        let thoughts = part.thinking.into_iter().filter_map(|part| part.text);
        out.extend(thoughts.filter(|text| !text.is_empty()).map(ModelEvent::Reasoning));
        out.extend(part.text.filter(|text| !text.is_empty()).map(ModelEvent::Text));
        self.refuse(part.refusal, out);
    }

    fn refuse(&mut self, refusal: Option<String>, out: &mut Vec<ModelEvent>) {
        if let Some(refusal) = refusal.filter(|text| !text.is_empty()) {
            self.refused = true;
            out.push(ModelEvent::Text(refusal));
        }
    }
}

/// Adds a fragment of `reasoning_details`: fragments of one detail have its index and type.
fn merge_detail(details: &mut Vec<Value>, fragment: &Value) {
    const GROWING: [&str; 3] = ["text", "summary", "data"];
    let Some(members) = fragment.as_object() else { return };
    let same = |known: &Value| known.get("type") == fragment.get("type") && known.get("index") == fragment.get("index");
    let Some(known) = details.last_mut().filter(|known| same(known) && fragment.get("index").is_some()).and_then(Value::as_object_mut)
    else {
        return details.push(fragment.clone());
    };
    for (name, value) in members {
        match (known.get_mut(name), value) {
            (Some(Value::String(text)), Value::String(more)) if GROWING.contains(&name.as_str()) => text.push_str(more),
            (Some(_), Value::Null) => {}
            _ => {
                known.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A picture, or where it is.
fn picture(url: &str) -> Option<ModelEvent> {
    let Some(inline) = url.strip_prefix("data:") else {
        return url.starts_with("https://").then(|| ModelEvent::Text(format!("![image]({url})")));
    };
    let (media_type, data) = inline.split_once(";base64,")?;
    Some(ModelEvent::Media { media_type: media_type.to_owned(), data: data.to_owned() })
}

/// Why the model stopped, in the words of OpenAI and of the servers that speak its format.
fn finish(reason: &str) -> Result<Finish, ProviderError> {
    Ok(match reason.to_ascii_lowercase().as_str() {
        "stop" | "end_turn" | "eos" | "eos_token" | "stop_sequence" | "stop_token" | "complete" | "completed" | "end" | "done"
        | "finished" => Finish::EndTurn,
        "tool_calls" | "function_call" | "tool_use" | "tool_call" | "function_calls" => Finish::ToolCalls,
        "length" | "max_tokens" | "model_length" | "max_output_tokens" | "max_new_tokens" | "max_length" => Finish::Length,
        "content_filter" | "content_filtered" | "safety" | "prohibited_content" => Finish::ContentFilter,
        // Zhipu: what was said must not be shown.
        "sensitive" => return Err(ProviderError::new(Class::ContentFilter, "the server withheld the answer (`sensitive`)")),
        "error" => return Err(ProviderError::new(Class::ServerError, "the server ended the answer with an error")),
        _ => return Err(ProviderError::new(Class::Cut, format!("the server broke the answer off with the finish reason `{reason}`"))),
    })
}

/// The count of tokens under the names that servers use for it.
fn usage(usage: &Value) -> Option<Usage> {
    let detail = |names: [&str; 2], counts: &[&str]| names.iter().find_map(|name| lenient::count_of(usage.get(*name)?, counts));
    let input = lenient::count_of(usage, &["prompt_tokens", "input_tokens", "prompt_eval_count"]);
    let output = lenient::count_of(usage, &["completion_tokens", "output_tokens", "eval_count"]);
    // Some servers send an empty usage with every chunk.
    input.or(output)?;
    let input = input.unwrap_or(0);
    let total = lenient::count(usage.get("total_tokens")).unwrap_or(0);
    let prompt = ["prompt_tokens_details", "input_tokens_details"];
    let cached = detail(prompt, &["cached_tokens", "cache_read_tokens"]);
    let cached = cached.filter(|count| *count > 0).or_else(|| {
        // DeepSeek, Mistral, Moonshot, and relays of Anthropic.
        lenient::count_of(usage, &["prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens", "cache_read_input_tokens"])
    });
    let write = detail(prompt, &["cache_write_tokens", "cache_creation_tokens"])
        .or_else(|| lenient::count_of(usage, &["cache_creation_input_tokens", "cache_write_tokens"]));
    let reasoning = detail(["completion_tokens_details", "output_tokens_details"], &["reasoning_tokens"])
        .or_else(|| lenient::count(usage.get("reasoning_tokens")));
    // xAI and Google's compatible endpoint count reasoning beside the completion; only the total holds it.
    let output = output.unwrap_or(0).max(total.saturating_sub(input));
    Some(Usage {
        input,
        output,
        cached_input: cached.unwrap_or(0).min(input),
        cache_write: write.unwrap_or(0),
        reasoning: reasoning.unwrap_or(0).min(output),
        estimated: false,
    })
}
