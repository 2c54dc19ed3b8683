//! The forms of names in cases, of durations and of dates.

/// `module.action`, both of a-z, 0-9 and `-`.
pub fn is_action(text: &str) -> bool {
    text.split_once('.').is_some_and(|(module, action)| is_module_name(module) && is_module_name(action))
}

/// One or more of a-z, 0-9 and `-`.
pub fn is_module_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The name of a namespace of memory.
pub fn is_namespace(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    text.bytes().all(fits) && text.bytes().next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit())
}

/// Names with dots between them, none of them empty.
pub fn is_dotted(text: &str) -> bool {
    text.split('.').all(|segment| !segment.trim().is_empty())
}

/// The name of an environment variable.
pub fn is_env_name(text: &str) -> bool {
    let starts = text.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    starts && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Whether the value of an environment variable of this name is treated as a secret.
pub fn is_secret_name(name: &str) -> bool {
    const PARTS: &[&str] =
        &["TOKEN", "SECRET", "PASSWORD", "PASSWD", "APIKEY", "API_KEY", "PRIVATE_KEY", "ACCESS_KEY", "COOKIE", "CREDENTIAL", "AUTH"];
    let name = name.to_ascii_uppercase();
    PARTS.iter().any(|part| name.contains(part))
}

/// Milliseconds of a duration: digits, then `ms`, `s`, `m` or `h`.
pub fn parse_duration(text: &str) -> Option<u64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (digits, unit) = text.split_at(end);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

/// Milliseconds since the epoch of a date, or of a date and a time; without a zone it is UTC.
pub fn parse_date(text: &str) -> Option<i64> {
    let text = text.trim();
    let exact = text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
    exact.or_else(|| {
        let date = || text.parse::<jiff::civil::Date>().ok().map(|date| date.at(0, 0, 0, 0));
        let civil = text.parse::<jiff::civil::DateTime>().ok().or_else(date)?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp().as_millisecond())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_digits_and_one_unit() {
        assert_eq!([parse_duration("5ms"), parse_duration(" 2S "), parse_duration("1h")], [Some(5), Some(2_000), Some(3_600_000)]);
        for wrong in ["", "5", "ms", "1.5s", "1h30m", "-1s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn dates_have_a_time_or_not() {
        assert_eq!(parse_date("1970-01-01T00:00:01Z"), Some(1_000));
        assert_eq!(parse_date("1970-01-02"), Some(86_400_000));
        assert_eq!(parse_date("soon"), None);
    }
}
