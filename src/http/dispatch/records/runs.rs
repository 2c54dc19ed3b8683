//! `/v1/records/{recordId}/results` and `/costs`: what was executed for a record, and what that cost.

use std::collections::BTreeMap;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::Result;
use crate::http::AppState;
use crate::http::dispatch::about;
use crate::http::dispatch::executions::{OwnFilter, Row, models_of, page};
use crate::http::extract::{Filters, Id, InPath};
use crate::http::paging::Page;
use crate::http::scope::{RecordsRead, Scoped};
use crate::id::{RecordId, TenantId};
use crate::model::run::Spent;
use crate::store::{RunFilter, SharedStore};

/// Executions that are added up at most, and how many are read at once.
const MOST: usize = 10_000;
const PAGE: u32 = 500;

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route(
            "/v1/records/{recordId}/results",
            get_with(results, about("listRecordResults", "Records", "List the executions for a record, newest first")),
        )
        .api_route(
            "/v1/records/{recordId}/costs",
            get_with(costs, about("getRecordCosts", "Records", "Add up what a record's executions cost")),
        )
}

/// An execution for a record.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordResult")]
struct ResultRow {
    #[serde(flatten)]
    row: Row,
    record_id: RecordId,
}

/// What executions cost together.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordCost")]
struct Cost {
    executions: u64,
    /// US dollars.
    cost: f64,
    input_tokens: u64,
    output_tokens: u64,
    model_calls: u64,
    /// Whether some figure is an estimate, or a model has no known price.
    estimated: bool,
}

/// What a record's executions cost.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecordCosts")]
struct Costs {
    record_id: RecordId,
    /// US dollars.
    total_cost: f64,
    total_tokens: u64,
    prompt_tokens: u64,
    completion_tokens: u64,
    execution_count: u64,
    /// What each model's steps cost, the dearest first. Steps of child executions are in the totals only if they are for the record, too.
    model_breakdown: Vec<ModelCost>,
    total: Cost,
    /// By the flow's or agent's name.
    by_target: BTreeMap<String, Cost>,
    /// There are older executions than the 10,000 that were added up.
    truncated: bool,
}

/// What the steps that asked one model cost.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "RecordModelCost")]
struct ModelCost {
    model: String,
    /// Steps that asked it.
    count: u64,
    /// US dollars.
    cost: f64,
    tokens: u64,
}

#[derive(Default)]
struct Sum {
    executions: u64,
    spent: Spent,
}

impl Sum {
    fn add(&mut self, spent: &Spent) {
        self.executions += 1;
        self.spent.add(spent);
    }

    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    fn told(&self) -> Cost {
        Cost {
            executions: self.executions,
            cost: self.spent.cost as f64 / 1e9,
            input_tokens: self.spent.input_tokens,
            output_tokens: self.spent.output_tokens,
            model_calls: self.spent.calls,
            estimated: self.spent.estimated,
        }
    }
}

async fn there(store: &SharedStore, tenant: TenantId, record: RecordId) -> Result<RunFilter> {
    store.find_record(tenant, record).await?.ok_or_else(RecordId::missing)?;
    Ok(RunFilter { record: Some(record), ..RunFilter::default() })
}

async fn results(
    caller: Scoped<RecordsRead>,
    State(store): State<SharedStore>,
    Id(record): Id<RecordId>,
    Filters(filter): Filters<OwnFilter>,
) -> Result<Json<Page<ResultRow>>> {
    let (filter, paging) = filter.read()?;
    there(&store, caller.tenant, record).await?;
    let Json(page) = page(&store, caller.tenant, RunFilter { record: Some(record), ..filter }, &paging).await?;
    let data = page.data.into_iter().map(|row| ResultRow { row, record_id: record }).collect();
    Ok(Json(Page { data, pagination: page.pagination }))
}

async fn costs(caller: Scoped<RecordsRead>, State(store): State<SharedStore>, Id(record): Id<RecordId>) -> Result<Json<Costs>> {
    let filter = there(&store, caller.tenant, record).await?;
    let (mut total, mut by_target): (Sum, BTreeMap<String, Sum>) = (Sum::default(), BTreeMap::new());
    let mut by_model: BTreeMap<String, Sum> = BTreeMap::new();
    let (mut before, mut seen) = (None, 0);
    let truncated = loop {
        let runs = store.list_runs(caller.tenant, RunFilter { before, limit: PAGE, ..filter.clone() }).await?;
        before = runs.last().map(|run| run.id);
        seen += runs.len();
        for run in &runs {
            total.add(&run.spent);
            by_target.entry(run.flow_name.clone()).or_default().add(&run.spent);
            if run.spent.calls > 0 {
                for (model, spent) in models_of(&store, caller.tenant, run.id).await? {
                    by_model.entry(model).or_default().add(&spent);
                }
            }
        }
        if runs.len() < PAGE as usize || seen >= MOST {
            break seen >= MOST;
        }
    };
    let by_target = by_target.into_iter().map(|(name, sum)| (name, sum.told())).collect();
    let of_model =
        |(model, sum): (String, Sum)| ModelCost { model, count: sum.executions, cost: sum.spent.dollars(), tokens: sum.spent.tokens() };
    let mut model_breakdown: Vec<ModelCost> = by_model.into_iter().map(of_model).collect();
    model_breakdown.sort_by(|one, other| other.cost.total_cmp(&one.cost));
    Ok(Json(Costs {
        record_id: record,
        total_cost: total.spent.dollars(),
        total_tokens: total.spent.tokens(),
        prompt_tokens: total.spent.input_tokens,
        completion_tokens: total.spent.output_tokens,
        execution_count: total.executions,
        model_breakdown,
        total: total.told(),
        by_target,
        truncated,
    }))
}
