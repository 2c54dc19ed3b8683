//! `dispatch config`: the settings of a server, without starting one.

use serde_json::{Value, json};

use super::output::Output;
use super::serve;
use super::settings::{self, EffectiveSetting, Setting, SettingKind};
use crate::app;
use crate::app::telemetry;
use crate::error::Result;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show every setting, its value and where the value comes from; secrets are masked.
    Show(Box<serve::Arguments>),
    /// Check the flags, the environment and the configuration file without starting a server.
    Check(Box<serve::Arguments>),
    /// Print the table of all settings for docs/configuration.md.
    Reference,
}

/// What stands in the place of a secret.
const MASK: &str = "***";

pub fn run(arguments: &Arguments, output: &Output) -> Result<()> {
    match &arguments.action {
        Action::Show(serve) => show(serve, output),
        Action::Check(serve) => check(serve, output),
        Action::Reference => reference(output),
    }
}

fn show(arguments: &serve::Arguments, output: &Output) -> Result<()> {
    let loaded = settings::load(arguments.file())?;
    let mut table = None;
    for effective in &loaded.settings {
        let setting = &effective.setting;
        if table != Some(&setting.table) {
            output.say(setting.table.as_ref().map_or_else(|| "# only as environment variables".to_owned(), |table| format!("[{table}]")));
            table = Some(&setting.table);
        }
        output.say(format_args!("{} = {}  # {}", setting.name, shown(effective), effective.source.name()));
    }
    let settings: Vec<Value> = loaded.settings.iter().map(as_json).collect();
    output.envelope(json!({ "file": arguments.file(), "settings": settings }))
}

/// The value in TOML; `none` for an absent one.
fn shown(effective: &EffectiveSetting) -> String {
    match value(effective) {
        Value::Null => "none".to_owned(),
        value => value.to_string(),
    }
}

fn value(effective: &EffectiveSetting) -> Value {
    let EffectiveSetting { setting, values, .. } = effective;
    let first = values.first();
    match setting.kind {
        _ if setting.is_secret => first.map_or(Value::Null, |_| MASK.into()),
        SettingKind::List => json!(values),
        SettingKind::Switch => json!(first.is_some_and(|text| text == "true")),
        SettingKind::Number => first.and_then(|text| text.parse::<u64>().ok()).map_or(Value::Null, Value::from),
        SettingKind::Text => first.map_or(Value::Null, |text| text.as_str().into()),
    }
}

fn as_json(effective: &EffectiveSetting) -> Value {
    let setting = &effective.setting;
    json!({
        "name": setting.name,
        "flag": format!("--{}", setting.name),
        "variable": setting.variable,
        "key": setting.table.is_some().then(|| setting.key()),
        "value": value(effective),
        "source": effective.source.name(),
        "unit": setting.number.map(|number| number.unit.name()).filter(|unit| !unit.is_empty()),
        "secret": setting.is_secret,
        "reloads": setting.reloads,
    })
}

fn check(arguments: &serve::Arguments, output: &Output) -> Result<()> {
    let file = arguments.file();
    let loaded = settings::load(file)?;
    telemetry::check_filter(loaded.arguments.log())?;
    app::check(&loaded.arguments.config())?;
    let next = match file {
        Some(path) => format!("start the server with `dispatch serve --config {}`", path.display()),
        None => "start the server with `dispatch serve`".to_owned(),
    };
    output.say("the configuration is valid");
    output.say(format_args!("next: {next}"));
    output.envelope(json!({ "file": file, "next": next }))
}

fn reference(output: &Output) -> Result<()> {
    let text = reference_table();
    if !output.json {
        output.document(text.trim_end());
    }
    output.envelope(json!({ "document": text }))
}

/// The table of all settings that may be in a file, in Markdown.
pub fn reference_table() -> String {
    let mut text =
        "| Flag | Variable | File key | Default | Unit | Range | Reloads | Meaning |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for setting in settings::all_settings().iter().filter(|setting| setting.table.is_some()) {
        text.push_str(&row(setting));
    }
    text
}

fn row(setting: &Setting) -> String {
    let variable = setting.variable.as_ref().map_or_else(|| "–".to_owned(), |variable| format!("`{variable}`"));
    let default = match (setting.kind, setting.defaults.first()) {
        (SettingKind::Switch, _) => "`false`".to_owned(),
        (_, Some(value)) => format!("`{value}`"),
        (SettingKind::Number, None) => "computed".to_owned(),
        (_, None) => "none".to_owned(),
    };
    let unit = setting.number.map(|number| number.unit.name()).filter(|unit| !unit.is_empty()).unwrap_or("–");
    let range = setting.number.map_or_else(|| "–".to_owned(), |number| format!("{} to {}", number.min, number.max));
    let reloads = if setting.reloads { "yes" } else { "–" };
    let (name, key) = (&setting.name, setting.key());
    format!("| `--{name}` | {variable} | `{key}` | {default} | {unit} | {range} | {reloads} | {} |\n", setting.help)
}
