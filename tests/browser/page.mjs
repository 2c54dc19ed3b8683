// The example page in a real browser, against a real server: a run with an approval, a denial, a broken connection.
import assert from "node:assert/strict";
import { LIMIT, door, launch, run, servePage, startDispatch } from "./harness.mjs";

async function main() {
  const origin = await servePage("browser");
  const server = await startDispatch(origin);
  const { url, cut } = await door(server.url);

  const page = await (await launch()).newPage();
  page.setDefaultTimeout(LIMIT);
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(error.message));
  await page.goto(`http://${origin}/#server=${encodeURIComponent(url)}&key=${encodeURIComponent(server.key)}`);

  const state = page.locator("#state");
  const step = page.locator("#steps > li");
  const dispatch = async (message) => {
    if (message) await page.fill("#message", message);
    await page.click("#run");
  };
  const done = () => page.waitForFunction(() => document.querySelector("#state").textContent.startsWith("Done"));

  // Approve: the card shows what will run; afterwards the tool's answer and the model's words are there.
  await dispatch();
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
  await dispatch();
  await card.getByRole("button", { name: "Deny" }).click();
  await done();
  assert.match(await step.textContent(), /The call was denied/);
  assert.doesNotMatch(await step.textContent(), /"refunded"/);

  // The connection breaks twice in the middle of the text; nothing is lost and nothing comes twice.
  await dispatch("slow 15\nrepeat 200 word");
  for (const words of [20, 90]) {
    await page.waitForFunction((least) => document.querySelector(".text")?.textContent.split(" ").length > least, words);
    cut();
  }
  await done();
  const text = await step.locator(".text").textContent();
  assert.equal(text.trim(), Array(200).fill("word").join(" "));

  // Cancel: the run stops on the server.
  await dispatch("slow 50\nrepeat 2000 word");
  await page.locator(".text").waitFor();
  await page.click("#stop");
  await page.waitForFunction(() => document.querySelector("#state").textContent === "Cancelled.");

  // A refusal is shown in words.
  await page.fill("#key", "no-such-key-at-all");
  await dispatch();
  await page.waitForFunction(() => document.querySelector("#state").textContent.includes("key"));
  assert.doesNotMatch(await state.textContent(), /cannot be reached/);

  if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT, fullPage: true });
  assert.deepEqual(complaints, []);
  console.log("the example page works: approve, deny, two broken connections, cancel, refusal");
}

await run(main);
