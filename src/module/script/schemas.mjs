// JSON Schemas (draft 2020-12) of what a module validates with.

// The schema as JSON Schema, or undefined when it cannot be expressed so.
function toJsonSchema(schema, io, zod) {
  if (!schema) return undefined;
  const attempts = [
    () => schema.jsonSchema,
    () => schema.toJSONSchema?.({ io, unrepresentable: "any" }),
    () => zod?.toJSONSchema?.(schema, { io, unrepresentable: "any" }),
    () => fromDefinition(schema, io),
  ];
  for (const attempt of attempts) {
    try {
      const found = attempt();
      if (found && typeof found === "object") return JSON.parse(JSON.stringify(found));
    } catch {
      // The next attempt may know it.
    }
  }
  return undefined;
}

// A zod 4 schema by its definition, for bundles that hold zod without its converter.
function fromDefinition(schema, io) {
  const def = schema?._zod?.def;
  if (!def) throw new Error("not a zod schema");
  const inner = (part) => fromDefinition(part, io);
  switch (def.type) {
    case "string":
      return { type: "string", ...limits(def, { min_length: ["minLength", "minimum"], max_length: ["maxLength", "maximum"] }) };
    case "number": {
      const isInteger = (def.checks ?? []).some((check) => check?._zod?.def?.format === "safeint");
      return { type: isInteger ? "integer" : "number", ...bounds(def) };
    }
    case "boolean":
      return { type: "boolean" };
    case "null":
      return { type: "null" };
    case "any":
    case "unknown":
      return {};
    case "literal":
      return def.values.length === 1 ? { const: def.values[0] } : { enum: def.values };
    case "enum":
      return { enum: Object.values(def.entries) };
    case "array":
      return { type: "array", items: inner(def.element), ...limits(def, { min_length: ["minItems", "minimum"], max_length: ["maxItems", "maximum"] }) };
    case "object":
      return fromObject(def, io, inner);
    case "record":
      return { type: "object", additionalProperties: inner(def.valueType) };
    case "union":
      return { anyOf: def.options.map(inner) };
    case "intersection":
      return { allOf: [inner(def.left), inner(def.right)] };
    case "nullable":
      return { anyOf: [inner(def.innerType), { type: "null" }] };
    case "default":
    case "prefault":
      return { ...inner(def.innerType), default: def.defaultValue };
    case "optional":
    case "readonly":
    case "catch":
    case "nonoptional":
      return inner(def.innerType);
    case "pipe":
      return inner(io === "input" ? def.in : def.out);
    default:
      throw new Error(`no JSON Schema for ${def.type}`);
  }
}

function fromObject(def, io, inner) {
  const members = Object.entries(def.shape);
  const isFilled = (part) => io === "input" && ["default", "prefault"].includes(part._zod.def.type);
  const isOptional = ([, part]) => isFilled(part) || (io === "input" ? part._zod.optin : part._zod.optout) === "optional";
  const schema = {
    type: "object",
    properties: Object.fromEntries(members.map(([name, part]) => [name, inner(part)])),
    required: members.filter((member) => !isOptional(member)).map(([name]) => name),
  };
  if (def.catchall?._zod?.def?.type === "never") schema.additionalProperties = false;
  return schema;
}

function limits(def, names) {
  const found = {};
  for (const check of def.checks ?? []) {
    const rule = check?._zod?.def;
    const target = names[rule?.check];
    if (target) found[target[0]] = rule[target[1]];
  }
  return found;
}

function bounds(def) {
  const found = {};
  for (const check of def.checks ?? []) {
    const rule = check?._zod?.def;
    if (rule?.check === "greater_than") found[rule.inclusive ? "minimum" : "exclusiveMinimum"] = rule.value;
    if (rule?.check === "less_than") found[rule.inclusive ? "maximum" : "exclusiveMaximum"] = rule.value;
    if (rule?.check === "multiple_of") found.multipleOf = rule.value;
  }
  return found;
}
