//! `dispatch schema`: JSON Schemas of requests, results, events, errors and every step type.

use std::path::PathBuf;

use serde_json::json;

use super::output::{Output, write_file};
use crate::error::{Error, Kind, Result};
use crate::http::schemas::{self, Document};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A step type (`prompt`) or another schema (`dispatch-request`); without a name they are listed.
    #[arg(value_name = "STEP")]
    name: Option<String>,
    /// Write the named schema, or all of them, into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let documents = match &arguments.name {
        Some(name) => vec![find(name)?],
        None => schemas::all(),
    };
    match (arguments.out, documents.as_slice()) {
        (Some(folder), documents) => {
            let files: Vec<PathBuf> = documents.iter().map(|document| folder.join(format!("{}.json", document.name))).collect();
            for (file, document) in files.iter().zip(documents) {
                write_file(file, &document.text())?;
                output.say(format_args!("wrote {}", file.display()));
            }
            output.envelope(json!({ "files": files }))
        }
        (None, [one]) if arguments.name.is_some() => {
            if output.json {
                return output.envelope(json!({ "name": one.name, "schema": one.schema }));
            }
            output.document(one.text().trim_end());
            Ok(())
        }
        (None, documents) => {
            for document in documents {
                output.say(format_args!("{:<24} {}", document.name, document.summary));
            }
            let rows: Vec<_> = documents.iter().map(|document| json!({ "name": document.name, "summary": document.summary })).collect();
            output.envelope(json!({ "schemas": rows }))
        }
    }
}

/// By its name, or by the step type alone.
fn find(name: &str) -> Result<Document> {
    let documents = schemas::all();
    let is_named = |document: &&Document| document.name == name || document.name.strip_prefix("step-") == Some(name);
    if let Some(document) = documents.iter().find(is_named) {
        return Ok(document.clone());
    }
    let names = documents.iter().map(|document| document.name.strip_prefix("step-").unwrap_or(&document.name));
    let nearest = names.max_by(|one, other| strsim::jaro_winkler(one, name).total_cmp(&strsim::jaro_winkler(other, name)));
    let nearest = nearest.unwrap_or_default();
    Err(Error::new(Kind::Missing, "schema_not_found", format!("there is no schema `{name}`"))
        .next(format!("did you mean `{nearest}`? `dispatch schema` lists all")))
}
