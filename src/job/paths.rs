//! Where cases are found, and the names of runs.

use std::path::{Path, PathBuf};

use crate::clock::{Clock, Timestamp};

/// The file that `--case` names: first as it is given, then below the workspace folder.
pub fn find_case(text: &str, cwd: &Path, root: &Path) -> Option<PathBuf> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if Path::new(text).is_absolute() {
        return Some(PathBuf::from(text)).filter(|path| path.is_file());
    }
    let mut places = vec![cwd.join(text), root.join(text), root.join("jobs").join(text)];
    if !text.ends_with(".json") {
        places.push(root.join("jobs").join(format!("{text}.job.case.json")));
        places.push(root.join(format!("{text}.job.case.json")));
    }
    places.extend(Path::new(text).file_name().map(|name| root.join("jobs").join(name)));
    places.into_iter().find(|path| path.is_file())
}

/// The folder that holds the folders of runs.
pub fn run_output(root: &Path) -> PathBuf {
    root.join("run-output")
}

/// A new run's id: `YYYYMMDD-HHMMSS-<label>-<mmm><hhhh>`, in UTC.
pub fn new_run_id(clock: &Clock, label: &str) -> String {
    let now = clock.now();
    format!("{}-{label}-{:03}{}", stamp(now), now.as_millis().rem_euclid(1_000), random_hex(clock))
}

/// A new batch's id.
pub fn new_batch_id(clock: &Clock) -> String {
    format!("{}-job-batch-{}", stamp(clock.now()), random_hex(clock))
}

/// A time as names of files hold it.
pub fn stamp(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_millisecond(time.as_millis()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y%m%d-%H%M%S").to_string()
}

fn random_hex(clock: &Clock) -> String {
    let mut bytes = [0u8; 2];
    clock.fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The case files of a folder, not of the folders below it.
pub fn case_files(jobs: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(jobs).into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = entries.filter(|name| name.ends_with(".job.case.json") || name.ends_with(".job.seed.json")).collect();
    names.sort();
    names
}
