// What a backend in TypeScript writes against the generated types: it must compile, and the server must answer as the types say.
import createClient from "openapi-fetch";
import type { components, paths } from "./dispatch.js";
import { readme } from "./readme.js";

declare const process: { argv: string[] };

type Schemas = components["schemas"];
type DispatchResult = Schemas["DispatchResult"];

const [, , url, key] = process.argv;
const client = createClient<paths>({ baseUrl: url!, headers: { authorization: `Bearer ${key}` } });

function expect(condition: unknown, what: unknown): asserts condition {
  if (!condition) throw new Error(`unexpected: ${JSON.stringify(what)}`);
}

/** An event's text, by its type: the union is told apart. */
function textOf(event: Schemas["DispatchEvent"]): string {
  switch (event.type) {
    case "text_delta": return event.delta;
    case "execution_error": return `${event.code}: ${event.error}`;
    case "step_complete": return event.success ? "" : event.error ?? "";
    default: return "";
  }
}

/** One JSON: other answers of a dispatch are the handle of one that is not waited for, and a stream. */
function result(data: DispatchResult | Schemas["DispatchAccepted"] | { id: string; event: string; data: string } | undefined): DispatchResult {
  expect(data && "events" in data, data);
  return data;
}

async function readmesCall() {
  const { data, error } = await client.POST("/v1/dispatch", { body: readme });
  expect(!error, error);
  const ran = result(data);
  expect(ran.success && ran.status === "completed", ran);
  expect(ran.events.map(textOf).join("").length > 0, ran.events);
  expect(ran.events.every((event) => event.executionId === ran.executionId && event.seq >= 0), ran.events);
  expect(typeof ran.totalTokens?.input === "number", ran.totalTokens);
}

async function smallestCall() {
  const flow = { name: "Hello", steps: [{ type: "prompt", config: { model: "local/echo", userPrompt: "hi" }, retry: { maxAttempts: 2 } }] };
  const { data } = await client.POST("/v1/dispatch", { body: { flow, options: { streamResponse: false } } });
  expect(result(data).success, data);
}

async function refusal() {
  const { error, response } = await client.POST("/v1/flows", { body: { name: "Wrong", steps: [{ type: "promt", config: {} }] } });
  expect(response.status === 422 && error?.code === "validation_failed" && !error.retryable, error);
}

async function pauseAndApproval() {
  const refund = {
    name: "refund", toolType: "custom", parametersSchema: { type: "object", properties: { order: { type: "string" } } }, config: { code: "return 1;" },
  };
  const config = {
    model: "local/echo", userPrompt: `call refund {"order":"o-7"}`, tools: { runtimeTools: [refund], approval: { require: ["refund"] } },
  };
  const { data } = await client.POST("/v1/dispatch", { body: { flow: { name: "Pay", steps: [{ type: "prompt", config }] }, options: { streamResponse: false } } });
  const paused = result(data);
  const reason = paused.pausedReason;
  expect(reason?.waitType === "approval" && reason.approvalId && reason.waits?.length === 1, paused);
  const { data: after } = await client.POST("/v1/dispatch/approve", {
    body: { executionId: paused.executionId, approvalId: reason.approvalId, decision: "approved", streamResponse: false },
  });
  expect(result(after).success, after);
}

async function savedFlow() {
  const flow = { name: "Saved", steps: [{ type: "set-variable", config: { variableName: "a", value: 1 } }] };
  const { data: saved, error } = await client.POST("/v1/flows", { body: flow });
  expect(saved, error);
  const { data } = await client.POST("/v1/dispatch", { body: { flowId: saved.id, options: { streamResponse: false } } });
  expect(result(data).success, data);
  const { data: page } = await client.GET("/v1/executions", { params: { query: { flowId: saved.id, limit: 5 } } });
  expect(page?.data.length === 1 && page.data[0]?.status === "completed", page);
}

async function job() {
  const { data } = await client.POST("/v1/jobs", { body: { name: "Saved", payload: { text: "later" }, queue: "clients" } });
  expect(data, data);
  const { data: read } = await client.GET("/v1/jobs/{jobId}", { params: { path: { jobId: data.id } } });
  expect(read?.name === "Saved", read);
}

for (const call of [readmesCall, smallestCall, refusal, pauseAndApproval, savedFlow, job]) {
  await call();
  console.log(`typescript: ${call.name}`);
}
