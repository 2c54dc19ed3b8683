//! Numbers, and how values compare.

use std::cmp::Ordering;

use serde_json::Value;

use crate::expr::value;
use crate::number;

/// A value as a number: text is read as one, everything else is zero.
pub fn float(value: &Value) -> f64 {
    match value {
        Value::Number(number) => number.as_f64().unwrap_or(0.0),
        Value::String(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()).unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A value as a whole number; fractions are cut.
pub fn whole(value: &Value) -> i64 {
    exact(value).unwrap_or_else(|| float(value) as i64)
}

/// A value that is a whole number, or a text of one.
fn exact(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null => Some(0),
        _ => None,
    }
}

/// Applies an operation exactly when both sides are whole and it does not overflow.
fn arithmetic(left: &Value, right: &Value, whole: fn(i64, i64) -> Option<i64>, float: fn(f64, f64) -> f64) -> Value {
    match (exact(left), exact(right)) {
        (Some(a), Some(b)) if whole(a, b).is_some() => whole(a, b).into(),
        (a, b) => {
            let result = float(self::float(left), self::float(right));
            // Two whole numbers that overflowed, or a fraction: 0.5 + 0.5 stays 1.0.
            if a.is_some() && b.is_some() { value::number(result) } else { fraction(result) }
        }
    }
}

fn fraction(number: f64) -> Value {
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

pub fn plus(left: &Value, right: &Value) -> Value {
    arithmetic(left, right, i64::checked_add, |a, b| a + b)
}

pub fn minus(left: &Value, right: &Value) -> Value {
    arithmetic(left, right, i64::checked_sub, |a, b| a - b)
}

pub fn times(left: &Value, right: &Value) -> Value {
    arithmetic(left, right, i64::checked_mul, |a, b| a * b)
}

/// Two whole numbers divide to a whole number, rounded down.
pub fn divided_by(left: &Value, right: &Value) -> Result<Value, String> {
    if float(right) == 0.0 {
        return Err("division by zero".into());
    }
    let floored = |a: i64, b: i64| {
        let quotient = a.checked_div(b)?;
        Some(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
    };
    Ok(arithmetic(left, right, floored, |a, b| a / b))
}

pub fn modulo(left: &Value, right: &Value) -> Result<Value, String> {
    if float(right) == 0.0 {
        return Err("division by zero".into());
    }
    let floored = |a: i64, b: i64| a.checked_rem(b).map(|rest| if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest });
    Ok(arithmetic(left, right, floored, |a, b| a - b * (a / b).floor()))
}

pub fn round(number: &Value, digits: &Value) -> Value {
    if let Some(exact) = exact(number) {
        return exact.into();
    }
    let digits = i32::try_from(whole(digits).clamp(0, 15)).unwrap_or(0);
    if digits == 0 {
        return value::number(float(number).round());
    }
    let scale = 10f64.powi(digits);
    fraction((float(number) * scale).round() / scale)
}

pub fn abs(number: &Value) -> Value {
    exact(number).and_then(i64::checked_abs).map_or_else(|| fraction(float(number).abs()), Value::from)
}

pub fn extreme(left: &Value, right: &Value, wanted: Ordering) -> Value {
    let chosen = if float(left).partial_cmp(&float(right)) == Some(wanted) { left } else { right };
    exact(chosen).map_or_else(|| fraction(float(chosen)), Value::from)
}

/// Equality of Liquid: numbers by value, everything else by type and content.
pub fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => number::order(a, b) == Some(Ordering::Equal),
        _ => left == right,
    }
}

/// Order of numbers among numbers and texts among texts; nothing else has one.
pub fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => number::order(a, b),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}
