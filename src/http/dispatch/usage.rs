//! `GET /v1/usage`: what executions used and cost, by day, key, flow, agent and model; as JSON pages or as one CSV.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use aide::openapi::{MediaType, ReferenceOr, Response as ApiResponse, SchemaObject, StatusCode};
use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::clock::Clock;
use crate::error::{Error, Problems, Result};
use crate::http::AppState;
use crate::http::extract::{Filters, InPath, Known};
use crate::http::paging::{Page, Paging, Position};
use crate::http::scope::{AnalyticsRead, Scoped};
use crate::id::{AgentId, FlowId, KeyId, WorkflowId};
use crate::model::Target;
use crate::model::quota::day_of;
use crate::store::{SharedStore, UsageGrouping, UsageQuery, UsageTotal};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/usage", get_with(read, |op| documented(about("getUsage", "Usage", "Read what was used and what it cost")(op))))
}

/// Days of a query that names no first one.
const DEFAULT_DAYS: u64 = 30;
/// Rows of one CSV.
const MAX_CSV_ROWS: u32 = 10_000;
const CSV: &str = "text/csv";
const COLUMNS: [&str; 14] = [
    "day",
    "keyId",
    "flowId",
    "agentId",
    "workflowId",
    "model",
    "requests",
    "executions",
    "failures",
    "inputTokens",
    "outputTokens",
    "cachedTokens",
    "reasoningTokens",
    "cost",
];

/// Which usage, and how it is told apart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "UsageFilter")]
struct Filter {
    /// The first day in UTC, as in `2026-11-01`; 30 days before the last one when absent.
    from: Option<String>,
    /// The last day; today when absent.
    to: Option<String>,
    /// Some of `day`, `key`, `flow`, `agent` and `model`, separated by commas; `day` when absent.
    group_by: Option<String>,
    /// Only executions that this API key started.
    key_id: Option<String>,
    /// Rows per page, 1 to 200; 50 by default.
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Known for Filter {
    const NAMES: &'static [&'static str] = &["from", "to", "groupBy", "keyId", "limit", "cursor"];
}

/// What one group used. Figures of models and counts of executions may be in different rows: executions belong to no model.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "UsageRow")]
struct Row {
    /// A day in UTC; null unless asked for.
    day: Option<String>,
    /// The key that started the executions; null for other callers, and unless asked for.
    key_id: Option<KeyId>,
    flow_id: Option<FlowId>,
    agent_id: Option<AgentId>,
    /// With `flow`: the HTTP workflow.
    workflow_id: Option<WorkflowId>,
    /// `provider/model`; null for figures of executions, and unless asked for.
    model: Option<String>,
    /// Calls of models.
    requests: u64,
    /// Executions that began.
    executions: u64,
    /// Executions that failed, or completed with failed steps.
    failures: u64,
    input_tokens: u64,
    output_tokens: u64,
    /// Of the input: read from a cache.
    cached_tokens: u64,
    /// Of the output: reasoning.
    reasoning_tokens: u64,
    /// US dollars.
    cost: f64,
}

impl From<UsageTotal> for Row {
    #[expect(clippy::cast_precision_loss, reason = "shown to people; the exact figure stays in nano-dollars")]
    fn from(total: UsageTotal) -> Self {
        let UsageTotal { day, key, target, model, figures } = total;
        let workflow_id = match target {
            Some(Target::Workflow(id)) => Some(id),
            _ => None,
        };
        Self {
            day,
            key_id: key,
            flow_id: target.and_then(Target::flow_id),
            agent_id: target.and_then(Target::agent_id),
            workflow_id,
            model,
            requests: figures.requests,
            executions: figures.executions,
            failures: figures.failures,
            input_tokens: figures.input_tokens,
            output_tokens: figures.output_tokens,
            cached_tokens: figures.cached_tokens,
            reasoning_tokens: figures.reasoning_tokens,
            cost: figures.cost as f64 / 1e9,
        }
    }
}

impl Row {
    /// In the order of [`COLUMNS`].
    fn cells(&self) -> [String; 14] {
        fn shown<T: ToString>(value: Option<&T>) -> String {
            value.map(ToString::to_string).unwrap_or_default()
        }
        [
            shown(self.day.as_ref()),
            shown(self.key_id.as_ref()),
            shown(self.flow_id.as_ref()),
            shown(self.agent_id.as_ref()),
            shown(self.workflow_id.as_ref()),
            shown(self.model.as_ref()),
            self.requests.to_string(),
            self.executions.to_string(),
            self.failures.to_string(),
            self.input_tokens.to_string(),
            self.output_tokens.to_string(),
            self.cached_tokens.to_string(),
            self.reasoning_tokens.to_string(),
            self.cost.to_string(),
        ]
    }
}

/// How many rows stand before a page.
#[derive(Debug, Clone, Copy)]
struct RowCount(u64);

impl Position for RowCount {
    const KIND: u8 = 40;
    const LEN: usize = 8;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.to_be_bytes());
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|bytes| Self(u64::from_be_bytes(bytes)))
    }
}

impl Filter {
    /// The query for the store from its first row on, and the page.
    fn read(self, clock: &Clock) -> Result<(UsageQuery, Paging)> {
        let mut problems = Problems::default();
        let last_day = self.to.map_or_else(|| Some(day_of(clock.now())), |text| day("/to", &text, &mut problems));
        let first_day = match (self.from, &last_day) {
            (Some(text), _) => day("/from", &text, &mut problems),
            (None, Some(last)) => days_before(last),
            (None, None) => None,
        };
        if first_day.as_ref().zip(last_day.as_ref()).is_some_and(|(first, last)| first > last) {
            problems.add("/to", "expected a day that is not before `from`");
        }
        let by = grouping(self.group_by.as_deref().unwrap_or("day"), &mut problems);
        problems.into_result()?;
        let key = self.key_id.map(|id| id.parse::<KeyId>().map_err(|_| KeyId::missing())).transpose()?;
        let (first_day, last_day) = (first_day.unwrap_or_default(), last_day.unwrap_or_default());
        let query = UsageQuery { first_day, last_day, key, by, offset: 0, limit: 0 };
        Ok((query, Paging { limit: self.limit, cursor: self.cursor, search: None }))
    }
}

/// A day, or the day of a time in UTC.
fn day(at: &str, text: &str, problems: &mut Problems) -> Option<String> {
    let (date, rest) = (text.get(..10).unwrap_or_default(), text.get(10..).unwrap_or_default());
    match date.parse::<jiff::civil::Date>() {
        Ok(date) if rest.is_empty() || rest.starts_with('T') && rest.ends_with('Z') => Some(date.to_string()),
        _ => {
            problems.add(at, "expected a day in UTC, as in `2026-11-30`");
            None
        }
    }
}

fn days_before(last: &str) -> Option<String> {
    let last = last.parse::<jiff::civil::Date>().ok()?;
    let first = last.checked_sub(std::time::Duration::from_secs(DEFAULT_DAYS * 24 * 3_600)).ok()?;
    Some(first.to_string())
}

fn grouping(text: &str, problems: &mut Problems) -> UsageGrouping {
    let mut by = UsageGrouping::default();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "day" => by.day = true,
            "key" => by.key = true,
            "flow" => by.flow = true,
            "agent" => by.agent = true,
            "model" => by.model = true,
            other => problems.add("/groupBy", format!("unknown `{other}`; expected some of day, key, flow, agent, model")),
        }
    }
    by
}

async fn read(
    caller: Scoped<AnalyticsRead>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    headers: HeaderMap,
    Filters(filter): Filters<Filter>,
) -> Result<Response> {
    let (query, paging) = filter.read(&clock)?;
    if headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains(CSV)) {
        let rows = store.read_usage(caller.tenant, UsageQuery { limit: MAX_CSV_ROWS + 1, ..query }).await?;
        return table(rows.into_iter().map(Row::from).collect());
    }
    let trail = paging.trail::<RowCount>()?;
    let (limit, offset) = (paging.limit(), trail.after().map_or(0, |RowCount(count)| count));
    let rows = store.read_usage(caller.tenant, UsageQuery { limit: limit + 1, offset, ..query }).await?;
    let numbered: Vec<(u64, UsageTotal)> = (offset + 1..).zip(rows).collect();
    let Page { data, pagination } = trail.page(numbered, limit, false, |(number, _)| RowCount(*number));
    Ok(Json(Page { data: data.into_iter().map(|(_, total)| Row::from(total)).collect(), pagination }).into_response())
}

/// All rows as CSV (RFC 4180).
fn table(rows: Vec<Row>) -> Result<Response> {
    if rows.len() > MAX_CSV_ROWS as usize {
        let message = format!("the CSV would have more than {MAX_CSV_ROWS} rows; choose fewer days or groups, or read JSON in pages");
        return Err(Error::invalid_at("/groupBy", message));
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS).map_err(Error::internal)?;
    for row in rows {
        writer.write_record(row.cells()).map_err(Error::internal)?;
    }
    let bytes = writer.into_inner().map_err(|error| Error::internal(error.to_string()))?;
    Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8")], bytes).into_response())
}

/// Documents both forms of the answer.
fn documented(operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let mut operation = operation.response::<200, Json<Page<Row>>>();
    let schema = SchemaObject { json_schema: schemars::json_schema!({ "type": "string" }), external_docs: None, example: None };
    let responses = &mut operation.inner_mut().responses.get_or_insert_default().responses;
    let answer = responses.entry(StatusCode::Code(200)).or_insert_with(|| ReferenceOr::Item(ApiResponse::default()));
    if let ReferenceOr::Item(answer) = answer {
        answer.content.insert(CSV.to_owned(), MediaType { schema: Some(schema), ..MediaType::default() });
    }
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_and_counted_back() {
        let mut problems = Problems::default();
        assert_eq!(day("/to", "2026-11-30", &mut problems).as_deref(), Some("2026-11-30"));
        assert_eq!(day("/to", "2026-11-30T10:00:00Z", &mut problems).as_deref(), Some("2026-11-30"));
        assert!(problems.0.is_empty());
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-30 10:00", "2026-11-3"] {
            assert_eq!(day("/to", wrong, &mut problems), None, "{wrong}");
        }
        assert_eq!(problems.0.len(), 5);
        assert_eq!(days_before("2026-03-01").as_deref(), Some("2026-01-30"));
    }

    #[test]
    fn groups_are_named() {
        let mut problems = Problems::default();
        let by = grouping("day, model,agent", &mut problems);
        assert_eq!(by, UsageGrouping { day: true, model: true, agent: true, ..UsageGrouping::default() });
        assert!(problems.0.is_empty());
        grouping("week", &mut problems);
        assert_eq!(problems.0.len(), 1);
    }
}
