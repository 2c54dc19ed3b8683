//! Defers the parsing of a document's scripts, and of schemas that may be expensive, to a worker.
//!
//! A document is compiled in one synchronous pass, but parsing a text from outside may take arbitrarily long. So the first pass only
//! collects such texts, and a worker parses all of them within one time limit. Only if that finds a fault is the document compiled again, with the
//! worker's results, so that each fault is reported at its place. A document that was accepted before is compiled without parsing these texts.
//!
//! The mode is thread-local while a document is compiled. Without a mode, as in tests, a text is parsed where it is met.

use std::cell::RefCell;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::worker::Lang;
use crate::expr::ParseError;

/// Total size of inexpensive texts of one document that are parsed in place; the rest is deferred like the others.
const MAX_IN_PLACE_BYTES: usize = 256 * 1024;

/// A text in a language.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Foreign {
    pub lang: Lang,
    pub text: String,
}

/// How this thread handles the texts that it meets.
#[derive(Default)]
enum Mode {
    /// Parses them in place.
    #[default]
    Here,
    /// Does not parse them: they were accepted before.
    Accepted,
    /// Collects them for a worker.
    Gathering(CollectedTexts),
    /// Reports the worker's results.
    Told(IndexMap<Foreign, Option<ParseError>>),
}

struct CollectedTexts {
    texts: IndexMap<Foreign, Option<ParseError>>,
    /// Bytes that may still be parsed in place.
    left: usize,
}

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Here) };
}

impl CollectedTexts {
    /// Collects a text, unless it may be parsed in place.
    fn takes(&mut self, lang: Lang, text: &str, harmless: bool) -> bool {
        if harmless && let Some(left) = self.left.checked_sub(text.len()) {
            self.left = left;
            return false;
        }
        self.texts.insert(Foreign { lang, text: text.to_owned() }, None);
        true
    }
}

/// Checks a text in the current mode; `read` parses it in place. `harmless`: parsing takes little time, whatever the
/// text contains.
pub fn check(lang: Lang, text: &str, harmless: bool, read: impl FnOnce() -> Result<(), ParseError>) -> Result<(), ParseError> {
    let known = MODE.with_borrow_mut(|mode| match mode {
        Mode::Here => None,
        Mode::Accepted => Some(Ok(())),
        Mode::Gathering(gathered) => gathered.takes(lang, text, harmless).then_some(Ok(())),
        Mode::Told(told) => told.get(&Foreign { lang, text: text.to_owned() }).map(|fault| fault.clone().map_or(Ok(()), Err)),
    });
    known.unwrap_or_else(read)
}

/// Compiles what was accepted before, without parsing its texts again.
pub fn accepted<T>(compile: impl FnOnce() -> T) -> T {
    within(Mode::Accepted, compile).0
}

/// Compiles, and returns the texts that were not parsed.
pub(super) fn gathering<T>(compile: impl FnOnce() -> T) -> (T, Vec<Foreign>) {
    let (compiled, mode) = within(Mode::Gathering(CollectedTexts { texts: IndexMap::new(), left: MAX_IN_PLACE_BYTES }), compile);
    let texts = if let Mode::Gathering(gathered) = mode { gathered.texts.into_keys().collect() } else { Vec::new() };
    (compiled, texts)
}

/// Compiles with a worker's results.
pub(super) fn told<T>(texts: impl Iterator<Item = (Foreign, Option<ParseError>)>, compile: impl FnOnce() -> T) -> T {
    within(Mode::Told(texts.collect()), compile).0
}

/// The outermost mode applies: a nested compilation is part of the outer one.
fn within<T>(mode: Mode, compile: impl FnOnce() -> T) -> (T, Mode) {
    /// Restores the mode, also when the compilation panics.
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            MODE.set(Mode::Here);
        }
    }
    if !MODE.with_borrow(|mode| matches!(mode, Mode::Here)) {
        return (compile(), Mode::Here);
    }
    MODE.set(mode);
    let _leave = Leave;
    let compiled = compile();
    (compiled, MODE.take())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(text: &str, harmless: bool) -> Result<(), ParseError> {
        check(Lang::JavaScript, text, harmless, || Err(ParseError::new("read here")))
    }

    #[test]
    fn a_text_is_handled_in_the_current_mode() {
        let here = Err(ParseError::new("read here"));
        assert_eq!(met("a", false), here);
        assert_eq!(accepted(|| met("a", false)), Ok(()));
        let ((one, two, three), texts) = gathering(|| (met("a", false), met("b", true), accepted(|| met("a", false))));
        assert_eq!((one, two, three), (Ok(()), here.clone(), Ok(())));
        let a = Foreign { lang: Lang::JavaScript, text: "a".into() };
        assert_eq!(texts, std::slice::from_ref(&a));
        let fault = ParseError::new("broken");
        let both = told([(a, Some(fault.clone()))].into_iter(), || (met("a", false), met("b", true)));
        assert_eq!(both, (Err(fault), here.clone()));
        assert_eq!(met("a", false), here, "it ends with the compilation");
    }

    #[test]
    fn parsing_in_place_is_limited() {
        let long = "x".repeat(MAX_IN_PLACE_BYTES / 2);
        let (_, texts) = gathering(|| (0..3).map(|_| met(&long, true).is_ok()).collect::<Vec<_>>());
        assert_eq!(texts.len(), 1);
    }
}
