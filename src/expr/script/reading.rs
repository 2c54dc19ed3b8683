//! The texts of a document that only a worker may read: scripts, and schemas that are not harmless.
//!
//! A document is compiled in one go, and what other people's parsers do with a text may take as long as its writer likes. So a compilation only
//! gathers such texts; a worker reads them all, within one time limit. Only when it finds a fault is the document compiled once more, now with what
//! the worker said at hand, so that each fault is told at its place. A document that was accepted before is compiled without reading them again.
//!
//! Which of these it is belongs to the thread while it compiles. Where nobody said so, as in tests, a text is read where it is met.

use std::cell::RefCell;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::worker::Lang;
use crate::expr::ParseError;

/// Bytes of harmless texts of one document that are read where they are met; the rest goes with the others.
const MOST_HERE: usize = 256 * 1024;

/// A text in a language.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Foreign {
    pub lang: Lang,
    pub text: String,
}

/// How texts are read that this thread comes to.
#[derive(Default)]
enum Mode {
    /// Here and now.
    #[default]
    Here,
    /// Not again.
    Accepted,
    /// Later.
    Gathering(Gathered),
    /// They were, and this is what is wrong with them.
    Told(IndexMap<Foreign, Option<ParseError>>),
}

struct Gathered {
    texts: IndexMap<Foreign, Option<ParseError>>,
    /// Bytes that may still be read here.
    left: usize,
}

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Here) };
}

impl Gathered {
    /// Keeps a text for later, unless it may be read now.
    fn takes(&mut self, lang: Lang, text: &str, harmless: bool) -> bool {
        if harmless && let Some(left) = self.left.checked_sub(text.len()) {
            self.left = left;
            return false;
        }
        self.texts.insert(Foreign { lang, text: text.to_owned() }, None);
        true
    }
}

/// Checks a text as the compilation that came to it says; by `read` where that is here and now. `harmless`: reading it takes little time, whatever it
/// says.
pub fn check(lang: Lang, text: &str, harmless: bool, read: impl FnOnce() -> Result<(), ParseError>) -> Result<(), ParseError> {
    let known = MODE.with_borrow_mut(|mode| match mode {
        Mode::Here => None,
        Mode::Accepted => Some(Ok(())),
        Mode::Gathering(gathered) => gathered.takes(lang, text, harmless).then_some(Ok(())),
        Mode::Told(told) => told.get(&Foreign { lang, text: text.to_owned() }).map(|fault| fault.clone().map_or(Ok(()), Err)),
    });
    known.unwrap_or_else(read)
}

/// Compiles what was accepted before: its texts are not read again.
pub fn accepted<T>(compile: impl FnOnce() -> T) -> T {
    within(Mode::Accepted, compile).0
}

/// Compiles, and gives the texts that were not read.
pub(super) fn gathering<T>(compile: impl FnOnce() -> T) -> (T, Vec<Foreign>) {
    let (compiled, mode) = within(Mode::Gathering(Gathered { texts: IndexMap::new(), left: MOST_HERE }), compile);
    let texts = if let Mode::Gathering(gathered) = mode { gathered.texts.into_keys().collect() } else { Vec::new() };
    (compiled, texts)
}

/// Compiles with what a worker said of the texts.
pub(super) fn told<T>(texts: impl Iterator<Item = (Foreign, Option<ParseError>)>, compile: impl FnOnce() -> T) -> T {
    within(Mode::Told(texts.collect()), compile).0
}

/// The outermost compilation counts: what is compiled within it is part of it.
fn within<T>(mode: Mode, compile: impl FnOnce() -> T) -> (T, Mode) {
    /// Also when the compilation panics.
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
    fn a_text_is_read_as_the_compilation_says() {
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
    fn harmless_texts_are_not_read_here_without_end() {
        let long = "x".repeat(MOST_HERE / 2);
        let (_, texts) = gathering(|| (0..3).map(|_| met(&long, true).is_ok()).collect::<Vec<_>>());
        assert_eq!(texts.len(), 1);
    }
}
