//! `search`: asks a search service; the output is a list of `{title, url, snippet}`.

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fields, StepBody, StepOutput, StepType, config, service, text};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::Template;
use crate::model::Step;
use crate::tool::services::ServiceKind;

pub const TYPE: StepType = StepType { action: "search", summary: "Searches the web.", schema: || schemars::schema_for!(Config), compile };

/// Results unless said otherwise, and at most.
const RESULTS: u32 = 10;
const MOST: u32 = 50;
/// Characters of a query.
const LONGEST: usize = 500;

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SearchConfig")]
struct Config {
    /// `searxng`, `wikipedia`, `brave`, `tavily` or another of the server's search services; the first that is configured when absent.
    #[serde(default)]
    provider: Option<String>,
    /// What is looked for; a template.
    query: String,
    /// 1 to 50; 10 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 50))]
    max_results: Option<u32>,
}

struct Body {
    provider: Option<String>,
    query: Template,
    most: u32,
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let query = fields.template("query", &config.query);
    let most = config.max_results.unwrap_or(RESULTS);
    if !(1..=MOST).contains(&most) {
        fields.problem("maxResults", format!("expected 1 to {MOST}"));
    }
    fields.finish(query.map(|query| Body { provider: config.provider, query, most }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let query = text(context, &self.query)?.trim().to_owned();
        if query.is_empty() || query.chars().count() > LONGEST {
            let message = format!("`query` came to {} characters: expected 1 to {LONGEST}", query.chars().count());
            return Err(StepFailure::new("invalid_search", message).into());
        }
        let service = context.parts().services.find(ServiceKind::Search, self.provider.as_deref(), &context.run.keys)?;
        let values = Map::from_iter([("query".to_owned(), json!(query)), ("limit".to_owned(), json!(self.most))]);
        let answer = service::ask(context, service, "search", &values, &[]).await?;
        let mut results = service.read(&answer)?;
        results.truncate(self.most as usize);
        Ok(StepOutput::of(Value::Array(results)))
    }
}
