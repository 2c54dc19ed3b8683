//! When something recurs: a cron pattern in a time zone, and the times it names.
//!
//! A time that a change of clocks leaves out comes when the clocks have changed; one that comes twice is named once.

use std::str::FromStr;

use croner::Cron;
use jiff::Zoned;
use jiff::tz::TimeZone;

use super::span;
use crate::clock::Timestamp;

/// A pattern of five fields, or of six with seconds in front, or `@hourly`, `@daily` and so on, read in a time zone; or `@every 90s`: whenever so
/// much time has passed since 1970, so that whoever asks is told the same.
#[derive(Debug, Clone)]
pub struct Cadence {
    pattern: Pattern,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum Pattern {
    Cron(Box<Cron>),
    /// Milliseconds.
    Every(i64),
}

/// What is wrong with a pattern or a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Pattern(String),
    Zone(String),
}

impl Cadence {
    pub fn new(pattern: &str, zone: &str) -> Result<Self, Fault> {
        let pattern = match pattern.trim().strip_prefix("@every ") {
            Some(length) => Pattern::Every(every(length.trim()).ok_or_else(|| Fault::Pattern(format!("`@every {length}`: {EVERY}")))?),
            None => {
                check_form(pattern.trim())?;
                let cron = Cron::from_str(pattern.trim()).map_err(|error| Fault::Pattern(format!("not a cron pattern: {error}")))?;
                Pattern::Cron(Box::new(cron))
            }
        };
        let zone =
            TimeZone::get(zone).map_err(|_| Fault::Zone(format!("no time zone `{zone}`; expected an IANA name such as Europe/Berlin")))?;
        Ok(Self { pattern, zone })
    }

    /// The first time after `after`; none when there will never be one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let cron = match &self.pattern {
            Pattern::Cron(cron) => cron,
            Pattern::Every(length) => {
                let slot = after.as_millis().div_euclid(*length).checked_add(1)?.checked_mul(*length)?;
                return Some(Timestamp::from_millis(slot)).filter(|slot| *slot > after && *slot < Timestamp::MAX);
            }
        };
        let from: Zoned = jiff::Timestamp::from_millisecond(after.as_millis()).ok()?.to_zoned(self.zone.clone());
        let next = cron.find_next_occurrence(&from, false).ok()?;
        Some(Timestamp::from_millis(next.timestamp().as_millisecond())).filter(|next| *next > after)
    }

    /// The times after `after`, in their order.
    pub fn following(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> + '_ {
        std::iter::successors(self.next(after), |last| self.next(*last))
    }
}

/// The words that stand for a pattern.
const WORDS: [&str; 6] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@hourly"];

fn check_form(pattern: &str) -> Result<(), Fault> {
    let fields = pattern.split_whitespace().count();
    if pattern.starts_with('@') {
        let known = WORDS.iter().any(|word| word.eq_ignore_ascii_case(pattern));
        return if known { Ok(()) } else { Err(Fault::Pattern(format!("`{pattern}` is none of {}, `@every`", WORDS.join(", ")))) };
    }
    if (5..=6).contains(&fields) {
        return Ok(());
    }
    Err(Fault::Pattern(format!("expected five fields, or six with seconds in front; this has {fields}")))
}

const EVERY: &str = "expected a length of time of at least a second, as `90s`, `5m` or `1h30m`";

/// A length of time in milliseconds.
fn every(text: &str) -> Option<i64> {
    span::parse(text).and_then(|length| i64::try_from(length.as_millis()).ok()).filter(|length| *length >= 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::from_millis(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn following(pattern: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let cadence = Cadence::new(pattern, zone).unwrap();
        cadence.following(at(after)).take(count).map(|time| time.to_string()).collect()
    }

    #[test]
    fn patterns_are_read_in_their_zone() {
        assert_eq!(
            following("0 9 * * 1-5", "America/New_York", "2026-11-27T00:00:00Z", 3),
            ["2026-11-27T14:00:00.000Z", "2026-11-30T14:00:00.000Z", "2026-12-01T14:00:00.000Z"]
        );
        assert_eq!(following("*/20 * * * * *", "UTC", "2026-01-01T00:00:05Z", 2), ["2026-01-01T00:00:20.000Z", "2026-01-01T00:00:40.000Z"]);
        assert_eq!(following("@daily", "Asia/Kathmandu", "2026-01-01T00:00:00Z", 1), ["2026-01-01T18:15:00.000Z"]);
    }

    #[test]
    fn every_so_often_is_the_same_whoever_asks() {
        assert_eq!(following("@every 1h30m", "UTC", "2026-01-01T00:00:05Z", 2), ["2026-01-01T01:30:00.000Z", "2026-01-01T03:00:00.000Z"]);
        assert_eq!(following("@every 90s", "UTC", "2026-01-01T00:01:29Z", 1), ["2026-01-01T00:01:30.000Z"]);
        for wrong in ["", "5", "m", "1x", "0s", "-5m", "99999999999999999999h", "500ms"] {
            assert!(matches!(Cadence::new(&format!("@every {wrong}"), "UTC"), Err(Fault::Pattern(_))), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_no_zone_is_told() {
        assert!(matches!(Cadence::new("61 * * * *", "UTC"), Err(Fault::Pattern(_))));
        assert!(matches!(Cadence::new("", "UTC"), Err(Fault::Pattern(_))));
        assert!(matches!(Cadence::new("* * * * *", "Mars/Olympus"), Err(Fault::Zone(_))));
        assert_eq!(
            Cadence::new("0 0 30 2 *", "UTC").map(|cadence| cadence.next(at("2026-01-01T00:00:00Z"))),
            Ok(None).map_err(|(): ()| Fault::Zone(String::new()))
        );
    }

    /// Every change of clocks of a year in ten zones: each day's 02:30, and each day's local midnight, come exactly once.
    #[test]
    fn a_change_of_clocks_neither_doubles_nor_loses_a_day() {
        let zones = [
            "Europe/Berlin",
            "Europe/London",
            "America/New_York",
            "America/Sao_Paulo",
            "America/Santiago",
            "Africa/Cairo",
            "Asia/Beirut",
            "Australia/Lord_Howe",
            "Pacific/Auckland",
            "America/St_Johns",
        ];
        for zone in zones {
            let tz = TimeZone::get(zone).unwrap();
            for pattern in ["30 2 * * *", "0 0 * * *", "30 1 * * *"] {
                let cadence = Cadence::new(pattern, zone).unwrap();
                let (begin, end) = (at("2025-12-31T12:00:00Z"), at("2027-01-01T12:00:00Z"));
                let times: Vec<Timestamp> = cadence.following(begin).take_while(|time| *time < end).collect();
                let days: Vec<_> = times
                    .iter()
                    .map(|time| jiff::Timestamp::from_millisecond(time.as_millis()).unwrap().to_zoned(tz.clone()).date())
                    .collect();
                let mut distinct = days.clone();
                distinct.dedup();
                assert_eq!(days, distinct, "{zone} {pattern}: no day twice");
                assert!((365..=367).contains(&days.len()), "{zone} {pattern}: {} days", days.len());
                assert!(days.windows(2).all(|pair| pair[0].tomorrow().unwrap() == pair[1]), "{zone} {pattern}: a day is missing");
            }
        }
    }
}
