//! `template`: a document rendered with Liquid-flavoured templates.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{PdfOptions, keep, print};
use super::{Fields, StepBody, StepOutput, StepType, config, text_of};
use crate::asset::{OPENS, Visibility};
use crate::engine::context::{StepContext, StepResult};
use crate::error::Problems;
use crate::expr::{Document, Escape, Template, TemplateTree};
use crate::html::{Layout, Markup};
use crate::model::Step;

pub const TYPE: StepType = StepType {
    action: "template",
    summary: "Renders a document: HTML (escaped), Markdown, text, or a PDF.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum OutputFormat {
    Html,
    EmailHtml,
    Markdown,
    /// HTML that is printed; the output is a file with a URL, as of `generate-pdf`.
    Pdf,
    #[default]
    Text,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TemplateConfig")]
struct Config {
    /// The document: Liquid with `{{ }}`, `{% if %}`, `{% for %}`, `{% assign %}` and filters.
    template: String,
    #[serde(default)]
    output_format: OutputFormat,
    /// Values seen by this document only; strings in them are templates.
    #[serde(default)]
    inputs: Map<String, Value>,
    /// Of a PDF: how it is printed.
    #[serde(default)]
    pdf_options: PdfOptions,
    /// Of a PDF: the file's name; a template. `document.pdf` when absent.
    #[serde(default)]
    filename: Option<String>,
    /// Of a PDF: who may read it.
    #[serde(default)]
    visibility: Visibility,
    /// Refused, as `partials`.
    #[serde(default)]
    #[schemars(skip)]
    as_artifact: Option<bool>,
    #[serde(default)]
    #[schemars(skip)]
    partials: Option<Value>,
}

struct Body {
    document: Document,
    inputs: TemplateTree,
    printed: Option<Printed>,
}

/// What becomes of a PDF.
struct Printed {
    layout: Layout,
    filename: Option<Template>,
    visibility: Visibility,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    if config.as_artifact == Some(true) {
        fields.problem("asArtifact", "not available in this version: the output is the document");
    }
    if config.partials.is_some_and(|partials| !matches!(&partials, Value::Null) && partials.as_object().is_none_or(|map| !map.is_empty())) {
        fields.problem("partials", "not available in this version: write the document in one piece");
    }
    let escape = match config.output_format {
        OutputFormat::Html | OutputFormat::EmailHtml | OutputFormat::Pdf => Escape::Html,
        OutputFormat::Markdown | OutputFormat::Text => Escape::None,
    };
    let document = Document::parse(&config.template, escape).map_err(|error| fields.problem("template", error.to_string())).ok();
    let inputs = fields.tree("inputs", &Value::Object(config.inputs));
    let layout = config.pdf_options.layout("pdfOptions", &mut fields);
    let filename = config.filename.as_deref().and_then(|text| fields.template("filename", text));
    let printed = (config.output_format == OutputFormat::Pdf).then_some(Printed { layout, filename, visibility: config.visibility });
    fields.finish(document.zip(inputs).map(|(document, inputs)| Body { document, inputs, printed }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let scope = context.scope();
        let inputs = self.inputs.render(&scope)?;
        context.unresolved(inputs.unresolved);
        let inputs = inputs.value.as_object().cloned().unwrap_or_default();
        let rendered = self.document.render(&scope.within(&inputs), &context.parts().clock)?;
        context.unresolved(rendered.unresolved);
        let Some(printed) = &self.printed else { return Ok(StepOutput::of(rendered.value)) };
        let name = match &printed.filename {
            Some(template) => {
                let name = template.render(&scope)?;
                context.unresolved(name.unresolved);
                Some(text_of(&name.value))
            }
            None => None,
        };
        let document = text_of(&rendered.value);
        let output =
            keep(context, OPENS, || print(context, (Markup::Html, document), printed.layout.clone(), name, printed.visibility)).await?;
        Ok(StepOutput::of(output))
    }
}
