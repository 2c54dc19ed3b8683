//! What the echo model answers: a pure function of the request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::provider::chat::{ChatRequest, ResponseFormat, Role, ToolCall, ToolChoice, ToolSpec};
use crate::provider::instance::instance;

const MOST_REPEATS: usize = 10_000;
const LONGEST_PAUSE_MS: u64 = 60_000;

/// An answer before it is spoken.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub thought: String,
    pub text: String,
    pub calls: Vec<ToolCall>,
    /// Before each word.
    pub pause: Duration,
}

impl Answer {
    /// Bytes of everything but the thought.
    pub(super) fn output_bytes(&self) -> usize {
        self.text.len() + self.calls.iter().map(|call| call.name.len() + call.arguments.len()).sum::<usize>()
    }
}

/// A line of the user's message that asks for something.
enum Command<'a> {
    Say(&'a str),
    Json(&'a str),
    Think(&'a str),
    Repeat(usize, &'a str),
    Slow(u64),
    Call(&'a str, &'a str),
}

fn command(line: &str) -> Option<Command<'_>> {
    let (verb, rest) = line.trim().split_once(' ')?;
    let rest = rest.trim();
    match verb {
        "say" => Some(Command::Say(rest)),
        "json" => Some(Command::Json(rest)),
        "think" => Some(Command::Think(rest)),
        "slow" => rest.parse().ok().map(Command::Slow),
        "repeat" => {
            let (count, word) = rest.split_once(' ')?;
            Some(Command::Repeat(count.parse().ok()?, word))
        }
        "call" => {
            let (tool, arguments) = rest.split_once(' ').unwrap_or((rest, "{}"));
            Some(Command::Call(tool, arguments))
        }
        _ => None,
    }
}

pub(super) fn answer(request: &ChatRequest) -> Answer {
    let prompt = last_user_text(request);
    let mut answer = Answer::default();
    let mut said: Vec<String> = Vec::new();
    let mut value = None;
    // Commands are obeyed once: after their tools have answered, only the pace is kept.
    let results = tool_results(request);
    for command in prompt.lines().filter_map(command) {
        match command {
            Command::Slow(millis) => answer.pause = Duration::from_millis(millis.min(LONGEST_PAUSE_MS)),
            Command::Call(name, arguments) if results.is_empty() => answer.calls.extend(call(request, name, arguments)),
            Command::Say(text) => said.push(text.to_owned()),
            Command::Json(text) => value = serde_json::from_str::<Value>(text).ok().or(value),
            Command::Think(text) if results.is_empty() => append_line(&mut answer.thought, text),
            Command::Repeat(count, word) => said.push(vec![word; count.min(MOST_REPEATS)].join(" ")),
            Command::Call(..) | Command::Think(_) => {}
        }
    }
    if answer.calls.is_empty() && request.tool_choice == ToolChoice::Required && results.is_empty() {
        answer.calls.extend(request.tools.first().map(forced_call));
    }
    answer.text = match (&value, said.is_empty()) {
        _ if wants_json(request) => json_answer(request, value.as_ref(), &prompt).to_string(),
        (Some(value), _) => value.to_string(),
        (None, false) => said.join("\n"),
        (None, true) if !results.is_empty() => results.join("\n"),
        (None, true) if !answer.calls.is_empty() => String::new(),
        (None, true) => echo(request, &prompt),
    };
    if !answer.calls.is_empty() && wants_json(request) {
        answer.text.clear();
    }
    answer
}

fn append_line(text: &mut String, line: &str) {
    if !text.is_empty() {
        text.push('\n');
    }
    text.push_str(line);
}

fn last_user_text(request: &ChatRequest) -> String {
    let last = request.messages.iter().rev().find(|message| message.role == Role::User);
    last.map_or_else(String::new, |message| message.text())
}

/// What tools answered since the last user message, quoted.
fn tool_results(request: &ChatRequest) -> Vec<String> {
    let since = request.messages.iter().rposition(|message| message.role == Role::User).map_or(0, |at| at + 1);
    let tools = request.messages.iter().skip(since).filter(|message| message.role == Role::Tool);
    let quoted = tools.map(|message| {
        let name = message.tool_name.as_deref().unwrap_or("the tool");
        let verb = if message.is_error { "failed" } else { "answered" };
        format!("{name} {verb}: {}", message.text())
    });
    quoted.collect()
}

/// A call of an offered tool; a tool that was not offered is not called.
fn call(request: &ChatRequest, name: &str, arguments: &str) -> Option<ToolCall> {
    let allowed = request.tool_choice != ToolChoice::None && request.tools.iter().any(|tool| tool.name == name);
    allowed.then(|| ToolCall { name: name.to_owned(), arguments: arguments.to_owned(), ..ToolCall::default() })
}

fn forced_call(tool: &ToolSpec) -> ToolCall {
    ToolCall { name: tool.name.clone(), arguments: instance(&tool.parameters).to_string(), ..ToolCall::default() }
}

fn wants_json(request: &ChatRequest) -> bool {
    request.response_format != ResponseFormat::Text
}

fn json_answer(request: &ChatRequest, value: Option<&Value>, prompt: &str) -> Value {
    match (value, &request.response_format) {
        (Some(value), _) => value.clone(),
        (None, ResponseFormat::JsonSchema { schema, .. }) => instance(schema),
        (None, _) => json!({ "echo": prompt }),
    }
}

fn echo(request: &ChatRequest, prompt: &str) -> String {
    let system = request.messages.iter().find(|message| message.role == Role::System).map(|message| message.text());
    let instruction = system.as_deref().and_then(|text| text.lines().find(|line| !line.trim().is_empty()));
    let mut text = "Echo".to_owned();
    if let Some(instruction) = instruction {
        text.push_str(&format!(" (instructed: {})", instruction.trim()));
    }
    text.push_str(":\n\n");
    text.push_str(if prompt.is_empty() { "(no user message)" } else { prompt });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::chat::Message;

    fn ask(messages: Vec<Message>) -> ChatRequest {
        let weather = ToolSpec {
            name: "get_weather".into(),
            description: String::new(),
            parameters: json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
        };
        ChatRequest { messages, tools: vec![weather], ..ChatRequest::default() }
    }

    #[test]
    fn it_says_what_it_was_asked_and_by_whom() {
        let answer = answer(&ask(vec![Message::system("You are terse.\nVery."), Message::user("Analyze the sales")]));
        assert_eq!(answer.text, "Echo (instructed: You are terse.):\n\nAnalyze the sales");
    }

    #[test]
    fn call_lines_are_parallel_calls_of_offered_tools_only() {
        let answer =
            answer(&ask(vec![Message::user("call get_weather {\"city\":\"Oslo\"}\ncall rm {}\ncall get_weather {\"city\":\"Rome\"}")]));
        let arguments: Vec<&str> = answer.calls.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(arguments, ["{\"city\":\"Oslo\"}", "{\"city\":\"Rome\"}"]);
        assert_eq!(answer.text, "");
    }

    #[test]
    fn after_the_tools_have_answered_it_quotes_them() {
        let call = ToolCall { id: "c1".into(), name: "get_weather".into(), ..ToolCall::default() };
        let mut asked = Message::assistant("");
        asked.tool_calls.push(call.clone());
        let answer = answer(&ask(vec![Message::user("call get_weather {}"), asked, Message::tool(&call, "rain")]));
        assert_eq!((answer.text.as_str(), answer.calls.len()), ("get_weather answered: rain", 0));
    }

    #[test]
    fn commands_say_think_repeat_and_slow() {
        let answer = answer(&ask(vec![Message::user("think hm\nslow 5\nsay yes\nrepeat 3 no")]));
        let expected = Answer { thought: "hm".into(), text: "yes\nno no no".into(), calls: vec![], pause: Duration::from_millis(5) };
        assert_eq!(answer, expected);
    }

    #[test]
    fn wanted_json_is_json() {
        let mut request = ask(vec![Message::user("anything")]);
        request.response_format = ResponseFormat::Json;
        assert_eq!(answer(&request).text, "{\"echo\":\"anything\"}");
        request.response_format = ResponseFormat::JsonSchema {
            name: "x".into(),
            schema: json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}, "s": {"enum": ["a", "b"]}}, "required": ["n", "s"]}),
            strict: false,
        };
        assert_eq!(answer(&request).text, "{\"n\":3,\"s\":\"a\"}");
    }

    #[test]
    fn a_required_tool_is_called() {
        let mut request = ask(vec![Message::user("hello")]);
        request.tool_choice = ToolChoice::Required;
        assert_eq!(answer(&request).calls[0].arguments, "{\"city\":\"\"}");
        request.tool_choice = ToolChoice::None;
        request.messages = vec![Message::user("call get_weather {}")];
        assert!(answer(&request).calls.is_empty());
    }
}
