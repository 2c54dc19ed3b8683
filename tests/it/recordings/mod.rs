//! Recorded answers of vendors: each is read as `expected` says, the table of `docs/providers.md` says which kinds a recording proves, and
//! recordings that are changed at random never become a success that they are not.
//!
//! The recordings lie beside the project (`../shared/transcripts`, or `DISPATCH_TRANSCRIPTS`). Where they are absent, what needs them is left out
//! with a remark, and the mutations use answers of the fake provider.

mod matrix;
mod mutations;
mod reading;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;

/// One recorded exchange.
#[derive(Debug, Clone, Deserialize)]
pub struct Recording {
    pub id: String,
    pub vendor: String,
    pub wire: String,
    pub feature: String,
    #[serde(default)]
    pub features: Vec<String>,
    pub stream: bool,
    pub status: u16,
    #[serde(default)]
    pub encoding: Option<String>,
    #[serde(default)]
    pub request: Option<Value>,
    body: String,
    pub expected: Expected,
}

/// What a reader of the vendor's documents makes of the answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Expected {
    pub text: String,
    pub reasoning: String,
    pub tool_calls: Vec<ExpectedCall>,
    #[serde(default)]
    pub finish: Option<String>,
    #[serde(default)]
    pub usage: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    pub citations: Vec<Option<String>>,
    pub media: usize,
    #[serde(default)]
    pub error: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ExpectedCall {
    pub name: Option<String>,
    pub arguments: Value,
}

impl Recording {
    /// The format's name here.
    pub fn wire(&self) -> Option<&'static str> {
        Some(match self.wire.as_str() {
            "openai" => "openai",
            "anthropic" => "anthropic",
            "gemini" => "gemini",
            "responses" => "responses",
            "cohere" => "cohere",
            "converse" | "converse-stream" => "bedrock",
            _ => return None,
        })
    }

    /// The bytes that the vendor sent.
    pub fn bytes(&self) -> Vec<u8> {
        match self.encoding.as_deref() {
            Some("base64") => STANDARD.decode(self.body.trim()).unwrap(),
            Some("json-lines") => {
                self.body.lines().filter(|line| !line.is_empty()).map(|line| format!("data: {line}\n\n")).collect::<String>().into()
            }
            _ => self.body.clone().into_bytes(),
        }
    }

    /// Whether the bytes are frames that a decoder of this project reads: not JSON lines of a format that is binary.
    pub fn is_framed(&self) -> bool {
        !(self.encoding.as_deref() == Some("json-lines") && self.wire() == Some("bedrock"))
    }
}

fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("DISPATCH_TRANSCRIPTS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/transcripts"),
    };
    folder.is_dir().then_some(folder)
}

/// Every recording of a spoken format, or a remark that there are none.
pub fn recordings() -> Vec<Recording> {
    let Some(folder) = folder() else {
        let _ = writeln!(std::io::stderr(), "note: the recorded answers are not here; tests of recordings are left out");
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = ["spoken", "unspoken"]
        .iter()
        .filter_map(|name| std::fs::read_dir(folder.join(name)).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    paths.sort();
    let read = paths.iter().map(|path| -> Recording {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    });
    read.filter(|recording| recording.wire().is_some() && recording.is_framed()).collect()
}
