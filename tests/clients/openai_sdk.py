"""The official OpenAI client for Python, unchanged, against a real server: chat completions and responses, whole and streamed, with tools and
JSON that takes the form of a schema; agents, embeddings, models, refusals. Responses and their events are held against the client's own types."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import openai
from openai.types.responses import Response, ResponseItemList, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("DISPATCH_BINARY", str(ROOT / "target/debug/dispatch"))
KEY = "key-of-the-openai-client-test"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Point(BaseModel):
    x: int
    y: int


def user(text):
    return [{"role": "user", "content": text}]


def answers(client):
    completion = client.chat.completions.create(model="local/echo", messages=user("say Hello there"), temperature=0.5, user="ada")
    assert completion.choices[0].message.content == "Hello there"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    stream = client.chat.completions.create(
        model="local/echo", messages=user("say one two three"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "one two three"
    assert chunks[-1].usage.total_tokens > 0 and not chunks[-1].choices
    raw = client.chat.completions.with_raw_response.create(model="local/echo", messages=user("say hi"))
    assert raw.parse().id == "chatcmpl-" + raw.headers["x-execution-id"]


def tools(client):
    messages = user('call get_weather {"city":"Oslo"}')
    asked = client.chat.completions.create(model="local/echo", messages=messages, tools=[WEATHER]).choices[0]
    assert asked.finish_reason == "tool_calls"
    call = asked.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    messages += [asked.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    told = client.chat.completions.create(model="local/echo", messages=messages, tools=[WEATHER])
    assert told.choices[0].message.content == "get_weather answered: rain"
    with client.chat.completions.stream(model="local/echo", messages=messages[:1], tools=[WEATHER]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"city":"Oslo"}'


def schemas(client):
    parsed = client.chat.completions.parse(model="local/echo", messages=user('json {"x":1,"y":2}'), response_format=Point)
    assert parsed.choices[0].message.parsed == Point(x=1, y=2)


def agents(client):
    saved = client.post("/agents", cast_to=object, body={"name": "Helper", "model": "local/echo", "systemPrompt": "Be brief."})
    assert saved["name"] == "Helper"
    told = client.chat.completions.create(model="agent:Helper", messages=user("say at your service"))
    assert (told.choices[0].message.content, told.model) == ("at your service", "agent:Helper")
    ids = [model.id for model in client.models.list()]
    assert "local/echo" in ids and "agent:Helper" in ids, ids
    assert client.models.retrieve("local/echo").owned_by == "local"
    assert client.models.retrieve("agent:Helper").owned_by == "dispatch"


def embeddings(client):
    texts = ["red wine", "a red wine", "the sea at night"]
    made = client.embeddings.create(model="local/words", input=texts)
    one, same, other = (item.embedding for item in made.data)
    assert len(one) == 256 and all(isinstance(part, float) for part in one)
    near = lambda a, b: sum(x * y for x, y in zip(a, b))
    assert near(one, same) > near(one, other)
    plain = client.embeddings.create(model="local/words", input="red wine", encoding_format="float")
    assert all(abs(a - b) < 1e-6 for a, b in zip(plain.data[0].embedding, one))


def strict(response):
    """The response, held against the client's types: the client itself takes whatever comes."""
    Response.model_validate(response.to_dict(), strict=True)
    return response


def responses(client):
    create = client.responses.create
    first = strict(create(model="local/echo", input="say Hello there", instructions="Be brief.", metadata={"of": "Ada"}))
    assert (first.output_text, first.status, first.metadata) == ("Hello there", "completed", {"of": "Ada"})
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens > 0
    assert strict(client.responses.retrieve(first.id)).to_dict() == first.to_dict()
    listed = client.responses.input_items.list(first.id)
    assert [item.type for item in listed] == ["message"]
    ResponseItemList.model_validate({"data": listed.to_dict()["data"], **{name: getattr(listed, name) for name in ("first_id", "last_id", "has_more", "object")}})
    raw = client.responses.with_raw_response.create(model="local/echo", input="say hi")
    assert raw.parse().id == raw.headers["x-execution-id"].replace("exec_", "resp_")
    client.responses.delete(first.id)
    refused(openai.NotFoundError, lambda: client.responses.retrieve(first.id), code="not_found")
    refused(openai.BadRequestError, lambda: create(model="local/echo", input="x", previous_response_id=first.id), param="previous_response_id")
    refused(openai.BadRequestError, lambda: create(model="local/echo", input="x", truncation="auto"), param="truncation")
    refused(openai.BadRequestError, lambda: create(model="local/echo", input="x", tools=[{"type": "web_search"}]), param="tools[0].type")
    refused(openai.NotFoundError, lambda: create(model="agent:nobody", input="x"), code="model_not_found", param="model")


def response_tools(client):
    tool = {"type": "function", **WEATHER["function"], "strict": True}
    items = user('call get_weather {"city":"Oslo"}')
    asked = strict(client.responses.create(model="local/echo", input=items, tools=[tool]))
    (call,) = asked.output
    assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "get_weather", {"city": "Oslo"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    whole = client.responses.create(model="local/echo", input=[*items, call, output], tools=[tool], store=False)
    by_id = client.responses.create(model="local/echo", input=[output], tools=[tool], previous_response_id=asked.id)
    assert strict(whole).output_text == strict(by_id).output_text == "get_weather answered: rain"
    with client.responses.stream(model="local/echo", input=items, tools=[tool]) as stream:
        final = stream.get_final_response()
    assert final.output[0].parsed_arguments == {"city": "Oslo"}


def response_streams(client):
    events = TypeAdapter(ResponseStreamEvent)
    told = list(client.responses.create(model="local/echo", input="think hm\nsay one two", stream=True))
    for event in told:
        events.validate_python(event.to_dict())
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == "one two"
    with client.responses.stream(model="local/echo", input="think hm\nsay one two") as stream:
        for event in stream:
            pass
        final = strict(stream.get_final_response())
    assert (final.output_text, [item.type for item in final.output]) == ("one two", ["reasoning", "message"])
    parsed = client.responses.parse(model="local/echo", input='json {"x":1,"y":2}', text_format=Point)
    assert parsed.output_parsed == Point(x=1, y=2)
    with client.responses.stream(model="local/echo", input='json {"x":1,"y":2}', text_format=Point) as stream:
        assert stream.get_final_response().output_parsed == Point(x=1, y=2)
    with client.responses.stream(model="local/echo", input="say later", background=True) as stream:
        begun = next(stream).response
        stream.until_done()
    with client.responses.stream(response_id=begun.id, starting_after=2) as stream:
        kept = [event.sequence_number for event in stream]
        assert stream.get_final_response().output_text == "later"
    assert kept[0] == 3


def background(client):
    begun = strict(client.responses.create(model="local/echo", input="slow 60000\nsay never", background=True))
    assert begun.status == "queued"
    cancelled = client.responses.cancel(begun.id)
    while cancelled.status != "cancelled":
        cancelled = client.responses.retrieve(begun.id)
    strict(cancelled)


def refused(kind, call, **expected):
    try:
        call()
    except kind as error:
        found = {name: getattr(error, name) for name in expected}
        assert found == expected, (found, error.body)
        return
    raise AssertionError(f"not refused with {kind.__name__}")


def refusals(client, url):
    create = client.chat.completions.create
    refused(openai.BadRequestError, lambda: create(model="local/echo", messages=user("hi"), n=2), param="n")
    refused(openai.BadRequestError, lambda: create(model="local/echo", messages=user("hi"), logprobs=True), param="logprobs")
    refused(openai.NotFoundError, lambda: create(model="agent:nobody", messages=user("hi")), code="model_not_found", param="model")
    stranger = openai.OpenAI(base_url=url, api_key="no-key-of-this-server-at-all", max_retries=0)
    refused(openai.AuthenticationError, lambda: stranger.models.list(), code="invalid_api_key")
    options = {"dispatch": {"budget": {"maxTokens": 1}}}
    spent = lambda: create(model="local/echo", messages=user("hi"), extra_body=options)
    refused(openai.RateLimitError, spent, code="insufficient_quota")


async def side_by_side(url):
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        ask = lambda n: client.chat.completions.create(model="local/echo", messages=user(f"say {n}"))
        told = await asyncio.gather(*(ask(number) for number in range(10)))
    assert [completion.choices[0].message.content for completion in told] == [str(number) for number in range(10)]


def main():
    with tempfile.TemporaryDirectory(prefix="dispatch-openai-") as folder:
        flags = ["--json", "serve", "--dev", "--listen", "127.0.0.1:0", "--data", folder, "--log", "warn"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("DISPATCH_", "OPENAI_"))}
        environment["DISPATCH_API_KEY"] = KEY
        server = subprocess.Popen([BINARY, *flags], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            lines = (json.loads(line) for line in server.stdout if line.startswith("{"))
            url = next((line["url"] for line in lines if "url" in line), None)
            assert url, "the server ended before it listened"
            base = f"{url}/v1"
            client = openai.OpenAI(base_url=base, api_key=KEY, max_retries=0, timeout=30)
            for check in (answers, tools, schemas, agents, embeddings, responses, response_tools, response_streams, background):
                check(client)
            refusals(client, base)
            asyncio.run(side_by_side(base))
        finally:
            server.terminate()
            server.wait()
    print(f"the official OpenAI client {openai.__version__} works: chat completions, responses, streams, tools, schemas, agents, embeddings, models, refusals")


if __name__ == "__main__":
    sys.exit(main())
