//! `dispatch module init` and `override init`: the files of new modules.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::cli::kit::{KitContext, KitFault, KitResult, NextCommand, home_relative};
use crate::cli::output::write_file;
use crate::module::version::Version;
use crate::module::{ActionRegistry, MANIFEST_FILE, is_name};

#[derive(Debug, clap::Args)]
pub(super) struct InitArguments {
    /// The module's name: lower-case letters, digits and `-`.
    #[arg(long)]
    name: String,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The module's version.
    #[arg(long, default_value = "0.1.0")]
    version: String,
    /// Write TypeScript sources that `tsup` bundles into `dist/index.mjs`.
    #[arg(long)]
    typescript: bool,
}

/// Names and contents of files.
type ScaffoldFiles = Vec<(&'static str, String)>;

pub(super) fn init(arguments: &InitArguments, context: &KitContext) -> KitResult<ExitCode> {
    let (name, version) = (arguments.name.trim(), arguments.version.trim());
    if !is_name(name) {
        return Err(KitFault::usage(format!("--name: `{name}` is not a name; use lower-case letters, digits and `-`")));
    }
    if Version::parse(version).is_none() {
        return Err(KitFault::usage(format!("--version: `{version}` is not a version like 0.1.0")));
    }
    let files = if arguments.typescript { typescript_files(name, version) } else { javascript_files(name, version, "ping") };
    write_scaffold(&context.paths.cwd.join(&arguments.out), &files, context)
}

pub(super) async fn init_override(from: &str, out: &Path, context: &KitContext) -> KitResult<ExitCode> {
    let registry = ActionRegistry::load(&context.paths.registry_options(None)).await;
    let module = registry
        .module(from)
        .ok_or_else(|| KitFault::not_found(format!("Module not found: {from}")).next("dispatch module list", "see the loaded modules"))?;
    let action = module.actions.first().map_or("ping", |action| action.name.as_str());
    write_scaffold(out, &javascript_files(&module.name, &module.version, action), context)
}

fn write_scaffold(folder: &Path, files: &ScaffoldFiles, context: &KitContext) -> KitResult<ExitCode> {
    if folder.join(MANIFEST_FILE).exists() {
        return Err(KitFault::usage(format!("{} already has a {MANIFEST_FILE}. Choose another folder with --out.", folder.display())));
    }
    for (name, text) in files {
        write_file(&folder.join(name), text)?;
    }
    let next = [NextCommand::new(format!("dispatch module validate --path {}", folder.display()), "check the module")];
    context.say(format_args!("✓ Initialized module scaffold at {}", home_relative(folder)));
    context.next(&next);
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    context.result(json!({ "path": folder, "files": names, "next": next }));
    Ok(ExitCode::SUCCESS)
}

fn manifest(name: &str, version: &str, entry: &str) -> String {
    let manifest = json!({ "name": name, "version": version, "entry": entry, "metadata": { "generatedBy": "dispatch module init" } });
    format!("{manifest:#}\n")
}

/// A module that imports nothing, so that it can be packed as it is.
fn javascript_files(name: &str, version: &str, action: &str) -> ScaffoldFiles {
    let entry = JAVASCRIPT_ENTRY.replace("@NAME@", name).replace("@VERSION@", version).replace("@ACTION@", action);
    vec![(MANIFEST_FILE, manifest(name, version, "index.mjs")), ("index.mjs", entry)]
}

const JAVASCRIPT_ENTRY: &str = r#"// A schema is anything with safeParse, for example one of zod. `jsonSchema` is what agents see.
function object(jsonSchema) {
  return {
    jsonSchema: { type: "object", ...jsonSchema },
    safeParse(value) {
      const missing = (jsonSchema.required ?? []).filter((name) => value?.[name] === undefined);
      if (missing.length === 0) return { success: true, data: value };
      return { success: false, error: { issues: missing.map((name) => ({ path: [name], message: "Required" })) } };
    },
  };
}

export default {
  name: "@NAME@",
  version: "@VERSION@",
  actions: {
    "@ACTION@": {
      description: "Answer with the text that was sent",
      schema: object({ properties: { text: { type: "string" } } }),
      async handler(ctx, payload) {
        ctx.artifacts.appendActivity(`@ACTION@ text=${payload.text ?? ""}`);
        return { response: { ok: true, text: payload.text ?? "pong" }, detail: "pong" };
      },
    },
  },
};
"#;

fn typescript_files(name: &str, version: &str) -> ScaffoldFiles {
    let entry = TYPESCRIPT_ENTRY.replace("@NAME@", name).replace("@VERSION@", version);
    vec![
        (MANIFEST_FILE, manifest(name, version, "dist/index.mjs")),
        ("src/index.ts", entry),
        ("src/schemas.ts", TYPESCRIPT_SCHEMAS.to_owned()),
        ("src/constants.ts", "export const PING_ACTIVITY = \"ping\";\n".to_owned()),
        ("tsconfig.json", TYPESCRIPT_CONFIG.to_owned()),
        ("tsup.config.ts", BUNDLER_CONFIG.to_owned()),
    ]
}

const TYPESCRIPT_ENTRY: &str = r#"import { defineAction, defineModule, type ActionContext, type ActionResult } from "dispatchkit";
import { PING_ACTIVITY } from "./constants.js";
import { PingSchema, type PingPayload } from "./schemas.js";

async function ping(ctx: ActionContext, payload: PingPayload): Promise<ActionResult> {
  ctx.artifacts.appendActivity(`${PING_ACTIVITY} text=${payload.text ?? ""}`);
  return { response: { ok: true, text: payload.text ?? "pong" }, detail: "pong" };
}

export default defineModule({
  name: "@NAME@",
  version: "@VERSION@",
  actions: {
    ping: defineAction({ description: "Answer with the text that was sent", schema: PingSchema, handler: ping }),
  },
});
"#;

const TYPESCRIPT_SCHEMAS: &str = r#"import { z } from "zod";

export const PingSchema = z.object({ text: z.string().optional() });
export type PingPayload = z.infer<typeof PingSchema>;
"#;

const TYPESCRIPT_CONFIG: &str = r#"{
  "compilerOptions": {
    "target": "ES2022",
    "module": "NodeNext",
    "moduleResolution": "NodeNext",
    "strict": true,
    "noEmit": true
  },
  "include": ["src/**/*.ts", "tsup.config.ts"]
}
"#;

/// Everything is bundled, so that the built module can be packed.
const BUNDLER_CONFIG: &str = r#"import { defineConfig } from "tsup";

export default defineConfig({
  entry: ["src/index.ts"],
  format: ["esm"],
  platform: "node",
  target: "node20",
  noExternal: [/.*/],
  clean: true,
  outDir: "dist",
  outExtension: () => ({ js: ".mjs" }),
});
"#;
