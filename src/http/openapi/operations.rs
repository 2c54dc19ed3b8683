//! What is said of each operation beside its summary, and examples of what it takes.
//!
//! What follows from an operation's own parts (its scope, its pages, its stream) is said in the same words everywhere; `NOTES` has the rest.

use serde_json::{Map, Value};

use super::examples::example_of;

/// Groups of operations, in the order of the document.
pub const TAGS: &[(&str, &str)] = &[
    ("Dispatch", "Execute a flow or an agent now, and go on with what is paused."),
    ("OpenAI", "OpenAI's API: its SDKs work with `/v1` of this server as their base URL. Errors have its form."),
    ("Executions", "What was executed: where it stands, what its steps did, its events."),
    ("OpenAI", "Chat completions, embeddings and models in the form of OpenAI's API."),
    ("Agents", "Saved agents, their versions and releases."),
    ("Flows", "Saved flows and their versions."),
    ("Records", "Named data that flows read and write."),
    ("API keys", "Keys of your backend, each with its scopes."),
    ("Limits", "Budgets and rates of a tenant and of its keys."),
    ("Usage", "What was used and what it cost."),
    ("Credentials", "Keys of model providers."),
    ("Secrets", "Values that HTTP calls name as `{{secret:KEY}}`."),
    ("Client tokens", "Tokens for web pages."),
    ("Tools", "Saved tools, and those that are built in."),
    ("Schedules", "Saved flows and agents that run at certain times."),
    ("Assets", "Files that flows made."),
    ("Batches", "One flow for many records."),
    ("Evals", "Many questions to a flow or an agent, with grades."),
    ("Memory", "What flows remember: memories and vectors."),
    ("Jobs", "Work that is done later, with retries."),
    ("Dead letters", "Jobs whose last attempt failed."),
    ("Crons", "Jobs at certain times."),
    ("Queues", "How much of which work happens at once, and where."),
    ("Stats", "How much there is."),
    ("Triggers", "Addresses at which webhooks of others become jobs."),
    ("Events", "What waiting runs and workflows are told from outside."),
    ("Webhooks", "Addresses that are told what happens here."),
    ("Workflows", "Runs of saved flows, by the flow's name."),
    ("HTTP workflows", "Workflows of HTTP steps."),
    ("HTTP workflow runs", "Runs of workflows of HTTP steps."),
    ("HTTP workflow secrets", "Secrets of workflows of HTTP steps."),
    ("Sessions", "Sessions of tenants that hold the key to their data themselves."),
    ("Pages", "What web pages call, with a client token or a session instead of an API key."),
    ("Retention", "How long data is kept."),
    ("Server", "The server itself."),
];

/// What cannot be seen from an operation's parts, by its id.
const NOTES: &[(&str, &str)] = &[
    (
        "dispatch",
        "Runs a flow (`flow` or `flowId`) or an agent (`agent`), inline or saved. With `options.streamResponse: false` the answer is one JSON once the execution \
         ends or pauses; with `async: true` it is 202 and a URL at once. The execution goes on when the connection is lost. Look at `success`, not only at `status`, to know \
         whether every step did well.",
    ),
    (
        "resumeDispatch",
        "For an execution that paused at a tool that runs in the caller (`await`). The first answer is final; repeating it changes nothing.",
    ),
    (
        "approveDispatch",
        "For an execution that paused at a call which a person must approve (`approval_start`). The first decision is final; repeating it changes nothing.",
    ),
    ("continueDispatch", "`continuation` has either `toolOutputs`, or `approvalId` with `decision`."),
    (
        "createEmbedding",
        "Takes a text or a list of up to 2,048. Lists of token numbers are refused. `dimensions` is refused where the model cannot choose.",
    ),
    (
        "listModels",
        "The models of providers with a key, the names that the operator chose, and the saved agents (`agent:name`) and flows (`flow:name`) that the key may read.",
    ),
    ("getModel", "By the name that a request would give as `model`."),
    ("listExecutions", "A filter that is misspelt is refused, not ignored."),
    ("getExecution", "`success` and `error` say how it ended; `waits` lists what it waits for, with the ids that answer it."),
    (
        "listExecutionEvents",
        "Begins after the number in `after` or `Last-Event-ID`, at the first event without either. A long poll waits up to `wait` seconds.",
    ),
    ("listAgentExecutionEvents", "The same as `GET /v1/executions/{executionId}/events`, for an execution of this agent."),
    ("listExecutionSteps", "One row for each step: what it asked, what it answered, its tokens and cost. Of an agent there is one row."),
    ("cancelExecution", "Ends it with the status `cancelled`. An execution that has ended stays as it is."),
    (
        "sendSignal",
        "For a `wait-for-signal` step of that name, whose output becomes the body. A signal that comes first is kept. The body may be left out.",
    ),
    (
        "settleEffect",
        "An effect that must not happen twice went out, and its answer was lost. The execution waits until somebody says whether it happened.",
    ),
    (
        "deleteExecution",
        "Deletes its events, journal, waits and signals, and the executions that it began, in one step. 409 while one of them has not ended: cancel it first. Texts that \
         only it used are erased from the database within a few hours.",
    ),
    (
        "deleteExecutions",
        "Looks at one page of executions that have ended and pass the filters, newest first, and deletes them; repeat the call with the cursor until there is none.",
    ),
    ("getRetention", "`null` is for ever. `defaults` are the server's own, for kinds that are not set."),
    (
        "putRetention",
        "Replaces all settings. Only what has ended is deleted, in small batches in the background, a quarter of an hour after its time at the latest.",
    ),
    ("listAgents", "Without their configurations."),
    ("createAgent", "Names are unique among your agents. The first version is saved with it."),
    ("updateAgent", "Every change is a version. The published one stays published until another is."),
    ("deleteAgent", "Executions that are under way go on."),
    ("publishAgent", "The version of `versionId`; the current one when absent."),
    (
        "executeAgent",
        "The same as `POST /v1/dispatch` with this agent: `messages` has at least one of the user's. `versionId` or `alias` choose a version.",
    ),
    ("approveAgent", "The same as `POST /v1/dispatch/approve`."),
    ("resumeAgent", "The same as `POST /v1/dispatch/resume`."),
    (
        "moveAgentRelease",
        "A dispatch with `alias` runs that version. With `ifMatch`, a release that was moved since it was read is not moved; `live` needs it.",
    ),
    ("createFlow", "Names are unique among your flows. The whole document is checked: `details.problems` points at every fault."),
    ("updateFlow", "`steps` replaces all steps. Every change is a version; the published one stays published until another is."),
    ("deleteFlow", "Executions that are under way go on."),
    ("publishFlow", "The version of `versionId`; the current one when absent."),
    ("patchFlow", "The same as `PUT /v1/flows/{flowId}`."),
    ("addFlowStep", "`order` is its place, from 0; absent, it becomes the last step."),
    ("publishFlowVersion", "The same as `POST /v1/flows/{flowId}/publish`."),
    ("validateFlow", "Nothing is saved; `errors` lists every fault, with the step that it is in."),
    ("validateTemplate", "Nothing is saved or rendered; the answer lists every fault."),
    ("validateLiquid", "The same as `POST /v1/validate/liquid-template`."),
    ("validateScript", "Nothing is saved or run; the answer lists every fault."),
    ("activateAgentAlias", "`If-Match` has the revision that was read; `live` cannot be moved without it."),
    ("createRecord", "Names are unique among the records of a type."),
    ("patchRecord", "The same as `PUT /v1/records/{recordId}`."),
    ("uploadRecords", "The same as `POST /v1/records/import`, with the answer that Runtype's clients read."),
    ("updateRecord", "Absent members stay; `metadata` replaces all metadata."),
    (
        "searchRecords",
        "`filter` is `{field, op, value}`, or such filters in `and`, `or` and `not`; fields are columns, or metadata by a dot path.",
    ),
    ("editRecords", "Members of `metadata` are set in each record's; `null` removes one. Each record succeeds or fails alone."),
    (
        "importRecords",
        "The first line names the columns. Each other row becomes a record; rows that were not saved are listed in the answer.",
    ),
    ("exportRecords", "A column for each key of the records' metadata. The result can be imported again."),
    ("createApiKey", "A key can give only scopes that it has itself. The answer is the one place where the new key stands."),
    ("revokeApiKey", "Calls with it are refused from then on."),
    ("getLimits", "They hold for all keys together, beside each key's own."),
    (
        "putLimits",
        "What is absent is not limited. Limits hold for all servers together: at once on the one that answers, within five seconds on others. docs/limits.md describes them.",
    ),
    ("putApiKeyLimits", "What is absent is not limited. A key that has limits itself cannot change any."),
    (
        "getUsage",
        "Rows are in the order of days, keys, targets and models. With `Accept: text/csv` the answer is one CSV of at most 10,000 rows.",
    ),
    ("listCredentials", "Keys are masked."),
    ("putCredential", "The key is kept sealed. It comes before one of the server's own."),
    ("createSecret", "Its value is never shown again. HTTP calls of flows name it as `{{secret:KEY}}`."),
    ("updateSecret", "A new value holds for executions that begin, or are taken up after a pause, from then on."),
    ("createClientToken", "Say which origins may use it, and which saved flows and agents pages may run."),
    ("showClientToken", "Whoever reads the page can read it; it holds for the origins that it allows."),
    ("listCompatibleTools", "The built-in tools need nothing of a model but that it calls tools."),
    ("createTool", "Prompts and agents name it in `tools.toolIds`."),
    ("validateTool", "Nothing is saved; the answer lists every fault."),
    ("executeTool", "`parameters` are checked against the tool's schema. The call is an execution with a log of its own."),
    (
        "createSchedule",
        "`trigger` is `recurring` with a cron pattern and a time zone, or `one_time`. Times that passed while no server was there fire as one.",
    ),
    ("runScheduleNow", "The same as `POST /v1/schedules/{scheduleId}/run`."),
    ("runSchedule", "Its next time stays as it is."),
    ("previewSchedule", "As its trigger is now."),
    ("readAsset", "The URL's `token` opens a private file. `Range` reads a part of it."),
    ("createBatch", "The same as `POST /v1/flows/{flowId}/run-on-record-type`, with the flow in the body."),
    ("submitBatch", "Each saved or inline record is one execution."),
    ("runFlowOnRecordType", "Answers at once with the batch, which `GET /v1/batches/{batchId}` follows."),
    (
        "createEval",
        "Asks every variant every case, in the background, and grades the answers; docs/evals.md describes targets and graders.",
    ),
    (
        "ensureFlow",
        "With `contentHash` alone it answers whether that is the saved flow, with `definition` it saves it. A flow that was changed in another way is 409 `external_modification` unless `onConflict` is `overwrite`.",
    ),
    (
        "ensureAgent",
        "With `contentHash` alone it answers whether that is the saved agent, with `definition` it saves it. An agent that was changed in another way is 409 `external_modification` unless `onConflict` is `overwrite`.",
    ),
    (
        "getExecutionStatus",
        "For callers that did not wait: `statusUrl` of an accepted dispatch leads here. The whole execution is at `GET /v1/executions/{executionId}`.",
    ),
    ("pullFlow", "In the form that `POST /v1/flows/ensure` takes, with the hash that it goes by."),
    ("pullAgent", "In the form that `POST /v1/agents/ensure` takes, with the hash that it goes by."),
    (
        "submitEval",
        "Takes a flow with records (`flowId`, `records`, `modelOverrides`), or the body of `POST /v1/evals`. Each list of `modelConfigs` is an eval of its own.",
    ),
    (
        "streamEval",
        "Takes the body of `POST /v1/eval/submit`. An execution's events come when it has ended; `custom` events say which record it was for, and when the evals end.",
    ),
    ("getEvalResults", "The same as `GET /v1/evals/{evalId}/results`."),
    ("compareEvalRecord", "Of each eval: the steps that were run for the record, with their tool calls."),
    ("listEvalBatches", "For clients that page by offset."),
    ("compareEvalRuns", "The same as `POST /v1/evals/compare`."),
    ("deleteVectors", "Without `id`, every vector of the collection."),
    (
        "enqueueJob",
        "A job is done by the saved flow of its `name`, or by the HTTP call in `callback`. It is retried `max_retries` times, then it becomes a dead letter.",
    ),
    ("cancelJobs", "Those of a queue, of a name, or all. With `dry_run` they are only counted."),
    ("retryJobs", "Those of a queue, of a name, or all. With `dry_run` they are only counted."),
    ("purgeDeadLetters", "With `dry_run` they are only counted."),
    ("replayDeadLetters", "With `dry_run` they are only counted."),
    ("publishEventForRuns", "`name` is what `wait-for-event` steps and triggers of workflows listen for."),
    ("createCron", "Five fields, six with seconds in front, `@daily` and its like, or `@every 90s`."),
    ("updateCron", "Absent members stay."),
    ("putQueue", "Limits hold for all servers together; `orgs` has those of single organisations."),
    ("createTrigger", "`scheme` says how the sender signs. The address is the secret part: it is in this answer and nowhere else."),
    ("rotateTrigger", "The new address is in this answer and nowhere else."),
    (
        "createWebhook",
        "Told of everything when `events` is empty. Deliveries are signed as Standard Webhooks says; docs/jobs.md has the details.",
    ),
    ("rotateWebhookSecret", "Both secrets sign for `overlap_hours`, a day when absent."),
    ("replayWorkflowRun", "Makes a new run, in which `from_step` and what comes after it are done anew."),
    ("startWorkflow", "Runs the saved flow of that name; `input` becomes its variables."),
    (
        "putHttpWorkflow",
        "A version that is lower than the one kept is refused. Runs keep the document that they began with. docs/workflows.md describes it.",
    ),
    (
        "triggerHttpWorkflow",
        "The body is the run's input. The answer comes when the run has ended: 200 with the document's `response`, or 502 when it failed. 202 when it waits for a signal, takes longer than a minute (`Prefer: wait=N`), or the call says `Prefer: respond-async`.",
    ),
    ("compensateHttpRun", "For a run whose compensation is `partial`; one such run for each."),
    ("putHttpSecret", "Its value is never shown again. Workflows read it as `{{ secrets.NAME }}`."),
    ("beginSession", "The server answers with a challenge; docs/workflows.md describes the handshake."),
    ("confirmSession", "Proves that the caller holds the tenant's key; docs/workflows.md describes the handshake."),
    ("getSession", "Read from `Dispatched-Session`."),
    ("endSession", "Calls with it are refused from then on."),
    ("initClient", "The first call of a page. The answer's `sessionId` proves the page in every later call."),
    ("chat", "`messages` is the whole conversation. The answer streams."),
    ("resumeChat", "The same as `POST /v1/dispatch/resume`, for an execution of this session."),
    ("approveChat", "The same as `POST /v1/dispatch/approve`, for calls whose approval is the end user's."),
    ("sendFeedback", "Kept with the token, for its owner to read."),
    ("listClientConversations", "For sessions of a visitor. Others have no history."),
    ("deleteClientConversations", "All of them, for good."),
    ("getClientConversation", "With its latest messages; `messageCursor` leads to earlier ones."),
    ("deleteClientConversation", "For good."),
    (
        "projectClientConversation",
        "What the page shows instead of a message comes back with the conversation; the model still sees the message.",
    ),
    ("resetVisitor", "The conversations stay with the owner of the token."),
    ("receiveWebhook", "Called by others, at the address of a trigger. The same delivery again is the same job."),
    ("livez", "Answers as long as the process runs; it asks nothing of the database."),
    ("readyz", "503 while the server shuts down, or its database does not answer."),
    ("llms", "Plain text, short enough for a model's context."),
    ("openapi", "OpenAPI 3.1."),
];

/// Completes an operation's words and adds the example of its body.
pub fn complete(operation: &mut Map<String, Value>) {
    let id = operation.get("operationId").and_then(Value::as_str).unwrap_or_default().to_owned();
    let note = NOTES.iter().find(|(of, _)| *of == id).map(|(_, note)| (*note).to_owned());
    let given = operation.get("description").and_then(Value::as_str).map(str::to_owned);
    let texts: Vec<String> =
        [given, note, pages(operation), stream(operation), repeat(operation), scope(operation)].into_iter().flatten().collect();
    if !texts.is_empty() {
        operation.insert("description".into(), texts.join(" ").into());
    }
    let body =
        operation.get_mut("requestBody").and_then(|body| body.pointer_mut("/content/application~1json")).and_then(Value::as_object_mut);
    if let (Some(body), Some(example)) = (body, example_of(&id)) {
        body.insert("example".into(), example);
    }
}

fn has_parameter(operation: &Map<String, Value>, name: &str) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array);
    parameters.is_some_and(|parameters| parameters.iter().any(|parameter| parameter.get("name").is_some_and(|given| given == name)))
}

fn pages(operation: &Map<String, Value>) -> Option<String> {
    let text = if has_parameter(operation, "cursor") {
        "The answer is one page of the list; a cursor of it leads to the next."
    } else if has_parameter(operation, "offset") {
        "The answer is one page of the list: `limit` rows after `offset`."
    } else {
        return None;
    };
    Some(text.to_owned())
}

fn stream(operation: &Map<String, Value>) -> Option<String> {
    // Streams of OpenAI's API have no numbers of this form.
    let is_of_openai = operation.get("tags")?.as_array()?.iter().any(|tag| tag == "OpenAI");
    let content = operation.get("responses")?.get("200")?.get("content")?.as_object()?;
    let text = "Server-sent events have the event's number as `id`: come back with it to go on where the stream broke off.";
    (content.contains_key("text/event-stream") && !is_of_openai).then(|| text.to_owned())
}

fn repeat(operation: &Map<String, Value>) -> Option<String> {
    has_parameter(operation, "Idempotency-Key").then(|| "May be repeated safely with an `Idempotency-Key`.".to_owned())
}

fn scope(operation: &Map<String, Value>) -> Option<String> {
    let scope = operation.get("x-required-scope")?.as_str()?;
    Some(format!("Needs the scope `{scope}`."))
}
