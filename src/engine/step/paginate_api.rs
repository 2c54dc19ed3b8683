//! `paginate-api`: an HTTP call for each page of a list, and the items of all of them.
//!
//! Each page is an effect of its own: after a crash the pages that came are recalled, and the next one is asked for.

use std::time::Duration;

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::{WrittenCall, perform_within};
use super::{Fields, StepBody, StepOutput, StepType, config};
use crate::engine::context::{StepContext, StepFailure, StepResult};
use crate::error::Problems;
use crate::expr::TemplateTree;
use crate::model::Step;
use crate::tool::Effect;
use crate::tool::http::{HttpConfig, HttpTemplate};

pub const TYPE: StepType = StepType {
    action: "paginate-api",
    summary: "Calls an API page by page; the output is the list of all items.",
    schema: || schemars::schema_for!(Config),
    compile,
};

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PaginateApiConfig")]
struct Config {
    /// The call of one page; `url`, `headers`, `query` and `auth` may also stand beside it. `{{page}}`, `{{offset}}` and `{{cursor}}` are its variables.
    #[serde(default)]
    http: Option<HttpConfig>,
    #[serde(flatten)]
    flat: HttpConfig,
    /// How pages are told apart.
    #[serde(default)]
    pagination_type: Pagination,
    /// Where a page has its items, as `data.items`; the whole page when absent.
    #[serde(default)]
    entity_path: Option<String>,
    /// The query's parameter: `page`, `offset` or `cursor` when absent. Left out when the call names the variable itself.
    #[serde(default)]
    page_param: Option<String>,
    /// The first page's number; 1 when absent.
    #[serde(default)]
    start_page: Option<u64>,
    /// Items of a full page: a page with fewer is the last. `offset` counts by it, or by the items that came.
    #[serde(default)]
    page_size: Option<u64>,
    /// The query's parameter for `pageSize`.
    #[serde(default)]
    page_size_param: Option<String>,
    /// Where a page has the cursor of the next one, as `meta.next`.
    #[serde(default)]
    cursor_path: Option<String>,
    /// 1 to 100; 10 when absent.
    #[serde(default)]
    #[schemars(range(min = 1, max = 100))]
    max_pages: Option<u32>,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq, Eq, Default, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Pagination {
    /// By number.
    #[default]
    Page,
    /// By how many items came before.
    Offset,
    /// By what the page before says.
    Cursor,
}

impl Pagination {
    const fn variable(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Offset => "offset",
            Self::Cursor => "cursor",
        }
    }
}

struct Body {
    call: HttpTemplate,
    pagination: Pagination,
    entities: Vec<String>,
    cursor: Vec<String>,
    start: u64,
    size: Option<u64>,
    pages: u32,
    timeout: Duration,
}

const MAX_PAGES: u32 = 100;
const PAGES: u32 = 10;

fn path(text: Option<&str>) -> Vec<String> {
    let text = text.unwrap_or_default().trim_start_matches('$').trim_start_matches('.');
    text.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

fn compile(step: &Step) -> Result<Box<dyn StepBody>, Problems> {
    let config: Config = config(step)?;
    let mut fields = Fields::default();
    let mut joined = WrittenCall::read(config.http, config.flat, &mut fields);
    let http = &mut joined.http;
    let variable = config.pagination_type.variable();
    // A call that names the variable says itself where it goes.
    let written = TemplateTree::parse(&json!([http.url, http.query, http.body]));
    if !written.is_ok_and(|written| written.roots().contains(variable)) {
        http.query.insert(config.page_param.unwrap_or_else(|| variable.to_owned()), format!("{{{{{variable}}}}}").into());
    }
    match (config.page_size, config.page_size_param) {
        (Some(size), Some(param)) => drop(http.query.insert(param, size.to_string().into())),
        (None, Some(_)) => fields.problem("pageSize", "expected with `pageSizeParam`"),
        (Some(0), None) => fields.problem("pageSize", "expected 1 or more"),
        (_, None) => {}
    }
    if config.pagination_type == Pagination::Cursor && config.cursor_path.is_none() {
        fields.problem("cursorPath", "expected where a page has the cursor of the next one");
    }
    let pages = config.max_pages.unwrap_or(PAGES);
    if !(1..=MAX_PAGES).contains(&pages) {
        fields.problem("maxPages", format!("expected 1 to {MAX_PAGES}"));
    }
    let call = joined.compile(&mut fields).filter(|call| {
        let is_read = call.effect() != Effect::Once;
        if !is_read {
            fields.0.add(joined.place("/method"), "pages are read: expected GET, or `effect: \"idempotent\"`");
        }
        is_read
    });
    fields.finish(call.map(|call| Body {
        call,
        pagination: config.pagination_type,
        entities: path(config.entity_path.as_deref()),
        cursor: path(config.cursor_path.as_deref()),
        start: config.start_page.unwrap_or(1),
        size: config.page_size,
        pages,
        timeout: Duration::from_millis(step.timeout_ms),
    }))
}

#[async_trait]
impl StepBody for Body {
    async fn run(&self, context: &StepContext<'_>) -> StepResult<StepOutput> {
        let mut items: Vec<Value> = Vec::new();
        let mut cursor = Value::String(String::new());
        for number in 0..u64::from(self.pages) {
            let place: Map<String, Value> = [
                ("page".to_owned(), json!(self.start + number)),
                ("offset".to_owned(), json!(self.size.map_or(items.len() as u64, |size| size * number))),
                ("cursor".to_owned(), cursor.clone()),
            ]
            .into_iter()
            .collect();
            let answer = perform_within(context, &format!("page/{}", number + 1), &self.call, self.timeout, &place).await?;
            let page = answer.read()?;
            let found = super::http::follow(&page, &self.entities).unwrap_or(&Value::Null);
            let found = match found {
                Value::Array(found) => found.clone(),
                Value::Null => Vec::new(),
                _ => {
                    let message = format!("page {} has no list at `entityPath`", number + 1);
                    return Err(StepFailure::new("not_a_list", message).into());
                }
            };
            let count = found.len() as u64;
            items.extend(found);
            if count == 0 || self.size.is_some_and(|size| count < size) {
                break;
            }
            if self.pagination == Pagination::Cursor {
                match super::http::follow(&page, &self.cursor) {
                    Some(next) if !next.is_null() && *next != json!("") && *next != cursor => cursor = next.clone(),
                    _ => break,
                }
            }
        }
        Ok(StepOutput::of(Value::Array(items)))
    }
}
