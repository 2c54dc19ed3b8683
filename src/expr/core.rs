//! The larger expression language: minijinja, for what the native grammar does not know (filters, tests, `a if b else c`).
//!
//! The engine's fuel bounds steps, not memory: one `'x' * 100000000` is a single step. So the environment starts empty
//! and gets only filters whose work is proportional to their data, multiplication is not offered, and the operators
//! that copy are counted when the expression is compiled.

use std::sync::{Arc, LazyLock};

use minijinja::value::{Rest, Serde, Value as Item};
use minijinja::{Environment, Error as Fault, ErrorKind, Expression, UndefinedBehavior, filters, tests};
use serde_json::Value;

use super::native::Reads;
use super::value::{self, Text};
use super::{ParseError, Scope, failed, limits, out_of_fuel, scope, too_large};
use crate::error::Result;

/// Longest source; the native grammar takes longer ones.
const SOURCE: usize = 2 << 10;
/// Most operators that may copy their operands.
const COPYING: usize = 32;

static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(engine);

fn engine() -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::Chainable);
    env.set_fuel(Some(limits::FUEL));
    env.set_recursion_limit(limits::DEPTH);
    env.set_debug(false);
    env.add_global("null", ());
    env.add_filter("abs", filters::abs);
    env.add_filter("capitalize", filters::capitalize);
    env.add_filter("default", filters::default);
    env.add_filter("first", filters::first);
    env.add_filter("float", filters::float);
    env.add_filter("int", filters::int);
    env.add_filter("items", filters::items);
    env.add_filter("join", join);
    env.add_filter("json", json);
    env.add_filter("keys", keys);
    env.add_filter("last", filters::last);
    env.add_filter("length", filters::length);
    env.add_filter("lower", filters::lower);
    env.add_filter("max", filters::max);
    env.add_filter("min", filters::min);
    env.add_filter("replace", replace);
    env.add_filter("reverse", filters::reverse);
    env.add_filter("round", filters::round);
    env.add_filter("sort", filters::sort);
    env.add_filter("string", string);
    env.add_filter("sum", filters::sum);
    env.add_filter("title", filters::title);
    env.add_filter("times", times);
    env.add_filter("trim", filters::trim);
    env.add_filter("unique", filters::unique);
    env.add_filter("upper", filters::upper);
    env.add_test("boolean", tests::is_boolean);
    env.add_test("defined", tests::is_defined);
    env.add_test("divisibleby", tests::is_divisibleby);
    env.add_test("even", tests::is_even);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("none", tests::is_none);
    env.add_test("number", tests::is_number);
    env.add_test("odd", tests::is_odd);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("string", tests::is_string);
    env.add_test("undefined", tests::is_undefined);
    env
}

/// A compiled expression of the larger language.
#[derive(Clone)]
pub struct Core {
    compiled: Arc<Expression<'static, 'static>>,
    source: Arc<str>,
    reads: Reads,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Core({})", self.source)
    }
}

impl Core {
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        check(source)?;
        let compiled = ENGINE.compile_expression_owned(source.to_owned()).map_err(|fault| ParseError::new(explain(&fault)))?;
        let mut reads = Reads::default();
        for name in compiled.undeclared_variables(true) {
            match name.split_once('.') {
                Some((scope::SECRETS, secret)) => {
                    reads.secrets.insert(secret.split('.').next().unwrap_or(secret).to_owned());
                }
                None if name == scope::SECRETS => return Err(ParseError::new("name one secret: `secrets.name`")),
                Some((root, _)) => {
                    reads.roots.insert(root.to_owned());
                }
                None => {
                    reads.roots.insert(name);
                }
            }
        }
        reads.roots.remove("null");
        Ok(Self { compiled: Arc::new(compiled), source: source.into(), reads })
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The value, or none when it is undefined.
    pub fn eval(&self, scope: &Scope) -> Result<Option<Value>> {
        let roots = self.reads.roots.iter().filter_map(|name| Some((Item::from(name.as_str()), Item::from(Serde(scope.root(name)?)))));
        let secrets =
            self.reads.secrets.iter().filter_map(|name| Some((Item::from(name.as_str()), Item::from(scope.secret(name)?.expose()))));
        let secrets = (!self.reads.secrets.is_empty()).then(|| (Item::from(scope::SECRETS), Item::from_pairs(secrets)));
        let result = self.compiled.eval(Item::from_pairs(roots.chain(secrets))).map_err(|fault| match fault.kind() {
            ErrorKind::OutOfFuel => out_of_fuel(),
            _ => failed(format!("`{{{{ {} }}}}`: {}", self.source, explain(&fault))),
        })?;
        if result.is_undefined() { Ok(None) } else { plain(&result).map(Some) }
    }
}

/// Back to JSON, through text that cannot grow beyond the limit.
fn plain(result: &Item) -> Result<Value> {
    if let Some(text) = result.as_str() {
        return if text.len() > limits::OUTPUT { Err(too_large("a text", limits::OUTPUT)) } else { Ok(text.into()) };
    }
    let mut text = Text::new(limits::OUTPUT, "the result");
    serde_json::to_writer(&mut text, result)
        .map_err(|_| failed(format!("the result is not plain data, or larger than {} bytes", limits::OUTPUT)))?;
    serde_json::from_str(&text.into_string()).map_err(|_| failed("the result is not plain data"))
}

fn explain(fault: &Fault) -> String {
    fault.detail().map_or_else(|| fault.kind().to_string(), str::to_owned)
}

/// Refuses what could cost more than its size suggests, and what would only fail when it is evaluated.
fn check(source: &str) -> Result<(), ParseError> {
    if source.len() > SOURCE {
        return Err(ParseError::new(format!("the expression is longer than {SOURCE} bytes")));
    }
    let (mut depth, mut deepest, mut copying) = (0usize, 0usize, 0usize);
    let mut before = "";
    for token in tokens(source) {
        match token {
            "(" if is_word(before) && !WORDS.contains(&before) => {
                return Err(ParseError::new(format!("functions cannot be called here (`{before}`); use filters, as in `a | upper`")));
            }
            "(" | "[" | "{" => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "*" => return Err(ParseError::new("multiplication needs plain operands here: write `a * b`, or the filter `a | times(b)`")),
            "~" | "+" | "|" => copying += 1,
            word if is_word(word) && before == "|" => {
                known(word)?;
                before = "|";
                continue;
            }
            _ => {}
        }
        before = if before == "is" && (token == "not" || is_word(token)) { "is" } else { token };
    }
    if deepest > limits::DEPTH {
        return Err(ParseError::new(format!("the expression nests deeper than {}", limits::DEPTH)));
    }
    if copying > COPYING {
        return Err(ParseError::new(format!("the expression has more than {COPYING} filters and joins")));
    }
    Ok(())
}

/// Words that may stand before a parenthesis without calling anything.
const WORDS: &[&str] = &["and", "else", "if", "in", "is", "not", "or"];

fn is_word(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

fn known(filter: &str) -> Result<(), ParseError> {
    let mut state = ENGINE.empty_state();
    match state.apply_filter(filter, &[]) {
        Err(fault) if fault.kind() == ErrorKind::UnknownFilter => Err(ParseError::new(format!("there is no filter `{filter}`"))),
        _ => Ok(()),
    }
}

/// Words, and single characters of everything else; texts are left out.
fn tokens(source: &str) -> impl Iterator<Item = &str> {
    let mut rest = source;
    std::iter::from_fn(move || {
        loop {
            rest = rest.trim_start();
            let first = rest.chars().next()?;
            if first == '"' || first == '\'' {
                rest = after_text(rest, first);
                continue;
            }
            let word = rest.find(|next: char| !(next.is_alphanumeric() || next == '_')).unwrap_or(rest.len());
            let (token, after) = rest.split_at(if word == 0 { first.len_utf8() } else { word });
            rest = after;
            return Some(token);
        }
    })
}

/// What follows the text that `rest` starts with.
fn after_text(rest: &str, quote: char) -> &str {
    let mut characters = rest.chars();
    characters.next();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                characters.next();
            }
            _ if character == quote => break,
            _ => {}
        }
    }
    characters.as_str()
}

fn over() -> Fault {
    Fault::new(ErrorKind::InvalidOperation, format!("a text grows beyond {} bytes", limits::OUTPUT))
}

fn text_of(item: &Item) -> Result<String, Fault> {
    match plain(item) {
        _ if item.is_undefined() => Ok(String::new()),
        Ok(value) => Ok(value::text_of(&value)),
        Err(_) => Err(over()),
    }
}

fn string(item: &Item) -> Result<String, Fault> {
    text_of(item)
}

fn json(item: &Item) -> Result<String, Fault> {
    plain(item).map(|value| value.to_string()).map_err(|_| over())
}

fn keys(item: &Item) -> Result<Vec<Item>, Fault> {
    Ok(item.try_iter()?.collect())
}

fn times(left: f64, right: f64) -> Item {
    Item::from(Serde(value::number(left * right)))
}

fn join(items: &Item, separator: Rest<String>) -> Result<String, Fault> {
    let separator = separator.first().map_or("", String::as_str);
    let mut out = Text::new(limits::OUTPUT, "a text");
    for (index, item) in items.try_iter()?.enumerate() {
        if index > 0 {
            out.push(separator).map_err(|_| over())?;
        }
        out.push(&text_of(&item)?).map_err(|_| over())?;
    }
    Ok(out.into_string())
}

fn replace(text: &Item, from: String, to: String) -> Result<String, Fault> {
    value::replace(&text_of(text)?, &from, &to, usize::MAX).ok_or_else(over)
}
