//! An execution's events, for people: step by step, text as it comes. While several steps run, their texts are shown by whole lines, each with
//! the name of its step.

use serde::Deserialize;
use serde_json::Value;

use super::paint::{Paint, Tone};
use crate::cli::output::Output;
use crate::model::event::Event;

/// Before each line that a step says.
const GUTTER: &str = "  │ ";
/// Longest value shown on a line, in characters.
const LONGEST_VALUE: usize = 110;

/// The terminal, and where on it the last event left the pen.
pub struct Screen {
    output: Output,
    paint: Paint,
    /// The block being written, and whether its line is still open.
    block: Option<String>,
    open_line: bool,
    /// Steps whose text was shown as it came.
    told: Vec<String>,
    /// Steps under way, with their names.
    active: Vec<(String, String)>,
    /// Blocks that have begun and not ended.
    blocks: Vec<TextBlock>,
    /// The number of steps that were skipped.
    skipped: u64,
}

/// A block of text or reasoning that has begun.
struct TextBlock {
    id: String,
    /// The name of its step.
    speaker: Option<String>,
    /// The part of its last line that is not shown yet.
    pending: String,
    /// Whether other steps ran beside it; it is then shown by whole lines to its end.
    by_lines: bool,
    is_aside: bool,
}

impl Screen {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            paint: Paint::stdout(),
            block: None,
            open_line: false,
            told: Vec::new(),
            active: Vec::new(),
            blocks: Vec::new(),
            skipped: 0,
        }
    }

    /// Shows one event, in the form that callers see; kinds of newer servers are passed over.
    pub fn show(&mut self, event: &Value) {
        let Ok(known) = Event::deserialize(event) else { return };
        match known {
            Event::ExecutionStart { flow_name, agent_name, total_steps, .. } => {
                let id = event.get("executionId").and_then(Value::as_str).unwrap_or_default();
                let steps = total_steps.map_or_else(|| "agent".to_owned(), |steps| count(u64::from(steps), "step"));
                let name = flow_name.or(agent_name).unwrap_or_default();
                self.line(format_args!("{}  {}", self.paint.text(Tone::Title, name), self.aside(format_args!("{steps}  {id}"))));
            }
            // A step that goes on after a pause is started again.
            Event::TurnStart { iteration, .. } if iteration > 1 => {
                self.note(format_args!("{}", self.aside(format_args!("turn {iteration}"))))
            }
            Event::TurnStart { .. } | Event::TurnComplete { .. } => {}
            Event::StepStart { id, .. } if self.active.iter().any(|(active, _)| *active == id) => {}
            Event::StepStart { id, name, step_type, .. } => {
                self.line(format_args!("▸ {}  {}", self.paint.text(Tone::Title, &name), self.aside(step_type)));
                self.active.push((id, name));
            }
            Event::StepSkip { name, when, .. } => {
                self.skipped += 1;
                let why = when.map_or_else(|| "its branch was not taken".to_owned(), |when| format!("because of `{when}`"));
                self.line(format_args!("○ {name}  {}", self.aside(format_args!("skipped: {why}"))));
            }
            Event::StepComplete { .. } => self.end_step(known),
            Event::TextStart { id, step_id, .. } => self.begin_block(id, step_id, false),
            Event::ReasoningStart { id, .. } => self.begin_block(id, None, true),
            Event::TextDelta { id, delta } | Event::ReasoningDelta { id, delta } => self.say(&id, &delta),
            Event::TextComplete { id, .. } | Event::ReasoningComplete { id, .. } => self.complete_block(&id),
            Event::ToolStart { tool_name, parameters, .. } => self.note(format_args!("→ {tool_name} {}", brief(&parameters))),
            Event::ToolComplete { tool_name, success: true, result, execution_time, .. } => {
                let took = self.aside(duration(execution_time));
                self.note(format_args!("← {tool_name} {}  {took}", brief(&result.unwrap_or_default())));
            }
            Event::ToolComplete { tool_name, error, .. } => {
                let error = error.unwrap_or_default();
                self.note(format_args!("{} {tool_name}: {error}", self.paint.text(Tone::Bad, "✗")));
            }
            Event::ApprovalStart { .. } | Event::Await { .. } => self.request(known),
            Event::ApprovalComplete { decision, .. } => self.note(format_args!("{decision}")),
            Event::Error { error, .. } => self.note(format_args!("{} {error}", self.paint.text(Tone::Bad, "!"))),
            Event::Custom { name, value } => self.custom(&name, &value),
            Event::ExecutionComplete { .. } => self.end(known),
            // The step, or the command itself, says why.
            Event::ExecutionError { code, total_cost, total_tokens, .. } => {
                let facts = facts([Some(code), Some(count(total_tokens.input + total_tokens.output, "token")), Some(money(total_cost))]);
                self.line(format_args!("{}  {}", self.paint.text(Tone::Bad, "failed"), self.aside(facts)));
            }
            Event::ArtifactStart { title, artifact_type, .. } => {
                let title = title.unwrap_or_default();
                self.note(format_args!("▤ {title}  {}", self.aside(format_args!("artifact: {artifact_type}"))));
            }
            Event::ArtifactDelta { delta, .. } => self.note(format_args!("{delta}")),
            Event::ArtifactUpdate { component, props, .. } => self.note(format_args!("{component} {}", brief(&props))),
            Event::MediaComplete { media_type, data, .. } => {
                self.note(format_args!("{media_type}, {}", count(data.len() as u64 / 4 * 3, "byte")));
            }
            Event::Source { url, title, .. } => self.note(format_args!("{} {}", title.unwrap_or_default(), self.aside(url))),
            Event::StateSnapshot { state, .. } => self.note(format_args!("state {}", brief(&state))),
            Event::StateDelta { patch, .. } => self.note(format_args!("state {}", brief(&patch))),
            Event::ArtifactComplete { .. } | Event::MediaStart { .. } => {}
            Event::ToolInputDelta { .. } | Event::ToolInputComplete { .. } | Event::Ping { .. } => {}
        }
    }

    /// Says that a request was decided without a person.
    pub fn decided(&self, approve: bool, why: &str) {
        let word = if approve { self.paint.text(Tone::Good, "approved") } else { self.paint.text(Tone::Bad, "denied") };
        self.output.say(format_args!("  {word} {}", self.aside(why)));
    }

    fn end_step(&mut self, event: Event) {
        let Event::StepComplete {
            id, name, success, result, error, duration_ms, tokens_used, cost, unresolved_variables, fallback, ..
        } = event
        else {
            return;
        };
        self.active.retain(|(active, _)| *active != id);
        let told = self.told.contains(&id);
        if let Some(result) = result.filter(|_| !told) {
            self.result(&name, &result);
        }
        if !unresolved_variables.is_empty() {
            self.note(format_args!("{} no value for {}", self.paint.text(Tone::Bad, "!"), unresolved_variables.join(", ")));
        }
        if let Some(model) = fallback.as_ref().and_then(|fallback| fallback.get("model")).and_then(Value::as_str) {
            self.note(format_args!("answered by {model}"));
        }
        let facts = facts([Some(duration(duration_ms)), tokens_used.map(|tokens| count(tokens, "token")), cost.map(money)]);
        match error.filter(|_| !success) {
            Some(error) => self.line(format_args!("{} {name}  {error}  {}", self.paint.text(Tone::Bad, "✗"), self.aside(facts))),
            None => self.line(format_args!("{} {name}  {}", self.paint.text(Tone::Good, "✓"), self.aside(facts))),
        }
    }

    /// What a step made that nobody saw being made.
    fn result(&mut self, step: &str, result: &Value) {
        let answer = result.get("response").filter(|_| result.get("model").is_some()).unwrap_or(result);
        match answer {
            Value::Null => {}
            Value::String(text) if self.active.is_empty() => {
                self.write("result", text, false);
                self.end_block();
            }
            Value::String(text) => text.lines().for_each(|line| self.spoken(Some(step), line, false)),
            other if self.active.is_empty() => self.note(format_args!("{}", brief(other))),
            other => self.spoken(Some(step), &brief(other), false),
        }
    }

    fn request(&mut self, event: Event) {
        let (tool, parameters, ask, reason) = match event {
            Event::ApprovalStart { tool_name, parameters, reason, .. } => (tool_name, parameters, "asks for approval", reason),
            Event::Await { tool_name, parameters, .. } => (tool_name, parameters, "runs with you: send its output", None),
            _ => return,
        };
        self.line(format_args!("  {} {} {ask}", self.paint.text(Tone::Question, "?"), self.paint.text(Tone::Title, tool)));
        let rows = parameters.as_object().into_iter().flatten();
        let width = rows.clone().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in rows {
            self.line(format_args!("    {}  {}", self.aside(format_args!("{name:<width$}")), brief(value)));
        }
        if let Some(reason) = reason {
            self.line(format_args!("    {}", self.aside(format_args!("“{reason}”"))));
        }
    }

    fn custom(&mut self, name: &str, value: &Value) {
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        if name == "dispatch.attempt_discarded" {
            let void = value.get("blocks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            self.blocks.retain(|block| !void.iter().any(|id| id.as_str() == Some(block.id.as_str())));
        }
        match name {
            "dispatch.model_substituted" => self.note(format_args!("{} answers for {}: it needs no key", text("used"), text("wanted"))),
            "runtype.fallback" => self.note(format_args!("{} takes over from {}", text("model"), text("from"))),
            "dispatch.attempt_discarded" => self.note(format_args!("(that answer broke off and is void: {})", text("reason"))),
            "dispatch.provider_retry" | "dispatch.retrying" => self.note(format_args!("! {}; trying again", text("error"))),
            "dispatch.stream" => self.note(format_args!("{}", brief(value.get("value").unwrap_or(value)))),
            _ => {}
        }
    }

    fn end(&mut self, event: Event) {
        let Event::ExecutionComplete {
            success,
            duration_ms,
            total_cost,
            total_tokens,
            iterations,
            successful_steps,
            failed_steps,
            cost_estimated,
            ..
        } = event
        else {
            return;
        };
        let tokens = total_tokens.input + total_tokens.output;
        let cost = format!("{}{}", if cost_estimated && total_cost > 0.0 { "about " } else { "" }, money(total_cost));
        let failed = failed_steps.filter(|failed| *failed > 0).map(|failed| format!("{failed} failed"));
        let skipped = (self.skipped > 0).then(|| format!("{} skipped", self.skipped));
        // Together the figures are the number of steps that was shown at the beginning.
        let all_ran = failed.is_none() && skipped.is_none();
        let successful = |steps: u32| if all_ran { count(u64::from(steps), "step") } else { format!("{steps} succeeded") };
        let facts = facts([
            successful_steps.map(successful),
            iterations.map(|turns| count(u64::from(turns), "turn")),
            failed,
            skipped,
            Some(duration(duration_ms)),
            Some(count(tokens, "token")),
            Some(cost),
        ]);
        let word = if success { self.paint.text(Tone::Good, "done") } else { self.paint.text(Tone::Bad, "ended with failures") };
        self.line(format_args!("{word}  {}", self.aside(facts)));
    }

    fn begin_block(&mut self, id: String, step: Option<String>, is_aside: bool) {
        self.end_block();
        let speaker = self.active.iter().find(|(active, _)| Some(active) == step.as_ref()).map(|(_, name)| name.clone());
        self.told.extend(step);
        self.blocks.retain(|block| block.id != id);
        self.blocks.push(TextBlock { id, speaker, pending: String::new(), by_lines: false, is_aside });
    }

    /// Shows a part of a block: at once, or by whole lines when several steps run.
    fn say(&mut self, id: &str, text: &str) {
        let Some(mut block) = self.take_block(id) else { return self.write(id, text, false) };
        block.pending.push_str(text);
        block.by_lines |= self.active.len() > 1;
        if block.by_lines {
            while let Some((line, rest)) = block.pending.split_once('\n') {
                self.spoken(block.speaker.as_deref(), line, block.is_aside);
                block.pending = rest.to_owned();
            }
        } else {
            self.write(id, &std::mem::take(&mut block.pending), block.is_aside);
        }
        self.blocks.push(block);
    }

    fn complete_block(&mut self, id: &str) {
        if let Some(block) = self.take_block(id).filter(|block| !block.pending.is_empty()) {
            self.spoken(block.speaker.as_deref(), &block.pending, block.is_aside);
        }
        self.end_block();
    }

    fn take_block(&mut self, id: &str) -> Option<TextBlock> {
        let at = self.blocks.iter().position(|block| block.id == id)?;
        Some(self.blocks.swap_remove(at))
    }

    /// Shows a line of a step beside which others run.
    fn spoken(&mut self, speaker: Option<&str>, line: &str, is_aside: bool) {
        let name = speaker.map(|name| self.aside(format_args!("{name}: "))).unwrap_or_default();
        let words = safe(line.trim_end_matches('\r'));
        let words = if is_aside { self.aside(words) } else { words };
        self.note(format_args!("{name}{words}"));
    }

    /// Writes a part of a block, each of its lines behind the gutter.
    fn write(&mut self, block: &str, text: &str, aside: bool) {
        if self.block.as_deref().is_some_and(|open| open != block) {
            self.end_block();
        }
        self.block = Some(block.to_owned());
        for piece in text.split_inclusive('\n') {
            if !self.open_line {
                self.output.part(&self.aside(GUTTER));
            }
            let words = safe(piece.trim_end_matches(['\r', '\n']));
            self.output.part(&if aside { self.aside(words) } else { words });
            self.open_line = !piece.ends_with('\n');
            if !self.open_line {
                self.output.part("\n");
            }
        }
    }

    fn end_block(&mut self) {
        self.block = None;
        if std::mem::take(&mut self.open_line) {
            self.output.part("\n");
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.end_block();
        self.output.say(text);
    }

    /// A line of a step.
    fn note(&mut self, text: std::fmt::Arguments<'_>) {
        self.end_block();
        self.output.say(format_args!("{}{text}", self.aside(GUTTER)));
    }

    fn aside(&self, text: impl std::fmt::Display) -> String {
        self.paint.text(Tone::Aside, text)
    }
}

/// A text that cannot move the pen or change the terminal: control characters but the tab are taken out.
fn safe(text: &str) -> String {
    text.chars().filter(|letter| *letter == '\t' || !letter.is_control()).collect()
}

/// A value on one line.
fn brief(value: &Value) -> String {
    let text = safe(&value.to_string());
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((cut, _)) => format!("{}…", text.get(..cut).unwrap_or_default()),
        None => text,
    }
}

fn facts<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn duration(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        _ => format!("{} min {} s", millis / 60_000, millis % 60_000 / 1_000),
    }
}

/// US dollars, with as many digits as small sums need.
fn money(dollars: f64) -> String {
    if dollars == 0.0 || dollars >= 0.01 { format!("${dollars:.2}") } else { format!("${dollars:.6}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([duration(999), duration(1_250), duration(61_000)], ["999 ms", "1.2 s", "1 min 1 s"]);
        assert_eq!([money(0.0), money(0.000_12), money(1.5)], ["$0.00", "$0.000120", "$1.50"]);
        assert_eq!([count(1, "step"), count(0, "step")], ["1 step", "0 steps"]);
    }

    #[test]
    fn what_a_model_says_cannot_command_the_terminal() {
        assert_eq!(safe("a\x1b[2J\u{9b}b\tc\r"), "a[2Jb\tc");
    }
}
