//! An expression of a workflow that says its language: a path, JSONPath (RFC 9535), or Lua.
//!
//! Paths are evaluated here. What counting steps cannot bound, JSONPath and Lua, goes to a process that can be killed
//! ([`super::script`]).

use std::sync::Arc;

use serde_json::Value;

use super::native::{Dialect, Eval, Expr, Fault, Reads};
use super::script::Sandbox;
use super::script::worker::{self, Lang};
use super::{ParseError, Scope, limits, scope, value};
use crate::error::Result;

/// A compiled block. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Block(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    body: Body,
    reads: Reads,
}

#[derive(Debug)]
enum Body {
    Path(Expr),
    Foreign(Lang, String),
}

impl Block {
    /// The block that a value of a document is: an object `{expr}` or `{expr, lang}` and nothing else.
    pub fn of(value: &Value) -> Option<Result<Self, ParseError>> {
        let map = value.as_object()?;
        let expr = map.get("expr")?.as_str()?;
        let lang = match map.get("lang") {
            Some(lang) => Some(lang.as_str()?),
            None => None,
        };
        let members = 1 + usize::from(lang.is_some());
        (map.len() == members).then(|| Self::parse(expr, lang))
    }

    /// Compiles an expression in a language; a path when none is said.
    pub fn parse(source: &str, lang: Option<&str>) -> Result<Self, ParseError> {
        if source.len() > limits::EXPRESSION {
            return Err(ParseError::new(format!("the expression is longer than {} bytes", limits::EXPRESSION)));
        }
        if source.trim().is_empty() {
            return Err(ParseError::new("the expression is empty"));
        }
        let mut reads = Reads::default();
        let body = match lang.unwrap_or("path") {
            "path" => {
                let expr = Expr::parse(source.trim(), Dialect::Path).map_err(|fault| match fault {
                    Fault::Refused(fault) => fault,
                    Fault::Foreign(why) => ParseError::new(format!("cannot read `{source}` as a path expression: {why}")),
                })?;
                expr.reads(&mut reads);
                Body::Path(expr)
            }
            "jsonpath" => {
                worker::check(Lang::JsonPath, source)?;
                Body::Foreign(Lang::JsonPath, source.to_owned())
            }
            "lua" => {
                worker::check(Lang::Lua, source)?;
                reads.managed.extend(secrets_in(source));
                Body::Foreign(Lang::Lua, source.to_owned())
            }
            other => return Err(ParseError::new(format!("unknown language `{other}`; one of path, jsonpath, lua"))),
        };
        Ok(Self(Arc::new(Compiled { body, reads })))
    }

    /// Everything it reads, as far as its text tells.
    pub fn reads(&self) -> &Reads {
        &self.0.reads
    }

    /// Its value; what is not there is null.
    pub async fn eval(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<Value> {
        match &self.0.body {
            Body::Path(expr) => Eval::new(scope).eval(expr).map(|value| value.into_cow().into_owned()),
            Body::Foreign(lang, source) => {
                let mut context = scope.flatten();
                if *lang == Lang::Lua {
                    let secrets = self.0.reads.managed.iter().filter_map(|name| Some((name.clone(), scope.secret(name)?.expose().into())));
                    context.insert(scope::SECRETS.into(), Value::Object(secrets.collect()));
                }
                Ok(sandbox.outside(*lang, source, context).await?)
            }
        }
    }

    /// Whether it holds.
    pub async fn holds(&self, scope: &Scope<'_>, sandbox: &Sandbox) -> Result<bool> {
        self.eval(scope, sandbox).await.map(|value| value::truthy(&value))
    }
}

/// Returns whether an expression without a language is Lua: its first word is `return`.
pub fn is_lua(source: &str) -> bool {
    source.trim_start().strip_prefix("return").is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
}

/// The secrets that a script names: `secrets.NAME` and `secrets["NAME"]`.
fn secrets_in(source: &str) -> impl Iterator<Item = String> {
    source.split(scope::SECRETS).skip(1).filter_map(|after| {
        let after = after.trim_start();
        let name =
            after.strip_prefix('.').or_else(|| after.strip_prefix('[').map(|rest| rest.trim_start().trim_start_matches(['"', '\''])))?;
        let name: String = name.chars().take_while(|next| next.is_ascii_alphanumeric() || *next == '_').collect();
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_s_secrets_are_known_by_their_names() {
        let found: Vec<String> = secrets_in("return crypto.hmac('sha256', secrets.KEY, x) .. secrets[ \"OTHER_1\" ] .. secretsX").collect();
        assert_eq!(found, ["KEY", "OTHER_1"]);
    }

    #[test]
    fn an_expression_that_begins_with_return_is_lua() {
        assert!(is_lua("return x") && is_lua(" return(x)") && !is_lua("returned == 1") && !is_lua("x"));
    }

    #[test]
    fn only_an_object_of_an_expression_and_its_language_is_a_block() {
        let of = |value: serde_json::Value| Block::of(&value).map(|block| block.is_ok());
        assert_eq!(of(serde_json::json!({ "expr": "a.b", "lang": "path" })), Some(true));
        assert_eq!(of(serde_json::json!({ "expr": "a +", "lang": "path" })), Some(false));
        assert_eq!(of(serde_json::json!({ "expr": "a", "lang": "perl" })), Some(false));
        assert_eq!(of(serde_json::json!({ "expr": "a.b" })), Some(true));
        assert_eq!(of(serde_json::json!({ "expr": "a.b", "more": 1 })), None);
        assert_eq!(of(serde_json::json!({ "expr": "a.b", "lang": 1 })), None);
        assert_eq!(of(serde_json::json!({ "expr": "a.b", "lang": "path", "more": 1 })), None);
        assert_eq!(of(serde_json::json!({ "expr": 1 })), None);
    }
}
