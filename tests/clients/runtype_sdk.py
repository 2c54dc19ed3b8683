"""The official Python SDK of Runtype, unchanged, against a real server: one check for each verb of the SDK that Dispatch serves.

Prints every verb that failed, how many of how many work, and what is out of scope with its reason.
"""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from runtype import AgentDriftError, FlowBuilder, LocalToolEntry, Runtype, RuntypeClient, StreamCallbacks, define_agent
from runtype import AgentEnsureConflictError, APIError

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("DISPATCH_BINARY", str(ROOT / "target/debug/dispatch"))
KEY = "key-of-the-runtype-sdk-test"
ECHO = "local/echo"

OUT_OF_SCOPE = {
    "prompts.*, skills.*, product namespaces": "Dispatch keeps prompts inside flows; these resources of the platform have no counterpart",
    "client_tokens.get_token": "a token is shown once and kept only as a hash",
    "search, send_email, fetch_method firecrawl": "they need a vendor's account; their refusals are tested elsewhere",
}

CHECKS = []


def verb(name):
    def keep(check):
        CHECKS.append((name, check))
        return check

    return keep


def equal(found, wanted):
    assert found == wanted, f"found {found!r}, wanted {wanted!r}"


def said(result, step="A"):
    """What a prompt answered."""
    found = result.get_result(step)
    return found["response"] if isinstance(found, dict) else found


def refused(status, call):
    try:
        found = call()
    except Exception as error:  # The generated part of the SDK has errors of its own.
        equal(getattr(error, "status_code", None), status)
        return error
    raise AssertionError(f"not refused: {found!r}")


class Site(BaseHTTPRequestHandler):
    """A service that flows call: answers what it was sent."""

    def do_GET(self):
        if self.path == "/slow":
            # Longer than its caller waits, who is then gone.
            time.sleep(3)
            return
        self.answer(None)

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))).decode())

    def answer(self, body):
        text = json.dumps({"path": self.path, "body": body, "authorization": self.headers.get("authorization"), "items": [1, 2, 3]})
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


class World:
    """The server under test, its clients and the names that one run uses once."""

    def __init__(self, url, site):
        self.url, self.site, self.number = url, site, 0
        self.client = RuntypeClient(api_key=KEY, base_url=url, timeout=30.0)

    def name(self, word):
        self.number += 1
        return f"{word} {self.number}"

    def flow(self, *steps):
        """Saves a flow through the SDK and gives its id."""
        steps = steps or ({"id": "a", "name": "A", "type": "prompt", "config": {"model": ECHO, "userPrompt": "say kept"}},)
        return self.client.post("/flows", {"name": self.name("Flow"), "steps": list(steps)})["id"]

    def agent(self):
        return self.client.agents.ensure(define_agent(name=self.name("Agent"), model=ECHO, system_prompt="Be brief."))


def built(world, mode="virtual"):
    return FlowBuilder().create_flow(name=world.name("Built")).with_options(flow_mode=mode)


# Flows that the builders write


@verb("FlowBuilder.prompt")
def _(w):
    equal(said(built(w).prompt(name="A", model=ECHO, user_prompt="say hello").run(w.client)), "hello")


@verb("FlowBuilder.run(stream=False)")
def _(w):
    summary = built(w).prompt(name="A", model=ECHO, user_prompt="say hello").run(w.client, stream=False)
    assert summary is not None


@verb("FlowBuilder.run_async")
def _(w):
    async def run():
        async with Runtype.create_async_client(api_key=KEY, base_url=w.url) as client:
            return await built(w).prompt(name="A", model=ECHO, user_prompt="say later").run_async(client)

    equal(said(asyncio.run(run())), "later")


@verb("prompt(stream_output=False)")
def _(w):
    result = built(w).prompt(name="A", model=ECHO, user_prompt="say quiet", stream_output=False).run(w.client)
    equal([event["type"] for event in result.events if event["type"] == "text_delta"], [])
    equal(said(result), "quiet")


@verb("StreamCallbacks: text and end, also of a number")
def _(w):
    seen = []
    callbacks = StreamCallbacks(
        on_text_delta=lambda event: seen.append(event.delta),
        on_execution_complete=lambda event: seen.append(event.success),
        on_unknown_event=lambda event: seen.append(event),
    )
    flow = built(w).prompt(name="A", model=ECHO, user_prompt="say hi").transform_data(name="N", script="return {a: 1}")
    flow.run(w.client, callbacks=callbacks)
    assert "hi" in "".join(part for part in seen if isinstance(part, str)), seen
    assert True in seen, seen


@verb("FlowBuilder.transform_data")
def _(w):
    equal(built(w).transform_data(name="T", script="return [1, 2]").run(w.client).get_result("T"), [1, 2])


@verb("FlowBuilder.set_variable")
def _(w):
    flow = built(w).set_variable(name="S", variable_name="x", value="7").transform_data(name="T", script="return x")
    equal(str(flow.run(w.client).get_result("T")), "7")


@verb("FlowBuilder.fetch_url")
def _(w):
    found = built(w).fetch_url(name="F", url=f"{w.site}/f", response_type="json", output_variable="f").run(w.client)
    equal(found.get_result("F")["path"], "/f")


@verb("FlowBuilder.conditional")
def _(w):
    step = {"type": "transform-data", "id": "y", "name": "Y", "config": {"script": "return 'yes'", "outputVariable": "y"}}
    flow = built(w).conditional(name="C", condition="1 < 2", true_steps=[step], false_steps=[])
    equal(flow.run(w.client).get_result("Y"), "yes")


@verb("FlowBuilder.when")
def _(w):
    flow = built(w).set_variable(name="S", variable_name="x", value="1").transform_data(name="T", script="return 1").when("false")
    assert flow.run(w.client).get_result("T") is None


@verb("FlowBuilder.upsert_record, merge_strategy, retrieve_record")
def _(w):
    for value in ({"a": 1}, {"b": 2}):
        made = (
            built(w)
            .transform_data(name="T", script=f"return {json.dumps(value)}", output_variable="value")
            .upsert_record(name="U", record_type="sdk", record_name="merged", source_variable="value", merge_strategy="merge")
            .run(w.client)
        )
        assert made.get_result("U") is not None, made.events
    found = built(w).retrieve_record(name="R", record_type="sdk", record_name="merged").run(w.client).get_result("R")
    assert '"a"' in json.dumps(found) and '"b"' in json.dumps(found), found


@verb("FlowBuilder.generate_embedding, vector_search")
def _(w):
    flow = built(w).generate_embedding(name="E", text="red wine", embedding_model="local/words", output_variable="e")
    assert flow.run(w.client).get_result("E"), "no embedding"
    result = built(w).vector_search(name="V", query="red wine", record_type="sdk", embedding_model="local/words").run(w.client)
    assert result.get_result("V") is not None, result.events


@verb("FlowBuilder.send_stream, send_event")
def _(w):
    result = built(w).send_stream(name="S", message="to the reader").run(w.client)
    assert result.get_summary() is not None


@verb("FlowBuilder.wait_until")
def _(w):
    result = built(w).wait_until(name="W", delay_ms=10).transform_data(name="T", script="return 1").run(w.client)
    equal(result.get_result("T"), 1)


@verb("FlowBuilder.with_record, with_inputs, with_messages")
def _(w):
    flow = built(w).with_record(name="Ada", type="person", metadata={"city": "Oslo"}).with_inputs({"n": "3"})
    flow = flow.with_messages([{"role": "user", "content": "hello"}])
    prompt = "say {{_record.metadata.city}} {{n}} {{user_message}}"
    equal(said(flow.prompt(name="A", model=ECHO, user_prompt=prompt).run(w.client)), "Oslo 3 hello")


@verb("with_options(model_override)")
def _(w):
    flow = built(w).prompt(name="A", model="gpt-4o-of-nobody", user_prompt="say mine").with_options(model_override=ECHO)
    result = flow.run(w.client)
    equal(said(result), "mine")
    assert "model_substituted" not in json.dumps(result.events)


@verb("with_options(flow_timeout_ms)")
def _(w):
    began = time.monotonic()
    flow = built(w).fetch_url(name="F", url=f"{w.site}/slow").with_options(flow_timeout_ms=300)
    events = flow.run(w.client).events
    assert time.monotonic() - began < 2.5
    assert "run_timeout" in json.dumps(events), events


@verb("error_handling: fallback to another model")
def _(w):
    handling = {"onError": "fallback", "fallbacks": [{"type": "model", "model": ECHO}]}
    flow = built(w).prompt(name="A", model="fails/now", user_prompt="say saved", error_handling=handling)
    equal(said(flow.run(w.client)), "saved")


@verb("error_handling: fallback to a message")
def _(w):
    handling = {"onError": "fallback", "fallbacks": [{"type": "retry", "delay": 1}, {"type": "message", "message": "sorry"}]}
    flow = built(w).prompt(name="A", model="fails/now", user_prompt="say x", error_handling=handling)
    equal(said(flow.run(w.client)), "sorry")


@verb("FlowBuilder.with_subagent_tool")
def _(w):
    agent = w.agent()["agentId"]
    flow = built(w).prompt(name="A", model=ECHO, user_prompt='call helper {"task":"say helped"}')
    flow = flow.with_subagent_tool("helper", allowed_tools=[], description="Helps.", agent_id=agent)
    assert "helped" in said(flow.run(w.client))


@verb("local tools, as the README writes them")
def _(w):
    asked = []
    tool = {
        "name": "get_user",
        "description": "A user.",
        "tool_type": "local",
        "parameters_schema": {"type": "object", "properties": {"user_id": {"type": "string"}}},
    }
    flow = built(w).prompt(name="A", model=ECHO, user_prompt='call get_user {"user_id":"7"}', tools={"runtime_tools": [tool]})
    result = flow.run(w.client, local_tools={"get_user": lambda args: asked.append(args) or {"name": "Ada"}})
    equal(asked, [{"user_id": "7"}])
    assert "Ada" in said(result), said(result)


@verb("local tools of one turn (LocalToolEntry)")
def _(w):
    asked = []
    entry = LocalToolEntry(
        description="A user.",
        parameters_schema={"type": "object", "properties": {"user_id": {"type": "string"}}},
        execute=lambda args: asked.append(args) or {"name": "Ada"},
    )
    request = {
        "flow": {
            "name": "Turn",
            "steps": [{"id": "a", "name": "A", "type": "prompt", "config": {"model": ECHO, "userPrompt": 'call look_up {"user_id":"8"}'}}],
        }
    }
    w.client.run_with_local_tools(request, {"look_up": entry}, scope="turn", stream=True)
    equal(asked, [{"user_id": "8"}])


@verb("FlowBuilder.validate")
def _(w):
    good = built(w).prompt(name="A", model=ECHO, user_prompt="say x").validate(w.client)
    assert good.valid, good
    bad = FlowBuilder().create_flow(name="Bad").transform_data(name="T", script="return (").validate(w.client)
    assert not bad.valid, bad


# Flows that are kept


def upserted(w, name, text, **options):
    return Runtype.flows.upsert(name=name, **options).prompt(name="A", model=ECHO, user_prompt=f"say {text}")


def versions(w, flow_id):
    found = w.client.get(f"/flow-versions/{flow_id}")
    return len(found.get("versions", found.get("data", [])))


def id_of(w, name):
    return next(flow.id for flow in w.client.flows.list(limit=100).data if flow.name == name)


@verb("Runtype.flows.upsert().stream_sync()")
def _(w):
    name = w.name("Upsert")
    equal(said(upserted(w, name, "one").stream_sync()), "one")
    equal(said(upserted(w, name, "one").stream_sync()), "one")
    equal(versions(w, id_of(w, name)), 1)
    equal(said(upserted(w, name, "two").stream_sync()), "two")
    equal(versions(w, id_of(w, name)), 2)


@verb("Runtype.flows.upsert().stream()")
def _(w):
    name = w.name("Upsert")
    equal(said(asyncio.run(fresh(lambda: upserted(w, name, "one").stream()))), "one")


@verb("upsert(create_version_on_change=False)")
def _(w):
    name = w.name("Upsert")
    upserted(w, name, "one").stream_sync()
    equal(said(upserted(w, name, "two", create_version_on_change=False).stream_sync()), "two")
    equal(versions(w, id_of(w, name)), 1)


@verb("upsert after an edit elsewhere")
def _(w):
    name = w.name("Upsert")
    upserted(w, name, "one").stream_sync()
    flow = id_of(w, name)
    step = {"id": "a", "name": "A", "type": "prompt", "config": {"model": ECHO, "userPrompt": "say edited"}}
    w.client.put(f"/flows/{flow}", {"name": name, "steps": [step]})
    refused(409, lambda: upserted(w, name, "two").stream_sync())
    equal(said(upserted(w, name, "two", allow_overwrite_external_changes=True).stream_sync()), "two")


@verb("Runtype.flows.virtual().result_sync()")
def _(w):
    flow = Runtype.flows.virtual(name="V").prompt(name="A", model=ECHO, user_prompt="say whole")
    equal(said(flow.result_sync()), "whole")


@verb("Runtype.flows.use, flows.execute")
def _(w):
    flow = w.flow()
    equal(said(Runtype.flows.use(flow).stream_sync()), "kept")
    equal(said(asyncio.run(fresh(lambda: Runtype.flows.execute(flow)))), "kept")


@verb("with_options(flow_version_id)")
def _(w):
    flow = w.flow()
    first = w.client.get(f"/flows/{flow}")["currentVersionId"]
    step = {"id": "a", "name": "A", "type": "prompt", "config": {"model": ECHO, "userPrompt": "say newer"}}
    w.client.put(f"/flows/{flow}", {"name": w.name("Flow"), "steps": [step]})
    pinned = FlowBuilder().use_existing_flow(flow).with_options(flow_version_id=first)
    equal(said(pinned.run(w.client)), "kept")


@verb("flows.create, get, list, update, delete")
def _(w):
    made = w.client.flows.create(name=w.name("Plain"), description="d")
    equal(w.client.flows.get(made.id).description, "d")
    assert made.id in [flow.id for flow in w.client.flows.list(limit=100).data]
    renamed = w.name("Renamed")
    equal(w.client.flows.update(made.id, name=renamed).name, renamed)
    w.client.flows.delete(made.id)
    refused(404, lambda: w.client.flows.get(made.id))


@verb("flows.publish")
def _(w):
    w.client.flows.publish(w.flow())


@verb("flows.get_steps, add_step")
def _(w):
    flow = w.client.flows.create(name=w.name("Steps")).id
    w.client.flows.add_step(flow, step_type="transform-data", name="T", order=1, config={"script": "return 5"})
    equal([step["name"] for step in w.client.flows.get_steps(flow)], ["T"])
    equal(Runtype.flows.use(flow).stream_sync().get_result("T"), 5)


# Records


@verb("records.create, get, list, list_by_type, delete")
def _(w):
    made = w.client.records.create(type="kind", name=w.name("Record"), metadata={"a": 1})
    equal(w.client.records.get(made.id).metadata, {"a": 1})
    assert made.id in [record.id for record in w.client.records.list(limit=100).data]
    assert made.id in [record.id for record in w.client.records.list_by_type("kind").data]
    w.client.records.delete(made.id)
    refused(404, lambda: w.client.records.get(made.id))


@verb("records.update")
def _(w):
    made = w.client.records.create(type="kind", name=w.name("Record"), metadata={"a": 1})
    w.client.records.update(made.id, metadata={"a": 2})
    equal(w.client.records.get(made.id).metadata, {"a": 2})


@verb("records.list(metadata_keys, min_fields)")
def _(w):
    one = w.client.records.create(type="keys", name=w.name("Record"), metadata={"only": 1}).id
    two = w.client.records.create(type="keys", name=w.name("Record"), metadata={"other": 1, "more": 2}).id
    found = [record.id for record in w.client.records.list(limit=100, metadata_keys="only").data]
    assert one in found and two not in found, found
    found = [record.id for record in w.client.records.list(limit=100, metadata_keys_all="other,more").data]
    assert two in found and one not in found, found
    found = [record.id for record in w.client.records.list(limit=100, min_fields=2).data]
    assert two in found and one not in found, found


# Client tokens


def token(w):
    flow = w.flow()
    return w.client.client_tokens.create(
        name=w.name("Token"), flow_ids=[flow], default_flow_id=flow, allowed_origins=["https://shop.example"]
    )


@verb("client_tokens.create")
def _(w):
    made = token(w)
    assert made.token and made.client_token.is_active and made.token.startswith(made.client_token.token_prefix)


@verb("client_tokens.list, get")
def _(w):
    made = token(w).client_token
    assert made.id in [one.id for one in w.client.client_tokens.list()]
    equal(w.client.client_tokens.get(made.id).allowed_origins, ["https://shop.example"])


@verb("client_tokens.update")
def _(w):
    made = token(w).client_token
    equal(w.client.client_tokens.update(made.id, is_active=False).is_active, False)
    equal(w.client.client_tokens.get(made.id).is_active, False)


@verb("client_tokens.regenerate")
def _(w):
    made = token(w)
    assert w.client.client_tokens.regenerate(made.client_token.id).token != made.token


@verb("client_tokens.delete, list_conversations")
def _(w):
    made = token(w).client_token
    equal(w.client.client_tokens.list_conversations(made.id).conversations, [])
    w.client.client_tokens.delete(made.id)
    refused(404, lambda: w.client.client_tokens.get(made.id))


# Agents


@verb("agents.ensure")
def _(w):
    name = w.name("Ensured")
    definition = define_agent(name=name, model=ECHO, system_prompt="One.")
    made = w.client.agents.ensure(definition)
    equal(made["result"], "created")
    # Another client has no memory of the first call's hash.
    equal(RuntypeClient(api_key=KEY, base_url=w.url).agents.ensure(definition)["result"], "unchanged")
    changed = w.client.agents.ensure(define_agent(name=name, model=ECHO, system_prompt="Two."))
    equal((changed["result"], changed["agentId"]), ("updated", made["agentId"]))
    assert changed["versionId"] != made["versionId"]


@verb("agents.ensure(dry_run, expect_no_changes)")
def _(w):
    name = w.name("Ensured")
    definition = define_agent(name=name, model=ECHO, system_prompt="One.")
    equal(w.client.agents.ensure(definition, dry_run=True)["changes"] != "none", True)
    w.client.agents.ensure(definition)
    w.client.agents.ensure(definition, expect_no_changes=True)
    try:
        w.client.agents.ensure(define_agent(name=name, model=ECHO, system_prompt="Two."), expect_no_changes=True)
    except AgentDriftError:
        return
    raise AssertionError("no drift was reported")


@verb("agents.ensure after an edit elsewhere")
def _(w):
    name = w.name("Ensured")
    made = w.client.agents.ensure(define_agent(name=name, model=ECHO, system_prompt="One."))
    w.client.put(f"/agents/{made['agentId']}", {"name": name, "config": {"model": ECHO, "systemPrompt": "Edited."}})
    newer = define_agent(name=name, model=ECHO, system_prompt="Two.")
    try:
        w.client.agents.ensure(newer)
    except AgentEnsureConflictError:
        equal(w.client.agents.ensure(newer, on_conflict="overwrite")["result"], "updated")
        return
    raise AssertionError("the edit was overwritten")


@verb("agents.pull")
def _(w):
    name = w.name("Pulled")
    definition = define_agent(name=name, model=ECHO, system_prompt="One.")
    made = w.client.agents.ensure(definition)
    pulled = w.client.agents.pull(name)
    equal(pulled["contentHash"], made["contentHash"])
    equal(w.client.agents.ensure(pulled["definition"])["result"], "unchanged")


@verb("agents.execute")
def _(w):
    agent = w.agent()["agentId"]
    messages = {"messages": [{"role": "user", "content": "say at your service"}]}
    assert "at your service" in json.dumps(w.client.agents.execute(agent, messages), default=str)
    events = list(w.client.agents.execute(agent, messages, stream=True))
    assert "at your service" in json.dumps(events, default=str)


@verb("agents.aliases.activate, get, list, rollback, archive")
def _(w):
    made = w.agent()
    agent, aliases = made["agentId"], w.client.agents.aliases
    aliases.activate(agent, "pr-1", version_id=made["versionId"], reason="try", idempotency_key=w.name("key"))
    found = aliases.get(agent, "pr-1")
    assert made["versionId"] in found.model_dump_json(), found
    assert "pr-1" in aliases.list(agent).model_dump_json()
    aliases.archive(agent, "pr-1", revision=found.revision)
    refused(404, lambda: aliases.get(agent, "pr-1"))


@verb("agents.deployments.list, ensure(deploy)")
def _(w):
    made = w.client.agents.ensure(define_agent(name=w.name("Deployed"), model=ECHO, system_prompt="One."), deploy="live")
    assert made["versionId"] in w.client.agents.deployments.list(made["agentId"], alias="live", limit=20).model_dump_json()
    assert w.client.agents.aliases.get(made["agentId"], "live").revision is not None


# Batches and evals


async def fresh(call):
    """Runs `call` with an asynchronous client of this event loop."""
    Runtype.configure(api_key=KEY, base_url=BASE)
    return await call()


@verb("batches.schedule, get, list, cancel")
def _(w):
    kind = w.name("batch")
    w.client.records.create(type=kind, name="one", metadata={})
    flow = w.flow()

    async def run():
        made = await Runtype.batches.schedule(flow_id=flow, record_type=kind)
        found = await Runtype.batches.get(made["id"])
        listed = await Runtype.batches.list()
        try:
            await Runtype.batches.cancel(made["id"])
        except APIError as error:
            # It may have ended before.
            assert error.status_code == 409, error
        return made, found, listed

    made, found, listed = asyncio.run(fresh(run))
    equal(found["id"], made["id"])
    assert made["id"] in json.dumps(listed)


@verb("evals.run().submit(), get, list")
def _(w):
    flow = w.flow()

    async def run():
        records = [{"name": "one", "type": "case", "metadata": {"a": 1}}]
        made = await Runtype.evals.run(flow_id=flow, records=records, models=[{"step_name": "A", "model": ECHO}]).submit()
        key = made.get("evalId") or made.get("id") or made.get("batchExecutionId")
        return key, await Runtype.evals.get(key), await Runtype.evals.list()

    key, found, listed = asyncio.run(fresh(run))
    assert found and key in json.dumps(listed)


@verb("evals.run().stream()")
def _(w):
    flow = w.flow()
    records = [{"name": "one", "type": "case", "metadata": {"a": 1}}]
    result = asyncio.run(fresh(lambda: Runtype.evals.run(flow_id=flow, records=records, models=[{"step_name": "A", "model": ECHO}]).stream()))
    assert result.events, "no events"


# Typed answers


@verb("typed answers of dispatch")
def _(w):
    from pydantic import TypeAdapter
    from runtype._generated.types import DispatchFlowJsonResponse

    request = built(w).prompt(name="A", model=ECHO, user_prompt="say hi").transform_data(name="T", script="return {a: 1}").build()
    body = request.model_dump(by_alias=True, exclude_none=True) if hasattr(request, "model_dump") else dict(request)
    body["options"] = {**body.get("options", {}), "streamResponse": False}
    answer = w.client.post("/dispatch", body)
    TypeAdapter(DispatchFlowJsonResponse).validate_python(answer)


BASE = None


def main():
    global BASE
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="dispatch-runtype-") as folder:
        flags = ["--json", "serve", "--dev", "--listen", "127.0.0.1:0", "--data", folder, "--log", "error"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCH_", "OPENAI_"))}
        environment["DISPATCH_API_KEY"] = KEY
        # A provider whose server is not there: what asks it fails.
        providers = pathlib.Path(folder, "providers")
        providers.mkdir()
        providers.joinpath("fails.toml").write_text(
            'name = "fails"\nwire = "openai"\nbase_url = "http://127.0.0.1:9/v1"\nprices_as_of = "2026-01-15"\nkey_env = ["FAILS_KEY"]\n\n[[models]]\nname = "now"\n'
        )
        environment["FAILS_KEY"] = "none"
        flags += ["--providers", str(providers)]
        server = subprocess.Popen([BINARY, *flags], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            lines = (json.loads(line) for line in server.stdout if line.startswith("{"))
            url = next((line["url"] for line in lines if "url" in line), None)
            assert url, "the server ended before it listened"
            BASE = url
            Runtype.configure(api_key=KEY, base_url=url)
            world = World(url, f"http://127.0.0.1:{site.server_port}")
            failed = []
            only = sys.argv[1:]
            checks = [one for one in CHECKS if not only or any(word in one[0] for word in only)]
            for name, check in checks:
                try:
                    check(world)
                except Exception as error:  # Each verb is judged alone.
                    failed.append(f"{name}: {type(error).__name__}: {str(error)[:600]}")
        finally:
            server.terminate()
            server.wait(10)
            site.shutdown()
    for line in failed:
        print(f"FAILED {line}")
    print(f"the official SDK of Runtype: {len(checks) - len(failed)} of {len(checks)} verbs work")
    for what, why in OUT_OF_SCOPE.items():
        print(f"out of scope: {what}: {why}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
