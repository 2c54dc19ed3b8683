//! A prepared job, run: its folder, its flow, and the summary at the end.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::driver::{DriveOutcome, DriverParts, JobDriver, Settlement, UnknownEffect};
use super::host::{JobHost, engine_folder, local_policy, make_private_folder, unwritable};
use super::local::{LocalLedger, LocalRunner};
use super::prepare::{LoadedCase, start_scope};
use super::progress::Progress;
use crate::cli::kit::{KitFault, KitPaths, KitResult};
use crate::cli::output::Output;
use crate::clock::{Clock, Timestamp};
use crate::id::RunId;
use crate::job::compile::{CompileOptions, compile};
use crate::job::cookies::CookieJar;
use crate::job::http::HttpDefaults;
use crate::job::paths::{new_run_id, run_output};
use crate::job::record::{RunEnd, RunRecorder};
use crate::net::Egress;
use crate::secret::{Redactor, Secret};

/// What one run is.
#[derive(Debug, Clone)]
pub struct RunPlan {
    pub id: String,
    pub folder: PathBuf,
    pub input: Map<String, Value>,
    /// The run scope at its start.
    pub run: Map<String, Value>,
    pub started_at: Timestamp,
    /// Whether the folder keeps the case's files, as for jobs; not for single actions.
    pub is_job: bool,
    /// Whether `job resume` can take it up.
    pub is_resumable: bool,
}

/// The result of a run.
pub struct RunReport {
    pub plan: RunPlan,
    pub end: RunEnd,
    /// The content of `summary.json`.
    pub summary: Value,
    /// The entries of `step-results.json`.
    pub results: Vec<Value>,
}

/// How a run ended for its command.
pub enum RunStop {
    Ended(Box<RunReport>),
    Unknown(UnknownEffect),
}

impl RunPlan {
    /// A new run's plan; `more` is added to its run scope.
    pub fn new(clock: &Clock, paths: &KitPaths, label: &str, input: Map<String, Value>, more: Map<String, Value>) -> Self {
        let started_at = clock.now();
        let id = new_run_id(clock, label);
        let mut run = start_scope(started_at);
        run.extend(more);
        Self { folder: run_output(&paths.root).join(&id), id, input, run, started_at, is_job: true, is_resumable: true }
    }

    /// The folder of its database.
    pub fn data(&self) -> PathBuf {
        engine_folder(&self.folder)
    }
}

/// Runs jobs on one host.
pub struct JobExecutor<'a> {
    pub host: &'a JobHost,
    pub loaded: &'a LoadedCase,
    pub paths: &'a KitPaths,
    pub egress: &'a Egress,
    pub output: Output,
}

/// The way out of calls that this process makes itself.
pub fn local_egress(clock: &Clock) -> KitResult<Egress> {
    Egress::new(local_policy(), clock.clone()).map_err(|error| KitFault::runtime(error.to_string()))
}

impl JobExecutor<'_> {
    /// Starts a run and follows it to its end.
    pub async fn start(&self, plan: RunPlan, is_shown: bool) -> KitResult<RunStop> {
        let request = self.request(&plan);
        let mut driver = self.driver(&plan, &request, is_shown, None)?;
        self.write_start(&plan, &driver.recorder, &request)?;
        let outcome = driver.start(&request).await?;
        self.end(plan, &driver, outcome)
    }

    /// Takes up a run that was started before.
    pub async fn resume(&self, plan: RunPlan, run: RunId, settlement: Option<Settlement>) -> KitResult<RunStop> {
        let request = self.request(&plan);
        let mut driver = self.driver(&plan, &request, true, settlement)?;
        let outcome = driver.take_up(run).await?;
        self.end(plan, &driver, outcome)
    }

    /// The body of the request that starts a run.
    pub fn request(&self, plan: &RunPlan) -> Value {
        compile(&CompileOptions {
            case: &self.loaded.case,
            registry: &self.loaded.registry,
            defaults: &self.loaded.defaults,
            env: &self.loaded.env,
            input: &plan.input,
            run: &plan.run,
            started_at_ms: plan.started_at.as_millis(),
        })
    }

    fn http(&self, plan: &RunPlan) -> Option<Value> {
        self.loaded.http(&plan.input, &plan.run).ok().flatten()
    }

    fn driver(&self, plan: &RunPlan, request: &Value, is_shown: bool, settlement: Option<Settlement>) -> KitResult<JobDriver<'_>> {
        let steps: Vec<(String, String)> = self.loaded.case.steps.iter().map(|step| (step.id.clone(), step.action.clone())).collect();
        let secrets = request.get("secrets").and_then(Value::as_object).into_iter().flatten();
        let redactor = Redactor::new(secrets.filter_map(|(_, value)| value.as_str().map(Secret::new)));
        let state = self.loaded.state(&plan.input, &plan.run);
        let recorder =
            RunRecorder::open(plan.folder.clone(), redactor, steps.clone(), state).map_err(|error| unwritable(&plan.folder, &error))?;
        let ledger = plan.data().join("ledger");
        if plan.is_resumable {
            make_private_folder(&ledger)?;
        }
        let http: HttpDefaults = self.http(plan).and_then(|http| serde_json::from_value(http).ok()).unwrap_or_default();
        let runner = LocalRunner {
            loaded: self.loaded,
            home: &self.paths.home,
            clock: &self.host.clock,
            egress: self.egress,
            http,
            cookies: Mutex::new(CookieJar::default()),
        };
        let progress = if is_shown { Progress::shown(self.output, steps) } else { Progress::hidden(self.output) };
        let note = plan.is_resumable.then(|| plan.data().join("execution"));
        let ledger = LocalLedger::new(plan.is_resumable.then_some(ledger));
        Ok(JobDriver::new(DriverParts { host: self.host, runner, recorder, ledger, progress, settlement, note }))
    }

    /// Writes the files of a run that begins.
    fn write_start(&self, plan: &RunPlan, recorder: &RunRecorder, request: &Value) -> KitResult<()> {
        let case = &self.loaded.case;
        let mut meta = json!({ "cliVersion": env!("CARGO_PKG_VERSION"), "runId": plan.id, "startedAt": plan.started_at });
        if let Some(meta) = meta.as_object_mut() {
            if plan.is_job {
                meta.insert("schemaVersion".into(), case.schema_version.into());
                meta.insert("jobType".into(), case.job_type.as_str().into());
                meta.insert("casePath".into(), self.loaded.path.display().to_string().into());
                meta.insert("inputs".into(), Value::Object(plan.input.clone()));
            } else {
                let step = case.steps.first();
                meta.insert("action".into(), step.map_or(Value::Null, |step| step.action.as_str().into()));
                let payload = step.map(|step| Value::Object(step.payload.clone())).unwrap_or_default();
                let state = self.loaded.state(&plan.input, &plan.run);
                meta.insert("payload".into(), crate::job::record::fill_value(&state, &payload));
                meta.insert("http".into(), self.http(plan).unwrap_or_default());
            }
        }
        let written = recorder.write_json("meta.json", meta).and_then(|()| {
            if plan.is_job {
                recorder.write_json("job.case.input.json", case.document.clone())?;
            }
            recorder.write_json("module_resolution.json", module_resolution(self.loaded, plan.started_at))
        });
        written.map_err(|error| unwritable(&plan.folder, &error))?;
        if plan.is_resumable {
            let kept = json!({
                "case": case.document, "casePath": self.loaded.path, "input": plan.input, "run": plan.run, "startedAt": plan.started_at,
                "isJob": plan.is_job, "steps": request.pointer("/flow/steps").and_then(Value::as_array).map(Vec::len),
            });
            let file = plan.data().join("plan.json");
            std::fs::write(&file, kept.to_string()).map_err(|error| unwritable(&file, &error))?;
        }
        Ok(())
    }

    fn end(&self, plan: RunPlan, driver: &JobDriver<'_>, outcome: DriveOutcome) -> KitResult<RunStop> {
        let recorder = &driver.recorder;
        if let DriveOutcome::Unknown(unknown) = outcome {
            return Ok(RunStop::Unknown(unknown));
        }
        let Some(end) = recorder.end().cloned() else {
            return Err(KitFault::runtime(format!("the run {} ended without a result", plan.id)));
        };
        let mut summary = Map::new();
        let resolution = plan.folder.join("module_resolution.json");
        summary.insert("cliVersion".into(), env!("CARGO_PKG_VERSION").into());
        summary.insert("jobType".into(), self.loaded.case.job_type.as_str().into());
        summary.insert("status".into(), Value::Null);
        summary.insert("runId".into(), plan.id.as_str().into());
        summary.insert("runDir".into(), plan.folder.display().to_string().into());
        summary.insert("startedAt".into(), plan.started_at.to_string().into());
        summary.insert("endedAt".into(), self.host.clock.now().to_string().into());
        if plan.is_job {
            summary.insert("moduleResolutionPath".into(), resolution.display().to_string().into());
        }
        let http = self.http(&plan);
        let case = plan.is_job.then_some((&self.loaded.case, http.as_ref()));
        let summary = recorder.finish(case, summary).map_err(|error| unwritable(&plan.folder, &error))?;
        let results = recorder.results().to_vec();
        Ok(RunStop::Ended(Box::new(RunReport { plan, end, summary, results })))
    }
}

/// Removes what only a run under way needs.
pub fn remove_engine_folder(run: &Path) {
    let _ = std::fs::remove_dir_all(engine_folder(run));
}

/// `module_resolution.json`: what was loaded, and what each step resolves to.
fn module_resolution(loaded: &LoadedCase, now: Timestamp) -> Value {
    let registry = &loaded.registry;
    let modules: Vec<Value> = registry
        .modules()
        .iter()
        .map(|module| {
            let actions: Vec<&str> = module.actions.iter().map(|action| action.name.as_str()).collect();
            json!({
                "name": module.name, "version": module.version, "layer": module.layer.as_str(), "sourcePath": module.source_path,
                "actions": actions,
            })
        })
        .collect();
    let steps: Vec<Value> = loaded
        .case
        .steps
        .iter()
        .map(|step| {
            let resolved = registry.find(&step.action).map(|action| {
                json!({
                    "actionKey": action.key, "moduleName": action.module, "actionName": action.name, "layer": action.layer.as_str(),
                    "version": action.version, "sourcePath": action.source_path,
                })
            });
            json!({ "stepId": step.id, "stepAction": step.action, "resolved": resolved })
        })
        .collect();
    json!({
        "generatedAt": now, "warnings": loaded.warnings(), "conflicts": registry.conflicts(), "loadedModules": modules, "steps": steps,
    })
}
