//! The settings that are numbers, as flags made from their table.

use clap::builder::RangedU64ValueParser;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::Config;
use crate::config::number::{NUMBERS, NumberSetting};

/// The given and default values, in the table's order.
#[derive(Debug)]
pub struct NumberOptions(Vec<(&'static NumberSetting, u64)>);

impl NumberOptions {
    /// Writes the values into a configuration.
    pub fn apply(&self, config: &mut Config) {
        for (setting, value) in &self.0 {
            setting.apply(config, *value);
        }
    }
}

impl FromArgMatches for NumberOptions {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let value = |setting: &'static NumberSetting| matches.get_one::<u64>(setting.name).map(|value| (setting, *value));
        Ok(Self(NUMBERS.iter().filter_map(value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for NumberOptions {
    fn augment_args(command: Command) -> Command {
        NUMBERS.iter().fold(command, |command, setting| command.arg(argument(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static NumberSetting) -> Arg {
    let parser = RangedU64ValueParser::<u64>::new().range(setting.min..=setting.max);
    let argument = Arg::new(setting.name)
        .long(setting.name)
        .env(setting.variable())
        .value_name("NUMBER")
        .value_parser(parser)
        .help(setting.help)
        .help_heading(setting.table);
    match setting.default_value() {
        Some(value) => argument.default_value(value.to_string()),
        None => argument,
    }
}
