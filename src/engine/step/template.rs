//! `template`: a document rendered with Liquid-flavoured templates.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepResult};
use crate::error::Problems;
use crate::expr::{Document, Escape, TemplateTree};
use crate::model::Step;

pub const TYPE: StepType = StepType {
    action: "template",
    summary: "Renders a document: HTML (escaped), Markdown or text.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum OutputFormat {
    Html,
    EmailHtml,
    Markdown,
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
}

struct Body {
    document: Document,
    inputs: TemplateTree,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let escape = match config.output_format {
        OutputFormat::Html | OutputFormat::EmailHtml => Escape::Html,
        OutputFormat::Markdown | OutputFormat::Text => Escape::None,
    };
    let document = Document::parse(&config.template, escape).map_err(|error| fields.problem("template", error.to_string())).ok();
    let inputs = fields.tree("inputs", &Value::Object(config.inputs));
    fields.finish(document.zip(inputs).map(|(document, inputs)| Body { document, inputs }))
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
        Ok(StepOutput::of(rendered.value))
    }
}
