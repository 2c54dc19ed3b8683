//! Cuts a source into text, outputs `{{ }}` and tags `{% %}`.

use crate::expr::ParseError;

/// One piece of a source, with the line it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'s> {
    pub kind: Kind<'s>,
    pub line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'s> {
    Text(&'s str),
    Output(&'s str),
    /// A tag's name and the rest of it.
    Tag(&'s str, &'s str),
}

/// The pieces of a source. `comment` and `raw` are settled here: what they hold is not Liquid.
pub fn pieces(source: &str) -> Result<Vec<Piece<'_>>, ParseError> {
    let mut lexer = Lexer { source, rest: source, line: 1, trim: false, pieces: Vec::new() };
    while let Some((start, tag)) = lexer.next_opening() {
        lexer.text(start);
        let line = lexer.line;
        let inside = lexer.inside(tag)?;
        if !tag {
            lexer.pieces.push(Piece { kind: Kind::Output(inside), line });
            continue;
        }
        let end = inside.find(|next: char| !(next.is_alphanumeric() || next == '_')).unwrap_or(inside.len());
        let (name, rest) = inside.split_at(end);
        match name {
            "comment" | "raw" => lexer.verbatim(name, line)?,
            "" if inside.starts_with('#') => {}
            _ => lexer.pieces.push(Piece { kind: Kind::Tag(name, rest.trim()), line }),
        }
    }
    lexer.text(lexer.rest.len());
    Ok(lexer.pieces)
}

struct Lexer<'s> {
    source: &'s str,
    rest: &'s str,
    line: usize,
    /// The last piece ended with a hyphen: the space after it goes.
    trim: bool,
    pieces: Vec<Piece<'s>>,
}

impl<'s> Lexer<'s> {
    /// Where the next output or tag begins, and whether it is a tag.
    fn next_opening(&self) -> Option<(usize, bool)> {
        let mut from = 0;
        while let Some(at) = self.rest.get(from..)?.find('{') {
            match self.rest.as_bytes().get(from + at + 1) {
                Some(b'{') => return Some((from + at, false)),
                Some(b'%') => return Some((from + at, true)),
                _ => from += at + 1,
            }
        }
        None
    }

    fn advance(&mut self, length: usize) -> &'s str {
        let (passed, rest) = self.rest.split_at(length);
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
        passed
    }

    /// Takes plain text up to an opening.
    fn text(&mut self, length: usize) {
        let line = self.line;
        let mut text = self.advance(length);
        if std::mem::take(&mut self.trim) {
            text = text.trim_start();
        }
        if self.rest.starts_with("{{-") || self.rest.starts_with("{%-") {
            text = text.trim_end();
        }
        if !text.is_empty() {
            self.pieces.push(Piece { kind: Kind::Text(text), line });
        }
    }

    /// Takes one output or tag and gives what is inside its braces.
    fn inside(&mut self, tag: bool) -> Result<&'s str, ParseError> {
        let (open, close) = if tag { ("{%", "%}") } else { ("{{", "}}") };
        let end = closing(self.rest, close).ok_or_else(|| {
            ParseError::new(format!("`{open}` is never closed by `{close}`")).at(self.source, self.source.len() - self.rest.len())
        })?;
        let whole = self.advance(end);
        let mut inside = &whole[2..whole.len() - 2];
        inside = inside.strip_prefix('-').unwrap_or(inside);
        if let Some(shorter) = inside.strip_suffix('-') {
            inside = shorter;
            self.trim = true;
        }
        Ok(inside.trim())
    }

    /// Takes everything up to the end tag of `comment` or `raw`.
    fn verbatim(&mut self, name: &str, line: usize) -> Result<(), ParseError> {
        let mut at = 0;
        loop {
            let Some(found) = self.rest.get(at..).and_then(|rest| rest.find("{%")) else {
                return Err(ParseError { message: format!("`{name}` is never closed by `{{% end{name} %}}`"), line: Some(line) });
            };
            at += found;
            let tag = self.rest.get(at + 2..).unwrap_or_default();
            let inside = tag.strip_prefix('-').unwrap_or(tag).trim_start();
            let after = inside.strip_prefix("end").and_then(|inside| inside.strip_prefix(name)).map(str::trim_start);
            if after.is_some_and(|after| after.starts_with("%}") || after.starts_with("-%}")) {
                break;
            }
            at += 2;
        }
        if name == "raw" {
            self.text(at);
        } else {
            self.advance(at);
        }
        self.trim = false;
        self.inside(true).map(|_| ())
    }
}

/// The length up to and with `close`, which counts only outside of quotes.
fn closing(text: &str, close: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut quote) = (2, None);
    while at < bytes.len() {
        let byte = bytes[at];
        match quote {
            Some(open) if byte == open => quote = None,
            Some(_) => {}
            None if text.get(at..)?.starts_with(close) => return Some(at + close.len()),
            None if byte == b'"' || byte == b'\'' => quote = Some(byte),
            None => {}
        }
        at += 1;
        while !text.is_char_boundary(at) {
            at += 1;
        }
    }
    // An apostrophe in a comment is no quote.
    text.get(2..)?.find(close).map(|found| 2 + found + close.len())
}
