// What the tests in a browser share: a real server, a page's own origin, a door that can cut connections, a browser.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer as createWebServer } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { extname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.mjs";

export const ROOT = resolve(fileURLToPath(import.meta.url), "../../..");
const BINARY = process.env.DISPATCH_BINARY ?? join(ROOT, "target/debug/dispatch");
/** Milliseconds that anything in a page may take. */
export const LIMIT = 30_000;

const closers = [];

async function listen(server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  return server.address().port;
}

const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8" };

/** An origin of its own for a folder of `examples/`; `node_modules` are those of these tests. */
export async function servePage(folder) {
  const port = await listen(createWebServer(async (request, response) => {
    const path = new URL(request.url, "http://page").pathname;
    const file = path.startsWith("/node_modules/") ? join(ROOT, "tests/browser", path) : join(ROOT, "examples", folder, path === "/" ? "index.html" : path);
    const content = await readFile(file).catch(() => undefined);
    response.writeHead(content ? 200 : 404, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" });
    response.end(content ?? "");
  }));
  return `127.0.0.1:${port}`;
}

/** A server on a free port with a fresh database; its address and key. */
export async function startDispatch(origin) {
  const data = await mkdtemp(join(tmpdir(), "dispatch-browser-"));
  const flags = ["--json", "serve", "--dev", "--listen", "127.0.0.1:0", "--data", data, "--cors-origin", origin, "--log", "warn"];
  const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("DISPATCH_")));
  const server = spawn(BINARY, flags, { env: environment, stdio: ["ignore", "pipe", "inherit"] });
  server.on("error", (error) => console.error(`${BINARY}: ${error.message}`));
  closers.push(async () => {
    if (server.exitCode === null && server.kill("SIGTERM")) await once(server, "exit");
    await rm(data, { recursive: true, force: true });
  });
  const lines = createInterface({ input: server.stdout });
  for await (const line of lines) {
    const said = line.startsWith("{") ? JSON.parse(line) : {};
    if (said.url) return { url: said.url, key: said.apiKey };
  }
  throw new Error("the server ended before it listened");
}

/** A door in front of the server that can cut every connection that is open. */
export async function door(url) {
  const sockets = new Set();
  const { port: target } = new URL(url);
  const port = await listen(createServer((client) => {
    const server = connect(Number(target), "127.0.0.1");
    for (const [from, to] of [[client, server], [server, client]]) {
      sockets.add(from);
      from.on("error", () => {});
      from.on("close", () => { sockets.delete(from); to.destroy(); });
      from.pipe(to);
    }
  }));
  const cut = () => { for (const socket of sockets) socket.destroy(); };
  closers.push(cut);
  return { url: `http://127.0.0.1:${port}`, cut };
}

/** A browser; it ends with the test. */
export async function launch() {
  const executablePath = await findChromium();
  assert.ok(executablePath, "no Chromium was found; scripts/test-tools installs one");
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  closers.push(() => browser.close());
  return browser;
}

/** Runs a test and clears up after it. */
export async function run(test) {
  try {
    await test();
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  } finally {
    for (const close of closers.reverse()) await close();
    process.exit();
  }
}
