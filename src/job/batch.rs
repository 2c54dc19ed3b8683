//! Batches of runs: the analysis of one, from its summary and the calls of its runs.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::folder::RunFolder;

/// One recorded call: its times are Unix times in milliseconds.
struct TimedCall {
    name: String,
    started: i64,
    ended: i64,
}

/// One run of a batch.
struct TimedRun {
    entry: Value,
    duration: u64,
    calls: u64,
}

/// Analyses a batch; `top` is how many of the slowest runs are named.
pub fn analyze(summary: &Value, output: &Path, top: usize) -> Value {
    let mut calls = Vec::new();
    let mut runs = Vec::new();
    for entry in summary.get("runs").and_then(Value::as_array).into_iter().flatten() {
        let own = entry.get("runId").and_then(Value::as_str).map(|id| timed_calls(&RunFolder::new(output, id))).unwrap_or_default();
        let duration = entry.get("durationMs").and_then(Value::as_u64).unwrap_or_default();
        if entry.get("status").and_then(Value::as_str) != Some("SKIPPED") {
            runs.push(TimedRun { entry: entry.clone(), duration, calls: own.iter().map(length).sum() });
        }
        calls.extend(own);
    }
    let durations: Vec<u64> = runs.iter().map(|run| run.duration).collect();
    let idle: Vec<u64> = runs.iter().map(|run| run.duration.saturating_sub(run.calls)).collect();
    let overlap = overlap(&calls);
    let concurrency = summary.get("concurrency").and_then(Value::as_u64).unwrap_or(1);
    let mut hints = Vec::new();
    if concurrency > 1 && overlap <= 1 && !calls.is_empty() {
        hints.push("calls look serialized: no two ran at the same time although the batch is concurrent".to_owned());
    }
    if average(&idle) > average(&durations) * 2 / 5 && !runs.is_empty() {
        hints.push("runs are idle for more than 40 % of their time: waits or polls dominate".to_owned());
    }
    let total: u64 = calls.iter().map(length).sum();
    let mut analysis = Map::new();
    for name in
        ["batchId", "summaryPath", "casePath", "count", "concurrency", "staggerMs", "overall", "passed", "failed", "skipped", "interrupted"]
    {
        analysis.insert(name.to_owned(), summary.get(name).cloned().unwrap_or_default());
    }
    analysis.insert("totalDurationMs".into(), summary.get("durationMs").cloned().unwrap_or_default());
    let (least, most) = (durations.iter().min().copied().unwrap_or_default(), durations.iter().max().copied().unwrap_or_default());
    let figures = json!({
        "minMs": least, "avgMs": average(&durations), "p50Ms": percentile(&durations, 50), "p95Ms": percentile(&durations, 95), "maxMs": most,
    });
    analysis.insert("runDuration".into(), figures);
    let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
    analysis
        .insert("callTotals".into(), json!({ "calls": count, "totalMs": total, "avgMs": total.checked_div(count).unwrap_or_default() }));
    analysis.insert("overlap".into(), json!({ "maxConcurrentCalls": overlap }));
    let longest = idle.iter().max().copied().unwrap_or_default();
    analysis.insert("runIdle".into(), json!({ "avgMs": average(&idle), "p95Ms": percentile(&idle, 95), "maxMs": longest }));
    analysis.insert("actionTimings".into(), timings(&calls).into());
    analysis.insert("slowRuns".into(), slow_runs(runs, top).into());
    analysis.insert("hints".into(), hints.into());
    Value::Object(analysis)
}

fn timed_calls(run: &RunFolder) -> Vec<TimedCall> {
    let timed = |call: &Value| {
        let time = |name: &str| call.get(name)?.as_str()?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond);
        let name = call.get("name")?.as_str()?.to_owned();
        Some(TimedCall { name, started: time("startedAt")?, ended: time("endedAt")? })
    };
    run.calls().iter().filter_map(timed).collect()
}

fn length(call: &TimedCall) -> u64 {
    u64::try_from(call.ended.saturating_sub(call.started)).unwrap_or_default()
}

/// The most calls that ran at the same time.
fn overlap(calls: &[TimedCall]) -> i64 {
    let mut marks: Vec<(i64, i64)> = calls.iter().flat_map(|call| [(call.started, 1), (call.ended.max(call.started + 1), -1)]).collect();
    marks.sort_unstable();
    let mut running = 0i64;
    marks.iter().fold(0i64, |most, (_, change)| {
        running += change;
        most.max(running)
    })
}

fn timings(calls: &[TimedCall]) -> Vec<Value> {
    let mut names: Vec<&str> = calls.iter().map(|call| call.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut timings: Vec<(u64, Value)> = names
        .into_iter()
        .map(|name| {
            let times: Vec<u64> = calls.iter().filter(|call| call.name == name).map(length).collect();
            let (total, longest) = (times.iter().sum::<u64>(), times.iter().max().copied().unwrap_or_default());
            let entry = json!({
                "name": name, "calls": times.len(), "attempts": times.len(), "totalMs": total, "avgMs": average(&times), "maxMs": longest,
            });
            (total, entry)
        })
        .collect();
    timings.sort_by_key(|(total, _)| std::cmp::Reverse(*total));
    timings.into_iter().map(|(_, entry)| entry).collect()
}

fn slow_runs(mut runs: Vec<TimedRun>, top: usize) -> Vec<Value> {
    runs.sort_by_key(|run| std::cmp::Reverse(run.duration));
    runs.truncate(top);
    let shown = |run: TimedRun| {
        let mut slow = Map::new();
        for name in ["batchIndex", "runId", "status", "durationMs", "error"] {
            slow.extend(run.entry.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        slow.insert("callMs".into(), run.calls.into());
        slow.insert("idleMs".into(), run.duration.saturating_sub(run.calls).into());
        Value::Object(slow)
    };
    runs.into_iter().map(shown).collect()
}

fn average(values: &[u64]) -> u64 {
    values.iter().sum::<u64>().checked_div(u64::try_from(values.len()).unwrap_or(1)).unwrap_or_default()
}

/// The nearest rank.
fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        assert_eq!([percentile(&[4, 1, 3, 2], 50), percentile(&[1, 2, 3, 4], 95), percentile(&[], 50)], [2, 4, 0]);
        let call = |started, ended| TimedCall { name: "a".into(), started, ended };
        assert_eq!(overlap(&[call(0, 10), call(5, 15), call(10, 12)]), 2);
    }
}
