//! Recorded answers of vendors, sent byte for byte when a request names the recording as its model: `--replay FOLDER`.
//!
//! A recording is a JSON file: `{id, body, status?, content_type?, retry_after?, encoding?}`. The `id` is the model's name; without one it is the
//! file's name without `.json`. `encoding` says that `body` is `base64`, or `jsonl`: a JSON value a line, sent as server-sent events. Once tools
//! have answered, the model says five words.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::render::{Rendered, Step};
use crate::error::{Error, Kind, Result};

/// Recordings by the names of their models.
#[derive(Debug, Clone, Default)]
pub struct Recordings(Arc<HashMap<String, Arc<Rendered>>>);

#[derive(Deserialize)]
struct RecordedAnswer {
    #[serde(default)]
    id: Option<String>,
    body: String,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    retry_after: Option<serde_json::Value>,
    #[serde(default)]
    encoding: Option<String>,
}

const fn ok() -> u16 {
    200
}

impl Recordings {
    /// Reads every `*.json` below a folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut known = HashMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))? {
                let path = entry.map_err(|error| unreadable(&folder, &error))?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "json") {
                    let (name, answer) = read_answer(&path)?;
                    known.insert(name, Arc::new(answer));
                }
            }
        }
        Ok(Self(Arc::new(known)))
    }

    /// The recorded answer of a model.
    pub(super) fn find(&self, model: &str) -> Option<Arc<Rendered>> {
        self.0.get(model).cloned()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Invalid, "invalid_recording", format!("cannot read {}: {error}", path.display()))
}

fn read_answer(path: &PathBuf) -> Result<(String, Rendered)> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let invalid = |why: String| Error::new(Kind::Invalid, "invalid_recording", format!("{}: {why}", path.display()));
    let answer: RecordedAnswer = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    let name = answer.id.or_else(|| Some(path.file_stem()?.to_str()?.to_owned())).ok_or_else(|| invalid("it has no `id`".to_owned()))?;
    let (body, framed) = match answer.encoding.as_deref() {
        None => (Bytes::from(answer.body), false),
        Some("base64") => {
            (STANDARD.decode(answer.body.trim()).map_err(|error| invalid(format!("`body` is not base64: {error}")))?.into(), false)
        }
        Some("jsonl" | "json-lines") => {
            let lines = answer.body.lines().filter(|line| !line.trim().is_empty());
            (lines.map(|line| format!("data: {line}\n\n")).collect::<String>().into(), true)
        }
        Some(other) => return Err(invalid(format!("unknown `encoding` `{other}`; use base64 or jsonl"))),
    };
    let content_type = match answer.content_type {
        _ if framed => "text/event-stream".to_owned(),
        Some(kind) => kind,
        None => "application/json".to_owned(),
    };
    let retry_after = answer.retry_after.and_then(|wait| match wait {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_u64().and_then(|seconds| u32::try_from(seconds).ok()),
    });
    let steps = vec![Step::Write(body)];
    Ok((name, Rendered { status: answer.status, content_type: content_type.into(), retry_after, wait: Duration::ZERO, steps }))
}
