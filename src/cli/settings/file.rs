//! The configuration file: TOML whose tables and keys are those of the settings.

use std::path::Path;

use clap::Command;
use serde_json::json;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Setting, SettingKind};
use crate::error::{Error, Kind, Result};

/// A value of the file, as the flag would be given it.
#[derive(Debug, Clone)]
pub struct FileValue {
    /// The argument's id.
    pub id: String,
    pub texts: Vec<String>,
}

/// One fault of a file.
struct FileFault {
    line: usize,
    key: String,
    message: String,
}

/// Reads a file. Errors: `invalid_configuration`, with every fault, its key and its line.
pub fn read(path: &Path, known: &[Setting]) -> Result<Vec<FileValue>> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration file {}: {error}", path.display());
        Error::new(Kind::Invalid, "invalid_configuration", message).next("give the path of a TOML file with --config or DISPATCH_CONFIG")
    })?;
    values(&text, known).map_err(|faults| refusal(path, &faults))
}

fn refusal(path: &Path, faults: &[FileFault]) -> Error {
    let file = path.display().to_string();
    let lines: Vec<String> = faults.iter().map(|fault| format!("{file}:{}: {}", fault.line, fault.message)).collect();
    let problems: Vec<_> = faults.iter().map(|fault| json!({ "line": fault.line, "key": fault.key, "message": fault.message })).collect();
    Error::new(Kind::Invalid, "invalid_configuration", lines.join("; "))
        .details(json!({ "file": file, "problems": problems }))
        .next("correct the file and check it with `dispatch config check`; `dispatch config reference` lists all settings")
}

/// Reads the text of a file.
fn values(text: &str, known: &[Setting]) -> Result<Vec<FileValue>, Vec<FileFault>> {
    let document = DeTable::parse(text).map_err(|error| {
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        vec![FileFault { line, key: String::new(), message: format!("it is not valid TOML: {}", error.message()) }]
    })?;
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (table, content) in document.get_ref().iter() {
        let name: &str = table.get_ref();
        let line = line_at(text, table.span().start);
        let Some(entries) = content.get_ref().as_table().filter(|_| has_table(known, name)) else {
            let message = unknown_table(name, content.get_ref(), known);
            faults.push(FileFault { line, key: name.to_owned(), message });
            continue;
        };
        for (key, value) in entries.iter() {
            match entry(name, key.get_ref(), value, known) {
                Ok(value) => found.push(value),
                Err(message) => {
                    let line = line_at(text, key.span().start);
                    faults.push(FileFault { line, key: format!("{name}.{}", key.get_ref()), message });
                }
            }
        }
    }
    faults.sort_by_key(|fault| fault.line);
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// Returns the number of the line at a position, from 1.
fn line_at(text: &str, position: usize) -> usize {
    text.bytes().take(position).filter(|byte| *byte == b'\n').count() + 1
}

fn has_table(known: &[Setting], name: &str) -> bool {
    known.iter().any(|setting| setting.table.as_deref() == Some(name))
}

fn unknown_table(name: &str, content: &DeValue<'_>, known: &[Setting]) -> String {
    if has_table(known, name) {
        return format!("`{name}` is a table; write its settings below [{name}]");
    }
    // A setting that stands outside its table.
    if let Some(setting) = known.iter().find(|setting| setting.name == name && !content.is_table()) {
        return misplaced(name, setting);
    }
    if content.is_table() {
        let tables: Vec<&str> = known.iter().filter_map(|setting| setting.table.as_deref()).collect();
        let nearest = nearest(name, tables.iter().copied());
        return format!("[{name}] is not a table of settings; did you mean [{nearest}]?");
    }
    unknown_key(name, known)
}

fn unknown_key(key: &str, known: &[Setting]) -> String {
    let keys: Vec<String> = known.iter().filter(|setting| setting.table.is_some()).map(Setting::key).collect();
    format!("`{key}` is not a setting; did you mean `{}`?", nearest(key, keys.iter().map(String::as_str)))
}

fn nearest<'n>(wanted: &str, names: impl Iterator<Item = &'n str>) -> &'n str {
    let nearness = |name: &str| strsim::jaro_winkler(name, wanted);
    names.max_by(|one, other| nearness(one).total_cmp(&nearness(other))).unwrap_or_default()
}

/// Why a setting cannot stand where it does.
fn misplaced(key: &str, setting: &Setting) -> String {
    match (&setting.table, &setting.variable) {
        (None, Some(variable)) => format!("`{key}` is a secret that may not be in a file; set the environment variable {variable}"),
        _ => format!("`{key}` is not a setting; did you mean `{}`?", setting.key()),
    }
}

/// The value under a key of a table, or what is wrong with it.
fn entry(table: &str, key: &str, value: &Spanned<DeValue<'_>>, known: &[Setting]) -> Result<FileValue, String> {
    let path = format!("{table}.{key}");
    let Some(setting) = known.iter().find(|setting| setting.name == key) else { return Err(unknown_key(&path, known)) };
    if setting.table.as_deref() != Some(table) {
        return Err(misplaced(&path, setting));
    }
    let texts = texts(setting, value.get_ref()).map_err(|message| format!("`{path}`: {message}"))?;
    for text in &texts {
        check(setting, text).map_err(|message| format!("`{path}`: {message}"))?;
    }
    Ok(FileValue { id: setting.id.clone(), texts })
}

/// The value as the flag would be given it.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let expected = |what: &str| format!("expected {what}, found {}", value.type_str());
    match setting.kind {
        SettingKind::Switch => value.as_bool().map(|on| vec![on.to_string()]).ok_or_else(|| expected("true or false")),
        SettingKind::Number => {
            let number = value.as_integer().ok_or_else(|| expected("a whole number"))?;
            let digits = u64::from_str_radix(number.as_str(), number.radix());
            // Numbers that do not fit are out of range, which the check of the value reports.
            Ok(vec![digits.map_or_else(|_| number.to_string(), |digits| digits.to_string())])
        }
        SettingKind::Text => value.as_str().map(|text| vec![text.to_owned()]).ok_or_else(|| expected("a string")),
        SettingKind::List => {
            let items = value.as_array().ok_or_else(|| expected("a list of strings"))?;
            let item = |item: &Spanned<DeValue<'_>>| item.get_ref().as_str().map(str::to_owned);
            items.iter().map(item).collect::<Option<_>>().ok_or_else(|| "expected a list of strings".to_owned())
        }
    }
}

/// Parses a value as the flag would.
fn check(setting: &Setting, text: &str) -> Result<(), String> {
    if let Some(number) = setting.number {
        let is_in_range = text.parse::<u64>().is_ok_and(|value| (number.min..=number.max).contains(&value));
        return if is_in_range { Ok(()) } else { Err(format!("{text} is not in the range {} to {}", number.min, number.max)) };
    }
    if setting.kind == SettingKind::Switch {
        return Ok(());
    }
    let command = Command::new("file").no_binary_name(true).arg(setting.argument.clone());
    command.try_get_matches_from([format!("--{}={text}", setting.name)]).map(drop).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        // The value itself may be a secret.
        source.unwrap_or_else(|| "the value is not valid".to_owned())
    })
}
