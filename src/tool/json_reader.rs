//! Parses JSON from services: as strictly as RFC 8259, except for common deviations with one possible meaning, and without silently changing
//! numbers.
//!
//! - A byte order mark at the beginning is ignored (RFC 8259, section 8.1).
//! - An unpaired surrogate, which JavaScript and Python write when they cut a string in the middle of a character, is read as U+FFFD.
//! - A number that 64 bits would change becomes a string of its digits: an integer beyond 64 bits, and a decimal with many digits
//!   before its point.
//!
//! Must not know: where the text comes from.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use crate::expr::bounds::MAX_DEPTH;
use crate::offload::give_way;

/// Why a text cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JsonFault {
    /// It is not JSON: the reason, with line and column.
    Invalid(String),
    /// It nests deeper than a run's values may.
    TooDeep,
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(why) => f.write_str(why),
            Self::TooDeep => write!(f, "it nests deeper than {MAX_DEPTH} levels"),
        }
    }
}

/// Parses a JSON text; see the module. A large one does not keep other tasks waiting.
pub fn read_json(text: &str) -> Result<Value, JsonFault> {
    give_way(text.len(), || read(text))
}

fn read(text: &str) -> Result<Value, JsonFault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if depth(text) > MAX_DEPTH {
        return Err(JsonFault::TooDeep);
    }
    let exact = quote_inexact_numbers(text);
    let error = match serde_json::from_str(&exact) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if let Some(value) = replace_half_pairs(&exact).and_then(|mended| serde_json::from_str(&mended).ok()) {
        return Ok(value);
    }
    // Report the position in the original text.
    let told = if matches!(exact, Cow::Owned(_)) { serde_json::from_str::<Value>(text).err() } else { None };
    Err(JsonFault::Invalid(told.unwrap_or(error).to_string()))
}

/// Returns the maximum nesting of brackets; arbitrary for a text that is not JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    for token in Tokens::of(text) {
        match token {
            JsonToken::Open => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            JsonToken::Close => depth = depth.saturating_sub(1),
            JsonToken::Number { .. } => {}
        }
    }
    deepest
}

/// Puts every number that would change in quotes, except in the place of a member's name, where it is an error anyway.
fn quote_inexact_numbers(text: &str) -> Cow<'_, str> {
    let (mut out, mut copied) = (String::new(), 0);
    for token in Tokens::of(text) {
        let JsonToken::Number { start, end } = token else { continue };
        let (Some(number), Some(after)) = (text.get(start..end), text.get(end..)) else { continue };
        if number.len() < MIN_INEXACT || !is_json_number(number) || is_exact(number) || after.trim_ascii_start().starts_with(':') {
            continue;
        }
        out.push_str(text.get(copied..start).unwrap_or_default());
        out.extend(["\"", number, "\""]);
        copied = end;
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Cow::Owned(out)
}

/// Length of the shortest number that can change.
const MIN_INEXACT: usize = MAX_WHOLE_DIGITS + 2;

/// A decimal with at most this many digits before its point may be rounded: its first three decimal places stay exact.
const MAX_WHOLE_DIGITS: usize = 12;

fn is_json_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// Returns whether a number survives parsing unchanged. A number with an exponent is taken as rounded by its writer.
fn is_exact(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    if digits.contains(['e', 'E']) {
        return true;
    }
    let Some((whole, fraction)) = digits.split_once('.') else {
        return number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok();
    };
    if whole.len() <= MAX_WHOLE_DIGITS {
        return true;
    }
    // A parsed float is printed with the fewest digits that identify it, and never with an exponent.
    let written = digits.parse::<f64>().map(|read| read.to_string()).unwrap_or_default();
    written.split_once('.').unwrap_or((written.as_str(), "")) == (whole, fraction.trim_end_matches('0'))
}

/// Replaces each unpaired surrogate with U+FFFD, without changing the length of the text. `None`: there is none.
fn replace_half_pairs(text: &str) -> Option<String> {
    const REPLACEMENT: &str = "\\ufffd";
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (String::new(), 0, 0);
    while let Some(offset) = bytes.get(at..).and_then(|rest| rest.iter().position(|byte| *byte == b'\\')) {
        at += offset;
        let Some(unit) = escaped_unit(bytes, at) else {
            // Any other escape has two bytes.
            at += 2;
            continue;
        };
        let is_pair = (0xD800..0xDC00).contains(&unit)
            && escaped_unit(bytes, at + REPLACEMENT.len()).is_some_and(|next| (0xDC00..0xE000).contains(&next));
        if is_pair {
            at += 2 * REPLACEMENT.len();
            continue;
        }
        if (0xD800..0xE000).contains(&unit) {
            out.push_str(text.get(copied..at)?);
            out.push_str(REPLACEMENT);
            copied = at + REPLACEMENT.len();
        }
        at += REPLACEMENT.len();
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..)?);
    Some(out)
}

/// Returns the UTF-16 unit of the `\uXXXX` at this position.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at.checked_add(6)?)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The relevant tokens of a JSON text, outside its strings.
enum JsonToken {
    Open,
    Close,
    /// Something that looks like a number: its range.
    Number {
        start: usize,
        end: usize,
    },
}

struct Tokens<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl<'t> Tokens<'t> {
    fn of(text: &'t str) -> Self {
        Self { bytes: text.as_bytes(), at: 0 }
    }

    /// Skips a string whose opening quote was read.
    fn skip_string(&mut self) {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return;
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }
}

impl Iterator for Tokens<'_> {
    type Item = JsonToken;

    fn next(&mut self) -> Option<JsonToken> {
        loop {
            let start = self.at;
            let byte = *self.bytes.get(start)?;
            self.at += 1;
            match byte {
                b'"' => self.skip_string(),
                b'[' | b'{' => return Some(JsonToken::Open),
                b']' | b'}' => return Some(JsonToken::Close),
                b'-' | b'0'..=b'9' => {
                    let more = self.bytes.get(self.at..)?.iter();
                    self.at += more.take_while(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')).count();
                    return Some(JsonToken::Number { start, end: self.at });
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn common_deviations_are_read() {
        for (text, wanted) in [
            ("\u{feff}{\"id\": \"o-7\"}", json!({ "id": "o-7" })),
            (r#"{"note": "thanks \ud83d"}"#, json!({ "note": "thanks \u{fffd}" })),
            (r#"["\ude00 \ud83d\ude00 \\ud83d \ud83d\n\ud83d\ud83d\ude00"]"#, json!(["\u{fffd} 😀 \\ud83d \u{fffd}\n\u{fffd}😀"])),
            (r#"{"a\udfff": 12345678901234567890123}"#, json!({ "a\u{fffd}": "12345678901234567890123" })),
            (" null\r\n", json!(null)),
        ] {
            assert_eq!(read_json(text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn invalid_json_is_reported_with_its_position() {
        for (text, why) in [
            (r#"{"id": "o-7", "score": NaN}"#, "column 24"),
            ("<html>login</html>", "line 1 column 1"),
            (r#"{"id": "o-7", "x": "#, "EOF"),
            (r#"{"id": "o-7",}"#, "column 14"),
            (r#"{"id":"o-7"}{"id":"o-8"}"#, "column 13"),
            (r#"{"n":1e999}"#, "out of range"),
            (r#"[12345678901234567890123, NaN]"#, "column 27"),
            (r#"{12345678901234567890123: 1}"#, "column 2"),
            ("[012345678901234567890123]", "column 3"),
            (r#"["\ud83"]"#, "escape"),
            ("", "EOF"),
        ] {
            match read_json(text) {
                Err(JsonFault::Invalid(told)) => assert!(told.contains(why), "{text}: {told}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn depth_has_one_limit() {
        let nested = |levels: usize| format!("{}\"[[\\\"[\"{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read_json(&nested(MAX_DEPTH)).is_ok());
        for levels in [MAX_DEPTH + 1, 127, 128, 100_000] {
            assert_eq!(read_json(&nested(levels)), Err(JsonFault::TooDeep));
        }
    }

    #[test]
    fn long_numbers_keep_their_digits() {
        for exact in [
            "18446744073709551615",
            "-9223372036854775808",
            "0.30000000000000004",
            "123456789012.345",
            "12345678901234.25",
            "-1234567890123456.5",
            "1e300",
            "1234567890123456789e5",
            "3.3333333333333333333333",
        ] {
            assert!(read_json(exact).unwrap().is_number(), "{exact}");
        }
        for lost in [
            "18446744073709551616",
            "-9223372036854775809",
            "123456789012345678901234567890",
            "-12345678901234567.89",
            "999999999999999.99",
            "12345678901234568.2",
            "123456789012345678901234567890.0",
        ] {
            let list = format!("{{\"a\": [{lost}, 1,{lost}], \"b\":{lost}}}");
            assert_eq!(read_json(&list).unwrap(), json!({ "a": [lost, 1, lost], "b": lost }));
        }
        let long = format!("1{}", "0".repeat(400));
        assert_eq!(read_json(&long).unwrap(), json!(long));
        assert_eq!(read_json("\"12345678901234567890123\"").unwrap(), json!("12345678901234567890123"));
    }
}
