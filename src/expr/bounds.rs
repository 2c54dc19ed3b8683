//! How deep and how heavy a value of a run may be.
//!
//! Every value that a step makes is journaled, shown and handed on, each time in another form: what is too heavy here is
//! many times heavier there, and what is too deep can be written but never read back.

use std::fmt;

use serde_json::Value;

/// Levels of lists and objects within each other.
pub const MAX_DEPTH: usize = 64;
/// What a node weighs besides its text: about its size in memory.
const NODE: usize = 32;

/// Levels of lists and objects; 0 for a plain value.
pub fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// About what the value takes in memory, in bytes.
pub fn weight(value: &Value) -> usize {
    NODE + match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + weight(value)).sum(),
        _ => 0,
    }
}

/// Why a value cannot be a step's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    TooDeep,
    TooLarge { weight: usize, max_weight: usize },
}

impl Misfit {
    /// What is wrong with the value, if anything is; `max_weight` is the maximum of [`weight`].
    pub fn of(value: &Value, max_weight: usize) -> Option<Self> {
        if depth(value) > MAX_DEPTH {
            return Some(Self::TooDeep);
        }
        let weight = weight(value);
        (weight > max_weight).then_some(Self::TooLarge { weight, max_weight })
    }

    /// Stable identifier.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooDeep => "value_too_deep",
            Self::TooLarge { .. } => "value_too_large",
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: usize = 1024 * 1024;
        match self {
            Self::TooDeep => write!(f, "the value nests deeper than {MAX_DEPTH} levels"),
            // Whole MiB where they tell the difference.
            Self::TooLarge { weight, max_weight } if max_weight.is_multiple_of(MIB) => {
                write!(f, "the value takes {} MiB of memory; a step may make {}", weight.div_ceil(MIB), max_weight / MIB)
            }
            Self::TooLarge { weight, max_weight } => {
                write!(f, "the value takes {weight} bytes of memory; a step may make {max_weight}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_WEIGHT: usize = 24 * 1024 * 1024;

    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Null, |value, _| Value::Array(vec![value]))
    }

    #[test]
    fn a_value_may_be_as_deep_as_the_limit_and_no_deeper() {
        assert_eq!(Misfit::of(&nested(MAX_DEPTH), MAX_WEIGHT), None);
        assert_eq!(Misfit::of(&nested(MAX_DEPTH + 1), MAX_WEIGHT), Some(Misfit::TooDeep));
    }

    #[test]
    fn many_small_things_weigh_as_much_as_one_large_one() {
        let text = |bytes: usize| Value::String("x".repeat(bytes));
        assert_eq!(Misfit::of(&text(MAX_WEIGHT - NODE), MAX_WEIGHT), None);
        let too_large = Misfit::TooLarge { weight: MAX_WEIGHT + NODE, max_weight: MAX_WEIGHT };
        assert_eq!(Misfit::of(&text(MAX_WEIGHT), MAX_WEIGHT), Some(too_large));
        let many = Value::Array(vec![Value::from(1); MAX_WEIGHT / NODE]);
        assert_eq!(Misfit::of(&many, MAX_WEIGHT).map(Misfit::code), Some("value_too_large"));
    }
}
