//! `/v1/agents/{agentId}/releases`: names for versions of an agent: `live`, and as many previews as one likes.
//!
//! Moving `live` moves what every caller of it gets, so it takes a scope of its own and the revision that was read: two people cannot move it at once
//! without one of them knowing.
//!
//! `aliases` takes and shows them in the words of Runtype's API; `deployments` keeps who moved what when.

mod aliases;
mod deployments;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::deployments::DeploymentAction;
use super::about;
use super::agents::shelf;
use crate::clock::{Clock, Timestamp};
use crate::error::{Error, Kind, Result};
use crate::http::AppState;
use crate::http::extract::{Body, Id, Ids, InPath};
use crate::http::scope::{AgentsRead, AgentsWrite, Scoped, require};
use crate::id::{AgentId, FlowId, FlowVersionId, ReleaseId, TenantId};
use crate::model::Caller;
use crate::store::{Collection, Document, Kept, SharedStore, StoreError};

pub(super) fn routes() -> ApiRouter<AppState> {
    ApiRouter::new()
        .api_route("/v1/agents/{agentId}/releases", get_with(list, about("listAgentReleases", "Agents", "List an agent's releases")))
        .api_route(
            "/v1/agents/{agentId}/releases/{alias}",
            get_with(read, about("getAgentRelease", "Agents", "Read which version an alias names"))
                .put_with(put, about("moveAgentRelease", "Agents", "Let an alias name a version"))
                .delete_with(delete, about("deleteAgentRelease", "Agents", "Delete an alias; the version stays")),
        )
        .merge(aliases::routes())
        .merge(deployments::routes())
}

/// The alias that callers in production use.
pub(super) const LIVE: &str = "live";
const DEPLOY_LIVE: &str = "AGENTS:DEPLOY:LIVE";
/// Aliases of one agent.
const MOST: u32 = 50;

/// A name for a version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Release {
    agent: FlowId,
    alias: String,
    pub version: FlowVersionId,
}

impl Document for Release {
    const KIND: &'static str = "release";
    const TAKEN: &'static str = "a release with this alias";
    type Id = ReleaseId;

    fn place(&self) -> Option<String> {
        Some(place(self.agent, &self.alias))
    }

    fn parent(&self) -> Option<String> {
        Some(self.agent.to_string())
    }
}

fn place(agent: FlowId, alias: &str) -> String {
    format!("{agent}\n{alias}")
}

/// The version that an alias names.
pub(super) async fn released(store: &SharedStore, tenant: TenantId, agent: FlowId, alias: &str) -> Result<Option<FlowVersionId>> {
    Ok(Collection::<Release>::of(&**store, tenant).find_at(&place(agent, alias)).await?.map(|kept| kept.body.version))
}

/// An alias in a path: letters, digits, `-`, `_` and `.`.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(inline)]
struct Alias(#[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))] String);

impl std::str::FromStr for Alias {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl InPath for Alias {
    const PARAM: &'static str = "alias";
    const NOUN: &'static str = "release";
}

impl Alias {
    /// Whether a release can have it. Nothing stands under any other.
    fn check(&self) -> Result<()> {
        let starts_well = self.0.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        let fits = starts_well && self.0.len() <= 64 && self.0.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if fits {
            return Ok(());
        }
        let message = "an alias has 1 to 64 letters, digits, `-`, `_` and `.`, and begins with a letter or digit";
        Err(Error::new(Kind::Invalid, "invalid_alias", message))
    }
}

/// Where an alias shall point.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentReleaseInput")]
struct Input {
    version_id: FlowVersionId,
    /// The release's `revision` as it was read; required to move `live`. Another one is refused.
    #[serde(default, alias = "if_match")]
    if_match: Option<String>,
}

/// An alias of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AgentRelease")]
struct Row {
    alias: String,
    version_id: FlowVersionId,
    /// Changes with every move.
    revision: String,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// The releases of an agent.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentReleaseList")]
struct Rows {
    data: Vec<Row>,
}

/// What was deleted.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedAgentRelease")]
struct Deleted {
    alias: String,
    /// Always true.
    deleted: bool,
}

/// Another after each move, and after it was deleted and made anew.
fn revision(kept: &Kept<Release>) -> String {
    format!("{}.{}", kept.id, kept.version)
}

impl From<Kept<Release>> for Row {
    fn from(kept: Kept<Release>) -> Self {
        let revision = revision(&kept);
        Self { alias: kept.body.alias, version_id: kept.body.version, revision, created_at: kept.created_at, updated_at: kept.updated_at }
    }
}

fn all(store: &SharedStore, tenant: TenantId) -> Collection<'_, Release> {
    Collection::of(&**store, tenant)
}

async fn find(store: &SharedStore, tenant: TenantId, agent: AgentId, alias: &str) -> Result<Option<Kept<Release>>> {
    shelf(store, tenant).head(agent.as_flow()).await?;
    Ok(all(store, tenant).find_at(&place(agent.as_flow(), alias)).await?)
}

/// Whether the caller may move an alias.
pub(super) fn may_move(caller: &Caller, alias: &str) -> Result<()> {
    if alias == LIVE { require(caller, DEPLOY_LIVE) } else { Ok(()) }
}

fn moved() -> Error {
    Error::new(Kind::Conflict, "release_moved", "the release is not at the revision that `ifMatch` names")
        .next("read the release, look at what it names now, and send its revision")
}

/// Lets `live` name a version, whatever it names now; whether it moved.
pub(super) async fn move_live(store: &SharedStore, clock: &Clock, caller: &Caller, agent: AgentId, version: FlowVersionId) -> Result<bool> {
    let releases = all(store, caller.tenant);
    let release = Release { agent: agent.as_flow(), alias: LIVE.into(), version };
    for _ in 0..3 {
        let known = releases.find_at(&place(release.agent, LIVE)).await?;
        let kept = match &known {
            Some(known) if known.body == release => return Ok(false),
            Some(known) => releases.change(known, release.clone(), clock.now()).await?,
            None => match releases.create(ReleaseId::new(clock), release.clone(), clock.now()).await {
                Ok(kept) => Some(kept),
                Err(StoreError::Exists(_)) => None,
                Err(error) => return Err(error.into()),
            },
        };
        if let Some(kept) = kept {
            let mover = ReleaseMover { store, clock, caller, agent };
            deployments::note(&mover, &kept, DeploymentAction::Activate, known.map(|known| known.body.version), None).await?;
            return Ok(true);
        }
    }
    Err(moved())
}

async fn list(caller: Scoped<AgentsRead>, State(store): State<SharedStore>, Id(agent): Id<AgentId>) -> Result<Json<Rows>> {
    shelf(&store, caller.tenant).head(agent.as_flow()).await?;
    let found = all(&store, caller.tenant).list(Some(&agent.as_flow().to_string()), None, MOST).await?;
    Ok(Json(Rows { data: found.into_iter().map(Row::from).collect() }))
}

async fn read(
    caller: Scoped<AgentsRead>,
    State(store): State<SharedStore>,
    Ids(agent, Alias(alias)): Ids<AgentId, Alias>,
) -> Result<Json<Row>> {
    find(&store, caller.tenant, agent, &alias).await?.map(|kept| Json(kept.into())).ok_or_else(|| Error::missing("release"))
}

/// What a move came to.
struct ReleaseMove {
    kept: Kept<Release>,
    /// Whether the alias named another version before, or none.
    changed: bool,
}

/// Whether a release stands as its caller read it.
type ReleaseCheck<'a> = &'a (dyn Fn(&Kept<Release>) -> bool + Send + Sync);

/// What moves releases.
struct ReleaseMover<'a> {
    store: &'a SharedStore,
    clock: &'a Clock,
    caller: &'a Caller,
    agent: AgentId,
}

impl ReleaseMover<'_> {
    /// Lets an alias name a version. `is_expected`: whether the release stands as its caller read it, when the caller says how it read it.
    async fn move_to(&self, alias: Alias, version: FlowVersionId, is_expected: Option<ReleaseCheck<'_>>) -> Result<ReleaseMove> {
        let (store, tenant, agent) = (self.store, self.caller.tenant, self.agent);
        alias.check()?;
        let alias = alias.0;
        may_move(self.caller, &alias)?;
        let known = find(store, tenant, agent, &alias).await?;
        let version = shelf(store, tenant).version(agent.as_flow(), version).await;
        let version = version.map_err(|_| Error::invalid_at("/versionId", "no such version of this agent"))?.id;
        let releases = all(store, tenant);
        let release = Release { agent: agent.as_flow(), alias, version };
        let Some(known) = known else {
            if is_expected.is_some() {
                return Err(moved());
            }
            if releases.list(Some(&release.agent.to_string()), None, MOST).await?.len() >= MOST as usize {
                return Err(
                    Error::new(Kind::Conflict, "too_many_releases", format!("an agent has {MOST} releases at most")).next("delete some")
                );
            }
            return match releases.create(ReleaseId::new(self.clock), release, self.clock.now()).await {
                Ok(kept) => Ok(ReleaseMove { kept, changed: true }),
                // Somebody else made it at the same time.
                Err(StoreError::Exists(_)) => Err(moved()),
                Err(error) => Err(error.into()),
            };
        };
        match is_expected {
            Some(is_expected) if !is_expected(&known) => return Err(moved()),
            None if release.alias == LIVE => return Err(Error::invalid_at("/ifMatch", "expected the revision of `live` as it was read")),
            _ => {}
        }
        if known.body == release {
            return Ok(ReleaseMove { kept: known, changed: false });
        }
        let changed = releases.change(&known, release, self.clock.now()).await?;
        changed.map(|kept| ReleaseMove { kept, changed: true }).ok_or_else(moved)
    }

    /// Deletes an alias, and gives what it was.
    async fn delete(&self, alias: &str) -> Result<Kept<Release>> {
        may_move(self.caller, alias)?;
        let known = find(self.store, self.caller.tenant, self.agent, alias).await?.ok_or_else(|| Error::missing("release"))?;
        all(self.store, self.caller.tenant).delete(known.id).await?;
        Ok(known)
    }
}

async fn put(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Ids(agent, alias): Ids<AgentId, Alias>,
    body: Body<Input>,
) -> Result<Json<Row>> {
    let Input { version_id, if_match } = body.value;
    let mover = ReleaseMover { store: &store, clock: &clock, caller: &caller, agent };
    let before = find(&store, caller.tenant, agent, &alias.0).await?.map(|kept| kept.body.version);
    let is_expected = if_match.map(|wanted| move |kept: &Kept<Release>| revision(kept) == wanted);
    let is_expected = is_expected.as_ref().map(|check| check as &(dyn Fn(&Kept<Release>) -> bool + Send + Sync));
    let ReleaseMove { kept, changed } = mover.move_to(alias, version_id, is_expected).await?;
    if changed {
        deployments::note(&mover, &kept, DeploymentAction::Activate, before, None).await?;
    }
    Ok(Json(kept.into()))
}

async fn delete(
    caller: Scoped<AgentsWrite>,
    State(store): State<SharedStore>,
    State(clock): State<Clock>,
    Ids(agent, Alias(alias)): Ids<AgentId, Alias>,
) -> Result<Json<Deleted>> {
    let mover = ReleaseMover { store: &store, clock: &clock, caller: &caller, agent };
    let known = mover.delete(&alias).await?;
    deployments::note(&mover, &known, DeploymentAction::Archive, Some(known.body.version), None).await?;
    Ok(Json(Deleted { alias, deleted: true }))
}
