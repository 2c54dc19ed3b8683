//! Integers beyond 64 bits in the arguments of a call. JSON has no bound for them, the numbers of this program have one.

use indexmap::IndexMap;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::offload::give_way;

/// Digits of the shortest integer that 64 bits do not hold.
const MIN_DIGITS: usize = 19;

/// Reads a JSON object so that integers beyond 64 bits keep their digits, as texts. `None`: it holds no such integer.
pub fn read_exact_integers(text: &str) -> Option<Map<String, Value>> {
    give_way(text.len(), || read_integers(text))
}

fn read_integers(text: &str) -> Option<Map<String, Value>> {
    if !has_long_digits(text) {
        return None;
    }
    let plain: Value = serde_json::from_str(text).ok()?;
    match read_value(text).ok()? {
        Value::Object(exact) if plain != Value::Object(exact.clone()) => Some(exact),
        _ => None,
    }
}

fn has_long_digits(text: &str) -> bool {
    text.as_bytes().split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= MIN_DIGITS)
}

fn read_value(text: &str) -> serde_json::Result<Value> {
    let text = text.trim();
    if !has_long_digits(text) {
        return serde_json::from_str(text);
    }
    match text.as_bytes().first() {
        Some(b'{') => {
            let members: IndexMap<String, Box<RawValue>> = serde_json::from_str(text)?;
            let read = members.into_iter().map(|(name, value)| read_value(value.get()).map(|value| (name, value)));
            Ok(Value::Object(read.collect::<serde_json::Result<_>>()?))
        }
        Some(b'[') => {
            let items: Vec<Box<RawValue>> = serde_json::from_str(text)?;
            Ok(Value::Array(items.iter().map(|item| read_value(item.get())).collect::<serde_json::Result<_>>()?))
        }
        Some(b'-' | b'0'..=b'9') if is_beyond_64_bits(text) => Ok(Value::String(text.to_owned())),
        _ => serde_json::from_str(text),
    }
}

fn is_beyond_64_bits(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    digits.bytes().all(|byte| byte.is_ascii_digit()) && number.parse::<i64>().is_err() && number.parse::<u64>().is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_integers_beyond_64_bits_become_texts() {
        let text = r#"{"a": 98765432109876543210987, "b": [18446744073709551615, -9223372036854775809, {"c": 18446744073709551616}],
            "d": 1.00000000000000000000001, "e": "98765432109876543210987", "f": -9223372036854775808}"#;
        let exact = json!({
            "a": "98765432109876543210987", "b": [18446744073709551615u64, "-9223372036854775809", { "c": "18446744073709551616" }],
            "d": 1.0, "e": "98765432109876543210987", "f": i64::MIN,
        });
        assert_eq!(read_exact_integers(text).map(Value::Object), Some(exact));
        for plain in [r#"{"a": 2512292042121000001}"#, r#"{"a": "98765432109876543210987"}"#, "[98765432109876543210987]", "{}", "{"] {
            assert_eq!(read_exact_integers(plain), None, "{plain}");
        }
    }
}
