// The authoring helpers that modules import from `dispatchkit`.
const zod = await import("zod").then((found) => found.z ?? found.default ?? found, () => null);

export const defineModule = (module) => module;
export const defineAction = (action) => action;

export function appendActivity(ctx, action, fields = {}) {
  const parts = Object.entries(fields)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${name}=${Array.isArray(value) ? value.join(",") : value}`);
  ctx.artifacts.appendActivity([action, ...parts].join(" "));
}

export function requireCredential(ctx, action) {
  if (!ctx.credential) throw new Error(`${action} requires a bound credential profile`);
  return ctx.credential;
}

export function resolveLookupValue(lookup, input, { field, defaultKey, normalize = "none" }) {
  const text = String(input ?? defaultKey ?? "").trim();
  const key = normalize === "upper" ? text.toUpperCase() : normalize === "lower" ? text.toLowerCase() : text;
  if (lookup[key] !== undefined) return lookup[key];
  throw new Error(`Unsupported ${field} '${input}'. Supported ${field} values: ${Object.keys(lookup).join(", ")}`);
}

export function normalizePositiveInteger(value, field) {
  const number = typeof value === "number" ? value : Number.parseInt(value, 10);
  if (Number.isInteger(number) && number > 0) return number;
  throw new Error(`${field} must be a positive integer`);
}

export function normalizePositiveIntegerList(values, field) {
  if (values.length === 0) throw new Error(`${field} must not be empty`);
  const numbers = values.map((value, index) => {
    if (typeof value !== "number" && typeof value !== "string") throw new Error(`${field} must contain only strings or numbers`);
    return normalizePositiveInteger(value, `${field}[${index}]`);
  });
  const duplicate = numbers.find((number, index) => numbers.indexOf(number) !== index);
  if (duplicate !== undefined) throw new Error(`duplicate ${field} value: ${duplicate}`);
  return numbers;
}

export function resolveAliasValue(input, field, keys, { envVar, required } = {}) {
  const given = keys.map((key) => input[key]).find((value) => value !== undefined && value !== null);
  const text = String(given ?? (envVar ? process.env[envVar] : undefined) ?? "").trim();
  if (text) return text;
  if (required) throw new Error(envVar ? `${field} is required or ${envVar} must be set` : `${field} is required`);
  return undefined;
}

// Without zod, the schemas are plain ones: they can be used alone, not inside another schema.
function plain(jsonSchema, check, message) {
  const safeParse = (value) =>
    check(value) ? { success: true, data: value } : { success: false, error: { issues: [{ path: [], message }] } };
  return { jsonSchema, safeParse };
}

const isPositive = (value) => Number.isInteger(value) && value > 0;
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
const isText = (value) => typeof value === "string" && value.length > 0;
const integer = { type: "integer", exclusiveMinimum: 0 };

export const NonEmptyStringSchema = zod
  ? zod.string().min(1)
  : plain({ type: "string", minLength: 1 }, isText, "expected a text that is not empty");
export const PositiveIntegerSchema = zod ? zod.number().int().positive() : plain(integer, isPositive, "expected a positive integer");
export const PositiveIntegerLikeSchema = zod
  ? zod.union([PositiveIntegerSchema, zod.string().regex(/^\d+$/, "Expected positive integer")])
  : plain({ anyOf: [integer, { type: "string", pattern: "^\\d+$" }] }, (value) => isPositive(value) || /^\d+$/.test(value), "expected a positive integer");
export const PositiveIntegerArraySchema = zod
  ? zod.array(PositiveIntegerSchema).min(1)
  : plain(
      { type: "array", minItems: 1, items: integer },
      (value) => Array.isArray(value) && value.length > 0 && value.every(isPositive),
      "expected a list of positive integers",
    );
export const UuidSchema = zod
  ? (zod.uuid?.() ?? zod.string().uuid())
  : plain({ type: "string", format: "uuid" }, (value) => UUID.test(value), "expected a UUID");
