//! Versions and ranges of versions, as npm writes them.

use std::cmp::Ordering;
use std::fmt;

/// A version: `1.2.3`, `1.2.3-beta.1`. Build metadata is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: [u64; 3],
    /// Identifiers after `-`; empty for a release.
    pre: Vec<String>,
}

impl Version {
    /// Parses a complete version.
    pub fn parse(text: &str) -> Option<Self> {
        let partial = PartialVersion::parse(text)?;
        let [Some(major), Some(minor), Some(patch)] = partial.numbers else { return None };
        Some(Self { numbers: [major, minor, patch], pre: partial.pre })
    }

    fn release(major: u64, minor: u64, patch: u64) -> Self {
        Self { numbers: [major, minor, patch], pre: Vec::new() }
    }

    /// Returns the lowest version of all with these numbers: ranges end before its prereleases.
    fn floor(major: u64, minor: u64, patch: u64) -> Self {
        Self { numbers: [major, minor, patch], pre: vec!["0".into()] }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre.join(".")) }
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    /// The precedence of semver.org, section 11.
    fn cmp(&self, other: &Self) -> Ordering {
        let numbers = self.numbers.cmp(&other.numbers);
        numbers.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => compare_identifiers(&self.pre, &other.pre),
        })
    }
}

fn compare_identifiers(one: &[String], other: &[String]) -> Ordering {
    let mut pairs = one.iter().zip(other).map(|(one, other)| match (one.parse::<u64>(), other.parse::<u64>()) {
        (Ok(one), Ok(other)) => one.cmp(&other),
        (Ok(_), Err(_)) => Ordering::Less,
        (Err(_), Ok(_)) => Ordering::Greater,
        (Err(_), Err(_)) => one.cmp(other),
    });
    let first = pairs.find(|order| order.is_ne());
    first.unwrap_or_else(|| one.len().cmp(&other.len()))
}

/// A version some of whose numbers may be missing: `1`, `1.2.x`, `*`.
struct PartialVersion {
    numbers: [Option<u64>; 3],
    pre: Vec<String>,
}

impl PartialVersion {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix(['v', '=']).unwrap_or(text).trim_start();
        let text = text.split('+').next().unwrap_or_default();
        let (numbers, pre) = text.split_once('-').map_or((text, None), |(numbers, pre)| (numbers, Some(pre)));
        let mut parsed = [None; 3];
        let parts: Vec<&str> = if numbers.is_empty() { Vec::new() } else { numbers.split('.').collect() };
        if parts.len() > 3 {
            return None;
        }
        let mut is_open = false;
        for (place, part) in parsed.iter_mut().zip(parts) {
            if matches!(part, "x" | "X" | "*") {
                is_open = true;
            } else {
                let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
                let number = is_number.then(|| part.parse::<u64>().ok()).flatten()?;
                if !is_open {
                    *place = Some(number);
                }
            }
        }
        let pre: Vec<String> = pre.map(|pre| pre.split('.').map(str::to_owned).collect()).unwrap_or_default();
        let is_valid =
            |identifier: &String| !identifier.is_empty() && identifier.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        pre.iter().all(is_valid).then_some(Self { numbers: parsed, pre })
    }

    /// Returns the lowest version that it covers.
    fn low(&self) -> Version {
        let [major, minor, patch] = self.numbers.map(Option::unwrap_or_default);
        Version { numbers: [major, minor, patch], pre: self.pre.clone() }
    }

    /// Returns the first version after all that it covers; `None`: it covers all.
    fn end(&self) -> Option<Version> {
        match self.numbers {
            [None, ..] => None,
            [Some(major), None, _] => Some(Version::floor(major.saturating_add(1), 0, 0)),
            [Some(major), Some(minor), None] => Some(Version::floor(major, minor.saturating_add(1), 0)),
            [Some(major), Some(minor), Some(patch)] => Some(Version::release(major, minor, patch)),
        }
    }

    fn is_complete(&self) -> bool {
        self.numbers.iter().all(Option::is_some)
    }
}

/// A range of versions: `^1.2.0`, `~1.2`, `>=1 <3`, `1.x || 2.0.0`, `1.0.0 - 2.0.0`.
#[derive(Debug, Clone)]
pub struct VersionRange {
    /// One of these sets of bounds must hold.
    choices: Vec<Vec<VersionBound>>,
}

#[derive(Debug, Clone)]
enum VersionBound {
    Exactly(Version),
    AtLeast(Version),
    Above(Version),
    AtMost(Version),
    Below(Version),
}

impl VersionRange {
    /// Parses a range; `None` when the text is none.
    pub fn parse(text: &str) -> Option<Self> {
        let choices = text.split("||").map(|choice| parse_choice(choice.trim()));
        choices.collect::<Option<Vec<_>>>().map(|choices| Self { choices })
    }

    /// Reports whether a version is in the range. A prerelease is only where a bound with the same numbers names one.
    pub fn matches(&self, version: &Version) -> bool {
        self.choices.iter().any(|bounds| {
            let names_prerelease = |bound: &VersionBound| {
                let limit = bound.version();
                limit.numbers == version.numbers && !limit.pre.is_empty()
            };
            bounds.iter().all(|bound| bound.holds(version)) && (version.pre.is_empty() || bounds.iter().any(names_prerelease))
        })
    }
}

impl VersionBound {
    fn version(&self) -> &Version {
        match self {
            Self::Exactly(version) | Self::AtLeast(version) | Self::Above(version) | Self::AtMost(version) | Self::Below(version) => {
                version
            }
        }
    }

    fn holds(&self, version: &Version) -> bool {
        match self {
            Self::Exactly(limit) => version == limit,
            Self::AtLeast(limit) => version >= limit,
            Self::Above(limit) => version > limit,
            Self::AtMost(limit) => version <= limit,
            Self::Below(limit) => version < limit,
        }
    }
}

/// The bounds of a choice, which must all hold.
fn parse_choice(text: &str) -> Option<Vec<VersionBound>> {
    if let Some((low, high)) = text.split_once(" - ") {
        let (low, high) = (PartialVersion::parse(low)?, PartialVersion::parse(high)?);
        let upper = match high.end() {
            Some(_) if high.is_complete() => Some(VersionBound::AtMost(high.low())),
            end => end.map(VersionBound::Below),
        };
        return Some([Some(VersionBound::AtLeast(low.low())), upper].into_iter().flatten().collect());
    }
    let mut bounds = Vec::new();
    let mut operator = "";
    for word in text.split_whitespace() {
        // An operator may stand apart from its version: `>= 1.2`.
        if matches!(word, ">=" | "<=" | ">" | "<" | "^" | "~" | "=") && operator.is_empty() {
            operator = word;
            continue;
        }
        let split = word.find(|letter: char| !matches!(letter, '>' | '<' | '=' | '^' | '~')).unwrap_or(word.len());
        let (own, version) = word.split_at(split);
        let used = if operator.is_empty() { own } else { operator };
        bounds.extend(parse_bounds(used, &PartialVersion::parse(version)?)?);
        operator = "";
    }
    operator.is_empty().then_some(bounds)
}

fn parse_bounds(operator: &str, partial: &PartialVersion) -> Option<Vec<VersionBound>> {
    let low = partial.low();
    let within = |end: Option<Version>| {
        [Some(VersionBound::AtLeast(low.clone())), end.map(VersionBound::Below)].into_iter().flatten().collect::<Vec<_>>()
    };
    Some(match operator {
        "" | "=" if partial.is_complete() => vec![VersionBound::Exactly(low)],
        "" | "=" => within(partial.end()),
        "^" => within(caret_end(partial)),
        "~" | "~>" => within(tilde_end(partial)),
        ">=" => vec![VersionBound::AtLeast(low)],
        "<" => vec![VersionBound::Below(low)],
        ">" if partial.is_complete() => vec![VersionBound::Above(low)],
        ">" => vec![partial.end().map_or_else(|| VersionBound::Below(Version::floor(0, 0, 0)), VersionBound::AtLeast)],
        "<=" if partial.is_complete() => vec![VersionBound::AtMost(low)],
        "<=" => partial.end().map(VersionBound::Below).into_iter().collect(),
        _ => return None,
    })
}

fn caret_end(partial: &PartialVersion) -> Option<Version> {
    match partial.numbers {
        [None, ..] => None,
        [Some(0), Some(0), Some(patch)] => Some(Version::floor(0, 0, patch.saturating_add(1))),
        [Some(0), Some(minor), _] => Some(Version::floor(0, minor.saturating_add(1), 0)),
        [Some(major), ..] => Some(Version::floor(major.saturating_add(1), 0, 0)),
    }
}

fn tilde_end(partial: &PartialVersion) -> Option<Version> {
    match partial.numbers {
        [None, ..] => None,
        [Some(major), None, _] => Some(Version::floor(major.saturating_add(1), 0, 0)),
        [Some(major), Some(minor), _] => Some(Version::floor(major, minor.saturating_add(1), 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_npm_says() {
        let cases = [
            ("^1.2.0", "1.9.9", true),
            ("^1.2.0", "2.0.0", false),
            ("^0.2.3", "0.2.9", true),
            ("^0.2.3", "0.3.0", false),
            ("^0.0.3", "0.0.4", false),
            ("~1.2", "1.2.7", true),
            ("~1.2", "1.3.0", false),
            (">=1.0.0 <2", "1.5.0", true),
            (">= 1.0.0 < 2", "2.0.0", false),
            ("1.x || 3.0.0", "3.0.0", true),
            ("1.0.0 - 2.1", "2.1.9", true),
            ("1.0.0 - 2.1", "2.2.0", false),
            ("*", "0.0.1", true),
            ("1.0.0", "1.0.1", false),
            ("^1.0.0", "2.0.0-beta.1", false),
            ("^1.0.0-beta.1", "1.0.0-beta.2", true),
            ("^1.0.0", "1.1.0-beta.1", false),
        ];
        for (range, version, expected) in cases {
            let found = VersionRange::parse(range).unwrap().matches(&Version::parse(version).unwrap());
            assert_eq!(found, expected, "{version} in {range}");
        }
        for wrong in ["latest", "1.2.3.4", "=>1", "^"] {
            assert!(VersionRange::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn versions_are_ordered_by_precedence() {
        let sorted = ["0.9.0", "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-rc.2", "1.0.0-rc.10", "1.0.0", "1.10.0"];
        let versions: Vec<Version> = sorted.iter().map(|text| Version::parse(text).unwrap()).collect();
        assert!(versions.is_sorted(), "{versions:?}");
    }
}
