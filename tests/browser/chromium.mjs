// Where Chromium is: named by CHROMIUM, installed by the system, or downloaded by Playwright.
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

function executable(path) {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export async function findChromium() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  const folders = (process.env.PATH ?? "").split(delimiter);
  const installed = NAMES.flatMap((name) => folders.map((folder) => join(folder, name))).find(executable);
  if (installed) return installed;
  const { chromium } = await import("playwright-core");
  return existsSync(chromium.executablePath()) ? chromium.executablePath() : undefined;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = await findChromium().catch(() => undefined);
  if (!path) {
    console.error("no Chromium was found; name one with CHROMIUM");
    process.exit(1);
  }
  console.log(path);
}
