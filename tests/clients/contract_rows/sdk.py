"""Rows of the official Python SDK. Its verbs are called by tests/clients/runtype_sdk.py; a row works when the verbs that it names do."""

import os
import re
import subprocess
import sys

from runtype_runs import asks_for_approval, client_tool
from table import ROOT, Table, contains, equal
from typed import fits
from world import BINARY, DOUBLE, ECHO, prompt, script

ROWS = Table("the official Python SDK")

VERBS = ROOT / "tests/clients/runtype_sdk.py"


def called(_):
    """Calls every verb, once, and gives why those that failed did."""
    ran = subprocess.run([sys.executable, str(VERBS)], env={**os.environ, "DISPATCH_BINARY": BINARY}, capture_output=True, text=True, timeout=900)
    assert re.search(r"\d+ of \d+ verbs work", ran.stdout), ran.stderr[-500:]
    return [line.removeprefix("FAILED ") for line in ran.stdout.splitlines() if line.startswith("FAILED ")]


def verb(area, item, *names):
    def check(w):
        known = re.findall(r'^@verb\("(.*)"\)$', VERBS.read_text(), re.MULTILINE)
        contains(known, *names)
        failed = w.once(called)
        for name in names:
            why = [line for line in failed if line.startswith(f"{name}: ")]
            assert not why, why[0]

    ROWS.add(area, item, check)


MODEL, TEXT = "error_handling: fallback to another model", "error_handling: fallback to a message"
TOKENS = "client_tokens."
for area, item, *names in (
    (
        "readme",
        "local tools exactly as in the README (runtime_tools / tool_type, snake_case inside tools)",
        "local tools, as the README writes them",
    ),
    ("builder", "prompt stream_output=False keeps text out of the stream", "prompt(stream_output=False)"),
    ("builder", "prompt error_handling with fallbacks [{type: model}]", MODEL),
    ("fallbacks", "onError fallback + fallbacks [{type: model}] answers with the other model", MODEL),
    ("fallbacks", "fallbacks [{type: message}] answers with the message", TEXT),
    ("builder", "upsert_record merge_strategy=merge keeps earlier keys", "FlowBuilder.upsert_record, merge_strategy, retrieve_record"),
    (
        "builder",
        "vector_search (SDK sends query, recordType, limit, threshold)",
        "FlowBuilder.generate_embedding, vector_search",
    ),
    ("options", "model_override changes the model", "with_options(model_override)"),
    ("validate", "builder.validate(client): POST /v1/public/flows/validate", "FlowBuilder.validate"),
    ("upsert", "after an edit elsewhere: 409 without allow_overwrite", "upsert after an edit elsewhere"),
    ("upsert", "create_version_on_change=False keeps no version", "upsert(create_version_on_change=False)"),
    (
        "upsert",
        "Runtype.flows.upsert(name).prompt().stream_sync() — the README's main verb (hash-only probe first)",
        "Runtype.flows.upsert().stream_sync()",
    ),
    ("upsert", "Runtype.flows.upsert().stream() async", "Runtype.flows.upsert().stream()"),
    ("flows", "flows.create(name, description) — no steps", "flows.create, get, list, update, delete"),
    ("flows", "flows.update (PATCH /v1/flows/:id)", "flows.create, get, list, update, delete"),
    ("flows", "flows.get_steps (GET /v1/flows/:id/steps)", "flows.get_steps, add_step"),
    ("flows", "flows.add_step (POST /v1/flows/:id/steps)", "flows.get_steps, add_step"),
    ("records", "records.list metadata_keys filters", "records.list(metadata_keys, min_fields)"),
    ("records", "records.update", "records.update"),
    ("client_tokens", "client_tokens.create (SDK sends flow_ids, default_flow_id, allowed_origins)", f"{TOKENS}create"),
    ("client_tokens", "client_tokens.list", f"{TOKENS}list, get"),
    ("client_tokens", "client_tokens.get", f"{TOKENS}list, get"),
    ("client_tokens", "client_tokens.update(is_active=False)", f"{TOKENS}update"),
    ("client_tokens", "client_tokens.regenerate", f"{TOKENS}regenerate"),
    ("agents", "agents.ensure(definition)", "agents.ensure", "agents.ensure(dry_run, expect_no_changes)", "agents.ensure after an edit elsewhere"),
    ("agents", "agents.pull(name)", "agents.pull"),
    ("agents", "agents.aliases.list", "agents.aliases.activate, get, list, rollback, archive"),
    ("agents", "agents.aliases.get(live)", "agents.deployments.list, ensure(deploy)"),
    ("agents", "agents.deployments.list", "agents.deployments.list, ensure(deploy)"),
    ("batches", "Runtype.batches.schedule (POST /v1/batches)", "batches.schedule, get, list, cancel"),
    ("evals", "Runtype.evals.run(flow_id, records, models).submit()", "evals.run().submit(), get, list"),
    ("evals", "….stream()", "evals.run().stream()"),
    ("evals", "Runtype.evals.list (GET /v1/eval/batches)", "evals.run().submit(), get, list"),
    ("typed", "DispatchFlowJsonResponse of a flow", "typed answers of dispatch"),
    (
        "callbacks",
        "on_execution_complete when the last step gives a number or an object",
        "StreamCallbacks: text and end, also of a number",
    ),
):
    verb(area, item, *names)


# What no verb shows


def attempts(w, *chain):
    """What the model's fallback answered, and its attempts: each model of the chain may be asked several times."""
    handling = {"onError": "fallback", "fallbacks": list(chain)}
    answer = w.run(prompt("say saved", model="fails/now", errorHandling=handling))
    equal(answer["success"], True)
    ended = next(event for event in answer["events"] if event["type"] == "step_complete")
    equal(ended["fallback"]["used"], True)
    return answer["result"], ended["fallback"]["attempts"]


@ROWS.row("fallbacks", "fallbacks [{type: retry}]")
def _(w):
    message = {"type": "message", "message": "sorry"}
    result, made = attempts(w, {"type": "retry", "delay": 1}, message)
    equal(result, "sorry")
    # One model is asked five times at most, whatever the chain says.
    equal({attempt["type"] for attempt in made[:-1]}, {"retry"})
    assert 2 < len(made) <= 6, made


@ROWS.row("fallbacks", "step_complete.fallback reports attempts")
def _(w):
    result, made = attempts(w, {"type": "model", "model": ECHO})
    equal((result, [attempt["attempt"] for attempt in made]), ("saved", list(range(1, len(made) + 1))))
    equal((made[0]["model"], made[0]["success"], made[-1]["type"], made[-1]["model"]), ("fails/now", False, "model", ECHO))
    equal([attempt["success"] for attempt in made], [False] * (len(made) - 1) + [True])


@ROWS.row("options", "flow_timeout_ms cuts a flow")
def _(w):
    answer = w.run(prompt("slow 9000\nsay late"), options={"flowTimeoutMs": 300})
    equal((answer["success"], answer["error"]["code"]), (False, "run_timeout"))


@ROWS.row("typed", "AsyncDispatchHandle (Prefer: respond-async)")
def _(w):
    body = {"flow": {"name": "F", "steps": [script("return 1")]}}
    handle = w.post("/v1/dispatch", body, 202, headers={"prefer": "respond-async"})
    fits("AsyncDispatchHandle", handle.json)
    contains(w.get(handle["statusUrl"].removeprefix(w.url)).json, "status")


def paused(w):
    """A flow that waits for a tool of the page."""
    return w.run(prompt("call add_cart {}"), clientTools=[client_tool("add_cart")])


@ROWS.row("typed", "DispatchFlowJsonResponse of a paused flow (pausedReason.type local_action)")
def _(w):
    fits("DispatchFlowJsonResponse", paused(w).json)


@ROWS.row("typed", "pausedReason.type")
def _(w):
    reason = paused(w)["pausedReason"]
    equal((reason["type"], reason["toolName"]), ("local_action", "add_cart"))
    contains(reason, "toolId")


@ROWS.row("typed", "DispatchAgentJsonResponse of an agent paused for approval")
def _(w):
    tools = {"runtimeTools": [DOUBLE], "approval": {"require": True}}
    body = {"agent": {"name": "A", "model": ECHO, "tools": tools}, "messages": [{"role": "user", "content": "call double {}"}]}
    answer = w.dispatch(body)
    equal(answer["status"], "paused")
    fits("DispatchAgentJsonResponse", answer.json)


@ROWS.row("typed", "DispatchApprovalContinuationJsonResponse (approve, JSON; `decision` required)")
def _(w):
    asked = asks_for_approval(w)
    body = {"executionId": asked["executionId"], "approvalId": asked["approvalId"], "decision": "approved", "streamResponse": False}
    answer = w.post("/v1/dispatch/approve", body, 200)
    fits("DispatchApprovalContinuationJsonResponse", answer.json)
    equal(answer["decision"], "approved")


DETAILS = (
    "An object, `{problems: [{pointer, message}]}`. The models of the official SDK have a list there, but its clients read the body as"
    " it comes and branch on `code`."
)


@ROWS.row("typed", "400/422 body as BadRequestErrorBody (details is a list of {message, path})", DETAILS)
def _(w):
    answer = w.post("/v1/dispatch", {"flow": {"name": "F"}}, 422)
    equal((answer["code"], answer.pointers()), ("validation_failed", ["/flow/steps"]))
