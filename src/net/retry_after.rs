//! How long the other side asks us to wait.

use std::time::Duration;

use http::HeaderMap;

use crate::clock::Timestamp;

/// Reads `Retry-After` (RFC 9110 section 10.2.3: seconds or an HTTP date) and `retry-after-ms`, which
/// some model providers send beside it and which is finer. `None` when neither is there or readable.
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let finer = text("retry-after-ms").and_then(number).map(|millis| millis / 1_000.0);
    let seconds = finer.or_else(|| text("retry-after").and_then(number));
    match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => text("retry-after").and_then(date).map(|date| date.since(now)).or_else(|| limit_reset(headers, now)),
    }
}

/// When the limit that is used up is reset, by the headers of OpenAI, Groq, OpenRouter and others: `x-ratelimit-reset-requests` and
/// `-tokens` as durations (`6m0s`, `250ms`) or seconds, `x-ratelimit-reset` also as a Unix time in seconds or milliseconds.
fn limit_reset(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let resets = limits(headers, now);
    // A limit that is used up decides; where none says so, the soonest reset is worth a try.
    let used_up = resets.iter().filter(|(_, used_up)| *used_up).map(|(wait, _)| *wait).max();
    used_up.or_else(|| resets.iter().map(|(wait, _)| *wait).min())
}

/// How long a limit is used up, by the headers of a success; `None` while something is left.
pub fn limit_reached(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    limits(headers, now).into_iter().filter(|(_, used_up)| *used_up).map(|(wait, _)| wait).max()
}

/// When each limit is reset, and whether it is used up.
fn limits(headers: &HeaderMap, now: Timestamp) -> Vec<(Duration, bool)> {
    const LIMITS: [(&str, &str); 5] = [
        ("x-ratelimit-reset-requests", "x-ratelimit-remaining-requests"),
        ("x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens"),
        ("x-ratelimit-reset-tokens-minute", "x-ratelimit-remaining-tokens-minute"),
        ("x-ratelimit-reset-requests-day", "x-ratelimit-remaining-requests-day"),
        ("x-ratelimit-reset", "x-ratelimit-remaining"),
    ];
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    LIMITS
        .iter()
        .filter_map(|(reset, remaining)| {
            let used_up = text(remaining).and_then(number).is_some_and(|left| left < 1.0);
            Some((reset_time(text(reset)?, now)?, used_up))
        })
        .collect()
}

fn reset_time(text: &str, now: Timestamp) -> Option<Duration> {
    /// Larger numbers are Unix times.
    const LONGEST_SECONDS: f64 = 1e8;
    if let Some(seconds) = number(text) {
        let at = match seconds {
            seconds if seconds < LONGEST_SECONDS => return Duration::try_from_secs_f64(seconds).ok(),
            seconds if seconds < LONGEST_SECONDS * 100.0 => seconds * 1_000.0,
            millis => millis,
        };
        #[expect(clippy::cast_possible_truncation, reason = "below 2^53 for any date")]
        return (at < 9e15).then(|| Timestamp::from_millis(at as i64).since(now));
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp::from_millis(time.as_millisecond()).since(now));
    }
    span(text)
}

/// A duration as Go writes it: `1h2m3.5s`, `250ms`.
fn span(mut text: &str) -> Option<Duration> {
    let mut sum = Duration::ZERO;
    while !text.is_empty() {
        let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (amount, rest) = text.split_at_checked(digits)?;
        let unit_len = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at_checked(unit_len)?;
        let seconds = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "d" => 86_400.0,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number(amount)? * seconds).ok()?)?;
        text = rest;
    }
    (!sum.is_zero()).then_some(sum)
}

fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0)
}

/// The three forms of an HTTP date (RFC 9110 section 5.6.7): the preferred one, RFC 850's and asctime's.
fn date(text: &str) -> Option<Timestamp> {
    const FORMS: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let time = FORMS.iter().find_map(|form| jiff::civil::DateTime::strptime(form, text).ok())?;
    let utc = time.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp::from_millis(utc.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = Timestamp::from_millis(784_111_777_000);
        retry_after(&headers, now).map(|wait| u64::try_from(wait.as_millis()).unwrap())
    }

    #[test]
    fn seconds_dates_and_milliseconds_are_read() {
        assert_eq!(read(&[("retry-after", "120")]), Some(120_000));
        assert_eq!(read(&[("retry-after", "1.5")]), Some(1_500));
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), Some(60_000));
        assert_eq!(read(&[("retry-after", "Sunday, 06-Nov-94 08:50:37 GMT")]), Some(60_000));
        assert_eq!(read(&[("retry-after", "Sun Nov  6 08:50:37 1994")]), Some(60_000));
        assert_eq!(read(&[("retry-after", "2"), ("retry-after-ms", "250")]), Some(250));
    }

    #[test]
    fn resets_of_limits_are_read() {
        assert_eq!(read(&[("x-ratelimit-reset-requests", "6m0s")]), Some(360_000));
        assert_eq!(read(&[("x-ratelimit-reset-tokens", "250ms"), ("x-ratelimit-reset-requests", "1s")]), Some(250));
        let used_up = [("x-ratelimit-reset-tokens", "2s"), ("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-requests", "1s")];
        assert_eq!(read(&used_up), Some(2_000));
        assert_eq!(read(&[("x-ratelimit-reset", "784111780")]), Some(3_000));
        assert_eq!(read(&[("x-ratelimit-reset", "784111778500")]), Some(1_500));
        assert_eq!(read(&[("retry-after", "7"), ("x-ratelimit-reset-requests", "1s")]), Some(7_000));
        assert_eq!(read(&[("x-ratelimit-reset-requests", "soon")]), None);
    }

    #[test]
    fn a_past_date_means_now_and_nonsense_means_nothing() {
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0));
        for nonsense in ["", "soon", "-5", "NaN", "inf", "1e400"] {
            assert_eq!(read(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(read(&[]), None);
    }
}
