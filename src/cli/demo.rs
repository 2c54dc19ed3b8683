//! `dispatch demo`: a first look, with no key and no network. A real server on a free port, two executions over real
//! HTTP, and a restart in the middle of the second; whatever it made goes away with it.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::embedded::{Embedded, Scratch};
use super::follow::{Chase, Client, Decider, Paint, Tone};
use super::output::Output;
use super::signals::{INTERRUPTED, Signals};
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::dispatch::Outcome;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {}

const STREAMED: &str = include_str!("../../examples/01-sales-analysis.json");
const APPROVED: &str = include_str!("../../examples/02-approval.json");

const TRY_NEXT: &str = r#"  dispatch serve --dev
      a server that stays; it prints an API key once

  curl -N http://127.0.0.1:8080/v1/dispatch \
    -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \
    -d '{"flow": {"name": "Hello", "steps": [{"name": "Greet", "type": "prompt",
         "config": {"model": "local/echo", "userPrompt": "Hello from {{place}}"}}]}, "inputs": {"place": "Oslo"}}'

  dispatch run FILE --dev       the same from a file, with no server
  dispatch schema prompt        what a step can be told
  OPENAI_API_KEY=... dispatch serve    real models: ANTHROPIC_API_KEY and GEMINI_API_KEY work alike"#;

pub async fn run(_: Arguments, output: &Output) -> Result<ExitCode> {
    let clock = Clock::system();
    let mut signals = Signals::listen()?;
    let scratch = Scratch::new(&clock)?;
    let show = Show { output: *output, paint: Paint::stdout(), config: Config { dev: true, ..Config::new(scratch.path().to_owned()) } };
    tokio::select! {
        done = show.play(&clock) => done.map(|()| ExitCode::SUCCESS),
        () = signals.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

struct Show {
    output: Output,
    paint: Paint,
    config: Config,
}

impl Show {
    async fn play(&self, clock: &Clock) -> Result<()> {
        let began = clock.instant();
        let server = Embedded::start(&self.config, clock).await?;
        self.output.say(format_args!("A Dispatch server listens on {}, with no key and no network.", server.url));
        self.title("1. The flow of POST /v1/dispatch, streamed");
        let streamed = self.chase(server.client()?, STREAMED).await?.outcome();
        self.title("2. A tool that needs an approval");
        let mut paused = self.chase(server.client()?, APPROVED).await?;
        server.stop().await?;
        let server = Embedded::start(&self.config, clock).await?;
        self.output.say(self.paint.text(Tone::Aside, format_args!("  (the server was restarted meanwhile; now {})", server.url)));
        paused.reconnect(server.client()?);
        paused.settle().await?;
        let approved = paused.outcome();
        server.stop().await?;
        let took = u64::try_from((clock.instant() - began).as_millis()).unwrap_or(u64::MAX);
        self.title(format_args!("That was 2 executions and 1 restart in {}.{} s. Try next:", took / 1_000, took % 1_000 / 100));
        self.output.say(TRY_NEXT);
        for outcome in [&streamed, &approved] {
            check(outcome)?;
        }
        self.output
            .envelope(json!({ "executions": [streamed, approved], "restarts": 1, "durationMs": took, "next": "dispatch serve --dev" }))
    }

    async fn chase(&self, client: Client, request: &str) -> Result<Chase> {
        let request: Value = serde_json::from_str(request).map_err(Error::internal)?;
        let decider = Decider::person_or(Decider::Always(true, "by the demo itself: nobody sits at a terminal"), &self.output);
        Chase::start(client, request, decider, Map::new(), self.output).await
    }

    fn title(&self, text: impl std::fmt::Display) {
        self.output.say(format_args!("\n{}\n", self.paint.text(Tone::Title, text)));
    }
}

/// A demo that does not end well says so.
fn check(outcome: &Outcome) -> Result<()> {
    if outcome.success {
        return Ok(());
    }
    let why = outcome.error.as_ref().unwrap_or(&Value::Null);
    Err(Error::internal(format!("the execution {} is {}: {why}", outcome.execution_id, outcome.status)))
}
