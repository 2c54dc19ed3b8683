// The official OpenAI client for Node.js, unchanged, against a real server: chat completions and responses, whole and streamed, with tools and
// JSON that takes the form of a schema; embeddings, models, refusals.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { VERSION } from "openai/version";
import { run, startDispatch } from "../browser/harness.mjs";

const MODEL = "local/echo";

const PARAMETERS = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
const WEATHER = { name: "get_weather", description: "The weather of a city.", parameters: PARAMETERS };
const POINT = {
  type: "object",
  properties: { x: { type: "integer" }, y: { type: "integer" } },
  required: ["x", "y"],
  additionalProperties: false,
};

const user = (content) => [{ role: "user", content }];

async function chat(client) {
  const create = (body) => client.chat.completions.create({ model: MODEL, ...body });
  const completion = await create({ messages: user("say Hello there"), temperature: 0.5 });
  assert.equal(completion.choices[0].message.content, "Hello there");
  assert.equal(completion.choices[0].finish_reason, "stop");
  let [told, usage] = ["", undefined];
  for await (const chunk of await create({ messages: user("say one two"), stream: true, stream_options: { include_usage: true } })) {
    told += chunk.choices[0]?.delta.content ?? "";
    usage = chunk.usage ?? usage;
  }
  assert.equal(told, "one two");
  assert.ok(usage.total_tokens > 0 && usage.total_tokens === usage.prompt_tokens + usage.completion_tokens);
  const { data, response } = await create({ messages: user("say hi") }).withResponse();
  assert.equal(data.id, `chatcmpl-${response.headers.get("x-execution-id")}`);
}

async function chatTools(client) {
  const tools = [{ type: "function", function: WEATHER }];
  const messages = user('call get_weather {"city":"Oslo"}');
  const asked = (await client.chat.completions.create({ model: MODEL, messages, tools })).choices[0];
  assert.equal(asked.finish_reason, "tool_calls");
  const [call] = asked.message.tool_calls;
  assert.deepEqual(JSON.parse(call.function.arguments), { city: "Oslo" });
  const next = [...messages, asked.message, { role: "tool", tool_call_id: call.id, content: "rain" }];
  const answered = await client.chat.completions.create({ model: MODEL, messages: next, tools });
  assert.equal(answered.choices[0].message.content, "get_weather answered: rain");
  // The client's own loop: it calls the function and sends the conversation again.
  const asks = [];
  const weather = { ...WEATHER, parse: JSON.parse, function: ({ city }) => (asks.push(city), "snow") };
  const runner = client.chat.completions.runTools({ model: MODEL, messages, tools: [{ type: "function", function: weather }] });
  assert.equal(await runner.finalContent(), "get_weather answered: snow");
  assert.deepEqual(asks, ["Oslo"]);
  const streamed = await client.chat.completions.stream({ model: MODEL, messages, tools }).finalChatCompletion();
  assert.equal(streamed.choices[0].message.tool_calls[0].function.arguments, '{"city":"Oslo"}');
}

async function chatJson(client) {
  const format = { type: "json_schema", json_schema: { name: "point", strict: true, schema: POINT } };
  const parsed = await client.chat.completions.parse({ model: MODEL, messages: user('json {"x":1,"y":2}'), response_format: format });
  assert.deepEqual(parsed.choices[0].message.parsed ?? JSON.parse(parsed.choices[0].message.content), { x: 1, y: 2 });
}

async function responses(client) {
  const first = await client.responses.create({ model: MODEL, input: "say Hello there", instructions: "Be brief.", metadata: { of: "Ada" } });
  assert.deepEqual([first.output_text, first.status, first.metadata], ["Hello there", "completed", { of: "Ada" }]);
  assert.equal((await client.responses.retrieve(first.id)).output_text, "Hello there");
  const second = await client.responses.create({ model: MODEL, input: "say again", previous_response_id: first.id });
  const items = [];
  for await (const item of client.responses.inputItems.list(second.id, { order: "asc", limit: 2 })) items.push(item);
  assert.deepEqual(items.map(({ type, role }) => [type, role]), [["message", "user"], ["message", "assistant"], ["message", "user"]]);
  await client.responses.delete(first.id);
  await assert.rejects(client.responses.retrieve(first.id), OpenAI.NotFoundError);
  const begun = await client.responses.create({ model: MODEL, input: "slow 60000\nsay never", background: true });
  assert.equal(begun.status, "queued");
  let cancelled = await client.responses.cancel(begun.id);
  while (cancelled.status !== "cancelled") cancelled = await client.responses.retrieve(begun.id);
}

async function responseTools(client) {
  const tools = [{ type: "function", ...WEATHER, strict: true }];
  const input = user('call get_weather {"city":"Oslo"}');
  const asked = await client.responses.create({ model: MODEL, input, tools });
  const [call] = asked.output;
  assert.deepEqual([call.type, call.name, JSON.parse(call.arguments)], ["function_call", "get_weather", { city: "Oslo" }]);
  const output = { type: "function_call_output", call_id: call.call_id, output: "rain" };
  const whole = await client.responses.create({ model: MODEL, input: [...input, ...asked.output, output], tools, store: false });
  const byId = await client.responses.create({ model: MODEL, input: [output], tools, previous_response_id: asked.id });
  assert.deepEqual([whole.output_text, byId.output_text], Array(2).fill("get_weather answered: rain"));
  const streamed = await client.responses.stream({ model: MODEL, input, tools }).finalResponse();
  assert.deepEqual(streamed.output[0].parsed_arguments, { city: "Oslo" });
}

async function responseStreams(client) {
  const events = [];
  for await (const event of await client.responses.create({ model: MODEL, input: "think hm\nsay one two", stream: true })) events.push(event);
  assert.deepEqual(events.map((event) => event.sequence_number), events.map((_, index) => index));
  assert.deepEqual([events[0].type, events.at(-1).type], ["response.created", "response.completed"]);
  const final = await client.responses.stream({ model: MODEL, input: "think hm\nsay one two" }).finalResponse();
  assert.deepEqual([final.output_text, final.output.map((item) => item.type)], ["one two", ["reasoning", "message"]]);
  const text = { format: { type: "json_schema", name: "point", strict: true, schema: POINT } };
  const parsed = await client.responses.parse({ model: MODEL, input: 'json {"x":1,"y":2}', text });
  assert.deepEqual(parsed.output_parsed, { x: 1, y: 2 });
}

async function embeddings(client) {
  const input = ["red wine", "the sea at night"];
  // Without a format the client asks for base64 and decodes it.
  const packed = await client.embeddings.create({ model: "local/words", input });
  const plain = await client.embeddings.create({ model: "local/words", input, encoding_format: "float" });
  assert.equal(packed.data.length, 2);
  for (const [index, { embedding }] of packed.data.entries()) {
    assert.ok(embedding.every((part, at) => Math.abs(part - plain.data[index].embedding[at]) < 1e-6));
  }
}

async function models(client) {
  const ids = [];
  for await (const model of client.models.list()) ids.push(model.id);
  assert.ok(ids.includes(MODEL), ids.join());
  assert.equal((await client.models.retrieve(MODEL)).owned_by, "local");
}

async function refusals(client, baseURL) {
  const refused = (call, kind, expected) =>
    assert.rejects(call, (error) => {
      assert.ok(error instanceof kind, `${error}`);
      for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, `${error}`);
      return true;
    });
  const messages = user("hi");
  await refused(client.chat.completions.create({ model: MODEL, messages, n: 2 }), OpenAI.BadRequestError, { param: "n" });
  await refused(client.responses.create({ model: MODEL, input: "hi", truncation: "auto" }), OpenAI.BadRequestError, { param: "truncation" });
  await refused(client.responses.create({ model: "agent:nobody", input: "hi" }), OpenAI.NotFoundError, { code: "model_not_found", param: "model" });
  await refused(client.embeddings.create({ model: MODEL, input: [] }), OpenAI.BadRequestError, { param: "input" });
  await refused(client.models.retrieve("nobody/knows"), OpenAI.NotFoundError, { code: "model_not_found" });
  const stranger = new OpenAI({ baseURL, apiKey: "no-key-of-this-server-at-all" });
  await refused(stranger.models.list(), OpenAI.AuthenticationError, { code: "invalid_api_key" });
  // With the client's own retries: the server says that this call cannot succeed, so it is made once.
  let calls = 0;
  const counting = (...call) => (calls++, fetch(...call));
  const patient = new OpenAI({ baseURL, apiKey: client.apiKey, fetch: counting });
  const spent = { model: MODEL, messages, dispatch: { budget: { maxTokens: 1 } } };
  await refused(patient.chat.completions.create(spent), OpenAI.RateLimitError, { code: "insufficient_quota" });
  assert.equal(calls, 1);
}

await run(async () => {
  const { url, key } = await startDispatch("localhost:1");
  const baseURL = `${url}/v1`;
  const client = new OpenAI({ baseURL, apiKey: key, maxRetries: 0, timeout: 30_000 });
  for (const check of [chat, chatTools, chatJson, responses, responseTools, responseStreams, embeddings, models]) await check(client);
  await refusals(client, baseURL);
  process.stdout.write(`the official OpenAI client for Node.js ${VERSION} works: chat completions, responses, embeddings, models\n`);
});
