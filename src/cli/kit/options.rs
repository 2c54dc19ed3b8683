//! The global options, and the folders that they choose.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::PROJECT_FILE;
use super::envelope::{KitFault, KitResult, NextCommand, print_document, print_next};
use crate::cli::output::Output;
use crate::module::RegistryOptions;

/// Options that every command takes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct GlobalOptions {
    /// State folder of modules, memory and defaults; `DISPATCH_HOME`, else `~/.dispatch`, when absent.
    #[arg(long, global = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Workspace folder of jobs, modules and run output; `DISPATCH_ROOT`, else the nearest folder above that has a
    /// `dispatch.config.json`, `jobs/` or `modules/`, when absent.
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Print more.
    #[arg(long, global = true)]
    pub verbose: bool,
    /// Print without colors; so does the variable `NO_COLOR`.
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Print a compact manifest of the commands and actions, for agents, and exit.
    #[arg(long, global = true)]
    pub llms: bool,
}

impl GlobalOptions {
    /// Reads the folders from a command line that names no command.
    pub fn from_command_line() -> Self {
        let arguments: Vec<String> = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
        let value = |option: &str| {
            let next = |(index, argument): (usize, &String)| match argument.strip_prefix(option) {
                Some("") => arguments.get(index + 1).cloned(),
                Some(rest) => rest.strip_prefix('=').map(str::to_owned),
                None => None,
            };
            arguments.iter().enumerate().find_map(next).map(PathBuf::from)
        };
        Self { home: value("--home"), root: value("--root"), ..Self::default() }
    }
}

/// The folders of the commands.
#[derive(Debug, Clone)]
pub struct KitPaths {
    /// State folder.
    pub home: PathBuf,
    /// Workspace folder: `jobs/`, `run-output/`, `dispatch.config.json`.
    pub root: PathBuf,
    /// Current folder.
    pub cwd: PathBuf,
}

impl KitPaths {
    /// Chooses the folders by the options, the environment and the current folder.
    pub fn resolve(options: &GlobalOptions) -> KitResult<Self> {
        let cwd = std::env::current_dir().map_err(|error| KitFault::runtime(format!("the current folder cannot be read: {error}")))?;
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = match options.home.clone().or_else(|| variable("DISPATCH_HOME")) {
            Some(home) => home,
            None => variable("HOME").map(|home| home.join(".dispatch")).ok_or_else(|| {
                KitFault::usage("no state folder is known, because the variable HOME is not set. Name one with --home or DISPATCH_HOME.")
            })?,
        };
        let root = options.root.clone().or_else(|| variable("DISPATCH_ROOT"));
        let paths = Self { home: cwd.join(home), root: root.map_or_else(|| workspace_root(&cwd), |root| cwd.join(root)), cwd };
        if options.home.is_some() {
            std::fs::create_dir_all(&paths.home)
                .map_err(|error| KitFault::usage(format!("the folder {} of --home cannot be made: {error}", paths.home.display())))?;
        }
        Ok(paths)
    }

    /// The folders to load modules from, with that of a case file where there is one.
    pub fn registry_options(&self, case_dir: Option<&Path>) -> RegistryOptions {
        RegistryOptions { home: self.home.clone(), root: self.root.clone(), cwd: self.cwd.clone(), case_dir: case_dir.map(Path::to_owned) }
    }
}

/// The nearest folder, from the current one upwards, that looks like a workspace; else the current one.
fn workspace_root(cwd: &Path) -> PathBuf {
    let is_workspace =
        |folder: &&Path| folder.join(PROJECT_FILE).is_file() || folder.join("jobs").is_dir() || folder.join("modules").is_dir();
    cwd.ancestors().find(is_workspace).unwrap_or(cwd).to_owned()
}

/// A path for people: `~` in the place of the user's home.
pub fn home_relative(path: &Path) -> String {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    match home.as_deref().and_then(|home| path.strip_prefix(home).ok()) {
        Some(rest) => format!("~/{}", rest.display()),
        None => path.display().to_string(),
    }
}

/// What a command works with.
#[derive(Debug, Clone)]
pub struct KitContext {
    pub paths: KitPaths,
    pub output: Output,
    pub verbose: bool,
    /// Whether stdout takes colors.
    pub color: bool,
}

impl KitContext {
    pub fn open(options: &GlobalOptions, output: Output) -> KitResult<Self> {
        let no_color = options.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !no_color && !output.json && std::io::stdout().is_terminal();
        Ok(Self { paths: KitPaths::resolve(options)?, output, verbose: options.verbose, color })
    }

    /// A line for people; nothing with `--json`.
    pub fn say(&self, text: impl std::fmt::Display) {
        self.output.say(text);
    }

    /// The result as the one JSON document of `--json`; nothing for people.
    pub fn result(&self, document: Value) {
        if self.output.json {
            print_document(self.output, document);
        }
    }

    /// A JSON document for people and programs alike.
    pub fn document(&self, document: Value) {
        print_document(self.output, document);
    }

    /// The next commands, for people.
    pub fn next(&self, next: &[NextCommand]) {
        print_next(self.output, next);
    }
}
