// The side of node: loads a JavaScript module and performs its actions. Messages are lines of JSON on stdin and stdout.
import { createInterface } from "node:readline";
import { createRequire, register } from "node:module";
import { pathToFileURL } from "node:url";

// stdout belongs to the protocol; what a module prints goes to stderr.
const write = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr);
const send = (message) => write(`${JSON.stringify(message)}\n`);

const entry = pathToFileURL(process.argv[1]).href;
const waiting = new Map();
let requests = 0;
let loaded;

async function load() {
  const data = { entry, shim: SHIM_SOURCE };
  register(`data:text/javascript,${encodeURIComponent(HOOKS_SOURCE)}`, { parentURL: entry, data });
  const found = await import(entry);
  const module = found.default;
  if (!module || typeof module !== "object" || typeof module.actions !== "object" || module.actions === null) {
    throw new Error("the entry has no default export with name, version and actions");
  }
  for (const [name, action] of Object.entries(module.actions)) {
    if (typeof action?.handler !== "function" || typeof action?.schema?.safeParse !== "function") {
      throw new Error(`the action ${name} needs a handler, and a schema with safeParse`);
    }
  }
  return module;
}

const module = () => (loaded ??= load());

async function describe() {
  const found = await module();
  const zod = await zodOf();
  const actions = Object.entries(found.actions).map(([name, action]) => [
    name,
    {
      description: action.description ?? "",
      inputSchema: toJsonSchema(action.schema, "input", zod),
      exportsSchema: toJsonSchema(action.exportsSchema, "output", zod),
      credentialSchema: action.credentialSchema ? (toJsonSchema(action.credentialSchema, "input", zod) ?? { type: "object" }) : undefined,
    },
  ]);
  send({ type: "module", name: found.name, version: found.version, metadata: found.metadata ?? {}, actions: Object.fromEntries(actions) });
}

async function zodOf() {
  try {
    const found = await import(pathToFileURL(createRequire(entry).resolve("zod")).href);
    return found.z ?? found.default ?? found;
  } catch {
    return null;
  }
}

function parsed(schema, value, what) {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error?.issues ?? [];
  const texts = issues.map((issue) => `${[what, ...(issue.path ?? [])].join(".")}: ${issue.message}`);
  throw new Error(`${what} validation failed: ${texts.join("; ") || "the value does not fit the schema"}`);
}

class HttpClient {
  constructor(call, defaults = {}) {
    this.call = call;
    this.defaults = defaults;
  }

  get(url, options) {
    return this.request("GET", url, options);
  }

  delete(url, options) {
    return this.request("DELETE", url, options);
  }

  post(url, body, options) {
    return this.request("POST", url, { ...options, body });
  }

  put(url, body, options) {
    return this.request("PUT", url, { ...options, body });
  }

  patch(url, body, options) {
    return this.request("PATCH", url, { ...options, body });
  }

  request(method, url, { headers = {}, body } = {}) {
    const rid = ++requests;
    const { baseUrl, defaultHeaders = {} } = this.defaults;
    const reply = new Promise((resolve, reject) => waiting.set(rid, { resolve, reject }));
    send({ type: "http", id: this.call, rid, method, url, headers: texts(headers), body, baseUrl, defaultHeaders: texts(defaultHeaders) });
    return reply;
  }

  withDefaults({ baseUrl, defaultHeaders = {} } = {}) {
    const headers = { ...lowered(this.defaults.defaultHeaders), ...lowered(defaultHeaders) };
    return new HttpClient(this.call, { baseUrl: baseUrl ?? this.defaults.baseUrl, defaultHeaders: headers });
  }

  requireOk(response, label) {
    if (response.status >= 200 && response.status < 300) return response.body;
    const fault = new Error(`${label} failed with HTTP ${response.status}: ${JSON.stringify(response.body, null, 2)}`);
    fault.retryable = [408, 429, 502, 503, 504].includes(response.status);
    throw fault;
  }
}

const lowered = (headers = {}) => Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value]));
const texts = (headers) => Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, String(value)]));

function resolver(module) {
  return (key) => {
    const [name, action] = String(key).split(".");
    if (name !== module.name) {
      throw new Error(`ctx.resolve("${key}") is not available: actions of other modules are called by steps of the job`);
    }
    const definition = module.actions[action];
    if (!definition) return null;
    return { actionKey: key, moduleName: name, actionName: action, version: module.version, layer: "user", sourcePath: entry, definition };
  };
}

async function perform({ id, action, payload, step, runtime, credential }) {
  const found = await module();
  const definition = found.actions[action];
  if (!definition) throw new Error(`the module has no action ${action}`);
  const before = structuredClone(runtime?.run ?? {});
  const ctx = {
    http: new HttpClient(id),
    artifacts: { appendActivity: (line) => send({ type: "activity", id, line: String(line) }) },
    runtime: { ...runtime, run: runtime?.run ?? {} },
    step,
    credential: credential === undefined || !definition.credentialSchema ? credential : parsed(definition.credentialSchema, credential, "credential"),
    resolve: resolver(found),
    progress: (message) => send({ type: "progress", id, line: String(message) }),
  };
  const outcome = (await definition.handler(ctx, parsed(definition.schema, payload, "payload"))) ?? {};
  const exported = definition.exportsSchema ? parsed(definition.exportsSchema, outcome.exports ?? {}, "exports") : (outcome.exports ?? {});
  const changed = Object.entries(ctx.runtime.run).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(before[name]));
  send({
    type: "result",
    id,
    response: outcome.response ?? {},
    exports: exported,
    detail: outcome.detail ?? undefined,
    diagnostics: outcome.diagnostics ?? null,
    runPatch: changed.length > 0 ? Object.fromEntries(changed) : undefined,
  });
}

function settle({ rid, status, body, message, retryable }) {
  const pending = waiting.get(rid);
  waiting.delete(rid);
  if (message === undefined) return pending?.resolve({ status, body });
  pending?.reject(Object.assign(new Error(message), { retryable }));
}

const textOf = (fault) => (fault instanceof Error ? fault.message : String(fault));

createInterface({ input: process.stdin }).on("line", (line) => {
  const message = JSON.parse(line);
  if (message.type === "describe") describe().catch((fault) => send({ type: "failure", message: textOf(fault) }));
  if (message.type === "call") {
    perform(message).catch((fault) => send({ type: "error", id: message.id, message: textOf(fault), retryable: fault?.retryable === true }));
  }
  if (message.type === "reply") settle(message);
}).on("close", () => process.exit(0));
