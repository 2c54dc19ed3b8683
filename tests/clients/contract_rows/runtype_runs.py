"""Rows of Runtype's execution API: refusals, templates, events, options, tools and agents."""

import json

from table import Table, contains, equal
from world import DOUBLE, ECHO, prompt, script, step

ROWS = Table("Runtype")

# Refusals


@ROWS.row("errors", "{{secret:KEY}} in transform-data -> (400, 422)")
def _(w):
    w.refuses("/flow/steps/0/config/script", script("return '{{secret:KEY}}'"))


@ROWS.row("errors", 'unknown route: 404 error exactly "Not Found" + message')
def _(w):
    answer = w.get("/v1/nowhere", 404)
    equal(answer["error"], "Not Found")
    assert answer["message"], answer


BAD_BODY = "422 with pointers, as everywhere; the reference lists 400."
for path, body, pointer in (
    ("approve", {}, "/executionId"),
    ("approve", {"executionId": "", "approvalId": "x", "decision": "approved"}, "/executionId"),
    ("approve", {"executionId": "exec_1", "approvalId": "a", "decision": "maybe"}, "/executionId"),
    ("resume", {}, "/executionId"),
    ("resume", {"executionId": ""}, "/executionId"),
    ("continue", {}, "/executionId"),
    ("continue", {"executionId": "exec_1"}, "/executionId"),
):
    ROWS.add(
        "errors",
        f"/v1/dispatch/{path} {json.dumps(body)} -> 400 (the docs list 400, not 422)",
        lambda w, path=path, body=body, pointer=pointer: contains(w.post(f"/v1/dispatch/{path}", body, 422).pointers(), pointer),
        BAD_BODY,
    )

# Templates and events


@ROWS.row("templates", "{{missing}}")
def _(w):
    equal(w.run(step("set-variable", variableName="x", value="{{missing}}"))["results"], {"S": None})


def identity(name, prepare):
    """A saved flow or agent reads its own id."""
    return lambda w: prepare(w, f"say <{{{{{name}}}}}>")


def of_agent(w, text):
    agent = w.agent(systemPrompt=text)
    said = w.dispatch({"agent": {"agentId": agent}, "messages": [{"role": "user", "content": "what"}]})
    contains(said["result"], f"<{agent}>")


def of_flow(w, text):
    flow = w.flow(prompt(text))
    contains(w.dispatch({"flow": {"id": flow}})["result"], f"<{flow}>")


def of_user(w, text):
    contains(w.run(prompt(text))["result"], f"<{w.get('/api/session')['tenant_id']}>")


ROWS.add("templates", "{{_agent.id}} (system variable)", identity("_agent.id", of_agent))
ROWS.add("templates", "{{_user.id}} (system variable)", identity("_user.id", of_user))
ROWS.add("templates", "{{_flow.id}} (system variable)", identity("_flow.id", of_flow))


@ROWS.row("events", "finalOutput is a string (OAS type) also when the last step gives an object")
def _(w):
    flow = {"flow": {"name": "F", "steps": [script("return {a: 1}")]}}
    end = w.events(flow)[-1]
    equal((end["type"], json.loads(end["finalOutput"])), ("execution_complete", {"a": 1}))
    answer = w.dispatch(flow)
    equal((answer["result"], answer["finalOutput"]), ({"a": 1}, {"a": 1}))


def upsert(w, name, value, status=200, **options):
    flow = {"name": name, "steps": [script(f"return {value}")]}
    return w.dispatch({"flow": flow, "options": {"flowMode": "upsert", **options}}, status)


def upserted(w, name):
    return next(flow["id"] for flow in w.get("/v1/flows?limit=100")["data"] if flow["name"] == name)


@ROWS.row("options", "createVersionOnChange:false keeps no version")
def _(w):
    name = w.name("Upsert")
    upsert(w, name, 1)
    flow = upserted(w, name)
    count = lambda: len(w.get(f"/v1/flow-versions/{flow}")["data"])
    before = count()
    equal(upsert(w, name, 2, createVersionOnChange=False)["result"], 2)
    equal(count(), before)


@ROWS.row("options", "upsert after an external change -> 409 (allowOverwriteExternalChanges false)")
def _(w):
    name = w.name("Upsert")
    upsert(w, name, 1)
    w.put(f"/v1/flows/{upserted(w, name)}", {"name": name, "steps": [script("return 5")]})
    equal(upsert(w, name, 2, 409)["code"], "flow_changed")
    equal(upsert(w, name, 2, allowOverwriteExternalChanges=True)["result"], 2)


@ROWS.row("options", "storeResults:false has an effect (results not kept)", "`options.storeResults` (steps and events are always kept)")
def _(w):
    run = w.dispatch({"flow": {"name": "F", "steps": [script("return 1")]}, "options": {"storeResults": False}})["executionId"]
    equal(len(w.get(f"/v1/executions/{run}/steps")["data"]), 1)


def client_tool(name, origin="webmcp"):
    schema = {"type": "object", "properties": {}}
    return {"name": name, "description": "A tool.", "parametersSchema": schema, "origin": origin}


@ROWS.row("request", "clientToolsPolicy.allowlist narrows webmcp tools, leaves sdk tools")
def _(w):
    tools = [client_tool("add_cart"), client_tool("del_cart"), client_tool("sdkone", "sdk")]
    w.run(prompt("hi", model="stand/now"), clientTools=tools, clientToolsPolicy={"allowlist": ["add_*"]})
    equal(w.offered(), ["add_cart", "sdkone"])


def called(w):
    """The events of a prompt that calls a tool."""
    steps = [prompt('call double {"n": 4}', tools={"runtimeTools": [DOUBLE]})]
    return w.events({"flow": {"name": "F", "steps": steps}})


def kinds(events):
    return [event["type"] for event in events]


ANNOUNCED = "Calls of tools are announced whole"


@ROWS.row("events", "tool_input_delta / tool_input_complete", ANNOUNCED)
def _(w):
    events = called(w)
    equal([event["parameters"] for event in events if event["type"] == "tool_start"], [{"n": 4}])
    assert not {"tool_input_delta", "tool_input_complete"} & set(kinds(events)), kinds(events)


@ROWS.row(
    "order",
    "output of a flow that runs as a tool is tagged parentToolCallId on text_start [persona]",
    "Stand in its own execution's log; the caller's log names it in `dispatch.child_started`.",
)
def _(w):
    tool = {"name": "ask", "description": "Asks.", "toolType": "flow", "config": {"flowId": w.flow(prompt("say within"))}}
    events = w.events({"flow": {"name": "F", "steps": [prompt("call ask {}", tools={"runtimeTools": [tool]})]}})
    child = next(event["value"]["executionId"] for event in events if event.get("name") == "dispatch.child_started")
    assert not any("parentToolCallId" in event for event in events)
    contains(w.get(f"/v1/executions/{child}")["output"], "within")


# Tools


NO_TOOL = "built-in tools other than those of `GET /v1/tools/builtin`"


def refused(reason, item, member, value, pointer=None, area="tools"):
    """A member of a prompt's tools is refused at its place."""
    at = pointer or f"/flow/steps/0/config/tools/{member}"
    ROWS.add(area, item, lambda w: w.refuses(at, prompt("hi", tools={member: value})), reason)


for tool in ("builtin:exa", "builtin:dalle", "builtin:openai_web_search", "builtin:set_reminder", "platform:x"):
    refused(NO_TOOL, f"toolIds {tool}", "toolIds", [tool], "/flow/steps/0/config/tools/toolIds/0")


@ROWS.row("tools", "runtimeTools toolType builtin")
def _(w):
    found = w.get("/v1/tools/builtin")["data"][0]["name"].removeprefix("builtin:")
    tool = {"name": found, "description": "Built in.", "toolType": "builtin", "config": {"toolId": f"builtin:{found}"}}
    w.run(prompt("hi", model="stand/now", tools={"runtimeTools": [tool]}))
    equal(w.offered(), [found])


OF_TOOLS = "Of `tools`: `codeModeConfig`, `toolConfigs`, `toolSearch`"
refused(OF_TOOLS, "tools.toolConfigs", "toolConfigs", {"builtin:exa": {"maxResults": 1}})
refused(OF_TOOLS, "tools.codeModeConfig", "codeModeConfig", {"enabled": True})


def asks_for_approval(w):
    """A prompt that waits for an approval: its execution and the event that asks."""
    tools = {"runtimeTools": [DOUBLE], "approval": {"require": True}}
    events = w.events({"flow": {"name": "F", "steps": [prompt('call double {"n": 4}', tools=tools)]}})
    equal(events[-1]["type"], "approval_start")
    return events[-1]


@ROWS.row("approval", "timeout on approval_start (policy default 300000 ms)", "30 days for outputs, signals and approvals.")
def _(w):
    equal(asks_for_approval(w)["timeout"], 30 * 24 * 3600 * 1000)


@ROWS.row("approval", "…has a `message` member as in the contract's sample")
def _(w):
    asked = asks_for_approval(w)
    body = {"executionId": asked["executionId"], "approvalId": asked["approvalId"], "streamResponse": False}
    w.post("/v1/dispatch/approve", {**body, "decision": "approved"}, 200)
    again = w.post("/v1/dispatch/approve", {**body, "decision": "denied"}, 409)
    equal(again["code"], "APPROVAL_ALREADY_RESOLVED")
    contains(again["message"], "approved is in force")


# Agents


@ROWS.row(
    "agent",
    "/v1/agents/:id/resume; opens a fresh turn_start at the next iteration",
    "The outputs that the caller sent come first, then the next `turn_start`",
)
def _(w):
    agent = w.agent()
    asked = {"agent": {"agentId": agent}, "messages": [{"role": "user", "content": "call add_cart {}"}]}
    paused = w.events({**asked, "clientTools": [client_tool("add_cart")]})[-1]
    equal(paused["type"], "await")
    body = {"executionId": paused["executionId"], "toolOutputs": {paused["toolCallId"]: {"ok": True}}}
    events = w.events(body, f"/v1/agents/{agent}/resume")
    equal([(event["type"], event["iteration"]) for event in events[:2]], [("tool_complete", 1), ("turn_start", 2)])


def agent_refused(area, item, member, value, reason, rows=ROWS):
    """Refused in a dispatch and when it is saved."""

    def check(w):
        sent = {"name": "A", "model": ECHO, member: value}
        body = {"agent": sent, "messages": [{"role": "user", "content": "hi"}]}
        contains(w.dispatch(body, 422).pointers(), f"/agent/{member}")
        place = w.post("/v1/agents", {"name": w.name("Refused"), "config": {"model": ECHO}, member: value}, 422).pointers()
        contains(place, f"/{member}")

    rows.add(area, item, check, reason)


OF_AGENTS = "Of agents: `skills`, `capabilities`, `primaryFlowId`, external and managed agents"
agent_refused("agent", "skills", "skills", ["skill_1"], OF_AGENTS)


@ROWS.row("agent", "externalConfig (external agents)", OF_AGENTS)
def _(w):
    sent = {"name": "A", "model": ECHO, "externalConfig": {"url": "https://agents.example"}}
    contains(w.dispatch({"agent": sent, "messages": [{"role": "user", "content": "hi"}]}, 422).pointers(), "/agent/externalConfig")


@ROWS.row("events", "tool_output_delta, media_delta, error (notice), ping", ANNOUNCED)
def _(w):
    assert not {"tool_output_delta", "media_delta", "error", "ping"} & set(kinds(called(w)))


@ROWS.row(
    "request",
    "options.modelOverride / flowVersionId / flowTimeoutMs / resumeFrom / upsertOptions / versionType / createVersion / cache /"
    " loggingPolicy (official SDK)",
    "of its `options` `resumeFrom`, `clientToolOutputs`, `localInference`, `createVersion: true`, `versionType`, `versionLabel`,"
    " `versionNotes`, `loggingPolicy: \"off\"`",
)
def _(w):
    flow = {"flow": {"name": "F", "steps": [prompt("say mine", model="fails/now")]}}
    equal(w.dispatch({**flow, "options": {"modelOverride": ECHO, "cache": True}})["result"], "mine")
    late = {"flow": {"name": "F", "steps": [prompt("slow 9000\nsay late")]}, "options": {"flowTimeoutMs": 200}}
    equal(w.dispatch(late)["success"], False)
    name = w.name("Upsert")
    upsert(w, name, 1)
    upsert(w, name, 2, upsertOptions={"createVersionOnChange": False})
    saved = upserted(w, name)
    equal(len(w.get(f"/v1/flow-versions/{saved}")["data"]), 1)
    for member, value in {"resumeFrom": "A", "versionType": "published", "createVersion": True, "loggingPolicy": "off"}.items():
        contains(w.dispatch({**flow, "options": {member: value}}, 422).pointers(), f"/options/{member}")
    pinned(w, lambda flow, version: {"flow": {"id": flow}, "options": {"flowVersionId": version}})


def pinned(w, request):
    """Runs the first version of a flow that has two."""
    flow = w.flow(script("return 1"))
    version = w.get(f"/v1/flows/{flow}")["currentVersionId"]
    w.put(f"/v1/flows/{flow}", {"name": w.name("Flow"), "steps": [script("return 2")]})
    equal(w.dispatch(request(flow, version))["result"], 1)


@ROWS.row("request", "flow.versionId")
def _(w):
    pinned(w, lambda flow, version: {"flow": {"id": flow, "versionId": version}})
