//! `store-asset` and `generate-pdf`: files with a URL.
//!
//! A file's id is chosen once and durable before anything is written, so that a step that is done again writes the same file.

use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::http::net_failure;
use super::{Fields, StepBody, StepOutput, StepType, config, text};
use crate::asset::{Asset, OPENS, OPENS_LONGEST, Visibility};
use crate::engine::context::{Interrupt, StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::html::{Layout, Markup, PaperSize, Unprintable};
use crate::id::AssetId;
use crate::model::Step;
use crate::net::{Deadlines, Request, Trust};
use crate::tool::Effect;

pub const STORE: StepType = StepType {
    action: "store-asset",
    summary: "Keeps a file, from a URL or from base64; the output has its URL.",
    schema: || schemars::schema_for!(StoreConfig),
    compile: compile_store,
};

pub const PDF: StepType = StepType {
    action: "generate-pdf",
    summary: "Prints HTML or Markdown as a PDF; the output has its URL.",
    schema: || schemars::schema_for!(PdfConfig),
    compile: compile_pdf,
};

/// Characters of a file's name.
const LONGEST_NAME: usize = 200;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "StoreAssetConfig")]
struct StoreConfig {
    /// Where the file is now; a template, as is every text here.
    #[serde(default)]
    url: Option<String>,
    /// Or the file itself, in base64, with or without `data:…;base64,` in front.
    #[serde(default)]
    content: Option<String>,
    /// The file's name; that of the URL when absent.
    #[serde(default)]
    filename: Option<String>,
    /// The media type; that of the answer when absent.
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    visibility: Visibility,
    /// Seconds that the URL of a private file opens it; 7 days when absent, a year at most.
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GeneratePdfConfig")]
struct PdfConfig {
    /// The document as HTML; a template. Pictures come as `data:` URLs: nothing is fetched.
    #[serde(default)]
    html: Option<String>,
    /// Or as Markdown.
    #[serde(default)]
    markdown: Option<String>,
    /// The file's name; `document.pdf` when absent.
    #[serde(default)]
    filename: Option<String>,
    #[serde(default)]
    visibility: Visibility,
    #[serde(default)]
    pdf_options: PdfOptions,
    /// Seconds that the URL of a private file opens it; 7 days when absent, a year at most.
    #[serde(default)]
    expires_in_seconds: Option<u64>,
}

/// How a document is printed.
#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PdfOptions {
    /// `A4`, `Letter` or `Legal`.
    pub format: Paper,
    pub landscape: bool,
    /// Millimetres on all sides, 0 to 100; 20 when absent.
    pub margin: Option<f32>,
    /// A text at the top of each page.
    pub header: Option<String>,
    /// A text at the bottom of each page.
    pub footer: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "PaperSize")]
pub enum Paper {
    #[default]
    #[serde(alias = "a4")]
    A4,
    #[serde(alias = "letter")]
    Letter,
    #[serde(alias = "legal")]
    Legal,
}

impl PdfOptions {
    /// Problems are told at `name` and below it.
    pub(super) fn layout(&self, name: &str, fields: &mut Fields) -> Layout {
        let margin = self.margin.unwrap_or(20.0);
        if !(0.0..=100.0).contains(&margin) {
            fields.problem(&format!("{name}/margin"), "expected 0 to 100 millimetres");
        }
        let paper = match self.format {
            Paper::A4 => PaperSize::A4,
            Paper::Letter => PaperSize::Letter,
            Paper::Legal => PaperSize::Legal,
        };
        Layout { paper, landscape: self.landscape, margin, header: self.header.clone(), footer: self.footer.clone() }
    }
}

enum Source {
    Url(Template),
    Content(Template),
}

struct Store {
    source: Source,
    filename: Option<Template>,
    content_type: Option<Template>,
    visibility: Visibility,
    opens: Duration,
}

struct Pdf {
    document: Template,
    markdown: bool,
    filename: Option<Template>,
    visibility: Visibility,
    layout: Layout,
    opens: Duration,
}

fn opens(fields: &mut Fields, seconds: Option<u64>) -> Duration {
    let opens = seconds.map_or(OPENS, Duration::from_secs);
    if opens.is_zero() || opens > OPENS_LONGEST {
        fields.problem("expiresInSeconds", format!("expected 1 to {}", OPENS_LONGEST.as_secs()));
    }
    opens
}

fn compile_store(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: StoreConfig = config(step)?;
    let mut fields = Fields::default();
    let source = match (config.url.as_deref(), config.content.as_deref()) {
        (Some(url), None) => fields.template("url", url).map(Source::Url),
        (None, Some(content)) => {
            if config.filename.is_none() {
                fields.problem("filename", "expected with `content`");
            }
            fields.template("content", content).map(Source::Content)
        }
        _ => {
            fields.problem("url", "expected the file, as `url` or as `content`");
            None
        }
    };
    let filename = config.filename.as_deref().and_then(|text| fields.template("filename", text));
    let content_type = config.content_type.as_deref().and_then(|text| fields.template("contentType", text));
    let opens = opens(&mut fields, config.expires_in_seconds);
    fields.finish(source.map(|source| Store { source, filename, content_type, visibility: config.visibility, opens }))
}

fn compile_pdf(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: PdfConfig = config(step)?;
    let mut fields = Fields::default();
    let (name, text) = match (&config.html, &config.markdown) {
        (Some(html), None) => ("html", html),
        (None, Some(markdown)) => ("markdown", markdown),
        _ => {
            fields.problem("html", "expected the document, as `html` or as `markdown`");
            return Err(fields.0);
        }
    };
    let document = fields.template(name, text);
    let filename = config.filename.as_deref().and_then(|text| fields.template("filename", text));
    let layout = config.pdf_options.layout("pdfOptions", &mut fields);
    let opens = opens(&mut fields, config.expires_in_seconds);
    let (markdown, visibility) = (config.markdown.is_some(), config.visibility);
    fields.finish(document.map(|document| Pdf { document, markdown, filename, visibility, layout, opens }))
}

/// A name without folders and without anything that a header or a page would take for more than a name.
fn plain_name(name: &str) -> StepResult<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default().trim();
    let plain: String = last.chars().filter(|letter| !letter.is_control() && !"\"<>|:*?".contains(*letter)).take(LONGEST_NAME).collect();
    if plain.trim_matches('.').is_empty() {
        return Err(StepFailure::new("invalid_filename", format!("`filename` came to `{name}`")).into());
    }
    Ok(plain)
}

/// A file to keep.
pub struct NewFile {
    pub filename: String,
    pub content_type: String,
    pub visibility: Visibility,
    pub bytes: Bytes,
}

/// Makes and keeps a file, once; its description as the step's output. `opens`: how long its URL does.
pub async fn keep<F>(context: &StepContext<'_>, opens: Duration, make: impl FnOnce() -> F + Send) -> StepResult<serde_json::Value>
where
    F: Future<Output = StepResult<NewFile>> + Send,
{
    let id = context.chosen("asset", || AssetId::new(&context.parts().clock)).await;
    let (assets, tenant) = (&context.parts().assets, context.run.tenant);
    let asset: Asset = context
        .effect(&context.key("file"), Effect::Idempotent, || async {
            let NewFile { filename, content_type, visibility, bytes } = make().await?;
            let asset = Asset { filename, content_type, size: bytes.len() as u64, visibility };
            assets.keep(tenant, id, asset.clone(), bytes).await?;
            Ok(asset)
        })
        .await?;
    // A URL is a key to the file: it is made once, so that the output is the same however often the step is entered.
    let key = context.key("url");
    let url: String = match context.recall_as(&key) {
        Some(url) => url,
        None => {
            let url = assets.url(tenant, id, &asset, opens)?;
            context.record_done(&key, &url);
            url
        }
    };
    Ok(json!({ "assetId": id, "url": url, "filename": asset.filename, "contentType": asset.content_type, "size": asset.size }))
}

#[async_trait]
impl StepBody for Store {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let optional = |template: Option<&Template>| template.map(|template| text(context, template)).transpose();
        let (name, kind) = (optional(self.filename.as_ref())?, optional(self.content_type.as_ref())?);
        let output = keep(context, self.opens, || async {
            let (bytes, named, typed) = match &self.source {
                Source::Content(content) => {
                    let text = super::text(context, content)?;
                    let (typed, text) = match text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
                        Some((typed, text)) => (typed.to_owned(), text.to_owned()),
                        None => (String::new(), text),
                    };
                    let text: String = text.split_whitespace().collect();
                    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                    let bytes = bytes.map_err(|error| StepFailure::new("invalid_content", format!("`content` is no base64: {error}")))?;
                    (Bytes::from(bytes), String::new(), typed)
                }
                Source::Url(url) => fetch(context, text(context, url)?.trim()).await?,
            };
            let max_bytes = context.limits().max_file_bytes;
            if bytes.len() as u64 > max_bytes {
                return Err(StepFailure::new("file_too_large", format!("the file has more than {max_bytes} bytes")).into());
            }
            let typed = kind.filter(|kind| !kind.trim().is_empty()).unwrap_or(typed);
            let content_type = if is_media_type(&typed) { typed } else { "application/octet-stream".into() };
            let filename = plain_name(&name.filter(|name| !name.trim().is_empty()).unwrap_or(named))?;
            Ok(NewFile { filename, content_type, visibility: self.visibility, bytes })
        });
        Ok(StepOutput::of(output.await?))
    }
}

fn is_media_type(text: &str) -> bool {
    text.parse::<http::HeaderValue>().is_ok()
        && text.split(';').next().is_some_and(|kind| kind.split('/').filter(|part| !part.trim().is_empty()).count() == 2)
}

/// A file's bytes, the name in its URL, and its media type.
async fn fetch(context: &StepContext<'_>, url: &str) -> StepResult<(Bytes, String, String)> {
    let failed = |error: crate::net::Error| Interrupt::Fail(net_failure(&error));
    let budget = Duration::from_millis(context.planned.step.timeout_ms);
    let mut request = Request::new(http::Method::GET, url, Trust::Judged);
    request.deadlines = Deadlines { first_byte: budget, total: budget, ..Deadlines::default() };
    request.max_bytes = context.limits().max_file_bytes;
    let answer = context.parts().egress.send(request).await.map_err(failed)?;
    let status = answer.status;
    if !status.is_success() {
        let retryable = status.is_server_error() || status.as_u16() == 429;
        return Err(StepFailure { retryable, ..StepFailure::new("http_status", format!("the server answered {}", status.as_u16())) }.into());
    }
    let named = answer
        .url
        .path_segments()
        .and_then(|mut segments| segments.next_back())
        .filter(|name| !name.is_empty())
        .unwrap_or("file")
        .to_owned();
    let typed = answer.media_type();
    Ok((answer.bytes().await.map_err(failed)?, named, typed))
}

#[async_trait]
impl StepBody for Pdf {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let name = self.filename.as_ref().map(|template| text(context, template)).transpose()?;
        let output = keep(context, self.opens, || async {
            let document = text(context, &self.document)?;
            let markup = if self.markdown { Markup::Markdown } else { Markup::Html };
            print(context, (markup, document), self.layout.clone(), name, self.visibility).await
        });
        Ok(StepOutput::of(output.await?))
    }
}

/// Prints a document.
pub async fn print(
    context: &StepContext<'_>,
    (markup, document): (Markup, String),
    layout: Layout,
    name: Option<String>,
    visibility: Visibility,
) -> StepResult<NewFile> {
    let name = name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| "document.pdf".into());
    let printed = context.parts().printer.print(context.run.party(), markup, document, layout).await;
    let pdf = printed.map_err(|why| match why {
        Unprintable::Late(_) => StepFailure::new("print_timeout", why.to_string()),
        Unprintable::QueueFull => StepFailure::transient("printer_busy", why.to_string()),
        _ => StepFailure::new("cannot_print", why.to_string()),
    })?;
    let mut filename = plain_name(&name)?;
    if !filename.to_ascii_lowercase().ends_with(".pdf") {
        filename.push_str(".pdf");
    }
    Ok(NewFile { filename, content_type: "application/pdf".into(), visibility, bytes: Bytes::from(pdf) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_name_and_no_path() {
        assert_eq!(plain_name("../../etc/passwd").unwrap(), "passwd");
        assert_eq!(plain_name("a\\b:c\r\n.txt").unwrap(), "bc.txt");
        assert!(plain_name("..").is_err() && plain_name("a/").is_err());
    }
}
