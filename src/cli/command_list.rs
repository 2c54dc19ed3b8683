//! The list of all commands, read from the command line's own definition: for the manifest of `--llms` and the tools of
//! `dispatch mcp`.

use clap::{Arg, ArgAction, Command};

/// A command that can be run.
#[derive(Debug, Clone)]
pub struct CommandEntry {
    /// `["job", "run"]`.
    pub words: Vec<String>,
    pub about: String,
    pub arguments: Vec<ArgumentEntry>,
}

/// An argument of a command.
#[derive(Debug, Clone)]
pub struct ArgumentEntry {
    /// The long name of an option, or the name of a positional argument.
    pub name: String,
    pub is_positional: bool,
    pub is_required: bool,
    pub kind: ArgumentKind,
    pub help: String,
    /// The name of the value: `path`.
    pub value: String,
    /// The values that it may have; empty: any.
    pub values: Vec<String>,
}

/// How an argument is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentKind {
    Switch,
    Value,
    List,
}

/// Returns every command below a root, except hidden ones.
pub fn list_commands(root: &Command) -> Vec<CommandEntry> {
    let mut found = Vec::new();
    for command in root.get_subcommands() {
        collect(command, &[], &mut found);
    }
    found
}

fn collect(command: &Command, above: &[String], found: &mut Vec<CommandEntry>) {
    if command.is_hide_set() || command.get_name() == "help" {
        return;
    }
    let words: Vec<String> = above.iter().cloned().chain([command.get_name().to_owned()]).collect();
    if !command.is_subcommand_required_set() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let arguments = command.get_arguments().filter_map(argument).collect();
        found.push(CommandEntry { words: words.clone(), about, arguments });
    }
    for below in command.get_subcommands() {
        collect(below, &words, found);
    }
}

fn argument(argument: &Arg) -> Option<ArgumentEntry> {
    let kind = match argument.get_action() {
        ArgAction::Set => ArgumentKind::Value,
        ArgAction::Append => ArgumentKind::List,
        ArgAction::SetTrue | ArgAction::SetFalse => ArgumentKind::Switch,
        _ => return None,
    };
    if argument.is_hide_set() || argument.is_global_set() {
        return None;
    }
    let id = argument.get_id().as_str().to_lowercase().replace('_', "-");
    let value = argument.get_value_names().and_then(|names| names.first()).map(|name| name.to_lowercase());
    let values = if kind == ArgumentKind::Switch { Vec::new() } else { argument.get_possible_values() };
    Some(ArgumentEntry {
        name: argument.get_long().map_or_else(|| id.clone(), str::to_owned),
        is_positional: argument.is_positional(),
        is_required: argument.is_required_set(),
        kind,
        help: argument.get_help().map(ToString::to_string).unwrap_or_default(),
        value: value.unwrap_or(id),
        values: values.iter().map(|value| value.get_name().to_owned()).collect(),
    })
}

impl CommandEntry {
    /// Returns the command with its required arguments: `job run --case <path>`.
    pub fn usage(&self) -> String {
        let required = self.arguments.iter().filter(|argument| argument.is_required);
        let arguments = required.map(|argument| match (argument.is_positional, argument.kind) {
            (true, _) => format!("<{}>", argument.value),
            (false, ArgumentKind::Switch) => format!("--{}", argument.name),
            (false, _) => format!("--{} <{}>", argument.name, argument.value),
        });
        self.words.iter().cloned().chain(arguments).collect::<Vec<_>>().join(" ")
    }
}
