// A server made with the official SDK of the Model Context Protocol for JavaScript, with sessions, as a source of tools: an agent lists them,
// calls them, hears of failures, and answers what the server asks in the middle of a call.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import http from "node:http";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { CallToolRequestSchema, ElicitResultSchema, ListToolsRequestSchema } from "@modelcontextprotocol/sdk/types.js";
import { run, startDispatch } from "./harness.mjs";

const calls = [];
const sessions = new Map();

function shop() {
  const server = new Server({ name: "shop", version: "1.0.0" }, { capabilities: { tools: {} } });
  const inputSchema = { type: "object", properties: { item: { type: "string" } }, required: ["item"] };
  server.setRequestHandler(ListToolsRequestSchema, () => ({
    tools: [
      { name: "price", description: "The price of an item.", inputSchema, annotations: { readOnlyHint: true } },
      { name: "order", description: "Orders an item.", inputSchema },
      { name: "deliver", description: "Brings an item.", inputSchema },
    ],
  }));
  server.setRequestHandler(CallToolRequestSchema, async ({ params }, extra) => {
    calls.push(params.name);
    if (params.name === "deliver") return { content: [{ type: "text", text: await deliver(extra) }] };
    if (params.name === "price") return { content: [{ type: "text", text: "12" }], structuredContent: { item: params.arguments.item, price: 12 } };
    return { isError: true, content: [{ type: "text", text: "sold out" }] };
  });
  return server;
}

/** Asks two things, one after the other, as servers with sessions do: while the call hangs. */
async function deliver(extra) {
  const ask = async (message, name) => {
    const requestedSchema = { type: "object", properties: { [name]: { type: "string" } }, required: [name] };
    const answer = await extra.sendRequest({ method: "elicitation/create", params: { message, requestedSchema } }, ElicitResultSchema);
    return answer.action === "accept" ? answer.content[name] : undefined;
  };
  const street = await ask("Which street?", "street");
  if (!street) return "nothing was brought";
  const floor = await ask("Which floor?", "floor");
  return floor ? `brought to ${street}, floor ${floor}` : "nothing was brought";
}

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return parts.length ? JSON.parse(Buffer.concat(parts).toString()) : undefined;
}

async function serve(request, response) {
  const message = await body(request);
  let transport = sessions.get(request.headers["mcp-session-id"]);
  if (!transport && message?.method === "initialize") {
    transport = new StreamableHTTPServerTransport({ sessionIdGenerator: randomUUID, onsessioninitialized: (id) => sessions.set(id, transport) });
    await shop().connect(transport);
  }
  if (!transport) {
    response.writeHead(400, { "content-type": "application/json" });
    response.end(JSON.stringify({ jsonrpc: "2.0", error: { code: -32000, message: "no session" }, id: null }));
    return;
  }
  await transport.handleRequest(request, response, message);
}

async function main() {
  const listener = http.createServer((request, response) => serve(request, response).catch((error) => response.destroy(error)));
  await new Promise((resolve) => listener.listen(0, "127.0.0.1", resolve));
  try {
    const url = `http://127.0.0.1:${listener.address().port}/mcp`;
    const dispatch = await startDispatch("nobody.example");
    const agent = { name: "Clerk", model: "local/echo", tools: { mcpServers: [{ name: "shop", url }] } };
    const messages = [{ role: "user", content: 'call price {"item": "tea"}\ncall order {"item": "tea"}' }];
    const post = async (path, request) => {
      const answer = await fetch(`${dispatch.url}${path}`, {
        method: "POST",
        headers: { authorization: `Bearer ${dispatch.key}`, "content-type": "application/json" },
        body: JSON.stringify(request),
      });
      const text = await answer.text();
      assert.ok(answer.ok, text);
      return text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => JSON.parse(line.slice(6)));
    };
    const events = await post("/v1/dispatch", { agent, messages });
    const done = Object.fromEntries(events.filter((event) => event.type === "tool_complete").map((event) => [event.toolName, event]));
    assert.deepEqual(done.price?.result, { item: "tea", price: 12 }, JSON.stringify(events));
    assert.deepEqual([done.order.success, done.order.error], [false, "sold out"]);
    assert.equal(events.at(-1).type, "execution_complete");
    assert.deepEqual(calls.toSorted(), ["order", "price"]);
    assert.equal(sessions.size, 1, "one session for the whole execution");

    // A question is a wait: the call ends, and is made again with every answer that was given so far.
    let last = (await post("/v1/dispatch", { agent, messages: [{ role: "user", content: 'call deliver {"item": "tea"}' }] })).at(-1);
    for (const [message, content] of [["Which street?", { street: "Main Street" }], ["Which floor?", { floor: "2" }]]) {
      assert.deepEqual([last.type, last.awaitReason, last.elicitation?.message], ["await", "elicitation", message], JSON.stringify(last));
      const resumed = await post("/v1/dispatch/resume", { executionId: last.executionId, toolOutputs: { [last.toolCallId]: { action: "accept", content } } });
      last = resumed.at(-1);
      const brought = resumed.find((event) => event.type === "tool_complete");
      if (content.floor) assert.equal(brought?.result, "brought to Main Street, floor 2", JSON.stringify(resumed));
    }
    assert.equal(last.type, "execution_complete");
    assert.equal(calls.filter((name) => name === "deliver").length, 3);
  } finally {
    listener.closeAllConnections();
    listener.close();
  }
  console.log("an official MCP server with sessions works as a source of tools");
}

await run(main);
