"""What a backend in Python writes against the generated client: the server must answer as its classes say."""

import json
import sys

from dispatch_client import AuthenticatedClient
from dispatch_client.api.dispatch import approve_dispatch, dispatch
from dispatch_client.api.executions import list_executions
from dispatch_client.api.flows import create_flow
from dispatch_client.api.jobs import enqueue_job, get_job
from dispatch_client.models import (
    ApproveRequest,
    Decision,
    DispatchEventExecutionStart,
    DispatchRequest,
    DispatchResult,
    ErrorEnvelope,
    FlowDetail,
    FlowDocument,
    FlowInput,
    Job,
    JobInput,
    JsonObject,
    OptionsDocument,
    RetryDocument,
    StepDocument,
)

url, key, readme = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key)
options = OptionsDocument(stream_response=False)


def step(kind, config, **rest):
    return StepDocument(type_=kind, config=JsonObject.from_dict(config), **rest)


def run(request):
    ran = dispatch.sync(client=client, body=request)
    assert isinstance(ran, DispatchResult), ran
    return ran


def readmes_call():
    ran = run(DispatchRequest.from_dict(json.loads(readme)))
    assert ran.success and ran.status == "completed", ran
    assert isinstance(ran.events[0], DispatchEventExecutionStart), ran.events[0]
    assert all(event.execution_id == ran.execution_id for event in ran.events)
    assert ran.total_tokens.input_ >= 0, ran.total_tokens


def smallest_call():
    prompt = step("prompt", {"model": "local/echo", "userPrompt": "hi"}, retry=RetryDocument(max_attempts=2))
    assert run(DispatchRequest(flow=FlowDocument(name="Hello", steps=[prompt]), options=options)).success


def refusal():
    refused = create_flow.sync(client=client, body=FlowInput(name="Wrong", steps=[step("promt", {})]))
    assert isinstance(refused, ErrorEnvelope) and refused.code == "validation_failed" and not refused.retryable, refused


def pause_and_approval():
    refund = {
        "name": "refund",
        "toolType": "custom",
        "parametersSchema": {"type": "object", "properties": {"order": {"type": "string"}}},
        "config": {"code": "return 1;"},
    }
    tools = {"runtimeTools": [refund], "approval": {"require": ["refund"]}}
    prompt = step("prompt", {"model": "local/echo", "userPrompt": 'call refund {"order":"o-7"}', "tools": tools})
    paused = run(DispatchRequest(flow=FlowDocument(name="Pay", steps=[prompt]), options=options))
    reason = paused.paused_reason
    assert reason.wait_type == "approval" and len(reason.waits) == 1, reason
    word = ApproveRequest(paused.execution_id, reason.approval_id, Decision.APPROVED, stream_response=False)
    after = approve_dispatch.sync(client=client, body=word)
    assert isinstance(after, DispatchResult) and after.success, after


def saved_flow():
    flow = FlowInput(name="Saved in Python", steps=[step("set-variable", {"variableName": "a", "value": 1})])
    saved = create_flow.sync(client=client, body=flow)
    assert isinstance(saved, FlowDetail), saved
    assert run(DispatchRequest(flow_id=saved.id, options=options)).success
    page = list_executions.sync(client=client, flow_id=saved.id, limit=5)
    assert len(page.data) == 1 and page.data[0].status == "completed", page


def job():
    made = enqueue_job.sync(client=client, body=JobInput(name="Saved in Python", payload={"text": "later"}, queue="clients"))
    assert isinstance(made, Job), made
    assert get_job.sync(made.id, client=client).name == "Saved in Python"


for call in [readmes_call, smallest_call, refusal, pause_and_approval, saved_flow, job]:
    call()
    print(f"python: {call.__name__}")
