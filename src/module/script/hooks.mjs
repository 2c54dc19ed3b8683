// Resolves what a module imports by bare name: `dispatchkit` is the shim below, and `zod` is the module's own.
let entry = "";
let shim = "";

const SHIM_URL = "dispatchkit:shim";

export function initialize(data) {
  entry = data.entry;
  shim = data.shim;
}

export function resolve(specifier, context, next) {
  if (specifier === "dispatchkit") return { url: SHIM_URL, format: "module", shortCircuit: true };
  if (context.parentURL === SHIM_URL) return next(specifier, { ...context, parentURL: entry });
  return next(specifier, context);
}

export function load(url, context, next) {
  if (url === SHIM_URL) return { format: "module", source: shim, shortCircuit: true };
  return next(url, context);
}
