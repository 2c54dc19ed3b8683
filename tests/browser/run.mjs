// The example page in a real browser, against a real server: a run with an approval, a denial, a broken connection.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer as createWebServer } from "node:http";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { findChromium } from "./chromium.mjs";

const ROOT = resolve(fileURLToPath(import.meta.url), "../../..");
const BINARY = process.env.DISPATCH_BINARY ?? join(ROOT, "target/debug/dispatch");
const LIMIT = 30_000;

const closers = [];

async function listen(server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closers.push(() => server.close());
  return server.address().port;
}

/** The page's own origin. */
async function servePage() {
  const page = await readFile(join(ROOT, "examples/browser/index.html"));
  return listen(createWebServer((request, response) => {
    const found = request.url === "/";
    response.writeHead(found ? 200 : 404, { "content-type": "text/html; charset=utf-8" });
    response.end(found ? page : "");
  }));
}

/** A server on a free port with a fresh database; its address and key. */
async function startDispatch(origin) {
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
async function door(url) {
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

async function main() {
  const executablePath = await findChromium();
  assert.ok(executablePath, "no Chromium was found; scripts/setup installs one");
  const origin = `127.0.0.1:${await servePage()}`;
  const server = await startDispatch(origin);
  const { url, cut } = await door(server.url);

  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  closers.push(() => browser.close());
  const page = await browser.newPage();
  page.setDefaultTimeout(LIMIT);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(`http://${origin}/#server=${encodeURIComponent(url)}&key=${encodeURIComponent(server.key)}`);

  const state = page.locator("#state");
  const step = page.locator("#steps > li");
  const run = async (message) => {
    if (message) await page.fill("#message", message);
    await page.click("#run");
  };
  const done = () => page.waitForFunction(() => document.querySelector("#state").textContent.startsWith("Done"));

  // Approve: the card shows what will run; afterwards the tool's answer and the model's words are there.
  await run();
  const card = page.locator(".card");
  assert.deepEqual(JSON.parse(await card.locator("pre").textContent()), { order: "1042", amount: 39.9 });
  assert.match(await card.textContent(), /The carrier lost the parcel/);
  await card.getByRole("button", { name: "Approve" }).click();
  await done();
  assert.equal(await card.count(), 0);
  assert.match(await step.textContent(), /The call was approved.*"refunded":39\.9/s);
  assert.match(await step.locator(".text").last().textContent(), /refund answered/);
  assert.equal(await step.count(), 1);

  // Deny: the call is not made, and the model knows.
  await run();
  await card.getByRole("button", { name: "Deny" }).click();
  await done();
  assert.match(await step.textContent(), /The call was denied/);
  assert.doesNotMatch(await step.textContent(), /"refunded"/);

  // The connection breaks twice in the middle of the text; nothing is lost and nothing comes twice.
  await run("slow 15\nrepeat 200 word");
  for (const words of [20, 90]) {
    await page.waitForFunction((least) => document.querySelector(".text")?.textContent.split(" ").length > least, words);
    cut();
  }
  await done();
  const text = await step.locator(".text").textContent();
  assert.equal(text.trim(), Array(200).fill("word").join(" "));

  // Cancel: the run stops on the server.
  await run("slow 50\nrepeat 2000 word");
  await page.locator(".text").waitFor();
  await page.click("#stop");
  await page.waitForFunction(() => document.querySelector("#state").textContent === "Cancelled.");

  // A refusal is shown in words.
  await page.fill("#key", "no-such-key-at-all");
  await run();
  await page.waitForFunction(() => document.querySelector("#state").textContent.includes("key"));
  assert.doesNotMatch(await state.textContent(), /cannot be reached/);

  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });
  assert.deepEqual(complaints, []);
  console.log("the example page works: approve, deny, two broken connections, cancel, refusal");
}

try {
  await main();
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  for (const close of closers.reverse()) await close();
  process.exit();
}
