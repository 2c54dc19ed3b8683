//! `dispatch openapi`: the API document (OpenAPI 3.1).

use std::path::PathBuf;

use serde_json::json;

use super::output::{Output, write_file};
use crate::error::Result;
use crate::http::openapi;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Write it to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let Some(file) = arguments.out else {
        if output.json {
            return output.envelope(json!({ "document": openapi::document() }));
        }
        output.document(openapi::text().trim_end());
        return Ok(());
    };
    write_file(&file, &openapi::text())?;
    output.say(format_args!("wrote {}", file.display()));
    output.envelope(json!({ "files": [file] }))
}
