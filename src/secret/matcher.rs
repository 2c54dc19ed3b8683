//! Finds all forms of all secrets in one pass over a text (Aho-Corasick), and in one more for each encoding that the text may contain.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use aho_corasick::Anchored;
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use serde_json::{Number, Value};

use super::encoding::Encoding;
use super::spellings::{broken_into_lines, spellings};
use super::{MIN_REDACTED, REDACTED, Secret};

/// Maximum total size of the forms in the automaton, which needs about 12 bytes of memory for each byte. Longer forms beyond it are searched one by one.
const MAX_AUTOMATON: usize = 1024 * 1024;

/// Whether a number that is a secret is replaced: yes in data from outside, no in types of our own that require a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    Replace,
    Keep,
}

/// The search structures for a set of secrets.
pub(super) struct Matcher {
    automaton: Option<NFA>,
    /// For each form in the automaton, whether it may be broken into lines.
    in_lines: Vec<bool>,
    /// The forms that are not in the automaton, in lower case.
    long: Vec<String>,
    /// The secrets that are numbers, as JSON writes them, without their sign.
    numbers: BTreeSet<String>,
    /// The secrets that are JSON objects or lists: a service may return one in another layout.
    documents: Vec<Value>,
}

impl Matcher {
    pub(super) fn new(secrets: &[Secret]) -> Self {
        let forms: BTreeSet<String> = secrets.iter().flat_map(|secret| spellings(secret.expose())).collect();
        let mut forms: Vec<String> = forms.into_iter().collect();
        forms.sort_by_key(String::len);
        let mut bytes = 0;
        let exceeds = |form: &String| {
            bytes += form.len();
            bytes > MAX_AUTOMATON
        };
        let fitting = forms.iter().position(exceeds).unwrap_or(forms.len());
        let mut long = forms.split_off(fitting);
        let automaton = if forms.is_empty() { None } else { NFA::builder().prefilter(false).build(&forms).ok() };
        if automaton.is_none() {
            long.append(&mut forms);
        }
        let broken: BTreeSet<String> = secrets.iter().flat_map(|secret| broken_into_lines(secret.expose())).collect();
        let in_lines = forms.iter().map(|form| broken.contains(form)).collect();
        let numbers = secrets.iter().flat_map(|secret| numbers(secret.expose())).collect();
        let documents = secrets.iter().filter_map(|secret| document(secret.expose())).collect();
        Self { automaton, in_lines, long, numbers, documents }
    }

    /// Returns the text without the secrets, if it contains any. JSON stays valid JSON: it is parsed first, and a number that only contains a
    /// secret's digits is not changed.
    pub(super) fn text(&self, text: &str) -> Option<String> {
        let found = self.find(text);
        if found.is_empty() && self.documents.is_empty() {
            return None;
        }
        if let Some(mut value) = document(text) {
            return self.value(&mut value, Numbers::Replace).then(|| value.to_string());
        }
        (!found.is_empty()).then(|| replace(text, &found))
    }

    /// Removes the secrets from every string of `value`, keys included. Returns whether there were any.
    pub(super) fn value(&self, value: &mut Value, numbers: Numbers) -> bool {
        let replaced = numbers == Numbers::Replace && self.is_secret(value);
        if replaced {
            *value = Value::String(REDACTED.to_owned());
            return true;
        }
        match value {
            Value::String(text) => match self.text(text) {
                Some(clean) => {
                    *text = clean;
                    true
                }
                None => false,
            },
            Value::Array(items) => {
                let mut changed = false;
                for item in items {
                    changed |= self.value(item, numbers);
                }
                changed
            }
            Value::Object(map) => {
                let tainted = map.keys().any(|key| !self.find(key).is_empty());
                if tainted {
                    let clean = |key: String| self.text(&key).unwrap_or(key);
                    *map = std::mem::take(map).into_iter().map(|(key, value)| (clean(key), value)).collect();
                }
                map.values_mut().fold(tainted, |changed, item| self.value(item, numbers) || changed)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Returns whether a value that is not a string is a secret as a whole.
    fn is_secret(&self, value: &Value) -> bool {
        match value {
            Value::Number(number) => !self.numbers.is_empty() && self.numbers.contains(number.to_string().trim_start_matches('-')),
            Value::Array(_) | Value::Object(_) => self.documents.contains(value),
            Value::Null | Value::Bool(_) | Value::String(_) => false,
        }
    }

    /// Returns the ranges of secrets in the text, in order. Overlapping ranges are merged, so that nothing of either is left.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        if let Some(automaton) = &self.automaton
            && let Ok(mut state) = automaton.start_state(Anchored::No)
        {
            for (at, byte) in text.bytes().enumerate() {
                state = automaton.next_state(Anchored::No, state, byte.to_ascii_lowercase());
                if automaton.is_match(state) {
                    // The first match at this position is the longest.
                    let length = automaton.pattern_len(automaton.match_pattern(state, 0));
                    let end = at + 1;
                    cover(&mut found, end.saturating_sub(length)..end);
                }
            }
        }
        let before = found.len();
        if let Some(automaton) = &self.automaton {
            let occurring = Encoding::ALL.into_iter().filter(|encoding| encoding.occurs_in(text));
            found.extend(occurring.flat_map(|encoding| self.find_encoded(automaton, text, encoding)));
        }
        if !self.long.is_empty() {
            let lower = text.to_ascii_lowercase();
            let matches = |form: &String| lower.match_indices(form.as_str()).map(|(at, form)| at..at + form.len()).collect::<Vec<_>>();
            found.extend(self.long.iter().flat_map(matches));
        }
        if found.len() > before {
            found.sort_by_key(|range| range.end);
            found = found.into_iter().fold(Vec::new(), |mut found, range| {
                cover(&mut found, range);
                found
            });
        }
        found
    }

    /// Returns the ranges of secrets that are found when the text is decoded, in order.
    fn find_encoded(&self, automaton: &NFA, text: &str, encoding: Encoding) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let Ok(mut state) = automaton.start_state(Anchored::No) else { return found };
        // Where the last decoded bytes begin in the text: as many as the longest form has.
        let (longest, mut starts) = (automaton.max_pattern_len(), VecDeque::new());
        let mut at = 0;
        while let Some(unit) = text.as_bytes().get(at..).and_then(|rest| encoding.first(rest)) {
            let end = at + unit.width;
            for byte in unit.bytes() {
                if starts.len() >= longest {
                    starts.pop_front();
                }
                starts.push_back(at);
                state = automaton.next_state(Anchored::No, state, byte.to_ascii_lowercase());
                let length = if automaton.is_match(state) { self.match_length(automaton, state, encoding) } else { None };
                if let Some(start) = length.and_then(|length| starts.len().checked_sub(length)).and_then(|first| starts.get(first)) {
                    cover(&mut found, *start..end);
                }
            }
            at = end;
        }
        found
    }

    /// Returns the length of the longest form that ends here.
    fn match_length(&self, automaton: &NFA, state: StateID, encoding: Encoding) -> Option<usize> {
        let matches = (0..automaton.match_len(state)).map(|index| automaton.match_pattern(state, index));
        let may_match = |in_lines: Option<&bool>| encoding != Encoding::Lines || in_lines.copied().unwrap_or(false);
        matches.filter(|form| may_match(self.in_lines.get(form.as_usize()))).map(|form| automaton.pattern_len(form)).max()
    }
}

/// Adds a range that ends after all of `found`.
fn cover(found: &mut Vec<Range<usize>>, mut range: Range<usize>) {
    while let Some(last) = found.pop_if(|last| range.start < last.end) {
        range = range.start.min(last.start)..range.end.max(last.end);
    }
    found.push(range);
}

fn replace(text: &str, found: &[Range<usize>]) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut from = 0;
    for range in found {
        clean.push_str(text.get(from..range.start).unwrap_or_default());
        clean.push_str(REDACTED);
        from = range.end;
    }
    clean.push_str(text.get(from..).unwrap_or_default());
    clean
}

/// Parses an object or a list.
fn document(text: &str) -> Option<Value> {
    let is_document = text.trim_start().starts_with(['{', '[']);
    is_document.then(|| serde_json::from_str(text).ok()).flatten()
}

/// Returns a secret as the numbers that a service may write for it: a telephone number may have a leading `+`, an account number leading zeros.
fn numbers(secret: &str) -> BTreeSet<String> {
    let secret = secret.trim();
    let digits = secret.trim_start_matches(['+', '0']);
    let read =
        [secret, digits].into_iter().filter(|text| text.len() >= MIN_REDACTED).filter_map(|text| serde_json::from_str::<Number>(text).ok());
    let as_decimal = |number: &Number| number.as_f64().and_then(Number::from_f64);
    let spelled = read.flat_map(|number| [as_decimal(&number), Some(number)]).flatten();
    spelled.map(|number| number.to_string().trim_start_matches('-').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(secrets: &[&str]) -> Matcher {
        Matcher::new(&secrets.iter().map(|secret| Secret::new(*secret)).collect::<Vec<_>>())
    }

    #[test]
    fn occurrences_that_overlap_are_removed_together() {
        let matcher = matcher(&["abcdefgh", "efghijkl", "abcdefghij"]);
        assert_eq!(matcher.text("xabcdefghijklx").as_deref(), Some("x[redacted]x"));
        assert_eq!(matcher.text("abcdefghabcdefgh").as_deref(), Some("[redacted][redacted]"));
        assert_eq!(matcher.text("abcdefg"), None);
    }

    #[test]
    fn encoded_occurrences_are_replaced_as_they_are_written() {
        let matcher = matcher(&["caf\u{e9}-canary"]);
        for text in ["%63%61%66%C3%A9%2Dcanary", "&#99;af&#xE9;&#45;canary", "caf\u{e9}%2dcanar%79"] {
            assert_eq!(matcher.text(&format!("a&b 5% {text}\nc\u{e9}")).as_deref(), Some("a&b 5% [redacted]\nc\u{e9}"), "{text}");
        }
        for unrelated in ["caf\u{e9}-\ncanary", "100%63%61%66", "&#99;af&#xE9;", "%"] {
            assert_eq!(matcher.text(unrelated), None);
        }
    }

    #[test]
    fn forms_beyond_the_automaton_are_found_as_well() {
        let long = "Canary-".repeat(MAX_AUTOMATON / 7 + 1);
        let matcher = matcher(&[&long, "canary-of-a-usual-length"]);
        assert!(!matcher.long.is_empty() && matcher.automaton.is_some());
        let text = format!("a {} b canary-of-a-usual-length c", long.to_uppercase());
        assert_eq!(matcher.text(&text).as_deref(), Some("a [redacted] b [redacted] c"));
    }

    #[test]
    fn numbers_are_found_as_services_write_them() {
        assert!(numbers("4812345").iter().eq(["4812345", "4812345.0"]));
        assert!(numbers("+491701234567").contains("491701234567"));
        assert!(numbers("secret").is_empty() && numbers("000012").is_empty());
    }
}
