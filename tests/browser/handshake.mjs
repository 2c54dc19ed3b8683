// The handshake of examples/handshake, in Python and written from the document alone, against a real server.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createServer } from "node:http";
import { once } from "node:events";
import { join } from "node:path";
import { promisify } from "node:util";
import { ROOT, run, startDispatch } from "./harness.mjs";

const python = join(ROOT, "target/contract/bin/python");
const client = join(ROOT, "examples/handshake/client.py");

async function main() {
  const server = await startDispatch("nobody.example");
  const service = createServer((request, response) => {
    request.resume();
    request.on("end", () => response.setHeader("content-type", "application/json").end(JSON.stringify({ path: request.url })));
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
  try {
    const headers = { authorization: `Bearer ${server.key}`, "content-type": "application/json" };
    const { tenant_id: tenant } = await (await fetch(`${server.url}/api/session`, { headers })).json();
    const request = { url: `http://127.0.0.1:${service.address().port}/{{ trigger.body.id }}` };
    const document = { name: "greets", version: 1, steps: { a: { request } }, response: { body: "{{ steps.a.response.body.path }}" } };
    const put = await fetch(`${server.url}/api/workflows/greets`, { method: "PUT", headers, body: JSON.stringify(document) });
    assert.equal(put.status, 201, await put.text());
    const begin = (key) => promisify(execFile)(python, [client, server.url, tenant, key, "greets", '{"id": "o-7"}']);
    const first = begin(server.key);
    // A key that is drawn is good for a tenant that has none yet; the second one is another.
    const { stdout } = await first;
    assert.deepEqual(JSON.parse(stdout), { status: 200, answer: "/o-7" });
    await assert.rejects(begin(server.key), /the handshake failed/);
    await assert.rejects(begin("dsp_live_of_nobody_at_all"), /the handshake was refused/);
    console.log("the client in Python, written from the document, begins a session and runs a workflow in it");
  } finally {
    service.close();
  }
}

await run(main);
