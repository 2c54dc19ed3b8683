// The published chat widget, unchanged, against a real server: an answer that streams, a tool of the page, approvals, a reload and a broken
// connection in the middle of an answer, two tabs. Twice: with a client token, as pages of users have it, and with a key.
import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { LIMIT, ROOT, door, launch, run, servePage, startDispatch } from "./harness.mjs";

const SHOTS = process.env.SCREENSHOTS ?? join(ROOT, "target/persona");
/** The page's origin as a preflight with the operator's list would have it; a client token has its own list. */
const NOBODY = "nobody.example";

/** Saves an agent whose model does what the message says, with a tool that needs a person's word. */
async function saveAgent({ url, key }) {
  const refund = {
    name: "refund", description: "Pays an order back.", toolType: "custom",
    parametersSchema: { type: "object", properties: { order: { type: "string" } }, required: ["order"] },
    config: { code: "return { order, refunded: 39.9 };" },
  };
  const agent = { name: "Desk", config: { model: "local/echo", systemPrompt: "You help.", tools: { runtimeTools: [refund], approval: { require: ["refund"], approver: "end-user" } } } };
  return (await make({ url, key }, "/v1/agents", agent)).id;
}

async function make({ url, key }, path, body) {
  const made = await fetch(`${url}${path}`, { method: "POST", headers: { authorization: `Bearer ${key}`, "content-type": "application/json" }, body: JSON.stringify(body) });
  assert.equal(made.status, 201, await made.clone().text());
  return made.json();
}

/** How often a word stands in the chat. The user's own message has it once. */
const count = (page, word) => page.locator("#chat").evaluate((chat, word) => chat.innerText.split(new RegExp(`\\b${word}\\b`)).length - 1, word);
const reaches = (page, word, least) =>
  page.waitForFunction(([word, least]) => document.querySelector("#chat").innerText.split(new RegExp(`\\b${word}\\b`)).length - 1 >= least, [word, least]);
const rests = (page) => page.waitForFunction(() => document.querySelector("#state").textContent === "");

async function main() {
  const [origin, browser] = [await servePage("persona"), await launch()];
  for (const mode of ["token", "key"]) {
    // With a client token the operator's list of origins says nothing of the page.
    const server = await startDispatch(mode === "key" ? origin : NOBODY);
    const agent = await saveAgent(server);
    const pages = { name: "Shop", allowedOrigins: [`http://${origin}`], agentIds: [agent] };
    const proof = mode === "key" ? `key=${encodeURIComponent(server.key)}&agent=${agent}` : `token=${(await make(server, "/v1/client-tokens", pages)).token}`;
    const { url, cut } = await door(server.url);
    await converse({ mode, browser, cut, address: `http://${origin}/#server=${encodeURIComponent(url)}&${proof}` });
    console.log(`the chat widget works with a ${mode}`);
  }
}

async function converse({ mode, browser, cut, address }) {
  const shots = join(SHOTS, mode);
  await mkdir(shots, { recursive: true });
  const complaints = [];
  /** Somebody who was never here; and, given a page, the same person's next tab. */
  const open = async (before) => {
    const context = before?.context() ?? (await browser.newContext({ viewport: { width: 900, height: 1000 } }));
    const page = await context.newPage();
    page.setDefaultTimeout(LIMIT);
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.goto(address);
    return page;
  };
  const say = async (page, text) => {
    await page.locator("textarea").first().fill(text);
    await page.locator("textarea").first().press("Enter");
  };
  const shot = (page, name) => page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
  const page = await open();

  // An answer comes word by word, and is whole in the end.
  await say(page, "slow 10\nrepeat 80 alpha");
  await reaches(page, "alpha", 10);
  assert.ok((await count(page, "alpha")) < 81, "the answer is shown before it is whole");
  await shot(page, "1-streaming");
  await rests(page);
  assert.equal(await count(page, "alpha"), 81);

  // The widget's question is a tool that runs in the page: the run pauses until somebody has chosen.
  const question = { question: "Which size?", options: [{ label: "Small" }, { label: "Large" }] };
  await say(page, `call ask_user_question ${JSON.stringify({ questions: [question] })}`);
  const choice = page.locator('[data-option-label="Large"]').first();
  await choice.waitFor();
  await shot(page, "2-question");
  await choice.click();
  await page.getByText(/ask_user_question answered: .*Large/).waitFor();
  await rests(page);

  // A call that needs a person's word shows what it is; allowed it is made, denied it is not, and the model is told.
  await say(page, 'call refund {"order":"1042"}');
  await page.locator('[data-action="allow"]').waitFor();
  await shot(page, "3-approval");
  await page.locator('[data-action="allow"]').click();
  await page.getByText(/refund answered: .*"refunded":39\.9/).waitFor();
  await rests(page);
  await say(page, 'call refund {"order":"1043"}');
  await page.locator('[data-action="deny"]').click();
  await page.getByText(/refund (failed|answered): .*denied/i).first().waitFor();
  await rests(page);

  // The connection breaks in the middle of an answer. (The widget reconnects in the first turn after it was loaded, and not with a client
  // token: there it tells the error.)
  if (mode === "key") {
    const cutOff = await open();
    await say(cutOff, "slow 15\nrepeat 150 beta");
    await reaches(cutOff, "beta", 30);
    cut();
    await reaches(cutOff, "beta", 151);
    await rests(cutOff);
    assert.equal(await count(cutOff, "beta"), 151);
  }

  // The page is loaded again in the middle of an answer, and goes on where it was.
  const reloaded = await open();
  await say(reloaded, "slow 15\nrepeat 200 gamma");
  await reaches(reloaded, "gamma", 30);
  await reloaded.reload();
  await reaches(reloaded, "gamma", 201);
  await rests(reloaded);
  assert.equal(await count(reloaded, "gamma"), 201);
  await shot(reloaded, "4-reloaded");

  // A second tab that is opened meanwhile sees the same answer to its end.
  const first = await open();
  await say(first, "slow 15\nrepeat 200 delta");
  await reaches(first, "delta", 30);
  const second = await open(first);
  for (const tab of [first, second]) {
    await reaches(tab, "delta", 201);
    await rests(tab);
    assert.equal(await count(tab, "delta"), 201);
  }
  await shot(second, "5-second-tab");

  assert.deepEqual(complaints, []);
}

await run(main);
