//! The settings of a server and where each value comes from: a flag, an environment variable, the configuration file, or its default, in this
//! order.
//!
//! The command line of `dispatch serve` is the one list of settings: the file has its flags' names as keys, grouped in tables by their headings,
//! and its values take the place of the flags' defaults.

mod file;
mod list;
mod numbers;
mod options;

use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

pub use list::{Setting, SettingKind, all_settings};
pub use options::ServerOptions;

use super::{Cli, serve};
use crate::error::{Error, Kind, Result};
use file::FileValue;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingSource {
    Flag,
    Environment,
    File,
    Default,
}

impl SettingSource {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "env",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A setting with its value in force. Without values it has none, or one that is computed at the start.
#[derive(Debug, Clone)]
pub struct EffectiveSetting {
    pub setting: Setting,
    pub values: Vec<String>,
    pub source: SettingSource,
}

/// What a command line, its environment and its file say together.
#[derive(Debug)]
pub struct LoadedSettings {
    pub arguments: serve::Arguments,
    pub settings: Vec<EffectiveSetting>,
}

/// Reads the settings of this process's command line and of its configuration file. The file is read at each call. Errors:
/// `invalid_configuration`, `usage`.
pub fn load(file: Option<&Path>) -> Result<LoadedSettings> {
    let known = all_settings();
    let from_file = match file {
        Some(path) => file::read(path, &known)?,
        None => Vec::new(),
    };
    let matches = parse(&from_file)?;
    let matches = leaf(&matches);
    let arguments = serve::Arguments::from_arg_matches(matches).map_err(|error| unusable(&error))?;
    let settings = known.into_iter().map(|setting| effective(setting, matches, &from_file)).collect();
    Ok(LoadedSettings { arguments, settings })
}

/// Parses the command line with the file's values as defaults.
fn parse(from_file: &[FileValue]) -> Result<ArgMatches> {
    let with_file = |command: Command| {
        from_file.iter().fold(command, |command, value| command.mut_arg(&value.id, |argument| argument.default_values(value.texts.clone())))
    };
    let in_config = |command: Command| command.mut_subcommand("show", with_file).mut_subcommand("check", with_file);
    let command = Cli::command().mut_subcommand("serve", with_file).mut_subcommand("config", in_config);
    command.try_get_matches_from(std::env::args_os()).map_err(|error| unusable(&error))
}

/// The innermost subcommand, which has the settings.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| leaf(inner))
}

fn unusable(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned();
    Error::new(Kind::Malformed, "usage", message).next("`dispatch help serve` lists the options")
}

fn effective(setting: Setting, matches: &ArgMatches, from_file: &[FileValue]) -> EffectiveSetting {
    let is_in_file = from_file.iter().any(|value| value.id == setting.id);
    let source = match matches.value_source(&setting.id) {
        Some(ValueSource::CommandLine) => SettingSource::Flag,
        Some(ValueSource::EnvVariable) => SettingSource::Environment,
        _ if is_in_file => SettingSource::File,
        _ => SettingSource::Default,
    };
    let values = match setting.kind {
        SettingKind::Switch => vec![matches.get_flag(&setting.id).to_string()],
        _ => matches.get_raw(&setting.id).into_iter().flatten().map(|text| text.to_string_lossy().into_owned()).collect(),
    };
    EffectiveSetting { setting, values, source }
}
