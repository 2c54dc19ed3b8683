"""Rows of typed answers: each route's answer is held against the model that the official SDK generates from Runtype's OpenAPI document."""

import re

from pydantic import TypeAdapter
from runtype import _generated as models

from runtype_pages import Chat, token
from runtype_routes import submitted
from table import Table
from world import DOUBLE, ECHO, ORIGIN, prompt, script

ROWS = Table("Typed answers of Runtype's OpenAPI")


def fits(model, answer):
    TypeAdapter(getattr(models, model)).validate_python(answer)


def model_name(method, path):
    """`GET /v1/flows/{id}` is answered with `GetV1FlowsIdResponse`."""
    words = re.findall(r"[a-z0-9]+", path.lower())
    return f"{method.title()}{''.join(word.title() for word in words)}Response"


# One object of each resource, with what its lists show.


def flow(w):
    made = w.flow()
    w.dispatch({"flow": {"id": made}, "record": {"id": w.once(record)}})
    return made


def agent(w):
    made = w.agent()
    body = {"messages": [{"role": "user", "content": "say hi"}], "streamResponse": False}
    w.post(f"/v1/agents/{made}/execute", body, 200)
    return made


def agent_execution(w):
    return w.get(f"/v1/agents/{w.once(agent)}/executions")["data"][0]["id"]


def record(w):
    made = w.post("/v1/records", {"type": "typed", "name": w.name("Record"), "metadata": {"a": 1}}, 201)["id"]
    w.dispatch({"flow": {"id": w.flow(prompt("say {{_record.name}}"))}, "record": {"id": made}})
    return made


def tool_body(w):
    schema = {"type": "object", "properties": {"n": {"type": "number"}}}
    name = w.name("tool").replace(" ", "_")
    return {"name": name, "description": "d", "toolType": "custom", "config": {"code": "return 2 * n"}, "parametersSchema": schema}


def secret_body(w):
    return {"key": w.name("SECRET").replace(" ", "_"), "value": "kept-and-never-shown"}


def schedule_body(w):
    return {"target": {"flowId": w.flow()}, "trigger": {"type": "recurring", "cron": "0 3 * * *", "timezone": "UTC"}}


def token_body(w):
    return {"name": w.name("Shop"), "allowedOrigins": [ORIGIN], "agentIds": [w.agent()]}


def talked(w):
    """A client token that a page has used."""
    kept = w.once(Chat)
    rows = w.get("/v1/client-tokens")["data"]
    return next(row["id"] for row in rows if w.get(f"/v1/client-tokens/{row['id']}/conversations")["data"] and kept)


def made(path, body):
    return lambda w: w.post(path, body(w), 201)["id"]


OBJECTS = {
    "flows": flow,
    "flow-steps": flow,
    "flow-versions": flow,
    "agents": agent,
    "records": record,
    "tools": made("/v1/tools", tool_body),
    "secrets": made("/v1/secrets", secret_body),
    "schedules": made("/v1/schedules", schedule_body),
    "client-tokens": lambda w: token(w)["clientToken"]["id"],
    "eval": submitted,
}


def place(w, method, path):
    """The path with the ids of its objects: what is deleted is made for it."""
    make = OBJECTS.get(path.split("/")[2])
    if path.startswith("/v1/client-tokens/") and path.endswith("/conversations"):
        make = talked
    if "{execution_id}" in path:
        path = path.replace("{execution_id}", w.once(agent_execution))
    return re.sub(r"\{\w+\}", lambda _: make(w) if method == "DELETE" else w.once(make), path)


def answered(method, path, body):
    def check(w):
        target = place(w, method, path)
        answer = w.call(method, target, body(w) if body else None, (200, 201))
        fits(model_name(method, path), answer.json)
        data = answer.json.get("data")
        assert method != "GET" or data != [], f"nothing was listed: {answer}"

    return check


def changed_flow(w):
    return {"name": w.name("Flow"), "steps": [script("return 2")]}


def agent_body(w):
    return {"name": w.name("Agent"), "config": {"model": ECHO}}


ROUTES = [
    ("POST", "/v1/flows", changed_flow),
    ("GET", "/v1/flows/{id}", None),
    ("PUT", "/v1/flows/{id}", changed_flow),
    ("POST", "/v1/flows/{id}/publish", None),
    ("GET", "/v1/flow-steps/flow/{flow_id}", None),
    ("GET", "/v1/flow-versions/{flow_id}", None),
    ("GET", "/v1/flows/{id}/step-results", None),
    ("POST", "/v1/flows/{id}/run-on-record-type", lambda w: {"recordType": w.once(record) and "typed"}),
    ("GET", "/v1/agents", None),
    ("POST", "/v1/agents", agent_body),
    ("GET", "/v1/agents/{id}", None),
    ("PUT", "/v1/agents/{id}", agent_body),
    ("POST", "/v1/agents/{id}/publish", None),
    ("GET", "/v1/agents/{id}/executions", None),
    ("GET", "/v1/agents/{id}/executions/{execution_id}", None),
    ("GET", "/v1/records", None),
    ("POST", "/v1/records", lambda w: {"type": "typed", "name": w.name("Record"), "metadata": {"a": 1}}),
    ("GET", "/v1/records/{id}", None),
    ("PUT", "/v1/records/{id}", lambda w: {"metadata": {"a": 2}}),
    ("POST", "/v1/records/bulk-edit", lambda w: {"recordIds": [w.once(record)], "updates": {"plan": "pro"}}),
    ("GET", "/v1/records/{id}/results", None),
    ("GET", "/v1/records/{id}/step-results", None),
    ("GET", "/v1/records/{id}/costs", None),
    ("GET", "/v1/tools", None),
    ("POST", "/v1/tools", tool_body),
    ("GET", "/v1/tools/{id}", None),
    ("PUT", "/v1/tools/{id}", lambda w: {"description": "changed"}),
    ("GET", "/v1/tools/builtin", None),
    ("POST", "/v1/tools/{id}/execute", lambda w: {"parameters": {"n": 4}}),
    ("POST", "/v1/secrets", secret_body),
    ("GET", "/v1/secrets/{id}", None),
    ("PUT", "/v1/secrets/{id}", lambda w: {"value": "another-that-is-not-shown"}),
    ("POST", "/v1/secrets/check", lambda w: {"keys": ["NONE"]}),
    ("GET", "/v1/schedules", None),
    ("GET", "/v1/schedules/{id}", None),
    ("GET", "/v1/schedules/{id}/stats", None),
    ("GET", "/v1/client-tokens", None),
    ("POST", "/v1/client-tokens", token_body),
    ("GET", "/v1/client-tokens/{id}", None),
    ("PUT", "/v1/client-tokens/{id}", lambda w: {"rateLimitPerMinute": 7}),
    ("GET", "/v1/client-tokens/{id}/conversations", None),
    ("POST", "/v1/client-tokens/{id}/regenerate", None),
    ("GET", "/v1/eval/{id}/results", None),
    ("POST", "/v1/eval/compare", lambda w: {"evalGroupId": w.once(submitted)}),
    ("DELETE", "/v1/tools/{id}", None),
    ("DELETE", "/v1/secrets/{id}", None),
    ("DELETE", "/v1/schedules/{id}", None),
    ("DELETE", "/v1/client-tokens/{id}", None),
    ("DELETE", "/v1/agents/{id}", None),
]
for method, path, body in ROUTES:
    ROWS.add("oas", f"{method} {re.sub(r'{[^}]*}', '{}', path)}", answered(method, path, body))


@ROWS.row("oas", "GET /v1/executions/{}/events")
def _(w):
    run = w.run(prompt("think hm\ncall double {}", tools={"runtimeTools": [DOUBLE]}), script("return {a: 1}"))["executionId"]
    events = w.sse(f"/v1/executions/{run}/events")
    assert events[-1]["type"] == "execution_complete", events[-1]
    for event in events:
        fits("ExecutionStreamEvent", event)


def of_visitor(path, model):
    def check(w):
        kept = w.once(Chat)
        headers = {"origin": ORIGIN, "x-visitor-token": kept.session["visitor"]["token"]}
        target = path.format(kept.listed(w)["id"])
        fits(model, w.get(f"{target}?sessionId={kept.session['sessionId']}", key=None, headers=headers).json)

    return check


for path, model in (
    ("/v1/client/conversations", "GetV1ClientConversationsResponse"),
    ("/v1/client/conversations/{}", "GetV1ClientConversationsIdResponse"),
):
    ROWS.add("oas", f"GET {path}", of_visitor(path, model))
