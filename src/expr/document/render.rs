//! One pass over the tree. Every node, every iteration and every 256 bytes touched cost one unit of fuel.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Escape;
use super::filters::{self, Context};
use super::lookup::{contains, next, position};
use super::numbers;
use super::operand::{Comparison, Filtered, Operand, Path, Step, Test};
use super::parse::{For, Node};
use crate::clock::Clock;
use crate::error::Result;
use crate::expr::native::Key;
use crate::expr::value::{Text, text_of, weight};
use crate::expr::{Rendered, Scope, failed, limits, out_of_fuel};

/// Bytes that one unit of fuel pays for.
const BYTES_PER_FUEL: usize = 256;

pub fn render(nodes: &[Node], escape: Escape, scope: &Scope, clock: &Clock) -> Result<Rendered> {
    let mut machine = Machine {
        scope,
        context: Context { now: clock.now(), html: escape == Escape::Html },
        fuel: limits::FUEL,
        variables: Map::new(),
        loops: Vec::new(),
        counters: BTreeMap::new(),
        cycles: BTreeMap::new(),
        out: text(),
        unresolved: Vec::new(),
    };
    machine.run(nodes)?;
    let mut seen = BTreeSet::new();
    machine.unresolved.retain(|name| seen.insert(name.clone()));
    Ok(Rendered { value: Value::String(machine.out.into_string()), unresolved: machine.unresolved })
}

fn text() -> Text {
    Text::new(limits::OUTPUT, "the rendered text")
}

/// What to do after a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Machine<'s, 'a> {
    scope: &'s Scope<'a>,
    context: Context,
    fuel: u64,
    /// What the document assigned and captured.
    variables: Map<String, Value>,
    /// Loops that are running, innermost last.
    loops: Vec<Loop>,
    counters: BTreeMap<String, i64>,
    cycles: BTreeMap<usize, usize>,
    out: Text,
    unresolved: Vec<String>,
}

struct Loop {
    name: String,
    item: Value,
    index: usize,
    length: usize,
}

/// What a loop goes over; a range is never written out.
enum Items {
    List(Vec<Value>),
    Range { from: i64, length: usize },
}

impl Items {
    fn len(&self) -> usize {
        match self {
            Self::List(items) => items.len(),
            Self::Range { length, .. } => *length,
        }
    }

    fn take(&mut self, index: usize) -> Value {
        match self {
            Self::List(items) => items.get_mut(index).map(Value::take).unwrap_or_default(),
            Self::Range { from, .. } => from.saturating_add(i64::try_from(index).unwrap_or(i64::MAX)).into(),
        }
    }
}

impl Machine<'_, '_> {
    fn spend(&mut self, units: u64) -> Result<()> {
        self.fuel = self.fuel.checked_sub(units).filter(|left| *left > 0).ok_or_else(out_of_fuel)?;
        Ok(())
    }

    /// Pays for going through a value; counting stops where the fuel would end.
    fn touch(&mut self, value: &Value) -> Result<()> {
        let most = usize::try_from(self.fuel).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_FUEL);
        self.spend((weight(value, most) / BYTES_PER_FUEL) as u64)
    }

    fn run(&mut self, nodes: &[Node]) -> Result<Flow> {
        for node in nodes {
            self.spend(1)?;
            let flow = self.node(node)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &Node) -> Result<Flow> {
        match node {
            Node::Text(text) => self.out.push(text)?,
            Node::Output { value, line } => self.output(value, *line)?,
            Node::Assign { name, value, line } => {
                let value = self.filtered(value, *line)?.into_owned();
                self.touch(&value)?;
                self.variables.insert(name.clone(), value);
            }
            Node::Capture { name, body } => return self.capture(name, body),
            Node::If { branches, otherwise } => return self.branches(branches, otherwise),
            Node::Unless { test, then, branches, otherwise } => {
                return if self.test(test)? { self.branches(branches, otherwise) } else { self.run(then) };
            }
            Node::Case { subject, arms, otherwise } => return self.case(subject, arms, otherwise),
            Node::For(repeat) => self.repeat(repeat)?,
            Node::Cycle { group, values } => self.cycle(*group, values)?,
            Node::Counter { name, up } => {
                let counter = self.counters.entry(name.clone()).or_default();
                let shown = if *up { *counter } else { *counter - 1 };
                *counter += if *up { 1 } else { -1 };
                self.out.push(&shown.to_string())?;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn output(&mut self, value: &Filtered, line: usize) -> Result<()> {
        let shown = self.filtered(value, line)?.into_owned();
        let empty = shown.is_null() || shown == "";
        if let (true, Operand::Path(path)) = (empty, &value.operand)
            && self.path(path)?.is_none()
        {
            self.unresolved.push(path.text.clone());
        }
        self.out.push_value(&shown)
    }

    fn capture(&mut self, name: &str, body: &[Node]) -> Result<Flow> {
        let outer = std::mem::replace(&mut self.out, text());
        let flow = self.run(body)?;
        let captured = Value::String(std::mem::replace(&mut self.out, outer).into_string());
        self.touch(&captured)?;
        self.variables.insert(name.to_owned(), captured);
        Ok(flow)
    }

    fn branches(&mut self, branches: &[(Test, Vec<Node>)], otherwise: &[Node]) -> Result<Flow> {
        for (test, body) in branches {
            self.spend(1)?;
            if self.test(test)? {
                return self.run(body);
            }
        }
        self.run(otherwise)
    }

    fn case(&mut self, subject: &Operand, arms: &[(Vec<Operand>, Vec<Node>)], otherwise: &[Node]) -> Result<Flow> {
        let subject = self.operand(subject)?.into_owned();
        self.touch(&subject)?;
        for (values, body) in arms {
            for value in values {
                self.spend(1)?;
                if self.matches(&subject, value)? {
                    return self.run(body);
                }
            }
        }
        self.run(otherwise)
    }

    fn repeat(&mut self, repeat: &For) -> Result<()> {
        let mut items = self.items(&repeat.items)?;
        let offset = self.count(repeat.offset.as_ref())?.unwrap_or(0).min(items.len());
        let length = self.count(repeat.limit.as_ref())?.unwrap_or(usize::MAX).min(items.len() - offset);
        if length == 0 {
            return self.run(&repeat.otherwise).map(|_| ());
        }
        self.loops.push(Loop { name: repeat.name.clone(), item: Value::Null, index: 0, length });
        for index in 0..length {
            self.spend(1)?;
            let item = items.take(offset + if repeat.reversed { length - 1 - index } else { index });
            if let Some(running) = self.loops.last_mut() {
                (running.item, running.index) = (item, index);
            }
            if self.run(&repeat.body)? == Flow::Break {
                break;
            }
        }
        self.loops.pop();
        Ok(())
    }

    /// An object is gone over as pairs; text and other single values are one item.
    fn items(&mut self, operand: &Operand) -> Result<Items> {
        if let Operand::Range(ends) = operand {
            let (from, to) = (self.whole(&ends.0)?, self.whole(&ends.1)?);
            let length =
                to.checked_sub(from).and_then(|gap| gap.checked_add(1)).map_or(usize::MAX, |gap| usize::try_from(gap).unwrap_or(0));
            return Ok(Items::Range { from, length });
        }
        let value = self.operand(operand)?.into_owned();
        self.touch(&value)?;
        Ok(Items::List(match value {
            Value::Array(items) => items,
            Value::Object(fields) => fields.into_iter().map(|(name, value)| json!([name, value])).collect(),
            Value::Null => Vec::new(),
            Value::String(text) if text.is_empty() => Vec::new(),
            other => vec![other],
        }))
    }

    fn whole(&self, operand: &Operand) -> Result<i64> {
        Ok(numbers::whole(&*self.operand(operand)?))
    }

    fn count(&self, operand: Option<&Operand>) -> Result<Option<usize>> {
        operand.map(|operand| self.whole(operand).map(|count| usize::try_from(count).unwrap_or(0))).transpose()
    }

    fn cycle(&mut self, group: usize, values: &[Operand]) -> Result<()> {
        let turn = self.cycles.entry(group).or_default();
        let at = *turn % values.len().max(1);
        *turn += 1;
        match values.get(at) {
            Some(value) => {
                let shown = self.operand(value)?.into_owned();
                self.out.push_value(&shown)
            }
            None => Ok(()),
        }
    }

    fn filtered<'m>(&'m mut self, value: &'m Filtered, line: usize) -> Result<Cow<'m, Value>> {
        if value.filters.is_empty() {
            return self.operand(&value.operand);
        }
        let mut current = self.operand(&value.operand)?.into_owned();
        for (filter, arguments) in &value.filters {
            let mut evaluated = Vec::with_capacity(arguments.len());
            for argument in arguments {
                evaluated.push(self.operand(argument)?.into_owned());
            }
            self.spend(1)?;
            self.touch(&current)?;
            for argument in &evaluated {
                self.touch(argument)?;
            }
            current = filters::apply(filter, current, &evaluated, &self.context)
                .map_err(|message| failed(format!("line {line}: `{}`: {message}", filter.name)))?;
            self.touch(&current)?;
        }
        Ok(Cow::Owned(current))
    }

    fn operand<'m>(&'m self, operand: &'m Operand) -> Result<Cow<'m, Value>> {
        Ok(match operand {
            Operand::Literal(value) => Cow::Borrowed(value),
            Operand::Blank | Operand::Empty => Cow::Owned(Value::String(String::new())),
            Operand::Path(path) => self.path(path)?.unwrap_or(Cow::Owned(Value::Null)),
            Operand::Range(ends) => {
                const LONGEST: i64 = 10_000;
                let (from, to) = (self.whole(&ends.0)?, self.whole(&ends.1)?);
                if to.saturating_sub(from) >= LONGEST {
                    return Err(failed(format!("a range outside of a loop has more than {LONGEST} numbers")));
                }
                Cow::Owned((from..=to).map(Value::from).collect())
            }
        })
    }

    fn path<'m>(&'m self, path: &'m Path) -> Result<Option<Cow<'m, Value>>> {
        let Some(mut at) = self.root(&path.root) else { return Ok(None) };
        for step in &path.keys {
            let key = match step {
                Step::Key(key) => Cow::Borrowed(key),
                Step::Computed(operand) => match &*self.operand(operand)? {
                    Value::Number(number) => Cow::Owned(position(number, &at)),
                    other => Cow::Owned(Key::from_text(&text_of(other))),
                },
            };
            match next(at, &key) {
                Some(found) => at = found,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }

    fn root<'m>(&'m self, name: &str) -> Option<Cow<'m, Value>> {
        if name == "forloop"
            && let Some(running) = self.loops.last()
        {
            return Some(Cow::Owned(running.describe()));
        }
        if let Some(running) = self.loops.iter().rev().find(|running| running.name == name) {
            return Some(Cow::Borrowed(&running.item));
        }
        self.variables.get(name).or_else(|| self.scope.root(name)).map(Cow::Borrowed)
    }

    fn test(&mut self, test: &Test) -> Result<bool> {
        self.spend(1)?;
        match test {
            Test::Holds(Operand::Blank | Operand::Empty) => Ok(false),
            Test::Holds(operand) => Ok(!matches!(&*self.operand(operand)?, Value::Null | Value::Bool(false))),
            Test::Both(sides) => Ok(self.test(&sides.0)? && self.test(&sides.1)?),
            Test::Either(sides) => Ok(self.test(&sides.0)? || self.test(&sides.1)?),
            Test::Compare(comparison, left, right) => self.compare(*comparison, left, right),
        }
    }

    fn compare(&mut self, comparison: Comparison, left: &Operand, right: &Operand) -> Result<bool> {
        // Comparing goes through both sides at most once.
        for side in [left, right] {
            let size = weight(&*self.operand(side)?, limits::COPIED);
            self.spend((size / BYTES_PER_FUEL) as u64)?;
        }
        if matches!(comparison, Comparison::Equal | Comparison::Unequal) {
            let equal = match (left, right) {
                (Operand::Blank | Operand::Empty, _) => self.matches(&*self.operand(right)?, left)?,
                _ => self.matches(&*self.operand(left)?, right)?,
            };
            return Ok(equal == (comparison == Comparison::Equal));
        }
        let (left, right) = (self.operand(left)?, self.operand(right)?);
        Ok(match comparison {
            Comparison::Contains => contains(&left, &right),
            _ => numbers::order(&left, &right).is_some_and(|order| match comparison {
                Comparison::Less => order.is_lt(),
                Comparison::LessEqual => order.is_le(),
                Comparison::More => order.is_gt(),
                _ => order.is_ge(),
            }),
        })
    }

    fn matches(&self, value: &Value, wanted: &Operand) -> Result<bool> {
        let empty = match value {
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            _ => false,
        };
        Ok(match wanted {
            Operand::Empty => empty,
            Operand::Blank => {
                empty || matches!(value, Value::Null | Value::Bool(false)) || value.as_str().is_some_and(|text| text.trim().is_empty())
            }
            other => numbers::equal(value, &*self.operand(other)?),
        })
    }
}

impl Loop {
    fn describe(&self) -> Value {
        json!({
            "index": self.index + 1,
            "index0": self.index,
            "rindex": self.length - self.index,
            "rindex0": self.length - self.index - 1,
            "first": self.index == 0,
            "last": self.index + 1 == self.length,
            "length": self.length,
        })
    }
}
