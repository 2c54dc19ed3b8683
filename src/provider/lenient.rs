//! Tolerant reading of what vendors send. Members that are only counted or shown never lose an answer: a wrong type
//! reads as absent. Text that a server cut inside a surrogate pair is put together again.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::offload::give_way;

/// Reads a count: a whole number, a float (rounded up) or a text of one; anything else, or below zero, is absent.
pub(super) fn count(value: Option<&Value>) -> Option<u64> {
    let float = match value? {
        Value::Number(number) => match number.as_u64() {
            Some(count) => return Some(count),
            None => number.as_f64()?,
        },
        Value::String(text) => match text.trim().parse::<u64>() {
            Ok(count) => return Some(count),
            Err(_) => text.trim().parse::<f64>().ok()?,
        },
        _ => return None,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (0.0..9e15).contains(&float).then(|| float.ceil() as u64)
}

/// The first of `names` under which `value` has a count.
pub(super) fn count_of(value: &Value, names: &[&str]) -> Option<u64> {
    names.iter().find_map(|name| count(value.get(*name)))
}

/// Deserializes a text; any other type reads as absent.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    deserializer.deserialize_any(TextVisitor)
}

/// Deserializes a count as [`count`] reads it, as an index.
pub(super) fn index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(count(Some(&value)).and_then(|count| u32::try_from(count).ok()))
}

/// Deserializes a flag; any other type reads as `false`.
pub(super) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Value::deserialize(deserializer)?.as_bool().unwrap_or(false))
}

/// Deserializes a list whose items may be `null`; any other type reads as empty.
pub(super) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(ListVisitor(PhantomData))
}

/// Deserializes an object; any other type reads as absent.
pub(super) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_any(ObjectVisitor(PhantomData))
}

/// Reads every type that is not the wanted one as absent.
macro_rules! absent {
    ($absent:expr, $($name:ident($of:ty)),*) => {
        $(fn $name<E: de::Error>(self, _: $of) -> Result<Self::Value, E> {
            Ok($absent)
        })*

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok($absent)
        }

        fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok($absent)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
            deserializer.deserialize_any(self)
        }
    };
}

/// Passes over the items of a list.
fn skip_items<'de, A: SeqAccess<'de>>(mut items: A) -> Result<(), A::Error> {
    while items.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Passes over the members of an object.
fn skip_members<'de, A: MapAccess<'de>>(mut members: A) -> Result<(), A::Error> {
    while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    absent!(None, visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64));

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        skip_items(items).map(|()| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        skip_members(members).map(|()| None)
    }
}

struct ListVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    absent!(Vec::new(), visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Option<T>>()? {
            list.extend(item);
        }
        Ok(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        skip_members(members).map(|()| Vec::new())
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    absent!(None, visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        skip_items(items).map(|()| None)
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Some)
    }
}

/// Where halves of surrogate pairs are kept until their other half arrives: a range of private-use characters.
const HALVES: u32 = 0x10_F000;

/// Parses JSON. Of a member that is given twice the last value counts. A `\uD83D` whose other half is missing does not fail: it becomes
/// a placeholder that [`SurrogateJoiner`] joins with what follows.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    give_way(bytes.len(), || read(bytes))
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let error = match serde_json::from_slice(bytes) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    let value = match serde_json::from_slice::<Value>(bytes) {
        Ok(value) => value,
        Err(_) => match std::str::from_utf8(bytes).ok().and_then(mark_halves) {
            Some(repaired) => serde_json::from_str(&repaired)?,
            None => return Err(error),
        },
    };
    T::deserialize(value)
}

/// The JSON text with every half of a surrogate pair that stands alone replaced; `None` when there is none.
fn mark_halves(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let bytes = text.as_bytes();
    while let Some(offset) = bytes.get(at..)?.iter().position(|byte| *byte == b'\\') {
        at += offset;
        let Some(unit) = escape_at(bytes, at) else {
            // Any other escape is two bytes long.
            at += 2;
            continue;
        };
        let next = escape_at(bytes, at + 6);
        if (0xD800..0xDC00).contains(&unit) && next.is_some_and(|next| (0xDC00..0xE000).contains(&next)) {
            at += 12;
            continue;
        }
        if (0xD800..0xE000).contains(&unit) {
            out.push_str(text.get(copied..at)?);
            out.push(char::from_u32(HALVES + (unit - 0xD800))?);
            copied = at + 6;
        }
        at += 6;
    }
    if copied == 0 {
        return None;
    }
    out.push_str(text.get(copied..)?);
    Some(out)
}

/// The UTF-16 unit of the `\uXXXX` at this place.
fn escape_at(bytes: &[u8], at: usize) -> Option<u32> {
    let escape = bytes.get(at..at.checked_add(6)?)?;
    let digits = escape.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Joins the halves of surrogate pairs that a server sent in two deltas.
#[derive(Debug, Default)]
pub(super) struct SurrogateJoiner {
    /// The first half, when a delta ended with it.
    high: Option<u32>,
}

impl SurrogateJoiner {
    /// The delta with its halves joined. A first half at its end waits for the next delta.
    pub fn join(&mut self, delta: String) -> String {
        // The placeholders begin with this byte in UTF-8, as nothing else in use does.
        if self.high.is_none() && !delta.as_bytes().contains(&0xF4) {
            return delta;
        }
        let mut out = String::with_capacity(delta.len());
        for letter in delta.chars() {
            let code = u32::from(letter);
            let half = (HALVES..HALVES + 0x800).contains(&code).then(|| code - HALVES + 0xD800);
            match (self.high.take(), half) {
                (Some(high), Some(low)) if low >= 0xDC00 => {
                    out.push(char::from_u32(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00)).unwrap_or(char::REPLACEMENT_CHARACTER));
                    continue;
                }
                (Some(_), _) => out.push(char::REPLACEMENT_CHARACTER),
                (None, _) => {}
            }
            match half {
                Some(high) if high < 0xDC00 => self.high = Some(high),
                Some(_) => out.push(char::REPLACEMENT_CHARACTER),
                None => out.push(letter),
            }
        }
        out
    }

    /// What is left when the text has ended: a first half that stayed alone.
    pub fn finish(&mut self) -> Option<String> {
        self.high.take().map(|_| char::REPLACEMENT_CHARACTER.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_read_in_every_usual_form() {
        for (value, expected) in [
            (json!(14), Some(14)),
            (json!(3.5), Some(4)),
            (json!("14"), Some(14)),
            (json!(-1), None),
            (json!(null), None),
            (json!([]), None),
            (json!("many"), None),
            (json!(1e300), None),
        ] {
            assert_eq!(count(Some(&value)), expected, "{value}");
        }
    }

    #[test]
    fn a_pair_that_was_cut_is_joined() {
        let mut joiner = SurrogateJoiner::default();
        let read = |text: &str| parse::<String>(text.as_bytes()).unwrap();
        assert_eq!(joiner.join(read(r#""a\ud83d""#)), "a");
        assert_eq!(joiner.join(read(r#""\ude00b""#)), "😀b");
        assert_eq!(joiner.join(read(r#""\ud83d\ude00 \\ud83d \ud83d""#)), "😀 \\ud83d ");
        assert_eq!(joiner.join(read(r#""c""#)), "\u{fffd}c");
        assert_eq!(joiner.join(read(r#""\ude00""#)), "\u{fffd}");
        assert_eq!(joiner.join(read(r#""\ud83d""#)), "");
        assert_eq!(joiner.finish(), Some("\u{fffd}".to_owned()));
    }
}
