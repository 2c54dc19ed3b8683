//! Compares JSON numbers by their exact values: integers beyond 2^53, and integers with fractions.
//!
//! Must not know: where the numbers come from.

use std::cmp::Ordering;

use serde_json::{Number, Value};

/// A bound beyond all JSON integers, which have 64 bits at most; floats beyond it are larger than all of them.
const BEYOND: f64 = 1e30;

/// Compares two numbers.
pub fn order(left: &Number, right: &Number) -> Option<Ordering> {
    match (whole(left), whole(right)) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        (Some(left), None) => order_whole(left, right.as_f64()?),
        (None, Some(right)) => order_whole(right, left.as_f64()?).map(Ordering::reverse),
        (None, None) => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

/// Compares a number with a float. `None`: the float is NaN.
pub fn order_float(left: &Number, right: f64) -> Option<Ordering> {
    match whole(left) {
        Some(left) => order_whole(left, right),
        None => left.as_f64()?.partial_cmp(&right),
    }
}

/// Returns whether two values are equal: numbers by value, containers member by member. The depth of JSON values is limited, so the recursion is, too.
pub fn alike(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => order(left, right) == Some(Ordering::Equal),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| alike(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len() && left.iter().all(|(name, value)| right.get(name).is_some_and(|other| alike(value, other)))
        }
        _ => left == right,
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn order_whole(whole: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float.abs() >= BEYOND {
        return Some(if float > 0.0 { Ordering::Less } else { Ordering::Greater });
    }
    // Exact: an integral float below the bound has an i128 of the same value.
    let floor = float.floor();
    let order = whole.cmp(&(floor as i128));
    Some(if order.is_eq() && floor < float { Ordering::Less } else { order })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(left: &str, right: &str) -> Option<Ordering> {
        let read = |text: &str| serde_json::from_str::<Number>(text).unwrap();
        order(&read(left), &read(right))
    }

    #[test]
    fn numbers_are_compared_exactly() {
        // Each is larger than the one before.
        let rising = [
            "-1e300",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "0",
            "0.5",
            "1",
            "9007199254740991",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616.0",
            "1e300",
        ];
        for (place, left) in rising.iter().enumerate() {
            for (other, right) in rising.iter().enumerate() {
                assert_eq!(compare(left, right), Some(place.cmp(&other)), "{left} {right}");
            }
        }
        for (left, right) in [("1", "1.0"), ("0", "-0.0"), ("9007199254740992", "9007199254740992.0"), ("1e2", "100")] {
            assert_eq!(compare(left, right), Some(Ordering::Equal), "{left} {right}");
        }
        assert_eq!(compare("9007199254740993", "9007199254740992.0"), Some(Ordering::Greater));
        assert_eq!(order_float(&Number::from(1), f64::NAN), None);
        assert_eq!(order_float(&Number::from(1), f64::NEG_INFINITY), Some(Ordering::Greater));
    }

    #[test]
    fn values_are_compared_member_by_member() {
        let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert!(alike(&read(r#"{"a":[1,{"b":2.0}],"c":null}"#), &read(r#"{"c":null,"a":[1.0,{"b":2}]}"#)));
        for other in [r#"{"a":[1]}"#, r#"{"a":[1,2]}"#, r#"{"a":["1"]}"#, r#"{"b":[1]}"#, "[1]", "null"] {
            assert_eq!(alike(&read(r#"{"a":[1]}"#), &read(other)), other == r#"{"a":[1]}"#, "{other}");
        }
    }
}
