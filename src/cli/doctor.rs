//! `dispatch doctor`: diagnoses a database without a server, or the folders of jobs and modules.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::database::Location;
use super::discover::{registry_check, skill_version};
use super::kit::{KitContext, KitFault, KitResult};
use super::output::Output;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::module::package::{PackageIssueCode, check_installed};
use crate::store::examine::{Finding, Verdict, examine};

/// Without a database, the state folder and the workspace are checked.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Folder of the embedded database to check.
    #[arg(long, env = "DISPATCH_DATA", value_name = "DATA")]
    data: Option<PathBuf>,
    /// Database to check: `sqlite://path` or `postgres://user@host/database`.
    #[arg(long, env = "DISPATCH_DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,
}

impl Arguments {
    /// Reports whether a database was named.
    pub const fn names_database(&self) -> bool {
        self.data.is_some() || self.database_url.is_some()
    }
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<ExitCode> {
    let location = Location::new(arguments.data, arguments.database_url);
    let findings = examine(&location.address(), &Clock::system()).await;
    for finding in &findings {
        output.say(line(finding));
        if let Some(next) = &finding.next {
            output.say(format_args!("      next: {next}"));
        }
    }
    let bad: Vec<&str> = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).map(|finding| finding.check).collect();
    if bad.is_empty() {
        return output.envelope(json!({ "findings": findings })).map(|()| ExitCode::SUCCESS);
    }
    let error = Error::new(Kind::Invalid, "database_faulty", format!("the database cannot be used: {}", bad.join(", ")))
        .next("follow the findings, then run `dispatch doctor` again");
    let more: Map<String, Value> = [("findings".to_owned(), json!(findings))].into_iter().collect();
    Ok(output.fail_with(&error, more))
}

fn line(finding: &Finding) -> String {
    let mark = match finding.verdict {
        Verdict::Good => "good",
        Verdict::Warning => "warn",
        Verdict::Bad => "BAD",
    };
    format!("{mark:<4}  {}: {}", finding.check, finding.message)
}

/// Checks the state folder and the workspace, and the embedded database of the current folder if it has one.
pub async fn check(context: KitContext) -> KitResult<ExitCode> {
    let mut checks = vec![registry_check(&context).await, legacy_check(&context.paths.home), output_check(&context.paths.root)];
    let location = Location::new(None, None);
    if location.clone().existing().is_ok() {
        checks.push(database_check(location).await);
    }
    for (is_good, check) in &checks {
        let text = |name: &str| check.get(name).and_then(Value::as_str).unwrap_or_default();
        context.say(format_args!("{} {}: {}", if *is_good { "✓" } else { "✗" }, text("name"), text("detail")));
    }
    let is_good = checks.iter().all(|(is_good, _)| *is_good);
    let checks: Vec<Value> = checks.into_iter().map(|(_, check)| check).collect();
    let report = json!({ "ok": is_good, "cliVersion": env!("CARGO_PKG_VERSION"), "skillVersion": skill_version(), "checks": checks });
    if is_good {
        context.result(report);
        return Ok(ExitCode::SUCCESS);
    }
    Err(KitFault::runtime("doctor found faults").details(json!({ "result": report })))
}

/// The result of a check, and its document.
type CheckReport = (bool, Value);

fn report(name: &str, is_good: bool, detail: impl Into<String>) -> CheckReport {
    (is_good, json!({ "name": name, "ok": is_good, "detail": detail.into() }))
}

/// Finds installed modules of the old format.
fn legacy_check(home: &Path) -> CheckReport {
    let folders = std::fs::read_dir(home.join("modules")).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let is_legacy = |folder: &PathBuf| {
        let issues = if folder.join("module.json").is_file() { check_installed(folder) } else { Vec::new() };
        issues.iter().any(|issue| issue.code == PackageIssueCode::LegacyInstalledFormat)
    };
    let legacy: Vec<String> = folders.filter(is_legacy).map(|folder| folder.display().to_string()).collect();
    let detail = if legacy.is_empty() {
        "none".to_owned()
    } else {
        format!("{} have the old non-portable format; install them again", legacy.join(", "))
    };
    report("legacy installed modules", legacy.is_empty(), detail)
}

/// Checks that a run folder could be written, and leaves nothing behind.
fn output_check(root: &Path) -> CheckReport {
    let output = root.join("run-output");
    let place = if output.is_dir() { output.as_path() } else { root };
    let probe = place.join(format!(".dispatch-doctor-{}", std::process::id()));
    let written = std::fs::write(&probe, "").and_then(|()| std::fs::remove_file(&probe));
    let detail = written.as_ref().map_or_else(|error| format!("{}: {error}", place.display()), |()| output.display().to_string());
    report("run-output writable", written.is_ok(), detail)
}

async fn database_check(location: Location) -> CheckReport {
    let findings = examine(&location.address(), &Clock::system()).await;
    let bad: Vec<String> = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).map(line).collect();
    let detail = if bad.is_empty() { format!("{} finding(s), none bad", findings.len()) } else { bad.join("; ") };
    report("database", bad.is_empty(), detail)
}
