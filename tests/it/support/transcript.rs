//! A run's stream as the wire carried it, and the rules that every stream keeps.

use std::collections::BTreeSet;

use serde_json::Value;

/// One server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: u64,
    pub kind: String,
    pub data: Value,
}

impl Frame {
    /// Reads one frame's lines; `None` for a comment or a hint to come back.
    fn read(text: &str) -> Option<Self> {
        assert!(!text.contains('\r'), "frames end their lines with LF alone: {text:?}");
        if text.starts_with(": ") || text.starts_with("retry: ") {
            return None;
        }
        let lines: Vec<&str> = text.split('\n').collect();
        let [id, kind, data] = lines.as_slice() else { panic!("not `id`, `event`, `data`: {text:?}") };
        let id = id.strip_prefix("id: ").unwrap().parse().unwrap();
        let kind = kind.strip_prefix("event: ").unwrap().to_owned();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(data["type"], kind.as_str(), "`event:` is the type");
        assert_eq!(data["seq"], id, "`id:` is the number");
        assert!(data["executionId"].as_str().is_some_and(|run| run.starts_with("exec_")), "{data}");
        Some(Self { id, kind, data })
    }

    pub fn is_terminal(&self) -> bool {
        matches!(self.kind.as_str(), "execution_complete" | "execution_error")
    }

    pub fn asks_the_caller(&self) -> bool {
        matches!(self.kind.as_str(), "await" | "approval_start") || self.custom() == Some("dispatch.effect_unknown")
    }

    /// The name of a `custom` event.
    pub fn custom(&self) -> Option<&str> {
        (self.kind == "custom").then(|| self.data["name"].as_str().unwrap())
    }

    pub fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.data))
    }
}

/// Takes whole frames off a buffer.
pub fn take_frames(buffer: &mut Vec<u8>) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
        let rest = buffer.split_off(end + 2);
        let text = String::from_utf8(std::mem::replace(buffer, rest)).unwrap();
        frames.extend(Frame::read(&text[..end]));
    }
    frames
}

/// A stream that was read to its end.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    pub frames: Vec<Frame>,
}

impl Transcript {
    pub fn of(frames: Vec<Frame>) -> Self {
        Self { frames }
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let mut buffer = bytes.to_vec();
        let frames = take_frames(&mut buffer);
        assert!(buffer.is_empty(), "the last frame ends with an empty line too: {:?}", String::from_utf8_lossy(&buffer));
        Self { frames }
    }

    /// The frames of JSON mode's `events`.
    pub fn of_events(events: &Value) -> Self {
        let frames = events.as_array().unwrap().iter().map(|data| Frame {
            id: data["seq"].as_u64().unwrap(),
            kind: data["type"].as_str().unwrap().into(),
            data: data.clone(),
        });
        Self { frames: frames.collect() }
    }

    pub fn run(&self) -> String {
        self.frames.first().expect("an empty stream").text("executionId").to_owned()
    }

    pub fn last(&self) -> &Frame {
        self.frames.last().expect("an empty stream")
    }

    pub fn kinds(&self) -> Vec<&str> {
        self.frames.iter().map(|frame| frame.kind.as_str()).collect()
    }

    pub fn all(&self, kind: &str) -> impl Iterator<Item = &Frame> {
        self.frames.iter().filter(move |frame| frame.kind == kind)
    }

    /// The only frame of a kind.
    pub fn one(&self, kind: &str) -> &Frame {
        let mut found = self.all(kind);
        let first = found.next().unwrap_or_else(|| panic!("no {kind} in {:?}", self.kinds()));
        assert!(found.next().is_none(), "more than one {kind} in {:?}", self.kinds());
        first
    }

    pub fn customs(&self, name: &str) -> impl Iterator<Item = &Value> {
        self.frames.iter().filter(move |frame| frame.custom() == Some(name)).map(|frame| &frame.data["value"])
    }

    pub fn custom(&self, name: &str) -> &Value {
        self.customs(name).next().unwrap_or_else(|| panic!("no {name} in {:?}", self.kinds()))
    }

    /// The end of a step.
    pub fn step(&self, id: &str) -> &Value {
        let found = self.all("step_complete").find(|frame| frame.data["id"] == id);
        &found.unwrap_or_else(|| panic!("step {id} did not end: {:?}", self.kinds())).data
    }

    /// All text that was streamed and not taken back.
    pub fn streamed_text(&self) -> String {
        let void: BTreeSet<&str> = self
            .customs("dispatch.attempt_discarded")
            .flat_map(|value| value["blocks"].as_array().unwrap())
            .filter_map(Value::as_str)
            .collect();
        self.all("text_delta").filter(|frame| !void.contains(frame.text("id"))).map(|frame| frame.text("delta")).collect()
    }

    /// A dispatch's own stream.
    pub fn fresh(self) -> Self {
        let first = self.frames.first().expect("an empty stream");
        assert_eq!((first.kind.as_str(), first.id), ("execution_start", 0), "{:?}", self.kinds());
        self.keeps_the_rules()
    }

    /// The stream of what continues a run.
    pub fn continued(self) -> Self {
        assert!(self.all("execution_start").next().is_none(), "a continuation does not begin again: {:?}", self.kinds());
        self.keeps_the_rules()
    }

    /// What holds for every stream that was read to its end.
    fn keeps_the_rules(self) -> Self {
        let run = self.run();
        let mut open = Open::default();
        let mut last = None;
        for (at, frame) in self.frames.iter().enumerate() {
            assert!(last.is_none_or(|last| frame.id > last), "numbers rise: {last:?} then {}", frame.id);
            last = Some(frame.id);
            assert_eq!(frame.text("executionId"), run);
            assert!(!frame.is_terminal() || at + 1 == self.frames.len(), "nothing follows the terminal: {:?}", self.kinds());
            open.follow(frame);
        }
        assert!(open.blocks.is_empty(), "blocks left open: {:?}", open.blocks);
        let end = self.last();
        // Where steps and calls go on side by side, others may end between a question and the pause. A question leaves the list
        // with its own step or call, so that what ends here is another's.
        let beside =
            ["step_complete", "step_skip", "tool_complete"].contains(&end.kind.as_str()) || end.custom() == Some("dispatch.paused");
        assert!(
            end.is_terminal() || end.asks_the_caller() || beside && !open.questions.is_empty(),
            "it ends with a terminal or a question, not {}: {:?}",
            end.kind,
            self.kinds()
        );
        assert!(open.tools.is_empty() || !end.is_terminal() || end.kind == "execution_error", "tools left open: {:?}", open.tools);
        self
    }
}

/// What has begun and not ended.
#[derive(Default)]
struct Open {
    /// Text and reasoning blocks, each with the step it belongs to when that is told.
    blocks: Vec<(String, Option<String>)>,
    tools: BTreeSet<String>,
    steps: BTreeSet<String>,
    /// The agent's turn, and the greatest number that one had. A pause leaves its turn open.
    turn: Option<String>,
    turns: u64,
    /// Steps that may begin again, since the run paused, changed hands or crashed.
    again: BTreeSet<String>,
    ended: BTreeSet<String>,
    /// What the caller was asked and has not answered: the step, and the call, approval or wait.
    questions: Vec<(String, String)>,
}

impl Open {
    fn follow(&mut self, frame: &Frame) {
        let data = &frame.data;
        match frame.kind.as_str() {
            "text_start" | "reasoning_start" => {
                let id = frame.text("id").to_owned();
                assert!(self.blocks.iter().all(|(open, _)| *open != id), "{id} began twice");
                self.blocks.push((id, data["stepId"].as_str().map(str::to_owned)));
            }
            "text_delta" | "reasoning_delta" => {
                assert!(self.blocks.iter().any(|(open, _)| open == frame.text("id")), "a delta of no open block: {data}");
            }
            "text_complete" | "reasoning_complete" => self.close(frame.text("id")),
            "turn_start" => {
                let iteration = data["iteration"].as_u64().unwrap();
                assert!(iteration > self.turns, "turns rise: {} then {iteration}", self.turns);
                assert_eq!(self.turn, None, "a turn within a turn");
                (self.turn, self.turns) = (Some(frame.text("id").into()), iteration);
            }
            "turn_complete" => {
                assert!(self.tools.is_empty(), "tools left open at the end of a turn: {:?}", self.tools);
                assert_eq!(self.turn.take().as_deref(), Some(frame.text("id")));
                self.boundary(frame, None);
            }
            "step_start" => {
                let id = frame.text("id");
                assert!(self.again.remove(id) | self.steps.insert(id.into()), "{id} began twice");
                assert!(!self.ended.contains(id), "{id} began after its end");
            }
            "step_complete" => {
                let id = frame.text("id");
                assert!(self.steps.remove(id), "{id} ended and had not begun");
                self.ended.insert(id.into());
                self.questions.retain(|(step, _)| step != id);
                self.boundary(frame, data["id"].as_str());
            }
            "tool_start" => {
                self.boundary(frame, data["stepId"].as_str());
                assert!(self.tools.insert(frame.text("toolCallId").into()), "a tool call began twice: {data}");
            }
            "tool_complete" => {
                let call = frame.text("toolCallId");
                self.tools.remove(call);
                self.questions.retain(|(step, key)| (step.as_str(), key.as_str()) != (frame.text("stepId"), call));
            }
            "approval_complete" => self.questions.retain(|(_, key)| key != frame.text("approvalId")),
            "await" | "approval_start" => {
                self.boundary(frame, data["stepId"].as_str());
                let key = if frame.kind == "await" { "toolCallId" } else { "approvalId" };
                self.asked(frame.text("stepId"), frame.text(key));
                self.again.extend(data["stepId"].as_str().map(str::to_owned));
            }
            "custom" if ["dispatch.paused", "dispatch.handed_back", "dispatch.effect_unknown"].contains(&frame.custom().unwrap()) => {
                self.again.clone_from(&self.steps);
                if let (Some(step), Some(wait)) = (data["value"]["stepId"].as_str(), data["value"]["waitId"].as_str()) {
                    self.asked(step, wait);
                }
            }
            "execution_complete" => {
                assert_eq!(self.turn, None, "the execution ended within a turn");
                self.boundary(frame, None);
            }
            "execution_error" => self.boundary(frame, None),
            "custom" if frame.custom() == Some("dispatch.attempt_discarded") => {
                let blocks: Vec<String> = serde_json::from_value(data["value"]["blocks"].clone()).unwrap();
                for block in blocks {
                    self.tools.remove(&block);
                    self.blocks.retain(|(open, _)| *open != block);
                }
                // After a crash the step begins again.
                if data["value"]["reason"] == "crash" {
                    self.again.extend(data["value"]["stepId"].as_str().map(str::to_owned));
                }
            }
            _ => {}
        }
    }

    fn asked(&mut self, step: &str, key: &str) {
        self.questions.retain(|(of, open)| (of.as_str(), open.as_str()) != (step, key));
        self.questions.push((step.into(), key.into()));
    }

    fn close(&mut self, id: &str) {
        let before = self.blocks.len();
        self.blocks.retain(|(open, _)| open != id);
        assert!(self.blocks.len() < before, "{id} ended and was not open");
    }

    /// No block of this step, or of any when it is the whole run's boundary, is open.
    fn boundary(&self, frame: &Frame, step: Option<&str>) {
        let left: Vec<_> = self.blocks.iter().filter(|(_, of)| step.is_none() || of.as_deref() == step).collect();
        assert!(left.is_empty(), "{left:?} left open at {}", frame.kind);
    }
}
