//! What commands print: words for people, or one JSON envelope.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, Result};

/// Where a command writes.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// A line for people; nothing with `--json`.
    pub fn say(&self, text: impl std::fmt::Display) {
        if !self.json {
            line(&mut std::io::stdout().lock(), &text);
        }
    }

    /// A part of a line for people, shown at once.
    pub fn part(&self, text: &str) {
        if !self.json {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
    }

    /// The command's result: `{ok: true, cliVersion, ...}` with `--json`.
    pub fn envelope(&self, mut body: Value) -> Result<()> {
        if self.json {
            if let Some(map) = body.as_object_mut() {
                map.entry("ok").or_insert(true.into());
                map.insert("cliVersion".into(), env!("CARGO_PKG_VERSION").into());
            }
            line(&mut std::io::stdout().lock(), &body);
        }
        Ok(())
    }

    /// A raw document, whatever the form.
    pub fn document(&self, text: &str) {
        line(&mut std::io::stdout().lock(), &text);
    }

    /// Says what went wrong; the exit code tells whether to try again.
    pub fn fail(&self, error: &Error) -> ExitCode {
        self.fail_with(error, Map::new())
    }

    /// [`Output::fail`] with more to say in the envelope.
    pub fn fail_with(&self, error: &Error, more: Map<String, Value>) -> ExitCode {
        let code = error.kind().exit_code();
        if self.json {
            let mut body = json!({ "ok": false, "cliVersion": env!("CARGO_PKG_VERSION"), "error": error.envelope(), "exitCode": code });
            if let Some(map) = body.as_object_mut() {
                map.extend(more);
            }
            line(&mut std::io::stdout().lock(), &body);
        } else {
            let envelope = error.envelope();
            let mut err = std::io::stderr().lock();
            line(&mut err, &format!("error: {} ({})", envelope.error, envelope.code));
            for problem in error.problems() {
                line(&mut err, &format!("  at {}: {}", problem.pointer, problem.message));
            }
            if let Some(next) = envelope.next {
                line(&mut err, &format!("next: {next}"));
            }
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                line(&mut err, &format!("because: {cause}"));
                source = cause.source();
            }
        }
        ExitCode::from(code)
    }
}

/// Writes a file, making its folder first.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(path, text)).map_err(|error| {
        Error::new(Kind::Invalid, "file_not_writable", format!("{} cannot be written: {error}", path.display()))
            .next("choose another place with --out")
    })
}

/// A closed pipe is the reader's choice, not a failure.
fn line(out: &mut impl Write, text: &impl std::fmt::Display) {
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}
