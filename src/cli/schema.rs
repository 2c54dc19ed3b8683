//! `dispatch schema`: JSON Schemas of requests, results, events, errors, every step type, job cases and actions.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::kit::{KitContext, KitFault, KitResult};
use super::output::{Output, write_file};
use crate::error::{Error, Kind, Result};
use crate::http::schemas::{self, Document};
use crate::module::ActionRegistry;

/// An example of a job case.
const CASE_EXAMPLE: &str = include_str!("case_example.json");
/// The JSON Schema of job cases.
const CASE_SCHEMA: &str = include_str!("case_schema.json");

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    part: Option<JobSchema>,
    /// A step type (`prompt`) or another schema (`dispatch-request`); without a name they are listed.
    #[arg(value_name = "STEP")]
    name: Option<String>,
    /// Write the named schema, or all of them, into this folder.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The documents of jobs.
#[derive(Debug, clap::Subcommand)]
pub enum JobSchema {
    /// Print an example of a job case, or its JSON Schema.
    Case {
        /// Print it; always as JSON.
        #[arg(long, required = true)]
        print: bool,
        /// Print the JSON Schema of job cases instead of an example.
        #[arg(long)]
        schema: bool,
    },
    /// Print the JSON Schemas of an action: its payload, exports and credential.
    Action {
        /// The action: `module.action`.
        #[arg(long)]
        name: String,
        /// Print them; always as JSON.
        #[arg(long, required = true)]
        print: bool,
    },
}

impl Arguments {
    /// Returns the document of jobs that is asked for, if it is one.
    pub fn into_job_schema(self) -> std::result::Result<JobSchema, Self> {
        match self.part {
            Some(part) => Ok(part),
            None => Err(self),
        }
    }
}

/// Prints a document of jobs.
pub async fn print(schema: JobSchema, context: KitContext) -> KitResult<ExitCode> {
    match schema {
        JobSchema::Case { print, schema } => {
            debug_assert!(print, "the command line requires the flag");
            context.output.document((if schema { CASE_SCHEMA } else { CASE_EXAMPLE }).trim_end());
        }
        JobSchema::Action { name, print } => {
            debug_assert!(print, "the command line requires the flag");
            context.document(action_document(&name, &context).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn action_document(name: &str, context: &KitContext) -> KitResult<Value> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let action = registry.find(name.trim()).ok_or_else(|| {
        let nearest =
            registry.actions().max_by(|one, other| strsim::jaro_winkler(&one.key, name).total_cmp(&strsim::jaro_winkler(&other.key, name)));
        let hint = nearest.map(|action| format!(". Did you mean `{}`?", action.key)).unwrap_or_default();
        KitFault::not_found(format!("Action not found: {name}{hint}")).next("dispatch module list", "see the actions of all modules")
    })?;
    let mut document = Map::from_iter([
        ("action".to_owned(), Value::from(action.key.as_str())),
        ("module".to_owned(), Value::from(action.module.as_str())),
        ("description".to_owned(), Value::from(action.description.as_str())),
    ]);
    let schemas =
        [("inputSchema", &action.input_schema), ("exportsSchema", &action.exports_schema), ("credentialSchema", &action.credential_schema)];
    document.extend(schemas.into_iter().filter_map(|(member, schema)| Some((member.to_owned(), schema.clone()?))));
    Ok(document.into())
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
