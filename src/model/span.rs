//! Lengths of time as people write them: `30d`, `1h30m`, `90s`, `250ms`.

use std::time::Duration;

/// Reads a length of time; `None` when the text is none, or longer than can be counted.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut whole: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let end = after.find(|letter: char| letter.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let millis = match unit {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        whole = whole.checked_add(number.parse::<u64>().ok()?.checked_mul(millis)?)?;
        rest = after;
    }
    Some(Duration::from_millis(whole))
}

/// Writes a length of time as one number with the largest unit that leaves no rest.
pub fn format(span: Duration) -> String {
    let millis = span.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let fitting = units.into_iter().find(|(_, unit)| millis > 0 && millis.is_multiple_of(*unit));
    fitting.map_or_else(|| format!("{millis}ms"), |(name, unit)| format!("{}{name}", millis / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        for (text, millis) in
            [("720h", 2_592_000_000), ("30d", 2_592_000_000), (" 1h30m ", 5_400_000), ("0s", 0), ("250ms", 250), ("1m1ms", 60_001)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", " ", "5", "h", "1w", "-5m", "1 h", "1h 30m", "5m3", "1µs", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn lengths_of_time_are_written_as_they_are_read() {
        for text in ["30d", "36h", "90m", "45s", "250ms"] {
            assert_eq!(parse(text).map(format).as_deref(), Some(text));
        }
    }
}
