//! How JSON values behave as text and as conditions.

use std::fmt::Write as _;

use serde_json::Value;

use super::{limits, too_large};
use crate::error::Result;

/// JavaScript's truthiness: empty text, zero, `false` and `null` are false; empty lists and objects are true.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0 && !number.is_nan()),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// A number as JSON: a whole number when it is one exactly, null when it is not finite.
pub fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        Value::from(value as i64)
    } else {
        serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number)
    }
}

/// Text that refuses to grow beyond a limit.
pub struct Text {
    text: String,
    limit: usize,
    what: &'static str,
}

impl Text {
    pub fn new(limit: usize, what: &'static str) -> Self {
        Self { text: String::new(), limit, what }
    }

    pub fn push(&mut self, part: &str) -> Result<()> {
        if part.len() > self.limit.saturating_sub(self.text.len()) {
            return Err(too_large(self.what, self.limit));
        }
        self.text.push_str(part);
        Ok(())
    }

    /// Writes a value as it reads inside text: null is empty, containers are compact JSON.
    pub fn push_value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::Null => Ok(()),
            Value::Bool(flag) => self.push(if *flag { "true" } else { "false" }),
            Value::String(text) => self.push(text),
            Value::Number(number) => self.push(&number_text(number)),
            Value::Array(_) | Value::Object(_) => self.push_json(value),
        }
    }

    /// Writes a value as compact JSON.
    pub fn push_json(&mut self, value: &Value) -> Result<()> {
        serde_json::to_writer(&mut *self, value).map_err(|_| too_large(self.what, self.limit))
    }

    pub fn into_string(self) -> String {
        self.text
    }
}

impl std::io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // serde_json hands over whole characters.
        let part = std::str::from_utf8(bytes).map_err(std::io::Error::other)?;
        self.push(part).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A number as text: whole numbers without a fraction, as JavaScript prints them.
pub fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

/// A value as it reads inside text, without a limit of its own.
pub fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Roughly how many bytes a value holds, as far as `limit`: counting stops there.
pub fn weight(value: &Value, limit: usize) -> usize {
    fn walk(value: &Value, left: &mut usize) {
        const NODE: usize = size_of::<Value>();
        let own = match value {
            Value::String(text) => text.len() + NODE,
            _ => NODE,
        };
        *left = left.saturating_sub(own);
        if *left == 0 {
            return;
        }
        match value {
            Value::Array(items) => {
                for item in items {
                    walk(item, left);
                    if *left == 0 {
                        return;
                    }
                }
            }
            Value::Object(fields) => {
                for (name, item) in fields {
                    *left = left.saturating_sub(name.len());
                    walk(item, left);
                    if *left == 0 {
                        return;
                    }
                }
            }
            _ => {}
        }
    }
    let mut left = limit;
    walk(value, &mut left);
    limit - left
}

/// `text` escaped as the inside of a JSON string.
pub fn json_inside(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out
}

/// Replaces the first `times` occurrences; none when the result would go over the limit of a text.
pub fn replace(text: &str, from: &str, to: &str, times: usize) -> Option<String> {
    let found = text.matches(from).take(times).count();
    let grown = found.checked_mul(to.len())?.checked_add(text.len())?;
    (grown <= limits::OUTPUT + found * from.len()).then(|| text.replacen(from, to, times))
}
