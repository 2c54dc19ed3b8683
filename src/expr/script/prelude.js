(function (variables, integers, now, seed) {
  "use strict";
  const define = (target, name, value) =>
    Object.defineProperty(target, name, { value, writable: true, configurable: true, enumerable: false });

  // Time stands still at the start of the run.
  const Real = Date;
  const Still = function Date(...parts) {
    if (!new.target) return new Real(now).toString();
    return Reflect.construct(Real, parts.length ? parts : [now], new.target);
  };
  Still.prototype = Real.prototype;
  define(Real.prototype, "constructor", Still);
  define(Still, "now", () => now);
  define(Still, "parse", Real.parse);
  define(Still, "UTC", Real.UTC);
  define(globalThis, "Date", Still);

  // Chance follows from the seed (mulberry32).
  let state = seed | 0;
  define(Math, "random", () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  });

  // Integers that a number would round come as BigInt: their digits are the caller's own.
  for (const [path, digits] of integers) {
    let holder = variables;
    for (const key of path.slice(0, -1)) holder = holder[key];
    holder[path[path.length - 1]] = BigInt(digits);
  }

  // JSON has one kind of number. While the script runs, a BigInt that a number holds exactly is written as a number and any other as a text; in
  // the script's result all are marked, since what reads it holds more digits.
  const digitsOf = Function.prototype.call.bind(BigInt.prototype.toString);
  let marks = false;
  define(BigInt.prototype, "toJSON", function () {
    const digits = digitsOf(this);
    if (marks) return "\u0000integer:" + digits;
    const number = Number(digits);
    return Number.isSafeInteger(number) ? number : digits;
  });

  const logs = [];
  define(logs, "finish", () => {
    marks = true;
  });
  const show = (part) => {
    if (typeof part === "string") return part;
    if (typeof part === "bigint") return digitsOf(part);
    try {
      return JSON.stringify(part) ?? String(part);
    } catch {
      return String(part);
    }
  };
  const log = (...parts) => {
    if (logs.length < 100) logs.push(parts.map(show).join(" ").slice(0, 1000));
  };
  define(globalThis, "console", { log, info: log, warn: log, error: log, debug: log });

  // Bare names are properties of the global object, so that a script may declare its own of the same name.
  const own = variables.input;
  const input = own && typeof own === "object" && !Array.isArray(own) ? { ...own, ...variables } : variables;
  for (const name of Object.keys(variables)) {
    if (!(name in globalThis)) define(globalThis, name, variables[name]);
  }
  define(globalThis, "input", input);
  define(globalThis, "variables", input);
  return logs;
})
