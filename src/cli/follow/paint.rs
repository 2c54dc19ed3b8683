//! Colours, where there are eyes for them.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the command line forbids colours.
static NO_COLOR: AtomicBool = AtomicBool::new(false);

/// What a text is.
#[derive(Debug, Clone, Copy)]
pub enum Tone {
    Title,
    Good,
    Bad,
    Question,
    Aside,
}

impl Tone {
    /// Select Graphic Rendition (ECMA-48, 8.3.117).
    const fn code(self) -> &'static str {
        match self {
            Self::Title => "1",
            Self::Good => "32",
            Self::Bad => "31",
            Self::Question => "1;33",
            Self::Aside => "2",
        }
    }
}

/// A paint box, empty when stdout is no terminal or `NO_COLOR` is set (no-color.org).
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    /// Prints without colours from now on.
    pub fn disable() {
        NO_COLOR.store(true, Ordering::Relaxed);
    }

    pub fn stdout() -> Self {
        let is_plain = NO_COLOR.load(Ordering::Relaxed);
        Self(!is_plain && std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    pub fn text(self, tone: Tone, text: impl std::fmt::Display) -> String {
        if self.0 { format!("\x1b[{}m{text}\x1b[0m", tone.code()) } else { text.to_string() }
    }
}
