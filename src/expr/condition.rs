//! The JavaScript of `when` and `condition`: natively where the grammar is enough, else in the sandbox.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::native::{Dialect, Eval, Expr, Fault, Reads};
use super::script::{self, Sandbox};
use super::template::slot_end;
use super::{ParseError, Scope, Template, limits, value};
use crate::error::Result;

/// A compiled condition. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Condition(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    body: Body,
    reads: Reads,
}

#[derive(Debug)]
enum Body {
    Native(Expr),
    Script(Script),
}

/// Code for the sandbox; each `{{ }}` in it became a variable.
#[derive(Debug)]
struct Script {
    code: String,
    slots: Vec<(String, Template)>,
}

impl Condition {
    /// Compiles a condition: an expression, with or without `return`, in which `{{ }}` stands for a value.
    pub fn parse(source: &str) -> Result<Self, ParseError> {
        if source.len() > limits::EXPRESSION {
            return Err(ParseError::new(format!("the condition is longer than {} bytes", limits::EXPRESSION)));
        }
        let trimmed = source.trim().trim_end_matches(';').trim_end();
        let expression = trimmed.strip_prefix("return").filter(|rest| rest.starts_with([' ', '(', '!'])).unwrap_or(trimmed).trim();
        if expression.is_empty() {
            return Err(ParseError::new("the condition is empty"));
        }
        let mut reads = Reads::default();
        let body = match Expr::parse(expression, Dialect::Script) {
            Ok(expr) => {
                expr.reads(&mut reads);
                Body::Native(expr)
            }
            Err(Fault::Refused(fault)) => return Err(fault),
            Err(Fault::Foreign(_)) => {
                let script = Script::lift(source)?;
                script::validate_script(&script.code)?;
                script.slots.iter().for_each(|(_, slot)| reads.add(slot.reads()));
                Body::Script(script)
            }
        };
        Ok(Self(Arc::new(Compiled { body, reads })))
    }

    /// Whether it must go to the sandbox.
    pub fn needs_script(&self) -> bool {
        matches!(self.0.body, Body::Script(_))
    }

    /// Whether it reads any secret, managed or of the request.
    pub fn uses_secrets(&self) -> bool {
        self.0.reads.uses_secrets()
    }

    /// The variables it starts from, as far as they can be known without running it.
    pub fn roots(&self) -> &BTreeSet<String> {
        &self.0.reads.roots
    }

    /// Whether it holds.
    pub async fn eval(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<bool> {
        self.value(scope, sandbox).await.map(|value| value::truthy(&value))
    }

    /// Its value; undefined is null.
    pub async fn value(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<Value> {
        match &self.0.body {
            Body::Native(expr) => native(expr, scope),
            Body::Script(script) => {
                let variables = script.variables(scope)?;
                Ok(sandbox.run(&script.code, variables).await?)
            }
        }
    }

    /// Whether it holds, without a sandbox; none when it needs one.
    pub fn eval_native(&self, scope: &Scope<'_>) -> Option<Result<bool>> {
        match &self.0.body {
            Body::Native(expr) => Some(native(expr, scope).map(|value| value::truthy(&value))),
            Body::Script(_) => None,
        }
    }
}

fn native(expr: &Expr, scope: &Scope<'_>) -> Result<Value> {
    Eval::new(scope).eval(expr).map(|value| value.into_cow().into_owned())
}

impl Script {
    /// Moves every `{{ }}` out of the code. Inside a text it joins the text; elsewhere it keeps its type.
    fn lift(source: &str) -> Result<Self, ParseError> {
        let mut script = Self { code: String::with_capacity(source.len()), slots: Vec::new() };
        let mut rest = source;
        while let Some(at) = rest.find(['"', '\'', '`', '{']) {
            let (before, from) = rest.split_at(at);
            script.code.push_str(before);
            rest = if from.starts_with("{{") {
                let end = slot_end(from).ok_or_else(|| ParseError::new("`{{` is never closed by `}}`"))?;
                let name = script.slot(Template::parse(&from[..end])?);
                script.code.push_str(&name);
                &from[end..]
            } else if let Some(after) = from.strip_prefix('{') {
                script.code.push('{');
                after
            } else {
                script.text(from)?
            };
        }
        script.code.push_str(rest);
        Ok(script)
    }

    /// Copies the text that `from` starts with, or lifts it if it holds `{{ }}`; gives what follows it.
    fn text<'s>(&mut self, from: &'s str) -> Result<&'s str, ParseError> {
        let quote = from.as_bytes().first().copied();
        let bytes = from.as_bytes();
        let mut end = 1;
        while bytes.get(end).is_some_and(|byte| Some(*byte) != quote) {
            end += if bytes.get(end) == Some(&b'\\') { 2 } else { 1 };
        }
        let end = (end + 1).min(from.len());
        let (text, rest) = from.split_at_checked(end).unwrap_or((from, ""));
        match text.get(1..text.len().saturating_sub(1)) {
            Some(inside) if inside.contains("{{") && quote != Some(b'`') => {
                let name = self.slot(Template::parse(inside)?.as_text());
                self.code.push_str(&name);
            }
            _ => self.code.push_str(text),
        }
        Ok(rest)
    }

    fn slot(&mut self, template: Template) -> String {
        let name = format!("$slot{}", self.slots.len());
        self.slots.push((name.clone(), template));
        name
    }

    fn variables(&self, scope: &Scope<'_>) -> Result<Map<String, Value>> {
        let mut variables = scope.flatten();
        for (name, template) in &self.slots {
            variables.insert(name.clone(), template.render(scope)?.value);
        }
        Ok(variables)
    }
}
