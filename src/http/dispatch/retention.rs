//! `/v1/retention`: how long a tenant's data is kept.

use std::collections::BTreeMap;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::about;
use crate::clock::Clock;
use crate::error::{Error, Kind, Problems, Result};
use crate::http::AppState;
use crate::http::extract::Body;
use crate::http::scope::{FlowsRead, FlowsWrite, Scoped};
use crate::id::TenantId;
use crate::model::{RetentionKind, RetentionPolicy, span};
use crate::queue::retention::TenantRetention;
use crate::store::{Collection, Kept, SharedStore, StoreError};

const TAG: &str = "Retention";
/// The shortest time that a tenant can set: data of calls that are under way is never deleted.
const MIN_SPAN: Duration = Duration::from_secs(3_600);

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new().api_route(
        "/v1/retention",
        get_with(read, about("getRetention", TAG, "Read how long data is kept"))
            .put_with(put, about("putRetention", TAG, "Set how long data is kept")),
    )
}

/// How long each kind of data is kept: a length of time such as `30d` or `12h`, at least `1h`; `null` keeps it for ever. A kind that is absent has the
/// server's default.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RetentionInput {
    /// Ended executions with all that belongs to them.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    executions: Option<Option<String>>,
    /// The events of ended executions, except for the last ones.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    events: Option<Option<String>>,
    /// Conversations of pages, from their last message on.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    conversations: Option<Option<String>>,
    /// Webhook deliveries that are over.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    deliveries: Option<Option<String>>,
    /// Ended jobs.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "Option<String>")]
    jobs: Option<Option<String>>,
}

/// Tells `null` from a member that is absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(deserializer).map(Some)
}

/// How long each kind of data is kept; `null` is for ever.
#[derive(Debug, Serialize, JsonSchema)]
struct RetentionSpans {
    executions: Option<String>,
    events: Option<String>,
    conversations: Option<String>,
    deliveries: Option<String>,
    jobs: Option<String>,
}

/// How long the tenant's data is kept, and what the server keeps by default.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Retention")]
struct RetentionRow {
    #[serde(flatten)]
    spans: RetentionSpans,
    /// What holds for kinds that the tenant did not set.
    defaults: RetentionSpans,
}

impl RetentionSpans {
    fn of(policy: &RetentionPolicy) -> Self {
        let text = |kind| policy.get(kind).map(span::format);
        Self {
            executions: text(RetentionKind::Executions),
            events: text(RetentionKind::Events),
            conversations: text(RetentionKind::Conversations),
            deliveries: text(RetentionKind::Deliveries),
            jobs: text(RetentionKind::Jobs),
        }
    }
}

impl RetentionRow {
    fn of(kept: Option<&Kept<TenantRetention>>, defaults: &RetentionPolicy) -> Self {
        let policy = kept.map_or_else(|| defaults.clone(), |kept| kept.body.policy(defaults));
        Self { spans: RetentionSpans::of(&policy), defaults: RetentionSpans::of(defaults) }
    }
}

impl RetentionInput {
    fn read(self) -> Result<TenantRetention> {
        let mut problems = Problems::default();
        let mut overrides = BTreeMap::new();
        let given = [
            (RetentionKind::Executions, self.executions),
            (RetentionKind::Events, self.events),
            (RetentionKind::Conversations, self.conversations),
            (RetentionKind::Deliveries, self.deliveries),
            (RetentionKind::Jobs, self.jobs),
        ];
        for (kind, text) in given.into_iter().filter_map(|(kind, text)| text.map(|text| (kind, text))) {
            let Some(text) = text else {
                overrides.insert(kind, None);
                continue;
            };
            match span::parse(&text).filter(|span| *span >= MIN_SPAN).and_then(|span| u64::try_from(span.as_millis()).ok()) {
                Some(millis) => {
                    overrides.insert(kind, Some(millis));
                }
                None => problems.add(
                    format!("/{}", kind.as_str()),
                    format!(
                        "expected a length of time of at least {}, for example `30d` or `12h`, or null to keep it for ever",
                        span::format(MIN_SPAN)
                    ),
                ),
            }
        }
        problems.into_result()?;
        Ok(TenantRetention { overrides })
    }
}

async fn read(
    caller: Scoped<FlowsRead>,
    State(store): State<SharedStore>,
    State(defaults): State<RetentionPolicy>,
) -> Result<Json<RetentionRow>> {
    let kept = settings(&store, caller.tenant).find(caller.tenant).await?;
    Ok(Json(RetentionRow::of(kept.as_ref(), &defaults)))
}

async fn put(
    caller: Scoped<FlowsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    State(defaults): State<RetentionPolicy>,
    body: Body<RetentionInput>,
) -> Result<Json<RetentionRow>> {
    let wanted = body.value.read()?;
    let kept = save(&store, caller.tenant, wanted, &clock).await?;
    Ok(Json(RetentionRow::of(Some(&kept), &defaults)))
}

fn settings(store: &SharedStore, tenant: TenantId) -> Collection<'_, TenantRetention> {
    Collection::of(&**store, tenant)
}

/// Replaces the tenant's settings, or creates them.
async fn save(store: &SharedStore, tenant: TenantId, wanted: TenantRetention, clock: &Clock) -> Result<Kept<TenantRetention>> {
    let (all, now) = (settings(store, tenant), clock.now());
    let found = match all.find(tenant).await? {
        Some(found) => found,
        None => match all.create(tenant, wanted.clone(), now).await {
            // Another call created them just now.
            Err(error @ StoreError::Exists(_)) => all.find(tenant).await?.ok_or(error)?,
            made => return Ok(made?),
        },
    };
    let replace = |settings: &mut TenantRetention| -> Result<()> {
        settings.overrides.clone_from(&wanted.overrides);
        Ok(())
    };
    // Settings are never deleted, only replaced.
    all.amend(found, now, replace)
        .await?
        .ok_or_else(|| Error::new(Kind::Unavailable, "store_unavailable", "the settings could not be saved; nothing was changed"))
}
