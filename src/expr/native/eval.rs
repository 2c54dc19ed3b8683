//! Evaluation with JavaScript's meaning. Paths borrow from the scope; nothing is copied until the end.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::{Expr, Key, Method, Op, Path};
use crate::error::Result;
use crate::expr::{Scope, limits, secret_named, too_large, value};
use crate::number;

/// A value on its way through an expression.
#[derive(Debug, Clone)]
pub enum Val<'a> {
    /// Not there.
    Undefined,
    Ref(&'a Value),
    Own(Value),
    /// A computed number; may be NaN or infinite.
    Number(f64),
}

/// One evaluation: where names are looked up, and which were missing.
pub struct Eval<'s, 'a> {
    scope: &'s Scope<'a>,
    /// Paths that led nowhere, as they were written.
    pub missing: Vec<String>,
    copied: usize,
}

impl<'a> Val<'a> {
    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined)
    }

    fn is_nullish(&self) -> bool {
        matches!(self, Self::Undefined | Self::Ref(Value::Null) | Self::Own(Value::Null))
    }

    pub fn truthy(&self) -> bool {
        match self {
            Self::Undefined => false,
            Self::Ref(value) => value::truthy(value),
            Self::Own(value) => value::truthy(value),
            Self::Number(number) => *number != 0.0 && !number.is_nan(),
        }
    }

    /// The value as JSON; undefined is null.
    pub fn into_cow(self) -> Cow<'a, Value> {
        match self {
            Self::Undefined => Cow::Owned(Value::Null),
            Self::Ref(value) => Cow::Borrowed(value),
            Self::Own(value) => Cow::Owned(value),
            Self::Number(number) => Cow::Owned(value::number(number)),
        }
    }

    fn as_value(&self) -> Option<&Value> {
        match self {
            Self::Ref(value) => Some(value),
            Self::Own(value) => Some(value),
            Self::Undefined | Self::Number(_) => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        self.as_value().and_then(Value::as_str)
    }

    fn is_container(&self) -> bool {
        matches!(self.as_value(), Some(Value::Array(_) | Value::Object(_)))
    }

    /// JavaScript's `Number(value)`.
    fn number(&self) -> f64 {
        match self {
            Self::Number(number) => *number,
            Self::Undefined => f64::NAN,
            Self::Ref(_) | Self::Own(_) => match self.as_value() {
                Some(Value::Bool(flag)) => f64::from(u8::from(*flag)),
                Some(Value::Number(number)) => number.as_f64().unwrap_or(f64::NAN),
                Some(Value::String(text)) => text_number(text),
                Some(Value::Null) => 0.0,
                _ => text_number(&self.string()),
            },
        }
    }

    /// JavaScript's `String(value)`.
    fn string(&self) -> Cow<'_, str> {
        match self.as_value() {
            Some(Value::String(text)) => text.into(),
            Some(Value::Null) => "null".into(),
            Some(Value::Object(_)) => "[object Object]".into(),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| if item.is_null() { Cow::default() } else { Cow::Owned(Val::Ref(item).string().into_owned()) })
                .collect::<Vec<_>>()
                .join(",")
                .into(),
            Some(scalar) => value::text_of(scalar).into(),
            None => match self {
                Self::Number(number) if number.is_nan() => "NaN".into(),
                Self::Number(number) if number.is_infinite() => if *number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
                Self::Number(number) => value::text_of(&value::number(*number)).into(),
                _ => "undefined".into(),
            },
        }
    }

    fn type_of(&self) -> &'static str {
        match self {
            Self::Undefined => "undefined",
            Self::Number(_) => "number",
            Self::Ref(_) | Self::Own(_) => match self.as_value() {
                Some(Value::Bool(_)) => "boolean",
                Some(Value::Number(_)) => "number",
                Some(Value::String(_)) => "string",
                _ => "object",
            },
        }
    }
}

/// A text as a number: empty is zero, anything unreadable is NaN.
fn text_number(text: &str) -> f64 {
    let text = text.trim();
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    match text {
        "" => 0.0,
        _ if plain => text.parse().unwrap_or(f64::NAN),
        _ => f64::NAN,
    }
}

impl<'s, 'a> Eval<'s, 'a> {
    pub fn new(scope: &'s Scope<'a>) -> Self {
        Self { scope, missing: Vec::new(), copied: 0 }
    }

    pub fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>> {
        Ok(match expr {
            Expr::Literal(value) => Val::Ref(value),
            Expr::Undefined => Val::Undefined,
            Expr::Path(path) => self.path(path),
            Expr::Secret { name, managed } => self.secret(name, *managed),
            Expr::Member(target, key) => member(self.eval(target)?, key),
            Expr::Item(target, index) => {
                let target = self.eval(target)?;
                let index = self.eval(index)?;
                member(target, &Key::from_text(&index.string()))
            }
            Expr::Call(target, method, arguments) => {
                let target = self.eval(target)?;
                let argument = arguments.first().map(|argument| self.eval(argument)).transpose()?;
                call(&target, *method, &argument.unwrap_or(Val::Undefined))
            }
            Expr::Not(inner) => Val::Own(Value::Bool(!self.eval(inner)?.truthy())),
            Expr::Minus(inner) => Val::Number(-self.eval(inner)?.number()),
            Expr::Plus(inner) => Val::Number(self.eval(inner)?.number()),
            Expr::TypeOf(inner) => Val::Own(self.eval(inner)?.type_of().into()),
            Expr::Binary(op, left, right) => self.binary(*op, left, right)?,
            Expr::Choice(parts) => {
                let (test, yes, no) = &**parts;
                if self.eval(test)?.truthy() { self.eval(yes)? } else { self.eval(no)? }
            }
            Expr::List(items) => self.list(items)?,
            Expr::Text(template) => {
                let rendered = template.render(self.scope)?;
                let gone = template.is_bare() && !rendered.unresolved.is_empty();
                self.missing.extend(rendered.unresolved);
                if gone { Val::Undefined } else { Val::Own(rendered.value) }
            }
        })
    }

    fn path(&mut self, path: &'a Path) -> Val<'a> {
        let found = if path.prefixed { self.prefixed(path) } else { self.scope.root(&path.root).map(|root| descend(root, &path.keys)) };
        match found {
            Some(found) if !found.is_undefined() => found,
            _ => {
                self.missing.push(path.text.clone());
                Val::Undefined
            }
        }
    }

    /// `input.x`: the variable `x`, or the field `x` of a variable that is called `input`.
    fn prefixed(&self, path: &'a Path) -> Option<Val<'a>> {
        let (first, rest) = path.keys.split_first()?;
        match self.scope.root(&first.name()) {
            Some(root) => Some(descend(root, rest)),
            None => self.scope.root(&path.root).map(|root| descend(root, &path.keys)),
        }
    }

    fn secret(&mut self, name: &str, managed: bool) -> Val<'a> {
        match self.scope.secret(name) {
            Some(secret) => Val::Own(Value::String(secret.expose().to_owned())),
            None => {
                self.missing.push(if managed { format!("secret:{name}") } else { format!("secrets.{name}") });
                Val::Undefined
            }
        }
    }

    fn list(&mut self, items: &'a [Expr]) -> Result<Val<'a>> {
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            let item = self.eval(item)?.into_cow();
            self.copied += value::weight(&item, limits::COPIED);
            if self.copied > limits::COPIED {
                return Err(too_large("a list", limits::COPIED));
            }
            list.push(item.into_owned());
        }
        Ok(Val::Own(Value::Array(list)))
    }

    fn binary(&mut self, op: Op, left: &'a Expr, right: &'a Expr) -> Result<Val<'a>> {
        let before = self.missing.len();
        let left = self.eval(left)?;
        match op {
            Op::Or if left.truthy() => return Ok(left),
            Op::And if !left.truthy() => return Ok(left),
            Op::Coalesce if !left.is_nullish() => return Ok(left),
            Op::And => return self.eval(right),
            Op::Or | Op::Coalesce => {
                let noted = self.missing.split_off(before);
                let right = self.eval(right)?;
                // What stands in for a secret makes up for it.
                let kept = noted.into_iter().filter(|name| right.is_undefined() || secret_named(name).is_none());
                self.missing.splice(before..before, kept);
                return Ok(right);
            }
            _ => {}
        }
        let right = self.eval(right)?;
        Ok(match op {
            Op::Add => add(&left, &right)?,
            Op::Subtract => Val::Number(left.number() - right.number()),
            Op::Multiply => Val::Number(left.number() * right.number()),
            Op::Divide => Val::Number(left.number() / right.number()),
            Op::Remainder => Val::Number(left.number() % right.number()),
            _ => Val::Own(Value::Bool(compare(op, &left, &right))),
        })
    }
}

fn descend<'a>(root: &'a Value, keys: &[Key]) -> Val<'a> {
    let mut at = root;
    for (step, key) in keys.iter().enumerate() {
        at = match (at, key) {
            (Value::Object(fields), Key::Name(name)) => match fields.get(name) {
                Some(next) => next,
                None => return Val::Undefined,
            },
            (Value::Array(items), Key::Index(index)) => match items.get(*index) {
                Some(next) => next,
                None => return Val::Undefined,
            },
            _ => {
                // The rare kinds of step leave a computed value behind.
                let rest = keys.get(step + 1..).unwrap_or_default();
                return rest.iter().fold(member(Val::Ref(at), key), member);
            }
        };
    }
    Val::Ref(at)
}

fn member<'a>(target: Val<'a>, key: &Key) -> Val<'a> {
    let (list, fields) = match target {
        Val::Ref(Value::Array(items)) => (Some(items), None),
        Val::Ref(Value::Object(fields)) => (None, Some(fields)),
        Val::Own(Value::Array(mut items)) => {
            return match key {
                Key::Index(index) if *index < items.len() => Val::Own(items.swap_remove(*index)),
                Key::Name(name) if name == "length" => Val::Number(items.len() as f64),
                _ => Val::Undefined,
            };
        }
        Val::Own(Value::Object(mut fields)) => return fields.remove(&*key.name()).map_or(Val::Undefined, Val::Own),
        other => return text_member(&other, key),
    };
    if let Some(items) = list {
        return match key {
            Key::Index(index) => items.get(*index).map_or(Val::Undefined, Val::Ref),
            Key::Name(name) if name == "length" => Val::Number(items.len() as f64),
            Key::Name(_) => Val::Undefined,
        };
    }
    fields.and_then(|fields| fields.get(&*key.name())).map_or(Val::Undefined, Val::Ref)
}

/// Text counts in UTF-16 units, as in JavaScript.
fn text_member<'a>(target: &Val<'a>, key: &Key) -> Val<'a> {
    let Some(text) = target.as_str() else { return Val::Undefined };
    match key {
        Key::Name(name) if name == "length" => Val::Number(text.encode_utf16().count() as f64),
        Key::Index(index) => text.chars().nth(*index).map_or(Val::Undefined, |found| Val::Own(found.to_string().into())),
        Key::Name(_) => Val::Undefined,
    }
}

fn call<'a>(target: &Val<'a>, method: Method, argument: &Val<'_>) -> Val<'a> {
    if let (Method::Includes, Some(Value::Array(items))) = (method, target.as_value()) {
        return Val::Own(items.iter().any(|item| identical(&Val::Ref(item), argument)).into());
    }
    let Some(text) = target.as_str() else { return Val::Undefined };
    let part = argument.string();
    Val::Own(match method {
        Method::Includes => text.contains(&*part).into(),
        Method::StartsWith => text.starts_with(&*part).into(),
        Method::EndsWith => text.ends_with(&*part).into(),
        Method::Trim => text.trim().into(),
        Method::ToLowerCase => text.to_lowercase().into(),
        Method::ToUpperCase => text.to_uppercase().into(),
    })
}

fn add<'a>(left: &Val<'_>, right: &Val<'_>) -> Result<Val<'a>> {
    let texts = [left, right].iter().any(|side| side.as_str().is_some() || side.is_container());
    if !texts {
        return Ok(Val::Number(left.number() + right.number()));
    }
    let (left, right) = (left.string(), right.string());
    if left.len() + right.len() > limits::OUTPUT {
        return Err(too_large("a text", limits::OUTPUT));
    }
    Ok(Val::Own(Value::String([left, right].concat())))
}

fn compare(op: Op, left: &Val<'_>, right: &Val<'_>) -> bool {
    match op {
        Op::Is => identical(left, right),
        Op::IsNot => !identical(left, right),
        Op::Equal => equal(left, right),
        Op::Unequal => !equal(left, right),
        Op::In => contains(right, left),
        Op::Same => same(left, right),
        Op::Differ => !same(left, right),
        Op::Within => within(right, left),
        Op::Below => strict_order(left, right) == Some(Ordering::Less),
        Op::AtMost => matches!(strict_order(left, right), Some(Ordering::Less | Ordering::Equal)),
        Op::Above => strict_order(left, right) == Some(Ordering::Greater),
        Op::AtLeast => matches!(strict_order(left, right), Some(Ordering::Greater | Ordering::Equal)),
        _ => matches!(
            (op, order(left, right)),
            (Op::Less, Some(Ordering::Less))
                | (Op::LessEqual, Some(Ordering::Less | Ordering::Equal))
                | (Op::More, Some(Ordering::Greater))
                | (Op::MoreEqual, Some(Ordering::Greater | Ordering::Equal))
        ),
    }
}

/// `===`: same type and value; containers are the same only when they are one and the same.
fn identical(left: &Val<'_>, right: &Val<'_>) -> bool {
    match (left, right) {
        (Val::Undefined, Val::Undefined) => return true,
        (Val::Undefined, _) | (_, Val::Undefined) => return false,
        _ => {}
    }
    if left.type_of() == "number" && right.type_of() == "number" {
        return same_number(left, right);
    }
    match (left.as_value(), right.as_value()) {
        (Some(a @ (Value::Array(_) | Value::Object(_))), Some(b)) => std::ptr::eq(a, b),
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}

fn same_number(left: &Val<'_>, right: &Val<'_>) -> bool {
    order_numbers(left, right) == Some(Ordering::Equal)
}

/// Compares numbers exactly, also beyond 2^53.
fn order_numbers(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    match (left.as_value(), right.as_value()) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => number::order(left, right),
        (Some(Value::Number(left)), None) => number::order_float(left, right.number()),
        (None, Some(Value::Number(right))) => number::order_float(right, left.number()).map(Ordering::reverse),
        _ => left.number().partial_cmp(&right.number()),
    }
}

/// `==`: as JavaScript converts, with null and undefined equal to each other only.
fn equal(left: &Val<'_>, right: &Val<'_>) -> bool {
    match (left.is_nullish(), right.is_nullish()) {
        (true, true) => return true,
        (false, false) => {}
        _ => return false,
    }
    if left.type_of() == right.type_of() {
        return identical(left, right);
    }
    match (left.is_container(), right.is_container()) {
        (true, _) if right.as_str().is_some() => left.string() == right.string(),
        (_, true) if left.as_str().is_some() => left.string() == right.string(),
        _ => left.number() == right.number(),
    }
}

fn order(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    match (left.as_str(), right.as_str()) {
        (Some(a), Some(b)) => Some(a.encode_utf16().cmp(b.encode_utf16())),
        (None, None) if left.type_of() == "number" && right.type_of() == "number" => order_numbers(left, right),
        _ => left.number().partial_cmp(&right.number()),
    }
}

/// Equal without any conversion, containers member by member; nothing is null.
fn same(left: &Val<'_>, right: &Val<'_>) -> bool {
    match (left.is_nullish(), right.is_nullish()) {
        (false, false) => {}
        (left, right) => return left && right,
    }
    if left.type_of() == "number" && right.type_of() == "number" {
        return same_number(left, right);
    }
    match (left.as_value(), right.as_value()) {
        (Some(left), Some(right)) => number::alike(left, right),
        _ => false,
    }
}

fn strict_order(left: &Val<'_>, right: &Val<'_>) -> Option<Ordering> {
    match (left.as_str(), right.as_str()) {
        (Some(left), Some(right)) => Some(left.cmp(right)),
        (None, None) if left.type_of() == "number" && right.type_of() == "number" => order_numbers(left, right),
        _ => None,
    }
}

/// [`contains`] without any conversion.
fn within(whole: &Val<'_>, part: &Val<'_>) -> bool {
    match (whole.as_value(), part.as_str()) {
        (Some(Value::Array(items)), _) => items.iter().any(|item| same(&Val::Ref(item), part)),
        (Some(Value::Object(fields)), Some(name)) => fields.contains_key(name),
        (Some(Value::String(text)), Some(part)) => text.contains(part),
        _ => false,
    }
}

/// Membership in a list, a field's name in an object, a part of a text.
fn contains(whole: &Val<'_>, part: &Val<'_>) -> bool {
    match whole.as_value() {
        Some(Value::Array(items)) => items.iter().any(|item| identical(&Val::Ref(item), part)),
        Some(Value::Object(fields)) => fields.contains_key(&*part.string()),
        Some(Value::String(text)) => text.contains(&*part.string()),
        _ => false,
    }
}
