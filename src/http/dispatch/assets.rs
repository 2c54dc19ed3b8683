//! `/v1/assets`: the files that flows made. Whoever has a file's URL reads it without a key, as long as its token opens it.

use std::ops::RangeInclusive;

use aide::axum::ApiRouter;
use aide::axum::routing::{delete_with, get_with};
use aide::openapi::{MediaType, ReferenceOr, Response as ApiResponse, SchemaObject, StatusCode as OpenApiStatus};
use aide::transform::TransformOperation;
use axum::Json;
use axum::extract::State;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE, IF_RANGE, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::about;
use crate::asset::{Asset, Assets, OPENS, Visibility};
use crate::clock::Timestamp;
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Id, Ids, InPath, Params};
use crate::http::paging::{Page, Paging};
use crate::http::problem::Problem;
use crate::http::scope::{AssetsRead, AssetsWrite, Scoped};
use crate::id::{AssetId, TenantId};
use crate::store::Kept;

const TAG: &str = "Assets";

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/assets", get_with(list, about("listAssets", TAG, "List the files that flows made")))
        .api_route("/v1/assets/{assetId}", delete_with(delete, about("deleteAsset", TAG, "Delete a file")))
}

pub(super) fn public_routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/assets/{assetId}/{filename}",
        get_with(read, |op| documented(about("readAsset", TAG, "Read a file by its URL, or a part of it (`Range`)")(op))),
    )
}

/// Says that the answer is the file's bytes, and that it may not be there.
fn documented(mut operation: TransformOperation<'_>) -> TransformOperation<'_> {
    let schema =
        SchemaObject { json_schema: schemars::json_schema!({ "type": "string", "format": "binary" }), external_docs: None, example: None };
    let bytes = MediaType { schema: Some(schema), ..MediaType::default() };
    let answer = ApiResponse {
        description: "The file's bytes".into(),
        content: [("*/*".to_owned(), bytes)].into_iter().collect(),
        ..ApiResponse::default()
    };
    let responses = &mut operation.inner_mut().responses.get_or_insert_default().responses;
    let part = ApiResponse { description: "The part that `Range` asks for".into(), ..answer.clone() };
    responses.insert(OpenApiStatus::Code(200), ReferenceOr::Item(answer));
    responses.insert(OpenApiStatus::Code(206), ReferenceOr::Item(part));
    responses.insert(OpenApiStatus::Code(416), ReferenceOr::ref_("#/components/responses/Error416"));
    responses.insert(OpenApiStatus::Code(404), ReferenceOr::ref_("#/components/responses/Error404"));
    operation
}

/// A file.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Asset")]
struct Row {
    id: AssetId,
    filename: String,
    content_type: String,
    /// Bytes.
    size: u64,
    visibility: Visibility,
    /// Where it can be read; that of a private file opens it for seven days.
    url: String,
    created_at: Timestamp,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedAsset")]
struct Deleted {
    id: AssetId,
    /// Always true.
    deleted: bool,
}

/// What a file's URL says of it.
#[derive(Debug, Deserialize, JsonSchema)]
struct Opened {
    /// What opens it.
    token: Option<String>,
}

/// The file's name, which is there for people only.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct Filename(#[expect(dead_code, reason = "the id alone says which file it is")] String);

impl std::str::FromStr for Filename {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for Filename {
    const PARAM: &'static str = "filename";
    const NOUN: &'static str = "file";
}

fn row(assets: &Assets, tenant: TenantId, kept: Kept<Asset>) -> Result<Row> {
    let url = assets.url(tenant, kept.id, &kept.body, OPENS)?;
    let Asset { filename, content_type, size, visibility } = kept.body;
    Ok(Row { id: kept.id, filename, content_type, size, visibility, url, created_at: kept.created_at })
}

async fn list(caller: Scoped<AssetsRead>, State(assets): State<Assets>, Params(paging): Params<Paging>) -> Result<Json<Page<Row>>> {
    let (trail, limit) = (paging.trail::<AssetId>()?, paging.limit());
    let found = assets.list(caller.tenant, trail.after(), limit + 1).await?;
    let page = trail.page(found, limit, false, |asset| asset.id);
    let data = page.data.into_iter().map(|kept| row(&assets, caller.tenant, kept)).collect::<Result<_>>()?;
    Ok(Json(Page { data, pagination: page.pagination }))
}

async fn delete(caller: Scoped<AssetsWrite>, State(assets): State<Assets>, Id(id): Id<AssetId>) -> Result<Json<Deleted>> {
    if !assets.delete(caller.tenant, id).await? {
        return Err(AssetId::missing());
    }
    Ok(Json(Deleted { id, deleted: true }))
}

/// The bytes, for a reader who trusts neither the file nor us: nothing in it runs.
async fn read(
    State(assets): State<Assets>,
    Ids(id, _): Ids<AssetId, Filename>,
    Params(opened): Params<Opened>,
    asked: HeaderMap,
) -> Result<Response> {
    let tenant = opened.token.and_then(|token| assets.opened(id, &token)).ok_or_else(AssetId::missing)?;
    let (asset, bytes) = assets.read(tenant, id).await?.ok_or_else(AssetId::missing)?;
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("application/octet-stream"));
    let name: String = url::form_urlencoded::byte_serialize(asset.filename.as_bytes()).collect::<String>().replace('+', "%20");
    let caching = if asset.visibility == Visibility::Public { "public, max-age=3600" } else { "private, no-store" };
    let headers = [
        (CONTENT_TYPE, value(&asset.content_type)),
        (CONTENT_DISPOSITION, value(&format!("inline; filename*=UTF-8''{name}"))),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CACHE_CONTROL, HeaderValue::from_static(caching)),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ];
    let size = bytes.len() as u64;
    Ok(match part(&asked, size) {
        Part::Whole => (headers, bytes).into_response(),
        Part::Of(range) => {
            let told = format!("bytes {}-{}/{size}", range.start(), range.end());
            let bytes = bytes.slice(*range.start() as usize..=*range.end() as usize);
            (StatusCode::PARTIAL_CONTENT, headers, [(CONTENT_RANGE, told)], bytes).into_response()
        }
        Part::None => {
            let error =
                Error::new(Kind::Malformed, "range_not_satisfiable", format!("the file has {size} bytes, and none of them in this range"));
            ([(CONTENT_RANGE, format!("bytes */{size}"))], Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, error)).into_response()
        }
    })
}

/// What of a file is asked for (RFC 9110, section 14).
enum Part {
    Whole,
    Of(RangeInclusive<u64>),
    /// Nothing that it has.
    None,
}

/// Several ranges at once, and those of a version that the reader has, are answered with the whole, as is what cannot be read.
fn part(asked: &HeaderMap, size: u64) -> Part {
    let range = asked.get(RANGE).filter(|_| !asked.contains_key(IF_RANGE)).and_then(|range| range.to_str().ok());
    let Some(Ok(ranges)) = range.map(http_range_header::parse_range_header) else { return Part::Whole };
    match ranges.validate(size) {
        Ok(ranges) if ranges.len() == 1 => ranges.into_iter().next().map_or(Part::Whole, Part::Of),
        Ok(_) => Part::Whole,
        Err(_) => Part::None,
    }
}
