//! `dispatch doctor`: diagnoses a database without a server.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::database::Location;
use super::output::Output;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::store::examine::{Finding, Verdict, examine};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<ExitCode> {
    let findings = examine(&arguments.database.address(), &Clock::system()).await;
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
