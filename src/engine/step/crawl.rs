//! `crawl`: the pages of a site, one after the other, from a first one on.
//!
//! It stays at the first page's origin, asks what `robots.txt` (RFC 9309) allows, and waits between pages as long as that wants. Each page is an
//! effect of its own: after a crash those that came are recalled.

use std::collections::{BTreeSet, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use texting_robots::Robot;
use url::Url;

use super::http::net_failure;
use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::fair::FairSemaphore;
use crate::html;
use crate::model::Step;
use crate::net::{Deadlines, Request, Trust};
use crate::tool::Effect;

pub const TYPE: StepType =
    StepType { action: "crawl", summary: "Reads the pages of a site.", schema: || schemars::schema_for!(Config), compile };

/// Pages unless said otherwise, and at most.
const PAGES: u32 = 10;
const MOST_PAGES: u32 = 100;
/// Links away from the first page.
const DEPTH: u32 = 2;
const DEEPEST: u32 = 10;
/// Largest page, in bytes.
const MAX_PAGE: u64 = 2 * 1024 * 1024;
const MAX_ROBOTS: u64 = 512 * 1024;
/// Pages of one tenant that are read at once: it is work for the processor.
static READING: LazyLock<FairSemaphore> = LazyLock::new(|| FairSemaphore::new(2, usize::MAX));
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two pages: what a site may ask for, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Pages that are waiting to be read.
const MOST_KNOWN: usize = 5_000;
/// As sites know us.
const AGENT: &str = "dispatch";

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CrawlConfig")]
struct Config {
    /// The first page; a template.
    url: String,
    /// Pages to read: 1 to 100; 10 when absent.
    #[serde(default, alias = "maxPages")]
    #[schemars(range(min = 1, max = 100))]
    limit: Option<u32>,
    /// How many links a page may be away from the first: 0 to 10; 2 when absent.
    #[serde(default, alias = "maxDepth")]
    #[schemars(range(max = 10))]
    depth: Option<u32>,
    /// What of a page is given.
    #[serde(default)]
    format: Format,
    /// Only pages whose path begins with one of these.
    #[serde(default)]
    include_paths: Vec<String>,
    /// No pages whose path begins with one of these.
    #[serde(default)]
    exclude_paths: Vec<String>,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "CrawlFormat")]
enum Format {
    #[default]
    Markdown,
    Html,
}

struct Body {
    url: Template,
    limit: u32,
    depth: u32,
    format: Format,
    include: Vec<String>,
    exclude: Vec<String>,
}

/// One page as it was read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Page {
    url: String,
    status: u16,
    title: Option<String>,
    content: String,
    links: Vec<String>,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let url = fields.template("url", &config.url);
    let (limit, depth) = (config.limit.unwrap_or(PAGES), config.depth.unwrap_or(DEPTH));
    if !(1..=MOST_PAGES).contains(&limit) {
        fields.problem("limit", format!("expected 1 to {MOST_PAGES}"));
    }
    if depth > DEEPEST {
        fields.problem("depth", format!("expected 0 to {DEEPEST}"));
    }
    let (include, exclude) = (config.include_paths, config.exclude_paths);
    fields.finish(url.map(|url| Body { url, limit, depth, format: config.format, include, exclude }))
}

impl Body {
    /// Whether a page belongs to what is wanted; the first one always does.
    fn wants(&self, first: &Url, url: &Url) -> bool {
        let begins = |paths: &[String]| paths.iter().any(|path| url.path().starts_with(path.as_str()));
        url.origin() == first.origin() && (self.include.is_empty() || begins(&self.include)) && !begins(&self.exclude)
    }

    async fn page(&self, context: &StepContext<'_>, number: usize, url: &Url) -> StepResult<Page> {
        let key = context.key(&format!("page/{number}"));
        context
            .effect(&key, Effect::Idempotent, || async {
                let answer = context.parts().egress.send(request(url, MAX_PAGE)).await.map_err(failed)?;
                let (status, kind, at) = (answer.status.as_u16(), answer.media_type(), answer.url.clone());
                let text = if kind.starts_with("text/")
                    || kind.contains("html")
                    || kind.contains("json")
                    || kind.contains("xml")
                    || kind.is_empty()
                {
                    String::from_utf8_lossy(&answer.bytes().await.map_err(failed)?).into_owned()
                } else {
                    String::new()
                };
                let read = if kind.contains("html") {
                    // A page may take a second to read: not where other executions wait for their turn.
                    let turn = READING.acquire(context.run.party()).await;
                    let (text, at) = (text.clone(), at.clone());
                    let read = move || {
                        // Held to the end, also when nobody waits for it any more.
                        let _turn = turn;
                        html::read(&text, &at)
                    };
                    tokio::task::spawn_blocking(read).await.unwrap_or_default()
                } else {
                    html::Page { markdown: text.clone(), ..html::Page::default() }
                };
                let content = if self.format == Format::Html { text } else { read.markdown };
                Ok(Page { url: at.into(), status, title: read.title, content, links: read.links })
            })
            .await
    }
}

fn request(url: &Url, most: u64) -> Request {
    let mut request =
        Request::new(http::Method::GET, url.as_str(), Trust::Judged).header("user-agent", concat!("dispatch/", env!("CARGO_PKG_VERSION")));
    request.deadlines = Deadlines { first_byte: PATIENCE, between_chunks: PATIENCE, total: PATIENCE };
    request.max_bytes = most;
    request
}

fn failed(error: crate::net::Error) -> Interrupt {
    Interrupt::Fail(net_failure(&error))
}

/// What a site's robots.txt says; kept as its text. None is leave to read everything; one that cannot be had is leave to read nothing.
async fn robots(context: &StepContext<'_>, first: &Url) -> StepResult<Robot> {
    let mut at = first.clone();
    at.set_path("/robots.txt");
    at.set_query(None);
    at.set_fragment(None);
    let text: String = context
        .effect(&context.key("robots"), Effect::Idempotent, || async {
            let answer = context.parts().egress.send(request(&at, MAX_ROBOTS)).await.map_err(failed)?;
            let status = answer.status.as_u16();
            if status >= 500 {
                return Ok("User-agent: *\nDisallow: /".to_owned());
            }
            let body = if status < 300 { answer.bytes().await.map_err(failed)? } else { bytes::Bytes::new() };
            Ok(String::from_utf8_lossy(&body).into_owned())
        })
        .await?;
    Robot::new(AGENT, text.as_bytes())
        .map_err(|error| StepFailure::new("robots_unreadable", format!("{at} cannot be read: {error}")).into())
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let first = crate::net::parse_url(text(context, &self.url)?.trim()).map_err(failed)?;
        let robots = robots(context, &first).await?;
        if !robots.allowed(first.as_str()) {
            return Err(StepFailure::new(
                "robots_disallow",
                format!("robots.txt of {} does not allow {}", first.host_str().unwrap_or_default(), first.path()),
            )
            .into());
        }
        let pause = robots.delay.map_or(Duration::ZERO, |seconds| Duration::from_secs_f32(seconds.clamp(0.0, LONGEST_PAUSE.as_secs_f32())));
        let mut known = BTreeSet::from([without_fragment(&first)]);
        let mut waiting = VecDeque::from([(first.clone(), 0)]);
        let (mut pages, mut refused) = (Vec::new(), 0_u32);
        while let Some((url, depth)) = waiting.pop_front().filter(|_| pages.len() < self.limit as usize) {
            let number = pages.len() + refused as usize;
            if number > 0 && !pause.is_zero() && context.recall(&context.key(&format!("page/{number}"))).is_none() {
                context.outside(context.parts().clock.sleep(pause)).await;
            }
            let page = match self.page(context, number, &url).await {
                Ok(page) => page,
                // One page that cannot be had is no reason to give the others up.
                Err(Interrupt::Fail(failure)) if number > 0 && !failure.fatal => {
                    refused += 1;
                    let missing = Page { url: url.into(), status: 0, title: None, content: String::new(), links: Vec::new() };
                    context.record_done(&context.key(&format!("page/{number}")), &missing);
                    continue;
                }
                Err(interrupt) => return Err(interrupt),
            };
            if page.status == 0 {
                refused += 1;
                continue;
            }
            if depth < self.depth {
                for link in page.links.iter().filter_map(|link| Url::parse(link).ok()) {
                    let fits = known.len() < MOST_KNOWN && self.wants(&first, &link) && robots.allowed(link.as_str());
                    if fits && known.insert(without_fragment(&link)) {
                        waiting.push_back((link, depth + 1));
                    }
                }
            }
            pages.push(page);
        }
        let told = pages.iter().map(|page| json!({ "url": page.url, "status": page.status, "title": page.title, "content": page.content }));
        let told: Vec<Value> = told.collect();
        Ok(StepOutput::of(Value::Array(told)))
    }
}

fn without_fragment(url: &Url) -> String {
    let mut url = url.clone();
    url.set_fragment(None);
    url.into()
}
