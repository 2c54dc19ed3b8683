// The official client of the Model Context Protocol for JavaScript, unchanged, against a real server: tools that are listed, a call that answers, one
// that progresses, one that is refused, one that waits for a person.
import assert from "node:assert/strict";
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { run, startDispatch } from "./harness.mjs";

async function main() {
  const server = await startDispatch("nobody.example");
  const ask = async (path, body) => {
    const headers = { authorization: `Bearer ${server.key}`, "content-type": "application/json" };
    const answer = await fetch(server.url + path, { method: "POST", headers, body: JSON.stringify(body) });
    assert.ok(answer.ok, await answer.clone().text());
    return answer.json();
  };
  const publish = async (noun, document) => {
    const { id } = await ask(`/v1/${noun}`, document);
    await ask(`/v1/${noun}/${id}/publish`, {});
  };
  const inputSchema = { type: "object", properties: { name: { type: "string" } }, required: ["name"] };
  const greet = { id: "a", type: "prompt", config: { model: "local/echo", userPrompt: "say hi {{name}}" } };
  await publish("flows", { name: "Greet", description: "Greets.", inputSchema, steps: [greet] });
  const sum = { id: "a", type: "transform-data", config: { script: "return { sum: a + b };" } };
  await publish("flows", { name: "Sum", steps: [sum, { id: "b", type: "transform-data", config: { script: "return { sum: a + b };" } }] });
  const refund = { name: "refund", toolType: "custom", parametersSchema: { type: "object" }, config: { code: "return 1;" } };
  await publish("agents", { name: "Clerk", config: { model: "local/echo", tools: { runtimeTools: [refund], approval: { require: true } } } });

  const transport = new StreamableHTTPClientTransport(new URL("/mcp", server.url), { requestInit: { headers: { Authorization: `Bearer ${server.key}` } } });
  const client = new Client({ name: "peer", version: "1.0.0" });
  await client.connect(transport);
  assert.equal(client.getServerVersion().name, "dispatch");

  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((tool) => tool.name).sort(), ["clerk", "greet", "sum"]);
  assert.deepEqual(tools.find((tool) => tool.name === "greet").inputSchema, inputSchema);

  const hello = await client.callTool({ name: "greet", arguments: { name: "Ada" } });
  assert.deepEqual(hello.content, [{ type: "text", text: "hi Ada" }]);

  const progress = [];
  const total = await client.callTool({ name: "sum", arguments: { a: 20, b: 22 } }, undefined, { onprogress: ({ progress: done }) => progress.push(done) });
  assert.deepEqual(total.structuredContent, { sum: 42 });
  assert.ok(progress.length >= 1 && progress.every((done, at) => done === at + 1), `${progress}`);

  await assert.rejects(client.callTool({ name: "greet", arguments: {} }), /name/);
  const waiting = await client.callTool({ name: "clerk", arguments: { message: "call refund {}" } });
  assert.equal(waiting.isError, true);
  assert.equal(waiting.structuredContent.pausedReason.waitType, "approval");
  await client.close();
  console.log("the official MCP client works: tools, calls, progress, refusals, a call that waits for a person");
}

await run(main);
