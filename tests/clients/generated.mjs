// Clients that the usual generators make of openapi/dispatch.json: they are generated, compiled, and call a real server.
// TypeScript: openapi-typescript and openapi-fetch. Python: openapi-python-client, from the environment that scripts/test-tools makes.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { ROOT, run, startDispatch } from "../browser/harness.mjs";

const HERE = join(ROOT, "tests/clients");
const DOCUMENT = process.env.OPENAPI_DOCUMENT ?? join(ROOT, "openapi/dispatch.json");
/** Below the packages that the generated code imports. */
const GENERATED = join(HERE, "generated");
const PYTHON = process.env.CLIENTS_PYTHON ?? join(ROOT, "target/contract/bin");
/** Their bodies are of any type, which this generator of Python knows no way to say. */
const NOT_IN_PYTHON = ["GET /v1/assets/{assetId}/{filename}", "POST /hooks/{hook}"];

const execute = promisify(execFile);

/** Runs a program to its end; what it says is shown when it fails. */
async function program(name, args, options = {}) {
  try {
    return await execute(name, args, { cwd: HERE, timeout: 120_000, maxBuffer: 1 << 26, ...options });
  } catch (error) {
    throw new Error(`${name} ${args.join(" ")}\n${error.stdout ?? ""}${error.stderr ?? ""}${error.code ?? error.signal}`);
  }
}

/** The body of the first call in the README, answered as one JSON. */
async function readmesCall() {
  const text = await readFile(join(ROOT, "README.md"), "utf8");
  const [, body] = text.match(/\/v1\/dispatch \\\n[^']*-d '(\{.*?\})'\n/s) ?? [];
  assert.ok(body, "the README has no call of /v1/dispatch");
  const call = JSON.parse(body);
  return { ...call, options: { ...call.options, streamResponse: false } };
}

async function typescript({ url, key }, readme) {
  const bin = join(HERE, "node_modules/.bin");
  await program(join(bin, "openapi-typescript"), [DOCUMENT, "--output", join(GENERATED, "dispatch.ts")]);
  const types = `import type { components } from "./dispatch.js";\n\nexport const readme: components["schemas"]["DispatchRequest"] = `;
  await writeFile(join(GENERATED, "readme.ts"), `${types}${JSON.stringify(readme, undefined, 2)};\n`);
  await copyFile(join(HERE, "call.ts"), join(GENERATED, "call.ts"));
  const strict = ["--strict", "--noUncheckedIndexedAccess", "--module", "nodenext", "--target", "es2023", "--lib", "es2023,dom,dom.iterable"];
  await program(join(bin, "tsc"), [...strict, "--outDir", join(GENERATED, "js"), join(GENERATED, "call.ts")]);
  return program("node", [join(GENERATED, "js/call.js"), url, key]);
}

async function python({ url, key }, readme) {
  const output = ["--output-path", join(GENERATED, "python/dispatch_client"), "--meta", "none", "--overwrite"];
  const environment = { ...process.env, PATH: `${PYTHON}${delimiter}${process.env.PATH}`, COLUMNS: "200" };
  const generate = ["generate", "--path", DOCUMENT, "--config", join(HERE, "python-client.yml"), ...output];
  const { stdout, stderr } = await program(join(PYTHON, "openapi-python-client"), generate, { env: environment });
  const said = `${stdout}${stderr}`;
  const faults = [...said.matchAll(/parsing ([A-Z]+ \S+) within/g)].map(([, operation]) => operation);
  assert.deepEqual([...new Set(faults)].sort(), NOT_IN_PYTHON, said);
  assert.equal(said.split("WARNING").length - 1, faults.length, said);
  const everything = "import pkgutil, importlib, dispatch_client.api as api\nfor m in pkgutil.walk_packages(api.__path__, api.__name__ + '.'): importlib.import_module(m.name)";
  const found = { env: { ...environment, PYTHONPATH: join(GENERATED, "python"), PYTHONDONTWRITEBYTECODE: "1" } };
  await program(join(PYTHON, "python"), ["-c", everything], found);
  return program(join(PYTHON, "python"), [join(HERE, "call.py"), url, key, JSON.stringify(readme)], found);
}

await run(async () => {
  await rm(GENERATED, { recursive: true, force: true });
  await mkdir(join(GENERATED, "python"), { recursive: true });
  const server = await startDispatch("localhost:1");
  const readme = await readmesCall();
  for (const language of [typescript, python]) {
    process.stdout.write((await language(server, readme)).stdout);
  }
});
