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
        None => text("retry-after").and_then(date).map(|date| date.since(now)),
    }
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
    fn a_past_date_means_now_and_nonsense_means_nothing() {
        assert_eq!(read(&[("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(0));
        for nonsense in ["", "soon", "-5", "NaN", "inf", "1e400"] {
            assert_eq!(read(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(read(&[]), None);
    }
}
