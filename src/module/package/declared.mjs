// Made by `dispatch module pack` from the declarative actions of module.json, so that the module also runs where those are unknown.
const module = "MODULE_DEFINITION";

const lookup = (scope, path) =>
  path.split(".").reduce((place, name) => (place && typeof place === "object" && !Array.isArray(place) ? place[name] : undefined), scope);
const textOf = (value) => (value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value));
const EXPRESSION = /\$\{([^}]*)\}/g;
const encode = (text) => (/^\.\.?$/.test(text) ? text.replaceAll(".", "%2E") : encodeURIComponent(text));
const fillText = (text, scope) => text.replace(EXPRESSION, (_, path) => textOf(lookup(scope, path.trim())));
const fillPath = (text, scope) =>
  text.replace(EXPRESSION, (_, path, at) => (at === 0 ? textOf : (value) => encode(textOf(value)))(lookup(scope, path.trim())));

function fill(template, scope) {
  if (typeof template === "string") {
    const sole = /^\$\{([^}]*)\}$/.exec(template);
    return sole ? (lookup(scope, sole[1].trim()) ?? undefined) : fillText(template, scope);
  }
  if (Array.isArray(template)) return template.map((item) => fill(item, scope) ?? null);
  if (template && typeof template === "object") {
    const members = Object.entries(template).map(([name, member]) => [name, fill(member, scope)]);
    return Object.fromEntries(members.filter(([, member]) => member !== undefined));
  }
  return template;
}

function pick(path, root) {
  const names = path.slice(1).match(/[^.[\]'"]+/g) ?? [];
  if (/[*?:,]|\.\./.test(path)) throw new Error(`the JSONPath ${path} needs the dispatch binary`);
  return names.reduce((place, name) => (Array.isArray(place) && Number(name) < 0 ? place.at(Number(name)) : place?.[name]), root);
}

function select(template, scope, body) {
  if (typeof template === "string") return /^\$($|\.|\[)/.test(template) ? pick(template, body) : fill(template, { ...scope, response: body });
  if (Array.isArray(template)) return template.map((item) => select(item, scope, body) ?? null);
  if (template && typeof template === "object") {
    const members = Object.entries(template).map(([name, member]) => [name, select(member, scope, body)]);
    return Object.fromEntries(members.filter(([, member]) => member !== undefined));
  }
  return template;
}

// Checks what a payload must have; the dispatch binary checks the whole JSON Schema.
function schemaOf(jsonSchema = {}) {
  const safeParse = (value) => {
    const missing = (jsonSchema.required ?? []).filter((name) => value?.[name] === undefined);
    const issues = missing.map((name) => ({ path: [name], message: "Required" }));
    return issues.length > 0 ? { success: false, error: { issues } } : { success: true, data: value };
  };
  return { jsonSchema, safeParse };
}

function handlerOf({ request, expect = [], response, exports = {}, detail, activity }) {
  return async (ctx, payload) => {
    const scope = { payload, credential: ctx.credential, ...ctx.runtime };
    const query = new URLSearchParams();
    for (const [parameter, template] of Object.entries(request.query ?? {})) {
      const value = fill(template, scope);
      for (const item of Array.isArray(value) ? value : value === undefined ? [] : [value]) query.append(parameter, textOf(item));
    }
    const path = fillPath(request.path, scope);
    const url = query.size > 0 ? `${path}${path.includes("?") ? "&" : "?"}${query}` : path;
    const headers = Object.fromEntries(Object.entries(request.headers ?? {}).map(([header, text]) => [header, fillText(text, scope)]));
    const answer = await ctx.http.request(request.method, url, { headers, body: fill(request.body, scope) });
    const isExpected = expect.length > 0 ? expect.includes(answer.status) : answer.status >= 200 && answer.status < 300;
    if (!isExpected) throw new Error(`${request.method} ${request.path} failed with HTTP ${answer.status}: ${JSON.stringify(answer.body)}`);
    const result = response === undefined ? answer.body : select(response, scope, answer.body);
    const full = { ...scope, response: result };
    if (activity) ctx.artifacts.appendActivity(fillText(activity, full));
    return { response: result, exports: select(exports, scope, answer.body), detail: detail && fillText(detail, full) };
  };
}

const actions = Object.entries(module.actions).map(([name, action]) => [
  name,
  {
    description: action.description ?? "",
    schema: schemaOf(action.input),
    exportsSchema: action.exportsSchema && schemaOf(action.exportsSchema),
    credentialSchema: action.credential && schemaOf(action.credential),
    handler: handlerOf(action),
  },
]);

export default { name: module.name, version: module.version, metadata: module.metadata ?? {}, actions: Object.fromEntries(actions) };
