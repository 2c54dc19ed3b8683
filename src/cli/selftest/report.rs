//! What came of it, for people and for programs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::blows::Blow;
use super::told::{Breach, Violation};
use crate::cli::output::Output;

/// Violations that are shown to people one by one.
const SHOWN: usize = 20;

/// See the module.
#[derive(Debug, Default)]
pub struct Report {
    /// Failpoints that a server died at.
    pub points: usize,
    pub deaths: usize,
    /// Blows of other kinds, by name.
    pub blows: BTreeMap<&'static str, usize>,
    pub runs: usize,
    pub violations: Vec<Violation>,
    /// Folders with what is left of sites that had violations.
    pub kept: Vec<String>,
}

impl Report {
    pub fn absorb(&mut self, other: Self) {
        self.points += other.points;
        self.deaths += other.deaths;
        other.blows.iter().for_each(|(name, count)| *self.blows.entry(name).or_default() += count);
        self.runs += other.runs;
        self.violations.extend(other.violations);
        self.kept.extend(other.kept);
    }

    pub fn deal(&mut self, blow: Blow) {
        match blow {
            Blow::Kill => self.deaths += 1,
            other => *self.blows.entry(other.name()).or_default() += 1,
        }
    }

    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Runs, or failpoints, with violations of a kind.
    fn count(&self, breach: Breach) -> usize {
        let mut about: Vec<&str> =
            self.violations.iter().filter(|violation| violation.breach == breach).map(|violation| violation.about.as_str()).collect();
        about.sort_unstable();
        about.dedup();
        about.len()
    }

    /// `{ok, store, points, deaths, blows, runs, lost, redone, doubled, stuck, violations, seconds, seed, kept}`.
    pub fn json(&self, store: &str, seed: u64, seconds: f64) -> Value {
        json!({
            "ok": self.is_clean(), "store": store, "points": self.points, "deaths": self.deaths, "blows": self.blows, "runs": self.runs,
            "lost": self.count(Breach::Lost), "redone": self.count(Breach::Redone), "doubled": self.count(Breach::Doubled),
            "stuck": self.count(Breach::Stuck), "violations": self.violations, "seconds": seconds, "seed": seed, "kept": self.kept,
        })
    }

    pub fn say(&self, output: &Output, seconds: f64) {
        let rows = [
            ("failpoints died at", self.points),
            ("process deaths", self.deaths),
            ("runs", self.runs),
            ("accepted and lost", self.count(Breach::Lost)),
            ("committed and redone", self.count(Breach::Redone)),
            ("doubled", self.count(Breach::Doubled)),
            ("stuck", self.count(Breach::Stuck)),
            ("broken logs", self.count(Breach::Log)),
            ("wrong answers", self.count(Breach::Answer)),
            ("failpoints not reached", self.count(Breach::Unreached)),
        ];
        for (name, figure) in rows.into_iter().chain(self.blows.iter().map(|(name, count)| (*name, *count))) {
            output.say(format_args!("{name:<24}{figure:>8}"));
        }
        output.say(format_args!("{:<24}{seconds:>8.1}", "seconds"));
        let mut groups: BTreeMap<Breach, Vec<&Violation>> = BTreeMap::new();
        self.violations.iter().for_each(|violation| groups.entry(violation.breach).or_default().push(violation));
        for violation in groups.values().flatten().take(SHOWN) {
            output.say(format_args!("{:?}: {}: {}", violation.breach, violation.about, violation.what));
        }
        if self.violations.len() > SHOWN {
            output.say(format_args!("... and {} more; --json lists all", self.violations.len() - SHOWN));
        }
        for folder in &self.kept {
            output.say(format_args!("kept for a look: {folder}"));
        }
    }
}
