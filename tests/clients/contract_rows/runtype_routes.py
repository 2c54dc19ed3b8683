"""Rows of Runtype's routes around executions: saved objects, evals, validation, and routes that have no counterpart."""

from runtype_runs import OF_AGENTS, agent_refused
from table import Table, contains, equal
from world import DOUBLE, ECHO, World, prompt

ROWS = Table("Runtype")


def members(answer, text):
    missing = set(text.split()) - set(answer)
    assert not missing, f"no {sorted(missing)} in {answer}"


ABSENT = (
    "`sampleMetadata`, `dashboardUrl` and `organizationId` of flows; `metadataSchema`, `metadataLabels`, `productSurfaceId` and"
    " `organizationId` of records; `phantomToken` of secrets | Absent."
)


@ROWS.row("routes", "GET /v1/flows/:id sampleMetadata, dashboardUrl, userId, organizationId", ABSENT)
def _(w):
    flow = w.get(f"/v1/flows/{w.flow()}").json
    members(flow, "id name status createdAt updatedAt lastRunAt flowSteps stepCount userId")
    assert not {"sampleMetadata", "dashboardUrl", "organizationId"} & set(flow), flow


def absent(item, method, path, reason, body=None, statuses=(404,)):
    """The route does not exist: the answer is that of any unknown route."""

    def check(w):
        target = path.format(flow=w.once(World.flow), agent=w.once(World.agent))
        answer = w.call(method, target, body, statuses)
        contains(("route_not_found", "method_not_allowed"), answer["code"])

    ROWS.add("routes", item, check, reason)


EXPORT = "`speak` and `export-runtime`"
absent("GET /v1/flows/:id/export-runtime", "GET", "/v1/flows/{flow}/export-runtime", EXPORT)


@ROWS.row("routes", "step-results row members", "`flowVersionId` and `inputVariables` are absent: read `inputs` of the execution.")
def _(w):
    flow = w.flow()
    w.dispatch({"flow": {"id": flow}})
    (row,) = w.get(f"/v1/flows/{flow}/step-results")["data"]
    wanted = "executionSessionId recordId stepId stepType stepName order status startedAt completedAt durationMs outputPreview"
    members(row, f"{wanted} resolvedPrompt modelUsed promptTokens completionTokens totalTokens estimatedCost errorMessage retryCount")


@ROWS.row("routes", "POST /v1/agents response: status, publishedVersionId, draftVersionId, healthStatus, _warnings")
def _(w):
    made = w.post("/v1/agents", {"name": w.name("Agent"), "config": {"model": ECHO}}, 201)
    members(made.json, "status publishedVersionId draftVersionId healthStatus _warnings capabilities userId")


def with_tool_call(w):
    """An agent, an execution of it that called a tool, and the path of its calls."""
    agent = w.agent(tools={"runtimeTools": [DOUBLE]})
    body = {"messages": [{"role": "user", "content": 'call double {"n": 4}'}], "streamResponse": False}
    run = w.post(f"/v1/agents/{agent}/execute", body, 200)["executionId"]
    return f"/v1/agents/{agent}/executions/{run}/tool-calls"


@ROWS.row("routes", "GET …/tool-calls")
def _(w):
    (call,) = w.get(w.once(with_tool_call))["toolCalls"]
    equal((call["toolName"], call["outputResult"]), ("double", 8))


@ROWS.row("routes", "GET …/tool-calls/:callId")
def _(w):
    path = w.once(with_tool_call)
    (call,) = w.get(path)["toolCalls"]
    equal(w.get(f"{path}/{call['toolCallId']}").json, call)


absent("GET /v1/agents/:id/export-runtime", "GET", "/v1/agents/{agent}/export-runtime", EXPORT)
absent("POST /v1/agents/:id/capabilities", "POST", "/v1/agents/{agent}/capabilities", OF_AGENTS, {})
absent("DELETE …/capabilities/:capId", "DELETE", "/v1/agents/{agent}/capabilities/cap_1", OF_AGENTS)
absent("POST /v1/agents/:id/speak", "POST", "/v1/agents/{agent}/speak", EXPORT, {})
NO_ROUTE = (
    "404: products, model configurations (`GET /v1/models` lists models), agent cards of others, analyses of evals,"
    " `POST /v1/mcp/protocol` (the MCP endpoint is `/mcp`), telemetry import."
)
absent("POST external agent card (docs title)", "POST", "/v1/agents/fetch-agent-card", NO_ROUTE, {}, (404, 405))
for kind in ("external", "claude_managed"):
    agent_refused("routes", f"POST /v1/agents agentType {kind}", "agentType", kind, OF_AGENTS, ROWS)
agent_refused("routes", "POST /v1/agents primaryFlowId", "primaryFlowId", "flow_01h455vb4pex5vsknk084sn02q", OF_AGENTS, ROWS)


@ROWS.row("routes", "POST /v1/agents capabilities []", OF_AGENTS)
def _(w):
    body = {"name": w.name("Agent"), "config": {"model": ECHO}}
    w.post("/v1/agents", {**body, "capabilities": []}, 201)
    contains(w.post("/v1/agents", {**body, "capabilities": [{"flowId": "flow_1"}]}, 422).pointers(), "/capabilities")


def record(w, **metadata):
    body = {"type": "row", "name": w.name("Record"), "metadata": metadata, "messages": [{"role": "user", "content": "x"}]}
    return w.post("/v1/records", body, 201).json


@ROWS.row("routes", "POST /v1/records row members", ABSENT)
def _(w):
    made = record(w, a=1)
    members(made, "id type name metadata messages createdAt updatedAt userId")
    assert not {"metadataSchema", "metadataLabels", "productSurfaceId", "organizationId"} & set(made), made


@ROWS.row("routes", "GET /v1/records/schema?type=")
def _(w):
    record(w, schemed=1)
    contains([field["name"] for field in w.get("/v1/records/schema?type=row")["fields"]], "schemed")


@ROWS.row("routes", "GET records field values (docs title)")
def _(w):
    record(w, city="Oslo")
    equal(w.get("/v1/records/field-values?type=row&field=city")["values"][0]["value"], "Oslo")


@ROWS.row("routes", "POST records filter preview (docs title)")
def _(w):
    record(w, town="Bern")
    found = w.post("/v1/records/preview-filter", {"type": "row", "where": {"field": "town", "value": "Bern"}}, 200)
    equal(found["matchedCount"], 1)


@ROWS.row("routes", "GET /v1/tools/schemas")
def _(w):
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    tool = {"name": w.name("t").replace(" ", "_"), "description": "d", "toolType": "custom", "config": {"code": "return 1"}, "parametersSchema": schema}
    w.post("/v1/tools", tool, 201)
    contains([one["parametersSchema"] for one in w.get("/v1/tools/schemas")["tools"]], schema)


@ROWS.row("routes", "GET /v1/tools/builtin/compatible")
def _(w):
    equal(w.get("/v1/tools/builtin/compatible?model=gpt-4o&provider=openai").json, w.get("/v1/tools/builtin").json)


@ROWS.row("routes", "GET /v1/tools/builtin/:toolId/schema")
def _(w):
    tool = w.get("/v1/tools/builtin")["data"][0]
    name = tool["name"].removeprefix("builtin:")
    contains(w.get(f"/v1/tools/builtin/builtin:{name}/schema").text, tool["description"])


@ROWS.row("routes", "POST /v1/secrets members", ABSENT)
def _(w):
    made = w.post("/v1/secrets", {"key": "MEMBERS", "value": "kept-and-never-shown", "description": "d"}, 201)
    members(made.json, "id key description valuePreview status version lastRotatedAt createdAt updatedAt")
    assert "phantomToken" not in made.text and "kept-and-never-shown" not in made.text, made


INTAKE = "Of managed secrets: `intake` and phantom tokens."
for name in ("manifest", "submit"):
    absent(f"POST /v1/secrets/intake/{name}", "POST", f"/v1/secrets/intake/{name}", INTAKE, {})


def schedule(w, status=201, **more):
    trigger = {"type": "recurring", "cron": "0 3 * * *", "timezone": "UTC"}
    return w.post("/v1/schedules", {"target": {"flowId": w.flow()}, "trigger": trigger, **more}, status)


@ROWS.row("routes", 'POST /v1/schedules response {id, status:"created"}', "201 with the whole schedule.")
def _(w):
    made = schedule(w)
    members(made.json, "id status trigger target")
    equal(made["status"], "active")


@ROWS.row(
    "routes",
    "executionOptions chunkSize, progressFlushSize, recordConcurrency",
    "Of schedules: `executionOptions` other than `timeoutMs`.",
)
def _(w):
    for member in ("chunkSize", "progressFlushSize", "recordConcurrency"):
        found = schedule(w, 422, executionOptions={"timeoutMs": 5000, member: 7})
        contains(found.pointers(), f"/executionOptions/{member}")
    schedule(w, executionOptions={"timeoutMs": 5000})


# Evals


def submission(w, **more):
    records = [{"name": "tea", "type": "word", "metadata": {"word": "Tea"}}]
    configs = [[{"stepName": "A", "model": ECHO}]]
    return {"flowId": w.flow(prompt("say {{_record.metadata.word}}")), "records": records, "modelConfigs": configs, **more}


def submitted(w):
    """The group of an eval that has ended."""
    group = w.post("/v1/eval/submit", submission(w))["evalGroupId"]
    w.until(f"/v1/eval/{group}/results", lambda found: found["status"] == "completed")
    return group


@ROWS.row("routes", "POST /v1/eval/stream")
def _(w):
    events = w.events(submission(w), "/v1/eval/stream")
    contains([event.get("success") for event in events if event["type"] == "execution_complete"], True)


@ROWS.row("routes", "POST /v1/eval/compare-record")
def _(w):
    group = w.once(submitted)
    found = w.post("/v1/eval/compare-record", {"evalGroupId": group, "recordId": "tea"}, 200)
    equal([one["stepResults"][0]["output"] for one in found["evals"]], ["Tea"])


@ROWS.row("routes", "GET /v1/eval/group")
def _(w):
    group = w.once(submitted)
    equal(w.get(f"/v1/eval/group/{group}")["totalEvals"], 1)


@ROWS.row("routes", "GET /v1/eval")
def _(w):
    group = w.once(submitted)
    contains([one["id"] for one in w.get("/v1/eval")["data"]], group)


absent("POST /v1/eval/analyze", "POST", "/v1/eval/analyze", NO_ROUTE, {}, (404, 405))


@ROWS.row("routes", "POST /v1/validate/transform-code")
def _(w):
    equal(w.post("/v1/validate/transform-code", {"code": "return 1"}, 200)["valid"], True)
    wrong = w.post("/v1/validate/transform-code", {"code": "return ("}, 200)
    equal((wrong["valid"], wrong["issues"][0]["severity"]), (False, "error"))


@ROWS.row("routes", "POST /v1/validate/liquid")
def _(w):
    equal(w.post("/v1/validate/liquid", {"template": "{{ name | upcase }}"}, 200)["valid"], True)
    equal(w.post("/v1/validate/liquid", {"template": "{% if x %}"}, 200)["valid"], False)


SURFACES = "Surfaces, products, telemetry import."
absent("POST /v1/products/p1/surfaces/s1/api/dispatch", "POST", "/v1/products/p1/surfaces/s1/api/dispatch", SURFACES, {})
absent("GET /v1/products", "GET", "/v1/products", SURFACES)
absent("GET /v1/model-configs", "GET", "/v1/model-configs", NO_ROUTE)
absent("POST /v1/mcp/protocol", "POST", "/v1/mcp/protocol", NO_ROUTE, {})
absent("POST /v1/otel/v1/traces", "POST", "/v1/otel/v1/traces", NO_ROUTE, {})
absent("POST /v1/executions/ingest", "POST", "/v1/executions/ingest", NO_ROUTE, {}, (404, 405))
