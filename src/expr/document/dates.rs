//! The `date` filter: strftime over whatever can be read as a time.

use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde_json::Value;

use crate::clock;

/// Formats a time; what is not a time passes unchanged, as in Liquid.
pub fn date(value: Value, format: &str, now: clock::Timestamp) -> Result<Value, String> {
    let Some(time) = read(&value, now) else { return Ok(value) };
    if format.is_empty() {
        return Ok(value);
    }
    jiff::fmt::strtime::format(format, &time).map(Value::String).map_err(|fault| fault.to_string())
}

fn read(value: &Value, now: clock::Timestamp) -> Option<Zoned> {
    let utc = |time: Timestamp| time.to_zoned(TimeZone::UTC);
    let text = match value {
        Value::Number(seconds) => return Timestamp::from_second(seconds.as_i64()?).ok().map(utc),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    if text == "now" || text == "today" {
        return Timestamp::from_millisecond(now.as_millis()).ok().map(utc);
    }
    if let Ok(seconds) = text.parse() {
        return Timestamp::from_second(seconds).ok().map(utc);
    }
    // With an offset, the time is shown where it was written.
    if let Ok(pieces) = jiff::fmt::temporal::Pieces::parse(text)
        && let Some(offset) = pieces.to_numeric_offset()
    {
        return text.parse::<Timestamp>().ok().map(|time| time.to_zoned(TimeZone::fixed(offset)));
    }
    let civil = text.parse::<civil::DateTime>().ok().and_then(|time| time.to_zoned(TimeZone::UTC).ok());
    civil.or_else(|| jiff::fmt::rfc2822::parse(text).ok())
}
