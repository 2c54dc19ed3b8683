//! HTML from strangers: what a page says, as Markdown, and as a PDF.
//!
//! A parser looks through everything that is open at many a tag, and no count of tags tells how much that is: comments and tags out of order hide it.
//! So a page is parsed piece by piece under a clock. Trees are walked with a list of one's own and never by recursion until it is known how deep they
//! are: a page may be nested as deep as it is long.
//!
//! Must not know: where a page comes from, who wants it. Nothing is fetched here.

mod pdf;
pub mod printer;

use std::rc::Rc;
use std::time::{Duration, Instant};

use htmd::{HtmlToMarkdown, Node};
use html5ever::tendril::TendrilSink;
use html5ever::{ParseOpts, parse_document};
use markup5ever_rcdom::{NodeData, RcDom};
use url::Url;

pub use pdf::{Layout, PaperSize, Unprintable};
pub use printer::{Markup, PrintLimits, Printer};

/// Elements within elements; what is deeper is read as its text alone, and not printed.
pub const DEEPEST: usize = 200;
/// Links of one page.
const MOST_LINKS: usize = 1_000;

/// What a page says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    pub title: Option<String>,
    /// Where it leads to over HTTP, each once, in its order.
    pub links: Vec<String>,
    pub markdown: String,
}

/// Reads a page; links are resolved against `base`.
pub fn read(html: &str, base: &Url) -> Page {
    let Some((converter, tree)) = parse(html) else {
        return Page { markdown: without_tags(html), ..Page::default() };
    };
    let look = Look::at(&tree);
    let base = look.base.as_ref().and_then(|href| base.join(href).ok()).unwrap_or_else(|| base.clone());
    let mut links: Vec<String> = Vec::new();
    for link in look.links.iter().filter_map(|href| base.join(href).ok()) {
        if matches!(link.scheme(), "http" | "https") && links.len() < MOST_LINKS && !links.contains(&link.to_string()) {
            links.push(link.into());
        }
    }
    let markdown = if look.depth <= DEEPEST { converter.tree_to_markdown(&tree) } else { look.text };
    Page {
        title: look.title.map(|title| title.split_whitespace().collect::<Vec<_>>().join(" ")).filter(|title| !title.is_empty()),
        links,
        markdown,
    }
}

/// How deep elements stand in elements.
fn depth(html: &str) -> usize {
    parse(html).map_or(usize::MAX, |(_, tree)| Look::at(&tree).depth)
}

/// How long parsing may take, and what is parsed between two looks at the clock, in bytes.
const LONGEST_PARSE: Duration = Duration::from_secs(2);
const PIECE: usize = 4 * 1024;
fn without_tags(html: &str) -> String {
    let texts = html
        .split('<')
        .enumerate()
        .map(|(number, part)| if number == 0 { part } else { part.split_once('>').map_or("", |(_, text)| text) });
    texts.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// The tree, unless parsing takes too long.
fn parse(html: &str) -> Option<(HtmlToMarkdown, Rc<Node>)> {
    let converter = HtmlToMarkdown::builder().skip_tags(vec!["script", "style", "noscript", "template", "svg", "head"]).build();
    let mut parser = parse_document(RcDom::default(), ParseOpts::default());
    #[expect(clippy::disallowed_methods, reason = "it is the processor's time that is bounded, whatever the clock of executions says")]
    let began = Instant::now();
    let mut rest = html;
    while !rest.is_empty() {
        let (piece, more) = rest.split_at(rest.floor_char_boundary(PIECE));
        parser.process(piece.into());
        rest = more;
        if began.elapsed() > LONGEST_PARSE {
            return None;
        }
    }
    Some((converter, parser.finish().document))
}

/// What one walk over a tree sees.
#[derive(Default)]
struct Look {
    depth: usize,
    title: Option<String>,
    base: Option<String>,
    links: Vec<String>,
    text: String,
}

impl Look {
    fn at(tree: &Rc<Node>) -> Self {
        let mut look = Self::default();
        let mut waiting = vec![(tree.clone(), 0, false)];
        while let Some((node, depth, quiet)) = waiting.pop() {
            look.depth = look.depth.max(depth);
            let mut quiet = quiet;
            match &node.data {
                NodeData::Text { contents } if !quiet => {
                    look.text.push_str(contents.borrow().trim());
                    look.text.push(' ');
                }
                NodeData::Element { name, attrs, .. } => {
                    let name: &str = &name.local;
                    let attribute = |wanted: &str| {
                        attrs
                            .borrow()
                            .iter()
                            .find(|attribute| &*attribute.name.local == wanted)
                            .map(|attribute| attribute.value.to_string())
                    };
                    match name {
                        "a" | "area" => look.links.extend(attribute("href")),
                        "base" => look.base = look.base.take().or_else(|| attribute("href")),
                        "title" if look.title.is_none() => look.title = Some(own_text(&node)),
                        _ => {}
                    }
                    quiet |= matches!(name, "script" | "style" | "noscript" | "template" | "head");
                }
                _ => {}
            }
            for child in node.children.borrow().iter().rev() {
                waiting.push((child.clone(), depth + 1, quiet));
            }
        }
        look
    }
}

fn own_text(node: &Rc<Node>) -> String {
    let children = node.children.borrow();
    let texts = children.iter().filter_map(|child| match &child.data {
        NodeData::Text { contents } => Some(contents.borrow().to_string()),
        _ => None,
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_page_has_a_title_links_and_a_text() {
        let html = "<html><head><title> The\n Tea </title><style>b{}</style></head><body><h1>Tea</h1><p>Is <b>hot</b>.</p>
            <a href='/green'>Green</a> <a href='/green#top'>again</a> <a href='mailto:a@b'>m</a> <a href='//other.example/x'>x</a>
            <script>bad()</script></body></html>";
        let page = read(html, &at("https://tea.example/all/"));
        assert_eq!(page.title.as_deref(), Some("The Tea"));
        assert_eq!(page.links, ["https://tea.example/green", "https://tea.example/green#top", "https://other.example/x"]);
        assert!(page.markdown.starts_with("# Tea") && page.markdown.contains("Is **hot**."), "{}", page.markdown);
        assert!(!page.markdown.contains("bad()") && !page.markdown.contains("b{}"), "{}", page.markdown);
    }

    #[test]
    fn a_page_that_is_nested_without_end_is_read_all_the_same() {
        for times in [DEEPEST + 100, 100_000] {
            let html = format!("{}hello", "<div>".repeat(times));
            let page = read(&html, &at("https://a.example/"));
            assert_eq!(page.markdown.trim(), "hello");
            assert!(depth(&html) > DEEPEST);
        }
        // Nor is it hidden by what closes nothing.
        for pair in ["<div></p>", "<div></span>", "<div><!--</div>-->", "<span><div></span></div>"] {
            assert!(depth(&pair.repeat(20_000)) > DEEPEST, "{pair}");
        }
        // What is long and not deep is no trouble.
        let long = format!("{}<p>end", "<p>a<br><img src=x>".repeat(20_000));
        assert!(read(&long, &at("https://a.example/")).markdown.ends_with("end"));
    }
}
