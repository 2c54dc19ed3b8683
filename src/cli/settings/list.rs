//! The list of settings, read from the command line of `dispatch serve`.

use clap::{Arg, ArgAction, Args, Command};

use crate::cli::serve;
use crate::config::number::{NUMBERS, NumberSetting};

/// How a setting's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    /// `true` or `false`.
    Switch,
    Number,
    Text,
    /// Several texts.
    List,
}

/// One setting of a server.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The argument's id on the command line.
    pub id: String,
    /// The flag's long name, which is the key in its table.
    pub name: String,
    pub variable: Option<String>,
    /// The table of the file; `None`: the setting may not be in a file.
    pub table: Option<String>,
    pub kind: SettingKind,
    pub defaults: Vec<String>,
    /// The unit, range and more of a number.
    pub number: Option<&'static NumberSetting>,
    pub help: String,
    /// Its value is never shown.
    pub is_secret: bool,
    /// Whether a running server takes over a new value.
    pub reloads: bool,
    /// The argument, to parse a value with.
    pub argument: Arg,
}

impl Setting {
    /// Returns `table.name`, or the name of a setting that has no place in a file.
    pub fn key(&self) -> String {
        match &self.table {
            Some(table) => format!("{table}.{}", self.name),
            None => self.name.clone(),
        }
    }
}

/// Settings besides numbers that a running server takes over.
const RELOADING: &[&str] = &["log"];
/// Arguments of `dispatch serve` that are no settings.
const NO_SETTINGS: &[&str] = &["config", "failpoint", "new-master-key"];

/// Every setting of a server, by its table, in the order of the command line.
pub fn all_settings() -> Vec<Setting> {
    let command = serve::Arguments::augment_args(Command::new("serve"));
    let settings: Vec<Setting> = command.get_arguments().filter_map(setting).collect();
    let mut tables: Vec<Option<String>> = Vec::new();
    for setting in &settings {
        if !tables.contains(&setting.table) {
            tables.push(setting.table.clone());
        }
    }
    tables.iter().flat_map(|table| settings.iter().filter(move |setting| setting.table == *table).cloned()).collect()
}

fn setting(argument: &Arg) -> Option<Setting> {
    let name = argument.get_long().filter(|name| !NO_SETTINGS.contains(name))?.to_owned();
    let number = NUMBERS.iter().find(|number| number.name == name);
    let kind = match argument.get_action() {
        ArgAction::SetTrue => SettingKind::Switch,
        ArgAction::Append => SettingKind::List,
        _ if number.is_some() => SettingKind::Number,
        _ => SettingKind::Text,
    };
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    Some(Setting {
        id: argument.get_id().to_string(),
        variable: argument.get_env().map(|variable| variable.to_string_lossy().into_owned()),
        // What is hidden is a secret that belongs into the environment.
        table: argument.get_help_heading().filter(|_| !argument.is_hide_set()).map(str::to_owned),
        kind,
        defaults: argument.get_default_values().iter().map(|text| text.to_string_lossy().into_owned()).collect(),
        number,
        help: if help.ends_with('.') { help } else { format!("{help}.") },
        is_secret: argument.is_hide_env_values_set(),
        reloads: number.is_some_and(|number| number.reloads) || RELOADING.contains(&name.as_str()),
        argument: argument.clone(),
        name,
    })
}
