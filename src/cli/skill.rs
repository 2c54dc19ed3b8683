//! `dispatch skill`: the guide for agents that ships with this binary, and those of configured modules.

use std::process::ExitCode;

use super::kit::{KitContext, KitFault, KitResult, ModuleSkill, load_config};

/// The guide for agents.
pub const SKILL: &str = include_str!("../../SKILL.md");

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print the guide for agents: how to compose, validate, run and assert a job.
    Print,
    /// Install the skill of a configured module.
    Install(Selection),
    /// Update the skill of a configured module.
    Update(Selection),
}

#[derive(Debug, clap::Args)]
struct Selection {
    /// The module's name in the configuration.
    name: Option<String>,
    /// The skills of all configured modules.
    #[arg(long)]
    all: bool,
}

pub async fn run(arguments: Arguments, context: KitContext) -> KitResult<ExitCode> {
    match arguments.action {
        Action::Print => {
            context.output.document(SKILL.trim_end());
            Ok(ExitCode::SUCCESS)
        }
        Action::Install(selection) => {
            for skill in selected(&selection, &context)? {
                let code = add_skill(&skill).await?;
                if code != 0 {
                    return Ok(ExitCode::from(code));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Update(selection) => match selected(&selection, &context)?.as_slice() {
            [skill] => add_skill(skill).await.map(ExitCode::from),
            _ => run_skills(&["update"]).await.map(ExitCode::from),
        },
    }
}

/// The modules in question, by name.
fn selected(selection: &Selection, context: &KitContext) -> KitResult<Vec<ModuleSkill>> {
    let modules = load_config(&context.paths).modules;
    if modules.is_empty() {
        return Err(KitFault::runtime("No modules configured. Add a `modules` map to dispatch.config.json or to the user's config.json."));
    }
    match (selection.name.as_deref().map(str::trim).filter(|name| !name.is_empty()), selection.all) {
        (Some(_), true) => Err(KitFault::usage("Provide either a module name or --all, not both.")),
        (None, false) => Err(KitFault::usage("Provide a module name or --all.")),
        (None, true) => Ok(modules.into_values().collect()),
        (Some(name), false) => {
            let skill = modules.get(name).cloned();
            skill.map(|skill| vec![skill]).ok_or_else(|| KitFault::not_found(format!("Module not found in config.modules: {name}")))
        }
    }
}

async fn add_skill(skill: &ModuleSkill) -> KitResult<u8> {
    run_skills(&["add", &format!("{}@{}", skill.repo, skill.version), "-y"]).await
}

/// Runs the `skills` program of npm; its output passes through. Returns its exit code.
async fn run_skills(arguments: &[&str]) -> KitResult<u8> {
    let status = tokio::process::Command::new("npx").args(["--yes", "skills"]).args(arguments).status().await;
    let status = status.map_err(|error| KitFault::runtime(format!("npx could not be started: {error}. Install Node.js.")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
