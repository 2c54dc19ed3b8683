//! What may stand after a `|`.
//!
//! A filter is a function from the value and its arguments to a value, or to a message about them. The caller has
//! charged for the size of everything that goes in; a filter whose result can be larger than that bounds it itself.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{dates, lists, numbers};
use crate::clock::Timestamp;
use crate::expr::value::{self, Text, text_of};
use crate::expr::{ParseError, limits};

/// What a filter may know besides its arguments.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    pub now: Timestamp,
    pub html: bool,
}

type Run = fn(Value, &[Value], &Context) -> Result<Value, String>;

/// One filter: its name, how many arguments it takes, and what it does.
#[derive(Debug)]
pub struct Filter {
    pub name: &'static str,
    pub least: usize,
    pub most: usize,
    run: Run,
}

impl Filter {
    pub fn arity(&self) -> String {
        match (self.least, self.most) {
            (0, 0) => "no argument".into(),
            (1, 1) => "one argument".into(),
            (least, most) if least == most => format!("{least} arguments"),
            (least, most) => format!("{least} to {most} arguments"),
        }
    }
}

const fn filter(name: &'static str, least: usize, most: usize, run: Run) -> Filter {
    Filter { name, least, most, run }
}

/// Longest name, in bytes, that is compared with the known ones: comparing takes time for each character.
const MAX_COMPARED: usize = 64;

/// Finds a filter by name.
pub fn find(name: &str) -> Result<&'static Filter, ParseError> {
    FILTERS.iter().find(|filter| filter.name == name).ok_or_else(|| {
        let comparable = FILTERS.iter().filter(|_| name.len() <= MAX_COMPARED);
        let nearest = comparable.map(|filter| (strsim::damerau_levenshtein(filter.name, name), filter.name)).min();
        let hint = match nearest {
            Some((distance, nearest)) if distance <= 2 => format!("; did you mean `{nearest}`?"),
            _ => String::new(),
        };
        ParseError::new(format!("there is no filter `{name}`{hint}"))
    })
}

/// Runs a filter and bounds what it made.
pub fn apply(filter: &Filter, value: Value, arguments: &[Value], context: &Context) -> Result<Value, String> {
    let result = (filter.run)(value, arguments, context)?;
    match &result {
        Value::String(text) if text.len() > limits::OUTPUT && filter.name != "default" => Err(over()),
        _ => Ok(result),
    }
}

fn over() -> String {
    format!("its result is larger than {} bytes", limits::OUTPUT)
}

/// An argument as text; empty when it is not given.
fn text(arguments: &[Value], index: usize) -> String {
    arguments.get(index).map(text_of).unwrap_or_default()
}

fn argument(arguments: &[Value], index: usize) -> &Value {
    arguments.get(index).unwrap_or(&Value::Null)
}

fn name(arguments: &[Value]) -> Option<String> {
    arguments.first().map(text_of)
}

fn replaced(value: &Value, from: &str, to: &str, times: usize) -> Result<Value, String> {
    if from.is_empty() {
        return Ok(text_of(value).into());
    }
    value::replace(&text_of(value), from, to, times).map(Value::String).ok_or_else(over)
}

fn last_replaced(value: &Value, from: &str, to: &str) -> Result<Value, String> {
    let text = text_of(value);
    match text.rfind(from).filter(|_| !from.is_empty()) {
        Some(at) => Ok([&text[..at], to, &text[at + from.len()..]].concat().into()),
        None => Ok(text.into()),
    }
}

const FILTERS: &[Filter] = &[
    filter("abs", 0, 0, |value, _, _| Ok(numbers::abs(&value))),
    filter("append", 1, 1, |value, args, _| Ok([text_of(&value), text(args, 0)].concat().into())),
    filter("at_least", 1, 1, |value, args, _| Ok(numbers::extreme(&value, argument(args, 0), Ordering::Greater))),
    filter("at_most", 1, 1, |value, args, _| Ok(numbers::extreme(&value, argument(args, 0), Ordering::Less))),
    filter("base64_decode", 0, 0, |value, _, _| {
        let bytes = STANDARD.decode(text_of(&value)).map_err(|_| "the text is not base64".to_owned())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned().into())
    }),
    filter("base64_encode", 0, 0, |value, _, _| Ok(STANDARD.encode(text_of(&value)).into())),
    filter("capitalize", 0, 0, |value, _, _| Ok(capitalized(&text_of(&value)).into())),
    filter("ceil", 0, 0, |value, _, _| Ok(value::number(numbers::float(&value).ceil()))),
    filter("compact", 0, 1, |value, args, _| Ok(lists::compact(value, name(args).as_deref()))),
    filter("concat", 1, 1, |value, args, _| {
        let mut items = lists::list(value);
        items.extend(lists::list(argument(args, 0).clone()));
        Ok(items.into())
    }),
    filter("date", 1, 1, |value, args, context| dates::date(value, &text(args, 0), context.now)),
    filter("default", 1, 2, |value, args, _| {
        let allow_false = argument(args, 1) == &Value::Bool(true);
        let empty = match &value {
            Value::Null => true,
            Value::Bool(false) => !allow_false,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        Ok(if empty { argument(args, 0).clone() } else { value })
    }),
    filter("divided_by", 1, 1, |value, args, _| numbers::divided_by(&value, argument(args, 0))),
    filter("downcase", 0, 0, |value, _, _| Ok(text_of(&value).to_lowercase().into())),
    filter("escape", 0, 0, |value, _, _| Ok(escaped(&text_of(&value), false)?.into())),
    filter("escape_once", 0, 0, |value, _, _| Ok(escaped(&text_of(&value), true)?.into())),
    filter("find", 1, 2, |value, args, _| {
        let found = lists::matching(value, &text(args, 0), args.get(1), true);
        Ok(found.into_iter().next().unwrap_or_default())
    }),
    filter("first", 0, 0, |value, _, _| Ok(end(value, true))),
    filter("floor", 0, 0, |value, _, _| Ok(value::number(numbers::float(&value).floor()))),
    filter("join", 0, 1, |value, args, _| lists::join(value, &args.first().map_or_else(|| " ".to_owned(), text_of))),
    filter("json", 0, 0, |value, _, context| {
        let mut out = Text::new(limits::OUTPUT, "a text");
        out.push_json(&value).map_err(|_| over())?;
        let json = out.into_string();
        // Inside a page, no text may close the script element around it.
        Ok(if context.html { json.replace('<', "\\u003c") } else { json }.into())
    }),
    filter("last", 0, 0, |value, _, _| Ok(end(value, false))),
    filter("lstrip", 0, 0, |value, _, _| Ok(text_of(&value).trim_start().into())),
    filter("map", 1, 1, |value, args, _| Ok(lists::map(value, &text(args, 0)))),
    filter("minus", 1, 1, |value, args, _| Ok(numbers::minus(&value, argument(args, 0)))),
    filter("modulo", 1, 1, |value, args, _| numbers::modulo(&value, argument(args, 0))),
    filter("newline_to_br", 0, 0, |value, _, _| {
        let text = text_of(&value).replace("\r\n", "\n");
        replaced(&text.into(), "\n", "<br />\n", usize::MAX)
    }),
    filter("plus", 1, 1, |value, args, _| Ok(numbers::plus(&value, argument(args, 0)))),
    filter("prepend", 1, 1, |value, args, _| Ok([text(args, 0), text_of(&value)].concat().into())),
    filter("raw", 0, 0, |value, _, _| Ok(value)),
    filter("reject", 1, 2, |value, args, _| Ok(lists::matching(value, &text(args, 0), args.get(1), false).into())),
    filter("remove", 1, 1, |value, args, _| replaced(&value, &text(args, 0), "", usize::MAX)),
    filter("remove_first", 1, 1, |value, args, _| replaced(&value, &text(args, 0), "", 1)),
    filter("remove_last", 1, 1, |value, args, _| last_replaced(&value, &text(args, 0), "")),
    filter("replace", 1, 2, |value, args, _| replaced(&value, &text(args, 0), &text(args, 1), usize::MAX)),
    filter("replace_first", 1, 2, |value, args, _| replaced(&value, &text(args, 0), &text(args, 1), 1)),
    filter("replace_last", 1, 2, |value, args, _| last_replaced(&value, &text(args, 0), &text(args, 1))),
    filter("reverse", 0, 0, |value, _, _| {
        let mut items = lists::list(value);
        items.reverse();
        Ok(items.into())
    }),
    filter("round", 0, 1, |value, args, _| Ok(numbers::round(&value, argument(args, 0)))),
    filter("rstrip", 0, 0, |value, _, _| Ok(text_of(&value).trim_end().into())),
    filter("size", 0, 0, |value, _, _| {
        Ok(match &value {
            Value::String(text) => text.chars().count(),
            Value::Array(items) => items.len(),
            Value::Object(fields) => fields.len(),
            _ => 0,
        }
        .into())
    }),
    filter("slice", 1, 2, |value, args, _| {
        Ok(lists::slice(value, numbers::whole(argument(args, 0)), args.get(1).map_or(1, numbers::whole)))
    }),
    filter("sort", 0, 1, |value, args, _| Ok(lists::sort(value, name(args).as_deref(), false))),
    filter("sort_natural", 0, 1, |value, args, _| Ok(lists::sort(value, name(args).as_deref(), true))),
    filter("split", 1, 1, |value, args, _| lists::split(&text_of(&value), &text(args, 0))),
    filter("strip", 0, 0, |value, _, _| Ok(text_of(&value).trim().into())),
    filter("strip_html", 0, 0, |value, _, _| Ok(without_tags(&text_of(&value)).into())),
    filter("strip_newlines", 0, 0, |value, _, _| Ok(text_of(&value).replace(['\r', '\n'], "").into())),
    filter("sum", 0, 1, |value, args, _| Ok(lists::sum(value, name(args).as_deref()))),
    filter("times", 1, 1, |value, args, _| Ok(numbers::times(&value, argument(args, 0)))),
    filter("truncate", 0, 2, |value, args, _| {
        let most = args.first().map_or(50, |most| usize::try_from(numbers::whole(most)).unwrap_or(0));
        let mark = args.get(1).map_or_else(|| "...".to_owned(), text_of);
        Ok(truncated(&text_of(&value), most, &mark).into())
    }),
    filter("truncatewords", 0, 2, |value, args, _| {
        let most = args.first().map_or(15, |most| usize::try_from(numbers::whole(most)).unwrap_or(0)).max(1);
        let mark = args.get(1).map_or_else(|| "...".to_owned(), text_of);
        let text = text_of(&value);
        let mut words = text.split_whitespace();
        let kept = words.by_ref().take(most).collect::<Vec<_>>().join(" ");
        Ok(if words.next().is_some() { [kept, mark].concat() } else { text }.into())
    }),
    filter("uniq", 0, 1, |value, args, _| Ok(lists::uniq(value, name(args).as_deref()))),
    filter("upcase", 0, 0, |value, _, _| Ok(text_of(&value).to_uppercase().into())),
    filter("url_decode", 0, 0, |value, _, _| {
        let text = text_of(&value);
        // One key without a value: an equals sign in it is part of the key.
        let pairs = url::form_urlencoded::parse(text.as_bytes()).next();
        Ok(pairs.map(|(key, rest)| if text.contains('=') { format!("{key}={rest}") } else { key.into_owned() }).unwrap_or_default().into())
    }),
    filter("url_encode", 0, 0, |value, _, _| {
        Ok(url::form_urlencoded::byte_serialize(text_of(&value).as_bytes()).collect::<String>().into())
    }),
    filter("where", 1, 2, |value, args, _| Ok(lists::matching(value, &text(args, 0), args.get(1), true).into())),
];

fn end(value: Value, first: bool) -> Value {
    match value {
        Value::Array(items) if first => items.into_iter().next().unwrap_or_default(),
        Value::Array(mut items) => items.pop().unwrap_or_default(),
        Value::String(text) => {
            let found = if first { text.chars().next() } else { text.chars().next_back() };
            found.map(String::from).unwrap_or_default().into()
        }
        _ => Value::Null,
    }
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &characters.as_str().to_lowercase()
}

fn escaped(text: &str, once: bool) -> Result<String, String> {
    let mut out = Text::new(limits::OUTPUT, "a text");
    for (at, character) in text.char_indices() {
        let mut buffer = [0u8; 4];
        let part = match character {
            '&' if once && is_entity(&text[at..]) => "&",
            '&' => "&amp;",
            '<' => "&lt;",
            '>' => "&gt;",
            '"' => "&quot;",
            '\'' => "&#39;",
            other => other.encode_utf8(&mut buffer),
        };
        out.push(part).map_err(|_| over())?;
    }
    Ok(out.into_string())
}

/// Whether a text starts with an entity such as `&amp;` or `&#39;`.
fn is_entity(text: &str) -> bool {
    let bytes = text.as_bytes().iter().skip(1).take(32);
    let name = bytes.clone().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'#').count();
    name > 0 && bytes.clone().nth(name) == Some(&b';')
}

fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('<') {
        out.push_str(&rest[..start]);
        let tag = &rest[start..];
        let closing =
            ["<script", "<style", "<!--"].into_iter().zip(["</script>", "</style>", "-->"]).find(|(open, _)| tag.starts_with(open));
        let end = match closing {
            Some((_, close)) => tag.find(close).map(|at| at + close.len()),
            None => tag.find('>').map(|at| at + 1),
        };
        let Some(end) = end else {
            rest = tag;
            break;
        };
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// At most `most` characters, the mark included.
fn truncated(text: &str, most: usize, mark: &str) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(mark.chars().count());
    text.chars().take(kept).chain(mark.chars()).collect()
}
