//! What QuickJS threw, in our words.

use rquickjs::{Ctx, Exception, Value};

use crate::expr::ParseError;

/// A caught exception.
#[derive(Debug)]
pub enum Fault {
    Memory,
    /// The script threw null, or the engine did, which does so when there is no room left for an error.
    Null,
    Stack,
    Cycle,
    /// Anything else; the line counts the engine's own header.
    Thrown {
        message: String,
        line: Option<usize>,
    },
}

/// Longest message passed on.
const MESSAGE: usize = 2_000;

/// Takes the pending exception.
pub fn caught(ctx: &Ctx<'_>) -> Fault {
    let thrown = ctx.catch();
    let Some(exception) = thrown.as_object().cloned().and_then(Exception::from_object) else {
        return if thrown.is_null() { Fault::Null } else { Fault::Thrown { message: shown(ctx, thrown), line: None } };
    };
    let message = exception.message().unwrap_or_default();
    if message.contains("out of memory") {
        return Fault::Memory;
    }
    if message.contains("call stack size exceeded") || message.contains("stack overflow") {
        return Fault::Stack;
    }
    if message.contains("circular reference") {
        return Fault::Cycle;
    }
    let name: String = exception.as_object().get("name").unwrap_or_default();
    let message = if name.is_empty() || name == "Error" { message } else { format!("{name}: {message}") };
    let line = exception.stack().as_deref().and_then(line_of);
    Fault::Thrown { message: message.chars().take(MESSAGE).collect(), line }
}

/// A thrown value that is not an error.
fn shown<'js>(ctx: &Ctx<'js>, thrown: Value<'js>) -> String {
    let text = match thrown.as_string() {
        Some(text) => text.to_string().ok(),
        None if thrown.is_undefined() => Some("undefined".into()),
        None => ctx.json_stringify(thrown).ok().flatten().and_then(|text| text.to_string().ok()),
    };
    text.map_or_else(|| "it threw something that cannot be shown".into(), |text| text.chars().take(MESSAGE).collect())
}

/// The line of the innermost frame inside the script: `at f (<input>:3:5)`.
fn line_of(stack: &str) -> Option<usize> {
    stack.lines().find_map(|frame| {
        let place = frame.split_once("<input>:").map(|(_, place)| place)?;
        place.split(|next: char| !next.is_ascii_digit()).next()?.parse().ok()
    })
}

/// A syntax error in `code`, with a hint when it is another language.
pub fn syntax(fault: Fault, code: &str, header: usize) -> ParseError {
    let Fault::Thrown { message, line } = fault else {
        return ParseError::new("the script is too large or too deeply nested to be read");
    };
    let message = message.strip_prefix("SyntaxError: ").unwrap_or(&message).to_owned();
    let message = match hint(code) {
        Some(hint) => format!("{message}; {hint}"),
        None => message,
    };
    let last = code.lines().count().max(1);
    ParseError { message, line: line.map(|line| line.saturating_sub(header).clamp(1, last)) }
}

fn hint(code: &str) -> Option<&'static str> {
    const TYPES: &[&str] = &["interface ", ": string", ": number", ": boolean", ": any", "<string", " as ", "enum ", "type "];
    if code.lines().any(|line| line.trim_start().starts_with("import ") || line.trim_start().starts_with("export ")) {
        return Some("modules are not available here: write the body of one function and `return` its value");
    }
    if TYPES.iter().any(|text| code.contains(text)) {
        return Some("TypeScript is not supported: remove the types");
    }
    code.lines().any(|line| line.trim_start().starts_with("def ")).then_some("Python is not supported: write JavaScript")
}
