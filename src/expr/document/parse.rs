//! The tree of tags.

use std::collections::BTreeSet;

use super::Escape;
use super::filters;
use super::lexer::{Kind, Piece, pieces};
use super::operand::{Filtered, Operand, Reader, Test};
use crate::expr::{ParseError, limits};

#[derive(Debug)]
pub enum Node {
    Text(String),
    Output {
        value: Filtered,
        line: usize,
    },
    Assign {
        name: String,
        value: Filtered,
        line: usize,
    },
    Capture {
        name: String,
        body: Vec<Node>,
    },
    If {
        branches: Vec<(Test, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Unless {
        test: Test,
        then: Vec<Node>,
        branches: Vec<(Test, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    Case {
        subject: Operand,
        arms: Vec<(Vec<Operand>, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    For(Box<For>),
    Cycle {
        group: usize,
        values: Vec<Operand>,
    },
    /// `increment` shows the counter before it steps, `decrement` after.
    Counter {
        name: String,
        up: bool,
    },
    Break,
    Continue,
}

#[derive(Debug)]
pub struct For {
    pub name: String,
    pub items: Operand,
    pub limit: Option<Operand>,
    pub offset: Option<Operand>,
    pub reversed: bool,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

pub struct ParsedDocument {
    pub nodes: Vec<Node>,
    pub roots: BTreeSet<String>,
}

type Parsed<T> = Result<T, ParseError>;

pub fn parse(source: &str, escape: Escape) -> Parsed<ParsedDocument> {
    let pieces = pieces(source)?;
    let mut parser = Parser { pieces: pieces.into_iter(), escape, depth: 0, roots: BTreeSet::new(), own: BTreeSet::new(), cycles: 0 };
    let (nodes, end) = parser.nodes(&[])?;
    debug_assert!(end.is_none(), "only an end tag that was asked for ends a block");
    let roots = parser.roots.difference(&parser.own).cloned().collect();
    Ok(ParsedDocument { nodes, roots })
}

struct Parser<'s> {
    pieces: std::vec::IntoIter<Piece<'s>>,
    escape: Escape,
    depth: usize,
    roots: BTreeSet<String>,
    /// Names the document gives values to.
    own: BTreeSet<String>,
    cycles: usize,
}

/// The tag that ended a block: its name and the rest of it, and its line.
type End<'s> = (&'s str, &'s str, usize);

fn at(line: usize) -> impl Fn(ParseError) -> ParseError {
    move |fault| ParseError { line: Some(line), ..fault }
}

impl<'s> Parser<'s> {
    /// Reads nodes up to one of the tags in `ends`, or to the end of the source when there are none.
    fn nodes(&mut self, ends: &[&str]) -> Parsed<(Vec<Node>, Option<End<'s>>)> {
        let mut nodes = Vec::new();
        while let Some(Piece { kind, line }) = self.pieces.next() {
            match kind {
                Kind::Text(text) => nodes.push(Node::Text(text.to_owned())),
                Kind::Output(inside) => nodes.push(self.output(inside, line)?),
                Kind::Tag(name, rest) if ends.contains(&name) => return Ok((nodes, Some((name, rest, line)))),
                Kind::Tag(name, rest) => nodes.push(self.tag(name, rest, line)?),
            }
        }
        match ends.last() {
            None => Ok((nodes, None)),
            Some(end) => Err(ParseError::new(format!("a block is never closed by `{{% {end} %}}`"))),
        }
    }

    /// A block's inside, which must end with one of `ends`.
    fn block(&mut self, ends: &[&str], line: usize) -> Parsed<(Vec<Node>, End<'s>)> {
        self.depth += 1;
        if self.depth > limits::DEPTH {
            return Err(ParseError { message: format!("tags nest deeper than {}", limits::DEPTH), line: Some(line) });
        }
        let (nodes, end) = self.nodes(ends).map_err(|fault| ParseError { line: fault.line.or(Some(line)), ..fault })?;
        self.depth -= 1;
        end.map(|end| (nodes, end)).ok_or_else(|| at(line)(ParseError::new("a block is never closed")))
    }

    /// Reads the inside of a tag to its end.
    fn read<T>(&mut self, text: &'s str, line: usize, read: impl FnOnce(&mut Reader<'s>) -> Parsed<T>) -> Parsed<T> {
        let mut reader = Reader::new(text);
        let value = read(&mut reader).and_then(|value| reader.end().map(|()| value)).map_err(at(line))?;
        self.roots.extend(reader.roots);
        Ok(value)
    }

    fn output(&mut self, inside: &'s str, line: usize) -> Parsed<Node> {
        let mut value = self.read(inside, line, Reader::filtered)?;
        if self.escape == Escape::Html {
            make_safe(&mut value).map_err(at(line))?;
        }
        Ok(Node::Output { value, line })
    }

    fn tag(&mut self, name: &'s str, rest: &'s str, line: usize) -> Parsed<Node> {
        match name {
            "if" => self.branches(rest, line),
            "unless" => self.unless(rest, line),
            "case" => self.case(rest, line),
            "for" => self.repeat(rest, line),
            "assign" => self.assign(rest, line),
            "capture" => self.capture(rest, line),
            "cycle" => self.cycle(rest, line),
            "echo" => self.output(rest, line),
            "increment" | "decrement" => {
                let variable = self.read(rest, line, |reader| reader.identifier().map(str::to_owned))?;
                Ok(Node::Counter { name: variable, up: name == "increment" })
            }
            "break" => Ok(Node::Break),
            "continue" => Ok(Node::Continue),
            _ => Err(ParseError { message: unsupported(name), line: Some(line) }),
        }
    }

    /// Everything from the first branch to `endif`.
    fn branches(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let (branches, otherwise) = self.chain(rest, line, "endif")?;
        Ok(Node::If { branches, otherwise })
    }

    #[expect(clippy::type_complexity, reason = "the shape of the two nodes it fills")]
    fn chain(&mut self, rest: &'s str, line: usize, end: &'static str) -> Parsed<(Vec<(Test, Vec<Node>)>, Vec<Node>)> {
        let (mut rest, mut line) = (rest, line);
        let mut branches = Vec::new();
        loop {
            let test = self.read(rest, line, Reader::test)?;
            let (body, ended) = self.block(&["elsif", "else", end], line)?;
            branches.push((test, body));
            match ended {
                ("elsif", next, at) => (rest, line) = (next, at),
                ("else", _, at) => return Ok((branches, self.otherwise(end, at)?)),
                _ => return Ok((branches, Vec::new())),
            }
        }
    }

    fn otherwise(&mut self, end: &'static str, line: usize) -> Parsed<Vec<Node>> {
        self.block(&[end], line).map(|(nodes, _)| nodes)
    }

    fn unless(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let (mut branches, otherwise) = self.chain(rest, line, "endunless")?;
        let (test, then) = branches.remove(0);
        Ok(Node::Unless { test, then, branches, otherwise })
    }

    fn case(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let subject = self.read(rest, line, Reader::operand)?;
        let (_, mut ended) = self.block(&["when", "else", "endcase"], line)?;
        let mut arms = Vec::new();
        loop {
            match ended {
                ("when", values, at) => {
                    let values = self.read(values, at, |reader| {
                        let mut values = vec![reader.operand()?];
                        while reader.eat(",") || reader.word("or") {
                            values.push(reader.operand()?);
                        }
                        Ok(values)
                    })?;
                    let (body, next) = self.block(&["when", "else", "endcase"], at)?;
                    arms.push((values, body));
                    ended = next;
                }
                ("else", _, at) => return Ok(Node::Case { subject, arms, otherwise: self.otherwise("endcase", at)? }),
                _ => return Ok(Node::Case { subject, arms, otherwise: Vec::new() }),
            }
        }
    }

    fn repeat(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let mut head = self.read(rest, line, |reader| {
            let name = reader.identifier()?.to_owned();
            if !reader.word("in") {
                return Err(ParseError::new("write `{% for item in items %}`"));
            }
            let items = reader.operand()?;
            let mut head = For { name, items, limit: None, offset: None, reversed: false, body: Vec::new(), otherwise: Vec::new() };
            while !reader.is_done() {
                if reader.named("limit") {
                    head.limit = Some(reader.operand()?);
                } else if reader.named("offset") {
                    head.offset = Some(reader.operand()?);
                } else if reader.word("reversed") {
                    head.reversed = true;
                } else if !reader.eat(",") {
                    break;
                }
            }
            Ok(head)
        })?;
        self.own.insert(head.name.clone());
        self.own.insert("forloop".to_owned());
        let (body, ended) = self.block(&["else", "endfor"], line)?;
        head.body = body;
        if ended.0 == "else" {
            head.otherwise = self.otherwise("endfor", ended.2)?;
        }
        Ok(Node::For(Box::new(head)))
    }

    fn assign(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let (name, value) = self.read(rest, line, |reader| {
            let name = reader.identifier()?.to_owned();
            if !reader.eat("=") {
                return Err(ParseError::new("write `{% assign name = value %}`"));
            }
            Ok((name, reader.filtered()?))
        })?;
        self.own.insert(name.clone());
        Ok(Node::Assign { name, value, line })
    }

    fn capture(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let quoted = rest.trim_matches(['"', '\'']);
        let name = self.read(quoted, line, |reader| reader.identifier().map(str::to_owned))?;
        self.own.insert(name.clone());
        let (body, _) = self.block(&["endcapture"], line)?;
        Ok(Node::Capture { name, body })
    }

    fn cycle(&mut self, rest: &'s str, line: usize) -> Parsed<Node> {
        let values = self.read(rest, line, |reader| {
            let mut values = vec![reader.operand()?];
            while reader.eat(",") {
                values.push(reader.operand()?);
            }
            Ok(values)
        })?;
        self.cycles += 1;
        Ok(Node::Cycle { group: self.cycles, values })
    }
}

/// Filters whose result is HTML already.
const SAFE: &[&str] = &["escape", "escape_once", "newline_to_br", "raw"];

fn make_safe(value: &mut Filtered) -> Parsed<()> {
    let escape = filters::find("escape")?;
    match value.filters.last() {
        // The break itself must survive; what it was inserted into must not.
        Some((filter, _)) if filter.name == "newline_to_br" => {
            let before = value.filters.len() - 1;
            if !before.checked_sub(1).and_then(|at| value.filters.get(at)).is_some_and(|(filter, _)| SAFE.contains(&filter.name)) {
                value.filters.insert(before, (escape, Vec::new()));
            }
        }
        Some((filter, _)) if SAFE.contains(&filter.name) => {}
        _ => value.filters.push((escape, Vec::new())),
    }
    Ok(())
}

fn unsupported(name: &str) -> String {
    let hint = match name {
        "elif" => "; write `elsif`",
        "set" => "; write `assign`",
        "include" | "render" | "layout" | "section" | "import" | "extends" | "block" | "macro" => {
            "; a template stands alone and loads nothing"
        }
        "else" | "elsif" | "when" => " here; it belongs inside a block that is open",
        _ if name.starts_with("end") => " here; no such block is open, or another one is still open inside it",
        _ => "; supported are if, unless, case, for, assign, capture, cycle, increment, decrement, echo, comment, raw, break and continue",
    };
    format!("the tag `{name}` is not supported{hint}")
}
