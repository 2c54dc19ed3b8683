//! `dispatch export`: a tenant's data as JSON lines, read from the database itself; no server need run.
//!
//! Secrets and provider keys are listed by name; their values are not exported.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::database::Location;
use super::output::Output;
use crate::app;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::id::{AgentId, ConversationId, RunId, TenantId};
use crate::model::{Run, TargetKind};
use crate::store::{DocumentQuery, DocumentRow, RecordQuery, RunFilter, SavedFlow, SharedStore};

/// Rows read at once.
const PAGE: u32 = 200;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    database: Location,
    /// The tenant; the first one when absent. `dispatch tenants list` shows the ids.
    #[arg(long)]
    tenant: Option<String>,
    /// Folder for one file of JSON lines per kind, or `-` for all of them on standard output.
    #[arg(long)]
    out: PathBuf,
}

pub async fn run(arguments: Arguments, output: &Output) -> Result<()> {
    let clock = Clock::system();
    let (config, store) = arguments.database.open(&clock).await?;
    let readable = app::readable(&config, &clock, store.clone())?;
    let tenant = tenant_of(&store, arguments.tenant).await;
    let done = match tenant {
        Ok(tenant) => TenantExport { store: readable, tenant, sink: ExportSink::new(&arguments.out)?, counts: Vec::new() }.write().await,
        Err(error) => Err(error),
    };
    store.close().await;
    let counts = done?;
    if arguments.out == Path::new("-") {
        return Ok(());
    }
    for (kind, count) in &counts {
        output.say(format_args!("{count:>8}  {kind}"));
    }
    let counts: serde_json::Map<String, Value> = counts.into_iter().map(|(kind, count)| (kind.to_owned(), count.into())).collect();
    output.envelope(json!({ "folder": arguments.out, "exported": counts }))
}

async fn tenant_of(store: &SharedStore, wanted: Option<String>) -> Result<TenantId> {
    let mut tenants = store.list_tenants().await?.into_iter().map(|tenant| tenant.id);
    let found = match &wanted {
        Some(wanted) => tenants.find(|tenant| tenant.to_string() == *wanted),
        None => tenants.next(),
    };
    found.ok_or_else(|| {
        Error::new(Kind::Missing, "tenant_not_found", format!("there is no tenant `{}`", wanted.unwrap_or_default()))
            .next("`dispatch tenants list` shows the ids")
    })
}

/// Where lines go.
enum ExportSink {
    Folder(PathBuf),
    Stdout,
}

impl ExportSink {
    fn new(out: &Path) -> Result<Self> {
        if out == Path::new("-") {
            return Ok(Self::Stdout);
        }
        std::fs::create_dir_all(out).map_err(|error| unwritable(out, &error))?;
        Ok(Self::Folder(out.to_owned()))
    }

    /// Opens the file of a kind, readable by its owner only; it must not exist.
    fn open(&self, kind: &str) -> Result<Box<dyn Write + Send>> {
        let Self::Folder(folder) = self else { return Ok(Box::new(std::io::stdout())) };
        let path = folder.join(format!("{kind}.jsonl"));
        let file: File =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(Box::new(BufWriter::new(file)))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Kind::Invalid, "file_not_writable", format!("{} cannot be written: {error}", path.display()))
        .next("choose another place with --out; files of an earlier export are not overwritten")
}

/// The lines of one kind.
struct JsonLines {
    kind: &'static str,
    out: Box<dyn Write + Send>,
    count: u64,
}

impl JsonLines {
    fn write(&mut self, mut row: Value) -> Result<()> {
        if let Some(map) = row.as_object_mut() {
            map.insert("kind".into(), self.kind.into());
        }
        self.count += 1;
        writeln!(self.out, "{row}").map_err(|error| unwritable(Path::new(self.kind), &error))
    }
}

/// The export of one tenant.
struct TenantExport {
    store: SharedStore,
    tenant: TenantId,
    sink: ExportSink,
    counts: Vec<(&'static str, u64)>,
}

impl TenantExport {
    async fn write(mut self) -> Result<Vec<(&'static str, u64)>> {
        self.flows("flows", TargetKind::Flow).await?;
        self.flows("agents", TargetKind::Agent).await?;
        self.documents("tools", "tool").await?;
        self.records().await?;
        self.conversations().await?;
        self.secrets().await?;
        self.executions().await?;
        Ok(self.counts)
    }

    fn begin(&self, kind: &'static str) -> Result<JsonLines> {
        Ok(JsonLines { kind, out: self.sink.open(kind)?, count: 0 })
    }

    fn end(&mut self, mut lines: JsonLines) -> Result<()> {
        self.counts.push((lines.kind, lines.count));
        lines.out.flush().map_err(|error| unwritable(Path::new(lines.kind), &error))
    }

    async fn flows(&mut self, name: &'static str, kind: TargetKind) -> Result<()> {
        let mut lines = self.begin(name)?;
        let mut before = None;
        loop {
            let page = self.store.list_flows(self.tenant, kind, before, None, PAGE).await?;
            for flow in &page {
                lines.write(self.flow(flow).await?)?;
            }
            before = page.last().map(|flow| flow.id);
            if page.len() < PAGE as usize {
                return self.end(lines);
            }
        }
    }

    async fn flow(&self, flow: &SavedFlow) -> Result<Value> {
        let versions = self.store.list_flow_versions(self.tenant, flow.id).await?;
        let versions: Vec<Value> = versions
            .into_iter()
            .map(|version| {
                json!({
                    "id": version.id, "number": version.number, "document": version.document,
                    "createdAt": version.created_at, "publishedAt": version.published_at,
                })
            })
            .collect();
        let id = match flow.kind {
            TargetKind::Agent => AgentId::from_u128(flow.id.as_u128()).to_string(),
            TargetKind::Flow => flow.id.to_string(),
        };
        Ok(json!({
            "id": id, "name": flow.name, "description": flow.description, "createdAt": flow.created_at, "updatedAt": flow.updated_at,
            "currentVersionId": flow.current, "publishedVersionId": flow.published, "versions": versions,
        }))
    }

    async fn documents(&mut self, name: &'static str, kind: &str) -> Result<()> {
        let mut lines = self.begin(name)?;
        let mut before = None;
        loop {
            let page = self.document_page(kind, None, before).await?;
            for (_, row) in &page {
                lines.write(row.clone())?;
            }
            before = page.last().map(|(id, _)| id.clone());
            if page.len() < PAGE as usize {
                return self.end(lines);
            }
        }
    }

    /// Reads a page of documents with their ids.
    async fn document_page(&self, kind: &str, parent: Option<String>, before: Option<String>) -> Result<Vec<(String, Value)>> {
        let rows = self.store.list_documents(self.tenant, kind, DocumentQuery { parent, before, limit: PAGE }).await?;
        let read = |row: DocumentRow| -> Result<(String, Value)> {
            let body: Value = serde_json::from_str(&row.body).map_err(Error::internal)?;
            let value = json!({ "id": row.id, "createdAt": row.created_at, "updatedAt": row.updated_at, "body": body });
            Ok((row.id, value))
        };
        rows.into_iter().map(read).collect()
    }

    async fn records(&mut self) -> Result<()> {
        let mut lines = self.begin("records")?;
        let mut after = None;
        loop {
            let page = self.store.list_records(self.tenant, RecordQuery { after, limit: PAGE, ..RecordQuery::default() }).await?;
            for record in &page.records {
                lines.write(serde_json::to_value(record).map_err(Error::internal)?)?;
            }
            after = page.records.last().map(|record| (record.updated_at, record.id));
            if !page.more {
                return self.end(lines);
            }
        }
    }

    /// Conversations, each with its turns, the oldest turn first.
    async fn conversations(&mut self) -> Result<()> {
        let mut lines = self.begin("conversations")?;
        let mut before = None;
        loop {
            let page = self.document_page("conversation", None, before).await?;
            for (id, row) in &page {
                let mut turns = self.turns(format!("{}_{id}", ConversationId::PREFIX)).await?;
                turns.reverse();
                let mut row = row.clone();
                row["turns"] = turns.into();
                lines.write(row)?;
            }
            before = page.last().map(|(id, _)| id.clone());
            if page.len() < PAGE as usize {
                return self.end(lines);
            }
        }
    }

    async fn turns(&self, conversation: String) -> Result<Vec<Value>> {
        let (mut turns, mut before) = (Vec::new(), None);
        loop {
            let page = self.document_page("conversation_turn", Some(conversation.clone()), before).await?;
            before = page.last().map(|(id, _)| id.clone());
            let is_last = page.len() < PAGE as usize;
            turns.extend(page.into_iter().map(|(_, row)| row["body"].clone()));
            if is_last {
                return Ok(turns);
            }
        }
    }

    /// Names of secrets and of providers with a key; never their values.
    async fn secrets(&mut self) -> Result<()> {
        let mut lines = self.begin("secrets")?;
        for secret in self.store.list_secrets(self.tenant).await? {
            let has_value = secret.sealed.is_some();
            lines.write(
                json!({ "key": secret.key, "description": secret.description, "hasValue": has_value, "createdAt": secret.created_at }),
            )?;
        }
        for credential in self.store.list_credentials(self.tenant).await? {
            lines.write(json!({ "provider": credential.provider, "createdAt": credential.created_at }))?;
        }
        self.end(lines)
    }

    async fn executions(&mut self) -> Result<()> {
        let mut lines = self.begin("executions")?;
        let mut before = None;
        loop {
            let filter = RunFilter { before, limit: PAGE, ..RunFilter::default() };
            let page = self.store.list_runs(self.tenant, filter).await?;
            for summary in &page {
                // It may be deleted meanwhile.
                if let Some(run) = self.store.find_run(self.tenant, summary.id).await? {
                    let events = self.events(run.id).await?;
                    lines.write(execution(&run, events))?;
                }
            }
            before = page.last().map(|summary| summary.id);
            if page.len() < PAGE as usize {
                return self.end(lines);
            }
        }
    }

    async fn events(&self, run: RunId) -> Result<Vec<Value>> {
        let (mut events, mut after) = (Vec::new(), None);
        loop {
            let page = self.store.read_log(self.tenant, run, after, PAGE).await?;
            after = page.last().map(|segment| segment.last()).or(after);
            let all = page.iter().flat_map(|segment| &segment.events);
            events.extend(all.filter_map(|event| serde_json::from_str::<Value>(&event.public_json(run)).ok()));
            if page.len() < PAGE as usize {
                return Ok(events);
            }
        }
    }
}

/// An execution with its events.
fn execution(run: &Run, events: Vec<Value>) -> Value {
    json!({
        "id": run.id, "status": run.state.as_str(), "success": run.did_well(), "name": run.flow_name,
        "createdAt": run.created_at, "finishedAt": run.finished_at, "inputs": run.input.inputs, "record": run.input.record,
        "messages": run.input.messages, "metadata": run.input.metadata, "output": run.output, "error": run.failure, "spent": run.spent,
        "parentId": run.parent.map(|parent| parent.run), "events": events,
    })
}
