//! When something recurs: a cron pattern in a time zone, and the times it names.
//!
//! A pattern whose hour, minute and second are one value each fires once a day: a time that a change of clocks skips fires right after the change, and one
//! that is repeated fires the first time only. Other patterns follow the clock: skipped times do not fire, and repeated times fire twice.

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

/// Maximum length of a pattern, in bytes: patterns of all tenants are parsed again each time they are due.
const MAX_PATTERN_BYTES: usize = 1_000;

impl Cadence {
    pub fn new(pattern: &str, zone: &str) -> Result<Self, Fault> {
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(Fault::Pattern(format!("expected at most {MAX_PATTERN_BYTES} bytes, got {}", pattern.len())));
        }
        let pattern = match pattern.trim().strip_prefix("@every ") {
            Some(length) => Pattern::Every(every(length.trim()).ok_or_else(|| Fault::Pattern(format!("`@every {length}`: {EVERY}")))?),
            None => {
                check_form(pattern.trim())?;
                let pattern = if pattern.trim().eq_ignore_ascii_case(MIDNIGHT) { "@daily" } else { pattern.trim() };
                let cron = Cron::from_str(pattern).map_err(|error| Fault::Pattern(explain(pattern, &error.to_string())))?;
                Pattern::Cron(Box::new(cron))
            }
        };
        let zone = TimeZone::get(zone).map_err(|_| Fault::Zone(unknown_zone(zone)))?;
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

/// Returns what is wrong with the name of a time zone, for callers that report it beside a fault of the pattern.
pub fn zone_fault(zone: &str) -> Option<String> {
    TimeZone::get(zone).is_err().then(|| unknown_zone(zone))
}

fn unknown_zone(zone: &str) -> String {
    format!("no time zone `{zone}`; expected an IANA name such as Europe/Berlin")
}

/// The fields of a pattern with seconds, and their values.
const FIELD_NAMES: [&str; 6] = [
    "second (0 to 59)",
    "minute (0 to 59)",
    "hour (0 to 23)",
    "day of the month (1 to 31)",
    "month (1 to 12, or JAN to DEC)",
    "day of the week (0 to 7, or SUN to SAT)",
];

/// Names the fields of a pattern that cannot be parsed, since the parser does not; each is tried alone.
fn explain(pattern: &str, error: &str) -> String {
    let parts: Vec<&str> = pattern.split_whitespace().collect();
    let names = FIELD_NAMES.iter().skip(FIELD_NAMES.len().saturating_sub(parts.len()));
    let mut faults = Vec::new();
    for (index, (part, name)) in parts.iter().copied().zip(names).enumerate() {
        let mut alone = vec!["*"; parts.len()];
        if let Some(field) = alone.get_mut(index) {
            *field = part;
        }
        if Cron::from_str(&alone.join(" ")).is_err() {
            faults.push(format!("`{part}` is not valid for the {name}"));
        }
    }
    if faults.is_empty() { format!("not a cron pattern: {error}") } else { format!("not a cron pattern: {}", faults.join("; ")) }
}

/// The words that stand for a pattern.
const WORDS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", MIDNIGHT, "@hourly"];
/// A synonym of `@daily`.
const MIDNIGHT: &str = "@midnight";

/// The fields of a pattern: the number of values of each, and the unit of a step where that is a fixed duration.
const FIELDS: [(u32, Option<char>); 6] = [(60, Some('s')), (60, Some('m')), (24, Some('h')), (31, None), (12, None), (7, None)];

/// Refuses steps larger than their field's range: `*/90` for minutes would mean every hour. Applied to new patterns only; a time zone may stand in front.
pub fn check_steps(pattern: &str) -> Result<(), Fault> {
    let parts: Vec<&str> = pattern.split_whitespace().filter(|part| !part.contains("TZ=")).collect();
    // Without seconds the first field is the minutes.
    let fields = FIELDS.iter().skip(FIELDS.len().saturating_sub(parts.len()));
    for (part, (values, unit)) in parts.iter().zip(fields) {
        let mut steps = part.split(',').filter_map(|item| item.split_once('/')?.1.parse::<u32>().ok());
        if let Some(step) = steps.find(|step| step > values) {
            let every = unit.map(|unit| format!("; for a fixed interval write `@every {step}{unit}`")).unwrap_or_default();
            return Err(Fault::Pattern(format!("the step of `{part}` is larger than its field's range of {values} values{every}")));
        }
    }
    Ok(())
}

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
    fn the_wrong_fields_of_a_pattern_are_named() {
        let fault = |pattern: &str| match Cadence::new(pattern, "UTC") {
            Err(Fault::Pattern(why)) => why,
            other => panic!("{pattern}: {other:?}"),
        };
        assert_eq!(fault("61 * * * *"), "not a cron pattern: `61` is not valid for the minute (0 to 59)");
        let both = fault("* 61 * * 13 *");
        assert!(both.contains("`61` is not valid for the minute") && both.contains("`13` is not valid for the month"), "{both}");
        assert_eq!(zone_fault("Europe/Berlin"), None);
        assert!(zone_fault("Europe/Berln").is_some_and(|why| why.contains("`Europe/Berln`")));
    }

    #[test]
    fn the_length_of_a_pattern_is_limited() {
        let pattern = |parts: usize| format!("{}0 * * * *", "*/5,".repeat(parts));
        assert!(Cadence::new(&pattern(200), "UTC").is_ok());
        assert!(matches!(Cadence::new(&pattern(250), "UTC"), Err(Fault::Pattern(why)) if why.contains("1000 bytes")));
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
    fn the_descriptors_of_go_s_parser_are_known() {
        for (word, next) in [
            ("@yearly", "2027-01-01T00:00:00.000Z"),
            ("@annually", "2027-01-01T00:00:00.000Z"),
            ("@monthly", "2026-03-01T00:00:00.000Z"),
            ("@weekly", "2026-02-15T00:00:00.000Z"),
            ("@daily", "2026-02-12T00:00:00.000Z"),
            ("@midnight", "2026-02-12T00:00:00.000Z"),
            ("@hourly", "2026-02-11T11:00:00.000Z"),
            ("@every 1h", "2026-02-11T11:00:00.000Z"),
        ] {
            // A Wednesday.
            assert_eq!(following(word, "UTC", "2026-02-11T10:30:00Z", 1), [next], "{word}");
        }
    }

    #[test]
    fn midnight_is_a_synonym_of_daily() {
        let after = "2026-01-01T00:00:00Z";
        assert_eq!(following("@midnight", "Asia/Kathmandu", after, 2), following("@daily", "Asia/Kathmandu", after, 2));
        assert_eq!(following("@Midnight", "UTC", after, 1), ["2026-01-02T00:00:00.000Z"]);
    }

    #[test]
    fn a_step_is_not_larger_than_its_field() {
        for right in [
            "*/60 * * * *",
            "*/5 */24 * * *",
            "0 0 */31 */12 */7",
            "*/60 * * * * *",
            "0-30/10,45 * * * *",
            "@daily",
            "TZ=Etc/GMT+5 */5 * * * *",
        ] {
            assert_eq!(check_steps(right), Ok(()), "{right}");
        }
        for (wrong, told) in [
            ("*/90 * * * *", "`@every 90m`"),
            ("*/90 * * * * *", "`@every 90s`"),
            ("0 1,*/36 * * *", "`@every 36h`"),
            ("CRON_TZ=Europe/Berlin 0 0 */40 * *", "31 values"),
            ("0 0 1 */13 *", "12 values"),
        ] {
            let refused = check_steps(wrong).map_err(|fault| match fault {
                Fault::Pattern(why) | Fault::Zone(why) => why,
            });
            assert!(refused.is_err_and(|why| why.contains(told)), "{wrong}");
        }
    }

    /// In the night of 25 October 2026 the hour from 2 to 3 is repeated in Berlin; in that of 29 March it is skipped.
    #[test]
    fn patterns_that_recur_within_the_day_follow_the_clock() {
        let autumn = |pattern: &str| following(pattern, "Europe/Berlin", "2026-10-24T23:59:00Z", 5);
        assert_eq!(
            autumn("*/30 2-3 * * *")[..4],
            ["2026-10-25T00:00:00.000Z", "2026-10-25T00:30:00.000Z", "2026-10-25T01:00:00.000Z", "2026-10-25T01:30:00.000Z"]
        );
        assert_eq!(autumn("30 2 * * *")[..2], ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"]);
        let spring = |pattern: &str| following(pattern, "Europe/Berlin", "2026-03-28T23:59:00Z", 2);
        assert_eq!(spring("*/30 2 * * *"), ["2026-03-30T00:00:00.000Z", "2026-03-30T00:30:00.000Z"]);
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
