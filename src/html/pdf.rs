//! Pages on paper.
//!
//! Nothing is fetched: pictures come as `data:` URLs. The document is limited in length and depth; these do not bound the time
//! that printing takes, so [`super::printer`] enforces a time limit.

use std::path::Path;
use std::time::Duration;

use ironpress::{HtmlConverter, IronpressError, Margin, PageSize};
use serde::{Deserialize, Serialize};

use super::{DEEPEST, depth};

/// Longest page, in bytes.
pub const LONGEST: usize = 512 * 1024;
/// Largest file, in bytes.
pub const LARGEST: usize = 20 * 1024 * 1024;
/// Opening brackets, and the stack that the printer has for them: it reads style rules by recursion, and takes up to 40 KiB for each level.
const MOST_BRACKETS: usize = 10_000;
const STACK: usize = 512 * 1024 * 1024;
const POINTS_PER_MM: f32 = 72.0 / 25.4;

/// A sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum PaperSize {
    #[default]
    A4,
    Letter,
    Legal,
}

/// How pages are laid out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    pub paper: PaperSize,
    pub landscape: bool,
    /// Millimetres, on all sides.
    pub margin: f32,
    /// Texts on each page.
    pub header: Option<String>,
    pub footer: Option<String>,
}

impl Default for Layout {
    fn default() -> Self {
        Self { paper: PaperSize::A4, landscape: false, margin: 20.0, header: None, footer: None }
    }
}

/// Why a page was not printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Unprintable {
    #[error("the document has {0} bytes; {LONGEST} are printed at most")]
    TooLong(usize),
    #[error("the document's elements are nested more than {DEEPEST} deep")]
    TooDeep,
    #[error("the document has more than {MOST_BRACKETS} opening brackets, of style rules or of text")]
    TooManyBrackets,
    #[error("the document has more than 500 elements without an end tag; give each one, also `li`, `td` and the like")]
    Unclosed,
    #[error("the PDF has {0} bytes; {LARGEST} are the most")]
    TooLarge(usize),
    #[error("the document cannot be printed: {0}")]
    Broken(String),
    /// Printing it took all the memory or stack that there is for it.
    #[error("the document could not be laid out")]
    Unlaid,
    #[error("documents cannot be printed here")]
    Unavailable,
    #[error("printing the document took longer than {0:?}; make it shorter or simpler")]
    Late(Duration),
    #[error("too many documents are queued for printing; try again later")]
    QueueFull,
}

/// Prints HTML. Takes the time that it takes: not for a thread that others wait for.
pub fn from_html(html: &str, layout: &Layout) -> Result<Vec<u8>, Unprintable> {
    if html.len() > LONGEST {
        return Err(Unprintable::TooLong(html.len()));
    }
    check_brackets(html)?;
    if depth(html) > DEEPEST {
        return Err(Unprintable::TooDeep);
    }
    finish(|| converter(layout).convert(html))
}

/// Prints Markdown (CommonMark with tables).
pub fn from_markdown(markdown: &str, layout: &Layout) -> Result<Vec<u8>, Unprintable> {
    if markdown.len() > LONGEST {
        return Err(Unprintable::TooLong(markdown.len()));
    }
    // What is nested in Markdown is nested in its lines' beginnings, and HTML may stand in it.
    let quotes = markdown.lines().map(|line| line.chars().take_while(|letter| " >\t-*+".contains(*letter)).count()).max().unwrap_or(0);
    if quotes > DEEPEST || depth(markdown) > DEEPEST {
        return Err(Unprintable::TooDeep);
    }
    check_brackets(markdown)?;
    finish(|| converter(layout).convert_markdown(markdown))
}

fn converter(layout: &Layout) -> HtmlConverter {
    let size = match layout.paper {
        PaperSize::A4 => PageSize::A4,
        PaperSize::Letter => PageSize::LETTER,
        PaperSize::Legal => PageSize::LEGAL,
    };
    let size = if layout.landscape { PageSize { width: size.height, height: size.width } } else { size };
    // Files are looked for nowhere.
    let nowhere = Path::new("/dispatch-has-no-files");
    let mut converter = HtmlConverter::new()
        .page_size(size)
        .margin(Margin::uniform(layout.margin * POINTS_PER_MM))
        .base_path(nowhere)
        .resource_root(nowhere)
        .download_deny_private_ips(true)
        .download_deny_public_ips(true);
    if let Some(header) = &layout.header {
        converter = converter.header(header.as_str());
    }
    if let Some(footer) = &layout.footer {
        converter = converter.footer(footer.as_str());
    }
    converter
}

/// Every bracket may be one more level, whatever closes it: a comment hides that.
fn check_brackets(document: &str) -> Result<(), Unprintable> {
    let brackets = document.bytes().filter(|byte| b"{([".contains(byte)).count();
    if brackets > MOST_BRACKETS { Err(Unprintable::TooManyBrackets) } else { Ok(()) }
}

/// Prints on a thread with a stack of its own, for the printer's recursion is not ours to bound.
fn finish(print: impl FnOnce() -> Result<Vec<u8>, IronpressError> + Send) -> Result<Vec<u8>, Unprintable> {
    let printed = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("printer".into()).stack_size(STACK).spawn_scoped(scope, print);
        thread.map(|thread| thread.join())
    });
    let broken = |why: String| Unprintable::Broken(why);
    match printed.map_err(|error| broken(error.to_string()))?.map_err(|_| Unprintable::Unlaid)? {
        Ok(pdf) if pdf.len() > LARGEST => Err(Unprintable::TooLarge(pdf.len())),
        Ok(pdf) => Ok(pdf),
        Err(error) if error.to_string().contains("nesting depth") => Err(Unprintable::Unclosed),
        Err(error) => Err(Unprintable::Broken(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_and_markdown_are_printed() {
        for pdf in [
            from_html("<h1>Bill</h1><p>12 €</p>", &Layout::default()),
            from_markdown("# Bill\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", &Layout { landscape: true, ..Layout::default() }),
        ] {
            assert!(pdf.unwrap().starts_with(b"%PDF-"));
        }
    }

    #[test]
    fn what_cannot_be_bounded_is_not_printed() {
        let deep = format!("{}x", "<div>".repeat(1_000));
        assert_eq!(from_html(&deep, &Layout::default()), Err(Unprintable::TooDeep));
        assert_eq!(from_markdown(&format!("{}x", "> ".repeat(1_000)), &Layout::default()), Err(Unprintable::TooDeep));
        // Rules within rules: a few are printed or refused, and end nobody's process.
        for rules in ["@media all{".repeat(300), "a{".repeat(3_000), "p:not(".repeat(1_000), "@media all{/*}*/".repeat(300)] {
            let printed = from_html(&format!("<style>{rules}</style><p>x"), &Layout::default());
            assert!(matches!(printed, Ok(_) | Err(Unprintable::Broken(_))), "{printed:?}");
        }
        let many = format!("<style>{}</style><p>x", "a{}".repeat(MOST_BRACKETS + 1));
        assert_eq!(from_html(&many, &Layout::default()), Err(Unprintable::TooManyBrackets));
        assert_eq!(from_markdown(&"[".repeat(50_000), &Layout::default()), Err(Unprintable::TooManyBrackets));
        assert_eq!(from_html(&format!("<ul>{}</ul>", "<li>a".repeat(600)), &Layout::default()), Err(Unprintable::Unclosed));
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(from_html(&long, &Layout::default()), Err(Unprintable::TooLong(LONGEST + 1)));
    }

    #[test]
    fn files_of_the_machine_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let style = folder.path().join("own.css");
        std::fs::write(&style, "p { font-size: 90pt }").unwrap();
        let page = |head: &str| {
            from_html(&format!("<html><head>{head}</head><body><p>{}</p></body></html>", "word ".repeat(300)), &Layout::default())
                .unwrap()
                .len()
        };
        let plain = page("");
        let path = style.display();
        for head in [
            format!("<style>@import url('{path}');</style>"),
            format!("<style>@import url('file://{path}');</style>"),
            format!("<link rel=stylesheet href='{path}'>"),
            format!("<link rel=stylesheet href='file://{path}'>"),
        ] {
            assert!(page(&head).abs_diff(plain) < 200, "{head} changed the page");
        }
        assert!(page("<style>p { font-size: 90pt }</style>").abs_diff(plain) >= 200, "a style of the page's own changes it");
    }
}
